//! The connections of one web server that are open.
//!
//! Owns their number, and how many of them are listened on: they carry an answer that has no end but the
//! node's. The web server itself looks once a second whether a connection is left when it shall end, and waits
//! for each of them alike; who waits here goes on with the last one's end, and leaves listeners behind that
//! take nothing.
//!
//! Owns also the part of them that each address may have: one that opens more is told so, and closed at once. It
//! would otherwise leave none for others, with nothing but silence.

use std::{cell::Cell, os::fd::AsFd as _, sync::Arc, time::Duration};

use actix_web::{HttpRequest, http::Method, rt::net::TcpStream};
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use tokio::{
    sync::watch::{self, Ref},
    time::timeout,
};

use crate::{
    problem::{PROBLEM_JSON, Problem},
    shares::{Client, Place, Places},
};

/// How long no listener's connection ends before those that are left are taken for ones that read nothing:
/// many times what it takes to write the last words to one that does.
const SILENT_LISTENERS: Duration = Duration::from_millis(500);

/// What limits the connections of an address: no setting of the node, but the system's.
const OPEN_FILES: &str = "open-files";

/// How many connections are open. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections {
    open: Arc<watch::Sender<Open>>,
    places: Places,
}

#[derive(Clone, Copy, Debug, Default)]
struct Open {
    all: usize,
    listened_on: usize,
}

/// One of them, open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    open: Arc<watch::Sender<Open>>,
    listened_on: Cell<bool>,
    /// `None` where its address has its part.
    _place: Option<Place>,
}

impl Connections {
    /// One more, of at most `max`.
    pub(crate) fn open(&self, stream: Option<&TcpStream>, max: usize) -> OpenConnection {
        let client = Client::at(stream.and_then(|stream| stream.peer_addr().ok()));
        let place = self.places.take(client, max);
        if let (None, Some(stream)) = (&place, stream) {
            refuse(stream, max);
        }
        self.open.send_modify(|open| open.all += 1);
        OpenConnection {
            open: Arc::clone(&self.open),
            listened_on: Cell::new(false),
            _place: place,
        }
    }

    /// Waits, once the node has stopped, until no connection is open, or only those of listeners that take
    /// nothing any more: returns how many.
    pub(crate) async fn finished(&self) -> usize {
        let mut open = self.open.subscribe();
        loop {
            let now = *wait_until(&mut open, |open| open.all == open.listened_on).await;
            if now.all == 0 {
                return 0;
            }
            let one_ended = wait_until(&mut open, |open| open.all != now.all);
            if timeout(SILENT_LISTENERS, one_ended).await.is_err() {
                return now.all;
            }
        }
    }
}

/// Says why, as far as that goes without waiting, and ends the connection: the web server finds its end.
fn refuse(stream: &TcpStream, max: usize) {
    let problem = Problem::overloaded(OPEN_FILES, max as u64);
    let body = problem.body();
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    // Nothing was written before: there is room, unless the connection is gone.
    let _ = send(
        stream.as_fd(),
        answer.as_bytes(),
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    );
    let _ = shutdown(stream.as_fd(), Shutdown::Both);
}

async fn wait_until<'a>(
    open: &'a mut watch::Receiver<Open>,
    is_so: impl FnMut(&Open) -> bool,
) -> Ref<'a, Open> {
    let waited = open.wait_for(is_so).await;
    waited.expect("the number is there while it is looked at")
}

/// The answer to this request has no end but the node's: from now on its connection is a listener's.
pub(crate) fn listen_on_connection_of(request: &HttpRequest) {
    // The answer to HEAD has no body, and ends at once.
    if request.method() == Method::HEAD {
        return;
    }
    // There is none where a request does not come by a socket, as in tests.
    if let Some(connection) = request.conn_data::<OpenConnection>() {
        connection.listen();
    }
}

impl OpenConnection {
    fn listen(&self) {
        if !self.listened_on.replace(true) {
            self.open.send_modify(|open| open.listened_on += 1);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.send_modify(|open| {
            open.all -= 1;
            open.listened_on -= usize::from(self.listened_on.get());
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[test]
    fn who_waits_goes_on_with_the_end_of_the_last_one() {
        let connections = Connections::default();
        let finished = || connections.finished().now_or_never();
        assert_eq!(finished(), Some(0));
        let (first, second) = (
            connections.open(None, 100),
            connections.clone().open(None, 100),
        );
        let mut waiting = Box::pin(connections.finished());
        assert_eq!((finished(), waiting.as_mut().now_or_never()), (None, None));
        drop(first);
        assert_eq!((finished(), waiting.as_mut().now_or_never()), (None, None));
        drop(second);
        assert_eq!((finished(), waiting.now_or_never()), (Some(0), Some(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn listeners_are_waited_for_while_one_after_the_other_takes_its_end_and_no_longer() {
        let connections = Connections::default();
        let listeners = [(); 4].map(|()| connections.open(None, 100));
        listeners.iter().for_each(OpenConnection::listen);
        listeners[0].listen();
        let [first, second, _silent, _silent_too] = listeners;
        let started = Instant::now();
        let (left, ()) = tokio::join!(connections.finished(), async {
            for ending in [first, second] {
                sleep(SILENT_LISTENERS - Duration::from_millis(1)).await;
                drop(ending);
            }
        });
        assert_eq!(left, 2);
        let last_end = 2 * (SILENT_LISTENERS - Duration::from_millis(1));
        assert_eq!(started.elapsed(), last_end + SILENT_LISTENERS);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_has_an_end_is_waited_for_however_long_listeners_are_silent() {
        let connections = Connections::default();
        let (listener, reader) = (connections.open(None, 100), connections.open(None, 100));
        listener.listen();
        let started = Instant::now();
        let (left, ()) = tokio::join!(connections.finished(), async {
            sleep(3 * SILENT_LISTENERS).await;
            drop(reader);
        });
        assert_eq!((left, started.elapsed()), (1, 4 * SILENT_LISTENERS));
    }
}
