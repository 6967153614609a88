//! Resolution of host names by the system's resolver, off the node's thread.
//!
//! Owns one look-up at a time. A look-up that outlasts one attempt to connect is not discarded: a later
//! attempt uses its answer, and no second thread is started meanwhile. A dropped look-up ends by
//! itself.

use std::{
    fmt,
    future::Future as _,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    thread,
};

use tokio::sync::oneshot;

use crate::transport::TransportError;

/// A blocking function that finds the addresses of a host and port.
type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// A resolver of one name at a time.
pub(super) struct Resolver {
    look_up: Arc<LookUp>,
    in_flight: Option<oneshot::Receiver<io::Result<Vec<SocketAddr>>>>,
}

impl Default for Resolver {
    /// Returns a resolver that asks the system.
    fn default() -> Resolver {
        Resolver::with_look_up(Arc::new(|host, port| {
            Ok((host, port).to_socket_addrs()?.collect())
        }))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Resolver {
    /// Returns a resolver that calls `look_up` on its own thread.
    pub(super) fn with_look_up(look_up: Arc<LookUp>) -> Resolver {
        Resolver {
            look_up,
            in_flight: None,
        }
    }

    /// Returns the addresses of a host, at least one, once they are known.
    pub(super) fn poll_addresses(
        &mut self,
        cx: &mut Context<'_>,
        host: &str,
        port: u16,
    ) -> Poll<Result<Vec<SocketAddr>, TransportError>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Poll::Ready(Ok(vec![SocketAddr::new(ip, port)]));
        }
        let failed = |why: String| TransportError::NameNotResolved(format!("{host}: {why}"));
        if self.in_flight.is_none() {
            let started = self
                .start(host, port)
                .map_err(|error| failed(error.to_string()));
            self.in_flight = Some(started?);
        }
        let in_flight = self.in_flight.as_mut().expect("started just now");
        let found = ready!(Pin::new(in_flight).poll(cx));
        self.in_flight = None;
        Poll::Ready(match found {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_)) => Err(failed("the name has no address".to_owned())),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("the look-up ended without an answer".to_owned())),
        })
    }

    fn start(
        &self,
        host: &str,
        port: u16,
    ) -> io::Result<oneshot::Receiver<io::Result<Vec<SocketAddr>>>> {
        let (found, in_flight) = oneshot::channel();
        let (host, look_up) = (host.to_owned(), Arc::clone(&self.look_up));
        thread::Builder::new()
            .name("replog-resolve".to_owned())
            .spawn(move || {
                // An error means that nothing waits for the answer any more.
                let _ = found.send(look_up(&host, port));
            })?;
        Ok(in_flight)
    }
}
