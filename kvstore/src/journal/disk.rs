//! The files of a durable store.
//!
//! `image` is the store at some moment, `journal.N` what came after entry N. A new image is written aside, renamed
//! into place, and only then are the journals that it makes superfluous deleted; so at every moment the newest
//! image and the journals after it are the whole store.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use tracing::{info, warn};

use super::{Entry, encode, replay};
use crate::{
    auth::Auth,
    image::{Image, ImageError},
    mvcc::{Keyspace, Millis},
};

/// A journal of this size is folded into a new image.
const FOLD_BYTES: u64 = 64 << 20;

/// Why a durable store does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DurableError {
    /// A file cannot be read or written.
    #[error("{path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image is damaged. Restore a snapshot, or start empty in another directory.
    #[error("{path} cannot be used")]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// A journal is damaged before its end. What comes before the offset is whole.
    #[error("{path} is damaged at byte {offset}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: usize,
    },
    /// There is a durable store in it, whose keys a store in memory would hide.
    #[error("{path} holds a durable store; start it with --durable, or take another directory")]
    Durable {
        /// The directory.
        path: PathBuf,
    },
}

/// The open journal of a store.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    file: File,
    path: PathBuf,
    sequence: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Disk {
    /// Reads what is there, cuts a torn end off, and opens the journal for more.
    pub(crate) fn open(dir: &Path, now: Millis) -> Result<(Self, Keyspace, Auth), DurableError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| DurableError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(at(dir))?;
        let (mut keyspace, mut auth, mut sequence) = match read_image(dir)? {
            Some(image) => (image.to_keyspace(now), image.auth, image.sequence),
            None => (Keyspace::new(), Auth::default(), 0),
        };
        let mut last = None;
        for path in journals(dir).map_err(at(dir))? {
            let content = fs::read(&path).map_err(at(&path))?;
            let (whole, reached) = replay(&content, sequence, &mut keyspace, &mut auth, now)
                .map_err(|offset| DurableError::Damaged { path: path.clone(), offset })?;
            if whole < content.len() {
                warn!(path = %path.display(), offset = whole, bytes = content.len() - whole, "cut off an entry that was not written to its end");
                let file = OpenOptions::new().write(true).open(&path).map_err(at(&path))?;
                file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(at(&path))?;
            }
            sequence = reached;
            last = Some((path, whole as u64));
        }
        keyspace.extend_leases(now);
        let (path, bytes) = last.unwrap_or_else(|| (dir.join(format!("journal.{sequence:020}")), 0));
        let file = append(&path).and_then(|file| sync_dir(dir).map(|()| file)).map_err(at(&path))?;
        info!(dir = %dir.display(), revision = keyspace.revision(), keys = keyspace.keys(), "durable store opened");
        Ok((Self { dir: dir.to_owned(), file, path, sequence, bytes, buffer: Vec::new() }, keyspace, auth))
    }

    /// Writes an entry through to the disk.
    pub(crate) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        if entry.is_empty() {
            return Ok(());
        }
        self.sequence += 1;
        self.buffer.clear();
        encode(entry, self.sequence, &mut self.buffer);
        self.file.write_all(&self.buffer)?;
        self.file.sync_data()?;
        self.bytes += self.buffer.len() as u64;
        if self.buffer.capacity() > 1 << 20 {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Whether the journal should be folded into a new image.
    pub(crate) fn is_long(&self) -> bool {
        self.bytes >= FOLD_BYTES
    }

    /// Number of the last entry.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Entries from now on go to a new file; what came before is to be in an image.
    pub(crate) fn turn(&mut self) -> io::Result<()> {
        let path = self.dir.join(format!("journal.{:020}", self.sequence));
        if path != self.path {
            self.file = append(&path)?;
            sync_dir(&self.dir)?;
            (self.path, self.bytes) = (path, 0);
        }
        Ok(())
    }
}

/// Whether a directory holds the keys of a durable store; users alone, as [`keep_users`] leaves them, do not count.
///
/// # Errors
/// See [`DurableError`].
pub fn holds_keys(dir: &Path) -> Result<bool, DurableError> {
    let image = read_image(dir)?;
    let journals = match journals(dir) {
        Ok(journals) => journals,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(DurableError::Io { path: dir.to_owned(), source }),
    };
    Ok(!journals.is_empty() || image.is_some_and(|image| image.revision > 1 || !image.leases.is_empty()))
}

/// The users that are kept in a directory without keys.
pub(crate) fn users(dir: &Path) -> Result<Auth, DurableError> {
    if holds_keys(dir)? {
        return Err(DurableError::Durable { path: dir.to_owned() });
    }
    Ok(read_image(dir)?.map(|image| image.auth).unwrap_or_default())
}

/// Puts users and roles into a directory that holds no keys, in place of those there.
///
/// # Errors
/// Those of the file system.
pub fn keep_users(dir: &Path, auth: &Auth) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let image =
        Image { revision: 1, sequence: 0, leases: Vec::new(), auth: auth.clone(), records: Vec::new() };
    write_image(dir, &image)
}

fn read_image(dir: &Path) -> Result<Option<Image>, DurableError> {
    let path = dir.join("image");
    match fs::read(&path) {
        Ok(bytes) => Image::decode(&bytes).map(Some).map_err(|source| DurableError::Image { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DurableError::Io { path, source }),
    }
}

/// Deletes what a store of ours or etcd's keeps in a directory, and nothing else. Says what else is there.
///
/// # Errors
/// Those of the file system.
pub fn empty_data_dir(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut others = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name {
            "member" | "proxy" => fs::remove_dir_all(&path)?,
            "image" | "image.new" => fs::remove_file(&path)?,
            _ if first_of(&path).is_some() => fs::remove_file(&path)?,
            _ => others.push(path),
        }
    }
    sync_dir(dir)?;
    others.sort();
    Ok(others)
}

/// Makes the directory of a durable store from an image.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if there is a store in it, or that of the file system.
pub fn restore(dir: &Path, image: &Image) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if dir.join("image").exists() || !journals(dir)?.is_empty() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a store in it"));
    }
    // Its journal begins anew.
    write_image(dir, &Image { sequence: 0, ..image.clone() })
}

/// Puts an image in place and deletes the journals that it contains.
pub(crate) fn write_image(dir: &Path, image: &Image) -> io::Result<()> {
    let aside = dir.join("image.new");
    let mut file = File::create(&aside)?;
    let mut written = Ok(());
    image.encode(1 << 20, |piece| {
        if written.is_ok() {
            written = file.write_all(&piece);
        }
    });
    written?;
    file.sync_all()?;
    fs::rename(&aside, dir.join("image"))?;
    sync_dir(dir)?;
    for path in journals(dir)? {
        if first_of(&path).is_some_and(|first| first < image.sequence) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The journals of a directory, oldest first.
fn journals(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if first_of(&path).is_some() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The entry after which a journal begins; `None` for another file.
fn first_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("journal.")?.parse().ok()
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A file that was made or renamed is there after a crash only if its directory was written.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
