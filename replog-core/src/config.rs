//! Settings of a node, validated as a whole before anything starts.

use std::{str::FromStr, time::Duration};

use crate::{
    address::NodeUrl,
    error::ConfigError,
    limits::{
        KEY_HORIZON_MAX, MESSAGE_BYTES_MAX, NODES_MAX, PREALLOCATE_BYTES, SEGMENT_BYTES,
        TAIL_BYTES_MAX,
    },
    types::{BadNodeName, NodeName, SyncPolicy},
};

/// A secondary as its master knows it: a name for ever, an address for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: NodeName,
    /// The address at which its network finds it; empty where the network needs none.
    pub address: String,
}

impl Peer {
    /// A secondary that its network finds by its name alone, as a
    /// [`LocalNetwork`](crate::transport::LocalNetwork) does.
    #[must_use]
    pub fn named(name: NodeName) -> Peer {
        Peer {
            name,
            address: String::new(),
        }
    }
}

/// A text that names no node with its address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadPeer {
    /// There is no `=`, or nothing behind it.
    #[error("a node is given as NAME=ADDRESS, not {0:?}")]
    Form(String),
    /// What stands before the `=` is no name.
    #[error(transparent)]
    Name(#[from] BadNodeName),
}

/// Reads `NAME=ADDRESS`.
impl FromStr for Peer {
    type Err = BadPeer;

    fn from_str(text: &str) -> Result<Peer, BadPeer> {
        match text.split_once('=') {
            Some((name, address)) if !address.is_empty() => Ok(Peer {
                name: NodeName::new(name)?,
                address: address.to_owned(),
            }),
            _ => Err(BadPeer::Form(text.to_owned())),
        }
    }
}

/// Settings of a master. [`MasterConfig::new`] has the defaults.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MasterConfig {
    /// The master's own name.
    pub name: NodeName,
    /// All other nodes of the cluster. A list that is fixed when the cluster is founded.
    pub secondaries: Vec<Peer>,
    /// The URL at which clients reach this master, for secondaries to pass on.
    pub public_url: Option<NodeUrl>,
    /// Whether it may found a cluster when every node is blank.
    pub founding: Founding,
    /// Whether it may recover without a majority.
    pub forced_recovery: ForcedRecovery,
    /// When it may take over from another master, where its own directory is blank.
    pub take_over: TakeOver,
    /// Intervals, time-outs and delays.
    pub timing: Timing,
    /// When a write counts as held.
    pub sync: SyncPolicy,
    /// Bytes of one payload, at most.
    pub max_message_bytes: usize,
    /// Appends that may wait, for each concern.
    pub max_waiting_appends: usize,
    /// Bytes of records that may be on their way to the disk.
    pub max_queued_bytes: usize,
    /// An idempotency key is known while its message is among this many last ones of the log.
    pub key_horizon: u64,
    /// Bytes and times of the log itself.
    pub log: LogConfig,
}

/// Whether a blank master may found a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Founding {
    /// When it and every node that answers is blank, and they are a majority.
    #[default]
    Allowed,
    /// Never: a blank master waits until a node of the existing cluster answers.
    Never,
}

/// When a master whose directory is blank may take over from one that other nodes hear.
///
/// A blank directory is what a master has whose disk was replaced, and then nobody hears another master.
/// It is also what a mistyped path or a container without its volume leads to, and then the healthy master
/// would be deposed for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakeOver {
    /// Once no node that answers has heard another master for `unhealthy_after`. All nodes are asked
    /// first; those that do not answer are waited for as long.
    #[default]
    WhenSilent,
    /// At once.
    AtOnce,
}

/// Whether a master may go through its start without the promises of a majority.
///
/// For when a majority is lost for good. It first tries for `unhealthy_after` to recover as ever,
/// and forces nothing where that is possible, so that the setting may stay: but while it is there,
/// any absence of a majority at a start loses messages. A forced recovery
///
/// - takes the best log among those that answered, the master's own included: that of the highest
///   log epoch and end, and only where no log that answered is intact, the one with the newest
///   records. Where there is no log at all, as on a blank master to which nobody answers, it waits:
///   it never founds a cluster.
/// - raises the epoch by 2^32, above everything that nodes that did not answer can have promised.
/// - loses what only those had, acknowledged or not. When they come back, they cut it from their
///   logs and keep it aside in their directories, below `quarantine`.
///
/// A node that refuses the master as fenced, replaced or out of date is not overruled, and a
/// recovered master takes appends only when a majority is in contact, as ever: replace the lost
/// nodes by empty ones of the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForcedRecovery {
    /// A majority is waited for, however long that takes.
    #[default]
    Never,
    /// Where no majority answers within `unhealthy_after`, it goes on with those that did.
    LoseAcknowledged,
}

/// Settings of a secondary. [`SecondaryConfig::new`] has the defaults.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SecondaryConfig {
    /// Its own name.
    pub name: NodeName,
    /// The URL at which clients reach this node, for its master to show.
    pub public_url: Option<NodeUrl>,
    /// When a write counts as held.
    pub sync: SyncPolicy,
    /// Bytes and times of the log itself.
    pub log: LogConfig,
}

/// How a log is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogConfig {
    /// Bytes of a segment file: the same on all nodes of a cluster, if their files are to be
    /// equal.
    pub segment_bytes: u64,
    /// Bytes of recent records kept in memory.
    pub tail_bytes: usize,
    /// Zeros written ahead of the records, so that few syncs have to make a new length durable, which
    /// costs as much again; 0: none. They go when a segment is full and at a clean stop. Storage that
    /// does not outlive the process has none.
    pub preallocate_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes: SEGMENT_BYTES,
            tail_bytes: TAIL_BYTES_MAX,
            preallocate_bytes: PREALLOCATE_BYTES,
        }
    }
}

/// Intervals, time-outs and delays of a master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats to one secondary, whatever its status.
    pub heartbeat_interval: Duration,
    /// How long a request to a secondary may take.
    pub request_timeout: Duration,
    /// Without contact for this long a secondary is Suspected.
    pub suspect_after: Duration,
    /// Without contact for this long a secondary is Unhealthy.
    pub unhealthy_after: Duration,
    /// The first delay before a failed batch is tried again, after the immediate retry.
    pub retry_min: Duration,
    /// The longest such delay.
    pub retry_max: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat_interval: Duration::from_millis(500),
            request_timeout: Duration::from_secs(1),
            suspect_after: Duration::from_secs(1),
            unhealthy_after: Duration::from_secs(3),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(5),
        }
    }
}

impl MasterConfig {
    /// The defaults for a master of this name over these secondaries.
    #[must_use]
    pub fn new(name: NodeName, secondaries: Vec<Peer>) -> MasterConfig {
        MasterConfig {
            name,
            secondaries,
            public_url: None,
            founding: Founding::Allowed,
            forced_recovery: ForcedRecovery::Never,
            take_over: TakeOver::WhenSilent,
            timing: Timing::default(),
            sync: SyncPolicy::Always,
            max_message_bytes: 1 << 20,
            max_waiting_appends: 100_000,
            max_queued_bytes: 256 << 20,
            key_horizon: 1_000_000,
            log: LogConfig::default(),
        }
    }

    /// Checks the settings as a whole.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the setting and what it should be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut names: Vec<&NodeName> = self.secondaries.iter().map(|peer| &peer.name).collect();
        names.push(&self.name);
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse(format!("two nodes have the name {}", twice[0]));
        }
        if names.len() > NODES_MAX {
            return refuse(format!(
                "{} nodes, and at most {NODES_MAX} are supported",
                names.len()
            ));
        }
        if !(1..=MESSAGE_BYTES_MAX).contains(&self.max_message_bytes) {
            return refuse(format!(
                "max-message-bytes must be 1 to {MESSAGE_BYTES_MAX}"
            ));
        }
        if self.max_waiting_appends == 0 {
            return refuse("max-waiting-appends must be at least 1".to_owned());
        }
        if self.max_queued_bytes < self.max_message_bytes {
            return refuse("max-queued-bytes must be at least max-message-bytes".to_owned());
        }
        if !(1..=KEY_HORIZON_MAX).contains(&self.key_horizon) {
            return refuse(format!("key-horizon must be 1 to {KEY_HORIZON_MAX}"));
        }
        self.timing.validate()?;
        self.log.validate()?;
        validate_sync(self.sync)
    }

    /// The names of all nodes, in ascending order.
    pub(crate) fn node_names(&self) -> Vec<NodeName> {
        let mut names: Vec<NodeName> = self
            .secondaries
            .iter()
            .map(|peer| peer.name.clone())
            .collect();
        names.push(self.name.clone());
        names.sort();
        names
    }
}

impl SecondaryConfig {
    /// The defaults for a secondary of this name.
    #[must_use]
    pub fn new(name: NodeName) -> SecondaryConfig {
        SecondaryConfig {
            name,
            public_url: None,
            sync: SyncPolicy::Always,
            log: LogConfig::default(),
        }
    }

    /// Checks the settings as a whole.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the setting and what it should be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.log.validate()?;
        validate_sync(self.sync)
    }
}

impl Timing {
    fn validate(&self) -> Result<(), ConfigError> {
        let at_least_a_millisecond = [
            ("heartbeat-interval", self.heartbeat_interval),
            ("request-timeout", self.request_timeout),
            ("suspect-after", self.suspect_after),
            ("unhealthy-after", self.unhealthy_after),
            ("retry-min", self.retry_min),
            ("retry-max", self.retry_max),
        ];
        for (name, value) in at_least_a_millisecond {
            if value < Duration::from_millis(1) || value > Duration::from_hours(24) {
                return refuse(format!("{name} must be between 1ms and 24h"));
            }
        }
        let ordered = [
            (
                "heartbeat-interval",
                self.heartbeat_interval,
                "suspect-after",
                self.suspect_after,
            ),
            (
                "suspect-after",
                self.suspect_after,
                "unhealthy-after",
                self.unhealthy_after,
            ),
        ];
        for (low, low_value, high, high_value) in ordered {
            if low_value >= high_value {
                return refuse(format!("{low} must be shorter than {high}"));
            }
        }
        if self.retry_min > self.retry_max {
            return refuse("retry-min must not be longer than retry-max".to_owned());
        }
        Ok(())
    }
}

impl LogConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.segment_bytes < 4096 {
            return refuse("a segment has at least 4096 bytes".to_owned());
        }
        Ok(())
    }
}

fn validate_sync(sync: SyncPolicy) -> Result<(), ConfigError> {
    match sync {
        SyncPolicy::Interval(interval) if interval < Duration::from_millis(1) => {
            refuse("a sync interval is at least 1ms".to_owned())
        }
        SyncPolicy::Always | SyncPolicy::Interval(_) | SyncPolicy::Never => Ok(()),
    }
}

fn refuse(why: String) -> Result<(), ConfigError> {
    Err(ConfigError(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, peers: &[&str]) -> String {
        let peers = peers.iter().map(|peer| peer.parse().unwrap()).collect();
        let config = MasterConfig::new(NodeName::new(name).unwrap(), peers);
        config
            .validate()
            .map_or_else(|error| error.to_string(), |()| "accepted".to_owned())
    }

    #[test]
    fn a_node_is_named_once() {
        let table: [(&str, &[&str], &str); 5] = [
            ("m", &["a=a:1", "b=b:1"], "accepted"),
            // A network within one process has no addresses to compare.
            ("m", &["a=local", "b=local"], "accepted"),
            ("m", &[], "accepted"),
            ("m", &["a=a:1", "a=b:1"], "two nodes have the name a"),
            ("m", &["m=a:1"], "two nodes have the name m"),
        ];
        for (name, peers, expected) in table {
            assert_eq!(refused(name, peers), expected, "{name} {peers:?}");
        }
        let many: Vec<String> = (0..NODES_MAX).map(|n| format!("n{n}=n{n}:1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(refused("m", &many).contains("at most"));
        assert_eq!(refused("m", &many[1..]), "accepted");
    }
}
