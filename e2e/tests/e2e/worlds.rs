//! One process per cluster or several, an embedded store or an etcd of three members, one replica or two: the same mesh.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::{Bed, Daemon, DaemonSpec, Host, Mesh, MeshPki, Part, objects, tool};
use serde_json::{Value, json};

use crate::path::{
    GLOBAL, SOON, a_global_service_follows_its_owner, addresses, apply_service, backends_become, bed_of,
};

/// The address of whichever replica serves.
const SHARED: &str = "10.200.0.200";

/// Three members of one etcd, each on a machine of its own.
struct ThreeEtcds {
    members: Vec<Daemon>,
    endpoints: Vec<String>,
}

impl ThreeEtcds {
    fn start(bed: &Bed, pki: &MeshPki) -> Result<Self> {
        let hosts: Vec<Host> =
            (1..=3).map(|n| bed.host(&format!("etcd-{n}"), 50 + n)).collect::<Result<_>>()?;
        let peer = |host: &Host| format!("{}=http://{}:2380", host.name(), host.address());
        let all = hosts.iter().map(peer).collect::<Vec<_>>().join(",");
        let start = |host: &Host| -> Result<Daemon> {
            let address = host.address();
            let server = pki.server_at(host.name(), &[address.to_string()])?;
            let data: PathBuf = bed.dir().join(host.name());
            let spec = DaemonSpec::program("etcd", &tool("etcd")?)
                .arg(format!("--name={}", host.name()))
                .arg(format!("--data-dir={}", data.display()))
                .arg(format!("--listen-client-urls=https://{address}:2379"))
                .arg(format!("--advertise-client-urls=https://{address}:2379"))
                .arg(format!("--listen-peer-urls=http://{address}:2380"))
                .arg(format!("--initial-advertise-peer-urls=http://{address}:2380"))
                .arg(format!("--initial-cluster={all}"))
                .arg(format!("--cert-file={}", server.certificate.display()))
                .arg(format!("--key-file={}", server.key.display()))
                .arg(format!("--trusted-ca-file={}", pki.authority().display()))
                .args(["--client-cert-auth", "--unsafe-no-fsync", "--log-level=warn"]);
            host.daemon(spec)
        };
        let members = hosts.iter().map(start).collect::<Result<_>>()?;
        let endpoints = hosts.iter().map(|host| format!("https://{}:2379", host.address())).collect();
        Ok(Self { members, endpoints })
    }
}

#[test]
fn clusters_in_one_process_each_on_its_own_store_and_on_three_etcds_are_one_mesh() {
    let bed = bed_of("worlds", &["west", "east"]);
    let pki = MeshPki::new(&bed.dir().join("pki")).unwrap();
    let mut etcds = ThreeEtcds::start(&bed, &pki).unwrap();
    let mesh = Mesh::builder(&bed).pki(&pki).in_one_process("west").in_one_process("east");
    let mut mesh = mesh.store_at("west", &etcds.endpoints).start().unwrap();
    assert_eq!(mesh.member("west").parts(), [Part::Store, Part::Agent(0)]);
    a_global_service_follows_its_owner(&mesh, "west", "east", "cart");
    a_global_service_follows_its_owner(&mesh, "east", "west", "basket");

    // Any one of the three goes, also the one that is talked to.
    for gone in 0..3 {
        etcds.members[gone].kill9().unwrap();
        let name = format!("without-{gone}");
        let backend = format!("10.9.7.{gone}");
        apply_service(&mesh, "west", &name, &[GLOBAL], &[(&format!("{name}-1"), &[&backend])]);
        apply_service(&mesh, "east", &name, &[GLOBAL], &[]);
        backends_become(&mesh, "east", &name, &[&format!("west {backend}:8080")]);
        backends_become(&mesh, "west", &name, &[&format!("west {backend}:8080")]);
        etcds.members[gone].restart().unwrap();
        let etcdctl = mesh.member("west").etcdctl();
        bed.eventually("all three are well", SOON, || etcdctl.run(&["endpoint", "health"]));
    }

    // A whole cluster's process, with the store in it, is killed and comes back: nobody loses anything.
    let daemon = mesh.member_mut("east").daemon_mut(Part::Store);
    daemon.kill9().unwrap();
    daemon.restart().unwrap();
    daemon.wait_ready().unwrap();
    backends_become(&mesh, "east", "without-2", &["west 10.9.7.2:8080"]);
    a_global_service_follows_its_owner(&mesh, "east", "west", "bag");
}

/// Revisions of what west has of east's services, by key.
fn mirrored(mesh: &Mesh<'_>) -> Result<Vec<(String, i64)>> {
    let args = ["get", "--prefix", "cilium/cache/services/v1/east/", "-w", "json"];
    let answer: Value = serde_json::from_str(&mesh.member("west").etcdctl().run(&args)?)?;
    let entries = answer["kvs"].as_array().context("nothing is mirrored")?;
    let revision = |entry: &Value| {
        let key = entry["key"].as_str().unwrap_or_default().to_owned();
        (key, entry["mod_revision"].as_i64().unwrap_or_default())
    };
    Ok(entries.iter().map(revision).collect())
}

#[test]
fn a_mirror_that_lands_on_another_replica_starts_over_and_writes_nothing_that_did_not_change() {
    let bed = bed_of("replicas", &["west", "east"]);
    let mesh = Mesh::builder(&bed).in_one_process("west").in_one_process("east").start().unwrap();
    let hosts: Vec<Host> = (1..=2).map(|n| bed.host(&format!("replica-{n}"), 60 + n).unwrap()).collect();
    let ip = |host: &Host, what: &str| {
        host.exec("ip").args(["address", what, &format!("{SHARED}/16"), "dev", "eth0"]).stdout().unwrap()
    };
    ip(&hosts[0], "add");
    let _replicas: Vec<Daemon> =
        hosts.iter().map(|host| mesh.replica("east", host, SHARED).unwrap()).collect();
    apply_service(&mesh, "west", "cart", &[GLOBAL], &[]);
    apply_service(&mesh, "east", "cart", &[GLOBAL], &[("cart-1", &["10.9.1.1"])]);
    backends_become(&mesh, "west", "cart", &["east 10.9.1.1:8080"]);

    let west = mesh.member("west");
    let remote = |field: &str| -> Result<Value> {
        let page: Value = serde_json::from_str(&west.daemon(Part::Store).health("/remotes")?)?;
        let remotes = page["remotes"].as_array().context("no remotes")?;
        let east = remotes.iter().find(|remote| remote["name"] == "east").context("no east")?;
        Ok(east[field].clone())
    };
    let client = mesh.pki().client("remote").unwrap();
    let file = west.remotes_dir().join("east");
    let own = remote("storeClusterId").unwrap();
    mesh.pki().write_etcd_config(&file, &[format!("https://{SHARED}:2379")], &client).unwrap();
    bed.eventually("west reads the first replica", SOON, || {
        let id = remote("storeClusterId")?;
        ensure!(id != own && remote("ready")? == json!(true), "{id}");
        Ok(())
    });
    let (first, before) = (remote("storeClusterId").unwrap(), mirrored(&mesh).unwrap());
    assert!(!before.is_empty());

    // The address moves, as a Service's does when a pod is not ready any more.
    ip(&hosts[0], "del");
    ip(&hosts[1], "add");
    let neighbours = west.cluster().host();
    neighbours.exec("ip").args(["neighbour", "flush", "dev", "eth0"]).stdout().unwrap();
    bed.eventually("west reads the second replica", SOON, || {
        let id = remote("storeClusterId")?;
        ensure!(id != first && id != own && remote("ready")? == json!(true), "{id}");
        Ok(())
    });
    assert_eq!(mirrored(&mesh).unwrap(), before, "nothing was written");
    backends_become(&mesh, "west", "cart", &["east 10.9.1.1:8080"]);
    let kubectl = mesh.member("east").cluster().kubectl();
    let slice = objects::endpoint_slice("shop", "cart", "cart-1", &addresses(&["10.9.1.2"]), 8080);
    kubectl.apply_object(&slice).unwrap();
    backends_become(&mesh, "west", "cart", &["east 10.9.1.2:8080"]);
}
