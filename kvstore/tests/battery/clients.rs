//! What every implementation of `Client` must do; each function is one promise.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use kvstore::{
    Client, Error, Event, Expect, Guard, Guarded, KeyRange, LeaseId, Revision, WatchBatch, WatchError,
    WatchStream, Write,
};

use super::{DEADLINE, within};

pub(crate) fn put(key: &str, value: &str) -> Write {
    put_on(key, value, LeaseId::NONE)
}

fn put_on(key: &str, value: &str, lease: LeaseId) -> Write {
    Write::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease,
    }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: Bytes::copy_from_slice(key.as_bytes()) }
}

fn prefix(text: &str) -> KeyRange {
    KeyRange::prefix(Bytes::copy_from_slice(text.as_bytes()))
}

async fn keys(client: &Arc<dyn Client>, range: &KeyRange, at: Option<Revision>) -> Vec<String> {
    let page = client.list(range, 0, at).await.unwrap();
    page.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

/// The next batch with events.
async fn events(stream: &mut WatchStream) -> WatchBatch {
    within("events", async {
        loop {
            let batch = stream.next().await.expect("the watch goes on").expect("without error");
            if !batch.events.is_empty() {
                return batch;
            }
        }
    })
    .await
}

fn shown(events: &[Event]) -> Vec<String> {
    let show = |event: &Event| match event {
        Event::Put(kv) => format!("{}={}", kv.key.escape_ascii(), kv.value.escape_ascii()),
        Event::Delete { key, .. } => format!("-{}", key.escape_ascii()),
    };
    events.iter().map(show).collect()
}

pub(crate) async fn a_value_comes_back_with_its_revisions(client: &Arc<dyn Client>) {
    assert_eq!(client.get(b"v/a").await.unwrap(), None);
    let first = client.write(vec![put("v/a", "1")]).await.unwrap();
    let second = client.write(vec![put("v/a", "2")]).await.unwrap();
    assert!(second > first);
    let kv = client.get(b"v/a").await.unwrap().unwrap();
    assert_eq!((&kv.key[..], &kv.value[..]), (&b"v/a"[..], &b"2"[..]));
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (first, second, 2));
    assert_eq!(kv.lease, LeaseId::NONE);
    client.write(vec![delete("v/a"), delete("v/never")]).await.unwrap();
    assert_eq!(client.get(b"v/a").await.unwrap(), None);
    let again = client.write(vec![put("v/a", "")]).await.unwrap();
    let kv = client.get(b"v/a").await.unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.version, kv.value.len()), (again, 1, 0));
}

pub(crate) async fn pages_are_parts_of_one_snapshot(client: &Arc<dyn Client>) {
    let names: Vec<String> = (0..10).map(|n| format!("p/{n}")).collect();
    client.write(names.iter().map(|name| put(name, "x")).collect()).await.unwrap();
    client.write(vec![put("p", "no"), put("p0", "no")]).await.unwrap();
    for limit in [1, 3, 10, 11, 0] {
        let mut range = prefix("p/");
        let mut at = None;
        let mut seen = Vec::new();
        loop {
            let page = client.list(&range, limit, at).await.unwrap();
            at.get_or_insert(page.revision);
            assert_eq!(at, Some(page.revision));
            seen.extend(page.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()));
            let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
            range = range.after(&last.key);
            // Between two pages the store goes on; the list does not see it.
            client.write(vec![put("p/5x", "late")]).await.unwrap();
        }
        assert_eq!(seen, names, "limit {limit}");
        client.write(vec![delete("p/5x")]).await.unwrap();
    }
    assert_eq!(keys(client, &prefix("p-none/"), None).await, Vec::<String>::new());
}

pub(crate) async fn revisions_to_come_are_refused(client: &Arc<dyn Client>) {
    let now = client.status().await.unwrap().revision;
    let later = Revision(now.0 + 1000);
    let refused = client.list(&prefix("f/"), 0, Some(later)).await;
    assert!(matches!(refused, Err(Error::FutureRevision { asked }) if asked == later), "{refused:?}");
}

pub(crate) async fn a_batch_larger_than_a_transaction_is_written_whole(client: &Arc<dyn Client>) {
    let names: BTreeSet<String> = (0..1000).map(|n| format!("big/{n:04}")).collect();
    client.write(names.iter().map(|name| put(name, "x")).collect()).await.unwrap();
    let found: BTreeSet<String> = keys(client, &prefix("big/"), None).await.into_iter().collect();
    assert_eq!(found, names);
    client.write(vec![Write::DeleteRange { range: prefix("big/") }]).await.unwrap();
    assert!(keys(client, &prefix("big/"), None).await.is_empty());
    // Ten values of 300 KB do not fit one request of etcd's.
    let value = "v".repeat(300_000);
    client.write((0..10).map(|n| put(&format!("big/{n}"), &value)).collect()).await.unwrap();
    assert_eq!(keys(client, &prefix("big/"), None).await.len(), 10);
    client.write(vec![Write::DeleteRange { range: prefix("big/") }]).await.unwrap();
}

pub(crate) async fn a_watch_tells_everything_once_and_in_order(client: &Arc<dyn Client>) {
    let from = client.write(vec![put("w/past", "1"), put("other", "1")]).await.unwrap();
    client.write(vec![put("w/past", "2")]).await.unwrap();
    let mut watch = client.watch(prefix("w/"), from).await.unwrap();
    let mut seen = Vec::new();
    let mut last = Revision(0);
    let collect = |batch: WatchBatch, seen: &mut Vec<String>, last: &mut Revision| {
        for event in &batch.events {
            assert!(event.mod_revision() >= *last, "revisions never go back");
            *last = event.mod_revision();
        }
        assert_eq!(batch.revision, *last);
        seen.extend(shown(&batch.events));
    };
    while seen.len() < 2 {
        collect(events(&mut watch).await, &mut seen, &mut last);
    }
    client.write(vec![put("w/now", "3"), delete("w/past"), put("x/outside", "")]).await.unwrap();
    while seen.len() < 4 {
        collect(events(&mut watch).await, &mut seen, &mut last);
    }
    assert_eq!(&seen[..2], ["w/past=1", "w/past=2"]);
    let together: BTreeSet<&str> = seen[2..].iter().map(String::as_str).collect();
    assert_eq!(together, BTreeSet::from(["w/now=3", "-w/past"]));
}

pub(crate) async fn a_watch_may_begin_in_the_future(client: &Arc<dyn Client>) {
    let now = client.status().await.unwrap().revision;
    let mut watch = client.watch(prefix("wf/"), now.next()).await.unwrap();
    client.write(vec![put("wf/a", "1")]).await.unwrap();
    assert_eq!(shown(&events(&mut watch).await.events), ["wf/a=1"]);
}

pub(crate) async fn many_watches_see_the_same(client: &Arc<dyn Client>) {
    let now = client.status().await.unwrap().revision;
    let mut watches = Vec::new();
    for nth in 0..20 {
        let range = if nth % 2 == 0 { prefix("many/") } else { KeyRange::key("many/b") };
        watches.push((nth, client.watch(range, now.next()).await.unwrap()));
    }
    client.write(vec![put("many/a", "1")]).await.unwrap();
    client.write(vec![put("many/b", "2")]).await.unwrap();
    for (nth, watch) in &mut watches {
        let mut seen = Vec::new();
        let expected: &[&str] = if *nth % 2 == 0 { &["many/a=1", "many/b=2"] } else { &["many/b=2"] };
        while seen.len() < expected.len() {
            seen.extend(shown(&events(watch).await.events));
        }
        assert_eq!(seen, expected, "watch {nth}");
    }
}

pub(crate) async fn guards_decide_whether_a_batch_is_written(client: &Arc<dyn Client>) {
    let guard = |key: &str, expect| Guard { key: Bytes::copy_from_slice(key.as_bytes()), expect };
    let absent = vec![guard("g/a", Expect::Absent)];
    let done = client.write_if(absent.clone(), vec![put("g/a", "1")]).await.unwrap();
    let Guarded::Done(created) = done else { panic!("{done:?}") };
    let refused = client.write_if(absent, vec![put("g/a", "2")]).await.unwrap();
    let Guarded::Refused { current, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(current[0].as_ref().map(|kv| (&kv.value[..], kv.mod_revision)), Some((&b"1"[..], created)));
    for (expect, holds) in [
        (Expect::Value("1".into()), true),
        (Expect::Value("x".into()), false),
        (Expect::CreatedAt(created), true),
        (Expect::CreatedAt(created.next()), false),
        (Expect::ModifiedAt(created), true),
        (Expect::ModifiedAt(created.next()), false),
        (Expect::Absent, false),
    ] {
        let outcome =
            client.write_if(vec![guard("g/a", expect.clone())], vec![put("g/b", "x")]).await.unwrap();
        assert_eq!(matches!(outcome, Guarded::Done(_)), holds, "{expect:?}");
    }
    let outcome = client.write_if(vec![guard("g/none", Expect::Value("".into()))], vec![]).await.unwrap();
    assert!(matches!(outcome, Guarded::Refused { current, .. } if current == [None]));
}

pub(crate) async fn a_lease_takes_its_keys_with_it(client: &Arc<dyn Client>) {
    let lease = client.grant(Duration::from_secs(600)).await.unwrap();
    assert_ne!(lease, LeaseId::NONE);
    let batch = vec![put_on("l/a", "1", lease), put_on("l/b", "1", lease), put("l/c", "1")];
    let written = client.write(batch).await.unwrap();
    client.write(vec![put("l/b", "moved off")]).await.unwrap();
    assert_eq!(client.get(b"l/a").await.unwrap().unwrap().lease, lease);
    assert_eq!(client.keep_alive(lease).await.unwrap(), Duration::from_secs(600));
    let mut watch = client.watch(prefix("l/"), Revision(written.0 + 2)).await.unwrap();
    client.revoke(lease).await.unwrap();
    assert_eq!(shown(&events(&mut watch).await.events), ["-l/a"]);
    assert_eq!(keys(client, &prefix("l/"), None).await, ["l/b", "l/c"]);
    assert!(matches!(client.keep_alive(lease).await, Err(Error::LeaseNotFound(id)) if id == lease));
    assert!(matches!(client.revoke(lease).await, Err(Error::LeaseNotFound(id)) if id == lease));
    let refused = client.write(vec![put_on("l/x", "1", lease)]).await;
    assert!(matches!(refused, Err(Error::LeaseNotFound(id)) if id == lease), "{refused:?}");
    assert_eq!(client.get(b"l/x").await.unwrap(), None);
}

pub(crate) async fn a_lease_that_nobody_keeps_alive_ends(client: &Arc<dyn Client>) {
    let (lease, written) = within("a key on a lease", async {
        loop {
            let lease = client.grant(Duration::from_secs(1)).await.unwrap();
            match client.write(vec![put_on("le/a", "1", lease)]).await {
                Ok(written) => return (lease, written),
                Err(Error::LeaseNotFound(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
    let mut watch = client.watch(prefix("le/"), written.next()).await.unwrap();
    assert_eq!(shown(&events(&mut watch).await.events), ["-le/a"]);
    assert!(matches!(client.keep_alive(lease).await, Err(Error::LeaseNotFound(_))));
}

pub(crate) async fn a_store_says_who_it_is(client: &Arc<dyn Client>) {
    let before = client.status().await.unwrap();
    assert_ne!(before.cluster_id, 0);
    assert_ne!(before.member_id, 0);
    assert!(before.version.starts_with("3."), "{}", before.version);
    let written = client.write(vec![put("s/a", "1")]).await.unwrap();
    let after = client.status().await.unwrap();
    assert_eq!((after.cluster_id, after.member_id), (before.cluster_id, before.member_id));
    assert!(after.revision >= written);
    assert!(after.errors.is_empty());
}

/// `compact` compacts the store behind the client to a revision.
pub(crate) async fn what_is_compacted_is_said_to_be<F>(
    client: &Arc<dyn Client>,
    compact: impl Fn(Revision) -> F,
) where
    F: Future<Output = ()>,
{
    let first = client.write(vec![put("c/a", "1")]).await.unwrap();
    let second = client.write(vec![put("c/a", "2")]).await.unwrap();
    client.write(vec![put("c/a", "3")]).await.unwrap();
    compact(second).await;
    let refused = client.list(&prefix("c/"), 0, Some(first)).await;
    assert!(matches!(refused, Err(Error::Compacted { asked }) if asked == first), "{refused:?}");
    let page = client.list(&prefix("c/"), 0, Some(second)).await.unwrap();
    assert_eq!(&page.kvs[0].value[..], b"2");
    let refused = match client.watch(prefix("c/"), first).await {
        Ok(mut stream) => loop {
            match tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap() {
                Ok(batch) => assert!(batch.events.is_empty(), "{batch:?}"),
                Err(error) => break error,
            }
        },
        Err(error) => error,
    };
    assert!(
        matches!(refused, WatchError::Compacted { from, oldest } if from == first && oldest == second),
        "{refused:?}"
    );
}
