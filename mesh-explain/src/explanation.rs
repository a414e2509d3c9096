//! What is answered.

use std::fmt;

use mesh_types::Reason;
use serde::Serialize;

/// The path of the data, step by step, and how it ends.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What was asked.
    pub question: String,
    /// The cluster whose view is explained.
    pub from: String,
    /// In the order of the path, cluster by cluster.
    pub steps: Vec<Step>,
    /// `good` if the subject is where it is expected; else the worst that stands in the way.
    pub verdict: Verdict,
    /// One sentence.
    pub outcome: String,
    /// What to do or look at next.
    pub next: Vec<String>,
}

/// One step of the path.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Where.
    pub cluster: String,
    /// Where in the cluster.
    pub place: Place,
    /// How it stands there.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
    /// How old that view may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// Why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Because>,
}

/// A reason with what it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Because {
    /// Stable code.
    pub code: String,
    /// What it is about, if that is not the subject itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// What was expected and found.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What the code means and what to do, as in docs/reasons.md.
    pub meaning: &'static str,
}

/// A place on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The Kubernetes API.
    Kubernetes,
    /// `clustermesh-apiserver`: Kubernetes to store.
    Exporter,
    /// The store, own keys.
    Store,
    /// `kvstoremesh`: store to store.
    Mirror,
    /// The store, mirrored keys.
    Cache,
    /// `clustermesh-apiserver`: the controllers of imports.
    Controllers,
    /// The agent's tables.
    Agent,
    /// The DNS server.
    Dns,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kubernetes => "kubernetes",
            Self::Exporter => "exporter",
            Self::Store => "store",
            Self::Mirror => "mirror",
            Self::Cache => "cache",
            Self::Controllers => "controllers",
            Self::Agent => "agent",
            Self::Dns => "dns",
        })
    }
}

/// How it stands, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Worth knowing; stops nothing.
    Note,
    /// Nobody could say.
    Unknown,
    /// The path ends here, or what follows is not to be trusted.
    Bad,
}

impl Because {
    /// A reason by its code, which may be of a version that knows more of them.
    pub fn new(code: &str, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        let known = Reason::ALL.iter().find(|reason| reason.code() == code);
        let meaning =
            known.map_or("a code that this version does not know", |reason| reason.explanation().trim());
        Self { code: code.to_owned(), subject: subject.into(), detail: detail.into(), meaning }
    }
}
