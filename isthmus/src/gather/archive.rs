//! Writing a bundle: one tar.gz, complete or not there, and only for its owner.

use super::Bundle;
use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes the files below one folder, which has the name `root`.
///
/// # Errors
/// With the path. A file that is there already is not replaced.
pub(crate) fn write(bundle: &Bundle, root: &str, output: &Path, now: SystemTime) -> anyhow::Result<()> {
    let directory = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> anyhow::Result<()> {
        // Only its owner can read what `tempfile` makes.
        let mut made = tempfile::Builder::new().prefix(".isthmus-").tempfile_in(directory)?;
        let mut tar = tar::Builder::new(GzEncoder::new(&mut made, Compression::default()));
        let modified = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for (path, content) in &bundle.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(u64::try_from(content.len()).context("a file is too large")?);
            header.set_mode(0o600);
            header.set_mtime(modified);
            tar.append_data(&mut header, format!("{root}/{path}"), content.as_slice())?;
        }
        tar.into_inner()?.finish()?;
        made.flush()?;
        made.as_file().sync_all()?;
        made.persist_noclobber(output).map(drop).map_err(|failed| failed.error)?;
        Ok(())
    };
    write().with_context(|| format!("write {}", output.display()))
}
