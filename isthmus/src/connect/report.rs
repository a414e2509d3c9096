//! What the commands print.

use crate::out::coloured;
use mesh_connect::{Code, Finding, Member, Plan, Severity, is_asked};
use mesh_explain::{Style, push_wrapped};
use serde::Serialize;
use std::fmt::Write as _;

/// A cluster in the report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterReport {
    context: String,
    name: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    peers: Vec<String>,
}

/// The members, for a report.
pub(crate) fn clusters(members: &[Member]) -> Vec<ClusterReport> {
    let report = |member: &Member| ClusterReport {
        context: member.context.clone(),
        name: member.name().to_owned(),
        id: member.settings.id().to_owned(),
        kubernetes: member.kubernetes_version.clone(),
        version: member.version.as_ref().map(|version| format!("{} {}", version.product, version.text)),
        peers: member.peers().into_iter().map(str::to_owned).collect(),
    };
    members.iter().map(report).collect()
}

/// What came of `connect` or `disconnect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// It was only planned.
    Planned,
    /// Everything is written already.
    NothingToDo,
    /// Errors or warnings are in the way, or it was not confirmed.
    NotWritten,
    /// The API servers would do it.
    DryRun,
    /// All of it is done.
    Applied,
    /// A write failed.
    Failed,
}

/// Of `connect` and `disconnect`, for programs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlanReport {
    pub(crate) outcome: Outcome,
    pub(crate) clusters: Vec<ClusterReport>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) plan: Plan,
}

/// Of `check`, for programs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CheckReport {
    pub(crate) healthy: bool,
    pub(crate) clusters: Vec<ClusterReport>,
    pub(crate) checks: Vec<CheckLine>,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CheckLine {
    code: Code,
    group: &'static str,
    title: &'static str,
    state: State,
    docs: String,
    findings: Vec<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ok,
    Warning,
    Error,
    /// Too little is known to tell.
    NotAsked,
}

/// All checks, with what they found.
pub(crate) fn lines(findings: &[Finding], members: &[Member]) -> Vec<CheckLine> {
    let line = |code: &Code| {
        let of: Vec<Finding> = findings.iter().filter(|finding| finding.code == *code).cloned().collect();
        let state = match of.iter().map(|finding| finding.severity).max() {
            Some(Severity::Error) => State::Error,
            Some(Severity::Warning) => State::Warning,
            None if is_asked(*code, members) => State::Ok,
            None => State::NotAsked,
        };
        let group = code.group().title();
        CheckLine { code: *code, group, title: code.title(), state, docs: code.docs(), findings: of }
    };
    Code::ALL.iter().map(line).collect()
}

impl CheckReport {
    /// One line for each check under the heading of its group, and what was found below it. `signs` instead of words
    /// where somebody looks at it.
    pub(crate) fn text(&self, style: Style, signs: bool) -> String {
        let mut text = String::new();
        let mut group = "";
        for line in &self.checks {
            if line.group != group {
                group = line.group;
                let gap = if text.is_empty() { "" } else { "\n" };
                push_line(&mut text, format_args!("{gap}{group}"));
            }
            let (sign, word, colour) = match line.state {
                State::Ok => ("✔", "ok  ", 32),
                State::Warning => ("!", "warn", 33),
                State::Error => ("✘", "FAIL", 31),
                State::NotAsked => ("?", "?   ", 35),
            };
            let mark = coloured(if signs { sign } else { word }, colour, style);
            push_line(&mut text, format_args!("  {mark} {} {}", line.code.number(), line.title));
            for finding in &line.findings {
                push_facts(&mut text, finding, style, "       ");
            }
            if !line.findings.is_empty() {
                push_line(&mut text, format_args!("       see {}", line.docs));
            }
        }
        let (errors, warnings) = count(self.checks.iter().flat_map(|line| &line.findings));
        let words = match (errors, warnings) {
            (0, 0) if self.healthy => coloured("Nothing is in the way.", 32, style),
            _ => coloured(&tally(errors, warnings), if errors > 0 { 31 } else { 33 }, style),
        };
        push_line(&mut text, format_args!("\n{words}"));
        text
    }
}

fn count<'a>(findings: impl Iterator<Item = &'a Finding>) -> (usize, usize) {
    findings.fold((0, 0), |(errors, warnings), finding| match finding.severity {
        Severity::Error => (errors + 1, warnings),
        Severity::Warning => (errors, warnings + 1),
    })
}

fn tally(errors: usize, warnings: usize) -> String {
    let some = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    match (errors, warnings) {
        (errors, 0) => format!("{}.", some(errors, "error")),
        (0, warnings) => format!("{}.", some(warnings, "warning")),
        (errors, warnings) => format!("{} and {}.", some(errors, "error"), some(warnings, "warning")),
    }
}

/// The plan: what comes is green, what goes is red, where the style has colours.
pub(crate) fn plan(plan: &Plan, style: Style) -> String {
    // Deeper ones stay as they are, and may be lists.
    let line = |line: &str| match line.get(..6) {
        Some("    + ") => coloured(line, 32, style),
        Some("    - ") => coloured(line, 31, style),
        Some(_) | None => line.to_owned(),
    };
    plan.text().lines().map(|text| line(text) + "\n").collect()
}

/// Findings one after the other, and how many there are; nothing if there is none.
pub(crate) fn findings(findings: &[Finding], style: Style) -> String {
    let mut text = String::new();
    for finding in findings {
        let (word, colour) = match finding.severity {
            Severity::Error => ("error", 31),
            Severity::Warning => ("warning", 33),
        };
        let code = finding.code;
        push_line(
            &mut text,
            format_args!("{} {} {}", coloured(word, colour, style), code.number(), code.title()),
        );
        push_facts(&mut text, finding, style, "  ");
        push_line(&mut text, format_args!("  see {}\n", code.docs()));
    }
    if !findings.is_empty() {
        let (errors, warnings) = count(findings.iter());
        push_line(&mut text, format_args!("{}", tally(errors, warnings)));
    }
    text
}

fn push_facts(text: &mut String, finding: &Finding, style: Style, indent: &str) {
    let Finding { clusters, expected, found, advice, .. } = finding;
    let lines = [
        format!("{indent}{}: found {found}", clusters.join(", ")),
        format!("{indent}expected {expected}"),
        format!("{indent}→ {advice}"),
    ];
    for line in lines {
        push_wrapped(text, &line, &format!("{indent}  "), style.width);
    }
}

fn push_line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_connect::{Failure, Trouble, checks};

    fn report() -> CheckReport {
        let trouble = Trouble::Unreachable("connection refused".to_owned());
        let failure = Failure { context: "north".to_owned(), trouble };
        let findings = checks(&[Member::default()], &[failure], jiff::Timestamp::UNIX_EPOCH);
        CheckReport { healthy: false, clusters: Vec::new(), checks: lines(&findings, &[Member::default()]) }
    }

    #[test]
    fn each_check_has_one_line_with_its_code_and_findings_lead_to_the_documentation() {
        let text = report().text(Style::default(), true);
        for code in Code::ALL {
            assert_eq!(text.matches(&format!(" {} {}\n", code.number(), code.title())).count(), 1, "{text}");
        }
        assert!(
            text.starts_with(
                "Kubernetes APIs\n  ✘ C001 API server answers\n       north: found connection refused\n"
            ),
            "{text}"
        );
        assert!(text.contains("\n  ? C501 clocks agree\n"), "{text}");
        assert!(text.contains("       see docs/connect.md#c001-api-server-answers\n"), "{text}");
        assert!(text.contains("\n  ✔ C106 mesh is not too large\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80 || line.contains("see docs")), "{text}");
    }

    #[test]
    fn without_a_terminal_the_marks_are_words_and_colours_are_off() {
        let plain = report().text(Style::default(), false);
        assert!(
            plain.contains("  FAIL C001") && plain.contains("  ok   C106") && !plain.contains('\x1b'),
            "{plain}"
        );
        let coloured = report().text(Style { colour: true, ..Style::default() }, true);
        assert!(coloured.contains("\x1b[31m✘\x1b[0m C001"), "{coloured}");
    }

    #[test]
    fn what_comes_is_green_and_what_goes_is_red() {
        let old = b"users:\n- name: a\n- name: b\n".to_vec();
        let new = b"users:\n- name: a\n- name: c\n".to_vec();
        let write = mesh_connect::Write {
            context: "west".to_owned(),
            cluster: "west".to_owned(),
            kind: mesh_connect::Kind::ConfigMap,
            namespace: "kube-system".to_owned(),
            name: "clustermesh-remote-users",
            action: mesh_connect::Action::Create,
            keys: [("users.yaml".to_owned(), mesh_connect::Change::Set { old: Some(old), new })].into(),
        };
        let this = Plan { writes: vec![write] };
        let lines = "      users:\n      - name: a\n    - - name: b\n    + - name: c\n";
        assert!(plan(&this, Style::default()).ends_with(lines));
        let lines =
            "      users:\n      - name: a\n\x1b[31m    - - name: b\x1b[0m\n\x1b[32m    + - name: c\x1b[0m\n";
        assert!(plan(&this, Style { colour: true, ..Style::default() }).ends_with(lines));
    }

    #[test]
    fn findings_keep_to_the_width_and_are_plain_without_colours() {
        let trouble = Trouble::Forbidden {
            verb: "get".to_owned(),
            resource: "secrets/clustermesh-apiserver-remote-cert".to_owned(),
            namespace: "kube-system".to_owned(),
            user: "system:serviceaccount:operations:somebody".to_owned(),
        };
        let all =
            checks(&[], &[Failure { context: "north".to_owned(), trouble }], jiff::Timestamp::UNIX_EPOCH);
        for (width, colour) in [(80, false), (80, true), (140, false), (140, true)] {
            let text = findings(&all, Style { width, colour });
            let plain = text.replace("\x1b[31m", "").replace("\x1b[0m", "");
            assert_eq!(text != plain, colour, "{text}");
            let widest = plain.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width && widest > width - 20, "{width}: {plain}");
            assert!(
                plain.ends_with("  see docs/connect.md#c003-permissions-suffice\n\n1 error.\n"),
                "{plain}"
            );
        }
    }

    #[test]
    fn nothing_is_said_to_be_well_of_which_nothing_was_read() {
        assert!(lines(&[], &[]).iter().all(|line| line.state == State::NotAsked));
    }
}
