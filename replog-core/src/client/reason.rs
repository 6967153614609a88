//! [`Reason`]: the meaning of a node's problem, as values that a program can branch on.
//!
//! A problem without the members of its type, or of a newer type, is [`Reason::Other`]: nothing is
//! guessed.

use serde::de::DeserializeOwned;

use super::Problem;
use crate::types::{ClusterId, Mode, NodeName, Offset};

/// Reasons why a node did not do what it was asked to. [`Problem::outcome`] says what that means for a
/// message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The request contradicts itself, or cannot be read.
    Malformed,
    /// There is no message at that offset yet.
    NoSuchOffset {
        /// The offset that the next message gets.
        next: Offset,
    },
    /// The message would not have got the expected offset.
    OffsetMismatch {
        /// The offset that it would have got.
        next: Offset,
    },
    /// The offsets of the request belong to another log than the node's.
    AnotherLog {
        /// The log that the node has; `None`: it has never joined a cluster.
        cluster_id: Option<ClusterId>,
    },
    /// The message or the request is too long.
    TooLarge {
        /// The flag that sets the limit, as `max-message-bytes`; `None`: the node does not say.
        limit: Option<String>,
        /// Maximum bytes.
        limit_bytes: u64,
    },
    /// The node is a secondary, and only the master can do this.
    NotMaster {
        /// The master's name, if the secondary knows it.
        name: Option<NodeName>,
        /// The URL at which clients reach the master, if the secondary knows it.
        url: Option<String>,
    },
    /// The concern asks for more nodes than there are.
    Concern {
        /// Nodes of the cluster.
        nodes: u32,
    },
    /// The idempotency key belongs to a message with other data.
    KeyReused {
        /// The offset of that message.
        offset: Offset,
    },
    /// Too many requests are waiting already.
    Overloaded {
        /// The name of the flag that sets the limit; or `open-files`, for which there is no flag.
        limit: String,
        /// The limit.
        value: u64,
    },
    /// The master takes no appends now.
    ReadOnly {
        /// The master's mode.
        mode: Mode,
        /// The reason for it, as a word such as `no_quorum`.
        mode_reason: Option<String>,
        /// Nodes in contact, the master included.
        alive: u32,
        /// Nodes that must be in contact.
        needed: u32,
        /// Nodes of the cluster.
        nodes: u32,
    },
    /// The node is shutting down.
    Stopping,
    /// The node's disk is full or failing.
    Storage,
    /// Any other reason: see [`Problem::kind`].
    Other,
}

impl Problem {
    /// Returns the reason and its values.
    ///
    /// ```
    /// use replog_core::{Offset, client::{Problem, Reason}};
    ///
    /// # fn main() -> Result<(), serde_json::Error> {
    /// let body = r#"{"type": "/problems/key-reused", "status": 422, "offset": 17}"#;
    /// let problem: Problem = serde_json::from_str(body)?;
    /// assert_eq!(problem.reason(), Reason::KeyReused { offset: Offset(17) });
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.known_reason().unwrap_or(Reason::Other)
    }

    fn known_reason(&self) -> Option<Reason> {
        Some(match self.kind.as_str() {
            "/problems/malformed" => Reason::Malformed,
            "/problems/no-such-offset" => Reason::NoSuchOffset {
                next: self.member("next")?,
            },
            "/problems/offset-mismatch" => Reason::OffsetMismatch {
                next: self.member("next")?,
            },
            "/problems/another-log" => Reason::AnotherLog {
                cluster_id: self.member("cluster_id")?,
            },
            "/problems/too-large" => Reason::TooLarge {
                limit: self.member("limit"),
                limit_bytes: self.member("limit_bytes")?,
            },
            "/problems/not-master" => {
                let master = &self.members.get("master")?;
                Reason::NotMaster {
                    name: serde_json::from_value(master["name"].clone()).ok()?,
                    url: serde_json::from_value(master["url"].clone()).ok()?,
                }
            }
            "/problems/concern" => Reason::Concern {
                nodes: self.member("nodes")?,
            },
            "/problems/key-reused" => Reason::KeyReused {
                offset: self.member("offset")?,
            },
            "/problems/overloaded" => Reason::Overloaded {
                limit: self.member("limit")?,
                value: self.member("value")?,
            },
            "/problems/read-only" => Reason::ReadOnly {
                mode: self.member("mode")?,
                mode_reason: self.member("mode_reason")?,
                alive: self.member("alive")?,
                needed: self.member("needed")?,
                nodes: self.member("nodes")?,
            },
            "/problems/stopping" => Reason::Stopping,
            "/problems/storage" => Reason::Storage,
            _ => return None,
        })
    }

    fn member<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.members.get(name)?.clone()).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_gives_its_reason_as_values_and_nothing_is_guessed() {
        let read_only = Reason::ReadOnly {
            mode: Mode::ReadOnly,
            mode_reason: Some("no_quorum".to_owned()),
            alive: 1,
            needed: 2,
            nodes: 3,
        };
        let nobody = Reason::NotMaster {
            name: None,
            url: None,
        };
        let table = [
            (
                json!({"type": "/problems/read-only", "mode": "read-only", "mode_reason": "no_quorum",
                       "alive": 1, "needed": 2, "nodes": 3}),
                read_only,
            ),
            (
                json!({"type": "/problems/not-master", "master": {"name": null, "url": null}}),
                nobody,
            ),
            (
                json!({"type": "/problems/offset-mismatch", "next": 7}),
                Reason::OffsetMismatch { next: Offset(7) },
            ),
            (
                json!({"type": "/problems/overloaded", "limit": "--max-waiting-appends", "value": 5}),
                Reason::Overloaded {
                    limit: "--max-waiting-appends".to_owned(),
                    value: 5,
                },
            ),
            (
                json!({"type": "/problems/too-large", "limit": "max-request-bytes", "limit_bytes": 9}),
                Reason::TooLarge {
                    limit: Some("max-request-bytes".to_owned()),
                    limit_bytes: 9,
                },
            ),
            (
                json!({"type": "/problems/too-large", "limit_bytes": 9}),
                Reason::TooLarge {
                    limit: None,
                    limit_bytes: 9,
                },
            ),
            (
                json!({"type": "/problems/another-log", "cluster_id": null}),
                Reason::AnotherLog { cluster_id: None },
            ),
            (json!({"type": "/problems/stopping"}), Reason::Stopping),
            // A member is missing, or none that fits.
            (json!({"type": "/problems/offset-mismatch"}), Reason::Other),
            (
                json!({"type": "/problems/concern", "nodes": "three"}),
                Reason::Other,
            ),
            (json!({"type": "/problems/of-tomorrow"}), Reason::Other),
            (json!({"status": 502}), Reason::Other),
        ];
        for (body, expected) in table {
            let problem: Problem = serde_json::from_value(body.clone()).expect("a problem");
            assert_eq!(problem.reason(), expected, "{body}");
        }
    }
}
