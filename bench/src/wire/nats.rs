//! NATS: its text protocol, with a reply subject for each client.

use std::{io, net::SocketAddr};

use serde_json::Value;

use super::lines::{Lines, bad};

/// Subject of the stream under test.
pub(crate) const SUBJECT: &str = "log.messages";

const CONNECT: &str = concat!(
    r#"CONNECT {"verbose":false,"pedantic":false,"tls_required":false,"name":"replog-bench","#,
    r#""lang":"rust","version":"0","protocol":1,"headers":true,"no_responders":true}"#,
    "\r\nPING\r\n"
);

/// A connection of one client.
pub(crate) struct Connection {
    lines: Lines,
    inbox: String,
}

impl Connection {
    /// Connects and subscribes to an inbox of its own.
    pub(crate) async fn open(address: SocketAddr, number: usize) -> io::Result<Connection> {
        let mut lines = Lines::open(address).await?;
        if !lines.line().await?.starts_with(b"INFO ") {
            return Err(bad("no INFO came first"));
        }
        let inbox = format!("_INBOX.{}.{number}", std::process::id());
        lines.send(CONNECT.as_bytes()).await?;
        while lines.line().await? != b"PONG" {}
        lines.send(format!("SUB {inbox} 1\r\n").as_bytes()).await?;
        Ok(Connection { lines, inbox })
    }

    /// Encodes a publication that asks for an answer.
    pub(crate) fn publication(&self, subject: &str, payload: &[u8]) -> Vec<u8> {
        let head = format!("PUB {subject} {} {}\r\n", self.inbox, payload.len());
        let mut text = head.into_bytes();
        text.extend_from_slice(payload);
        text.extend_from_slice(b"\r\n");
        text
    }

    /// Publishes and waits until the stream holds the message, as its replicas agreed.
    pub(crate) async fn acknowledged(&mut self, publication: &[u8]) -> Result<(), String> {
        let answer = self.exchange(publication).await;
        match answer {
            // An acknowledgement is `{"stream":…,"seq":…}`.
            Ok(answer) if answer.windows(6).any(|six| six == b"\"seq\":") => Ok(()),
            Ok(answer) => Err(String::from_utf8_lossy(answer).into_owned()),
            Err(error) => Err(format!("a publication failed: {error}")),
        }
    }

    /// Calls JetStream's API.
    pub(crate) async fn call(&mut self, subject: &str, request: &Value) -> io::Result<Value> {
        let request = match request {
            Value::Null => Vec::new(),
            request => request.to_string().into_bytes(),
        };
        let publication = self.publication(subject, &request);
        let answer = self.exchange(&publication).await?;
        serde_json::from_slice(answer).map_err(io::Error::other)
    }

    async fn exchange(&mut self, publication: &[u8]) -> io::Result<&[u8]> {
        self.lines.send(publication).await?;
        loop {
            let line = self.lines.line().await?;
            if line == b"PING" {
                self.lines.send(b"PONG\r\n").await?;
            } else if line.starts_with(b"MSG ") {
                let length = last_number(line).ok_or_else(|| bad("a MSG without a length"))?;
                return self.lines.bytes(length).await;
            } else if line.starts_with(b"HMSG ") {
                return Err(bad("no server answers this subject"));
            } else if line.starts_with(b"-ERR") {
                return Err(bad(&String::from_utf8_lossy(line)));
            }
            // INFO comes again when the cluster changes.
        }
    }
}

fn last_number(line: &[u8]) -> Option<usize> {
    let last = line.rsplit(|byte| *byte == b' ').next()?;
    std::str::from_utf8(last).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_the_last_word_of_a_message() {
        assert_eq!(last_number(b"MSG _INBOX.1 1 30"), Some(30));
        assert_eq!(last_number(b"MSG _INBOX.1 1 reply 7"), Some(7));
        assert_eq!(last_number(b"MSG"), None);
    }
}
