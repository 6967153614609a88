//! A master inside other programs: a web service with routes of its own, and a plain tokio one.
//!
//! The first half is a small actix-web service that keeps its orders in a replicated log; it takes
//! a free port, calls itself as a client would, and ends. The second half does without a web
//! framework. Both start a master and two secondaries in their own process; a service whose nodes
//! are on several machines starts its master with an HTTP network instead.
//!
//! Run it with `cargo run --example embed`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use replog_examples::{Failure, Story};

const LOOK_AT: &str = "
The same library in two hosts. In the first, an actix-web service answers POST /orders once two
nodes hold the order, and GET /orders from the log; its route /hello has nothing to do with it.
In the second there is no web framework, and several tasks share the master. Look at how little
there is to do: start the nodes, wait until the master takes appends, append, read.";

fn main() -> ExitCode {
    let story = Story::begin("embed", LOOK_AT);
    let outcome = tell(&story);
    story.end(outcome)
}

fn tell(story: &Story) -> Result<(), Failure> {
    story.part("inside an actix-web service");
    actix_web::rt::System::new().block_on(shop::run(story))?;
    story.part("inside a plain tokio program");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(plain::run(story))
}

/// A web service with a replicated log inside.
mod shop {
    use std::net::TcpListener;

    use actix_web::{
        App, HttpResponse, HttpServer, Responder,
        web::{self, Bytes, Data},
    };
    use replog_core::{AppendOptions, Concern, Master, Reader};
    use replog_examples::{Failure, Story, client, nodes, within};

    pub(crate) async fn run(story: &Story) -> Result<(), Failure> {
        let (master, secondaries) = within("the nodes to start", nodes::start()).await??;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let data = Data::new(master.clone());
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route("/hello", web::get().to(hello))
                .route("/orders", web::post().to(place))
                .route("/orders", web::get().to(list))
        })
        .workers(1)
        .disable_signals()
        .listen(listener)?
        .run();
        let handle = server.handle();
        let server = actix_web::rt::spawn(server);
        // The port is a free one, different each time: the recorded log leaves it out.
        story.line(
            "service",
            "listens, with a master and two secondaries inside",
        );

        let calls = within("the calls", call_itself(story, &url)).await?;
        handle.stop(true).await;
        within("the service to end", server).await???;
        calls?;
        for secondary in &secondaries {
            let held = secondary.reader();
            within(
                "the order",
                held.wait_for(replog_core::Offset(1), replog_core::ReadLevel::Local),
            )
            .await??;
            let shown = client::read_all(&held).await?;
            let name = secondary.name().as_str();
            story.line(name, format_args!("holds {} orders", shown.len()));
            story.check(
                format!("actix-web: {name} holds both orders"),
                shown.len() == 2,
            );
        }
        master.stop().await;
        story.line("service", "has ended");
        Ok(())
    }

    async fn hello() -> impl Responder {
        "hello"
    }

    /// Answers once a majority of the nodes holds the order.
    async fn place(master: Data<Master>, order: Bytes) -> HttpResponse {
        let options = AppendOptions::concern(Concern::Majority);
        match master.append(order, options).await {
            Ok(receipt) => HttpResponse::Created().body(format!("order {}", receipt.offset)),
            Err(error) => HttpResponse::ServiceUnavailable().body(error.to_string()),
        }
    }

    async fn list(master: Data<Master>) -> HttpResponse {
        match orders(&master.reader()).await {
            Ok(orders) => HttpResponse::Ok().body(orders),
            Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
        }
    }

    async fn orders(reader: &Reader) -> Result<String, Failure> {
        let orders = client::read_all(reader).await?;
        let texts = orders.iter().map(|m| String::from_utf8_lossy(&m.payload));
        Ok(texts.collect::<Vec<_>>().join(", "))
    }

    /// Acts as a client of the service.
    async fn call_itself(story: &Story, url: &str) -> Result<(), Failure> {
        let http = awc::Client::default();
        let failed = |error: awc::error::SendRequestError| error.to_string();
        let mut answers = Vec::new();
        for (method, path, body) in [
            ("GET", "/hello", ""),
            ("POST", "/orders", "two apples"),
            ("POST", "/orders", "one pear"),
            ("GET", "/orders", ""),
        ] {
            let url = format!("{url}{path}");
            let mut response = match method {
                "POST" => http.post(url).send_body(body).await.map_err(failed)?,
                _ => http.get(url).send().await.map_err(failed)?,
            };
            let text = String::from_utf8_lossy(&response.body().await?).into_owned();
            let status = response.status().as_u16();
            let line = format!("{method:<4} {path:<7} {body:<10}  ->  {status} {text}");
            story.line("client", line);
            answers.push((status, text));
        }
        let expected = [
            (200, "hello"),
            (201, "order 0"),
            (201, "order 1"),
            (200, "two apples, one pear"),
        ];
        story.check(
            "actix-web: the service's own route and those on the log answer as they should",
            answers.len() == expected.len()
                && answers
                    .iter()
                    .zip(expected)
                    .all(|((status, text), wanted)| (*status, text.as_str()) == wanted),
        );
        Ok(())
    }
}

/// A program without a web framework.
mod plain {
    use replog_core::{AppendOptions, Concern};
    use replog_examples::{Failure, Story, client, nodes, within};
    use tokio::task::JoinSet;

    const TASKS: usize = 4;

    pub(crate) async fn run(story: &Story) -> Result<(), Failure> {
        let (master, secondaries) = within("the nodes to start", nodes::start()).await??;
        story.line("program", "runs, with a master and two secondaries inside");
        let mut tasks = JoinSet::new();
        for number in 0..TASKS {
            let master = master.clone();
            tasks.spawn(async move {
                let options = AppendOptions::concern(Concern::All);
                master.append(format!("event {number}"), options).await
            });
        }
        let mut met = 0;
        while let Some(receipt) = within("an append", tasks.join_next()).await? {
            let receipt = receipt??;
            let (offset, nodes) = (receipt.offset, receipt.acks.len());
            story.line(
                "program",
                format_args!("offset {offset} is held by {nodes} nodes"),
            );
            met += usize::from(receipt.concern_met && nodes == 3);
        }
        story.check(
            "plain tokio: tasks share the master, and each is answered once all nodes hold it",
            met == TASKS,
        );
        let expected = client::read_all(&master.reader()).await?;
        let mut equal = true;
        for secondary in &secondaries {
            equal &= client::read_all(&secondary.reader()).await? == expected;
        }
        story.check(
            "plain tokio: all three nodes show the same events",
            equal && expected.len() == TASKS,
        );
        // The last handle goes out of scope here, and the nodes end by themselves.
        Ok(())
    }
}
