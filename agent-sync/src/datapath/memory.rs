//! A writer that only remembers; for tests, and for agents that show tables and change nothing.

use async_trait::async_trait;

use super::{Applied, Datapath, DatapathError};
use crate::services::MergedServices;

/// Remembers the desired state.
#[derive(Debug, Default)]
pub struct Memory {
    /// What is "in effect".
    pub services: MergedServices,
    /// How many writes there were.
    pub writes: u64,
}

#[async_trait]
impl Datapath for Memory {
    fn name(&self) -> &'static str {
        "none"
    }

    async fn inherited(&mut self) -> Result<bool, DatapathError> {
        Ok(false)
    }

    async fn apply(&mut self, desired: &MergedServices) -> Result<Applied, DatapathError> {
        let frontends = desired.values().map(|service| service.frontends.len()).sum();
        let changed = self.services != *desired;
        if changed {
            self.services = desired.clone();
            self.writes += 1;
        }
        Ok(Applied { changed, frontends, skipped: Vec::new() })
    }

    async fn verify(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }

    async fn uninstall(&mut self) -> Result<(), DatapathError> {
        self.services.clear();
        Ok(())
    }
}
