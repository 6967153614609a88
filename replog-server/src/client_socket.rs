//! The socket of a client, as the web server's crate reads and writes it.
//!
//! Owns the limit on reading ahead of the request being answered. The crate's dispatcher buffers up to 128 KiB of
//! requests pipelined behind one that waits, and then wakes itself over and over: one client kept a core busy for as
//! long as an append waited for a node. This socket therefore gives it [`READ_AHEAD_BYTES_MAX`] while a request is
//! answered, and the rest afterwards: what the client sends meanwhile stays in the system's buffers, which are limited
//! and put backpressure on the client. The body of the request itself is read on, since its handler asks for it. The
//! same limit applies to a client that does not read its answers.
//!
//! Owns the distinction between a client that has gone and one that has only shut down its sending side, as `nc -N`
//! does: both look the same until something is sent. The end of a client's input is therefore kept from the dispatcher
//! until everything is answered. A client that still waits [`CHECK_INTERVAL`] later is sent something that changes
//! nothing: an interim answer (100; RFC 9110, section 15.2), or a sign of life in a body that has begun. If the client
//! is gone, the system at the other end answers with a reset, and the request is dropped. A client that leaves later
//! than that, or that does not know interim answers (HTTP/1.0), is noticed at the next sign of life in its body, or by
//! the system's keep-alive probes within minutes.
//!
//! Also owns the answer to input that is not HTTP at all, such as TLS: the crate would log an error and send nothing.
//! And the problem document in the crate's answer to a head that it cannot read, which reaches no route: the crate
//! sends the status and an empty body.
//!
//! ```text
//!   system ──▶ ClientSocket ──▶ dispatcher ──▶ handler
//!                  ▲  holds back    │ `Answering` begins and ends with an answer,
//!                  └── ReadAhead ◀──┘ `note_body` when a handler asks for its body
//! ```
//!
//! Never parses a request: it cannot end what it gives at the end of one. The crate decodes all that it was given, and
//! encodes each answer by method, version and connection type of the request that it decoded last; that HEAD, HTTP/1.0
//! and `Connection: close` are not for pipelining is therefore a documented limit.
//!
//! Keeps rules 6 and 11.

use std::{
    cell::{Cell, RefCell},
    future::Future as _,
    io::{self, IoSlice},
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use actix_web::{http::StatusCode, rt::net::TcpStream};
use futures_util::FutureExt as _;
use rustix::net::{RecvFlags, recv};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready},
    task::yield_now,
    time::{Instant, Sleep, sleep},
};

use crate::{
    connections::{OpenConnection, drop_received, send_at_once, send_some},
    problem::{Kind, PROBLEM_JSON, Problem},
};

/// Maximum number of bytes that the dispatcher gets ahead of the request being answered. Together with
/// [`TURN_BYTES_MAX`] far less than 128 KiB, its own limit, at which it wakes itself.
const READ_AHEAD_BYTES_MAX: usize = 16 << 10;

/// Maximum number of bytes that the dispatcher gets in one turn while nothing is answered. It serves all requests in
/// them before other connections, and the node's own work on this thread, get their turn. For a body the maximum is
/// [`READ_AHEAD_BYTES_MAX`].
const TURN_BYTES_MAX: usize = 4 << 10;

/// Interval at which a client that has shut down its sending side is checked while it waits.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Interim answer that shows whether a waiting client is still there. A client that did not ask for it discards it.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The answer to a client that does not speak HTTP. TLS clients show it, or report a wrong version.
const NOT_HTTP: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 87\r\n\
     connection: close\r\n\r\nthis is the port for clients, which speaks plain HTTP: use http:// instead of https://\n";

/// Maximum length of an answer of the crate's own: a status line, and headers of one line each.
const OWN_ANSWER_BYTES_MAX: usize = 256;

/// The limit on reading ahead of the request being answered, for one connection.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    /// Number of requests being answered: at most one, or two at the moment when the next one takes over.
    answering: Cell<usize>,
    /// The client does not read the answer that it is being sent.
    is_write_blocked: Cell<bool>,
    /// Bytes given since the dispatcher last had to process everything it has.
    given_bytes: Cell<usize>,
    /// The handler of the request waits for its body.
    wants_body: Cell<bool>,
    /// The client sends nothing more, and the dispatcher has not been told yet.
    is_end_held: Cell<bool>,
    /// Bytes were given, or a request began, since the end of the input was last checked.
    has_new_input: Cell<bool>,
    /// The probe that may be sent to see whether the client is there.
    probe: Cell<Probe>,
    /// The awaited turn: nothing is given before it has come.
    next_turn: RefCell<Option<Arc<NextTurn>>>,
    /// The task to wake whenever an answer ends: the dispatcher may hold bytes that it has not looked at, or there is
    /// more to read. Kept until nothing is answered and everything was read: an end may leave the dispatcher with too
    /// many decoded requests to look at more.
    held: RefCell<Option<Waker>>,
}

/// A probe that may be sent to a client to see whether it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Nothing.
    #[default]
    None,
    /// An interim answer: the final one has not begun, and the client knows of interim ones.
    Interim,
    /// A sign of life in the body.
    InBody,
    /// A sign of life in the body, due as soon as the body has nothing else to send.
    InBodyNow,
}

/// The amount that may be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowance {
    /// This many bytes.
    Bytes(usize),
    /// None until the dispatcher has processed what it has, and others have had their turn.
    NextTurn,
    /// None until an answer is finished, or the awaited turn has come.
    Hold,
}

/// The next turn of a connection. Its task is woken for other reasons as well: the handler of a request wakes it with
/// each part of the body that it takes.
#[derive(Debug)]
struct NextTurn {
    has_come: AtomicBool,
    waker: Waker,
}

impl Wake for NextTurn {
    fn wake(self: Arc<Self>) {
        self.has_come.store(true, Ordering::Relaxed);
        self.waker.wake_by_ref();
    }
}

impl ReadAhead {
    /// Marks a request as being answered until the result is dropped.
    pub(crate) fn answer(connection: &Rc<OpenConnection>, probe: Probe) -> Answering {
        let read_ahead = &connection.read_ahead;
        read_ahead.answering.set(read_ahead.answering.get() + 1);
        read_ahead.wants_body.set(false);
        read_ahead.has_new_input.set(true);
        read_ahead.probe.set(probe);
        Answering(Rc::clone(connection))
    }

    /// Records that the request's handler asked for the body. If it waits, it has taken all that it was given: what was
    /// read belongs to the body, or is looked at before more is read.
    pub(crate) fn note_body(&self, waits: bool, cx: &mut Context<'_>) {
        self.wants_body.set(waits);
        if !waits {
            return;
        }
        if self.given_bytes.get() >= READ_AHEAD_BYTES_MAX {
            self.await_next_turn(cx);
        }
        if self.is_end_held.replace(false) {
            wake_next_turn(cx);
        }
    }

    /// Sets the probe that may be sent from now on to see whether the client is there.
    pub(crate) fn set_probe(&self, probe: Probe) {
        self.probe.set(probe);
    }

    /// Returns `true`, once, if a sign of life is wanted in the body now.
    pub(crate) fn take_sign(&self) -> bool {
        let is_wanted = self.probe.get() == Probe::InBodyNow;
        if is_wanted {
            self.probe.set(Probe::None);
        }
        is_wanted
    }

    /// Reports whether the dispatcher may be told that the client sends nothing more. It would then drop what it has
    /// not looked at, and the rest of a body that no handler has asked for.
    fn may_end(&self, cx: &mut Context<'_>) -> bool {
        let is_held = match self.is_busy() {
            true => !self.wants_body.get(),
            false => self.has_new_input.replace(false),
        };
        self.is_end_held.set(is_held);
        if is_held && self.is_busy() {
            self.hold(cx.waker());
        } else if is_held {
            wake_next_turn(cx);
        }
        !is_held
    }

    fn is_busy(&self) -> bool {
        self.answering.get() > 0 || self.is_write_blocked.get()
    }

    fn allowance(&self) -> Allowance {
        if !self.has_turn() {
            return Allowance::Hold;
        }
        let is_busy = self.is_busy();
        let max = match is_busy {
            true => READ_AHEAD_BYTES_MAX,
            false => TURN_BYTES_MAX,
        };
        match max.saturating_sub(self.given_bytes.get()) {
            0 if is_busy => Allowance::Hold,
            0 => Allowance::NextTurn,
            left => Allowance::Bytes(left),
        }
    }

    /// Gives nothing more in this turn.
    fn await_next_turn(&self, cx: &mut Context<'_>) {
        self.given_bytes.set(0);
        let next_turn = Arc::new(NextTurn {
            has_come: AtomicBool::new(false),
            waker: cx.waker().clone(),
        });
        let waker = Waker::from(Arc::clone(&next_turn));
        wake_next_turn(&mut Context::from_waker(&waker));
        self.next_turn.replace(Some(next_turn));
    }

    /// Returns `true` if no turn is awaited, or the awaited one has come.
    fn has_turn(&self) -> bool {
        let mut next_turn = self.next_turn.borrow_mut();
        let awaited = next_turn.take_if(|turn| turn.has_come.load(Ordering::Relaxed));
        awaited.is_some() || next_turn.is_none()
    }

    fn note_given(&self, bytes: usize) {
        self.given_bytes.set(self.given_bytes.get() + bytes);
        self.has_new_input.set(true);
    }

    /// Records that everything available was read. Without a request in progress the dispatcher processes it next.
    fn note_empty(&self) {
        if !self.is_busy() {
            self.given_bytes.set(0);
            self.held.take();
        }
    }

    /// Stores the task to wake once more may be read or processed.
    fn hold(&self, waker: &Waker) {
        let mut held = self.held.borrow_mut();
        match &mut *held {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn note_written(&self, is_blocked: bool) {
        if self.is_write_blocked.replace(is_blocked) && !is_blocked {
            self.release();
        }
    }

    /// Wakes the dispatcher to process what it was given behind the last request, and to read on.
    fn release(&self) {
        if let Some(waker) = &*self.held.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// A request that is being answered; dropped with its answer.
#[derive(Debug)]
pub(crate) struct Answering(Rc<OpenConnection>);

impl Answering {
    /// Returns the read-ahead state of its connection.
    pub(crate) fn read_ahead(&self) -> &ReadAhead {
        &self.0.read_ahead
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let read_ahead = self.read_ahead();
        read_ahead.answering.set(read_ahead.answering.get() - 1);
        read_ahead.release();
    }
}

/// The socket of a client.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    stream: TcpStream,
    connection: Rc<OpenConnection>,
    /// Something was read, and it looked like HTTP.
    has_begun: bool,
    /// There may be more to read than the runtime knows of: its readiness was cleared so that it reports new events.
    has_unseen: bool,
    /// Timer of the next check on a client that sends nothing more.
    check_timer: Option<Pin<Box<Sleep>>>,
}

impl ClientSocket {
    /// Returns the socket of this connection.
    pub(crate) fn new(stream: TcpStream, connection: OpenConnection) -> ClientSocket {
        ClientSocket {
            stream,
            connection: Rc::new(connection),
            has_begun: false,
            has_unseen: false,
            check_timer: None,
        }
    }

    /// Returns its connection.
    pub(crate) fn connection(&self) -> &Rc<OpenConnection> {
        &self.connection
    }

    /// Reads at most this many bytes.
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        bytes_max: usize,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_unseen {
            let count = to.remaining().min(bytes_max);
            let unfilled = to.initialize_unfilled_to(count);
            match recv(&self.stream, unfilled, RecvFlags::DONTWAIT) {
                Ok((_, bytes)) => {
                    to.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(rustix::io::Errno::INTR) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                // From here on the runtime's readiness is correct again.
                Err(rustix::io::Errno::WOULDBLOCK) => self.has_unseen = false,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        if to.remaining() <= bytes_max {
            return Pin::new(&mut self.stream).poll_read(cx, to);
        }
        let mut part = ReadBuf::new(to.initialize_unfilled_to(bytes_max));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let bytes = part.filled().len();
        to.advance(bytes);
        Poll::Ready(Ok(()))
    }

    /// Completes when the client has gone; reads nothing. Everything written so far must have been sent.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let both = Interest::READABLE | Interest::WRITABLE;
            let ready = match pin!(self.stream.ready(both)).now_or_never() {
                Some(Ok(ready)) => ready,
                Some(Err(_)) => return Poll::Ready(()),
                None => Ready::EMPTY,
            };
            if ready.is_write_closed() {
                return Poll::Ready(());
            }
            if ready.is_read_closed() {
                return self.poll_check(cx);
            }
            // There are only bytes. Their readiness is cleared, or the runtime would report them over and over; it does
            // not forget an end of input.
            self.has_unseen = true;
            let forget = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.stream.try_io(Interest::READABLE, forget);
        }
    }

    /// Checks, from time to time, on a client that sends nothing more. The runtime wakes no task when it goes.
    fn poll_check(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ClientSocket {
            stream,
            connection,
            check_timer,
            ..
        } = self;
        let check_timer = check_timer.get_or_insert_with(|| Box::pin(sleep(CHECK_INTERVAL)));
        while check_timer.as_mut().poll(cx).is_ready() {
            check_timer.as_mut().reset(Instant::now() + CHECK_INTERVAL);
            let probe = &connection.read_ahead.probe;
            match probe.get() {
                Probe::Interim => {
                    probe.set(Probe::None);
                    if !send_at_once(stream, INTERIM) {
                        return Poll::Ready(());
                    }
                }
                Probe::InBody => {
                    probe.set(Probe::InBodyNow);
                    cx.waker().wake_by_ref();
                }
                Probe::InBodyNow | Probe::None => {}
            }
        }
        Poll::Pending
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        drop_received(&self.stream);
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let bytes_max = match this.connection.read_ahead.allowance() {
            Allowance::Bytes(bytes) => bytes,
            Allowance::NextTurn => {
                this.connection.read_ahead.await_next_turn(cx);
                return Poll::Pending;
            }
            Allowance::Hold => {
                this.connection.read_ahead.hold(cx.waker());
                return Poll::Pending;
            }
        };
        let before = to.filled().len();
        let read = this.poll_some(cx, bytes_max, to)?;
        let read_ahead = &this.connection.read_ahead;
        if read.is_pending() {
            read_ahead.note_empty();
            return Poll::Pending;
        }
        let bytes = &to.filled()[before..];
        if bytes.is_empty() {
            return match read_ahead.may_end(cx) {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            };
        }
        if !std::mem::replace(&mut this.has_begun, true) && !may_begin_request(bytes[0]) {
            this.connection.count_not_http();
            send_at_once(&this.stream, NOT_HTTP.as_bytes());
            to.set_filled(before);
            return Poll::Ready(Ok(()));
        }
        read_ahead.note_given(bytes.len());
        if read_ahead.is_busy() {
            // The dispatcher may not look at it by itself when the answer is finished.
            read_ahead.hold(cx.waker());
        }
        Poll::Ready(Ok(()))
    }
}

/// Returns the crate's answer to an unreadable head, with a problem document added; `None` if `bytes` are anything
/// else. Routes never send such a status without a body.
fn refusal_document(bytes: &[u8]) -> Option<String> {
    if bytes.len() > OWN_ANSWER_BYTES_MAX {
        return None;
    }
    let head = str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?;
    let (version, rest) = head.split_once(' ')?;
    let (before, after) = rest.split_once("content-length: 0\r\n")?;
    if !version.starts_with("HTTP/1.") || rest.contains("\r\n\r\n") {
        return None;
    }
    let problem = match rest.get(..4)? {
        "400 " => Problem::malformed(
            "the head of the request is not valid HTTP/1.1, or its headers contradict each other",
        ),
        "408 " => Problem::new(
            Kind::TimedOut,
            "the head of the request did not arrive in time",
        ),
        "431 " => Problem::malformed("the head of the request is too long")
            .status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        _ => return None,
    };
    let body = problem.not_appended().body();
    let length = body.len();
    Some(format!(
        "{version} {before}content-type: {PROBLEM_JSON}\r\ncontent-length: {length}\r\n{after}\r\n\r\n{body}"
    ))
}

/// Returns the start of an answer to an unreadable head, behind the answer to the request before it; the end of `bytes`
/// if there is none.
fn refusal_start(bytes: &[u8]) -> usize {
    const BEGIN: &[u8] = b"HTTP/1.";
    if !bytes.ends_with(b"\r\n\r\n") {
        return bytes.len();
    }
    let from = bytes.len().saturating_sub(OWN_ANSWER_BYTES_MAX);
    let last = bytes[from..]
        .windows(BEGIN.len())
        .rposition(|part| part == BEGIN);
    match last.map(|at| from + at) {
        Some(start @ 1..) if refusal_document(&bytes[start..]).is_some() => start,
        _ => bytes.len(),
    }
}

/// Wakes the task of this connection once the runtime has looked at other sockets and timers: a task that wakes itself
/// at once may keep the runtime from them for many turns.
fn wake_next_turn(cx: &mut Context<'_>) {
    // It is never ready at the first poll.
    let _ = pin!(yield_now()).poll(cx);
}

/// Returns `true` if a request may begin with this byte: with its method, or an empty line, which is skipped.
fn may_begin_request(first: u8) -> bool {
    first.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~\r\n".contains(&first)
}

impl AsyncWrite for ClientSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(answer) = refusal_document(bytes) {
            match send_some(&self.stream, answer.as_bytes()) {
                Ok(sent) if sent == answer.len() => {
                    self.connection.read_ahead.note_written(false);
                    return Poll::Ready(Ok(bytes.len()));
                }
                // The rest cannot follow: to the dispatcher it does not exist.
                Ok(_) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                // It is tried again once there is space. If there is some by now, the answer goes without its document.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // Anything before such an answer is sent first.
        let bytes = &bytes[..refusal_start(bytes)];
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.connection
            .read_ahead
            .note_written(written.is_pending());
        written
    }

    /// Sends what was written. The dispatcher calls it whenever it waits for an answer, and learns here that a client
    /// has gone.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        match self.connection.read_ahead.is_busy() && self.poll_gone(cx).is_ready() {
            true => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.connection
            .read_ahead
            .note_written(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix_web::rt::net::TcpListener;
    use rustix::net::sockopt::set_socket_linger;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::connections::Connections;

    /// Returns both ends of a connection: the node's and the client's.
    async fn pair() -> (ClientSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("a connection");
        let (stream, peer) = listener.accept().await.expect("a connection");
        let connection = Connections::default().open(Some(peer), 1).expect("a slot");
        (ClientSocket::new(stream, connection), client)
    }

    /// Reads as the dispatcher does: until there is nothing more for now.
    async fn read_all(socket: &mut ClientSocket) -> usize {
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        while let Some(Ok(more @ 1..)) = socket.read(&mut buffer).now_or_never() {
            bytes += more;
        }
        bytes
    }

    /// Asks for the body as the handler of a request does.
    async fn ask_for_body(read_ahead: &ReadAhead, waits: bool) {
        std::future::poll_fn(|cx| {
            read_ahead.note_body(waits, cx);
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn requests_pipelined_behind_one_are_read_when_it_is_answered() {
        let (mut socket, mut client) = pair().await;
        let pipelined = vec![b'G'; 3 * READ_AHEAD_BYTES_MAX];
        let answering = ReadAhead::answer(socket.connection(), Probe::None);
        client.write_all(&pipelined).await.expect("sent");
        socket.stream.readable().await.expect("it has come");
        let mut read = read_all(&mut socket).await;
        assert_eq!(read, READ_AHEAD_BYTES_MAX);
        for _ in 0..3 {
            assert_eq!(
                read_all(&mut socket).await,
                0,
                "nothing while it is answered"
            );
        }
        // Its handler wants its body.
        ask_for_body(answering.read_ahead(), true).await;
        assert_eq!(
            read_all(&mut socket).await,
            0,
            "others have their turn first"
        );
        yield_now().await;
        let more = read_all(&mut socket).await;
        assert_eq!(more, READ_AHEAD_BYTES_MAX);
        read += more;
        drop(answering);
        let mut buffer = vec![0; 1 << 20];
        while read < pipelined.len() {
            let more = socket.read(&mut buffer).await.expect("the rest");
            assert!((1..=TURN_BYTES_MAX).contains(&more), "{more}");
            read += more;
        }
        client.write_all(b"G").await.expect("sent");
        assert_eq!(socket.read(&mut buffer).await.expect("the new byte"), 1);
    }

    /// Flushes as the dispatcher does while it waits for an answer, until the client has gone.
    async fn gone(socket: &mut ClientSocket) -> io::ErrorKind {
        let until_failed = std::future::poll_fn(|cx| match Pin::new(&mut *socket).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error.kind()),
            _ => Poll::Pending,
        });
        let gone = tokio::time::timeout(Duration::from_secs(20), until_failed).await;
        gone.expect("it is noticed")
    }

    #[tokio::test]
    async fn a_client_that_goes_away_is_noticed_whatever_it_has_sent_ahead() {
        for ahead_bytes in [0, 10, 2 * READ_AHEAD_BYTES_MAX] {
            for is_reset in [false, true] {
                let (mut socket, mut client) = pair().await;
                let _answering = ReadAhead::answer(socket.connection(), Probe::Interim);
                let pipelined = vec![b'G'; ahead_bytes];
                client.write_all(&pipelined).await.expect("sent");
                if is_reset {
                    set_socket_linger(&client, Some(Duration::ZERO)).expect("a socket");
                }
                assert!(gone(&mut socket).now_or_never().is_none(), "it is there");
                drop(client);
                assert_eq!(gone(&mut socket).await, io::ErrorKind::ConnectionReset);
            }
        }
    }

    #[tokio::test]
    async fn the_end_of_a_clients_input_is_read_when_everything_is_answered() {
        let (mut socket, mut client) = pair().await;
        client.write_all(b"GET").await.expect("sent");
        client.shutdown().await.expect("open");
        let mut buffer = [0; 8];
        assert_eq!(socket.read(&mut buffer).await.expect("bytes"), 3);
        let answering = ReadAhead::answer(socket.connection(), Probe::Interim);
        let mut end = pin!(socket.read(&mut buffer));
        assert!(end.as_mut().now_or_never().is_none(), "it is answered");
        // Its handler waits for the rest of a body: there is none.
        let read_ahead = answering.read_ahead();
        ask_for_body(read_ahead, true).await;
        assert_eq!(end.await.expect("the end"), 0);
        ask_for_body(read_ahead, false).await;
        let mut end = pin!(socket.read(&mut buffer));
        assert!(end.as_mut().now_or_never().is_none(), "it is answered");
        drop(answering);
        assert_eq!(end.await.expect("the end"), 0);
    }

    #[tokio::test]
    async fn a_client_that_shuts_down_its_sending_side_is_probed_once() {
        let (mut socket, mut client) = pair().await;
        let answering = ReadAhead::answer(socket.connection(), Probe::Interim);
        client.shutdown().await.expect("open");
        let mut interim = vec![0; INTERIM.len()];
        let mut waiting = pin!(gone(&mut socket));
        tokio::select! {
            _ = &mut waiting => panic!("it is there"),
            read = client.read_exact(&mut interim) => read.expect("an interim answer"),
        };
        assert_eq!(interim, INTERIM);
        let read_ahead = answering.read_ahead();
        assert_eq!(read_ahead.probe.get(), Probe::None);
        read_ahead.set_probe(Probe::InBody);
        let is_wanted = std::future::poll_fn(|cx| {
            assert!(waiting.as_mut().poll(cx).is_pending(), "it is there");
            match read_ahead.take_sign() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        tokio::time::timeout(Duration::from_secs(20), is_wanted)
            .await
            .expect("a sign is wanted");
        assert!(!read_ahead.take_sign(), "once");
    }

    #[tokio::test]
    async fn reading_ahead_of_a_client_that_takes_no_answers_is_limited() {
        let (mut socket, mut client) = pair().await;
        let answer = vec![b'a'; 1 << 20];
        let mut written = 0;
        while let Some(more) = socket.write(&answer).now_or_never() {
            written += more.expect("written");
        }
        client
            .write_all(&vec![b'G'; 2 * READ_AHEAD_BYTES_MAX])
            .await
            .expect("sent");
        socket.stream.readable().await.expect("it has come");
        assert_eq!(read_all(&mut socket).await, READ_AHEAD_BYTES_MAX);
        let mut taken = vec![0; written];
        client.read_exact(&mut taken).await.expect("all of it");
        written = socket.write(b"a").await.expect("room");
        assert_eq!(written, 1);
        assert!(socket.read(&mut taken).await.expect("more") > 0);
    }

    #[test]
    fn only_the_empty_answer_to_an_unreadable_head_gets_a_document() {
        let end = "connection: close\r\ndate: today\r\n\r\n";
        let own = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n{end}");
        for (status, kind) in [
            ("400 Bad Request", "malformed"),
            ("408 Request Timeout", "request-timeout"),
            ("431 Request Header Fields Too Large", "malformed"),
        ] {
            let answer = refusal_document(own(status).as_bytes()).expect("a document");
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{head}"
            );
            assert!(
                head.ends_with("\r\nconnection: close\r\ndate: today"),
                "{head}"
            );
            assert!(
                head.contains(&format!("content-length: {}\r\n", body.len())),
                "{head}"
            );
            assert!(body.contains(&format!("/problems/{kind}")), "{body}");
            let before = "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}";
            let both = format!("{before}{}", own(status));
            assert_eq!(refusal_start(both.as_bytes()), before.len());
        }
        let with_more = own("400 Bad Request") + "HTTP/1.1 200 OK\r\n\r\n";
        let with_body =
            format!("HTTP/1.1 400 Bad Request\r\ncontent-length: 10\r\n{end}0123456789");
        for other in [
            &*own("204 No Content"),
            &own("404 Not Found"),
            &with_more,
            &with_body,
            "",
            "\r\n\r\n",
        ] {
            assert_eq!(refusal_document(other.as_bytes()), None, "{other}");
            assert_eq!(refusal_start(other.as_bytes()), other.len(), "{other}");
        }
    }

    #[tokio::test]
    async fn the_answer_to_an_unreadable_head_waits_for_space() {
        let (mut socket, mut client) = pair().await;
        let before = vec![b'a'; 1 << 20];
        let mut sent = 0;
        while let Ok(more) = send_some(&socket.stream, &before) {
            sent += more;
        }
        let own = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let written = socket.write(own).now_or_never();
        assert!(written.is_none(), "there is no space: {written:?}");
        client
            .read_exact(&mut vec![0; sent])
            .await
            .expect("all of it");
        let written = socket.write(own).await.expect("space");
        assert_eq!(written, own.len());
        drop(socket);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("its end");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("/problems/malformed"), "{answer}");
    }

    #[tokio::test]
    async fn a_client_that_does_not_speak_http_is_told_so() {
        for (first, is_http) in [
            (0x16, false),
            (0, false),
            (0xff, false),
            (b'G', true),
            (b'\r', true),
        ] {
            let (mut socket, mut client) = pair().await;
            client.write_all(&[first, 3, 1]).await.expect("sent");
            let mut buffer = [0; 8];
            let read = socket.read(&mut buffer).await.expect("read");
            assert_eq!(read, if is_http { 3 } else { 0 }, "{first}");
            drop(socket);
            let mut answer = String::new();
            let ended = client.read_to_string(&mut answer).await;
            match is_http {
                true => assert_eq!(answer, ""),
                false => {
                    ended.expect("its end");
                    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
                    assert!(
                        head.contains(&format!("content-length: {}\r\n", body.len())),
                        "{answer}"
                    );
                    assert!(body.contains("plain HTTP"), "{answer}");
                }
            }
        }
    }
}
