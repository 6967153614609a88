//! A position in a log: an offset, and the log that it belongs to.
//!
//! An offset means something only within one log. A position that a program prints for continuing names the log too, so
//! that continuing later, in a log that was founded anew meanwhile, is refused instead of skipping its beginning.

use std::{fmt, str::FromStr};

use replog_core::{Offset, client::Client, types::ClusterId};

/// `OFFSET`, or `OFFSET@CLUSTER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) offset: Offset,
    /// The log; `None`: the one that the node has.
    pub(super) log: Option<ClusterId>,
}

impl Position {
    /// Returns a client that asks for positions in this one's log.
    pub(super) fn client(self, client: &Client) -> Client {
        match self.log {
            Some(log) => client.in_log(log),
            None => client.clone(),
        }
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Position, String> {
        let (offset, log) = match text.split_once('@') {
            Some((offset, log)) => (offset, Some(ClusterId::try_from(log.to_owned())?)),
            None => (text, None),
        };
        match offset.parse() {
            Ok(offset) if !text.starts_with('+') => Ok(Position {
                offset: Offset(offset),
                log,
            }),
            _ => Err("an offset as in 17, or an offset and its log as in 17@CLUSTER".to_owned()),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.log {
            Some(log) => write!(f, "{}@{log}", self.offset),
            None => self.offset.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_parsed_as_it_is_written() {
        let log = "000102030405060708090a0b0c0d0eff";
        for text in ["0", "17", &format!("17@{log}")] {
            let position: Position = text.parse().expect(text);
            assert_eq!(position.to_string(), text);
            assert_eq!(position.log.is_some(), text.contains('@'));
        }
        for bad in [
            "",
            "x",
            "-1",
            "+1",
            "1@",
            "1@x",
            &format!("@{log}"),
            &format!("1@{log}0"),
        ] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
