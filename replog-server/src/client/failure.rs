//! The failure of a command: an exit code for scripts, and a sentence for people that says what to
//! do.

use std::process::ExitCode;

use replog_core::client::{ClientError, GivenUp, Outcome, Problem, Reason};
use serde_json::Value;

/// The concern was not met in time.
pub(super) const NOT_IN_TIME: u8 = 3;
/// The master takes no appends.
const READ_ONLY: u8 = 4;
/// A node is not well.
pub(super) const UNHEALTHY: u8 = 10;
/// Wrong usage.
const USAGE: u8 = 2;

/// Reason why a command failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: ExitCode,
    /// One sentence.
    pub(super) reason: String,
}

impl Failure {
    /// Returns a failure of the operation.
    pub(super) fn new(reason: impl Into<String>) -> Failure {
        Failure {
            code: ExitCode::FAILURE,
            reason: reason.into(),
        }
    }

    /// Returns a failure because of wrong usage.
    pub(super) fn usage(reason: impl Into<String>) -> Failure {
        Failure::with(USAGE, reason)
    }

    /// Returns a failure with its own exit code.
    pub(super) fn with(code: u8, reason: impl Into<String>) -> Failure {
        Failure {
            code: ExitCode::from(code),
            reason: reason.into(),
        }
    }

    /// Returns the failure of a command whose output nobody reads any more: it is over, and nothing
    /// is to be reported.
    pub(super) fn unread() -> Failure {
        Failure {
            code: ExitCode::SUCCESS,
            reason: String::new(),
        }
    }

    /// Appends `more` to the reason.
    pub(super) fn and(mut self, more: &str) -> Failure {
        self.reason += more;
        self
    }

    /// Names the line of the input that is too long.
    pub(super) fn of_line(mut self, number: u64) -> Failure {
        self.reason = format!("line {number} is too long: {}", self.reason);
        self
    }

    /// Names the node that the failure is about, the one at `url`.
    pub(super) fn of_node(mut self, url: &str) -> Failure {
        self.reason = format!("{url}: {}", self.reason);
        self
    }

    /// Returns the failure of a request to the node at `url`.
    pub(super) fn of(url: &str, error: &ClientError) -> Failure {
        let Some(problem) = error.problem() else {
            let advice = match error {
                ClientError::NotSent(_) => {
                    ": does a node run there? --url or REPLOG_URL says where"
                }
                _ => "",
            };
            let failure = Failure::new(format!("{url}: {error}{advice}"));
            return match error {
                ClientError::Unsendable(_) => Failure::usage(failure.reason),
                _ => failure,
            };
        };
        match problem.reason() {
            Reason::ReadOnly { .. } => Failure::with(READ_ONLY, format!("{url}: {problem}")),
            Reason::NotMaster { url: master, .. } => Failure::of_secondary(url, master.as_deref()),
            // No cluster of that size will have that many nodes.
            Reason::Concern { .. } => Failure::usage(format!("{url}: {problem}")),
            _ => Failure::new(format!("{url}: {problem}")),
        }
    }

    /// Returns the failure of asking a secondary for something that only a master can do; `master`
    /// is its master's URL.
    pub(super) fn of_secondary(url: &str, master: Option<&str>) -> Failure {
        Failure::new(match master {
            Some(master) => format!("{url} is a secondary: try --url {master}"),
            None => format!(
                "{url} is a secondary and does not know where its master is: give the master's --url"
            ),
        })
    }

    /// Does what [`Failure::of`] does, for an append: also says whether the message may be in the
    /// log.
    pub(super) fn of_append(url: &str, error: &ClientError, has_key: bool) -> Failure {
        let mut failure = Failure::of(url, error);
        if error.outcome() == Outcome::Unknown {
            let advice = match has_key {
                true => "send it again with the same key",
                false => "check before sending it again, or use --key",
            };
            failure.reason += &format!("; it may be in the log{}: {advice}", place_of(error));
        }
        failure
    }

    /// Does what [`Failure::of_append`] does, after several attempts.
    pub(super) fn of_attempts(url: &str, given_up: &GivenUp) -> Failure {
        let mut failure = Failure::of(url, &given_up.last);
        if given_up.attempts > 1 {
            failure.reason += &format!("; {given_up}");
        }
        if given_up.outcome == Outcome::Unknown {
            let key = &given_up.idempotency_key;
            let place = place_of(&given_up.last);
            failure.reason +=
                &format!("; it may be in the log{place}: send it again with --key {key}");
        }
        failure
    }
}

/// Returns the position in the log of a failed append's first message, if the node reports it.
fn place_of(error: &ClientError) -> String {
    let unknown = |problem: &&Problem| problem.outcome == Some(Outcome::Unknown);
    let problem = error.problem().filter(unknown);
    let offset = problem.and_then(|problem| problem.members.get("offset"));
    match offset.and_then(Value::as_u64) {
        Some(offset) => format!(" at offset {offset}"),
        None => String::new(),
    }
}
