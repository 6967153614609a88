//! [`Follow`]: follows the log of a node over HTTP, across broken connections and restarts of the node.
//!
//! Owns the position in the log, one connection at a time, and the delays between attempts. Gives each offset
//! at most once, in order.
//!
//! Each request names the log that is followed: a node that has another one says so, and gives that one from its start.
//! An offset means nothing in another log.
//!
//! A reconnect asks again from the last message that was given, and compares: within an epoch an offset is
//! assigned once, so the same offset and epoch are the same message with the same ones before it. Only this
//! detects a cut made while no connection was open; a binary search then finds where the logs diverge.

mod connection;
mod delivered;

use std::{pin::Pin, time::Instant};

use rand::RngExt as _;

use self::{
    connection::{Connection, Line, connect},
    delivered::Delivered,
};
use super::{Client, ClientError, Message, Problem, ReadQuery, Reason};
use crate::{
    config::Timing,
    rules::backoff::Backoff,
    types::{ClusterId, Offset, ReadLevel},
};

/// Follows the messages of a node from an offset on; made by [`Client::follow`].
///
/// ```no_run
/// use replog_core::{Offset, client::{Client, ClientError}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// tokio::task::LocalSet::new().block_on(&runtime, async {
///     let mut follow = Client::new("http://localhost:5000")?.follow(Offset(0));
///     loop {
///         match follow.next().await {
///             Ok(message) => println!("{}: {}", message.offset, message.data),
///             Err(ClientError::Cut { offset }) => println!("forget everything from {offset} on"),
///             Err(error) => return Err(error.into()),
///         }
///     }
/// })
/// # }
/// ```
pub struct Follow {
    client: Client,
    level: ReadLevel,
    /// No offset below this one is given any more.
    next: Offset,
    delivered: Delivered,
    /// The log that all this belongs to, once the node has named it.
    cluster_id: Option<ClusterId>,
    /// Set after a reconnect made because a message came on a connection that named no log.
    asked_for_log: bool,
    connection: Option<Connection>,
    /// The next connection while it is being made: kept here so that dropping a future does not
    /// restart it.
    connecting: Option<Connecting>,
    /// The search for the first message that is gone, after the last one was found to be.
    divergence: Option<DivergenceSearch>,
    backoff: Backoff,
    /// Consecutive attempts that made no connection, or whose connection gave nothing.
    failures: u32,
    on_interruption: Option<OnInterruption>,
    /// Time of the next attempt.
    retry_at: Option<Instant>,
}

type OnInterruption = Box<dyn FnMut(&ClientError)>;

type DivergenceSearch = Pin<Box<dyn Future<Output = Result<Offset, ClientError>>>>;

type Connecting = Pin<Box<dyn Future<Output = Result<Connection, ClientError>>>>;

impl Client {
    /// Follows the messages of the node from `from` on, at level `local`, waiting for each. Connects on the
    /// first call of [`Follow::next`].
    #[must_use]
    pub fn follow(&self, from: Offset) -> Follow {
        let delays = &self.settings.retry_delays;
        let timing = Timing {
            retry_min: *delays.start(),
            retry_max: *delays.end(),
            ..Timing::default()
        };
        Follow {
            client: self.clone(),
            level: ReadLevel::Local,
            next: from,
            delivered: Delivered::default(),
            cluster_id: self.settings.cluster_id,
            asked_for_log: false,
            connection: None,
            connecting: None,
            divergence: None,
            backoff: Backoff::new(&timing, rand::rng().random()),
            failures: 0,
            on_interruption: None,
            retry_at: None,
        }
    }
}

impl Follow {
    /// Follows at this level instead: at `committed` no message is ever cut, except by a forced
    /// recovery.
    #[must_use]
    pub fn level(mut self, level: ReadLevel) -> Follow {
        self.level = level;
        (self.connection, self.connecting) = (None, None);
        self
    }

    /// Reports interruptions: `tell` is called once each time the connection broke and the attempt to make another
    /// one failed too. Following goes on by itself.
    #[must_use]
    pub fn on_interruption(mut self, tell: impl FnMut(&ClientError) + 'static) -> Follow {
        self.on_interruption = Some(Box::new(tell));
        self
    }

    /// Returns the next message. Waits for it without limit, and reconnects as often as it takes: while the
    /// node is down, restarts, or has less than this follower was given.
    ///
    /// # Errors
    ///
    /// [`ClientError::AnotherLog`] if the node has another log than the one followed so far: the next call gives that
    /// one from offset 0 on.
    ///
    /// [`ClientError::Cut`] if messages that were given are not in the node's log any more: the next call gives what
    /// replaced them, from that offset on. Any other error is an answer that will not change by itself, such as a
    /// [`Problem`] of status 400: the next call tries again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no message.
    pub async fn next(&mut self) -> Result<Message, ClientError> {
        loop {
            let step = match &mut self.divergence {
                None => self.next_line().await.map(|line| self.on_line(line)),
                Some(divergence) => {
                    let found = divergence.await;
                    self.divergence = None;
                    found.map(|offset| self.cut(offset).map(Err))
                }
            };
            match step {
                Ok(Some(result)) => return result,
                Ok(None) => {}
                Err(error) => {
                    self.connection = None;
                    match may_pass(&error) {
                        true => self.on_failure(&error),
                        false => return Err(error),
                    }
                }
            }
        }
    }

    /// Returns the next complete line, connecting first if there is no connection.
    async fn next_line(&mut self) -> Result<Line, ClientError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                if self.connecting.is_none() {
                    self.wait_to_retry().await;
                }
                let (client, url) = (&self.client, self.url());
                let connecting = self.connecting.get_or_insert_with(|| {
                    let compares = self.delivered.last().is_some();
                    Box::pin(connect(client.clone(), url, compares, self.cluster_id))
                });
                let connected = connecting.await;
                self.connecting = None;
                let connected = connected?;
                self.failures = 0;
                self.cluster_id = self.cluster_id.or(connected.cluster_id);
                self.connection.insert(connected)
            }
        };
        connection
            .next_line(self.client.settings.answer_bytes_max)
            .await
    }

    /// Handles a line and returns what there is to report.
    fn on_line(&mut self, line: Line) -> Option<Result<Message, ClientError>> {
        match line {
            Line::Message(message) => self.on_message(message),
            Line::Bye => {
                self.connection = None;
                self.on_failure(&ClientError::NoAnswer("the node stops".to_owned()));
                None
            }
            Line::Cut(offset) => self.cut(offset).map(Err),
            Line::AnotherLog(cluster_id) => self.another_log(cluster_id).map(Err),
        }
    }

    fn on_message(&mut self, message: Message) -> Option<Result<Message, ClientError>> {
        if self.cluster_id.is_none() && !self.asked_for_log {
            // The node had no log when it answered, and has one now: asked again, it names it.
            self.asked_for_log = true;
            self.connection = None;
            return None;
        }
        let compares = self
            .connection
            .as_mut()
            .is_some_and(|connection| std::mem::take(&mut connection.compares));
        if let Some(last) = self.delivered.last().filter(|_| compares) {
            if (message.offset, message.epoch) != last {
                self.connection = None;
                let client = match self.cluster_id {
                    Some(cluster_id) => self.client.in_log(cluster_id),
                    None => self.client.clone(),
                };
                self.divergence = Some(Box::pin(divergence(
                    client,
                    self.level,
                    self.delivered.clone(),
                )));
            }
            return None;
        }
        if message.offset < self.next {
            let detail = format!("message {} came after {}", message.offset, self.next);
            self.connection = None;
            return Some(Err(ClientError::Unreadable {
                status: 200,
                detail,
            }));
        }
        self.backoff.reset();
        self.next = Offset(message.offset.0.saturating_add(1));
        self.delivered.push(message.offset, message.epoch);
        Some(Ok(message))
    }

    /// Starts over in another log; returns an error to report if there was a position in the one
    /// before.
    fn another_log(&mut self, cluster_id: ClusterId) -> Option<ClientError> {
        if let Some(connection) = &mut self.connection {
            connection.compares = false;
        }
        self.cluster_id = Some(cluster_id);
        self.delivered = Delivered::default();
        let had_a_place = std::mem::take(&mut self.next) != Offset::ZERO;
        had_a_place.then_some(ClientError::AnotherLog { cluster_id })
    }

    /// Goes back to `offset`; returns an error to report if messages from there on were given.
    fn cut(&mut self, offset: Offset) -> Option<ClientError> {
        self.connection = None;
        self.delivered.cut(offset);
        let was_given = offset < self.next;
        self.next = self.next.min(offset);
        was_given.then_some(ClientError::Cut { offset })
    }

    fn on_failure(&mut self, error: &ClientError) {
        self.failures = self.failures.saturating_add(1);
        if self.failures == 2
            && let Some(tell) = &mut self.on_interruption
        {
            tell(error);
        }
        let delay = self.backoff.on_failure();
        self.retry_at = Instant::now().checked_add(delay);
        tracing::debug!(
            url = %self.client.base, next = %self.next, %error, delay_ms = delay.as_millis() as u64,
            "following is interrupted"
        );
    }

    async fn wait_to_retry(&mut self) {
        if let Some(at) = self.retry_at {
            tokio::time::sleep_until(at.into()).await;
            self.retry_at = None;
        }
    }

    fn url(&self) -> String {
        let from = self
            .delivered
            .last()
            .map_or(self.next, |(offset, _)| offset);
        let base = &self.client.base;
        let level = match self.level {
            ReadLevel::Local => "local",
            ReadLevel::Committed => "committed",
        };
        format!("{base}/messages?from={from}&follow=true&level={level}")
    }
}

/// Returns the first given offset at which the node has something else, once this is known of the last one.
/// If the logs diverge before everything that is remembered, returns the first remembered offset.
async fn divergence(
    client: Client,
    level: ReadLevel,
    delivered: Delivered,
) -> Result<Offset, ClientError> {
    let Some(divergence_range) = delivered.divergence_range() else {
        return Ok(Offset::ZERO);
    };
    let (mut begin, mut end) = (divergence_range.start.0, divergence_range.end.0);
    while begin < end {
        let middle = begin + (end - begin) / 2;
        let query = ReadQuery {
            from: Some(Offset(middle)),
            limit: Some(1),
            level: Some(level),
            ..ReadQuery::default()
        };
        let page = client
            .messages(&query)
            .await
            .map_err(|error| match &error {
                // The next connection reports this.
                ClientError::Problem(problem) if is_another_log(problem) => {
                    ClientError::NoAnswer(problem.to_string())
                }
                _ => error,
            })?;
        let Some(message) = page.messages.first() else {
            // It had more a moment ago, and may again: nothing is concluded from that.
            let less = format!("the node shows nothing from offset {middle} on");
            return Err(ClientError::NoAnswer(less));
        };
        match delivered.has(message.offset, message.epoch) {
            true => begin = message.offset.0.saturating_add(1),
            false => end = middle,
        }
    }
    Ok(Offset(end.min(divergence_range.end.0)))
}

fn is_another_log(problem: &Problem) -> bool {
    matches!(problem.reason(), Reason::AnotherLog { .. })
}

/// Returns true if the next attempt may succeed without anyone's help.
fn may_pass(error: &ClientError) -> bool {
    // A node that has joined no cluster yet will get a log, and then names it.
    let is_blank = |problem: &Problem| problem.reason() == Reason::AnotherLog { cluster_id: None };
    let refused =
        |problem: &Problem| problem.status == 429 || problem.status >= 500 || is_blank(problem);
    match error {
        ClientError::NotSent(_) | ClientError::NoAnswer(_) => true,
        ClientError::Problem(problem) => refused(problem),
        ClientError::Unsendable(_)
        | ClientError::TooLarge { .. }
        | ClientError::Unreadable { .. }
        | ClientError::Cut { .. }
        | ClientError::AnotherLog { .. } => false,
    }
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow")
            .field("url", &self.client.base)
            .field("level", &self.level)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
