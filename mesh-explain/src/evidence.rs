//! What each place said.
//!
//! Pages are read leniently: a field that a daemon of another version does not have is empty here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// What a place said.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Answer<T> {
    /// It answered.
    Said(T),
    /// It was asked, and did not answer: why not.
    Silent(String),
    /// Nobody knows where it is.
    #[default]
    NotAsked,
}

impl<T> Answer<T> {
    /// The answer, if there is one.
    pub fn said(&self) -> Option<&T> {
        match self {
            Self::Said(answer) => Some(answer),
            Self::Silent(_) | Self::NotAsked => None,
        }
    }
}

impl<T, E: std::fmt::Display> From<Result<T, E>> for Answer<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(answer) => Self::Said(answer),
            Err(error) => Self::Silent(error.to_string()),
        }
    }
}

/// All clusters of the mesh, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mesh {
    /// What the places of each cluster said.
    pub clusters: BTreeMap<String, Cluster>,
}

/// The places of one cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Its Kubernetes API.
    pub kubernetes: Answer<Objects>,
    /// `/status` of its `clustermesh-apiserver`.
    pub exporter: Answer<ExporterPage>,
    /// `/mcs` of the same: the controllers of imports.
    pub controllers: Answer<ControllerPage>,
    /// The keys of the question in its store, its own and the mirrored ones.
    pub store: Answer<Keys>,
    /// `/status` of its `kvstoremesh`.
    pub mirror: Answer<MirrorPage>,
    /// The tables of an agent.
    pub agent: Answer<AgentPages>,
    /// `/status` of its DNS server.
    pub dns: Answer<DnsPage>,
    /// What its DNS server answers to the name of the question.
    pub reply: Answer<DnsReply>,
}

/// Keys that were found, with their values as text.
pub type Keys = BTreeMap<String, String>;

/// The objects of the question, as JSON, if they exist.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// The Namespace.
    pub namespace: Option<Value>,
    /// The Service.
    pub service: Option<Value>,
    /// Its EndpointSlices.
    pub slices: Vec<Value>,
    /// The ServiceExport of its name.
    pub service_export: Option<Value>,
    /// The ServiceImport of its name.
    pub service_import: Option<Value>,
    /// Whoever has the address: Pods, CiliumEndpoints, Nodes, as `kind namespace/name`.
    pub owners: Vec<String>,
}

macro_rules! pages {
    ($($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty,)+ })+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
            #[serde(default, rename_all = "camelCase")]
            pub struct $name {
                $($(#[doc = $field_doc])+ pub $field: $type,)+
            }
        )+
    };
}

pages! {
    /// `/status` of the exporter.
    ExporterPage {
        /// What is written.
        resources: Vec<ExportedResource>,
        /// What is read.
        kinds: Vec<ReadKind>,
        /// What is withheld.
        withheld: Vec<WithheldObject>,
        /// What clusters in a scope see, and do not see.
        scopes: Vec<ExportScope>,
    }

    /// What some clusters may see.
    ExportScope {
        /// Its name.
        name: String,
        /// The clusters.
        clusters: Vec<String>,
        /// What they do not see.
        withheld: Vec<SkippedKey>,
    }

    /// A kind of data that the exporter writes.
    ExportedResource {
        /// The word in keys.
        resource: String,
        /// How many keys.
        keys: usize,
        /// How many of them the store has not confirmed.
        pending: usize,
        /// Everything was written once.
        synced: bool,
        /// What must be listed first.
        waiting_for: Vec<String>,
        /// The latest failure.
        last_error: Option<String>,
    }

    /// A kind of object that the exporter reads.
    ReadKind {
        /// The kind.
        kind: String,
        /// `listed`, or how it is not.
        state: String,
        /// Code of why it is not.
        reason: Option<String>,
        /// The same for people.
        error: Option<String>,
    }

    /// Something of an object that is not exported.
    WithheldObject {
        /// Kind of the object.
        kind: String,
        /// `namespace/name`, or the name alone.
        object: String,
        /// Code.
        reason: String,
        /// What was expected and found.
        detail: String,
    }

    /// `/mcs`: the controllers of imports.
    ControllerPage {
        /// Inputs that have not been listed.
        pending: Vec<String>,
        /// By `namespace/name`.
        withheld: BTreeMap<String, Vec<Trouble>>,
        /// The last failure of a request, by service.
        failing: BTreeMap<String, String>,
    }

    /// A code with its words.
    Trouble {
        /// Code.
        reason: String,
        /// What was expected and found.
        detail: String,
    }

    /// `/status` of the mirror.
    MirrorPage {
        /// The configured clusters.
        remotes: Vec<Remote>,
        /// Files that are not used.
        rejected_files: Vec<RejectedFile>,
    }

    /// A file that is not used.
    RejectedFile {
        /// Its name.
        file: String,
        /// Code.
        reason: String,
        /// What was expected and found.
        detail: String,
    }

    /// A configured cluster.
    Remote {
        /// Its name.
        name: String,
        /// Its store answers.
        connected: bool,
        /// Where its store should be.
        endpoints: Vec<String>,
        /// By the word in keys.
        resources: BTreeMap<String, MirrorResource>,
        /// Since its heartbeat changed.
        heartbeat_age_seconds: Option<f64>,
        /// What is in the way.
        trouble: Option<Trouble>,
        /// What the local store refuses.
        write_error: Option<String>,
        /// Entries that are not mirrored.
        skipped: Vec<SkippedKey>,
    }

    /// A kind of data of a configured cluster.
    MirrorResource {
        /// `synced`, `stale`, `never-synced` or `not-offered`.
        state: String,
        /// What it waits for.
        waiting_for: Option<String>,
        /// Entries.
        entries: usize,
        /// Those among them that are not written yet.
        pending: usize,
        /// Since it could last be trusted.
        stale_seconds: Option<f64>,
        /// Since the peer's store last said anything of it.
        last_event_seconds: Option<f64>,
        /// Withdrawals that are held back: why.
        withheld: Option<Trouble>,
    }

    /// An entry that is not mirrored.
    SkippedKey {
        /// The word in keys.
        resource: String,
        /// Relative to the prefix.
        key: String,
        /// Code.
        reason: String,
        /// What was expected and found.
        detail: String,
    }

    /// `/status` of the DNS server.
    DnsPage {
        /// The domain.
        zone: String,
        /// All names are known.
        synced: bool,
        /// What is not served.
        skipped: Vec<SkippedObject>,
    }

    /// An object that gives no name.
    SkippedObject {
        /// Kind.
        kind: String,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Code.
        reason: String,
    }
}

/// What the DNS server answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsReply {
    /// `NOERROR`, `NXDOMAIN`, `SERVFAIL` and so on.
    pub code: String,
    /// The records, as text.
    pub answers: Vec<String>,
}

/// The tables of an agent, as its socket gives them: see `agent_sync::api::schema`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentPages {
    /// `/v1/status`.
    pub status: Value,
    /// `/v1/services`.
    pub services: Value,
    /// `/v1/ipcache` of the address.
    pub ipcache: Value,
    /// `/v1/rejected`.
    pub rejected: Value,
    /// `/v1/wireguard`.
    pub wireguard: Value,
}
