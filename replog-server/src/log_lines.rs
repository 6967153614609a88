//! Log lines of this process on stderr: their filter, their format, and their delivery.
//!
//! Owns the filter, which can be changed while the process runs, and the one logger of the process. Nodes in one
//! process share both. Never waits for stderr: `queue` hands the lines to a thread of its own.

mod queue;
mod time;

use std::{
    cell::RefCell,
    env, fmt,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use env_logger::{Logger, Target, WriteStyle, fmt::Formatter};
use log::{Level, LevelFilter, Log, Metadata, Record};
use replog_core::NodeName;
use serde::Serialize;

use self::{queue::Queue, time::Rfc3339};
use crate::{client::eyes::escaped, stderr::one_line};

/// The default filter, without `RUST_LOG`.
const FILTER_DEFAULT: &str = "info,actix_server=warn";
/// The default filter of a cluster in one process, where a person wants to see its URLs.
const FILTER_OF_CLUSTER: &str = "warn";
/// This process is a cluster and has its filter.
static IS_CLUSTER: AtomicBool = AtomicBool::new(false);
/// Log lines are written as JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);
/// The maximum level for the web server's crate, which reports each of its threads at `info`: nothing below this level
/// is of use.
const ACTIX_SERVER_MAX: LevelFilter = LevelFilter::Warn;
/// The minimum level for the crate that reads client requests: it reports a client that speaks another protocol as an
/// error of the server, once per connection and without its address, which is of use only when looking for just that.
const OF_CLIENTS_MIN: Level = Level::Debug;
/// Time that a process waits at its end for its last lines to be written.
const LAST_LINES_TIME_MAX: Duration = Duration::from_millis(500);

/// Lines on their way to stderr.
static QUEUE: Queue = Queue::new(|dropped| {
    let lines = if dropped == 1 {
        "line was"
    } else {
        "lines were"
    };
    sentence(&format!(
        "{dropped} log {lines} dropped: stderr took nothing"
    ))
});

thread_local! {
    /// The node that this thread works for.
    static NODE: RefCell<Option<NodeName>> = const { RefCell::new(None) };
}

/// The filter in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LogFilter {
    /// The most verbose level of any part.
    level: String,
    /// In the syntax of `RUST_LOG`.
    filter: String,
}

/// Sends log lines to stderr from now on, filtered by `RUST_LOG`. Does nothing if the process has another logger.
///
/// # Errors
///
/// If the system gives no thread for it.
pub(crate) fn install() -> Result<(), String> {
    let lines = Lines::of_process();
    QUEUE
        .start()
        .map_err(|error| format!("no thread for log lines: {error}"))?;
    if log::set_logger(lines).is_ok() {
        log::set_max_level(lines.part().logger.filter());
    }
    Ok(())
}

/// Marks this thread's lines from now on with this node: several nodes may share the process.
pub(crate) fn set_thread_node(name: &NodeName) {
    NODE.with(|node| *node.borrow_mut() = Some(name.clone()));
}

/// Writes a sentence of the program itself, regardless of the filter.
pub(crate) fn say(sentence: &str) {
    QUEUE.push(self::sentence(sentence));
}

/// Returns a line with a sentence of the program itself.
fn sentence(text: &str) -> Vec<u8> {
    let line = match IS_JSON.load(Ordering::Relaxed) {
        true => json(SystemTime::now(), Level::Error, "replog_server", None, text),
        false => format!("replog-server: {}\n", one_line(text)),
    };
    line.into_bytes()
}

/// Waits for the last lines to be written; not for long, since nothing may be reading them.
pub(crate) fn finish() {
    QUEUE.flush(LAST_LINES_TIME_MAX);
}

/// Returns the number of lines that were dropped because stderr took none.
pub(crate) fn dropped_total() -> u64 {
    QUEUE.dropped_total()
}

/// Lets only warnings through unless `RUST_LOG` says otherwise. Must be called before [`install`].
pub(crate) fn default_to_warnings() {
    IS_CLUSTER.store(true, Ordering::Relaxed);
}

/// Writes each line as a JSON object from now on.
pub(crate) fn write_json() {
    IS_JSON.store(true, Ordering::Relaxed);
}

/// Returns the filter in effect.
pub(crate) fn filter() -> LogFilter {
    Lines::of_process().part().shown()
}

/// Lets through lines at `level` or above, of all parts except the web server's own.
pub(crate) fn set(level: LevelFilter) -> LogFilter {
    let web_server = level.min(ACTIX_SERVER_MAX);
    let text = format!("{level},actix_server={web_server}").to_lowercase();
    Lines::of_process().exchange(text)
}

/// Restores the filter of the start.
pub(crate) fn reset() -> LogFilter {
    Lines::of_process().exchange(filter_of_environment())
}

fn filter_of_environment() -> String {
    let default = match IS_CLUSTER.load(Ordering::Relaxed) {
        true => FILTER_OF_CLUSTER,
        false => FILTER_DEFAULT,
    };
    let given = env::var(env_logger::DEFAULT_FILTER_ENV).ok();
    given
        .filter(|text| !text.trim().is_empty())
        .unwrap_or_else(|| default.to_owned())
}

/// The logger of the process.
struct Lines(RwLock<Arc<Part>>);

/// The part that is replaced as a whole: each line passes either the old filter or the new one.
struct Part {
    logger: Logger,
    filter: String,
}

impl Part {
    fn new(filter: String) -> Part {
        let coloured = wants_colours();
        let for_terminal = io::stderr().is_terminal();
        let mut builder = env_logger::Builder::new();
        builder
            .parse_filters(&filter)
            .target(Target::Pipe(Box::new(&QUEUE)))
            // The lines already have their colours: none are removed.
            .write_style(WriteStyle::Always)
            .format(move |line, record| write_line(line, record, coloured, for_terminal));
        Part {
            logger: builder.build(),
            filter,
        }
    }

    fn shown(&self) -> LogFilter {
        LogFilter {
            level: self.logger.filter().as_str().to_lowercase(),
            filter: self.filter.clone(),
        }
    }
}

impl Lines {
    fn of_process() -> &'static Lines {
        static LINES: OnceLock<Lines> = OnceLock::new();
        LINES.get_or_init(|| Lines(RwLock::new(Arc::new(Part::new(filter_of_environment())))))
    }

    fn part(&self) -> Arc<Part> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn exchange(&self, filter: String) -> LogFilter {
        log::info!("log lines are now filtered by {filter}");
        let part = Arc::new(Part::new(filter));
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *held = Arc::clone(&part);
        // Under the lock: after two concurrent calls, filter and level belong to the same one.
        log::set_max_level(part.logger.filter());
        part.shown()
    }
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.part().logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !is_client_request(record.target()) {
            return self.part().logger.log(record);
        }
        let mut lowered = Record::builder();
        lowered
            .args(*record.args())
            .level(record.level().max(OF_CLIENTS_MIN))
            .target(record.target());
        self.part().logger.log(&lowered.build());
    }

    fn flush(&self) {
        finish();
    }
}

/// Returns `true` if lines of this target are about client requests.
fn is_client_request(target: &str) -> bool {
    target == "actix_http" || target.starts_with("actix_http::")
}

/// Writes a record as one line, with the node that this thread works for.
fn write_line(
    to: &mut Formatter,
    record: &Record<'_>,
    coloured: bool,
    for_terminal: bool,
) -> io::Result<()> {
    // A thread that is ending no longer has one.
    let node = NODE.try_with(|node| node.borrow().clone()).ok().flatten();
    let time = SystemTime::now();
    if IS_JSON.load(Ordering::Relaxed) {
        let text = record.args().to_string();
        let line = json(time, record.level(), record.target(), node.as_ref(), &text);
        return to.write_all(line.as_bytes());
    }
    let line = Line {
        time,
        level: record.level(),
        target: record.target(),
        node: node.as_ref(),
        text: record.args(),
        coloured,
        for_terminal,
    };
    write!(to, "{line}")
}

/// Returns one line as a JSON object, including its line end.
fn json(
    time: SystemTime,
    level: Level,
    target: &str,
    node: Option<&NodeName>,
    message: &str,
) -> String {
    let (time, level) = (Rfc3339(time).to_string(), level.as_str());
    let mut line = serde_json::json!({
        "time": time,
        "level": level,
        "target": target,
        "message": message,
    });
    if let Some(node) = node {
        line["node"] = node.as_str().into();
    }
    format!("{line}\n")
}

/// Returns `true` if stderr shows colours: by `RUST_LOG_STYLE`, else if it is a terminal that may have them.
fn wants_colours() -> bool {
    match env::var(env_logger::DEFAULT_WRITE_STYLE_ENV).as_deref() {
        Ok("always") => true,
        Ok("never") => false,
        _ => {
            let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
            let is_dumb = env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
            io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb
        }
    }
}

/// One line as it is written, including its line end.
struct Line<'a> {
    time: SystemTime,
    level: Level,
    target: &'a str,
    node: Option<&'a NodeName>,
    text: &'a fmt::Arguments<'a>,
    coloured: bool,
    /// The line goes to a terminal: text from others must not control it.
    for_terminal: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (time, level, target) = (Rfc3339(self.time), self.level, self.target);
        if self.coloured {
            let colour = match level {
                Level::Error => "1;31",
                Level::Warn => "33",
                Level::Info => "32",
                Level::Debug => "34",
                Level::Trace => "36",
            };
            write!(
                f,
                "\x1b[90m[\x1b[0m{time} \x1b[{colour}m{level:<5}\x1b[0m {target}"
            )?;
        } else {
            write!(f, "[{time} {level:<5} {target}")?;
        }
        if let Some(node) = self.node {
            write!(f, " node={node}")?;
        }
        f.write_str(match self.coloured {
            true => "\x1b[90m]\x1b[0m ",
            false => "] ",
        })?;
        // Text after a line break is indented, so that it cannot look like a line of its own.
        for (number, part) in self.text.to_string().split('\n').enumerate() {
            if number > 0 {
                f.write_str("\n    ")?;
            }
            match self.for_terminal {
                true => f.write_str(&escaped(part))?,
                false => f.write_str(part)?,
            }
        }
        f.write_char('\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_documented_format() {
        let node = NodeName::new("master").expect("a name");
        let line = |node, coloured, text: &str| {
            let line = Line {
                time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_513_360_123),
                level: Level::Info,
                target: "replog_core",
                node,
                text: &format_args!("{text}"),
                coloured,
                for_terminal: coloured,
            };
            line.to_string()
        };
        let expected = "[2025-11-30T14:36:00.123Z INFO  replog_core] one\n    two\n";
        assert_eq!(line(None, false, "one\ntwo"), expected);
        let expected = "\x1b[90m[\x1b[0m2025-11-30T14:36:00.123Z \x1b[32mINFO \x1b[0m \
                        replog_core\x1b[90m]\x1b[0m one\n";
        assert_eq!(line(None, true, "one"), expected);
        let commands = line(None, true, "a \x1b[2J title");
        assert!(commands.ends_with(" a \\u001b[2J title\n"), "{commands}");
        let expected = "[2025-11-30T14:36:00.123Z INFO  replog_core node=master] one\n";
        assert_eq!(line(Some(&node), false, "one"), expected);
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_513_360_123);
        let line = json(time, Level::Warn, "replog_core", None, "one\n\"two\"");
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line.matches('\n').count(), 1, "one line: {line}");
        assert_eq!(read["time"], "2025-11-30T14:36:00.123Z");
        assert_eq!(read["level"], "WARN");
        assert_eq!(read["target"], "replog_core");
        assert_eq!(read["message"], "one\n\"two\"");
    }
}
