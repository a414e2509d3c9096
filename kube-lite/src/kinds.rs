//! The resources that there are: a table of the built-in ones, and custom ones from their CRDs. Pure.

mod columns;
mod crd;
mod event;
mod metadata;
mod node;
mod pod;
mod service;
mod slice;
mod table;

use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::Value;

use crate::apply::Scope;
use crate::path::GroupVersion;
use crate::schema::Schema;
use crate::select::SelectableField;
use crate::status::{About, Cause};

pub(crate) use self::columns::{Column, by_path};
pub(crate) use self::crd::{
    accept as accept_definition, definition, resources_of, schema_of, uses_expressions,
};
pub(crate) use self::metadata::{check_metadata, check_metadata_update};
pub(crate) use self::service::{Ranges, allocate, claims};
pub(crate) use self::table::BUILT_IN;

/// A resource in one of its versions.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) version: GroupVersion,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// The version that objects are stored in.
    pub(crate) storage_version: String,
    /// Whether the status is written apart from the rest.
    pub(crate) has_status: bool,
    /// Whether `metadata.generation` counts changes of what is wanted.
    pub(crate) has_generation: bool,
    pub(crate) schema: Arc<Schema>,
    /// The first is the name.
    pub(crate) columns: Vec<Column>,
    pub(crate) selectable: Vec<SelectableField>,
    /// `None` for a custom resource.
    pub(crate) built_in: Option<&'static BuiltIn>,
}

/// What is particular about a built-in resource.
#[derive(Debug)]
pub(crate) struct BuiltIn {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) namespaced: bool,
    pub(crate) has_status: bool,
    pub(crate) has_generation: bool,
    /// How lists and maps merge, see [`Schema::from_lines`]; without metadata, which is the same for all.
    pub(crate) shape: &'static [&'static str],
    /// Fields that selectors may name.
    pub(crate) selectable: &'static [&'static str],
    pub(crate) columns: &'static [columns::Heading],
    /// The cells below these columns.
    pub(crate) cells: fn(&Value, Timestamp) -> Vec<Value>,
    /// Reads the object as its type and writes it again: what is unknown goes, what has a wrong type is an error.
    pub(crate) normalise: fn(Value) -> Result<Value, serde_json::Error>,
    pub(crate) default: fn(&mut Value),
    /// Sets what is not the client's to say; with the stored object on an update.
    pub(crate) prepare: fn(&mut Value, Option<&Value>),
    pub(crate) validate: fn(&Value, Option<&Value>) -> Vec<Cause>,
    pub(crate) name: NameRule,
    /// Whether a PUT makes an object that is not there.
    pub(crate) create_on_update: bool,
    /// Whether a PUT without a resource version overwrites.
    pub(crate) unconditional_update: bool,
    /// Whether a DELETE answers with the object instead of a Status.
    pub(crate) delete_returns_object: bool,
}

/// What names look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// RFC 1123 subdomain.
    Subdomain,
    /// RFC 1123 label.
    Label,
    /// RFC 1035 label: starts with a letter.
    Label1035,
}

/// What the cluster is like, as far as objects need to know.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// The ranges of Services' addresses, the primary family first.
    pub(crate) service_cidrs: Vec<IpNet>,
}

impl Resource {
    pub(crate) fn about<'a>(&'a self, name: &'a str) -> About<'a> {
        About { group: &self.version.group, resource: &self.plural, name }
    }

    /// As fields are owned through the given part of an object.
    pub(crate) fn scope(&self, subresource: &str) -> Scope {
        match subresource {
            "status" => Scope::Status(self.built_in.is_some()),
            _ if self.has_status => Scope::WithoutStatus,
            _ => Scope::Whole,
        }
    }

    /// What an object is compared with when there was none: the parts that every object of a built-in kind has.
    pub(crate) fn empty(&self) -> Value {
        let mut empty = serde_json::json!({"metadata": {}});
        if self.built_in.is_some() {
            empty["spec"] = serde_json::json!({});
            empty["status"] = serde_json::json!({});
        }
        empty
    }

    /// `/registry/<group>/<plural>/`, where its objects are stored; the core group is `core`.
    pub(crate) fn prefix(&self) -> String {
        let group = if self.version.group.is_empty() { "core" } else { &self.version.group };
        format!("/registry/{group}/{}/", self.plural)
    }

    /// The key of an object.
    pub(crate) fn key(&self, namespace: Option<&str>, name: &str) -> String {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{}{namespace}/{name}", self.prefix()),
            None => format!("{}{name}", self.prefix()),
        }
    }

    /// Whether this is the given resource of the core group.
    pub(crate) fn is_core(&self, plural: &str) -> bool {
        self.version.group.is_empty() && self.plural == plural
    }

    pub(crate) fn is_definition(&self) -> bool {
        self.version.group == crd::GROUP && self.plural == crd::PLURAL
    }

    pub(crate) fn verbs(&self) -> Vec<&'static str> {
        let all = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        all.into_iter().filter(|verb| *verb != "deletecollection" || !self.is_core("namespaces")).collect()
    }

    pub(crate) fn subresources(&self) -> Vec<(&'static str, &'static [&'static str])> {
        let mut parts: Vec<(_, &'static [&'static str])> = Vec::new();
        if self.is_core("namespaces") {
            parts.push(("finalize", &["update"]));
        }
        if self.has_status {
            parts.push(("status", &["get", "patch", "update"]));
        }
        parts
    }
}

/// The resources that are always there.
pub(crate) fn built_in() -> Vec<Resource> {
    BUILT_IN.iter().map(from_table).collect()
}

fn from_table(row: &'static BuiltIn) -> Resource {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Resource {
        version: GroupVersion { group: row.group.to_owned(), version: row.version.to_owned() },
        kind: row.kind.to_owned(),
        list_kind: format!("{}List", row.kind),
        plural: row.plural.to_owned(),
        singular: row.singular.to_owned(),
        short_names: owned(row.short_names),
        categories: owned(row.categories),
        namespaced: row.namespaced,
        storage_version: row.version.to_owned(),
        has_status: row.has_status,
        has_generation: row.has_generation,
        schema: Arc::new(Schema::from_lines(metadata::SHAPE.iter().chain(row.shape).copied())),
        columns: columns::built_in(row.columns),
        selectable: row.selectable.iter().map(|label| table::selectable(label)).collect(),
        built_in: Some(row),
    }
}
