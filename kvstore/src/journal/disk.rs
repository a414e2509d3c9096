//! The files of a durable store.
//!
//! `image` is the store at some moment, `journal.N` what came after entry N, `id` who the store is. A new image is
//! written aside, renamed into place, and only then are the journals that it makes superfluous deleted; so at every
//! moment the newest image and the journals after it are the whole store. `lock` is held by whoever uses them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use tracing::{info, warn};

use super::{
    lock::{self, Held, hold, hold_briefly},
    replay,
};
use crate::{
    auth::Auth,
    image::{Image, ImageError},
    mvcc::{Keyspace, Millis},
};

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
    /// Someone else uses the directory.
    #[error("{path} is in use by another store: stop that one first, or take another directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// There is a durable store in it, whose keys a store in memory would hide.
    #[error("{path} holds a durable store; start it with --durable, or take another directory")]
    Durable {
        /// The directory.
        path: PathBuf,
    },
}

/// What a directory holds.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) keyspace: Keyspace,
    pub(crate) auth: Auth,
    /// Number of the last entry.
    pub(crate) sequence: u64,
    /// The journal that goes on, and how long it is.
    pub(crate) journal: PathBuf,
    pub(crate) bytes: u64,
    /// Cluster and member id; those given if it is new.
    pub(crate) ids: (u64, u64),
    pub(crate) held: Held,
}

/// Reads what is there, cuts a torn end off, and makes what a new directory lacks.
pub(crate) fn open(dir: &Path, now: Millis, ids: (u64, u64)) -> Result<Opened, DurableError> {
    let held = hold(dir)?;
    let ids = read_ids(dir, ids)?;
    let (mut keyspace, mut auth, mut sequence) = match read_image(dir)? {
        Some(image) => (image.to_keyspace(now), image.auth, image.sequence),
        None => (Keyspace::new(), Auth::default(), 0),
    };
    let mut last = None;
    let paths = journals(dir).map_err(at(dir))?;
    for (nth, path) in paths.iter().enumerate() {
        let content = fs::read(path).map_err(at(path))?;
        let replayed = replay(&content, sequence, &mut keyspace, &mut auth, now);
        let damaged = |offset| DurableError::Damaged { path: path.clone(), offset };
        let replayed = replayed.map_err(damaged)?;
        let file = OpenOptions::new().write(true).open(path).map_err(at(path))?;
        if replayed.whole < content.len() {
            // The next one was begun when this one was whole on the disk, unless it could not be begun after all.
            for later in &paths[nth + 1..] {
                if fs::metadata(later).map_err(at(later))?.len() > 0 {
                    return Err(damaged(replayed.whole));
                }
            }
            let bytes = content.len() - replayed.whole;
            warn!(path = %path.display(), offset = replayed.whole, bytes, "cut off an entry that was not written to its end");
            file.set_len(replayed.whole as u64).map_err(at(path))?;
        }
        // A process that was killed in a flush leaves what only the kernel has: from here on it is told, and the next flush
        // says that all before it is on the disk.
        file.sync_all().map_err(at(path))?;
        sequence = replayed.sequence;
        last = Some((path.clone(), replayed.whole as u64));
    }
    keyspace.extend_leases(now);
    let (journal, bytes) = last.unwrap_or_else(|| (journal_after(dir, sequence), 0));
    append(&journal).and_then(|_made| sync_dir(dir)).map_err(at(&journal))?;
    info!(dir = %dir.display(), revision = keyspace.revision(), keys = keyspace.keys(), "durable store opened");
    Ok(Opened { keyspace, auth, sequence, journal, bytes, ids, held })
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> DurableError + use<> {
    let path = path.to_owned();
    move |source| DurableError::Io { path, source }
}

/// Where the entries after number `sequence` go.
pub(super) fn journal_after(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("journal.{sequence:020}"))
}

/// Who the store is: as at its first start, so that its clients know it again.
fn read_ids(dir: &Path, new: (u64, u64)) -> Result<(u64, u64), DurableError> {
    let path = dir.join("id");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let mut ids = text.split_whitespace().map(|word| u64::from_str_radix(word, 16));
            match (ids.next(), ids.next()) {
                (Some(Ok(cluster)), Some(Ok(member))) if cluster != 0 && member != 0 => Ok((cluster, member)),
                _ => Err(DurableError::Damaged { path, offset: 0 }),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("{:016x} {:016x}\n", new.0, new.1);
            replace(dir, "id", |file| file.write_all(text.as_bytes())).map_err(at(&path))?;
            Ok(new)
        }
        Err(error) => Err(at(&path)(error)),
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
/// [`io::ErrorKind::ResourceBusy`] if a store uses it, or that of the file system.
pub fn keep_users(dir: &Path, auth: &Auth) -> io::Result<()> {
    let _held = hold_briefly(dir)?;
    write_users(dir, auth)
}

/// [`keep_users`] for whoever holds the directory.
pub(crate) fn write_users(dir: &Path, auth: &Auth) -> io::Result<()> {
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
/// [`io::ErrorKind::ResourceBusy`] if a store uses it, or that of the file system.
pub fn empty_data_dir(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let _held = hold_briefly(dir)?;
    let mut others = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name {
            "member" | "proxy" => fs::remove_dir_all(&path)?,
            "image" | "image.new" | "id" | "id.new" => fs::remove_file(&path)?,
            _ if first_of(&path).is_some() => fs::remove_file(&path)?,
            lock::NAME => {}
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
/// [`io::ErrorKind::AlreadyExists`] if there is a store in it, [`io::ErrorKind::ResourceBusy`] if one that keeps only
/// users there runs, or that of the file system.
pub fn restore(dir: &Path, image: &Image) -> io::Result<()> {
    let _held = hold_briefly(dir)?;
    if dir.join("image").exists() || !journals(dir)?.is_empty() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a store in it"));
    }
    // Its journal begins anew.
    write_image(dir, &Image { sequence: 0, ..image.clone() })
}

/// Puts an image in place and deletes the journals that it contains.
pub(crate) fn write_image(dir: &Path, image: &Image) -> io::Result<()> {
    replace(dir, "image", |file| {
        let mut written = Ok(());
        image.encode(1 << 20, |piece| {
            if written.is_ok() {
                written = file.write_all(&piece);
            }
        });
        written
    })?;
    for path in journals(dir)? {
        if first_of(&path).is_some_and(|first| first < image.sequence) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Writes a file aside and renames it into place; a failure leaves the old one and no half of the new one.
fn replace(dir: &Path, name: &str, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let aside = dir.join(format!("{name}.new"));
    let written = File::create(&aside).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    if let Err(error) = written {
        // What was written of it takes space that others need.
        let _best_effort = fs::remove_file(&aside);
        return Err(error);
    }
    fs::rename(&aside, dir.join(name))?;
    sync_dir(dir)
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

pub(super) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A file that was made or renamed is there after a crash only if its directory was written.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
