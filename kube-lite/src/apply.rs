//! Who manages which field: server-side apply, and the tracking of all other writes. Pure.
//!
//! In: the stored object, what is wanted, who wants it. Out: the object to store, its `managedFields` brought up to
//! date. Invariant: a field that an applier owns changes its value only with its consent or by force.
//!
//! Source: Kubernetes docs, "Server-Side Apply"; KEP-555.

mod compare;
mod fields;
mod merge;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::compare::{Changes, compare, owned};
use self::fields::FieldSet;
use self::merge::{merge, remove};
use crate::object;
use crate::schema::Schema;
use crate::status::{Failure, Result};

/// Who writes, by which way.
#[derive(Clone, Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: &'a str,
    /// Of the version that is written in.
    pub(crate) api_version: &'a str,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    /// RFC 3339.
    pub(crate) now: &'a str,
}

/// Which fields a way of writing never touches: they have no owner there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of it.
    Whole,
    /// All but the status.
    WithoutStatus,
    /// The status, and with `true` the metadata too.
    Status(bool),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    manager: String,
    /// `Apply` or `Update`.
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    fields: FieldSet,
}

impl Entry {
    fn read(entry: &Value) -> Self {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            manager: text("manager"),
            operation: text("operation"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: entry.get("fieldsV1").map(FieldSet::from_json).unwrap_or_default(),
        }
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_json(),
        });
        for (field, value) in [("subresource", &self.subresource), ("time", &self.time)] {
            if !value.is_empty() {
                entry[field] = value.as_str().into();
            }
        }
        entry
    }

    fn is_of(&self, writer: &Writer<'_>, operation: &str) -> bool {
        // An applier's fields count for it whatever version it used before.
        let same_version = operation == "Apply" || self.api_version == writer.api_version;
        self.manager == writer.manager
            && self.operation == operation
            && self.subresource == writer.subresource
            && same_version
    }

    /// As conflicts name it.
    fn title(&self) -> String {
        let mut title = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            title += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == "Update" {
            title += &format!(" using {}", self.api_version);
            if !self.time.is_empty() {
                title += &format!(" at {}", self.time);
            }
        }
        title
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    object::items(object, "/metadata/managedFields")
        .iter()
        .map(Entry::read)
        .filter(|e| !e.fields.is_empty())
        .collect()
}

fn set_entries(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(|a, b| (&a.operation, &a.time, &a.manager).cmp(&(&b.operation, &b.time, &b.manager)));
    let entries: Vec<_> = entries.iter().map(Entry::to_json).collect();
    let entries = (!entries.is_empty()).then(|| entries.into());
    object::put(object::metadata(object), "managedFields", entries);
}

/// Without the fields that nobody owns.
fn ownable(mut set: FieldSet, scope: Scope) -> FieldSet {
    const NEVER: [&str; 8] = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    for top in ["apiVersion", "kind"] {
        set.drop_child(&fields::field(top));
    }
    if let Some(metadata) = set.child_mut(&fields::field("metadata")) {
        metadata.clear_member();
        for name in NEVER {
            metadata.drop_child(&fields::field(name));
        }
    }
    match scope {
        Scope::Whole => {}
        Scope::WithoutStatus => set.drop_child(&fields::field("status")),
        Scope::Status(with_metadata) => set.retain_children(|element| {
            element == fields::field("status") || with_metadata && element == fields::field("metadata")
        }),
    }
    set.tidy();
    set
}

/// Brings the `managedFields` of `new` up to date after a write that is not an apply.
///
/// `live` is what was stored; `empty`, what stands in for it when the object is new. What the caller sent as
/// `managedFields` is the base: a list of one empty entry makes the object start without history, and no list at all, or
/// an empty one, leaves them as they are, since that is what clients send that do not know of them.
pub(crate) fn track(
    live: &Value,
    new: &mut Value,
    schema: Option<&Schema>,
    scope: Scope,
    writer: &Writer<'_>,
) {
    let sent = !object::items(new, "/metadata/managedFields").is_empty();
    let mut entries = entries(if sent { new } else { live });
    let changes = compare(live, new, schema);
    if changes.is_empty() {
        set_entries(new, entries);
        return;
    }
    release(&mut entries, &changes, |entry| !entry.is_of(writer, "Update"));
    let gained = ownable(changes.modified.union(&changes.added), scope);
    let at = entries.iter().position(|entry| entry.is_of(writer, "Update"));
    let at = at.unwrap_or_else(|| {
        entries.push(entry(writer, "Update"));
        entries.len() - 1
    });
    let mine = &mut entries[at];
    let fields = mine.fields.union(&gained).difference(&changes.removed);
    writer.now.clone_into(&mut mine.time);
    mine.fields = fields;
    set_entries(new, entries);
}

/// Whether a write changes nothing but the times at which fields are said to have been written: then there was none.
pub(crate) fn differs_in_times_only(live: &Value, new: &Value) -> bool {
    let noted = |object: &Value| {
        let entries = object::items(object, "/metadata/managedFields").iter().cloned();
        let timeless = entries.map(|mut entry| {
            object::fields(&mut entry).remove("time");
            entry.to_string()
        });
        timeless.collect::<BTreeSet<_>>()
    };
    let rest = |object: &Value| {
        let mut object = object.clone();
        object::metadata(&mut object).remove("managedFields");
        object
    };
    noted(live) == noted(new) && rest(live) == rest(new)
}

fn entry(writer: &Writer<'_>, operation: &str) -> Entry {
    Entry {
        manager: writer.manager.to_owned(),
        operation: operation.to_owned(),
        api_version: writer.api_version.to_owned(),
        subresource: writer.subresource.to_owned(),
        time: writer.now.to_owned(),
        fields: FieldSet::default(),
    }
}

/// Takes what changed from those that `from` names.
fn release(entries: &mut [Entry], changes: &Changes, from: impl Fn(&Entry) -> bool) {
    let changed = changes.modified.union(&changes.added).union(&changes.removed);
    for entry in entries.iter_mut().filter(|entry| from(entry)) {
        entry.fields = entry.fields.difference(&changed);
    }
}

/// Merges what a manager applies into what is stored.
///
/// `live` is `None` if there is no object yet. Fields that the manager applied before and leaves out now are removed
/// unless someone else owns them.
///
/// # Errors
/// A conflict, if the configuration changes what others own and `force` is not set.
pub(crate) fn apply(
    live: Option<&Value>,
    config: &Value,
    schema: Option<&Schema>,
    scope: Scope,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value> {
    let mut config = config.clone();
    object::metadata(&mut config).remove("managedFields");
    match scope {
        Scope::Whole => {}
        Scope::WithoutStatus => drop(object::fields(&mut config).remove("status")),
        Scope::Status(_) => object::fields(&mut config)
            .retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
    }
    let set = ownable(owned(&config, schema), scope);
    let mut mine = Entry { fields: set, ..entry(writer, "Apply") };
    let Some(live) = live else {
        let mut new = config;
        set_entries(&mut new, vec![mine]);
        return Ok(new);
    };

    let mut entries = entries(live);
    if entries.is_empty() {
        // Someone made it who left no trace; all of it is theirs.
        let before = Writer { manager: "before-first-apply", ..writer.clone() };
        entries
            .push(Entry { fields: ownable(owned(live, schema), Scope::Whole), ..entry(&before, "Update") });
    }
    let previous = entries.iter().position(|entry| entry.is_of(writer, "Apply")).map(|at| entries.remove(at));
    let mut new = merge(live, &config, schema);
    if let Some(previous) = &previous {
        let kept = entries.iter().fold(mine.fields.clone(), |kept, entry| kept.union(&entry.fields));
        remove(&mut new, &previous.fields, &kept, schema);
    }
    let changes = compare(live, &new, schema);
    let changed = changes.modified.union(&changes.added);
    let mut conflicts = Vec::new();
    for entry in &entries {
        let contested = entry.fields.intersection(&changed);
        conflicts.extend(contested.paths().into_iter().map(|path| (entry.title(), path)));
    }
    if !force && !conflicts.is_empty() {
        return Err(Failure::apply_conflict(&conflicts));
    }
    release(&mut entries, &changes, |_other| true);
    match previous {
        // Nothing changed, so nothing happened.
        Some(previous) if previous.fields == mine.fields && changes.is_empty() => mine = previous,
        _ => {}
    }
    entries.push(mine);
    set_entries(&mut new, entries);
    Ok(new)
}

#[cfg(test)]
mod tests;
