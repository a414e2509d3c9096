//! Writes the journal, in a thread of its own.
//!
//! Changes are noted while the key space is locked, which costs a copy. What was noted meanwhile goes to the disk
//! together, by one flush, and only then is anyone answered: see [`Journal::settled`].
//!
//! Room for what is to come is reserved ahead, so that a full disk is noticed before a change is made: such changes are
//! refused, reading goes on, and so does writing when there is room again. A failed flush is never tried again, because
//! nobody knows what the disk has then: the store ends.

mod medium;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::medium::{File, Medium};
use super::{DiskTimes, Entry, Gathered, Held, disk::journal_after};

/// A journal of this size is folded into a new image.
const FOLD_BYTES: u64 = 64 << 20;
/// Bytes of a frame from which on the next entry begins another one; an entry may be larger.
const FRAME_BYTES: usize = 8 << 20;
/// Room that is kept ahead: for the requests that were let in before the disk was found full.
const AHEAD: u64 = 16 << 20;
/// How often a full disk is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The disk failed; the process is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk of the store failed")]
pub(crate) struct Failed;

/// The journal of a running store. Dropping it writes what was noted.
#[derive(Debug)]
pub(crate) struct Journal {
    inner: Arc<Inner>,
    dir: PathBuf,
    thread: Option<JoinHandle<()>>,
    /// Nobody else uses the directory until the thread has ended.
    held: Option<Arc<Held>>,
}

#[derive(Debug)]
struct Inner {
    work: Mutex<Work>,
    wake: Condvar,
    /// Number of the last entry that was noted.
    noted: AtomicU64,
    /// Number of the last one that is on the disk.
    flushed: watch::Sender<u64>,
    /// Bytes of the file.
    bytes: AtomicU64,
    full: AtomicBool,
    times: DiskTimes,
    failed: CancellationToken,
}

/// What the thread is to do, in order.
#[derive(Debug, Default)]
struct Work {
    frames: Vec<Gathered>,
    /// Begin another file, after all of the frames.
    turn: Option<Turn>,
    /// What came after the turn was asked for.
    after: Vec<Gathered>,
    sequence: u64,
    end: bool,
}

#[derive(Debug)]
struct Turn {
    path: PathBuf,
    done: oneshot::Sender<io::Result<()>>,
}

impl Work {
    fn note(&mut self, entry: &Entry) -> u64 {
        let frames = if self.turn.is_some() { &mut self.after } else { &mut self.frames };
        if frames.last().is_none_or(|last| last.bytes() >= FRAME_BYTES) {
            frames.push(Gathered::new(self.sequence + 1));
        }
        if let Some(last) = frames.last_mut() {
            last.add(entry);
        }
        self.sequence += 1;
        self.sequence
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.turn.is_none() && self.after.is_empty()
    }
}

impl Journal {
    /// Goes on with the journal at `path`, which has `bytes` bytes and ends with entry `sequence`, in a directory that is
    /// `held`. `failed` is cancelled when the disk fails.
    pub(crate) fn start(
        path: &Path,
        bytes: u64,
        sequence: u64,
        held: Held,
        failed: CancellationToken,
    ) -> io::Result<Self> {
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        let mut journal = Self::on(Box::new(File::open(path)?), dir, bytes, sequence, failed)?;
        journal.held = Some(Arc::new(held));
        Ok(journal)
    }

    fn on(
        medium: Box<dyn Medium>,
        dir: PathBuf,
        bytes: u64,
        sequence: u64,
        failed: CancellationToken,
    ) -> io::Result<Self> {
        let inner = Arc::new(Inner {
            work: Mutex::new(Work { sequence, ..Work::default() }),
            wake: Condvar::new(),
            noted: AtomicU64::new(sequence),
            flushed: watch::Sender::new(sequence),
            bytes: AtomicU64::new(bytes),
            full: AtomicBool::new(false),
            times: DiskTimes::default(),
            failed,
        });
        let mut writer =
            Writer { inner: Arc::clone(&inner), medium, written: bytes, reserved: bytes, last: None };
        // A disk that is full at the start is known before the first change.
        writer.reserve();
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run())?;
        Ok(Self { inner, dir, thread: Some(thread), held: None })
    }

    /// Notes a change, in the order of the calls. It is on the disk once [`Self::settled`] says so.
    pub(crate) fn note(&self, entry: &Entry) {
        if entry.is_empty() {
            return;
        }
        let mut work = self.inner.lock();
        let sequence = work.note(entry);
        self.inner.noted.store(sequence, Ordering::Release);
        drop(work);
        self.inner.wake.notify_one();
    }

    /// Resolves when everything noted so far is on the disk.
    pub(crate) async fn settled(&self) -> Result<(), Failed> {
        let noted = self.inner.noted.load(Ordering::Acquire);
        if *self.inner.flushed.borrow() >= noted {
            return Ok(());
        }
        let mut flushed = self.inner.flushed.subscribe();
        tokio::select! {
            biased;
            reached = flushed.wait_for(|flushed| *flushed >= noted) => reached.map(drop).map_err(|_gone| Failed),
            () = self.inner.failed.cancelled() => Err(Failed),
        }
    }

    /// Whether there is no room for more; what was noted has its room.
    pub(crate) fn is_full(&self) -> bool {
        self.inner.full.load(Ordering::Acquire)
    }

    /// Whether it should be folded into a new image.
    pub(crate) fn is_long(&self) -> bool {
        self.inner.bytes.load(Ordering::Relaxed) >= FOLD_BYTES
    }

    /// Number of the last entry that was noted.
    pub(crate) fn sequence(&self) -> u64 {
        self.inner.noted.load(Ordering::Acquire)
    }

    /// How long the disk takes.
    pub(crate) fn times(&self) -> &DiskTimes {
        &self.inner.times
    }

    /// Where its files are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// To be kept by whoever writes there and may outlive the journal.
    pub(crate) fn held(&self) -> Option<Arc<Held>> {
        self.held.clone()
    }

    /// What is noted from now on goes to another file. To be called while nothing can be noted; what comes out says
    /// when the file is there.
    pub(crate) fn turn(&self) -> oneshot::Receiver<io::Result<()>> {
        let (done, receiver) = oneshot::channel();
        let mut work = self.inner.lock();
        work.turn = Some(Turn { path: journal_after(&self.dir, work.sequence), done });
        drop(work);
        self.inner.wake.notify_one();
        receiver
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.inner.lock().end = true;
        self.inner.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It has told why.
            let _panicked = thread.join();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's part.
struct Writer {
    inner: Arc<Inner>,
    medium: Box<dyn Medium>,
    /// Bytes that are written.
    written: u64,
    /// Up to where there is room.
    reserved: u64,
    /// The last entry, if there was any in this life.
    last: Option<u64>,
}

impl Writer {
    fn run(mut self) {
        while let Some(work) = self.next() {
            let mut done = self.write_all(&work.frames);
            if let (Ok(()), Some(turn)) = (&done, work.turn) {
                self.turn(turn);
                done = self.write_all(&work.after);
            }
            if let Err(error) = done {
                error!(%error, "the disk of the durable store failed, it must stop");
                self.inner.failed.cancel();
                return;
            }
        }
        self.close();
    }

    /// Says that all of it was on the disk. Where that fails nothing is lost but this.
    fn close(&mut self) {
        let Some(last) = self.last else { return };
        let frame = Gathered::new(last + 1).encode(true);
        let closed = self.medium.append(&frame).and_then(|()| self.medium.sync());
        if let Err(error) = closed.or_else(|_full| self.medium.cut(self.written)) {
            warn!(%error, "the journal has no end");
        }
    }

    /// Waits for work; `None` at the end.
    fn next(&mut self) -> Option<Work> {
        loop {
            let inner = Arc::clone(&self.inner);
            let mut work = inner.lock();
            if !work.is_empty() {
                let fresh = Work { sequence: work.sequence, end: work.end, ..Work::default() };
                return Some(std::mem::replace(&mut work, fresh));
            }
            if work.end {
                return None;
            }
            if inner.full.load(Ordering::Acquire) {
                drop(inner.wake.wait_timeout(work, RETRY).unwrap_or_else(PoisonError::into_inner));
                self.reserve();
            } else {
                drop(inner.wake.wait(work).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Frames, by one flush.
    fn write_all(&mut self, frames: &[Gathered]) -> io::Result<()> {
        let Some(last) = frames.last().map(|frame| frame.last) else { return Ok(()) };
        for (nth, frame) in frames.iter().enumerate() {
            self.write(&frame.encode(nth == 0))?;
        }
        let began = Instant::now();
        self.medium.sync()?;
        self.inner.times.sync.observe(began.elapsed());
        self.inner.bytes.store(self.written, Ordering::Relaxed);
        // Before anyone is told, so that whoever is let in next finds room.
        self.reserve();
        self.last = Some(last);
        self.inner.flushed.send_replace(last);
        Ok(())
    }

    /// One frame, whole. A full disk is waited for: what was noted cannot be taken back.
    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        loop {
            let began = Instant::now();
            match self.medium.append(frame) {
                Ok(()) => {
                    self.inner.times.write.observe(began.elapsed());
                    self.inner.times.wrote(frame.len());
                    self.written += frame.len() as u64;
                    return Ok(());
                }
                Err(error) if medium::is_full(&error) => {
                    self.filled(&error);
                    self.medium.cut(self.written)?;
                    let ending = self.inner.lock().end;
                    if ending {
                        return Err(error);
                    }
                    std::thread::sleep(RETRY);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sees to room ahead, and says whether there is any.
    fn reserve(&mut self) {
        if self.reserved >= self.written + AHEAD / 2 && !self.inner.full.load(Ordering::Acquire) {
            return;
        }
        match self.medium.reserve(self.written, AHEAD) {
            Ok(()) => {
                self.reserved = self.written + AHEAD;
                self.emptied();
            }
            Err(error) if medium::is_full(&error) => self.filled(&error),
            // A file system that cannot reserve says that it is full when it is written to, which went well just now.
            Err(_unsupported) => {
                self.reserved = u64::MAX;
                self.emptied();
            }
        }
    }

    fn emptied(&self) {
        if self.inner.full.swap(false, Ordering::AcqRel) {
            info!("the disk has room again, writes are taken");
        }
    }

    fn filled(&self, error: &io::Error) {
        if !self.inner.full.swap(true, Ordering::AcqRel) {
            warn!(%error, "the disk is full: writes are refused until it has room");
        }
    }

    fn turn(&mut self, turn: Turn) {
        let turned = self.medium.turn(&turn.path);
        if turned.is_ok() {
            (self.written, self.reserved) = (0, 0);
            self.inner.bytes.store(0, Ordering::Relaxed);
            self.reserve();
        }
        // Whoever asked may have ended.
        let _nobody_waits = turn.done.send(turned);
    }
}

#[cfg(test)]
pub(crate) mod tests;
