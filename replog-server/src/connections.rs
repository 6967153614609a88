//! The open connections of one web server.
//!
//! Owns their number and, among them, the number of listeners: those that carry an answer that ends only with the node.
//! The web server itself checks once a second whether a connection is left when it is to stop, and waits for each of
//! them alike; a wait here ends with the last finite one, and leaves behind listeners that do not read.
//!
//! Owns also the part of the connections that each address may have: an address that opens more is told so, and that
//! connection closed. It would otherwise leave none for others, which would see nothing but silence. Such a connection
//! never reaches the web server, so that no request on it is carried out.

use std::{
    cell::Cell,
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
    shares::{Client, Place, Places},
};

/// Time without the end of any listener's connection after which the remaining ones are taken for ones that do not
/// read: many times what it takes to write the last text to one that does.
const SILENT_LISTENERS: Duration = Duration::from_millis(500);

/// Name of the limit on the connections of an address: it is not a setting of the node but the system's.
const OPEN_FILES: &str = "open-files";

/// Maximum number of connections that are refused and still open, so that the client can read why. Further ones are
/// closed at once, and their clients may find them reset instead.
pub(crate) const REFUSED_OPEN_MAX: usize = 4;
/// Time that a refused connection waits for the first bytes of its client, and then for its end: a client that is
/// answered before it asks may not listen, and one that is cut off while it sends may not read.
const REFUSED_TIME_MAX: Duration = Duration::from_millis(500);
/// Bytes that are read, at most, of what a client has sent in vain.
const DROPPED_BYTES_MAX: usize = 256 << 10;
/// Bytes of it that are in memory at once.
const DROPPED_AT_ONCE_BYTES: usize = 4 << 10;

/// Number of open connections. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    open: Arc<watch::Sender<Open>>,
    places: Places,
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
    /// Their address had its part.
    pub(crate) open_files: u64,
    /// They did not speak HTTP.
    pub(crate) not_http: u64,
}

impl Default for Connections {
    fn default() -> Connections {
        Connections {
            open: Arc::default(),
            places: Places::default(),
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
    _place: Place,
}

impl Connections {
    /// Counts one more connection, of at most `max`; `None` if its address has its part.
    pub(crate) fn open(&self, peer: Option<SocketAddr>, max: usize) -> Option<OpenConnection> {
        let place = self.places.take(Client::at(peer), max)?;
        self.open.send_modify(|open| open.all += 1);
        Some(OpenConnection {
            open: Arc::clone(&self.open),
            listened_on: Cell::new(false),
            read_ahead: ReadAhead::default(),
            counted: Arc::clone(&self.counted),
            _place: place,
        })
    }

    /// Tells the client of a connection that got no slot why, and closes it. None of its requests is carried out.
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
            if timeout(SILENT_LISTENERS, one_ended).await.is_err() {
                return now.all;
            }
        }
    }
}

/// Takes what a client has sent, before its connection is closed: the system would otherwise reset the connection, and the
/// client might lose its last answer. Never waits.
pub(crate) fn drop_received(stream: &TcpStream) {
    let mut dropped = [0; DROPPED_AT_ONCE_BYTES];
    for _ in 0..DROPPED_BYTES_MAX / DROPPED_AT_ONCE_BYTES {
        match recv(stream, &mut dropped, RecvFlags::DONTWAIT) {
            Ok((_, 1..)) => {}
            _ => break,
        }
    }
}

/// Sends a short answer where all before it was sent: there is room, unless the client has gone or reads nothing. The
/// runtime may not know of it yet. `false`: not all of it was sent.
pub(crate) fn send_at_once(stream: &TcpStream, answer: &[u8]) -> bool {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    send(stream, answer, flags).is_ok_and(|bytes| bytes == answer.len())
}

/// Returns the answer to any request from an address that has its part of the connections.
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
    waited.expect("the number is there while it is looked at")
}

/// Marks the request's connection as a listener's from now on: its answer ends only with the node.
pub(crate) fn listen_on_connection_of(request: &HttpRequest) {
    // The answer to HEAD has no body, and ends at once.
    if request.method() == Method::HEAD {
        return;
    }
    // There is none if a request does not arrive by a socket, as in tests.
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
    async fn a_client_is_told_why_it_is_refused_however_many_are_and_whatever_it_has_sent() {
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
            if sent_bytes > 0 {
                stream.readable().await.expect("it has come");
            }
            let refused = connections.refuse(stream, 1).now_or_never();
            assert!(refused.is_some(), "nobody waits for it");
            let mut answer = String::new();
            let ended = client.read_to_string(&mut answer).await;
            ended.expect("it is closed, not reset");
            assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
        }
        drop(permits);
        assert_eq!(connections.refused().open_files, 3);
    }

    #[test]
    fn who_waits_goes_on_with_the_end_of_the_last_one() {
        let connections = Connections::default();
        let finished = || connections.finished().now_or_never();
        assert_eq!(finished(), Some(0));
        let open = || connections.clone().open(None, 100).expect("a place");
        let (first, second) = (open(), open());
        let mut waiting = Box::pin(connections.finished());
        assert_eq!((finished(), waiting.as_mut().now_or_never()), (None, None));
        drop(first);
        assert_eq!((finished(), waiting.as_mut().now_or_never()), (None, None));
        drop(second);
        assert_eq!((finished(), waiting.now_or_never()), (Some(0), Some(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn listeners_are_waited_for_while_one_after_the_other_takes_its_end_and_no_longer() {
        let connections = Connections::default();
        let listeners = [(); 4].map(|()| connections.open(None, 100).expect("a place"));
        listeners.iter().for_each(OpenConnection::listen);
        listeners[0].listen();
        let [first, second, _silent, _silent_too] = listeners;
        let started = Instant::now();
        let (left, ()) = tokio::join!(connections.finished(), async {
            for ending in [first, second] {
                sleep(SILENT_LISTENERS - Duration::from_millis(1)).await;
                drop(ending);
            }
        });
        assert_eq!(left, 2);
        let last_end = 2 * (SILENT_LISTENERS - Duration::from_millis(1));
        assert_eq!(started.elapsed(), last_end + SILENT_LISTENERS);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_has_an_end_is_waited_for_however_long_listeners_are_silent() {
        let connections = Connections::default();
        let open = || connections.open(None, 100).expect("a place");
        let (listener, reader) = (open(), open());
        listener.listen();
        let started = Instant::now();
        let (left, ()) = tokio::join!(connections.finished(), async {
            sleep(3 * SILENT_LISTENERS).await;
            drop(reader);
        });
        assert_eq!((left, started.elapsed()), (1, 4 * SILENT_LISTENERS));
    }
}
