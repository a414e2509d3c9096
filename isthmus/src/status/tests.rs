use super::*;
use mesh_explain::Style;
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

fn places(name: &str) -> ClusterPlaces {
    ClusterPlaces {
        name: name.to_owned(),
        kubeconfig: Some("/a b/kubeconfig".into()),
        context: Some(name.to_owned()),
        mirror: Some("127.0.0.1:9881".parse().unwrap()),
        agent: Some("/run/agent.sock".into()),
        ..ClusterPlaces::default()
    }
}

fn report_of(pages: Pages) -> Report {
    let other = healthy(&json!([remote("west", &json!({}))]));
    report(&[(&places("west"), pages), (&places("east"), other)])
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
    let report = report(&[(&places("west"), Pages::default())]);
    assert!(report.healthy && report.clusters[0].places["agent"].state == "not-asked");
}

#[test]
fn every_hint_names_the_place_and_can_be_copied() {
    let isthmus = crate::out::program();
    let away = || healthy(&json!([remote("east", &json!({"connected": false, "ready": false}))]));
    let hint = |pages: Pages, places: &ClusterPlaces| {
        let report = report(&[(places, pages)]);
        report.findings[0].next.clone().unwrap_or_default()
    };
    let well = || healthy(&json!([]));
    let kubernetes = Pages { kubernetes: Answer::Silent("refused".into()), ..well() };
    assert_eq!(
        hint(kubernetes, &places("west")),
        "kubectl --kubeconfig '/a b/kubeconfig' --context west get --raw /readyz?verbose"
    );
    let agent = Pages { agent: Answer::Silent("refused".into()), ..well() };
    assert_eq!(hint(agent, &places("west")), format!("{isthmus} agent status --socket /run/agent.sock"));
    assert_eq!(
        hint(away(), &places("west")),
        format!("{isthmus} kvstoremesh status --address 127.0.0.1:9881")
    );
    let with_files = ClusterPlaces { remotes: Some("/etc/remotes".into()), ..places("west") };
    assert_eq!(
        hint(away(), &with_files),
        format!(
            "{isthmus} kvstoremesh troubleshoot east --clustermesh-config /etc/remotes --cluster-name west"
        )
    );
    let apart = |other: ClusterPlaces| {
        let report = report(&[(&places("west"), well()), (&other, Pages::default())]);
        report.findings[0].next.clone().unwrap_or_default()
    };
    assert_eq!(
        apart(places("east")),
        format!("{isthmus} connect --kubeconfig '/a b/kubeconfig' --context west --context east")
    );
    let elsewhere = ClusterPlaces { kubeconfig: Some("/other".into()), ..places("east") };
    let mirror = format!("{isthmus} kvstoremesh status --address 127.0.0.1:9881");
    assert_eq!(apart(elsewhere), mirror, "one command reads one kubeconfig");
    let nowhere = ClusterPlaces { name: "west".into(), ..ClusterPlaces::default() };
    assert_eq!(hint(away(), &nowhere), "", "no hint is better than one that does not work");
}

#[test]
fn findings_fit_the_terminal_and_commands_stay_whole() {
    let why = "word ".repeat(60);
    let pages = Pages { agent: Answer::Silent(why.trim().to_owned()), ..healthy(&json!([])) };
    for width in [80, 140] {
        let text = report(&[(&places("west"), pages.clone())]).text(Style { width, colour: false });
        for line in text.lines().filter(|line| !line.contains("next: ")) {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
}

/// Paths of all fields, with their types: `clusters[].peers[].ageSeconds number`. Names that are data are `*`.
fn shape(path: &str, value: &Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_data = path.ends_with("places") || path.ends_with("counts");
                let name = if is_data { "*" } else { name };
                shape(&format!("{path}.{name}"), value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| shape(&format!("{path}[]"), item, found)),
        Value::String(_) => drop(found.insert(format!("{path} string"))),
        Value::Number(_) => drop(found.insert(format!("{path} number"))),
        Value::Bool(_) => drop(found.insert(format!("{path} boolean"))),
        Value::Null => drop(found.insert(format!("{path} null"))),
    }
}

#[test]
fn the_fields_of_the_json_are_those_of_the_page() {
    let held = json!({"trouble": {"reason": "tls-failed", "detail": "unknown issuer"}, "ready": false});
    let report = report_of(healthy(&json!([remote("east", &held)])));
    let mut found = std::collections::BTreeSet::new();
    shape("", &serde_json::to_value(&report).unwrap(), &mut found);
    let page = include_str!("../../../docs/status.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `.")).filter_map(|row| {
        let (path, rest) = row.split_once("` | ")?;
        Some(format!(".{path} {}", rest.split(' ').next()?))
    });
    let documented: std::collections::BTreeSet<String> = rows.collect();
    assert_eq!(found, documented, "docs/status.md and the report differ");
}
