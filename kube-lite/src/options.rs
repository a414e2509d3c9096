//! Rules for the options of a request, in the words of the original. Pure.
//!
//! Source: Kubernetes `apimachinery/pkg/apis/meta/internalversion/validation` and `meta/v1/validation`.

use serde_json::{Value, json};

use crate::path::Query;
use crate::status::{Cause, Failure, Result};

/// Longest name of a field manager.
const MAX_MANAGER_BYTES: usize = 128;

/// Those of a list or a watch.
///
/// # Errors
/// 422, with each option that does not go with the others.
pub(crate) fn check_list(query: &Query) -> Result<()> {
    const MATCH: &str = "resourceVersionMatch";
    let (exactness, version) = (query.version_match.as_str(), query.resource_version.as_str());
    let mut causes = Vec::new();
    let mut forbid = |field: &str, why: &str| causes.push(Cause::forbidden(field, why));
    match (query.watch, query.send_initial_events) {
        (true, Some(_)) if exactness != "NotOlderThan" => {
            forbid(MATCH, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        (true, None) if !exactness.is_empty() => {
            forbid(MATCH, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        (false, Some(_)) => forbid("sendInitialEvents", "sendInitialEvents is forbidden for list"),
        (false, None) if !exactness.is_empty() => {
            if !query.next.is_empty() {
                forbid(MATCH, "resourceVersionMatch is forbidden when continue is provided");
            }
            if version.is_empty() {
                forbid(MATCH, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if exactness == "Exact" && version == "0" {
                forbid(MATCH, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
            if !matches!(exactness, "Exact" | "NotOlderThan") {
                let allowed = ["Exact", "NotOlderThan", ""].map(Value::from);
                causes.push(Cause::not_supported(MATCH, &exactness.into(), &allowed));
            }
        }
        _ => {}
    }
    refuse("ListOptions", &causes)
}

/// Those of a write, `options` being the name of their kind.
///
/// # Errors
/// 422, with each that is wrong.
pub(crate) fn check_write(options: &str, query: &Query) -> Result<()> {
    let mut causes = Vec::new();
    let manager = query.field_manager.as_str();
    if manager.len() > MAX_MANAGER_BYTES {
        let why = format!("may not be more than {MAX_MANAGER_BYTES} bytes");
        causes.push(Cause::too_long("fieldManager", &why));
    }
    if let Some((at, char)) = manager.char_indices().find(|(_, char)| char.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(char));
        causes.push(Cause::invalid("fieldManager", &manager.into(), why));
    }
    if let Some(wrong) = &query.wrong_dry_run {
        causes.push(Cause::not_supported("dryRun", &json!([wrong]), &["All".into()]));
    }
    if !matches!(query.field_validation.as_str(), "" | "Ignore" | "Strict" | "Warn") {
        let allowed = ["", "Ignore", "Strict", "Warn"].map(Value::from);
        let wrong = query.field_validation.as_str().into();
        causes.push(Cause::not_supported("fieldValidation", &wrong, &allowed));
    }
    refuse(options, &causes)
}

fn refuse(options: &str, causes: &[Cause]) -> Result<()> {
    if causes.is_empty() { Ok(()) } else { Err(Failure::invalid("meta.k8s.io", options, "", causes)) }
}
