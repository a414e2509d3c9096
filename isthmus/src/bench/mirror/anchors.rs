//! What Cilium's mirror and etcd took for the same, measured once on such a machine (two processors, loopback, etcd 3.5
//! on tmpfs, Cilium 1.19): they are not run here. Mirror and store are added up. First synchronisations and changes in
//! ten clusters are with Cilium's rate limits lifted, small clusters are at its defaults.

use super::figures::Figure;
use crate::bench::report::{Measured, Target, Unit};

/// Head of the column.
pub(crate) const PEER: &str = "Cilium + etcd, as once measured";

/// Those of one figure, under the names of our readings.
pub(crate) fn anchors(figure: Figure) -> Measured {
    let mut measured = Measured::default();
    let mut read = |name: String, unit, value| measured.read(name, unit, value, Target::None);
    match figure {
        Figure::Idle => read("store and mirror: anonymous memory".to_owned(), Unit::Bytes, 38e6),
        Figure::Sync => {
            for (clusters, keys, wall, cpu, memory) in [
                (1, 5400, 2.0, 2.6, 127e6),
                (10, 54_000, 5.4, 8.6, 288e6),
                (100, 540_000, 41.0, 73.9, 1700e6),
            ] {
                sync(&mut read, clusters, keys, (wall, cpu, memory));
            }
        }
        Figure::Small => {
            sync(&mut read, 250, 305_000, (42.0, 40.9, 1256e6));
            read("325 changes/s, 250 clusters: p50".to_owned(), Unit::Seconds, 16.0);
        }
        Figure::Changes => {
            for (rate, p50, p99, cpu) in
                [(100, 1.7e-3, 3.4e-3, 1.5e-3), (500, 0.9e-3, 2.4e-3, 0.9e-3), (5000, 44e-3, 300e-3, 0.2e-3)]
            {
                let name = |what: &str| format!("{rate} changes/s, 10 clusters: {what}");
                read(name("p50"), Unit::Seconds, p50);
                read(name("p99"), Unit::Seconds, p99);
                read(name("CPU per change"), Unit::CpuSeconds, cpu);
            }
        }
        // About 9 GB, extrapolated.
        Figure::Large => {
            read("200 clusters, 3180000 keys: peak memory".to_owned(), Unit::Bytes, 9e9);
        }
        Figure::Restart => {}
    }
    measured
}

fn sync(
    read: &mut impl FnMut(String, Unit, f64),
    clusters: usize,
    keys: usize,
    (wall, cpu, memory): (f64, f64, f64),
) {
    let name = |what: &str| format!("{clusters} clusters, {keys} keys: {what}");
    read(name("all synced"), Unit::Seconds, wall);
    read(name("CPU"), Unit::CpuSeconds, cpu);
    read(name("CPU per key"), Unit::CpuSeconds, cpu / keys as f64);
    read(name("peak memory"), Unit::Bytes, memory);
    read(name("peak memory per key"), Unit::Bytes, memory / keys as f64);
}
