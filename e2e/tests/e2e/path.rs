//! The path of objects from one cluster's API to the tables of another, as steps that scenarios share.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bed, Mesh, objects};
use serde_json::{Value, json};

/// How long something may take to go through all daemons, on a machine that does much else.
pub(crate) const SOON: Duration = Duration::from_secs(120);
pub(crate) const GLOBAL: (&str, &str) = ("service.cilium.io/global", "true");

/// Says that it is over when it goes, also by a panic: a thread that goes on until then must not be waited for without end.
pub(crate) struct EndOnDrop<'over>(pub(crate) &'over AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two real API servers, and the daemons over them.
pub(crate) fn bed_of(name: &str, clusters: &[&str]) -> Bed {
    let named = clusters.iter().zip(1..);
    named.fold(Bed::builder(name), |bed, (cluster, id)| bed.cluster(cluster, id)).start().unwrap()
}

pub(crate) fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

/// A namespace and a Service with its backends, in one cluster.
pub(crate) fn apply_service(
    mesh: &Mesh<'_>,
    cluster: &str,
    name: &str,
    annotations: &[(&str, &str)],
    slices: &[(&str, &[&str])],
) {
    let kubectl = mesh.member(cluster).cluster().kubectl();
    let slices = slices
        .iter()
        .map(|(slice, backends)| objects::endpoint_slice("shop", name, slice, &addresses(backends), 8080));
    let service = objects::service("shop", name, 80, annotations);
    let items: Vec<Value> = [objects::namespace("shop"), service].into_iter().chain(slices).collect();
    kubectl.apply_object(&json!({"apiVersion": "v1", "kind": "List", "items": items})).unwrap();
}

/// Waits until the agent of `cluster` sends connections for `shop/<name>` to exactly these: `cluster address:port`.
pub(crate) fn backends_become(mesh: &Mesh<'_>, cluster: &str, name: &str, expected: &[&str]) {
    let what = format!("{cluster}: shop/{name} has the backends {expected:?}");
    mesh.bed().eventually(&what, SOON, || backends_are(mesh, cluster, name, expected));
}

pub(crate) fn backends_are(mesh: &Mesh<'_>, cluster: &str, name: &str, expected: &[&str]) -> Result<()> {
    let found = mesh.member(cluster).backends("shop", name)?;
    let expected: BTreeSet<_> = expected.iter().map(|backend| (*backend).to_owned()).collect();
    ensure!(found == expected, "found {found:?}");
    Ok(())
}

/// Waits for an entry of a table with some fields.
pub(crate) fn entry_becomes(
    mesh: &Mesh<'_>,
    cluster: &str,
    (table, field, value): (&str, &str, &str),
    expected: &Value,
) {
    let what = format!("{cluster}: {table} has {field} {value} with {expected}");
    mesh.bed().eventually(&what, SOON, || {
        let found = mesh.member(cluster).entry(table, field, value)?;
        for (name, wanted) in expected.as_object().context("the test expects fields")? {
            ensure!(&found[name] == wanted, "{name} is {}", found[name]);
        }
        Ok(())
    });
}

/// Waits until a table has no such entry.
pub(crate) fn entry_goes(mesh: &Mesh<'_>, cluster: &str, (table, field, value): (&str, &str, &str)) {
    mesh.bed().eventually(&format!("{cluster}: {table} has no {field} {value}"), SOON, || {
        mesh.member(cluster).agent(table)?;
        ensure!(mesh.member(cluster).entry(table, field, value).is_err(), "it is still there");
        Ok(())
    });
}

/// A global Service of `from` shows at `to`, and each change of it follows.
pub(crate) fn a_global_service_follows_its_owner(mesh: &Mesh<'_>, from: &str, to: &str, name: &str) {
    let owner = mesh.member(from).cluster().kubectl();
    let (first, second) = (format!("{name}-1"), format!("{name}-2"));
    apply_service(mesh, to, name, &[GLOBAL], &[(&first, &["10.9.9.9"])]);
    backends_become(mesh, to, name, &[&format!("{to} 10.9.9.9:8080")]);

    // It appears, with both of its slices.
    apply_service(
        mesh,
        from,
        name,
        &[GLOBAL],
        &[(&first, &["10.9.1.1", "10.9.1.2"]), (&second, &["10.9.1.3"])],
    );
    let (local, remote) = (format!("{to} 10.9.9.9:8080"), |last: u8| format!("{from} 10.9.1.{last}:8080"));
    let (one, two, three, four) = (remote(1), remote(2), remote(3), remote(4));
    backends_become(mesh, to, name, &[&local, &one, &two, &three]);

    // It is edited: one backend less, another one; one slice less.
    let edited = objects::endpoint_slice("shop", name, &first, &addresses(&["10.9.1.2", "10.9.1.4"]), 8080);
    owner.apply_object(&edited).unwrap();
    backends_become(mesh, to, name, &[&local, &two, &three, &four]);
    owner.delete("shop", "endpointslice", &second).unwrap();
    backends_become(mesh, to, name, &[&local, &two, &four]);

    // It is kept to itself, shared again, not global any more, global again, and gone.
    let annotate = |annotations: Value| {
        owner.patch("shop", "service", name, &json!({"metadata": {"annotations": annotations}})).unwrap();
    };
    annotate(json!({"service.cilium.io/shared": "false"}));
    backends_become(mesh, to, name, &[&local]);
    annotate(json!({"service.cilium.io/shared": null}));
    backends_become(mesh, to, name, &[&local, &two, &four]);
    annotate(json!({"service.cilium.io/global": "false"}));
    backends_become(mesh, to, name, &[&local]);
    annotate(json!({"service.cilium.io/global": "true"}));
    backends_become(mesh, to, name, &[&local, &two, &four]);
    owner.delete("shop", "service", name).unwrap();
    backends_become(mesh, to, name, &[&local]);
}
