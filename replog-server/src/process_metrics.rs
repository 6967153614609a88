//! The system's figures of this process: time, memory, files, start.
//!
//! Read directly from `/proc`: six numbers of three files are not worth a dependency. On systems other than Linux there
//! is nothing to read, and the figures are left out.

use std::{fs, io, sync::OnceLock};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

/// The figures of one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ProcessMetrics {
    /// User and system time.
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) threads: u64,
    pub(crate) open_files: u64,
    pub(crate) open_files_max: u64,
    /// Since 1970.
    pub(crate) start_time_seconds: f64,
}

impl ProcessMetrics {
    /// Reads the figures. May take some milliseconds if thousands of files are open.
    pub(crate) fn read() -> Option<ProcessMetrics> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let own = Stat::parse(&stat)?;
        let ticks = clock_ticks_per_second() as f64;
        Some(ProcessMetrics {
            cpu_seconds: own.cpu_ticks as f64 / ticks,
            resident_bytes: own.resident_pages.saturating_mul(page_size() as u64),
            virtual_bytes: own.virtual_bytes,
            threads: own.threads,
            open_files: open_files().ok()?,
            open_files_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            start_time_seconds: start_time_seconds(own.start_ticks as f64 / ticks)?,
        })
    }
}

/// Returns the number of open files, except for the directory that is read for it.
fn open_files() -> io::Result<u64> {
    let all = fs::read_dir("/proc/self/fd")?.count();
    Ok(all.saturating_sub(1) as u64)
}

/// Fields of `/proc/self/stat`, numbered as in proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The name of the program, field 2, may contain spaces and brackets: the last bracket ends it.
        let (_, behind) = text.rsplit_once(')')?;
        let fields: Vec<&str> = behind.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: field(14)?.checked_add(field(15)?)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Returns the start time of a process that started this long after the system. Computed once: the time of the system's
/// start changes when its clock is set, and a monitor would take that for a restart.
fn start_time_seconds(after_boot: f64) -> Option<f64> {
    static FIRST: OnceLock<f64> = OnceLock::new();
    if let Some(first) = FIRST.get() {
        return Some(*first);
    }
    let boot_seconds = boot_seconds(&fs::read_to_string("/proc/stat").ok()?)?;
    Some(*FIRST.get_or_init(|| boot_seconds as f64 + after_boot))
}

/// Returns the system's start time, since 1970, from `/proc/stat`.
fn boot_seconds(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_after_any_name_of_the_program() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 700 50 0 0 20 0 5 0 1234 \
                    987654321 555 18446744073709551615 1 1 0\n";
        let expected = Stat {
            cpu_ticks: 750,
            threads: 5,
            start_ticks: 1234,
            virtual_bytes: 987_654_321,
            resident_pages: 555,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("42 (short) S 1 2"), None);
        assert_eq!(Stat::parse(""), None);
        assert_eq!(
            boot_seconds("cpu 1 2\nbtime 1700000000\nx 1\n"),
            Some(1_700_000_000)
        );
        assert_eq!(boot_seconds("cpu 1 2\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_all_figures() {
        let figures = ProcessMetrics::read().expect("/proc");
        assert!(figures.resident_bytes > 0 && figures.virtual_bytes >= figures.resident_bytes);
        assert!(figures.threads > 0 && figures.start_time_seconds > 1e9);
        assert!((1..=figures.open_files_max).contains(&figures.open_files));
    }
}
