//! The flags of Cilium's programs, in Cilium's forms, and what each comes to here.
//!
//! ```text
//!  arguments, CILIUM_… ──▶ read ──▶ Given: flags with a meaning ──▶ start: our own command
//!                            │              accepted flags ──────▶ one line in the log
//!                            └──▶ an unknown flag: an error with the nearest known one
//! ```
//!
//! The tables hold every flag that Cilium 1.20 lists by `--help`, and those that it hides. A test compares them with
//! what Cilium itself printed.

use crate::exit::Usage;
use std::collections::{BTreeMap, BTreeSet};

mod tables;
mod value;

pub(super) use tables::{CLUSTERMESH, ETCDINIT, KVSTOREMESH};
pub(super) use value::{is_true, pairs};

/// What a flag's value looks like, by the words of Cilium's `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `--flag`, `--flag=true`, `--flag=0`.
    Bool,
    /// A whole number up to this.
    Count(u64),
    Float,
    /// Go's form: `1m30s`, or `0`.
    Duration,
    Text,
    /// Comma-separated, and may be repeated.
    List,
    /// `key=value`, comma-separated, and may be repeated.
    Map,
}

/// What a flag comes to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The same as in Cilium.
    Same,
    /// It has a meaning, which is this.
    Means(&'static str),
    /// It is accepted and has no effect, for this reason.
    Accepted(&'static str),
}

/// A flag of Cilium.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As Cilium prints it; empty is none, zero or false.
    pub(super) default: &'static str,
    pub(super) state: State,
    /// Cilium has it and does not list it.
    pub(super) hidden: bool,
}

/// What a command line and the environment ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// Values of the flags with a meaning, in their order, by name.
    values: BTreeMap<&'static str, Vec<String>>,
    /// Flags of our own, which Cilium does not have, as they were given.
    pub(super) own: Vec<String>,
    /// Flags that were given and have no effect.
    pub(super) accepted: BTreeSet<&'static str>,
    /// `--help` or `-h`.
    pub(super) help: bool,
}

impl Given {
    /// The last value of a flag, or Cilium's default.
    pub(super) fn value<'a>(&'a self, table: &'a [Flag], name: &str) -> &'a str {
        let default = table.iter().find(|flag| flag.name == name).map_or("", |flag| flag.default);
        self.values.get(name).and_then(|values| values.last()).map_or(default, String::as_str)
    }

    /// Every value of a flag.
    pub(super) fn values(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a flag of that name was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }
}

/// The variable that stands for a flag, as Cilium reads it.
pub(super) fn variable(flag: &str) -> String {
    format!("CILIUM_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// Reads `words`, and for flags that are not among them the environment.
///
/// `own` are flags of our own command that are passed on as they are; whether one takes a value is the second part.
///
/// # Errors
/// [`Usage`] for what is no flag, an unknown flag (with the nearest known one), and a value that Cilium would refuse.
pub(super) fn read(
    table: &'static [Flag],
    own: &[(String, bool)],
    words: &[String],
    environment: &dyn Fn(&str) -> Option<String>,
) -> anyhow::Result<Given> {
    let mut given = Given::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "-h" {
            given.help = true;
            continue;
        }
        let Some(body) = word.strip_prefix("--").filter(|body| !body.is_empty()) else {
            return Err(Usage::error(format!("{word:?}: expected a flag, such as --{}", table[0].name)));
        };
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let known = table.iter().find(|flag| flag.name == name);
        let takes_value = known.map_or_else(
            || own.iter().find(|(own, _)| own == name).map(|(_, takes)| *takes),
            |flag| Some(flag.kind != Kind::Bool),
        );
        let Some(takes_value) = takes_value else { return Err(unknown(name, table, own)) };
        let value = match value {
            Some(value) => value,
            None if takes_value => {
                let value = words.next().cloned();
                value.ok_or_else(|| Usage::error(format!("--{name}: expected a value")))?
            }
            None => "true".to_owned(),
        };
        match known {
            Some(flag) => given.take(flag, value, &format!("--{name}"))?,
            None if takes_value || body.contains('=') => given.own.push(format!("--{name}={value}")),
            None => given.own.push(format!("--{name}")),
        }
    }
    for flag in table {
        let variable = variable(flag.name);
        if let Some(value) = environment(&variable)
            && !given.has(flag.name)
            && !given.accepted.contains(flag.name)
        {
            given.take(flag, value, &variable)?;
        }
    }
    Ok(given)
}

impl Given {
    fn take(&mut self, flag: &'static Flag, value: String, said_by: &str) -> anyhow::Result<()> {
        value::check(flag.kind, &value)
            .map_err(|expected| Usage::error(format!("{said_by}={value}: expected {expected}")))?;
        if flag.name == "help" {
            self.help = is_true(&value);
            return Ok(());
        }
        match flag.state {
            State::Same | State::Means(_) => self.values.entry(flag.name).or_default().push(value),
            State::Accepted(_) => drop(self.accepted.insert(flag.name)),
        }
        Ok(())
    }
}

fn unknown(name: &str, table: &[Flag], own: &[(String, bool)]) -> anyhow::Error {
    let names = table.iter().map(|flag| flag.name).chain(own.iter().map(|(name, _)| name.as_str()));
    let hint = nearest(name, names).map_or_else(String::new, |near| format!("; the nearest is --{near}"));
    Usage::error(format!("unknown flag --{name}{hint}"))
}

/// The candidate that is most like `word`.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |candidate: &str| strsim::jaro_winkler(word, candidate);
    candidates.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

#[cfg(test)]
mod tests;
