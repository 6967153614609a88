//! The trace of a run: a hash of everything that happened, and the lines themselves if asked for.

use std::io::{self, Write as _};

/// Hash and lines of a trace.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    keep: Keep,
}

/// The lines that are kept.
#[derive(Debug)]
pub(crate) enum Keep {
    /// None: the hash is enough.
    Nothing,
    /// All, printed as they come.
    Print,
    /// All, in memory.
    Lines(Vec<String>),
}

impl Trace {
    pub(crate) fn new(keep: Keep) -> Trace {
        // FNV-1a, 64 bits.
        Trace {
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            keep,
        }
    }

    pub(crate) fn add(&mut self, line: &str) {
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.events += 1;
        match &mut self.keep {
            Keep::Nothing => {}
            Keep::Print => {
                // The reader may have closed the pipe.
                let _ = writeln!(io::stdout(), "{line}");
            }
            Keep::Lines(lines) => lines.push(line.to_owned()),
        }
    }

    /// Returns the number of lines so far.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// Returns the hash of all lines so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns the lines, if they were kept.
    pub(crate) fn into_lines(self) -> Vec<String> {
        match self.keep {
            Keep::Lines(lines) => lines,
            Keep::Nothing | Keep::Print => Vec::new(),
        }
    }
}
