//! Sets of fields, in the form that `managedFields` has on the wire.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of places in an object: a tree whose edges are `f:<field>`, `k:<keys of an item>` or `v:<value of an item>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    /// The place itself is in the set, not only something below it.
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

/// The edge to a field.
pub(super) fn field(name: &str) -> String {
    format!("f:{name}")
}

/// The edge to an item of a list that goes by keys.
pub(super) fn keys(keys: &Value) -> String {
    format!("k:{keys}")
}

/// The edge to an item of a list that goes by value.
pub(super) fn value(value: &Value) -> String {
    format!("v:{value}")
}

impl FieldSet {
    pub(super) fn from_json(json: &Value) -> Self {
        let fields = json.as_object();
        let children = fields.into_iter().flatten().filter(|(edge, _)| *edge != ".");
        let children: BTreeMap<_, _> =
            children.map(|(edge, below)| (edge.clone(), Self::from_json(below))).collect();
        let marked = fields.is_some_and(|fields| fields.contains_key("."));
        Self { member: marked || children.is_empty(), children }
    }

    pub(super) fn to_json(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".to_owned(), Value::Object(Map::new()));
        }
        fields.extend(self.children.iter().map(|(edge, below)| (edge.clone(), below.to_json())));
        Value::Object(fields)
    }

    /// Adds the place at the end of `path`.
    pub(super) fn insert(&mut self, path: &[String]) {
        let mut node = self;
        for edge in path {
            node = node.children.entry(edge.clone()).or_default();
        }
        node.member = true;
    }

    /// Whether nothing is in it. The root itself does not count.
    pub(super) fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    pub(super) fn child(&self, edge: &str) -> Option<&Self> {
        self.children.get(edge)
    }

    pub(super) fn child_mut(&mut self, edge: &str) -> Option<&mut Self> {
        self.children.get_mut(edge)
    }

    pub(super) fn children(&self) -> impl Iterator<Item = (&String, &Self)> {
        self.children.iter()
    }

    pub(super) fn clear_member(&mut self) {
        self.member = false;
    }

    pub(super) fn drop_child(&mut self, edge: &str) {
        self.children.remove(edge);
    }

    pub(super) fn retain_children(&mut self, keep: impl Fn(&str) -> bool) {
        self.children.retain(|edge, _| keep(edge));
    }

    /// Drops branches that hold nothing.
    pub(super) fn tidy(&mut self) {
        self.children.retain(|_, child| {
            child.tidy();
            child.member || !child.children.is_empty()
        });
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        union.member |= other.member;
        for (edge, theirs) in &other.children {
            let mine = union.children.remove(edge).unwrap_or_default();
            union.children.insert(edge.clone(), mine.union(theirs));
        }
        union
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let both = |(edge, mine): (&String, &Self)| {
            Some((edge.clone(), mine.intersection(other.children.get(edge)?)))
        };
        let mut set = Self {
            member: self.member && other.member,
            children: self.children.iter().filter_map(both).collect(),
        };
        set.tidy();
        set
    }

    pub(super) fn difference(&self, other: &Self) -> Self {
        let left = |(edge, mine): (&String, &Self)| {
            let left =
                other.children.get(edge).map_or_else(|| mine.clone(), |theirs| mine.difference(theirs));
            (edge.clone(), left)
        };
        let mut set =
            Self { member: self.member && !other.member, children: self.children.iter().map(left).collect() };
        set.tidy();
        set
    }

    /// Every member as people read it: `.spec.ports[port=80,protocol="TCP"].name`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths(&mut String::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, path: &mut String, paths: &mut Vec<String>) {
        if self.member && !path.is_empty() {
            paths.push(path.clone());
        }
        for (edge, child) in &self.children {
            let length = path.len();
            path.push_str(&readable(edge));
            child.collect_paths(path, paths);
            path.truncate(length);
        }
    }
}

fn readable(edge: &str) -> String {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    match edge.split_once(':') {
        Some(("k", keys)) => {
            let keys = parse(keys);
            let each = keys.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={value}"));
            format!("[{}]", each.collect::<Vec<_>>().join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        Some((_, name)) => format!(".{name}"),
        None => edge.to_owned(),
    }
}
