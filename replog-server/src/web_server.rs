//! The web server's crate, set up around sockets of our own.
//!
//! Owns its settings: time limits, the number of connections, and the use of a [`ClientSocket`] for each connection.
//! Does what `actix_web::HttpServer` does, which accepts no other socket than the system's.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    time::Duration,
};

use actix_http::{
    HttpService, KeepAlive, Protocol, Request, Response, body::MessageBody, error::DispatchError,
};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config,
};
use actix_web::{Error, dev::AppConfig, rt::net::TcpStream};

use crate::{
    client_socket::ClientSocket,
    connections::{Connections, REFUSED_OPEN_MAX},
};

/// Time limit for a client to send a request's head. It never ends a request in progress: an append may wait for ever.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for which an idle connection is kept.
const IDLE_TIME_MAX: Duration = Duration::from_secs(75);
/// Time limit for a connection to close: long enough to read what a refused client is still sending, so that it sees
/// the answer.
const DISCONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// Time limit for finite answers when the node stops: less than container engines wait.
const STOP_TIME_MAX_S: u64 = 5;

/// Settings that differ between web servers.
pub(crate) struct Settings {
    /// Connections of the server.
    pub(crate) connections: Connections,
    /// Maximum number of connections.
    pub(crate) connections_max: usize,
    /// Number of its threads.
    pub(crate) workers: usize,
}

/// Starts a web server with an application for each of its threads.
///
/// # Errors
///
/// The system's, if the listener cannot be served.
pub(crate) fn run<A, I, S, B>(
    listener: TcpListener,
    settings: Settings,
    application: A,
) -> io::Result<Server>
where
    A: Fn() -> I + Clone + Send + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Future: 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: std::fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as actix_service::Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let Settings {
        connections,
        connections_max,
        workers,
    } = settings;
    let address = listener.local_addr()?;
    let builder = Server::build()
        .workers(workers)
        .disable_signals()
        .shutdown_timeout(STOP_TIME_MAX_S)
        // Beyond this many connections the others would hang: there can be no more files.
        .max_concurrent_connections((connections_max + REFUSED_OPEN_MAX).div_ceil(workers));
    let stopping = builder.graceful_shutdown_signal();
    let builder = builder.listen(format!("clients at {address}"), listener, move || {
        let stopping = stopping.clone();
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(KeepAlive::Timeout(IDLE_TIME_MAX))
            .client_request_timeout(HEAD_TIME_MAX)
            .client_disconnect_timeout(DISCONNECT_TIME_MAX)
            // A client that shuts down its sending side after its request still gets its answer. Its socket notices
            // when it has gone.
            .h1_allow_half_closed(true)
            .local_addr(address)
            // Dropped with the connection, whatever ends it.
            .on_connect_ext(|socket: &ClientSocket, extensions| {
                extensions.insert(Rc::clone(socket.connection()));
            })
            .finish(map_config(
                application()
                    .into_factory()
                    .map_err(|error| error.into().error_response()),
                |()| AppConfig::default(),
            ));
        let connections = connections.clone();
        let enter = move |stream: TcpStream| enter(stream, connections.clone(), connections_max);
        fn_service(enter).and_then(http)
    })?;
    Ok(builder.run())
}

/// Arguments of the crate's own service.
type Entered = (ClientSocket, Protocol, Option<SocketAddr>);

/// Gives a connection its slot. A connection that gets none ends here.
async fn enter(
    stream: TcpStream,
    connections: Connections,
    connections_max: usize,
) -> Result<Entered, DispatchError> {
    let peer = stream.peer_addr().ok();
    let Some(connection) = connections.open(peer, connections_max) else {
        connections.refuse(stream, connections_max).await;
        // The error is not read by anything: the connection has ended.
        return Err(DispatchError::DisconnectTimeout);
    };
    // If it fails, answers only arrive a little later.
    let _ = stream.set_nodelay(true);
    let socket = ClientSocket::new(stream, connection);
    Ok((socket, Protocol::Http1, peer))
}
