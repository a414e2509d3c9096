//! An explanation for people: one line a step, its reasons below it, within the width of the terminal.

use std::fmt::Write as _;

use crate::explanation::{Because, Explanation, Step, Verdict};

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns; lines are broken before it where a word allows.
    pub width: usize,
    /// Colours the verdicts, by the SGR codes of ECMA-48.
    pub colour: bool,
}

impl Default for Style {
    /// 80 columns, plain.
    fn default() -> Self {
        Self { width: 80, colour: false }
    }
}

/// What stands in front of reasons.
const REASON: &str = "       ↳ ";

impl Explanation {
    /// The explanation as text, ending in a line end.
    pub fn text(&self, style: Style) -> String {
        let cluster = self.steps.iter().map(|step| step.cluster.chars().count()).max().unwrap_or_default();
        let mut text = format!("{}, as {} sees it\n\n", self.question, self.from);
        for step in &self.steps {
            push_step(&mut text, step, cluster, style);
        }
        text.push('\n');
        let outcome = format!("{} {}", mark(self.verdict, style), self.outcome);
        push_wrapped(&mut text, &outcome, "      ", style.width);
        for next in &self.next {
            // Never broken: it is to be copied.
            line(&mut text, format_args!("      next: {next}"));
        }
        text
    }
}

fn push_step(text: &mut String, step: &Step, cluster_width: usize, style: Style) {
    let age = match step.age_seconds {
        Some(age) if age >= 1.0 => format!(" ({age:.0} s old)"),
        Some(_) | None => String::new(),
    };
    let head = format!(
        "{} {:cluster_width$}  {:11}  {}{age}",
        mark(step.verdict, style),
        step.cluster,
        step.place,
        step.text
    );
    let indent = " ".repeat(6 + cluster_width + 15);
    push_wrapped(text, &head, &indent, style.width);
    for because in &step.reasons {
        push_wrapped(text, &format!("{REASON}{}", reason(because)), &" ".repeat(9), style.width);
    }
}

fn reason(because: &Because) -> String {
    let Because { code, subject, detail, meaning } = because;
    let mut text = code.clone();
    if !subject.is_empty() {
        write!(text, " [{subject}]").unwrap_or_default();
    }
    text.push_str(": ");
    text.push_str(meaning);
    if !detail.is_empty() {
        write!(text, " ({detail})").unwrap_or_default();
    }
    text
}

fn mark(verdict: Verdict, style: Style) -> String {
    let (word, colour) = match verdict {
        Verdict::Good => ("ok   ", 32),
        Verdict::Note => ("note ", 33),
        Verdict::Unknown => ("?    ", 35),
        Verdict::Bad => ("STOP ", 31),
    };
    if style.colour { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() }
}

/// Columns that a text takes; colours take none.
fn columns(text: &str) -> usize {
    let mut coloured = text.split('\x1b');
    let plain = coloured.next().unwrap_or_default().chars().count();
    plain + coloured.map(|part| part.chars().skip_while(|char| *char != 'm').skip(1).count()).sum::<usize>()
}

/// A text of one line or several, broken before `width` columns, with `indent` before what follows a break. Breaks at
/// spaces only; ends in a line end.
pub fn wrap(text: &str, indent: &str, width: usize) -> String {
    let mut wrapped = String::new();
    for line in text.lines() {
        push_wrapped(&mut wrapped, line, indent, width);
    }
    wrapped
}

/// Breaks at spaces only; a word that is longer than the line stays whole, so that it can be copied.
pub fn push_wrapped(text: &mut String, content: &str, indent: &str, width: usize) {
    let mut column = 0;
    let mut rest = content;
    while !rest.is_empty() {
        let spaces = rest.len() - rest.trim_start_matches(' ').len();
        let word_end = rest[spaces..].find(' ').map_or(rest.len(), |end| spaces + end);
        let length = columns(&rest[..word_end]);
        if column > 0 && column + length > width && column > indent.len() {
            text.push('\n');
            text.push_str(indent);
            let word = &rest[spaces..word_end];
            text.push_str(word);
            column = indent.len() + columns(word);
        } else {
            text.push_str(&rest[..word_end]);
            column += length;
        }
        rest = &rest[word_end..];
    }
    text.push('\n');
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_words_and_long_words_stay_whole() {
        let mut text = String::new();
        push_wrapped(
            &mut text,
            "ok    one two three cilium/state/services/v1/west/shop/cart four",
            "      ",
            20,
        );
        assert_eq!(text, "ok    one two three\n      cilium/state/services/v1/west/shop/cart\n      four\n");
    }

    #[test]
    fn colours_take_no_room_on_any_line() {
        let mut text = String::new();
        push_wrapped(&mut text, "\x1b[32mok   \x1b[0m one two three four five", "      ", 16);
        assert_eq!(text, "\x1b[32mok   \x1b[0m one two\n      three four\n      five\n");
    }
}
