//! Stores that no etcd is: what they answer must not bring a client down.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::proto::etcdserverpb as pb;

/// What is answered to each method, in gRPC's frames; a method that is not there gets no answer.
type Answers = BTreeMap<&'static str, Bytes>;

fn frame(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let length = u32::try_from(encoded.len()).unwrap().to_be_bytes();
    [&[0][..], &length[..], &encoded[..]].concat().into()
}

fn header(cluster_id: u64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id, member_id: 1, revision: 1, ..pb::ResponseHeader::default() })
}

/// A client of a store that answers so.
async fn client_of(answers: Answers) -> EtcdClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = EtcdConfig {
        request_timeout: Duration::from_secs(5),
        ..EtcdConfig::new([format!("http://{}", listener.local_addr().unwrap())], None)
    };
    #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            serve(socket, &answers).await;
        }
    });
    EtcdClient::new(config).unwrap()
}

async fn serve(socket: TcpStream, answers: &Answers) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    let mut open = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        if let Some(answer) = answers.get(method) {
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut body = respond.send_response(head, false).unwrap();
            body.send_data(answer.clone(), false).unwrap();
            let ok =
                HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from(0))]);
            body.send_trailers(ok).unwrap();
        }
        // Dropping it would reset the call.
        open.push((request, respond));
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_taken() {
    let gigabyte = Bytes::from_static(&[0, 0x40, 0, 0, 0, 1, 2, 3]);
    let client = client_of(Answers::from([("Range", gigabyte.clone()), ("Watch", gigabyte)])).await;
    let refused = client.get(b"k").await.unwrap_err();
    let why = format!("{refused:?}");
    assert!(matches!(refused, Error::Transport(_)) && why.contains("length too large"), "{why}");
    let refused = client.watch(KeyRange::all(), Revision(1)).await.err();
    assert!(matches!(refused, Some(WatchError::Store(Error::Transport(_)))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_given_up() {
    let client = client_of(Answers::new()).await;
    let lease = LeaseId(7);
    for refused in [
        client.get(b"k").await.map(drop),
        client.status().await.map(drop),
        client.grant(Duration::from_secs(9)).await.map(drop),
        client.keep_alive(lease).await.map(drop),
    ] {
        let why = format!("{refused:?}");
        assert!(matches!(refused, Err(Error::Unavailable(_))) && why.contains("within 5s"), "{why}");
    }
    let refused = client.watch(KeyRange::all(), Revision(1)).await.err();
    assert!(matches!(refused, Some(WatchError::Store(Error::Unavailable(_)))), "{refused:?}");
}

#[tokio::test]
async fn answers_without_a_header_are_refused() {
    let range = frame(&pb::RangeResponse { more: true, ..pb::RangeResponse::default() });
    let client = client_of(Answers::from([("Range", range)])).await;
    assert!(matches!(client.get(b"k").await, Err(Error::NoHeader)));
}

#[tokio::test]
async fn a_transaction_that_is_answered_with_nothing_is_no_panic() {
    let txn = pb::TxnResponse {
        header: header(1),
        succeeded: false,
        responses: vec![pb::ResponseOp { response: None }],
    };
    let client = client_of(Answers::from([("Txn", frame(&txn))])).await;
    let guard = Guard { key: "k".into(), expect: crate::Expect::Absent };
    let outcome = client.write_if(vec![guard], Vec::new()).await.unwrap();
    assert_eq!(outcome, Guarded::Refused { current: vec![None], revision: Revision(1) });
}

/// Where a store does not know a lease, `etcd-client` does not say which store that was.
#[tokio::test]
async fn a_lease_that_another_store_does_not_know_is_a_replaced_store() {
    let range = frame(&pb::RangeResponse { header: header(1), ..pb::RangeResponse::default() });
    let ended = pb::LeaseKeepAliveResponse { header: header(2), id: 7, ttl: 0 };
    let asked = |cluster_id| pb::LeaseTimeToLiveResponse {
        header: header(cluster_id),
        id: 7,
        ttl: -1,
        ..pb::LeaseTimeToLiveResponse::default()
    };
    for (cluster_id, is_other) in [(1, false), (2, true)] {
        let client = client_of(Answers::from([
            ("Range", range.clone()),
            ("LeaseKeepAlive", frame(&ended)),
            ("LeaseTimeToLive", frame(&asked(cluster_id))),
        ]))
        .await;
        client.get(b"k").await.unwrap();
        let refused = client.keep_alive(LeaseId(7)).await.unwrap_err();
        let says_so = if is_other {
            matches!(refused, Error::ClusterChanged { pinned: 1, found: 2 })
        } else {
            matches!(refused, Error::LeaseNotFound(LeaseId(7)))
        };
        assert!(says_so, "{refused:?}");
        assert_eq!(client.is_spent(), is_other);
    }
}
