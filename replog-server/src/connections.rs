//! The connections of one web server that are open.
//!
//! Owns their number, and nothing else. The web server itself looks once a second whether a connection is
//! left when it shall end; who waits here goes on with the last one's end.

use std::sync::Arc;

use tokio::sync::watch;

/// How many connections are open. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<watch::Sender<usize>>);

/// One of them, open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<watch::Sender<usize>>);

impl Connections {
    /// One more.
    pub(crate) fn open(&self) -> OpenConnection {
        self.0.send_modify(|open| *open += 1);
        OpenConnection(Arc::clone(&self.0))
    }

    /// Waits until none is open.
    pub(crate) async fn all_closed(&self) {
        let closed = self.0.subscribe().wait_for(|open| *open == 0).await.is_ok();
        assert!(closed, "the number is gone while it is looked at");
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_waits_goes_on_with_the_end_of_the_last_one() {
        let connections = Connections::default();
        let closed = || connections.all_closed().now_or_never().is_some();
        assert!(closed());
        let (first, second) = (connections.open(), connections.clone().open());
        let mut waiting = Box::pin(connections.all_closed());
        assert!(!closed() && waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(!closed() && waiting.as_mut().now_or_never().is_none());
        drop(second);
        assert!(closed() && waiting.now_or_never().is_some());
    }
}
