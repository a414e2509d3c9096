//! How soon a store is there, and what it weighs empty.

use std::time::Duration;

use super::{Context, account};
use crate::bench::report::{Measured, Target, Unit};
use crate::bench::server::Side;

/// After which a server that starts has done what it does once; ours then gives back the pages of its start.
const REST: Duration = Duration::from_secs(1);

/// The median of some starts.
pub(super) async fn ready(context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
    let mut starts = Vec::new();
    for _ in 0..context.sizes.starts {
        let server = context.server(side).await?;
        tokio::time::sleep(REST).await;
        starts.push((server.ready_after(), server.usage()?));
        account(&server, measured)?;
    }
    starts.sort_by_key(|(after, _)| *after);
    let Some((after, usage)) = starts.get(starts.len() / 2) else { return Ok(()) };
    let (after, memory) = (after.as_secs_f64(), usage.resident_bytes as f64);
    measured.read("first answer after the start", Unit::Seconds, after, Target::at_most(0.05, 0.35));
    measured.read("memory, empty", Unit::Bytes, memory, Target::at_most(10e6, 29e6));
    measured.read("of it anonymous", Unit::Bytes, usage.anonymous_bytes as f64, Target::None);
    Ok(())
}
