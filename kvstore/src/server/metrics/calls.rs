//! Calls by method and outcome, as gRPC's Go server counts them.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tonic::Code;

use crate::{histogram::Histogram, server::status::code_name};

/// Codes of gRPC, from 0 on.
const CODES: usize = 17;
/// Buckets of how long calls take: those of every Prometheus client by default, which etcd has.
const BOUNDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Service, method, kind.
const METHODS: &[(&str, &str, &str)] = &[
    ("etcdserverpb.KV", "Range", "unary"),
    ("etcdserverpb.KV", "RangeStream", "server_stream"),
    ("etcdserverpb.KV", "Put", "unary"),
    ("etcdserverpb.KV", "DeleteRange", "unary"),
    ("etcdserverpb.KV", "Txn", "unary"),
    ("etcdserverpb.KV", "Compact", "unary"),
    ("etcdserverpb.Watch", "Watch", "bidi_stream"),
    ("etcdserverpb.Lease", "LeaseGrant", "unary"),
    ("etcdserverpb.Lease", "LeaseRevoke", "unary"),
    ("etcdserverpb.Lease", "LeaseKeepAlive", "bidi_stream"),
    ("etcdserverpb.Lease", "LeaseTimeToLive", "unary"),
    ("etcdserverpb.Lease", "LeaseLeases", "unary"),
    ("etcdserverpb.Cluster", "MemberAdd", "unary"),
    ("etcdserverpb.Cluster", "MemberRemove", "unary"),
    ("etcdserverpb.Cluster", "MemberUpdate", "unary"),
    ("etcdserverpb.Cluster", "MemberList", "unary"),
    ("etcdserverpb.Cluster", "MemberPromote", "unary"),
    ("etcdserverpb.Maintenance", "Alarm", "unary"),
    ("etcdserverpb.Maintenance", "Status", "unary"),
    ("etcdserverpb.Maintenance", "Defragment", "unary"),
    ("etcdserverpb.Maintenance", "Hash", "unary"),
    ("etcdserverpb.Maintenance", "HashKV", "unary"),
    ("etcdserverpb.Maintenance", "Snapshot", "server_stream"),
    ("etcdserverpb.Maintenance", "MoveLeader", "unary"),
    ("etcdserverpb.Maintenance", "Downgrade", "unary"),
    ("etcdserverpb.Auth", "AuthEnable", "unary"),
    ("etcdserverpb.Auth", "AuthDisable", "unary"),
    ("etcdserverpb.Auth", "AuthStatus", "unary"),
    ("etcdserverpb.Auth", "Authenticate", "unary"),
    ("etcdserverpb.Auth", "UserAdd", "unary"),
    ("etcdserverpb.Auth", "UserGet", "unary"),
    ("etcdserverpb.Auth", "UserList", "unary"),
    ("etcdserverpb.Auth", "UserDelete", "unary"),
    ("etcdserverpb.Auth", "UserChangePassword", "unary"),
    ("etcdserverpb.Auth", "UserGrantRole", "unary"),
    ("etcdserverpb.Auth", "UserRevokeRole", "unary"),
    ("etcdserverpb.Auth", "RoleAdd", "unary"),
    ("etcdserverpb.Auth", "RoleGet", "unary"),
    ("etcdserverpb.Auth", "RoleList", "unary"),
    ("etcdserverpb.Auth", "RoleDelete", "unary"),
    ("etcdserverpb.Auth", "RoleGrantPermission", "unary"),
    ("etcdserverpb.Auth", "RoleRevokePermission", "unary"),
    ("v3lockpb.Lock", "Lock", "unary"),
    ("v3lockpb.Lock", "Unlock", "unary"),
    ("v3electionpb.Election", "Campaign", "unary"),
    ("v3electionpb.Election", "Proclaim", "unary"),
    ("v3electionpb.Election", "Leader", "unary"),
    ("v3electionpb.Election", "Observe", "server_stream"),
    ("v3electionpb.Election", "Resign", "unary"),
    ("grpc.health.v1.Health", "Check", "unary"),
    ("grpc.health.v1.Health", "Watch", "server_stream"),
];

/// All counters.
#[derive(Debug)]
pub(crate) struct Calls {
    methods: Vec<Method>,
    /// Bytes of messages that came.
    pub(crate) received: AtomicU64,
    /// Bytes of messages that were sent, with what is in front of each.
    pub(crate) sent: AtomicU64,
}

#[derive(Debug)]
struct Method {
    started: AtomicU64,
    handled: [AtomicU64; CODES],
    /// How long they took, if that is wanted.
    took: Option<Histogram>,
}

/// A call that is under way; dropped without an outcome it counts as cancelled.
#[derive(Debug)]
pub(crate) struct Counted {
    calls: Arc<Calls>,
    method: Option<usize>,
    /// If it is wanted how long it takes.
    began: Option<Instant>,
}

impl Calls {
    /// Counts how long calls take, too, if they are `timed`.
    pub(crate) fn new(timed: bool) -> Self {
        let method = |_: &_| Method {
            started: AtomicU64::new(0),
            handled: Default::default(),
            took: timed.then(|| Histogram::new(BOUNDS)),
        };
        let methods = METHODS.iter().map(method).collect();
        Self { methods, received: AtomicU64::new(0), sent: AtomicU64::new(0) }
    }

    /// How many calls of a service's streams are under way.
    pub(crate) fn open(&self, service: &str, method: &str) -> u64 {
        let Some(method) = position(service, method).map(|method| &self.methods[method]) else { return 0 };
        let ended: u64 = method.handled.iter().map(|handled| handled.load(Ordering::Relaxed)).sum();
        method.started.load(Ordering::Relaxed).saturating_sub(ended)
    }

    /// Counts the start of a call; one of an unknown method is not counted.
    pub(crate) fn start(self: &Arc<Self>, service: &str, method: &str) -> Counted {
        let method = position(service, method);
        let mut began = None;
        if let Some(method) = method.map(|method| &self.methods[method]) {
            method.started.fetch_add(1, Ordering::Relaxed);
            began = method.took.as_ref().map(|_| Instant::now());
        }
        Counted { calls: Arc::clone(self), method, began }
    }

    /// In Prometheus' text form; what never happened is left out.
    pub(crate) fn render(&self, out: &mut String) {
        out.push_str(
            "# HELP grpc_server_started_total Calls that began.\n# TYPE grpc_server_started_total counter\n",
        );
        self.each(|labels, method| {
            let started = method.started.load(Ordering::Relaxed);
            if started > 0 {
                line(out, format_args!("grpc_server_started_total{{{labels}}} {started}"));
            }
        });
        out.push_str("# HELP grpc_server_handled_total Calls that ended, by outcome.\n# TYPE grpc_server_handled_total counter\n");
        self.each(|labels, method| {
            for (code, handled) in method.handled.iter().enumerate() {
                let handled = handled.load(Ordering::Relaxed);
                if handled > 0 {
                    let code = code_name(Code::from(code as i32));
                    line(
                        out,
                        format_args!("grpc_server_handled_total{{grpc_code=\"{code}\",{labels}}} {handled}"),
                    );
                }
            }
        });
        if self.methods.iter().all(|method| method.took.is_none()) {
            return;
        }
        out.push_str(
            "# HELP grpc_server_handling_seconds How long calls took.\n# TYPE grpc_server_handling_seconds histogram\n",
        );
        self.each(|labels, method| {
            if let Some(took) = method.took.as_ref().filter(|took| took.count() > 0) {
                took.render(out, "grpc_server_handling_seconds", labels);
            }
        });
    }

    fn each(&self, mut show: impl FnMut(&str, &Method)) {
        for ((service, name, kind), method) in METHODS.iter().zip(&self.methods) {
            let labels = format!("grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
            show(&labels, method);
        }
    }
}

impl Counted {
    /// Counts bytes on their way to the client.
    pub(crate) fn sent(&self, bytes: usize) {
        self.calls.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts how the call ended.
    pub(crate) fn end(&mut self, code: Code) {
        if let Some(method) = self.method.take() {
            let method = &self.calls.methods[method];
            method.handled[code as usize].fetch_add(1, Ordering::Relaxed);
            if let (Some(took), Some(began)) = (&method.took, self.began) {
                took.observe(began.elapsed());
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

fn position(service: &str, method: &str) -> Option<usize> {
    METHODS.iter().position(|known| known.1 == method && known.0 == service)
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _infallible = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_once_with_its_outcome() {
        let calls = Arc::new(Calls::new(false));
        calls.start("etcdserverpb.KV", "Put").end(Code::Ok);
        drop(calls.start("etcdserverpb.Watch", "Watch"));
        calls.start("etcdserverpb.KV", "NoSuch").end(Code::Unimplemented);
        let mut text = String::new();
        calls.render(&mut text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                r#"grpc_server_started_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1"#,
                r#"grpc_server_started_total{grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"} 1"#,
                r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1"#,
                r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"} 1"#,
            ]
        );
    }

    #[test]
    fn a_call_that_ends_has_its_time_where_that_is_wanted() {
        let mut texts = [String::new(), String::new()];
        for (timed, text) in [false, true].into_iter().zip(&mut texts) {
            let calls = Arc::new(Calls::new(timed));
            calls.start("etcdserverpb.KV", "Put").end(Code::Ok);
            let under_way = calls.start("etcdserverpb.Watch", "Watch");
            assert_eq!(calls.open("etcdserverpb.Watch", "Watch"), 1);
            calls.render(text);
            drop(under_way);
            assert_eq!(calls.open("etcdserverpb.Watch", "Watch"), 0);
        }
        assert!(!texts[0].contains("grpc_server_handling_seconds"));
        let counts: Vec<&str> = texts[1].lines().filter(|line| line.contains("seconds_count")).collect();
        assert_eq!(
            counts,
            [
                r#"grpc_server_handling_seconds_count{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1"#
            ]
        );
    }
}
