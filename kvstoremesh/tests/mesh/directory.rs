//! The directory of configurations, as kubelet and people change it.

use std::os::unix::fs::symlink;
use std::sync::Arc;

use crate::bed::net::Net;
use crate::bed::{Bed, endpoint, peer, peer_file};
use mesh_runtime::{Readiness, Supervisor};
use mesh_types::LocalCluster;

/// Publishes `content` as kubelet does: a new directory, then one link swapped.
fn publish(bed: &Bed, version: &str, content: &str) {
    let directory = bed.path(version);
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("west"), content).unwrap();
    symlink(version, bed.path("..data_tmp")).unwrap();
    std::fs::rename(bed.path("..data_tmp"), bed.path("..data")).unwrap();
}

#[tokio::test]
async fn a_swapped_link_is_a_change_and_happens_more_than_once() {
    let bed = Bed::start(|_| {});
    let remote = peer("west", 2).await;
    for place in ["one", "two", "three"] {
        bed.net.put(&endpoint(place), Some(Arc::clone(&remote)));
    }
    publish(&bed, "..2026_1", &peer_file("one"));
    symlink("..data/west", bed.path("west")).unwrap();
    bed.until_ready("west").await;
    for (version, place) in [("..2026_2", "two"), ("..2026_3", "three")] {
        publish(&bed, version, &peer_file(place));
        bed.until(place, async || bed.remote("west").unwrap().endpoints == [endpoint(place)]).await;
        bed.until_ready("west").await;
    }
    assert_eq!(bed.net.dials(&endpoint("one")), 1);
    bed.stop().await;
}

#[tokio::test]
async fn a_file_behind_a_link_may_change_where_it_is() {
    let bed = Bed::start(|_| {});
    let remote = peer("west", 2).await;
    bed.net.put(&endpoint("one"), Some(Arc::clone(&remote)));
    bed.net.put(&endpoint("two"), Some(remote));
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("file"), peer_file("one")).unwrap();
    symlink(elsewhere.path().join("file"), bed.path("west")).unwrap();
    bed.until_ready("west").await;
    std::fs::write(elsewhere.path().join("file"), peer_file("two")).unwrap();
    bed.until("the change", async || bed.remote("west").unwrap().endpoints == [endpoint("two")]).await;
    bed.stop().await;
}

#[tokio::test]
async fn a_touched_file_is_no_change() {
    let bed = Bed::start(|_| {});
    bed.connect("west", &peer("west", 2).await);
    bed.until_ready("west").await;
    bed.configure("west");
    bed.connect("east", &peer("east", 3).await);
    bed.until_ready("east").await;
    assert_eq!(bed.net.dials(&endpoint("west")), 1);
    bed.stop().await;
}

#[tokio::test]
async fn a_missing_directory_stops_the_start_and_says_what_to_do() {
    let local = LocalCluster::new("here", 1, 255).unwrap();
    let settings = kvstoremesh::Settings::new(local, "/nonexistent/mesh");
    let mesh = kvstoremesh::Mesh::new(
        settings,
        Arc::new(crate::bed::net::store().client()),
        Arc::new(Net::default()),
    );
    let tasks = Supervisor::new(std::time::Duration::from_secs(5));
    mesh.start(&tasks, &Readiness::new());
    let failed = tasks.until(std::future::pending()).await.unwrap_err();
    let text = mesh_runtime::Chain(&failed).to_string();
    assert!(
        text.contains("--clustermesh-config: expected a directory") && text.contains("/nonexistent/mesh"),
        "{text}"
    );
}
