//! `isthmus connect`, `disconnect` and `check` on real API servers, whose audit logs say what was written.

mod faults;
mod three;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::{Audited, Daemon, Held, Relay};
use serde_json::Value;

use self::faults::faults;
use self::world::World;
use crate::path::SOON;

/// What `docs/connect.md` explains.
fn explained() -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/connect.md");
    let text = fs::read_to_string(page).unwrap();
    let headings = text.lines().filter_map(|line| line.strip_prefix("### "));
    headings.filter_map(|heading| heading.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn each_fault_is_found_by_its_own_code_and_nothing_is_written() {
    let bed = World::bed("connect-faults");
    let world = World::new(&bed);
    let _stores = world.stores();

    let sound = world.connect(&[]);
    assert_eq!((sound.code, sound.codes()), (0, BTreeSet::new()), "{sound:?}");
    let mut found = BTreeSet::new();
    for fault in faults(&world) {
        for (cluster, object) in &fault.seed {
            bed.cluster(cluster).kubectl().apply_object(object).unwrap();
        }
        for (cluster, kind, name) in &fault.without {
            bed.cluster(cluster).kubectl().delete("kube-system", kind, name).unwrap();
        }
        if let Some((relay, seconds)) = fault.ahead {
            relay.set_ahead(seconds);
        }
        let args: Vec<&str> = fault.args.iter().map(String::as_str).collect();
        let answer = world.connect(&[&["--apply"][..], &args].concat());
        let all = format!("{} ({}): {answer:?}", fault.code, fault.what);
        assert_eq!(answer.code, fault.exit, "{all}");
        assert!(answer.codes().contains(fault.code), "{all}");
        assert_eq!(answer.json["outcome"], "not-written", "{all}");
        assert!(answer.stdout.contains(&fault.found), "{all}");
        assert_eq!(world.writes(), [], "{all}");
        found.insert(fault.code.to_owned());
        world.restore(&fault);
    }
    // By `check`, which is the only one to tell of this.
    let answer = world.run("check", &["--context=west", "--context=east"]);
    assert_eq!(
        (answer.code, answer.states("C702").as_slice()),
        (3, &["warning".to_owned()][..]),
        "{answer:?}"
    );
    found.insert("C702".to_owned());
    assert_eq!(found, explained(), "a check without a fault, or the other way round");
    let again = world.connect(&[]);
    assert_eq!((again.code, again.codes()), (0, BTreeSet::new()), "all faults are mended: {again:?}");
    assert_eq!(world.writes(), []);
}

#[test]
fn wrong_usage_has_code_2_and_says_what_there_is() {
    let bed = World::bed("connect-usage");
    let world = World::new(&bed);
    for (args, expected) in [
        (
            &["--context=west", "--context=north"][..],
            "--context north: no such context; the kubeconfig has again, dead, dead2, east, late, stranger, west",
        ),
        (&["--context=west"], "expected two or more clusters"),
        (&["--kubeconfig=/nowhere", "--context=west"], "kubeconfig: "),
        (&["--yes", "--contexts"], "--apply"),
    ] {
        let answer = world.run("connect", args);
        assert_eq!(answer.code, 2, "{args:?}: {answer:?}");
        assert!(answer.stderr.contains(expected), "{args:?}: {}", answer.stderr);
    }
    let none = world.host().isthmus().unwrap().env("HOME", "/nowhere").env("KUBECONFIG", "");
    let none = none.args(["connect", "--context=west"]).output().unwrap();
    assert_eq!(none.status.code(), Some(2), "{}", none.stderr);
    assert!(none.stderr.contains("give --kubeconfig FILE, or set KUBECONFIG"), "{}", none.stderr);
}

#[test]
fn what_is_planned_is_written_and_makes_two_clusters_one_mesh() {
    let bed = World::bed("connect");
    let world = World::new(&bed);
    let mut daemons = world.stores();

    let planned = world.connect(&[]);
    assert_eq!((planned.code, &planned.json["outcome"]), (0, &"planned".into()), "{planned:?}");
    let dry = world.connect(&["--apply", "--dry-run"]);
    assert_eq!((dry.code, &dry.json["outcome"]), (0, &"dry-run".into()), "{dry:?}");
    let before = world.objects();
    assert!(before.values().all(BTreeMap::is_empty), "a dry run keeps nothing: {before:?}");
    assert_eq!(world.writes(), []);

    // What is applied equals the plan: in the objects, and in what the API servers were asked.
    let applied = world.connect(&["--apply"]);
    assert_eq!((applied.code, &applied.json["outcome"]), (0, &"applied".into()), "{applied:?}");
    assert_eq!(applied.json["plan"], planned.json["plan"]);
    assert_eq!(world.objects(), of_plan(&planned.json), "{planned:?}");
    let asked = |plan: &Value| -> BTreeSet<(String, String, String)> {
        let writes = plan["plan"].as_array().unwrap().iter();
        writes
            .map(|write| {
                let kind = if write["kind"] == "Secret" { "secrets" } else { "configmaps" };
                let text = |field: &str| write[field].as_str().unwrap().to_owned();
                (text("cluster"), kind.to_owned(), text("name"))
            })
            .collect()
    };
    let writes = world.writes();
    let done: BTreeSet<_> = writes
        .iter()
        .map(|(cluster, write)| (cluster.clone(), write.resource.clone(), write.name.clone()))
        .collect();
    assert_eq!((writes.len(), done), (6, asked(&planned.json)));
    assert!(writes.iter().all(|(_, write)| write.agent.starts_with("isthmus/")), "{writes:?}");

    // Twice is nothing.
    let twice = world.connect(&["--apply"]);
    assert_eq!((twice.code, &twice.json["outcome"]), (0, &"nothing-to-do".into()), "{twice:?}");
    assert_eq!(world.writes().len(), 6, "{:?}", world.writes());

    // Nothing is mounted yet, so nobody can read.
    let late = world.connect(&["--apply", "--wait", "--timeout=10s"]);
    assert_eq!(late.code, 4, "{late:?}");

    // The clusters see each other by what was written, as it is mounted.
    world.mount();
    for pod in world.pods() {
        let mut mirror = pod.kvstoremesh().unwrap();
        mirror.wait_ready().unwrap();
        daemons.push(mirror);
    }
    for (here, there) in [("west", "east"), ("east", "west")] {
        let store = world.store_of(here);
        bed.eventually(&format!("{here} has the nodes of {there}"), SOON, || {
            let keys = store.get_prefix(&format!("cilium/cache/nodes/v1/{there}/"))?;
            ensure!(keys.len() == 1, "it has {:?}", keys.keys());
            Ok(())
        });
    }
    let waited = world.connect(&["--apply", "--wait", "--timeout=120s"]);
    assert_eq!(waited.code, 0, "{waited:?}");
    let healthy = world.run("check", &["--context=west", "--context=east"]);
    assert_eq!((healthy.code, &healthy.json["healthy"]), (0, &true.into()), "{healthy:?}");
    let text = world.isthmus().args(["check", "--context=west", "--context=east"]).stdout().unwrap();
    assert!(
        text.contains("  ok   C101 cluster ids differ") && text.ends_with("Nothing is in the way.\n"),
        "{text}"
    );

    // Another writer's keys stay, whoever comes and goes.
    bed.cluster("west")
        .kubectl()
        .patch("kube-system", "secret", "cilium-kvstoremesh", &serde_json::json!({"data": {"note": "eA=="}}))
        .unwrap();
    let gone = world.run("disconnect", &["east", "--context=west", "--apply"]);
    assert_eq!((gone.code, &gone.json["outcome"]), (0, &"applied".into()), "{gone:?}");
    let left = world.objects();
    assert_eq!(left[&key("west", "secrets", "cilium-kvstoremesh")].keys().collect::<Vec<_>>(), ["note"]);
    assert!(
        left[&key("east", "secrets", "cilium-kvstoremesh")].contains_key("west"),
        "only one side was named"
    );
    let both = world.run("disconnect", &["--context=west", "--context=east", "--apply"]);
    assert_eq!(both.code, 0, "{both:?}");
    assert!(!world.objects().values().any(|data| data.contains_key("west") || data.contains_key("east")));
    let nothing = world.run("disconnect", &["--context=west", "--context=east", "--apply"]);
    assert_eq!((nothing.code, &nothing.json["outcome"]), (0, &"nothing-to-do".into()), "{nothing:?}");
}

#[test]
fn on_a_terminal_it_asks_first_and_keeps_to_the_width() {
    let bed = World::bed("connect-terminal");
    let world = World::new(&bed);
    let both = "--no-probe --context=west --context=east";
    let refused = world.terminal(80, &format!("connect {both} --apply"), "n\n");
    assert_eq!(refused.code, 3, "{}", refused.stdout);
    assert!(refused.stdout.contains("Write these 6 objects? [y/N]"), "{}", refused.stdout);
    assert_eq!(world.writes(), []);
    let confirmed = world.terminal(80, &format!("connect {both} --apply"), "y\n");
    assert_eq!(confirmed.code, 0, "{}", confirmed.stdout);
    assert_eq!(world.writes().len(), 6);

    let address = "--address=west=192.0.2.1:2379 --context=dead --timeout=60s";
    let mut heights = Vec::new();
    for columns in [80, 140] {
        let shown = world.terminal(columns, &format!("check {both} {address}"), "");
        assert_eq!(shown.code, 1, "{}", shown.stdout);
        for expected in
            ["\u{1b}[31m✘\u{1b}[0m C001", "\u{1b}[32m✔\u{1b}[0m C101", "\u{1b}[33m!\u{1b}[0m C702"]
        {
            assert!(shown.stdout.contains(expected), "{}", shown.stdout);
        }
        let plain = world.plain_terminal(columns, &format!("check {both} {address}"), "");
        assert!(plain.stdout.contains("✘ C001") && !plain.stdout.contains("\u{1b}[3"), "{}", plain.stdout);
        let widest = plain.stdout.lines().map(|line| line.trim_end().chars().count()).max();
        assert!(widest.is_some_and(|widest| widest <= columns), "{}", plain.stdout);
        assert!(plain.stdout.contains("  ? C403 "), "the stores were not tried: {}", plain.stdout);
        heights.push(plain.stdout.lines().count());
    }
    assert!(heights[0] > heights[1], "a wider terminal has fewer lines: {heights:?}");
}

#[test]
fn an_interrupted_apply_is_finished_by_running_again() {
    let bed = World::bed("connect-interrupted");
    let world = World::new(&bed);
    let _stores = world.stores();
    let relay: &Relay = world.relay();
    relay.hold(Held::Writes);
    let args = ["connect", "--no-probe", "--context=west", "--context=late", "--apply"];
    let mut first: Daemon = world.host().daemon(world.daemon(&args)).unwrap();
    bed.eventually("the second cluster's first write is held", SOON, || {
        ensure!(relay.waiting() == 1, "{} are held", relay.waiting());
        Ok(())
    });
    let written = |cluster: &str| world.writes().into_iter().filter(|(of, _)| of == cluster).count();
    bed.eventually("the first cluster's first write is done", SOON, || {
        ensure!(written("west") == 1, "{:?}", world.writes());
        Ok(())
    });
    assert_eq!(written("east"), 0);
    first.kill9().unwrap();
    relay.hold(Held::No);

    let second = world.run("connect", &["--context=west", "--context=late", "--apply"]);
    assert_eq!((second.code, &second.json["outcome"]), (0, &"applied".into()), "{second:?}");
    assert_eq!(second.json["plan"].as_array().unwrap().len(), 5, "one was done already: {second:?}");
    bed.eventually("each object was written once", SOON, || {
        ensure!((written("west"), written("east")) == (3, 3), "{:?}", world.writes());
        Ok(())
    });
    let third = world.connect(&["--apply"]);
    assert_eq!(third.json["outcome"], "nothing-to-do", "{third:?}");

    // Somebody else writes between the plan and the write: that is not overwritten.
    let parted = world.run("disconnect", &["--context=west", "--context=east", "--apply"]);
    assert_eq!(parted.code, 0, "{parted:?}");
    relay.hold(Held::Writes);
    let mut late: Daemon = world.host().daemon(world.daemon(&args).named("late")).unwrap();
    bed.eventually("a write is held", SOON, || {
        ensure!(relay.waiting() == 1, "{} are held", relay.waiting());
        Ok(())
    });
    let others = "users:\n- name: operator\n  role: root\n";
    let patch = serde_json::json!({"data": {"users.yaml": others}});
    let kubectl = bed.cluster("east").kubectl();
    kubectl.patch("kube-system", "configmap", "clustermesh-remote-users", &patch).unwrap();
    relay.hold(Held::No);
    bed.eventually("it ends", SOON, || late.process().exited()?.context("it runs"));
    let said = fs::read_to_string(late.log()).unwrap();
    assert!(said.contains("somebody else wrote it since it was read"), "{said}");
    assert!(said.contains("1 of 6 writes are done, running again does the rest"), "{said}");
    let users = || {
        kubectl.get("kube-system", "configmap", "clustermesh-remote-users").unwrap()["data"]["users.yaml"]
            .clone()
    };
    assert_eq!(users(), others);
    assert_eq!(world.connect(&["--apply"]).code, 0);
    assert_eq!(users(), format!("{others}- name: remote-west\n  role: remote\n"));
}

/// Cluster, kind and name of an object.
type Key = (String, String, String);

fn key(cluster: &str, kind: &str, name: &str) -> Key {
    (cluster.to_owned(), kind.to_owned(), name.to_owned())
}

/// What a plan over nothing leaves: lines by key.
fn of_plan(report: &Value) -> BTreeMap<Key, BTreeMap<String, Vec<String>>> {
    let writes = report["plan"].as_array().unwrap().iter().map(|write| {
        let text = |field: &str| write[field].as_str().unwrap();
        assert_eq!((text("action"), text("namespace")), ("create", "kube-system"));
        let kind = if text("kind") == "Secret" { "secrets" } else { "configmaps" };
        let keys = write["keys"].as_array().unwrap().iter().map(|change| {
            assert_eq!(change["change"], "add");
            let lines = change["value"].as_array().unwrap().iter();
            let lines = lines.map(|line| line.as_str().unwrap().to_owned()).collect();
            (change["key"].as_str().unwrap().to_owned(), lines)
        });
        (key(text("cluster"), kind, text("name")), keys.collect())
    });
    writes.collect()
}

/// `data` of an object as lines, decoded if it is a Secret's.
fn lines(object: &Value) -> Result<BTreeMap<String, Vec<String>>> {
    let data = object["data"].as_object().into_iter().flatten();
    let line = |(key, value): (&String, &Value)| {
        let value = value.as_str().context("a value that is no text")?;
        let text = if object["kind"] == "Secret" {
            String::from_utf8(STANDARD.decode(value)?)?
        } else {
            value.to_owned()
        };
        Ok((key.clone(), text.lines().map(str::to_owned).collect()))
    };
    data.map(line).collect()
}

/// Whether it is a write, and neither one of the test's own, by kubectl, nor one of a daemon.
fn is_ours(request: &Audited) -> bool {
    request.is_write() && !request.agent.starts_with("kubectl") && !request.user.starts_with("system:")
}
