//! The form of an answer, negotiated by `Accept`, and the form of a body, by `Content-Type`.
//!
//! Owns media types and their precedence (RFC 9110, sections 8.3 and 12.5.1).

use actix_web::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap};

/// JSON.
pub(crate) const JSON: &str = "application/json";
/// One JSON value per line.
pub(crate) const NDJSON: &str = "application/x-ndjson";
/// Server-sent events.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// The form in which messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One JSON document.
    Json,
    /// One message per line.
    Ndjson,
    /// One message per event.
    Events,
}

impl Form {
    /// All forms. For a reader that likes several equally, the first of them is sent.
    const ALL: [Form; 3] = [Form::Json, Form::Ndjson, Form::Events];

    /// Returns its media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Form::Json => JSON,
            Form::Ndjson => NDJSON,
            Form::Events => EVENT_STREAM,
        }
    }

    /// A sign that the node is there, where a body has nothing else to send. JSON allows a space before a value, so that
    /// the line to come is one like any other.
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Form::Json | Form::Ndjson => " ",
            Form::Events => ":\n\n",
        }
    }
}

/// Returns the form that a reader likes best, or `None` if it accepts none of them. JSON if it has no preference.
pub(crate) fn negotiate(headers: &HeaderMap) -> Option<Form> {
    let Some(ranges) = ranges(headers) else {
        return Some(Form::Json);
    };
    let forms = Form::ALL.map(|form| (form, quality(&ranges, form.media_type())));
    let liked = forms.into_iter().filter(|(_, quality)| *quality > 0);
    // The first of equals: the last one in reverse order.
    let best = liked.rev().max_by_key(|(_, quality)| *quality);
    best.map(|(form, _)| form)
}

/// Returns `true` if a reader accepts an answer of this media type.
pub(crate) fn takes(headers: &HeaderMap, media_type: &str) -> bool {
    ranges(headers).is_none_or(|ranges| quality(&ranges, media_type) > 0)
}

/// Returns `true` if a reader of metrics asks for OpenMetrics by name, with a quality no lower than that of the text
/// format of Prometheus. It is sent only on request: older readers do not know it.
pub(crate) fn prefers_open_metrics(headers: &HeaderMap) -> bool {
    let ranges = ranges(headers).unwrap_or_default();
    let is_named = |range: &Range<'_>| range.precision("application", "openmetrics-text") == 3;
    let named = ranges.iter().filter(|range| is_named(range));
    let liked = named.map(|range| range.quality).max().unwrap_or(0);
    liked > 0 && liked >= quality(&ranges, "text/plain")
}

/// Returns the media ranges of `Accept`; `None` without that header.
fn ranges(headers: &HeaderMap) -> Option<Vec<Range<'_>>> {
    let values: Vec<&str> = headers
        .get_all(ACCEPT)
        .filter_map(|value| value.to_str().ok())
        .collect();
    if values.iter().all(|value| value.trim().is_empty()) {
        return None;
    }
    let each = values.iter().flat_map(|value| value.split(','));
    Some(each.filter_map(Range::parse).collect())
}

/// Returns the media type of a body, in lower case and without parameters; `None` if it is not given.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    (!essence.is_empty()).then(|| essence.to_ascii_lowercase())
}

/// One media range of an `Accept` header. Parameters other than the quality are ignored.
#[derive(Debug)]
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    /// In thousandths.
    quality: u32,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Range<'a>> {
        let mut parts = text.split(';');
        let (kind, subtype) = parts.next()?.trim().split_once('/')?;
        let weight = parts
            .filter_map(|part| part.trim().split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
        let quality = match weight {
            Some((_, value)) => thousandths(value.trim())?,
            None => 1_000,
        };
        Some(Range {
            kind,
            subtype,
            quality,
        })
    }

    /// Returns the precision with which it names a media type: 0 if it does not.
    fn precision(&self, kind: &str, subtype: &str) -> u32 {
        let same_kind = self.kind.eq_ignore_ascii_case(kind);
        match (self.kind, self.subtype) {
            ("*", "*") => 1,
            (_, "*") if same_kind => 2,
            (_, own) if same_kind && own.eq_ignore_ascii_case(subtype) => 3,
            _ => 0,
        }
    }
}

/// Returns the quality of the range that names the media type most precisely; 0 if none does.
fn quality(ranges: &[Range<'_>], media_type: &str) -> u32 {
    let (kind, subtype) = media_type.split_once('/').unwrap_or((media_type, ""));
    ranges
        .iter()
        .map(|range| (range.precision(kind, subtype), range.quality))
        .filter(|(precision, _)| *precision > 0)
        .max()
        .map_or(0, |(_, quality)| quality)
}

/// Parses `1`, `0.5`, `0.125`.
fn thousandths(text: &str) -> Option<u32> {
    let value: f32 = text.parse().ok()?;
    (0.0..=1.0)
        .contains(&value)
        .then_some((value * 1_000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    #[test]
    fn the_form_follows_the_reader_and_is_json_without_a_preference() {
        let table = [
            (None, Some(Form::Json)),
            (Some(""), Some(Form::Json)),
            (Some("*/*"), Some(Form::Json)),
            (Some("application/*"), Some(Form::Json)),
            (Some("application/json"), Some(Form::Json)),
            (Some("Application/JSON; charset=utf-8"), Some(Form::Json)),
            (Some("application/x-ndjson"), Some(Form::Ndjson)),
            (Some("APPLICATION/X-NDJSON"), Some(Form::Ndjson)),
            (Some("application/x-ndjson, */*;q=0.1"), Some(Form::Ndjson)),
            (
                Some("application/x-ndjson;q=0.5, application/json"),
                Some(Form::Json),
            ),
            (Some("*/*, application/json;q=0"), Some(Form::Ndjson)),
            (
                Some("text/html,application/xml;q=0.9,*/*;q=0.8"),
                Some(Form::Json),
            ),
            (Some("text/event-stream"), Some(Form::Events)),
            (Some("text/*, image/png"), Some(Form::Events)),
            (
                Some("text/event-stream, application/x-ndjson"),
                Some(Form::Ndjson),
            ),
            (Some("text/event-stream, */*;q=0.1"), Some(Form::Events)),
            (Some("application/json;q=0"), None),
            (Some("image/png"), None),
            (Some("nonsense"), None),
        ];
        for (accept, expected) in table {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(negotiate(&headers), expected, "{accept:?}");
        }
    }

    #[test]
    fn open_metrics_is_sent_only_on_request() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;\
                          version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let table = [
            (None, false),
            (Some("*/*"), false),
            (Some("application/*"), false),
            (Some("text/plain;version=0.0.4"), false),
            (Some("text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), false),
            (Some("application/openmetrics-text;q=0.2,text/plain"), false),
            (Some("application/openmetrics-text;q=0"), false),
            (Some("application/openmetrics-text"), true),
            (Some("application/openmetrics-text;version=1.0.0,*/*"), true),
            (Some(prometheus), true),
        ];
        for (accept, expected) in table {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(prefers_open_metrics(&headers), expected, "{accept:?}");
        }
    }

    #[test]
    fn a_media_type_is_parsed_without_case_and_parameters() {
        let table = [
            (Some("application/json"), Some("application/json")),
            (
                Some("Application/Json ; charset=UTF-8"),
                Some("application/json"),
            ),
            (Some(" ; x"), None),
            (None, None),
        ];
        for (value, expected) in table {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            }
            assert_eq!(media_type(&headers).as_deref(), expected, "{value:?}");
        }
    }
}
