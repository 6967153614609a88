//! The program `replog`: see the library of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    replog_server::run_client()
}
