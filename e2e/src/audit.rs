//! What an API server says of who asked it for what: its audit log.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// Each request once, when it is answered.
const POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n";
const POLICY_FILE: &str = "audit-policy.yaml";
const LOG: &str = "audit.log";

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Such as `patch`.
    pub verb: String,
    /// The plural, such as `secrets`.
    pub resource: String,
    /// The object; empty for a list, and for one that is to be made.
    pub name: String,
    /// Who asked, before any impersonation.
    pub user: String,
    /// By which program, as it called itself.
    pub agent: String,
    /// Whether it asked that nothing be kept.
    pub dry_run: bool,
    /// What was answered, such as 200.
    pub code: i64,
}

impl Audited {
    /// Whether it asks for something to be kept that was not there, or not so. A review of one's own rights is an answer,
    /// which is kept nowhere.
    #[must_use]
    pub fn is_write(&self) -> bool {
        let changes = ["create", "update", "patch", "delete", "deletecollection"];
        changes.contains(&self.verb.as_str()) && !self.resource.ends_with("reviews") && !self.dry_run
    }
}

pub(crate) fn flags(dir: &Path) -> Result<Vec<String>> {
    let policy = dir.join(POLICY_FILE);
    fs::write(&policy, POLICY).context("write the audit policy")?;
    Ok(vec![
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", dir.join(LOG).display()),
    ])
}

pub(crate) fn read(dir: &Path) -> Result<Vec<Audited>> {
    let text = fs::read_to_string(dir.join(LOG)).context("read the audit log")?;
    // The last line may be under way.
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let requests = lines.map(|line| request(line).with_context(|| format!("read {line}")));
    let requests = requests.collect::<Result<Vec<_>>>()?;
    Ok(requests.into_iter().filter(|request| request.user != "system:apiserver").collect())
}

fn request(line: &str) -> Result<Audited> {
    let event: Value = serde_json::from_str(line)?;
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Audited {
        verb: text("/verb"),
        resource: text("/objectRef/resource"),
        name: text("/objectRef/name"),
        user: text("/user/username"),
        agent: text("/userAgent"),
        dry_run: text("/requestURI").contains("dryRun=All"),
        code: event.pointer("/responseStatus/code").and_then(Value::as_i64).unwrap_or_default(),
    })
}
