//! Every public error: one enum per operation, a variant where a caller acts differently.

use std::{io, sync::Arc};

use crate::{
    record::RecordError,
    types::{ClusterId, Mode, ModeReason, NodeName, Offset},
    words::counted,
};

/// Why an append was not answered with a receipt.
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
        /// Nodes of the cluster.
        nodes: u32,
    },
    /// Nothing was appended: the payload is longer than `max_message_bytes`.
    #[error(
        "the message has {} and {limit_bytes} are allowed",
        counted(bytes, "byte")
    )]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// Nothing was appended: a limit is reached. Worth another try.
    #[error("{limit} is reached at {value}")]
    Overloaded {
        /// The limit's name.
        limit: LimitName,
        /// The limit's value.
        value: u64,
    },
    /// The master takes no appends now. Nothing was appended, unless `offset` names the place
    /// that the message had: then it is not known whether it stays.
    #[error("the master is {}: {}", state.mode, state.detail)]
    ReadOnly {
        /// Mode, reason and the numbers of the quorum.
        state: Box<ModeState>,
        /// The offset that the message had been given, if any.
        offset: Option<Offset>,
    },
    /// The disk is full or failed. Nothing was appended, unless `offset` is given: then it is
    /// not known whether the message stays.
    #[error("the master's data directory takes no more: {detail}")]
    Storage {
        /// What the disk said.
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
    /// Nothing was appended: its idempotency key is that of another message, whose payload
    /// differs.
    #[error("the key was used before, at offset {offset}, with another payload")]
    KeyReused {
        /// Where the other message is.
        offset: Offset,
    },
    /// Nothing was appended: the next message does not get the offset that was expected.
    #[error("the next message gets offset {next}")]
    OffsetMismatch {
        /// The offset that the next message gets.
        next: Offset,
    },
    /// This request appended nothing, for the reason in `refusal`. Its message may be in the log
    /// all the same, by an earlier request with the same idempotency key: the key could not be
    /// looked up, or the wait for the earlier message was refused. Worth another try with the
    /// same key.
    #[error("{refusal}; an earlier request with the same key may have appended it")]
    Unsettled {
        /// Why this request was refused.
        refusal: Box<AppendError>,
        /// Where the earlier request's message is, if that is known.
        offset: Option<Offset>,
    },
    /// Nothing was appended: a batch without a message.
    #[error("a batch needs at least one message")]
    EmptyBatch,
    /// Nothing was appended: the batch has a key and more messages than the key could be known for,
    /// so that it would be forgotten at once.
    #[error(
        "a batch with a key has at most {}, the key horizon, and this one has {count}",
        counted(horizon, "message")
    )]
    BatchBeyondHorizon {
        /// Messages of the batch.
        count: u64,
        /// The key horizon.
        horizon: u64,
    },
    /// The node ended before it answered: it is not known whether the message is in the log.
    #[error("the node ended without an answer")]
    Ended,
}

/// What is known of a message whose append failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is not in the log and never will be.
    NotAppended,
    /// It may be in the log, now or after a recovery.
    Unknown,
}

impl AppendError {
    /// The offset that the message had when the error came; `None` where nothing was appended.
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

    /// What is known of the message.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match (self, self.offset()) {
            (AppendError::Ended | AppendError::Unsettled { .. }, _) | (_, Some(_)) => {
                Outcome::Unknown
            }
            (_, None) => Outcome::NotAppended,
        }
    }

    /// Whether the same request may succeed later.
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

    /// The same error for an append whose message has this offset.
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

/// Which limit refused an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitName {
    /// Waiting appends of one concern.
    MaxWaitingAppends,
    /// Bytes on their way to the disk.
    MaxQueuedBytes,
}

impl LimitName {
    /// Its name as a setting, as in `max-waiting-appends`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LimitName::MaxWaitingAppends => "max-waiting-appends",
            LimitName::MaxQueuedBytes => "max-queued-bytes",
        }
    }
}

impl std::fmt::Display for LimitName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Mode, its reason, and the quorum's numbers: what a refused client needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeState {
    /// What the master does with appends.
    pub mode: Mode,
    /// Why it takes none.
    pub reason: Option<ModeReason>,
    /// One sentence for people.
    pub detail: String,
    /// Nodes in contact, the master included.
    pub alive: u32,
    /// Nodes that make a quorum.
    pub needed: u32,
    /// Nodes of the cluster.
    pub nodes: u32,
}

/// Why a wait for a concern after the fact ended without an answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The concern is not between 1 and the number of nodes.
    #[error(
        "the cluster has {}, so a concern is 1 to {nodes}",
        counted(nodes, "node")
    )]
    Concern {
        /// Nodes of the cluster.
        nodes: u32,
    },
    /// There is no such offset yet.
    #[error("the log ends at {next}")]
    NoSuchOffset {
        /// The offset that the next record gets.
        next: Offset,
    },
    /// The limit on waiting appends is reached.
    #[error("{limit} is reached at {value}")]
    Overloaded {
        /// The limit's name.
        limit: LimitName,
        /// The limit's value.
        value: u64,
    },
    /// The master does not hold its office, so that it does not know what other nodes hold.
    #[error("the master is {}: {}", state.mode, state.detail)]
    ReadOnly {
        /// Mode, reason and the numbers of the quorum.
        state: Box<ModeState>,
    },
    /// The master's disk is full or failed, and with that its office.
    #[error("the master's data directory takes no more: {detail}")]
    Storage {
        /// What the disk said.
        detail: Arc<str>,
    },
    /// The node is stopping, or has stopped.
    #[error("the node no longer follows this message")]
    Ended,
}

/// Why records could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The disk refused.
    #[error("reading {path} failed")]
    Io {
        /// The file, below the node's directory.
        path: String,
        /// What the disk said.
        #[source]
        source: Arc<io::Error>,
    },
    /// A record is damaged; everything before it is fine.
    #[error("{path} is damaged at byte {position}: offset {offset} cannot be read")]
    Damaged {
        /// The file, below the node's directory.
        path: String,
        /// Where in the file.
        position: u64,
        /// The first offset that cannot be read.
        offset: Offset,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// The records were cut away while they were read.
    #[error("offset {offset} was cut away")]
    Cut {
        /// The first offset that is not there any more.
        offset: Offset,
    },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a node's directory could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The disk refused.
    #[error("{path}: {source}")]
    Io {
        /// The file, below the node's directory.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
    /// Another process uses the directory.
    #[error("the directory is in use by another process")]
    Locked,
    /// A file is not what a node writes: a foreign file, a newer version, or damage.
    #[error("{path}: {what}")]
    Format {
        /// The file, below the node's directory.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file is of another version than this program reads.
    #[error("{path}: has format {found}, and this program reads {known}")]
    Version {
        /// The file, below the node's directory.
        path: String,
        /// Its version.
        found: u64,
        /// The one that is read.
        known: u64,
    },
    /// A segment and the one that follows it claim the same records: which of the two to believe
    /// nobody can tell.
    #[error("{path} is damaged at byte {position}: offset {offset} ({what})")]
    Damaged {
        /// The file, below the node's directory.
        path: String,
        /// Where in the file.
        position: u64,
        /// The first offset that cannot be read.
        offset: Offset,
        /// What is wrong with it.
        what: String,
    },
    /// A segment belongs to another cluster.
    #[error("{path} belongs to cluster {found}, this node to {expected}")]
    OtherCluster {
        /// The file, below the node's directory.
        path: String,
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be.
        expected: ClusterId,
    },
}

/// Why a node's directory could not be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A node runs in it, and writes what would be read.
    #[error("a node is running in the directory: stop it first")]
    Locked,
    /// No node ever kept anything in it.
    #[error("it is no node's directory: it has no meta.json, no mark and no segments")]
    NoNode,
    /// The disk refused to list it, or to say whether it is in use.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory, below the node's directory.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
}

/// Why a node did not start.
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
        /// Whose directory it is.
        found: NodeName,
        /// Who wanted to start from it.
        expected: NodeName,
    },
    /// The directory was made for another list of nodes.
    #[error(
        "the directory was made for the nodes {found:?}, not {expected:?}: the list of nodes is fixed"
    )]
    OtherNodes {
        /// The list in the directory.
        found: Vec<NodeName>,
        /// The list in the settings.
        expected: Vec<NodeName>,
    },
    /// The operating system gave no thread.
    #[error("no thread could be started")]
    Thread(#[source] io::Error),
}

/// Settings that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) String);

impl ConfigError {
    /// Refuses settings for this reason: a sentence that names the setting and what it should be.
    #[must_use]
    pub fn new(why: impl Into<String>) -> ConfigError {
        ConfigError(why.into())
    }
}

/// The node has stopped: nobody answers any more. Says why, where it stopped by itself.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the node has stopped{}", .reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default())]
pub struct Stopped {
    /// Why, where it was not asked to.
    pub reason: Option<Arc<str>>,
}

/// An error as `main` may return it: `Debug`, which is what a program that ends with an error prints, is the error's
/// sentence and those of its causes.
///
/// Made by `?` of any error, like `Box<dyn Error>`, which would print the error's fields.
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
            // Some errors have their cause in their own sentence.
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
    fn a_report_is_the_sentences_of_an_error_and_its_causes() {
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
