//! Three clusters work as two do.

use e2e::Mesh;
use serde_json::json;

use crate::path::{
    GLOBAL, a_global_service_follows_its_owner, apply_service, backends_become, bed_of, entry_becomes,
};

#[test]
fn three_clusters_work_as_two_do() {
    let bed = bed_of("three", &["west", "east", "north"]);
    let mesh = Mesh::builder(&bed).start().unwrap();
    for (to, from) in [("west", ["east", "north"]), ("east", ["west", "north"]), ("north", ["west", "east"])]
    {
        for from in from {
            entry_becomes(&mesh, to, ("nodes", "name", &format!("{from}-1")), &json!({"cluster": from}));
        }
    }
    a_global_service_follows_its_owner(&mesh, "north", "west", "cart");

    // A service in all three is the same three backends for each.
    let all = ["west 10.9.5.1:8080", "east 10.9.5.2:8080", "north 10.9.5.3:8080"];
    for (cluster, backend) in [("west", "10.9.5.1"), ("east", "10.9.5.2"), ("north", "10.9.5.3")] {
        apply_service(&mesh, cluster, "orders", &[GLOBAL], &[("orders-1", &[backend])]);
    }
    for cluster in ["west", "east", "north"] {
        backends_become(&mesh, cluster, "orders", &all);
    }
    // One leaves it, the other two stay joined.
    mesh.member("north").cluster().kubectl().delete("shop", "service", "orders").unwrap();
    for cluster in ["west", "east"] {
        backends_become(&mesh, cluster, "orders", &all[..2]);
    }
}
