//! [`Conduit`]: one connection as a sequence of packets in each direction.
//!
//! Owns the socket, with or without TLS, and its buffers. Knows packets but not what they carry. Memory grows
//! with the bytes that arrive, never with the length that a packet claims; the caller decides how much may be
//! read.
//!
//! Packets that are queued together go out in as few writes, and as large TLS records, as there is room
//! for: their parts are passed on in place and copied once, by the encryption.

use std::{
    collections::VecDeque,
    future::Future as _,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, BufReader, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::TlsStream;

use super::{
    counters::NetCounters,
    packet::{Kind, PACKET_HEADER_BYTES, Packet, PacketError, PacketHeader},
};
use crate::limits::{CLUSTER_BUFFER_BYTES_MAX, CLUSTER_RECEIPT_INTERVAL};

/// Size of one read, in bytes.
const READ_BYTES: usize = 64 << 10;

/// Size of one read below TLS, in bytes: three TLS records of maximum length.
const TLS_READ_BYTES: usize = 48 << 10;

/// The longest packet that is copied out of the common buffer, in bytes: a short record that stays in memory
/// must not keep a buffer alive that is many times as long.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// The most memory allocated at once for a long packet, in bytes: the claimed length is not trusted.
const ROOM_BYTES: usize = 2 << 20;

/// The most parts in one write.
const PARTS_MAX: usize = 64;

const _: () = assert!(COPIED_BYTES_MAX + PACKET_HEADER_BYTES <= READ_BYTES);

/// A socket below TLS. rustls reads 4 KiB at a time: without a buffer in between, a batch of records would take a
/// system call for each of those reads.
pub(super) type TlsSocket = BufReader<TcpStream>;

/// Adds the read buffer for TLS to a socket.
pub(super) fn tls_socket(stream: TcpStream) -> TlsSocket {
    BufReader::with_capacity(TLS_READ_BYTES, stream)
}

/// The byte stream below the packets.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TlsSocket>>),
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The reason why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConduitError {
    #[error("the other end closed it")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Packet(#[from] PacketError),
}

/// A long packet that has partly arrived.
struct Partial {
    header: PacketHeader,
    body: BytesMut,
}

/// One connection, packed.
pub(super) struct Conduit {
    wire: Wire,
    counters: Arc<NetCounters>,
    /// Received bytes that are not a complete packet yet. Never shared: packets are copied out of it.
    received: BytesMut,
    partial: Option<Partial>,
    /// Total bytes of packets received.
    received_bytes: u64,
    /// The value of `received_bytes` last reported to the other end; below, the time of that report.
    reported_bytes: u64,
    reported_at: Instant,
    outgoing: VecDeque<Bytes>,
    outgoing_bytes: usize,
    /// Total bytes of packets queued.
    queued_bytes: u64,
    needs_flush: bool,
}

impl Conduit {
    /// Continues a connection after its preambles; `received` already arrived after them.
    pub(super) fn new(wire: Wire, received: BytesMut, counters: Arc<NetCounters>) -> Conduit {
        let received_bytes = received.len() as u64;
        Conduit {
            wire,
            counters,
            received,
            partial: None,
            received_bytes,
            reported_bytes: 0,
            reported_at: Instant::now(),
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            queued_bytes: 0,
            needs_flush: false,
        }
    }

    /// Returns the number of bytes that wait to be sent.
    pub(super) fn outgoing_bytes(&self) -> usize {
        self.outgoing_bytes
    }

    /// Reports whether a packet of these parts may be queued. The first one always may, however long.
    pub(super) fn has_room_for(&self, parts: &[Bytes]) -> bool {
        let bytes: usize = PACKET_HEADER_BYTES + parts.iter().map(Bytes::len).sum::<usize>();
        self.outgoing.is_empty() || self.outgoing_bytes + bytes <= CLUSTER_BUFFER_BYTES_MAX
    }

    /// Returns the total bytes of packets received.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Returns the memory, in bytes, of received data that was not taken yet.
    #[cfg(test)]
    pub(super) fn buffered_capacity(&self) -> usize {
        let partial = self.partial.as_ref();
        self.received.capacity() + partial.map_or(0, |partial| partial.body.capacity())
    }

    /// Reports whether a long packet has arrived only in part.
    pub(super) fn is_within_long_packet(&self) -> bool {
        self.partial.is_some()
    }

    /// Appends a packet of these parts to the queue. Returns the position in the stream at which it ends.
    pub(super) fn queue(&mut self, kind: Kind, number: u64, parts: Vec<Bytes>) -> u64 {
        let header = PacketHeader {
            bytes: parts.iter().map(Bytes::len).sum(),
            kind,
            number,
            received: self.received_bytes,
        };
        (self.reported_bytes, self.reported_at) = (self.received_bytes, Instant::now());
        let encoded = header.encode();
        match parts.split_first() {
            // Most packets are only a short head: one part to write.
            Some((head, rest)) if head.len() <= COPIED_BYTES_MAX => {
                let mut joined = BytesMut::with_capacity(PACKET_HEADER_BYTES + head.len());
                joined.put_slice(&encoded);
                joined.put_slice(head);
                self.outgoing.push_back(joined.freeze());
                self.outgoing.extend(rest.iter().cloned());
            }
            _ => {
                self.outgoing.push_back(Bytes::copy_from_slice(&encoded));
                self.outgoing.extend(parts);
            }
        }
        self.outgoing.retain(|part| !part.is_empty());
        self.outgoing_bytes += PACKET_HEADER_BYTES + header.bytes;
        self.queued_bytes += (PACKET_HEADER_BYTES + header.bytes) as u64;
        self.queued_bytes
    }

    /// Queues a receipt that tells the other end how much of a long packet has arrived, if one is due.
    pub(super) fn queue_receipt(&mut self) {
        let news = self.received_bytes > self.reported_bytes;
        if self.partial.is_some() && news && self.reported_at.elapsed() >= CLUSTER_RECEIPT_INTERVAL
        {
            self.queue(Kind::Receipt, 0, Vec::new());
        }
    }

    /// Returns the next packet once it has arrived. A packet longer than `room_bytes` is not read yet.
    pub(super) fn poll_packet(
        &mut self,
        cx: &mut Context<'_>,
        room_bytes: usize,
    ) -> Poll<Result<Packet, ConduitError>> {
        loop {
            if let Some(packet) = self.take_packet(room_bytes)? {
                return Poll::Ready(Ok(packet));
            }
            if self.partial.is_none() && self.received.len() >= PACKET_HEADER_BYTES {
                // There is no room for the announced packet: the caller polls again when there is.
                return Poll::Pending;
            }
            let read = ready!(self.poll_read(cx))?;
            if read == 0 {
                return Poll::Ready(Err(ConduitError::Closed));
            }
            self.received_bytes += read as u64;
            self.counters
                .received_bytes
                .fetch_add(read as u64, Ordering::Relaxed);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &mut self.partial {
            Some(Partial { header, body }) => {
                let missing = header.bytes - body.len();
                if body.capacity() == body.len() {
                    body.reserve(missing.min(ROOM_BYTES));
                }
                // Straight into its final buffer, and not a byte of the next packet.
                let mut room = body.limit(missing);
                pin!(self.wire.read_buf(&mut room)).poll(cx)
            }
            None => {
                let wanted = READ_BYTES - self.received.len();
                self.received.reserve(wanted);
                let mut room = (&mut self.received).limit(wanted);
                pin!(self.wire.read_buf(&mut room)).poll(cx)
            }
        }
    }

    fn take_packet(&mut self, room_bytes: usize) -> Result<Option<Packet>, PacketError> {
        if let Some(Partial { header, body }) = &self.partial {
            if body.len() < header.bytes {
                return Ok(None);
            }
            let Partial { header, body } = self.partial.take().expect("checked just now");
            let body = body.freeze();
            return Ok(Some(Packet { header, body }));
        }
        let Some(header) = self.received.first_chunk::<PACKET_HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = PacketHeader::decode(header)?;
        if header.received > self.queued_bytes {
            return Err(PacketError::NeverSent {
                received: header.received,
                sent: self.queued_bytes,
            });
        }
        if header.bytes > room_bytes {
            return Ok(None);
        }
        self.received.advance(PACKET_HEADER_BYTES);
        let have = header.bytes.min(self.received.len());
        if have == header.bytes && header.bytes <= COPIED_BYTES_MAX {
            let body = Bytes::copy_from_slice(&self.received[..have]);
            self.received.advance(have);
            return Ok(Some(Packet { header, body }));
        }
        let mut body = BytesMut::with_capacity(header.bytes.min(ROOM_BYTES).max(have));
        body.put_slice(&self.received[..have]);
        self.received.advance(have);
        self.partial = Some(Partial { header, body });
        self.take_packet(room_bytes)
    }

    /// Sends the queued packets; ready when all of them are handed to the system.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let mut parts = [IoSlice::new(&[]); PARTS_MAX];
            let mut count = 0;
            for (slot, part) in parts.iter_mut().zip(&self.outgoing) {
                *slot = IoSlice::new(part);
                count += 1;
            }
            let written =
                ready!(Pin::new(&mut self.wire).poll_write_vectored(cx, &parts[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.needs_flush = true;
            self.counters
                .sent_bytes
                .fetch_add(written as u64, Ordering::Relaxed);
            self.advance(written);
        }
        if self.needs_flush {
            ready!(Pin::new(&mut self.wire).poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.outgoing_bytes -= written;
        while written > 0 {
            let first = self.outgoing.front_mut().expect("as much was written");
            if first.len() > written {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.outgoing.pop_front();
        }
    }

    /// Sends the queued packets and shuts the connection down; gives up after `time_max`.
    pub(super) async fn close(mut self, time_max: Duration) {
        use tokio::io::AsyncWriteExt as _;
        let closing = async {
            std::future::poll_fn(|cx| self.poll_send(cx)).await?;
            self.wire.shutdown().await
        };
        // After an error or a timeout the other end is gone, or does not read.
        let _ = tokio::time::timeout(time_max, closing).await;
    }
}
