//! What failed, told apart by what may be done next: a write that was refused, or anything else.
//!
//! A refused write leaves everything that was synced as it was, so the log can be mended and the
//! same tried again: a disk that is full becomes one that is not. After a failed sync nobody
//! knows what is on the disk, and asking again proves nothing: final. Whatever is not known to be
//! a refused write is final. Keeps rule 10.

use std::{fmt, io};

use crate::types::DiskState;

/// Why the writer's work was not done.
#[derive(Debug)]
pub(crate) enum LogError {
    /// The storage refused a write. What was synced before is as it was.
    Write(io::Error),
    /// A sync failed, or something after which the files are not known to be in order.
    Final(io::Error),
}

impl LogError {
    /// The same again, to be remembered.
    pub(crate) fn again(&self) -> LogError {
        let copy = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        match self {
            LogError::Write(error) => LogError::Write(copy(error)),
            LogError::Final(error) => LogError::Final(copy(error)),
        }
    }

    /// What is said to one who asks for more afterwards.
    pub(crate) fn refusal(&self) -> LogError {
        let more = |error: &io::Error| {
            io::Error::new(error.kind(), format!("the log takes no more: {error}"))
        };
        match self {
            LogError::Write(error) => LogError::Write(more(error)),
            LogError::Final(error) => LogError::Final(more(error)),
        }
    }

    /// What kind of error it is.
    #[cfg(test)]
    pub(crate) fn kind(&self) -> io::ErrorKind {
        match self {
            LogError::Write(error) | LogError::Final(error) => error.kind(),
        }
    }
}

/// What a storage says of its disk when it refuses a write: no room, or something else.
pub(crate) fn disk_state(error: &io::Error) -> DiskState {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            DiskState::Full
        }
        _ => DiskState::Failed,
    }
}

/// What is not known to be a refused write is final.
impl From<io::Error> for LogError {
    fn from(error: io::Error) -> LogError {
        LogError::Final(error)
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> io::Error {
        match error {
            LogError::Write(error) | LogError::Final(error) => error,
        }
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Write(error) | LogError::Final(error) => error.fmt(f),
        }
    }
}
