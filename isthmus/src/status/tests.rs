use super::*;
use serde_json::{Value, json};

fn remote(name: &str, changes: &Value) -> Value {
    let mut remote = json!({
        "name": name, "ready": true, "connected": true, "endpoints": [], "storeClusterId": null, "config": null,
        "resources": {
            "services": {"state": "synced", "waitingFor": null, "entries": 2, "pending": 0, "staleSeconds": null,
                "lastEventSeconds": 1.0, "ageBoundSeconds": 0.5},
            "nodes": {"state": "synced", "waitingFor": null, "entries": 1, "pending": 0, "staleSeconds": null,
                "lastEventSeconds": 1.0, "ageBoundSeconds": 1.5},
        },
        "heartbeatAgeSeconds": 1.0, "failures": 0, "lastFailure": null, "trouble": null, "writeError": null,
        "skipped": [],
    });
    for (key, value) in changes.as_object().unwrap() {
        remote[key] = value.clone();
    }
    remote
}

fn healthy(remotes: &Value) -> Pages {
    let mirror = json!({
        "cluster": "west", "clusterId": 1, "maxConnectedClusters": 255, "remotes": remotes, "removing": [],
        "rejectedFiles": [],
    });
    let agent = schema::Status { ready: true, ..schema::Status::default() };
    Pages {
        kubernetes: Answer::Said("v1.35".to_owned()),
        exporter: Answer::Said(ExporterPage::default()),
        controllers: Answer::Said(ControllerPage::default()),
        mirror: Answer::Said(serde_json::from_value(mirror).unwrap()),
        agent: Answer::Said(agent),
        dns: Answer::Said(DnsPage { zone: "clusterset.local".to_owned(), synced: true, skipped: Vec::new() }),
        certificate_days: Answer::Said(365),
    }
}

fn report_of(pages: Pages) -> Report {
    let other = healthy(&json!([remote("west", &json!({}))]));
    report(&[("west".to_owned(), pages), ("east".to_owned(), other)])
}

#[test]
fn a_mesh_in_which_all_is_well_is_healthy() {
    let report = report_of(healthy(&json!([remote("east", &json!({}))])));
    assert!(report.healthy, "{:?}", report.findings);
    let east = &report.clusters[0].peers[0];
    assert_eq!((east.name.as_str(), east.age_seconds, east.counts["services"]), ("east", Some(1.5), 2));
    let text = report.text(mesh_explain::Style::default());
    assert!(text.contains("west     east  synced  1.5s  1      -          2"), "{text}");
    assert!(text.contains("The mesh is healthy."), "{text}");
}

#[test]
fn whatever_needs_a_look_is_found_and_never_healthy() {
    let well = || healthy(&json!([remote("east", &json!({}))]));
    let with = |changes: Value| healthy(&json!([remote("east", &changes)]));
    let held = json!({"services": {"state": "synced", "waitingFor": null, "entries": 2, "pending": 0,
        "staleSeconds": null, "lastEventSeconds": 1.0,
        "withheld": {"keys": 13, "reason": "withdrawal-abrupt", "sinceSeconds": 1.0}}});
    let failing = ControllerPage {
        failing: BTreeMap::from([("a/b".into(), "no".into())]),
        ..ControllerPage::default()
    };
    let cases = [
        ("silent", Pages { kubernetes: Answer::Silent("refused".into()), ..well() }, "kubernetes: refused"),
        ("failing", Pages { controllers: Answer::Said(failing), ..well() }, "1 imports fail, a/b: no"),
        ("agent", Pages { agent: Answer::Said(schema::Status::default()), ..well() }, "agent: not ready"),
        ("dns", Pages { dns: Answer::Said(DnsPage::default()), ..well() }, "is not complete"),
        ("ending", Pages { certificate_days: Answer::Said(29), ..well() }, "ends in 29 days"),
        ("ended", Pages { certificate_days: Answer::Said(-2), ..well() }, "ended 2 days ago"),
        ("unconfigured", healthy(&json!([])), "not configured"),
        ("away", with(json!({"connected": false, "ready": false})), "its store does not answer"),
        (
            "trouble",
            with(json!({"ready": false, "trouble": {"reason": "tls-failed", "detail": "unknown issuer"}})),
            "unknown issuer",
        ),
        ("held", with(json!({"resources": held})), "13 withdrawals of services are held back"),
    ];
    for (case, pages, expected) in cases {
        let report = report_of(pages);
        assert!(!report.healthy, "{case}");
        assert!(report.findings[0].text.contains(expected), "{case}: {:?}", report.findings);
        assert_eq!(report.findings.len(), 1, "{case}: {:?}", report.findings);
    }
}

#[test]
fn a_place_that_nobody_named_is_no_finding() {
    let report = report(&[("west".to_owned(), Pages::default())]);
    assert!(report.healthy && report.clusters[0].places["agent"].state == "not-asked");
}
