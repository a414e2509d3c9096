//! A support bundle of a whole mesh: what everybody says, what the clusters hold, and no secrets.
//!
//! ```text
//!  places, contexts ──▶ ask ──▶ Bundle::json / Bundle::text ──▶ redact ──▶ archive (tar.gz)
//!                        └────▶ Bundle::fail: who did not answer, and why
//! ```
//!
//! Nothing gets into a bundle but through [`redact`]. A place that does not answer is a failure in the bundle and leaves the
//! others alone.

pub(crate) mod archive;
pub(crate) mod ask;
pub(crate) mod objects;
pub(crate) mod redact;

use redact::Redactor;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What was gathered. Files are redacted already.
#[derive(Debug, Default)]
pub(crate) struct Bundle {
    /// By path.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// What could not be gathered.
    pub(crate) failures: Vec<Failure>,
    redactor: Redactor,
}

/// Something that could not be gathered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    /// What it would have been: the path of a file, or of a folder.
    pub(crate) what: String,
    /// Why it is not there.
    pub(crate) why: String,
    /// It took too long.
    pub(crate) late: bool,
}

impl Bundle {
    /// Adds a JSON file.
    pub(crate) fn json(&mut self, path: &str, value: &Value) {
        let text = format!("{:#}\n", self.redactor.value(value));
        self.files.insert(path.to_owned(), text.into_bytes());
    }

    /// Adds a text file.
    pub(crate) fn text(&mut self, path: &str, text: &str) {
        let text = self.redactor.text(text);
        self.files.insert(path.to_owned(), text.into_bytes());
    }

    /// Notes that something is missing. The reason may quote what a place said.
    pub(crate) fn fail(&mut self, what: &str, why: &str, late: bool) {
        let why = self.redactor.text(why);
        self.failures.push(Failure { what: what.to_owned(), why, late });
    }

    /// Takes over what was gathered elsewhere.
    pub(crate) fn merge(&mut self, other: Self) {
        self.files.extend(other.files);
        self.failures.extend(other.failures);
    }
}
