//! What the process uses, under the names that every Prometheus client gives it. From `/proc/self`; what cannot be read
//! is left out.

use std::fs;

use super::Series;

/// Ticks per second in `stat`; the kernel's promise to programs, whatever its own clock is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time, memory, open files and start of this process.
pub(super) fn series() -> Vec<Series> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{file}")).unwrap_or_default();
    let open = fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
    of(&read("self/stat"), &read("self/status"), &read("self/limits"), &read("stat"), open)
}

fn of(stat: &str, status: &str, limits: &str, machine: &str, open: Option<usize>) -> Vec<Series> {
    // The name in parentheses may hold anything, also parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok().map(|ticks| ticks / TICKS_PER_SECOND);
    let field = |text: &str, name: &str, word: usize| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().nth(word)?.parse::<f64>().ok()
    };
    let bytes = |name: &str| field(status, name, 0).map(|kib| kib * 1024.0);
    let booted = field(machine, "btime", 0);
    let all = [
        (
            "process_cpu_seconds_total",
            "counter",
            "User and system time, in seconds.",
            ticks(11).zip(ticks(12)).map(|(user, system)| user + system),
        ),
        ("process_resident_memory_bytes", "gauge", "Resident memory.", bytes("VmRSS:")),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory.", bytes("VmSize:")),
        ("process_open_fds", "gauge", "Open files.", open.map(|open| open as f64)),
        ("process_max_fds", "gauge", "Files that may be open.", field(limits, "Max open files", 0)),
        // etcd has both under names of its own as well.
        ("os_fd_used", "gauge", "Open files.", open.map(|open| open as f64)),
        ("os_fd_limit", "gauge", "Files that may be open.", field(limits, "Max open files", 0)),
        (
            "process_start_time_seconds",
            "gauge",
            "Start of the process, in seconds since 1970.",
            booted.zip(ticks(19)).map(|(booted, after)| booted + after),
        ),
    ];
    let known = all.into_iter().filter_map(|(name, kind, help, value)| Some((name, kind, help, value?)));
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 31 0 0 20 0 3 0 1500 1 1";

    #[test]
    fn what_the_kernel_tells_becomes_seconds_and_bytes() {
        let status = "Name:\tx\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let limits =
            "Limit      Soft Limit   Hard Limit  Units\nMax open files            1024      4096   files\n";
        let found = of(STAT, status, limits, "cpu 1\nbtime 1700000000\n", Some(9));
        let values: Vec<_> = found.into_iter().map(|(name, _, _, value)| (name, value)).collect();
        assert_eq!(
            values,
            [
                ("process_cpu_seconds_total", 2.81),
                ("process_resident_memory_bytes", 1_048_576.0),
                ("process_virtual_memory_bytes", 2_097_152.0),
                ("process_open_fds", 9.0),
                ("process_max_fds", 1024.0),
                ("os_fd_used", 9.0),
                ("os_fd_limit", 1024.0),
                ("process_start_time_seconds", 1_700_000_015.0),
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(of("", "", "Max open files unlimited", "", None), []);
        let own: Vec<_> = series().into_iter().map(|(name, ..)| name).collect();
        assert!(own.contains(&"process_resident_memory_bytes"), "{own:?}");
    }
}
