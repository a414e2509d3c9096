//! One process at a time in a data directory: a second one would take what the first is writing for a torn end.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::Path,
};

use super::disk::{DurableError, at};

/// Name of the file that is locked. It is never deleted: whoever made it anew would hold another lock.
pub(super) const NAME: &str = "lock";

/// A data directory that nobody else uses as long as this lives.
#[derive(Debug)]
pub(crate) struct Held(File);

/// Takes a directory, which is made if need be.
///
/// # Errors
/// [`DurableError::InUse`], or that of the file system.
pub(crate) fn hold(dir: &Path) -> Result<Held, DurableError> {
    fs::create_dir_all(dir).map_err(at(dir))?;
    let path = dir.join(NAME);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).or_else(|error| {
        // Another user may have made it; whoever may read it can lock it.
        if error.kind() == io::ErrorKind::PermissionDenied { File::open(&path) } else { Err(error) }
    });
    let file = file.map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(Held(file)),
        Err(TryLockError::WouldBlock) => Err(DurableError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(DurableError::Io { path, source }),
    }
}

/// The same for those who only know the errors of the file system.
pub(super) fn hold_briefly(dir: &Path) -> io::Result<Held> {
    hold(dir).map_err(|error| match error {
        DurableError::Io { source, .. } => source,
        DurableError::InUse { .. }
        | DurableError::Image { .. }
        | DurableError::Damaged { .. }
        | DurableError::Durable { .. } => io::Error::new(io::ErrorKind::ResourceBusy, error),
    })
}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing would do, but for a child of this process that has not begun its program yet: it has the file open too.
        let _closed_anyway = self.0.unlock();
    }
}
