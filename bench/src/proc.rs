//! Figures that Linux has of processes: CPU time, memory, and bytes sent to disks.

use std::{fs, ops::Sub};

/// CPU seconds of the nodes, of this program, and of everything on the machine; and bytes that the
/// nodes had written to storage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) nodes: f64,
    pub(crate) own: f64,
    pub(crate) machine: f64,
    pub(crate) written_bytes: f64,
}

impl Usage {
    /// Returns the usage up to now.
    pub(crate) fn of(nodes: &[u32]) -> Result<Usage, String> {
        let seconds: Result<Vec<f64>, String> =
            nodes.iter().copied().map(process_seconds).collect();
        let written: Result<Vec<f64>, String> = nodes.iter().copied().map(written_bytes).collect();
        Ok(Usage {
            nodes: seconds?.iter().sum(),
            own: process_seconds(std::process::id())?,
            machine: machine_seconds()?,
            written_bytes: written?.iter().sum(),
        })
    }

    /// Returns the CPU seconds of everything but the nodes and this program; the system's own work
    /// for them is included.
    pub(crate) fn others(self) -> f64 {
        (self.machine - self.nodes - self.own).max(0.0)
    }
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, before: Usage) -> Usage {
        Usage {
            nodes: self.nodes - before.nodes,
            own: self.own - before.own,
            machine: self.machine - before.machine,
            written_bytes: self.written_bytes - before.written_bytes,
        }
    }
}

/// Returns the resident memory of a process.
pub(crate) fn resident_mib(process: u32) -> Result<f64, String> {
    status_mib(process, "VmRSS:")
}

/// Returns the peak of resident memory since the start, or since [`forget_peak`].
pub(crate) fn peak_mib(process: u32) -> Result<f64, String> {
    status_mib(process, "VmHWM:")
}

/// Starts a new peak, if the system lets this process do so.
pub(crate) fn forget_peak(process: u32) {
    // Otherwise a peak is that since the start, which is true as well.
    let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
}

fn process_seconds(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/stat");
    let text = read(&path)?;
    // The name, in parentheses, may contain anything; utime and stime are the fields 14 and 15.
    let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let mut ticks = fields.split_ascii_whitespace().skip(11);
    let mut next = || ticks.next()?.parse::<f64>().ok();
    match (next(), next()) {
        (Some(user), Some(system)) => Ok((user + system) / ticks_per_second()),
        _ => Err(format!("{path} could not be parsed")),
    }
}

/// Returns the bytes that the system counts as sent to storage: whole dirtied pages.
fn written_bytes(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/io");
    let bytes: Option<f64> = read(&path)?
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .and_then(|value| value.trim().parse().ok());
    bytes.ok_or_else(|| format!("{path} has no write_bytes"))
}

/// Returns the CPU seconds of everything on the machine.
pub(crate) fn machine_seconds() -> Result<f64, String> {
    let text = read("/proc/stat")?;
    let fields: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    // user, nice, system, then idle and waiting, then irq, softirq, steal.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = fields[..] else {
        return Err("/proc/stat could not be parsed".to_owned());
    };
    Ok((user + nice + system + irq + softirq + steal) / ticks_per_second())
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

fn status_mib(process: u32, field: &str) -> Result<f64, String> {
    let path = format!("/proc/{process}/status");
    let kib: Option<f64> = read(&path)?
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok());
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| format!("{path} has no {field}"))
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_took_time() {
        let own = std::process::id();
        let before = Usage::of(&[own]).unwrap();
        while Usage::of(&[own]).unwrap().own < before.own + 0.05 {}
        assert!(Usage::of(&[]).unwrap().machine > before.machine);
        assert!(resident_mib(own).unwrap() > 0.1);
        assert!(peak_mib(own).unwrap() >= resident_mib(own).unwrap() / 2.0);
    }
}
