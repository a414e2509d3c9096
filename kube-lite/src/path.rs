//! From a request's path and query to what is asked for. Pure.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::status::{Failure, Result};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/healthz`, `/livez`, `/readyz` and what is below them.
    Health,
    Version,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/<group>`
    Group(String),
    /// `/api/v1` or `/apis/<group>/<version>`
    Resources(GroupVersion),
    OpenApiV2,
    OpenApiV3,
    /// `/openapi/v3/api/v1` or `/openapi/v3/apis/<group>/<version>`
    OpenApiV3Of(GroupVersion),
    Object(Target),
    Unknown,
}

/// A group (empty is the core group) and a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupVersion {
    pub(crate) group: String,
    pub(crate) version: String,
}

impl GroupVersion {
    /// `v1` or `group/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `api/v1` or `apis/group/v1`.
    pub(crate) fn path(&self) -> String {
        if self.group.is_empty() {
            format!("api/{}", self.version)
        } else {
            format!("apis/{}/{}", self.group, self.version)
        }
    }
}

/// A resource's path: all objects, or one, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) version: GroupVersion,
    pub(crate) plural: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

/// Reads a path. Segments are percent-decoded before; none in the middle may be empty.
pub(crate) fn route(path: &str) -> Route {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    if segments.contains(&"") {
        return Route::Unknown;
    }
    let version =
        |group: &str, version: &str| GroupVersion { group: group.to_owned(), version: version.to_owned() };
    match segments[..] {
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["version"] => Route::Version,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["api", v] => Route::Resources(version("", v)),
        ["apis", group] => Route::Group(group.to_owned()),
        ["apis", group, v] => Route::Resources(version(group, v)),
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiV3,
        ["openapi", "v3", "api", v] => Route::OpenApiV3Of(version("", v)),
        ["openapi", "v3", "apis", group, v] => Route::OpenApiV3Of(version(group, v)),
        ["api", v, ref rest @ ..] => object(version("", v), rest),
        ["apis", group, v, ref rest @ ..] => object(version(group, v), rest),
        _ => Route::Unknown,
    }
}

fn object(version: GroupVersion, rest: &[&str]) -> Route {
    let owned = |text: &str| Some(text.to_owned());
    let (namespace, plural, name, subresource) = match *rest {
        // The namespace itself has two subresources; anything else below a namespace is a resource in it.
        ["namespaces", name, sub @ ("status" | "finalize")] => (None, "namespaces", owned(name), owned(sub)),
        ["namespaces", ns, plural] => (owned(ns), plural, None, None),
        ["namespaces", ns, plural, name] => (owned(ns), plural, owned(name), None),
        ["namespaces", ns, plural, name, ref sub @ ..] => {
            (owned(ns), plural, owned(name), Some(sub.join("/")))
        }
        [plural] => (None, plural, None, None),
        [plural, name] => (None, plural, owned(name), None),
        [plural, name, ref sub @ ..] => (None, plural, owned(name), Some(sub.join("/"))),
        [] => return Route::Unknown,
    };
    Route::Object(Target { version, plural: plural.to_owned(), namespace, name, subresource })
}

/// The query parameters that mean something here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) watch: bool,
    pub(crate) labels: String,
    pub(crate) fields: String,
    /// 0 is no limit.
    pub(crate) limit: usize,
    pub(crate) next: String,
    pub(crate) resource_version: String,
    pub(crate) version_match: String,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) field_manager: String,
    pub(crate) force: bool,
    pub(crate) dry_run: bool,
    /// What `dryRun` is, if it is not a word for it.
    pub(crate) wrong_dry_run: Option<String>,
    pub(crate) field_validation: String,
    pub(crate) include_object: String,
    pub(crate) propagation: Option<String>,
    pub(crate) orphan_dependents: Option<bool>,
}

impl Query {
    /// Reads the text behind the `?`. Unknown parameters are ignored, and of several of a name the first counts, as with the
    /// original.
    ///
    /// # Errors
    /// A value that is not what its parameter takes.
    pub(crate) fn read(text: &str) -> Result<Self> {
        fn read<T: FromStr>(key: &str, value: &str) -> Result<T> {
            let wrong =
                |_error| Failure::bad_request(format!("invalid value {value:?} of query parameter {key}"));
            value.parse().map_err(wrong)
        }
        // Go's way with flags: empty and 0 are false.
        let flag = |value: &str| !matches!(value, "" | "0" | "f" | "false" | "F" | "FALSE" | "False");
        let mut query = Self::default();
        let mut seen = BTreeSet::new();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            if !seen.insert(key.clone()) {
                continue;
            }
            let owned = value.clone().into_owned();
            match key.as_ref() {
                "watch" => query.watch = flag(&value),
                "labelSelector" => query.labels = owned,
                "fieldSelector" => query.fields = owned,
                "limit" => query.limit = usize::try_from(read::<i64>(&key, &value)?).unwrap_or_default(),
                "continue" => query.next = owned,
                "resourceVersion" => query.resource_version = owned,
                "resourceVersionMatch" => query.version_match = owned,
                "allowWatchBookmarks" => query.bookmarks = flag(&value),
                "sendInitialEvents" => query.send_initial_events = Some(flag(&value)),
                "timeoutSeconds" => query.timeout_seconds = Some(read(&key, &value)?),
                "fieldManager" => query.field_manager = owned,
                "force" => query.force = flag(&value),
                "dryRun" if value == "All" => query.dry_run = true,
                "dryRun" => query.wrong_dry_run = Some(owned),
                "gracePeriodSeconds" => drop(read::<i64>(&key, &value)?),
                "fieldValidation" => query.field_validation = owned,
                "includeObject" => query.include_object = owned,
                "propagationPolicy" => query.propagation = Some(owned),
                "orphanDependents" => query.orphan_dependents = Some(flag(&value)),
                _ => {}
            }
        }
        Ok(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources_objects_and_parts() {
        let target = |group: &str, version: &str, plural: &str, rest: [Option<&str>; 3]| {
            let [namespace, name, subresource] = rest.map(|part| part.map(str::to_owned));
            let version = GroupVersion { group: group.into(), version: version.into() };
            Route::Object(Target { version, plural: plural.into(), namespace, name, subresource })
        };
        for (path, route_wanted) in [
            ("/api/v1/namespaces", target("", "v1", "namespaces", [None, None, None])),
            ("/api/v1/namespaces/a", target("", "v1", "namespaces", [None, Some("a"), None])),
            (
                "/api/v1/namespaces/a/status",
                target("", "v1", "namespaces", [None, Some("a"), Some("status")]),
            ),
            ("/api/v1/namespaces/a/pods", target("", "v1", "pods", [Some("a"), None, None])),
            (
                "/api/v1/namespaces/a/pods/p/log",
                target("", "v1", "pods", [Some("a"), Some("p"), Some("log")]),
            ),
            ("/api/v1/nodes/n/proxy/x/y", target("", "v1", "nodes", [None, Some("n"), Some("proxy/x/y")])),
            ("/apis/a.b/v2/things", target("a.b", "v2", "things", [None, None, None])),
            (
                "/apis/a.b/v2/namespaces/n/things/t",
                target("a.b", "v2", "things", [Some("n"), Some("t"), None]),
            ),
            ("/apis/a.b/v2", Route::Resources(GroupVersion { group: "a.b".into(), version: "v2".into() })),
            ("/readyz/ping", Route::Health),
            ("/", Route::Unknown),
            ("/api/v1//pods", Route::Unknown),
            ("/api/v1/pods/", target("", "v1", "pods", [None, None, None])),
            ("/metrics", Route::Unknown),
        ] {
            assert_eq!(route(path), route_wanted, "{path}");
        }
    }

    #[test]
    fn a_query_is_decoded_and_checked() {
        let query =
            Query::read("watch=1&labelSelector=a%3Db%2Cc&limit=5&force=false&timeoutSeconds=7").unwrap();
        assert!(query.watch && !query.force);
        assert_eq!((query.labels.as_str(), query.limit, query.timeout_seconds), ("a=b,c", 5, Some(7)));
        assert_eq!(Query::read("limit=1&limit=2").unwrap().limit, 1);
        assert_eq!(Query::read("dryRun=Some").unwrap().wrong_dry_run.as_deref(), Some("Some"));
        for wrong in ["limit=many", "timeoutSeconds=-1", "gracePeriodSeconds=x"] {
            assert_eq!(Query::read(wrong).unwrap_err().code, 400, "{wrong}");
        }
    }
}
