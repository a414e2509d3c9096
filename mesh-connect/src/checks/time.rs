//! Clocks and versions.

use super::pairs;
use crate::code::Code;
use crate::{Finding, Member};

/// Clocks may differ by so much, in seconds. Ages of heartbeats and dates of certificates are told by them; Cilium takes a
/// heartbeat that is two minutes old for the end of a connection.
pub const MAX_CLOCK_SKEW: f64 = 60.0;

/// From here on it is odd for machines that keep their time by NTP.
const ODD_CLOCK_SKEW: f64 = 5.0;

/// Minor versions of Cilium that may be beside each other: those of an upgrade.
const MAX_MINOR_SKEW: u32 = 1;

pub(super) fn check(members: &[Member], findings: &mut Vec<Finding>) {
    for (one, other) in pairs(members) {
        findings.extend(clocks(one, other));
        findings.extend(versions(one, other));
    }
}

fn clocks(one: &Member, other: &Member) -> Option<Finding> {
    let (mine, theirs) = (one.clock?, other.clock?);
    let apart = (mine.ahead_seconds - theirs.ahead_seconds).abs();
    let surely = apart - mine.uncertainty_seconds - theirs.uncertainty_seconds;
    if surely <= ODD_CLOCK_SKEW {
        return None;
    }
    let clusters = [one.name(), other.name()];
    let finding = if surely > MAX_CLOCK_SKEW {
        Finding::error(Code::ClockSkew, &clusters)
    } else {
        Finding::warning(Code::ClockSkew, &clusters)
    };
    let (ahead, behind) = if mine.ahead_seconds > theirs.ahead_seconds {
        (one.name(), other.name())
    } else {
        (other.name(), one.name())
    };
    Some(
        finding
            .expected(format!("API servers' clocks within {ODD_CLOCK_SKEW:.0} s of each other"))
            .found(format!("{ahead} is {apart:.0} s ahead of {behind}"))
            .advice("set the clocks by NTP on the machines of both control planes"),
    )
}

fn versions(one: &Member, other: &Member) -> Option<Finding> {
    let (mine, theirs) = (one.version.as_ref()?, other.version.as_ref()?);
    // They speak one protocol, whose versions are Cilium's.
    if mine.product != theirs.product {
        return None;
    }
    let (major, minor) = minor(&mine.text)?;
    let (other_major, other_minor) = self::minor(&theirs.text)?;
    if major == other_major && minor.abs_diff(other_minor) <= MAX_MINOR_SKEW {
        return None;
    }
    Some(
        Finding::warning(Code::VersionSkew, &[one.name(), other.name()])
            .expected(format!("versions of {} that are at most one minor version apart", mine.product))
            .found(format!("{} has {}, {} has {}", one.name(), mine.text, other.name(), theirs.text))
            .advice("upgrade the older one, one minor version at a time"),
    )
}

/// Major and minor number of a version such as `v1.19.1`.
pub(super) fn minor(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
