//! A conformance suite for every [`Transport`]: one function per behaviour.
//!
//! [`check`] tries all of them on a transport of your own; this library's transports have a test for
//! each. Owns a stand-in for a secondary that answers predictably and can hold requests back. Nothing
//! here sleeps: it waits until the stand-in reports what arrived.
//!
//! ```
//! use std::rc::Rc;
//!
//! use replog_core::{
//!     Peer,
//!     transport::{
//!         CallFuture, Request, Transport, TransportError,
//!         suite::{self, Bench, StandIn},
//!     },
//! };
//!
//! /// Hands requests over as they are; a real one would encode and send them.
//! struct Direct(Option<std::sync::Arc<StandIn>>);
//!
//! impl Transport for Direct {
//!     fn call(&self, request: Request) -> CallFuture {
//!         let there = self.0.clone();
//!         Box::pin(async move {
//!             let there = there.ok_or(TransportError::ConnectionRefused)?;
//!             let answer = there.serve(request).await;
//!             answer.map_err(|_| TransportError::ConnectionRefused)
//!         })
//!     }
//! }
//!
//! suite::check(|| {
//!     let stand_in = StandIn::new();
//!     Bench {
//!         transport: Rc::new(Direct(Some(stand_in.clone()))),
//!         nobody: Rc::new(Direct(None)),
//!         stand_in,
//!         keep: Box::new(()),
//!     }
//! });
//! ```

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::BytesMut;
use tokio::sync::watch;

use crate::{
    error::Stopped,
    frame::{FrameBatch, FrameFields},
    limits::BATCH_BYTES_MAX,
    transport::{Transport, TransportError, message::*},
    types::{ClusterId, Epoch, EpochStart, Incarnation, InstanceId, NodeName, Offset},
};

/// The epoch of requests that are held back until [`StandIn::let_go`].
const HELD: Epoch = Epoch(77);

/// The time limit of a test: longer than any takes, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Tries all behaviours, each with a new bench from `bench`, within a `LocalSet` on a single-threaded runtime
/// with timers and sockets, like a node's.
///
/// # Panics
///
/// Panics after all behaviours were tried, with the names of those that the transport does not have.
pub fn check(mut bench: impl FnMut() -> Bench) {
    let mut failed = Vec::new();
    for (name, behaviour) in BEHAVIOURS {
        let trial = || run(async { behaviour(bench()).await });
        // The panic has already printed its reason.
        if catch_unwind(AssertUnwindSafe(trial)).is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "the transport fails in {failed:?}");
}

/// Passes all behaviours to the macro `to`, after the given tokens.
macro_rules! behaviours {
    ($($to:tt)::+, $($given:tt)*) => {
        $($to)::+! {
            $($given)*
            an_answer_comes_back_intact,
            calls_are_refused_where_nothing_listens,
            dropping_a_call_harms_nothing,
            calls_do_not_wait_for_each_other,
        }
    };
}

macro_rules! table {
    ($($behaviour:ident,)*) => {
        &[$((stringify!($behaviour), |bench| Box::pin($behaviour(bench)))),*]
    };
}

type Behaviour = (&'static str, fn(Bench) -> Pin<Box<dyn Future<Output = ()>>>);

const BEHAVIOURS: &[Behaviour] = behaviours!(table,);

/// A transport to try, and the stand-in at its other end.
pub struct Bench {
    /// A transport to the stand-in, which answers to the name `secondary-1`.
    pub transport: Rc<dyn Transport>,
    /// A transport to an address where nothing listens.
    pub nobody: Rc<dyn Transport>,
    /// The stand-in.
    pub stand_in: Arc<StandIn>,
    /// Anything that must live as long as the trial.
    pub keep: Box<dyn Any>,
}

/// A stand-in for a secondary: it repeats what it was asked, and answers a fetch with a batch of
/// [`BATCH_BYTES_MAX`].
pub struct StandIn {
    arrived: watch::Sender<usize>,
    open: watch::Sender<bool>,
    stopped: watch::Sender<bool>,
}

impl StandIn {
    /// Creates a stand-in that has received no request.
    #[must_use]
    pub fn new() -> Arc<StandIn> {
        Arc::new(StandIn {
            arrived: watch::Sender::new(0),
            open: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
        })
    }

    /// Answers a request, as [`Secondary::serve`](crate::Secondary::serve) does.
    ///
    /// # Errors
    ///
    /// [`Stopped`], as from a secondary; stand-ins in [`check`] never stop.
    pub fn serve(
        &self,
        request: Request,
    ) -> impl Future<Output = Result<Response, Stopped>> + Send + use<> {
        self.arrived.send_modify(|arrived| *arrived += 1);
        let (mut open, stopped) = (self.open.subscribe(), *self.stopped.borrow());
        async move {
            if stopped {
                return Err(Stopped { reason: None });
            }
            if request.epoch == HELD {
                // An error means that the stand-in is gone, so nothing waits for the answer.
                let _ = open.wait_for(|open| *open).await;
            }
            Ok(answer(request))
        }
    }

    /// Returns the number of requests that have arrived.
    pub(crate) fn arrived(&self) -> usize {
        *self.arrived.borrow()
    }

    /// Waits until at least `count` requests have arrived.
    pub(crate) async fn has_arrived(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        arrived
            .wait_for(|arrived| *arrived >= count)
            .await
            .expect("the stand-in owns the sender");
    }

    /// Answers the requests that were held back, and holds back no more.
    pub(crate) fn let_go(&self) {
        self.open.send_replace(true);
    }

    /// Stops answering requests.
    #[cfg(test)]
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }
}

impl std::fmt::Debug for StandIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StandIn")
            .field("arrived", &self.arrived())
            .finish_non_exhaustive()
    }
}
#[cfg(test)]
impl crate::transport::Serve for StandIn {
    fn serve(&self, request: Request) -> crate::transport::ServeFuture {
        Box::pin(StandIn::serve(self, request))
    }
}

/// Returns the stand-in's answer to a request.
pub(crate) fn answer(request: Request) -> Response {
    let epoch_starts = || {
        (0..64)
            .map(|n| EpochStart {
                epoch: Epoch(n),
                first: Offset(n * 10),
            })
            .collect()
    };
    let (durable_end, answer) = match request.body {
        RequestBody::Identify => (
            Offset(0),
            Answer::Identity(Identity {
                nodes: vec![request.from.clone()],
                master: None,
            }),
        ),
        RequestBody::Promise(_) => (
            Offset(1),
            Answer::Promised(Promised {
                last_whole: None,
                epoch_starts: epoch_starts(),
                forced_epoch: None,
            }),
        ),
        RequestBody::Hello(hello) => (
            hello.end,
            Answer::Aligned(Aligned {
                cut_records: 3,
                public_url: None,
            }),
        ),
        RequestBody::Heartbeat(progress) => (progress.end, Answer::Taken),
        RequestBody::Append(append) => (
            append.records.last().map_or(Offset(0), FrameBatch::end),
            Answer::Taken,
        ),
        RequestBody::Fetch(fetch) if fetch.bytes_max == 0 => (
            fetch.from,
            Answer::Refused(Refusal::Malformed {
                detail: "0 bytes".to_owned(),
            }),
        ),
        RequestBody::Fetch(fetch) => {
            let records = vec![large_batch(fetch.from)];
            (
                fetch.from,
                Answer::Records(Fetched {
                    epoch_starts: epoch_starts(),
                    records,
                }),
            )
        }
    };
    Response {
        cluster: request.cluster,
        name: request.to,
        incarnation: incarnation(2),
        state: NodeState {
            durable_end,
            log_epoch: None,
            promised: request.epoch,
            buffered: 0,
        },
        answer,
    }
}

fn incarnation(byte: u8) -> Incarnation {
    Incarnation {
        instance: InstanceId::from_bytes([byte; 16]),
        start: byte.into(),
    }
}

/// A batch of as many messages as fit, each an append of its own, which contain every byte value.
pub(crate) fn large_batch(first: Offset) -> FrameBatch {
    let payload: Vec<u8> = (0..32_768_usize)
        .map(|n| n.wrapping_mul(31) as u8)
        .collect();
    let mut bytes = BytesMut::new();
    let mut offset = first;
    loop {
        let whole = bytes.len();
        let fields = FrameFields {
            key: b"key",
            ..fields(offset)
        };
        fields.encode(&[&payload], &mut bytes);
        if bytes.len() > BATCH_BYTES_MAX {
            bytes.truncate(whole);
            return FrameBatch::check(first, bytes.freeze()).expect("encoded just now");
        }
        offset = offset.plus(1);
    }
}

fn fields(first: Offset) -> FrameFields<'static> {
    FrameFields {
        first,
        epoch: Epoch(4),
        timestamp_ms: 1_700_000_000_000,
        key: b"",
    }
}

fn one(first: Offset, payload: &[u8]) -> FrameBatch {
    let mut bytes = BytesMut::new();
    fields(first).encode(&[payload], &mut bytes);
    FrameBatch::check(first, bytes.freeze()).expect("encoded just now")
}

pub(crate) fn request(body: RequestBody) -> Request {
    Request {
        cluster: Some(ClusterId::from_bytes([1; 16])),
        from: NodeName::new("master").expect("a good name"),
        incarnation: incarnation(1),
        to: NodeName::new("secondary-1").expect("a good name"),
        epoch: Epoch(4),
        body,
    }
}

/// A heartbeat that is answered with its own end.
pub(crate) fn heartbeat(end: u64) -> Request {
    request(RequestBody::Heartbeat(progress(end)))
}

/// A [`heartbeat`] that is not answered before [`StandIn::let_go`].
pub(crate) fn held_heartbeat(end: u64) -> Request {
    Request {
        epoch: HELD,
        ..heartbeat(end)
    }
}

/// An append of one message at `end - 1`, whose answer has this end.
pub(crate) fn small_append(end: u64) -> Request {
    append(one(Offset(end - 1), b"1"))
}

/// An append of one message with a payload of `bytes` bytes.
#[cfg(test)]
pub(crate) fn long_append(bytes: usize) -> Request {
    append(one(Offset(0), &vec![b'x'; bytes]))
}

/// A [`small_append`] that is not answered before [`StandIn::let_go`].
pub(crate) fn held_append(end: u64) -> Request {
    Request {
        epoch: HELD,
        ..small_append(end)
    }
}

/// The answer to a heartbeat.
#[cfg(test)]
pub(crate) fn taken(end: u64) -> Response {
    answer(heartbeat(end))
}

pub(crate) fn append(records: FrameBatch) -> Request {
    let progress = progress(records.end().0);
    request(RequestBody::Append(Append {
        progress,
        records: vec![records],
    }))
}

pub(crate) fn fetch(bytes_max: u32) -> Request {
    let to_incarnation = incarnation(2);
    let fetch = Fetch {
        to_incarnation,
        from: Offset(3),
        bytes_max,
        epoch_starts: true,
    };
    request(RequestBody::Fetch(fetch))
}

fn progress(end: u64) -> Progress {
    Progress {
        to_incarnation: incarnation(2),
        end: Offset(end),
        committed: Some(Offset(end)),
        refill_target: None,
    }
}

/// One request of each kind.
fn one_of_each() -> Vec<Request> {
    let nodes = vec![NodeName::new("master").expect("a good name")];
    let hello = Hello {
        nodes: nodes.clone(),
        log_epoch: Some(Epoch(4)),
        public_url: None,
        end: Offset(9),
        adopted_end: Offset(7),
        epoch_starts: vec![],
        epoch_starts_end: Offset::ZERO,
        forced_epoch: None,
    };
    vec![
        request(RequestBody::Identify),
        request(RequestBody::Promise(Promise {
            nodes,
            log_epoch: None,
        })),
        request(RequestBody::Hello(hello)),
        heartbeat(17),
        append(large_batch(Offset(100))),
        fetch(1 << 20),
        fetch(0),
    ]
}

/// Runs a test as a node runs: one thread, local tasks, real time and real sockets.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the system has resources for a runtime");
    let tasks = tokio::task::LocalSet::new();
    let outcome = tasks.block_on(&runtime, async {
        tokio::time::timeout(DEADLINE, test).await
    });
    outcome.expect("the test takes far less than its deadline")
}

/// Polls a call until it can make no more immediate progress; reports whether it is still pending.
#[cfg(test)]
pub(crate) async fn is_pending<F: Future + ?Sized>(call: &mut Pin<Box<F>>) -> bool {
    for _ in 0..10 {
        if poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_ready())).await {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

/// Waits for `event` while `call` goes on; the call must not end first.
pub(crate) async fn meanwhile<F: Future + ?Sized>(
    call: &mut Pin<Box<F>>,
    event: impl Future<Output = ()>,
) {
    let mut event = std::pin::pin!(event);
    poll_fn(|cx| {
        assert!(
            call.as_mut().poll(cx).is_pending(),
            "the call ended too early"
        );
        event.as_mut().poll(cx)
    })
    .await;
}

pub(crate) async fn an_answer_comes_back_intact(bench: Bench) {
    for request in one_of_each() {
        let expected = answer(request.clone());
        assert_eq!(bench.transport.call(request).await, Ok(expected));
    }
}

pub(crate) async fn calls_are_refused_where_nothing_listens(bench: Bench) {
    for _ in 0..3 {
        let refused = bench.nobody.call(heartbeat(1)).await;
        assert_eq!(refused, Err(TransportError::ConnectionRefused));
    }
}

pub(crate) async fn dropping_a_call_harms_nothing(bench: Bench) {
    // Before its first poll, while it is in flight, and while it waits for the answer.
    drop(bench.transport.call(heartbeat(1)));
    let mut early = bench.transport.call(append(large_batch(Offset(0))));
    poll_fn(|cx| Poll::Ready(early.as_mut().poll(cx).is_ready())).await;
    drop(early);
    let before = bench.stand_in.arrived();
    let mut late = bench.transport.call(held_heartbeat(2));
    meanwhile(&mut late, bench.stand_in.has_arrived(before + 1)).await;
    drop(late);
    let mut late = bench.transport.call(held_append(2));
    meanwhile(&mut late, bench.stand_in.has_arrived(before + 2)).await;
    drop(late);
    bench.stand_in.let_go();
    for end in 3..6 {
        for request in [heartbeat(end), small_append(end)] {
            let expected = answer(request.clone());
            assert_eq!(bench.transport.call(request).await, Ok(expected));
        }
    }
}

pub(crate) async fn calls_do_not_wait_for_each_other(bench: Bench) {
    let requests = (1..5).flat_map(|end| [held_heartbeat(end), held_append(end)]);
    let mut held: Vec<_> = requests
        .map(|request| (bench.transport.call(request.clone()), request))
        .collect();
    for ((call, _), count) in held.iter_mut().zip(1..) {
        meanwhile(call, bench.stand_in.has_arrived(count)).await;
    }
    for request in [heartbeat(99), small_append(99)] {
        let expected = answer(request.clone());
        assert_eq!(bench.transport.call(request).await, Ok(expected));
    }
    bench.stand_in.let_go();
    for (call, request) in held {
        assert_eq!(call.await, Ok(answer(request)));
    }
}

/// The conformance tests of a transport; the argument creates a [`Bench`].
#[cfg(test)]
macro_rules! conformance {
    ($bench:expr) => {
        $crate::transport::suite::behaviours!($crate::transport::suite::tests, $bench;);
    };
}

#[cfg(test)]
macro_rules! tests {
    ($bench:expr; $($behaviour:ident,)*) => {
        $(
            #[test]
            fn $behaviour() {
                $crate::transport::suite::run(async {
                    $crate::transport::suite::$behaviour($bench).await;
                });
            }
        )*
    };
}

#[cfg(test)]
pub(crate) use {behaviours, conformance, tests};

#[cfg(test)]
mod own_tests {
    use super::*;
    use crate::transport::CallFuture;

    /// A transport that reaches the stand-in even where nothing should listen.
    struct Everywhere(Arc<StandIn>);

    impl Transport for Everywhere {
        fn call(&self, request: Request) -> CallFuture {
            let answer = self.0.serve(request);
            Box::pin(async { answer.await.map_err(|_| TransportError::ConnectionRefused) })
        }
    }

    #[test]
    #[should_panic(
        expected = r#"the transport fails in ["calls_are_refused_where_nothing_listens"]"#
    )]
    fn a_faulty_transport_is_reported_with_every_behaviour_that_fails() {
        check(|| {
            let stand_in = StandIn::new();
            Bench {
                transport: Rc::new(Everywhere(stand_in.clone())),
                nobody: Rc::new(Everywhere(stand_in.clone())),
                stand_in,
                keep: Box::new(()),
            }
        });
    }
}
