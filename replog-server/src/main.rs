//! The program `replog-server`: see the library of this crate.

use std::process::ExitCode;

/// The system's allocator was seen to keep what ten thousand connections had needed for as long as
/// the process lived (`scripts/bench` shows it); this one gives it back within seconds.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    replog_server::run()
}
