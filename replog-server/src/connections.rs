//! The open connections of one web server.
//!
//! Owns their number and, among them, the number of listeners: those that carry an answer that ends only with the node.
//! When the web server itself stops, it checks once a second whether a connection is left, and waits for all of them
//! alike; a wait here ends with the last finite answer, and leaves behind listeners that do not read.
//!
//! Also owns each address's share of the connections: an address that opens more is told so, and that connection is
//! closed. It would otherwise leave none for others, which would get no answer at all. Such a connection never reaches
//! the web server, so no request on it is carried out.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix_web::{HttpRequest, http::Method, rt::net::TcpStream};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::{
    io::AsyncReadExt as _,
    sync::{
        Semaphore,
        watch::{self, Ref},
    },
    time::timeout,
};

use crate::{
    client_socket::ReadAhead,
    problem::{PROBLEM_JSON, Problem},
    shares::{Client, Slot, Slots},
};

/// Time without the end of any listener's connection after which the remaining listeners count as not reading: many
/// times what it takes to write the last text to one that reads.
pub(crate) const LISTENER_STALL_MAX: Duration = Duration::from_millis(500);

/// Name of the limit on the connections of an address: it is not a setting of the node but the system's.
const OPEN_FILES: &str = "open-files";

/// Maximum number of connections that are refused and still open, so that the client can read why. Further ones are
/// closed at once, and their clients may find them reset instead.
pub(crate) const REFUSED_OPEN_MAX: usize = 4;
/// Time that a refused connection waits for the first bytes of its client, and then for its end: a client that is
/// answered before it asks may not listen, and one that is cut off while it sends may not read.
const REFUSED_TIME_MAX: Duration = Duration::from_millis(500);
/// Maximum number of bytes read and dropped of input that is not processed.
const DROPPED_BYTES_MAX: usize = 256 << 10;
/// Size of the buffer for dropped input.
const DROPPED_AT_ONCE_BYTES: usize = 4 << 10;

/// Number of open connections. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    open: Arc<watch::Sender<Open>>,
    slots: Slots,
    counted: Arc<Counted>,
    /// Permits for refused connections.
    refused_open: Arc<Semaphore>,
}

/// Counters of connections that were closed without a request.
#[derive(Debug, Default)]
struct Counted {
    open_files: AtomicU64,
    not_http: AtomicU64,
}

/// Connections that were closed without a request, by reason.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RefusedClients {
    /// Connections of addresses that had their share.
    pub(crate) open_files: u64,
    /// Connections that did not speak HTTP.
    pub(crate) not_http: u64,
}

impl Default for Connections {
    fn default() -> Connections {
        Connections {
            open: Arc::default(),
            slots: Slots::default(),
            counted: Arc::default(),
            refused_open: Arc::new(Semaphore::new(REFUSED_OPEN_MAX)),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Open {
    all: usize,
    listened_on: usize,
}

/// An open connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    open: Arc<watch::Sender<Open>>,
    listened_on: Cell<bool>,
    /// The limit on reading ahead of the request being answered.
    pub(crate) read_ahead: ReadAhead,
    counted: Arc<Counted>,
    _slot: Slot,
}

impl Connections {
    /// Counts one more connection, of at most `max`; `None` if its address has its share.
    pub(crate) fn open(&self, peer: Option<SocketAddr>, max: usize) -> Option<OpenConnection> {
        let slot = self.slots.take(Client::at(peer), max)?;
        self.open.send_modify(|open| open.all += 1);
        Some(OpenConnection {
            open: Arc::clone(&self.open),
            listened_on: Cell::new(false),
            read_ahead: ReadAhead::default(),
            counted: Arc::clone(&self.counted),
            _slot: slot,
        })
    }

    /// Tells the client of a connection without a slot the reason, and closes it. None of its requests is carried out.
    pub(crate) async fn refuse(&self, stream: TcpStream, max: usize) {
        self.counted.open_files.fetch_add(1, Ordering::Relaxed);
        let answer = refusal(max);
        // If too many are refused at once, there is no time for the rest of them.
        let permit = self.refused_open.try_acquire();
        if permit.is_ok() {
            let _ = timeout(REFUSED_TIME_MAX, stream.readable()).await;
        }
        drop_received(&stream);
        send_at_once(&stream, answer.as_bytes());
        let _ = shutdown(&stream, Shutdown::Write);
        if permit.is_ok() {
            let mut rest = stream.take(DROPPED_BYTES_MAX as u64);
            let mut dropped = vec![0; DROPPED_AT_ONCE_BYTES];
            let until_end = async { while let Ok(1..) = rest.read(&mut dropped).await {} };
            let _ = timeout(REFUSED_TIME_MAX, until_end).await;
        }
    }

    /// Returns the connections that were closed without a request, since the start.
    pub(crate) fn refused(&self) -> RefusedClients {
        RefusedClients {
            open_files: self.counted.open_files.load(Ordering::Relaxed),
            not_http: self.counted.not_http.load(Ordering::Relaxed),
        }
    }

    /// Waits, once the node has stopped, until no connection is open, or only those of listeners that no longer read;
    /// returns their number.
    pub(crate) async fn finished(&self) -> usize {
        let mut open = self.open.subscribe();
        loop {
            let now = *wait_until(&mut open, |open| open.all == open.listened_on).await;
            if now.all == 0 {
                return 0;
            }
            let one_ended = wait_until(&mut open, |open| open.all != now.all);
            if timeout(LISTENER_STALL_MAX, one_ended).await.is_err() {
                return now.all;
            }
        }
    }
}

/// Reads and drops what a client has sent, before its connection is closed: the system would otherwise reset the
/// connection, and the client might lose its last answer. Never waits.
pub(crate) fn drop_received(stream: &TcpStream) {
    let mut dropped = [0; DROPPED_AT_ONCE_BYTES];
    for _ in 0..DROPPED_BYTES_MAX / DROPPED_AT_ONCE_BYTES {
        match recv(stream, &mut dropped, RecvFlags::DONTWAIT) {
            Ok((_, 1..)) => {}
            _ => break,
        }
    }
}

/// Sends a short answer after everything before it was sent: there is space in the socket's buffer, unless the client
/// has gone or reads nothing, even if the runtime does not know of it yet. Returns `false` if not all of it was sent.
pub(crate) fn send_at_once(stream: &TcpStream, answer: &[u8]) -> bool {
    send_some(stream, answer).is_ok_and(|bytes| bytes == answer.len())
}

/// Sends as much as there is space for. Returns the number of bytes sent.
///
/// # Errors
///
/// The system's; `WouldBlock` if there is no space.
pub(crate) fn send_some(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(send(stream, bytes, flags)?)
}

/// Returns the answer to any request from an address that has its share of the connections.
fn refusal(max: usize) -> String {
    let problem = Problem::overloaded(OPEN_FILES, max as u64).not_appended();
    let body = problem.body();
    format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn wait_until<'a>(
    open: &'a mut watch::Receiver<Open>,
    is_so: impl FnMut(&Open) -> bool,
) -> Ref<'a, Open> {
    let waited = open.wait_for(is_so).await;
    waited.expect("the sender is kept while it is waited for")
}

/// Marks the request's connection as a listener's from now on: its answer ends only with the node.
pub(crate) fn listen_on_connection_of(request: &HttpRequest) {
    // The answer to HEAD has no body, and ends at once.
    if request.method() == Method::HEAD {
        return;
    }
    // There is none if a request does not arrive over a socket, as in tests.
    if let Some(connection) = request.conn_data::<Rc<OpenConnection>>() {
        connection.listen();
    }
}

impl OpenConnection {
    /// Counts a connection whose input was not HTTP.
    pub(crate) fn count_not_http(&self) {
        self.counted.not_http.fetch_add(1, Ordering::Relaxed);
    }

    fn listen(&self) {
        if !self.listened_on.replace(true) {
            self.open.send_modify(|open| open.listened_on += 1);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.send_modify(|open| {
            open.all -= 1;
            open.listened_on -= usize::from(self.listened_on.get());
        });
    }
}

#[cfg(test)]
mod tests {
    use actix_web::rt::net::TcpListener;
    use futures_util::FutureExt as _;
    use tokio::{
        io::AsyncWriteExt as _,
        time::{Instant, sleep},
    };

    use super::*;

    #[tokio::test]
    async fn a_refused_client_is_told_why_however_many_are_refused_and_whatever_it_has_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Connections::default();
        // As if others were being told.
        let permits = connections
            .refused_open
            .try_acquire_many(REFUSED_OPEN_MAX as u32);
        for sent_bytes in [0, 10, 40_000] {
            let mut client = TcpStream::connect(address).await.expect("a connection");
            client
                .write_all(&vec![b'x'; sent_bytes])
                .await
                .expect("sent");
            let (stream, _) = listener.accept().await.expect("a connection");
            // All of it: what arrives after the connection was closed resets it.
            let mut seen = vec![0; sent_bytes];
            while sent_bytes > 0 && stream.peek(&mut seen).await.expect("open") < sent_bytes {
                sleep(Duration::from_millis(1)).await;
            }
            let refused = connections.refuse(stream, 1).now_or_never();
            assert!(refused.is_some(), "refusing never waits here");
            let mut answer = String::new();
            let ended = client.read_to_string(&mut answer).await;
            ended.expect("it is closed, not reset");
            assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
        }
        drop(permits);
        assert_eq!(connections.refused().open_files, 3);
    }

    #[test]
    fn a_wait_ends_with_the_last_connection() {
        let connections = Connections::default();
        let finished = || connections.finished().now_or_never();
        assert_eq!(finished(), Some(0));
        let open = || connections.clone().open(None, 100).expect("a slot");
        let (first, second) = (open(), open());
        let mut waiting = Box::pin(connections.finished());
        assert_eq!((finished(), waiting.as_mut().now_or_never()), (None, None));
        drop(first);
        assert_eq!((finished(), waiting.as_mut().now_or_never()), (None, None));
        drop(second);
        assert_eq!((finished(), waiting.now_or_never()), (Some(0), Some(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn listeners_are_waited_for_only_while_one_after_the_other_ends() {
        let connections = Connections::default();
        let listeners = [(); 4].map(|()| connections.open(None, 100).expect("a slot"));
        listeners.iter().for_each(OpenConnection::listen);
        listeners[0].listen();
        let [first, second, _silent, _silent_too] = listeners;
        let started = Instant::now();
        let (left, ()) = tokio::join!(connections.finished(), async {
            for ending in [first, second] {
                sleep(LISTENER_STALL_MAX - Duration::from_millis(1)).await;
                drop(ending);
            }
        });
        assert_eq!(left, 2);
        let last_end = 2 * (LISTENER_STALL_MAX - Duration::from_millis(1));
        assert_eq!(started.elapsed(), last_end + LISTENER_STALL_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_finite_answer_is_waited_for_however_long_listeners_are_silent() {
        let connections = Connections::default();
        let open = || connections.open(None, 100).expect("a slot");
        let (listener, reader) = (open(), open());
        listener.listen();
        let started = Instant::now();
        let (left, ()) = tokio::join!(connections.finished(), async {
            sleep(3 * LISTENER_STALL_MAX).await;
            drop(reader);
        });
        assert_eq!((left, started.elapsed()), (1, 4 * LISTENER_STALL_MAX));
    }
}
