//! A plan for people and for programs. No secret is in either.

use super::{Action, Change, Kind, Plan, Write};
use crate::certificate::{date, read};
use serde::{Serialize, Serializer};
use std::fmt::Write as _;

impl Kind {
    /// As in a manifest.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

impl Plan {
    /// As differences, an object after the other; `-` lines go, `+` lines come. Ends in a line end.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for write in &self.writes {
            let action = match write.action {
                Action::Create => "create",
                Action::Patch { .. } => "change",
            };
            let Write { cluster, context, namespace, name, .. } = write;
            let kind = write.kind.word();
            push(
                &mut text,
                format_args!("{cluster} (context {context}): {action} {kind} {namespace}/{name}"),
            );
            for (key, change) in &write.keys {
                let (old, new) = match change {
                    Change::Set { old, new } => (old.as_ref(), Some(new)),
                    Change::Remove { old } => (Some(old), None),
                };
                push(&mut text, format_args!("  {} {key}", change.word()));
                let (old, new) = (old.map(|old| shown(key, old)), new.map(|new| shown(key, new)));
                difference(&mut text, &old.unwrap_or_default(), &new.unwrap_or_default());
            }
        }
        text
    }
}

/// What may be shown of a value, in lines.
fn shown(key: &str, value: &[u8]) -> Vec<String> {
    if is_secret(key) {
        return vec![format!("(a private key of {} bytes)", value.len())];
    }
    let text = String::from_utf8_lossy(value);
    if key.ends_with(".crt") {
        return match read(&text) {
            Some(all) => {
                let say = |each: &crate::Certificate| {
                    format!("certificate of {}, valid until {}", each.subject, date(each.not_after))
                };
                all.iter().map(say).collect()
            }
            None => vec![format!("(no certificate, {} bytes)", value.len())],
        };
    }
    // What somebody else has put there might be anything.
    if text.contains("PRIVATE KEY") || text.contains("password") {
        return vec![format!("({} bytes with a secret)", value.len())];
    }
    // Nor may it speak to the terminal.
    let plain =
        |char: char| if char.is_control() && char != '\t' { char::REPLACEMENT_CHARACTER } else { char };
    text.lines().map(|line| line.chars().map(plain).collect()).collect()
}

fn is_secret(key: &str) -> bool {
    key.ends_with(".key")
}

/// Lines of the longest common beginning and end are shown as they are, the others as gone and come.
fn difference(text: &mut String, old: &[String], new: &[String]) {
    let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| old == new).count();
    let sections = [
        (' ', &old[..head]),
        ('-', &old_rest[..old_rest.len() - tail]),
        ('+', &new_rest[..new_rest.len() - tail]),
        (' ', &new_rest[new_rest.len() - tail..]),
    ];
    for (mark, lines) in sections {
        lines.iter().for_each(|line| push(text, format_args!("    {mark} {line}")));
    }
}

fn push(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("writing to a string does not fail");
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyShown<'a> {
    key: &'a str,
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WriteShown<'a> {
    context: &'a str,
    cluster: &'a str,
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    action: &'static str,
    keys: Vec<KeyShown<'a>>,
}

impl Serialize for Plan {
    /// A list of writes; values as lines, keys and certificates described instead.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.writes.iter().map(|write| {
            let keys = write.keys.iter().map(|(key, change)| {
                let value = match change {
                    Change::Set { new, .. } => Some(shown(key, new)),
                    Change::Remove { .. } => None,
                };
                KeyShown { key, change: change.word(), value }
            });
            WriteShown {
                context: &write.context,
                cluster: &write.cluster,
                kind: write.kind.word(),
                namespace: &write.namespace,
                name: write.name,
                action: match write.action {
                    Action::Create => "create",
                    Action::Patch { .. } => "patch",
                },
                keys: keys.collect(),
            }
        }))
    }
}
