//! A tiny HTTP/1.1 server for tests, that answers anything, well or badly.
//!
//! Owns threads and sockets of its own and ends them all when it is dropped. Takes a free port.
//! It knows just enough HTTP for awc: a head, a body with a content length, kept connections, and
//! streams where it is told what to answer on them.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use actix_codec::{Decoder as _, Encoder as _};
use actix_http::ws::{self, Codec, Frame, Item, Message};
use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use crate::transport::{
    Serve,
    message::{Request, Response},
    wire,
};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The how manyth connection, from 0.
    pub(crate) connection: usize,
    /// The how manyth request on that connection, from 0.
    pub(crate) nth: usize,
    /// Request line and headers.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: Bytes,
}

/// What is done about a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These bytes are sent and the connection is kept.
    Answer(Vec<u8>),
    /// These bytes are sent and the connection is closed.
    Last(Vec<u8>),
    /// The connection is closed.
    Close,
}

/// What is done about a message on a stream.
#[derive(Clone, Debug)]
pub(crate) enum StreamReply {
    /// These bytes are sent as one binary message.
    Answer(Bytes),
    /// As they are, whatever they are.
    Raw(Vec<u8>),
    /// The connection is closed.
    Close,
}

/// A message on a stream as it came.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// The how manyth connection, from 0.
    pub(crate) connection: usize,
    /// The how manyth message on that connection, from 0.
    pub(crate) nth: usize,
    /// Its fragments.
    pub(crate) fragments: Vec<Bytes>,
}

type OnStream = Box<dyn Fn(Told) -> StreamReply + Send + Sync>;

/// The server. Its connections end with it.
pub(crate) struct Responder {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    reply: Box<dyn Fn(Asked) -> Reply + Send + Sync>,
    /// Streams are taken where it is there, each message in a thread of its own.
    on_stream: Option<OnStream>,
    resets: bool,
    stopping: AtomicBool,
    asked: AtomicUsize,
    connections: AtomicUsize,
    open: watch::Sender<usize>,
    streams: Mutex<Vec<(TcpStream, JoinHandle<()>)>>,
}

impl Responder {
    /// Answers each request as `reply` says.
    pub(crate) fn start(reply: impl Fn(Asked) -> Reply + Send + Sync + 'static) -> Responder {
        Responder::bind(Box::new(reply), None, false)
    }

    /// Answers each message on each stream as `on_stream` says, and no other request.
    pub(crate) fn streaming(
        on_stream: impl Fn(Told) -> StreamReply + Send + Sync + 'static,
    ) -> Responder {
        Responder::bind(Box::new(|_| Reply::Close), Some(Box::new(on_stream)), false)
    }

    /// Resets each connection once something was sent on it.
    pub(crate) fn resetting() -> Responder {
        Responder::bind(Box::new(|_| Reply::Close), None, true)
    }

    /// Hands each request to `node`, as a server does.
    pub(crate) fn serving(node: Arc<dyn Serve>) -> Responder {
        let behind_streams = Arc::clone(&node);
        let reply = move |asked: Asked| {
            let request = wire::decode_request(asked.body).expect("a transport sends requests");
            match served(&*node, request) {
                Some(response) => {
                    let body = wire::encode_response(&response).concat();
                    Reply::Answer(Responder::answer("200 OK", wire::CONTENT_TYPE, &body))
                }
                None => Reply::Close,
            }
        };
        let on_stream = move |told: Told| {
            let (number, request) = told.request();
            match served(&*behind_streams, request) {
                Some(response) => {
                    StreamReply::Answer(wire::stream::encode_answer(number, Ok(&response)))
                }
                None => StreamReply::Close,
            }
        };
        Responder::bind(Box::new(reply), Some(Box::new(on_stream)), false)
    }

    /// A URL where nobody listens.
    pub(crate) fn nobody() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let address = listener.local_addr().expect("it is bound");
        format!("http://{address}")
    }

    /// An answer as it goes over the wire.
    pub(crate) fn answer(status: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests have come.
    pub(crate) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// How many connections have been made.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until no connection is open.
    pub(crate) async fn all_closed(&self) {
        let mut open = self.shared.open.subscribe();
        open.wait_for(|open| *open == 0)
            .await
            .expect("the sender is ours");
    }

    fn bind(
        reply: Box<dyn Fn(Asked) -> Reply + Send + Sync>,
        on_stream: Option<OnStream>,
        resets: bool,
    ) -> Responder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            reply,
            on_stream,
            resets,
            stopping: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            open: watch::Sender::new(0),
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
        shared.open.send_modify(|open| *open += 1);
        let served = Arc::clone(shared);
        let Ok(ours) = stream.try_clone() else { return };
        let thread = thread::spawn(move || {
            // An error: the other end is gone, which is what many tests are about.
            let _ = serve(&stream, connection, &served);
            // The clone below keeps the socket open, so it is closed by hand. A reset is what
            // the system makes of a socket with unread bytes whose last handle is gone.
            if !served.resets {
                let _ = stream.shutdown(Shutdown::Both);
            }
            drop(stream);
            served.open.send_modify(|open| *open -= 1);
        });
        if shared.resets {
            drop(ours);
            let _ = thread.join();
        } else {
            shared
                .streams
                .lock()
                .expect("no one panics")
                .push((ours, thread));
        }
    }
}

impl Told {
    /// The request that it is, and its number.
    pub(crate) fn request(self) -> (u64, Request) {
        let mut fragments = self.fragments;
        let head = fragments.remove(0);
        let (number, request) =
            wire::stream::decode_request(&head, fragments).expect("a transport sends a number");
        (number, request.expect("a transport sends requests"))
    }
}

/// What `node` answers; `None` when it has stopped.
fn served(node: &dyn Serve, request: Request) -> Option<Response> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("the system has room for a runtime");
    runtime.block_on(node.serve(request)).ok()
}

fn serve(stream: &TcpStream, connection: usize, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if shared.resets {
        stream.peek(&mut [0])?;
        return Ok(());
    }
    let mut reader = BufReader::new(stream);
    for nth in 0.. {
        let Some((head, body)) = read_request(&mut reader)? else {
            break;
        };
        if let Some(on_stream) = &shared.on_stream
            && let Some(accepted) = accept_stream(&head)
        {
            (&*stream).write_all(&accepted)?;
            let told = |nth, fragments| {
                shared.asked.fetch_add(1, Ordering::SeqCst);
                on_stream(Told {
                    connection,
                    nth,
                    fragments,
                })
            };
            return serve_stream(stream, &mut reader, &told);
        }
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

/// The next request; `None` when the other end has closed.
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

/// The answer to a request for a stream.
fn accept_stream(head: &str) -> Option<Vec<u8>> {
    let path = head.split(' ').nth(1)?;
    let key = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))?
        .1
        .trim();
    assert_eq!(path, wire::stream::PATH);
    let accept = ws::hash_key(key.as_bytes());
    let (accept, protocol) = (String::from_utf8_lossy(&accept), wire::stream::PROTOCOL);
    Some(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
        )
        .into_bytes(),
    )
}

/// Answers messages until the other end leaves or it is told to close.
fn serve_stream(
    stream: &TcpStream,
    reader: &mut BufReader<&TcpStream>,
    told: &(dyn Fn(usize, Vec<Bytes>) -> StreamReply + Sync),
) -> io::Result<()> {
    let mut codec = Codec::new().max_size(wire::BODY_BYTES_MAX);
    let (mut received, mut fragments, mut nth) = (BytesMut::new(), Vec::new(), 0);
    let answering = Mutex::new(());
    thread::scope(|scope| {
        loop {
            let frame = codec
                .decode(&mut received)
                .expect("a transport sends frames");
            let Some(frame) = frame else {
                let chunk = reader.fill_buf()?;
                let bytes = chunk.len();
                if bytes == 0 {
                    return Ok(());
                }
                received.extend_from_slice(chunk);
                reader.consume(bytes);
                continue;
            };
            match frame {
                Frame::Binary(last) | Frame::Continuation(Item::Last(last)) => fragments.push(last),
                Frame::Continuation(Item::FirstBinary(part) | Item::Continue(part)) => {
                    fragments.push(part);
                    continue;
                }
                Frame::Pong(_) => continue,
                other => panic!("a transport does not send {other:?}"),
            }
            let (message, at) = (std::mem::take(&mut fragments), nth);
            nth += 1;
            let (told, answering) = (&told, &answering);
            scope.spawn(move || {
                let bytes = match told(at, message) {
                    StreamReply::Answer(answer) => {
                        let mut bytes = BytesMut::new();
                        Codec::new()
                            .encode(Message::Binary(answer), &mut bytes)
                            .expect("any bytes can be sent");
                        bytes.to_vec()
                    }
                    StreamReply::Raw(bytes) => bytes,
                    StreamReply::Close => {
                        let _ = stream.shutdown(Shutdown::Both);
                        return;
                    }
                };
                let _one_at_a_time = answering.lock();
                // An error: the other end is gone.
                let _ = (&*stream).write_all(&bytes);
            });
        }
    })
}
