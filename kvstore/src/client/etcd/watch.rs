//! A watch: from its request to the reason of its end.

use etcd_client::{
    EventType, WatchOptions, WatchResponse,
    proto::{PbEvent, PbWatchResponse},
};
use futures::StreamExt;

use super::{
    ANSWER_BYTES, EtcdClient,
    connection::Pin,
    error::{Asked, error, is_too_large},
    kv::key_value,
};
use crate::{
    client::{Error, Event, Revision, WatchBatch, WatchError, WatchStream},
    range::KeyRange,
};

pub(super) async fn open(
    client: &EtcdClient,
    range: KeyRange,
    from: Revision,
) -> Result<WatchStream, WatchError> {
    let (key, range_end) = range.to_wire();
    let options = WatchOptions::new()
        .with_range(range_end)
        .with_start_revision(from.0)
        .with_progress_notify()
        .with_fragment();
    let pin = client.pin();
    let mut watches = pin.clients().await?.watch.clone();
    let opened = client.call(Asked::Revision(from), async {
        let mut answers = watches.watch(key, Some(options)).await?;
        let created = answers.message().await?;
        Ok((answers, created))
    });
    let (answers, created) = opened.await?;
    let created = created.ok_or(WatchError::Closed)?;
    let revision = pin.check(created.header())?;
    if let Some(error) = cancelled(&created.0, from) {
        return Err(error);
    }
    if revision.next() < from {
        // The store is younger than what we saw of it: it was emptied, though its id is the same.
        return Err(Error::FutureRevision { asked: from }.into());
    }
    let state = Watching { answers, pin, parts: Parts::new(from), ended: false };
    Ok(futures::stream::unfold(state, Watching::step).boxed())
}

/// A watch that is under way. Answers are taken from the connection as the batches are asked for, so a slow consumer
/// makes the server wait (or cut it off).
struct Watching {
    /// With the request side, which stays open as long as the watch: its end would be the end of the stream for
    /// some servers.
    answers: etcd_client::WatchStream,
    pin: Pin,
    parts: Parts,
    ended: bool,
}

impl Watching {
    async fn step(mut self) -> Option<(Result<WatchBatch, WatchError>, Self)> {
        if self.ended {
            return None;
        }
        let item = self.batch().await;
        self.ended = item.is_err();
        Some((item, self))
    }

    async fn batch(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            let answer = match self.answers.message().await {
                Ok(answer) => answer.ok_or(WatchError::Closed)?,
                Err(etcd_client::Error::GRpcStatus(status)) if is_too_large(&status) => {
                    // Asking for it again would bring it again; a list has no history in it.
                    return Err(WatchError::Cancelled { reason: status.message().to_owned() });
                }
                Err(cause) => return Err(error(cause, Asked::Revision(self.parts.next)).into()),
            };
            self.pin.check(answer.header())?;
            if let Some(batch) = self.parts.take(answer)? {
                return Ok(batch);
            }
        }
    }
}

/// Puts together what comes in parts, and knows how far the watch is. Pure.
#[derive(Debug)]
struct Parts {
    next: Revision,
    /// Events of a response that is not complete.
    events: Vec<Event>,
    /// Bytes of their keys and values.
    bytes: usize,
}

impl Parts {
    fn new(from: Revision) -> Self {
        Self { next: from, events: Vec::new(), bytes: 0 }
    }

    fn take(&mut self, WatchResponse(answer): WatchResponse) -> Result<Option<WatchBatch>, WatchError> {
        if let Some(error) = cancelled(&answer, self.next) {
            return Err(error);
        }
        for event in answer.events.into_iter().filter_map(event) {
            self.bytes += event.key().len();
            if let Event::Put(kv) = &event {
                self.bytes += kv.value.len();
            }
            self.events.push(event);
        }
        if self.bytes > ANSWER_BYTES {
            let reason = format!("one revision has more than {ANSWER_BYTES} bytes of changes");
            return Err(WatchError::Cancelled { reason });
        }
        if answer.fragment {
            return Ok(None);
        }
        self.bytes = 0;
        let events = std::mem::take(&mut self.events);
        // With events it is they that say how far we are: the header may run ahead of a watch of the past.
        let revision = match events.last() {
            Some(last) => last.mod_revision(),
            None => Revision(answer.header.map_or(0, |header| header.revision)),
        };
        if revision < self.next && events.is_empty() {
            return Ok(None);
        }
        self.next = revision.next();
        Ok(Some(WatchBatch { revision, events }))
    }
}

fn cancelled(answer: &PbWatchResponse, from: Revision) -> Option<WatchError> {
    if answer.compact_revision > 0 {
        return Some(WatchError::Compacted { from, oldest: Revision(answer.compact_revision) });
    }
    if !answer.canceled {
        return None;
    }
    if answer.cancel_reason.contains("permission denied") {
        return Some(Error::PermissionDenied.into());
    }
    Some(WatchError::Cancelled { reason: answer.cancel_reason.clone() })
}

/// An event without a key is none. (`etcd_client::Event::event_type` panics at a type that it does not know.)
fn event(event: PbEvent) -> Option<Event> {
    let deleted = event.r#type == EventType::Delete as i32;
    let kv = event.kv?;
    Some(if deleted {
        Event::Delete { key: kv.key.into(), mod_revision: Revision(kv.mod_revision) }
    } else {
        Event::Put(key_value(kv))
    })
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::{PbKeyValue, PbResponseHeader};

    use super::*;

    fn response(revision: i64, events: &[(&str, i64)]) -> PbWatchResponse {
        let event = |&(key, mod_revision): &(&str, i64)| PbEvent {
            kv: Some(PbKeyValue { key: key.into(), mod_revision, version: 1, ..PbKeyValue::default() }),
            ..PbEvent::default()
        };
        PbWatchResponse {
            header: Some(PbResponseHeader { revision, ..PbResponseHeader::default() }),
            events: events.iter().map(event).collect(),
            ..PbWatchResponse::default()
        }
    }

    fn take(parts: &mut Parts, answer: PbWatchResponse) -> Option<(i64, Vec<String>)> {
        let batch = parts.take(WatchResponse(answer)).unwrap()?;
        let keys = batch.events.iter().map(|event| event.key().escape_ascii().to_string());
        Some((batch.revision.0, keys.collect()))
    }

    #[test]
    fn the_parts_of_a_revision_are_one_batch() {
        let mut parts = Parts::new(Revision(5));
        let first = PbWatchResponse { fragment: true, ..response(9, &[("a", 5), ("b", 6)]) };
        assert_eq!(take(&mut parts, first), None);
        let whole = Some((6, vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
        assert_eq!(take(&mut parts, response(9, &[("c", 6)])), whole);
        assert_eq!((parts.next, parts.bytes), (Revision(7), 0));
    }

    #[test]
    fn progress_is_told_when_it_is_news() {
        let mut parts = Parts::new(Revision(5));
        assert_eq!(take(&mut parts, response(4, &[])), None, "what was known");
        assert_eq!(take(&mut parts, response(8, &[])), Some((8, Vec::new())));
        assert_eq!(parts.next, Revision(9));
    }

    #[test]
    fn an_end_has_its_reason() {
        let end = |answer: PbWatchResponse| {
            let error = Parts::new(Revision(5)).take(WatchResponse(answer)).unwrap_err();
            format!("{error:?}")
        };
        let compacted = PbWatchResponse { canceled: true, compact_revision: 9, ..response(0, &[]) };
        assert_eq!(end(compacted), "Compacted { from: Revision(5), oldest: Revision(9) }");
        let cancelled = |reason: &str| PbWatchResponse {
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..response(0, &[])
        };
        assert_eq!(
            end(cancelled("rpc error: code = PermissionDenied desc = etcdserver: permission denied")),
            "Store(PermissionDenied)"
        );
        assert_eq!(
            end(cancelled("etcdserver: no leader")),
            r#"Cancelled { reason: "etcdserver: no leader" }"#
        );
    }

    #[test]
    fn parts_without_end_are_not_collected_without_end() {
        let mut parts = Parts::new(Revision(1));
        let large = || {
            let mut answer = response(1, &[("a", 1)]);
            answer.events[0].kv.as_mut().unwrap().value = vec![0; ANSWER_BYTES / 4];
            WatchResponse(PbWatchResponse { fragment: true, ..answer })
        };
        let refused = (0..5).find_map(|_| parts.take(large()).err()).unwrap();
        assert!(
            matches!(&refused, WatchError::Cancelled { reason } if reason.contains("more than")),
            "{refused}"
        );
    }

    #[test]
    fn events_that_make_no_sense_are_no_reason_to_fall() {
        let mut answer = response(9, &[("a", 5), ("b", 6)]);
        answer.events[0].kv = None;
        answer.events[1].r#type = 77;
        assert_eq!(take(&mut Parts::new(Revision(5)), answer), Some((6, vec!["b".to_owned()])));
    }
}
