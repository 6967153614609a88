//! Shared part of the bare programs: the HTTP interface for appends, as replog-server's is.
//!
//! Owns the parsing of a body and the answer. The bare programs are yardsticks: the minimum cost of
//! an append, with this web framework and on this disk, when nothing is checked and nothing can be
//! recovered. Not a log to keep anything in.

use std::{
    fs::{File, OpenOptions},
    future::Future,
    io::{self, Write as _},
    net::TcpListener,
    path::Path,
};

use actix_web::{App, HttpResponse, HttpServer, web};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

/// The same as replog-server's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The largest body that is read.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// A body: its payload stays the text that was sent.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    meta: Meta,
}

#[derive(Default, Deserialize)]
struct Meta {
    /// Parsed and ignored.
    #[serde(default)]
    concern: Option<u32>,
}

/// A message, and the sender that waits for its offset.
pub struct Append {
    /// The payload, as it was sent.
    pub payload: Vec<u8>,
    /// Takes the offset once the message is stored as the program promises.
    pub answer: oneshot::Sender<u64>,
}

/// Appends one message to a batch, preceded by its length.
pub fn encode(batch: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a body is limited to less");
    batch.extend_from_slice(&length.to_le_bytes());
    batch.extend_from_slice(payload);
}

/// Opens the file that a bare program appends to.
///
/// # Errors
///
/// Those of the file system.
pub fn open_log(directory: &Path) -> io::Result<File> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join("log");
    OpenOptions::new().create(true).append(true).open(path)
}

/// Prints on stdout the address at which a program listens, as replog-server does.
///
/// # Errors
///
/// Those of stdout.
pub fn say_listening(name: &str, listener: &TcpListener) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{name} http://{}", listener.local_addr()?)?;
    stdout.flush()
}

/// Answers `POST /messages` with 201 and the offset that `append` gives, by one web worker, until
/// the process is told to end.
///
/// # Errors
///
/// If there is no port or no worker.
pub async fn serve<A, F>(name: &str, append: A) -> io::Result<()>
where
    A: Fn(&[u8]) -> F + Clone + Send + 'static,
    F: Future<Output = Option<u64>> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0")?;
    say_listening(name, &listener)?;
    HttpServer::new(move || {
        let append = append.clone();
        App::new()
            .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
            .route(
                "/messages",
                web::post().to(move |body: web::Bytes| answer(body, append.clone())),
            )
    })
    .workers(1)
    .backlog(BACKLOG)
    .listen(listener)?
    .run()
    .await
}

async fn answer<A, F>(body: web::Bytes, append: A) -> HttpResponse
where
    A: Fn(&[u8]) -> F,
    F: Future<Output = Option<u64>>,
{
    let parsed: Result<Body<'_>, _> = serde_json::from_slice(&body);
    let Ok(Body { data, meta }) = parsed else {
        return HttpResponse::BadRequest().finish();
    };
    match append(data.get().as_bytes()).await {
        Some(offset) => HttpResponse::Created()
            .insert_header(("Location", format!("/messages/{offset}")))
            .content_type("application/json")
            .body(format!(
                r#"{{"offset":{offset},"concern":{}}}"#,
                meta.concern.unwrap_or(2)
            )),
        None => HttpResponse::InternalServerError().finish(),
    }
}
