//! The tables. Order, kinds and defaults are those of Cilium 1.20.

use super::{Flag, Kind, State};

const UINT16: Kind = Kind::Count(u16::MAX as u64);
const UINT32: Kind = Kind::Count(u32::MAX as u64);
const INT: Kind = Kind::Count(i64::MAX as u64);
const UINT: Kind = Kind::Count(u64::MAX);

const NO_GO: &str = "there is no Go runtime to look into; `/tasks`, `/metrics` and the logs tell what runs";
const NO_SHELL: &str = "there is no shell in the program";
const NO_CONTROLLERS: &str =
    "tasks take the place of Cilium's controllers; `task_restarts_total` counts their failures";
const NO_QUORUM_PROBE: &str =
    "a store that does not answer is found out by keepalives and requests, not by counting";
const ONE_LOG: &str = "logs go to standard error";

const fn flag(name: &'static str, kind: Kind, default: &'static str, state: State) -> Flag {
    Flag { name, kind, default, state, hidden: false }
}

const fn same(name: &'static str, kind: Kind, default: &'static str) -> Flag {
    flag(name, kind, default, State::Same)
}

const fn means(name: &'static str, kind: Kind, default: &'static str, what: &'static str) -> Flag {
    flag(name, kind, default, State::Means(what))
}

const fn accepted(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    flag(name, kind, default, State::Accepted(why))
}

const fn hidden(flag: Flag) -> Flag {
    Flag { hidden: true, ..flag }
}

/// Of `clustermesh-apiserver clustermesh`.
pub(in crate::cmd::cilium) const CLUSTERMESH: &[Flag] = &[
    same("cluster-id", UINT32, ""),
    same("cluster-name", Kind::Text, "default"),
    same("cluster-users-config-path", Kind::Text, "/var/lib/cilium/etcd-config/users.yaml"),
    same("cluster-users-enabled", Kind::Bool, ""),
    same("clustermesh-default-global-namespace", Kind::Bool, "true"),
    means(
        "clustermesh-enable-mcs-api",
        Kind::Bool,
        "",
        "exports are written; imports are left to Cilium's operator, unless `--mcs-controllers` says otherwise",
    ),
    accepted(
        "clustermesh-mcs-api-install-crds",
        Kind::Bool,
        "true",
        "definitions are installed by whoever runs the controllers: here that is Cilium's operator",
    ),
    accepted("controller-group-metrics", Kind::List, "", NO_CONTROLLERS),
    same("crd-wait-timeout", Kind::Duration, "5m0s"),
    means("debug", Kind::Bool, "", "`--log-level=debug`"),
    same("enable-cilium-endpoint-slice", Kind::Bool, ""),
    accepted("enable-gops", Kind::Bool, "true", NO_GO),
    means("enable-k8s", Kind::Bool, "true", "only `true` is possible: Kubernetes is what is exported"),
    accepted(
        "enable-k8s-api-discovery",
        Kind::Bool,
        "",
        "what the API server offers is always looked up, and again when something is missing",
    ),
    accepted("gops-port", UINT16, "9892", NO_GO),
    same("health-port", INT, "9880"),
    means("help", Kind::Bool, "", "prints this list"),
    same("k8s-api-server-urls", Kind::List, ""),
    same("k8s-client-burst", INT, "20"),
    accepted(
        "k8s-client-connection-keep-alive",
        Kind::Duration,
        "30s",
        "a silent connection is found out by the time limits of watches",
    ),
    same("k8s-client-connection-timeout", Kind::Duration, "30s"),
    same("k8s-client-qps", Kind::Float, "10"),
    accepted(
        "k8s-heartbeat-timeout",
        Kind::Duration,
        "30s",
        "a silent connection is found out by the time limits of watches",
    ),
    same("k8s-kubeconfig-path", Kind::Text, ""),
    same("k8s-service-proxy-name", Kind::Text, ""),
    means("kvstore", Kind::Text, "etcd", "only `etcd` is possible"),
    same("kvstore-lease-ttl", Kind::Duration, "15m0s"),
    accepted("kvstore-max-consecutive-quorum-errors", UINT, "2", NO_QUORUM_PROBE),
    same("kvstore-opt", Kind::Map, "[]"),
    accepted("log-driver", Kind::List, "", ONE_LOG),
    means("log-opt", Kind::Map, "", "`level` and `format` are `--log-level` and `--log-format`"),
    same("max-connected-clusters", UINT32, "255"),
    accepted("pprof", Kind::Bool, "", NO_GO),
    accepted("pprof-address", Kind::Text, "localhost", NO_GO),
    accepted("pprof-block-profile-rate", INT, "", NO_GO),
    accepted("pprof-mutex-profile-fraction", INT, "", NO_GO),
    accepted("pprof-port", UINT16, "6063", NO_GO),
    same("prometheus-serve-addr", Kind::Text, ""),
    accepted("shell-sock-path", Kind::Text, "/var/run/cilium/shell.sock", NO_SHELL),
    hidden(same("clustermesh-service-v2", Kind::Text, "prefer-legacy")),
];

/// Of `clustermesh-apiserver kvstoremesh`.
pub(in crate::cmd::cilium) const KVSTOREMESH: &[Flag] = &[
    same("api-serve-addr", Kind::Text, "localhost:9889"),
    same("cluster-id", UINT32, ""),
    same("cluster-name", Kind::Text, "default"),
    same("clustermesh-cache-ttl", Kind::Duration, ""),
    same("clustermesh-config", Kind::Text, ""),
    accepted("controller-group-metrics", Kind::List, "", NO_CONTROLLERS),
    means("debug", Kind::Bool, "", "`--log-level=debug`"),
    accepted("enable-gops", Kind::Bool, "true", NO_GO),
    same("enable-heartbeat", Kind::Bool, ""),
    same("global-ready-timeout", Kind::Duration, "10m0s"),
    accepted("gops-port", UINT16, "9894", NO_GO),
    same("health-port", INT, "9880"),
    means("help", Kind::Bool, "", "prints this list"),
    means("kvstore", Kind::Text, "etcd", "only `etcd` is possible"),
    same("kvstore-lease-ttl", Kind::Duration, "15m0s"),
    accepted("kvstore-max-consecutive-quorum-errors", UINT, "2", NO_QUORUM_PROBE),
    same("kvstore-opt", Kind::Map, "[]"),
    accepted("log-driver", Kind::List, "", ONE_LOG),
    means("log-opt", Kind::Map, "", "`level` and `format` are `--log-level` and `--log-format`"),
    same("max-connected-clusters", UINT32, "255"),
    same("per-cluster-ready-timeout", Kind::Duration, "15s"),
    accepted("pprof", Kind::Bool, "", NO_GO),
    accepted("pprof-address", Kind::Text, "localhost", NO_GO),
    accepted("pprof-block-profile-rate", INT, "", NO_GO),
    accepted("pprof-mutex-profile-fraction", INT, "", NO_GO),
    accepted("pprof-port", UINT16, "6064", NO_GO),
    same("prometheus-serve-addr", Kind::Text, ""),
    accepted("shell-sock-path", Kind::Text, "/var/run/cilium/shell.sock", NO_SHELL),
    hidden(same("disable-drain-on-disconnection", Kind::Bool, "")),
];

/// Of `clustermesh-apiserver etcdinit`.
pub(in crate::cmd::cilium) const ETCDINIT: &[Flag] = &[
    same("cluster-name", Kind::Text, "default"),
    same("debug", Kind::Bool, ""),
    same("etcd-cluster-name", Kind::Text, "clustermesh-apiserver"),
    same("etcd-data-dir", Kind::Text, "/var/run/etcd"),
    same("etcd-initial-cluster-token", Kind::Text, "clustermesh-apiserver"),
    means("help", Kind::Bool, "", "prints this list"),
    same("timeout", Kind::Duration, "2m0s"),
];
