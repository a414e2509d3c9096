//! Reading the directory again whenever something in it may have changed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_runtime::Chain;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Change, Directory, FoundFile, MAX_FILE_BYTES, MAX_FILES, RejectedFile};

/// The directory is read this often even if nothing is heard: file events get lost on some file systems.
const RESCAN: Duration = Duration::from_secs(30);
/// Events come in bursts (kubelet writes a directory, then swaps a link); one scan serves a burst.
const SETTLE: Duration = Duration::from_millis(100);

/// The directory of peer configurations cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// At the start, which it stops: probably the flag or the mount is wrong.
    #[error(
        "--clustermesh-config: expected a directory of peer configurations at {path}; create it or correct the flag"
    )]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has more files than a mesh can need.
    #[error("expected at most {MAX_FILES} files in {path}")]
    TooMany {
        /// As given.
        path: PathBuf,
    },
}

/// Follows the directory at `path` until `stop`, and calls `take` after each scan with the changes (often none) and
/// the files that are not used.
///
/// The first scan is done when `take` is called first. A later failure to read the directory changes nothing.
///
/// # Errors
/// [`DirectoryError`] of the first scan.
pub(crate) async fn watch(
    path: &Path,
    mut directory: Directory,
    mut take: impl FnMut(Vec<Change>, Vec<RejectedFile>),
    stop: &CancellationToken,
) -> Result<(), DirectoryError> {
    let stirred = std::sync::Arc::new(Notify::new());
    let mut watches = Watches::new(std::sync::Arc::clone(&stirred));
    watches.arm(path);
    let mut first = true;
    loop {
        match scan(path) {
            Ok(files) => {
                let changes = directory.scan(path, files, Instant::now());
                take(changes, directory.rejected());
                first = false;
            }
            Err(error) if first => return Err(error),
            Err(error) => {
                warn!(error = %Chain(&error), "peer configurations cannot be read, all stay as they are")
            }
        }
        if watches.arm(path) {
            // Something may have changed between the scan and the new watch.
            continue;
        }
        let rescan = Instant::now() + RESCAN;
        let deadline = directory.next_deadline().map_or(rescan, |confirm| confirm.min(rescan));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep_until(deadline.into()) => {}
            () = stirred.notified() => sleep(SETTLE).await,
        }
    }
}

/// Reads every regular file (or link to one) directly in `path`.
fn scan(path: &Path) -> Result<Vec<FoundFile>, DirectoryError> {
    let unreadable = |source| DirectoryError::Unreadable { path: path.to_owned(), source };
    let mut files = Vec::new();
    for (seen, entry) in std::fs::read_dir(path).map_err(unreadable)?.enumerate() {
        if seen >= MAX_FILES {
            return Err(DirectoryError::TooMany { path: path.to_owned() });
        }
        let entry = entry.map_err(unreadable)?;
        // A name that is not UTF-8 is no cluster's.
        let Ok(name) = entry.file_name().into_string() else { continue };
        match read(&entry.path()) {
            Ok(Some(content)) => files.push(FoundFile { name, content: Some(content) }),
            Ok(None) => {}
            // Deleted since it was named, or a link that leads nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_unreadable) => files.push(FoundFile { name, content: None }),
        }
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

/// The content of a regular file of sensible size; `None` for anything else.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    read_while(path, || {})
}

/// The same, while something else happens.
///
/// A file that changes under its reader is an error: half of one and half of another may well be a configuration, of another
/// cluster or without its certificates.
fn read_while(path: &Path, meanwhile: impl FnOnce()) -> io::Result<Option<Vec<u8>>> {
    // Looked at before it is opened: to open a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let file = File::open(path)?;
    let state = |file: &File| file.metadata().and_then(|found| Ok((found.len(), found.modified()?)));
    let before = state(&file)?;
    let mut content = Vec::new();
    (&file).take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    meanwhile();
    let whole = content.len() as u64 == before.0.min(MAX_FILE_BYTES + 1);
    if !whole || state(&file)? != before {
        return Err(io::Error::other("the file changed while it was read"));
    }
    Ok((content.len() as u64 <= MAX_FILE_BYTES).then_some(content))
}

/// Watches on the directory and on every directory that its links lead to.
///
/// Kubelet publishes a volume as `peer -> ..data/peer` and `..data -> ..2026_01_01/`, and swaps `..data`.
struct Watches {
    watcher: Option<RecommendedWatcher>,
    armed: BTreeSet<PathBuf>,
}

impl Watches {
    fn new(stirred: std::sync::Arc<Notify>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Our own reading opens files, which must not make us read again.
            let matters = event.map_or(true, |event| match event.kind {
                EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
                EventKind::Any
                | EventKind::Create(_)
                | EventKind::Modify(_)
                | EventKind::Remove(_)
                | EventKind::Other => true,
            });
            if matters {
                stirred.notify_one();
            }
        });
        let watcher = watcher.inspect_err(|error| {
            warn!(error = %Chain(error), rescan = ?RESCAN, "no file events, the directory is only read now and then");
        });
        Self { watcher: watcher.ok(), armed: BTreeSet::new() }
    }

    /// Watches what is to be watched now; true if that is more than before.
    fn arm(&mut self, path: &Path) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let wanted = places(path);
        for gone in self.armed.extract_if(.., |place| !wanted.contains(place)) {
            // The directory may be gone, and its watch with it.
            drop(watcher.unwatch(&gone));
        }
        let mut more = false;
        for place in wanted.into_iter().filter(|place| !self.armed.contains(place)).collect::<Vec<_>>() {
            match watcher.watch(&place, RecursiveMode::NonRecursive) {
                Ok(()) => more |= self.armed.insert(place),
                Err(error) => {
                    info!(place = %place.display(), error = %Chain(&error), "no file events from here")
                }
            }
        }
        more
    }
}

/// The directory and the real directories of everything in it.
fn places(path: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok).take(MAX_FILES);
    let parents = entries.filter_map(|entry| Some(entry.path().canonicalize().ok()?.parent()?.to_owned()));
    let mut places: BTreeSet<PathBuf> = parents.collect();
    places.insert(path.canonicalize().unwrap_or_else(|_gone| path.to_owned()));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("west");
        std::fs::write(&path, "endpoints: ['https://west:2379']\n").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"endpoints: ['https://west:2379']\n");
        let grow =
            || std::fs::write(&path, "endpoints: ['https://west:2379', 'https://more:2379']\n").unwrap();
        read_while(&path, grow).unwrap_err();
        // In place and of the same length, which only its time tells.
        let later = std::time::SystemTime::now() + Duration::from_secs(1);
        let touch = || File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        read_while(&path, touch).unwrap_err();
        assert!(read(&path).unwrap().is_some(), "once it rests it counts");
    }
}
