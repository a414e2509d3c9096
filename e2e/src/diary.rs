//! What all sides see, for the message of a failed test.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::process::tail;

/// Lines of each page that are printed; the last ones, because logs tell at the end what went wrong.
const LINES: usize = 40;

type Page = (String, Arc<dyn Fn() -> String + Send + Sync>);

/// Who can tell about the state of things. Clones are the same diary.
#[derive(Clone, Default)]
pub struct Diary(Arc<Mutex<Vec<Page>>>);

impl Diary {
    /// From now on, a failure prints `title` and what `page` returns; a page of the same title is replaced.
    pub fn record(&self, title: &str, page: impl Fn() -> String + Send + Sync + 'static) {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|(known, _page)| known != title);
        pages.push((title.to_owned(), Arc::new(page)));
    }

    /// From now on, a failure prints the end of the file `log`.
    pub fn record_log(&self, title: &str, log: &Path) {
        let log = log.to_owned();
        self.record(title, move || tail(&log, LINES));
    }

    /// All pages, as of now.
    #[must_use]
    pub fn read(&self) -> String {
        let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = String::new();
        for (title, page) in pages {
            let text = page();
            let lines: Vec<_> = text.lines().collect();
            let left_out = lines.len().saturating_sub(LINES);
            let note =
                if left_out > 0 { format!(" (without its first {left_out} lines)") } else { String::new() };
            let text = lines[left_out..].join("\n");
            writeln!(all, "──── {title}{note}\n{text}").expect("a String takes all");
        }
        all
    }
}

impl fmt::Debug for Diary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Diary")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_page_of_a_title_is_read_and_long_ones_lose_their_beginning() {
        let diary = Diary::default();
        diary.record("a", || "old".to_owned());
        diary.record("b", || (1..=LINES + 2).map(|line| format!("line {line}\n")).collect());
        diary.record("a", || "new".to_owned());
        let read = diary.read();
        assert!(!read.contains("old") && read.contains("──── a\nnew\n"), "{read}");
        assert!(read.contains("──── b (without its first 2 lines)\nline 3\n"), "{read}");
    }
}
