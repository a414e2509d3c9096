use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use tracing::{Subscriber, error};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Human,
    /// One JSON object per line: `timestamp`, `level`, `fields`, `target`, `span`, `spans`.
    Json,
}

/// A log format that is neither `human` nor `json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `human` or `json`")]
pub struct UnknownLogFormat;

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, UnknownLogFormat> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Human or JSON.
    pub format: LogFormat,
    /// A level (`info`) or directives of tracing's `EnvFilter` (`info,kvstore=debug`).
    pub level: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: "info".to_owned() }
    }
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The level is neither a level nor a list of directives.
    #[error("log level `{level}` is not understood; try `info`, or `info,kvstore=debug`")]
    Level {
        /// As it was given.
        level: String,
        /// What the parser says.
        #[source]
        source: ParseError,
    },
    /// A subscriber is already in place.
    #[error("logging was already set up in this process")]
    AlreadySet,
}

impl Telemetry {
    /// Sends log events to standard error, and panics there too as events.
    ///
    /// # Errors
    /// [`TelemetryError`], when the level does not parse or logging is already set up.
    pub fn init(&self) -> Result<(), TelemetryError> {
        let colours = std::io::stderr().is_terminal();
        let subscriber = self.subscriber(std::io::stderr, colours)?;
        subscriber.try_init().map_err(|_set| TelemetryError::AlreadySet)?;
        std::panic::set_hook(Box::new(log_panic));
        Ok(())
    }

    fn subscriber<W>(&self, writer: W, colours: bool) -> Result<impl Subscriber + Send + Sync, TelemetryError>
    where
        W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
    {
        let filter = EnvFilter::builder()
            .parse(directives(&self.level))
            .map_err(|source| TelemetryError::Level { level: self.level.clone(), source })?;
        // Internal errors go through `eprintln!`, which panics when standard error is closed.
        let lines = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
        let lines = match self.format {
            LogFormat::Human => lines.with_ansi(colours).boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        Ok(tracing_subscriber::registry().with(filter).with(lines))
    }
}

/// A bare level speaks of this project; the transport libraries stay one step quieter unless they are named.
fn directives(level: &str) -> String {
    match level.trim().to_ascii_lowercase().as_str() {
        level @ ("debug" | "trace") => {
            format!("{level},h2=info,hyper=info,hyper_util=info,tower=info,rustls=info")
        }
        _ => level.to_owned(),
    }
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(ToString::to_string);
    error!(location, "panic: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing::{debug, info, info_span};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(telemetry: &Telemetry, events: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = telemetry.subscriber(move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, events);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_carry_fields_and_spans() {
        let telemetry = Telemetry { format: LogFormat::Json, ..Telemetry::default() };
        let text = logged(&telemetry, || {
            let _entered = info_span!("remote", cluster = "east").entered();
            info!(keys = 7, "initial list done");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["fields"]["keys"], 7);
        assert_eq!(line["fields"]["message"], "initial list done");
        assert_eq!(line["span"]["cluster"], "east");
    }

    #[test]
    fn the_level_decides_per_target() {
        let telemetry = Telemetry { level: "warn,mesh_runtime=debug".to_owned(), ..Telemetry::default() };
        let text = logged(&telemetry, || {
            debug!("ours");
            debug!(target: "h2::codec", "theirs");
        });
        assert!(text.contains("ours") && !text.contains("theirs"), "{text}");
    }

    #[test]
    fn a_bare_debug_leaves_the_transport_quiet() {
        let telemetry = Telemetry { level: "DEBUG".to_owned(), ..Telemetry::default() };
        let text = logged(&telemetry, || {
            debug!("ours");
            debug!(target: "h2::codec", "theirs");
        });
        assert!(text.contains("ours") && !text.contains("theirs"), "{text}");
    }

    #[test]
    fn a_level_that_does_not_parse_is_an_error_that_names_it() {
        let telemetry = Telemetry { level: "kvstore=loud".to_owned(), ..Telemetry::default() };
        let error = telemetry.subscriber(io::sink, false).map(drop).unwrap_err();
        assert!(error.to_string().contains("`kvstore=loud`"), "{error}");
    }

    #[test]
    fn formats_print_as_they_parse() {
        for format in [LogFormat::Human, LogFormat::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("xml".parse::<LogFormat>(), Err(UnknownLogFormat));
    }
}
