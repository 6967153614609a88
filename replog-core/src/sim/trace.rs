//! The trace of a run: a hash of all that happened, and the lines themselves where asked for.

use std::io::{self, Write as _};

/// What happens to the lines.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    keep: Keep,
}

/// Which lines are kept.
#[derive(Debug)]
pub(crate) enum Keep {
    /// None: the hash is enough.
    Nothing,
    /// All are printed as they come.
    Print,
    /// All are kept.
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
                // Whoever reads may have seen enough.
                let _ = writeln!(io::stdout(), "{line}");
            }
            Keep::Lines(lines) => lines.push(line.to_owned()),
        }
    }

    /// How many lines there were.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// The hash of all lines so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines, where they were kept.
    pub(crate) fn into_lines(self) -> Vec<String> {
        match self.keep {
            Keep::Lines(lines) => lines,
            Keep::Nothing | Keep::Print => Vec::new(),
        }
    }
}
