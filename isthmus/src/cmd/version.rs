//! `isthmus version`.

use crate::exit::Exit;
use crate::out::FormatArgs;
use serde::Serialize;

/// Version of the package.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Commit the binary was built from, as the release target passes it in.
pub(crate) const REVISION: &str = match option_env!("ISTHMUS_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Arguments of `isthmus version`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    revision: &'static str,
    os: &'static str,
    arch: &'static str,
}

const THIS: Version =
    Version { version: VERSION, revision: REVISION, os: std::env::consts::OS, arch: std::env::consts::ARCH };

/// The version as `-o json` prints it.
pub(crate) fn value() -> serde_json::Value {
    serde_json::to_value(&THIS).unwrap_or_default()
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        self.format.print(&THIS, |v| {
            format!("isthmus {} (revision {}, {}/{})", v.version, v.revision, v.os, v.arch)
        })?;
        Ok(Exit::Done)
    }
}
