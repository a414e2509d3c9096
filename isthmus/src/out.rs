//! Standard output and standard error of commands.

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget};
use mesh_explain::Style;
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

/// How a command prints what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people; may change.
    #[default]
    #[value(alias = "table")]
    Text,
    /// For programs; fields are only ever added.
    Json,
    /// The same fields as YAML.
    Yaml,
}

/// `-o`, for commands that print what they found.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct FormatArgs {
    /// How to print the result.
    #[arg(short, long = "output", value_enum, default_value_t)]
    pub(crate) output: Format,
}

impl FormatArgs {
    /// Prints `value` as JSON, or as `text` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self.output {
            Format::Text => print(text(value).trim_end()),
            Format::Yaml => {
                print(serde_yaml_ng::to_string(value).context("encode the result as YAML")?.trim_end())
            }
            Format::Json => print(serde_json::to_string_pretty(value).context("encode the result as JSON")?),
        }
    }
}

/// How standard output wants its text: as wide as the terminal, coloured there unless `NO_COLOR` is set to anything but
/// nothing (<https://no-color.org>). What is no terminal is 80 columns wide and plain.
pub(crate) fn style() -> Style {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match terminal_size::terminal_size_of(io::stdout()) {
        Some((terminal_size::Width(width), _)) if width > 0 => Style { width: width.into(), colour: !plain },
        Some(_) | None => Style { colour: io::stdout().is_terminal() && !plain, ..Style::default() },
    }
}

/// Text in a colour, by the SGR codes of ECMA-48, where the style has colours.
pub(crate) fn coloured(text: &str, colour: u8, style: Style) -> String {
    if style.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Whether somebody looks at standard output.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Says what is being done, if somebody waits for it: on standard error, and only on a terminal. It stays there, as what was
/// done by a command that writes should; [`Progress`] goes.
pub(crate) fn progress(text: impl Display) {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        // A terminal that is gone needs no progress.
        drop(writeln!(stderr, "{text}"));
    }
}

/// Asks a question that is answered by `y` or not; `None` if nobody is there to answer.
pub(crate) fn ask(question: impl Display) -> Option<bool> {
    let mut stderr = io::stderr().lock();
    if !stderr.is_terminal() || !io::stdin().is_terminal() {
        return None;
    }
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).ok()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What a command is busy with: a spinner and a line on standard error, if that is a terminal; else nothing.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Shows it.
    pub(crate) fn start(what: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        // Hidden where standard error is no terminal.
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Says something else.
    pub(crate) fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    /// Takes it away.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// How this program is called, so that a command that is printed can be copied: by its name if it was found by that, else by
/// its path, as seen from the current directory if it is below it.
pub(crate) fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if called.components().count() < 2 {
        return "isthmus".to_owned();
    }
    let program = std::env::current_exe().unwrap_or(called);
    let here = std::env::current_dir().unwrap_or_default();
    let near = program.strip_prefix(&here).ok().filter(|near| near.components().count() > 1);
    quoted(&near.map_or_else(|| program.clone(), PathBuf::from).display().to_string())
}

/// The directory of this program, for the path of another shell; `None` if it was found by its name.
pub(crate) fn directory() -> Option<String> {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let program = std::env::current_exe().ok().filter(|_| called.components().count() > 1)?;
    Some(program.parent()?.display().to_string())
}

/// A word for a shell.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_./:=@%+,".contains(char);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A line for people who watch: within the width of a terminal, with `indent` before what follows a break; as it is for
/// programs.
pub(crate) fn within(line: &str, indent: &str) -> String {
    if io::stdout().is_terminal() {
        mesh_explain::wrap(line, indent, style().width).trim_end().to_owned()
    } else {
        line.to_owned()
    }
}

/// Prints a text and a line end. A reader that has closed its end (`| head`) has had enough: no error.
pub(crate) fn print(text: impl Display) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    ignore_closed(written).context("write to standard output")
}

/// An error and its causes on one line; a cause is left out if what it causes ends in it, as many do.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !told.ends_with(&text) {
            told = format!("{told}: {text}");
        }
        next = cause.source();
    }
    told
}

/// Tells of an error, with all its causes on one line. If even that cannot be written there is nobody to tell.
pub(crate) fn complain(error: &anyhow::Error) {
    drop(writeln!(io::stderr(), "isthmus: {}", chain(error.as_ref())));
}

fn ignore_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_a_shell_would_split_are_quoted() {
        for (word, expected) in
            [("/a/b-c.d", "/a/b-c.d"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$x", "'$x'")]
        {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        let said = format!("read the file: {missing}");
        let error = anyhow::Error::new(missing).context("inner").context("outer");
        assert_eq!(
            chain(error.as_ref()),
            format!("outer: inner: {}", io::Error::from(io::ErrorKind::NotFound))
        );
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::NotFound)).context(said.clone());
        assert_eq!(chain(error.as_ref()), said);
    }

    #[test]
    fn a_closed_pipe_is_no_error_but_a_full_disk_is() {
        ignore_closed(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        ignore_closed(Err(io::ErrorKind::StorageFull.into())).unwrap_err();
    }
}
