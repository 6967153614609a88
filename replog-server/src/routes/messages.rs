//! `POST /messages`, `GET /messages`, `GET /messages/{offset}`.

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{CONTENT_ENCODING, HeaderMap, LOCATION},
    },
    web,
};
use bytes::{BufMut as _, BytesMut};
use replog_core::{
    AppendOptions, Concern, IdempotencyKey, Master,
    types::{Offset, ReadLevel},
    views::Receipt,
};
use serde::Serialize;

use crate::{
    accept::{self, JSON, NDJSON},
    append_body, body, log_name,
    message::{Fields, LineBreaks},
    node::{Node, NodeState},
    origin, paths,
    problem::{Kind, Problem},
    query::{self, Query},
    routes::{
        State,
        batches::{self, Options},
        json_body, not_master, reads, send_on_to_master,
    },
    shares::{Client, Wait},
    telemetry,
};

/// Header with the key of an append.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Header that marks a message that existed before the request.
const IDEMPOTENT_REPLAYED: &str = "idempotent-replayed";

/// Appends a message and waits for its concern.
pub(crate) async fn append(
    state: State,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    log_name::answered(&state, append_here(&state, request, payload).await)
}

async fn append_here(
    state: &NodeState,
    request: HttpRequest,
    mut payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let admitted = match &state.node {
        Node::Master(master) => origin::check(&request, state.names())
            .and_then(|()| log_name::check(state, log_name::named_by(&request)?))
            .and_then(|()| check_head(&request))
            .map(|head| (master, head)),
        Node::Secondary(secondary) => {
            Err(send_on_to_master(state, secondary, request.query_string()).await)
        }
    };
    let (master, Head { key, batch }) = match admitted {
        Ok(admitted) => admitted,
        Err(problem) => {
            // Its sender may still be sending, and would not see the answer until it is done.
            body::drain(&request, &mut payload, state.append_limits.drain_bytes).await;
            return Err(problem.not_appended());
        }
    };
    if let Some(batch) = batch {
        return batches::append(state, master, &request, payload, batch).await;
    }
    let body = body::read(
        &request,
        &mut payload,
        state.append_limits,
        &state.append_budget,
    )
    .await
    .map_err(Problem::not_appended)?;
    let mut parsed =
        append_body::parse(&body).map_err(|what| Problem::malformed(what).not_appended())?;
    parsed.idempotency_key = one_key("meta.idempotency_key", parsed.idempotency_key, key)
        .map_err(Problem::not_appended)?;
    // The payload is a slice of it, and must not keep it longer than the library does.
    drop(body);
    let appended = append_and_wait(state, master, Client::at(request.peer_addr()), parsed);
    let receipt = telemetry::within(request.headers(), appended).await?;
    Ok(receipt_response(&receipt))
}

async fn append_and_wait(
    state: &NodeState,
    master: &Master,
    client: Client,
    body: append_body::AppendBody,
) -> Result<Receipt, Problem> {
    let _entered = enter(state, client, body.concern, body.idempotency_key.is_some())?;
    let options = AppendOptions::concern(body.concern);
    let options = match body.timeout.or(state.append_timeout) {
        Some(timeout) => options.timeout(timeout),
        None => options,
    };
    let options = match body.idempotency_key {
        Some(key) => options.idempotency_key(key),
        None => options,
    };
    let options = match body.expected_offset {
        Some(offset) => options.expected_offset(offset),
        None => options,
    };
    Ok(master.append(body.payload, options).await?)
}

/// Admits an append that other nodes may block: one that waits only for this node ends as soon as
/// the disk is done.
pub(super) fn enter(
    state: &NodeState,
    client: Client,
    concern: Concern,
    has_key: bool,
) -> Result<Option<Wait>, Problem> {
    match concern {
        Concern::Count(..=1) => Ok(None),
        Concern::Count(_) | Concern::Majority | Concern::All => {
            let refused = |problem: Problem| match has_key {
                true => problem.unsettled(),
                false => problem,
            };
            state.enter(client, concern).map(Some).map_err(refused)
        }
    }
}

fn receipt_response(receipt: &Receipt) -> HttpResponse {
    let mut response = answer(receipt.concern_met, receipt.replayed, receipt.offset);
    json_body(&mut response, receipt)
}

/// Returns status and headers of a receipt.
pub(super) fn answer(concern_met: bool, replayed: bool, offset: Offset) -> HttpResponseBuilder {
    let status = match (concern_met, replayed) {
        (true, false) => StatusCode::CREATED,
        (true, true) => StatusCode::OK,
        (false, _) => StatusCode::ACCEPTED,
    };
    let mut response = HttpResponse::build(status);
    response.insert_header((LOCATION, format!("{}/{offset}", paths::MESSAGES)));
    if replayed {
        response.insert_header((IDEMPOTENT_REPLAYED, "true"));
    }
    response
}

/// Contents of an append's head.
struct Head {
    key: Option<IdempotencyKey>,
    /// The options, if the body is a batch.
    batch: Option<Options>,
}

/// Checks an append's head.
fn check_head(request: &HttpRequest) -> Result<Head, Problem> {
    let headers = request.headers();
    let content = check_content(headers)?;
    let key = key_of_head(headers)?;
    let batch = match content {
        Content::One => Query::of(request, &[]).map(|_| None)?,
        Content::Lines => {
            let asked = Options::of(request)?;
            let what = "the parameter idempotency_key";
            Some(Options {
                key: one_key(what, asked.key, key.clone())?,
                ..asked
            })
        }
    };
    Ok(Head { key, batch })
}

/// Returns the header `Idempotency-Key` as it stands, without quotes around it.
fn key_of_head(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY);
    let Some(value) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err(Problem::malformed(
            "the header Idempotency-Key is given twice",
        ));
    }
    let text = String::from_utf8_lossy(value.as_bytes());
    IdempotencyKey::new(&text)
        .map(Some)
        .map_err(|_| Problem::malformed(append_body::key_rule("the header Idempotency-Key", &text)))
}

/// Returns the key of an append: the header and `what` may both give it, if they agree.
fn one_key(
    what: &str,
    in_body: Option<IdempotencyKey>,
    in_head: Option<IdempotencyKey>,
) -> Result<Option<IdempotencyKey>, Problem> {
    match (&in_body, &in_head) {
        (Some(member), Some(header)) if member != header => Err(Problem::malformed(format!(
            "the header Idempotency-Key and {what} differ: give one of them"
        ))),
        _ => Ok(in_body.or(in_head)),
    }
}

/// Contents of an append's body.
enum Content {
    /// One message and its options.
    One,
    /// One message per line.
    Lines,
}

fn check_content(headers: &HeaderMap) -> Result<Content, Problem> {
    let refuse = |text: String| Err(Problem::new(Kind::UnsupportedMediaType, text));
    let content = match accept::media_type(headers).as_deref() {
        Some(JSON) => Content::One,
        Some(NDJSON) => Content::Lines,
        Some(other) => {
            let other = append_body::quoted(other);
            return refuse(format!("the body must be {JSON} or {NDJSON}, not {other}"));
        }
        None => {
            let text = format!("the Content-Type is missing; send {JSON} or {NDJSON}");
            return refuse(text);
        }
    };
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            refuse("the body must not be compressed".to_owned())
        }
        _ => Ok(content),
    }
}

/// Reads messages.
pub(crate) async fn read(state: State, request: HttpRequest) -> HttpResponse {
    log_name::answered(&state, reads::read(&state, &request).await)
}

/// Reads one message; on the master also which nodes hold it, and whether that meets a concern.
pub(crate) async fn get(state: State, request: HttpRequest) -> HttpResponse {
    log_name::answered(&state, get_here(&state, &request).await)
}

async fn get_here(state: &NodeState, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    let query = Query::of(request, &["concern", "timeout_ms", log_name::PARAMETER])?;
    let (concern, timeout) = (query.concern()?, query.timeout()?);
    if timeout.is_some() && concern.is_none() {
        let text = "timeout_ms ends the wait for a concern, but concern is not given";
        return Err(Problem::malformed(text));
    }
    let offset = request.match_info().get("offset").unwrap_or_default();
    let offset = Offset(query::number(offset, "an offset")?);
    log_name::check(state, log_name::named_by_read(request, &query)?)?;
    if let (Node::Secondary(secondary), Some(_)) = (&state.node, concern) {
        return Err(not_master(state, secondary).await);
    }
    let reader = state.node.reader();
    let Some(message) = reader.get(offset).await? else {
        let next = reader.end(ReadLevel::Local).unwrap_or_default();
        return Err(Problem::no_such_offset(offset, next));
    };
    let mut text = BytesMut::new();
    Fields::of_message(&message).write_open(&mut text, LineBreaks::Kept);
    if let Node::Master(master) = &state.node {
        let members = match concern {
            None => json_of(&master.holders(offset).await?),
            Some(concern) => {
                let _entered = match concern {
                    Concern::Count(..=1) => None,
                    _ => Some(state.enter_reader(Client::at(request.peer_addr()))?),
                };
                let timeout = timeout.or(state.append_timeout);
                json_of(&master.wait_for_concern(offset, concern, timeout).await?)
            }
        };
        // An object without its opening brace: its members follow those of the message.
        text.put_u8(b',');
        text.put_slice(&members[1..]);
    } else {
        text.put_u8(b'}');
    }
    text.put_u8(b'\n');
    Ok(HttpResponse::Ok().content_type(JSON).body(text.freeze()))
}

fn json_of(members: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(members).expect("names, numbers and reasons are JSON")
}
