//! Which groups, versions and resources there are, in the forms that clients ask for. Pure.

use serde_json::{Value, json};

use crate::catalog::Catalog;
use crate::kinds::Resource;
use crate::path::GroupVersion;

/// The Kubernetes version whose API this is.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "35", "gitVersion": "v1.35.0+kube-lite", "gitCommit": "", "gitTreeState": "",
        "buildDate": "", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// `/api`
pub(crate) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`
pub(crate) fn groups(catalog: &Catalog) -> Value {
    let names = catalog.groups();
    let groups: Vec<_> =
        names.keys().filter(|name| !name.is_empty()).filter_map(|name| group_entry(catalog, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`
pub(crate) fn group(catalog: &Catalog, name: &str) -> Option<Value> {
    let mut group = group_entry(catalog, name)?;
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

fn group_entry(catalog: &Catalog, name: &str) -> Option<Value> {
    let groups = catalog.groups();
    let versions = groups.get(name)?.iter();
    let versions: Vec<_> = versions
        .map(|version| json!({"groupVersion": version.api_version(), "version": version.version}))
        .collect();
    Some(json!({"name": name, "versions": versions, "preferredVersion": versions.first()?}))
}

/// `/api/v1` or `/apis/<group>/<version>`
pub(crate) fn resources(catalog: &Catalog, version: &GroupVersion) -> Option<Value> {
    let mut entries = Vec::new();
    for resource in catalog.of_version(version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs(),
        });
        add_names(resource, &mut entry);
        entries.push(entry);
        for (part, verbs) in resource.subresources() {
            entries.push(json!({
                "name": format!("{}/{part}", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": resource.kind, "verbs": verbs,
            }));
        }
    }
    let list = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version.api_version(), "resources": entries,
    });
    (!entries.is_empty()).then_some(list)
}

fn add_names(resource: &Resource, entry: &mut Value) {
    for (field, names) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !names.is_empty() {
            entry[field] = json!(names);
        }
    }
}

/// All of it in one document: of the core group, or of all others.
pub(crate) fn aggregated(catalog: &Catalog, core: bool) -> Value {
    let groups = catalog.groups().into_iter().filter(|(name, _)| name.is_empty() == core);
    let items = groups.map(|(name, versions)| {
        let versions = versions.into_iter().map(|version| {
            let resources: Vec<_> =
                catalog.of_version(version).map(|resource| aggregated_resource(resource)).collect();
            json!({"version": version.version, "resources": resources, "freshness": "Current"})
        });
        let metadata = if name.is_empty() { json!({}) } else { json!({ "name": name }) };
        json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
    });
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items.collect::<Vec<_>>(),
    })
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind =
        json!({"group": resource.version.group, "version": resource.version.version, "kind": resource.kind});
    let mut entry = json!({
        "resource": resource.plural, "singularResource": resource.singular, "responseKind": kind,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" }, "verbs": resource.verbs(),
    });
    add_names(resource, &mut entry);
    let parts = resource.subresources();
    if !parts.is_empty() {
        let part = |(part, verbs)| json!({"subresource": part, "responseKind": kind, "verbs": verbs});
        entry["subresources"] = parts.into_iter().map(part).collect();
    }
    entry
}

/// Groups of Kubernetes that are not here, so that an answer can say so instead of denying that they exist.
pub(crate) fn lacking(version: &GroupVersion, plural: &str) -> Option<String> {
    const GROUPS: [&str; 17] = [
        "admissionregistration.k8s.io",
        "apiregistration.k8s.io",
        "apps",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "autoscaling",
        "batch",
        "certificates.k8s.io",
        "events.k8s.io",
        "flowcontrol.apiserver.k8s.io",
        "internal.apiserver.k8s.io",
        "networking.k8s.io",
        "node.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
        "scheduling.k8s.io",
        "storage.k8s.io",
    ];
    const CORE: [&str; 9] = [
        "bindings",
        "componentstatuses",
        "endpoints",
        "limitranges",
        "persistentvolumeclaims",
        "persistentvolumes",
        "podtemplates",
        "replicationcontrollers",
        "resourcequotas",
    ];
    if GROUPS.contains(&version.group.as_str()) {
        return Some(format!("the group {}", version.group));
    }
    (version.group.is_empty() && CORE.contains(&plural)).then(|| plural.to_owned())
}
