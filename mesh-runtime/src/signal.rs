use std::future::Future;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// Ends when the process is asked to stop: SIGINT (Ctrl-C) or SIGTERM (Kubernetes).
///
/// The handlers are in place when the function returns, not at the first poll, so a signal that comes while a
/// daemon starts is not lost.
///
/// # Panics
/// Outside of a tokio runtime with its I/O driver enabled.
pub fn terminate_signal() -> impl Future<Output = ()> {
    let mut interrupt = handler(SignalKind::interrupt());
    let mut terminate = handler(SignalKind::terminate());
    async move {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        info!(signal = name, "asked to stop");
    }
}

fn handler(kind: SignalKind) -> Signal {
    signal(kind).expect("SIGINT and SIGTERM may be handled, and daemons run in a runtime with I/O")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn either_signal_is_heard_even_before_anyone_waits() {
        for name in ["INT", "TERM"] {
            let asked = terminate_signal();
            let line = format!("kill -{name} {}", std::process::id());
            assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
            asked.await;
        }
    }
}
