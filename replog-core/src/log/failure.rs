//! Failures of the log, by what may be done next: a refused write, or anything else.
//!
//! A refused write leaves everything that was synced as it was, so the log can be repaired and the
//! write retried: a full disk may get space again. After a failed sync the content of the disk is
//! unknown, and another sync proves nothing: final. Any error that is not known to be a refused
//! write is final. Keeps rule 10.

use std::{fmt, io};

use crate::types::DiskState;

/// Reason why the writer's work was not done.
#[derive(Debug)]
pub(crate) enum LogError {
    /// The storage refused a write. Everything synced before is as it was.
    Write(io::Error),
    /// A sync failed, or something else after which the files are not known to be in order.
    Final(io::Error),
}

impl LogError {
    /// Copies the error, to be remembered.
    pub(crate) fn again(&self) -> LogError {
        let copy = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        match self {
            LogError::Write(error) => LogError::Write(copy(error)),
            LogError::Final(error) => LogError::Final(copy(error)),
        }
    }

    /// Returns the answer to any later request.
    pub(crate) fn refusal(&self) -> LogError {
        let more = |error: &io::Error| {
            io::Error::new(
                error.kind(),
                format!("the log accepts no more writes: {error}"),
            )
        };
        match self {
            LogError::Write(error) => LogError::Write(more(error)),
            LogError::Final(error) => LogError::Final(more(error)),
        }
    }

    /// Returns the kind of the error.
    #[cfg(test)]
    pub(crate) fn kind(&self) -> io::ErrorKind {
        match self {
            LogError::Write(error) | LogError::Final(error) => error.kind(),
        }
    }
}

/// Returns the state of the disk by the error of a refused write: full, or failed.
pub(crate) fn disk_state(error: &io::Error) -> DiskState {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            DiskState::Full
        }
        _ => DiskState::Failed,
    }
}

/// Any error not known to be a refused write is final.
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
