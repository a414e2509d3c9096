//! What Cilium's exporter does with what users really write.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use clustermesh_apiserver::{Cni, Config, ServiceFormat};
use serde_json::{Value, json};

use crate::bench::{Bench, config, deleted_since, eventually, keys, names, new_store, until, until_names};
use crate::export::{IDENTITIES, IP, NODES, SERVICES, SLICES, SYNCED};
use crate::export::{cilium_endpoint, cilium_identity, cilium_node, namespace, shop, slice, value};
use kvstore::Client as _;

fn annotated(name: &str, annotations: &Value) -> Value {
    json!({
        "kind": "Service", "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
        "spec": {"selector": {"app": "cart"}, "ports": [{"name": "http", "port": 80}]},
    })
}

pub(crate) async fn annotations_count_by_both_of_their_names_and_the_newer_one_wins(
    bench: Bench,
) -> Result<()> {
    let store = &bench.store;
    shop(&bench).await?;
    let (global, shared) = ("service.cilium.io/global", "service.cilium.io/shared");
    let (old_global, old_shared) = ("io.cilium/global-service", "io.cilium/shared-service");
    let cases = [
        ("none", json!({}), false),
        ("new", json!({global: "true"}), true),
        ("old", json!({old_global: "true"}), true),
        ("any-case", json!({global: "TRUE"}), true),
        ("not-a-word", json!({global: "yes"}), false),
        ("new-over-old", json!({global: "false", old_global: "true"}), false),
        ("shared", json!({global: "true", shared: "true"}), true),
        ("not-shared", json!({global: "true", shared: "false"}), false),
        ("old-not-shared", json!({old_global: "true", old_shared: "false"}), false),
        ("shared-new-over-old", json!({global: "true", shared: "true", old_shared: "false"}), true),
        ("shared-alone", json!({shared: "true"}), false),
    ];
    for (name, annotations, _) in &cases {
        bench.apply(annotated(name, annotations)).await?;
    }
    let exporter = bench.export(config(), store)?;
    exporter.ready().await?;
    let exported = |changed: bool| {
        let wanted = cases.iter().filter(|case| case.2 != changed).map(|case| format!("shop/{}", case.0));
        let mut wanted: BTreeSet<String> = wanted.collect();
        wanted.insert("shop/cart".to_owned());
        wanted
    };
    assert_eq!(names(store, SERVICES).await?, exported(false));

    // Each becomes the opposite of what it is.
    for (name, _, is_global) in &cases {
        let annotations = json!({global: (!is_global).to_string(), shared: "true"});
        bench.apply(annotated(name, &annotations)).await?;
    }
    let wanted = exported(true);
    until(store, SERVICES, "the opposite", |found| found.keys().eq(wanted.iter())).await?;
    exporter.stop().await
}

/// A CiliumEndpointSlice of `shop`: names and addresses.
fn endpoint_slice(name: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoint = |(name, ip): &(&str, &str)| {
        json!({"name": name, "id": 196_700,
               "networking": {"node": "192.0.2.11", "addressing": [{"ipv4": ip}]}})
    };
    let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    json!({"kind": "CiliumEndpointSlice", "metadata": {"name": name}, "namespace": "shop", "endpoints": endpoints})
}

pub(crate) async fn endpoints_come_from_ciliums_slices_and_outlive_a_move_between_two(
    bench: Bench,
) -> Result<()> {
    let store = &bench.store;
    shop(&bench).await?;
    bench.apply(endpoint_slice("ces-1", &[("a", "10.72.1.30"), ("b", "10.72.1.31")])).await?;
    let exporter = bench.export(Config { cilium_endpoint_slices: true, ..config() }, store)?;
    exporter.ready().await?;
    // The CiliumEndpoint that is there as well is not looked at.
    until_names(store, IP, &["10.72.1.30", "10.72.1.31"]).await?;
    assert_eq!(value(&keys(store, IP).await?, "10.72.1.30")["K8sPodName"], "a");

    let from = store.status().await?.revision;
    // As Cilium's operator moves one: into the new slice first, and the other order.
    bench.apply(endpoint_slice("ces-2", &[("b", "10.72.1.31")])).await?;
    bench.apply(endpoint_slice("ces-1", &[("a", "10.72.1.30")])).await?;
    bench.apply(endpoint_slice("ces-2", &[("b", "10.72.1.31"), ("c", "10.72.1.32")])).await?;
    until_names(store, IP, &["10.72.1.30", "10.72.1.31", "10.72.1.32"]).await?;
    assert_eq!(deleted_since(store, from).await?, [""; 0], "an address that moved was never away");

    bench.delete("CiliumEndpointSlice", "", "ces-1").await?;
    until_names(store, IP, &["10.72.1.31", "10.72.1.32"]).await?;
    bench.apply(namespace("shop", false)).await?;
    until_names(store, IP, &[]).await?;
    exporter.stop().await
}

pub(crate) async fn ciliums_definitions_may_appear_later(bench: Bench) -> Result<()> {
    let (patient, either) = (new_store(), new_store());
    bench.apply(namespace("shop", true)).await?;
    let waits = bench.export(Config { cni: Cni::Cilium, ..config() }, &patient)?;
    let changes = bench.export(config(), &either)?;
    changes.ready().await?;
    assert_eq!(changes.status().source, Some("derived"));
    let waiting = || waits.status().resources.iter().filter(|of| !of.waiting_for.is_empty()).count() >= 3;
    eventually("the wait", waiting).await?;
    assert!(!waits.readiness.is_ready());
    for canary in ["nodes/v1", "ip/v1", "identities/v1"] {
        assert!(!names(&patient, SYNCED).await?.contains(canary), "{canary} would say that there are none");
    }

    bench.install("e2e/crds/cilium.yaml").await?;
    bench
        .apply_all([
            cilium_node("worker-1", json!(["10.72.1.0/24"])),
            cilium_identity("196700", "shop"),
            cilium_endpoint("cart-0", "10.72.1.10"),
        ])
        .await?;
    waits.ready().await?;
    for store in [&patient, &either] {
        until_names(store, NODES, &["worker-1"]).await?;
        until_names(store, IDENTITIES, &["196700"]).await?;
        until_names(store, IP, &["10.72.1.10"]).await?;
    }
    eventually("the change", || changes.status().source == Some("cilium")).await?;
    waits.stop().await?;
    changes.stop().await
}

pub(crate) async fn a_namespace_that_flips_under_load_ends_as_it_is(bench: Bench) -> Result<()> {
    const ROUNDS: usize = 40;
    let store = &bench.store;
    shop(&bench).await?;
    bench.apply(namespace("calm", true)).await?;
    let mut calm = slice("calm-1", &["10.72.9.9"]);
    calm["metadata"]["namespace"] = json!("calm");
    calm["metadata"]["labels"]["kubernetes.io/service-name"] = json!("calm");
    let mut owner = annotated("calm", &json!({"service.cilium.io/global": "true"}));
    owner["metadata"]["namespace"] = json!("calm");
    bench.apply_all([owner, calm]).await?;
    let exporter = bench.export(config(), store)?;
    exporter.ready().await?;
    let from = store.status().await?.revision;
    let flips = async {
        for round in 0..ROUNDS {
            bench.apply(namespace("shop", round % 2 == 1)).await?;
        }
        anyhow::Ok(())
    };
    let load = async {
        for round in 0..ROUNDS {
            let last = round % 200 + 1;
            bench.apply(slice("cart-1", &[&format!("10.72.1.{last}")])).await?;
            bench.apply(cilium_endpoint(&format!("cart-{}", round % 5), &format!("10.72.2.{last}"))).await?;
        }
        anyhow::Ok(())
    };
    let (flipped, loaded) = tokio::join!(flips, load);
    flipped?;
    loaded?;
    // The last flip let it in.
    let endpoints: Vec<String> = (36..=40).map(|last| format!("10.72.2.{last}")).collect();
    until_names(store, IP, &endpoints.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let settled = |found: &BTreeMap<String, String>| {
        found.get("shop/cart").is_some_and(|text| text.contains("10.72.1.40"))
    };
    until(store, SERVICES, "the last state", settled).await?;
    until_names(store, SLICES, &["calm/calm-1", "shop/cart-1", "shop/cart-2"]).await?;
    let deleted = deleted_since(store, from).await?;
    assert!(
        deleted.iter().all(|key| !key.contains("calm")),
        "who does not flip is not disturbed: {deleted:?}"
    );

    bench.apply(namespace("shop", false)).await?;
    until_names(store, IP, &[]).await?;
    until_names(store, SERVICES, &["calm/calm"]).await?;
    exporter.stop().await
}

pub(crate) async fn services_go_out_in_the_formats_that_are_asked_for(bench: Bench) -> Result<()> {
    shop(&bench).await?;
    for (format, mode, has_services) in [
        (ServiceFormat::PreferEndpointSlice, "services-and-endpointslices", true),
        (ServiceFormat::OnlyEndpointSlice, "endpointslices-only", false),
    ] {
        let store = new_store();
        let exporter = bench.export(Config { service_format: format, ..config() }, &store)?;
        exporter.ready().await?;
        assert!(keys(&store, "cilium/cluster-config/").await?["west"].contains(mode), "{format}");
        assert_eq!(!names(&store, SERVICES).await?.is_empty(), has_services, "{format}");
        until_names(&store, SLICES, &["shop/cart-1", "shop/cart-2"]).await?;
        exporter.stop().await?;
    }
    Ok(())
}
