use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// What must have happened once before the daemon is ready; clones speak of the same daemon.
///
/// Take all guards before the tasks start. Once every guard that was taken is ready, the daemon is ready for good:
/// guards taken later do not turn it back, as peers and Kubernetes expect of Cilium's daemons.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeSet<Arc<str>>,
    /// Some guard was taken, so an empty set means done and not "not begun".
    guarded: bool,
    /// Everything was ready at one moment; never turns back.
    reached: bool,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Nothing is awaited: ready from the start unless guards are taken.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// Readiness waits for `what` until [`ReadyGuard::ready`].
    ///
    /// The name is the identity: two guards of one name are one.
    #[must_use]
    pub fn guard(&self, what: impl Into<Arc<str>>) -> ReadyGuard {
        let what = what.into();
        self.state.send_modify(|state| {
            state.guarded = true;
            if !state.reached {
                state.pending.insert(Arc::clone(&what));
            }
        });
        ReadyGuard { what, readiness: self.clone() }
    }

    /// Whether nothing is or was pending.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// Names of what is still awaited, in alphabetical order.
    #[must_use]
    pub fn pending(&self) -> Vec<Arc<str>> {
        self.state.borrow().pending.iter().cloned().collect()
    }

    /// Ends when everything is ready.
    pub async fn wait(&self) {
        let mut changes = self.state.subscribe();
        // An error means that the sender is gone, which `self` keeps alive.
        drop(changes.wait_for(State::is_ready).await);
    }
}

impl State {
    fn is_ready(&self) -> bool {
        self.reached || !self.guarded
    }
}

/// One thing that readiness waits for. Dropping it changes nothing: a task that died is not ready.
#[derive(Clone, Debug)]
pub struct ReadyGuard {
    what: Arc<str>,
    readiness: Readiness,
}

impl ReadyGuard {
    /// It has happened. A second call changes nothing.
    pub fn ready(&self) {
        self.readiness.state.send_if_modified(|state| {
            let was_pending = state.pending.remove(&self.what);
            state.reached |= was_pending && state.pending.is_empty();
            was_pending
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_awaits_nothing_is_ready() {
        assert!(Readiness::new().is_ready());
    }

    #[test]
    fn pending_guards_are_named_until_the_last_is_ready() {
        let readiness = Readiness::new();
        let (nodes, ip) = (readiness.guard("nodes"), readiness.guard("ip"));
        assert_eq!(readiness.pending(), ["ip".into(), "nodes".into()]);
        nodes.ready();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.pending(), ["ip".into()]);
        ip.ready();
        ip.ready();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_dropped_guard_is_not_ready() {
        let readiness = Readiness::new();
        drop(readiness.guard("nodes"));
        assert!(!readiness.is_ready());
    }

    #[test]
    fn readiness_never_turns_back() {
        let readiness = Readiness::new();
        readiness.guard("nodes").ready();
        let late = readiness.guard("remote/added-later");
        assert!(readiness.is_ready());
        assert!(readiness.pending().is_empty());
        drop(late);
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_guard() {
        let readiness = Readiness::new();
        let guard = readiness.guard("nodes");
        let ((), ()) = tokio::join!(readiness.wait(), async { guard.ready() });
        assert!(readiness.is_ready());
    }
}
