use std::{cell::Cell, sync::Arc};

use futures::FutureExt;

use super::*;
use crate::{
    auth::Grant,
    server::{Server, ServerConfig, connection::Peer},
    store::{Store, StoreConfig},
};

thread_local! {
    /// Keys of leases whose permission was looked at.
    pub(super) static LEASE_KEYS: Cell<usize> = const { Cell::new(0) };
}

/// How many there are on the lease.
const KEYS: usize = 200;
/// Long enough for anything.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

fn caller(shared: &Shared, user: &str) -> Caller {
    let token = shared.tokens.issue_if(user, || true).unwrap();
    let peer = Peer { common_name: None, unfinished: Arc::default() };
    Caller { peer: Arc::new(peer), token: Some(token.into()), through_gateway: false }
}

fn puts(count: usize) -> pb::TxnRequest {
    let put = pb::PutRequest { key: "k1".into(), lease: 7, ..Default::default() };
    let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
    pb::TxnRequest { success: vec![op; count], ..Default::default() }
}

#[test]
fn the_keys_of_a_lease_are_checked_once_per_transaction_and_not_for_root() {
    let store = Store::new(StoreConfig::default());
    let config = ServerConfig { listen: Vec::new(), ..ServerConfig::new(([127, 0, 0, 1], 0).into(), None) };
    let server = Server::bind(config, Arc::clone(&store)).now_or_never().unwrap().unwrap();
    let shared = server.shared;
    store.grant(7, 1000).unwrap();
    let put = |key: String| {
        store.put(&mvcc::Put { key: key.into(), lease: 7, ..Default::default() }).unwrap();
    };
    for n in 0..KEYS {
        put(format!("k{n}"));
    }
    let grant = Grant { range: KeyRange::prefix("k"), access: Access::Write };
    store
        .change_auth(|auth| {
            for (user, role) in [("root", "root"), ("u", "r")] {
                auth.add_user(user, None)?;
                auth.add_role(role)?;
                auth.grant_role(user, role)?;
            }
            auth.grant_permission("r", grant)?;
            auth.enable()
        })
        .unwrap();
    let checked = |user: &str, count: usize| {
        let before = LEASE_KEYS.get();
        shared.may_txn(&caller(&shared, user), &puts(count)).unwrap();
        LEASE_KEYS.get() - before
    };
    assert_eq!((checked("u", 1), checked("u", 100), checked("root", 100)), (KEYS, KEYS, 0));
    // Each key counts, as in etcd.
    put("other".to_owned());
    assert!(shared.may_txn(&caller(&shared, "u"), &puts(1)).is_err());
    assert!(shared.may_txn(&caller(&shared, "root"), &puts(1)).is_ok());
}

#[tokio::test]
async fn the_rest_of_a_list_does_not_wait_for_the_disk_to_have_what_was_written_after_it() {
    let (journal, go) = crate::journal::held_journal();
    let store = Store::on(journal);
    let put = |key: String| crate::Write::Put {
        key: key.into(),
        value: vec![7; 10_000].into(),
        lease: crate::LeaseId::NONE,
    };
    // All by one flush, which is let go.
    let list: Vec<_> = (0..100).map(|n| put(format!("k{n:02}"))).collect();
    store.write_batch(&list, |_| {}).unwrap();
    go.send(()).unwrap();
    tokio::time::timeout(PATIENCE, store.settled()).await.expect("it is written").unwrap();

    let config = ServerConfig { listen: Vec::new(), ..ServerConfig::new(([127, 0, 0, 1], 0).into(), None) };
    let shared = Server::bind(config, Arc::clone(&store)).now_or_never().unwrap().unwrap().shared;
    let (near, far) = tokio::io::duplex(1 << 20);
    let peer = Peer { common_name: None, unfinished: Arc::default() };
    let mut tasks = tokio::task::JoinSet::new();
    let stop = tokio_util::sync::CancellationToken::new();
    tasks.spawn(crate::server::connection::http2_on(shared, far, peer, stop));
    let (mut client, connection) = h2::client::handshake(near).await.unwrap();
    tasks.spawn(async { connection.await.map_or("client", |()| "client") });
    let request = http::Request::post("http://x/etcdserverpb.KV/Range")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    let ask = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    body.send_data(crate::server::grpc::frame(&ask), true).unwrap();
    let mut answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().into_body();
    let rest = async {
        let mut bytes = 0;
        while let Some(piece) = answer.data().await {
            let piece = piece.unwrap();
            if bytes == 0 {
                // Nothing of it will be on the disk until the end of this test.
                store.write_batch(&[put("later".to_owned())], |_| {}).unwrap();
            }
            bytes += piece.len();
            answer.flow_control().release_capacity(piece.len()).unwrap();
        }
        bytes
    };
    let bytes = tokio::time::timeout(PATIENCE, rest).await.expect("the rest of the list");
    assert!(bytes > 1_000_000, "{bytes}");
    assert!(store.settled().now_or_never().is_none(), "the flush is still held");
    drop(go);
}
