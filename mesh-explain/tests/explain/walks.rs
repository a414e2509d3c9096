//! The path as a whole.

use mesh_explain::{Answer, Cluster, Mesh, Style, Verdict, explain};

use crate::fixture::{Asked, mesh, question};

#[test]
fn a_healthy_path_is_good_at_every_step() {
    for asked in [Asked::Service, Asked::Name, Asked::Address] {
        let explanation = explain(&question(asked), &mesh());
        assert_eq!(explanation.verdict, Verdict::Good, "{}", explanation.text(Style::default()));
        assert!(explanation.steps.iter().all(|step| step.verdict == Verdict::Good));
        assert!(explanation.next.is_empty());
    }
}

#[test]
fn what_nobody_said_is_unknown_and_never_good() {
    for asked in [Asked::Service, Asked::Name, Asked::Address] {
        let silent = ["east", "west"].map(|name| (name.to_owned(), Cluster::default()));
        let explanation = explain(&question(asked), &Mesh { clusters: silent.into() });
        assert_eq!(explanation.verdict, Verdict::Unknown);
        assert!(explanation.steps.iter().all(|step| step.verdict == Verdict::Unknown));
        let nothing = explain(&question(asked), &Mesh::default());
        assert_eq!(nothing.verdict, Verdict::Unknown);
    }
}

#[test]
fn a_place_that_does_not_answer_says_why() {
    let mut mesh = mesh();
    mesh.clusters.get_mut("east").unwrap().mirror = Answer::Silent("connection refused".to_owned());
    let text = explain(&question(Asked::Service), &mesh).text(Style::default());
    assert!(text.contains("did not answer: connection refused"), "{text}");
}

#[test]
fn a_cluster_without_the_service_is_no_trouble() {
    let mut mesh = mesh();
    let west = mesh.clusters.get_mut("west").unwrap();
    let Answer::Said(objects) = &mut west.kubernetes else { panic!("the fixture answers") };
    objects.service = None;
    let Answer::Said(keys) = &mut west.store else { panic!("the fixture answers") };
    keys.clear();
    let explanation = explain(&question(Asked::Service), &mesh);
    let of_west: Vec<_> = explanation.steps.iter().filter(|step| step.cluster == "west").collect();
    assert_eq!(of_west.len(), 1);
    assert_eq!(of_west[0].verdict, Verdict::Note);
    assert_eq!(explanation.verdict, Verdict::Good);
}

#[test]
fn text_keeps_within_the_width_and_colours_only_when_asked() {
    let explanation = explain(&question(Asked::Service), &mesh());
    for width in [80, 140] {
        let text = explanation.text(Style { width, colour: false });
        // Keys and addresses of stores are words that stay whole.
        let long = text.lines().find(|line| line.chars().count() > width && line.trim().contains(' '));
        assert!(
            long.is_none_or(|line| line.split_whitespace().any(|word| word.len() > width / 2)),
            "{long:?}"
        );
        assert!(!text.contains('\x1b'));
    }
    assert!(explanation.text(Style { width: 80, colour: true }).contains("\x1b[32mok"));
}

#[test]
fn an_explanation_has_a_stable_form_for_programs() {
    let json = serde_json::to_value(explain(&question(Asked::Address), &mesh())).unwrap();
    assert_eq!(json["question"], "address 10.1.0.4");
    assert_eq!(json["from"], "east");
    assert_eq!(json["verdict"], "good");
    assert_eq!(json["steps"][0]["place"], "kubernetes");
    assert_eq!(json["steps"][0]["cluster"], "west");
}
