use std::sync::mpsc;

use bytes::Bytes;

use super::*;
use crate::{
    auth::Auth,
    journal::{Replayed, replay},
    mvcc::{Keyspace, Put},
};

/// A disk that does as it is told, and what is on it.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    synced: usize,
    syncs: usize,
    /// Bytes that it takes.
    room: Option<usize>,
    cannot_reserve: bool,
    sync_fails: bool,
    /// Each flush waits until it is let go.
    hold: Option<mpsc::Receiver<()>>,
    turned: Vec<PathBuf>,
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn journal(&self) -> (Journal, CancellationToken) {
        let failed = CancellationToken::new();
        let journal = Journal::on(Box::new(self.clone()), "dir".into(), 0, 0, failed.clone()).unwrap();
        (journal, failed)
    }

    /// Keys on it, as a restart finds them.
    fn keys(&self) -> Vec<Bytes> {
        let mut keyspace = Keyspace::new();
        let state = self.state();
        let replayed = replay(&state.bytes, 0, &mut keyspace, &mut Auth::default(), 0).unwrap();
        assert_eq!(replayed, Replayed { whole: state.bytes.len(), sequence: replayed.sequence });
        let all = keyspace.range(&crate::mvcc::Range::of(crate::range::KeyRange::all())).unwrap();
        all.records.iter().map(|record| Bytes::copy_from_slice(record.key())).collect()
    }
}

/// A journal each of whose flushes waits to be let go of, or for the end of who does that.
pub(crate) fn held_journal() -> (Journal, mpsc::Sender<()>) {
    let disk = Disk::default();
    let (go, hold) = mpsc::channel();
    disk.state().hold = Some(hold);
    (disk.journal().0, go)
}

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl Medium for Disk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let left = state.room.map_or(usize::MAX, |room| room.saturating_sub(state.bytes.len()));
        if left < bytes.len() {
            // As a file system does it.
            state.bytes.extend_from_slice(&bytes[..left]);
            return Err(full());
        }
        state.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let hold = self.state().hold.take();
        if let Some(hold) = hold {
            let _let_go = hold.recv();
            self.state().hold = Some(hold);
        }
        let mut state = self.state();
        if state.sync_fails {
            return Err(io::Error::other("the disk is broken"));
        }
        state.synced = state.bytes.len();
        state.syncs += 1;
        Ok(())
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.state().bytes.truncate(len as usize);
        Ok(())
    }

    fn reserve(&mut self, from: u64, len: u64) -> io::Result<()> {
        let state = self.state();
        if state.cannot_reserve {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if state.room.is_some_and(|room| (room as u64) < from + len) { Err(full()) } else { Ok(()) }
    }

    fn turn(&mut self, path: &Path) -> io::Result<()> {
        self.state().turned.push(path.to_owned());
        Ok(())
    }
}

/// Puts of one key each, as a store would note them.
struct Puts {
    keyspace: Keyspace,
}

impl Puts {
    fn new() -> Self {
        let mut keyspace = Keyspace::new();
        keyspace.set_heard(true);
        Self { keyspace }
    }

    fn put(&mut self, journal: &Journal, key: &str) {
        let put = Put { key: key.to_owned().into(), value: "v".into(), ..Put::default() };
        let (_, commit) = self.keyspace.put(&put).unwrap();
        journal.note(&Entry::commit(&commit));
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect(what);
}

/// A journal that waits for the disk to have a first key; so does each flush after it, until the sender is used or gone.
async fn in_its_first_flush(disk: &Disk, key: &str) -> (Journal, Puts, mpsc::Sender<()>) {
    let (go, hold) = mpsc::channel();
    disk.state().hold = Some(hold);
    let (journal, _failed) = disk.journal();
    let mut puts = Puts::new();
    puts.put(&journal, key);
    until("the first flush", || disk.state().hold.is_none()).await;
    (journal, puts, go)
}

#[tokio::test]
async fn what_is_noted_during_a_flush_shares_the_next_one() {
    let disk = Disk::default();
    let (journal, mut puts, go) = in_its_first_flush(&disk, "first").await;
    for n in 0..100 {
        puts.put(&journal, &format!("k{n:03}"));
    }
    // Nobody is told before it is on the disk.
    let settled = tokio::time::timeout(Duration::from_millis(50), journal.settled()).await;
    assert!(settled.is_err(), "the disk has nothing yet");
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!(journal.settled().await, Ok(()));
    assert_eq!(disk.state().syncs, 2);
    drop(go);
    drop(journal);
    assert_eq!(disk.keys().len(), 101);
}

#[tokio::test]
async fn frames_of_one_flush_are_told_from_those_of_the_next_and_a_closed_journal_from_a_torn_one() {
    let disk = Disk::default();
    let (journal, mut puts, go) = in_its_first_flush(&disk, "first").await;
    let begin = disk.state().bytes.len();
    // Each entry is as large as a frame may get.
    for n in 0..3 {
        puts.put(&journal, &format!("{n}{}", "k".repeat(FRAME_BYTES)));
    }
    drop(go);
    assert_eq!(journal.settled().await, Ok(()));
    assert_eq!(disk.state().syncs, 2);
    let replayed = |damaged: usize| {
        let mut bytes = disk.state().bytes.clone();
        bytes[damaged] ^= 1;
        let replayed = replay(&bytes, 0, &mut Keyspace::new(), &mut Auth::default(), 0);
        replayed.map(|replayed| (replayed.whole, replayed.sequence))
    };
    let open = (replayed(0), replayed(begin), replayed(begin + FRAME_BYTES));
    assert_eq!(open, (Err(0), Ok((begin, 1)), Ok((begin, 1))), "before the next flush it may be torn");
    drop(journal);
    let closed = (replayed(0), replayed(begin), replayed(begin + FRAME_BYTES));
    assert_eq!(closed, (Err(0), Err(begin), Err(begin)), "it was whole when it was closed");
    assert_eq!(disk.keys().len(), 4);
}

#[tokio::test]
async fn a_flush_that_fails_ends_the_store_and_nobody_is_told_that_it_worked() {
    let disk = Disk::default();
    disk.state().sync_fails = true;
    let (journal, failed) = disk.journal();
    Puts::new().put(&journal, "k");
    assert_eq!(journal.settled().await, Err(Failed));
    assert!(failed.is_cancelled());
    // It is not tried again: what the disk has is not known any more.
    disk.state().sync_fails = false;
    assert_eq!(journal.settled().await, Err(Failed));
    assert_eq!(disk.state().syncs, 0);
}

#[tokio::test]
async fn a_disk_without_room_ahead_is_full_before_anything_is_lost_and_until_it_has_room() {
    let disk = Disk::default();
    let (journal, failed) = disk.journal();
    let mut puts = Puts::new();
    puts.put(&journal, "before");
    assert_eq!(journal.settled().await, Ok(()));
    assert!(!journal.is_full());
    // Somebody else takes all but a little.
    disk.state().room = Some(4096);
    let big = "k".repeat(AHEAD as usize / 2);
    assert!(!journal.is_full(), "what is reserved stays");
    disk.state().room = Some(big.len() + 4096);
    puts.put(&journal, &big);
    assert_eq!(journal.settled().await, Ok(()), "it has its room");
    until("the disk is full", || journal.is_full()).await;
    // What was let in before is still taken.
    puts.put(&journal, "late");
    assert_eq!(journal.settled().await, Ok(()));
    disk.state().room = None;
    until("there is room again", || !journal.is_full()).await;
    puts.put(&journal, "after");
    assert_eq!(journal.settled().await, Ok(()));
    drop(journal);
    assert_eq!(disk.keys().len(), 4);
    assert!(!failed.is_cancelled());
}

#[tokio::test]
async fn an_entry_for_which_there_is_no_room_waits_and_is_never_half_there() {
    let disk = Disk::default();
    disk.state().cannot_reserve = true;
    disk.state().room = Some(100);
    let (journal, _failed) = disk.journal();
    let mut puts = Puts::new();
    puts.put(&journal, "small");
    assert_eq!(journal.settled().await, Ok(()));
    puts.put(&journal, &"k".repeat(200));
    puts.put(&journal, "next");
    until("the disk is full", || journal.is_full()).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), journal.settled()).await.is_err());
    disk.state().room = None;
    assert_eq!(journal.settled().await, Ok(()));
    assert!(!journal.is_full());
    drop(journal);
    assert_eq!(disk.keys().len(), 3);
}

#[tokio::test]
async fn a_turn_comes_after_what_was_noted_before_and_before_what_comes_after() {
    let disk = Disk::default();
    let (journal, mut puts, go) = in_its_first_flush(&disk, "a").await;
    puts.put(&journal, "b");
    let turned = journal.turn();
    assert_eq!(journal.sequence(), 2);
    puts.put(&journal, "c");
    drop(go);
    turned.await.unwrap().unwrap();
    assert_eq!(journal.settled().await, Ok(()));
    assert_eq!(disk.state().turned, [journal_after(Path::new("dir"), 2)]);
    assert_eq!(disk.state().syncs, 3, "a, then b by itself, then c");
    drop(journal);
    assert_eq!(disk.keys().len(), 3);
}

#[test]
fn a_turn_that_fails_leaves_no_newer_journal() {
    let dir = tempfile::TempDir::new().unwrap();
    let (old, new) = (dir.path().join("journal.1"), dir.path().join("journal.2"));
    std::fs::write(&old, "entries").unwrap();
    // Its length cannot be set where it can only be read.
    let mut medium = File::reading(&old).unwrap();
    assert!(medium.turn(&new).is_err());
    assert!(!new.exists());
    File::open(&old).unwrap().turn(&new).unwrap();
    assert!(new.exists());
}
