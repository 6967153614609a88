//! HTTP/1.1 over one kept-alive connection, only as much of it as replog's answers need.
//!
//! Written by hand so that the load costs little compared with what it measures: a request is bytes
//! made once, an answer is its status and its body. Never follows redirects, never decompresses,
//! never retries.

use std::{io, net::SocketAddr, ops::Range};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Initial buffer for an answer: a receipt with its head. It grows with longer ones.
const BUFFER_BYTES: usize = 1 << 10;
/// The longest answer that is accepted.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// End of a chunked answer.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A connection, with a buffer for one answer.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, within its connection's buffer.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

/// A complete head, parsed.
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
            return Err(bad("more data than the answer"));
        }
        Ok(Answer {
            status: head.status,
            body: &self.buffer[head.body],
        })
    }

    /// Sends an append and expects the answer 201.
    pub(crate) async fn created(&mut self, request: &[u8]) -> Result<(), String> {
        let answer = self
            .exchange(request)
            .await
            .map_err(|error| format!("an append broke off: {error}"))?;
        if answer.status == 201 {
            return Ok(());
        }
        let body = String::from_utf8_lossy(answer.body);
        Err(format!(
            "an append was answered with {}: {body}",
            answer.status
        ))
    }

    /// Sends a request that ends the connection, and returns the length of its answer's body, which
    /// is discarded as it comes. Chunk framing is included.
    pub(crate) async fn read_through(mut self, request: &[u8]) -> io::Result<u64> {
        self.stream.write_all(request).await?;
        self.buffer.resize(ANSWER_BYTES_MAX, 0);
        let mut filled = 0;
        let head_bytes = loop {
            let four = |bytes: &[u8]| bytes.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = four(&self.buffer[..filled]) {
                break end + 4;
            }
            filled += self.read(filled).await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_bytes]).to_ascii_lowercase();
        if !head.starts_with("http/1.1 200") {
            return Err(bad(&head));
        }
        let mut body_bytes = (filled - head_bytes) as u64;
        let mut tail = self.buffer[head_bytes..filled].to_vec();
        loop {
            let read = self.stream.read(&mut self.buffer).await?;
            if read == 0 {
                break;
            }
            body_bytes += read as u64;
            tail.extend_from_slice(&self.buffer[read.saturating_sub(LAST_CHUNK.len())..read]);
            tail.drain(..tail.len().saturating_sub(LAST_CHUNK.len()));
        }
        let whole = match head.split("content-length: ").nth(1) {
            Some(rest) => rest.lines().next() == Some(&body_bytes.to_string()),
            None => tail.ends_with(LAST_CHUNK),
        };
        match whole {
            true => Ok(body_bytes),
            false => Err(bad("the answer broke off")),
        }
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

/// Returns the request that appends a message of `payload_bytes` of JSON text.
pub(crate) fn append_request(concern: u32, payload_bytes: usize) -> Vec<u8> {
    let data = super::payload(payload_bytes);
    let body = format!(r#"{{"data":{data},"meta":{{"concern":{concern}}}}}"#);
    let length = body.len();
    format!(
        "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Returns the request that appends `messages` messages at once, each as [`append_request`]'s.
pub(crate) fn batch_request(concern: u32, messages: usize, payload_bytes: usize) -> Vec<u8> {
    let line = super::payload(payload_bytes) + "\n";
    let length = line.len() * messages;
    let head = format!(
        "POST /messages?concern={concern} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {length}\r\n\r\n"
    );
    (head + &line.repeat(messages)).into_bytes()
}

/// Returns the request that reads `path`.
pub(crate) fn get_request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// Returns the request that reads all of `path` in some form, and then closes the connection.
pub(crate) fn get_once_request(path: &str, accept: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// Parses a head; `None` while it is not complete.
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
    fn a_malformed_answer_is_an_error() {
        for text in [
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\ncontent-length: 0\r\n\r\n",
        ] {
            assert!(parse_head(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_message_has_the_requested_length() {
        let request = String::from_utf8(append_request(2, 100)).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["data"].to_string().len(), 100);
        assert_eq!(body["meta"]["concern"], 2);
    }

    #[test]
    fn a_batch_has_a_line_for_each_message() {
        let request = String::from_utf8(batch_request(2, 3, 10)).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /messages?concern=2 HTTP/1.1\r\n"));
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert_eq!(body, "\"xxxxxxxx\"\n".repeat(3));
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_an_error() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
        let whole = chunked.to_owned() + "0\r\n\r\n";
        assert_eq!(read_through(&whole).await.unwrap(), 12);
        assert!(read_through(chunked).await.is_err());
        let long = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(read_through(long).await.unwrap(), 3);
        assert!(read_through(&long[..long.len() - 1]).await.is_err());
    }

    /// Reads an answer after which the connection ends.
    async fn read_through(answer: &str) -> io::Result<u64> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let connection = Connection::open(listener.local_addr()?).await?;
        let (mut peer, _) = listener.accept().await?;
        let request = get_once_request("/messages", "*/*");
        let serve = async {
            let mut asked = vec![0; request.len()];
            peer.read_exact(&mut asked).await?;
            peer.write_all(answer.as_bytes()).await?;
            drop(peer);
            io::Result::Ok(())
        };
        let (served, read) = tokio::join!(serve, connection.read_through(&request));
        served?;
        read
    }
}
