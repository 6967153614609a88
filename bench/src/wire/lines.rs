//! Lines that end in CR and LF, and bytes of known length between them.
//!
//! Shared by Redis and NATS. Never reads more than a buffer's worth at once.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Initial buffer for answers; it grows with longer ones.
const BUFFER_BYTES: usize = 1 << 10;
/// The longest answer that is accepted.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A connection, and the part of its answers that was not consumed yet.
pub(super) struct Lines {
    stream: TcpStream,
    buffer: Vec<u8>,
    taken: usize,
    filled: usize,
}

impl Lines {
    pub(super) async fn open(address: SocketAddr) -> io::Result<Lines> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Lines {
            stream,
            buffer: vec![0; BUFFER_BYTES],
            taken: 0,
            filled: 0,
        })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Returns the next line, without its end.
    pub(super) async fn line(&mut self) -> io::Result<&[u8]> {
        let mut looked_at = self.taken;
        loop {
            let unread = &self.buffer[looked_at..self.filled];
            if let Some(length) = unread.windows(2).position(|two| two == b"\r\n") {
                let line = self.taken..looked_at + length;
                self.taken = line.end + 2;
                return Ok(&self.buffer[line]);
            }
            // The last byte may be the CR.
            let left = self.filled.saturating_sub(1).max(self.taken) - self.taken;
            self.more().await?;
            looked_at = self.taken + left;
        }
    }

    /// Returns the next `length` bytes, without the line end that follows them.
    pub(super) async fn bytes(&mut self, length: usize) -> io::Result<&[u8]> {
        while self.filled - self.taken < length + 2 {
            self.more().await?;
        }
        let bytes = self.taken..self.taken + length;
        self.taken = bytes.end + 2;
        Ok(&self.buffer[bytes])
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.taken > 0 {
            self.buffer.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
        }
        if self.filled == self.buffer.len() {
            if self.filled >= ANSWER_BYTES_MAX {
                return Err(bad("the answer is too long"));
            }
            self.buffer.resize(self.filled * 2, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }
}

/// Makes the error for an answer that was not understood.
pub(super) fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn lines_and_bytes_are_found_however_they_are_split() {
        const TEXT: &[u8] = b"+OK\r\n$5\r\nab\r\nc\r\n:12\r\n";
        for cut in 0..TEXT.len() {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut lines = Lines::open(listener.local_addr().unwrap()).await.unwrap();
            let (mut peer, _) = listener.accept().await.unwrap();
            peer.set_nodelay(true).unwrap();
            let sender = tokio::spawn(async move {
                peer.write_all(&TEXT[..cut]).await.unwrap();
                tokio::task::yield_now().await;
                peer.write_all(&TEXT[cut..]).await.unwrap();
                peer
            });
            assert_eq!(lines.line().await.unwrap(), b"+OK");
            assert_eq!(lines.line().await.unwrap(), b"$5");
            assert_eq!(lines.bytes(5).await.unwrap(), b"ab\r\nc");
            assert_eq!(lines.line().await.unwrap(), b":12");
            drop(sender.await.unwrap());
            assert!(lines.line().await.is_err());
        }
    }
}
