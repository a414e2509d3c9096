use std::fs;

use tempfile::TempDir;

use super::*;
use crate::{client::Client, hub::Taken};

fn put(store: &Store, key: &'static str, value: &'static str) -> i64 {
    store.put(&Put { key: key.into(), value: value.into(), ..Put::default() }).unwrap().1
}

#[test]
fn periodic_compaction_keeps_the_age() {
    let mut compaction = Compaction::default();
    let age = Duration::from_secs(10);
    assert_eq!(compaction.target(0, age, 5), 0);
    assert_eq!(compaction.target(500, age, 6), 0);
    assert_eq!(compaction.target(1_000, age, 7), 0);
    assert_eq!(compaction.target(10_000, age, 9), 5);
    assert_eq!(compaction.target(10_999, age, 9), 0);
    assert_eq!(compaction.target(11_000, age, 10), 7);
}

#[tokio::test]
async fn a_store_that_was_folded_and_then_compacted_starts_again() {
    let dir = TempDir::new().unwrap();
    let open = || Store::durable(StoreConfig::default(), dir.path()).unwrap();
    let store = open();
    for value in ["1", "2", "3", "4"] {
        put(&store, "k", value);
    }
    let journal = store.journal.as_ref().unwrap();
    let (image, turned) = store.image_at_turn(journal).await;
    turned.await.unwrap().unwrap();
    write_image(dir.path(), &image).unwrap();
    // What auto-compaction asks for is older than the image.
    store.compact(3).unwrap();
    assert!(image.revision > 3);
    put(&store, "k", "5");
    store.settled().await.unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.revision(), 6);
    assert_eq!(store.get(b"k").unwrap().fields().value, b"5");
    // A compaction after that counts again.
    store.compact(6).unwrap();
    drop(store);
    assert_eq!(open().look(Keyspace::compacted), 6);
}

#[tokio::test]
async fn leases_end_while_a_journal_is_folded() {
    let dir = TempDir::new().unwrap();
    let opened = journal::open(dir.path(), 0, (1, 1)).unwrap();
    // So long that it is folded at once, into an image that takes as long to write as nobody reads it.
    let long = 1 << 30;
    let failed = CancellationToken::new();
    let journal = Journal::start(&opened.journal, long, 0, opened.held, failed).unwrap();
    let aside = dir.path().join("image.new");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &aside, fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let store = Store::with(StoreConfig::default(), opened.keyspace, opened.auth, Some(journal));
    let lease = store.grant(0, 1).unwrap();
    let stop = CancellationToken::new();
    let ends = async {
        let ended = async {
            while store.look(|keyspace| keyspace.has_lease(lease)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
        assert!(!dir.path().join("image").exists(), "it is still being written");
        stop.cancel();
        tokio::task::spawn_blocking(move || fs::read(aside)).await.unwrap().unwrap();
        ended.expect("the lease ends");
    };
    tokio::join!(store.housekeep(&stop), ends);
}

#[tokio::test]
async fn flushes_and_folds_are_timed() {
    let dir = TempDir::new().unwrap();
    let opened = journal::open(dir.path(), 0, (1, 1)).unwrap();
    let long = 1 << 30;
    let journal = Journal::start(&opened.journal, long, 0, opened.held, CancellationToken::new()).unwrap();
    let store = Store::with(StoreConfig::default(), opened.keyspace, opened.auth, Some(journal));
    put(&store, "k", "v");
    store.settled().await.unwrap();
    let times = store.disk_times().unwrap();
    assert_eq!((times.write.count(), times.sync.count(), times.image.count()), (1, 1, 0));
    assert_eq!(times.written(), fs::metadata(&opened.journal).unwrap().len());
    let stop = CancellationToken::new();
    let folded = async {
        while times.image.count() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
    };
    let both = async { tokio::join!(store.housekeep(&stop), folded) };
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("it is folded");
    assert!(dir.path().join("image").exists());
}

#[test]
fn a_quiet_watch_whose_place_was_compacted_gets_what_it_did_not_take_in_time() {
    let store = Store::new(StoreConfig::default());
    let signal = Arc::new(Signal::default());
    let mut watcher = store.watch(&KeyRange::key("quiet"), 0, 1, &signal);
    for value in ["1", "2", "3", "4"] {
        put(&store, "busy", value);
    }
    let compacted = store.revision();
    assert!(watcher.next() < compacted);
    store.compact(compacted).unwrap();
    let first = put(&store, "quiet", "1");
    put(&store, "busy", "5");
    let second = put(&store, "quiet", "2");
    // More than its group keeps, and then for longer than it keeps anything.
    store.hub.tidy(10_000);
    store.hub.tidy(20_000);
    let look = watcher.look(&store).unwrap();
    let revisions: Vec<i64> = look.batches.iter().map(|batch| batch.revision).collect();
    assert_eq!(revisions, [first, second]);
    // What it really missed is gone, and it is told so.
    put(&store, "quiet", "3");
    let newest = put(&store, "quiet", "4");
    store.compact(newest).unwrap();
    store.hub.tidy(30_000);
    store.hub.tidy(40_000);
    let refused = watcher.look(&store).map(|look| look.through);
    assert_eq!(refused, Err(Refusal::Compacted { asked: newest - 1, oldest: newest }));
}

#[test]
fn what_was_not_taken_is_kept_for_a_second_however_often_house_is_kept() {
    let store = Store::new(StoreConfig::default());
    let signal = Arc::new(Signal::default());
    let mut taken = store.hub.subscribe(&KeyRange::key("k"), 1, &signal);
    // In a group of one its member alone decides.
    let _other = store.hub.subscribe(&KeyRange::key("k"), 2, &signal);
    put(&store, "k", "1");
    for now in [1_000, 1_001, 1_500, 1_999] {
        store.hub.tidy(now);
    }
    assert!(matches!(taken.take(), Taken::Batches(batches) if batches.len() == 1));
    let revision = put(&store, "k", "2");
    for now in [2_000, 3_000] {
        store.hub.tidy(now);
    }
    assert!(matches!(taken.take(), Taken::Behind { from } if from == revision));
}

#[tokio::test]
async fn a_key_without_a_byte_is_refused_wherever_it_comes_from() {
    let dir = TempDir::new().unwrap();
    let store = Store::durable(StoreConfig::default(), dir.path()).unwrap();
    let empty = Put { value: "v".into(), ..Put::default() };
    assert_eq!(store.put(&empty).map(|(_, revision)| revision), Err(Refusal::EmptyKey));
    let txn = Transaction { success: vec![crate::mvcc::Op::Put(empty)], ..Transaction::default() };
    assert_eq!(store.transact(&txn).map(|(_, revision)| revision), Err(Refusal::EmptyKey));
    let write = Write::Put { key: "".into(), value: "v".into(), lease: crate::LeaseId(0) };
    let refused = store.client().write(vec![write]).await;
    assert!(matches!(refused, Err(crate::Error::Invalid(_))), "{refused:?}");
    drop(store);
    let store = Store::durable(StoreConfig::default(), dir.path()).unwrap();
    assert_eq!(store.revision(), 1);
}

/// A transaction that reads everything, by a comparison and by two ranges.
fn reads_all() -> Transaction {
    use crate::mvcc::{Compare, CompareResult, CompareTarget, Op, Range};
    let compare = Compare {
        range: KeyRange::prefix("k/"),
        result: CompareResult::Greater,
        target: CompareTarget::Version(0),
    };
    let newest = Range {
        sort: Some((crate::mvcc::SortTarget::Key, crate::mvcc::Order::Descending)),
        ..Range::of(KeyRange::prefix("k/"))
    };
    let nested = Transaction {
        failure: vec![Op::Range(newest)],
        compare: vec![Compare { target: CompareTarget::Create(5), ..compare.clone() }],
        success: Vec::new(),
    };
    let success = vec![Op::Range(Range::of(KeyRange::all())), Op::Txn(nested)];
    Transaction { compare: vec![compare], success, failure: Vec::new() }
}

#[tokio::test]
async fn a_transaction_that_only_reads_gives_way_and_sees_one_revision() {
    use futures::FutureExt;
    let store = Store::new(StoreConfig::default());
    for n in 0..2_000 {
        put(&store, format!("k/{n:04}").leak(), "1");
    }
    let txn = reads_all();
    let (whole, revision) = store.transact(&txn).unwrap();
    let mut reading = Box::pin(store.transact_in_turns(&txn));
    let mut turns = 0;
    let (read, at) = loop {
        if let Some(done) = reading.as_mut().now_or_never() {
            break done.unwrap();
        }
        turns += 1;
        // In between others write, delete and compact.
        let newest = put(&store, "k/0000", format!("{turns}").leak());
        store.delete(&KeyRange::key(format!("k/{:04}", 2_000 - turns)));
        store.compact(newest).unwrap();
        while store.purge() {}
    };
    assert!(turns > 10, "{turns} turns");
    assert_eq!(at, revision);
    assert_eq!(format!("{read:?}"), format!("{whole:?}"));
    assert_eq!(store.look(|keyspace| keyspace.counts().txns), 2, "either way it counts");
    drop(reading);
    // What only that reader needed is let go.
    while store.purge() {}
    assert_eq!(
        store.look(|keyspace| keyspace.log_len()),
        2,
        "the deletion after the last compaction, and that revision"
    );
}

#[test]
fn only_a_transaction_without_writes_is_read_in_turns() {
    use crate::mvcc::Op;
    let mut txn = reads_all();
    assert!(txn.only_reads() && txn.most_keys() > 1024);
    txn.failure.push(Op::Txn(Transaction {
        failure: vec![Op::Delete(KeyRange::key("k"))],
        ..Transaction::default()
    }));
    assert!(!txn.only_reads());
}
