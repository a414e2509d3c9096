//! Who wants to hear of which keys.
//!
//! Watches of the same range form a group. A commit is handed to each group that it concerns once, as a
//! [`Batch`] that all watches of the group share, encoding included; a watch then takes what came since it
//! last looked. The hub keeps a bounded number of batches per group: a watch that is further behind reads the
//! log of the key space instead, so a slow watch costs no memory.

mod intervals;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;

use self::intervals::Intervals;
use crate::{
    mvcc::{Below, Committed, Millis, put_varint, varint_len},
    range::KeyRange,
};

/// Batches that a group keeps for watches that have not taken them yet.
const KEPT_BATCHES: usize = 512;
/// Bytes of events that a group keeps so; a single batch may be larger.
const KEPT_BYTES: usize = 2 << 20;
/// How long it keeps them at least.
pub(crate) const TIDY: Duration = Duration::from_secs(1);
/// What an event takes besides its records.
const EVENT_BYTES: usize = 64;

/// What one revision changed within one range.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) revision: i64,
    pub(crate) events: Vec<Committed>,
    bytes: usize,
    encoded: OnceLock<Bytes>,
    encoded_with_prev: OnceLock<Bytes>,
}

impl Batch {
    pub(crate) fn new(revision: i64, events: Vec<Committed>) -> Self {
        let bytes = events.iter().map(|event| event.record.encoded().len() + EVENT_BYTES).sum();
        Self { revision, events, bytes, encoded: OnceLock::new(), encoded_with_prev: OnceLock::new() }
    }

    /// The `events` fields of a `WatchResponse`, encoded once for all watches.
    pub(crate) fn encoded(&self, with_prev: bool) -> &Bytes {
        let cell = if with_prev { &self.encoded_with_prev } else { &self.encoded };
        cell.get_or_init(|| {
            let mut out = Vec::new();
            for event in &self.events {
                encode_event(&mut out, event, with_prev, 0);
            }
            out.into()
        })
    }
}

/// Appends `WatchResponse.events` (field 11): an `mvccpb.Event` around records that are encoded already, without the
/// first `strip` bytes of the key.
pub(crate) fn encode_event(out: &mut Vec<u8>, event: &Committed, with_prev: bool, strip: usize) {
    let kv = event.record.below(strip);
    let prev = event.prev.as_ref().filter(|_| with_prev).map(|prev| prev.below(strip));
    let field = |record: Below<'_>| 1 + varint_len(record.len() as u64) + record.len();
    let deleted = event.record.is_tombstone();
    let len = if deleted { 2 } else { 0 } + field(kv) + prev.map_or(0, field);
    out.reserve(len + 8);
    out.push(0x5a);
    put_varint(out, len as u64);
    if deleted {
        out.extend_from_slice(&[0x08, 0x01]);
    }
    for (tag, record) in [(0x12, Some(kv)), (0x1a, prev)] {
        if let Some(record) = record {
            out.push(tag);
            put_varint(out, record.len() as u64);
            record.put(out);
        }
    }
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    groups: Mutex<Intervals<Arc<Group>>>,
    /// How many groups there are.
    heard: AtomicUsize,
    /// How many watches.
    watches: AtomicUsize,
    /// How many groups there were.
    numbers: AtomicU64,
    /// When it was last tidied.
    tidied: AtomicU64,
}

/// Watches of one range.
#[derive(Debug)]
struct Group {
    /// No other one has it.
    number: u64,
    range: KeyRange,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    /// Number of the first batch that is kept.
    first: u64,
    /// Number of the batch after the last one, when the hub was last tidied.
    tidied: u64,
    members: Vec<Arc<Member>>,
}

/// A watch as its group sees it.
#[derive(Debug)]
struct Member {
    id: i64,
    signal: Arc<Signal>,
    /// Whether the signal names it already.
    named: AtomicBool,
    /// Revision of the first batch that it has not taken, or 0. Changes under the lock of the ring only.
    waits_for: AtomicI64,
    /// Where it stands among the members. Under the lock of the ring, too.
    place: AtomicUsize,
}

/// Wakes whoever serves some watches and says which of them have news.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    notify: Notify,
    ready: Mutex<Vec<i64>>,
}

impl Signal {
    /// Waits until some watch has news; returns their ids (perhaps of watches that ended meanwhile).
    pub(crate) async fn ready(&self) -> Vec<i64> {
        loop {
            let ready = std::mem::take(&mut *lock(&self.ready));
            if !ready.is_empty() {
                return ready;
            }
            self.notify.notified().await;
        }
    }

    /// Has [`Self::ready`] return at once: for a sole watch that has more to read from the log.
    pub(crate) fn name_again(&self) {
        self.name(0);
    }

    fn name(&self, id: i64) {
        lock(&self.ready).push(id);
        self.notify.notify_one();
    }
}

/// A watch's membership in its group. Dropping it leaves.
#[derive(Debug)]
pub(crate) struct Subscription {
    group: Arc<Group>,
    member: Arc<Member>,
    next: u64,
    hub: Arc<Hub>,
}

/// What [`Subscription::take`] found.
#[derive(Debug)]
pub(crate) enum Taken {
    /// What came since the last time, in order.
    Batches(Vec<Arc<Batch>>),
    /// The watch was too far behind; it must read the log, where nothing before revision `from` concerns it that it has
    /// not had. What comes from now on will be kept again.
    Behind { from: i64 },
}

/// Publishing in the order of revisions: made while the key space is still locked.
pub(crate) struct Publisher<'a>(MutexGuard<'a, Intervals<Arc<Group>>>);

impl Hub {
    pub(crate) fn publisher(&self) -> Publisher<'_> {
        Publisher(lock(&self.groups))
    }

    /// Whether there is any group. Exact for whoever holds a lock under which groups begin.
    pub(crate) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire) > 0
    }

    /// How many watches there are.
    pub(crate) fn watches(&self) -> usize {
        self.watches.load(Ordering::Relaxed)
    }

    /// Joins the group of `range`; `signal` will name `id` when there is news.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        range: &KeyRange,
        id: i64,
        signal: &Arc<Signal>,
    ) -> Subscription {
        // A range that came in a request is a part of the connection's buffer, which it would keep as long as it lives.
        let range = range.copied();
        let member = Arc::new(Member {
            id,
            signal: Arc::clone(signal),
            named: AtomicBool::new(false),
            waits_for: AtomicI64::new(0),
            place: AtomicUsize::new(0),
        });
        let mut groups = lock(&self.groups);
        let group = match groups.get(&range) {
            Some(group) => Arc::clone(group),
            None => {
                let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                let group = Arc::new(Group { number, range: range.clone(), ring: Mutex::default() });
                groups.insert(range, Arc::clone(&group));
                group
            }
        };
        let mut ring = lock(&group.ring);
        member.place.store(ring.members.len(), Ordering::Relaxed);
        ring.members.push(Arc::clone(&member));
        let next = ring.first + ring.batches.len() as u64;
        drop(ring);
        self.heard.store(groups.len(), Ordering::Release);
        drop(groups);
        self.watches.fetch_add(1, Ordering::Relaxed);
        Subscription { group, member, next, hub: Arc::clone(self) }
    }
}

impl Hub {
    /// Has every signal name its watches, as if there were news: what they may see is another than before.
    pub(crate) fn wake_all(&self) {
        lock(&self.groups).each(|group| lock(&group.ring).members.iter().for_each(|member| member.name()));
    }

    /// Drops batches that were there the last time already, if that was [`TIDY`] ago: whoever still wants them reads
    /// the log.
    pub(crate) fn tidy(&self, now: Millis) {
        if now.saturating_sub(self.tidied.load(Ordering::Relaxed)) < TIDY.as_millis() as Millis {
            return;
        }
        self.tidied.store(now, Ordering::Relaxed);
        lock(&self.groups).each(|group| {
            let mut ring = lock(&group.ring);
            let end = ring.first + ring.batches.len() as u64;
            let old = std::mem::replace(&mut ring.tidied, end);
            while ring.first < old {
                let Some(oldest) = ring.batches.pop_front() else { break };
                ring.bytes -= oldest.bytes;
                ring.first += 1;
            }
        });
    }
}

impl Publisher<'_> {
    /// Hands the events of a revision to the groups that they concern.
    pub(crate) fn publish(self, revision: i64, events: Vec<Committed>) {
        if events.is_empty() || self.0.is_empty() {
            return;
        }
        let mut concerned: Vec<(&Arc<Group>, &Committed)> = Vec::new();
        for event in &events {
            self.0.stab(event.record.key(), |group| concerned.push((group, event)));
        }
        // Those of a group together, and in their order still.
        concerned.sort_by_key(|(group, _)| group.number);
        for of_group in concerned.chunk_by(|(a, _), (b, _)| a.number == b.number) {
            let Some((group, _)) = of_group.first() else { continue };
            let events = of_group.iter().map(|(_, event)| Committed::clone(event)).collect();
            group.push(Batch::new(revision, events));
        }
    }
}

impl Group {
    fn push(&self, batch: Batch) {
        let mut ring = lock(&self.ring);
        let revision = batch.revision;
        ring.bytes += batch.bytes;
        ring.batches.push_back(Arc::new(batch));
        while ring.batches.len() > KEPT_BATCHES || (ring.bytes > KEPT_BYTES && ring.batches.len() > 1) {
            let Some(oldest) = ring.batches.pop_front() else { break };
            ring.bytes -= oldest.bytes;
            ring.first += 1;
        }
        for member in &ring.members {
            if member.waits_for.load(Ordering::Relaxed) == 0 {
                member.waits_for.store(revision, Ordering::Relaxed);
            }
            member.name();
        }
    }
}

impl Member {
    fn name(&self) {
        if !self.named.swap(true, Ordering::AcqRel) {
            self.signal.name(self.id);
        }
    }
}

impl Subscription {
    /// What it is of.
    pub(crate) fn range(&self) -> &KeyRange {
        &self.group.range
    }

    /// What came since the last time.
    pub(crate) fn take(&mut self) -> Taken {
        // Before looking, so that what comes after names the watch again.
        self.member.named.store(false, Ordering::Release);
        let mut ring = lock(&self.group.ring);
        let from = self.member.waits_for.swap(0, Ordering::Relaxed);
        let end = ring.first + ring.batches.len() as u64;
        if self.next < ring.first {
            self.next = end;
            return Taken::Behind { from };
        }
        let skip = (self.next - ring.first) as usize;
        let batches: Vec<Arc<Batch>> = ring.batches.iter().skip(skip).cloned().collect();
        self.next = end;
        if ring.members.len() == 1 {
            // Nobody else will ask for them.
            ring.first = end;
            ring.bytes = 0;
            ring.batches.clear();
        }
        Taken::Batches(batches)
    }

    /// Skips what is kept now: the watch reads it from the log.
    pub(crate) fn skip(&mut self) {
        self.member.named.store(false, Ordering::Release);
        let ring = lock(&self.group.ring);
        self.member.waits_for.store(0, Ordering::Relaxed);
        self.next = ring.first + ring.batches.len() as u64;
    }

    /// Has the signal name this watch, as if there were news.
    pub(crate) fn wake(&self) {
        self.member.name();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.watches.fetch_sub(1, Ordering::Relaxed);
        let mut groups = lock(&self.hub.groups);
        let mut ring = lock(&self.group.ring);
        let place = self.member.place.load(Ordering::Relaxed);
        ring.members.swap_remove(place);
        if let Some(moved) = ring.members.get(place) {
            moved.place.store(place, Ordering::Relaxed);
        }
        let empty = ring.members.is_empty();
        drop(ring);
        if empty {
            groups.remove(&self.group.range);
            self.hub.heard.store(groups.len(), Ordering::Release);
        }
    }
}

/// Nothing under these locks panics half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
