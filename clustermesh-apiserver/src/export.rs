//! From Kubernetes to the keys that other clusters read.
//!
//! ```text
//!  namespaces ─────────────┬───────────┬────────────┬───────────┐
//!  ciliumnodes | nodes     │           │            │           │           ┌──────────────┐
//!  ciliumidentities | pods ▼           ▼            ▼           ▼           │ SyncWriter   │
//!  ciliumendpoints | pods  Exporter: convert ─▶ Ledger (who owns a key) ──▶ │ per resource │──▶ store
//!  services, endpointslices            │                                    └──────────────┘
//!  serviceexports                      └─▶ what is withheld, and why
//! ```
//!
//! [`Exporter`] and everything below it is pure: objects go in one by one, changes of keys come out. What always holds:
//!
//! - The desired keys follow from the objects alone, whatever the order in which they came (of several objects that claim one
//!   address, the first has it).
//! - Nothing is said of a resource before *every* kind of object that it is made of was listed completely: then the whole
//!   desired set is handed over at once, and from then on only differences.
//! - An object that does not decode keeps its last good version and stops nothing else.

mod derived;
mod endpoint;
mod endpoint_slice;
mod exporter;
mod identity;
mod ledger;
mod namespaces;
mod node;
mod object;
mod service;
mod service_export;
mod unit;
mod withheld;

pub use derived::node::{KubeNode, convert as convert_kube_node};
pub use derived::pod::Pod;
pub use endpoint::{
    CiliumEndpoint, CiliumEndpointSlice, convert as convert_endpoint, convert_slice as convert_endpoint_slice,
};
pub use endpoint_slice::{EndpointSlice, convert as convert_slice};
pub use exporter::{Change, Exporter, Input, Output, RecordsInput, Settings, Sources};
pub use identity::{CiliumIdentity, convert as convert_identity};
pub use namespaces::Namespace;
pub use node::{CiliumNode, CiliumNodeSpec, convert as convert_node};
pub use object::{Kind, Metadata};
pub use service::{Service, convert as convert_service};
pub use service_export::{ServiceExport, convert as convert_service_export};
pub use unit::{Entry, Unit};
pub use withheld::Withheld;

pub(crate) use derived::allocation;
pub(crate) use exporter::identity_of;
