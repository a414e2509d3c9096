//! Prometheus' text form.

use std::fmt::Write as _;

use super::Series;
use crate::histogram::Histogram;

/// Families, one after another.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Series without labels.
    pub(super) fn all(&mut self, series: impl IntoIterator<Item = Series>) {
        for (name, kind, help, value) in series {
            self.head(name, kind, help);
            self.line(format_args!("{name} {value}"));
        }
    }

    /// A gauge that is 1 and says something by its labels.
    pub(super) fn labelled(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) {
        self.head(name, "gauge", help);
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        self.line(format_args!("{name}{{{}}} 1", labels.join(",")));
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        histogram.render(&mut self.0, name, "");
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _infallible = writeln!(self.0, "{text}");
    }
}
