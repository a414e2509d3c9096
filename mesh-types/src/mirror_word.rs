//! What a mirror says of a cluster beyond what Cilium's can: `cilium/synced/<cluster>/isthmus/v1`.
//!
//! It lies where canaries do, which every reader of mirrored data may read, and under a name that is none of a canary, which
//! Cilium's readers ignore. It is there only while something is unusual; absent, it says that all is as it looks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ClusterName, Reason, Rejection, key};

/// The key after `cilium/synced/<cluster>/`.
pub const MIRROR_WORD: &str = "isthmus/v1";

/// The whole key.
pub fn mirror_word_key(cluster: &ClusterName) -> String {
    format!("{}{MIRROR_WORD}", key::synced_prefix(cluster))
}

/// The value, in JSON. Unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MirrorWord {
    /// The cluster was removed from the mirror's configuration: evidence for readers that its config did not merely expire.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// The kinds of which there is something to say, by their word in keys.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kinds: BTreeMap<String, KindWord>,
}

/// How one kind of one cluster stands with its mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KindWord {
    /// How the peer's word stands.
    pub contact: PeerContact,
    /// Since when it is not current, in seconds of Unix time; absent while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<i64>,
    /// So many keys that the peer withdrew are held back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub withheld: usize,
    /// So many keys were withdrawn though the peer did not say so.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub given_up: usize,
    /// Code of the [`Reason`] for what is held back or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when that is so, in seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
}

/// Four things that all look like keys that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerContact {
    /// The peer's word is current: what is not there was deleted.
    Current,
    /// The peer answers and has not said yet that its data is complete.
    NotListed,
    /// The peer cannot be reached.
    Unreachable,
    /// The peer does not export this kind (any more).
    NotExported,
}

impl MirrorWord {
    /// Says nothing, so that the key is not needed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The value as it is stored.
    ///
    /// # Panics
    /// Never: a map of plain fields is JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a map of plain fields is JSON")
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Reason::ValueNotJson`].
    pub fn decode(value: &[u8]) -> Result<Self, Rejection> {
        serde_json::from_slice(value)
            .map_err(|error| Rejection::new(Reason::ValueNotJson, format!("word of the mirror: {error}")))
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_comes_back_as_it_was_said_and_unknown_fields_do_not_matter() {
        let nodes = KindWord {
            contact: PeerContact::Unreachable,
            stale_since: Some(1_700_000_000),
            withheld: 3,
            given_up: 0,
            reason: Some("withdrawal-abrupt".to_owned()),
            since: Some(1_700_000_100),
        };
        let word = MirrorWord { removed: false, kinds: [("nodes".to_owned(), nodes)].into() };
        assert_eq!(MirrorWord::decode(&word.encode()).unwrap(), word);
        let text = br#"{"removed":true,"more":1}"#;
        assert_eq!(MirrorWord::decode(text).unwrap(), MirrorWord { removed: true, ..MirrorWord::default() });
        assert!(MirrorWord::default().is_empty());
        assert_eq!(MirrorWord::decode(b"x").unwrap_err().reason, Reason::ValueNotJson);
    }

    #[test]
    fn its_key_is_no_canary_of_any_kind() {
        let east: ClusterName = "east".parse().unwrap();
        assert_eq!(mirror_word_key(&east), "cilium/synced/east/isthmus/v1");
        assert_eq!(key::Resource::from_canary_name(MIRROR_WORD), None);
    }
}
