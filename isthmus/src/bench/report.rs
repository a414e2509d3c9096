//! Readings of both sides, joined into a table.

use serde::Serialize;

/// What a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Unit {
    /// Seconds of processor time.
    CpuSeconds,
    /// Seconds.
    Seconds,
    /// Events of any kind per second.
    PerSecond,
    /// Bytes.
    Bytes,
    /// A quotient.
    Ratio,
    /// A number of things.
    Count,
}

impl Unit {
    /// With three digits and a prefix that keeps them readable.
    fn text(self, value: f64) -> String {
        let digits = |value: f64| match value.abs() {
            size if size >= 100.0 => format!("{value:.0}"),
            size if size >= 10.0 => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        };
        let scaled = |steps: &[(f64, &str)]| {
            let fits = steps.iter().find(|(size, _)| value.abs() >= *size).or(steps.last());
            fits.map_or_else(|| digits(value), |(size, unit)| format!("{} {unit}", digits(value / size)))
        };
        match self {
            Self::CpuSeconds if value >= 0.1 => format!("{} CPU-s", digits(value)),
            Self::CpuSeconds => format!("{} of CPU", scaled(&[(1e-3, "ms"), (1e-6, "µs")])),
            Self::Seconds => scaled(&[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")]),
            Self::PerSecond if value >= 1e6 => format!("{} M/s", digits(value / 1e6)),
            Self::PerSecond if value >= 1e4 => format!("{} k/s", digits(value / 1e3)),
            Self::PerSecond => format!("{} /s", digits(value)),
            Self::Bytes => scaled(&[(1e6, "MB"), (1e3, "kB"), (1.0, "B")]),
            Self::Ratio => format!("{}×", digits(value)),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// What a value should be, for the standard sizes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub(crate) enum Target {
    /// None; it is printed for comparison.
    None,
    /// So much or less. Where etcd does better than it once did (`anchor`), less by as much.
    AtMost { value: f64, anchor: Option<f64> },
    /// So much or more. Where etcd does better than it once did (`anchor`), more by as much.
    AtLeast { value: f64, anchor: Option<f64> },
    /// So many times etcd's value or less.
    TimesEtcdAtMost { factor: f64 },
    /// So many times etcd's value or more.
    TimesEtcdAtLeast { factor: f64 },
}

impl Target {
    pub(crate) const fn at_most(value: f64, anchor: f64) -> Self {
        Self::AtMost { value, anchor: Some(anchor) }
    }

    pub(crate) const fn at_least(value: f64, anchor: f64) -> Self {
        Self::AtLeast { value, anchor: Some(anchor) }
    }

    /// The bound, given etcd's value in the same run; `None` if it cannot be known.
    fn bound(self, etcd: Option<f64>) -> Option<Bound> {
        match self {
            Self::None => None,
            Self::AtMost { value, anchor } => {
                let better = anchor.zip(etcd).map_or(1.0, |(anchor, etcd)| etcd / anchor);
                Some(Bound::AtMost(value * better.min(1.0)))
            }
            Self::AtLeast { value, anchor } => {
                let better = anchor.zip(etcd).map_or(1.0, |(anchor, etcd)| etcd / anchor);
                Some(Bound::AtLeast(value * better.max(1.0)))
            }
            Self::TimesEtcdAtMost { factor } => etcd.map(|etcd| Bound::AtMost(factor * etcd)),
            Self::TimesEtcdAtLeast { factor } => etcd.map(|etcd| Bound::AtLeast(factor * etcd)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }

    fn text(self, unit: Unit) -> String {
        match self {
            Self::AtMost(bound) => format!("≤ {}", unit.text(bound)),
            Self::AtLeast(bound) => format!("≥ {}", unit.text(bound)),
        }
    }
}

/// One value of one side.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// What was measured; the same on both sides.
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
    pub(crate) target: Target,
}

/// What a figure found on one side.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    pub(crate) readings: Vec<Reading>,
    /// Processor time of all servers of the figure, their start included.
    pub(crate) cpu_seconds: f64,
    /// The biggest of them at its biggest.
    pub(crate) peak_bytes: u64,
    /// What a reader must know: cut off, extrapolated, failed.
    pub(crate) notes: Vec<String>,
}

impl Measured {
    /// Adds a reading.
    pub(crate) fn read(&mut self, name: impl Into<String>, unit: Unit, value: f64, target: Target) {
        self.readings.push(Reading { name: name.into(), unit, value, target });
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    figure: String,
    name: String,
    unit: Unit,
    isthmus: Option<f64>,
    peer: Option<f64>,
    /// Ours to the peer's.
    ratio: Option<f64>,
    target: Target,
    /// Absent where there is no target, or it is for other sizes.
    met: Option<bool>,
}

/// Where it was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    /// Processors that may be used.
    pub(crate) processors: usize,
    /// As the kernel names them.
    pub(crate) processor: String,
    /// Kernel release.
    pub(crate) kernel: String,
    /// What else ran at the start: the load average of one minute.
    pub(crate) load: String,
}

/// Everything that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Whose values are beside ours.
    pub(crate) peer: &'static str,
    /// Where.
    pub(crate) machine: Machine,
    /// Whether this binary is an optimised build; else nothing here says anything about speed.
    pub(crate) optimised: bool,
    /// Whether all traffic was by mutual TLS.
    pub(crate) tls: bool,
    /// Whether targets apply.
    #[serde(skip)]
    pub(crate) standard: bool,
    /// What was measured.
    pub(crate) rows: Vec<Row>,
    /// What a reader must know.
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// Adds the two sides of a figure; one may be missing.
    pub(crate) fn add(&mut self, figure: &str, ours: Option<&Measured>, peer: Option<&Measured>) {
        let value = |side: Option<&Measured>, name: &str| {
            side?.readings.iter().find(|reading| reading.name == name).map(|reading| reading.value)
        };
        let mut seen: Vec<&Reading> = Vec::new();
        for reading in [ours, peer].into_iter().flatten().flat_map(|side| &side.readings) {
            if !seen.iter().any(|other| other.name == reading.name) {
                seen.push(reading);
            }
        }
        for reading in seen {
            let (isthmus, peer) = (value(ours, &reading.name), value(peer, &reading.name));
            self.push(figure, reading, isthmus, peer);
        }
        let cost = |name: &str, unit: Unit, of: fn(&Measured) -> f64| {
            let reading = Reading { name: name.to_owned(), unit, value: 0.0, target: Target::None };
            (reading, ours.map(of), peer.map(of))
        };
        for (reading, isthmus, peer) in [
            cost("CPU of the servers, all of the figure", Unit::CpuSeconds, |side| side.cpu_seconds),
            cost("peak memory", Unit::Bytes, |side| side.peak_bytes as f64),
        ] {
            let there = |value: Option<f64>| value.filter(|value| *value > 0.0);
            if there(isthmus).or(there(peer)).is_some() {
                self.push(figure, &reading, there(isthmus), there(peer));
            }
        }
        for (side, measured) in [("isthmus", ours), (self.peer, peer)] {
            let notes = measured.into_iter().flat_map(|measured| &measured.notes);
            self.notes.extend(notes.map(|note| format!("{figure}, {side}: {note}")));
        }
    }

    fn push(&mut self, figure: &str, reading: &Reading, isthmus: Option<f64>, peer: Option<f64>) {
        let applies = self.standard && self.optimised;
        let bound = reading.target.bound(peer).filter(|_| applies);
        self.rows.push(Row {
            figure: figure.to_owned(),
            name: reading.name.clone(),
            unit: reading.unit,
            isthmus,
            peer,
            ratio: isthmus.zip(peer).filter(|(_, peer)| *peer > 0.0).map(|(isthmus, peer)| isthmus / peer),
            target: reading.target,
            met: bound.zip(isthmus).map(|(bound, value)| bound.holds(value)),
        });
    }

    /// A Markdown table and what must be known about it.
    pub(crate) fn text(&self) -> String {
        let mut rows =
            vec![["figure", "reading", "isthmus", self.peer, "ratio", "target", ""].map(str::to_owned)];
        for row in &self.rows {
            let shown =
                |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| row.unit.text(value));
            let applies = self.standard && self.optimised;
            let bound = row.target.bound(row.peer).filter(|_| applies);
            let met = row.met.map_or("", |met| if met { "met" } else { "**missed**" });
            rows.push([
                row.figure.clone(),
                row.name.clone(),
                shown(row.isthmus),
                shown(row.peer),
                row.ratio.map_or_else(|| "-".to_owned(), |ratio| Unit::Ratio.text(ratio)),
                bound.map_or_else(String::new, |bound| bound.text(row.unit)),
                met.to_owned(),
            ]);
        }
        let mut text = table(&rows);
        let Machine { processors, processor, kernel, load } = &self.machine;
        text.push_str(&format!("\n{processors} processors ({processor}), Linux {kernel}, load average {load} at the start; {}.\n", if self.tls { "mutual TLS" } else { "plaintext but where the figure says TLS" }));
        if !self.optimised {
            text.push_str("This binary is not an optimised build: the values say nothing about its speed.\n");
        }
        for note in &self.notes {
            text.push_str(&format!("- {note}\n"));
        }
        text
    }
}

/// A Markdown table; the first row is its head.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(&format!("| {cell:width$} "));
        }
        text.push_str("|\n");
        if n == 0 {
            for width in widths {
                text.push_str(&format!("| {:-<width$} ", ""));
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_readable_at_every_size() {
        for (unit, value, text) in [
            (Unit::CpuSeconds, 18.94, "18.9 CPU-s"),
            (Unit::CpuSeconds, 7.5e-6, "7.50 µs of CPU"),
            (Unit::CpuSeconds, 0.0031, "3.10 ms of CPU"),
            (Unit::Seconds, 0.35, "350 ms"),
            (Unit::Seconds, 0.0, "0.00 µs"),
            (Unit::PerSecond, 21_900.0, "21.9 k/s"),
            (Unit::PerSecond, 154.0, "154 /s"),
            (Unit::PerSecond, 2.5e6, "2.50 M/s"),
            (Unit::Bytes, 109_000.0, "109 kB"),
            (Unit::Ratio, 0.2, "0.20×"),
        ] {
            assert_eq!(unit.text(value), text);
        }
    }

    #[test]
    fn a_target_keeps_its_ratio_to_an_etcd_that_has_become_better() {
        let cases = [
            ("etcd as it was", Target::at_most(2.0, 7.5), Some(7.5), Some(Bound::AtMost(2.0))),
            ("etcd worse", Target::at_most(2.0, 7.5), Some(9.0), Some(Bound::AtMost(2.0))),
            ("etcd twice as good", Target::at_most(2.0, 8.0), Some(4.0), Some(Bound::AtMost(1.0))),
            ("etcd not there", Target::at_most(2.0, 8.0), None, Some(Bound::AtMost(2.0))),
            ("more, etcd worse", Target::at_least(1000.0, 150.0), Some(75.0), Some(Bound::AtLeast(1000.0))),
            ("more, etcd better", Target::at_least(1000.0, 150.0), Some(300.0), Some(Bound::AtLeast(2000.0))),
            ("a third", Target::TimesEtcdAtMost { factor: 0.25 }, Some(8.0), Some(Bound::AtMost(2.0))),
            ("a third of nothing", Target::TimesEtcdAtMost { factor: 0.25 }, None, None),
            ("thrice", Target::TimesEtcdAtLeast { factor: 3.0 }, Some(2.0), Some(Bound::AtLeast(6.0))),
            ("none", Target::None, Some(2.0), None),
        ];
        for (name, target, etcd, bound) in cases {
            assert_eq!(target.bound(etcd), bound, "{name}");
        }
    }

    fn report(standard: bool) -> Report {
        let machine = Machine {
            processors: 2,
            processor: "fast".to_owned(),
            kernel: "6".to_owned(),
            load: "0.1".to_owned(),
        };
        let (rows, notes) = (Vec::new(), Vec::new());
        Report { peer: "etcd", machine, optimised: true, tls: false, standard, rows, notes }
    }

    fn side(value: f64, peak_bytes: u64) -> Measured {
        let mut measured = Measured { peak_bytes, ..Measured::default() };
        measured.read("CPU per put", Unit::CpuSeconds, value, Target::TimesEtcdAtMost { factor: 0.25 });
        measured
    }

    #[test]
    fn the_table_joins_both_sides_and_says_whether_the_target_is_met() {
        let mut report = report(true);
        report.add("put", Some(&side(1e-6, 2_000_000)), Some(&side(8e-6, 4_000_000)));
        report.add("one-sided", Some(&side(1e-6, 0)), None);
        let text = report.text();
        let row = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
        let cells = |start| row(start).split('|').map(str::trim).collect::<Vec<_>>();
        assert_eq!(
            cells("| put")[1..8],
            ["put", "CPU per put", "1.00 µs of CPU", "8.00 µs of CPU", "0.12×", "≤ 2.00 µs of CPU", "met"]
        );
        assert_eq!(cells("| one-sided")[3..8], ["1.00 µs of CPU", "-", "-", "", ""]);
        let peak = text.lines().find(|line| line.contains("peak memory")).unwrap();
        let words: Vec<_> = peak.split_whitespace().collect();
        assert!(words.windows(5).any(|some| some == ["2.00", "MB", "|", "4.00", "MB"]), "{peak}");
    }

    #[test]
    fn targets_are_not_judged_at_other_sizes() {
        let mut report = report(false);
        report.add("put", Some(&side(1.0, 0)), Some(&side(1.0, 0)));
        assert!(report.rows.iter().all(|row| row.met.is_none()));
    }

    #[test]
    fn what_went_wrong_on_a_side_is_told() {
        let mut report = report(true);
        let failed = Measured { notes: vec!["timed out".to_owned()], ..Measured::default() };
        report.add("put", Some(&side(1.0, 0)), Some(&failed));
        assert!(report.text().contains("- put, etcd: timed out"));
    }
}
