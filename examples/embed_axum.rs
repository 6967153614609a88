//! A master inside an axum service: appends, a stream of server-sent events that follows the log, and a graceful stop.
//!
//! The service takes a free port, calls itself as a client would, and ends. `embed` does the same in actix-web and
//! without a web framework.
//!
//! Run it with `cargo run --example embed_axum`.
#![forbid(unsafe_code)]

use std::{net::SocketAddr, process::ExitCode};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::sse::{Event, KeepAlive, Sse},
    routing::{get, post},
};
use futures_util::{Stream, StreamExt as _, stream};
use replog_core::{
    AppendOptions, Concern, Followed, Follower, Master, MessageRange, Offset, ReadLevel,
};
use replog_examples::{Failure, Story, nodes, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

const LOOK_AT: &str = "
An axum service answers POST /orders once a majority of the nodes holds the order, and streams all
orders at GET /orders/events as they are committed. Look at the stop: the service accepts nothing
more, the master stops, which ends the stream, and then the server ends by itself.";

/// Bytes of records that one event of the stream is read from, at most.
const READ_BYTES_MAX: usize = 64 << 10;

fn main() -> ExitCode {
    let story = Story::begin("embed_axum", LOOK_AT);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(tell(&story)),
        Err(error) => Err(error.into()),
    };
    story.end(outcome)
}

async fn tell(story: &Story) -> Result<(), Failure> {
    let (master, _secondaries) = within("the nodes to start", nodes::start()).await??;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = Router::new()
        .route("/orders", post(place))
        .route("/orders/events", get(follow))
        .with_state(master.clone());
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, service).with_graceful_shutdown(async {
        // An error means that the sender is gone, which is a reason to stop, too.
        let _ = stopped.await;
    });
    let server = tokio::spawn(server.into_future());
    // The port is a free one, different each time: the recorded log leaves it out.
    story.line(
        "service",
        "listens, with a master and two secondaries inside",
    );

    // A listener that is there before the first order, and one order after the other.
    let mut events = request(address, "GET", "/orders/events", "").await?;
    for (order, expected) in [("two apples", "order 0"), ("one pear", "order 1")] {
        let mut connection = request(address, "POST", "/orders", order).await?;
        let answer = within("an answer", read_until(&mut connection, expected)).await??;
        let created = answer.starts_with("HTTP/1.1 201");
        story.line(
            "client",
            format_args!("POST /orders {order}  ->  {expected}"),
        );
        story.check(format!("axum: {expected} is held by a majority"), created);
    }
    let stream = within("the events", read_until(&mut events, "data: one pear")).await??;
    let both = stream.contains("id: 0\ndata: two apples") && stream.contains("id: 1");
    story.line(
        "client",
        "GET /orders/events  ->  both orders, with their offsets",
    );
    story.check("axum: the stream of events has both orders in order", both);

    let _ = stop.send(());
    // Ends the followers, and so the streams, for which the server waits.
    master.stop().await;
    within("the service to end", server).await???;
    let end = within(
        "the end of the events",
        read_until(&mut events, "event: bye"),
    )
    .await??;
    story.line("service", "has ended, and told who listened");
    story.check(
        "axum: a listener is told of the end",
        end.contains("event: bye"),
    );
    Ok(())
}

/// Answers once a majority of the nodes holds the order.
async fn place(State(master): State<Master>, order: Bytes) -> (StatusCode, String) {
    let options = AppendOptions::concern(Concern::Majority);
    match master.append(order, options).await {
        Ok(receipt) => (StatusCode::CREATED, format!("order {}", receipt.offset)),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// Streams every committed order, from the first one on, each with its offset as the event's id.
async fn follow(
    State(master): State<Master>,
) -> Sse<impl Stream<Item = Result<Event, std::convert::Infallible>>> {
    let follower = master.reader().follow(Offset(0), ReadLevel::Committed);
    let events = stream::unfold(Some(follower), |follower| async {
        let (events, follower) = next_events(follower?).await;
        Some((stream::iter(events.into_iter().map(Ok)), follower))
    });
    Sse::new(events.flatten()).keep_alive(KeepAlive::default())
}

/// Waits for the next records. Without a follower in return, the events are the last ones.
async fn next_events(mut follower: Follower) -> (Vec<Event>, Option<Follower>) {
    match follower.next(READ_BYTES_MAX).await {
        Ok(Followed::Records(batches)) => {
            let orders = batches
                .iter()
                .flat_map(MessageRange::messages)
                .map(|order| {
                    // The format has no way to write a carriage return.
                    let text = String::from_utf8_lossy(&order.payload).replace('\r', " ");
                    Event::default().id(order.offset.to_string()).data(text)
                });
            (orders.collect(), Some(follower))
        }
        // Never at this level but after a forced recovery: a listener forgets what it has from there on.
        Ok(Followed::Cut { offset }) => {
            let cut = Event::default().event("cut").data(offset.to_string());
            (vec![cut], Some(follower))
        }
        Err(error) => {
            let bye = Event::default().event("bye").data(error.to_string());
            (vec![bye], None)
        }
    }
}

/// Sends a request on a connection of its own.
async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<TcpStream, Failure> {
    let mut connection = TcpStream::connect(address).await?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    connection.write_all((head + body).as_bytes()).await?;
    Ok(connection)
}

/// Reads from a connection until a text has come, or until its end, and returns what came.
async fn read_until(connection: &mut TcpStream, text: &str) -> Result<String, Failure> {
    let mut come = Vec::new();
    loop {
        let shown = String::from_utf8_lossy(&come);
        if shown.contains(text) {
            return Ok(shown.into_owned());
        }
        if connection.read_buf(&mut come).await? == 0 {
            return Ok(String::from_utf8_lossy(&come).into_owned());
        }
    }
}
