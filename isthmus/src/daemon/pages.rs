//! Giving back the memory that only the start needed.
//!
//! A start runs through ten megabytes of the program once: arguments, settings, relocations. These pages would count as
//! the daemon's memory for as long as it lives. They are the program's own file, so letting go of them loses nothing:
//! what runs again comes back from the page cache.

use std::fs;
use std::ops::Range;

/// Lets go of all pages of the program's file that nobody has changed. Where that does not work nothing is lost.
pub(super) fn release_start() {
    let Ok(program) = std::env::current_exe() else { return };
    let Ok(mappings) = fs::read_to_string("/proc/self/smaps") else { return };
    for range in untouched(&mappings, &program.to_string_lossy()) {
        release(range);
    }
}

#[expect(unsafe_code, reason = "no safe wrapper for this system call")]
fn release(range: Range<usize>) {
    let start = std::ptr::without_provenance_mut(range.start);
    // SAFETY: the range is a mapping of the program's file, which stays mapped as long as the process lives. It is private,
    // cannot be written and has no page that differs from the file, which cannot be written either while it runs. So
    // every byte reads the same after the call.
    let _pages_may_just_stay = unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
}

/// The mappings of `program` in `smaps` that are private, cannot be written, and have no page that is not the file's.
fn untouched(smaps: &str, program: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some((range, rest)) = mapping(line) {
            let permitted = rest.starts_with("r--p") || rest.starts_with("r-xp");
            candidate = (permitted && rest.ends_with(&format!(" {program}"))).then_some(range);
        } else if let Some(anonymous) = line.strip_prefix("Anonymous:")
            && let Some(range) = candidate.take()
            && anonymous.trim() == "0 kB"
        {
            found.push(range);
        }
    }
    found
}

/// The range of a line that begins a mapping, and what follows it; `None` for the lines about it.
fn mapping(line: &str) -> Option<(Range<usize>, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?..address(end)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_the_program_that_nobody_changed_are_given_back() {
        let smaps = "\
1000-3000 r--p 00000000 fe:00 9 /bin/isthmus
Rss: 8 kB
Anonymous:             0 kB
VmFlags: rd mr
3000-5000 r-xp 00002000 fe:00 9 /bin/isthmus
Anonymous:             0 kB
5000-6000 r--p 00004000 fe:00 9 /bin/isthmus
Anonymous:             4 kB
6000-7000 rw-p 00005000 fe:00 9 /bin/isthmus
Anonymous:             0 kB
7000-8000 r-xp 00000000 fe:00 8 /lib/libc.so.6
Anonymous:             0 kB
8000-9000 r--s 00000000 fe:00 9 /bin/isthmus
Anonymous:             0 kB
9000-a000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
";
        assert_eq!(untouched(smaps, "/bin/isthmus"), [0x1000..0x3000, 0x3000..0x5000]);
        assert!(untouched("", "/bin/isthmus").is_empty());
    }

    #[test]
    fn a_program_goes_on_after_it_gave_back_its_start() {
        let resident = || {
            let statm = fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(2).unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        release_start();
        assert!(resident() < before, "pages of files that are in memory");
    }
}
