//! What must go because something else went: dependents of owners, contents of namespaces, objects of definitions.
//! Pure.
//!
//! In: every change of every object. Out: for the objects that a change concerns, what is to be done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::api::{CLEAN_UP, FOREGROUND, ORPHAN};
use crate::object::{self, items, text};

const NAMESPACES: &str = "/registry/core/namespaces/";
const DEFINITIONS: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Delete {
        key: String,
        uid: String,
        foreground: bool,
    },
    /// Removes the owner references with these uids.
    Disown {
        key: String,
        owners: BTreeSet<String>,
    },
    /// Removes a finalizer.
    Release {
        key: String,
        finalizer: &'static str,
    },
    /// Lets a namespace go.
    Finalize {
        key: String,
    },
}

/// All objects, and who owns whom.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    objects: BTreeMap<String, Arc<Value>>,
    keys: BTreeMap<String, String>,
    /// Dependents by the uid of their owner.
    owned: BTreeMap<String, BTreeSet<String>>,
    contents: BTreeMap<String, BTreeSet<String>>,
}

fn owner_uids(object: &Value) -> impl Iterator<Item = &str> {
    items(object, "/metadata/ownerReferences").iter().map(|owner| text(owner, "/uid"))
}

impl Graph {
    /// Takes a change; returns the keys of the objects to look at.
    pub(crate) fn put(&mut self, key: &str, new: Option<Arc<Value>>) -> BTreeSet<String> {
        let mut concerned = BTreeSet::new();
        if let Some(old) = self.objects.remove(key) {
            let uid = object::uid(&old);
            for owner in owner_uids(&old) {
                if let Some(dependents) = self.owned.get_mut(owner) {
                    dependents.remove(key);
                    if dependents.is_empty() {
                        self.owned.remove(owner);
                    }
                }
                concerned.extend(self.keys.get(owner).cloned());
            }
            if new.as_ref().is_none_or(|new| object::uid(new) != uid) {
                self.keys.remove(uid);
                concerned.extend(self.owned.get(uid).into_iter().flatten().cloned());
            }
            let namespace = object::namespace(&old);
            if let Some(contents) = self.contents.get_mut(namespace) {
                contents.remove(key);
                if contents.is_empty() {
                    self.contents.remove(namespace);
                    concerned.insert(format!("{NAMESPACES}{namespace}"));
                }
            }
            if new.is_none() && !self.has_objects(key) {
                concerned.extend(definition_of(key));
            }
        }
        if let Some(new) = new {
            concerned.insert(key.to_owned());
            self.keys.insert(object::uid(&new).to_owned(), key.to_owned());
            for owner in owner_uids(&new) {
                self.owned.entry(owner.to_owned()).or_default().insert(key.to_owned());
            }
            let namespace = object::namespace(&new);
            if !namespace.is_empty() {
                self.contents.entry(namespace.to_owned()).or_default().insert(key.to_owned());
            }
            self.objects.insert(key.to_owned(), new);
        }
        concerned
    }

    /// Whether there are objects of the resource that a key is of.
    fn has_objects(&self, key: &str) -> bool {
        let prefix = resource_prefix(key);
        self.objects.range(prefix.to_owned()..).next().is_some_and(|(key, _)| key.starts_with(prefix))
    }

    /// What is to be done about an object. `is_served` tells whether there is such a kind: an owner of a kind that
    /// is not here cannot be known to be gone.
    pub(crate) fn decide(&self, key: &str, is_served: impl Fn(&str, &str) -> bool) -> Vec<Action> {
        let Some(object) = self.objects.get(key) else { return Vec::new() };
        let mut actions = Vec::new();
        if object::is_terminating(object) {
            self.finish(key, object, &mut actions);
            return actions;
        }
        let namespace = object::namespace(object);
        let mut absent = BTreeSet::new();
        let mut present = 0;
        for owner in items(object, "/metadata/ownerReferences") {
            let uid = text(owner, "/uid");
            let known = self.keys.get(uid).and_then(|key| self.objects.get(key));
            // An owner is in the same namespace, or in none.
            let here = known.is_some_and(|owner| ["", namespace].contains(&object::namespace(owner)));
            if here || !is_served(text(owner, "/apiVersion"), text(owner, "/kind")) {
                present += 1;
            } else {
                absent.insert(uid.to_owned());
            }
        }
        if !absent.is_empty() {
            actions.push(if present == 0 {
                delete(key, object, false)
            } else {
                Action::Disown { key: key.to_owned(), owners: absent }
            });
        }
        actions
    }

    fn finish(&self, key: &str, object: &Value, actions: &mut Vec<Action>) {
        let uid = object::uid(object);
        let finalizers = object::finalizers(object);
        let dependents = || {
            let keys = self.owned.get(uid).into_iter().flatten();
            keys.filter_map(|key| Some((key, self.objects.get(key)?)))
        };
        let release = |finalizer| Action::Release { key: key.to_owned(), finalizer };
        if finalizers.contains(&ORPHAN) {
            let owners = BTreeSet::from([uid.to_owned()]);
            actions.extend(
                dependents().map(|(key, _)| Action::Disown { key: key.clone(), owners: owners.clone() }),
            );
            if dependents().next().is_none() {
                actions.push(release(ORPHAN));
            }
        }
        if finalizers.contains(&FOREGROUND) {
            let blocks = |dependent: &Value| {
                let owners = items(dependent, "/metadata/ownerReferences").iter();
                let mut ours = owners.filter(|owner| text(owner, "/uid") == uid);
                ours.any(|owner| owner.get("blockOwnerDeletion") == Some(&Value::Bool(true)))
            };
            let going = dependents().filter(|(_, dependent)| !object::is_terminating(dependent));
            actions.extend(going.map(|(key, dependent)| delete(key, dependent, blocks(dependent))));
            if !dependents().any(|(_, dependent)| blocks(dependent)) {
                actions.push(release(FOREGROUND));
            }
        }
        let inside: Vec<&String> = if let Some(name) = key.strip_prefix(NAMESPACES) {
            self.contents.get(name).into_iter().flatten().collect()
        } else if finalizers.contains(&CLEAN_UP) {
            let prefix = key.strip_prefix(DEFINITIONS).and_then(objects_prefix).unwrap_or_default();
            let below = self.objects.range(prefix.clone()..).map(|(key, _)| key);
            below.take_while(|key| key.starts_with(&prefix) && !prefix.is_empty()).collect()
        } else {
            return;
        };
        if inside.is_empty() {
            actions.push(if key.starts_with(NAMESPACES) {
                Action::Finalize { key: key.to_owned() }
            } else {
                release(CLEAN_UP)
            });
        }
        let objects = inside.into_iter().filter_map(|key| Some((key, self.objects.get(key)?)));
        let going = objects.filter(|(_, object)| !object::is_terminating(object));
        actions.extend(going.map(|(key, object)| delete(key, object, false)));
    }
}

fn delete(key: &str, object: &Value, foreground: bool) -> Action {
    Action::Delete { key: key.to_owned(), uid: object::uid(object).to_owned(), foreground }
}

/// `/registry/<group>/<plural>/` of a key.
fn resource_prefix(key: &str) -> &str {
    key.match_indices('/').nth(3).map_or(key, |(at, _)| &key[..=at])
}

/// The key of the definition of the resource that a key is of; of a built-in, there is none at that key.
fn definition_of(key: &str) -> Option<String> {
    let mut segments = resource_prefix(key).trim_matches('/').split('/').skip(1);
    let (group, plural) = (segments.next()?, segments.next()?);
    Some(format!("{DEFINITIONS}{plural}.{group}"))
}

/// Where the objects of a definition are.
fn objects_prefix(name: &str) -> Option<String> {
    let (plural, group) = name.split_once('.')?;
    Some(format!("/registry/{group}/{plural}/"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct World(Graph, BTreeSet<String>);

    impl World {
        fn put(&mut self, key: &str, object: Value) {
            let concerned = self.0.put(key, Some(Arc::new(object)));
            self.1.extend(concerned);
        }

        fn remove(&mut self, key: &str) {
            let concerned = self.0.put(key, None);
            self.1.extend(concerned);
        }

        fn actions(&mut self) -> Vec<Action> {
            let concerned = std::mem::take(&mut self.1);
            concerned.iter().flat_map(|key| self.0.decide(key, |_, kind| kind != "Deployment")).collect()
        }
    }

    const OWNER: &str = "/registry/core/configmaps/n/owner";
    const CHILD: &str = "/registry/core/secrets/n/child";

    fn object(uid: &str, owners: &[&str]) -> Value {
        let owners: Vec<_> = owners.iter().map(|uid| json!({"uid": uid, "apiVersion": "v1", "kind": "ConfigMap", "blockOwnerDeletion": true})).collect();
        json!({"metadata": {"uid": uid, "namespace": "n", "ownerReferences": owners}})
    }

    fn terminating(uid: &str, finalizers: &[&str]) -> Value {
        json!({"metadata": {"uid": uid, "namespace": "n", "deletionTimestamp": "T", "finalizers": finalizers}})
    }

    fn deletes(key: &str, uid: &str, foreground: bool) -> Vec<Action> {
        vec![Action::Delete { key: key.into(), uid: uid.into(), foreground }]
    }

    #[test]
    fn dependents_follow_their_last_owner() {
        let mut world = World(Graph::default(), BTreeSet::new());
        world.put(OWNER, object("o", &[]));
        world.put("/registry/core/configmaps/n/other", object("p", &[]));
        world.put(CHILD, object("c", &["o", "p"]));
        assert_eq!(world.actions(), []);
        world.remove(OWNER);
        assert_eq!(world.actions(), [Action::Disown { key: CHILD.into(), owners: ["o".to_owned()].into() }]);
        world.put(CHILD, object("c", &["p"]));
        world.remove("/registry/core/configmaps/n/other");
        assert_eq!(world.actions(), deletes(CHILD, "c", false));
    }

    #[test]
    fn an_owner_in_another_namespace_is_none_and_one_of_an_unknown_kind_is_held() {
        let mut world = World(Graph::default(), BTreeSet::new());
        world.put("/registry/core/configmaps/m/owner", json!({"metadata": {"uid": "o", "namespace": "m"}}));
        world.put(CHILD, object("c", &["o"]));
        assert_eq!(world.actions(), deletes(CHILD, "c", false));
        world.put(
            CHILD,
            json!({"metadata": {"uid": "c", "ownerReferences": [{"uid": "x", "kind": "Deployment"}]}}),
        );
        assert_eq!(world.actions(), []);
    }

    #[test]
    fn in_the_foreground_dependents_go_first() {
        let mut world = World(Graph::default(), BTreeSet::new());
        world.put(OWNER, terminating("o", &[FOREGROUND]));
        world.put(CHILD, object("c", &["o"]));
        assert_eq!(world.actions(), deletes(CHILD, "c", true));
        world.remove(CHILD);
        assert_eq!(world.actions(), [Action::Release { key: OWNER.into(), finalizer: FOREGROUND }]);
    }

    #[test]
    fn orphans_lose_their_owner_and_stay() {
        let mut world = World(Graph::default(), BTreeSet::new());
        world.put(CHILD, object("c", &["o"]));
        world.put(OWNER, terminating("o", &[ORPHAN]));
        assert!(
            world.actions().contains(&Action::Disown { key: CHILD.into(), owners: ["o".to_owned()].into() })
        );
        world.put(CHILD, object("c", &[]));
        assert_eq!(world.actions(), [Action::Release { key: OWNER.into(), finalizer: ORPHAN }]);
    }

    #[test]
    fn a_namespace_goes_when_it_is_empty() {
        let mut world = World(Graph::default(), BTreeSet::new());
        let key = format!("{NAMESPACES}n");
        world.put(CHILD, object("c", &[]));
        world.put(&key, json!({"metadata": {"uid": "n", "deletionTimestamp": "T"}}));
        assert_eq!(world.actions(), deletes(CHILD, "c", false));
        world.remove(CHILD);
        assert_eq!(world.actions(), [Action::Finalize { key }]);
    }

    #[test]
    fn a_definition_goes_after_its_objects() {
        let mut world = World(Graph::default(), BTreeSet::new());
        let key = format!("{DEFINITIONS}things.a.b");
        let thing = "/registry/a.b/things/n/t";
        world.put(thing, object("t", &[]));
        world.put("/registry/a.b/thingsies/n/t", object("u", &[]));
        world
            .put(&key, json!({"metadata": {"uid": "d", "deletionTimestamp": "T", "finalizers": [CLEAN_UP]}}));
        assert_eq!(world.actions(), deletes(thing, "t", false));
        world.remove(thing);
        assert_eq!(world.actions(), [Action::Release { key, finalizer: CLEAN_UP }]);
    }
}
