use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    image::Image,
    mvcc::{Put, Range},
    range::KeyRange,
};

/// A key space whose changes go to a journal.
#[derive(Default)]
struct Journaled {
    keyspace: Keyspace,
    auth: Auth,
    bytes: Vec<u8>,
    sequence: u64,
}

impl Journaled {
    fn note(&mut self, entry: &Entry) {
        if !entry.is_empty() {
            self.sequence += 1;
            let mut frame = Gathered::new(self.sequence);
            frame.add(entry);
            self.bytes.extend(frame.encode(true));
        }
    }

    fn put(&mut self, key: &str, value: &str, lease: i64) {
        let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..Put::default() };
        let (_, commit) = self.keyspace.put(&put).unwrap();
        self.note(&Entry::commit(&commit));
    }

    fn delete(&mut self, range: &KeyRange) {
        let mut txn = self.keyspace.write();
        txn.delete_range(range);
        let commit = txn.commit();
        self.note(&Entry::commit(&commit));
    }

    fn again(&self) -> (Keyspace, Auth) {
        let (mut keyspace, mut auth) = (Keyspace::new(), Auth::default());
        let replayed = replay(&self.bytes, 0, &mut keyspace, &mut auth, 0);
        assert_eq!(replayed, Ok(Replayed { whole: self.bytes.len(), sequence: self.sequence }));
        (keyspace, auth)
    }
}

fn content(keyspace: &Keyspace) -> (i64, Vec<Bytes>, Vec<i64>) {
    let all = keyspace.range(&Range::of(KeyRange::all())).unwrap();
    let records = all.records.iter().map(|record| Bytes::copy_from_slice(record.encoded())).collect();
    (keyspace.revision(), records, keyspace.lease_ids())
}

fn some() -> Journaled {
    let mut store = Journaled::default();
    store.keyspace.grant(7, 60, 0).unwrap();
    store.note(&Entry::granted(7, 60));
    store.put("a", "1", 7);
    store.put("a", "2", 7);
    store.put("b", "1", 0);
    store.delete(&KeyRange::key("b"));
    store.auth = Auth::of_cluster("x");
    store.note(&Entry::auth(&store.auth));
    store
}

#[test]
fn what_was_written_is_there_again() {
    let mut store = some();
    let (keyspace, auth) = store.again();
    assert_eq!(content(&keyspace), content(&store.keyspace));
    assert!(auth.enabled());
    let commit = store.keyspace.revoke(7).unwrap();
    store.note(&Entry::ended(7, &commit));
    store.keyspace.compact(4).unwrap();
    store.note(&Entry::compacted(4));
    let (keyspace, _) = store.again();
    assert_eq!(content(&keyspace), content(&store.keyspace));
    assert_eq!(keyspace.compacted(), 4);
}

#[test]
fn a_torn_end_is_cut_at_every_byte_of_it() {
    let mut store = some();
    let whole = store.bytes.len();
    store.put("c", "torn", 0);
    for cut in whole..store.bytes.len() {
        let (mut keyspace, mut auth) = (Keyspace::new(), Auth::default());
        let replayed = replay(&store.bytes[..cut], 0, &mut keyspace, &mut auth, 0);
        assert_eq!(replayed, Ok(Replayed { whole, sequence: store.sequence - 1 }), "cut at {cut}");
        assert!(keyspace.get(b"c").is_none());
    }
    let mut grown = store.bytes[..whole].to_vec();
    grown.resize(whole + 4096, 0);
    let replayed = replay(&grown, 0, &mut Keyspace::new(), &mut Auth::default(), 0);
    assert_eq!(replayed, Ok(Replayed { whole, sequence: store.sequence - 1 }));
}

#[test]
fn a_frame_of_several_entries_is_there_whole_or_not_at_all() {
    let mut store = some();
    let whole = store.bytes.len();
    let before = content(&store.again().0);
    let mut frame = Gathered::new(store.sequence + 1);
    for n in 0..5 {
        let put = Put { key: format!("f{n}").into(), value: "v".into(), ..Put::default() };
        let (_, commit) = store.keyspace.put(&put).unwrap();
        frame.add(&Entry::commit(&commit));
    }
    store.sequence = frame.last;
    store.bytes.extend(frame.encode(true));
    assert_eq!(content(&store.again().0), content(&store.keyspace));
    for cut in whole..store.bytes.len() {
        let mut keyspace = Keyspace::new();
        let replayed = replay(&store.bytes[..cut], 0, &mut keyspace, &mut Auth::default(), 0);
        assert_eq!(replayed.map(|replayed| replayed.whole), Ok(whole), "cut at {cut}");
        assert_eq!(content(&keyspace), before);
    }
    // The last page did not arrive.
    let end = store.bytes.len();
    store.bytes[end - 10..].fill(0);
    let replayed = replay(&store.bytes, 0, &mut Keyspace::new(), &mut Auth::default(), 0);
    assert_eq!(replayed.map(|replayed| replayed.whole), Ok(whole));
}

#[test]
fn a_frame_that_is_missing_is_noticed() {
    let store = some();
    let Found::Frame { next: second, .. } = decode(&store.bytes, 0) else { panic!("a frame") };
    let Found::Frame { next: third, .. } = decode(&store.bytes, second) else { panic!("a frame") };
    let without = [&store.bytes[..second], &store.bytes[third..]].concat();
    let replayed = replay(&without, 0, &mut Keyspace::new(), &mut Auth::default(), 0);
    assert_eq!(replayed, Err(second));
}

#[test]
fn damage_in_the_middle_is_refused_with_its_offset() {
    let store = some();
    let Found::Frame { next: second, .. } = decode(&store.bytes, 0) else { panic!("a frame") };
    let Found::Frame { next: third, .. } = decode(&store.bytes, second) else { panic!("a frame") };
    for at in second..third {
        let mut damaged = store.bytes.clone();
        damaged[at] ^= 0x10;
        let replayed = replay(&damaged, 0, &mut Keyspace::new(), &mut Auth::default(), 0);
        assert_eq!(replayed, Err(second), "byte {at}");
    }
}

/// Frames of one flush after those of `store`, whose places are returned.
fn flush(store: &mut Journaled, frames: u64) -> Vec<usize> {
    let mut places = Vec::new();
    for nth in 0..frames {
        let put = Put { key: format!("f{nth}").into(), value: "some value".into(), ..Put::default() };
        let (_, commit) = store.keyspace.put(&put).unwrap();
        store.sequence += 1;
        let mut frame = Gathered::new(store.sequence);
        frame.add(&Entry::commit(&commit));
        places.push(store.bytes.len());
        store.bytes.extend(frame.encode(nth == 0));
    }
    places.push(store.bytes.len());
    places
}

#[test]
fn a_flush_whose_pages_came_in_any_order_is_cut_where_it_cannot_be_read() {
    let mut store = some();
    let (before, begin) = (store.sequence, store.bytes.len());
    let places = flush(&mut store, 3);
    store.again();
    // Each part of the flush is what was there before it, zeros, while what is around it arrived.
    for from in begin..places[3] {
        for to in from + 1..=places[3] {
            let mut bytes = store.bytes.clone();
            bytes[from..to].fill(0);
            if bytes == store.bytes {
                continue;
            }
            // The first frame that is not as it was written; a zero may be what was written.
            let first = (from..to).find(|&at| store.bytes[at] != 0).unwrap();
            let frame = places.partition_point(|&place| place <= first) - 1;
            let replayed = replay(&bytes, 0, &mut Keyspace::new(), &mut Auth::default(), 0);
            let expected = Replayed { whole: places[frame], sequence: before + frame as u64 };
            assert_eq!(replayed, Ok(expected), "zeros from {from} to {to}");
        }
    }
}

#[test]
fn damage_in_a_flush_that_was_whole_is_refused_with_the_offset_of_its_frame() {
    let mut store = some();
    let places = flush(&mut store, 3);
    let flushed = store.bytes.clone();
    // Another flush, or the end of a journal that was closed.
    let closed = Gathered::new(store.sequence + 1).encode(true);
    store.put("later", "1", 0);
    for bytes in [store.bytes.clone(), [&flushed[..], &closed].concat()] {
        for at in places[0]..places[3] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let frame = places.partition_point(|&place| place <= at) - 1;
            let replayed = replay(&damaged, 0, &mut Keyspace::new(), &mut Auth::default(), 0);
            assert_eq!(replayed, Err(places[frame]), "byte {at}");
        }
        let replayed = replay(&bytes, 0, &mut Keyspace::new(), &mut Auth::default(), 0);
        assert_eq!(replayed.map(|replayed| replayed.whole), Ok(bytes.len()));
    }
}

#[test]
fn entries_that_the_image_contains_are_not_done_twice() {
    let mut store = some();
    let image = Image::of(&store.keyspace, &store.auth, store.sequence);
    store.put("after", "1", 7);
    let mut keyspace = image.to_keyspace(0);
    let mut auth = image.auth.clone();
    replay(&store.bytes, image.sequence, &mut keyspace, &mut auth, 0).unwrap();
    assert_eq!(content(&keyspace), content(&store.keyspace));
}

#[test]
fn a_compaction_that_the_image_is_ahead_of_is_passed_over() {
    let mut store = some();
    let image = Image::of(&store.keyspace, &store.auth, store.sequence);
    store.bytes.clear();
    let (before, last) = (3, image.revision + 1);
    for revision in [before, last] {
        store.put("after", "1", 0);
        store.keyspace.compact(revision).unwrap();
        store.note(&Entry::compacted(revision));
    }
    let mut keyspace = image.to_keyspace(0);
    let replayed = replay(&store.bytes, image.sequence, &mut keyspace, &mut Auth::default(), 0);
    assert_eq!(replayed, Ok(Replayed { whole: store.bytes.len(), sequence: store.sequence }));
    assert_eq!(content(&keyspace), content(&store.keyspace));
    assert_eq!(keyspace.compacted(), last);
}

proptest! {
    /// Whatever happened, a replay leads to the same keys, revisions and versions.
    #[test]
    fn a_replay_is_the_store(ops in prop::collection::vec((0..3u8, "[ab]{1,2}", "[xy]{0,2}"), 0..40)) {
        let mut store = Journaled::default();
        for (op, key, value) in ops {
            match op {
                0 => store.delete(&KeyRange::prefix(key)),
                _ => store.put(&key, &value, 0),
            }
        }
        let (keyspace, _) = store.again();
        prop_assert_eq!(content(&keyspace), content(&store.keyspace));
    }

    /// Bytes that no store wrote are refused or taken for a torn end; they never stop the program.
    #[test]
    fn anything_can_be_read_as_a_journal(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _either = replay(&bytes, 0, &mut Keyspace::new(), &mut Auth::default(), 0);
    }
}
