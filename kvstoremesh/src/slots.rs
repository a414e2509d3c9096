//! What happens to each remote cluster as its configuration comes and goes. Pure.
//!
//! ```text
//!            set                remove                 removed
//!   (none) ───────▶ running ─────────────▶ removing ─────────────▶ (none)
//!                     ▲                        │ set, and no remove after it
//!                     └────────── removed ─────┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_types::ClusterName;

use crate::config::{Change, PeerFile};

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Start the task of this cluster.
    Start(ClusterName, Arc<PeerFile>),
    /// Give its running task this configuration.
    Update(ClusterName, Arc<PeerFile>),
    /// Stop its task, then remove what it wrote, then tell [`Slots::removed`].
    Remove(ClusterName),
}

/// All remote clusters, running or under removal.
///
/// A removal takes minutes. A configuration that comes back meanwhile waits for its end, and only the last word counts.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: BTreeMap<ClusterName, Slot>,
}

#[derive(Debug)]
enum Slot {
    Running,
    Removing { then: Option<Arc<PeerFile>> },
}

impl Slots {
    /// Takes a change of the configuration.
    pub(crate) fn apply(&mut self, change: Change) -> Option<Action> {
        match change {
            Change::Set(name, file) => match self.slots.get_mut(&name) {
                None => {
                    self.slots.insert(name.clone(), Slot::Running);
                    Some(Action::Start(name, file))
                }
                Some(Slot::Running) => Some(Action::Update(name, file)),
                Some(Slot::Removing { then }) => {
                    *then = Some(file);
                    None
                }
            },
            Change::Remove(name) => match self.slots.get_mut(&name) {
                Some(slot @ Slot::Running) => {
                    *slot = Slot::Removing { then: None };
                    Some(Action::Remove(name))
                }
                Some(Slot::Removing { then }) => {
                    *then = None;
                    None
                }
                None => None,
            },
        }
    }

    /// The removal of `name` has ended.
    pub(crate) fn removed(&mut self, name: &ClusterName) -> Option<Action> {
        match self.slots.remove(name) {
            Some(Slot::Removing { then: Some(file) }) => self.apply(Change::Set(name.clone(), file)),
            Some(Slot::Removing { then: None } | Slot::Running) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvstore::EtcdConfigFile;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn west() -> ClusterName {
        "west".parse().unwrap()
    }

    fn set(port: u16) -> Change {
        let text = format!("endpoints: ['http://west:{port}']\n");
        let etcd = EtcdConfigFile::parse(&text, Path::new("")).unwrap();
        Change::Set(west(), Arc::new(PeerFile { etcd, lost_contact: None }))
    }

    fn word(action: Option<Action>) -> String {
        match action {
            None => "nothing".to_owned(),
            Some(Action::Start(_, file)) => format!("start {}", file.etcd.config.endpoints[0]),
            Some(Action::Update(_, file)) => format!("update {}", file.etcd.config.endpoints[0]),
            Some(Action::Remove(_)) => "remove".to_owned(),
        }
    }

    #[test]
    fn a_change_of_a_running_cluster_is_no_removal() {
        let mut slots = Slots::default();
        assert_eq!(word(slots.apply(set(1))), "start http://west:1");
        assert_eq!(word(slots.apply(set(2))), "update http://west:2");
        assert_eq!(word(slots.apply(Change::Remove(west()))), "remove");
        assert_eq!(word(slots.removed(&west())), "nothing");
        assert_eq!(word(slots.apply(set(3))), "start http://west:3");
    }

    #[test]
    fn a_return_during_the_removal_waits_for_its_end() {
        let mut slots = Slots::default();
        slots.apply(set(1));
        slots.apply(Change::Remove(west()));
        assert_eq!(word(slots.apply(set(2))), "nothing");
        assert_eq!(word(slots.apply(set(3))), "nothing");
        assert_eq!(word(slots.removed(&west())), "start http://west:3");
    }

    #[test]
    fn a_removal_after_the_return_cancels_it() {
        let mut slots = Slots::default();
        slots.apply(set(1));
        slots.apply(Change::Remove(west()));
        slots.apply(set(2));
        assert_eq!(word(slots.apply(Change::Remove(west()))), "nothing");
        assert_eq!(word(slots.removed(&west())), "nothing");
    }

    #[derive(Clone, Debug)]
    enum Input {
        Set,
        Remove,
        Removed,
    }

    proptest! {
        /// Never two tasks, never a task beside a removal, and in the end what the last word said.
        #[test]
        fn one_task_or_one_removal_at_a_time(inputs in prop::collection::vec(
            prop_oneof![Just(Input::Set), Just(Input::Remove), Just(Input::Removed)], 0..24))
        {
            let mut slots = Slots::default();
            let (mut running, mut removing) = (BTreeSet::new(), BTreeSet::new());
            let mut wanted = false;
            let mut carry_out = |action: Option<Action>, removing: &mut BTreeSet<ClusterName>| {
                match action {
                    Some(Action::Start(name, _)) => {
                        assert!(!removing.contains(&name));
                        assert!(running.insert(name));
                    }
                    Some(Action::Update(name, _)) => assert!(running.contains(&name)),
                    Some(Action::Remove(name)) => {
                        assert!(running.remove(&name));
                        assert!(removing.insert(name));
                    }
                    None => {}
                }
                !running.is_empty()
            };
            for input in inputs {
                let action = match input {
                    Input::Set => { wanted = true; slots.apply(set(1)) }
                    Input::Remove => { wanted = false; slots.apply(Change::Remove(west())) }
                    Input::Removed if removing.remove(&west()) => slots.removed(&west()),
                    Input::Removed => None,
                };
                carry_out(action, &mut removing);
            }
            let action = if removing.remove(&west()) { slots.removed(&west()) } else { None };
            prop_assert_eq!(carry_out(action, &mut removing), wanted);
        }
    }
}
