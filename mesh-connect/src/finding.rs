//! What a check found.

use crate::Code;
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It works, or may work; somebody should look.
    Warning,
    /// The mesh does not work like this: nothing is written.
    Error,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Which check.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// The clusters that it is about: their names, or contexts where there is no name.
    pub clusters: Vec<String>,
    /// What should be.
    pub expected: String,
    /// What is.
    pub found: String,
    /// What to do about it.
    pub advice: String,
}

impl Finding {
    pub(crate) fn error(code: Code, clusters: &[&str]) -> Self {
        Self::new(code, Severity::Error, clusters)
    }

    pub(crate) fn warning(code: Code, clusters: &[&str]) -> Self {
        Self::new(code, Severity::Warning, clusters)
    }

    fn new(code: Code, severity: Severity, clusters: &[&str]) -> Self {
        let clusters = clusters.iter().map(|name| (*name).to_owned()).collect();
        let (expected, found, advice) = Default::default();
        Self { code, severity, clusters, expected, found, advice }
    }

    pub(crate) fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = text.into();
        self
    }

    pub(crate) fn found(mut self, text: impl Into<String>) -> Self {
        self.found = text.into();
        self
    }

    pub(crate) fn advice(mut self, text: impl Into<String>) -> Self {
        self.advice = text.into();
        self
    }
}
