//! Writers that carry merged services out.
//!
//! A writer is told the whole desired state and makes it the one in effect, all or nothing. It keeps what is in effect
//! when the process stops: a restart must not interrupt connections.

mod memory;
mod nft;
mod task;

use std::net::IpAddr;

use async_trait::async_trait;
use mesh_types::Reason;

use crate::services::{MergedServices, Protocol, ServiceName};

pub use memory::Memory;
pub use nft::{Nft, NftOptions, NftScope, Ruleset, TABLES};
pub use task::MakeDatapath;
pub(crate) use task::run;

/// Something that translates service addresses to backends.
#[async_trait]
pub trait Datapath: Send + std::fmt::Debug {
    /// Its word in status and logs.
    fn name(&self) -> &'static str;

    /// Whether an earlier life of the agent has left rules in effect.
    ///
    /// # Errors
    /// The system does not answer.
    async fn inherited(&mut self) -> Result<bool, DatapathError>;

    /// Makes `desired` what is in effect. If nothing would change, nothing is done.
    ///
    /// # Errors
    /// What is in effect is the former state or all of `desired`; the caller tries again.
    async fn apply(&mut self, desired: &MergedServices) -> Result<Applied, DatapathError>;

    /// Finds out whether what it wrote is still there; if not, the next [`Self::apply`] writes it again.
    ///
    /// # Errors
    /// The system does not answer.
    async fn verify(&mut self) -> Result<(), DatapathError>;

    /// Removes everything that it has put in place.
    ///
    /// # Errors
    /// The system refuses.
    async fn uninstall(&mut self) -> Result<(), DatapathError>;
}

/// What came of [`Datapath::apply`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Whether something was written.
    pub changed: bool,
    /// How many frontends are translated.
    pub frontends: usize,
    /// Frontends that are not, or that only refuse.
    pub skipped: Vec<SkippedFrontend>,
}

/// A frontend that a writer does not translate.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SkippedFrontend {
    /// Its service, `namespace/name`.
    #[serde(serialize_with = "as_text")]
    pub service: ServiceName,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Why.
    pub reason: Reason,
}

fn as_text<S: serde::Serializer>(name: &ServiceName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

/// Why a writer could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    /// The program that it needs is not there.
    #[error("run {program}: expected the nftables command line tool; install the package nftables")]
    Program {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The program refused.
    #[error("nft refused the rules: {message}; the agent needs CAP_NET_ADMIN and a kernel with nftables NAT")]
    Refused {
        /// What it printed, shortened.
        message: String,
    },
    /// The program did not end in time.
    #[error("nft did not finish within {0:?}")]
    TimedOut(std::time::Duration),
}
