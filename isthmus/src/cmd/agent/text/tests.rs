use serde_json::json;

use super::*;

#[test]
fn what_is_wrong_is_said_with_its_reason_and_age() {
    let page: Status = serde_json::from_value(json!({
        "cluster": {"name": "home", "id": 1, "maxConnectedClusters": 255}, "node": "node-1",
        "ready": true, "degraded": true, "pending": ["cluster/west/nodes"],
        "store": {"connected": true, "clusterId": "00000000000000ab", "ownConfig": true},
        "kubernetes": [{"kind": "Service", "listed": true, "live": true},
            {"kind": "Node", "listed": true, "live": false, "error": "connection refused"}],
        "clusters": [
            {"name": "east", "id": 7, "ready": false, "standing": "absent", "reason": "cluster-config-absent",
                "detail": "It may come back.", "droppedAt": "2026-01-05T09:30:00Z", "failures": 1,
                "kinds": [{"kind": "nodes", "state": "stale", "since": "2026-01-05T08:30:00Z", "ageSeconds": 12,
                    "entries": 3, "withheld": 2, "reason": "withdrawal-held"}]},
            {"name": "west", "ready": false, "standing": "refused", "reason": "cluster-id-in-use",
                "detail": "cluster east has id 7", "failures": 0, "kinds": []},
        ],
        "totals": {"nodes": 3, "prefixes": 9, "identities": 2, "services": 1, "rejected": 0, "rejections": []},
        "datapath": {"writer": "nftables", "inEffect": true, "waiting": false, "frontends": 4, "writes": 1,
            "failures": 0, "skipped": [{"service": "shop/db", "address": "fd96::10", "port": 53, "protocol": "UDP",
                "reason": "no-backends"}]},
        "wireguard": {"enabled": false, "published": false, "peers": 0},
    }))
    .unwrap();
    let expected = "\
agent of home/node-1 (cluster id 1): ready, degraded, 0/2 remote clusters ready
store: connected, id 00000000000000ab
kubernetes Node: connection refused
   east: not ready, id 7, absent, 1 failures
      It may come back. (cluster-config-absent)
      dropped at 2026-01-05T09:30:00Z if it does not come back
      nodes            3 entries  stale since 2026-01-05T08:30:00Z (12 s), 2 withdrawals held (withdrawal-held)
   west: not ready, id unknown, refused, 0 failures
      cluster east has id 7 (cluster-id-in-use)
never complete so far: cluster/west/nodes
tables: 3 nodes, 9 prefixes, 2 identities, 1 services, 0 values not accepted
services by nftables: 4 frontends in effect
   shop/db [fd96::10]:53/UDP: no-backends
wireguard: off
";
    assert_eq!(status(&page), expected);
}

#[test]
fn services_have_a_line_per_backend_and_one_for_those_that_wait() {
    let page: Services = serde_json::from_value(json!({"services": [
        {"namespace": "shop", "name": "cart", "state": "local", "global": true, "shared": true, "affinity": "local",
            "reasons": [], "clusters": [{"name": "east", "backends": 1, "reasons": []}],
            "frontends": [{"address": "10.96.0.10", "port": 80, "protocol": "TCP", "portName": "http", "backends": [
                {"address": "10.1.0.1", "port": 8080, "protocol": "TCP", "cluster": "home", "state": "active", "selected": true},
                {"address": "10.7.0.1", "port": 8080, "protocol": "TCP", "cluster": "east", "state": "active", "selected": false,
                    "reason": "affinity-local"}]}]},
        {"namespace": "shop", "name": "db", "state": "waiting", "global": false, "shared": false, "affinity": "none",
            "reasons": ["service-not-local"], "clusters": [{"name": "east", "backends": 2, "reasons": []}], "frontends": []},
    ]}))
    .unwrap();
    let expected = "\
SERVICE    SCOPE    AFFINITY  FRONTEND           BACKEND        CLUSTER  STATE   USED  REASON
shop/cart  global   local     10.96.0.10:80/TCP  10.1.0.1:8080  home     active  yes   -
shop/cart  global   local     10.96.0.10:80/TCP  10.7.0.1:8080  east     active  no    affinity-local
shop/db    waiting  none      -                  2 in east      -        -       -     service-not-local
";
    assert_eq!(services(&page), expected);
}

#[test]
fn the_other_tables_show_what_they_hold() {
    let nodes_page: Nodes = serde_json::from_value(json!({"nodes": [{"cluster": "east", "name": "n1",
        "nodeIp": "192.0.2.1", "addresses": [], "podCidrs": ["10.7.0.0/24"], "encryptionKey": 255, "labels": {}}]}))
    .unwrap();
    assert_eq!(
        nodes(&nodes_page),
        "NODE     ADDRESS    POD CIDRS    KEY  WIREGUARD KEY\neast/n1  192.0.2.1  10.7.0.0/24  255  -\n"
    );
    let ipcache_page: Ipcache = serde_json::from_value(json!({"entries": [{"prefix": "10.7.0.1/32", "identity": 458752,
        "host": "192.0.2.1", "key": 255, "cluster": "east", "source": "clustermesh", "namespace": "shop", "pod": "cart-0",
        "overridden": [{"cluster": "west", "identity": 524288, "source": "clustermesh", "reason": "prefix-overlap"}]}]}))
    .unwrap();
    assert!(
        ipcache(&ipcache_page).contains("shop/cart-0  west: prefix-overlap\n"),
        "{}",
        ipcache(&ipcache_page)
    );
    let identities_page: Identities = serde_json::from_value(
        json!({"identities": [{"id": 458752, "cluster": "east", "labels": ["k8s:a=b", "k8s:c=d"]}]}),
    )
    .unwrap();
    assert!(identities(&identities_page).ends_with("458752    east     k8s:a=b k8s:c=d\n"));
    let rejected_page: RejectedKeys =
        serde_json::from_value(json!({"rejected": [{"cluster": "east", "kind": "nodes",
        "key": "x", "reason": "value-not-json", "detail": "node x: no JSON"}], "overflow": 3}))
        .unwrap();
    assert!(rejected(&rejected_page).ends_with("node x: no JSON\nand 3 more that were not kept\n"));
    assert_eq!(wireguard(&Wireguard::default()), "wireguard is off\n");
}
