//! What the journal is written to: a file, or in tests one that fails as it is told.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use rustix::fs::{FallocateFlags, fallocate};

use crate::journal::disk::{append, sync_dir};

/// A file that grows.
pub(super) trait Medium: Send {
    /// Writes at the end; after a failure a part may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when what was written is on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Takes what is beyond `len` away.
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// Sees to it that `len` bytes from `from` on can be written.
    fn reserve(&mut self, from: u64, len: u64) -> io::Result<()>;
    /// Goes on with another file.
    fn turn(&mut self, path: &Path) -> io::Result<()>;
}

/// Whether a write failed because there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A real one.
#[derive(Debug)]
pub(super) struct File(fs::File);

impl File {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        append(path).map(Self)
    }

    /// One that cannot be written.
    #[cfg(test)]
    pub(super) fn reading(path: &Path) -> io::Result<Self> {
        fs::File::open(path).map(Self)
    }
}

impl Medium for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn reserve(&mut self, from: u64, len: u64) -> io::Result<()> {
        // The length stays, so that the end of the file is the end of what was written.
        Ok(fallocate(&self.0, FallocateFlags::KEEP_SIZE, from, len)?)
    }

    fn turn(&mut self, path: &Path) -> io::Result<()> {
        let file = append(path)?;
        let prepared = path.parent().map_or(Ok(()), sync_dir).and_then(|()| {
            // The room that was kept for it is of use to the next one.
            let len = self.0.metadata()?.len();
            self.0.set_len(len)
        });
        match prepared {
            Ok(()) => {
                self.0 = file;
                Ok(())
            }
            Err(error) => {
                // A newer journal says that this one is whole, which it is not as long as it goes on.
                if file.metadata().is_ok_and(|made| made.len() == 0) {
                    let _empty_ones_are_passed_over_at_the_start = fs::remove_file(path);
                }
                Err(error)
            }
        }
    }
}
