//! The battery over our server, through mutual TLS, and what only a server can do wrong.
#![allow(clippy::wildcard_enum_match_arm, reason = "what is not expected fails the test")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "battery/battery.rs"]
mod battery;

battery::battery! { battery::bed::ours }

mod over_the_wire {
    use std::{sync::Arc, time::Duration};

    use bytes::Bytes;
    use etcd_client::{GetOptions, PutOptions, WatchOptions};
    use futures::StreamExt;
    use kvstore::{
        Client, Error, EtcdClient, EtcdConfig, KeyRange, Revision, Users, WatchError,
        auth::Auth,
        proto::etcdserverpb as pb,
        server::{ServeError, Server, ServerConfig, ServerTls},
        sync::{Follower, SyncWriter},
    };

    use prost::Message;
    use tokio_util::sync::CancellationToken;

    use super::battery::{
        bed::{self, Bed, Pki},
        clients::put,
        raw::{connect, open, send},
        sync::{Consumer, Running, config, quick, stored},
        within,
    };

    fn client_of(ours: &bed::Ours, file: &str) -> EtcdClient {
        EtcdClient::new(EtcdConfig::new([ours.endpoint()], Some(ours.pki.client_tls(file)))).unwrap()
    }

    #[tokio::test]
    async fn without_a_certificate_of_the_ca_nobody_gets_in() {
        let ours = bed::ours().await;
        let mut nobody = ours.pki.client_tls("client");
        (nobody.cert_file, nobody.key_file) = (None, None);
        let foreign = Pki::new();
        let mut stranger = foreign.client_tls("client");
        stranger.ca_file = ours.pki.path("ca.crt");
        for (who, tls) in [("without a certificate", nobody), ("with a foreign one", stranger)] {
            let client = EtcdClient::new(EtcdConfig::new([ours.endpoint()], Some(tls))).unwrap();
            let refused = within(who, client.get(b"k")).await;
            assert!(matches!(refused, Err(Error::Unavailable(_))), "{who}: {refused:?}");
        }
        assert_eq!(client_of(&ours, "client").get(b"k").await.unwrap(), None);
    }

    /// Whoever watches from now on goes by the header of the first answer.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_watch_begins_right_after_the_revision_that_its_first_answer_names() {
        let ours = bed::ours().await;
        let (client, stop) = (ours.store.client(), CancellationToken::new());
        let until = stop.clone();
        let writer = std::thread::spawn(move || {
            while !until.is_cancelled() {
                futures::executor::block_on(client.write(vec![put("k", "v")])).unwrap();
                // All the time, but not so that nobody else has any.
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        let create = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
        let request_union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
        let request = Bytes::from(pb::WatchRequest { request_union }.encode_to_vec());
        let mut seen = 0;
        for _ in 0..60 {
            // On one of its own: a client that leaves streams of requests open ends its connection after a while; see
            // `watch_churn.rs`.
            let channel = connect(&ours.pki, &ours.endpoint(), "client");
            let answers = match open(&channel, "/etcdserverpb.Watch/Watch", request.clone(), 2).await {
                Ok(answers) => answers,
                // A machine that does much else may not end a handshake in the time that the server has for it.
                Err(late) if late.message() == "transport error" => continue,
                Err(status) => panic!("{status}"),
            };
            seen += 1;
            let answers = answers.into_iter().map(|answer| pb::WatchResponse::decode(answer).unwrap());
            let [created, news] = answers.collect::<Vec<_>>().try_into().unwrap();
            let first = news.events[0].kv.as_ref().unwrap().mod_revision;
            assert_eq!(created.header.unwrap().revision + 1, first);
        }
        stop.cancel();
        writer.join().unwrap();
        assert!(seen > 30, "{seen} watches");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_password_that_was_changed_while_it_was_checked_gives_no_token() {
        let ours = bed::ours_with(|config| config.limits.bcrypt_cost = 7).await;
        let channel = connect(&ours.pki, &ours.endpoint(), "client");
        let ask = async |path, message: Vec<u8>| send(&channel, path, None, message.into()).await;
        let (name, role) = ("root".to_owned(), "root".to_owned());
        let add = pb::AuthUserAddRequest { name: name.clone(), password: "0".into(), ..Default::default() };
        ask("/etcdserverpb.Auth/UserAdd", add.encode_to_vec()).await.unwrap();
        let grant = pb::AuthUserGrantRoleRequest { user: name.clone(), role };
        ask("/etcdserverpb.Auth/UserGrantRole", grant.encode_to_vec()).await.unwrap();
        ask("/etcdserverpb.Auth/AuthEnable", Vec::new()).await.unwrap();
        for round in 0..40 {
            let (old, password) = (round.to_string(), (round + 1).to_string());
            let change =
                pb::AuthUserChangePasswordRequest { name: name.clone(), password, ..Default::default() };
            let check = pb::AuthenticateRequest { name: name.clone(), password: old };
            let (changed, checked) = tokio::join!(
                ask("/etcdserverpb.Auth/UserChangePassword", change.encode_to_vec()),
                ask("/etcdserverpb.Auth/Authenticate", check.encode_to_vec()),
            );
            changed.unwrap();
            let Ok(checked) = checked else { continue };
            let token = pb::AuthenticateResponse::decode(checked).unwrap().token;
            let range = pb::RangeRequest { key: "k".into(), ..Default::default() }.encode_to_vec();
            let read = send(&channel, "/etcdserverpb.KV/Range", Some(token.leak()), range.into()).await;
            assert_eq!(read.map_err(|refused| refused.code()), Err(tonic::Code::Unauthenticated));
        }
    }

    #[tokio::test]
    async fn the_common_name_is_the_user_and_decides_what_is_seen() {
        let ours = bed::ours().await;
        for user in ["admin-here", "remote", "stranger"] {
            ours.pki.issue(user, user);
        }
        ours.store
            .change_auth(|auth| {
                *auth = Auth::of_cluster("here");
                Ok(())
            })
            .unwrap();
        let (admin, remote, stranger) =
            (client_of(&ours, "admin-here"), client_of(&ours, "remote"), client_of(&ours, "stranger"));
        admin.write(vec![put("cilium/state/a", "1"), put("cilium/cache/a", "1")]).await.unwrap();
        assert_eq!(remote.list(&KeyRange::prefix("cilium/state/"), 0, None).await.unwrap().kvs.len(), 1);
        for range in ["cilium/cache/", "cilium/", "cilium/cluster-config/"] {
            let refused = remote.list(&KeyRange::prefix(range), 0, None).await;
            assert!(matches!(refused, Err(Error::PermissionDenied)), "{range}: {refused:?}");
            let refused = remote.watch(KeyRange::prefix(range), Revision(1)).await.err();
            assert!(
                matches!(refused, Some(WatchError::Store(Error::PermissionDenied))),
                "{range}: {refused:?}"
            );
        }
        assert!(matches!(remote.write(vec![put("cilium/state/b", "x")]).await, Err(Error::PermissionDenied)));
        assert!(matches!(stranger.get(b"cilium/.heartbeat").await, Err(Error::PermissionDenied)));
        // A peer that joins at run time, and leaves.
        ours.pki.issue("remote-there", "remote-there");
        let there = client_of(&ours, "remote-there");
        assert!(there.get(b"cilium/state/a").await.is_err());
        admin.put_user("remote-there", &["remote"]).await.unwrap();
        assert_eq!(admin.users().await.unwrap()["remote-there"], ["remote"]);
        assert!(there.get(b"cilium/state/a").await.unwrap().is_some());
        admin.delete_user("remote-there").await.unwrap();
        assert!(matches!(there.get(b"cilium/state/a").await, Err(Error::PermissionDenied)));
    }

    #[tokio::test]
    async fn new_certificates_are_taken_up_and_live_connections_stay() {
        let ours = bed::ours().await;
        let before = client_of(&ours, "client");
        let mut watch = before.watch(KeyRange::prefix("r/"), Revision(2)).await.unwrap();
        let shown = || async {
            let connector = tokio_rustls::TlsConnector::from(Arc::new(accept_any(&ours.pki)));
            let tcp = tokio::net::TcpStream::connect(ours.address).await.unwrap();
            let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
            let stream = connector.connect(name, tcp).await.unwrap();
            stream.get_ref().1.peer_certificates().unwrap()[0].as_ref().to_vec()
        };
        let old = shown().await;
        ours.pki.issue("server", "server");
        within("the new certificate", async {
            while shown().await == old {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        before.write(vec![put("r/a", "1")]).await.unwrap();
        let batch = within("the event", watch.next()).await.unwrap().unwrap();
        assert_eq!(batch.events.len(), 1);
    }

    fn accept_any(pki: &Pki) -> rustls::ClientConfig {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.path("ca.crt")).unwrap()).unwrap();
        let chain = vec![CertificateDer::from_pem_file(pki.path("client.crt")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(pki.path("client.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap()
    }

    #[tokio::test]
    async fn what_would_not_be_safe_does_not_start() {
        let start = |config| Server::bind(config, kvstore::Store::new(kvstore::StoreConfig::default()));
        let open = ServerConfig::new("0.0.0.0:0".parse().unwrap(), None);
        assert!(matches!(start(open.clone()).await, Err(ServeError::Plaintext { .. })));
        assert!(start(ServerConfig { allow_plaintext: true, ..open.clone() }).await.is_ok());
        assert!(start(ServerConfig::new("127.0.0.1:0".parse().unwrap(), None)).await.is_ok());
        let pki = Pki::new();
        let wrong = ServerTls { key_file: pki.path("none.key"), ..pki.server_tls() };
        let refused =
            start(ServerConfig::new("127.0.0.1:0".parse().unwrap(), Some(wrong))).await.unwrap_err();
        assert!(refused.to_string().contains("none.key"), "{refused}");
        let unmatched = ServerTls { key_file: pki.path("client.key"), ..pki.server_tls() };
        let config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), Some(unmatched));
        assert!(matches!(start(config).await, Err(ServeError::Credentials(_))));
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = ServerConfig::new(taken.local_addr().unwrap(), None);
        assert!(matches!(start(config).await, Err(ServeError::Listen { .. })));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_replaced_store_is_noticed_by_readers_and_filled_by_writers() {
        let mut ours = bed::ours().await;
        let running = Running::start(
            SyncWriter::new(config("rp/", Some("synced/rp"))),
            Arc::new(EtcdClient::new(ours.reconnecting()).unwrap()),
        );
        running.writer.upsert("a", "1");
        running.writer.upsert("b", "1");
        running.writer.synced();
        within("the first life", running.writer.wait_synced()).await;
        let follower = Follower::new("rp/").with_backoff(quick());
        let strict = Arc::new(client_of(&ours, "client"));
        let mut consumer =
            Consumer::follow(follower, Arc::new(EtcdClient::new(ours.reconnecting()).unwrap()));
        consumer.until("list done").await;
        let pinned = strict.status().await.unwrap().cluster_id;

        ours.replace().await;
        consumer.until("lost").await;
        within("the second life", async {
            while client_of(&ours, "client").get(b"synced/rp").await.ok().flatten().is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert_eq!(stored(&*ours.client(), "rp/").await, ["a=1", "b=1"]);
        // The list may come before the writer has filled the store; the rest are events then.
        consumer.until("list done").await;
        within("the follower", async {
            while consumer.known() != ["a", "b"] {
                consumer.next().await;
            }
        })
        .await;

        // A client that is to talk to one store only is told, and is of no use from then on.
        let changed = within("the refusal", async {
            loop {
                match strict.get(b"rp/a").await {
                    Err(Error::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                    other => break other,
                }
            }
        })
        .await;
        assert!(
            matches!(changed, Err(Error::ClusterChanged { pinned: id, .. }) if id == pinned),
            "{changed:?}"
        );
        assert!(strict.is_spent());
        consumer.stop().await;
        running.stop().await;
    }

    /// Only one of them is told by its call that the store is another one; all have to write again.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn writers_that_share_a_client_all_fill_a_replaced_store() {
        let mut ours = bed::ours().await;
        let client = Arc::new(EtcdClient::new(ours.reconnecting()).unwrap());
        let prefixes: Vec<String> = (0..8).map(|number| format!("shared/{number}/")).collect();
        let mut all = Vec::new();
        for prefix in &prefixes {
            let running =
                Running::start(SyncWriter::new(config(prefix, None)), Arc::clone(&client) as Arc<dyn Client>);
            running.writer.upsert("a", "1");
            running.writer.synced();
            within("the first life", running.writer.wait_synced()).await;
            all.push(running);
        }
        for round in 0..3 {
            ours.replace().await;
            within(&format!("life {round}"), async {
                for prefix in &prefixes {
                    let key = format!("{prefix}a");
                    while client_of(&ours, "client").get(key.as_bytes()).await.ok().flatten().is_none() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
            .await;
        }
        for running in all {
            running.stop().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_does_not_read_holds_up_nobody_and_is_told_where_to_go_on() {
        let ours = bed::ours().await;
        let mut lazy = ours.etcd_client("client").await;
        let mut watch = lazy.watch("slow/", Some(WatchOptions::new().with_prefix())).await.unwrap();
        assert!(watch.message().await.unwrap().unwrap().created());
        let writer = ours.store.client();
        let value = "v".repeat(64 * 1024);
        for n in 0..400 {
            // 25 MiB, far more than the windows of the connection hold.
            within("the write", writer.write(vec![put("slow/k", &value), put("slow/n", &n.to_string())]))
                .await
                .unwrap();
        }
        let newest = writer.status().await.unwrap().revision;
        ours.store.compact(newest.0).unwrap();
        let mut last = 0;
        let cut = within("the end of the watch", async {
            loop {
                let message = watch.message().await.unwrap().unwrap();
                if message.canceled() {
                    break message;
                }
                for event in message.events() {
                    let revision = event.kv().unwrap().mod_revision();
                    assert!(revision >= last);
                    last = revision;
                }
            }
        })
        .await;
        assert_eq!(cut.compact_revision(), newest.0);
        assert!(last < newest.0, "it was cut off before the end");
    }

    #[tokio::test]
    async fn what_is_too_much_is_refused_in_etcds_words() {
        let ours = bed::ours_with(|config| {
            config.limits.request_bytes = 64 * 1024;
            config.limits.txn_operations = 4;
            config.limits.watches_per_stream = 2;
            config.limits.quota_bytes = 200 * 1024;
        })
        .await;
        let mut client = ours.etcd_client("client").await;
        let refusal = |error: etcd_client::Error| match error {
            etcd_client::Error::GRpcStatus(status) => format!("{:?} {}", status.code(), status.message()),
            other => panic!("{other}"),
        };
        let refused = client.put("k", vec![b'v'; 70 * 1024], None).await.unwrap_err();
        assert_eq!(refusal(refused), "InvalidArgument etcdserver: request is too large");
        let refused = client.put("k", vec![b'v'; 700 * 1024], None).await.unwrap_err();
        assert!(refusal(refused).starts_with("ResourceExhausted grpc: received message larger than max"));
        let operations = vec![etcd_client::TxnOp::get("k", None); 5];
        let refused = client.txn(etcd_client::Txn::new().and_then(operations)).await.unwrap_err();
        assert_eq!(refusal(refused), "InvalidArgument etcdserver: too many operations in txn request");
        let mut stream = client.watch("a", None).await.unwrap();
        stream.message().await.unwrap().unwrap();
        let mut reasons = Vec::new();
        for _ in 0..2 {
            stream.watch("b", None).await.unwrap();
            reasons.push(stream.message().await.unwrap().unwrap().cancel_reason().to_owned());
        }
        assert_eq!(reasons[0], "");
        assert!(reasons[1].contains("too many requests"), "{reasons:?}");
        let mut refused = None;
        for n in 0..5 {
            let put = client.put(format!("q{n}"), vec![b'v'; 60 * 1024], None).await;
            refused = refused.or(put.err());
        }
        assert_eq!(refusal(refused.unwrap()), "ResourceExhausted etcdserver: mvcc: database space exceeded");
        assert_eq!(client.get("q0", None).await.unwrap().count(), 1, "reading goes on");
        client.delete("q0", None).await.unwrap();
        let alarms =
            client.alarm(etcd_client::AlarmAction::Get, etcd_client::AlarmType::None, None).await.unwrap();
        assert_eq!(alarms.alarms().len(), 1);
    }

    #[tokio::test]
    async fn plain_http_answers_health_version_and_metrics() {
        let ours = bed::ours().await;
        let get = |path: &'static str| async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut socket = tokio::net::TcpStream::connect(ours.metrics).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            answer
        };
        for (path, expected) in [
            ("/health", r#"{"health":"true","reason":""}"#),
            ("/version", r#""etcdserver":"3.7.0""#),
            ("/livez", "ok"),
            ("/readyz", "ok"),
            ("/metrics", "etcd_server_has_leader 1"),
            ("/metrics", "etcd_server_version{server_version=\"3.7.0\"} 1"),
            // What etcd's dashboard and alerts read of a store without a disk and without peers.
            ("/metrics", "\netcd_server_quota_backend_bytes "),
            ("/metrics", "\netcd_mvcc_db_total_size_in_bytes "),
            ("/metrics", "\netcd_mvcc_db_total_size_in_use_in_bytes "),
            ("/metrics", "\netcd_server_leader_changes_seen_total 1"),
            ("/metrics", "\netcd_server_proposals_failed_total 0"),
            ("/metrics", "\netcd_network_client_grpc_received_bytes_total "),
            ("/metrics", "\netcd_network_client_grpc_sent_bytes_total "),
            ("/metrics", "\nprocess_resident_memory_bytes "),
            ("/no", "404 page not found"),
        ] {
            let answer = get(path).await;
            assert!(answer.contains(expected), "{path}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_watch_is_served_in_parts_where_asked_and_with_what_was_before() {
        let ours = bed::ours_with(|config| config.limits.request_bytes = 4096).await;
        let mut client = ours.etcd_client("client").await;
        client.put("f/a", "old", None).await.unwrap();
        let options = WatchOptions::new().with_prefix().with_fragment().with_prev_key();
        let mut watch = client.watch("f/", Some(options)).await.unwrap();
        assert!(watch.message().await.unwrap().unwrap().created());
        let value = "v".repeat(1000);
        let batch: Vec<_> =
            ["f/a", "f/b", "f/c", "f/d", "f/e", "f/f"].iter().map(|key| put(key, &value)).collect();
        ours.store.client().write(batch).await.unwrap();
        let mut seen = Vec::new();
        let mut messages = 0;
        while seen.len() < 6 {
            let message = within("a part", watch.message()).await.unwrap().unwrap();
            messages += 1;
            for event in message.events() {
                let prev = event.prev_kv().map(|kv| kv.value().to_vec());
                seen.push((event.kv().unwrap().key().to_vec(), prev));
            }
        }
        assert!(messages > 1, "the parts are below the limit");
        assert_eq!(seen[0], (b"f/a".to_vec(), Some(b"old".to_vec())));
        assert!(seen[1..].iter().all(|(_, prev)| prev.is_none()));
    }

    #[tokio::test]
    async fn passwords_are_checked_and_their_tokens_end_with_the_user() {
        let ours = bed::ours().await;
        let mut root = ours.etcd_client("client").await;
        root.user_add("root", "rootpw", None).await.unwrap();
        root.user_grant_role("root", "root").await.unwrap();
        root.user_add("alice", "secret", None).await.unwrap();
        root.role_add("reader").await.unwrap();
        root.role_grant_permission("reader", etcd_client::Permission::read("pub/").with_prefix())
            .await
            .unwrap();
        root.user_grant_role("alice", "reader").await.unwrap();
        root.auth_enable().await.unwrap();
        let with = |user: &str, password: &str| {
            let options = ours.pki.etcd_client_options("client").with_user(user, password);
            etcd_client::Client::connect([ours.endpoint()], Some(options))
        };
        assert!(with("alice", "wrong").await.is_err());
        let mut alice = with("alice", "secret").await.unwrap();
        alice.get("pub/a", Some(GetOptions::new())).await.unwrap();
        assert!(alice.get("private", None).await.is_err());
        assert!(alice.put("pub/a", "x", Some(PutOptions::new())).await.is_err());
        root.user_delete("alice").await.unwrap();
        let refused = alice.get("pub/a", None).await.unwrap_err();
        assert!(refused.to_string().contains("invalid auth token"), "{refused}");
        root.auth_disable().await.unwrap();
    }

    #[tokio::test]
    async fn garbage_ends_its_own_connection_only() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let ours = bed::ours_with(|config| {
            config
                .listen
                .push(kvstore::server::Listen { address: "127.0.0.1:0".parse().unwrap(), tls: false });
        })
        .await;
        let client = client_of(&ours, "client");
        client.write(vec![put("a", "1")]).await.unwrap();
        for garbage in
            [&b"\x16\x03\x01garbage"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage garbage", b"\r\n\r\n"]
        {
            for address in [ours.address, ours.second.unwrap()] {
                let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
                socket.write_all(garbage).await.unwrap();
                socket.shutdown().await.unwrap();
                let mut rest = Vec::new();
                // Reset or closed; not kept.
                let _either = within("the end", socket.read_to_end(&mut rest)).await;
            }
        }
        assert_eq!(client.get(b"a").await.unwrap().unwrap().value, Bytes::from_static(b"1"));
    }
}
