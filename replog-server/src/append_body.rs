//! The body of `POST /messages`: JSON in, payload and options out.
//!
//! Owns the shape of an append request and the text of its errors. The payload is a slice of the
//! body, byte for byte as it was sent; no tree of it is built, so nesting costs no stack and
//! numbers lose no digit. Knows no HTTP.

use std::{fmt, time::Duration};

use bytes::Bytes;
use replog_core::{Concern, IdempotencyKey, Offset};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Maximum nesting of arrays and objects in `data`, itself included: every common parser reads back
/// this depth without special settings.
pub(crate) const DATA_DEPTH_MAX: usize = 128;
/// The longest wait that is distinguished from one without end: thirty years.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
/// The members of `meta`.
const META_MEMBERS: &str = "concern, timeout_ms, idempotency_key and expected_offset";
/// Maximum number of characters of a client's own text that are repeated to it.
const QUOTED_CHARS_MAX: usize = 60;

/// The contents of an append request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppendBody {
    /// `data`, as sent.
    pub(crate) payload: Bytes,
    /// `meta.concern`. An integer beyond any cluster's number of nodes is kept as one: the library
    /// refuses it with the number of nodes.
    pub(crate) concern: Concern,
    /// `meta.timeout_ms`, if given.
    pub(crate) timeout: Option<Duration>,
    /// `meta.idempotency_key`, if given.
    pub(crate) idempotency_key: Option<IdempotencyKey>,
    /// `meta.expected_offset`, if given.
    pub(crate) expected_offset: Option<Offset>,
}

/// Parses the body of an append.
///
/// # Errors
///
/// The mistake and its place, as a sentence.
pub(crate) fn parse(body: &Bytes) -> Result<AppendBody, String> {
    let text = std::str::from_utf8(body)
        .map_err(|error| format!("the body is not UTF-8 from byte {} on", error.valid_up_to()))?;
    if text.starts_with('\u{feff}') {
        return Err("the body begins with a byte order mark, which JSON does not allow".to_owned());
    }
    if text.trim_ascii().is_empty() {
        return Err("the body is empty; expected {\"data\": …}".to_owned());
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let (data, meta) = json
        .deserialize_any(TopVisitor)
        .and_then(|top| json.end().map(|()| top))
        .map_err(|error| format!("the body is not an append: {error}"))?;
    if is_too_deep(data.get()) {
        return Err(format!("data is nested more than {DATA_DEPTH_MAX} deep"));
    }
    Ok(AppendBody {
        payload: body.slice_ref(data.get().as_bytes()),
        concern: meta.concern.unwrap_or_default(),
        timeout: meta.timeout,
        idempotency_key: meta.idempotency_key,
        expected_offset: meta.expected_offset,
    })
}

/// `meta`, validated.
#[derive(Debug, Default)]
struct Meta {
    concern: Option<Concern>,
    timeout: Option<Duration>,
    idempotency_key: Option<IdempotencyKey>,
    expected_offset: Option<Offset>,
}

struct TopVisitor;

impl<'de> Visitor<'de> for TopVisitor {
    type Value = (&'de RawValue, Meta);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with data and, optionally, meta")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut data, mut meta) = (None, None);
        while let Some(member) = map.next_key::<String>()? {
            match member.as_str() {
                "data" if data.is_none() => data = Some(map.next_value::<&'de RawValue>()?),
                "meta" if meta.is_none() => meta = Some(map.next_value_seed(MetaSeed)?),
                "data" | "meta" => return Err(repeated(&member)),
                _ => return Err(unknown(&member, "data and meta")),
            }
        }
        let data = data.ok_or_else(|| de::Error::custom("the member data is missing"))?;
        Ok((data, meta.unwrap_or_default()))
    }
}

struct MetaSeed;

impl<'de> DeserializeSeed<'de> for MetaSeed {
    type Value = Meta;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Meta, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MetaSeed {
    type Value = Meta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object as meta")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Meta, A::Error> {
        let mut meta = Meta::default();
        while let Some(member) = map.next_key::<String>()? {
            match member.as_str() {
                "concern" if meta.concern.is_none() => {
                    let value = map.next_value::<&'de RawValue>()?;
                    meta.concern = Some(concern(value.get()).map_err(de::Error::custom)?);
                }
                "timeout_ms" if meta.timeout.is_none() => {
                    let value = map.next_value::<&'de RawValue>()?;
                    meta.timeout = Some(timeout(value.get()).map_err(de::Error::custom)?);
                }
                "idempotency_key" if meta.idempotency_key.is_none() => {
                    let value = map.next_value::<&'de RawValue>()?;
                    let key = idempotency_key(value.get()).map_err(de::Error::custom)?;
                    meta.idempotency_key = Some(key);
                }
                "expected_offset" if meta.expected_offset.is_none() => {
                    let value = map.next_value::<&'de RawValue>()?;
                    let offset = expected_offset(value.get()).map_err(de::Error::custom)?;
                    meta.expected_offset = Some(offset);
                }
                "concern" | "timeout_ms" | "idempotency_key" | "expected_offset" => {
                    return Err(repeated(&format!("meta.{member}")));
                }
                _ => return Err(unknown(&format!("meta.{member}"), META_MEMBERS)),
            }
        }
        Ok(meta)
    }
}

fn repeated<E: de::Error>(member: &str) -> E {
    de::Error::custom(format!("the member {} is given twice", quoted(member)))
}

fn unknown<E: de::Error>(member: &str, known: &str) -> E {
    let member = quoted(member);
    de::Error::custom(format!("the member {member} is unknown; there are {known}"))
}

/// Parses `meta.concern` from its JSON text, whose syntax is known to be valid.
fn concern(text: &str) -> Result<Concern, String> {
    if let Some(count) = concern_count(text) {
        return Ok(count);
    }
    match serde_json::from_str::<String>(text).as_deref() {
        Ok("majority") => Ok(Concern::Majority),
        Ok("all") => Ok(Concern::All),
        Ok(_) | Err(_) => Err(format!(
            "meta.concern must be a number of nodes, \"majority\" or \"all\", not {}",
            quoted(text)
        )),
    }
}

/// Returns a concern that is an integer.
pub(crate) fn concern_count(text: &str) -> Option<Concern> {
    let digits = integer_digits(text)?;
    // No number below 1 and none too long for 64 bits is ever a number of nodes: 0 stands for the
    // former, the largest number for the latter.
    let negative = text.starts_with('-');
    let count = if negative {
        0
    } else {
        digits.parse().unwrap_or(u64::MAX)
    };
    Some(Concern::Count(count))
}

/// Parses `meta.timeout_ms` from its JSON text, whose syntax is known to be valid.
fn timeout(text: &str) -> Result<Duration, String> {
    milliseconds(text, "meta.timeout_ms")
}

/// Parses a time to wait; `what` names the place where it was given.
pub(crate) fn milliseconds(text: &str, what: &str) -> Result<Duration, String> {
    match integer_digits(text) {
        Some(digits) if !text.starts_with('-') => {
            let timeout = Duration::from_millis(digits.parse().unwrap_or(u64::MAX));
            Ok(timeout.min(TIMEOUT_MAX))
        }
        _ => Err(format!(
            "{what} must be a whole number of milliseconds, 0 or more, not {}",
            quoted(text)
        )),
    }
}

/// Parses `meta.idempotency_key` from its JSON text, whose syntax is known to be valid.
fn idempotency_key(text: &str) -> Result<IdempotencyKey, String> {
    match serde_json::from_str::<String>(text) {
        Ok(key) => IdempotencyKey::new(&key).map_err(|_| key_rule("meta.idempotency_key", &key)),
        Err(_) => Err(key_rule("meta.idempotency_key", text)),
    }
}

/// Returns the rule for idempotency keys that `found` breaks, as an error text.
pub(crate) fn key_rule(what: &str, found: &str) -> String {
    let found = quoted(found);
    format!("{what} must be 1 to 128 printable ASCII characters, not {found}")
}

/// Parses `meta.expected_offset` from its JSON text, whose syntax is known to be valid.
fn expected_offset(text: &str) -> Result<Offset, String> {
    let digits = integer_digits(text).filter(|_| !text.starts_with('-'));
    let offset = digits.and_then(|digits| digits.parse().ok().map(Offset));
    offset.ok_or_else(|| {
        let found = quoted(text);
        format!("meta.expected_offset must be a 64-bit whole number, not {found}")
    })
}

/// Returns the digits of an integer literal: without a fraction, without an exponent.
fn integer_digits(text: &str) -> Option<&str> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then_some(digits)
}

/// Quotes a client's own text, shortened and without control characters.
pub(crate) fn quoted(text: &str) -> String {
    let shown: String = text
        .chars()
        .take(QUOTED_CHARS_MAX)
        .map(|character| match character {
            // Between the quotation marks these need no escape.
            '"' | '\'' | '\\' => character.to_string(),
            _ => character.escape_debug().to_string(),
        })
        .collect();
    let more = if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        "…"
    } else {
        ""
    };
    format!("`{shown}{more}`")
}

/// Returns `true` if JSON text of valid syntax is nested deeper than `data` may be.
pub(crate) fn is_too_deep(json: &str) -> bool {
    // Counting is many times faster than following strings, and usually enough.
    let opens = |byte: &&u8| matches!(byte, b'[' | b'{');
    json.as_bytes().iter().filter(opens).count() > DATA_DEPTH_MAX && depth(json) > DATA_DEPTH_MAX
}

/// Returns the nesting depth of arrays and objects in JSON text of valid syntax. Looks at each byte
/// once and keeps no stack.
pub(crate) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<AppendBody, String> {
        parse(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn data_is_kept_byte_for_byte_and_not_copied() {
        let table = [
            (r#"{"data":null}"#, "null"),
            (r#"{"data": {"a" :  1 , "a":2} }"#, r#"{"a" :  1 , "a":2}"#),
            ("{\n \"data\"\t:\r\n[ 1,\n2 ]\n}\n", "[ 1,\n2 ]"),
            (r#"{"data":1e400}"#, "1e400"),
            (r#"{"data":-0.0E+5}"#, "-0.0E+5"),
            (r#"{"data":18446744073709551616}"#, "18446744073709551616"),
            (r#"{"data":"\ud800\u0000\/"}"#, r#""\ud800\u0000\/""#),
            (r#"{"d\u0061ta":"é😀"}"#, r#""é😀""#),
            (r#"{"meta":{"concern":1},"data":""}"#, r#""""#),
        ];
        for (body, expected) in table {
            let body = Bytes::from_static(body.as_bytes());
            let parsed = parse(&body).unwrap_or_else(|error| panic!("{body:?}: {error}"));
            assert_eq!(parsed.payload, expected.as_bytes());
            assert!(
                body.as_ptr_range().contains(&parsed.payload.as_ptr()),
                "{body:?}: a copy"
            );
        }
    }

    #[test]
    fn a_concern_is_an_integer_literal_or_one_of_two_words() {
        let good = [
            ("1", Concern::Count(1)),
            ("3", Concern::Count(3)),
            ("\"majority\"", Concern::Majority),
            ("\"\\u0061ll\"", Concern::All),
            ("0", Concern::Count(0)),
            ("-0", Concern::Count(0)),
            ("-1", Concern::Count(0)),
            ("1000000000", Concern::Count(1_000_000_000)),
            ("18446744073709551616", Concern::Count(u64::MAX)),
            ("-99999999999999999999999", Concern::Count(0)),
        ];
        for (text, expected) in good {
            let body = parse_text(&format!(r#"{{"data":1,"meta":{{"concern":{text}}}}}"#));
            assert_eq!(body.map(|body| body.concern), Ok(expected), "{text}");
        }
        let bad = [
            "1.5",
            "1e9",
            "1.0",
            "\"x\"",
            "\"\"",
            "null",
            "true",
            "[]",
            "{}",
            "\"Majority\"",
            "\"1\"",
            "\" majority\"",
        ];
        for text in bad {
            let error = parse_text(&format!(r#"{{"data":1,"meta":{{"concern":{text}}}}}"#));
            let error = error.expect_err(text);
            assert!(
                error.contains("meta.concern must be") && error.contains("line 1"),
                "{error}"
            );
        }
        assert_eq!(
            parse_text(r#"{"data":1}"#).map(|body| body.concern),
            Ok(Concern::Majority)
        );
    }

    #[test]
    fn a_timeout_is_a_whole_number_of_0_or_more() {
        let good = [
            ("0", Duration::ZERO),
            ("2500", Duration::from_millis(2500)),
            ("99999999999999999999999", TIMEOUT_MAX),
        ];
        for (text, expected) in good {
            let body = parse_text(&format!(r#"{{"data":1,"meta":{{"timeout_ms":{text}}}}}"#));
            assert_eq!(body.map(|body| body.timeout), Ok(Some(expected)), "{text}");
        }
        for text in ["-1", "1.5", "1e3", "null", "\"5\"", "true", "{}"] {
            let error = parse_text(&format!(r#"{{"data":1,"meta":{{"timeout_ms":{text}}}}}"#));
            assert!(
                error.expect_err(text).contains("meta.timeout_ms must be"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_key_is_a_text_of_1_to_128_printable_characters() {
        let parse = |text: &str| {
            let body = format!(r#"{{"data":1,"meta":{{"idempotency_key":{text}}}}}"#);
            parse_text(&body).map(|body| body.idempotency_key)
        };
        let longest = "x".repeat(128);
        let good = [
            (r#""k""#, "k"),
            (r#""a \"b\" ~""#, "a \"b\" ~"),
            (r#""\u006b""#, "k"),
            (&format!("\"{longest}\""), &longest),
        ];
        for (text, expected) in good {
            let key = parse(text).expect(text).expect("a key");
            assert_eq!(key.as_str(), expected);
        }
        let too_long = format!("\"{longest}x\"");
        for text in [
            r#""""#,
            r#""é""#,
            r#""\n""#,
            r#""\u007f""#,
            "null",
            "7",
            "{}",
            &too_long,
        ] {
            let error = parse(text).expect_err(text);
            assert!(
                error.contains("meta.idempotency_key must be 1 to 128"),
                "{error}"
            );
        }
        assert_eq!(
            parse_text(r#"{"data":1}"#).map(|body| body.idempotency_key),
            Ok(None)
        );
    }

    #[test]
    fn an_expected_offset_is_a_whole_number_of_0_or_more() {
        let parse = |text: &str| {
            let body = format!(r#"{{"data":1,"meta":{{"expected_offset":{text}}}}}"#);
            parse_text(&body).map(|body| body.expected_offset)
        };
        for (text, expected) in [("0", 0), ("17", 17), ("18446744073709551615", u64::MAX)] {
            assert_eq!(parse(text), Ok(Some(Offset(expected))), "{text}");
        }
        for text in [
            "-1",
            "-0",
            "1.0",
            "1e3",
            "null",
            "\"5\"",
            "18446744073709551616",
            "[]",
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains("meta.expected_offset must be"), "{error}");
        }
    }

    #[test]
    fn malformed_bodies_are_reported_with_the_place_of_the_mistake() {
        let million = format!("{{{}}}", vec![r#""k":1"#; 100_000].join(","));
        let table = [
            ("", "the body is empty"),
            (" \n", "the body is empty"),
            ("{", "line 1 column 1"),
            ("[]", "expected an object with data"),
            ("null", "expected an object with data"),
            ("7", "expected an object with data"),
            ("\"data\"", "expected an object with data"),
            ("{}", "data is missing"),
            (r#"{"meta":{}}"#, "data is missing"),
            (r#"{"data":1} x"#, "trailing characters at line 1 column 12"),
            (r#"{"data":1}{"data":2}"#, "trailing characters"),
            (r#"{"data":1,"data":2}"#, "`data` is given twice"),
            (r#"{"data":1,"meta":{},"meta":{}}"#, "`meta` is given twice"),
            (
                r#"{"data":1,"meta":{"concern":1,"concern":1}}"#,
                "`meta.concern` is given twice",
            ),
            (r#"{"data":1,"extra":2}"#, "`extra` is unknown"),
            (r#"{"data":1,"meta":{"w":2}}"#, "`meta.w` is unknown"),
            (r#"{"data":1,"meta":null}"#, "expected an object as meta"),
            (r#"{"data":1,"meta":[]}"#, "expected an object as meta"),
            (r#"{"data":1,"meta":"x"}"#, "expected an object as meta"),
            (
                r#"{"data":1,"meta":{"idempotency_key":"k","idempotency_key":"k"}}"#,
                "`meta.idempotency_key` is given twice",
            ),
            (
                r#"{"data":1,"meta":{"expected_offset":3,"expected_offset":3}}"#,
                "`meta.expected_offset` is given twice",
            ),
            (r#"{"data":NaN}"#, "expected value"),
            (r#"{"data":Infinity}"#, "expected value"),
            (r#"{"data":01}"#, "invalid number"),
            (r#"{"data":"a}"#, "EOF while parsing a string"),
            ("{\"data\":\"a\nb\"}", "control character"),
            (r#"{"data":"\x"}"#, "invalid escape"),
            (r#"{data:1}"#, "key must be a string"),
            (r#"{"data":1,}"#, "trailing comma"),
            ("\u{feff}{\"data\":1}", "byte order mark"),
            (&million, "`k` is unknown"),
        ];
        for (body, expected) in table {
            let error = parse_text(body).expect_err(body);
            assert!(error.contains(expected), "{body:.60}: {error}");
            assert!(error.len() < 400, "{error}");
        }
        let error = parse(&Bytes::from_static(b"{\"data\":\"\xff\"}")).expect_err("not UTF-8");
        assert!(error.contains("not UTF-8 from byte 9"), "{error}");
        assert!(
            parse(&Bytes::from_static(b"\xff\xfe{\0}\0")).is_err(),
            "UTF-16"
        );
    }

    #[test]
    fn data_is_at_most_128_deep_and_depth_costs_no_stack() {
        let nested = |open: &str, close: &str, depth: usize| {
            format!(
                r#"{{"data":{}1{}}}"#,
                open.repeat(depth),
                close.repeat(depth)
            )
        };
        assert!(parse_text(&nested("[", "]", 128)).is_ok());
        assert!(parse_text(&nested(r#"{"a":"#, "}", 128)).is_ok());
        for text in [
            nested("[", "]", 129),
            nested("[", "]", 200_000),
            nested("[{\"a\":", "}]", 65),
        ] {
            let error = parse_text(&text).expect_err("too deep");
            assert!(error.contains("more than 128 deep"), "{error:.100}");
        }
        assert!(parse_text(&"[".repeat(200_000)).is_err());
        assert!(parse_text(&format!(r#"{{"data":{}"#, "[".repeat(200_000))).is_err());
        assert!(parse_text(&format!(r#"{{"data":1,"meta":{}"#, "[".repeat(200_000))).is_err());
        assert_eq!(depth(r#"["]][[\"[[", "\\", []]"#), 2);
    }
}
