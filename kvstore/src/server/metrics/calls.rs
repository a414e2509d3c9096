//! Calls by method and outcome, as gRPC's Go server counts them.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tonic::Code;

use crate::server::status::code_name;

/// Codes of gRPC, from 0 on.
const CODES: usize = 17;

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

#[derive(Debug, Default)]
struct Method {
    started: AtomicU64,
    handled: [AtomicU64; CODES],
}

/// A call that is under way; dropped without an outcome it counts as cancelled.
#[derive(Debug)]
pub(crate) struct Counted {
    calls: Arc<Calls>,
    method: Option<usize>,
}

impl Default for Calls {
    fn default() -> Self {
        let methods = METHODS.iter().map(|_| Method::default()).collect();
        Self { methods, received: AtomicU64::new(0), sent: AtomicU64::new(0) }
    }
}

impl Calls {
    /// Counts the start of a call; one of an unknown method is not counted.
    pub(crate) fn start(self: &Arc<Self>, service: &str, method: &str) -> Counted {
        let method = METHODS.iter().position(|known| known.1 == method && known.0 == service);
        if let Some(method) = method {
            self.methods[method].started.fetch_add(1, Ordering::Relaxed);
        }
        Counted { calls: Arc::clone(self), method }
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
            self.calls.methods[method].handled[code as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
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
        let calls = Arc::new(Calls::default());
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
}
