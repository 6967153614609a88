//! Host names into addresses, by the system's resolver, off the node's thread.
//!
//! Owns one look-up at a time: one that hangs is waited for again by the next attempt, instead of
//! starting another thread beside it. A look-up that is dropped ends by itself.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    thread,
};

use tokio::sync::oneshot;

use crate::transport::TransportError;

/// The look-up of one name.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    under_way: Option<oneshot::Receiver<io::Result<Vec<SocketAddr>>>>,
}

impl Resolver {
    /// The addresses of a host, at least one. May be dropped and called again.
    pub(super) async fn addresses(
        &mut self,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, TransportError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let failed = |why: String| TransportError::NameNotResolved(format!("{host}: {why}"));
        let under_way = match &mut self.under_way {
            Some(under_way) => under_way,
            none => none.insert(look_up(host, port).map_err(|error| failed(error.to_string()))?),
        };
        let found = under_way.await;
        self.under_way = None;
        match found {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_)) => Err(failed("the name has no address".to_owned())),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("the look-up ended without an answer".to_owned())),
        }
    }

    /// Whether a look-up has not ended.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }
}

fn look_up(host: &str, port: u16) -> io::Result<oneshot::Receiver<io::Result<Vec<SocketAddr>>>> {
    let (found, under_way) = oneshot::channel();
    let host = host.to_owned();
    thread::Builder::new()
        .name("replog-resolve".to_owned())
        .spawn(move || {
            let addresses = (host.as_str(), port)
                .to_socket_addrs()
                .map(Iterator::collect);
            // An error: nobody wants to know any more.
            let _ = found.send(addresses);
        })?;
    Ok(under_way)
}
