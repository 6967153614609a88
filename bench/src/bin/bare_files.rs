//! The ceiling of a sequential read: actix-files sending a file of the same length.
//!
//! ```text
//! bare-files DIRECTORY
//! ```
//!
//! Leaves out the work of reading a log: decoding records, checking them, writing JSON.

use std::{io, net::TcpListener};

use actix_web::{App, HttpServer};

/// The same as replog-server's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[actix_web::main]
async fn main() -> io::Result<()> {
    let directory = std::env::args().nth(1);
    let directory = directory.ok_or_else(|| io::Error::other("usage: bare-files DIRECTORY"))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("bare-files http://{}", listener.local_addr()?);
    HttpServer::new(move || App::new().service(actix_files::Files::new("/", &directory)))
        .workers(1)
        .listen(listener)?
        .run()
        .await
}
