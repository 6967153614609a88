//! One connection of a follower and the lines that come on it.
//!
//! Owns the meaning of each line.

use serde::Deserialize;

use crate::{
    client::{
        Client, ClientError, Message, NDJSON,
        streamed::{self, Streamed},
    },
    types::{ClusterId, Offset},
};

/// A body that is being read.
pub(super) struct Connection {
    lines: Streamed,
    /// True while the first message must be the last one that was given.
    pub(super) compares: bool,
    /// The log that the node had when it answered, if it named one.
    pub(super) cluster_id: Option<ClusterId>,
}

/// Event that a node sends at the end of a body.
#[derive(Debug, Deserialize)]
struct End {
    event: String,
    offset: Option<Offset>,
    cluster_id: Option<ClusterId>,
}

/// A complete line.
#[derive(Debug)]
pub(super) enum Line {
    Message(Message),
    /// The node is stopping.
    Bye,
    Cut(Offset),
    /// The node has this log, and not the one that was asked for; its lines follow from the start.
    AnotherLog(ClusterId),
}

pub(super) async fn connect(
    client: Client,
    url: String,
    compares: bool,
    cluster_id: Option<ClusterId>,
) -> Result<Connection, ClientError> {
    let lines = streamed::open(&client, &url, NDJSON, cluster_id).await?;
    Ok(Connection {
        cluster_id: lines.cluster_id,
        lines,
        compares,
    })
}

impl Connection {
    /// Returns the next complete line.
    pub(super) async fn next_line(&mut self, bytes_max: usize) -> Result<Line, ClientError> {
        parse(&self.lines.next_line(bytes_max).await?)
    }
}

fn parse(line: &[u8]) -> Result<Line, ClientError> {
    let unreadable = |detail: String| ClientError::Unreadable {
        status: 200,
        detail,
    };
    let error = match serde_json::from_slice::<Message>(line) {
        Ok(message) => return Ok(Line::Message(message)),
        Err(error) => error,
    };
    match serde_json::from_slice::<End>(line) {
        Ok(End { event, .. }) if event == "bye" => Ok(Line::Bye),
        Ok(End {
            event,
            offset: Some(offset),
            ..
        }) if event == "cut" => Ok(Line::Cut(offset)),
        Ok(End {
            event,
            cluster_id: Some(cluster_id),
            ..
        }) if event == "another_log" => Ok(Line::AnotherLog(cluster_id)),
        Ok(end) => Err(unreadable(format!("unknown event {end:?}"))),
        Err(_) => Err(unreadable(error.to_string())),
    }
}
