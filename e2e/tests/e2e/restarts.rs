//! Restarting any one daemon, or a store, loses nothing and removes nothing good.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Member, Mesh, Part, objects};
use serde_json::Value;

use crate::path::{
    GLOBAL, SOON, addresses, apply_service, backends_are, backends_become, bed_of, entry_becomes,
};

/// How long nothing may change after the daemon is ready again; longer than the pauses of those who retry at first.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// What must not be touched: the rows that came from the other cluster.
#[derive(Debug, PartialEq)]
struct Rows(BTreeMap<&'static str, Vec<String>>);

impl Rows {
    /// Of the agent of `member`, about the cluster `of`.
    fn read(member: &Member<'_>, of: &str) -> Result<Self> {
        let rows = |table: &'static str| -> Result<_> {
            let answer = member.agent(table)?;
            let entries = answer[match table {
                "ipcache" => "entries",
                other => other,
            }]
            .as_array()
            .with_context(|| format!("{table}: {answer}"))?
            .iter()
            .filter(|entry| entry["cluster"] == of)
            .map(Value::to_string);
            Ok((table, entries.collect()))
        };
        ["nodes", "ipcache", "identities"].into_iter().map(rows).collect::<Result<_>>().map(Self)
    }
}

#[test]
fn restarting_or_killing_any_one_daemon_loses_nothing_and_removes_nothing_good() {
    let bed = bed_of("restarts", &["west", "east"]);
    let mut mesh = Mesh::builder(&bed).dns().start().unwrap();
    let pod = mesh.member("west").node().pod("cart-0").unwrap();
    let identity = 65_536 + 1;
    apply_service(&mesh, "west", "cart", &[GLOBAL], &[("cart-1", &["10.9.1.0"])]);
    apply_service(&mesh, "east", "cart", &[GLOBAL], &[]);
    let west = mesh.member("west").cluster().kubectl();
    west.apply_object(&objects::cilium_identity(identity, "west", "shop", &[("app", "cart")])).unwrap();
    west.apply_object(&objects::cilium_endpoint(&pod, "shop", identity)).unwrap();
    backends_become(&mesh, "east", "cart", &["west 10.9.1.0:8080"]);
    entry_becomes(&mesh, "east", ("identities", "id", &identity.to_string()), &serde_json::json!({}));
    let prefix = format!("{}/32", pod.address());
    entry_becomes(&mesh, "east", ("ipcache", "prefix", &prefix), &serde_json::json!({"identity": identity}));
    let rows = Rows::read(mesh.member("east"), "west").unwrap();
    assert!(rows.0.values().all(|rows| !rows.is_empty()), "{rows:?}");

    let turns = [
        ("west", Part::Exporter),
        ("west", Part::Store),
        ("west", Part::Mirror),
        ("east", Part::Store),
        ("east", Part::Mirror),
        ("east", Part::Exporter),
        ("east", Part::Dns),
    ];
    let mut last = 0_u8;
    for (cluster, part) in turns {
        for kill in [false, true] {
            let how = if kill { "killed" } else { "restarted" };
            let what = format!("{part:?} of {cluster} is {how}");
            let began = Instant::now();
            let backend = format!("west 10.9.1.{last}:8080");
            let kept = |mesh: &Mesh<'_>| {
                backends_are(mesh, "east", "cart", &[&backend])?;
                let now = Rows::read(mesh.member("east"), "west")?;
                ensure!(now == rows, "was {rows:#?}, is {now:#?}");
                Ok(())
            };
            let daemon = mesh.member_mut(cluster).daemon_mut(part);
            if kill {
                daemon.kill9().unwrap();
            } else {
                daemon.stop().unwrap();
            }
            bed.always(&format!("{what}: nothing changes while it is away"), Duration::from_secs(1), || {
                kept(&mesh)
            });
            mesh.member_mut(cluster).daemon_mut(part).restart().unwrap();
            ready_while(&mut mesh, cluster, part, &kept);
            bed.always(&format!("{what}: nothing changes afterwards"), AFTERWARDS, || kept(&mesh));

            // A change flows again.
            last += 1;
            let address = format!("10.9.1.{last}");
            let slice = objects::endpoint_slice("shop", "cart", "cart-1", &addresses(&[&address]), 8080);
            mesh.member("west").cluster().kubectl().apply_object(&slice).unwrap();
            backends_become(&mesh, "east", "cart", &[&format!("west {address}:8080")]);
            println!("{what}: nothing lost, {:?}", began.elapsed());
        }
    }
    the_agent_comes_back_with_the_same_tables(&mut mesh, &rows, last);
}

/// Waits until the daemon is ready, while `kept` must hold.
fn ready_while(mesh: &mut Mesh<'_>, cluster: &str, part: Part, kept: &dyn Fn(&Mesh<'_>) -> Result<()>) {
    let bed = mesh.bed();
    let deadline = Instant::now() + SOON;
    loop {
        let ready = mesh.member(cluster).daemon(part).health("/readyz");
        bed.always(&format!("{part:?} of {cluster} starts"), Duration::from_millis(1), || kept(mesh));
        match ready {
            Ok(_yes) => return,
            Err(error) => assert!(Instant::now() < deadline, "{error:#}\n{}", bed.diary().read()),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn the_agent_comes_back_with_the_same_tables(mesh: &mut Mesh<'_>, rows: &Rows, last: u8) {
    for kill in [false, true] {
        let agent = mesh.member_mut("east").daemon_mut(Part::Agent(0));
        if kill {
            agent.kill9().unwrap();
        }
        agent.restart().unwrap();
        agent.wait_ready().unwrap();
        backends_become(mesh, "east", "cart", &[&format!("west 10.9.1.{last}:8080")]);
        let now = Rows::read(mesh.member("east"), "west").unwrap();
        assert_eq!(&now, rows);
    }
}
