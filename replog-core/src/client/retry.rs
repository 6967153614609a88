//! Appends that are sent again until their outcome is known.
//!
//! Owns the key that makes that safe, the delays between attempts, and what all attempts together say about
//! the message. Never sends anything twice without a key.
//!
//! Once the outcome of one attempt is unknown, the outcome of the whole is unknown until an attempt succeeds:
//! an earlier request may still arrive after a later one was refused.

use std::time::{Duration, Instant};

use awc::http::Method;
use bytes::Bytes;
use rand::RngExt as _;
use serde_json::value::RawValue;

use super::{
    AppendRequest, Appended, AppendedBatch, Client, ClientError, Outcome,
    append::Asked,
    exchange::{Outgoing, uri, within},
};
use crate::{config::Timing, rules::backoff::Backoff, words::counted};

/// Maximum silence before a node is asked whether it is alive: an append may wait for its concern without
/// limit, and a node that hangs is silent too.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum time for the answer to that, unless the time-out for answers is shorter.
const SIGN_TIME_MAX: Duration = Duration::from_secs(5);

/// Error of a retried append that was given up.
#[derive(Clone, Debug, thiserror::Error)]
#[error("given up after {}", counted(attempts, "attempt"))]
#[non_exhaustive]
pub struct GivenUp {
    /// State of the message after all attempts: not appended only if none of them can have put it into the
    /// log.
    pub outcome: Outcome,
    /// Number of attempts, including those that could not be sent.
    pub attempts: u32,
    /// The key of all attempts: the message may be sent again later with the same one.
    pub idempotency_key: String,
    /// Error of the last attempt.
    #[source]
    pub last: ClientError,
}

impl Client {
    /// Appends as [`append_raw`](Client::append_raw) does, and sends the message again where that may help:
    /// after a broken connection, and while the master is down, recovering, or read-only. The message is
    /// appended once: each attempt has the same idempotency key, the request's or else a random one. That
    /// holds while the message is among the last ones whose keys the cluster remembers (`--key-horizon` of
    /// its nodes).
    ///
    /// No attempt begins after `within` is over; `None`: attempts are not limited. An attempt that waits for its
    /// concern is not cut short ([`AppendRequest::timeout`] limits that) unless the node hangs: a node that is silent
    /// for a while is asked on another connection whether it is alive. Between attempts it waits as
    /// [`ClientBuilder::retry_delays`](super::ClientBuilder::retry_delays) says, and as long as the node asks it to.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use replog_core::client::{AppendRequest, Client};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new("http://localhost:5000")?;
    /// let data = serde_json::value::to_raw_value("once")?;
    /// let request = AppendRequest { timeout: Some(Duration::from_secs(5)), ..AppendRequest::default() };
    /// let within = Some(Duration::from_secs(60));
    /// let appended = client.append_retrying(&data, &request, within).await?;
    /// println!("at {}", appended.receipt.offset);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`GivenUp`]: when `within` is over, or at once if another attempt would be refused too.
    ///
    /// # Cancel safety
    ///
    /// After the future is dropped nothing is known about the message, unless the request has a key of its
    /// own, with which it can be sent again.
    pub async fn append_retrying(
        &self,
        data: &RawValue,
        request: &AppendRequest,
        within: Option<Duration>,
    ) -> Result<Appended, GivenUp> {
        let (mut attempts, request) = self.attempts(request, within);
        loop {
            let asked = Asked::of(self);
            let appending = self.append_at(&asked, data, &request);
            match attempts.unless_it_hangs(self, &asked, appending).await {
                Ok(appended) => return Ok(appended),
                Err(error) => attempts.go_on_after(error).await?,
            }
        }
    }

    /// Appends as [`append_batch`](Client::append_batch) does, and sends again as
    /// [`append_retrying`](Client::append_retrying) does.
    ///
    /// # Errors
    ///
    /// [`GivenUp`].
    pub async fn append_batch_retrying(
        &self,
        messages: &[&RawValue],
        request: &AppendRequest,
        within: Option<Duration>,
    ) -> Result<AppendedBatch, GivenUp> {
        let (mut attempts, request) = self.attempts(request, within);
        loop {
            let asked = Asked::of(self);
            let messages = messages.iter().copied();
            let appending = self.append_batch_at(&asked, messages, &request);
            match attempts.unless_it_hangs(self, &asked, appending).await {
                Ok(appended) => return Ok(appended),
                Err(error) => attempts.go_on_after(error).await?,
            }
        }
    }

    /// Checks that the node at this URL answers anything at all.
    async fn sign_of_life(&self, url: &str) -> Result<(), ClientError> {
        let time = self.settings.timeout.unwrap_or(SIGN_TIME_MAX);
        let outgoing = Outgoing {
            method: Method::GET,
            uri: uri(&format!("{url}/livez"))?,
            headers: &[],
            body: Bytes::new(),
            repeatable: true,
        };
        let answered = within(Some(time.min(SIGN_TIME_MAX)), self.exchange(&outgoing));
        answered.await.map(drop)
    }

    /// Returns the state before the first attempt, and the request with a key.
    fn attempts(
        &self,
        request: &AppendRequest,
        within: Option<Duration>,
    ) -> (Attempts, AppendRequest) {
        let mut request = request.clone();
        let key = request
            .idempotency_key
            .get_or_insert_with(|| format!("{:032x}", rand::rng().random::<u128>()))
            .clone();
        let delays = &self.settings.retry_delays;
        let timing = Timing {
            retry_min: *delays.start(),
            retry_max: *delays.end(),
            ..Timing::default()
        };
        let attempts = Attempts {
            count: 0,
            outcome: Outcome::NotAppended,
            key,
            deadline: within.and_then(|within| Instant::now().checked_add(within)),
            backoff: Backoff::new(&timing, rand::rng().random()),
        };
        (attempts, request)
    }
}

/// Combined outcome of the attempts so far.
struct Attempts {
    count: u32,
    outcome: Outcome,
    key: String,
    deadline: Option<Instant>,
    backoff: Backoff,
}

impl Attempts {
    /// Handles a failed attempt; returns the time to wait before the next one; `None`: give up.
    fn on_error(&mut self, now: Instant, error: &ClientError) -> Option<Duration> {
        self.count = self.count.saturating_add(1);
        if error.outcome() == Outcome::Unknown {
            self.outcome = Outcome::Unknown;
        }
        if !error.is_retryable() {
            return None;
        }
        let asked = error.problem().and_then(|problem| problem.retry_after);
        let delay = self.backoff.on_failure().max(asked.unwrap_or_default());
        let is_over = |deadline: Instant| now + delay >= deadline;
        (!self.deadline.is_some_and(is_over)).then_some(delay)
    }

    /// Returns the outcome of an attempt, or that its node hangs: then the outcome is unknown.
    async fn unless_it_hangs<T>(
        &self,
        client: &Client,
        asked: &Asked,
        appending: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let left = self.deadline.map(|deadline| deadline - Instant::now());
        let hangs = async {
            let mut quiet = left.map_or(LOOK_INTERVAL, |left| left.min(LOOK_INTERVAL));
            loop {
                tokio::time::sleep(quiet).await;
                match client.sign_of_life(&asked.url()).await {
                    Ok(()) => {}
                    Err(ClientError::NotSent(why) | ClientError::NoAnswer(why)) => return why,
                    Err(error) => return error.to_string(),
                }
                quiet = LOOK_INTERVAL;
            }
        };
        tokio::select! {
            biased;
            appended = appending => appended,
            why = hangs => Err(ClientError::NoAnswer(format!("{} hangs: {why}", asked.url()))),
        }
    }

    /// Waits until the next attempt is due.
    async fn go_on_after(&mut self, error: ClientError) -> Result<(), GivenUp> {
        match self.on_error(Instant::now(), &error) {
            Some(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            None => Err(GivenUp {
                outcome: self.outcome,
                attempts: self.count,
                idempotency_key: self.key.clone(),
                last: error,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{
        client::{
            Problem,
            responder::{Asked, Reply, Responder},
        },
        transport::suite,
    };

    const RECEIPT: &str = concat!(
        r#"{"offset":17,"epoch":4,"concern":2,"concern_met":true,"acks":["master"],"#,
        r#""waiting_for":[],"durable":true,"elapsed_ms":3}"#,
    );
    const RECOVERING: &str =
        r#"{"type":"/problems/read-only","status":503,"outcome":"not_appended","retriable":true}"#;
    const MALFORMED: &str =
        r#"{"type":"/problems/malformed","status":400,"outcome":"not_appended","retriable":false}"#;

    fn receipt() -> Reply {
        let body = RECEIPT.as_bytes();
        Reply::Answer(Responder::answer("201 Created", "application/json", body))
    }

    fn problem(status: &str, body: &str) -> Reply {
        let content_type = "application/problem+json";
        Reply::Answer(Responder::answer(status, content_type, body.as_bytes()))
    }

    /// Makes an append that gets these answers one after the other, the last one repeatedly; returns its result
    /// and what was sent.
    fn appended(
        replies: Vec<Reply>,
        request: &AppendRequest,
        within: Option<Duration>,
    ) -> (Result<Appended, GivenUp>, Vec<Asked>) {
        suite::run(async {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let asked = Arc::clone(&seen);
            let responder = Responder::start(move |request| {
                let mut asked = asked.lock().expect("no thread panicked");
                let reply = &replies[asked.len().min(replies.len() - 1)];
                asked.push(request);
                reply.clone()
            });
            let delays = Duration::from_millis(1)..=Duration::from_millis(2);
            let client = Client::builder(&responder.url()).retry_delays(delays);
            let client = client.build().expect("a URL");
            let data = serde_json::value::to_raw_value("x").expect("JSON");
            let appended = client.append_retrying(&data, request, within).await;
            let seen = std::mem::take(&mut *seen.lock().expect("no thread panicked"));
            (appended, seen)
        })
    }

    fn keys(seen: &[Asked]) -> Vec<String> {
        let key = |asked: &Asked| -> Option<String> {
            let body: serde_json::Value = serde_json::from_slice(&asked.body).ok()?;
            Some(body["meta"]["idempotency_key"].as_str()?.to_owned())
        };
        seen.iter()
            .map(|asked| key(asked).expect("a key"))
            .collect()
    }

    #[test]
    fn an_append_is_sent_again_with_the_same_key_until_it_is_answered() {
        let replies = vec![Reply::Close, problem("503 Busy", RECOVERING), receipt()];
        let (result, seen) = appended(replies, &AppendRequest::default(), None);
        assert_eq!(result.expect("an answer").receipt.offset.0, 17);
        let keys = keys(&seen);
        assert_eq!(keys.len(), 3);
        assert_eq!(keys[0].len(), 32, "a random one");
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    }

    #[test]
    fn an_unknown_outcome_stays_unknown_and_no_attempt_begins_after_the_deadline() {
        let client = Client::new("http://localhost:5000").expect("a URL");
        let attempts = |within: u64| {
            let within = Some(Duration::from_millis(within));
            client.attempts(&AppendRequest::default(), within).0
        };
        let not_sent = ClientError::NotSent("nothing there".to_owned());
        let no_answer = ClientError::NoAnswer("broken".to_owned());
        let now = Instant::now();

        let mut known = attempts(60_000);
        assert_eq!(known.on_error(now, &not_sent), Some(Duration::ZERO));
        assert!(known.on_error(now, &not_sent) > Some(Duration::ZERO));
        assert_eq!(known.outcome, Outcome::NotAppended);
        known.on_error(now, &no_answer);
        known.on_error(now, &not_sent);
        assert_eq!((known.outcome, known.count), (Outcome::Unknown, 4));
        let later = now + Duration::from_secs(120);
        assert_eq!(known.on_error(later, &not_sent), None);

        // The node asks for a second.
        let mut problem: Problem = serde_json::from_str(RECOVERING).expect("a problem");
        problem.retry_after = Some(Duration::from_secs(1));
        let problem = ClientError::Problem(Box::new(problem));
        let delay = attempts(60_000).on_error(now, &problem);
        assert_eq!(delay, Some(Duration::from_secs(1)));
        assert_eq!(attempts(500).on_error(now, &problem), None);
    }

    #[test]
    fn an_append_to_a_node_that_hangs_is_given_up_and_one_that_waits_is_not() {
        suite::run(async {
            let data = serde_json::value::to_raw_value("x").expect("JSON");
            let moment = Duration::from_millis(20);
            // Accepts connections and never reads from them.
            let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let url = format!("http://{}", silent.local_addr().expect("it is bound"));
            let client = Client::builder(&url).timeout(Some(moment));
            let client = client.build().expect("a URL");
            let request = AppendRequest::default();
            let hangs = client.append_retrying(&data, &request, Some(moment)).await;
            let given_up = hangs.expect_err("nothing answers");
            assert_eq!(given_up.outcome, Outcome::Unknown);
            assert!(given_up.last.to_string().contains("hangs"), "{given_up:?}");

            // Answers that it is alive, and then answers the append.
            let lives = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
            let told = Arc::clone(&lives);
            let responder = Responder::start(move |asked| {
                let (lives, changed) = &*told;
                let mut lives = lives.lock().expect("no thread panicked");
                if asked.head.starts_with("GET /livez ") {
                    *lives = true;
                    changed.notify_all();
                    return problem("503 Busy", "{}");
                }
                let waited = changed.wait_while(lives, |lives| !*lives);
                drop(waited.expect("no thread panicked"));
                receipt()
            });
            let client = Client::new(&responder.url()).expect("a URL");
            let waits = client.append_retrying(&data, &request, Some(moment)).await;
            assert_eq!(waits.expect("an answer").url, responder.url());
            assert_eq!(responder.asked(), 2);
        });
    }

    #[test]
    fn a_429_from_a_proxy_is_retried() {
        let busy = Reply::Answer(Responder::answer(
            "429 Too Many Requests",
            "text/html",
            b"slow down",
        ));
        let (result, seen) = appended(vec![busy, receipt()], &AppendRequest::default(), None);
        assert_eq!(result.expect("an answer").receipt.offset.0, 17);
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn an_append_that_would_be_refused_again_is_not_retried() {
        let request = AppendRequest {
            idempotency_key: Some("mine".to_owned()),
            ..AppendRequest::default()
        };
        let (result, seen) = appended(vec![problem("400 Bad", MALFORMED)], &request, None);
        let given_up = result.expect_err("refused");
        assert_eq!(keys(&seen), ["mine"]);
        assert_eq!(
            (given_up.attempts, given_up.outcome),
            (1, Outcome::NotAppended)
        );
        assert_eq!(given_up.idempotency_key, "mine");
    }
}
