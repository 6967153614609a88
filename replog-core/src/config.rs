//! Settings of a node, validated as a whole before anything starts.

use std::{str::FromStr, time::Duration};

use crate::{
    address::NodeUrl,
    error::ConfigError,
    limits::{
        FRAME_BYTES_MAX, KEY_HORIZON_MAX, NODES_MAX, PREALLOCATE_BYTES, SEGMENT_BYTES,
        TAIL_BYTES_MAX,
    },
    types::{BadNodeName, NodeName, SyncPolicy},
};

/// A secondary in its master's settings: a permanent name and its current address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Name of the secondary.
    pub name: NodeName,
    /// The address at which its network finds it; empty where the network needs none.
    pub address: String,
}

impl Peer {
    /// Creates a secondary that its network finds by its name alone, as a
    /// [`LocalNetwork`](crate::transport::LocalNetwork) does.
    #[must_use]
    pub fn named(name: NodeName) -> Peer {
        Peer {
            name,
            address: String::new(),
        }
    }
}

/// Error for a text that is not a node's name with its address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadPeer {
    /// The `=` is missing, or nothing follows it.
    #[error("a node is given as NAME=ADDRESS, not {0:?}")]
    Form(String),
    /// The part before the `=` is not a valid name.
    #[error(transparent)]
    Name(#[from] BadNodeName),
}

/// Parses `NAME=ADDRESS`.
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
    /// Name of the master itself.
    pub name: NodeName,
    /// All other nodes of the cluster. The list is fixed when the cluster is founded.
    pub secondaries: Vec<Peer>,
    /// The URL at which clients reach this master, which the secondaries pass on.
    pub public_url: Option<NodeUrl>,
    /// Permission to found a cluster when every node is blank.
    pub founding: Founding,
    /// Permission to recover without a majority.
    pub forced_recovery: ForcedRecovery,
    /// Condition for taking over from another master when its own directory is blank.
    pub take_over: TakeOver,
    /// Intervals, time-outs and delays.
    pub timing: Timing,
    /// Sync policy: the point at which a write counts as held.
    pub sync: SyncPolicy,
    /// The largest payload, in bytes: at most [`FRAME_BYTES_MAX`], which the whole append may have.
    pub max_message_bytes: usize,
    /// The largest number of waiting appends, for each concern.
    pub max_waiting_appends: usize,
    /// The largest number of bytes of records on their way to the disk.
    pub max_queued_bytes: usize,
    /// Number of the log's last messages whose idempotency keys are known.
    pub key_horizon: u64,
    /// Sizes of the log itself.
    pub log: LogConfig,
}

/// Permission of a blank master to found a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Founding {
    /// Allowed when the master and every node that answers are blank, and they are a majority.
    #[default]
    Allowed,
    /// Never: a blank master waits until a node of the existing cluster answers.
    Never,
}

/// Condition for a master with a blank directory to take over from one that other nodes hear.
///
/// A master has a blank directory when its disk was replaced, and then no node hears another master. It
/// also has one after a mistyped path, or in a container without its volume, and then the healthy master
/// would be deposed for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakeOver {
    /// Once no node that answers has heard another master for `unhealthy_after`. All nodes are asked
    /// first, and those that do not answer are waited for as long as that.
    #[default]
    WhenSilent,
    /// At once.
    AtOnce,
}

/// Permission of a master to complete its start without the promises of a majority.
///
/// For the case that a majority is lost for good. The master first tries for `unhealthy_after` to recover
/// normally and forces nothing where that is possible, so that the setting may stay: but while it is set,
/// any start without a majority loses messages. A forced recovery
///
/// - takes the best log among those that answered, including the master's own: the one with the highest
///   log epoch and end, and only if no log that answered is intact, the one with the newest records. Where
///   there is no log at all, as on a blank master that gets no answer, it waits: it never founds a
///   cluster.
/// - raises the epoch by 2^32, above everything that nodes that did not answer can have promised.
/// - loses what only those nodes had, acknowledged or not. When they come back, they cut it from their
///   logs and quarantine it in their directories, below `quarantine`.
///
/// A node that refuses the master as fenced, replaced or out of date is not overruled, and a recovered
/// master still accepts appends only while a majority is in contact: replace the lost nodes by empty ones
/// of the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForcedRecovery {
    /// Waits for a majority, however long that takes.
    #[default]
    Never,
    /// Goes on with the nodes that answered if no majority answers within `unhealthy_after`.
    LoseAcknowledged,
}

/// Settings of a secondary. [`SecondaryConfig::new`] has the defaults.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SecondaryConfig {
    /// Name of the secondary itself.
    pub name: NodeName,
    /// The URL at which clients reach this node, which its master shows.
    pub public_url: Option<NodeUrl>,
    /// Sync policy: the point at which a write counts as held.
    pub sync: SyncPolicy,
    /// Sizes of the log itself.
    pub log: LogConfig,
}

/// Layout of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogConfig {
    /// Size of a segment file in bytes: the same on all nodes of a cluster, if their files are to be
    /// equal.
    pub segment_bytes: u64,
    /// Size of the recent records kept in memory, in bytes.
    pub tail_bytes: usize,
    /// Bytes of zeros written ahead of the records, so that few syncs have to make a new length durable,
    /// which doubles the cost of a sync; 0: none. They are removed when a segment is full and at a clean
    /// stop. Storage that does not outlive the process has none.
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
    /// Time between two heartbeats to one secondary, whatever its status.
    pub heartbeat_interval: Duration,
    /// The longest time that a request to a secondary may take.
    pub request_timeout: Duration,
    /// Time without contact after which a secondary is Suspected.
    pub suspect_after: Duration,
    /// Time without contact after which a secondary is Unhealthy.
    pub unhealthy_after: Duration,
    /// The first delay before a failed batch is retried, after the immediate retry.
    pub retry_min: Duration,
    /// The longest delay before a failed batch is retried.
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
    /// Returns the defaults for a master of this name with these secondaries.
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
        if !(1..=FRAME_BYTES_MAX).contains(&self.max_message_bytes) {
            return refuse(format!("max-message-bytes must be 1 to {FRAME_BYTES_MAX}"));
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

    /// Returns the names of all nodes in ascending order.
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
    /// Returns the defaults for a secondary of this name.
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
    fn a_name_given_twice_is_refused() {
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

    #[test]
    fn a_message_may_not_be_longer_than_an_append() {
        let mut config = MasterConfig::new(NodeName::new("m").unwrap(), Vec::new());
        config.max_message_bytes = FRAME_BYTES_MAX;
        assert_eq!(config.validate(), Ok(()));
        config.max_message_bytes += 1;
        let refused = config.validate().unwrap_err().to_string();
        assert_eq!(refused, "max-message-bytes must be 1 to 8388608");
    }
}
