//! The program `replog-server`: see the library of this crate.

use std::process::ExitCode;

/// The system's allocator was seen to keep the memory of ten thousand connections for as long as
/// the process lived (`scripts/bench` shows it); this one returns it within seconds.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    replog_server::run()
}
