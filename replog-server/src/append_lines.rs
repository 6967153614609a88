//! The body of `POST /messages` as NDJSON: one `data` value per line, appended together.
//!
//! Owns the rules for a line and the text of its errors. Each value is copied once, byte for byte as it was sent and
//! without the white space around it, to the place where it will be stored. Knows no HTTP.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use replog_core::MessageBatch;
use serde_json::value::RawValue;

use crate::append_body::{DATA_DEPTH_MAX, is_too_deep};

/// Encoding of a message in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// The line's JSON value is the message.
    #[default]
    Json,
    /// The line is a JSON string with bytes in base64, which need not be JSON: this restores what a program that embeds
    /// a node appended.
    Base64,
}

impl Encoding {
    /// Returns the maximum number of bytes of a line, if its message may have `bytes`.
    fn line_bytes(self, bytes: usize) -> usize {
        match self {
            Encoding::Json => bytes,
            // Including the quotation marks.
            Encoding::Base64 => bytes.div_ceil(3).saturating_mul(4).saturating_add(2),
        }
    }
}

/// Limits of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineLimits {
    /// Bytes of a line, without its end.
    pub(crate) line_bytes: usize,
    /// Bytes that the batch takes in the log.
    pub(crate) append_bytes: usize,
    /// Bytes of memory that all appends together take until they are written.
    pub(crate) queued_bytes: usize,
}

/// Reason why a body is not a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinesError {
    /// The mistake and its line, as a sentence.
    Malformed(String),
    /// This line is longer than a message may be.
    TooLong {
        /// Counted from 1.
        line: usize,
    },
    /// With this line the batch takes more bytes in the log than one append may have.
    TooMuch {
        /// Counted from 1.
        line: usize,
    },
    /// The batch takes more memory than all appends together may take.
    NeverQueued,
}

/// Parses the messages of a body.
///
/// # Errors
///
/// [`LinesError`]: about the first line with a mistake.
pub(crate) fn parse(
    body: &[u8],
    encoding: Encoding,
    limits: LineLimits,
) -> Result<MessageBatch, LinesError> {
    let malformed = |what: String| Err(LinesError::Malformed(what));
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    if body.trim_ascii().is_empty() {
        return malformed("the body is empty; expected one JSON value per line".to_owned());
    }
    let mut batch = MessageBatch::new();
    for (line, bytes) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        // Some systems write these line ends.
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if bytes.len() > encoding.line_bytes(limits.line_bytes) {
            return Err(LinesError::TooLong { line });
        }
        let pushed = value(bytes).and_then(|value| {
            match encoding {
                Encoding::Json => batch.push(value),
                Encoding::Base64 => batch.push(decoded(value)?),
            }
            Ok(())
        });
        if let Err(what) = pushed {
            return malformed(format!("line {line} {what}"));
        }
        if batch.bytes() > limits.queued_bytes {
            return Err(LinesError::NeverQueued);
        }
        if batch.bytes() > limits.append_bytes {
            return Err(LinesError::TooMuch { line });
        }
    }
    Ok(batch)
}

/// Returns the bytes that a JSON string holds in base64.
fn decoded(value: &str) -> Result<Vec<u8>, String> {
    let text: String = serde_json::from_str(value)
        .map_err(|_| "is not a string, as base64 requires".to_owned())?;
    let bytes = STANDARD.decode(text);
    bytes.map_err(|error| format!("is not base64: {error}"))
}

/// Returns the JSON value of a line, without the white space around it.
fn value(line: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(line)
        .map_err(|error| format!("is not UTF-8 from byte {} on", error.valid_up_to()))?;
    if text.starts_with('\u{feff}') {
        return Err("begins with a byte order mark, which JSON does not allow".to_owned());
    }
    if text.trim_ascii().is_empty() {
        return Err("is blank; expected a JSON value".to_owned());
    }
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| {
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        format!("is not a JSON value: {what} at column {}", error.column())
    })?;
    if is_too_deep(raw.get()) {
        return Err(format!("is nested more than {DATA_DEPTH_MAX} deep"));
    }
    Ok(raw.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LineLimits = LineLimits {
        line_bytes: 500,
        append_bytes: 2000,
        queued_bytes: 3000,
    };

    fn parse(body: &[u8]) -> Result<MessageBatch, LinesError> {
        super::parse(body, Encoding::Json, LIMITS)
    }

    fn messages(body: &str) -> Vec<String> {
        let batch = parse(body.as_bytes()).unwrap_or_else(|error| panic!("{body:?}: {error:?}"));
        let payloads = batch
            .payloads()
            .map(|payload| String::from_utf8_lossy(payload).into());
        payloads.collect()
    }

    #[test]
    fn each_line_is_a_value_byte_for_byte_without_the_space_around_it() {
        let table: [(&str, &[&str]); 8] = [
            ("1", &["1"]),
            ("1\n", &["1"]),
            ("1\n2\n3", &["1", "2", "3"]),
            ("1\r\n2\r\n", &["1", "2"]),
            (
                " { \"a\" :  1e400 } \t\nnull",
                &["{ \"a\" :  1e400 }", "null"],
            ),
            ("\"a\\nb\"\n\"\"", &["\"a\\nb\"", "\"\""]),
            ("[1,\r2]\r\r\n3", &["[1,\r2]", "3"]),
            ("\"\u{e9}\"", &["\"\u{e9}\""]),
        ];
        for (body, expected) in table {
            assert_eq!(messages(body), expected, "{body:?}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let table: [(&[u8], &str); 12] = [
            (b"", "the body is empty"),
            (b"\n", "the body is empty"),
            (b" \n \r\n", "the body is empty"),
            (b"\n1", "line 1 is blank"),
            (b"1\n\n2", "line 2 is blank"),
            (b"1\n \t\r\n2", "line 2 is blank"),
            (b"1\n\n", "line 2 is blank"),
            (
                b"1\n{\"a\":}\n2",
                "line 2 is not a JSON value: expected value at column 6",
            ),
            (
                b"1 2",
                "line 1 is not a JSON value: trailing characters at column 3",
            ),
            (
                b"{\"a\":\n1}",
                "line 1 is not a JSON value: EOF while parsing",
            ),
            (b"1\n\"\xff\"", "line 2 is not UTF-8 from byte 1"),
            (b"\xef\xbb\xbf1", "line 1 begins with a byte order mark"),
        ];
        for (body, expected) in table {
            match parse(body) {
                Err(LinesError::Malformed(what)) => {
                    assert!(what.starts_with(expected), "{body:?}: {what}");
                }
                other => panic!("{body:?}: {other:?}"),
            }
        }
        let nested = |depth| format!("1\n{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(messages(&nested(128)).len(), 2);
        let expected = "line 2 is nested more than 128 deep".to_owned();
        let error = parse(nested(129).as_bytes()).unwrap_err();
        assert_eq!(error, LinesError::Malformed(expected));
    }

    #[test]
    fn bytes_in_base64_may_be_anything_up_to_the_limit_of_a_line() {
        let parse = |body: &str| super::parse(body.as_bytes(), Encoding::Base64, LIMITS);
        let batch = parse("\"aGVsbG8=\"\n\"\"\n\"/wA=\"").expect("a batch");
        let payloads: Vec<&[u8]> = batch.payloads().collect();
        assert_eq!(payloads, [&b"hello"[..], b"", b"\xff\x00"]);
        let of_length = |length: usize| format!("\"{}\"", STANDARD.encode(vec![7; length]));
        assert!(parse(&of_length(500)).is_ok());
        assert_eq!(
            parse(&of_length(502)).unwrap_err(),
            LinesError::TooLong { line: 1 }
        );
        for (body, expected) in [
            ("1", "line 1 is not a string"),
            ("\"=\"", "line 1 is not base64"),
        ] {
            match parse(body) {
                Err(LinesError::Malformed(what)) => assert!(what.starts_with(expected), "{what}"),
                other => panic!("{body}: {other:?}"),
            }
        }
    }

    #[test]
    fn limits_apply_to_each_line_and_to_what_the_batch_takes_in_the_log_and_in_memory() {
        let line = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        assert_eq!(messages(&format!("1\n{}\r\n", line(500))).len(), 2);
        let error = parse(format!("1\n{}", line(501)).as_bytes()).unwrap_err();
        assert_eq!(error, LinesError::TooLong { line: 2 });
        // 5 bytes each, and 42 more.
        assert_eq!(messages(&"1\n".repeat(391)).len(), 391);
        assert_eq!(
            parse("1\n".repeat(392).as_bytes()).unwrap_err(),
            LinesError::TooMuch { line: 392 }
        );
        // Exactly the limit, and one byte more.
        let last = |length: usize| format!("{}{}", "1\n".repeat(390), line(length));
        assert_eq!(messages(&last(3)).len(), 391);
        let exactly = LineLimits {
            append_bytes: 42 + 390 * 5 + 4 + 3,
            ..LIMITS
        };
        let parse = |body: &str, limits| super::parse(body.as_bytes(), Encoding::Json, limits);
        assert!(parse(&last(3), exactly).is_ok());
        let error = parse(&last(4), exactly).unwrap_err();
        assert_eq!(error, LinesError::TooMuch { line: 391 });
        let small_queue = LineLimits {
            queued_bytes: 42 + 390 * 5 + 4 + 2,
            ..LIMITS
        };
        let error = parse(&last(3), small_queue).unwrap_err();
        assert_eq!(error, LinesError::NeverQueued);
    }
}
