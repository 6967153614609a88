//! `/metrics` of real processes: the series that exist from the start, and the changes that an append and a
//! lost secondary make.

use std::collections::BTreeMap;

use crate::{
    http::{self, get},
    nodes::{Cluster, Node, eventually},
};

/// Returns the values by series, as they are on the page.
fn metrics(node: &Node) -> BTreeMap<String, f64> {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let answer = http::request(node.address, "GET", "/metrics", &[("accept", format)], None);
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some(format));
    let text = answer.text();
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            (series.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

#[test]
fn the_older_format_has_the_same_series_and_is_the_default() {
    let cluster = Cluster::start(1, &["--memory"]);
    let answer = get(cluster.master.address, "/metrics");
    let format = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(format));
    let text = answer.text();
    assert!(
        text.contains("\n# TYPE replog_appends_total counter\n"),
        "{text}"
    );
    assert!(
        !text.contains("# UNIT") && !text.contains("# EOF"),
        "{text}"
    );
    let names = text.lines().filter(|line| !line.starts_with('#'));
    let mut names: Vec<&str> = names
        .filter_map(|line| Some(line.rsplit_once(' ')?.0))
        .collect();
    names.sort_unstable();
    assert_eq!(names, series(&cluster.master));
}

fn series(node: &Node) -> Vec<String> {
    metrics(node).into_keys().collect()
}

fn value(node: &Node, series: &str) -> f64 {
    let all = metrics(node);
    let value = all.get(series);
    *value.unwrap_or_else(|| panic!("{} has no {series}", node.name))
}

fn results(node: &Node) -> [f64; 5] {
    let all = metrics(node);
    [
        "acknowledged",
        "replayed",
        "timed_out",
        "refused",
        "unknown",
    ]
    .map(|result| all[&format!("replog_appends_total{{result=\"{result}\"}}")])
}

fn status(node: &Node, secondary: &str, status: &str) -> f64 {
    let labels = format!("secondary=\"{secondary}\",status=\"{status}\"");
    value(node, &format!("replog_secondary_status{{{labels}}}"))
}

fn refused_by(node: &Node, secondary: &str) -> f64 {
    let labels = format!("secondary=\"{secondary}\",reason=\"connection_refused\"");
    value(node, &format!("replog_secondary_retries_total{{{labels}}}"))
}

#[test]
fn an_append_and_a_lost_secondary_change_series_that_existed_from_the_start() {
    let mut cluster = Cluster::prepare(2, &["--allow-faults"]);
    cluster.master.start();
    let of_master = series(&cluster.master);
    let recovering = "replog_mode{mode=\"recovering\"}";
    assert_eq!(value(&cluster.master, recovering), 1.0);
    cluster.secondaries[0].start();
    cluster.secondaries[1].start();
    let of_secondary = series(&cluster.secondaries[1]);
    cluster.wait_healthy();
    cluster.wait_read_write();
    assert_eq!(results(&cluster.master), [0.0; 5]);

    assert_eq!(cluster.append("all", 3).status, 201);
    let master = &cluster.master;
    assert_eq!(results(master), [1.0, 0.0, 0.0, 0.0, 0.0]);
    let of_all = |what| format!("replog_append_seconds_{what}{{concern=\"all\"}}");
    assert_eq!(value(master, &of_all("count")), 1.0);
    assert!(value(master, &of_all("sum")) > 0.0);
    assert_eq!(
        value(
            master,
            "replog_append_seconds_bucket{le=\"+Inf\",concern=\"all\"}"
        ),
        1.0
    );
    assert!(value(master, "replog_log_sync_seconds_count") >= 1.0);
    assert_eq!(value(master, "replog_log_next_offset"), 1.0);
    for secondary in &cluster.secondaries {
        assert_eq!(value(secondary, "replog_log_durable_offset"), 1.0);
        assert_eq!(value(secondary, "replog_intact"), 1.0);
        assert!(value(secondary, "process_resident_memory_bytes") > 0.0);
        eventually("its ack is counted", || {
            let acks = format!(
                "replog_secondary_acks_total{{secondary=\"{}\"}}",
                secondary.name
            );
            (value(master, &acks) >= 1.0).then_some(())
        });
    }
    assert_eq!(cluster.append("none", 9).status, 422);
    let concern = "replog_appends_refused_total{reason=\"concern\"}";
    assert_eq!(value(master, concern), 1.0);

    cluster.secondaries[1].kill();
    let waiting = cluster.append_behind("waits", 3);
    assert_eq!(cluster.append("two of three", 2).status, 201);
    let master = &cluster.master;
    eventually("secondary-2 is Unhealthy", || {
        (status(master, "secondary-2", "Unhealthy") == 1.0).then_some(())
    });
    assert_eq!(status(master, "secondary-2", "Healthy"), 0.0);
    assert_eq!(status(master, "secondary-1", "Healthy"), 1.0);
    assert!(refused_by(master, "secondary-2") > 0.0);
    eventually("an append waits", || {
        (value(master, "replog_waiting_appends") == 1.0).then_some(())
    });
    assert!(value(master, "replog_waiting_appends_oldest_age_seconds") > 0.0);
    let lag = |what| format!("replog_secondary_lag_{what}{{secondary=\"secondary-2\"}}");
    assert_eq!(value(master, &lag("records")), 2.0);
    let lag_bytes = value(master, &lag("bytes"));
    assert!(lag_bytes > 0.0 && lag_bytes < value(master, "replog_log_bytes"));
    assert_eq!(results(master), [2.0, 0.0, 0.0, 1.0, 0.0]);

    let isolate = "replog_faults_active{fault=\"isolate\"}";
    assert_eq!(value(&cluster.secondaries[0], isolate), 0.0);
    cluster.secondaries[0].set_faults(r#"{"isolate":true}"#);
    assert_eq!(value(&cluster.secondaries[0], isolate), 1.0);
    cluster.secondaries[0].set_faults("{}");

    cluster.secondaries[1].start();
    let answer = waiting.recv_timeout(crate::nodes::PATIENCE);
    assert_eq!(answer.expect("an answer").status, 201);
    cluster.wait_healthy();
    let master = &cluster.master;
    assert_eq!(results(master), [3.0, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(value(master, "replog_waiting_appends"), 0.0);
    eventually("nothing is lacking", || {
        (value(master, &lag("bytes")) == 0.0).then_some(())
    });
    assert_eq!(series(master), of_master);
    assert_eq!(series(&cluster.secondaries[1]), of_secondary);
}
