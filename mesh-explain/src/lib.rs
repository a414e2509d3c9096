//! Why a service, a name or an address is, or is not, where its user expects it.
//!
//! ```text
//!  Kubernetes APIs, stores, pages of daemons ──read elsewhere──▶ Mesh ─┐
//!                                                                     ├─▶ explain ─▶ Explanation ─▶ text, JSON
//!                                  what is asked, from which cluster ─┘
//! ```
//!
//! Pure: what each place said is an [`Answer`], and the walk along the path of the data (Kubernetes, exporter, store,
//! mirror, cache, agent or DNS) turns answers into steps. A step never guesses: a place that was not asked or kept
//! silent is *unknown*, and says why. Reason codes are those of [`mesh_types::Reason`], as the daemons gave them.

mod address;
mod evidence;
mod explanation;
mod name;
mod objects;
mod path;
mod question;
mod service;
mod text;

pub use evidence::{
    AgentPages, Answer, Cluster, ControllerPage, DnsPage, DnsReply, ExportScope, ExportedResource,
    ExporterPage, Keys, Mesh, MirrorPage, MirrorResource, Objects, ReadKind, RejectedFile, Remote,
    SkippedKey, SkippedObject, Trouble, WithheldObject,
};
pub use explanation::{Because, Explanation, Place, Step, Verdict};
pub use question::{Question, QuestionError, Subject};
pub use text::{Style, push_wrapped, wrap};

/// Walks the path of the data and says at each step what is there, and why something is not.
pub fn explain(question: &Question, mesh: &Mesh) -> Explanation {
    match &question.subject {
        Subject::Service { namespace, name } => service::explain(question, namespace, name, mesh),
        Subject::Name { namespace, service, .. } => name::explain(question, namespace, service, mesh),
        Subject::Address(address) => address::explain(question, *address, mesh),
    }
}
