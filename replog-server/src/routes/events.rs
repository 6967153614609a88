//! `GET /events`: changes in this node, as they happen.

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodyStream, BoxBody, MessageBody as _},
    http::header::{CACHE_CONTROL, HeaderValue},
};

use crate::{
    accept::{self, EVENT_STREAM},
    connections, events_stream,
    problem::{Kind, Problem},
    query::Query,
    routes::State,
    shares::Client,
};

/// Streams the node's events.
pub(crate) async fn listen(state: State, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Query::of(&request, &[])?;
    if !accept::takes(request.headers(), EVENT_STREAM) {
        let text = format!("the only form here is {EVENT_STREAM}");
        return Err(Problem::new(Kind::NotAcceptable, text));
    }
    // It lasts as long as its reader likes, like a follower.
    let entered = state.enter_reader(Client::at(request.peer_addr()))?;
    connections::listen_on_connection_of(&request);
    let node = &state.node;
    let body = events_stream::body(node.name().clone(), node.events(), entered);
    let mut response = HttpResponse::Ok();
    response.content_type(EVENT_STREAM);
    response.insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")));
    Ok(response.body(BoxBody::new(BodyStream::new(Box::pin(body)).boxed())))
}
