//! A user of ours who lives below a prefix, and one of a real etcd that holds nothing else: neither can tell.

use bytes::Bytes;
use kvstore::proto::{authpb, etcdserverpb as pb};

use crate::{
    answers::ask,
    battery::raw::{AuthClient, KvClient},
    both::{both, requests},
    generate::{Ask, keys_and_leases},
};

/// Where the user lives, and what lies around it: before, just before, just after, far after.
const PREFIX: &str = "b/";
const AROUND: [&str; 7] = ["a", "b", "b.", "b0", "c", "bb/a", "b"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_below_a_prefix_has_an_etcd_of_its_own() {
    let (mut both, _ours, _theirs) = both(&["root", "u"]).await;
    let (ours, theirs) = (both.ours[0].clone(), both.theirs[0].clone());
    // As many revisions on the other side, which nobody can read when it begins.
    for key in AROUND {
        for (channel, key) in [(&ours, key), (&theirs, "x")] {
            let put = pb::PutRequest { key: key.into(), value: "hidden".into(), ..Default::default() };
            KvClient::new(channel.clone()).put(put).await.unwrap();
        }
    }
    let root_role = kvstore::auth::root_role(PREFIX);
    for (channel, role, key, end) in [(&ours, root_role.as_str(), PREFIX, "b0"), (&theirs, "v", "\0", "\0")] {
        let perm = authpb::Permission { perm_type: 2, key: key.into(), range_end: end.into() };
        for question in [
            Ask::UserAdd("root".into()),
            Ask::GrantRole("root".into(), "root".into()),
            Ask::UserAdd("u".into()),
            Ask::RoleAdd(role.into()),
            Ask::GrantPermission(role.into(), Some(perm)),
            Ask::GrantRole("u".into(), role.into()),
        ] {
            let answer = ask(channel, &question).await;
            assert!(answer.contains("header"), "{question:?}: {answer}");
        }
        AuthClient::new(channel.clone()).auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    }
    // Ours notes the new root as a revision. A watch from there on is over, since who read just before it read something else;
    // so that it is over on both sides, there is one more revision before what both have forgotten.
    ask(&theirs, &Ask::Delete(pb::DeleteRangeRequest { key: "x".into(), ..Default::default() })).await;
    for (channel, key) in [(&ours, "c"), (&theirs, "x")] {
        let put = pb::PutRequest { key: key.into(), value: "hidden".into(), ..Default::default() };
        assert!(ask(channel, &Ask::Put(put)).await.contains("header"));
    }
    ask(&theirs, &Ask::Delete(pb::DeleteRangeRequest { key: "x".into(), ..Default::default() })).await;
    ask(&ours, &Ask::Put(pb::PutRequest { key: "a".into(), value: "hidden".into(), ..Default::default() }))
        .await;
    // A watch may begin at the revision that is compacted, so what happened there is the user's own.
    both.ask(1, &Ask::Put(pb::PutRequest { key: "a".into(), value: "seen".into(), ..Default::default() }))
        .await;
    both.ask(0, &Ask::Compact(AROUND.len() as i64 + 5)).await;

    let asks = keys_and_leases();
    for _ in 0..requests() {
        both.random(1, &asks).await;
    }
    // Nothing around it was touched, and everything it wrote is below.
    let all =
        pb::RangeRequest { key: Bytes::from_static(b"\0"), range_end: "\0".into(), ..Default::default() };
    let kvs = KvClient::new(ours).range(all).await.unwrap().into_inner().kvs;
    for kv in &kvs {
        let key = std::str::from_utf8(&kv.key).unwrap();
        let hidden = AROUND.contains(&key) && kv.value == "hidden";
        assert!(hidden || key.starts_with(PREFIX) || key == "isthmus/root/u", "{key}");
    }
    let around = kvs.iter().filter(|kv| kv.value == "hidden").count();
    assert_eq!(around, AROUND.len() - 1, "one is there twice");
}
