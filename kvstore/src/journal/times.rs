//! How long the disk takes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::Histogram;

/// etcd's buckets for its disk: 1 ms, doubled up to 8 s.
const BOUNDS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];

/// What a durable store's disk was asked for, and how long it took; nothing if a store has none.
#[derive(Debug)]
pub(crate) struct DiskTimes {
    /// Handing frames to the file.
    pub(crate) write: Histogram,
    /// Waiting until they are on the disk.
    pub(crate) sync: Histogram,
    /// Putting a new image in place.
    pub(crate) image: Histogram,
    written: AtomicU64,
}

impl Default for DiskTimes {
    fn default() -> Self {
        let [write, sync, image] = [(); 3].map(|()| Histogram::new(BOUNDS));
        Self { write, sync, image, written: AtomicU64::new(0) }
    }
}

impl DiskTimes {
    pub(crate) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of frames so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}
