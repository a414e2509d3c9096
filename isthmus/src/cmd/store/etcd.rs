//! Started as `etcd`: the flags that Cilium's chart passes to it, in etcd's forms.

use super::Serve;
use crate::exit::Usage;
use clap::Parser;
use kvstore::AutoCompaction;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

/// Flags that mean the same here.
const SAME: &[&str] = &[
    "advertise-client-urls",
    "auth-token-ttl",
    "bcrypt-cost",
    "cert-file",
    "data-dir",
    "grpc-keepalive-interval",
    "grpc-keepalive-timeout",
    "key-file",
    "listen-client-urls",
    "listen-metrics-urls",
    "log-level",
    "max-concurrent-streams",
    "max-request-bytes",
    "max-txn-ops",
    "metrics",
    "name",
    "quota-backend-bytes",
    "trusted-ca-file",
    "watch-progress-notify-interval",
];

/// Flags that are read here, not passed on.
const OURS: &[&str] = &["auto-compaction-mode", "auto-compaction-retention", "client-cert-auth"];

/// Flags that say nothing to a store of one member in memory.
const IGNORED: &[&str] = &[
    "auth-token",
    "backend-batch-interval",
    "backend-batch-limit",
    "backend-bbolt-freelist-type",
    "cipher-suites",
    "compaction-batch-limit",
    "cors",
    "election-timeout",
    "enable-grpc-gateway",
    "enable-log-rotation",
    "enable-pprof",
    "enable-v2",
    "feature-gates",
    "force-new-cluster",
    "grpc-keepalive-min-time",
    "heartbeat-interval",
    "host-whitelist",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
    "initial-election-tick-advance",
    "listen-peer-urls",
    "log-format",
    "log-outputs",
    "logger",
    "max-snapshots",
    "max-wals",
    "peer-auto-tls",
    "peer-cert-file",
    "peer-client-cert-auth",
    "peer-key-file",
    "peer-trusted-ca-file",
    "pre-vote",
    "snapshot-count",
    "socket-reuse-address",
    "socket-reuse-port",
    "strict-reconfig-check",
    "tls-max-version",
    "tls-min-version",
    "unsafe-no-fsync",
    "wal-dir",
];

/// What etcd's flags come to.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) serve: Serve,
    pub(super) compaction: AutoCompaction,
    /// Flags without effect, each once, for the log.
    pub(super) ignored: Vec<String>,
}

/// Arguments of `isthmus store serve`, as a command of its own.
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    serve: Serve,
}

/// Reads etcd's command line: one dash or two, `--flag=value` or `--flag value`, switches bare or `=true`.
pub(super) fn translate(flags: &[OsString]) -> anyhow::Result<Translated> {
    let mut ours: Vec<String> = vec!["etcd".to_owned()];
    let mut ignored = BTreeSet::new();
    let (mut mode, mut retention) = ("periodic".to_owned(), "0".to_owned());
    let mut verify_clients = false;
    let mut flags = flags.iter().map(|flag| flag.to_string_lossy().into_owned()).peekable();
    while let Some(flag) = flags.next() {
        let Some(body) = flag.strip_prefix("--").or_else(|| flag.strip_prefix('-')) else {
            return Err(Usage::error(format!("{flag:?}: expected a flag of etcd")));
        };
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let value = flags.next_if(|next| !next.starts_with('-'));
                (body.to_owned(), value.unwrap_or_else(|| "true".to_owned()))
            }
        };
        let name = name.strip_prefix("experimental-").unwrap_or(&name);
        match name {
            "client-cert-auth" => verify_clients = value == "true",
            "auto-compaction-mode" => mode = value,
            "auto-compaction-retention" => retention = value,
            // etcd's 0 is its default.
            "quota-backend-bytes" if value == "0" => {}
            // Of a flag that comes twice, etcd takes the last.
            same if SAME.contains(&same) => {
                let flag = format!("--{same}=");
                ours.retain(|earlier| !earlier.starts_with(&flag));
                ours.push(flag + &value);
            }
            other if IGNORED.contains(&other) => drop(ignored.insert(other.to_owned())),
            other => {
                let nearest = nearest(other);
                return Err(Usage::error(format!("unknown flag {flag:?}; the nearest is --{nearest}")));
            }
        }
    }
    let has = |name: &str| ours.iter().any(|flag| flag.starts_with(name));
    if has("--trusted-ca-file") && !verify_clients {
        return Err(Usage::error(
            "--trusted-ca-file needs --client-cert-auth: clients are always verified here",
        ));
    }
    if !has("--listen-client-urls") {
        ours.push("--listen-client-urls=http://localhost:2379".to_owned());
    }
    let serve = Cli::try_parse_from(ours).map_err(Usage::error)?.serve;
    Ok(Translated {
        serve,
        compaction: compaction(&mode, &retention)?,
        ignored: ignored.into_iter().collect(),
    })
}

/// The known flag that is most like `word`, by the pairs of letters that they share.
fn nearest(word: &str) -> &'static str {
    let pairs = |text: &str| text.as_bytes().windows(2).map(<[u8]>::to_vec).collect::<BTreeSet<_>>();
    let wanted = pairs(word);
    let likeness = |flag: &&str| {
        let has = pairs(flag);
        // In thousandths: shared pairs of all pairs.
        2000 * has.intersection(&wanted).count() / (has.len() + wanted.len()).max(1)
    };
    let known = SAME.iter().chain(OURS).chain(IGNORED).copied();
    known.max_by_key(likeness).expect("there are flags")
}

/// etcd's two flags about compaction: a bare number is hours or, by `revision`, revisions.
fn compaction(mode: &str, retention: &str) -> anyhow::Result<AutoCompaction> {
    let wrong =
        || Usage::error(format!("--auto-compaction-retention={retention}: expected a number or a duration"));
    let number = retention.parse::<u32>().ok();
    match (mode, number) {
        (_, Some(0)) => Ok(AutoCompaction::Off),
        ("periodic", Some(hours)) => Ok(AutoCompaction::Periodic(Duration::from_secs(3600) * hours)),
        ("periodic", None) => {
            let age = crate::duration::parse_positive(retention).map_err(|_no_duration| wrong())?;
            Ok(AutoCompaction::Periodic(age))
        }
        ("revision", Some(revisions)) => Ok(AutoCompaction::Revisions(revisions.into())),
        ("revision", None) => Err(wrong()),
        _ => Err(Usage::error(format!("--auto-compaction-mode={mode}: expected periodic or revision"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> anyhow::Result<Translated> {
        translate(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    /// What the chart of Cilium 1.19 passes.
    const CHART: &str = "--data-dir=/var/run/etcd --name=clustermesh-apiserver --client-cert-auth \
        --trusted-ca-file=/var/lib/etcd-secrets/ca.crt --cert-file=/var/lib/etcd-secrets/tls.crt \
        --key-file=/var/lib/etcd-secrets/tls.key --listen-client-urls=https://127.0.0.1:2379,https://10.0.0.5:2379 \
        --advertise-client-urls=https://10.0.0.5:2379 --initial-cluster-token=clustermesh-apiserver \
        --auto-compaction-retention=1 --enable-grpc-gateway=false --listen-metrics-urls=http://0.0.0.0:9963 \
        --metrics=basic";

    #[test]
    fn the_charts_command_line_is_understood() {
        let translated = of(CHART).unwrap();
        assert_eq!(translated.ignored, ["enable-grpc-gateway", "initial-cluster-token"]);
        assert_eq!(translated.compaction, AutoCompaction::Periodic(Duration::from_secs(3600)));
        let config = translated.serve.server.config().unwrap();
        assert_eq!((config.listen.len(), config.listen_metrics.len()), (2, 1));
        assert_eq!(config.name, "clustermesh-apiserver");
        assert!(!config.extensive_metrics);
        let translated = of("--metrics=basic --metrics=extensive").unwrap();
        assert!(translated.serve.server.config().unwrap().extensive_metrics);
        assert!(config.tls.is_some());
    }

    #[test]
    fn flags_come_in_etcds_forms() {
        let translated =
            of("-name x --max-txn-ops 7 --pre-vote -listen-client-urls=http://127.0.0.1:1").unwrap();
        let config = translated.serve.server.config().unwrap();
        assert_eq!((config.name.as_str(), config.limits.txn_operations), ("x", 7));
        for (flags, expected) in [
            ("", AutoCompaction::Off),
            ("--auto-compaction-retention=10m", AutoCompaction::Periodic(Duration::from_secs(600))),
            ("--auto-compaction-mode=revision --auto-compaction-retention=5", AutoCompaction::Revisions(5)),
        ] {
            assert_eq!(of(flags).unwrap().compaction, expected, "{flags}");
        }
    }

    #[test]
    fn limits_have_etcds_names() {
        let translated = of("--listen-client-urls=http://127.0.0.1:1 --max-request-bytes=1 --max-txn-ops=2 \
             --max-concurrent-streams=3 --quota-backend-bytes=4 --bcrypt-cost=5 --auth-token-ttl=6 \
             --grpc-keepalive-interval=2h --grpc-keepalive-timeout=20s \
             --watch-progress-notify-interval=7s --experimental-watch-progress-notify-interval=8s");
        let limits = translated.unwrap().serve.server.config().unwrap().limits;
        assert_eq!(
            (limits.request_bytes, limits.txn_operations, limits.streams_per_connection, limits.quota_bytes),
            (1, 2, 3, 4)
        );
        assert_eq!((limits.bcrypt_cost, limits.token_ttl), (5, Duration::from_secs(6)));
        assert_eq!(
            (limits.keepalive_interval, limits.keepalive_timeout),
            (Duration::from_secs(7200), Duration::from_secs(20))
        );
        assert_eq!(limits.progress_interval, Duration::from_secs(8), "the last one counts");
        for wrong in ["--bcrypt-cost=3", "--bcrypt-cost=32", "--max-txn-ops=-1"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_flag_is_told_the_nearest_known_one() {
        for (wrong, near) in [
            ("--datadir=/x", "--data-dir"),
            ("--trusted-ca=/x", "--trusted-ca-file"),
            ("--max-txn-op=1", "--max-txn-ops"),
            ("--client-cert=true", "--client-cert-auth"),
            ("--initial-token=x", "--initial-cluster-token"),
        ] {
            let error = of(wrong).unwrap_err().to_string();
            assert!(error.ends_with(&format!("the nearest is {near}")), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_flag_without_meaning_is_named_once_however_often_it_comes() {
        let translated = of("--logger=zap --log-outputs=stderr --logger=zap").unwrap();
        assert_eq!(translated.ignored, ["log-outputs", "logger"]);
    }

    #[test]
    fn what_etcd_does_not_have_stops_the_start() {
        for wrong in [
            "--no-such-flag=1",
            "word",
            "--max-txn-ops=many",
            "--auto-compaction-retention=x",
            "--auto-compaction-mode=x --auto-compaction-retention=1",
            "--trusted-ca-file=a --cert-file=b --key-file=c",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
