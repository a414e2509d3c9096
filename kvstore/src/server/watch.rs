//! The service `Watch`: many watches on one stream.
//!
//! A stream pulls: it asks its watches for news only when the peer has room for them. A peer that does not read
//! therefore costs nothing but its place; when what it should read next is compacted away, its watch is
//! cancelled with the compacted revision, from which it knows how to go on.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use prost::Message;
use tonic::Status;

use super::{
    Shared, convert,
    grpc::{Gone, frame, put_prefix},
    root::Root,
    route::{Call, Caller},
    status,
};
use crate::{
    auth::Access,
    hub::{Batch, Signal, encode_event},
    mvcc::Committed,
    proto::etcdserverpb as pb,
    watcher::{Look, Watcher},
};

/// etcd's mark for "no particular watch".
const NO_WATCH: i64 = -1;
/// Bytes of events that are gathered into one answer, where revisions allow a cut.
const ANSWER_BYTES: usize = 1 << 20;

/// A stream and its watches.
struct Stream {
    call: Call,
    watches: BTreeMap<i64, Watch>,
    signal: Arc<Signal>,
    /// Watches that have more to read from the log, in turn.
    again: VecDeque<i64>,
    next_id: i64,
    /// The peer asked how far the stream is, and some watch was not there yet.
    progress_asked: bool,
}

/// One watch.
struct Watch {
    watcher: Watcher,
    prev_kv: bool,
    no_put: bool,
    no_delete: bool,
    fragment: bool,
    progress_notify: bool,
    /// Where the caller lived when the watch was made.
    root: Root,
    /// The first revision that it was to tell of.
    begun: i64,
    /// [`Store::root_changes`](crate::store::Store::root_changes) as of the last look at where the caller lives.
    root_changes: u64,
    /// Whether something was sent since the last progress notification.
    sent: bool,
}

/// `Watch.Watch`.
pub(crate) async fn watch(call: Call) {
    let mut stream = Stream {
        call,
        watches: BTreeMap::new(),
        signal: Arc::default(),
        again: VecDeque::new(),
        next_id: 0,
        progress_asked: false,
    };
    if let Ok(status) = stream.serve().await {
        stream.call.outgoing.finish(status);
    }
}

impl Stream {
    async fn serve(&mut self) -> Result<Result<(), Status>, Gone> {
        let mut half_closed = false;
        let mut progress = tokio::time::interval(jittered(self.call.shared.limits.progress_interval));
        progress.reset();
        self.call.outgoing.open()?;
        loop {
            let Call { incoming, outgoing, stop, .. } = &mut self.call;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Err(status::stopped())),
                request = incoming.message::<pb::WatchRequest>(), if !half_closed => match request {
                    Ok(Some(request)) => self.request(request).await?,
                    // Events may go on after the last request.
                    Ok(None) => half_closed = true,
                    Err(status) if status.code() == tonic::Code::Cancelled => {
                        return Ok(Err(status::watch_canceled()));
                    }
                    Err(status) => return Ok(Err(status)),
                },
                () = outgoing.reset(), if half_closed => return Err(Gone),
                ready = self.signal.ready() => {
                    for id in ready {
                        self.deliver(id).await?;
                    }
                    self.answer_progress().await?;
                }
                () = std::future::ready(()), if !self.again.is_empty() => {
                    if let Some(id) = self.again.pop_front() {
                        self.deliver(id).await?;
                    }
                    self.answer_progress().await?;
                    tokio::task::yield_now().await;
                }
                _ = progress.tick() => self.notify_progress().await?,
            }
        }
    }

    async fn request(&mut self, request: pb::WatchRequest) -> Result<(), Gone> {
        use pb::watch_request::RequestUnion;
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => {
                if self.watches.remove(&cancel.watch_id).is_none() {
                    return Ok(());
                }
                self.send(pb::WatchResponse { watch_id: cancel.watch_id, canceled: true, ..self.blank() })
                    .await
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.progress_asked = true;
                self.answer_progress().await
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, mut create: pb::WatchCreateRequest) -> Result<(), Gone> {
        if create.key.is_empty() {
            create.key = Bytes::from_static(b"\0");
        }
        let admitted = self.place(&mut create).and_then(|root| Ok((root, self.admit(&create)?)));
        let (root, id) = match admitted {
            Ok(admitted) => admitted,
            Err(cancel_reason) => {
                let refused = pb::WatchResponse {
                    watch_id: NO_WATCH,
                    created: true,
                    canceled: true,
                    cancel_reason,
                    ..self.blank()
                };
                return self.send(refused).await;
            }
        };
        let range = convert::range(&create.key, &create.range_end);
        let filters = |kind: pb::watch_create_request::FilterType| create.filters.contains(&(kind as i32));
        let watcher = self.call.shared.store.watch(&range, create.start_revision, id, &self.signal);
        let watch = Watch {
            begun: watcher.next(),
            watcher,
            root,
            root_changes: 0,
            prev_kv: create.prev_kv,
            no_put: filters(pb::watch_create_request::FilterType::Noput),
            no_delete: filters(pb::watch_create_request::FilterType::Nodelete),
            fragment: create.fragment,
            progress_notify: create.progress_notify,
            sent: false,
        };
        let now = self.call.shared.store.revision();
        let header = Some(self.call.shared.header(begins_after(create.start_revision, watch.begun, now)));
        let created = pb::WatchResponse { header, watch_id: id, created: true, ..Default::default() };
        self.watches.insert(id, watch);
        self.send(created).await
    }

    /// Has the range lie below where the caller lives.
    fn place(&self, create: &mut pb::WatchCreateRequest) -> Result<Root, String> {
        let root = self.call.shared.root(&self.call.caller);
        let root = root.map_err(|error| status::as_reason(&error.into()))?;
        root.place_range(&mut create.key, &mut create.range_end);
        Ok(root)
    }

    /// The id of a watch that may be made, or etcd's reason why not.
    fn admit(&mut self, create: &pb::WatchCreateRequest) -> Result<i64, String> {
        let shared = &self.call.shared;
        if create.start_revision < 0 {
            return Err(status::watch_compacted_reason());
        }
        let range = convert::range(&create.key, &create.range_end);
        if let Err(error) = shared.may(&self.call.caller, &range, Access::Read) {
            return Err(status::as_reason(&error.into()));
        }
        if range.is_empty() {
            return Err("mvcc: watcher range is empty".to_owned());
        }
        if self.watches.len() >= shared.limits.watches_per_stream {
            return Err(status::as_reason(&status::too_many_requests()));
        }
        if create.watch_id == 0 {
            while self.watches.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            return Ok(self.next_id - 1);
        }
        if self.watches.contains_key(&create.watch_id) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
        }
        Ok(create.watch_id)
    }

    /// Sends what a watch has; at most one step through the log.
    async fn deliver(&mut self, id: i64) -> Result<(), Gone> {
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(()) };
        if !watch.keeps_its_root(&self.call.shared, &self.call.caller) {
            // From here its history is of other keys: as if it were compacted, which has every client list again. What is
            // compacted indeed is answered as to everyone.
            let next = watch.watcher.next();
            let store = &self.call.shared.store;
            let oldest = store.look(crate::mvcc::Keyspace::compacted);
            let revision = if next < oldest { oldest } else { store.revision() };
            return self.cancel_compacted(id, revision).await;
        }
        let look = match watch.watcher.look(&self.call.shared.store) {
            Ok(look) => look,
            Err(_compacted) => {
                let oldest = self.call.shared.store.look(crate::mvcc::Keyspace::compacted);
                return self.cancel_compacted(id, oldest).await;
            }
        };
        if look.again {
            self.again.push_back(id);
        }
        self.send_events(id, &look).await
    }

    /// Ends a watch whose next revision is gone; the client lists again.
    async fn cancel_compacted(&mut self, id: i64, compact_revision: i64) -> Result<(), Gone> {
        self.watches.remove(&id);
        let mut cancelled =
            pb::WatchResponse { watch_id: id, canceled: true, compact_revision, ..self.blank() };
        // As etcd has it: this one does not say where the store is.
        if let Some(header) = &mut cancelled.header {
            header.revision = 0;
        }
        self.send(cancelled).await
    }

    async fn send_events(&mut self, id: i64, look: &Look) -> Result<(), Gone> {
        let limit = self.call.shared.limits.request_bytes;
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(()) };
        // What others are told is not what this one is to see.
        let own = watch.no_put || watch.no_delete || !watch.root.is_everything();
        let wanted =
            |event: &Committed| if event.record.is_tombstone() { !watch.no_delete } else { !watch.no_put };
        let mut answers: Vec<Bytes> = Vec::new();
        let mut gathered = BytesMut::new();
        let mut through = 0;
        for batch in &look.batches {
            let encoded = if own {
                let mut out = Vec::new();
                for event in batch.events.iter().filter(|event| wanted(event)) {
                    encode_event(&mut out, event, watch.prev_kv, watch.root.strip());
                }
                Bytes::from(out)
            } else {
                batch.encoded(watch.prev_kv).clone()
            };
            if encoded.is_empty() {
                continue;
            }
            let header = |revision| self.call.shared.header(revision);
            if watch.fragment && encoded.len() >= limit {
                if !gathered.is_empty() {
                    answers.push(answer(&header(through), id, &gathered.split(), false));
                }
                fragments(batch, watch, wanted, limit, |events, more| {
                    answers.push(answer(&header(batch.revision), id, events, more));
                });
                continue;
            }
            if !gathered.is_empty() && gathered.len() + encoded.len() > ANSWER_BYTES {
                answers.push(answer(&header(through), id, &gathered.split(), false));
            }
            gathered.extend_from_slice(&encoded);
            through = batch.revision;
        }
        if !gathered.is_empty() {
            answers.push(answer(&self.call.shared.header(through), id, &gathered, false));
        }
        watch.sent |= !answers.is_empty();
        for answer in answers {
            self.call.outgoing.send(answer).await?;
        }
        Ok(())
    }

    /// Answers a request for progress once every watch has delivered everything up to now.
    async fn answer_progress(&mut self) -> Result<(), Gone> {
        if !self.progress_asked {
            return Ok(());
        }
        let revision = self.call.shared.store.settled_revision();
        let ids: Vec<i64> = self.watches.keys().copied().collect();
        for id in ids {
            self.deliver(id).await?;
        }
        if self.watches.values().any(|watch| !watch.watcher.is_synced()) {
            return Ok(());
        }
        self.progress_asked = false;
        let waits = self.watches.values().any(|watch| watch.is_early(revision));
        if self.watches.is_empty() || waits {
            return Ok(());
        }
        let header = Some(self.call.shared.header(revision));
        self.send(pb::WatchResponse { header, watch_id: NO_WATCH, ..pb::WatchResponse::default() }).await
    }

    /// Tells quiet watches that asked for it how far they are.
    async fn notify_progress(&mut self) -> Result<(), Gone> {
        let ids: Vec<i64> =
            self.watches.iter().filter(|(_, watch)| watch.progress_notify).map(|(&id, _)| id).collect();
        for id in ids {
            let revision = self.call.shared.store.settled_revision();
            self.deliver(id).await?;
            let Some(watch) = self.watches.get_mut(&id) else { continue };
            let quiet = !std::mem::take(&mut watch.sent);
            if quiet && watch.watcher.is_synced() && !watch.is_early(revision) {
                let header = Some(self.call.shared.header(revision));
                self.send(pb::WatchResponse { header, watch_id: id, ..pb::WatchResponse::default() }).await?;
            }
        }
        Ok(())
    }

    fn blank(&self) -> pb::WatchResponse {
        pb::WatchResponse { header: Some(self.call.shared.header_now()), ..pb::WatchResponse::default() }
    }

    async fn send(&mut self, response: pb::WatchResponse) -> Result<(), Gone> {
        self.call.outgoing.send(frame(&response)).await
    }
}

impl Watch {
    /// Whether the caller still lives where it lived, all the time since the watch began. Costs a comparison of numbers
    /// as long as nobody moves.
    fn keeps_its_root(&mut self, shared: &Shared, caller: &Caller) -> bool {
        let changes = shared.store.root_changes();
        if std::mem::replace(&mut self.root_changes, changes) == changes {
            return true;
        }
        let now = shared.root_and_since(caller);
        now.is_ok_and(|(root, since)| root == self.root && self.begun > since)
    }

    /// Whether it is to begin at a revision that is still to come.
    fn is_early(&self, revision: i64) -> bool {
        self.watcher.next() > revision + 1
    }
}

/// A `WatchResponse` around events that are encoded already.
fn answer(header: &pb::ResponseHeader, id: i64, events: &[u8], fragment: bool) -> Bytes {
    let head = pb::WatchResponse { header: Some(*header), watch_id: id, fragment, ..Default::default() };
    let len = head.encoded_len() + events.len();
    let mut out = BytesMut::with_capacity(len + 5);
    put_prefix(&mut out, len);
    head.encode_raw(&mut out);
    out.extend_from_slice(events);
    out.freeze()
}

/// Cuts the events of one revision into parts below `limit` bytes (or of a single event).
fn fragments(
    batch: &Batch,
    watch: &Watch,
    wanted: impl Fn(&Committed) -> bool,
    limit: usize,
    mut emit: impl FnMut(&[u8], bool),
) {
    let mut part = Vec::new();
    for event in batch.events.iter().filter(|event| wanted(event)) {
        let before = part.len();
        encode_event(&mut part, event, watch.prev_kv, watch.root.strip());
        if before > 0 && part.len() >= limit {
            emit(&part[..before], true);
            part.drain(..before);
        }
    }
    emit(&part, false);
}

/// What the first answer says of a watch that begins with the revision `begun`, in a store that is at `now` by now: as in
/// etcd, where one from now on begins after, and else where the store is.
fn begins_after(asked: i64, begun: i64, now: i64) -> i64 {
    if asked == 0 { begun - 1 } else { now }
}

/// So that streams made together do not report together.
fn jittered(interval: Duration) -> Duration {
    interval + interval.mul_f64(rand::random::<f64>() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_from_now_on_says_where_it_begins_though_the_store_moved_since() {
        assert_eq!(begins_after(0, 8, 12), 7);
        assert_eq!(begins_after(0, 8, 7), 7);
        // One of the past or of what is to come says how far the store is.
        assert_eq!((begins_after(3, 3, 12), begins_after(20, 20, 12)), (12, 12));
    }
}
