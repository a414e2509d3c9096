//! `--config FILE`: flags in a file.

use crate::cli::Cli;
use crate::exit::Usage;
use anyhow::Context as _;
use clap::CommandFactory as _;
use serde_yaml_ng::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// Puts the flags of the file that `isthmus mesh --config FILE` names before those of the command line; all else passes
/// unchanged.
///
/// # Errors
/// [`Usage`] if the file cannot be read or is not flags and values.
pub(crate) fn expand(mut args: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    if args.get(1).is_none_or(|command| command != "mesh") {
        return Ok(args);
    }
    let mut file = None;
    for (index, arg) in args.iter().enumerate().skip(2) {
        let text = arg.to_string_lossy();
        if text == "--config" {
            file = args.get(index + 1).cloned();
        } else if let Some(path) = text.strip_prefix("--config=") {
            file = Some(path.into());
        }
    }
    let Some(file) = file else { return Ok(args) };
    let path = Path::new(&file);
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--config {}", path.display()))
        .map_err(|error| Usage::error(format!("{error:#}")))?;
    let cli = Cli::command();
    let command = cli.find_subcommand("mesh");
    let is_switch = |name: &str| {
        let flags = command.into_iter().flat_map(clap::Command::get_arguments);
        flags.into_iter().any(|flag| flag.get_long() == Some(name) && !flag.get_action().takes_values())
    };
    let flags = flags(&text, &is_switch)
        .map_err(|error| Usage::error(format!("--config {}: {error}", path.display())))?;
    args.splice(2..2, flags.into_iter().map(OsString::from));
    Ok(args)
}

/// The flags that a file asks for; a list repeats its flag. A switch takes no value: it is there or not.
fn flags(text: &str, is_switch: &dyn Fn(&str) -> bool) -> Result<Vec<String>, String> {
    const EXPECTED: &str = "expected a flag's name and its value on each line, such as `cluster-name: west`";
    let entries: BTreeMap<String, Value> = if text.trim().is_empty() {
        BTreeMap::new()
    } else {
        serde_yaml_ng::from_str(text).map_err(|error| format!("{EXPECTED}: {error}"))?
    };
    let mut flags = Vec::new();
    for (name, value) in entries {
        let values = if let Value::Sequence(values) = value { values } else { vec![value] };
        for value in values {
            let value = match value {
                Value::Bool(on) if is_switch(&name) => {
                    flags.extend(on.then(|| format!("--{name}")));
                    continue;
                }
                Value::Bool(value) => value.to_string(),
                Value::Number(value) => value.to_string(),
                Value::String(value) => value,
                Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => {
                    return Err(format!("{name}: {EXPECTED}"));
                }
            };
            flags.push(format!("--{name}={value}"));
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_flags_before_those_of_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.yaml");
        std::fs::write(&path, "cluster-name: west\ncluster-id: 3\ndurable: true\nallow-plaintext: false\nenable-heartbeat: false\ndns-listen: ['127.0.0.1:1', '127.0.0.1:2']\n").unwrap();
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let expected = [
            "isthmus",
            "mesh",
            "--cluster-id=3",
            "--cluster-name=west",
            "--dns-listen=127.0.0.1:1",
            "--dns-listen=127.0.0.1:2",
            "--durable",
            "--enable-heartbeat=false",
        ];
        let path = path.to_str().unwrap();
        for said in [&["--config", path][..], &[&format!("--config={path}")]] {
            let said: Vec<&str> = said.to_vec();
            let given = words(&[&["isthmus", "mesh"][..], &said].concat());
            assert_eq!(expand(given).unwrap(), words(&[&expected[..], &said].concat()));
        }
        let other = words(&["isthmus", "agent", "--config", "/nonexistent"]);
        assert_eq!(expand(other.clone()).unwrap(), other, "only this command has such a file");
        assert!(expand(words(&["isthmus", "mesh", "--config", "/nonexistent"])).is_err());
    }

    #[test]
    fn what_is_no_flag_and_value_is_refused() {
        assert!(flags("", &|_| false).unwrap().is_empty());
        for wrong in ["- a", "a:", "a: {b: c}", "a: [[1]]", "a: ["] {
            assert!(flags(wrong, &|_| false).unwrap_err().contains("expected a flag"), "{wrong}");
        }
    }
}
