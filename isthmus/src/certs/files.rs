//! Certificates and keys on disk.

use anyhow::{Context as _, ensure};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// File of a CA's certificate, also beside each leaf.
pub(crate) const CA_CERTIFICATE: &str = "ca.crt";
/// File of a CA's key.
pub(crate) const CA_KEY: &str = "ca.key";
/// File of a leaf's certificate.
pub(crate) const CERTIFICATE: &str = "tls.crt";
/// File of a leaf's key.
pub(crate) const KEY: &str = "tls.key";

/// A file to write.
#[derive(Clone, Copy)]
pub(crate) struct File<'a> {
    pub(crate) name: &'static str,
    pub(crate) content: &'a str,
    pub(crate) mode: Mode,
}

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everybody, 0644 less the umask.
    Public,
    /// Its owner, 0600.
    Secret,
}

/// Writes all files into `directory`, which is made if need be.
///
/// Nothing is written if any file exists with another content and `overwrite` is off. Each file appears complete
/// or not at all, and a key is never readable by others, not even for a moment.
///
/// # Errors
/// With the path concerned.
pub(crate) fn write(directory: &Path, files: &[File<'_>], overwrite: bool) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("make the directory {}", directory.display()))?;
    let missing: Vec<&File<'_>> = files.iter().filter(|file| !is_there(directory, file)).collect();
    for file in &missing {
        let path = directory.join(file.name);
        // `symlink_metadata`, so that a link to nowhere counts as a file that is there.
        ensure!(
            overwrite || path.symlink_metadata().is_err(),
            "{} is there already; give --force to replace it, or choose another --out",
            path.display()
        );
    }
    missing.into_iter().try_for_each(|file| write_one(directory, file, overwrite))
}

/// A public file that already says the same is left alone; a secret one is not compared.
fn is_there(directory: &Path, file: &File<'_>) -> bool {
    let same = || fs::read(directory.join(file.name)).is_ok_and(|content| content == file.content.as_bytes());
    file.mode == Mode::Public && same()
}

fn write_one(directory: &Path, file: &File<'_>, overwrite: bool) -> anyhow::Result<()> {
    let path = directory.join(file.name);
    let mode = match file.mode {
        Mode::Public => 0o644,
        Mode::Secret => 0o600,
    };
    let write = || {
        let mut made = tempfile::Builder::new()
            .prefix(".isthmus-")
            .permissions(fs::Permissions::from_mode(mode))
            .tempfile_in(directory)?;
        made.write_all(file.content.as_bytes())?;
        made.as_file().sync_all()?;
        let placed = if overwrite { made.persist(&path) } else { made.persist_noclobber(&path) };
        placed.map(drop).map_err(|failed| failed.error)
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Reads a text file.
///
/// # Errors
/// With the path and what the system says.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files<'a>(certificate: &'a str, key: &'a str) -> [File<'a>; 2] {
        [
            File { name: KEY, content: key, mode: Mode::Secret },
            File { name: CERTIFICATE, content: certificate, mode: Mode::Public },
        ]
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("a/b");
        write(&out, &files("certificate", "key"), false).unwrap();
        assert_eq!(mode(&out.join(KEY)), 0o600);
        assert_eq!(mode(&out.join(CERTIFICATE)) & 0o600, 0o600);
        let names = fs::read_dir(&out).unwrap().count();
        assert_eq!(names, 2, "no temporary file is left");
    }

    #[test]
    fn what_is_there_stays_unless_forced_and_nothing_is_half_written() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path();
        fs::write(out.join(CERTIFICATE), "old").unwrap();
        let error = write(out, &files("new", "key"), false).unwrap_err().to_string();
        assert!(error.contains("tls.crt is there already; give --force"), "{error}");
        assert_eq!(read(&out.join(CERTIFICATE)).unwrap(), "old");
        assert!(!out.join(KEY).exists());

        fs::write(out.join(KEY), "old").unwrap();
        fs::set_permissions(out.join(KEY), fs::Permissions::from_mode(0o644)).unwrap();
        write(out, &files("new", "key"), true).unwrap();
        assert_eq!(read(&out.join(CERTIFICATE)).unwrap(), "new");
        assert_eq!(mode(&out.join(KEY)), 0o600, "a replaced key does not keep a wide mode");
    }

    #[test]
    fn an_equal_certificate_is_no_obstacle_and_a_link_to_nowhere_is() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path();
        fs::write(out.join(CERTIFICATE), "same").unwrap();
        write(out, &files("same", "key"), false).unwrap();

        fs::remove_file(out.join(KEY)).unwrap();
        std::os::unix::fs::symlink("nowhere", out.join(KEY)).unwrap();
        write(out, &files("same", "key"), false).unwrap_err();
    }
}
