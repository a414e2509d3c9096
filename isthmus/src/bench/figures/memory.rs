//! What keys and connections weigh.

use super::{Context, account};
use crate::bench::keys;
use crate::bench::load;
use crate::bench::report::{Measured, Target, Unit};
use crate::bench::server::Side;

/// Watches of a connection.
const WATCHES: usize = 4;

/// Growth of the store's memory by connections with four watches each, always by mutual TLS.
pub(super) async fn idle(context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
    let server = context.server_with(side, true).await?;
    let prefixes: [_; WATCHES] = keys::prefixes(1, 0).map(|(prefix, _)| prefix);
    let ranges: Vec<_> =
        prefixes.iter().map(|prefix| (prefix.clone().into(), keys::end_of(prefix))).collect();
    // The first few also pay for what all share.
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(server.connect().await?.watch(&ranges).await?);
    }
    let before = server.usage()?;
    for _ in 0..context.sizes.idle_connections {
        open.push(server.connect().await?.watch(&ranges).await?);
    }
    let after = server.usage()?;
    let grown = after.resident_bytes.saturating_sub(before.resident_bytes) as f64;
    let each = grown / context.sizes.idle_connections as f64;
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() / context.sizes.idle_connections as f64;
    measured.read("memory per connection", Unit::Bytes, each, Target::at_most(25e3, 109e3));
    measured.read("CPU to open one", Unit::CpuSeconds, cpu, Target::None);
    account(&server, measured)
}

/// Memory of a store with so many keys, filled by transactions.
pub(super) async fn memory(context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
    for &count in &context.sizes.memory_keys {
        let server = context.server(side).await?;
        let before = server.usage()?;
        load::fill(&server, "cilium/cache/ip/v1/cluster-001/", count, 0).await?;
        let after = server.usage()?;
        let target = match count {
            100_000 => Target::at_most(50e6, 145e6),
            1_000_000 => Target::at_most(400e6, 547e6),
            _ => Target::None,
        };
        let per_key = |bytes: u64| bytes as f64 / count as f64;
        let grown = per_key(after.resident_bytes.saturating_sub(before.resident_bytes));
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() / count as f64;
        measured.read(format!("{count} keys: memory"), Unit::Bytes, after.resident_bytes as f64, target);
        measured.read(format!("{count} keys: grown by, per key"), Unit::Bytes, grown, Target::None);
        let over = grown - keys::PAIR_BYTES as f64;
        measured.read(format!("{count} keys: over its own bytes, per key"), Unit::Bytes, over, Target::None);
        measured.read(format!("{count} keys: CPU per key to fill"), Unit::CpuSeconds, cpu, Target::None);
        account(&server, measured)?;
    }
    Ok(())
}
