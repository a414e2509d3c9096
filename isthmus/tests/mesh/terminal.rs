//! The demo, `status`, `explain`, `check` and `connect` in a real pseudo-terminal, read by a terminal emulator: they look right at 80 and at
//! 140 columns, with colours and without. The screens are in docs/screens, and the picture of README is one of them.

use std::fs;
use std::io::Read as _;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::pty::{OpenptyResult, Winsize, openpty};
use regex::Regex;
use vt100::{Color, Screen};

use crate::running::{Demo, PATIENCE, until_code};

/// More than any of the commands prints.
const ROWS: u16 = 200;

/// The end of what the demo prints before anything happens.
const TOLD_BELOW: &str = "told below.";

/// A program in a terminal of its own. Dropping it kills it.
struct Terminal {
    child: Child,
    parser: vt100::Parser,
    bytes: mpsc::Receiver<Vec<u8>>,
}

impl Terminal {
    /// Starts `isthmus`, found by its name as a user's would be.
    fn start(columns: u16, coloured: bool, args: &[&str]) -> Self {
        let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let program = Path::new(env!("CARGO_BIN_EXE_isthmus"));
        let path =
            format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("isthmus");
        command.args(args).env("PATH", path).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        command.env_remove("ISTHMUS_MESH").stdin(Stdio::null()).stdout(end()).stderr(end());
        if !coloured {
            command.env("NO_COLOR", "1");
        }
        let child = command.spawn().unwrap();
        drop((command, slave));
        Self { child, parser: vt100::Parser::new(nonzero(ROWS), nonzero(columns), 0), bytes: read(master) }
    }

    /// Feeds the emulator until the screen has `last`, or until the program has ended.
    fn until(&mut self, last: &str) -> &Screen {
        while last.is_empty() || !self.parser.screen().contents().contains(last) {
            match self.bytes.recv_timeout(PATIENCE) {
                Ok(bytes) => self.parser.process(&bytes),
                Err(mpsc::RecvTimeoutError::Disconnected) if last.is_empty() => break,
                Err(error) => panic!("{error}: {}", self.parser.screen().contents()),
            }
        }
        self.parser.screen()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn nonzero(size: u16) -> NonZero<u16> {
    NonZero::new(size).unwrap()
}

/// What comes out of the terminal, until its last writer has gone.
fn read(master: OwnedFd) -> mpsc::Receiver<Vec<u8>> {
    let (send, bytes) = mpsc::channel();
    let mut master = fs::File::from(master);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        // Linux ends it by an error.
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            if send.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    bytes
}

/// The lines of a screen, without the empty ones at its end.
fn lines(screen: &Screen) -> Vec<String> {
    let (_, columns) = screen.size();
    let mut lines: Vec<String> =
        screen.rows(0, columns.get()).map(|line| line.trim_end().to_owned()).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

/// No line runs over the edge, but for those that are to be copied as a whole and have a path or an address.
fn looks_right(name: &str, screen: &Screen, coloured: bool) {
    let lines = lines(screen);
    assert!(lines.len() > 5, "{name}: {lines:#?}");
    let mut command = false;
    for (row, line) in (0..).zip(&lines) {
        let starts = line.starts_with("  $ export ") || line.contains("next: ");
        command = starts || command && row > 0 && screen.row_wrapped(row - 1);
        assert!(
            command || !screen.row_wrapped(row),
            "{name}: line {row} is too long: {line}\n{}",
            screen.contents()
        );
    }
    let (rows, columns) = screen.size();
    let cells =
        (0..rows.get()).flat_map(|row| (0..columns.get()).filter_map(move |column| screen.cell(row, column)));
    let colours = cells.filter(|cell| cell.fgcolor() != Color::Default).count();
    if !coloured {
        assert_eq!(colours, 0, "{name}: colours in spite of NO_COLOR");
    } else if !name.starts_with("demo") {
        assert!(colours > 0, "{name}: no colours");
    }
}

/// What differs from run to run becomes the same.
fn settled(text: &str) -> String {
    let rules = [
        (r"/[\w/.-]*isthmus-demo-\w{6}", "/tmp/isthmus-demo-AbCdEf"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:20000"),
        (r"-p \d{4,5}", "-p 20000"),
        (r" \(\d+ s old\)", ""),
        (r"\d+\.\d s after", "0.9 s after"),
        (r"\b\d+\.\ds\b", "0.5s"),
        (r"10\.10(\d)\.\d+\.\d+", "10.10$1.0.7"),
    ];
    let mut text = text.to_owned();
    for (rule, settled) in rules {
        text = Regex::new(rule).unwrap().replace_all(&text, settled).into_owned();
    }
    text
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The screen is that of the documentation: in its words, since where a line breaks depends on what is left out here.
fn is_documented(name: &str, screen: &Screen, picture: bool) {
    // Lines that the terminal has broken are whole in it.
    let text = screen.contents();
    // What the demo tells once it runs is not of the page.
    let text = text.split_inclusive(TOLD_BELOW).next().unwrap_or_default();
    let text: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    let text = settled(&format!("{}\n", text.join("\n")));
    let (file, svg) = (docs().join(format!("screens/{name}.txt")), docs().join("screens/demo.svg"));
    if std::env::var_os("ISTHMUS_WRITE_PAGES").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &text).unwrap();
        if picture {
            fs::write(svg, drawn(&text)).unwrap();
        }
        return;
    }
    let documented = fs::read_to_string(&file).unwrap_or_default();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        words(&documented),
        words(&text),
        "docs/screens/{name}.txt is not what it prints: make picture"
    );
    if picture {
        assert_eq!(fs::read_to_string(svg).unwrap_or_default(), drawn(&documented), "make picture");
    }
}

/// The columns of the picture.
const COLUMNS: usize = 80;

/// A line as a terminal breaks it, each part with the whole.
fn broken(line: &str) -> Vec<(&str, String)> {
    let chars: Vec<char> = line.chars().collect();
    if chars.is_empty() {
        return vec![(line, String::new())];
    }
    chars.chunks(COLUMNS).map(|part| (line, part.iter().collect())).collect()
}

/// A picture of a terminal with this text.
fn drawn(text: &str) -> String {
    const LINE: usize = 18;
    let escaped = |line: &str| line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let rows: Vec<(&str, String)> = text.lines().flat_map(broken).collect();
    let (width, height) = (COLUMNS * 9 + 40, rows.len() * LINE + 56);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"isthmus demo\">\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#1d2026\"/>\n\
         <text font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"15\" fill=\"#d7dae0\" xml:space=\"preserve\">\n\
         <tspan x=\"16\" y=\"30\" fill=\"#8fd18f\">$ isthmus demo</tspan>\n"
    );
    for (number, (line, shown)) in rows.iter().enumerate().filter(|(_, (_, shown))| !shown.is_empty()) {
        let y = 30 + (number + 1) * LINE;
        let colour = if line.starts_with("  $ ") {
            " fill=\"#8fd18f\""
        } else if line.starts_with("  # ") {
            " fill=\"#9aa0ab\""
        } else {
            ""
        };
        svg += &format!("<tspan x=\"16\" y=\"{y}\"{colour}>{}</tspan>\n", escaped(shown));
    }
    svg + "</text>\n</svg>\n"
}

#[test]
fn the_demo_looks_right_at_80_and_140_columns_with_and_without_colour() {
    for (columns, coloured) in [(80, true), (80, false), (140, true), (140, false)] {
        let name = format!("demo-{columns}");
        let mut terminal = Terminal::start(columns, coloured, &["demo"]);
        let screen = terminal.until(TOLD_BELOW);
        looks_right(&name, screen, coloured);
        is_documented(&name, screen, columns == 80);
    }
}

#[test]
fn status_explain_check_and_connect_look_right_at_80_and_140_columns_with_and_without_colour() {
    let demo = Demo::start(&["--clusters=3"], "Ctrl-C");
    let mesh = demo.mesh();
    until_code(&["status", "--mesh", &mesh], 0);
    let looks = |name: &str, args: &[&str]| {
        for (columns, coloured) in [(80, true), (80, false), (140, true), (140, false)] {
            let name = format!("{name}-{columns}");
            let mut terminal = Terminal::start(columns, coloured, args);
            let screen = terminal.until("");
            looks_right(&name, screen, coloured);
            is_documented(&name, screen, false);
        }
    };
    looks("status", &["status", "--mesh", &mesh]);
    looks("explain-service", &["explain", "service", "shop/cart", "--from", "west", "--mesh", &mesh]);
    looks("explain-nothing", &["explain", "service", "shop/nothing", "--from", "west", "--mesh", &mesh]);
    let kubeconfig = demo.dir().join("kubeconfig").display().to_string();
    looks("check", &["check", "--kubeconfig", &kubeconfig, "--contexts"]);
    let part = ["disconnect", "--kubeconfig", &kubeconfig, "--context=west", "--context=east", "--apply"];
    until_code(&part, 0);
    looks("connect", &["connect", "--kubeconfig", &kubeconfig, "--contexts"]);
}
