//! What peers, files and certificates do that they should not; each costs nobody else anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kvstore::{Client, LeaseId, Store, Write};
use kvstoremesh::{EtcdDial, LostContact, ResourceStatus, Settings};
use mesh_types::{MirrorWord, PeerContact, mirror_word_key};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::bed::net::Net;
use crate::bed::{Bed, config, endpoint, peer, peer_file, put, put_canaries, put_nodes};
use crate::servers::{Listening, Pki, Program};
use crate::tls::{NODES, canaries, exports};

fn network(change: impl FnOnce(&mut Settings)) -> Bed {
    Bed::start_with(Net::default(), Arc::new(EtcdDial), &[], change)
}

async fn west(program: Program, pki: &Pki) -> Listening {
    let west = Listening::start(program, pki).await;
    crate::tls::put(&pki.client(&west.url()), &exports(&["n1", "n2"])).await;
    crate::tls::put(&pki.client(&west.url()), &canaries()).await;
    west
}

/// The name of the file is the cluster's, so the second one leads to a store that has no such cluster.
#[tokio::test]
async fn two_configuration_files_for_one_cluster_name_are_not_two_mirrors_of_it() {
    let bed = Bed::start(|_| {});
    bed.connect("west", &peer("west", 2).await);
    bed.until_ready("west").await;
    let (before, revision) = (bed.cache().await, bed.local.revision());
    bed.write_file("west-2", &peer_file("west"));
    for name in ["west.yaml", "WEST"] {
        bed.write_file(name, &peer_file("west"));
    }
    bed.until_trouble("west-2", "cluster-config-missing").await;
    let rejected = || bed.status().rejected_files.into_iter().map(|file| (file.file, file.reason));
    bed.until("the others are refused", async || rejected().count() == 2).await;
    assert!(rejected().all(|(_, reason)| reason == "cluster-name-invalid"));
    assert_eq!((bed.cache().await, bed.local.revision()), (before, revision));
    assert_eq!((bed.remote("west").unwrap().ready, bed.remote("west").unwrap().failures), (true, 0));
    bed.stop().await;
}

/// Written in place and slowly, as an editor on a slow disk does.
#[tokio::test]
async fn a_file_that_changes_while_it_is_read_removes_nothing_and_its_last_content_counts() {
    let bed = Bed::start(|_| {});
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    let (before, revision) = (bed.cache().await, bed.local.revision());
    bed.net.put("http://west-moved:2379", Some(remote));
    let text = "# moved\nendpoints: ['http://west-moved:2379']\n";
    for end in 0..=text.len() {
        std::fs::write(bed.path("west"), &text[..end]).unwrap();
        // Wide enough apart that it is read in between.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let moved = || bed.remote("west").is_some_and(|west| west.endpoints == ["http://west-moved:2379"]);
    bed.until("moved", async || moved()).await;
    bed.until_ready("west").await;
    assert_eq!((bed.cache().await, bed.local.revision()), (before, revision), "not one write");
    bed.stop().await;
}

/// Returns when the certificate with which the mirror is connected has expired.
async fn connect_until_expiry(bed: &Bed, pki: &Pki, url: &str) {
    // A machine that is busy may not be connected before the first one has.
    for lifetime in [3, 9, 25].map(Duration::from_secs) {
        pki.issue_remote(Some(lifetime));
        let expires = Instant::now() + lifetime;
        bed.write_file("west", &pki.peer_file(url));
        if timeout_at(expires, bed.until_ready("west")).await.is_ok() {
            // It says whole seconds.
            return sleep_until(expires + Duration::from_secs(1)).await;
        }
    }
    panic!("never connected in time: {:#?}", bed.status());
}

#[tokio::test]
async fn a_certificate_that_expires_while_connected_is_noticed_at_the_next_connection() {
    for program in Program::ALL {
        let pki = Pki::new();
        let mut west = west(program, &pki).await;
        let bed = network(|_| {});
        connect_until_expiry(&bed, &pki, &west.url()).await;
        // What stands goes on, as with Cilium.
        crate::tls::put(&pki.client(&west.url()), &exports(&["n3"])).await;
        bed.until("n3", async || bed.cache().await.len() == 3).await;
        let (before, revision) = (bed.cache().await, bed.local.revision());

        west.down().await;
        bed.until("the outage", async || !bed.remote("west").unwrap().connected).await;
        west.up(&pki).await;
        bed.until_trouble("west", "tls-failed").await;
        assert_eq!(bed.cache().await, before, "{program:?}");
        pki.issue_remote(None);
        bed.until_ready("west").await;
        assert_eq!((bed.cache().await, bed.local.revision()), (before, revision), "{program:?}");
        bed.stop().await;
        west.down().await;
    }
}

#[tokio::test]
async fn a_remote_with_our_own_name_or_id_is_refused_and_what_is_ours_stays() {
    let bed = Bed::start(|_| {});
    let own = [("cilium/cluster-config/here", "ours"), ("cilium/state/nodes/v1/here/n1", "ours")];
    put(&bed.local, &own).await;
    bed.connect("here", &peer("here", 2).await);
    bed.connect("twin", &peer("twin", 1).await);
    bed.until_trouble("twin", "cluster-id-is-local").await;
    let rejected = || bed.status().rejected_files;
    bed.until("the own name is refused", async || !rejected().is_empty()).await;
    assert_eq!(rejected()[0].reason, "cluster-is-local");
    assert!(bed.remote("here").is_none());
    let local = bed.local().await;
    let is_lock = |key: &str| key.starts_with("cilium/kvstoremesh-lock/");
    let local = local.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    assert_eq!(local.filter(|(key, _)| !is_lock(key)).collect::<Vec<_>>(), own);
    bed.stop().await;
}

/// Readers tell clusters by their id: nothing of the old one may show under the new one, nor come back with the old.
#[tokio::test]
async fn an_id_change_of_a_live_remote_starts_over_without_a_new_connection() {
    let bed = Bed::start(|_| {});
    let remote = peer("west", 2).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    let mut ids = Vec::new();
    for id in [7, 2] {
        put(&remote, &[("cilium/cluster-config/west", &config(id))]).await;
        let accepted = || bed.remote("west")?.config.map(|config| config.cluster_id);
        bed.until("the new id", async || accepted() == Some(id)).await;
        bed.until("mirrored again", async || bed.cache().await.len() == 2).await;
        ids.push(bed.local().await["cilium/cluster-config/west"].contains(&format!("\"id\":{id},")));
    }
    assert_eq!(ids, [true, true]);
    assert_eq!(bed.net.dials(&endpoint("west")), 1);
    bed.stop().await;
}

/// What is refused is not followed either, so nothing may claim that it is up to date.
#[tokio::test]
async fn a_live_remote_that_is_refused_is_not_ready_and_loses_nothing() {
    let bed = Bed::start(|_| {});
    let [east, west] = [peer("east", 3).await, peer("west", 2).await];
    for (name, remote) in [("east", &east), ("west", &west)] {
        bed.connect(name, remote);
        bed.until_ready(name).await;
    }
    let (before, revision) = (bed.local().await, bed.local.revision());
    let bad = [
        (config(1), "cluster-id-is-local"),
        (config(3), "cluster-id-in-use"),
        (config(0), "cluster-id-zero"),
        ("{".to_owned(), "cluster-config-invalid"),
    ];
    for (value, reason) in &bad {
        put(&west, &[("cilium/cluster-config/west", value)]).await;
        bed.until_trouble("west", reason).await;
        bed.until("it is not followed", async || {
            let west = bed.remote("west").unwrap();
            let waits = |kind: &ResourceStatus| {
                kind.waiting_for.as_deref() == Some("cluster-config") && kind.contact == "not-listed"
            };
            west.connected && !west.ready && west.resources.values().all(waits)
        })
        .await;
        let nodes = bed.remote("west").unwrap().resources.remove("nodes").unwrap();
        assert_eq!((nodes.state.as_str(), nodes.entries), ("stale", 2), "{reason}");
        assert!(nodes.stale_seconds.is_some(), "{reason}");
        let cilium = bed.cilium_status();
        let shown = cilium.as_array().unwrap().iter().find(|one| one["name"] == "west").unwrap();
        assert!(shown["ready"].is_null() && shown["synced"]["nodes"].is_null(), "{reason}: {shown:#}");
        assert_eq!((bed.local().await, bed.local.revision()), (before.clone(), revision), "{reason}");
    }
    // What came meanwhile is taken with the rest.
    put(&west, &[("cilium/cluster-config/west", &config(2))]).await;
    bed.until_ready("west").await;
    assert_eq!(bed.remote("west").unwrap().trouble.map(|trouble| trouble.reason), None);
    assert_eq!((bed.local().await, bed.local.revision()), (before, revision), "not one write");
    assert_eq!((bed.remote("east").unwrap().ready, bed.net.dials(&endpoint("west"))), (true, 1));

    // The id that it wants becomes free.
    put(&west, &[("cilium/cluster-config/west", &config(3))]).await;
    bed.until_trouble("west", "cluster-id-in-use").await;
    bed.remove_file("east");
    bed.until_ready("west").await;
    assert_eq!(bed.remote("west").unwrap().config.unwrap().cluster_id, 3);
    bed.stop().await;
}

/// As for one that cannot be reached.
#[tokio::test]
async fn a_policy_for_lost_contact_holds_for_a_live_remote_that_is_refused() {
    let drain = LostContact::DrainAfter(Duration::from_millis(200));
    let bed = Bed::start(|settings| settings.lost_contact = drain);
    let west = peer("west", 2).await;
    bed.connect("west", &west);
    bed.until_ready("west").await;
    put(&west, &[("cilium/cluster-config/west", &config(1))]).await;
    bed.until("drained", async || bed.cache().await.is_empty()).await;
    // Readers hear which of the cases it is, though each time nothing else of it changes.
    let told = async |contact: PeerContact| {
        let says = |local: BTreeMap<String, String>| {
            let word =
                MirrorWord::decode(local.get(&mirror_word_key(&"west".parse().ok()?))?.as_bytes()).ok()?;
            Some(word.kinds.get("nodes")?.contact)
        };
        bed.until(&format!("{contact:?}"), async || says(bed.local().await) == Some(contact)).await;
    };
    told(PeerContact::NotListed).await;
    bed.write_file("west", &peer_file("nowhere"));
    told(PeerContact::Unreachable).await;
    bed.configure("west");
    told(PeerContact::NotListed).await;
    put(&west, &[("cilium/cluster-config/west", &config(2))]).await;
    bed.until_ready("west").await;
    bed.until("back", async || bed.cache().await.len() == 2).await;
    bed.stop().await;
}

/// Over the network, where one answer may have many of them.
#[tokio::test]
async fn a_peer_that_sends_values_of_2_mib_loses_those_and_nothing_else() {
    let pki = Pki::new();
    let mut west = west(Program::Isthmus, &pki).await;
    let big: Vec<String> = (0..20).map(|number| format!("cilium/state/nodes/v1/west/big-{number}")).collect();
    let client = pki.client(&west.url());
    for key in &big {
        crate::tls::put(&client, &[(key.clone(), "x".repeat(2 << 20))]).await;
    }
    let bed = network(|_| {});
    bed.write_file("west", &pki.peer_file(&west.url()));
    bed.until_ready("west").await;
    assert_eq!(bed.cache().await, NODES);
    let skipped = bed.remote("west").unwrap().skipped;
    assert_eq!(skipped.len(), big.len());
    assert!(skipped.iter().all(|skipped| skipped.reason == "value-too-large"), "{skipped:?}");
    // Live, too.
    crate::tls::put(&client, &[("cilium/state/nodes/v1/west/n1".to_owned(), "y".repeat(2 << 20))]).await;
    crate::tls::put(&client, &exports(&["n3"])).await;
    bed.until("n3", async || bed.cache().await.len() == 3).await;
    assert_eq!(bed.local().await[NODES[0]], "node n1", "the last good value");
    assert_eq!(bed.remote("west").unwrap().failures, 0);
    bed.stop().await;
    west.down().await;
}

async fn put_many(store: &Arc<Store>, count: usize) {
    let client = store.client();
    for chunk in 0..count / 10_000 {
        let write = |number: usize| Write::Put {
            key: format!("cilium/state/nodes/v1/west/{:07}", chunk * 10_000 + number).into(),
            value: "x".into(),
            lease: LeaseId::NONE,
        };
        client.write((0..10_000).map(write).collect()).await.unwrap();
    }
}

#[tokio::test]
async fn a_million_keys_under_one_prefix_are_refused_with_a_reason_and_bounded_memory() {
    const LIMIT: usize = 1000;
    let bed = Bed::start(|settings| settings.max_keys_per_kind = LIMIT);
    bed.connect("good", &peer("good", 3).await);
    let remote = peer("west", 2).await;
    put(&remote, &[("cilium/state/services/v1/west/shop/cart", "service")]).await;
    put_many(&remote, 1_000_000).await;
    bed.connect("west", &remote);
    bed.until_trouble("west", "too-many-keys").await;
    let west = bed.remote("west").unwrap();
    let nodes = &west.resources["nodes"];
    assert_eq!(nodes.waiting_for.as_deref(), Some("fewer-keys"));
    // The list was not read to its end: neither what is mirrored nor what is left out grows with what the peer has.
    assert_eq!(nodes.entries, LIMIT);
    assert!(nodes.left_out <= 4 * LIMIT, "{}", nodes.left_out);
    assert_eq!(west.skipped.len(), 100);
    assert!(west.skipped.iter().all(|skipped| skipped.reason == "too-many-keys"));
    assert!(
        !bed.local().await.contains_key("cilium/synced/west/cilium/cache/nodes/v1"),
        "it is not complete"
    );
    bed.until("its other kinds", async || {
        let services = &bed.remote("west").unwrap().resources["services"];
        (services.state.as_str(), services.entries) == ("synced", 1)
    })
    .await;
    bed.until_ready("good").await;
    bed.stop().await;
}

#[tokio::test]
async fn a_few_keys_too_many_are_left_out_and_the_rest_is_mirrored() {
    let bed = Bed::start(|settings| settings.max_keys_per_kind = 2);
    let remote = peer("west", 2).await;
    put_nodes(&remote, "west", &["n3", "n4"]).await;
    bed.connect("west", &remote);
    bed.until_ready("west").await;
    assert_eq!(bed.cache().await, NODES);
    let west = bed.remote("west").unwrap();
    assert_eq!(west.resources["nodes"].left_out, 2);
    assert!(bed.metrics().contains(r#"left_out_entries{scope="nodes/v1",source_cluster="west"} 2"#));
    // A change of what is mirrored is no new key.
    put(&remote, &[("cilium/state/nodes/v1/west/n1", "changed")]).await;
    bed.until("the change", async || bed.local().await[NODES[0]] == "changed").await;
    put_canaries(&remote, "west").await;
    bed.stop().await;
}

/// Its machine lost power: no packet says so.
#[tokio::test]
async fn a_peer_that_goes_silent_without_closing_is_given_up_and_keeps_its_data() {
    let pki = Pki::new();
    let mut west = west(Program::Etcd, &pki).await;
    let client = pki.client(&west.url());
    let beat = ("cilium/.heartbeat".to_owned(), "2026-02-03T10:11:12Z".to_owned());
    crate::tls::put(&client, std::slice::from_ref(&beat)).await;
    let bed = network(|settings| settings.heartbeat_timeout = Duration::from_secs(5));
    bed.write_file("west", &pki.peer_file(&west.url()));
    bed.until_ready("west").await;
    let revision = bed.local.revision();
    west.freeze();
    bed.until("given up", async || !bed.remote("west").unwrap().connected).await;
    let gone = bed.remote("west").unwrap();
    let reason = gone.trouble.unwrap().reason;
    assert!(
        ["heartbeat-missing", "peer-disconnected", "peer-unreachable"].contains(&reason.as_str()),
        "{reason}"
    );
    assert_eq!(bed.cache().await, NODES);
    assert_eq!(gone.resources["nodes"].contact, "unreachable");
    west.thaw();
    bed.until("ready again", async || {
        crate::tls::put(&client, std::slice::from_ref(&beat)).await;
        bed.remote("west").is_some_and(|west| west.ready)
    })
    .await;
    assert_eq!((bed.cache().await, bed.local.revision()), (NODES.map(str::to_owned).to_vec(), revision));
    bed.stop().await;
    west.down().await;
}
