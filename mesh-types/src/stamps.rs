//! When an exporter wrote what: `cilium/synced/<cluster>/isthmus/stamps/v1`, about once a second while something changes.
//!
//! A mirror that knows when a revision of the store became visible to its own readers learns from it how long that took. It
//! lies where canaries do, which every peer may read, under a name that is none of a canary, which Cilium's readers ignore.

use serde::{Deserialize, Serialize};

use crate::{ClusterName, Reason, Rejection, key};

/// The key after `cilium/synced/<cluster>/`.
pub const STAMPS: &str = "isthmus/stamps/v1";
/// Most commits that one value tells of; more are left out, evenly.
pub const MAX_STAMPS: usize = 512;

/// The whole key.
pub fn stamps_key(cluster: &ClusterName) -> String {
    format!("{}{STAMPS}", key::synced_prefix(cluster))
}

/// Revisions of a store, each with the time at which it was written, in microseconds of Unix time by the exporter's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(pub Vec<(i64, i64)>);

/// The value, in JSON: each commit as the difference to the one before, the first one to 0.
#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    commits: Vec<(i64, i64)>,
}

impl Stamps {
    /// The value.
    pub fn encode(&self) -> Vec<u8> {
        let step = |before: &mut (i64, i64), now: &(i64, i64)| {
            let step = (now.0.wrapping_sub(before.0), now.1.wrapping_sub(before.1));
            *before = *now;
            Some(step)
        };
        let commits = self.0.iter().scan((0, 0), step).collect();
        // A list of numbers can always be written.
        serde_json::to_vec(&Wire { commits }).unwrap_or_default()
    }

    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with it, with [`Reason::ValueNotJson`].
    pub fn decode(value: &[u8]) -> Result<Self, Rejection> {
        let refuse = |what: String| Rejection::new(Reason::ValueNotJson, what);
        let wire: Wire = serde_json::from_slice(value).map_err(|error| refuse(format!("stamps: {error}")))?;
        if wire.commits.len() > MAX_STAMPS {
            return Err(refuse(format!(
                "stamps: expected at most {MAX_STAMPS}, found {}",
                wire.commits.len()
            )));
        }
        let add = |before: &mut (i64, i64), (revision, time): (i64, i64)| {
            *before = (before.0.checked_add(revision)?, before.1.checked_add(time)?);
            Some(*before)
        };
        let length = wire.commits.len();
        let stamps: Vec<_> = wire.commits.into_iter().scan((0, 0), add).collect();
        if stamps.len() < length || stamps.iter().any(|(revision, time)| *revision <= 0 || *time < 0) {
            return Err(refuse("stamps: a revision or a time is out of range".to_owned()));
        }
        Ok(Self(stamps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is written reads back the same.
        #[test]
        fn stamps_read_back(commits in prop::collection::vec((1..i64::MAX, 0..i64::MAX), 0..20)) {
            let stamps = Stamps(commits);
            prop_assert_eq!(Stamps::decode(&stamps.encode()).unwrap(), stamps);
        }

        /// Whatever is there instead is refused, not obeyed and not fatal.
        #[test]
        fn nothing_else_is_read(value in prop::collection::vec(any::<u8>(), 0..60)) {
            drop(Stamps::decode(&value));
        }
    }

    #[test]
    fn a_value_is_short_and_its_name_is_none_of_a_canary() {
        let stamps = Stamps(vec![(104, 1_763_751_234_567_890), (105, 1_763_751_234_569_890)]);
        let text = r#"{"commits":[[104,1763751234567890],[1,2000]]}"#;
        assert_eq!(String::from_utf8(stamps.encode()).unwrap(), text);
        assert_eq!(stamps_key(&"west".parse().unwrap()), "cilium/synced/west/isthmus/stamps/v1");
        assert_eq!(key::Resource::from_canary_name(STAMPS), None);
    }

    #[test]
    fn a_value_that_makes_no_sense_is_refused_with_its_reason() {
        let many = format!(r#"{{"commits":[{}[1,1]]}}"#, "[1,1],".repeat(MAX_STAMPS));
        for value in [
            "",
            "[]",
            r#"{"commits":[[0,1]]}"#,
            r#"{"commits":[[1,-1]]}"#,
            r#"{"commits":[[9223372036854775807,1],[1,1]]}"#,
            &many,
        ] {
            let refused = Stamps::decode(value.as_bytes()).unwrap_err();
            assert!(
                refused.reason == Reason::ValueNotJson && refused.detail.starts_with("stamps: "),
                "{value}"
            );
        }
    }
}
