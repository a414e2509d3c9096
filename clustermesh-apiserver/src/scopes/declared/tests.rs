use super::*;

fn local() -> ClusterName {
    "here".parse().unwrap()
}

fn parse(text: &str) -> Result<Scopes, String> {
    Scopes::parse(text, &local()).map_err(|error| error.to_string())
}

#[test]
fn a_file_says_who_is_in_which_scope() {
    let scopes = parse(
        "default: none\nscopes:\n- name: shop\n  clusters: [prod, stage]\n  namespaces: [shop]\n\
         - name: all-of-it\n  clusters: [test]\n",
    )
    .unwrap();
    assert_eq!(scopes.unscoped, Unscoped::None);
    for (cluster, scope) in
        [("prod", Some("shop")), ("stage", Some("shop")), ("test", Some("all-of-it")), ("x", None)]
    {
        assert_eq!(scopes.of(cluster).map(|name| &**name), scope, "{cluster}");
    }
    for empty in ["", "\n", "scopes: []"] {
        assert_eq!(parse(empty).unwrap(), Scopes::default(), "{empty:?}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    for (text, place) in [
        ("default: some", "default: unknown variant `some`, expected `all` or `none` at line 1"),
        ("scopes:\n- name: a\n  clusters: [b]\n  namespace: [c]", "unknown field `namespace`"),
        ("scopes:\n- name: a\n  clusters: [b]\n  namespace: [c]", "line 4"),
        ("scopes:\n- name: a", "missing field `clusters`"),
        ("scopes:\n- name: A/b\n  clusters: []", "scopes[0].name: \"A/b\" is no name"),
        ("scopes:\n- name: a\n  clusters: [b, B]", "scopes[0].clusters[1]: \"B\""),
        ("scopes:\n- name: a\n  clusters: [here]", "scopes[0].clusters[0]: here is this cluster"),
        (
            "scopes:\n- name: a\n  clusters: [x]\n- name: b\n  clusters: [y, x]",
            "scopes[1].clusters[1]: cluster x is in scope a already",
        ),
        (
            "scopes:\n- name: a\n  clusters: []\n- name: a\n  clusters: []",
            "scopes[1].name: there is a scope a",
        ),
        ("scopes:\n- name: a\n  clusters: []\n  namespaces: [x, X_]", "scopes[0].namespaces[1]: \"X_\""),
        (
            "scopes:\n- name: a\n  clusters: []\n  labels: {matchExpressions: [{key: x, operator: In}]}",
            "scopes[0].labels.matchExpressions[0]: In and NotIn need values",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(place), "{text:?}: {error}");
    }
}

fn scope(text: &str) -> Scope {
    let scopes = parse(&format!("scopes:\n- name: s\n  clusters: [x]\n{text}")).unwrap();
    scopes.scopes.into_values().next().unwrap()
}

#[test]
fn a_key_is_in_a_scope_by_the_namespace_and_the_labels_of_its_object() {
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    };
    let (public, private) = (labels(&[("tier", "public")]), labels(&[]));
    let services = |namespace: &'static str, of_namespace, of_service| Subject {
        namespace: Some(namespace),
        namespace_labels: of_namespace,
        labels: of_service,
    };
    let identity = |text: &str| Some(Attached::Identity(Labels::parse(text)));
    let by_label = "  labels: {matchLabels: {tier: public}}";
    let by_namespace_label = "  namespaceSelector: {matchLabels: {tier: public}}\n  namespaces: [shop]";
    for (rules, subject, expected) in [
        ("", services("shop", None, None), Ok(())),
        ("  namespaces: []", services("shop", None, None), Err(Outside::Namespace)),
        ("  namespaces: [shop]", services("shop", None, None), Ok(())),
        ("  namespaces: [shop]", services("shop2", Some(&public), None), Err(Outside::Namespace)),
        (by_namespace_label, services("shop", Some(&private), None), Ok(())),
        (by_namespace_label, services("pay", Some(&public), None), Ok(())),
        (by_namespace_label, services("pay", Some(&private), None), Err(Outside::Namespace)),
        (by_namespace_label, services("pay", None, None), Err(Outside::Namespace)),
        (by_label, services("pay", None, Some(Attached::Service(&public))), Ok(())),
        (by_label, services("pay", Some(&public), Some(Attached::Service(&private))), Err(Outside::Labels)),
        (by_label, services("pay", None, None), Err(Outside::Labels)),
        (by_label, services("pay", None, identity("k8s:tier=public;")), Ok(())),
        (by_label, services("pay", None, identity("cilium:tier=public;")), Err(Outside::Labels)),
    ] {
        assert_eq!(scope(rules).admits(Resource::Services, &subject), expected, "{rules:?} {subject:?}");
    }
    assert_eq!(
        scope("").admits(Resource::Ip, &Subject::default()),
        Err(Outside::Namespace),
        "of no namespace"
    );
    assert_eq!(
        scope("  namespaces: []").admits(Resource::Nodes, &Subject::default()),
        Ok(()),
        "nodes always"
    );
}
