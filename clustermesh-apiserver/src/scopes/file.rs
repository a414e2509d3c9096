//! The file of scopes as it changes.

use std::path::{Path, PathBuf};

use mesh_types::ClusterName;
use tracing::{info, warn};

use super::{Scopes, ScopesError};

/// Largest file that is read; the users of 511 clusters take 30 KiB.
const MAX_BYTES: u64 = 1024 * 1024;

/// A file whose last good version counts.
#[derive(Debug)]
pub(crate) struct ScopesFile {
    path: PathBuf,
    local: ClusterName,
    /// The text that was last understood.
    read: Option<String>,
    complained: Option<String>,
}

impl Scopes {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`ScopesError`].
    pub fn read(path: &Path, local: &ClusterName) -> Result<Self, ScopesError> {
        Self::parse(&text_of(path)?, local)
    }
}

impl ScopesFile {
    pub(crate) fn new(path: PathBuf, local: ClusterName) -> Self {
        Self { path, local, read: None, complained: None }
    }

    /// What the file says, if that is news. What cannot be read or understood is said once, and changes nothing.
    pub(crate) fn look(&mut self) -> Option<Scopes> {
        match self.news() {
            Ok(news) => {
                self.complained = None;
                if news.is_some() {
                    info!(file = %self.path.display(), "export scopes read");
                }
                news
            }
            Err(error) => {
                let error = error.to_string();
                if self.complained.as_ref() != Some(&error) {
                    warn!(file = %self.path.display(), error, "the file of scopes changes nothing");
                    self.complained = Some(error);
                }
                None
            }
        }
    }

    /// What is wrong with the file as it is now.
    pub(crate) fn complaint(&self) -> Option<&str> {
        self.complained.as_deref()
    }

    fn news(&mut self) -> Result<Option<Scopes>, ScopesError> {
        let text = text_of(&self.path)?;
        if self.read.as_ref() == Some(&text) {
            return Ok(None);
        }
        let scopes = Scopes::parse(&text, &self.local)?;
        self.read = Some(text);
        Ok(Some(scopes))
    }
}

/// What a file of settings says.
pub(crate) fn text_of(path: &Path) -> Result<String, ScopesError> {
    let unreadable = |error: std::io::Error| ScopesError::Unreadable(error.to_string());
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_BYTES {
        return Err(ScopesError::Unreadable(format!("it has {size} bytes, expected at most {MAX_BYTES}")));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}
