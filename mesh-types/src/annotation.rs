//! Annotations that steer the mesh, and how Cilium reads them.
//!
//! A value is true if it equals `true` without regard to case. Where a key has an older alias, the newer one wins if
//! present, even when it says false. Source: Cilium docs, *Load-balancing & Service Discovery* (Cluster Mesh).

use std::collections::BTreeMap;

use crate::Reason;

/// Service: share its name with other clusters.
pub const GLOBAL: &str = "service.cilium.io/global";
/// Former name of [`GLOBAL`].
pub const GLOBAL_ALIAS: &str = "io.cilium/global-service";
/// Service: `false` keeps its backends at home.
pub const SHARED: &str = "service.cilium.io/shared";
/// Former name of [`SHARED`].
pub const SHARED_ALIAS: &str = "io.cilium/shared-service";
/// Service: `local`, `remote` or `none`.
pub const AFFINITY: &str = "service.cilium.io/affinity";
/// Former name of [`AFFINITY`].
pub const AFFINITY_ALIAS: &str = "io.cilium/service-affinity";
/// Namespace: takes part in the mesh or not.
pub const NAMESPACE_GLOBAL: &str = "clustermesh.cilium.io/global";

/// Annotations of an object.
pub type Annotations = BTreeMap<String, String>;

fn lookup<'a>(annotations: &'a Annotations, key: &str, alias: &str) -> Option<&'a str> {
    annotations.get(key).or_else(|| annotations.get(alias)).map(String::as_str)
}

fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true")
}

/// Whether the Service is global.
pub fn is_global(annotations: &Annotations) -> bool {
    lookup(annotations, GLOBAL, GLOBAL_ALIAS).is_some_and(is_true)
}

/// Whether the backends of the Service are exported, or why not.
///
/// # Errors
/// [`Reason::ServiceNotGlobal`] or [`Reason::ServiceNotShared`].
pub fn is_shared(annotations: &Annotations) -> Result<(), Reason> {
    if !is_global(annotations) {
        return Err(Reason::ServiceNotGlobal);
    }
    match lookup(annotations, SHARED, SHARED_ALIAS) {
        Some(value) if !is_true(value) => Err(Reason::ServiceNotShared),
        Some(_) | None => Ok(()),
    }
}

/// Whether a namespace takes part in the mesh; `default` is what holds without the annotation.
pub fn is_namespace_global(annotations: &Annotations, default: bool) -> bool {
    annotations.get(NAMESPACE_GLOBAL).map_or(default, |value| is_true(value))
}

/// Which backends of a global service are preferred in this cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// All backends alike.
    #[default]
    None,
    /// Those of this cluster, others only if it has no healthy one.
    Local,
    /// Those of other clusters, local ones only if there is no other.
    Remote,
}

impl Affinity {
    /// Reads the annotation of a global service. A word that is none of the three counts as absent and is named as
    /// [`Reason::AffinityUnknown`] (in Cilium it silently leaves local backends only, and so does a literal `none`).
    pub fn read(annotations: &Annotations) -> (Affinity, Option<Reason>) {
        let word = lookup(annotations, AFFINITY, AFFINITY_ALIAS).unwrap_or_default().to_ascii_lowercase();
        match word.as_str() {
            "" | "none" => (Affinity::None, None),
            "local" => (Affinity::Local, None),
            "remote" => (Affinity::Remote, None),
            _unknown => (Affinity::None, Some(Reason::AffinityUnknown)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn global_and_shared_follow_cilium() {
        type Case<'a> = (&'a [(&'a str, &'a str)], Result<(), Reason>);
        let cases: [Case<'_>; 9] = [
            (&[], Err(Reason::ServiceNotGlobal)),
            (&[(GLOBAL, "true")], Ok(())),
            (&[(GLOBAL, "True")], Ok(())),
            (&[(GLOBAL, "yes")], Err(Reason::ServiceNotGlobal)),
            (&[(GLOBAL_ALIAS, "true")], Ok(())),
            (&[(GLOBAL, "false"), (GLOBAL_ALIAS, "true")], Err(Reason::ServiceNotGlobal)),
            (&[(GLOBAL, "true"), (SHARED, "false")], Err(Reason::ServiceNotShared)),
            (&[(GLOBAL, "true"), (SHARED, "true"), (SHARED_ALIAS, "false")], Ok(())),
            (&[(SHARED, "true")], Err(Reason::ServiceNotGlobal)),
        ];
        for (pairs, expected) in cases {
            assert_eq!(is_shared(&annotations(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn affinity_none_and_unknown_words_mean_no_preference() {
        let cases = [
            ("local", Affinity::Local, None),
            ("REMOTE", Affinity::Remote, None),
            ("none", Affinity::None, None),
            ("", Affinity::None, None),
            ("nearest", Affinity::None, Some(Reason::AffinityUnknown)),
        ];
        for (word, affinity, reason) in cases {
            assert_eq!(Affinity::read(&annotations(&[(AFFINITY, word)])), (affinity, reason), "{word}");
        }
    }

    #[test]
    fn a_namespace_without_the_annotation_follows_the_default() {
        let cases = [
            (None, true, true),
            (None, false, false),
            (Some("TRUE"), false, true),
            (Some("no"), true, false),
        ];
        for (value, default, expected) in cases {
            let annotations =
                value.map(|value| annotations(&[(NAMESPACE_GLOBAL, value)])).unwrap_or_default();
            assert_eq!(is_namespace_global(&annotations, default), expected, "{value:?} {default}");
        }
    }
}
