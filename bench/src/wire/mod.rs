//! One append, in the protocol of each peer, over a kept-alive connection of its own.
//!
//! Owns the choice of the protocol, and nothing about time. Written by hand so that the load costs
//! little compared with what it measures: requests are bytes made once, answers are parsed only far
//! enough to know that they are a success. Never retries.

#[cfg(feature = "peers")]
mod etcd;
pub(crate) mod http;
mod lines;
pub(crate) mod nats;
pub(crate) mod redis;

use std::net::SocketAddr;

/// Protocol of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `POST /messages` with a message as JSON.
    Http { concern: u32 },
    /// `POST /messages` with many messages as NDJSON.
    HttpBatch { concern: u32, messages: usize },
    /// `XADD`, and `WAIT` for this many replicas if there are any.
    Redis { replicas: u32 },
    /// A publication with a reply subject, which JetStream acknowledges.
    Nats,
    /// `Put` over gRPC, each with a key of its own.
    #[cfg(feature = "peers")]
    Etcd,
}

/// The work of every client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) clients: usize,
    /// Size of one message.
    pub(crate) payload_bytes: usize,
}

/// A connection, and the request that is sent over it repeatedly.
pub(crate) enum Client {
    Http(http::Connection, Vec<u8>),
    Redis(redis::Connection, Vec<u8>),
    Nats(nats::Connection, Vec<u8>),
    #[cfg(feature = "peers")]
    Etcd(etcd::Connection),
}

impl Client {
    /// Connects; `number` is unique among the clients of one load.
    pub(crate) async fn open(work: Work, number: usize) -> Result<Client, String> {
        let no_connection = |error| format!("no connection to {}: {error}", work.address);
        let payload = payload(work.payload_bytes);
        let http = async |request| {
            let connection = http::Connection::open(work.address).await;
            let connection = connection.map_err(no_connection)?;
            Ok(Client::Http(connection, request))
        };
        match work.protocol {
            Protocol::Http { concern } => {
                http(http::append_request(concern, work.payload_bytes)).await
            }
            Protocol::HttpBatch { concern, messages } => {
                http(http::batch_request(concern, messages, work.payload_bytes)).await
            }
            Protocol::Redis { replicas } => {
                let connection = redis::Connection::open(work.address, replicas).await;
                let connection = connection.map_err(no_connection)?;
                Ok(Client::Redis(
                    connection,
                    redis::request(&payload, replicas),
                ))
            }
            Protocol::Nats => {
                let connection = nats::Connection::open(work.address, number).await;
                let connection = connection.map_err(no_connection)?;
                let request = connection.publication(nats::SUBJECT, payload.as_bytes());
                Ok(Client::Nats(connection, request))
            }
            #[cfg(feature = "peers")]
            Protocol::Etcd => {
                let connection = etcd::Connection::open(work.address, number, payload).await;
                Ok(Client::Etcd(connection.map_err(no_connection)?))
            }
        }
    }

    /// Appends, and waits until that is acknowledged.
    ///
    /// # Errors
    ///
    /// The answer, if it was not a success.
    pub(crate) async fn append(&mut self) -> Result<(), String> {
        match self {
            Client::Http(connection, request) => connection.created(request).await,
            Client::Redis(connection, request) => connection.added(request).await,
            Client::Nats(connection, request) => connection.acknowledged(request).await,
            #[cfg(feature = "peers")]
            Client::Etcd(connection) => connection.put().await,
        }
    }
}

/// Returns a message of this many bytes of JSON text: the same for all, whether they want JSON or
/// not.
pub(crate) fn payload(bytes: usize) -> String {
    format!(r#""{}""#, "x".repeat(bytes.saturating_sub(2)))
}
