//! A tiny HTTP/1.1 server for tests that answers anything, well or badly.
//!
//! Owns threads and sockets of its own and ends them all when it is dropped. Takes a free port. It
//! knows just enough HTTP for awc: a head, a body with a content length, and kept-alive
//! connections.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Index of the connection, from 0.
    pub(super) connection: usize,
    /// Index of the request on that connection, from 0.
    pub(super) nth: usize,
    /// Request line and headers.
    pub(super) head: String,
    /// The body.
    pub(super) body: Bytes,
}

/// Reaction to a request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// These bytes are sent and the connection is kept.
    Answer(Vec<u8>),
    /// These bytes are sent and the connection is closed.
    Last(Vec<u8>),
    /// The connection is closed.
    Close,
}

/// The server. Its connections end with it.
pub(super) struct Responder {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    reply: Box<dyn Fn(Asked) -> Reply + Send + Sync>,
    stopping: AtomicBool,
    asked: AtomicUsize,
    connections: AtomicUsize,
    streams: Mutex<Vec<(TcpStream, JoinHandle<()>)>>,
}

impl Responder {
    /// Answers each request as `reply` says.
    pub(super) fn start(reply: impl Fn(Asked) -> Reply + Send + Sync + 'static) -> Responder {
        Responder::bind(Box::new(reply))
    }

    /// Returns a URL at which nothing listens.
    pub(super) fn nobody() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let address = listener.local_addr().expect("it is bound");
        format!("http://{address}")
    }

    /// Formats an answer as it goes over the wire.
    pub(super) fn answer(status: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    /// Returns the URL at which it listens.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns how many requests have come.
    pub(super) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// Returns how many connections have been made.
    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    fn bind(reply: Box<dyn Fn(Asked) -> Reply + Send + Sync>) -> Responder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            reply,
            stopping: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            streams: Mutex::new(Vec::new()),
        });
        let accepted = Arc::clone(&shared);
        let accepting = Some(thread::spawn(move || accept(&listener, &accepted)));
        Responder {
            address,
            shared,
            accepting,
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; whether it succeeds does not matter.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let streams = std::mem::take(&mut *self.shared.streams.lock().expect("no one panics"));
        for (stream, thread) in streams {
            let _ = stream.shutdown(Shutdown::Both);
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "a connection's thread panicked"
            );
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { return };
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
        let served = Arc::clone(shared);
        let Ok(ours) = stream.try_clone() else { return };
        let thread = thread::spawn(move || {
            // An error means that the other end is gone, which is the point of many tests.
            let _ = serve(&stream, connection, &served);
            // The clone below keeps the socket open, so it is closed by hand.
            let _ = stream.shutdown(Shutdown::Both);
        });
        let mut streams = shared.streams.lock().expect("no one panics");
        streams.push((ours, thread));
    }
}

fn serve(stream: &TcpStream, connection: usize, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    for nth in 0.. {
        let Some((head, body)) = read_request(&mut reader)? else {
            break;
        };
        shared.asked.fetch_add(1, Ordering::SeqCst);
        match (shared.reply)(Asked {
            connection,
            nth,
            head,
            body,
        }) {
            Reply::Answer(bytes) => (&*stream).write_all(&bytes)?,
            Reply::Last(bytes) => {
                (&*stream).write_all(&bytes)?;
                break;
            }
            Reply::Close => break,
        }
    }
    Ok(())
}

/// Reads the next request; `None` if the other end has closed.
fn read_request(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<(String, Bytes)>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| {
            value.trim().parse().expect("a client sends a number")
        });
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((head, body.into())))
}
