//! What the fuzzer calls: requests as they come over the wire, and sequences of them. Also replayed by an ordinary test.

mod sequences;
mod steps;
mod streams;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, executor::block_on};
use prost::Message;
use tonic::Status;

pub(crate) use self::sequences::sequences;
use super::{
    Server, ServerConfig, Shared,
    connection::Peer,
    convert::{self, Shape},
    kv, lease,
    root::Root,
    route::Caller,
};
use crate::{
    hub::Signal,
    mvcc::Record,
    proto::{
        etcdserverpb as pb,
        mvccpb::{KeyValue, event::EventType},
    },
    range::KeyRange,
    store::{AutoCompaction, Store, StoreConfig},
    watcher::Watcher,
};

/// A client that remembers what it was told.
struct World {
    shared: Arc<Shared>,
    caller: Caller,
    watcher: Watcher,
    /// What the watch of everything leads to.
    mirror: BTreeMap<Vec<u8>, KeyValue>,
    revision: i64,
}

/// Requests of one caller to an empty store, each a method (see [`World::call`]), two bytes of length and the message.
///
/// Accepted if every request is: it is a message, and the answer no error. Whatever the requests are, a watch from the
/// beginning leads to what a list shows, revisions never go back, and the answers can be read.
pub(crate) fn requests(input: &[u8]) -> bool {
    let mut world = World::new();
    let mut rest = input;
    let mut accepted = !input.is_empty();
    while let [method, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (message, after) = after.split_at(length);
        rest = after;
        accepted &= world.call(*method, Bytes::copy_from_slice(message)).is_ok();
        world.check();
    }
    accepted && rest.is_empty()
}

impl World {
    fn new() -> Self {
        let config = StoreConfig { cluster_id: 1, member_id: 2, auto_compaction: AutoCompaction::Off };
        let store = Store::new(config);
        let config =
            ServerConfig { listen: Vec::new(), ..ServerConfig::new(([127, 0, 0, 1], 0).into(), None) };
        let server = Server::bind(config, Arc::clone(&store)).now_or_never();
        let server = server.expect("no address, no waiting").expect("nothing to bind");
        let caller = Caller {
            peer: Arc::new(Peer { common_name: None, unfinished: Arc::default() }),
            token: None,
            through_gateway: false,
        };
        let watcher = store.watch(&KeyRange::all(), 1, 1, &Arc::<Signal>::default());
        Self { shared: server.shared, caller, watcher, mirror: BTreeMap::new(), revision: 0 }
    }

    fn call(&mut self, method: u8, message: Bytes) -> Result<(), Status> {
        fn read<M: Message + Default>(message: Bytes) -> Result<M, Status> {
            M::decode(message).map_err(|error| super::status::not_a_message(&error))
        }
        let (shared, caller) = (Arc::clone(&self.shared), self.caller.clone());
        match method % 9 {
            0 => self.range(&read(message)?)?,
            1 => whole(&kv::put(&shared, &caller, read(message)?)?),
            2 => whole(&kv::delete_range(&shared, &caller, read(message)?)?),
            3 => {
                whole(&block_on(kv::transact(&shared, &caller, read(message)?))?);
            }
            4 => {
                // What is compacted away the watch could not tell any more.
                self.follow();
                whole(&kv::compact(&shared, &caller, read(message)?)?);
            }
            5 => whole(&lease::grant(&shared, &caller, read(message)?)?),
            6 => whole(&lease::revoke(&shared, &caller, read(message)?)?),
            7 => whole(&lease::time_to_live(&shared, &caller, read(message)?)?),
            _ => self.watch(read(message)?),
        }
        Ok(())
    }

    /// Two ways to write an answer: they must agree.
    fn range(&self, request: &pb::RangeRequest) -> Result<(), Status> {
        convert::check_range(request)?;
        let found = block_on(self.shared.store.range(&convert::range_request(request)))?;
        let shape = Shape::of(request, &Root::default());
        let mut fields = BytesMut::new();
        for record in &found.records {
            let before = fields.len();
            shape.put_field(&mut fields, record);
            assert_eq!(fields.len() - before, shape.field_len(record));
        }
        let written = pb::RangeResponse::decode(fields.freeze()).expect("fields of an answer");
        assert_eq!(written.kvs, convert::range_response(None, &found, shape).kvs);
        assert!(found.count >= found.records.len(), "{found:?}");
        Ok(())
    }

    /// A watch from somewhere ends within the store's limits.
    fn watch(&self, request: pb::WatchRequest) {
        let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = request.request_union else {
            return;
        };
        let range = convert::range(&create.key, &create.range_end);
        let mut watcher =
            self.shared.store.watch(&range, create.start_revision, 1, &Arc::<Signal>::default());
        while let Ok(look) = watcher.look(&self.shared.store) {
            for event in look.batches.iter().flat_map(|batch| &batch.events) {
                assert!(range.contains(event.record.key()));
                assert!(event.record.mod_revision() >= create.start_revision);
            }
            if !look.again {
                break;
            }
        }
    }

    /// Brings the mirror up to date, by the events as they are sent.
    fn follow(&mut self) {
        loop {
            let look = self.watcher.look(&self.shared.store).expect("it looks before each compaction");
            for batch in &look.batches {
                assert!(batch.revision > self.revision, "{} after {}", batch.revision, self.revision);
                self.revision = batch.revision;
                let response =
                    pb::WatchResponse::decode(batch.encoded(true).clone()).expect("events that can be read");
                assert_eq!(response.events.len(), batch.events.len());
                for event in response.events {
                    let kind = event.r#type();
                    let kv = event.kv.expect("an event has a key");
                    assert_eq!(kv.mod_revision, batch.revision);
                    let before = match kind {
                        EventType::Put => self.mirror.insert(kv.key.to_vec(), kv),
                        EventType::Delete => self.mirror.remove(&kv.key[..]),
                    };
                    // A revision may change a key only once, so what the event calls previous is what we had.
                    assert_eq!(event.prev_kv, before);
                }
            }
            if !look.again {
                break;
            }
        }
    }

    fn check(&mut self) {
        self.follow();
        let request = pb::RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            ..pb::RangeRequest::default()
        };
        let all = block_on(self.shared.store.range(&convert::range_request(&request)));
        let all = all.expect("the present can be read");
        let listed: Vec<_> = all.records.iter().map(|record| convert::key_value(record, 0)).collect();
        assert_eq!(listed, self.mirror.values().cloned().collect::<Vec<_>>());
        assert_eq!(all.revision, self.revision.max(1), "the watch is where the store is");
        let keys = all.records.iter().map(Record::key);
        assert!(keys.is_sorted(), "keys come in order");
    }
}

/// An answer can be sent and read.
fn whole<M: Message + Default + PartialEq + std::fmt::Debug>(answer: &M) {
    assert_eq!(M::decode(Bytes::from(answer.encode_to_vec())).as_ref(), Ok(answer));
}
