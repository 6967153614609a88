//! Which log lines of this process go to stderr; it can be changed while it runs.
//!
//! Owns the filter and the one logger of the process, whose parts are exchanged as a whole: each line is
//! let through by the filter of before or by the one of after. Nodes in one process share it.

use std::{
    env,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use log::{LevelFilter, Log, Metadata, Record};
use serde::Serialize;

/// What is let through where `RUST_LOG` does not say.
const FILTER_DEFAULT: &str = "info,actix_server=warn";
/// The web server tells of each of its threads at `info`: nothing that is below this level is of use.
const ACTIX_SERVER_MAX: LevelFilter = LevelFilter::Warn;

/// The filter that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LogFilter {
    /// The most verbose level of any part.
    level: String,
    /// In the words of `RUST_LOG`.
    filter: String,
}

/// Sends log lines to stderr from now on. `RUST_LOG` says which. Does nothing where the process has
/// another logger.
pub(crate) fn install() {
    let lines = Lines::of_process();
    if log::set_logger(lines).is_ok() {
        log::set_max_level(lines.part().logger.filter());
    }
}

/// The filter that holds.
pub(crate) fn filter() -> LogFilter {
    Lines::of_process().part().shown()
}

/// Lets through what is at `level` or above it, of all parts but the web server's own.
pub(crate) fn set(level: LevelFilter) -> LogFilter {
    let web_server = level.min(ACTIX_SERVER_MAX);
    let text = format!("{level},actix_server={web_server}").to_lowercase();
    Lines::of_process().exchange(text)
}

/// Goes back to what `RUST_LOG` said at the start.
pub(crate) fn reset() -> LogFilter {
    Lines::of_process().exchange(filter_of_environment())
}

fn filter_of_environment() -> String {
    env::var(env_logger::DEFAULT_FILTER_ENV).unwrap_or_else(|_| FILTER_DEFAULT.to_owned())
}

/// The logger of the process.
struct Lines(RwLock<Arc<Part>>);

/// What is exchanged as a whole.
struct Part {
    logger: env_logger::Logger,
    filter: String,
}

impl Part {
    fn new(filter: String) -> Part {
        let mut builder = env_logger::Builder::new();
        builder.parse_filters(&filter).format_timestamp_millis();
        if let Ok(style) = env::var(env_logger::DEFAULT_WRITE_STYLE_ENV) {
            builder.parse_write_style(&style);
        }
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

    /// Never held while a line is written: a stderr that nobody reads blocks whoever writes to it, and
    /// must not block who changes the filter.
    fn part(&self) -> Arc<Part> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn exchange(&self, filter: String) -> LogFilter {
        log::info!("log lines are filtered by {filter} from now on");
        let part = Arc::new(Part::new(filter));
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *held = Arc::clone(&part);
        // Under the lock: of two at once, both are of the same one in the end.
        log::set_max_level(part.logger.filter());
        part.shown()
    }
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.part().logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.part().logger.log(record);
    }

    fn flush(&self) {
        self.part().logger.flush();
    }
}
