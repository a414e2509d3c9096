//! Puts: many clients, one process, leases, TLS.

use super::{Context, account, cpu_since};
use crate::bench::keys;
use crate::bench::latency::Latencies;
use crate::bench::load::{self, Puts};
use crate::bench::report::{Measured, Target, Unit};
use crate::bench::server::{Server, Side};
use crate::bench::wire::path;
use kvstore::proto::etcdserverpb as pb;
use kvstore::{Client as _, LeaseId, Store, StoreConfig, Write};
use std::time::Instant;

/// Clients that put.
const CLIENTS: usize = 64;
/// Connections that they share.
const CONNECTIONS: usize = 4;
/// Puts whose latencies are compared between leases.
const LEASED_PUTS: usize = 3000;
/// Long enough for any figure.
const LEASE_SECONDS: i64 = 3600;

/// Puts and CPU seconds per put of 64 clients on a fresh server.
async fn saturate(context: &Context, side: &Side, tls: bool) -> anyhow::Result<(Server, Puts, f64)> {
    let server = context.server_with(side, tls).await?;
    let connections = server.connections(CONNECTIONS).await?;
    let before = server.usage()?.cpu;
    let puts = load::puts(&connections, CLIENTS, context.sizes.phase, None).await?;
    let each = cpu_since(&server, before)? / puts.count as f64;
    Ok((server, puts, each))
}

/// As fast as 64 clients can.
pub(super) async fn put(context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
    let (server, puts, each) = saturate(context, side, context.tls).await?;
    let thrice = Target::TimesEtcdAtLeast { factor: 3.0 };
    measured.read("64 clients: puts", Unit::PerSecond, puts.per_second(), thrice);
    measured.read("CPU per put", Unit::CpuSeconds, each, Target::TimesEtcdAtMost { factor: 1.0 / 3.0 });
    measured.read("put, p50", Unit::Seconds, puts.latencies.p50.as_secs_f64(), Target::None);
    measured.read("put, p99", Unit::Seconds, puts.latencies.p99.as_secs_f64(), Target::None);
    account(&server, measured)
}

/// One client's many keys: ours in process, etcd's over the wire, which is the only way there is.
pub(super) async fn bulk(context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
    let count = context.sizes.bulk_keys;
    let prefix = "cilium/cache/ip/v1/cluster-001/";
    let seconds = match side {
        Side::Isthmus(_) => {
            let client = Store::new(StoreConfig::default()).client();
            let write = |n| {
                let (key, value) = keys::pair(prefix, n);
                Write::Put { key, value, lease: LeaseId(0) }
            };
            let all: Vec<Write> = (0..count).map(write).collect();
            let batches: Vec<_> =
                all.chunks(client.limits().batch_operations).map(<[Write]>::to_vec).collect();
            let started = Instant::now();
            for batch in batches {
                client.write(batch).await?;
            }
            started.elapsed().as_secs_f64()
        }
        Side::Etcd(_) => {
            let server = context.server(side).await?;
            let started = Instant::now();
            load::fill(&server, prefix, count, 0).await?;
            let seconds = started.elapsed().as_secs_f64();
            account(&server, measured)?;
            measured.notes.push("written over the wire, by transactions of 128 puts".to_owned());
            seconds
        }
    };
    let target = Target::AtLeast { value: 2e6, anchor: None };
    measured.read(format!("{count} keys in bulk"), Unit::PerSecond, count as f64 / seconds, target);
    Ok(())
}

/// New keys on a lease with few keys, then on one with many.
pub(super) async fn lease(context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
    let mut p99s = Vec::new();
    for count in context.sizes.leased_keys {
        let server = context.server(side).await?;
        let connection = server.connect().await?;
        let ask = pb::LeaseGrantRequest { ttl: LEASE_SECONDS, id: 0 };
        let granted: pb::LeaseGrantResponse = connection.call(path::GRANT, &ask).await?;
        load::fill(&server, "cilium/state/ip/v1/leased/", count, granted.id).await?;
        let before = server.usage()?.cpu;
        let mut latencies = Vec::with_capacity(LEASED_PUTS);
        for n in 0..LEASED_PUTS {
            let put = keys::put("cilium/state/ip/v1/more/", n, granted.id);
            let sent = Instant::now();
            let _: pb::PutResponse = connection.call(path::PUT, &put).await?;
            latencies.push(sent.elapsed());
        }
        let latencies = Latencies::of(latencies);
        let each = cpu_since(&server, before)? / LEASED_PUTS as f64;
        let name = |what: &str| format!("{count} keys on the lease: {what}");
        measured.read(name("put, p50"), Unit::Seconds, latencies.p50.as_secs_f64(), Target::None);
        measured.read(name("put, p99"), Unit::Seconds, latencies.p99.as_secs_f64(), Target::None);
        measured.read(name("CPU per put"), Unit::CpuSeconds, each, Target::None);
        p99s.push(latencies.p99.as_secs_f64());
        account(&server, measured)?;
    }
    if let [few, many] = p99s[..] {
        let target = Target::AtMost { value: 1.1, anchor: None };
        measured.read("p99 with many to p99 with few", Unit::Ratio, many / few, target);
    }
    Ok(())
}

/// The same puts in plaintext and by mutual TLS.
pub(super) async fn tls(context: &Context, side: &Side, measured: &mut Measured) -> anyhow::Result<()> {
    let (server, _, plain) = saturate(context, side, false).await?;
    account(&server, measured)?;
    drop(server);
    let (server, _, secured) = saturate(context, side, true).await?;
    account(&server, measured)?;
    measured.read("CPU per put, plaintext", Unit::CpuSeconds, plain, Target::None);
    measured.read("CPU per put, mutual TLS", Unit::CpuSeconds, secured, Target::None);
    let target = Target::AtMost { value: 1.3, anchor: None };
    measured.read("mutual TLS to plaintext", Unit::Ratio, secured / plain, target);
    Ok(())
}
