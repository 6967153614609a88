//! The text of `GET /metrics`: a node's snapshot in the format of Prometheus or of OpenMetrics.
//!
//! Owns the names, help texts and labels of all series. Counts nothing and keeps nothing: each answer is made of one
//! snapshot of the library and one look at the process, so that a node's series are there from its start, every label
//! with 0, and end with it.
//!
//! The text is written by `prometheus-client`, the Prometheus project's own crate for OpenMetrics. The alternatives:
//! `prometheus` writes only the older text format, and both it and `metrics` want to do the counting, in registries of
//! the process. A collector of this one takes values that were counted elsewhere.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::{Registry, Unit},
};
use replog_core::{
    NodeName, Status,
    metrics::{AppendMetrics, Histogram, LinkMetrics, LogMetrics, MasterMetrics, SecondaryMetrics},
    transport::{FaultSettings, net::NetSnapshot},
    types::{DiskState, Epoch, Mode, ModeReason, Offset, majority},
    views::{LogHealth, SecondaryStatus},
};

use self::page::Page;
use crate::{connections::RefusedClients, process_metrics::ProcessMetrics};

mod page;
mod plain;

/// A format of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The text format of Prometheus, version 0.0.4: every reader knows it.
    Plain,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// Returns its name as a `Content-Type`.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Values of one answer.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) node: NodeMetrics,
    pub(crate) faults: FaultSettings,
    /// Counters of the connections with other nodes.
    pub(crate) between_nodes: NetSnapshot,
    /// Connections of clients that were closed without a request.
    pub(crate) refused_clients: RefusedClients,
    /// Values of the process, if the system provides them.
    pub(crate) process: Option<ProcessMetrics>,
    /// Log lines of the process that were dropped.
    pub(crate) log_lines_dropped: u64,
}

/// Metrics of a node, by its role.
#[derive(Debug)]
pub(crate) enum NodeMetrics {
    Master(Box<MasterMetrics>),
    Secondary(Box<SecondaryMetrics>),
}

impl Scrape {
    /// Returns the text in a format.
    pub(crate) fn text(self, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)
            .expect("a string takes everything that is written to it");
        match format {
            Format::Plain => plain::of(&text),
            Format::OpenMetrics => text,
        }
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        page.info(
            "replog_build",
            "The version of the program.",
            &[("version", env!("CARGO_PKG_VERSION"))],
        )?;
        match &self.node {
            NodeMetrics::Master(master) => show_master(&mut page, master)?,
            NodeMetrics::Secondary(secondary) => show_secondary(&mut page, secondary)?,
        }
        show_faults(&mut page, &self.faults)?;
        page.counters(
            "replog_log_lines_dropped",
            "Log lines of the process that were dropped because stderr took none.",
            [([], self.log_lines_dropped)],
        )?;
        page.counters(
            "replog_client_connections_refused",
            "Connections of clients that were closed without a request, by reason.",
            [
                ([("reason", "open_files")], self.refused_clients.open_files),
                ([("reason", "not_http")], self.refused_clients.not_http),
            ],
        )?;
        show_between_nodes(&mut page, &self.between_nodes)?;
        match &self.process {
            Some(process) => show_process(&mut page, process),
            None => Ok(()),
        }
    }
}

fn show_master(page: &mut Page<'_>, metrics: &MasterMetrics) -> fmt::Result {
    let health = &metrics.health;
    show_node(
        page,
        &health.name,
        health.role,
        health.epoch,
        metrics.intact,
    )?;
    page.states(
        "replog_mode",
        "1 for the master's current mode.",
        ("mode", &[Mode::Recovering, Mode::ReadWrite, Mode::ReadOnly]),
        Some(&health.mode),
    )?;
    page.states(
        "replog_mode_reason",
        "1 for the reason why the master takes no appends.",
        (
            "reason",
            &[
                ModeReason::NoQuorum,
                ModeReason::WaitingForNodes,
                ModeReason::Storage,
                ModeReason::Fenced,
                ModeReason::Asked,
            ],
        ),
        health.mode_reason.as_ref(),
    )?;
    let quorum = health.quorum;
    page.gauge("replog_quorum_nodes", "Nodes of the cluster.", quorum.nodes)?;
    page.gauge(
        "replog_quorum_needed",
        "Nodes needed for a quorum.",
        quorum.needed,
    )?;
    page.gauge(
        "replog_quorum_alive",
        "Nodes in contact, the master included.",
        quorum.alive,
    )?;
    show_log(page, &health.log, &metrics.log)?;
    show_appends(page, &metrics.appends)?;
    page.gauge(
        "replog_waiting_appends",
        "Appends that wait for their concern.",
        health.waiting_appends,
    )?;
    page.gauge(
        "replog_waiting_appends_oldest_age_seconds",
        "Time that the oldest waiting append has waited, 0 if none waits.",
        metrics.oldest_waiting.unwrap_or_default().as_secs_f64(),
    )?;
    page.gauge(
        "replog_keys",
        "Idempotency keys that are known.",
        metrics.keys,
    )?;
    show_malformed(page, metrics.malformed)?;
    let links: Vec<_> = health.secondaries.iter().zip(&metrics.links).collect();
    show_secondaries(page, &links)?;
    show_links(page, &links)
}

fn show_secondary(page: &mut Page<'_>, metrics: &SecondaryMetrics) -> fmt::Result {
    let health = &metrics.health;
    show_node(page, &health.name, health.role, health.epoch, health.intact)?;
    show_log(page, &health.log, &metrics.log)?;
    page.gauge(
        "replog_reorder_records",
        "Records that are held back behind a gap.",
        health.buffered,
    )?;
    page.gauge(
        "replog_reorder_bytes",
        "Bytes of the records that are held back behind a gap.",
        metrics.buffered_bytes,
    )?;
    show_malformed(page, metrics.malformed)
}

fn show_malformed(page: &mut Page<'_>, count: u64) -> fmt::Result {
    page.counters(
        "replog_malformed_messages",
        "Malformed messages of other nodes: refused or not believed, and the conversation is ended.",
        [([], count)],
    )
}

fn show_node(
    page: &mut Page<'_>,
    name: &NodeName,
    role: &str,
    epoch: Epoch,
    intact: bool,
) -> fmt::Result {
    page.info(
        "replog_node",
        "The node's name and role.",
        &[("node", name.as_str()), ("role", role)],
    )?;
    page.gauge(
        "replog_epoch",
        "The epoch of the master; on a secondary the highest epoch that it has promised.",
        epoch.0,
    )?;
    page.gauge(
        "replog_intact",
        "1 if the node's log is intact: it agrees with a master's and covers what that master had adopted.",
        u64::from(intact),
    )
}

fn show_log(page: &mut Page<'_>, health: &LogHealth, log: &LogMetrics) -> fmt::Result {
    let known = |end: Option<Offset>| end.unwrap_or(Offset::ZERO).0;
    page.gauge(
        "replog_log_next_offset",
        "The offset that the next record gets; on a secondary its durable end.",
        health.next.0,
    )?;
    page.gauge(
        "replog_log_durable_offset",
        "The offset after the last record that the node holds.",
        log.durable_end.0,
    )?;
    page.gauge(
        "replog_log_committed_offset",
        "The offset after the last record that a majority holds (high watermark), 0 until that is known.",
        known(health.committed),
    )?;
    page.gauge("replog_log_bytes", "Bytes of the log.", health.bytes)?;
    page.gauge(
        "replog_log_segments",
        "Segment files of the log.",
        log.segments,
    )?;
    page.counters(
        "replog_log_repairs",
        "Files of the log that the node could not read at its start and rebuilt, by part.",
        [
            ("header", log.repaired_headers),
            ("mark", log.repaired_marks),
        ]
        .map(|(part, count)| ([("part", part)], count)),
    )?;
    page.counters(
        "replog_quarantined_records",
        "Records that were quarantined in a file before they were cut.",
        [([], log.quarantined_records)],
    )?;
    page.histogram(
        "replog_log_sync_seconds",
        "Time to sync a group of records.",
        [([], &log.syncs)],
    )?;
    page.states(
        "replog_disk",
        "1 for the state of the node's disk.",
        (
            "state",
            &[DiskState::Ok, DiskState::Full, DiskState::Failed],
        ),
        Some(&health.disk),
    )
}

fn show_appends(page: &mut Page<'_>, appends: &AppendMetrics) -> fmt::Result {
    page.counters(
        "replog_appends",
        "Appends that were answered, by result.",
        [
            ("acknowledged", appends.acknowledged),
            ("replayed", appends.replayed),
            ("timed_out", appends.timed_out),
            ("refused", appends.refused_total()),
            ("unknown", appends.unknown),
        ]
        .map(|(result, count)| ([("result", result)], count)),
    )?;
    page.counters(
        "replog_appends_refused",
        "Appends that were refused, by reason.",
        appends
            .refused
            .iter()
            .map(|(reason, count)| ([("reason", reason.as_str())], *count)),
    )?;
    let nodes = appends.latency.len();
    let concerns: Vec<String> = (1..=nodes)
        .map(|count| concern_label(count, nodes))
        .collect();
    page.histogram(
        "replog_append_seconds",
        "Time that acknowledged appends took, by concern.",
        concerns
            .iter()
            .zip(&appends.latency)
            .map(|(concern, latency)| ([("concern", concern.as_str())], latency)),
    )
}

/// Returns the concern of `count` nodes as a label: words mean numbers, so a number that has a word is labelled with
/// it.
fn concern_label(count: usize, nodes: usize) -> String {
    let majority = u32::try_from(nodes).map_or(nodes, |nodes| majority(nodes) as usize);
    match count {
        1 => "1".to_owned(),
        _ if count == majority => "majority".to_owned(),
        _ if count == nodes => "all".to_owned(),
        other => other.to_string(),
    }
}

/// Writes the secondaries as the master sees them.
fn show_secondaries(
    page: &mut Page<'_>,
    links: &[(&SecondaryStatus, &LinkMetrics)],
) -> fmt::Result {
    let statuses = [Status::Healthy, Status::Suspected, Status::Unhealthy];
    let words = statuses.map(|status| (status, status.to_string()));
    page.gauges(
        "replog_secondary_status",
        "1 for the secondary's status as the master sees it.",
        links.iter().flat_map(|(health, _)| {
            words.iter().map(|(status, word)| {
                let labels = [("secondary", health.name.as_str()), ("status", word)];
                (labels, u64::from(health.status == *status))
            })
        }),
    )?;
    let each = |value: fn(&SecondaryStatus, &LinkMetrics) -> u64| {
        links.iter().map(move |(health, link)| {
            let labels = [("secondary", health.name.as_str())];
            (labels, value(health, link))
        })
    };
    page.gauges(
        "replog_secondary_durable_offset",
        "The offset after the last record that the secondary holds, 0 until that is known.",
        each(|health, _| health.durable_end.unwrap_or(Offset::ZERO).0),
    )?;
    page.gauges(
        "replog_secondary_lag_records",
        "Records that the secondary lacks; all of them while nothing is known.",
        each(|health, _| health.lag),
    )?;
    page.gauges(
        "replog_secondary_lag_bytes",
        "Bytes that the secondary lacks; an estimate if the first of them are no longer in memory.",
        each(|_, link| link.lag_bytes),
    )
}

/// Writes what the links sent, and the results.
fn show_links(page: &mut Page<'_>, links: &[(&SecondaryStatus, &LinkMetrics)]) -> fmt::Result {
    let counts = |value: fn(&LinkMetrics) -> u64| {
        links.iter().map(move |(health, link)| {
            let labels = [("secondary", health.name.as_str())];
            (labels, value(link))
        })
    };
    let histograms = |of: fn(&LinkMetrics) -> &Histogram| {
        links.iter().map(move |(health, link)| {
            let labels = [("secondary", health.name.as_str())];
            (labels, of(link))
        })
    };
    page.counters(
        "replog_secondary_acks",
        "Batches that the secondary acknowledged.",
        counts(|link| link.acks),
    )?;
    page.counters(
        "replog_secondary_retries",
        "Failed attempts that are retried, batches and heartbeats, by reason.",
        links.iter().flat_map(|(health, link)| {
            link.retries.iter().map(|(reason, count)| {
                let labels = [
                    ("secondary", health.name.as_str()),
                    ("reason", reason.as_str()),
                ];
                (labels, *count)
            })
        }),
    )?;
    page.counters(
        "replog_secondary_heartbeats",
        "Heartbeats that were sent to the secondary.",
        counts(|link| link.heartbeats),
    )?;
    page.histogram(
        "replog_secondary_heartbeat_seconds",
        "Round trips of heartbeats.",
        histograms(|link| &link.round_trips),
    )?;
    page.histogram(
        "replog_secondary_batch_records",
        "Records of the batches that were sent.",
        histograms(|link| &link.batch_records),
    )?;
    page.histogram(
        "replog_secondary_batch_bytes",
        "Bytes of the batches that were sent.",
        histograms(|link| &link.batch_bytes),
    )
}

fn show_faults(page: &mut Page<'_>, faults: &FaultSettings) -> fmt::Result {
    let active = [
        ("error_before_append", faults.error_before_append > 0.0),
        ("error_after_append", faults.error_after_append > 0.0),
        ("delay_ms", faults.delay_ms.is_some()),
        ("block_replication", faults.block_replication),
        ("isolate", faults.isolate),
    ];
    page.gauges(
        "replog_faults_active",
        "1 for each fault that was switched on in this node.",
        active.map(|(fault, active)| ([("fault", fault)], u64::from(active))),
    )
}

fn show_between_nodes(page: &mut Page<'_>, net: &NetSnapshot) -> fmt::Result {
    page.gauge(
        "replog_cluster_connections",
        "Connections of other nodes to this node's cluster listener that are open.",
        net.streams,
    )?;
    page.gauge(
        "replog_cluster_handshakes",
        "Connections to the cluster listener that have not proved yet which node they belong to.",
        net.handshakes,
    )?;
    page.counters(
        "replog_cluster_connections_accepted",
        "Connections to the cluster listener that proved to belong to a node.",
        [([], net.accepted)],
    )?;
    page.counters(
        "replog_cluster_connections_replaced",
        "Connections of other nodes that ended because the same node opened a newer one.",
        [([], net.replaced)],
    )?;
    page.counters(
        "replog_cluster_connections_refused",
        "Connections with other nodes that were refused or ended, by reason.",
        net.refused
            .iter()
            .map(|(why, count)| ([("reason", why.as_str())], *count)),
    )?;
    page.counters(
        "replog_cluster_dials",
        "Connections that this node opened to other nodes, and attempts that failed.",
        [
            ([("result", "connected")], net.dialled),
            ([("result", "failed")], net.dial_failures),
        ],
    )?;
    page.counters(
        "replog_cluster_received_bytes",
        "Bytes of messages from other nodes, without the overhead of encryption.",
        [([], net.received_bytes)],
    )?;
    page.counters(
        "replog_cluster_sent_bytes",
        "Bytes of messages to other nodes, without the overhead of encryption.",
        [([], net.sent_bytes)],
    )
}

fn show_process(page: &mut Page<'_>, process: &ProcessMetrics) -> fmt::Result {
    page.counters(
        "process_cpu_seconds",
        "User and system time of the process.",
        [([], process.cpu_seconds)],
    )?;
    page.gauge(
        "process_resident_memory_bytes",
        "Memory of the process that is in use.",
        process.resident_bytes,
    )?;
    page.gauge(
        "process_virtual_memory_bytes",
        "Address space of the process.",
        process.virtual_bytes,
    )?;
    page.gauge(
        "process_threads",
        "Threads of the process.",
        process.threads,
    )?;
    page.gauge(
        "process_open_fds",
        "Open files and connections.",
        process.open_files,
    )?;
    page.gauge(
        "process_max_fds",
        "Maximum number of open files and connections.",
        process.open_files_max,
    )?;
    page.gauge(
        "process_start_time_seconds",
        "Start time of the process, since 1970.",
        process.start_time_seconds,
    )
}

#[cfg(test)]
mod tests;
