//! What is left of a cluster that is gone, and withdrawals that were meant: by the commands that users run.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Exec, Member, Mesh, Part, objects};
use serde_json::{Value, json};

use crate::path::{GLOBAL, SOON, addresses, apply_service, backends_are, backends_become, bed_of};

/// All keys of east's store that tell of west.
fn of_west(east: &Member<'_>) -> Result<Vec<String>> {
    let keys = east.etcdctl().get_prefix("cilium/")?;
    Ok(keys.into_keys().filter(|key| key.split('/').any(|part| part == "west")).collect())
}

fn forget(east: &Member<'_>, args: &[&str]) -> Exec {
    let store =
        format!("--kvstore-opt=etcd.config={}", east.cluster().dir().join("admin-etcd.yaml").display());
    let exec = east.cluster().host().isthmus().unwrap().args(["forget", "west"]).arg(store);
    exec.arg("--clustermesh-config").arg(east.remotes_dir()).args(args.iter().copied())
}

#[test]
fn a_cluster_that_died_is_forgotten_and_nothing_is_left() {
    let bed = bed_of("forget", &["west", "east"]);
    let mut mesh = Mesh::builder(&bed).start().unwrap();
    apply_service(&mesh, "west", "cart", &[GLOBAL], &[("cart-1", &["10.9.1.1", "10.9.1.2"])]);
    apply_service(&mesh, "east", "cart", &[GLOBAL], &[("cart-1", &["10.9.2.1"])]);
    let both = ["east 10.9.2.1:8080", "west 10.9.1.1:8080", "west 10.9.1.2:8080"];
    backends_become(&mesh, "east", "cart", &both);

    // West dies whole. That is no withdrawal.
    for part in [Part::Exporter, Part::Mirror, Part::Store] {
        mesh.member_mut("west").daemon_mut(part).kill9().unwrap();
    }
    bed.always("what west exported stays", Duration::from_secs(2), || {
        backends_are(&mesh, "east", "cart", &both)
    });

    // As long as it is configured, forgetting it would not last.
    let east = mesh.member("east");
    let refused = forget(east, &[]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    let file = east.remotes_dir().join("west");
    let said = refused.stderr.clone();
    assert!(said.contains("still configured") && said.contains(&file.display().to_string()), "{said}");
    assert!(!of_west(east).unwrap().is_empty(), "nothing was done");

    // The mirror is away too, so nobody but the command can do it.
    mesh.member_mut("east").daemon_mut(Part::Mirror).kill9().unwrap();
    std::fs::remove_file(&file).unwrap();
    let east = mesh.member("east");
    let done = forget(east, &["-o", "json"]).output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}{}", done.stdout, done.stderr);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&report["cluster"], &report["left"]), (&json!("west"), &json!([])));
    assert!(report["deleted"]["cilium/cache/services/v1/west/"].as_u64() >= Some(1), "{report}");
    assert_eq!(of_west(east).unwrap(), Vec::<String>::new());
    backends_become(&mesh, "east", "cart", &both[..1]);

    // The mirror comes back without it, and west with it: still nothing.
    let mirror = mesh.member_mut("east").daemon_mut(Part::Mirror);
    mirror.restart().unwrap();
    mirror.wait_ready().unwrap();
    bed.always("nothing of west comes back", Duration::from_secs(2), || {
        let left = of_west(mesh.member("east"))?;
        ensure!(left.is_empty(), "{left:?}");
        backends_are(&mesh, "east", "cart", &both[..1])
    });
    let again = forget(mesh.member("east"), &[]).output().unwrap();
    assert_eq!(again.status.code(), Some(0));
    assert!(
        again.stdout.starts_with("west: 0 keys deleted\nlisted again: nothing is left"),
        "{}",
        again.stdout
    );
}

/// What east's mirror says of west's services.
fn view(mesh: &Mesh<'_>) -> Result<Value> {
    let page = mesh.member("east").page(Part::Mirror, "/remotes")?;
    let remotes = page["remotes"].as_array().context("a page without remotes")?;
    let west = remotes.iter().find(|remote| remote["name"] == "west").context("no west")?;
    Ok(west["resources"]["services"].clone())
}

#[test]
fn an_abrupt_withdrawal_is_held_until_a_user_says_that_it_is_right() {
    let bed = bed_of("release", &["west", "east"]);
    let mesh = Mesh::builder(&bed).argument("east", Part::Mirror, "--withdrawal-exempt=3").start().unwrap();
    let names: Vec<String> = (0..8).map(|nth| format!("cart-{nth}")).collect();
    for (nth, name) in names.iter().enumerate() {
        let backend = format!("10.9.1.{}", nth + 1);
        apply_service(&mesh, "west", name, &[GLOBAL], &[(&format!("{name}-1"), &[&backend])]);
    }
    for (nth, name) in names.iter().enumerate() {
        apply_service(&mesh, "east", name, &[GLOBAL], &[]);
        backends_become(&mesh, "east", name, &[&format!("west 10.9.1.{}:8080", nth + 1)]);
    }

    // All go at once, as with an exporter that starts with an empty source.
    let west = mesh.member("west").cluster().kubectl();
    let local = [("service.cilium.io/global", "false")];
    let items: Vec<Value> = names.iter().map(|name| objects::service("shop", name, 80, &local)).collect();
    west.apply_object(&json!({"apiVersion": "v1", "kind": "List", "items": items})).unwrap();
    bed.eventually("the withdrawal is held back and flagged", SOON, || {
        let view = view(&mesh)?;
        ensure!(view["withheld"]["reason"] == "withdrawal-abrupt", "{view}");
        Ok(())
    });
    let still = || -> Result<usize> {
        let prefix = "cilium/cache/services/v1/west/";
        Ok(mesh.member("east").etcdctl().get_prefix(prefix)?.len())
    };
    let held = still().unwrap();
    assert!(held > 1, "{held} stayed");
    bed.always("it stays", Duration::from_secs(2), || {
        ensure!(still()? == held, "{} stay", still()?);
        Ok(())
    });

    // Another kind is not released with it.
    let release = |args: &[&str]| {
        let host = mesh.member("east").cluster().host();
        let address = Part::Mirror.health().to_string();
        let exec = host.isthmus().unwrap().args(["kvstoremesh", "release", "west"]);
        exec.args(args.iter().copied()).args(["--address", &address]).output().unwrap()
    };
    let others = release(&["nodes"]);
    assert_eq!((others.status.code(), others.stdout.trim()), (Some(0), "west: nothing was held back"));
    assert_eq!(still().unwrap(), held);
    let done = release(&["services"]);
    assert_eq!(done.status.code(), Some(0), "{}", done.stderr);
    assert_eq!(done.stdout.trim(), format!("west: withdrawn {held} of services"));
    bed.eventually("the services go", SOON, || {
        ensure!(still()? == 0, "{} stay", still()?);
        Ok(())
    });
    let rest = release(&[]);
    assert!(
        rest.stdout.contains("of endpointslices") && !rest.stdout.contains("of services"),
        "{}",
        rest.stdout
    );
    for name in &names {
        backends_become(&mesh, "east", name, &[]);
    }
    bed.eventually("nothing is held any more", SOON, || {
        let view = view(&mesh)?;
        ensure!(view["withheld"].is_null() && still()? == 0, "{view}");
        Ok(())
    });
    assert_eq!(release(&[]).stdout.trim(), "west: nothing was held back");

    // A new one comes through as ever.
    let slice = objects::endpoint_slice("shop", "cart-0", "cart-0-1", &addresses(&["10.9.1.99"]), 8080);
    west.apply_object(&slice).unwrap();
    let global = json!({"metadata": {"annotations": {"service.cilium.io/global": "true"}}});
    west.patch("shop", "service", "cart-0", &global).unwrap();
    backends_become(&mesh, "east", "cart-0", &["west 10.9.1.99:8080"]);
}
