//! etcd: `KV.Put` over gRPC, on an HTTP/2 connection of its own.
//!
//! The two messages are so small that they are written by hand: a request has a key (field 1) and
//! a value (field 2); an answer counts when its trailers say `grpc-status: 0`.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use h2::client::{SendRequest, handshake};
use http::{HeaderMap, Request, Version};
use tokio::{net::TcpStream, task::AbortHandle};

const PUT: &str = "http://etcd/etcdserverpb.KV/Put";

/// A connection of one client.
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    /// Reads and writes the connection's frames.
    driver: AbortHandle,
    number: usize,
    puts: u64,
    value: String,
}

impl Connection {
    pub(crate) async fn open(
        address: SocketAddr,
        number: usize,
        value: String,
    ) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(stream).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(async move {
            // An error of the connection fails the call that waits on it, which reports it.
            let _ = connection.await;
        });
        Ok(Connection {
            sender,
            driver: driver.abort_handle(),
            number,
            puts: 0,
            value,
        })
    }

    /// Puts the value with a key that was never used before: a log has no other.
    pub(crate) async fn put(&mut self) -> Result<(), String> {
        let key = format!("log/{}/{}", self.number, self.puts);
        self.puts += 1;
        match self
            .try_put(frame(key.as_bytes(), self.value.as_bytes()))
            .await
        {
            Ok(status) if status == "0" => Ok(()),
            Ok(status) => Err(format!("a Put was answered with gRPC status {status}")),
            Err(error) => Err(format!("a Put failed: {error}")),
        }
    }

    async fn try_put(&mut self, message: Bytes) -> Result<String, h2::Error> {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(PUT);
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        headers.insert(
            "content-type",
            http::HeaderValue::from_static("application/grpc"),
        );
        headers.insert("te", http::HeaderValue::from_static("trailers"));
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(message, true)?;
        let response = response.await?;
        // A refusal may have no body and its status in the head.
        let early = grpc_status(response.headers());
        let mut body = response.into_body();
        while let Some(chunk) = body.data().await {
            let length = chunk?.len();
            body.flow_control().release_capacity(length)?;
        }
        let trailers = body.trailers().await?;
        let status = trailers.as_ref().and_then(grpc_status).or(early);
        Ok(status.unwrap_or_else(|| "missing".to_owned()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("grpc-status")?.to_str().ok()?.to_owned())
}

/// Encodes one gRPC message: uncompressed, its length, a `PutRequest`.
fn frame(key: &[u8], value: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(key.len() + value.len() + 20);
    for (field, bytes) in [(1_u8, key), (2, value)] {
        // Wire type 2: bytes preceded by their length.
        message.push(field << 3 | 2);
        varint(&mut message, bytes.len());
        message.extend_from_slice(bytes);
    }
    let length = u32::try_from(message.len()).expect("a message is shorter than 4 GiB");
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

fn varint(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_framed_as_grpc_requires() {
        let expected = [0, 0, 0, 0, 8, 0x0a, 1, b'k', 0x12, 3, b'v', b'a', b'l'];
        assert_eq!(frame(b"k", b"val")[..], expected);
        let long = frame(b"k", &[0; 300]);
        // 300 is two groups of seven bits.
        assert_eq!(long[5 + 3..5 + 6], [0x12, 0xac, 0x02]);
    }
}
