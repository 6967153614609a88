//! The page in a real browser: a waiting append is shown with its reason until it is answered, to a person with six
//! connections. Skipped, with a line that says so, if there is no Chromium.

mod driver;
mod hostile;

use std::net::SocketAddr;

use serde_json::{Value, json};

use self::driver::Browser;
use crate::{
    another_log::Forgetful,
    http::get,
    nodes::{Cluster, eventually},
};

/// A name that leads to this machine, in this browser only.
const NAME: &str = "elsewhere.example";

fn page_of(node: SocketAddr) -> String {
    format!("http://{node}/")
}

/// Fills in the form and submits it.
fn append(browser: &Browser, data: &str, concern: &str, seconds: &str) {
    eventually("the form may be sent", || {
        let is_ready = "return !document.getElementById('send').disabled";
        (browser.run(is_ready, &json!([])) == true).then_some(())
    });
    let script = "
        const at = id => document.getElementById(id);
        [at('data').value, at('concern').value, at('timeout').value] = arguments;
        at('append').requestSubmit();";
    browser.run(script, &json!([data, concern, seconds]));
}

/// Waits until this element has the wanted text, and returns it.
fn shown(browser: &Browser, id: &str, what: &str, is_so: impl Fn(&str) -> bool) -> String {
    let mut last = String::new();
    let deadline = std::time::Instant::now() + crate::nodes::PATIENCE;
    loop {
        let text = browser.text(id);
        if is_so(&text) {
            return text;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{what}: {text} ({last})"
        );
        let all = "return `${location} ${document.body?.innerText.slice(0, 600)}`";
        last = browser.run(all, &json!([])).to_string();
    }
}

fn no_red_line(browser: &Browser) {
    no_red_line_but(browser, "none");
}

#[test]
fn a_waiting_append_is_shown_with_its_reason_until_it_is_answered() {
    let Some(browser) = Browser::start(NAME) else {
        return;
    };
    let mut cluster = Cluster::start(2, &[]);
    let master = cluster.master.address;
    browser.open(&page_of(master));
    append(&browser, "before", "3", "");
    let all = "held by master, secondary-1 and secondary-2";
    shown(&browser, "appended", "three hold it", |text| {
        text.contains(all)
    });
    no_red_line(&browser);

    cluster.secondaries[1].kill();
    append(&browser, "{\"number\": 1e400}", "3", "");
    let waits = shown(&browser, "waiting", "it is listed", |text| {
        text.contains("connection refused") && text.contains("1 from this page")
    });
    assert!(waits.contains("2 of 3: master and secondary-1"), "{waits}");
    assert!(waits.contains("secondary-2: connection refused"), "{waits}");
    assert!(waits.contains("for ever"), "{waits}");
    let receipt = browser.text("appended");
    let expected = "{\"number\": 1e400}: offset 1, held by master and secondary-1; waits for 1 more of secondary-2";
    assert!(receipt.starts_with(expected), "{receipt}");
    // Not only appends of this page.
    cluster.wait_waiting(1);

    // Times advance between two answers of the node.
    let waited = "return [...document.querySelectorAll('#waiting [data-from]')].map(one => one.textContent).join()";
    let before = browser.run(waited, &json!([]));
    eventually("it counts", || {
        (browser.run(waited, &json!([])) != before).then_some(())
    });

    // More than a browser has connections. Two nodes are enough for the last one, which must not be delayed.
    for number in 2..10 {
        append(&browser, &format!("waits {number}"), "3", "");
        let offset = format!("offset {number},");
        shown(&browser, "appended", "it has its offset", |text| {
            text.contains(&offset)
        });
    }
    append(&browser, "two are enough", "2", "");
    shown(&browser, "appended", "it is answered", |text| {
        let line = text.lines().next().unwrap_or_default();
        line.contains("held by master and secondary-1, not yet by secondary-2")
    });
    shown(&browser, "waiting-total", "all are counted", |text| {
        text == "9"
    });
    let mode = browser.text("mode");
    assert_eq!(mode, "read-write (2 of 3 nodes in contact, 2 needed)");

    for width in [1280, 390] {
        browser.resize(width, 844);
        let beyond = "return document.documentElement.scrollWidth - innerWidth";
        let beyond = browser.run(beyond, &json!([])).as_i64();
        assert!(
            beyond.is_some_and(|beyond| beyond <= 0),
            "{width}: {beyond:?}"
        );
    }
    // It still waits after a reload.
    browser.open(&page_of(master));
    shown(&browser, "waiting-total", "they still wait", |text| {
        text == "9"
    });
    append(&browser, "in time", "3", "1");
    shown(&browser, "appended", "its time is up", |text| {
        let line = text.lines().next().unwrap_or_default();
        line.contains("not by 3 nodes in time") && line.contains("do not send it again")
    });

    cluster.secondaries[1].start();
    shown(&browser, "appended", "all are held by all", |text| {
        text.lines().count() == 10 && text.lines().all(|line| line.ends_with(all))
    });
    shown(&browser, "waiting", "nothing waits", |text| text == "None.");
    assert_eq!(browser.text("waiting-total"), "0");
    assert_eq!(get(master, "/appends").json()["total"], 0);
    let nodes = browser.text("nodes");
    assert!(nodes.contains("0–11"), "{nodes}");
    no_red_line(&browser);
}

#[test]
fn retries_are_one_line_that_counts_and_can_be_hidden() {
    let Some(browser) = Browser::start(NAME) else {
        return;
    };
    let mut cluster = Cluster::start(2, &[]);
    browser.open(&page_of(cluster.master.address));
    shown(&browser, "live", "it listens", |text| text == "live");
    cluster.secondaries[1].kill();
    let failed = "secondary-2: heartbeat failed";
    let events = shown(&browser, "events", "it counts them", |text| {
        text.contains("0 times until ") && text.contains("Suspected → Unhealthy")
    });
    // The first attempt may meet the end of the process, a reset: a line of its own, as each reason has one.
    let lines = events.lines().filter(|line| line.contains(failed));
    let refused = lines.filter(|line| !line.contains("reset"));
    assert_eq!(refused.count(), 1, "{events}");
    let first = events.lines().next().expect("a line");
    let milliseconds = first.split([' ', '.']).nth(1).expect("a time");
    assert_eq!(milliseconds.len(), 3, "{first}");
    browser.run(
        "document.querySelector('[data-shows=retry]').click()",
        &json!([]),
    );
    assert!(!browser.text("events").contains(failed));
    assert!(browser.text("events").contains("Suspected → Unhealthy"));
}

#[test]
fn messages_are_text_and_never_markup_and_payloads_that_are_not_json_break_nothing() {
    let Some(browser) = Browser::start(NAME) else {
        return;
    };
    let cluster = Cluster::start(2, &[]);
    browser.open(&page_of(cluster.master.address));
    append(&browser, "first", "2", "");
    shown(&browser, "messages", "it is there", |text| {
        text.contains("first")
    });
    let markup = "<img src=x onerror=\"document.title='run'\">";
    browser.type_into("data", markup);
    // The text in the form stays, however much is shown meanwhile.
    cluster.append("by another", 3);
    shown(&browser, "messages", "it is there", |text| {
        text.contains("by another")
    });
    let typed = "return document.getElementById('data').value";
    assert_eq!(browser.run(typed, &json!([])), markup);
    browser.run("document.getElementById('send').click()", &json!([]));
    let quoted = serde_json::to_string(markup).expect("JSON");
    shown(&browser, "messages", "as it was sent", |text| {
        text.contains(&quoted)
    });
    assert_eq!(browser.run("return document.images.length", &json!([])), 0);
    assert_eq!(browser.run(typed, &json!([])), "");

    let lines = [
        (
            r#"{"offset":7,"epoch":1,"timestamp_ms":5,"data":hello}"#,
            "hello",
        ),
        (
            r#"{"offset":7,"epoch":1,"timestamp_ms":5,"data":"a\""}"#,
            r#""a\"""#,
        ),
        (
            r#"{"offset":7,"epoch":1,"timestamp_ms":5,"data_base64":"aGVsbG8="}"#,
            "hello",
        ),
        (
            r#"{"offset":7,"epoch":1,"timestamp_ms":5,"idempotency_key":"\"data\":","data":{}}"#,
            "{}",
        ),
    ];
    for (line, data) in lines {
        let message = browser.run("return messageOf(arguments[0])", &json!([line]));
        assert_eq!(
            (
                &message["offset"],
                &message["timestamp_ms"],
                &message["data"]
            ),
            (&7.into(), &5.into(), &data.into()),
            "{line}"
        );
    }
    no_red_line(&browser);
}

#[test]
fn the_page_of_an_isolated_node_says_so_and_links_to_the_others() {
    let Some(browser) = Browser::start(NAME) else {
        return;
    };
    let mut cluster = Cluster::start(2, &[]);
    assert_eq!(cluster.append("kept", 3).status, 201);
    let links = "return [...document.querySelectorAll('#nodes a')].map(link => link.href)";
    browser.open(&page_of(cluster.master.address));
    let urls: Vec<Value> = cluster
        .secondaries
        .iter()
        .map(|node| page_of(node.address).into())
        .collect();
    eventually("the master leads to them", || {
        (browser.run(links, &json!([])) == Value::from(urls.clone())).then_some(())
    });
    for secondary in &mut cluster.secondaries {
        secondary.kill();
    }
    shown(&browser, "mode", "it says why it takes none", |text| {
        text.starts_with("read-only: no quorum")
    });
    append(&browser, "refused", "2", "");
    shown(&browser, "appended", "it says so", |text| {
        text.contains("refused")
    });
    no_red_line_but(&browser, "503");

    cluster.secondaries[0].start();
    browser.open(&page_of(cluster.secondaries[0].address));
    cluster.master.kill();
    shown(&browser, "messages", "it shows its copy", |text| {
        text.contains("kept")
    });
    no_red_line(&browser);
}

#[test]
fn a_message_of_a_lost_log_is_not_confused_with_the_one_at_the_same_offset_in_the_next_log() {
    let Some(browser) = Browser::start(NAME) else {
        return;
    };
    let mut node = Forgetful::start();
    browser.open(&page_of(node.address));
    append(&browser, "\"lost\"", "1", "");
    shown(&browser, "appended", "it is held", |text| {
        text.ends_with("held by master")
    });
    // The same offset and epoch in another log. The page stays open.
    node.restart();
    node.append(0..1);
    shown(&browser, "appended", "it is gone", |text| {
        text.ends_with("the node has another log now: the message is not in it")
    });
    // A reload does not bring it back either.
    browser.open(&page_of(node.address));
    shown(&browser, "messages", "the other one is there", |text| {
        text.contains('0')
    });
    assert_eq!(browser.text("appended"), "");
}

/// Every browser shows a refused request as a red line.
fn no_red_line_but(browser: &Browser, status: &str) {
    let lines = browser.console();
    let red = lines.iter().filter(|(level, _)| level == "SEVERE");
    let other: Vec<_> = red.filter(|(_, text)| !text.contains(status)).collect();
    assert!(other.is_empty(), "{other:?}");
}
