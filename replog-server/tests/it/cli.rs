//! `replog` as people and scripts run it, against real nodes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::nodes::{Cluster, Node, client, eventually};

/// Builds the program with this node as its target.
fn replog(node: &Node) -> Command {
    let mut command = client();
    command.env("REPLOG_URL", format!("http://{}", node.address));
    command
}

fn run(node: &Node, args: &[&str]) -> Output {
    replog(node).args(args).output().expect("the program runs")
}

/// Like [`run`], with this on stdin.
fn run_with_stdin(node: &Node, args: &[&str], stdin: &str) -> Output {
    let mut child = replog(node)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(stdin.as_bytes()).expect("it reads");
    drop(pipe);
    child.wait_with_output().expect("the program ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Returns the output of a command that ended with exit code 0 and printed nothing on stderr.
fn printed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    text(&output.stdout)
}

/// Returns the lines of JSON that such a command printed.
fn values(output: &Output) -> Vec<Value> {
    let values = printed(output);
    let values = values.lines().map(serde_json::from_str);
    values.map(|value| value.expect("JSON")).collect()
}

/// Returns the single line on stderr of a command that ended with this exit code.
fn error_line(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = text(&output.stderr);
    assert_eq!(text.lines().count(), 1, "{text}");
    text.strip_prefix("replog: ")
        .expect("whose line it is")
        .trim_end()
        .to_owned()
}

#[test]
fn an_argument_is_appended_as_json_if_it_is_json_and_else_as_a_text() {
    let cluster = Cluster::start(1, &[]);
    let master = &cluster.master;
    let given = [
        (vec![r#"{"a": 1}"#], json!({"a": 1})),
        (vec!["17"], json!(17)),
        (vec!["-1"], json!(-1)),
        (vec!["hello"], json!("hello")),
        (vec!["17", "--text"], json!("17")),
    ];
    for (offset, (args, _)) in given.iter().enumerate() {
        let args = [&["append"], args.as_slice()].concat();
        assert_eq!(printed(&run(master, &args)), format!("{offset}\n"));
    }
    let expected: Vec<Value> = given.into_iter().map(|(_, data)| data).collect();
    assert_eq!(master.data(), expected);
    // JSON that lost its quotes to the shell is not appended as a text.
    let refused = run(master, &["append", "{a: 1}"]);
    assert!(
        error_line(&refused, 2).contains("looks like JSON but is not"),
        "{refused:?}"
    );
    assert_eq!(master.data(), expected);
}

#[test]
fn each_line_of_stdin_is_appended_once_with_a_key_however_often_it_is_sent() {
    let cluster = Cluster::start(1, &[]);
    let master = &cluster.master;
    assert_eq!(
        printed(&run_with_stdin(master, &["append"], "1\n\n[2]\n")),
        "0\n1\n"
    );
    let batched = run_with_stdin(master, &["append", "--batch", "2", "-"], "3\n4\n5\n");
    assert_eq!(printed(&batched), "2..4\n4..5\n");
    for _ in 0..2 {
        let texts = run_with_stdin(master, &["append", "--text", "--key", "k"], "six\nseven");
        assert_eq!(printed(&texts), "5\n6\n");
    }
    let expected = json!([1, [2], 3, 4, 5, "six", "seven"]);
    assert_eq!(Value::from(master.data()), expected);
    let broken = run_with_stdin(master, &["append"], "8\nnine\n");
    let said = error_line(&broken, 1);
    assert!(
        said.contains("line 2") && said.contains("appended before that: 1"),
        "{said}"
    );
}

/// Returns what a command that ended with exit code 0 printed, and the lines of the program on stderr.
fn printed_and_said(output: &Output) -> (String, String) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn lines_that_are_too_many_for_one_append_are_split_in_order_and_stderr_says_where() {
    let flags = ["--max-message-bytes", "1000", "--max-request-bytes", "2000"];
    let cluster = Cluster::start(1, &flags);
    let master = &cluster.master;
    // 103 bytes each, with the line end.
    let lines: String = (0..45).map(|n| format!("\"{n:0100}\"\n")).collect();
    // The blank line is counted, too.
    let lines = format!("\n{lines}");
    let split = "replog: lines 2 to 20 were sent as one append: with line 21 it would be longer than 2000 bytes\n\
                 replog: lines 21 to 39 were sent as one append: with line 40 it would be longer than 2000 bytes\n";
    for _ in 0..2 {
        let args = ["append", "--batch", "100", "--key", "k"];
        let appended = run_with_stdin(master, &args, &lines);
        let expected = ("0..19\n19..38\n38..45\n".to_owned(), split.to_owned());
        assert_eq!(printed_and_said(&appended), expected);
    }
    let expected: Vec<Value> = (0..45).map(|n| json!(format!("{n:0100}"))).collect();
    assert_eq!(master.data(), expected);
    // What fits is sent whole.
    let whole = run_with_stdin(master, &["append", "--batch", "100"], "1\n2\n3\n");
    assert_eq!(printed(&whole), "45..48\n");
    // A line that is too long by itself is not.
    let long = format!("1\n\n2\n\"{}\"\n3\n", "x".repeat(999));
    let said = error_line(
        &run_with_stdin(master, &["append", "--batch", "9"], &long),
        1,
    );
    assert_eq!(
        said,
        "line 4 is too long: it has 1001 bytes and 1000 are allowed; appended before that: 0"
    );
    let said = error_line(&run_with_stdin(master, &["append"], &long), 1);
    assert!(
        said.starts_with("line 4 is too long: ")
            && said.contains("the body is longer than max-message-bytes, which is 1000 bytes")
            && said.ends_with("; appended before that: 2"),
        "{said}"
    );
    assert_eq!(master.data().len(), 50);
}

#[test]
fn lines_of_more_than_8_mib_are_several_appends_and_one_line_of_more_is_none() {
    let cluster = Cluster::start(1, &["--memory", "--max-message-bytes", "8MiB"]);
    let master = &cluster.master;
    let line = |n: u32| format!("\"{n}{}\"\n", "x".repeat(1_000_000));
    let lines: String = (0..9).map(line).collect();
    let appended = run_with_stdin(master, &["append", "--batch", "100"], &lines);
    let split = "replog: lines 1 to 8 were sent as one append: with line 9 it would be longer than 8388608 bytes\n";
    let expected = ("0..8\n8..9\n".to_owned(), split.to_owned());
    assert_eq!(printed_and_said(&appended), expected);
    let long = |bytes: usize| format!("1\n\"{}\"\n", "x".repeat(bytes - 2));
    // With its header it is more than an append may have in the log, and then also more than a request.
    for (offset, bytes, expected) in [
        (
            9,
            (8 << 20) - 35,
            "more than the 8388608 bytes that one append may have (max-request-bytes)",
        ),
        (
            10,
            (8 << 20) + 1,
            "the request has 8388609 bytes and one append may have 8388608",
        ),
    ] {
        let refused = run_with_stdin(master, &["append", "--batch", "1000"], &long(bytes));
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert_eq!(text(&refused.stdout), format!("{offset}..{}\n", offset + 1));
        let said = text(&refused.stderr);
        assert!(
            said.contains("line 2 is too long: ") && said.contains(expected),
            "{said}"
        );
        assert!(said.ends_with("appended before that: 1\n"), "{said}");
    }
}

#[test]
fn a_closed_pipe_ends_commands_that_only_show_and_none_that_changes_or_judges() {
    let mut cluster = Cluster::start(1, &[]);
    let unread = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        writer
    };
    let run = |node: &Node, args: &[&str]| {
        let mut command = replog(node);
        command.args(args).stdout(unread()).stderr(unread());
        command.stdin(Stdio::piped()).spawn().expect("it runs")
    };
    let mut appending = run(&cluster.master, &["append"]);
    let mut lines = appending.stdin.take().expect("a pipe");
    for number in 0..100 {
        writeln!(lines, "{number}").expect("it reads");
    }
    drop(lines);
    assert_eq!(appending.wait().expect("an end").code(), Some(0));
    assert_eq!(cluster.master.data().len(), 100, "it went on");

    for args in [&["read"] as &[&str], &["export"], &["man"]] {
        let code = run(&cluster.master, args).wait().expect("an end").code();
        assert_eq!(code, Some(0), "{args:?}");
    }
    let wrong = run(&cluster.master, &["frob"]).wait().expect("an end");
    assert_eq!(wrong.code(), Some(2));
    cluster.secondaries[0].kill();
    cluster.wait_alive(1);
    let unwell = run(&cluster.master, &["status"]).wait().expect("an end");
    assert_eq!(unwell.code(), Some(10));
}

#[test]
fn a_concern_that_is_not_met_in_time_is_exit_code_3_and_can_be_waited_for_later() {
    let cluster = Cluster::start(2, &["--allow-faults"]);
    let (master, away) = (&cluster.master, &cluster.secondaries[1]);
    assert_eq!(
        printed(&run(away, &["fault", "set", "--isolate"])),
        "isolate\n"
    );
    let late = run(
        master,
        &["append", "x", "--concern", "all", "--timeout", "50ms"],
    );
    assert_eq!(text(&late.stdout), "0\n");
    let said = error_line(&late, 3);
    assert!(
        said.contains(" of 3 nodes") && said.contains("secondary-2"),
        "{said}"
    );

    let watching = replog(master)
        .args(["append", "y", "--concern", "3", "--watch", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let held = run(master, &["wait", "0", "--concern", "2"]);
    assert_eq!(printed(&held), "master, secondary-1\n");
    assert_eq!(printed(&run(away, &["fault", "clear"])), "none\n");
    let watched = watching.wait_with_output().expect("the program ends");
    assert_eq!(watched.status.code(), Some(0), "{watched:?}");
    let receipt: Value = serde_json::from_slice(&watched.stdout).expect("JSON");
    assert_eq!(
        (&receipt["offset"], &receipt["concern_met"]),
        (&json!(1), &json!(true))
    );
    let told = text(&watched.stderr);
    let told: Vec<&str> = told
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    assert_eq!((told.len(), told[0]), (3, "master"), "{told:?}");
    // On a busy machine the other one may not be the first of the two.
    assert!(
        told.contains(&"secondary-1") && told.contains(&"secondary-2"),
        "{told:?}"
    );

    let held = values(&run(master, &["wait", "0", "--concern", "all", "--json"]));
    assert_eq!(held[0]["concern_met"], true);
    let never = run(master, &["wait", "0", "--concern", "4"]);
    assert!(error_line(&never, 2).contains("3 nodes"));
}

#[test]
fn an_append_that_a_secondary_redirects_is_watched_at_the_master() {
    let mut cluster = Cluster::prepare(1, &[]);
    let url = format!("http://{}", cluster.master.address);
    cluster.master.add_flag("--public-url");
    cluster.master.add_flag(&url);
    cluster.secondaries[0].start();
    cluster.master.start();
    cluster.wait_read_write();
    cluster.wait_alive(2);
    // It learns the URL with the promise or a heartbeat.
    let secondary = &cluster.secondaries[0];
    eventually("the secondary knows the master's URL", || {
        (secondary.health()["master"]["url"] == *url).then_some(())
    });
    let args = ["append", "x", "--watch", "--concern", "all"];
    let watched = run(secondary, &args);
    assert_eq!(watched.status.code(), Some(0), "{watched:?}");
    assert_eq!(text(&watched.stdout), "0\n");
    assert_eq!(text(&watched.stderr).lines().count(), 2, "{watched:?}");
}

#[test]
fn a_fault_goes_to_the_named_node_or_to_none() {
    let mut cluster = Cluster::prepare(2, &["--allow-faults"]);
    let url = |node: &Node| format!("http://{}", node.address);
    let wrong = url(&cluster.master);
    cluster.secondaries[1].add_flag("--public-url");
    // Nodes on several machines all say that they are at 127.0.0.1:5000.
    cluster.secondaries[1].add_flag(&wrong);
    cluster.secondaries.iter_mut().for_each(Node::start);
    cluster.master.start();
    cluster.wait_read_write();
    // A node that has answered a promise is in contact; it names its URL for clients with the hello.
    eventually("the master knows where clients reach each", || {
        let health = cluster.master.health();
        let mut all = health["secondaries"].as_array()?.iter();
        all.all(|secondary| secondary["url"].is_string())
            .then_some(())
    });
    let set = |name: &str| {
        let args = ["fault", "--node", name, "set", "--isolate"];
        run(&cluster.master, &args)
    };
    assert_eq!(printed(&set("secondary-1")), "isolate\n");
    let said = error_line(&set("secondary-2"), 1);
    assert!(said.contains("from here that is master"), "{said}");
    assert!(said.contains("give the --url of secondary-2"), "{said}");
    for node in [&cluster.master, &cluster.secondaries[1]] {
        assert_eq!(printed(&run(node, &["fault"])), "none\n");
    }
}

#[test]
fn waiting_appends_are_shown_with_the_nodes_they_wait_for() {
    let cluster = Cluster::start(1, &["--allow-faults"]);
    printed(&run(
        &cluster.secondaries[0],
        &["fault", "set", "--block-replication"],
    ));
    let waiting = cluster.append_behind("x", 2);
    cluster.wait_waiting(1);
    let shown = eventually("the master itself holds it", || {
        let shown = printed(&run(&cluster.master, &["appends"]));
        shown.contains("\tmaster\t").then_some(shown)
    });
    let rows: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(
        rows[0],
        ["OFFSET", "CONCERN", "WAITING_MS", "HELD BY", "WAITING FOR"]
    );
    assert_eq!((rows[1][0], rows[1][1], rows[1][3]), ("0", "2", "master"));
    assert!(rows[1][4].starts_with("secondary-1 ("), "{shown}");
    let secondary = run(&cluster.secondaries[0], &["appends"]);
    assert!(
        error_line(&secondary, 1).contains("is a secondary"),
        "{secondary:?}"
    );
    let secondary = run(&cluster.secondaries[0], &["wait", "0"]);
    let said = error_line(&secondary, 1);
    assert!(said.contains("is a secondary"), "{said}");
    printed(&run(&cluster.secondaries[0], &["fault", "clear"]));
    assert_eq!(waiting.recv().expect("an answer").status, 201);
}

#[test]
fn the_status_is_exit_code_10_if_a_node_is_not_well_and_4_for_a_read_only_master() {
    let mut cluster = Cluster::start(2, &[]);
    cluster.wait_healthy();
    let shown = printed(&run(&cluster.master, &["status"]));
    let names: Vec<&str> = shown
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    assert_eq!(names, ["NODE", "master", "secondary-1", "secondary-2"]);
    assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
    eventually("the secondary's log counts", || {
        (cluster.secondaries[0].health()["intact"] == true).then_some(())
    });
    printed(&run(&cluster.secondaries[0], &["status"]));
    let safe = run(
        &cluster.master,
        &["status", "--safe-to-stop", "secondary-1"],
    );
    assert!(printed(&safe).starts_with("safe: "));
    // The master no longer hears from it, and no older report is believed.
    cluster.secondaries[1].process().signal(Signal::STOP);
    let args = ["status", "--safe-to-stop", "secondary-1", "--timeout", "0s"];
    let not_known = run(&cluster.master, &args);
    assert_eq!(not_known.status.code(), Some(10), "{not_known:?}");
    let said = text(&not_known.stdout);
    assert!(said.starts_with("not known: "), "{said}");

    cluster.secondaries[1].kill();
    let unwell = eventually("the dead node is noticed", || {
        let status = run(&cluster.master, &["status"]);
        (status.status.code() != Some(0)).then_some(status)
    });
    assert!(
        error_line(&unwell, 10).starts_with("secondary-2 is "),
        "{unwell:?}"
    );
    let safe = [
        "status",
        "--safe-to-stop",
        "secondary-1",
        "--timeout",
        "10ms",
        "--json",
    ];
    let unsafe_now = run(&cluster.master, &safe);
    assert_eq!(unsafe_now.status.code(), Some(10), "{unsafe_now:?}");
    let said: Value = serde_json::from_slice(&unsafe_now.stdout).expect("JSON");
    assert_eq!(
        (&said["safe"], &said["caught_up"]),
        (&json!(false), &json!(["master"]))
    );
    // The node that is already dead may be stopped.
    let dead = run(
        &cluster.master,
        &["status", "--safe-to-stop", "secondary-2"],
    );
    assert!(printed(&dead).starts_with("safe: "));

    cluster.secondaries[0].kill();
    cluster.wait_alive(1);
    let refused = run(&cluster.master, &["append", "x"]);
    assert!(
        error_line(&refused, 4).contains("1 of 3 nodes"),
        "{refused:?}"
    );
}

#[test]
fn safe_to_stop_does_not_wait_for_a_hanging_master_beyond_its_timeout() {
    let cluster = Cluster::start(1, &[]);
    cluster.master.process().signal(Signal::STOP);
    let args = ["status", "--safe-to-stop", "secondary-1", "--timeout", "0s"];
    let said = error_line(&run(&cluster.master, &args), 1);
    assert!(
        said.contains("it does not answer: whether secondary-1 may be stopped is not known"),
        "{said}"
    );
}

#[test]
fn messages_are_read_page_by_page_as_ndjson_and_exported_and_imported_once() {
    let cluster = Cluster::start(1, &[]);
    let lines: String = (0..1_000).map(|number| format!("{number}\n")).collect();
    printed(&run_with_stdin(
        &cluster.master,
        &["append", "--batch", "300", "--concern", "all"],
        &lines,
    ));
    let read = values(&run(&cluster.secondaries[0], &["read"]));
    assert_eq!(read.len(), 1_000);
    for (at, message) in read.iter().enumerate() {
        assert_eq!(
            (&message["offset"], &message["data"]),
            (&json!(at), &json!(at))
        );
    }
    let some = values(&run(
        &cluster.master,
        &["read", "--last", "600", "--limit", "400"],
    ));
    assert_eq!((some.len(), &some[0]["offset"]), (400, &json!(400)));
    assert!(printed(&run(&cluster.master, &["read", "--from", "1000"])).is_empty());

    eventually("the secondary knows that all are committed", || {
        let health = cluster.secondaries[0].health();
        (health["log"]["committed"] == 1_000).then_some(())
    });
    let exported = printed(&run(&cluster.secondaries[0], &["export"]));
    let first: Value =
        serde_json::from_str(exported.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["cluster_id"], cluster.master.health()["cluster_id"]);
    let other = Cluster::start(1, &[]);
    // As if the first run had ended in the middle.
    let half: String = exported
        .lines()
        .take(500)
        .map(|line| format!("{line}\n"))
        .collect();
    let first = values(&run_with_stdin(
        &other.master,
        &["import", "-", "--json"],
        &half,
    ));
    assert_eq!(first, [json!({"appended": 500, "known": 0})]);
    let second = values(&run_with_stdin(
        &other.master,
        &["import", "-", "--json"],
        &exported,
    ));
    assert_eq!(second, [json!({"appended": 500, "known": 500})]);
    assert_eq!(other.master.data(), cluster.master.data());
    // A file that ends elsewhere is not mistaken for one that was imported.
    let longer: String = exported
        .lines()
        .take(700)
        .map(|line| format!("{line}\n"))
        .collect();
    let more = run_with_stdin(&other.master, &["import", "-"], &longer);
    assert!(error_line(&more, 1).contains("--from"), "{more:?}");
    assert_eq!(other.master.data(), cluster.master.data());
}

#[test]
fn an_import_that_ends_early_says_where_to_resume() {
    // Too few for a key of the file's beginning to be known at its end.
    let cluster = Cluster::start(1, &["--key-horizon", "1000"]);
    let master = &cluster.master;
    let line = |offset: u64| {
        format!(r#"{{"offset":{offset},"epoch":1,"timestamp_ms":5,"data":{offset}}}"#) + "\n"
    };
    let file: String = (0..3_000).map(line).collect();
    let broken = (0..2_700).map(line).collect::<String>() + "no line\n";
    let said = error_line(&run_with_stdin(master, &["import", "-"], &broken), 1);
    assert!(said.contains("line 2701 "), "{said}");
    let (_, from) = said.rsplit_once("--from ").expect("a place");
    let from = from.split(' ').next().expect("a number");
    let rest = run_with_stdin(master, &["import", "-", "--from", from], &file);
    printed(&rest);
    let expected: Vec<Value> = (0..3_000).map(Value::from).collect();
    assert_eq!(master.data(), expected);

    // Interrupted while it waits for more.
    let mut importing = replog(master)
        .args(["import", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = importing.stdin.take().expect("a pipe");
    for offset in 10_000..10_700 {
        lines.write_all(line(offset).as_bytes()).expect("it reads");
    }
    lines.flush().expect("it reads");
    eventually("a batch is appended", || {
        (master.health()["log"]["next"] == 3_500).then_some(())
    });
    kill_process(Pid::from_child(&importing), Signal::INT).expect("it runs");
    let said = error_line(&importing.wait_with_output().expect("it ends"), 1);
    assert!(said.starts_with("interrupted; "), "{said}");
    let (_, from) = said.rsplit_once("--from ").expect("a place");
    // With the log's identity, once the first answer named it.
    let offset = from.split(['@', ' ']).next().expect("a number");
    assert!(["0", "10500"].contains(&offset), "{said}");
    drop(lines);
}

#[test]
fn an_import_keeps_the_keys_of_messages_so_that_a_retry_appends_nothing() {
    let (old, new) = (
        Cluster::start(1, &["--key-horizon", "1"]),
        Cluster::start(1, &["--append-timeout", "0ms"]),
    );
    for (message, key) in [("1", "a"), ("2", "b "), ("1", "a")] {
        printed(&run(&old.master, &["append", message, "--key", key]));
    }
    printed(&run_with_stdin(&old.master, &["append"], "3\n4\n"));
    let exported = printed(&run(&old.master, &["export"]));
    for (appended, known) in [(5, 0), (0, 5)] {
        let args = ["import", "-", "--json", "--concern", "all"];
        let told = values(&run_with_stdin(&new.master, &args, &exported));
        assert_eq!(told, [json!({"appended": appended, "known": known})]);
    }
    // The first key was forgotten and appended again: it belongs to two messages, and neither is lost.
    assert_eq!(new.master.data(), old.master.data());
    for (message, key, offset) in [("1", "a", "0\n"), ("2", "b ", "1\n")] {
        let again = run(&new.master, &["append", message, "--key", key]);
        assert_eq!(printed(&again), offset);
    }
    assert_eq!(new.master.data().len(), 5);
}

#[test]
fn a_message_whose_key_the_log_knew_before_an_import_counts_as_already_there() {
    let (old, new) = (Cluster::start(1, &[]), Cluster::start(1, &[]));
    for (message, key) in [("1", "a"), ("2", "b")] {
        printed(&run(&new.master, &["append", message, "--key", key]));
    }
    printed(&run_with_stdin(&old.master, &["append"], "0\n"));
    for (message, key) in [("2", "b"), ("3", "c"), ("1", "a"), ("4", "d")] {
        printed(&run(&old.master, &["append", message, "--key", key]));
    }
    let exported = printed(&run(&old.master, &["export"]));
    for (appended, known) in [(3, 2), (0, 5)] {
        let told = values(&run_with_stdin(
            &new.master,
            &["import", "-", "--json"],
            &exported,
        ));
        assert_eq!(told, [json!({"appended": appended, "known": known})]);
        assert_eq!(new.master.data(), [1, 2, 0, 3, 4]);
    }

    // If a key belongs to another message in the log, the import refuses it, however early that message is.
    printed(&run(&old.master, &["append", "5", "--key", "e"]));
    printed(&run(&new.master, &["append", "6", "--key", "e"]));
    printed(&run_with_stdin(&new.master, &["append"], "7\n"));
    printed(&run_with_stdin(&old.master, &["append"], "8\n"));
    printed(&run(&old.master, &["append", "5", "--key", "e"]));
    let exported = printed(&run(&old.master, &["export"]));
    let said = error_line(&run_with_stdin(&new.master, &["import", "-"], &exported), 1);
    assert!(
        said.contains("offset 5 of the file has an idempotency key that belongs to another message here, at offset 5"),
        "{said}"
    );
    assert_eq!(new.master.data(), [1, 2, 0, 3, 4, 6, 7]);
}

#[test]
fn a_resumed_import_appends_the_second_message_of_a_key_whose_first_one_it_skips() {
    let line = |offset: u64, data: u64, key: &str| {
        let line = json!({
            "offset": offset, "epoch": 1, "timestamp_ms": 5, "data": data, "idempotency_key": key,
        });
        format!("{line}\n")
    };
    let (first, rest) = (line(0, 7, "a"), line(1, 7, "a") + &line(2, 8, "a"));
    let cluster = Cluster::start(1, &[]);
    printed(&run_with_stdin(&cluster.master, &["import", "-"], &first));
    let file = first + &rest;
    for (appended, known) in [(2, 0), (0, 2)] {
        let args = ["import", "-", "--json", "--from", "1"];
        let told = values(&run_with_stdin(&cluster.master, &args, &file));
        assert_eq!(told, [json!({"appended": appended, "known": known})]);
        assert_eq!(cluster.master.data(), [7, 7, 8]);
    }
}

#[test]
fn long_messages_are_read_too_a_few_at_a_time() {
    let cluster = Cluster::start(1, &[]);
    // Together they exceed a page.
    let line = format!("\"{}\"\n", "x".repeat(600_000));
    let appended = run_with_stdin(
        &cluster.master,
        &["append", "--batch", "10"],
        &line.repeat(30),
    );
    assert_eq!(printed(&appended), "0..10\n10..20\n20..30\n");
    let read = values(&run(&cluster.master, &["read"]));
    assert_eq!(read.len(), 30);
    let expected: Value = serde_json::from_str(&line).expect("JSON");
    assert!(read.iter().all(|message| message["data"] == expected));
}

#[test]
fn a_follower_prints_each_message_once_across_a_restart_of_its_node() {
    let mut cluster = Cluster::start(1, &[]);
    printed(&run_with_stdin(&cluster.master, &["append"], "0\n1\n2\n"));
    let mut following = replog(&cluster.secondaries[0])
        .args(["read", "--follow", "--last", "2", "--limit", "4"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(following.stdout.take().expect("a pipe")).lines();
    let mut next = || -> Value {
        let line = lines.next().expect("a line").expect("text");
        serde_json::from_str::<Value>(&line).expect("JSON")["data"].clone()
    };
    assert_eq!((next(), next()), (json!(1), json!(2)));
    printed(&run(&cluster.master, &["append", "3"]));
    assert_eq!(next(), 3);
    cluster.secondaries[0].kill();
    // No majority until it is back; the message is appended once all the same.
    let appending = replog(&cluster.master)
        .args(["append", "4", "--retry", "60s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    cluster.wait_alive(1);
    cluster.secondaries[0].start();
    let appended = appending.wait_with_output().expect("the program ends");
    assert_eq!(printed(&appended), "4\n");
    assert_eq!(next(), 4);
    let followed = following.wait_with_output().expect("the program ends");
    assert_eq!(followed.status.code(), Some(0), "{followed:?}");
    assert!(followed.stdout.is_empty(), "it has printed all");
    let told = text(&followed.stderr);
    assert_eq!(told.lines().count(), 1, "the node was down once: {told}");
    let committed = run(&cluster.master, &["read", "--level", "committed"]);
    assert_eq!(values(&committed).len(), 5);
}

#[test]
fn an_unknown_committed_end_is_not_exported_as_an_empty_log() {
    let mut cluster = Cluster::start(1, &[]);
    printed(&run_with_stdin(
        &cluster.master,
        &["append", "--concern", "all"],
        "1\n2\n",
    ));
    cluster.master.kill();
    cluster.secondaries[0].terminate();
    cluster.secondaries[0].start();
    let secondary = &cluster.secondaries[0];
    for command in [&["export"] as &[&str], &["read", "--level", "committed"]] {
        let unknown = run(secondary, command);
        assert!(unknown.stdout.is_empty(), "{unknown:?}");
        let said = error_line(&unknown, 1);
        assert!(
            said.contains("does not know yet") && said.contains("--level local"),
            "{said}"
        );
    }
    assert_eq!(
        values(&run(secondary, &["export", "--level", "local"])).len(),
        2
    );

    // A follower waits for it, even if it wants the last messages only.
    let following = replog(secondary)
        .args(["read", "--follow", "--level", "committed"])
        .args(["--last", "1", "--limit", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    cluster.master.start();
    let followed = values(&following.wait_with_output().expect("it ends"));
    assert_eq!(followed[0]["data"], 2);
}

#[test]
fn the_end_of_a_log_is_read_during_appends() {
    let cluster = Cluster::start(1, &[]);
    printed(&run(&cluster.master, &["append", "first"]));
    let mut load = replog(&cluster.master)
        .args(["bench", "--seconds", "1", "--clients", "8"])
        .args(["--concern", "1", "--yes"])
        .stdout(Stdio::null())
        .spawn()
        .expect("the program runs");
    while load.try_wait().expect("a child").is_none() {
        let last = values(&run(&cluster.master, &["read", "--last", "1"]));
        assert_eq!(last.len(), 1);
    }
}

#[test]
fn running_nodes_are_compared_up_to_the_lowest_of_their_ends() {
    let cluster = Cluster::start(1, &[]);
    let other = Cluster::start(1, &[]);
    let lines: String = (0..600).map(|number| format!("{number}\n")).collect();
    for cluster in [&cluster, &other] {
        printed(&run_with_stdin(
            &cluster.master,
            &["append", "--batch", "600", "--concern", "all"],
            &lines,
        ));
    }
    let urls = |nodes: &[&Node]| -> Vec<String> {
        nodes
            .iter()
            .map(|node| format!("http://{}", node.address))
            .collect()
    };
    let check = |urls: &[String]| client().arg("check").args(urls).output().expect("it runs");
    let same = check(&urls(&[&cluster.master, &cluster.secondaries[0]]));
    assert_eq!(printed(&same), "2 nodes have the same 600 messages\n");
    // The same data at another time, from another master.
    let differ = check(&urls(&[&cluster.master, &other.master]));
    assert_eq!(differ.status.code(), Some(1), "{differ:?}");
    assert!(
        text(&differ.stdout).starts_with("the nodes differ at offset 0,"),
        "{differ:?}"
    );
}

#[test]
fn an_unreachable_node_is_exit_code_1_with_advice_and_wrong_usage_is_2() {
    let cluster = Cluster::prepare(1, &[]);
    let nobody = run(&cluster.master, &["read"]);
    assert!(
        error_line(&nobody, 1).contains("--url or REPLOG_URL"),
        "{nobody:?}"
    );
    for args in [
        &["frob"] as &[&str],
        &[],
        &["append", "--concern", "0", "x"],
        &["read", "--last", "0"],
        &["append", "--key", "a\nb", "--batch", "2"],
        &["status", "--url", "http://localhost:5000?x=1"],
        &["status", "--url", "http://localhost:5000/#x"],
        &["bench", "--seconds", "1e19"],
        // URLs, not directories.
        &["check", "https://localhost:5000", "https://localhost:5001"],
        &["check", "HTTP://localhost:5000"],
    ] {
        error_line(&run(&cluster.master, args), 2);
    }
    let url = client()
        .args(["status", "--url", "ftp://x"])
        .output()
        .expect("it runs");
    error_line(&url, 2);
}

#[test]
fn an_append_below_a_path_that_no_node_has_is_known_not_to_be_in_the_log() {
    let cluster = Cluster::start(1, &[]);
    let url = format!("http://{}/elsewhere", cluster.master.address);
    let lost = client().args(["append", "x", "--url", &url]).output();
    let said = error_line(&lost.expect("it runs"), 1);
    assert!(!said.contains("may be in the log"), "{said}");
}

#[test]
fn an_append_interrupted_by_a_stop_says_once_where_its_message_may_be() {
    for key in [None, Some("k")] {
        let mut cluster = Cluster::start(2, &[]);
        printed(&run(&cluster.master, &["append", "before"]));
        cluster.secondaries[1].kill();
        let appending = replog(&cluster.master)
            .args(["append", "x", "--concern", "all"])
            .args(key.iter().flat_map(|key| ["--key", key]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        cluster.wait_waiting(1);
        cluster.master.terminate();
        let said = error_line(&appending.wait_with_output().expect("it ends"), 1);
        assert_eq!(said.matches("is stopping").count(), 1, "{said}");
        let advice = match key {
            Some(_) => "; it may be in the log at offset 1: send it again with the same key",
            None => {
                "; it may be in the log at offset 1: check before sending it again, or use --key"
            }
        };
        assert!(said.ends_with(advice), "{said}");
    }
}

#[test]
fn numbers_and_nouns_agree() {
    let cluster = Cluster::start(1, &[]);
    printed(&run(&cluster.master, &["append", "x", "--concern", "all"]));
    let urls =
        [&cluster.master, &cluster.secondaries[0]].map(|node| format!("http://{}", node.address));
    let same = client().arg("check").args(urls).output().expect("it runs");
    assert_eq!(printed(&same), "2 nodes have the same 1 message\n");
}

#[test]
fn shell_completions_and_the_manual_page_cover_every_command() {
    let run = |args: &[&str]| printed(&client().args(args).output().expect("it runs"));
    let (bash, man) = (run(&["completions", "bash"]), run(&["man"]));
    for command in ["append", "status", "import", "fault"] {
        assert!(bash.contains(command) && man.contains(command), "{command}");
    }
    assert!(bash.contains("majority all"), "a shell knows the concerns");
}

#[test]
fn the_load_generator_reports_the_speed_of_its_appends() {
    let cluster = Cluster::start(1, &[]);
    let args = ["bench", "--seconds", "0.2", "--clients", "3", "--json"];
    let measured = values(&run(&cluster.master, &args));
    let appends = measured[0]["appends"].as_u64().expect("a number");
    assert!(appends > 0);
    assert_eq!(cluster.wait_equal(), appends);
    assert!(measured[0]["latency_us"]["p99"].is_u64(), "{measured:?}");

    // There is no terminal to ask at, and these messages would stay in a log that already has some.
    let said = error_line(&run(&cluster.master, &args), 1);
    assert!(
        said.contains("nothing was appended") && said.contains("--yes"),
        "{said}"
    );
    assert_eq!(cluster.wait_equal(), appends);
    let more = values(&run(&cluster.master, &[&args[..], &["--yes"]].concat()));
    let more = more[0]["appends"].as_u64().expect("a number");
    assert_eq!(cluster.wait_equal(), appends + more);
}

#[test]
fn appending_lines_goes_on_over_a_restart_of_the_master_between_two_of_them() {
    let mut cluster = Cluster::start(1, &[]);
    let mut appending = replog(&cluster.master)
        .args(["append"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = appending.stdin.take().expect("a pipe");
    let mut offsets = BufReader::new(appending.stdout.take().expect("a pipe")).lines();
    for round in 0..3 {
        writeln!(lines, "{round}").expect("it reads");
        let offset = offsets.next().expect("an offset").expect("UTF-8");
        assert_eq!(offset, round.to_string());
        cluster.master.kill();
        cluster.master.start();
        cluster.wait_read_write();
    }
    drop(lines);
    assert_eq!(appending.wait().expect("an end").code(), Some(0));
    assert_eq!(cluster.master.data(), [json!(0), json!(1), json!(2)]);
}

#[test]
fn payloads_that_are_not_json_are_read_exported_and_restored() {
    let cluster = Cluster::start(1, &[]);
    let master = &cluster.master;
    let headers = [("content-type", "application/x-ndjson")];
    let lines = "\"aGVsbG8=\"\n\"/wAi\"\n";
    let path = "/messages?encoding=base64&idempotency_key=%20k";
    let answer = crate::http::request(
        master.address,
        "POST",
        path,
        &headers,
        Some(lines.as_bytes()),
    );
    assert_eq!(answer.expect("an answer").status, 201);
    assert_eq!(
        printed(&run_with_stdin(master, &["append"], "\u{feff}1\n")),
        "2\n"
    );
    let read = values(&run(master, &["read"]));
    assert_eq!(read[0]["data_base64"], "aGVsbG8=");
    assert_eq!(read[0]["idempotency_key"], " k");
    assert_eq!(
        (&read[1]["data_base64"], &read[2]["data"]),
        (&json!("/wAi"), &json!(1))
    );
    assert!(read[1].get("data").is_none());
    let single = crate::http::get(master.address, "/messages/0").json();
    assert_eq!(single["data_base64"], "aGVsbG8=");
    let data = crate::http::get(master.address, "/messages?view=data").json();
    assert_eq!(data[1], json!({"data_base64": "/wAi"}));

    let exported = text(&run(master, &["export", "--level", "local"]).stdout);
    let restored = Cluster::start(1, &[]);
    printed(&run_with_stdin(
        &restored.master,
        &["import", "-"],
        &exported,
    ));
    let payloads = |values: Vec<Value>| -> Vec<Value> {
        let payload = |value: &Value| json!([value["data"], value["data_base64"]]);
        values.iter().map(payload).collect()
    };
    assert_eq!(
        payloads(values(&run(&restored.master, &["read"]))),
        payloads(read)
    );
    assert_eq!(
        values(&run(&restored.master, &["read"]))[0]["idempotency_key"],
        " k"
    );
}

#[test]
fn exported_messages_are_imported_whatever_the_limits_are() {
    let limits = [
        "--max-message-bytes",
        "64KiB",
        "--max-request-bytes",
        "64KiB",
        "--max-queued-bytes",
        "1MiB",
    ];
    let cluster = Cluster::start(1, &limits);
    let master = &cluster.master;
    // The maximum length of a request, with a key that no header can carry.
    let body = |text: &str| {
        json!({"data": text, "meta": {"idempotency_key": " k"}})
            .to_string()
            .into_bytes()
    };
    let longest = "x".repeat((64 << 10) - body("").len());
    let body = body(&longest);
    assert_eq!(body.len(), 64 << 10);
    let answer = crate::http::request(
        master.address,
        "POST",
        "/messages",
        &[crate::http::JSON],
        Some(&body),
    );
    assert_eq!(answer.expect("an answer").status, 201);
    let exported = text(&run(master, &["export", "--level", "local"]).stdout);
    // And more than fits into one request, as a batch.
    let line = |offset: u64| {
        let data = format!("{offset:01000}");
        format!(r#"{{"offset":{offset},"epoch":1,"timestamp_ms":5,"data":"{data}"}}"#) + "\n"
    };
    let file: String = (1..1_301).map(line).collect();
    let file = exported + &file;
    let other = Cluster::start(1, &limits);
    let split = "replog: the messages of the file from offset 1 to before offset 501 are too long for one append here: they \
                 were sent as 8 appends, which begin at offsets 1, 63, 126, 188, 251, 313, 376, 438; others as long as \
                 that are split, too\n\
                 replog: the messages of the file from offset 1001 to before offset 1301 are too long for one append here: \
                 they were sent as 8 appends, which begin at offsets 1001, 1038, 1076, 1113, 1151, 1188, 1226, 1263; \
                 others as long as that are split, too\n";
    let import = |node: &Node| run_with_stdin(node, &["import", "-"], &file);
    for expected in [
        "1301 appended, 0 were there already\n",
        "0 appended, 1301 were there already\n",
    ] {
        let expected = (expected.to_owned(), split.to_owned());
        assert_eq!(printed_and_said(&import(&other.master)), expected);
    }
    let data = other.master.data();
    assert_eq!((data.len(), &data[0]), (1_301, &json!(longest)));
    // Imported by halves, it is not appended again when the limit is higher; messages it cannot identify are refused.
    let (small, large) = (Cluster::start(1, &limits), Cluster::start(1, &[]));
    printed_and_said(&import(&small.master));
    printed(&import(&large.master));
    assert_eq!(small.master.data(), large.master.data());
    // A message that no master with these limits takes is named with its line.
    let long = json!({"offset": 1, "epoch": 1, "timestamp_ms": 5, "data": "x".repeat(64 << 10)});
    let file = format!("\n{}{long}\n", line(0));
    let refused = run_with_stdin(&small.master, &["import", "-"], &file);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let expected = "the body is longer than max-request-bytes, which is 65536 bytes (413): start the master with a larger \
                    --max-request-bytes";
    assert!(
        said.contains("line 3 is too long: ") && said.contains(expected),
        "{said}"
    );
}

#[test]
fn a_follower_ends_with_the_pipe_and_can_ask_for_new_messages_only() {
    let cluster = Cluster::start(1, &[]);
    let master = &cluster.master;
    printed(&run(master, &["append", "old"]));
    let follow = |args: &[&str]| {
        replog(master)
            .args(["read", "--follow"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs")
    };
    let mut following = follow(&[]);
    let mut lines = BufReader::new(following.stdout.take().expect("a pipe")).lines();
    assert!(
        lines
            .next()
            .expect("a line")
            .expect("UTF-8")
            .contains("old")
    );
    drop(lines);
    // Nothing more is appended.
    let code = eventually("it ends", || following.try_wait().expect("a child"));
    assert_eq!(code.code(), Some(0));

    let mut following = follow(&["--last", "0", "--limit", "1"]);
    let stdout = following.stdout.take().expect("a pipe");
    let code = eventually("a new one comes", || {
        printed(&run(master, &["append", "new"]));
        following.try_wait().expect("a child")
    });
    assert_eq!(code.code(), Some(0));
    let line = BufReader::new(stdout).lines().next();
    let line: Value = serde_json::from_str(&line.expect("a line").expect("UTF-8")).expect("JSON");
    assert_eq!(line["data"], "new");
    let nothing = run(master, &["read", "--last", "0"]);
    assert!(error_line(&nothing, 2).contains("--follow"));
}

#[test]
fn commands_with_nothing_to_do_say_so() {
    let cluster = Cluster::start(1, &[]);
    let master = &cluster.master;
    printed(&run(master, &["append", "one"]));
    let nothing = run_with_stdin(master, &["append"], "\n");
    assert!(error_line(&nothing, 0).contains("nothing was appended"));
    let beyond = run(master, &["read", "--from", "99"]);
    assert!(error_line(&beyond, 0).contains("the log ends before offset 1"));
    printed(&run(master, &["read", "--from", "1"]));
}

#[test]
fn events_are_shown_as_they_happen() {
    let mut cluster = Cluster::start(1, &[]);
    let mut listening = replog(&cluster.master)
        .args(["events", "--kind", "append", "--kind", "bye"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(listening.stdout.take().expect("a pipe")).lines();
    let (sender, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.by_ref().map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str::<Value>(&line).expect("JSON"));
        }
    });
    // Events before it listens are not shown.
    let first = eventually("an event", || {
        assert_eq!(cluster.append("x", 1).status, 201);
        heard.try_recv().ok()
    });
    assert_eq!(
        (&first["event"], &first["node"]),
        (&json!("append"), &json!("master"))
    );
    cluster.master.terminate();
    let last = heard.iter().last().expect("an event");
    assert_eq!(last["event"], "bye");
    let output = listening.wait_with_output().expect("it ends");
    assert!(
        error_line(&output, 1).contains("the node stops"),
        "{output:?}"
    );
}
