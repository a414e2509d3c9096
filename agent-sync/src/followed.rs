//! Which clusters the agent follows, in a file for its next life.
//!
//! A mirror that fills an empty store announces one cluster after the other, each when it reaches it. An agent that starts
//! meanwhile could take the first for all there are, and take away what rules and peers of its earlier life hold of the rest.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_types::ClusterName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Names of clusters.
pub(crate) type Names = Arc<BTreeSet<ClusterName>>;

/// The file of an agent that answers at `socket`.
pub(crate) fn file_beside(socket: &Path) -> PathBuf {
    socket.with_extension("clusters")
}

/// What an earlier life wrote: one name a line. Nothing if there was none, or it cannot be read.
pub(crate) fn load(path: &Path) -> BTreeSet<ClusterName> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| {
        if error.kind() != ErrorKind::NotFound {
            warn!(path = %path.display(), %error, "cannot read which clusters were followed");
        }
        String::new()
    });
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Where the next content of the file at `path` is written before it takes its place.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("clusters.new")
}

/// Removes what an agent that answered at `socket` has noted for its next life, if there is anything.
///
/// # Errors
/// It is there and cannot be removed.
pub fn forget_followed(socket: &Path) -> std::io::Result<()> {
    let path = file_beside(socket);
    for path in [beside(&path), path] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Replaces the file at once.
fn save(path: &Path, names: &BTreeSet<ClusterName>) -> std::io::Result<()> {
    let aside = beside(path);
    let mut file = std::fs::File::create(&aside)?;
    for name in names {
        writeln!(file, "{name}")?;
    }
    file.sync_all()?;
    std::fs::rename(aside, path)
}

/// Keeps the file at `path` as `names` say until `stop`, which leaves it.
pub(crate) async fn remember(
    path: PathBuf,
    mut names: watch::Receiver<Names>,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut saved = Arc::new(load(&path));
    loop {
        let changed = stop.run_until_cancelled(names.changed()).await;
        let now = Arc::clone(&names.borrow_and_update());
        // A few bytes, and seldom.
        if now != saved
            && let Err(error) = save(&path, &now)
        {
            warn!(path = %path.display(), %error, "cannot write which clusters are followed; a restart waits for none of them");
        }
        saved = now;
        if !matches!(changed, Some(Ok(()))) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_anything_else_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let path = file_beside(&socket);
        assert_eq!(load(&path), BTreeSet::new());
        let names: BTreeSet<ClusterName> = ["east", "west"].map(|name| name.parse().unwrap()).into();
        for names in [&names, &BTreeSet::new(), &names] {
            save(&path, names).unwrap();
            assert_eq!(load(&path), *names);
        }
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "nothing lies around");
        std::fs::write(&path, b"east\nNot A Name\n").unwrap();
        assert_eq!(load(&path).len(), 1);
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert_eq!(load(&path), BTreeSet::new());
        std::fs::write(beside(&path), b"east").unwrap();
        for _ in 0..2 {
            forget_followed(&socket).unwrap();
            assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        }
        std::fs::create_dir(&path).unwrap();
        forget_followed(&socket).unwrap_err();
    }
}
