//! Users who live below a prefix: what they see, that they see nothing else, and what happens when they move.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "battery/battery.rs"]
mod battery;

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use kvstore::{
    Client, Error, EtcdClient, EtcdConfig, Event, KeyRange, Revision, Users, WatchError,
    auth::{Access, Auth, Grant, root_role},
    proto::etcdserverpb as pb,
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use self::battery::{
    bed,
    clients::put,
    raw::{KvClient, connect, send},
    within,
};

/// Ours with `west`, which lives below `in/west/` and reads it, and may read and write below `in/east/` as the role says.
async fn settled() -> bed::Ours {
    let ours = bed::ours_with(|config| config.limits.request_bytes = 64 << 10).await;
    ours.pki.issue("west", "west");
    ours.store
        .change_auth(|auth| {
            *auth = Auth::of_cluster("here");
            for (place, access) in [("in/west/", Access::Read), ("in/east/", Access::ReadWrite)] {
                auth.add_role(&root_role(place))?;
                auth.grant_permission(&root_role(place), Grant { range: KeyRange::prefix(place), access })?;
            }
            auth.add_user("west", None)?;
            auth.grant_role("west", &root_role("in/west/"))
        })
        .unwrap();
    ours
}

fn client(ours: &bed::Ours) -> EtcdClient {
    EtcdClient::new(EtcdConfig::new([ours.endpoint()], Some(ours.pki.client_tls("west")))).unwrap()
}

fn keys(page: &kvstore::Page) -> Vec<&[u8]> {
    page.kvs.iter().map(|kv| &kv.key[..]).collect()
}

#[tokio::test]
async fn who_lives_below_a_prefix_sees_it_as_everything_there_is() {
    let ours = settled().await;
    let (inside, west) = (ours.store.client(), client(&ours));
    let names = ["in/west/a", "in/west/b/c", "in/west/z", "in/wesu", "in/wes", "in/west.", "a", "z"];
    inside.write(names.iter().map(|name| put(name, name)).collect()).await.unwrap();
    for (range, seen) in [
        (KeyRange::all(), vec!["a", "b/c", "z"]),
        (KeyRange::from("b"), vec!["b/c", "z"]),
        (KeyRange::prefix("b/"), vec!["b/c"]),
        (KeyRange::between("a", "z"), vec!["a", "b/c"]),
        (KeyRange::key("in/west/a"), vec![]),
        (KeyRange::prefix("in/"), vec![]),
        (KeyRange::key("../east/a"), vec![]),
    ] {
        let page = west.list(&range, 0, None).await.unwrap();
        let seen: Vec<&[u8]> = seen.iter().map(|key| key.as_bytes()).collect();
        assert_eq!(keys(&page), seen, "{range:?}");
    }
    assert_eq!(west.get(b"a").await.unwrap().unwrap().value, "in/west/a");
    // Large values go another way to the peer.
    let large = "x".repeat(200 << 10);
    inside.write(vec![put("in/west/large", &large), put("in/west/m", "1")]).await.unwrap();
    let page = west.list(&KeyRange::from("l"), 0, None).await.unwrap();
    assert_eq!((keys(&page), page.kvs[0].value.len()), (vec![&b"large"[..], b"m", b"z"], large.len()));
    for refused in [west.write(vec![put("a", "2")]).await, west.write(vec![put("in/east/a", "2")]).await] {
        assert!(matches!(refused, Err(Error::PermissionDenied)), "{refused:?}");
    }
    let channel = connect(&ours.pki, &ours.endpoint(), "west");
    for path in ["/v3lockpb.Lock/Lock", "/v3electionpb.Election/Leader", "/v3electionpb.Election/Campaign"] {
        let refused = send(&channel, path, None, Bytes::from_static(b"\x0a\x01a")).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{path}");
    }
}

#[tokio::test]
async fn a_watch_below_a_prefix_tells_what_happens_there_from_any_revision() {
    let ours = settled().await;
    let (inside, west) = (ours.store.client(), client(&ours));
    let first = inside.write(vec![put("in/west/a", "1"), put("in/east/a", "1")]).await.unwrap();
    inside.write(vec![put("in/west/a", "2"), put("cilium/state/a", "2")]).await.unwrap();
    let watched = within("the watch", west.watch(KeyRange::all(), first)).await.unwrap();
    let mut watched = watched.flat_map(|batch| futures::stream::iter(batch.unwrap().events));
    inside.write(vec![kvstore::Write::DeleteRange { range: KeyRange::prefix("in/") }]).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(match within("an event", watched.next()).await.unwrap() {
            Event::Put(kv) => (kv.key, kv.value),
            Event::Delete { key, .. } => (key, Bytes::new()),
        });
    }
    let expected = [("a", "1"), ("a", "2"), ("a", "")].map(|(key, value)| (key.into(), value.into()));
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_large_revision_is_told_in_parts_and_with_what_was_before() {
    let ours = settled().await;
    let inside = ours.store.client();
    let large = "x".repeat(20 << 10);
    let all = || (0..8).map(|nth| put(&format!("in/west/{nth}"), &large)).collect();
    inside.write(all()).await.unwrap();
    let revision = inside.write(all()).await.unwrap();
    let create = pb::WatchCreateRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        start_revision: revision.0,
        prev_kv: true,
        fragment: true,
        ..Default::default()
    };
    let request =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let requests = futures::stream::iter([request]).chain(futures::stream::pending());
    let channel = connect(&ours.pki, &ours.endpoint(), "west");
    let answers = battery::raw::WatchClient::new(channel).watch(requests).await.unwrap();
    let mut answers = answers.into_inner();
    let (mut parts, mut seen) = (0, Vec::new());
    while seen.len() < 8 {
        let answer = within("a part", answers.message()).await.unwrap().unwrap();
        parts += usize::from(!answer.events.is_empty());
        for event in answer.events {
            let (kv, prev) = (event.kv.unwrap(), event.prev_kv.unwrap());
            assert_eq!(kv.key, prev.key);
            seen.push(kv.key);
        }
        assert_eq!(answer.fragment, !answer.created && seen.len() < 8);
    }
    assert!(parts > 1, "{parts}");
    assert_eq!(seen, (0..8).map(|nth| Bytes::from(nth.to_string())).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_moves_sees_the_new_place_at_once_and_must_list_it() {
    let ours = settled().await;
    let (inside, west) = (ours.store.client(), client(&ours));
    let written = inside.write(vec![put("in/west/a", "w"), put("in/east/a", "e"), put("a", "all")]).await;
    let mut watch = within("a watch", west.watch(KeyRange::all(), written.unwrap().next())).await.unwrap();
    let listed = west.list(&KeyRange::all(), 0, None).await.unwrap();
    let places: [(&[&str], &str); 3] =
        [(&["in/east/"], "e"), (&["in/east/", "in/west/"], "e"), (&["in/west/"], "w")];
    for (roots, value) in places {
        let before = ours.store.revision();
        let roles: Vec<String> = roots.iter().map(|root| root_role(root)).collect();
        let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
        inside.put_user("west", &roles).await.unwrap();
        assert_eq!(west.get(b"a").await.unwrap().unwrap().value, value);
        if ours.store.revision() == before {
            continue;
        }
        // The watch that is under way is over, without any event, and so is one from where it was.
        let over = within("the end of the watch", watch.next()).await;
        assert!(matches!(over, Some(Err(WatchError::Compacted { .. }))), "{over:?}");
        for from in [listed.revision.next(), Revision(before + 1)] {
            let over = match within("the watch", west.watch(KeyRange::all(), from)).await {
                Ok(mut watch) => within("its end", watch.next()).await.unwrap().unwrap_err(),
                Err(error) => error,
            };
            assert!(matches!(over, WatchError::Compacted { .. }), "from {from:?}: {over:?}");
        }
        let listed = west.list(&KeyRange::all(), 0, None).await.unwrap();
        watch = within("a watch", west.watch(KeyRange::all(), listed.revision.next())).await.unwrap();
    }
    // Other changes of users end no watch.
    inside.put_user("north", &["remote"]).await.unwrap();
    inside.write(vec![put("in/west/b", "w")]).await.unwrap();
    let news = within("news", watch.next()).await.unwrap().unwrap();
    assert!(matches!(&news.events[..], [Event::Put(kv)] if kv.key == "b"), "{news:?}");
    // Without a place of its own it sees what its roles let it see of the whole.
    inside.put_user("west", &["remote"]).await.unwrap();
    let over = within("the end of the watch", watch.next()).await;
    assert!(matches!(over, Some(Err(WatchError::Compacted { .. }))), "{over:?}");
    assert!(matches!(west.get(b"a").await, Err(Error::PermissionDenied)));
}

#[tokio::test]
async fn a_durable_store_knows_after_a_restart_since_when_a_place_is_what_it_is() {
    let dir = tempfile::TempDir::new().unwrap();
    let pki = bed::Pki::new();
    pki.issue("west", "west");
    let mut before = 0;
    for life in 0..2 {
        let store = kvstore::Store::durable(kvstore::StoreConfig::default(), dir.path()).unwrap();
        if life == 0 {
            store
                .change_auth(|auth| {
                    *auth = Auth::of_cluster("here");
                    Ok(())
                })
                .unwrap();
            store.client().write(vec![put("in/west/a", "1")]).await.unwrap();
            before = store.revision();
            store
                .change_auth(|auth| {
                    auth.add_role(&root_role("in/west/"))?;
                    let range = KeyRange::prefix("in/west/");
                    auth.grant_permission(&root_role("in/west/"), Grant { range, access: Access::Read })?;
                    auth.add_user("west", None)?;
                    auth.grant_role("west", &root_role("in/west/"))
                })
                .unwrap();
            store.client().write(vec![put("in/west/b", "1")]).await.unwrap();
            continue;
        }
        let config =
            kvstore::server::ServerConfig::new("127.0.0.1:0".parse().unwrap(), Some(pki.server_tls()));
        let server = kvstore::server::Server::bind(config, Arc::clone(&store)).await.unwrap();
        let endpoint = format!("https://localhost:{}", server.client_addresses()[0].port());
        let stop = tokio_util::sync::CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
        let serving = tokio::spawn(server.run(stop.clone()));
        let west = EtcdClient::new(EtcdConfig::new([endpoint], Some(pki.client_tls("west")))).unwrap();
        assert_eq!(keys(&west.list(&KeyRange::all(), 0, None).await.unwrap()), [b"a", b"b"]);
        let over = match west.watch(KeyRange::all(), Revision(before + 1)).await {
            Ok(mut watch) => within("its end", watch.next()).await.unwrap().unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(over, WatchError::Compacted { .. }), "{over:?}");
        stop.cancel();
        serving.await.unwrap();
    }
}

/// Whatever range is asked for, in whatever request, nothing outside of the prefix is read or written.
#[tokio::test]
async fn no_form_of_a_range_leads_out() {
    let ours = settled().await;
    let inside = ours.store.client();
    inside.put_user("west", &[&root_role("in/east/")]).await.unwrap();
    // Everyone may do everything: only the place of the user holds it back.
    ours.store
        .change_auth(|auth| {
            auth.add_role("any")?;
            auth.grant_permission("any", Grant { range: KeyRange::from("\0"), access: Access::ReadWrite })?;
            auth.grant_role("west", "any")
        })
        .unwrap();
    let outside =
        ["a", "in", "in/", "in/eass/x", "in/east", "in/east.", "in/east0", "in/easu", "z", "\u{7f}"];
    inside.write(outside.iter().map(|name| put(name, "secret")).collect()).await.unwrap();
    let channel = connect(&ours.pki, &ours.endpoint(), "west");
    let piece = prop::sample::select(vec![
        &b"\0"[..],
        b"\x01",
        b"/",
        b"0",
        b"a",
        b"in/",
        b"east",
        b"east/",
        b"..",
        b"../",
        b"\x7f",
        b"\xff",
        b"z",
    ]);
    let text = || prop::collection::vec(piece.clone(), 1..4).prop_map(|pieces| Bytes::from(pieces.concat()));
    let asks = (text(), prop_oneof![Just(Bytes::new()), Just(Bytes::from_static(b"\0")), text()], 0..4u8);
    let mut runner = TestRunner::default();
    let mut kv = KvClient::new(channel);
    for _ in 0..400 {
        let (key, range_end, what) = asks.new_tree(&mut runner).unwrap().current();
        let range = pb::RangeRequest { key: key.clone(), range_end: range_end.clone(), ..Default::default() };
        let delete = pb::DeleteRangeRequest { key: key.clone(), range_end: range_end.clone(), prev_kv: true };
        let shown: Vec<_> = match what {
            0 => kv.range(range).await.unwrap().into_inner().kvs,
            1 => kv.delete_range(delete).await.unwrap().into_inner().prev_kvs,
            2 => {
                let put = pb::PutRequest {
                    key: key.clone(),
                    prev_kv: true,
                    value: "own".into(),
                    ..Default::default()
                };
                kv.put(put).await.unwrap().into_inner().prev_kv.into_iter().collect()
            }
            _ => {
                // "Are all values in the range the secret?" must not be answered either.
                let compare = pb::Compare {
                    result: pb::compare::CompareResult::Equal as i32,
                    target: pb::compare::CompareTarget::Value as i32,
                    key,
                    range_end,
                    target_union: Some(pb::compare::TargetUnion::Value("secret".into())),
                };
                let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range)) };
                let txn = pb::TxnRequest { compare: vec![compare], success: vec![], failure: vec![op] };
                let answer = kv.txn(txn).await.unwrap().into_inner();
                assert!(!answer.succeeded);
                answer
                    .responses
                    .into_iter()
                    .flat_map(|answer| match answer.response {
                        Some(pb::response_op::Response::ResponseRange(range)) => range.kvs,
                        Some(_) | None => Vec::new(),
                    })
                    .collect()
            }
        };
        let seed = runner.config().rng_seed;
        assert!(shown.iter().all(|kv| kv.value == "own"), "PROPTEST_RNG_SEED={seed}: {shown:?}");
    }
    for name in outside {
        let there = inside.get(name.as_bytes()).await.unwrap();
        assert_eq!(there.map(|kv| kv.value), Some("secret".into()), "{name}");
    }
}
