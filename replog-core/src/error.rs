//! All public errors: one enum per operation, and a variant where a caller acts differently.

use std::{io, sync::Arc};

use crate::{
    frame::FrameError,
    types::{ClusterId, Mode, ModeReason, NodeName, Offset},
    words::counted,
};

/// Error of an append that was not answered with a receipt.
///
/// Exhaustive: a new way to lose or keep a message is a breaking change on purpose.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Nothing was appended: the concern is not between 1 and the number of nodes.
    #[error(
        "the cluster has {}, so a concern is 1 to {nodes}",
        counted(nodes, "node")
    )]
    Concern {
        /// Number of nodes in the cluster.
        nodes: u32,
    },
    /// Nothing was appended: a payload is longer than `max_message_bytes`, or the whole append, as it is encoded for
    /// the log, than [`FRAME_BYTES_MAX`](crate::limits::FRAME_BYTES_MAX).
    #[error(
        "the {} has {} and {limit_bytes} are allowed ({limit})",
        if *limit == LimitName::MaxMessageBytes { "message" } else { "append" },
        counted(bytes, "byte")
    )]
    TooLarge {
        /// Name of the limit: `MaxMessageBytes` or `MaxRequestBytes`.
        limit: LimitName,
        /// Length of the payload, or of the encoded append, in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// Nothing was appended: a limit is reached. A retry may succeed.
    #[error("{limit} is reached at {value}")]
    Overloaded {
        /// Name of the limit.
        limit: LimitName,
        /// Value of the limit.
        value: u64,
    },
    /// The master does not accept appends now. Nothing was appended, unless `offset` is given: then it is not known
    /// whether the message stays at that offset.
    #[error("the master is {}: {}", state.mode, state.detail)]
    ReadOnly {
        /// Mode, its reason and the numbers of the quorum.
        state: Box<ModeState>,
        /// The offset that the message had been given, if any.
        offset: Option<Offset>,
    },
    /// The disk is full or failed. Nothing was appended, unless `offset` is given: then it is
    /// not known whether the message stays.
    #[error("the master's data directory accepts no more writes: {detail}")]
    Storage {
        /// The disk's error.
        detail: Arc<str>,
        /// The offset that the message had been given, if any.
        offset: Option<Offset>,
    },
    /// The node is stopping. Nothing was appended, unless `offset` is given: then the message is
    /// in the log and may or may not meet its concern later.
    #[error("the node is stopping")]
    Stopping {
        /// The offset that the message had been given, if any.
        offset: Option<Offset>,
    },
    /// Nothing was appended: its idempotency key was used for another message, with a different payload.
    #[error("the key was used before, at offset {offset}, with another payload")]
    KeyReused {
        /// Offset of the other message.
        offset: Offset,
    },
    /// Nothing was appended: the next offset is not the expected one.
    #[error("the next message gets offset {next}")]
    OffsetMismatch {
        /// The offset that the next message gets.
        next: Offset,
    },
    /// This request appended nothing, for the reason in `refusal`. An earlier request with the same idempotency key
    /// may have put the message in the log all the same: the key could not be looked up, or the wait for the earlier
    /// message was refused. A retry with the same key may succeed.
    #[error("{refusal}; an earlier request with the same key may have appended it")]
    Unsettled {
        /// The reason why this request was refused.
        refusal: Box<AppendError>,
        /// Offset of the earlier request's message, if known.
        offset: Option<Offset>,
    },
    /// Nothing was appended: the batch has no message.
    #[error("a batch needs at least one message")]
    EmptyBatch,
    /// Nothing was appended: the batch has a key and more messages than the key horizon, so that the key would be
    /// forgotten at once.
    #[error(
        "a batch with a key has at most {}, the key horizon, and this one has {count}",
        counted(horizon, "message")
    )]
    BatchBeyondHorizon {
        /// Number of messages in the batch.
        count: u64,
        /// The key horizon.
        horizon: u64,
    },
    /// The node stopped before it answered: it is not known whether the message is in the log.
    #[error("the node stopped without an answer")]
    Ended,
}

/// Fate of a message whose append failed, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The message is not in the log and never will be.
    NotAppended,
    /// The message may be in the log, now or after a recovery.
    Unknown,
}

impl AppendError {
    /// Returns the offset that the message had when the error occurred; `None` where nothing was appended.
    #[must_use]
    pub fn offset(&self) -> Option<Offset> {
        match self {
            AppendError::Concern { .. }
            | AppendError::TooLarge { .. }
            | AppendError::Overloaded { .. }
            | AppendError::KeyReused { .. }
            | AppendError::OffsetMismatch { .. }
            | AppendError::EmptyBatch
            | AppendError::BatchBeyondHorizon { .. }
            | AppendError::Ended => None,
            AppendError::ReadOnly { offset, .. }
            | AppendError::Storage { offset, .. }
            | AppendError::Stopping { offset }
            | AppendError::Unsettled { offset, .. } => *offset,
        }
    }

    /// Returns what is known about the message.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match (self, self.offset()) {
            (AppendError::Ended | AppendError::Unsettled { .. }, _) | (_, Some(_)) => {
                Outcome::Unknown
            }
            (_, None) => Outcome::NotAppended,
        }
    }

    /// Returns `true` if the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            AppendError::Concern { .. }
            | AppendError::TooLarge { .. }
            | AppendError::KeyReused { .. }
            | AppendError::OffsetMismatch { .. }
            | AppendError::EmptyBatch
            | AppendError::BatchBeyondHorizon { .. } => false,
            AppendError::Unsettled { refusal, .. } => refusal.is_retryable(),
            AppendError::Ended => true,
            AppendError::Overloaded { .. }
            | AppendError::ReadOnly { .. }
            | AppendError::Storage { .. }
            | AppendError::Stopping { .. } => true,
        }
    }

    /// Turns the error into that of an append whose message has this offset.
    pub(crate) fn of_message(mut self, at: Offset) -> AppendError {
        match &mut self {
            AppendError::ReadOnly { offset, .. }
            | AppendError::Storage { offset, .. }
            | AppendError::Stopping { offset }
            | AppendError::Unsettled { offset, .. } => *offset = Some(at),
            AppendError::Concern { .. }
            | AppendError::TooLarge { .. }
            | AppendError::Overloaded { .. }
            | AppendError::KeyReused { .. }
            | AppendError::OffsetMismatch { .. }
            | AppendError::EmptyBatch
            | AppendError::BatchBeyondHorizon { .. }
            | AppendError::Ended => {}
        }
        self
    }
}

/// A limit that refuses appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitName {
    /// Waiting appends of one concern.
    MaxWaitingAppends,
    /// Bytes on their way to the disk.
    MaxQueuedBytes,
    /// Bytes of one message's payload.
    MaxMessageBytes,
    /// Bytes of one append: [`FRAME_BYTES_MAX`](crate::limits::FRAME_BYTES_MAX), which no setting exceeds.
    MaxRequestBytes,
}

impl LimitName {
    /// Returns the limit's name as a setting, such as `max-waiting-appends`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LimitName::MaxWaitingAppends => "max-waiting-appends",
            LimitName::MaxQueuedBytes => "max-queued-bytes",
            LimitName::MaxMessageBytes => "max-message-bytes",
            LimitName::MaxRequestBytes => "max-request-bytes",
        }
    }
}

impl std::fmt::Display for LimitName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Mode, its reason and the numbers of the quorum: what a refused client needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeState {
    /// State of the master with regard to appends.
    pub mode: Mode,
    /// The reason why it does not accept appends.
    pub reason: Option<ModeReason>,
    /// One sentence for people.
    pub detail: String,
    /// Number of nodes in contact, including the master.
    pub alive: u32,
    /// Number of nodes that make a quorum.
    pub needed: u32,
    /// Number of nodes in the cluster.
    pub nodes: u32,
}

/// Error of a wait for the concern of a message that was appended earlier.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The concern is not between 1 and the number of nodes.
    #[error(
        "the cluster has {}, so a concern is 1 to {nodes}",
        counted(nodes, "node")
    )]
    Concern {
        /// Number of nodes in the cluster.
        nodes: u32,
    },
    /// The offset is not in the log yet.
    #[error("the log ends at {next}")]
    NoSuchOffset {
        /// The offset that the next record gets.
        next: Offset,
    },
    /// The limit on waiting appends is reached.
    #[error("{limit} is reached at {value}")]
    Overloaded {
        /// Name of the limit.
        limit: LimitName,
        /// Value of the limit.
        value: u64,
    },
    /// The master leads no epoch, so it does not know what the other nodes hold.
    #[error("the master is {}: {}", state.mode, state.detail)]
    ReadOnly {
        /// Mode, its reason and the numbers of the quorum.
        state: Box<ModeState>,
    },
    /// The master's disk is full or failed, and so it has stepped down.
    #[error("the master's data directory accepts no more writes: {detail}")]
    Storage {
        /// The disk's error.
        detail: Arc<str>,
    },
    /// The node is stopping, or has stopped.
    #[error("the node no longer follows this message")]
    Ended,
}

/// Error when reading records.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The disk returned an error.
    #[error("reading {path} failed")]
    Io {
        /// Path of the file, below the node's directory.
        path: String,
        /// The disk's error.
        #[source]
        source: Arc<io::Error>,
    },
    /// A record is damaged; everything before it is intact.
    #[error("{path} is damaged at byte {position}: offset {offset} cannot be read")]
    Damaged {
        /// Path of the file, below the node's directory.
        path: String,
        /// Position in the file, in bytes.
        position: u64,
        /// The first offset that cannot be read.
        offset: Offset,
        /// Description of the damage.
        #[source]
        source: FrameError,
    },
    /// The records were cut from the log while they were read.
    #[error("offset {offset} was truncated")]
    Cut {
        /// The first offset that is no longer there.
        offset: Offset,
    },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Error when opening a node's directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The disk returned an error.
    #[error("{path}: {source}")]
    Io {
        /// Path of the file, below the node's directory.
        path: String,
        /// The disk's error.
        source: io::Error,
    },
    /// Another process uses the directory.
    #[error("the directory is in use by another process")]
    Locked,
    /// A file was not written by a node: it is foreign, of a newer version, or damaged.
    #[error("{path}: {what}")]
    Format {
        /// Path of the file, below the node's directory.
        path: String,
        /// Description of the defect.
        what: String,
    },
    /// A file has a version that this program does not read.
    #[error("{path}: has format {found}, and this program reads {known}")]
    Version {
        /// Path of the file, below the node's directory.
        path: String,
        /// Version of the file.
        found: u64,
        /// Version that this program reads.
        known: u64,
    },
    /// A segment and the one that follows it claim the same records, and nothing tells which of the two is right.
    #[error("{path} is damaged at byte {position}: offset {offset} ({what})")]
    Damaged {
        /// Path of the file, below the node's directory.
        path: String,
        /// Position in the file, in bytes.
        position: u64,
        /// The first offset that cannot be read.
        offset: Offset,
        /// Description of the damage.
        what: String,
    },
    /// A segment belongs to another cluster.
    #[error("{path} belongs to cluster {found}, this node to {expected}")]
    OtherCluster {
        /// Path of the file, below the node's directory.
        path: String,
        /// Cluster of the segment.
        found: ClusterId,
        /// Cluster of this node.
        expected: ClusterId,
    },
}

/// Error when checking a node's directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A node is running in the directory and writes the files that the check would read.
    #[error("a node is running in the directory: stop it first")]
    Locked,
    /// No node has ever stored anything in the directory.
    #[error("not a node's directory: it has no meta.json, no mark and no segments")]
    NoNode,
    /// The disk did not list the directory, or did not say whether it is in use.
    #[error("{path}: {source}")]
    Io {
        /// Path of the file or directory, below the node's directory.
        path: String,
        /// The disk's error.
        source: io::Error,
    },
}

/// Error when starting a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings contradict each other.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory belongs to another node.
    #[error("the directory belongs to node {found}, not {expected}: one directory is one node")]
    OtherNode {
        /// The node to which the directory belongs.
        found: NodeName,
        /// The node that was to start from it.
        expected: NodeName,
    },
    /// The directory was made for another list of nodes.
    #[error(
        "the directory was made for the nodes {found:?}, not {expected:?}: the list of nodes is fixed"
    )]
    OtherNodes {
        /// The list of nodes in the directory.
        found: Vec<NodeName>,
        /// The list of nodes in the settings.
        expected: Vec<NodeName>,
    },
    /// The operating system did not start a thread.
    #[error("a thread could not be started")]
    Thread(#[source] io::Error),
}

/// Settings that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) String);

impl ConfigError {
    /// Creates the error from its reason: a sentence that names the setting and what it should be.
    #[must_use]
    pub fn new(why: impl Into<String>) -> ConfigError {
        ConfigError(why.into())
    }
}

/// Error of a call to a node that has stopped. It says why, if the node stopped by itself.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the node has stopped{}", .reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default())]
pub struct Stopped {
    /// The reason, if the node stopped by itself.
    pub reason: Option<Arc<str>>,
}

/// An error for `main` to return: its `Debug` output, which a program prints when it ends with an error, is the
/// error's sentence followed by those of its causes.
///
/// `?` makes it of any error, as with `Box<dyn Error>`, which would print the error's fields.
///
/// ```
/// use replog_core::{NodeName, error::Report};
///
/// fn main() -> Result<(), Report> {
///     let name: NodeName = "master".parse()?;
///     println!("{name}");
///     Ok(())
/// }
/// ```
pub struct Report(Box<dyn std::error::Error + Send + Sync>);

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Report {
    fn from(error: E) -> Report {
        Report(error.into())
    }
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let sentence = error.to_string();
            // Some errors already include their cause in their own sentence.
            if !text.ends_with(&sentence) {
                text.push_str(": ");
                text.push_str(&sentence);
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_an_error_and_its_causes_as_sentences() {
        let refused = || io::Error::other("refused");
        let table: [(Report, &str); 4] = [
            ("plain".into(), "plain"),
            (
                "a/b".parse::<NodeName>().expect_err("a slash").into(),
                "a node name has",
            ),
            (
                ReadError::Io {
                    path: "log".to_owned(),
                    source: Arc::new(refused()),
                }
                .into(),
                "reading log failed: refused",
            ),
            (
                OpenError::Io {
                    path: "log".to_owned(),
                    source: refused(),
                }
                .into(),
                "log: refused",
            ),
        ];
        for (report, expected) in table {
            let text = format!("{report:?}");
            assert!(text.starts_with(expected), "{text}");
            assert_eq!(
                text.matches("refused").count(),
                expected.matches("refused").count()
            );
        }
    }
}
