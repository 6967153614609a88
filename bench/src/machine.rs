//! The machine that is measured on: figures mean nothing without it.

use std::{
    fmt,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::{proc, report::Spread};

/// Time for which the disk's syncs are measured.
const SYNC_TIME: Duration = Duration::from_secs(1);
/// Bytes before each sync: about a record.
const SYNC_BYTES: usize = 150;
/// Time for which the CPUs are watched before the run.
const QUIET_TIME: Duration = Duration::from_secs(2);
/// CPUs used by other work above which the machine is not quiet.
const BUSY_CPUS_MAX: f64 = 0.1;
/// Open files other than connections.
const OTHER_FILES: usize = 128;

/// Hardware, and other activity when the run began.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpus: usize,
    cpu: String,
    memory_gib: f64,
    kernel: String,
    /// Relative to where the benchmark was started: a report is for people elsewhere.
    directory: PathBuf,
    file_system: String,
    /// Time of an append of a few bytes and its `fdatasync`.
    sync_ms: Spread,
    /// The load average of the last minute.
    load_average: f64,
    /// CPUs in use while this program did nothing.
    busy_cpus: f64,
    /// True if that was little: otherwise the figures are void.
    quiet: bool,
}

impl Machine {
    /// Examines the machine, and the disk below `directory`, once it has nothing else to do or
    /// `patience` is over.
    pub(crate) async fn look(directory: &Path, patience: Duration) -> Result<Machine, String> {
        let begun = Instant::now();
        let mut busy_cpus = busy_cpus().await?;
        while busy_cpus > BUSY_CPUS_MAX && begun.elapsed() < patience {
            eprintln!("waiting for a quiet machine: {busy_cpus:.2} CPUs are in use");
            busy_cpus = self::busy_cpus().await?;
        }
        let load_average = first_number("/proc/loadavg");
        Ok(Machine {
            cpus: online_cpus(),
            cpu: named_value("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_gib: memory_gib(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            directory: from_here(directory),
            file_system: file_system(directory),
            sync_ms: sync_ms(directory)?,
            load_average,
            busy_cpus,
            quiet: busy_cpus <= BUSY_CPUS_MAX,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} CPUs ({}), {:.0} GiB, Linux {}, load average {:.2}",
            self.cpus, self.cpu, self.memory_gib, self.kernel, self.load_average
        )?;
        write!(
            f,
            "logs on {} ({}); write and fdatasync there: median {:.3} ms, {:.3} to {:.3}",
            self.file_system,
            self.directory.display(),
            self.sync_ms.median,
            self.sync_ms.min,
            self.sync_ms.max
        )?;
        if matches!(self.file_system.as_str(), "tmpfs" | "ramfs") {
            write!(
                f,
                "\nThis is memory: a sync costs nothing here. Choose a disk with --dir."
            )?;
        }
        if !self.quiet {
            write!(
                f,
                "\nThe machine is not quiet: {:.2} CPUs were in use by other work. These figures are \
                 void, in both directions.",
                self.busy_cpus
            )?;
        }
        Ok(())
    }
}

/// The process's limit on open files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFiles {
    limit: usize,
}

impl OpenFiles {
    /// Raises it as far as it is allowed to; the nodes inherit it.
    pub(crate) fn raise() -> OpenFiles {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        // If it cannot be raised, the current limit is checked.
        let _ = setrlimit(Resource::Nofile, raised);
        let current = getrlimit(Resource::Nofile).current;
        OpenFiles {
            limit: current.map_or(usize::MAX, |files| {
                usize::try_from(files).unwrap_or(usize::MAX)
            }),
        }
    }

    /// Checks that this many clients can be connected.
    pub(crate) fn suffice_for(self, clients: usize) -> Result<(), String> {
        self.suffice(
            clients + OTHER_FILES,
            &format!("{clients} clients"),
            "--clients",
        )
    }

    /// Checks that this many clients can wait: a master keeps a quarter of its files free of them.
    pub(crate) fn suffice_for_waiting(self, clients: usize) -> Result<(), String> {
        let needed = clients / 3 * 4 + OTHER_FILES;
        self.suffice(
            needed,
            &format!("{clients} waiting clients"),
            "--waiting-clients",
        )
    }

    fn suffice(self, needed: usize, what: &str, flag: &str) -> Result<(), String> {
        if self.limit >= needed {
            return Ok(());
        }
        Err(format!(
            "{what} need {needed} open files and the limit is {}: raise it (ulimit -n, or nofile \
             in limits.conf), or ask for less with {flag}",
            self.limit
        ))
    }
}

/// Returns the type of the file system that holds `path`: that of the longest mount point above it.
fn file_system(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, types) = line.split_once(" - ")?;
            let point = Path::new(mount.split(' ').nth(4)?);
            let depth = path
                .starts_with(point)
                .then(|| point.components().count())?;
            Some((depth, types.split(' ').next()?))
        })
        // Of two at the same place the later one is visible.
        .max_by_key(|(depth, _)| *depth)
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

/// Returns the CPUs that the whole machine uses while this program only waits.
async fn busy_cpus() -> Result<f64, String> {
    let (begun, before) = (Instant::now(), proc::machine_seconds()?);
    tokio::time::sleep(QUIET_TIME).await;
    let used = proc::machine_seconds()? - before;
    Ok(used / begun.elapsed().as_secs_f64())
}

fn from_here(directory: &Path) -> PathBuf {
    let here = std::env::current_dir().ok();
    let below = here.and_then(|here| directory.strip_prefix(here).map(Path::to_owned).ok());
    below.unwrap_or_else(|| directory.to_owned())
}

/// Measures an append of a few bytes and its `fdatasync`, one after another for a while.
pub(crate) fn sync_ms(directory: &Path) -> Result<Spread, String> {
    try_sync_ms(directory).map_err(|error| format!("{}: {error}", directory.display()))
}

fn try_sync_ms(directory: &Path) -> std::io::Result<Spread> {
    let mut file: File = tempfile::tempfile_in(directory)?;
    let mut times = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < SYNC_TIME || times.is_empty() {
        let before = Instant::now();
        file.write_all(&[b'x'; SYNC_BYTES])?;
        file.sync_data()?;
        times.push(before.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(Spread::of(times))
}

/// Returns the free space in the file system of `path`, for this user.
pub(crate) fn free_bytes(path: &Path) -> Result<u64, String> {
    let found =
        rustix::fs::statvfs(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(found.f_bavail * found.f_frsize)
}

/// Returns the number of CPUs of the machine, including those that this process may not use.
fn online_cpus() -> usize {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpus = text.lines().filter(|line| line.starts_with("processor"));
    cpus.count().max(1)
}

fn memory_gib() -> f64 {
    let kib = named_value("/proc/meminfo", "MemTotal")
        .and_then(|value| value.strip_suffix(" kB")?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / f64::from(1 << 20)
}

fn first_number(path: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let first = text.split_ascii_whitespace().next();
    first.and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

fn named_value(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    })
}
