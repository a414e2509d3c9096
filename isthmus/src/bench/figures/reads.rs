//! Lists: at once, in pages, by many, and beside writers.

use super::{Context, account, cpu_since};
use crate::bench::keys;
use crate::bench::latency::Latencies;
use crate::bench::load;
use crate::bench::report::{Measured, Target, Unit};
use crate::bench::server::{Server, Side};
use crate::bench::sizes::Sizes;
use crate::bench::wire::{Connection, path};
use anyhow::ensure;
use kvstore::proto::etcdserverpb as pb;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// What is listed.
const PREFIX: &str = "cilium/cache/ip/v1/cluster-001/";
/// Lists at once whose mean is taken, because processor time is counted in hundredths of a second.
const AT_ONCE: u32 = 5;
/// Clients that are served at a time; the others wait, so that a run that is cut off has whole lists to count.
const AT_A_TIME: usize = 10;
/// The share of a figure's time after which no further client begins.
const BEGIN_WITHIN: f64 = 0.5;
/// Writers beside a list; together they put once per millisecond.
const WRITERS: u32 = 4;
/// From one put of a writer to its next.
const PUT_EVERY: Duration = Duration::from_millis(WRITERS as u64);

/// Lets `clients` do their work, so many at a time, while time is left; says how many did it.
async fn crowd<F>(clients: usize, begin_within: Duration, work: impl Fn() -> F) -> anyhow::Result<usize>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let started = Instant::now();
    let (mut busy, mut begun, mut done) = (JoinSet::new(), 0, 0);
    loop {
        while busy.len() < AT_A_TIME && begun < clients && started.elapsed() < begin_within {
            busy.spawn(work());
            begun += 1;
        }
        let Some(ended) = busy.join_next().await else { return Ok(done) };
        ended??;
        done += 1;
    }
}

/// Reads what a crowd cost; where it was cut off, what the whole would have.
async fn crowd_cpu<F>(
    context: &Context,
    server: &Server,
    clients: usize,
    measured: &mut Measured,
    work: impl Fn() -> F,
) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let before = server.usage()?.cpu;
    let done = crowd(clients, context.sizes.limit.mul_f64(BEGIN_WITHIN), work).await?;
    let cpu = cpu_since(server, before)?;
    if done < clients {
        measured.notes.push(format!(
            "{done} of {clients} clients took {cpu:.1} CPU-s before the time was up; the value is scaled up to {clients}"
        ));
    }
    Ok(cpu * clients as f64 / done as f64)
}

/// Everything at once, then everything in pages by many.
pub(super) async fn list(context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
    let (count, clients) = (context.sizes.listed_keys, context.sizes.listing_clients);
    let server = context.server(side).await?;
    load::fill(&server, PREFIX, count, 0).await?;
    let connection = server.connect().await?;
    let (before, started) = (server.usage()?.cpu, Instant::now());
    for _ in 0..AT_ONCE {
        let bytes = load::list_at_once(&connection, PREFIX).await?;
        ensure!(bytes > count * keys::PAIR_BYTES, "listed {bytes} bytes only");
    }
    let each = |total: f64| total / f64::from(AT_ONCE);
    let (cpu, seconds) = (each(cpu_since(&server, before)?), each(started.elapsed().as_secs_f64()));
    measured.read("1 client, at once: CPU", Unit::CpuSeconds, cpu, Target::at_most(0.1, 0.32));
    measured.read("1 client, at once: time", Unit::Seconds, seconds, Target::None);
    let endpoint = server.endpoint();
    let cpu = crowd_cpu(context, &server, clients, measured, || {
        let endpoint = endpoint.clone();
        async move {
            let connection = Connection::open(&endpoint).await?;
            let listed = load::list_in_pages(&connection, PREFIX).await?;
            ensure!(listed == count, "listed {listed} keys of {count}");
            Ok(())
        }
    })
    .await?;
    let name = format!("{clients} clients, in pages of 256: CPU");
    measured.read(name, Unit::CpuSeconds, cpu, Target::at_most(10.0, 176.0));
    account(&server, measured)
}

/// Agents that each open a connection per cluster, list its four prefixes in pages and watch them.
pub(super) async fn bootstrap(context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
    let Sizes { agents, clusters, endpoints, .. } = context.sizes;
    let server = context.server(side).await?;
    for (prefix, count) in (0..clusters).flat_map(|cluster| keys::prefixes(cluster, endpoints)) {
        load::fill(&server, &prefix, count, 0).await?;
    }
    let endpoint = server.endpoint();
    let started = Instant::now();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let cpu = crowd_cpu(context, &server, agents, measured, || {
        let (endpoint, kept) = (endpoint.clone(), Arc::clone(&kept));
        async move {
            for cluster in 0..clusters {
                let connection = Connection::open(&endpoint).await?;
                let prefixes = keys::prefixes(cluster, endpoints);
                for (prefix, count) in &prefixes {
                    let listed = load::list_in_pages(&connection, prefix).await?;
                    ensure!(listed == *count, "{prefix}: listed {listed} keys of {count}");
                }
                let ranges = prefixes.map(|(prefix, _)| (prefix.clone().into(), keys::end_of(&prefix)));
                let watch = connection.watch(&ranges).await?;
                kept.lock().await.push(watch);
            }
            Ok(())
        }
    })
    .await?;
    let name = format!("{agents} agents of {clusters} clusters: CPU");
    measured.read(name, Unit::CpuSeconds, cpu, Target::at_most(4.0, 18.9));
    let seconds = started.elapsed().as_secs_f64();
    measured.read("until the last was done", Unit::Seconds, seconds, Target::None);
    account(&server, measured)
}

/// Puts at a steady pace, first alone, then while a client lists everything again and again.
pub(super) async fn stall(context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
    let count = context.sizes.stall_keys;
    let server = context.server(side).await?;
    load::fill(&server, PREFIX, count, 0).await?;
    let writers = server.connect().await?;
    let quiet = paced_puts(&writers, context.sizes.phase).await?;
    let lister = server.connect().await?;
    let mut lists: JoinSet<anyhow::Result<()>> = JoinSet::new();
    lists.spawn(async move {
        loop {
            load::list_at_once(&lister, PREFIX).await?;
        }
    });
    let beside = paced_puts(&writers, context.sizes.phase).await?;
    // It never ends by itself but on an error.
    if let Some(Ok(Err(error))) = lists.try_join_next() {
        return Err(error.context("list"));
    }
    let name = |what: &str| format!("1,000 puts/s on {count} keys: {what}");
    let target = Target::AtMost { value: 0.01, anchor: None };
    measured.read(name("longest, alone"), Unit::Seconds, quiet.max.as_secs_f64(), Target::None);
    measured.read(name("p99, beside lists"), Unit::Seconds, beside.p99.as_secs_f64(), Target::None);
    measured.read(name("longest, beside lists"), Unit::Seconds, beside.max.as_secs_f64(), target);
    account(&server, measured)
}

/// 1,000 puts per second, from a few writers that keep their pace as long as they are answered.
async fn paced_puts(connection: &Connection, phase: Duration) -> anyhow::Result<Latencies> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS as usize {
        let connection = connection.clone();
        writers.spawn(async move {
            let (mut pace, started) = (tokio::time::interval(PUT_EVERY), Instant::now());
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut latencies = Vec::new();
            while started.elapsed() < phase {
                pace.tick().await;
                let put = keys::put("cilium/state/ip/v1/default/", writer, 0);
                let sent = Instant::now();
                let _: pb::PutResponse = connection.call(path::PUT, &put).await?;
                latencies.push(sent.elapsed());
            }
            Ok(latencies)
        });
    }
    Ok(Latencies::of(load::all(writers).await?.concat()))
}
