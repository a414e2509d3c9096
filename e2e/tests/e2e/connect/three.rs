//! Three clusters, one of them without Kubernetes: a full mesh by one command, and one of them leaves it.

use std::collections::BTreeSet;

use anyhow::ensure;
use e2e::{Bed, ClusterSpec};
use serde_json::Value;

use super::world::{Answer, World};
use super::{key, of_plan};
use crate::path::SOON;

const NAMES: [&str; 3] = ["west", "east", "north"];
const ALL: [&str; 3] = ["--context=west", "--context=east", "--context=north"];

/// The other clusters that are written in a cluster, for its mirror.
fn peers(world: &World<'_>, cluster: &str) -> BTreeSet<String> {
    let objects = world.objects();
    let object = objects.get(&key(cluster, "secrets", "cilium-kvstoremesh"));
    object.into_iter().flat_map(|data| data.keys().cloned()).collect()
}

/// Versions of all objects that are written to, by an API that keeps no account.
fn versions(world: &World<'_>) -> Vec<Value> {
    let kubectl = world.bed.cluster("north").kubectl();
    let lists = ["configmaps", "secrets"].map(|kind| kubectl.list("kube-system", kind).unwrap());
    lists.iter().flatten().map(|object| object["metadata"]["resourceVersion"].clone()).collect()
}

/// What each store has of the nodes of others.
fn each_has_the_nodes_of(world: &World<'_>, pairs: &[(&str, &str)]) {
    for (here, there) in pairs {
        let store = world.store_of(here);
        world.bed.eventually(&format!("{here} has the nodes of {there}"), SOON, || {
            let keys = store.get_prefix(&format!("cilium/cache/nodes/v1/{there}/"))?;
            ensure!(keys.len() == 1, "it has {:?}", keys.keys());
            Ok(())
        });
    }
}

fn outcome(answer: &Answer) -> (i32, &str) {
    (answer.code, answer.json["outcome"].as_str().unwrap_or_default())
}

#[test]
fn three_clusters_become_one_mesh_and_one_leaves_it() {
    let real = ["west", "east"].into_iter().zip(1..).map(|(name, id)| ClusterSpec::new(name, id).audited());
    let lite = ClusterSpec::new("north", 3).without_cilium().on_kube_lite();
    let bed = real.chain([lite]).fold(Bed::builder("connect-three"), |bed, spec| bed.with(spec));
    let bed = bed.start().unwrap();
    let world = World::new(&bed);
    let mut daemons = world.stores();

    // Half of them cannot be reached: they are named, and nothing is written to the others.
    let before = versions(&world);
    let half = ["--context=west", "--context=north", "--context=dead", "--context=dead2"];
    let refused = world.connect(&[&half[..], &["--apply", "--yes", "--timeout=60s"]].concat());
    assert_eq!(outcome(&refused), (1, "not-written"), "{refused:?}");
    assert_eq!(refused.codes(), BTreeSet::from(["C001".to_owned()]), "{refused:?}");
    let named = refused.json["findings"].as_array().unwrap().iter();
    let named: BTreeSet<_> = named.map(|finding| finding["clusters"][0].as_str().unwrap()).collect();
    assert_eq!(named, BTreeSet::from(["dead", "dead2"]));
    assert_eq!((world.writes(), versions(&world)), (Vec::new(), before));

    // Each gets the two others, and no more than the plan says.
    let planned = world.connect(&ALL);
    assert_eq!(outcome(&planned), (0, "planned"), "{planned:?}");
    assert_eq!(planned.json["plan"].as_array().unwrap().len(), 9, "{planned:?}");
    let applied = world.connect(&[&ALL[..], &["--apply"]].concat());
    assert_eq!(outcome(&applied), (0, "applied"), "{applied:?}");
    assert_eq!(applied.json["plan"], planned.json["plan"]);
    assert_eq!(world.objects(), of_plan(&planned.json));
    for cluster in NAMES {
        let others = NAMES.iter().filter(|name| **name != cluster).map(|name| (*name).to_owned());
        assert_eq!(peers(&world, cluster), others.collect(), "{cluster}");
    }

    // Twice is nothing.
    let after = versions(&world);
    let twice = world.connect(&[&ALL[..], &["--apply"]].concat());
    assert_eq!(outcome(&twice), (0, "nothing-to-do"), "{twice:?}");
    assert_eq!((world.writes().len(), versions(&world)), (6, after), "{:?}", world.writes());

    // The clusters see each other by what was written, as it is mounted.
    world.mount();
    for (cluster, pod) in bed.clusters().iter().zip(world.pods()) {
        if cluster.has_cilium() {
            let mut mirror = pod.kvstoremesh().unwrap();
            mirror.wait_ready().unwrap();
            daemons.push(mirror);
        }
    }
    let pairs = NAMES.iter().flat_map(|here| NAMES.iter().map(|there| (*here, *there)));
    let pairs: Vec<_> = pairs.filter(|(here, there)| here != there).collect();
    each_has_the_nodes_of(&world, &pairs);
    let waited = world.connect(&[&ALL[..], &["--apply", "--wait", "--timeout=120s"]].concat());
    assert_eq!(waited.code, 0, "{waited:?}");
    let healthy = world.run("check", &ALL);
    assert_eq!((healthy.code, &healthy.json["healthy"]), (0, &true.into()), "{healthy:?}");

    // One leaves: the others forget it, and stay as they are to each other.
    let left = world.run("disconnect", &["north", "--context=west", "--context=east", "--apply"]);
    assert_eq!(outcome(&left), (0, "applied"), "{left:?}");
    assert_eq!(peers(&world, "west"), BTreeSet::from(["east".to_owned()]));
    assert_eq!(peers(&world, "east"), BTreeSet::from(["west".to_owned()]));
    assert_eq!(peers(&world, "north").len(), 2, "it was not named as a context");
    let own = world.run("disconnect", &["west", "east", "--context=north", "--apply"]);
    assert_eq!(outcome(&own), (0, "applied"), "{own:?}");
    assert_eq!(peers(&world, "north"), BTreeSet::new());
    world.mount();
    for here in ["west", "east"] {
        let store = world.store_of(here);
        bed.eventually(&format!("{here} announces north no more"), SOON, || {
            let keys = store.get_prefix("cilium/cluster-config/")?;
            let names: Vec<_> = keys.keys().filter_map(|key| key.rsplit('/').next()).collect();
            ensure!(!names.contains(&"north"), "it announces {names:?}");
            Ok(())
        });
    }
    each_has_the_nodes_of(&world, &[("west", "east"), ("east", "west")]);
    let two = world.run("check", &ALL[..2]);
    assert_eq!((two.code, &two.json["healthy"]), (0, &true.into()), "{two:?}");
    let three = world.run("check", &ALL);
    assert_eq!((three.code, three.states("C702").as_slice()), (3, &["warning".to_owned()][..]), "{three:?}");
}
