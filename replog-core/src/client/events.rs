//! [`EventStream`]: the changes of a node that a person would want to see, as they happen.
//!
//! Owns one connection, and no more: what happened while there is none is not told later.

use serde_json::value::RawValue;

use super::{
    Client, ClientError,
    streamed::{self, Streamed},
};

const EVENT_STREAM: &str = "text/event-stream";
/// Bytes of one event, at most.
const EVENT_BYTES_MAX: usize = 64 << 10;

/// One change of a node, as `GET /events` tells it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeEvent {
    /// What happened: `status`, `mode`, `epoch`, `retry`, `gap`, `append`, `ack` or `fault`; `missed` where this client
    /// was too slow, and `bye` before the node stops. More kinds may come.
    pub kind: String,
    /// Its members, as JSON.
    pub data: Box<RawValue>,
}

/// The events of one node; made by [`Client::events`].
pub struct EventStream {
    lines: Streamed,
    /// What came of the next event.
    kind: String,
    data: String,
}

impl Client {
    /// Listens to the events of the node. What happened before is not told.
    ///
    /// ```no_run
    /// use replog_core::client::Client;
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut events = Client::new("http://localhost:5000")?.events().await?;
    /// loop {
    ///     let event = events.next().await?;
    ///     println!("{} {}", event.kind, event.data);
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for every request.
    pub async fn events(&self) -> Result<EventStream, ClientError> {
        let url = format!("{}/events", self.base);
        Ok(EventStream {
            lines: streamed::open(self, &url, EVENT_STREAM, None).await?,
            kind: String::new(),
            data: String::new(),
        })
    }
}

impl EventStream {
    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoAnswer`] when the connection broke or the node has stopped: listen anew.
    /// [`ClientError::Unreadable`] for what is no event.
    ///
    /// # Cancel safety
    ///
    /// No event is lost with a future.
    pub async fn next(&mut self) -> Result<NodeEvent, ClientError> {
        loop {
            let line = self.lines.next_line(EVENT_BYTES_MAX).await?;
            if let Some(event) = self.on_line(&String::from_utf8_lossy(&line))? {
                return Ok(event);
            }
        }
    }

    /// A line of the stream (WHATWG HTML, section 9.2.6), as far as nodes write them: an empty one ends an event.
    fn on_line(&mut self, line: &str) -> Result<Option<NodeEvent>, ClientError> {
        let line = line.trim_end_matches(['\r', '\n']);
        if let Some(kind) = line.strip_prefix("event: ") {
            kind.clone_into(&mut self.kind);
        } else if let Some(data) = line.strip_prefix("data: ") {
            self.data.push_str(data);
        }
        if !line.is_empty() || self.data.is_empty() {
            return Ok(None);
        }
        let (kind, data) = (
            std::mem::take(&mut self.kind),
            std::mem::take(&mut self.data),
        );
        let data = RawValue::from_string(data).map_err(|error| ClientError::Unreadable {
            status: 200,
            detail: format!("an event is no JSON: {error}"),
        })?;
        Ok(Some(NodeEvent { kind, data }))
    }
}
