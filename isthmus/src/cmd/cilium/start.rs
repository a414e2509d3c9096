//! From Cilium's flags to our own commands.

use super::flags::{self, CLUSTERMESH, ETCDINIT, Flag, Given, KVSTOREMESH, State, is_true, pairs};
use super::help;
use crate::cli::Cli;
use crate::exit::{Exit, Usage};
use crate::out;
use clap::{CommandFactory as _, Parser as _};

/// `clustermesh-apiserver clustermesh`.
pub(super) fn clustermesh(words: &[String]) -> anyhow::Result<Exit> {
    program("clustermesh", CLUSTERMESH, "clustermesh-apiserver", words, |given| {
        if !is_true(given.value(CLUSTERMESH, "enable-k8s")) {
            return Err(Usage::error("--enable-k8s=false: expected true, Kubernetes is what is exported"));
        }
        let mcs = given.value(CLUSTERMESH, "clustermesh-enable-mcs-api");
        let mut ours = vec![format!("--clustermesh-enable-mcs-api={}", is_true(mcs))];
        // Cilium's exporter reads Cilium's objects only, and its operator has the controllers.
        let chosen = |name: &str| given.own.iter().any(|flag| flag.starts_with(name));
        let cilium = ["--cni=cilium", "--mcs-controllers=false"];
        let unchosen = cilium.into_iter().filter(|flag| !chosen(flag.split('=').next().unwrap_or(flag)));
        ours.extend(unchosen.map(str::to_owned));
        Ok(ours)
    })
}

/// `clustermesh-apiserver kvstoremesh`.
pub(super) fn kvstoremesh(words: &[String]) -> anyhow::Result<Exit> {
    program("kvstoremesh", KVSTOREMESH, "kvstoremesh", words, |given| {
        if given.value(KVSTOREMESH, "clustermesh-config").is_empty() {
            return Err(Usage::error(
                "--clustermesh-config is missing: the directory with one configuration per remote cluster",
            ));
        }
        Ok(Vec::new())
    })
}

/// `clustermesh-apiserver etcdinit`.
pub(super) fn etcdinit(words: &[String]) -> anyhow::Result<Exit> {
    program("etcdinit", ETCDINIT, "etcdinit", words, |_| Ok(Vec::new()))
}

/// Reads the flags of one of Cilium's programs and runs our command with them and with `more`.
fn program(
    name: &str,
    table: &'static [Flag],
    command: &str,
    words: &[String],
    more: impl FnOnce(&Given) -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<Exit> {
    let own = own_flags(command);
    let given = flags::read(table, &own, words, &|variable| std::env::var(variable).ok())?;
    if given.help {
        out::print(help::text(name, table))?;
        return Ok(Exit::Done);
    }
    let more = more(&given)?;
    ours(translate(table, command, &given, more)?)
}

/// Our command line for what was given.
fn translate(
    table: &'static [Flag],
    command: &str,
    given: &Given,
    more: Vec<String>,
) -> anyhow::Result<Vec<String>> {
    let store = given.value(table, "kvstore");
    if !store.is_empty() && store != "etcd" {
        return Err(Usage::error(format!("--kvstore={store}: expected etcd")));
    }
    let mut ours = vec![command.to_owned()];
    ours.extend(more);
    for flag in table.iter().filter(|flag| flag.state == State::Same) {
        ours.extend(same(flag, given));
    }
    if table.iter().any(|flag| flag.name == "log-opt") {
        ours.extend(logs(table, given)?);
    }
    if !given.accepted.is_empty() {
        let names: Vec<&str> = given.accepted.iter().copied().collect();
        ours.push(format!("--accepted={}", names.join(",")));
    }
    ours.extend(given.own.iter().cloned());
    Ok(ours)
}

/// A flag that means the same; Cilium's default if it was not given.
fn same(flag: &Flag, given: &Given) -> Vec<String> {
    let values = given.values(flag.name);
    let default = [flag.default.to_owned()];
    let values = if values.is_empty() { &default[..] } else { values };
    // What is not set stays so, and a map starts empty. A default can be taken back by an empty text.
    let takes_back = flag.kind == flags::Kind::Text && !flag.default.is_empty();
    let said = values.iter().filter(|value| takes_back || (!value.is_empty() && *value != "[]"));
    let value = |value: &str| match flag.kind {
        flags::Kind::Bool => is_true(value).to_string(),
        flags::Kind::Duration if value == "0" => "0s".to_owned(),
        flags::Kind::Duration
        | flags::Kind::Count(_)
        | flags::Kind::Float
        | flags::Kind::Text
        | flags::Kind::List
        | flags::Kind::Map => value.to_owned(),
    };
    said.map(|text| format!("--{}={}", flag.name, value(text))).collect()
}

/// `--debug` and `--log-opt`.
fn logs(table: &'static [Flag], given: &Given) -> anyhow::Result<Vec<String>> {
    let mut ours = Vec::new();
    let mut level = is_true(given.value(table, "debug")).then_some("debug");
    for pair in given.values("log-opt").iter().filter(|text| !text.is_empty()).flat_map(|text| pairs(text)) {
        match pair.map_err(|part| Usage::error(format!("--log-opt={part}: expected KEY=VALUE")))? {
            ("level", _) if level.is_some() => {}
            ("level", said) => {
                level = Some(match said.to_ascii_lowercase().as_str() {
                    "panic" | "fatal" | "error" => "error",
                    "warn" | "warning" => "warn",
                    "info" => "info",
                    "debug" => "debug",
                    "trace" => "trace",
                    _ => {
                        return Err(Usage::error(format!(
                            "--log-opt=level={said}: expected error, warn, info or debug"
                        )));
                    }
                });
            }
            ("format", said) => ours.push(match said {
                "json" | "json-ts" => "--log-format=json".to_owned(),
                "text" | "text-ts" => "--log-format=human".to_owned(),
                _ => return Err(Usage::error(format!("--log-opt=format={said}: expected text or json"))),
            }),
            // Syslog's options say nothing to standard error.
            (_, _) => {}
        }
    }
    ours.extend(level.map(|level| format!("--log-level={level}")));
    Ok(ours)
}

/// Runs our own command.
pub(super) fn ours(words: impl IntoIterator<Item = String>) -> anyhow::Result<Exit> {
    let words = std::iter::once("isthmus".to_owned()).chain(words);
    Cli::try_parse_from(words).map_err(Usage::error)?.run()
}

/// The flags of one of our commands, and whether each takes a value.
fn own_flags(command: &str) -> Vec<(String, bool)> {
    let cli = Cli::command();
    let command = cli.find_subcommand(command);
    let flags = command.into_iter().flat_map(|command| command.get_arguments());
    let flag = |flag: &clap::Arg| {
        let takes_value = flag.get_num_args().is_none_or(|range| range.min_values() > 0);
        Some((flag.get_long()?.to_owned(), takes_value && flag.get_action().takes_values()))
    };
    flags.filter_map(flag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAMS: [(&str, &[Flag]); 3] =
        [("clustermesh", CLUSTERMESH), ("kvstoremesh", KVSTOREMESH), ("etcdinit", ETCDINIT)];

    fn translated(name: &str, line: &str) -> anyhow::Result<Vec<String>> {
        let (_, table) = PROGRAMS.into_iter().find(|(program, _)| *program == name).unwrap();
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let given = flags::read(table, &[], &words, &|_| None)?;
        translate(table, name, &given, Vec::new())
    }

    #[test]
    fn what_is_not_given_has_ciliums_default() {
        let ours = translated("clustermesh", "--cluster-name=a --cluster-id 7").unwrap();
        for expected in [
            "--cluster-name=a",
            "--cluster-id=7",
            "--health-port=9880",
            "--k8s-client-qps=10",
            "--k8s-client-burst=20",
            "--crd-wait-timeout=5m0s",
            "--kvstore-lease-ttl=15m0s",
        ] {
            assert!(ours.iter().any(|flag| flag == expected), "{expected}: {ours:?}");
        }
        assert!(!ours.iter().any(|flag| flag.starts_with("--prometheus-serve-addr")), "{ours:?}");
        let ours = translated("kvstoremesh", "--clustermesh-config=/c --clustermesh-cache-ttl=0").unwrap();
        for expected in
            ["--health-port=9880", "--api-serve-addr=localhost:9889", "--clustermesh-cache-ttl=0s"]
        {
            assert!(ours.iter().any(|flag| flag == expected), "{expected}: {ours:?}");
        }
    }

    #[test]
    fn logs_are_asked_for_in_ciliums_words() {
        let cases = [
            ("--debug", &["--log-level=debug"][..]),
            ("--debug=false", &[]),
            ("--log-opt=level=warning,format=json", &["--log-format=json", "--log-level=warn"]),
            ("--log-opt level=error --log-opt format=text-ts", &["--log-format=human", "--log-level=error"]),
            ("--debug --log-opt=level=error", &["--log-level=debug"]),
            ("--log-driver=syslog --log-opt=syslog.level=info", &[]),
        ];
        for (line, expected) in cases {
            let ours = translated("clustermesh", line).unwrap();
            let logs: Vec<_> = ours.iter().filter(|flag| flag.starts_with("--log-")).collect();
            assert_eq!(logs, expected, "{line}");
        }
        for wrong in ["--log-opt=level=loud", "--log-opt=format=xml", "--kvstore=consul"] {
            assert!(translated("kvstoremesh", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn flags_without_effect_are_passed_on_to_be_said_once() {
        let ours = translated("clustermesh", "--pprof --gops-port=1 --gops-port=2").unwrap();
        assert!(ours.contains(&"--accepted=gops-port,pprof".to_owned()), "{ours:?}");
    }

    /// What the tables call the same must be a flag of ours, or the translation would be refused.
    #[test]
    fn each_flag_that_means_the_same_is_a_flag_of_our_command() {
        for ((name, table), command) in
            PROGRAMS.into_iter().zip(["clustermesh-apiserver", "kvstoremesh", "etcdinit"])
        {
            let own = own_flags(command);
            for flag in table.iter().filter(|flag| flag.state == State::Same) {
                assert!(own.iter().any(|(own, _)| own == flag.name), "{name}: --{}", flag.name);
            }
            let accepts = table.iter().any(|flag| matches!(flag.state, State::Accepted(_)));
            assert!(!accepts || own.iter().any(|(own, _)| own == "accepted"), "{name}");
        }
    }
}
