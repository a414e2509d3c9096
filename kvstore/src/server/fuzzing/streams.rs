//! A caller's watches, and what they should have been told.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tonic::{Status, Streaming, transport::Channel};

use super::super::convert;
use super::wire;
use crate::{
    proto::{
        etcdserverpb::{self as pb, watch_request::RequestUnion},
        mvccpb::{self, event::EventType},
    },
    store::Store,
    watcher::Watcher,
};

/// Everything that changed, by revision; and the keys that came of it.
#[derive(Default)]
pub(super) struct History {
    events: BTreeMap<i64, Vec<mvccpb::Event>>,
    keys: BTreeMap<Vec<u8>, mvccpb::KeyValue>,
}

impl History {
    /// Adds what `watcher`, which watches everything, has not told yet.
    pub(super) fn follow(&mut self, watcher: &mut Watcher, store: &Store) {
        loop {
            let look = watcher.look(store).expect("it looks after each step, before the next compaction");
            for batch in &look.batches {
                let encoded = batch.encoded(true).clone();
                let told: pb::WatchResponse =
                    prost::Message::decode(encoded).expect("events that can be read");
                for event in &told.events {
                    let kv = event.kv.clone().expect("an event has a key");
                    match event.r#type() {
                        EventType::Put => drop(self.keys.insert(kv.key.to_vec(), kv)),
                        EventType::Delete => drop(self.keys.remove(&kv.key[..])),
                    }
                }
                let before = self.events.insert(batch.revision, told.events);
                assert!(before.is_none(), "revision {} twice", batch.revision);
            }
            if !look.again {
                break;
            }
        }
    }

    /// Keys on leases.
    pub(super) fn leased(&self) -> impl Iterator<Item = (Vec<u8>, i64)> {
        self.keys.iter().filter(|(_, kv)| kv.lease != 0).map(|(key, kv)| (key.clone(), kv.lease))
    }

    /// What a watch should be told of the revisions up to `through`.
    fn of(&self, watch: &Open, through: i64) -> Vec<mvccpb::Event> {
        let range = convert::range(&watch.asked.key, &watch.asked.range_end);
        let kept = |event: &&mvccpb::Event| {
            // `NOPUT` is 0 and `NODELETE` 1, as are the types of events.
            let key = &event.kv.as_ref().expect("an event has a key").key;
            range.contains(key) && !watch.asked.filters.contains(&event.r#type)
        };
        let events = self.events.range(watch.from..=through.max(watch.from)).flat_map(|(_, events)| events);
        events.filter(kept).map(|event| shown(event, watch.asked.prev_kv)).collect()
    }
}

fn shown(event: &mvccpb::Event, with_prev: bool) -> mvccpb::Event {
    let mut event = event.clone();
    event.prev_kv = event.prev_kv.filter(|_| with_prev);
    event
}

/// A watch that is open.
struct Open {
    asked: pb::WatchCreateRequest,
    /// First revision that it is told of.
    from: i64,
    told: Vec<mvccpb::Event>,
}

/// A stream of watches.
pub(super) struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
    open: BTreeMap<i64, Open>,
    /// Up to where the server said that everything is told.
    progress: i64,
}

impl Stream {
    pub(super) async fn open(channel: &Channel) -> Result<Self, Status> {
        let (requests, asked) = mpsc::channel(16);
        let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
        let answers = wire::stream(channel, "/etcdserverpb.Watch/Watch", asked).await?;
        Ok(Self { requests, answers, open: BTreeMap::new(), progress: 0 })
    }

    async fn ask(&self, request: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.requests.send(request).await.expect("the server keeps the stream");
    }

    async fn answer(&mut self) -> pb::WatchResponse {
        let answer = self.answers.message().await.expect("the stream goes on");
        answer.expect("the server does not end the stream")
    }

    /// Takes events and the end of watches; the answer, if it is to a request.
    fn sort(&mut self, answer: pb::WatchResponse) -> Option<pb::WatchResponse> {
        let header = answer.header.as_ref().expect("an answer has a header");
        if answer.created || (answer.canceled && answer.compact_revision == 0) {
            return Some(answer);
        }
        if answer.watch_id == -1 {
            self.progress = header.revision;
            return Some(answer);
        }
        if answer.canceled {
            let ended = self.open.remove(&answer.watch_id).expect("only a watch that is open ends");
            assert!(ended.from < answer.compact_revision, "compacted before it began");
            return None;
        }
        if let Some(open) = self.open.get_mut(&answer.watch_id) {
            open.told.extend(answer.events);
        } else {
            panic!("events of watch {}, which is not open", answer.watch_id);
        }
        None
    }

    /// Makes a watch; the reason if it is refused.
    pub(super) async fn create(&mut self, asked: pb::WatchCreateRequest) -> Option<String> {
        self.ask(RequestUnion::CreateRequest(asked.clone())).await;
        loop {
            let answer = self.answer().await;
            let Some(answer) = self.sort(answer) else { continue };
            if !answer.created {
                continue;
            }
            if answer.canceled {
                return Some(answer.cancel_reason);
            }
            let now = answer.header.as_ref().expect("checked as it came").revision;
            let from = if asked.start_revision <= 0 { now + 1 } else { asked.start_revision };
            let before = self.open.insert(answer.watch_id, Open { asked, from, told: Vec::new() });
            assert!(before.is_none(), "watch {} was open", answer.watch_id);
            return None;
        }
    }

    /// Ends a watch; whether there was one.
    pub(super) async fn cancel(&mut self, id: i64) -> bool {
        if !self.open.contains_key(&id) {
            return false;
        }
        self.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id })).await;
        loop {
            let answer = self.answer().await;
            if let Some(answer) = self.sort(answer)
                && answer.canceled
                && answer.watch_id == id
            {
                self.open.remove(&id);
                return true;
            }
            if !self.open.contains_key(&id) {
                // It ended by itself meanwhile.
                return true;
            }
        }
    }

    /// Waits until everything up to `revision` is told.
    pub(super) async fn settle(&mut self, revision: i64) {
        // A watch that begins later keeps the server from saying how far the others are.
        if self.open.is_empty() || self.open.values().any(|open| open.from > revision + 1) {
            return;
        }
        self.progress = 0;
        self.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
        while self.progress < revision && !self.open.is_empty() {
            let answer = self.answer().await;
            self.sort(answer);
        }
    }

    /// Every watch was told what it should be, up to the last progress.
    pub(super) fn compare(&self, history: &History) {
        for (id, open) in &self.open {
            let expected = history.of(open, self.progress);
            assert!(open.told.len() >= expected.len(), "watch {id} lacks events");
            assert_eq!(open.told[..expected.len()], expected[..], "watch {id}");
        }
    }
}
