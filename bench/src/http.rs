//! HTTP/1.1 over one kept connection, no more of it than replog's answers need.
//!
//! Written by hand so that the load costs little beside what it measures: a request is bytes made
//! once, an answer is its status and its body. Never follows, never decompresses, never retries.

use std::{io, net::SocketAddr, ops::Range};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Room for an answer at first: a receipt with its head. It grows with longer ones.
const BUFFER_BYTES: usize = 1 << 10;
/// The longest answer that is taken.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A connection, with room for one answer.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, within its connection's buffer.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

/// What a head says, once it is there in full.
struct Head {
    status: u16,
    body: Range<usize>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let head = loop {
            if let Some(head) = parse_head(&self.buffer[..filled])? {
                break head;
            }
            filled += self.read(filled).await?;
        };
        while filled < head.body.end {
            filled += self.read(filled).await?;
        }
        if filled > head.body.end {
            return Err(bad("more than the answer came"));
        }
        Ok(Answer {
            status: head.status,
            body: &self.buffer[head.body],
        })
    }

    async fn read(&mut self, filled: usize) -> io::Result<usize> {
        if filled == self.buffer.len() {
            if filled >= ANSWER_BYTES_MAX {
                return Err(bad("the answer is too long"));
            }
            self.buffer.resize(filled * 2, 0);
        }
        match self.stream.read(&mut self.buffer[filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

/// The request that appends a message of `payload_bytes` of JSON text.
pub(crate) fn append_request(concern: u32, payload_bytes: usize) -> Vec<u8> {
    let text = "x".repeat(payload_bytes.saturating_sub(2));
    let body = format!(r#"{{"data":"{text}","meta":{{"concern":{concern}}}}}"#);
    let length = body.len();
    format!(
        "POST /messages HTTP/1.1\r\nHost: replog\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The request that reads `path`.
pub(crate) fn get_request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: replog\r\n\r\n").into_bytes()
}

/// `None` while the head is not complete.
fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let Some(head_bytes) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let status = bytes
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok())
        .ok_or_else(|| bad("no status line of HTTP/1.1"))?;
    let length: usize = bytes[..head_bytes]
        .split(|byte| *byte == b'\n')
        .find_map(content_length)
        .ok_or_else(|| bad("no Content-Length"))?;
    let start = head_bytes + 4;
    Ok(Some(Head {
        status,
        body: start..start + length,
    }))
}

fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let (name, value) = line.split_at_checked(NAME.len())?;
    if !name.eq_ignore_ascii_case(NAME) {
        return None;
    }
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_complete() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        for cut in 0..text.len() - 6 {
            assert!(parse_head(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let head = parse_head(text).unwrap().unwrap();
        assert_eq!((head.status, &text[head.body]), (201, &b"hello"[..]));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for text in [
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\ncontent-length: 0\r\n\r\n",
        ] {
            assert!(parse_head(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_message_has_the_length_that_was_asked_for() {
        let request = String::from_utf8(append_request(2, 100)).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["data"].to_string().len(), 100);
        assert_eq!(body["meta"]["concern"], 2);
    }
}
