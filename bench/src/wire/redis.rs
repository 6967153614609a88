//! Redis: `XADD` and `WAIT` in one round trip, as a client that wants both sends them.

use std::{io, net::SocketAddr};

use super::lines::{Lines, bad};

/// The stream that all clients add to.
const STREAM: &str = "log";

/// A connection of one client.
pub(crate) struct Connection {
    lines: Lines,
    /// Number of replicas that must hold an entry before it counts.
    replicas: u32,
}

/// Encodes `XADD`, and `WAIT` without a time-out if there are replicas to wait for.
pub(crate) fn request(payload: &str, replicas: u32) -> Vec<u8> {
    let mut request = command(&["XADD", STREAM, "*", "d", payload]);
    if replicas > 0 {
        request.extend(command(&["WAIT", &replicas.to_string(), "0"]));
    }
    request
}

/// Encodes a command as an array of strings.
pub(crate) fn command(words: &[&str]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text += &format!("${}\r\n{word}\r\n", word.len());
    }
    text.into_bytes()
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, replicas: u32) -> io::Result<Connection> {
        let lines = Lines::open(address).await?;
        Ok(Connection { lines, replicas })
    }

    /// Sends a [`request`] and waits for the answers.
    pub(crate) async fn added(&mut self, request: &[u8]) -> Result<(), String> {
        match self.try_add(request).await {
            Ok(reached) if reached >= self.replicas => Ok(()),
            Ok(reached) => Err(format!("only {reached} replicas hold an entry")),
            Err(error) => Err(format!("an XADD failed: {error}")),
        }
    }

    async fn try_add(&mut self, request: &[u8]) -> io::Result<u32> {
        self.lines.send(request).await?;
        let _id = self.string().await?;
        if self.replicas == 0 {
            return Ok(0);
        }
        number(self.lines.line().await?, b':')
    }

    /// Sends a command whose answer is a string.
    pub(crate) async fn ask(&mut self, words: &[&str]) -> io::Result<String> {
        self.lines.send(&command(words)).await?;
        let answer = self.string().await?;
        Ok(String::from_utf8_lossy(answer).into_owned())
    }

    async fn string(&mut self) -> io::Result<&[u8]> {
        let length = number(self.lines.line().await?, b'$')?;
        self.lines.bytes(length as usize).await
    }
}

/// Parses a line with a number: anything else is an error that contains the line.
fn number(line: &[u8], kind: u8) -> io::Result<u32> {
    line.strip_prefix(&[kind])
        .and_then(|number| std::str::from_utf8(number).ok()?.parse().ok())
        .ok_or_else(|| bad(&String::from_utf8_lossy(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_strings() {
        let expected = b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n";
        assert_eq!(command(&["WAIT", "1", "0"]), expected);
        assert!(request("x", 1).ends_with(expected));
    }

    #[test]
    fn an_error_is_not_a_number() {
        assert_eq!(number(b":2", b':').unwrap(), 2);
        let error = number(b"-ERR no", b':').unwrap_err();
        assert_eq!(error.to_string(), "-ERR no");
    }
}
