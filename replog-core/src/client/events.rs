//! [`EventStream`]: the events of a node that a person would want to see, as they happen.
//!
//! Owns one connection and nothing else: events that happen without one are not reported later.

use serde_json::value::RawValue;

use super::{
    Client, ClientError,
    streamed::{self, Streamed},
};

const EVENT_STREAM: &str = "text/event-stream";
/// Maximum bytes of one event.
const EVENT_BYTES_MAX: usize = 64 << 10;

/// One change of a node, as `GET /events` reports it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeEvent {
    /// The kind of event: `status`, `mode`, `epoch`, `retry`, `gap`, `append`, `ack` or `fault`; `missed` if this
    /// client was too slow, and `bye` before the node stops. More kinds may come.
    pub kind: String,
    /// The members of the event, as JSON.
    pub data: Box<RawValue>,
}

/// Stream of the events of one node; made by [`Client::events`].
pub struct EventStream {
    lines: Streamed,
    /// Kind of the next event, received before its data.
    kind: String,
    data: String,
}

impl Client {
    /// Listens to the events of the node. Earlier events are not reported.
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
    /// The same as for every request.
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
    /// [`ClientError::NoAnswer`] if the connection broke or the node has stopped: listen again.
    /// [`ClientError::Unreadable`] for anything that is not an event.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Result<NodeEvent, ClientError> {
        loop {
            let line = self.lines.next_line(EVENT_BYTES_MAX).await?;
            if let Some(event) = self.on_line(&String::from_utf8_lossy(&line))? {
                return Ok(event);
            }
        }
    }

    /// Handles a line of the stream (WHATWG HTML, section 9.2.6), as far as nodes write them: an empty one ends
    /// an event.
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
            detail: format!("an event is not JSON: {error}"),
        })?;
        Ok(Some(NodeEvent { kind, data }))
    }
}
