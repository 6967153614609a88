//! One connection of a follower: the lines that come on it.
//!
//! Owns what each line means.

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
    /// The first message must be the last one that was given.
    pub(super) compares: bool,
    /// The log that the node had when it answered, where it said so.
    pub(super) cluster_id: Option<ClusterId>,
}

/// What a node says at the end of a body.
#[derive(Debug, Deserialize)]
struct End {
    event: String,
    offset: Option<Offset>,
    cluster_id: Option<ClusterId>,
}

/// A whole line.
#[derive(Debug)]
pub(super) enum Line {
    Message(Message),
    /// The node stops.
    Bye,
    Cut(Offset),
    /// The node has this log, and not the one that was asked for; it follows from its start.
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
    /// The next whole line.
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
        Ok(end) => Err(unreadable(format!("{end:?} is not known"))),
        Err(_) => Err(unreadable(error.to_string())),
    }
}
