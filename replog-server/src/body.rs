//! The body of a request: read whole, within limits of bytes and of time.
//!
//! Owns the limits on reading. Memory for bodies is bounded by a budget that all requests of a node share, so that a
//! thousand clients that send slowly cost no more than a few that send fast. Each address has a share of it, and a
//! stalled body loses its memory to one that needs it. Keeps rule 11.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix_web::{HttpRequest, error::PayloadError, http::header, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use replog_core::error::LimitName;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::{
    problem::{Kind, Problem},
    shares::{Client, Held},
    words::counted,
};

/// Time limit for a body without progress.
const BODY_STALL_MAX: Duration = Duration::from_secs(30);
/// Time limit for a whole body: the largest that a client may send takes no longer at 250 kbit/s. Without it a byte every
/// half minute would hold a connection for ever.
const BODY_TIME_MAX: Duration = Duration::from_secs(300);
/// Time without progress after which others may take a body's memory, if they need it.
const STALL_MIN: Duration = Duration::from_secs(1);

/// Buffer allocated at once for a body: the length that a client announces is no reason to allocate much.
const INITIAL_BYTES: usize = 64 << 10;

/// Maximum number of bytes of bodies that a node holds at once.
#[derive(Debug)]
pub(crate) struct Budget {
    bodies: Mutex<Bodies>,
    limit_bytes: usize,
    /// Name of the setting that it comes from, as given in answers.
    limit_name: &'static str,
}

/// The bodies being read.
#[derive(Debug, Default)]
struct Bodies {
    held: Held,
    by_number: HashMap<u64, Body>,
    next_number: u64,
}

#[derive(Debug)]
struct Body {
    client: Client,
    bytes: usize,
    /// Time of its last growth.
    grew_at: Instant,
    /// Notified when the body has lost its memory.
    lost: Arc<Notify>,
}

impl Budget {
    /// Returns a budget from which nothing has been taken.
    pub(crate) fn new(limit_name: &'static str, limit_bytes: usize) -> Arc<Budget> {
        Arc::new(Budget {
            bodies: Mutex::default(),
            limit_bytes,
            limit_name,
        })
    }

    /// Returns the bytes that are taken.
    #[cfg(test)]
    pub(crate) fn used_bytes(&self) -> usize {
        self.bodies().held.total()
    }

    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bodies {
    fn add(&mut self, client: Client, now: Instant) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let body = Body {
            client,
            bytes: 0,
            grew_at: now,
            lost: Arc::new(Notify::new()),
        };
        self.by_number.insert(number, body);
        number
    }

    /// Makes space by ending a stalled body: one of any client if everything is taken, else another one of this client,
    /// which has its share. Prefers the client that holds most, and then the body that has been stalled longest.
    /// Returns `false` if there is none.
    fn end_stalled(&mut self, own_number: u64, is_all_taken: bool, now: Instant) -> bool {
        let own = self.by_number[&own_number].client;
        let stalled = self.by_number.iter().filter_map(|(number, body)| {
            let is_stalled = now.saturating_duration_since(body.grew_at) >= STALL_MIN;
            let may_lose =
                body.bytes > 0 && *number != own_number && (is_all_taken || body.client == own);
            (is_stalled && may_lose).then(|| {
                let held = self.held.of(body.client);
                (Reverse(held), body.grew_at, *number)
            })
        });
        let Some((_, _, number)) = stalled.min() else {
            return false;
        };
        let body = self.by_number.get_mut(&number);
        let body = body.expect("it was there a moment ago");
        self.held.remove(body.client, body.bytes);
        body.bytes = 0;
        body.lost.notify_one();
        true
    }
}

/// A part of a [`Budget`], released when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    number: u64,
    lost: Arc<Notify>,
}

impl Share {
    /// Returns an empty share, for the body of a client that is being read: if it stalls, others may take its memory.
    pub(crate) fn of(budget: &Arc<Budget>, client: Client) -> Share {
        let mut bodies = budget.bodies();
        let number = bodies.add(client, Instant::now());
        let lost = Arc::clone(&bodies.by_number[&number].lost);
        drop(bodies);
        Share {
            budget: Arc::clone(budget),
            number,
            lost,
        }
    }

    /// Takes more.
    ///
    /// # Errors
    ///
    /// 429 if all shares together would exceed the budget, or those of the client its part of it, and no stalled body
    /// can be ended. Nothing is taken then.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let budget = &self.budget;
        let now = Instant::now();
        let mut bodies = budget.bodies();
        let client = bodies.by_number[&self.number].client;
        while !bodies.held.may_take(client, bytes, budget.limit_bytes) {
            let is_all_taken = bodies.held.total().saturating_add(bytes) > budget.limit_bytes;
            if !bodies.end_stalled(self.number, is_all_taken, now) {
                return Err(Problem::overloaded(
                    budget.limit_name,
                    budget.limit_bytes as u64,
                ));
            }
        }
        bodies.held.add(client, bytes);
        let own = bodies.by_number.get_mut(&self.number);
        let own = own.expect("a share has its entry");
        own.bytes += bytes;
        own.grew_at = now;
        Ok(())
    }

    /// Waits until another body has taken its memory.
    async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut bodies = self.budget.bodies();
        if let Some(own) = bodies.by_number.remove(&self.number) {
            bodies.held.remove(own.client, own.bytes);
        }
    }
}

/// Limits on one body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Name of the setting of `keep_bytes`, as given in answers.
    pub(crate) limit: LimitName,
    /// Bytes that are kept: a larger body is too large.
    pub(crate) keep_bytes: usize,
    /// Bytes that are read and dropped, including those kept, so that the sender of a refused body sees the answer and
    /// not a broken connection.
    pub(crate) drain_bytes: usize,
    /// Maximum number of bytes that are allocated at once, if that many are announced.
    pub(crate) initial_bytes: usize,
}

impl BodyLimits {
    /// Returns the limits of bodies that may have `keep_bytes`, the setting `limit`. If a body is longer, up to
    /// `rest_bytes` of the rest are read and dropped.
    pub(crate) fn new(limit: LimitName, keep_bytes: usize, rest_bytes: usize) -> BodyLimits {
        BodyLimits {
            limit,
            keep_bytes,
            drain_bytes: keep_bytes.saturating_add(rest_bytes),
            initial_bytes: INITIAL_BYTES,
        }
    }

    fn exceeded(&self) -> Problem {
        Problem::too_large("the body", self.limit, self.keep_bytes)
    }
}

/// Reads a whole body.
///
/// # Errors
///
/// 413 if it is too large, 408 if it does not arrive in time, 429 if all bodies together take too much memory, 400 if
/// it breaks off.
pub(crate) async fn read(
    request: &HttpRequest,
    payload: &mut web::Payload,
    limits: BodyLimits,
    budget: &Arc<Budget>,
) -> Result<Bytes, Problem> {
    let mut source = Source::new(payload);
    let announced = content_length(request);
    if announced.is_some_and(|bytes| bytes > limits.keep_bytes as u64) {
        source.drain(announced, limits.drain_bytes).await;
        return Err(limits.exceeded());
    }
    let mut share = Share::of(budget, Client::at(request.peer_addr()));
    let announced_bytes = usize::try_from(announced.unwrap_or(0)).unwrap_or(usize::MAX);
    let mut body = BytesMut::with_capacity(announced_bytes.min(limits.initial_bytes));
    loop {
        let chunk = tokio::select! {
            biased;
            () = share.lost() => {
                let text = format!("the body stopped after {}, and others need its memory", counted(body.len(), "byte"));
                return Err(Problem::new(Kind::TimedOut, text));
            }
            chunk = source.next() => chunk?,
        };
        let Some(chunk) = chunk else {
            break;
        };
        let refused = if body.len() + chunk.len() > limits.keep_bytes {
            Some(limits.exceeded())
        } else {
            share.grow(chunk.len()).err()
        };
        if let Some(problem) = refused {
            drop((body, share));
            source.drain(announced, limits.drain_bytes).await;
            return Err(problem);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Reads and drops a body whose request is refused whatever its contents.
pub(crate) async fn drain(request: &HttpRequest, payload: &mut web::Payload, bytes_max: usize) {
    Source::new(payload)
        .drain(content_length(request), bytes_max)
        .await;
}

/// Reads and drops the body of a request that must have none; returns `true` if it has none.
pub(crate) async fn is_absent(
    request: &HttpRequest,
    payload: &mut web::Payload,
    bytes_max: usize,
) -> bool {
    let (mut source, announced) = (Source::new(payload), content_length(request));
    source.drain(announced, bytes_max).await;
    announced.unwrap_or(0) == 0 && source.read_bytes == 0
}

fn content_length(request: &HttpRequest) -> Option<u64> {
    request
        .headers()
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// A body as it arrives.
struct Source<'a> {
    payload: &'a mut web::Payload,
    deadline: Instant,
    read_bytes: usize,
}

impl<'a> Source<'a> {
    fn new(payload: &'a mut web::Payload) -> Source<'a> {
        Source {
            payload,
            deadline: Instant::now() + BODY_TIME_MAX,
            read_bytes: 0,
        }
    }

    /// Returns the next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let deadline = self.deadline.min(Instant::now() + BODY_STALL_MAX);
        match timeout_at(deadline, self.payload.next()).await {
            Ok(Some(Ok(chunk))) => {
                self.read_bytes += chunk.len();
                Ok(Some(chunk))
            }
            Ok(None) => Ok(None),
            Ok(Some(Err(PayloadError::Incomplete(_) | PayloadError::EncodingCorrupted))) => {
                let came = counted(self.read_bytes, "byte");
                Err(Problem::malformed(format!(
                    "the body ended too early, or one of its chunks is malformed: {came} came"
                )))
            }
            Ok(Some(Err(error))) => Err(Problem::malformed(format!(
                "the body could not be read: {error}"
            ))),
            Err(_elapsed) => Err(Problem::new(
                Kind::TimedOut,
                format!(
                    "the body stopped after {}",
                    counted(self.read_bytes, "byte")
                ),
            )),
        }
    }

    /// Reads and drops the body to its end, unless that is beyond `bytes_max`.
    async fn drain(&mut self, announced: Option<u64>, bytes_max: usize) {
        if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
            return;
        }
        while self.read_bytes <= bytes_max {
            let Ok(Some(_)) = self.next().await else {
                return;
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::{FromRequest as _, dev, test::TestRequest};
    use futures_util::stream;

    use super::*;

    const LIMITS: BodyLimits = BodyLimits {
        limit: LimitName::MaxMessageBytes,
        keep_bytes: 8,
        drain_bytes: 100,
        initial_bytes: 8,
    };

    /// Reads a body that arrives in these chunks and then, if it `stalls`, never ends.
    async fn read_chunks(
        chunks: &[&'static str],
        stalls: bool,
        budget: &Arc<Budget>,
    ) -> Result<Bytes, Problem> {
        let request = TestRequest::default().to_http_request();
        let chunks: Vec<Result<Bytes, PayloadError>> = chunks
            .iter()
            .map(|chunk| Ok(Bytes::from_static(chunk.as_bytes())))
            .collect();
        let chunks = stream::iter(chunks);
        let mut payload = if stalls {
            dev::Payload::from(chunks.chain(stream::pending()).boxed_local())
        } else {
            dev::Payload::from(chunks.boxed_local())
        };
        let payload = web::Payload::from_request(&request, &mut payload).await;
        read(&request, &mut payload.expect("a payload"), LIMITS, budget).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_whole_or_refused_with_the_reason() {
        let budget = Budget::new("max-queued-bytes", 80);
        let table: [(&[&str], bool, Result<&str, &str>); 6] = [
            (&[], false, Ok("")),
            (&["1234", "5678"], false, Ok("12345678")),
            (&["1234", "56789"], false, Err("413")),
            (&["123456789", "more"], false, Err("413")),
            (&["1234"], true, Err("408")),
            (&["1234", "56789"], true, Err("413")),
        ];
        for (chunks, stalls, expected) in table {
            let started = Instant::now();
            let result = read_chunks(chunks, stalls, &budget).await;
            match (&result, expected) {
                (Ok(body), Ok(expected)) => assert_eq!(body, expected.as_bytes()),
                (Err(problem), Err(status)) => {
                    assert!(
                        problem.to_string().starts_with(status),
                        "{chunks:?}: {problem}"
                    );
                }
                _ => panic!("{chunks:?}: {result:?}"),
            }
            assert!(started.elapsed() <= BODY_TIME_MAX, "{chunks:?}");
            assert_eq!(budget.used_bytes(), 0, "{chunks:?}: released");
        }
    }

    fn client(number: u8) -> Client {
        Client::at(Some(([10, 0, 0, number], 1).into()))
    }

    #[tokio::test(start_paused = true)]
    async fn all_bodies_together_take_no_more_than_the_budget() {
        let budget = Budget::new("max-queued-bytes", 8);
        let mut other = Share::of(&budget, client(1));
        other.grow(5).expect("there is room");
        let problem = read_chunks(&["1234"], false, &budget)
            .await
            .expect_err("there is none");
        assert!(
            problem
                .to_string()
                .contains("max-queued-bytes is reached at 8"),
            "{problem}"
        );
        drop(other);
        assert!(read_chunks(&["1234"], false, &budget).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_body_loses_its_memory_to_one_that_needs_it() {
        let budget = Budget::new("max-queued-bytes", 8);
        let stalled = read_chunks(&["12345"], true, &budget);
        let wanted = async {
            tokio::time::sleep(STALL_MIN).await;
            let mut other = Share::of(&budget, client(1));
            other.grow(6).expect("room was made");
            other.grow(3).expect_err("no other body is stalled");
            other
        };
        let started = Instant::now();
        let (stalled, other) = tokio::join!(stalled, wanted);
        let problem = stalled.expect_err("it lost its memory").to_string();
        assert!(
            problem.starts_with("408") && problem.contains("others need"),
            "{problem}"
        );
        assert_eq!(started.elapsed(), STALL_MIN);
        assert_eq!(budget.used_bytes(), 6);
        drop(other);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_its_part_takes_no_memory_of_others() {
        let budget = Budget::new("max-queued-bytes", 80);
        let [mut first, mut second, mut third] =
            [1, 1, 2].map(|number| Share::of(&budget, client(number)));
        third.grow(10).expect("there is room");
        first.grow(40).expect("there is room");
        second.grow(20).expect("there is room");
        tokio::time::sleep(STALL_MIN).await;
        // Its own older body ends, and the other client's stays.
        second.grow(9).expect("room was made");
        assert_eq!(budget.used_bytes(), 39);
        assert!(timeout_at(Instant::now(), first.lost()).await.is_ok());
        assert!(timeout_at(Instant::now(), third.lost()).await.is_err());
    }
}
