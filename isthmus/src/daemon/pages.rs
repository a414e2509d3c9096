//! Keeping little of the program in memory.
//!
//! **What only the start needed is given back.** A start runs through ten megabytes of the program once: arguments,
//! settings, relocations. These pages would count as the daemon's memory for as long as it lives. They are the program's
//! own file, so letting go of them loses nothing: what runs again comes back from the page cache.
//!
//! **What comes back comes in small pieces.** Around a page that runs the kernel maps its neighbours, up to 64 KiB, but never
//! across the end of a mapping. A daemon runs a megabyte of code that is spread over all of the program, so most of what is
//! mapped so never runs, and counts as used memory: the kernel takes what it maps for needed. Cutting the mappings
//! into pieces of 16 KiB halves what a store keeps of them; a piece costs the kernel about 220 bytes.

use std::fs;
use std::ops::Range;

/// Bytes of the program that one page brings with it.
const PIECE: usize = 16 << 10;
/// Mappings are few on Linux (65,530 unless set otherwise), and others need some too.
const MOST_PIECES: usize = 16 << 10;

/// Lets go of all pages of the program's file that nobody has changed, and has what is needed again come back in small pieces. Where
/// that does not work nothing is lost.
pub(super) fn release_start() {
    let Ok(program) = std::env::current_exe() else { return };
    let Ok(mappings) = fs::read_to_string("/proc/self/smaps") else { return };
    for range in untouched(&mappings, &program.to_string_lossy()) {
        release(&range);
        every_other_piece(&range).for_each(|piece| set_apart(&piece));
    }
}

/// Every other piece of a mapping, but not the first, where a core dump looks for the program's header; none of one that is
/// too large.
fn every_other_piece(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let (start, end) = ((range.start + 1).next_multiple_of(PIECE), range.end);
    let pieces = if range.len() <= PIECE * MOST_PIECES { start..end } else { end..end };
    pieces.step_by(2 * PIECE).map(move |piece| piece..end.min(piece + PIECE))
}

/// Makes a piece of a mapping one of its own: neighbours are joined only if they are alike in everything.
#[expect(unsafe_code, reason = "no safe wrapper for this system call")]
fn set_apart(piece: &Range<usize>) {
    let start = std::ptr::without_provenance_mut(piece.start);
    // SAFETY: the range is within a mapping of the program's file. The advice changes neither what is there nor what may be
    // done with it, only that a core dump leaves it out, as it does with all of the file unless told otherwise.
    let _pieces_may_just_stay_large = unsafe { libc::madvise(start, piece.len(), libc::MADV_DONTDUMP) };
}

#[expect(unsafe_code, reason = "no safe wrapper for this system call")]
fn release(range: &Range<usize>) {
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
    fn every_other_piece_is_set_apart_and_nothing_outside() {
        let pieces = |range: Range<usize>| every_other_piece(&range).collect::<Vec<_>>();
        assert_eq!(pieces(0x1000..0x11000), [0x4000..0x8000, 0xc000..0x10000]);
        let last = pieces(0x8000..0xd000);
        assert_eq!(
            (last.len(), &last[0]),
            (1, &(0xc000..0xd000)),
            "the first is left out, the last may be short"
        );
        assert!(pieces(0x1000..0x4000).is_empty(), "it is small already");
        assert!(pieces(0..PIECE * MOST_PIECES + 1).is_empty(), "too many");
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
        let program = std::env::current_exe().unwrap();
        let mappings = fs::read_to_string("/proc/self/smaps").unwrap();
        let found = untouched(&mappings, &program.to_string_lossy());
        assert!(!found.is_empty());
        for range in found {
            assert!(range.len() <= PIECE, "{range:x?}");
        }
    }
}
