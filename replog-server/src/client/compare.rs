//! `replog check URL…`: compares the messages of running nodes, read side by side.

use std::process::ExitCode;

use futures_util::future::try_join_all;
use replog_core::{
    Offset,
    client::{Client, Message},
};
use serde_json::json;

use super::{Failure, Form, pages::Pages, position::Position, progress, tell};
use crate::words::counted;

/// Compares the logs of these nodes up to the lowest of their ends. Exit code 1 if two differ.
pub(super) async fn run(
    urls: &[String],
    data_alone: bool,
    form: Form,
) -> Result<ExitCode, Failure> {
    if urls.len() < 2 {
        return Err(Failure::usage(
            "give the URLs of two nodes or more, to compare them",
        ));
    }
    let client = |url: &String| {
        // Next to a URL, an argument without a scheme is a directory.
        if !url.contains("://") {
            let text = format!("{url}: give either URLs of nodes or directories");
            return Err(Failure::usage(text));
        }
        let client = Client::new(url);
        client.map_err(|error| Failure::usage(format!("{url}: {error}")))
    };
    let clients: Vec<Client> = urls.iter().map(client).collect::<Result<_, _>>()?;
    let pages = clients
        .iter()
        .map(|client| Pages::from(client, Position::default(), None));
    let pages = try_join_all(pages).await?;
    let ends: Vec<Offset> = pages.iter().map(Pages::end).collect();
    let end = ends.iter().min().copied().unwrap_or_default();
    let mut pages: Vec<Pages> = pages.into_iter().map(|pages| pages.until(end)).collect();
    let bar = progress::messages(end.0);
    let mut difference = None;
    while difference.is_none() {
        let read = try_join_all(pages.iter_mut().map(Pages::page)).await?;
        let Some(read) = read.into_iter().collect::<Option<Vec<Vec<Message>>>>() else {
            break;
        };
        difference = first_difference(&read, data_alone);
        bar.set_position(pages[0].next().0);
    }
    bar.finish_and_clear();
    // A restored log must be complete.
    let length = ends.iter().max().copied().unwrap_or_default();
    if data_alone && difference.is_none() && length > end {
        difference = Some(end);
    }
    let text = match (form, difference) {
        (Form::Json, at) => {
            let nodes: Vec<_> = urls
                .iter()
                .zip(&ends)
                .map(|(url, end)| json!({ "url": url, "end": end }))
                .collect();
            json!({ "equal_to": at.unwrap_or(end), "differs_at": at, "nodes": nodes }).to_string()
        }
        (Form::Text, None) => format!(
            "{} have the same {}",
            counted(urls.len(), "node"),
            counted(end, "message")
        ),
        (Form::Text, Some(at)) => format!(
            "the nodes differ at offset {at}, and have the same before it; at the ends of their logs a \
             difference may pass: see whether it is below `committed`"
        ),
    };
    tell(&format!("{text}\n"))?;
    Ok(ExitCode::from(u8::from(difference.is_some())))
}

/// Returns the first offset at which not all nodes have the same message.
fn first_difference(read: &[Vec<Message>], data_alone: bool) -> Option<Offset> {
    let (first, others) = read.split_first()?;
    for other in others {
        let mut pairs = first.iter().zip(other);
        if let Some((left, right)) = pairs.find(|(left, right)| !is_same(left, right, data_alone)) {
            return Some(left.offset.min(right.offset));
        }
        if first.len() != other.len() {
            let longer = if first.len() > other.len() {
                first
            } else {
                other
            };
            return longer
                .get(first.len().min(other.len()))
                .map(|message| message.offset);
        }
    }
    None
}

fn is_same(left: &Message, right: &Message, data_alone: bool) -> bool {
    let has_same_data = left.offset == right.offset
        && left.data.get() == right.data.get()
        && left.data_base64 == right.data_base64;
    let is_same_append = (left.epoch, left.timestamp_ms) == (right.epoch, right.timestamp_ms)
        && left.idempotency_key == right.idempotency_key;
    has_same_data && (data_alone || is_same_append)
}
