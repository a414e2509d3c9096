//! What becomes of the last state of a cluster that is out of contact. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// What becomes of what was mirrored from a cluster when contact with it is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LostContact {
    /// It stays until the contact is back or the cluster is removed from the configuration.
    #[default]
    Keep,
    /// It is withdrawn when nothing was heard for so long, and comes back with the contact.
    DrainAfter(Duration),
}

/// Whoever writes more means `keep`, or another unit.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A text that is no [`LostContact`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected keep or drain-after:DURATION (such as drain-after:30m; at most a hundred years), found {found:?}"
)]
pub struct LostContactError {
    found: String,
}

impl FromStr for LostContact {
    type Err = LostContactError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || LostContactError { found: text.to_owned() };
        if text == "keep" {
            return Ok(Self::Keep);
        }
        let after = text.strip_prefix("drain-after:").ok_or_else(refused)?;
        let after: jiff::SignedDuration = after.trim().parse().map_err(|_unreadable| refused())?;
        let after = Duration::try_from(after).ok().filter(|after| !after.is_zero()).ok_or_else(refused)?;
        if after > LONGEST {
            return Err(refused());
        }
        Ok(Self::DrainAfter(after))
    }
}

impl fmt::Display for LostContact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::DrainAfter(after) => write!(f, "drain-after:{after:?}"),
        }
    }
}

impl LostContact {
    pub(crate) const fn drain_after(self) -> Option<Duration> {
        match self {
            Self::Keep => None,
            Self::DrainAfter(after) => Some(after),
        }
    }
}

/// What a peer's configuration file says beyond the etcd client's.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct OwnKeys {
    #[serde(rename = "isthmus-lost-contact")]
    lost_contact: Option<String>,
}

/// The key of [`OwnKeys`].
pub(crate) const LOST_CONTACT_KEY: &str = "isthmus-lost-contact";

impl OwnKeys {
    pub(crate) fn lost_contact(&self) -> Result<Option<LostContact>, LostContactError> {
        self.lost_contact.as_deref().map(str::parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_policies_are_read_and_written() {
        for (text, expected, written) in [
            ("keep", LostContact::Keep, "keep"),
            ("drain-after:90s", LostContact::DrainAfter(Duration::from_secs(90)), "drain-after:90s"),
            ("drain-after:1h30m", LostContact::DrainAfter(Duration::from_secs(5400)), "drain-after:5400s"),
        ] {
            let policy: LostContact = text.parse().unwrap();
            assert_eq!((policy, policy.to_string().as_str()), (expected, written));
        }
        for text in [
            "",
            "drain",
            "drain-after:",
            "drain-after:0s",
            "drain-after:-1m",
            "drain-after:x",
            "Keep",
            "drain-after:9223372036854775807s",
            "drain-after:99999999999999999999s",
            "drain-after:876001h",
        ] {
            let refused = text.parse::<LostContact>().unwrap_err().to_string();
            assert!(refused.contains("expected keep or drain-after:DURATION"), "{refused}");
        }
    }
}
