//! What wakes a task from within its own turn costs no turn of its own.
//!
//! A writer that writes to a store in the same process is told of its own write before the write returns, and a connection
//! of the server is woken by each answer that a call hands to it; a task of many futures is full of such echoes. The
//! scheduler takes a task that is woken while it runs for one that yields: it queues it again and wakes a second thread to
//! help, which finds nothing to do. That was a thread switch for every change.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// Rounds of one turn; what is woken still goes to the end of the queue then, so that others have their turn.
const ROUNDS: usize = 4;

/// Nobody polls.
const IDLE: u8 = 0;
/// It is polled.
const POLLED: u8 = 1;
/// It is polled, and was woken since that began.
const WOKEN: u8 = 2;

/// The future, polled again at once when it is woken while it is polled.
pub fn in_one_turn<F: Future>(future: F) -> OneTurn<F> {
    let bell = Arc::new(Bell { outer: AtomicWaker::new(), state: AtomicU8::new(IDLE) });
    OneTurn { inner: Box::pin(future), waker: Waker::from(Arc::clone(&bell)), bell }
}

/// See [`in_one_turn`].
#[derive(Debug)]
pub struct OneTurn<F> {
    inner: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Debug)]
struct Bell {
    outer: AtomicWaker,
    state: AtomicU8,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Written also where it says so already: the round that follows is to see what this one has to tell.
        let woken = |state: u8| (state != IDLE).then_some(WOKEN);
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, woken).is_err() {
            self.outer.wake();
        }
    }
}

impl<F: Future> Future for OneTurn<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.bell.outer.register(context.waker());
        for _ in 0..ROUNDS {
            this.bell.state.store(POLLED, Ordering::Release);
            let done = this.inner.as_mut().poll(&mut Context::from_waker(&this.waker));
            // Who wakes it from here on wakes the task.
            let woken = this.bell.state.swap(IDLE, Ordering::AcqRel) == WOKEN;
            if done.is_ready() || !woken {
                return done;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Polls once a future that wakes itself in its first `echoes` polls; returns how often it was polled, and its task
    /// woken.
    fn turn(echoes: usize) -> (usize, usize) {
        let polls = AtomicUsize::new(0);
        let mut future = in_one_turn(poll_fn(|context| {
            if polls.fetch_add(1, Ordering::SeqCst) < echoes {
                context.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        }));
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
        (polls.load(Ordering::SeqCst), count.0.load(Ordering::SeqCst))
    }

    #[test]
    fn an_echo_is_another_round_and_no_wake_and_rounds_are_bounded() {
        assert_eq!(turn(0), (1, 0));
        assert_eq!(turn(1), (2, 0));
        assert_eq!(turn(ROUNDS - 1), (ROUNDS, 0));
        assert_eq!(turn(ROUNDS), (ROUNDS, 1), "the rest has to wait for its turn");
        assert_eq!(turn(usize::MAX), (ROUNDS, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_from_outside_is_lost() {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let hear = in_one_turn(async move {
            let mut heard = 0;
            while let Some(()) = told.recv().await {
                heard += 1;
            }
            heard
        });
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(hear);
        for number in 0..10_000 {
            tell.send(()).unwrap();
            if number % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
        drop(tell);
        assert_eq!(tasks.join_next().await.unwrap().unwrap(), 10_000);
    }
}
