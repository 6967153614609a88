//! The ceiling of the HTTP path: parses the body, gives it a number, answers 201.
//!
//! ```text
//! bare-http
//! ```
//!
//! Leaves out everything else: it keeps no message, in memory or on disk.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

#[actix_web::main]
async fn main() -> io::Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    replog_bare::serve("bare-http", move |_payload| {
        std::future::ready(Some(next.fetch_add(1, Ordering::Relaxed)))
    })
    .await
}
