//! One event to many watchers.

use super::{Context, account, cpu_since};
use crate::bench::keys;
use crate::bench::load::{self, Delivered};
use crate::bench::report::{Measured, Target, Unit};
use crate::bench::server::Side;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Clients that put.
const CLIENTS: usize = 64;
/// Connections that they share.
const CONNECTIONS: usize = 4;
/// How long watchers get for the events that are still under way when the puts end.
const DRAIN: Duration = Duration::from_secs(20);

/// For each number of watchers: the store's whole CPU by events delivered, and puts per second until all of them
/// were delivered.
pub(super) async fn fanout(context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
    for &watchers in &context.sizes.watchers {
        let server = context.server(side).await?;
        let delivered = Arc::new(Delivered { events: AtomicU64::new(0), watchers: watchers.try_into()? });
        let prefix = "cilium/state/ip/v1/";
        let range = [(prefix.into(), keys::end_of(prefix))];
        let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
        for _ in 0..watchers {
            let mut watch = server.connect().await?.watch(&range).await?;
            let delivered = Arc::clone(&delivered);
            tasks.spawn(async move {
                loop {
                    let events = watch.events().await? as u64;
                    delivered.events.fetch_add(events, Ordering::Relaxed);
                }
            });
        }
        let connections = server.connections(CONNECTIONS).await?;
        let (before, started) = (server.usage()?.cpu, Instant::now());
        let puts = load::puts(&connections, CLIENTS, context.sizes.phase, Some(&delivered)).await?;
        let expected = puts.count * delivered.watchers;
        let put_until = Instant::now();
        while delivered.events.load(Ordering::Relaxed) < expected && put_until.elapsed() < DRAIN {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let seconds = started.elapsed().as_secs_f64();
        let cpu = cpu_since(&server, before)?;
        let events = delivered.events.load(Ordering::Relaxed);
        let (per_event, per_second) = match watchers {
            1 => (Target::TimesEtcdAtMost { factor: 0.2 }, Target::None),
            100 => (Target::TimesEtcdAtMost { factor: 0.2 }, Target::None),
            _ => (Target::at_most(2e-6, 7.5e-6), Target::at_least(1000.0, 154.0)),
        };
        let watchers_text =
            if watchers == 1 { "1 watcher".to_owned() } else { format!("{watchers} watchers") };
        let name = |what: &str| format!("{watchers_text}: {what}");
        measured.read(name("CPU per event"), Unit::CpuSeconds, cpu / events as f64, per_event);
        measured.read(name("puts"), Unit::PerSecond, puts.count as f64 / seconds, per_second);
        measured.read(name("events"), Unit::PerSecond, events as f64 / seconds, Target::None);
        measured.read(name("CPU in use"), Unit::Ratio, cpu / seconds, Target::None);
        if events != expected {
            measured.notes.push(format!("{watchers_text}: {events} of {expected} events came in time"));
        }
        while let Some(ended) = tasks.try_join_next() {
            if let Ok(Err(error)) = ended {
                measured.notes.push(format!("{watchers_text}: a watcher ended: {error:#}"));
                break;
            }
        }
        account(&server, measured)?;
    }
    Ok(())
}
