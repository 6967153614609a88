//! The body of a request: read whole, within limits of bytes and of time.
//!
//! Owns the limits on reading. Memory for bodies is bounded by a budget that all requests of a
//! node share, so that a thousand clients that send slowly cost no more than a few that send
//! fast. Keeps rule 11.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{HttpRequest, http::header, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use crate::problem::{Kind, Problem};

/// How long a body may make no progress.
const BODY_STALL_MAX: Duration = Duration::from_secs(30);
/// How long a body may take in all: the largest that a client may send takes no longer at
/// 2 Mbit/s. Without it a byte every half minute would hold a connection for ever.
const BODY_TIME_MAX: Duration = Duration::from_secs(300);

/// Bytes of bodies that a node holds at once, at most.
#[derive(Debug)]
pub(crate) struct Budget {
    used_bytes: AtomicUsize,
    limit_bytes: usize,
    /// The setting that it comes from, as the answer names it.
    limit_name: &'static str,
}

impl Budget {
    /// A budget that nothing has been taken from.
    pub(crate) fn new(limit_name: &'static str, limit_bytes: usize) -> Arc<Budget> {
        Arc::new(Budget {
            used_bytes: AtomicUsize::new(0),
            limit_bytes,
            limit_name,
        })
    }
}

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Nothing yet.
    pub(crate) fn of(budget: &Arc<Budget>) -> Share {
        Share {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    /// Takes more. Refused, it is taken all the same, until the share is dropped.
    ///
    /// # Errors
    ///
    /// 429 when all shares together are more than the budget.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let budget = &self.budget;
        // Relaxed: the counter guards no other memory.
        let before = budget.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before.saturating_add(bytes) > budget.limit_bytes {
            return Err(Problem::overloaded(
                budget.limit_name,
                budget.limit_bytes as u64,
            ));
        }
        Ok(())
    }

    /// Gives bytes back that it took.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.budget.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

/// Limits on one body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Bytes that are kept: more is too large.
    pub(crate) keep_bytes: usize,
    /// Bytes that are read and dropped, those kept among them, so that the sender of a body that
    /// is refused sees the answer and not a broken connection.
    pub(crate) drain_bytes: usize,
    /// Bytes that are made room for at once, at most, where so many are announced.
    pub(crate) room_bytes: usize,
}

/// Reads a whole body.
///
/// # Errors
///
/// 413 when it is too large, 408 when it does not arrive in time, 429 when all bodies together
/// take too much memory, 400 when it breaks off.
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
        return Err(Problem::too_large(limits.keep_bytes));
    }
    let mut share = Share::of(budget);
    let announced_bytes = usize::try_from(announced.unwrap_or(0)).unwrap_or(usize::MAX);
    let mut body = BytesMut::with_capacity(announced_bytes.min(limits.room_bytes));
    while let Some(chunk) = source.next().await? {
        let refused = if body.len() + chunk.len() > limits.keep_bytes {
            Some(Problem::too_large(limits.keep_bytes))
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

/// Reads and drops a body whose request is refused whatever it says.
pub(crate) async fn drain(request: &HttpRequest, payload: &mut web::Payload, bytes_max: usize) {
    Source::new(payload)
        .drain(content_length(request), bytes_max)
        .await;
}

/// Reads and drops the body of a request that shall have none; whether it has none.
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

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let deadline = self.deadline.min(Instant::now() + BODY_STALL_MAX);
        match timeout_at(deadline, self.payload.next()).await {
            Ok(Some(Ok(chunk))) => {
                self.read_bytes += chunk.len();
                Ok(Some(chunk))
            }
            Ok(None) => Ok(None),
            Ok(Some(Err(error))) => Err(Problem::malformed(format!(
                "the body could not be read: {error}"
            ))),
            Err(_elapsed) => Err(Problem::new(
                Kind::TimedOut,
                format!("the body stopped after {} bytes", self.read_bytes),
            )),
        }
    }

    /// Reads to the end, if that is not too far, and keeps nothing.
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
    use actix_web::{FromRequest as _, dev, error::PayloadError, test::TestRequest};
    use futures_util::stream;

    use super::*;

    const LIMITS: BodyLimits = BodyLimits {
        keep_bytes: 8,
        drain_bytes: 100,
        room_bytes: 8,
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
    async fn a_body_is_whole_or_refused_by_name() {
        let budget = Budget::new("max-queued-bytes", 8);
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
            assert_eq!(
                budget.used_bytes.load(Ordering::Relaxed),
                0,
                "{chunks:?}: given back"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_bodies_together_take_no_more_than_the_budget() {
        let budget = Budget::new("max-queued-bytes", 8);
        let mut other = Share {
            budget: Arc::clone(&budget),
            bytes: 0,
        };
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
}
