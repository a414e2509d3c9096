//! The one table of built-in resources.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::columns::{Heading, age, count, or_none};
use super::{BuiltIn, NameRule, crd, event, node, pod, service, slice};
use crate::jsonpath::JsonPath;
use crate::object::{self, text};
use crate::select::SelectableField;
use crate::status::Cause;

/// A resource without anything particular.
const PLAIN: BuiltIn = BuiltIn {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_generation: false,
    shape: &[],
    selectable: &[],
    columns: &[NAME, AGE],
    cells: |object, now| vec![object::name(object).into(), age(object, now)],
    normalise: Ok,
    default: |_| {},
    prepare: |_, _| {},
    validate: |_, _| Vec::new(),
    name: NameRule::Subdomain,
    create_on_update: false,
    unconditional_update: true,
    delete_returns_object: false,
};

const NAME: Heading = Heading("Name", "name", 0);
const AGE: Heading = Heading("Age", "string", 0);

const fn string(name: &'static str) -> Heading {
    Heading(name, "string", 0)
}

const fn wide(name: &'static str) -> Heading {
    Heading(name, "string", 1)
}

/// Every built-in resource.
pub(crate) static BUILT_IN: &[BuiltIn] = &[
    BuiltIn {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        has_status: true,
        shape: &["status.conditions[type]", "spec.finalizers"],
        selectable: &["status.phase"],
        columns: &[NAME, string("Status"), AGE],
        cells: |object, now| {
            vec![object::name(object).into(), text(object, "/status/phase").into(), age(object, now)]
        },
        normalise: through::<Namespace>,
        default: default_namespace,
        prepare: prepare_namespace,
        name: NameRule::Label,
        delete_returns_object: true,
        ..PLAIN
    },
    BuiltIn {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        has_status: true,
        shape: &["status.conditions[type]", "status.addresses[type]", "spec.podCIDRs[set]", "spec.taints"],
        selectable: &["spec.unschedulable"],
        columns: &[
            NAME,
            string("Status"),
            string("Roles"),
            AGE,
            string("Version"),
            wide("Internal-IP"),
            wide("External-IP"),
            wide("OS-Image"),
            wide("Kernel-Version"),
            wide("Container-Runtime"),
        ],
        cells: node::cells,
        normalise: through::<Node>,
        default: node::default,
        prepare: node::prepare,
        validate: node::validate,
        ..PLAIN
    },
    BuiltIn {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        has_status: true,
        has_generation: true,
        shape: pod::SHAPE,
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        columns: &[
            NAME,
            string("Ready"),
            string("Status"),
            string("Restarts"),
            AGE,
            wide("IP"),
            wide("Node"),
            wide("Nominated Node"),
            wide("Readiness Gates"),
        ],
        cells: pod::cells,
        normalise: through::<Pod>,
        default: pod::default,
        prepare: pod::prepare,
        validate: pod::validate,
        delete_returns_object: true,
        ..PLAIN
    },
    BuiltIn {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        has_status: true,
        shape: &[
            "spec.ports[port,protocol=TCP]",
            "spec.selector!",
            "status.conditions[type]",
            "status.loadBalancer.ingress",
        ],
        selectable: &["spec.clusterIP", "spec.type"],
        columns: &[
            NAME,
            string("Type"),
            string("Cluster-IP"),
            string("External-IP"),
            string("Port(s)"),
            AGE,
            wide("Selector"),
        ],
        cells: service::cells,
        normalise: through::<Service>,
        default: service::default,
        prepare: service::prepare,
        validate: service::validate,
        name: NameRule::Label1035,
        delete_returns_object: true,
        ..PLAIN
    },
    BuiltIn {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        selectable: &["type"],
        columns: &[NAME, string("Type"), string("Data"), AGE],
        cells: |object, now| {
            let data = count(object, &["/data"]);
            vec![object::name(object).into(), text(object, "/type").into(), data.into(), age(object, now)]
        },
        normalise: through::<Secret>,
        default: default_secret,
        validate: validate_secret,
        ..PLAIN
    },
    BuiltIn {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        columns: &[NAME, string("Data"), AGE],
        cells: |object, now| {
            vec![
                object::name(object).into(),
                count(object, &["/data", "/binaryData"]).into(),
                age(object, now),
            ]
        },
        normalise: through::<ConfigMap>,
        validate: validate_config_map,
        ..PLAIN
    },
    BuiltIn {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        shape: &["secrets[name]", "imagePullSecrets[name]"],
        normalise: through::<ServiceAccount>,
        delete_returns_object: true,
        ..PLAIN
    },
    BuiltIn {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        selectable: event::SELECTABLE,
        columns: &[
            string("Last Seen"),
            string("Type"),
            string("Reason"),
            string("Object"),
            wide("Subobject"),
            wide("Source"),
            string("Message"),
            wide("First Seen"),
            wide("Count"),
            Heading("Name", "name", 1),
        ],
        cells: event::cells,
        normalise: through::<Event>,
        validate: event::validate,
        create_on_update: true,
        ..PLAIN
    },
    BuiltIn {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        has_generation: true,
        columns: &[NAME, string("AddressType"), string("Ports"), string("Endpoints"), AGE],
        cells: slice::cells,
        normalise: through::<EndpointSlice>,
        default: slice::default,
        validate: slice::validate,
        ..PLAIN
    },
    BuiltIn {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        columns: &[NAME, string("Holder"), AGE],
        cells: |object, now| {
            vec![object::name(object).into(), or_none(text(object, "/spec/holderIdentity")), age(object, now)]
        },
        normalise: through::<Lease>,
        create_on_update: true,
        unconditional_update: false,
        ..PLAIN
    },
    BuiltIn {
        group: crd::GROUP,
        kind: "CustomResourceDefinition",
        plural: crd::PLURAL,
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        has_status: true,
        has_generation: true,
        shape: &["status.conditions[type]", "spec.versions"],
        columns: &[NAME, Heading("Created At", "date", 0)],
        cells: |object, _now| {
            vec![object::name(object).into(), text(object, "/metadata/creationTimestamp").into()]
        },
        normalise: through::<CustomResourceDefinition>,
        default: crd::default,
        prepare: crd::prepare,
        validate: crd::validate,
        unconditional_update: false,
        ..PLAIN
    },
];

/// A field selector by its label, which is also where the field is.
pub(super) fn selectable(label: &str) -> SelectableField {
    let path = match label {
        "source" => ".source.component".to_owned(),
        _ => format!(".{label}"),
    };
    let path = JsonPath::read(&path).expect("the labels of the table are paths");
    SelectableField { label: label.to_owned(), path }
}

/// Reads as the type, and writes again.
fn through<T: DeserializeOwned + Serialize>(object: Value) -> Result<Value, serde_json::Error> {
    let mut object = serde_json::to_value(serde_json::from_value::<T>(object)?)?;
    without_empty_lists(&mut object);
    Ok(object)
}

/// Go leaves empty lists out; the few that it writes are put back by their kind.
fn without_empty_lists(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| value.as_array().is_none_or(|items| !items.is_empty()));
        fields.values_mut().for_each(without_empty_lists);
    } else if let Value::Array(items) = value {
        items.iter_mut().for_each(without_empty_lists);
    }
}

fn default_namespace(namespace: &mut Value) {
    let name = object::name(namespace).to_owned();
    let labels =
        object::metadata(namespace).entry("labels").or_insert_with(|| Value::Object(Default::default()));
    object::fields(labels).insert("kubernetes.io/metadata.name".to_owned(), name.into());
}

fn prepare_namespace(namespace: &mut Value, old: Option<&Value>) {
    match old {
        None => {
            let spec = object::child(namespace, "spec");
            let finalizers = spec.entry("finalizers").or_insert_with(|| Value::Array(Vec::new()));
            if let Some(finalizers) = finalizers.as_array_mut()
                && !finalizers.iter().any(|finalizer| finalizer == "kubernetes")
            {
                finalizers.push("kubernetes".into());
            }
            object::fields(namespace).insert("status".to_owned(), serde_json::json!({"phase": "Active"}));
        }
        Some(old) => {
            // Only `finalize` takes them away.
            let spec = old.get("spec").cloned();
            object::put(object::fields(namespace), "spec", spec);
        }
    }
}

fn default_secret(secret: &mut Value) {
    let fields = object::fields(secret);
    object::default_text(fields, "type", "Opaque");
    let Some(Value::Object(texts)) = fields.remove("stringData") else { return };
    let data = object::child(secret, "data");
    for (key, value) in texts {
        let encoded = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            value.as_str().unwrap_or_default(),
        );
        data.insert(key, encoded.into());
    }
}

/// Of all data of a Secret or ConfigMap together.
const MAX_DATA_BYTES: usize = 1 << 20;

fn check_data(object: &Value, fields: &[&str]) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut bytes = 0;
    for field in fields {
        for (key, value) in object.get(*field).and_then(Value::as_object).into_iter().flatten() {
            let named = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
            if key.is_empty()
                || key.len() > 253
                || !key.bytes().all(named)
                || key == "."
                || key.starts_with("..")
            {
                let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  \
                           or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
                causes.push(Cause::invalid(format!("{field}[{key}]"), &key.as_str().into(), why));
            }
            bytes += value.as_str().map_or(0, str::len);
        }
    }
    if bytes > MAX_DATA_BYTES {
        causes.push(Cause::invalid(
            "",
            &"".into(),
            format!("Too long: may not be more than {MAX_DATA_BYTES} bytes"),
        ));
    }
    causes
}

/// An object that was made immutable keeps these fields.
fn check_immutable(new: &Value, old: Option<&Value>, fields: &[&str], causes: &mut Vec<Cause>) {
    let is_immutable = |object: &Value| object.get("immutable") == Some(&Value::Bool(true));
    let Some(old) = old.filter(|old| is_immutable(old)) else { return };
    if !is_immutable(new) {
        causes.push(Cause::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for field in fields.iter().filter(|field| old.get(**field) != new.get(**field)) {
        causes.push(Cause::forbidden(*field, "field is immutable when `immutable` is set"));
    }
}

fn validate_secret(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = check_data(new, &["data"]);
    if let Some(old) = old
        && old.get("type") != new.get("type")
    {
        causes.push(Cause::invalid("type", new.get("type").unwrap_or(&Value::Null), "field is immutable"));
    }
    check_immutable(new, old, &["data"], &mut causes);
    causes
}

fn validate_config_map(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = check_data(new, &["data", "binaryData"]);
    check_immutable(new, old, &["data", "binaryData"], &mut causes);
    causes
}
