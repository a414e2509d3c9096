//! `users.yaml` of the ConfigMap `clustermesh-remote-users`: who of the other clusters may read the store.

use crate::Observed;
use serde_yaml_ng::{Mapping, Value};
use std::collections::BTreeSet;

/// The ConfigMap's key.
pub(super) const USERS_FILE: &str = "users.yaml";
/// The role of other clusters.
const ROLE: &str = "remote";

/// The file. Whatever else stands in it stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users {
    file: Mapping,
    users: Vec<Value>,
}

impl Users {
    /// Reads the ConfigMap; without the key it is empty.
    ///
    /// # Errors
    /// What is not as it should be.
    pub(crate) fn of(object: &Observed) -> Result<Self, String> {
        let Some(text) = object.data.get(USERS_FILE) else { return Ok(Self::default()) };
        let value: Value = serde_yaml_ng::from_slice(text).map_err(|error| error.to_string())?;
        let mut file = match value {
            Value::Null => Mapping::new(),
            Value::Mapping(file) => file,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Sequence(_) | Value::Tagged(_) => {
                return Err("expected `users:` and a list below it".to_owned());
            }
        };
        let users = match file.remove("users") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Sequence(users)) if users.iter().all(|user| name(user).is_some()) => users,
            Some(_) => return Err("users: expected a list of users with a name".to_owned()),
        };
        Ok(Self { file, users })
    }

    /// Adds those of `wanted` that are missing and removes those of `gone`; whether that changed anything.
    pub(crate) fn change(&mut self, wanted: &BTreeSet<String>, gone: &BTreeSet<String>) -> bool {
        let before = self.users.len();
        self.users.retain(|user| !name(user).is_some_and(|name| gone.contains(name)));
        let removed = self.users.len() < before;
        let there: BTreeSet<&str> = self.users.iter().filter_map(name).collect();
        let missing: Vec<Value> =
            wanted.iter().filter(|user| !there.contains(user.as_str())).map(|user| entry(user)).collect();
        let added = !missing.is_empty();
        self.users.extend(missing);
        removed || added
    }

    /// The file's text.
    pub(crate) fn text(&self) -> String {
        let mut file = self.file.clone();
        file.insert("users".into(), Value::Sequence(self.users.clone()));
        serde_yaml_ng::to_string(&file).expect("what was read as YAML can be written")
    }
}

fn name(user: &Value) -> Option<&str> {
    user.get("name").and_then(Value::as_str)
}

fn entry(user: &str) -> Value {
    let pairs = [("name", user), ("role", ROLE)];
    Value::Mapping(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}
