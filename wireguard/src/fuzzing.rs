//! What the fuzzer calls: the text of a key, and the packets of a device in user space. Also replayed by an ordinary
//! test.
//!
//! Each takes any bytes, tells whether they were accepted, and panics if a rule is broken.

use crate::PublicKey;
use crate::device::fuzz_engine;

/// A public key's text. Accepted if it is one; the text that we print is then read as the same key.
pub fn key(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    match text.parse::<PublicKey>() {
        Ok(key) => {
            assert_eq!(key.to_string().parse(), Ok(key));
            assert_eq!(PublicKey::from_bytes(*key.as_bytes()), Ok(key));
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty() && !error.reason().code().is_empty());
            false
        }
    }
}

/// Packets between two devices, by commands: see [`fuzz_engine::packets`].
pub fn packets(commands: &[u8]) -> bool {
    fuzz_engine::packets(commands)
}

#[cfg(test)]
mod replays {
    fuzz_replay::replays! {
        key: 10_000,
        packets: 200,
    }
}
