//! The one binary of Isthmus: every daemon of the mesh is a subcommand, and so are the tools around them.
//!
//! ```text
//!  argv ──▶ applet (name it was called by) ──▶ cli (clap) ──▶ cmd::<name>::Args::run ──▶ Exit
//!                                                                 │
//!                                    a daemon: daemon::run ───────┘  logs, health, signals, tasks
//! ```
//!
//! A command takes its validated arguments and returns `anyhow::Result<Exit>`; errors are printed once, here at
//! the edge. Nothing below exits the process, and only `out` asks what the terminal is.

mod applet;
mod bench;
mod certs;
mod cli;
mod cmd;
mod connect;
mod daemon;
mod demo;
mod duration;
mod evidence;
mod exit;
mod gather;
mod http;
mod listen;
mod manifest;
mod once;
mod out;
mod places;
mod status;
mod store;

fn main() -> std::process::ExitCode {
    cli::main(std::env::args_os().collect())
}
