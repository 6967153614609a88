//! Names, labels and values, of nodes that have done nothing yet; and every series that is named
//! elsewhere exists.

use std::{collections::BTreeMap, fs};

use actix_web::{App, test as http};

use super::*;
use crate::{app, node::NodeState, route_tests::Pair};

/// A page, parsed.
struct Read {
    /// The type of each family.
    families: BTreeMap<String, String>,
    /// By name and labels as written.
    samples: BTreeMap<String, f64>,
}

impl Read {
    fn of(text: &str) -> Read {
        let (mut families, mut samples) = (BTreeMap::new(), BTreeMap::new());
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').expect("a name and a type");
                let before = families.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} is there twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                let before = samples.insert(series.to_owned(), value.parse().expect("a number"));
                assert_eq!(before, None, "{series} is there twice");
            }
        }
        Read { families, samples }
    }

    /// Returns the names that a query may use.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .samples
            .keys()
            .map(|series| series.split('{').next().expect("a name").to_owned())
            .collect();
        names.dedup();
        names
    }

    fn value(&self, series: &str) -> f64 {
        let value = self.samples.get(series);
        *value.unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples.keys()))
    }
}

async fn page(state: &std::sync::Arc<NodeState>) -> Read {
    let app = http::init_service(App::new().configure(|config| app::configure(config, state)));
    let request = http::TestRequest::get()
        .uri("/metrics")
        .insert_header(("accept", "application/openmetrics-text"))
        .to_request();
    let response = http::call_service(&app.await, request).await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers().get("content-type").expect("a type"),
        Format::OpenMetrics.content_type()
    );
    let body = http::read_body(response).await;
    Read::of(std::str::from_utf8(&body).expect("UTF-8"))
}

#[actix_web::test]
async fn every_series_of_a_master_is_there_before_anything_happened() {
    let pair = Pair::start(None).await;
    let master = page(&pair.master).await;
    let table: &[(&str, &str, &[&str])] = &[
        (
            "replog_appends_total",
            "result",
            &[
                "acknowledged",
                "replayed",
                "timed_out",
                "refused",
                "unknown",
            ],
        ),
        (
            "replog_appends_refused_total",
            "reason",
            &[
                "concern",
                "too_large",
                "empty_batch",
                "beyond_horizon",
                "overloaded",
                "key_reused",
                "offset_mismatch",
                "no_quorum",
                "waiting_for_nodes",
                "fenced",
                "asked",
                "storage",
                "stopping",
            ],
        ),
        ("replog_append_seconds_count", "concern", &["1", "majority"]),
        (
            "replog_faults_active",
            "fault",
            &[
                "error_before_append",
                "error_after_append",
                "delay_ms",
                "block_replication",
                "isolate",
            ],
        ),
        (
            "replog_mode_reason",
            "reason",
            &[
                "no_quorum",
                "waiting_for_nodes",
                "storage",
                "fenced",
                "asked",
            ],
        ),
    ];
    for (name, label, values) in table {
        for value in *values {
            assert_eq!(master.value(&format!("{name}{{{label}=\"{value}\"}}")), 0.0);
        }
        let of_name = |series: &&String| series.starts_with(&format!("{name}{{"));
        assert_eq!(master.samples.keys().filter(of_name).count(), values.len());
    }
    for reason in [
        "catching_up",
        "connection_refused",
        "name_not_resolved",
        "wrong_secret",
        "timed_out",
        "http_status",
        "bad_answer",
        "wrong_node",
        "fenced",
        "storage",
    ] {
        master.value(&format!(
            "replog_secondary_retries_total{{secondary=\"secondary-1\",reason=\"{reason}\"}}"
        ));
    }
    let one_of = [
        (
            "replog_mode",
            "mode",
            vec!["recovering", "read-write", "read-only"],
            "read-write",
        ),
        ("replog_disk", "state", vec!["ok", "full", "failed"], "ok"),
    ];
    for (name, label, states, now) in one_of {
        for state in states {
            let value = master.value(&format!("{name}{{{label}=\"{state}\"}}"));
            assert_eq!(value, f64::from(u8::from(state == now)), "{name} {state}");
        }
    }
    assert_eq!(master.value("replog_quorum_nodes"), 2.0);
    assert_eq!(master.value("replog_intact"), 1.0);
    assert_eq!(
        master.value("replog_node_info{node=\"master\",role=\"master\"}"),
        1.0
    );

    let secondary = page(&pair.secondary).await;
    assert_eq!(secondary.value("replog_reorder_records"), 0.0);
    assert!(!secondary.families.contains_key("replog_mode"));
    pair.stop().await;
}

#[actix_web::test]
async fn a_node_that_has_stopped_shows_nothing() {
    let pair = Pair::start(None).await;
    let app = App::new().configure(|config| app::configure(config, &pair.master));
    let app = http::init_service(app).await;
    let get = |uri: &str| http::TestRequest::get().uri(uri).to_request();
    let status = http::call_service(&app, get("/metrics?name=x"))
        .await
        .status();
    assert_eq!(status, 400);
    let post = http::TestRequest::post().uri("/metrics").to_request();
    assert_eq!(http::call_service(&app, post).await.status(), 405);
    pair.master.node.stop().await;
    let status = http::call_service(&app, get("/metrics")).await.status();
    assert_eq!(status, 503);
    pair.secondary.node.stop().await;
}

#[test]
fn a_concern_with_a_word_is_labelled_with_the_word() {
    let labels = |nodes: usize| -> Vec<String> {
        (1..=nodes)
            .map(|count| concern_label(count, nodes))
            .collect()
    };
    assert_eq!(labels(1), ["1"]);
    assert_eq!(labels(2), ["1", "majority"]);
    assert_eq!(labels(3), ["1", "majority", "all"]);
    assert_eq!(labels(5), ["1", "2", "majority", "4", "all"]);
}

#[test]
fn each_alert_has_a_test() {
    let alerts = |path: &str, key: &str| {
        let text = file(path);
        let found = text.lines().filter_map(|line| line.split_once(key));
        let names = found.map(|(_, rest)| rest.trim_end_matches('}').trim().to_owned());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let rules = alerts("../docker/monitoring/rules.yml", "alert:");
    assert!(!rules.is_empty());
    assert_eq!(
        rules,
        alerts("../docker/monitoring/rules_test.yml", "alertname:")
    );
}

/// Returns the words of a text that begin like one of our names.
fn names_in(text: &str) -> Vec<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_of_name(c));
    let mut names: Vec<String> = words
        .filter(|word| word.starts_with("replog_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn file(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[actix_web::test]
async fn rules_dashboard_and_readme_name_only_existing_series_and_the_readme_all_of_them() {
    let pair = Pair::start(None).await;
    let pages = [page(&pair.master).await, page(&pair.secondary).await];
    pair.stop().await;
    let served: Vec<String> = pages.iter().flat_map(Read::names).collect();
    for path in [
        "../docker/monitoring/rules.yml",
        "../docker/monitoring/rules_test.yml",
        "../docker/monitoring/dashboard.json",
    ] {
        let names = names_in(&file(path));
        assert!(names.len() > 5, "{path}: {names:?}");
        for name in names {
            // Without its labels a recorded name would pass too: there is none.
            assert!(served.contains(&name), "{path} names {name}");
        }
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(&file("../docker/monitoring/dashboard.json")).expect("JSON");
    assert!(
        dashboard["panels"]
            .as_array()
            .is_some_and(|panels| !panels.is_empty())
    );

    // In the README's notation: counters with `_total`, histograms without a suffix.
    let mut families: Vec<String> = pages
        .iter()
        .flat_map(|page| &page.families)
        .map(|(name, kind)| match kind.as_str() {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.clone(),
        })
        .collect();
    families.sort_unstable();
    families.dedup();
    let readme = file("README.md");
    let rows = readme.lines().filter(|line| line.starts_with("| `"));
    let listed: Vec<String> = rows
        .filter_map(|line| line.split('`').nth(1))
        .filter(|name| names_in(name).len() == 1)
        .map(|name| name.split('{').next().expect("a name").to_owned())
        .collect();
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, families, "the table of the README");
}
