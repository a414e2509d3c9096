//! What goes wrong, in the words of the Kubernetes API: a `Status` object.
//!
//! Clients match on `reason`, `code` and `details`; people read `message`.
//! Source: Kubernetes API conventions, "Response Status Kind".

use serde_json::{Value, json};

/// A request that cannot be served, as the client is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    /// HTTP status.
    pub(crate) code: u16,
    /// The machine's word; empty for none.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) details: Option<Value>,
}

/// What a handler returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// One thing that is wrong with an object: where and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    reason: &'static str,
    message: String,
    field: String,
}

/// Which resource and object a failure is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) group: &'a str,
    /// Plural name, `services`.
    pub(crate) resource: &'a str,
    pub(crate) name: &'a str,
}

impl About<'_> {
    fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    fn details(&self) -> Value {
        details(self.group, self.resource, self.name)
    }
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({});
    for (field, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details[field] = value.into();
        }
    }
    details
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(code: u16, reason: &'static str, about: About<'_>, message: String) -> Self {
        Self { code, reason, message, details: Some(about.details()) }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// The caller may not, or nobody may: `why` says which.
    pub(crate) fn forbidden(about: About<'_>, why: &str) -> Self {
        let message = format!("{} {:?} is forbidden: {why}", about.qualified(), about.name);
        Self::about(403, "Forbidden", about, message)
    }

    pub(crate) fn not_found(about: About<'_>) -> Self {
        Self::about(404, "NotFound", about, format!("{} {:?} not found", about.qualified(), about.name))
    }

    /// No such path. `lacking` says what a Kubernetes distribution would have there.
    pub(crate) fn no_such_resource(lacking: Option<&str>) -> Self {
        let mut message = "the server could not find the requested resource".to_owned();
        if let Some(lacking) = lacking {
            message = format!("{message}: kube-lite does not serve {lacking}");
        }
        Self { details: Some(json!({})), ..Self::new(404, "NotFound", message) }
    }

    pub(crate) fn method_not_allowed(what: &str) -> Self {
        let message = "the server does not allow this method on the requested resource";
        let message = if what.is_empty() { message.to_owned() } else { format!("{message}: {what}") };
        Self { details: Some(json!({})), ..Self::new(405, "MethodNotAllowed", message) }
    }

    pub(crate) fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }

    pub(crate) fn already_exists(about: About<'_>) -> Self {
        Self::about(
            409,
            "AlreadyExists",
            about,
            format!("{} {:?} already exists", about.qualified(), about.name),
        )
    }

    pub(crate) fn conflict(about: About<'_>, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {:?}: {why}", about.qualified(), about.name);
        Self::about(409, "Conflict", about, message)
    }

    /// The object changed since the caller read it.
    pub(crate) fn modified(about: About<'_>) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(about, why)
    }

    /// Server-side apply met fields of other managers: who has which.
    pub(crate) fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let plural = if conflicts.len() == 1 { "conflict" } else { "conflicts" };
        let mut managers: Vec<&str> = conflicts.iter().map(|(manager, _field)| manager.as_str()).collect();
        managers.dedup();
        let each = managers.iter().map(|manager| {
            let fields: Vec<_> = conflicts
                .iter()
                .filter(|(owner, _field)| owner == manager)
                .map(|(_owner, field)| field.as_str())
                .collect();
            match &fields[..] {
                [field] if managers.len() == 1 => format!("{plural} with {manager}: {field}"),
                fields => format!("{plural} with {manager}:\n- {}", fields.join("\n- ")),
            }
        });
        let listed = each.collect::<Vec<_>>().join("\n");
        let message = format!("Apply failed with {} {plural}: {listed}", conflicts.len());
        let causes: Vec<_> = conflicts
            .iter()
            .map(|(manager, field)| {
                json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": field})
            })
            .collect();
        Self { details: Some(json!({ "causes": causes })), ..Self::new(409, "Conflict", message) }
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn too_large() -> Self {
        Self::new(413, "RequestEntityTooLarge", "the request is too large")
    }

    pub(crate) fn too_many_operations(count: usize, most: usize) -> Self {
        let why = format!("The allowed maximum operations in a JSON patch is {most}, got {count}");
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: {why}"))
    }

    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// The object of `kind` breaks rules.
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let each: Vec<_> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let why = if let [one] = &each[..] { one.clone() } else { format!("[{}]", each.join(", ")) };
        let mut details = details(group, kind, name);
        details["causes"] = causes
            .iter()
            .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
            .collect();
        let message = format!("{qualified} {name:?} is invalid: {why}");
        Self { details: Some(details), ..Self::new(422, "Invalid", message) }
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            details: Some(json!({"retryAfterSeconds": 1})),
            ..Self::new(503, "ServiceUnavailable", message)
        }
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self { details: Some(json!({"retryAfterSeconds": 1})), ..Self::new(504, "Timeout", message) }
    }

    /// The `Status` object.
    pub(crate) fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

impl From<kvstore::Error> for Failure {
    fn from(error: kvstore::Error) -> Self {
        if let kvstore::Error::Compacted { .. } = error {
            return Self::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter.",
            );
        }
        if let kvstore::Error::Unavailable(_) | kvstore::Error::Transport(_) = error {
            return Self::unavailable("the store below the API cannot be reached");
        }
        Self::internal(format!("the store below the API: {error}"))
    }
}

impl Cause {
    fn new(reason: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        Self { reason, message, field: if field.is_empty() { "<nil>".to_owned() } else { field } }
    }

    pub(crate) fn required(field: impl Into<String>, why: &str) -> Self {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        Self::new("FieldValueRequired", field, format!("Required value{why}"))
    }

    pub(crate) fn too_long(field: impl Into<String>, why: &str) -> Self {
        Self::new("FieldValueTooLong", field, format!("Too long: {why}"))
    }

    pub(crate) fn invalid(field: impl Into<String>, value: &Value, why: impl AsRef<str>) -> Self {
        Self::new("FieldValueInvalid", field, format!("Invalid value: {value}: {}", why.as_ref()))
    }

    pub(crate) fn wrong_type(field: &str, found: &str, wanted: &str) -> Self {
        let place = if field.is_empty() { "<nil>" } else { field };
        let message =
            format!("Invalid value: {found:?}: {place} in body must be of type {wanted}: {found:?}");
        Self::new("FieldValueTypeInvalid", field, message)
    }

    pub(crate) fn not_supported(field: impl Into<String>, value: &Value, allowed: &[Value]) -> Self {
        let allowed: Vec<_> = allowed.iter().map(Value::to_string).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", allowed.join(", "));
        Self::new("FieldValueNotSupported", field, message)
    }

    pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new("FieldValueDuplicate", field, format!("Duplicate value: {value}"))
    }

    pub(crate) fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self::new("FieldValueForbidden", field, format!("Forbidden: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_those_of_the_original() {
        let export = About { group: "multicluster.x-k8s.io", resource: "serviceexports", name: "web" };
        let service = About { group: "", resource: "services", name: "web" };
        assert_eq!(Failure::not_found(service).message, r#"services "web" not found"#);
        assert_eq!(
            Failure::not_found(export).message,
            r#"serviceexports.multicluster.x-k8s.io "web" not found"#
        );
        let causes = [Cause::required("spec.ports", "")];
        let invalid = Failure::invalid("", "Service", "web", &causes);
        assert_eq!(invalid.message, r#"Service "web" is invalid: spec.ports: Required value"#);
        assert_eq!(invalid.to_json()["details"]["causes"][0]["reason"], "FieldValueRequired");
    }

    #[test]
    fn a_conflict_names_managers_and_fields() {
        let one = [("\"a\"".to_owned(), ".data.k".to_owned())];
        assert_eq!(
            Failure::apply_conflict(&one).message,
            "Apply failed with 1 conflict: conflict with \"a\": .data.k"
        );
        let two = [("\"a\"".to_owned(), ".data.k".to_owned()), ("\"b\"".to_owned(), ".data.l".to_owned())];
        assert_eq!(
            Failure::apply_conflict(&two).message,
            "Apply failed with 2 conflicts: conflicts with \"a\":\n- .data.k\nconflicts with \"b\":\n- .data.l"
        );
    }
}
