//! Benchmarks that need a cluster: that they measure, not what.

use e2e::ClusterSpec;
use serde_json::Value;

#[test]
fn the_export_of_a_real_api_server_is_measured_and_complete() {
    let bed = e2e::Bed::builder("bench").with(ClusterSpec::new("west", 3)).start().unwrap();
    let cluster = bed.cluster("west");
    let bench = |fill: &[&str]| {
        let bench = cluster.host().isthmus().unwrap().args(["bench", "export", "-o", "json"]).args(fill);
        let sizes = ["--nodes=3", "--identities=5", "--endpoints=40", "--services=4", "--times=2"];
        bench.args(sizes).arg("--kubeconfig").arg(cluster.kubeconfig()).output().unwrap()
    };
    let empty = bench(&[]);
    assert!(!empty.status.success() && empty.stderr.contains("exported 0 keys"), "{}", empty.stderr);
    let output = bench(&["--fill"]);
    assert!(output.status.success(), "{}", output.stderr);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    for name in ["52 objects: all synced", "52 objects: CPU per key", "peak memory"] {
        let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"));
        assert!(row["isthmus"].as_f64().is_some_and(|value| value > 0.0), "{report:#}");
        assert!(row["met"].is_null(), "small sizes say nothing about targets: {report:#}");
    }
}
