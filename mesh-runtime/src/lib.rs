//! What every daemon of the mesh needs and none should write twice: supervised tasks, logs, health and
//! metrics listeners, and a shutdown that ends in time. Knows nothing of the mesh.
//!
//! ```text
//!  main ── telemetry::init
//!    │                    ┌── task "store"          Restart::Never         ┐ stopped in
//!    ├── Supervisor ──────┼── task "remote/east"    Restart::WithBackoff   │ reverse order,
//!    │     until(signal)  └── task "health"         Restart::Never         ┘ within the grace
//!    │                             │
//!    └── Readiness ── guards ──────┴──▶ /healthz  /readyz  /metrics  /status
//! ```
//!
//! Invariant: no task is without an owner. A task that fails is restarted by its policy or ends the process;
//! it never disappears quietly. Listeners are bound before tasks start, so that a taken port stops the start.

mod backoff;
mod chain;
mod health;
mod metrics;
mod readiness;
mod signal;
mod supervisor;
mod telemetry;

pub use backoff::{Backoff, Retry, jitter};
pub use chain::Chain;
pub use health::{BindError, Health, bind};
pub use metrics::{BuildInfo, MasterStatus, encode, registry, shared_registry};
pub use readiness::{Readiness, ReadyGuard};
pub use signal::terminate_signal;
pub use supervisor::{BoxError, Restart, Spawner, Supervisor, Task, TaskFailed, TaskState, TaskStatus};
pub use telemetry::{LogFormat, Telemetry, TelemetryError, UnknownLogFormat};
