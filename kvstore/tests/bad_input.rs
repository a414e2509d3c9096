//! What no client should send, to our server and to a real etcd: the same codes and messages, and nobody else is
//! disturbed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "battery/battery.rs"]
mod battery;

use std::time::Duration;

use battery::{
    bed::{self, Bed, Pki},
    raw::{connect, open, send},
    within,
};
use bytes::{BufMut, Bytes, BytesMut};
use kvstore::{
    Client, Error, EtcdClient, EtcdConfig,
    proto::{etcdserverpb as pb, v3electionpb, v3lockpb},
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Status, transport::Channel};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const ALARM: &str = "/etcdserverpb.Maintenance/Alarm";
const CAMPAIGN: &str = "/v3electionpb.Election/Campaign";
const PROCLAIM: &str = "/v3electionpb.Election/Proclaim";
const RESIGN: &str = "/v3electionpb.Election/Resign";
const LOCK: &str = "/v3lockpb.Lock/Lock";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// Our server and a real etcd, empty both.
struct Both {
    ours: bed::Ours,
    theirs: bed::Etcd,
}

impl Both {
    async fn start() -> Self {
        Self { ours: bed::ours().await, theirs: bed::etcd().await }
    }

    fn channels(&self, user: &str) -> [Channel; 2] {
        [(&self.ours.pki, self.ours.endpoint()), (&self.theirs.pki, self.theirs.endpoint())]
            .map(|(pki, endpoint)| connect(pki, &endpoint, user))
    }

    /// Sends both the same, and gives what both answer.
    async fn same(&self, what: &str, path: &'static str, message: impl Into<Bytes>) -> String {
        self.same_of("client", None, what, path, message.into()).await
    }

    async fn same_of(
        &self,
        user: &str,
        token: Option<&'static str>,
        what: &str,
        path: &'static str,
        message: Bytes,
    ) -> String {
        let [ours, theirs] = self.channels(user);
        let found = text(send(&ours, path, token, message.clone()).await);
        let expected = text(send(&theirs, path, token, message).await);
        assert_eq!(found, expected, "{what}: ours, and what etcd says");
        found
    }

    /// The same for the first answer to a call that goes on.
    async fn same_stream(&self, what: &str, path: &'static str, message: Vec<u8>) -> String {
        let message = Bytes::from(message);
        let [ours, theirs] = self.channels("client");
        let first = |answers: Result<Vec<Bytes>, Status>| text(answers.map(|mut answers| answers.remove(0)));
        let found = first(open(&ours, path, message.clone(), 1).await);
        let expected = first(open(&theirs, path, message, 1).await);
        assert_eq!(found, expected, "{what}: ours, and what etcd says");
        found
    }
}

/// An answer without the ids of its header, which is the first field of each message.
fn text(answer: Result<Bytes, Status>) -> String {
    let answer = match answer {
        Ok(answer) => answer,
        Err(status) => return format!("{:?}: {}", status.code(), status.message()),
    };
    // A message that has nothing but a header.
    let header = pb::CompactionResponse::decode(answer.clone()).unwrap().header;
    let length = header.as_ref().map_or(0, |header| header.encoded_len() + 2);
    format!("revision {:?} {:?}", header.map(|header| header.revision), answer.slice(length..))
}

fn put(key: &str, value: impl Into<Bytes>) -> Vec<u8> {
    pb::PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() }.encode_to_vec()
}

fn range(key: &'static str, range_end: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() }
}

fn watch(create: pb::WatchCreateRequest) -> Vec<u8> {
    let request_union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
    pb::WatchRequest { request_union }.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_requests_are_refused_in_etcds_words() {
    let both = Both::start().await;
    let megabytes = |n: usize| vec![b'v'; n << 19];
    let said = both.same("above the limit", PUT, put("k", megabytes(3))).await;
    assert_eq!(said, "InvalidArgument: etcdserver: request is too large");
    let said = both.same("above the largest message", PUT, put("k", megabytes(5))).await;
    assert!(said.starts_with("ResourceExhausted: grpc: received message larger than max"), "{said}");
    let operation = |n: i32| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: n.to_string().into(),
            ..Default::default()
        })),
    };
    for (many, operations) in [(129, 129), (4000, 4000)] {
        let txn = pb::TxnRequest { success: (0..operations).map(operation).collect(), ..Default::default() };
        let said = both.same(&format!("{many} operations"), TXN, txn.encode_to_vec()).await;
        assert_eq!(said, "InvalidArgument: etcdserver: too many operations in txn request");
    }
    let txn = pb::TxnRequest { success: (0..128).map(operation).collect(), ..Default::default() };
    let said = both.same("as many as may be", TXN, txn.encode_to_vec()).await;
    assert!(said.starts_with("revision Some(2)"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_as_etcd_refuses_them_and_others_are_served() {
    let both = Both::start().await;
    let channels = both.channels("client");
    // How a decoder words its complaint is its own; the code and who complains are not.
    for (what, bytes) in [
        ("a field that goes on after the end", &b"\x0a\x09abc"[..]),
        ("a number without end", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("a field of no known kind", b"\x0f\x01"),
        ("field number 0", b"\x02\x01a"),
        ("a group that nobody ends", b"\xa3\x3f"),
        ("a string for a number", b"\x18\xff\xff"),
    ] {
        for path in [RANGE, PUT, DELETE, TXN, COMPACT, GRANT, REVOKE, TIME_TO_LIVE, AUTHENTICATE] {
            for channel in &channels {
                let status = send(channel, path, None, Bytes::from_static(bytes)).await.unwrap_err();
                assert_eq!(status.code(), Code::Internal, "{what} to {path}: {status}");
                assert!(
                    status.message().starts_with("grpc: error unmarshalling request: "),
                    "{what} to {path}: {status}"
                );
            }
        }
        for path in [WATCH, KEEP_ALIVE] {
            for channel in &channels {
                let status = open(channel, path, Bytes::from_static(bytes), 1).await.unwrap_err();
                assert_eq!(status.code(), Code::Internal, "{what} to {path}: {status}");
            }
        }
    }
    both.same("nothing", TXN, "").await;
    both.same(
        "an operation that is none",
        TXN,
        pb::TxnRequest { success: vec![pb::RequestOp { request: None }], ..Default::default() }
            .encode_to_vec(),
    )
    .await;
    both.same(
        "a comparison with nothing",
        TXN,
        pb::TxnRequest {
            compare: vec![pb::Compare { key: "a".into(), target: 9, result: 9, ..Default::default() }],
            ..Default::default()
        }
        .encode_to_vec(),
    )
    .await;
    for path in ["/etcdserverpb.KV/No", "/etcdserverpb.No/Range", "/no", "/a/b/c"] {
        let said = both.same(path, path, "").await;
        assert!(said.starts_with("Unimplemented: "), "{path}: {said}");
    }
    assert!(both.same("after all that", PUT, put("k", "v")).await.starts_with("revision Some(2)"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_fields_are_passed_over_as_by_etcd() {
    let both = Both::start().await;
    // Field 1000 as a number, field 1001 as bytes, field 1002 as eight bytes.
    let more: &[u8] = b"\xc0\x3e\x01\xca\x3e\x03abc\xd1\x3e12345678";
    let with_more = |message: &[u8]| {
        let mut bytes = BytesMut::from(message);
        bytes.put_slice(more);
        bytes.freeze()
    };
    assert!(both.same("put", PUT, with_more(&put("k", "v"))).await.starts_with("revision Some(2)"));
    let inside = {
        let put = with_more(&put("l", "v"));
        let mut operation = BytesMut::from(&[0x12, put.len() as u8][..]);
        operation.put_slice(&put);
        let operation = with_more(&operation);
        let mut txn = BytesMut::from(&[0x12, operation.len() as u8][..]);
        txn.put_slice(&operation);
        with_more(&txn)
    };
    assert!(both.same("txn", TXN, inside).await.starts_with("revision Some(3)"));
    let said = both.same("range", RANGE, with_more(&range("k", "z").encode_to_vec())).await;
    assert!(said.contains("\\x01k") && said.contains("\\x01l"), "{said}");
    both.same("grant", GRANT, with_more(&pb::LeaseGrantRequest { ttl: 60, id: 5 }.encode_to_vec())).await;
    both.same("revoke", REVOKE, with_more(&pb::LeaseRevokeRequest { id: 5 }.encode_to_vec())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_ranges_are_answered_as_by_etcd() {
    let both = Both::start().await;
    for key in ["a", "b", "c"] {
        both.same("put", PUT, put(key, key.to_owned())).await;
    }
    let said = both.same("a put without key", PUT, put("", "v")).await;
    assert_eq!(said, "InvalidArgument: etcdserver: key is not provided");
    for (key, range_end) in
        [("", ""), ("", "z"), ("", "\0"), ("c", "a"), ("b", "b"), ("b\0", "b"), ("z", "\0")]
    {
        let what = format!("{key:?} to {range_end:?}");
        both.same(&what, RANGE, range(key, range_end).encode_to_vec()).await;
        let delete =
            pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
        both.same(&what, DELETE, delete.encode_to_vec()).await;
    }
    for (what, change) in [
        (
            "an order that is none",
            &(|range: &mut pb::RangeRequest| range.sort_order = 7) as &dyn Fn(&mut pb::RangeRequest),
        ),
        ("a target that is none", &|range| range.sort_target = 7),
        ("neither", &|range| (range.sort_order, range.sort_target) = (-1, -1)),
        ("less than nothing", &|range| range.limit = -1),
        ("revisions the wrong way", &|range| (range.min_mod_revision, range.max_mod_revision) = (4, 2)),
        ("revisions below all", &|range| range.max_create_revision = -5),
    ] {
        let mut ask = range("a", "z");
        change(&mut ask);
        both.same(what, RANGE, ask.encode_to_vec()).await;
    }
    for (key, range_end) in [("c", "a"), ("b", "b")] {
        let create =
            pb::WatchCreateRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
        let said = both.same_stream("a watch of nothing", WATCH, watch(create)).await;
        assert!(said.starts_with("revision"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lease_0_and_ids_that_clash_are_answered_as_by_etcd() {
    let both = Both::start().await;
    let grant = |id: i64, ttl: i64| pb::LeaseGrantRequest { ttl, id }.encode_to_vec();
    let said = both.same("an id that is free", GRANT, grant(7, 100)).await;
    assert!(said.starts_with("revision Some(1)"), "{said}");
    let said = both.same("an id that is taken", GRANT, grant(7, 100)).await;
    assert_eq!(said, "FailedPrecondition: etcdserver: lease already exists");
    let said = both.same("longer than may be", GRANT, grant(8, i64::MAX)).await;
    assert_eq!(said, "OutOfRange: etcdserver: too large lease TTL");
    for (id, ttl) in [(9, 0), (10, -5), (-3, 100)] {
        both.same(&format!("lease {id} for {ttl}"), GRANT, grant(id, ttl)).await;
    }
    for id in [0, 99, -1] {
        let said = both.same("revoke", REVOKE, pb::LeaseRevokeRequest { id }.encode_to_vec()).await;
        assert_eq!(said, "NotFound: etcdserver: requested lease not found");
        let ask = pb::LeaseTimeToLiveRequest { id, keys: true }.encode_to_vec();
        both.same("time to live", TIME_TO_LIVE, ask).await;
        let ask = pb::LeaseKeepAliveRequest { id }.encode_to_vec();
        both.same_stream("keep alive", KEEP_ALIVE, ask).await;
    }
    let with = |lease: i64| pb::PutRequest { key: "k".into(), lease, ..Default::default() }.encode_to_vec();
    for lease in [99, -1] {
        let said = both.same("a put with a lease that is none", PUT, with(lease)).await;
        assert_eq!(said, "NotFound: etcdserver: requested lease not found");
    }
    assert!(both.same("lease 0 is none", PUT, with(0)).await.starts_with("revision Some(2)"));
    // Id 0 asks for any.
    for channel in both.channels("client") {
        let answer = send(&channel, GRANT, None, grant(0, 100).into()).await.unwrap();
        assert!(pb::LeaseGrantResponse::decode(answer).unwrap().id > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_in_line_are_checked_as_puts_are() {
    const NO_KEY: &str = "Unknown: etcdserver: key is not provided";
    const TOO_LARGE: &str = "Unknown: etcdserver: request is too large";
    const NO_SPACE: &str = "Unknown: etcdserver: mvcc: database space exceeded";
    let both = Both::start().await;
    let grant = pb::LeaseGrantRequest { ttl: 1000, id: 7 }.encode_to_vec();
    both.same("a lease", GRANT, grant).await;
    let leader = |key: &'static str| {
        Some(v3electionpb::LeaderKey { name: "e".into(), key: key.into(), rev: 0, lease: 7 })
    };
    let proclaim = |key: &'static str, bytes: usize| {
        v3electionpb::ProclaimRequest { leader: leader(key), value: vec![b'v'; bytes].into() }.encode_to_vec()
    };
    let campaign = |bytes: usize| {
        let value = vec![b'v'; bytes].into();
        v3electionpb::CampaignRequest { name: "e".into(), lease: 7, value }.encode_to_vec()
    };
    let lock =
        |bytes: usize| v3lockpb::LockRequest { name: vec![b'n'; bytes].into(), lease: 7 }.encode_to_vec();
    assert_eq!(both.same("say something without a key", PROCLAIM, proclaim("", 1)).await, NO_KEY);
    let resign = v3electionpb::ResignRequest { leader: leader("") }.encode_to_vec();
    assert_eq!(both.same("resign without a key", RESIGN, resign).await, NO_KEY);
    let large = 1600 << 10;
    assert_eq!(both.same("say too much", PROCLAIM, proclaim("k", large)).await, TOO_LARGE);
    assert_eq!(both.same("begin with too much", CAMPAIGN, campaign(large)).await, TOO_LARGE);
    assert_eq!(both.same("a lock with too long a name", LOCK, lock(large)).await, TOO_LARGE);
    let (action, alarm) = (pb::alarm_request::AlarmAction::Activate, pb::AlarmType::Nospace);
    for (channel, store) in both.channels("client").iter().zip(["ours", "theirs"]) {
        let full = pb::AlarmRequest { action: action as i32, member_id: 0, alarm: alarm as i32 };
        send(channel, ALARM, None, full.encode_to_vec().into()).await.expect(store);
    }
    assert_eq!(both.same("say something in a full store", PROCLAIM, proclaim("k", 1)).await, NO_SPACE);
    assert_eq!(both.same("begin in a full store", CAMPAIGN, campaign(1)).await, NO_SPACE);
    assert_eq!(both.same("a lock in a full store", LOCK, lock(1)).await, NO_SPACE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn future_and_compacted_revisions_are_refused_in_etcds_words() {
    const COMPACTED: &str = "OutOfRange: etcdserver: mvcc: required revision has been compacted";
    const FUTURE: &str = "OutOfRange: etcdserver: mvcc: required revision is a future revision";
    let both = Both::start().await;
    for value in ["1", "2", "3", "4"] {
        both.same("put", PUT, put("k", value)).await;
    }
    let at = |revision: i64| pb::RangeRequest { revision, ..range("k", "") }.encode_to_vec();
    let compact = |revision: i64| pb::CompactionRequest { revision, physical: true }.encode_to_vec();
    assert_eq!(both.same("read what is to come", RANGE, at(99)).await, FUTURE);
    assert_eq!(both.same("compact what is to come", COMPACT, compact(99)).await, FUTURE);
    both.same("compact", COMPACT, compact(4)).await;
    assert_eq!(both.same("read what is gone", RANGE, at(2)).await, COMPACTED);
    assert_eq!(both.same("compact what is gone", COMPACT, compact(4)).await, COMPACTED);
    assert_eq!(both.same("compact before the beginning", COMPACT, compact(-1)).await, COMPACTED);
    both.same("read before the beginning", RANGE, at(-1)).await;
    both.same("read the oldest that is kept", RANGE, at(4)).await;
    let from = |start_revision: i64| {
        watch(pb::WatchCreateRequest { key: "k".into(), start_revision, ..Default::default() })
    };
    for channel in both.channels("client") {
        let answers = open(&channel, WATCH, from(2).into(), 2).await.unwrap();
        let answers = answers.into_iter().map(|answer| pb::WatchResponse::decode(answer).unwrap());
        let [created, cancelled] = answers.collect::<Vec<_>>().try_into().unwrap();
        assert!(created.created && !created.canceled, "{created:?}");
        assert!(cancelled.canceled && cancelled.compact_revision == 4, "{cancelled:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_users_get_what_they_get_of_etcd() {
    let both = Both::start().await;
    for pki in [&both.ours.pki, &both.theirs.pki] {
        for user in ["plain", "nobody"] {
            pki.issue(user, user);
        }
    }
    let authenticate = |name: &str, password: &str| -> Vec<u8> {
        pb::AuthenticateRequest { name: name.into(), password: password.into() }.encode_to_vec()
    };
    let said = both.same("before there are users", AUTHENTICATE, authenticate("root", "x")).await;
    assert_eq!(said, "FailedPrecondition: etcdserver: authentication is not enabled");
    for mut root in [both.ours.etcd_client("client").await, both.theirs.etcd_client("client").await] {
        root.user_add("root", "secret", None).await.unwrap();
        root.user_grant_role("root", "root").await.unwrap();
        let without = etcd_client::UserAddOptions::new().with_no_pwd();
        root.user_add("plain", "", Some(without)).await.unwrap();
        root.auth_enable().await.unwrap();
    }
    let key = || Bytes::from(range("k", "").encode_to_vec());
    for user in ["plain", "nobody"] {
        let said = both.same_of(user, None, "a certificate that may nothing", RANGE, key()).await;
        assert_eq!(said, "PermissionDenied: etcdserver: permission denied", "{user}");
        let put = Bytes::from(put("k", "v"));
        let said = both.same_of(user, None, "writing", PUT, put).await;
        assert_eq!(said, "PermissionDenied: etcdserver: permission denied", "{user}");
        let disable = "/etcdserverpb.Auth/AuthDisable";
        let said = both.same_of(user, None, "switching it off", disable, Bytes::new()).await;
        assert!(!said.starts_with("revision"), "{user}: {said}");
    }
    for token in ["nonsense", "a.1", "root.1"] {
        let said = both.same_of("nobody", Some(token), "a token that nobody gave", RANGE, key()).await;
        assert_eq!(said, "Unauthenticated: etcdserver: invalid auth token", "{token}");
    }
    for (name, password) in [("root", "wrong"), ("nobody", "x"), ("", ""), ("plain", ""), ("root", "")] {
        let what = format!("{name} with {password:?}");
        let said = both.same(&what, AUTHENTICATE, authenticate(name, password)).await;
        assert!(!said.starts_with("revision"), "{what}: {said}");
    }
    assert!(both.same("root reads", RANGE, key()).await.starts_with("revision"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_early_and_foreign_certificates_get_nobody_in() {
    let both = Both::start().await;
    let others = Pki::new();
    for pki in [&both.ours.pki, &both.theirs.pki] {
        pki.issue_with("expired", "root", |params| {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        });
        pki.issue_with("early", "root", |params| params.not_before = rcgen::date_time_ymd(4000, 1, 1));
        for file in ["foreign.crt", "foreign.key"] {
            std::fs::copy(others.path(&file.replace("foreign", "client")), pki.path(file)).unwrap();
        }
        // The certificate of one, the key of another.
        std::fs::copy(pki.path("client.crt"), pki.path("mixed.crt")).unwrap();
        std::fs::copy(pki.path("server.key"), pki.path("mixed.key")).unwrap();
    }
    let beds: [(&Pki, String); 2] =
        [(&both.ours.pki, both.ours.endpoint()), (&both.theirs.pki, both.theirs.endpoint())];
    for (pki, endpoint) in beds {
        let client =
            |file: &str| EtcdClient::new(EtcdConfig::new([endpoint.clone()], Some(pki.client_tls(file))));
        let good = client("client").unwrap();
        good.get(b"k").await.unwrap();
        for file in ["expired", "early", "foreign", "mixed"] {
            let refused = match client(file) {
                Ok(client) => within(file, client.get(b"k")).await.map(drop),
                Err(_files) => continue,
            };
            assert!(matches!(refused, Err(Error::Unavailable(_))), "{endpoint} {file}: {refused:?}");
        }
        good.get(b"k").await.unwrap();
    }
}

/// Connections that stop in the middle: each is closed by the server, and takes no place of others meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_end_and_are_in_nobodys_way() {
    let ours = bed::ours_with(|config| {
        config.limits.connections_per_client = 64;
        // Together as long as the others are waited for; whoever works has the time to answer.
        config.limits.keepalive_interval = Duration::from_secs(2);
        config.limits.keepalive_timeout = Duration::from_secs(10);
        config.listen.push(kvstore::server::Listen { address: "127.0.0.1:0".parse().unwrap(), tls: false });
    })
    .await;
    let plain = ours.second.unwrap();
    let hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let stuck: [(&str, std::net::SocketAddr, &[u8]); 7] = [
        ("nothing to a TLS port", ours.address, b""),
        ("half of a TLS greeting", ours.address, hello),
        ("nothing to a plain port", plain, b""),
        ("half of a preface", plain, b"PR"),
        ("a preface without the rest", plain, b"PRI * HTTP/2.0\r\n\r\n"),
        ("half of a request", plain, b"GET /health HTTP/1.1\r\nhost: x\r\n"),
        // It has settings, and never says a word again: a machine that lost its power.
        ("a peer that died", plain, preface),
    ];
    let mut open = Vec::new();
    for (what, address, bytes) in stuck {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        open.push(async move {
            let mut rest = Vec::new();
            // Closed or reset; not kept.
            let _either = within(what, socket.read_to_end(&mut rest)).await;
        });
    }
    let client = ours.client();
    let working = async {
        loop {
            client.write(vec![battery::clients::put("k", "v")]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        _all = futures::future::join_all(open) => {}
        () = working => unreachable!("it writes for ever"),
    }
}

/// Whoever asks for much and reads nothing of it costs what a connection may hold, and no one else's time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_hold_up_nobody_and_cost_little() {
    const MEGABYTES: usize = 16;
    let ours = bed::ours().await;
    let client = ours.client();
    let value = "v".repeat(1 << 20);
    for n in 0..MEGABYTES {
        client.write(vec![battery::clients::put(&format!("big/{n:02}"), &value)]).await.unwrap();
    }
    let before = memory();
    let mut silent = Vec::new();
    for _ in 0..8 {
        let mut lazy = ours.etcd_client("client").await;
        let options = etcd_client::WatchOptions::new().with_prefix().with_start_revision(2);
        let watch = lazy.watch("big/", Some(options)).await.unwrap();
        silent.push((lazy, watch));
    }
    for n in 0..50 {
        let write = client.write(vec![battery::clients::put("big/n", &n.to_string())]);
        within("a write beside them", write).await.unwrap();
    }
    let after = memory();
    // Each of them may be sent what its windows and the buffer of its connection hold, not all that there is.
    let most = before + ((4 * MEGABYTES) << 20);
    assert!(after < most, "{before} bytes before, {after} after");
    drop(silent);
}

/// Bytes of this process that are in memory.
fn memory() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
