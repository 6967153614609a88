//! The routes, one file per resource: each parses, calls one method of the library, and maps
//! one result.

pub(crate) mod admin;
pub(crate) mod appends;
mod batches;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod health;
pub(crate) mod messages;
pub(crate) mod metrics;
pub(crate) mod openapi;
pub(crate) mod page;
mod reads;

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{HeaderValue, LOCATION},
    },
    web,
};
use replog_core::{Secondary, views::MasterAddress};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    accept::{self, JSON},
    body,
    node::NodeState,
    paths,
    problem::{Kind, Problem},
};

/// The state that every route takes.
pub(crate) type State = web::Data<NodeState>;

/// Returns 200 with JSON.
fn ok_json(value: &impl serde::Serialize) -> HttpResponse {
    json_body(&mut HttpResponse::Ok(), value)
}

/// Returns this answer with JSON and a final line break: a terminal's prompt comes after it.
fn json_body(response: &mut HttpResponseBuilder, value: &impl serde::Serialize) -> HttpResponse {
    let mut text = serde_json::to_vec(value).expect("names, numbers and reasons are JSON");
    text.push(b'\n');
    response.content_type(JSON).body(text)
}

/// Returns the body of a request, which must be a JSON object: `what` names it in errors.
async fn json_object<T: DeserializeOwned>(
    state: &NodeState,
    request: &HttpRequest,
    mut payload: web::Payload,
    what: &str,
) -> Result<T, Problem> {
    let limits = state.append_limits;
    if accept::media_type(request.headers()).as_deref() != Some(JSON) {
        body::drain(request, &mut payload, limits.drain_bytes).await;
        let text = format!("the body must be {JSON}, and the Content-Type must say so");
        return Err(Problem::new(Kind::UnsupportedMediaType, text));
    }
    let body = body::read(request, &mut payload, limits, &state.append_budget).await?;
    // Without this, serde would accept an array for an object: its items, in order, for the fields.
    if body.trim_ascii_start().first() != Some(&b'{') {
        let text = format!("the body is not a {what}: expected an object");
        return Err(Problem::malformed(text));
    }
    serde_json::from_slice(&body)
        .map_err(|error| Problem::malformed(format!("the body is not a {what}: {error}")))
}

/// Returns what a secondary knows about its master, for clients that came to the wrong node.
async fn known_master(secondary: &Secondary) -> Option<MasterAddress> {
    // A node that has stopped knows nothing any more, and the answer is the same.
    secondary
        .health()
        .await
        .ok()
        .and_then(|health| health.master)
}

/// Returns 421: only the master has this route.
async fn not_master(state: &NodeState, secondary: &Secondary) -> Problem {
    misdirected(state, known_master(secondary).await)
}

/// Does what [`not_master`] does, but redirects a client to a master that published its URL for
/// clients.
async fn send_on_to_master(state: &NodeState, secondary: &Secondary, query: &str) -> Problem {
    let master = known_master(secondary).await;
    let public_url = master.as_ref().and_then(|master| master.url.clone());
    let problem = misdirected(state, master);
    let query = match query {
        "" => String::new(),
        query => format!("?{query}"),
    };
    let location = public_url
        .map(|url| format!("{url}{}{query}", paths::MESSAGES))
        .and_then(|url| HeaderValue::try_from(url).ok());
    match location {
        Some(location) => problem
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header(LOCATION, location),
        None => problem,
    }
}

fn misdirected(state: &NodeState, master: Option<MasterAddress>) -> Problem {
    let (name, url) = match master {
        Some(MasterAddress { name, url, .. }) => (Some(name), url),
        None => (None, None),
    };
    let url = state.url_of_master(url);
    let detail = match &url {
        Some(url) => format!("this node is a secondary; the master is at {url}"),
        None => "this node is a secondary and does not know where the master is".to_owned(),
    };
    Problem::new(Kind::NotMaster, detail).member("master", json!({ "name": name, "url": url }))
}
