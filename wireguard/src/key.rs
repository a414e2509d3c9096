//! The node's key pair: the secret in one file that is never replaced, the public half as the text that travels.
//!
//! Pure but for [`PrivateKey::load_or_create`], the one edge to the disk.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use boringtun::x25519;
use mesh_types::Reason;
use rand::TryRngCore;
use serde::{Serialize, Serializer};
use tracing::{info, warn};
use zeroize::Zeroizing;

/// Bytes of a key.
pub(crate) const KEY_LEN: usize = 32;

/// Base64 as Go's reader takes it: canonical padding, but unused bits of the last character may be set.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The secret of a node. No `Debug`, no `Clone`; its bytes are wiped when it is dropped.
pub struct PrivateKey(x25519::StaticSecret);

impl PrivateKey {
    /// A new random key, with the bits set and cleared as Curve25519 wants them.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rand::rngs::OsRng.try_fill_bytes(bytes.as_mut_slice()).map_err(io::Error::other)?;
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Ok(Self(x25519::StaticSecret::from(*bytes)))
    }

    /// The key of the file at `path` (32 raw bytes, mode 0600); made there first, atomically, if the file is missing.
    ///
    /// An existing file is never replaced, also not by a second process that starts at the same moment: the first one
    /// wins, the other reads its key. Permissions wider than 0600 are taken away with a warning.
    ///
    /// # Errors
    /// [`KeyFileError`]; the caller stops, as a silently new key would cut the node off from its peers.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        match Self::load(path) {
            Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        let key = Self::generate().map_err(|source| KeyFileError::io(path, "draw randomness for", source))?;
        match key.store_new(path) {
            Ok(()) => {
                info!(path = %path.display(), public_key = %key.public(), "made a new WireGuard key");
                Ok(key)
            }
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(source) => Err(KeyFileError::io(path, "create", source)),
        }
    }

    fn load(path: &Path) -> Result<Self, KeyFileError> {
        let io_error = |action| move |source| KeyFileError::io(path, action, source);
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
        let file = options.open(path).map_err(io_error("open"))?;
        let metadata = file.metadata().map_err(io_error("examine"))?;
        if !metadata.is_file() {
            return Err(KeyFileError::Malformed { path: path.to_owned(), found: FoundKey::NotAFile });
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            warn!(
                path = %path.display(), mode = format!("{mode:o}"),
                "others could read the WireGuard key; its mode is set to 0600",
            );
            if let Err(error) = file.set_permissions(std::fs::Permissions::from_mode(0o600)) {
                warn!(path = %path.display(), %error, "the mode of the WireGuard key cannot be changed; run chmod 600 on it");
            }
        }
        // One byte more than a key tells a longer file apart; its own length names what was found.
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_LEN + 1));
        file.take(KEY_LEN as u64 + 1).read_to_end(&mut bytes).map_err(io_error("read"))?;
        let malformed = |found| KeyFileError::Malformed { path: path.to_owned(), found };
        let Ok(key) = <[u8; KEY_LEN]>::try_from(bytes.as_slice()) else {
            return Err(malformed(FoundKey::Length(metadata.len())));
        };
        let key = Zeroizing::new(key);
        if *key == [0; KEY_LEN] {
            return Err(malformed(FoundKey::Zero));
        }
        Ok(Self(x25519::StaticSecret::from(*key)))
    }

    /// Writes the key aside and links it into place, which fails if the name is taken.
    fn store_new(&self, path: &Path) -> io::Result<()> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(directory)?;
        let mut file = tempfile::Builder::new()
            .prefix(".wireguard-key-")
            .permissions(std::fs::Permissions::from_mode(0o600))
            .tempfile_in(directory)?;
        file.write_all(Zeroizing::new(self.0.to_bytes()).as_slice())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|refused| refused.error)?;
        std::fs::File::open(directory)?.sync_all()
    }

    /// The half that travels.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519::PublicKey::from(&self.0).to_bytes())
    }

    pub(crate) fn secret(&self) -> x25519::StaticSecret {
        self.0.clone()
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn from_secret_for_tests(secret: &x25519::StaticSecret) -> Self {
        Self(secret.clone())
    }
}

/// Why a node has no key of its own and cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// A person restores the file, or gives up the key by deleting it.
    #[error(
        "WireGuard key {path}: expected 32 raw bytes, found {found}; restore the file, or delete it and restart to get \
         a new key, which peers take over with the node's next update"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is there instead.
        found: FoundKey,
    },
    /// The disk, or its permissions.
    #[error(
        "{action} WireGuard key {path}; the directory must exist on a writable disk and belong to this user"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl KeyFileError {
    fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }
}

/// What a key file holds instead of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundKey {
    /// So many bytes.
    Length(u64),
    /// 32 bytes, all zero.
    Zero,
    /// A directory, a pipe or a device.
    NotAFile,
}

impl fmt::Display for FoundKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length @ (44 | 45)) => {
                write!(f, "{length} bytes (base64 text, as `wg genkey` prints it, has that length)")
            }
            Self::Length(length) => write!(f, "{length} bytes"),
            Self::Zero => f.write_str("32 zero bytes"),
            Self::NotAFile => f.write_str("something that is no regular file"),
        }
    }
}

/// The public key of a node; its text is base64 of 32 bytes, 44 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// The key of these bytes.
    ///
    /// # Errors
    /// [`KeyError::Zero`]: the all-zero key stands for *no peer* in the device and belongs to nobody.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Result<Self, KeyError> {
        if bytes == [0; KEY_LEN] {
            return Err(KeyError::Zero);
        }
        Ok(Self(bytes))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The value of the annotation `network.cilium.io/wg-pub-key` and of the node record's `WireguardPubKey`.
    pub fn annotation_value(&self) -> String {
        self.to_string()
    }

    pub(crate) fn x25519(&self) -> x25519::PublicKey {
        x25519::PublicKey::from(self.0)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Reads what Cilium's agents read: base64 with padding; line ends are ignored.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        if text.is_empty() {
            return Err(KeyError::Missing);
        }
        let bytes = BASE64.decode(&text).map_err(|_detail| KeyError::NotBase64 { length: text.len() })?;
        let found = bytes.len();
        let bytes = bytes.try_into().map_err(|_bytes| KeyError::WrongLength { found })?;
        Self::from_bytes(bytes)
    }
}

/// Why a text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The node publishes none.
    #[error("expected a public key, found nothing")]
    Missing,
    /// Not base64 at all.
    #[error("expected base64 of 32 bytes (44 characters), found {length} bytes that are no base64")]
    NotBase64 {
        /// Length of the text in bytes.
        length: usize,
    },
    /// Base64 of something else.
    #[error("expected base64 of 32 bytes, found {found} bytes")]
    WrongLength {
        /// Decoded bytes.
        found: usize,
    },
    /// The key that no node can have.
    #[error("expected a public key, found the all-zero one")]
    Zero,
}

impl KeyError {
    /// The stable cause.
    pub fn reason(self) -> Reason {
        match self {
            Self::Missing => Reason::WireguardKeyMissing,
            Self::NotBase64 { .. } | Self::WrongLength { .. } => Reason::WireguardKeyInvalid,
            Self::Zero => Reason::WireguardKeyZero,
        }
    }
}

#[cfg(test)]
mod tests;
