//! The older text format of Prometheus (version 0.0.4), made from OpenMetrics text.
//!
//! Owns the differences: there, a counter's family has the name of its series, an info is a gauge, and units and the
//! mark at the end are unknown.

use std::fmt::Write as _;

/// Rewrites a page made by this program: each family has its help, its type and perhaps its unit before its series.
pub(super) fn of(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // A family's help stands before its type, which gives the family's name.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = Some(described);
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap_or((typed, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            let about = help.take().and_then(|help: &str| help.strip_prefix(name));
            // Writing to a string cannot fail.
            if let Some(about) = about {
                let _ = writeln!(text, "# HELP {name}{suffix}{about}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_family_is_rewritten() {
        let open_metrics = "\
# HELP a_build The version.
# TYPE a_build info
a_build_info{version=\"1\"} 1
# HELP a_appends Appends.
# TYPE a_appends counter
a_appends_total{result=\"x\"} 3
# HELP a_log_bytes Bytes of the log.
# TYPE a_log_bytes gauge
# UNIT a_log_bytes bytes
a_log_bytes 7
# HELP a_sync_seconds How long.
# TYPE a_sync_seconds histogram
# UNIT a_sync_seconds seconds
a_sync_seconds_sum 0.5
a_sync_seconds_count 1
a_sync_seconds_bucket{le=\"+Inf\"} 1
# EOF
";
        let expected = "\
# HELP a_build_info The version.
# TYPE a_build_info gauge
a_build_info{version=\"1\"} 1
# HELP a_appends_total Appends.
# TYPE a_appends_total counter
a_appends_total{result=\"x\"} 3
# HELP a_log_bytes Bytes of the log.
# TYPE a_log_bytes gauge
a_log_bytes 7
# HELP a_sync_seconds How long.
# TYPE a_sync_seconds histogram
a_sync_seconds_sum 0.5
a_sync_seconds_count 1
a_sync_seconds_bucket{le=\"+Inf\"} 1
";
        assert_eq!(of(open_metrics), expected);
    }
}
