//! A transport of your own: a length and a message over TCP, one connection per request.
//!
//! Tests it with the behaviours that every transport must have, then runs a cluster whose nodes
//! communicate by it. Fails if anything is not as it should be. Run it with
//! `cargo run -p replog-core --features suite --example own_transport`.
#![forbid(unsafe_code)]

use std::{error::Error, io, net::Ipv4Addr, rc::Rc, sync::Arc};

use replog_core::{
    AppendOptions, Concern, Master, MasterConfig, Offset, Peer, Secondary, SecondaryConfig,
    error::{ConfigError, Stopped},
    storage::MemoryStorage,
    transport::{
        CallFuture, Network, Request, Response, Transport, TransportError,
        suite::{self, Bench, StandIn},
        wire,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// Connects to nodes by address and port.
struct TcpNetwork;

impl Network for TcpNetwork {
    fn connect(&self, peer: &Peer) -> Rc<dyn Transport> {
        Rc::new(Tcp {
            address: peer.address.clone(),
        })
    }

    /// Accepts every address: a wrong one shows when it is connected to.
    fn check(&self, _: &[Peer]) -> Result<(), ConfigError> {
        Ok(())
    }
}

struct Tcp {
    address: String,
}

impl Transport for Tcp {
    fn call(&self, request: Request) -> CallFuture {
        let address = self.address.clone();
        Box::pin(async move {
            let exchange = async {
                let mut stream = TcpStream::connect(address).await?;
                send(&mut stream, wire::encode_request(&request)).await?;
                receive(&mut stream).await
            };
            let answer = exchange.await.map_err(|error| match error.kind() {
                io::ErrorKind::ConnectionRefused => TransportError::ConnectionRefused,
                _ => TransportError::Connection(error.to_string()),
            })?;
            wire::decode_response(answer.into())
                .map_err(|error| TransportError::BadAnswer(error.to_string()))
        })
    }
}

/// Accepts connections until it is dropped; `serve` answers each request.
struct Server {
    address: String,
    accepting: AbortHandle,
}

impl Server {
    fn start<S, F>(serve: S) -> io::Result<Server>
    where
        S: Fn(Request) -> F + Clone + Send + 'static,
        F: Future<Output = Result<Response, Stopped>> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let (address, listener) = (listener.local_addr()?, TcpListener::from_std(listener)?);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, serve.clone()));
            }
        });
        Ok(Server {
            address: address.to_string(),
            accepting: accepting.abort_handle(),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Answers one request. On any error the connection is closed and the master tries again.
async fn answer<S, F>(mut stream: TcpStream, serve: S) -> Result<(), Box<dyn Error + Send + Sync>>
where
    S: Fn(Request) -> F,
    F: Future<Output = Result<Response, Stopped>>,
{
    let request = wire::decode_request(receive(&mut stream).await?.into())?;
    let response = serve(request).await?;
    send(&mut stream, wire::encode_response(&response)).await?;
    Ok(())
}

async fn send(stream: &mut TcpStream, parts: Vec<impl AsRef<[u8]>>) -> io::Result<()> {
    let bytes: usize = parts.iter().map(|part| part.as_ref().len()).sum();
    stream.write_u64(bytes as u64).await?;
    for part in parts {
        stream.write_all(part.as_ref()).await?;
    }
    Ok(())
}

/// Reads one message, and allocates no more memory than a message can have.
async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let bytes = stream.read_u64().await?;
    if bytes > wire::BODY_BYTES_MAX as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = Vec::new();
    stream.take(bytes).read_to_end(&mut message).await?;
    Ok(message)
}

fn main() -> Result<(), Box<dyn Error>> {
    suite::check(|| {
        let stand_in = StandIn::new();
        let there = stand_in.clone();
        let server = Server::start(move |request| there.serve(request)).expect("a free port");
        let transport = Tcp {
            address: server.address.clone(),
        };
        // Bound and closed again: nothing listens there.
        let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = closed.local_addr().expect("it is bound").to_string();
        Bench {
            transport: Rc::new(transport),
            nobody: Rc::new(Tcp { address }),
            stand_in,
            keep: Box::new(server),
        }
    });
    println!("the transport does what every transport does");
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run_a_cluster())
}

async fn run_a_cluster() -> Result<(), Box<dyn Error>> {
    let mut nodes = Vec::new();
    for name in ["secondary-1", "secondary-2"] {
        let config = SecondaryConfig::new(name.parse()?);
        let node = Secondary::start(config, Arc::new(MemoryStorage::new())).await?;
        let serving = node.clone();
        let server = Server::start(move |request| {
            let node = serving.clone();
            async move { node.serve(request).await }
        })?;
        nodes.push((node, server));
    }
    let peers = nodes.iter().map(|(node, server)| Peer {
        name: node.name().clone(),
        address: server.address.clone(),
    });
    let config = MasterConfig::new("master".parse()?, peers.collect());
    let storage = Arc::new(MemoryStorage::new());
    let master = Master::start(config, storage, Arc::new(TcpNetwork)).await?;
    master.wait_until_writable().await?;
    for number in 0..100 {
        let options = AppendOptions::concern(Concern::Majority);
        master.append(format!("message {number}"), options).await?;
    }
    let options = AppendOptions::concern(Concern::All);
    let receipt = master.append("the last one", options).await?;
    println!("{:?} hold offset {}", receipt.acks, receipt.offset);
    for (node, _) in &nodes {
        let message = node.reader().get(Offset(42)).await?;
        let payload = message.expect("every node holds it").payload;
        assert_eq!(payload, "message 42", "on {}", node.name());
    }
    println!("every node shows what was appended");
    Ok(())
}
