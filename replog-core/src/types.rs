//! The system's basic types: offsets, epochs, names, identities, concerns, states.
//!
//! Owns no behaviour beyond the few operations that make sense for each. Every end is exclusive
//! and every range half-open.

use std::{fmt, str::FromStr, sync::Arc};

use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use crate::limits::{
    EPOCH_BELIEVABLE_MAX, EPOCH_FOLLOW_MAX, EPOCH_FOLLOWED_MAX, EPOCH_FORCED_STEP, EPOCH_LEAP_MAX,
    KEY_BYTES_MAX,
};

/// A message's position in the log, from 0, without gaps.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    /// The first offset of every log.
    pub const ZERO: Offset = Offset(0);

    /// Returns the offset `count` records further on.
    ///
    /// # Panics
    ///
    /// If the sum does not fit 64 bits, which no log reaches.
    #[must_use]
    pub fn plus(self, count: u64) -> Offset {
        Offset(
            self.0
                .checked_add(count)
                .expect("offsets stay far below 2^64"),
        )
    }

    /// Returns the number of records in `earlier..self`; 0 when `earlier` is not earlier.
    #[must_use]
    pub fn records_since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a master's term of office. Grows with each start of a master; 0 comes before the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The highest epoch that a message between nodes may carry: 2^62. A cluster that starts a new epoch
    /// every millisecond reaches it after 146 million years.
    pub const MAX: Epoch = Epoch(1 << 62);

    /// Returns the epoch after this one.
    ///
    /// # Panics
    ///
    /// At [`Epoch::MAX`]: a node that started again from a lower one would break its promises.
    #[must_use]
    pub fn next(self) -> Epoch {
        self.raised_by(1)
    }

    /// Returns an epoch so far above this one that no node that did not answer can have promised it: for a
    /// forced recovery.
    pub(crate) fn forced(self) -> Epoch {
        self.raised_by(EPOCH_FORCED_STEP)
    }

    /// Returns `true` if a node may promise this epoch at all: it leaves room for [`Epoch::next`] and for
    /// forced recoveries.
    pub(crate) fn is_believable(self) -> bool {
        self.0 <= EPOCH_BELIEVABLE_MAX
    }

    /// Returns the epoch up to which one request for this epoch may raise a node that has durably promised
    /// `durable`.
    pub(crate) fn capped_for_request(self, durable: Epoch) -> Epoch {
        self.min(Epoch(durable.0.saturating_add(EPOCH_LEAP_MAX)))
    }

    /// Returns the epoch up to which a recovering master that has durably promised `durable` follows
    /// another node that names this one. Where that is not far enough, the next round goes on from there.
    pub(crate) fn capped_for_recovery(self, durable: Epoch) -> Epoch {
        let limit = durable.0.saturating_add(EPOCH_FOLLOW_MAX);
        self.min(Epoch(limit.min(EPOCH_FOLLOWED_MAX)))
    }

    fn raised_by(self, step: u64) -> Epoch {
        let raised = self.0.checked_add(step).map(Epoch);
        match raised.filter(|raised| *raised <= Epoch::MAX) {
            Some(raised) => raised,
            None => panic!(
                "epoch {self} cannot be raised by {step}: the highest is {}",
                Epoch::MAX
            ),
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The offset at which the records of one epoch begin in a log: two logs compare these pairs to find out
/// how far they agree.
///
/// As KIP-101 (leader epochs) and KIP-279 describe it for Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// The author's epoch.
    pub epoch: Epoch,
    /// The first offset that this log holds of it.
    pub first: Offset,
}

/// The log that a damaged node held before: what it may have acknowledged, which has to be found in the log
/// that a recovery adopts in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastWhole {
    /// Log epoch of that log.
    pub log_epoch: Epoch,
    /// The offset after the last record of that log.
    pub end: Offset,
}

/// Name of a node, unique in its cluster: 1 to 64 letters, digits, `-`, `_` or `.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

/// Error for a text that is not a valid node name.
#[derive(Debug, thiserror::Error)]
#[error("a node name has 1 to 64 letters, digits, '-', '_' or '.', not {0:?}")]
pub struct BadNodeName(pub String);

impl NodeName {
    /// Checks a name and wraps it.
    ///
    /// # Errors
    ///
    /// [`BadNodeName`] when the text is empty, too long, or has another character.
    pub fn new(name: &str) -> Result<NodeName, BadNodeName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let only_dots = name.bytes().all(|byte| byte == b'.');
        if only_dots || name.len() > 64 || !name.bytes().all(allowed) {
            return Err(BadNodeName(name.chars().take(80).collect()));
        }
        Ok(NodeName(name.into()))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = BadNodeName;
    fn try_from(name: String) -> Result<NodeName, BadNodeName> {
        NodeName::new(&name)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> String {
        name.as_str().to_owned()
    }
}

impl FromStr for NodeName {
    type Err = BadNodeName;
    fn from_str(name: &str) -> Result<NodeName, BadNodeName> {
        NodeName::new(name)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A client's key for one append, the same however often the append is sent: 1 to 128 printable ASCII
/// characters. A message with the same key is appended only once, as long as it is within the key horizon.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

/// Error for a text that is not a valid idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to 128 printable ASCII characters, not {0:?}")]
pub struct BadIdempotencyKey(pub String);

impl IdempotencyKey {
    /// Checks a key and wraps it.
    ///
    /// # Errors
    ///
    /// [`BadIdempotencyKey`] when the text is empty, too long, or has another character.
    pub fn new(key: &str) -> Result<IdempotencyKey, BadIdempotencyKey> {
        let printable = |byte: u8| (b' '..=b'~').contains(&byte);
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(printable) {
            return Err(BadIdempotencyKey(key.chars().take(80).collect()));
        }
        Ok(IdempotencyKey(key.into()))
    }

    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = BadIdempotencyKey;
    fn from_str(key: &str) -> Result<IdempotencyKey, BadIdempotencyKey> {
        IdempotencyKey::new(key)
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Defines a type for a 128-bit identity, written as 32 hexadecimal digits in text and JSON.
macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(u128);

        impl $name {
            /// Draws a new identity.
            pub(crate) fn draw(rng: &mut impl rand::Rng) -> $name {
                $name(rng.random())
            }

            /// Returns the identity with these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> $name {
                $name(u128::from_be_bytes(bytes))
            }

            /// Returns the 16 bytes of the identity.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<$name, String> {
                let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                match u128::from_str_radix(&text, 16) {
                    Ok(value) if digits => Ok($name(value)),
                    _ => Err(format!("expected 32 hexadecimal digits, not {text:?}")),
                }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

identity! {
    /// Identity of a cluster, drawn when its master founds it.
    ClusterId
}
identity! {
    /// Identity of a node's data directory, drawn when the directory is created.
    InstanceId
}

/// One run of a node: its data directory and the number of times the node was started from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// The data directory's identity.
    pub instance: InstanceId,
    /// Number of the start, raised and synced before the first message of each start.
    pub start: u64,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.start)
    }
}

/// Write concern: how many nodes must hold a message durably before its caller is answered.
/// The master is always one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concern {
    /// This number of nodes: 1 is the master alone.
    Count(u64),
    /// More than half of the nodes.
    #[default]
    Majority,
    /// Every node.
    All,
}

impl Concern {
    /// Returns the number of nodes that the concern means in a cluster of `nodes`, or `None` when it is 0
    /// or more than `nodes`.
    #[must_use]
    pub fn resolve(self, nodes: u32) -> Option<u32> {
        match self {
            Concern::Count(count) => u32::try_from(count)
                .ok()
                .filter(|count| (1..=nodes).contains(count)),
            Concern::Majority => Some(majority(nodes)),
            Concern::All => Some(nodes),
        }
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Concern::Count(count) => count.fmt(f),
            Concern::Majority => f.write_str("majority"),
            Concern::All => f.write_str("all"),
        }
    }
}

/// Returns the size of a quorum: the smallest number that is more than half of `nodes`.
#[must_use]
pub const fn majority(nodes: u32) -> u32 {
    nodes / 2 + 1
}

/// The master's view of a secondary's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Status {
    /// In contact, and accepting records when there are records to send.
    Healthy,
    /// No contact for `suspect_after`, or records to send and none accepted for that long.
    Suspected,
    /// No contact for `unhealthy_after`. Does not count towards the quorum.
    Unhealthy,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Healthy => "Healthy",
            Status::Suspected => "Suspected",
            Status::Unhealthy => "Unhealthy",
        })
    }
}

/// State of a master with regard to appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Agreeing with the other nodes on an epoch and on the log; does not accept appends yet.
    Recovering,
    /// Accepts appends.
    ReadWrite,
    /// Refuses appends; reads go on.
    ReadOnly,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mode::Recovering => "recovering",
            Mode::ReadWrite => "read-write",
            Mode::ReadOnly => "read-only",
        })
    }
}

/// The reason why a master does not accept appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ModeReason {
    /// Fewer nodes than a majority are in contact.
    NoQuorum,
    /// Recovery waits for other nodes to answer.
    WaitingForNodes,
    /// The disk is full or failed.
    Storage,
    /// Another master leads a newer epoch.
    Fenced,
    /// An operator asked for it.
    Asked,
}

impl fmt::Display for ModeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ModeReason::NoQuorum => "no_quorum",
            ModeReason::WaitingForNodes => "waiting_for_nodes",
            ModeReason::Storage => "storage",
            ModeReason::Fenced => "fenced",
            ModeReason::Asked => "asked",
        })
    }
}

/// The obstacle because of which a recovery can never end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StuckReason {
    /// Too many nodes were wiped or are damaged: even if all others answer, no log is known to have
    /// everything that was acknowledged.
    TooFewIntact,
    /// All nodes answered, and none of them has any record or an intact log.
    NoLog,
    /// All nodes answered, and none belongs to a cluster that this blank master could join; it may not
    /// found one.
    NoCluster,
}

impl fmt::Display for StuckReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StuckReason::TooFewIntact => "too_few_intact",
            StuckReason::NoLog => "no_log",
            StuckReason::NoCluster => "no_cluster",
        })
    }
}

/// Condition of a node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DiskState {
    /// Accepts writes.
    Ok,
    /// Has no space left.
    Full,
    /// A write or a sync failed: it is not known what became of anything that was not durable by then.
    Failed,
}

impl fmt::Display for DiskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DiskState::Ok => "ok",
            DiskState::Full => "full",
            DiskState::Failed => "failed",
        })
    }
}

/// The part of the log that a reader sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadLevel {
    /// Everything that this node holds.
    #[default]
    Local,
    /// Only what a majority holds, as far as this node knows.
    Committed,
}

/// Sync policy: the point at which a write counts as held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Once synced: it survives a power cut. The default.
    #[default]
    Always,
    /// Once written, and synced at this interval: it survives a crash of the process.
    Interval(std::time::Duration),
    /// Once written; the operating system syncs when it chooses.
    Never,
}

impl SyncPolicy {
    /// Returns `true` if a message that a node holds under this policy survives a power cut there.
    #[must_use]
    pub fn is_durable(self) -> bool {
        self == SyncPolicy::Always
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concern_is_between_one_and_all_nodes() {
        let table = [
            (Concern::Count(0), 3, None),
            (Concern::Count(1), 3, Some(1)),
            (Concern::Count(3), 3, Some(3)),
            (Concern::Count(4), 3, None),
            (Concern::Count(u64::MAX), 3, None),
            (Concern::Majority, 1, Some(1)),
            (Concern::Majority, 2, Some(2)),
            (Concern::Majority, 3, Some(2)),
            (Concern::Majority, 4, Some(3)),
            (Concern::All, 5, Some(5)),
        ];
        for (concern, nodes, expected) in table {
            assert_eq!(concern.resolve(nodes), expected, "{concern} of {nodes}");
        }
    }

    #[test]
    fn an_epoch_named_by_another_node_raises_the_durable_one_by_a_limited_step() {
        let (leap, follow) = (EPOCH_LEAP_MAX, EPOCH_FOLLOW_MAX);
        // Named, durable, promised on request, followed by a recovering master.
        let table = [
            (1, 0, 1, 1),
            (3, 7, 3, 3),
            (7 + follow, 7, 7 + follow, 7 + follow),
            (8 + follow, 7, 8 + follow, 7 + follow),
            (7 + leap, 7, 7 + leap, 7 + follow),
            (1 << 61, 7, 7 + leap, 7 + follow),
            (u64::MAX, u64::MAX, u64::MAX, EPOCH_FOLLOWED_MAX),
        ];
        for (named, durable, promised, followed) in table {
            let (named, durable) = (Epoch(named), Epoch(durable));
            assert_eq!(
                named.capped_for_request(durable),
                Epoch(promised),
                "{named}"
            );
            assert_eq!(
                named.capped_for_recovery(durable),
                Epoch(followed),
                "{named}"
            );
        }
        assert_eq!(Epoch(7).next(), Epoch(8));
        let highest = Epoch(EPOCH_BELIEVABLE_MAX);
        assert!(highest.is_believable() && !highest.next().is_believable());
        assert!(highest.forced().next() <= Epoch::MAX);
        let highest = Epoch(u64::MAX).capped_for_recovery(Epoch::MAX);
        assert!(highest.next().forced().is_believable());
    }

    #[test]
    #[should_panic(expected = "cannot be raised")]
    fn an_epoch_never_stands_still_where_it_should_be_raised() {
        let _ = Epoch::MAX.next();
    }

    #[test]
    fn a_node_name_is_short_and_plain() {
        for good in ["a", "secondary-1", "eu_west.3", &"x".repeat(64)] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "..", "é", "a=b", &"x".repeat(65)] {
            assert!(NodeName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_idempotency_key_is_short_and_printable() {
        for good in ["a", " ", "~", "a key of its own", &"x".repeat(128)] {
            assert!(IdempotencyKey::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a\n", "\u{7f}", "é", &"x".repeat(129)] {
            assert!(IdempotencyKey::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_identity_survives_a_round_trip_through_text() {
        let id = ClusterId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0eff");
        assert_eq!(ClusterId::try_from(id.to_string()), Ok(id));
        assert!(ClusterId::try_from("+00102030405060708090a0b0c0d0eff".to_owned()).is_err());
    }
}
