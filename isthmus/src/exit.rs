//! What the caller's shell learns.

use mesh_runtime::TaskFailed;
use std::fmt;
use std::process::ExitCode;

/// How a command ended. An error that is neither [`Usage`] nor a time-out is [`Exit::Failed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Healthy, or done. Code 0.
    Done,
    /// It did not work. Code 1.
    Failed,
    /// It was asked for in a way that cannot work. Code 2.
    Usage,
    /// It works in part: something that it reports on is not well. Code 3.
    Degraded,
    /// It was not done in time. Code 4.
    TimedOut,
}

impl Exit {
    /// The code of an error, by the kind of error anywhere among its causes.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        if error.is::<Usage>() {
            return Self::Usage;
        }
        let timed_out = error.chain().any(|cause| {
            cause.is::<tokio::time::error::Elapsed>()
                || matches!(cause.downcast_ref::<TaskFailed>(), Some(TaskFailed::Late { .. }))
        });
        if timed_out { Self::TimedOut } else { Self::Failed }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Degraded => 3,
            Exit::TimedOut => 4,
        })
    }
}

/// An argument that clap lets pass and that still cannot work. The text says what would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Usage(String);

impl Usage {
    pub(crate) fn error(text: impl fmt::Display) -> anyhow::Error {
        Self(text.to_string()).into()
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn errors_have_the_code_of_their_kind_also_under_a_context() {
        let late = TaskFailed::Late { tasks: vec!["store".into()], grace: Duration::from_secs(1) };
        let cases = [
            ("plain", anyhow::anyhow!("disk is full"), Exit::Failed),
            ("usage", Usage::error("no name"), Exit::Usage),
            ("late", late.into(), Exit::TimedOut),
            ("essential task", TaskFailed::Ended { task: "store".into() }.into(), Exit::Failed),
        ];
        for (name, error, exit) in cases {
            assert_eq!(Exit::of(&error), exit, "{name}");
            assert_eq!(Exit::of(&error.context("run the daemon")), exit, "{name} with context");
        }
    }
}
