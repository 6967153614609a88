//! A message as JSON text: the one form that every route and stream sends.
//!
//! Written straight into a buffer. The payload is written as it was stored, so that no digit, space or repeated member
//! of it is lost; only line breaks between its tokens become spaces where a message must be one line. A payload that is
//! not JSON, which only a program that embeds a node can append, is written as base64: the output is JSON whatever the
//! log holds.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, BytesMut};
use replog_core::{frame::MessageRef, types::Offset, views::Message};
use serde_json::value::RawValue;

/// Maximum number of bytes of a message besides key and payload.
pub(crate) const FIELDS_BYTES_MAX: usize = 160;

/// Treatment of line breaks in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineBreaks {
    /// Byte for byte.
    Kept,
    /// CR and LF become spaces: JSON has them nowhere but between tokens.
    Spaces,
}

/// A message's fields, wherever they are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(MessageRef<'a>);

impl<'a> Fields<'a> {
    /// Returns the fields of a message in a log.
    pub(crate) fn of_ref(message: MessageRef<'a>) -> Fields<'a> {
        Fields(message)
    }

    /// Returns the fields of a message.
    pub(crate) fn of_message(message: &'a Message) -> Fields<'a> {
        Fields(MessageRef {
            offset: message.offset,
            epoch: message.epoch,
            timestamp_ms: message.timestamp_ms,
            key: message.key.as_deref().unwrap_or_default().as_bytes(),
            payload: &message.payload,
        })
    }

    /// Writes the message as an object without its closing brace, so that members may follow.
    pub(crate) fn write_open(&self, into: &mut BytesMut, line_breaks: LineBreaks) {
        let Fields(MessageRef {
            offset,
            epoch,
            timestamp_ms,
            key,
            payload,
        }) = *self;
        into.reserve(FIELDS_BYTES_MAX + key.len() + payload.len());
        write!(
            into,
            r#"{{"offset":{offset},"epoch":{epoch},"timestamp_ms":{timestamp_ms}"#
        )
        .expect("a growing buffer takes every text");
        if !key.is_empty() {
            into.put_slice(br#","idempotency_key":"#);
            let text = String::from_utf8_lossy(key);
            serde_json::to_writer(into.writer(), &text)
                .expect("a string is valid JSON, and the buffer grows");
        }
        if is_json(payload) {
            into.put_slice(br#","data":"#);
            self.write_json(into, line_breaks);
        } else {
            into.put_u8(b',');
            self.write_base64(into);
        }
    }

    /// Writes the payload alone.
    pub(crate) fn write_data(&self, into: &mut BytesMut, line_breaks: LineBreaks) {
        if is_json(self.0.payload) {
            self.write_json(into, line_breaks);
        } else {
            into.put_u8(b'{');
            self.write_base64(into);
            into.put_u8(b'}');
        }
    }

    /// Writes the payload as the member `data_base64`.
    fn write_base64(&self, into: &mut BytesMut) {
        into.put_slice(br#""data_base64":""#);
        into.put_slice(STANDARD.encode(self.0.payload).as_bytes());
        into.put_u8(b'"');
    }

    /// Writes a payload that is JSON.
    fn write_json(&self, into: &mut BytesMut, line_breaks: LineBreaks) {
        let start = into.len();
        into.put_slice(self.0.payload);
        if line_breaks == LineBreaks::Spaces {
            for byte in &mut into[start..] {
                if matches!(*byte, b'\r' | b'\n') {
                    *byte = b' ';
                }
            }
        }
    }

    /// Returns the message's offset.
    pub(crate) fn offset(&self) -> Offset {
        self.0.offset
    }

    /// Writes the whole message.
    pub(crate) fn write(&self, into: &mut BytesMut, line_breaks: LineBreaks) {
        self.write_open(into, line_breaks);
        into.put_u8(b'}');
    }
}

/// Returns `true` if a payload can stand in JSON unchanged.
fn is_json(payload: &[u8]) -> bool {
    let text = std::str::from_utf8(payload);
    text.is_ok_and(|text| serde_json::from_str::<&RawValue>(text).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use replog_core::types::Epoch;

    fn written(key: &[u8], payload: &[u8], line_breaks: LineBreaks) -> String {
        let message = MessageRef {
            offset: Offset(17),
            epoch: Epoch(4),
            timestamp_ms: 1_700_000_000_000,
            key,
            payload,
        };
        let mut buffer = BytesMut::new();
        Fields::of_ref(message).write(&mut buffer, line_breaks);
        String::from_utf8(buffer.to_vec()).expect("UTF-8")
    }

    #[test]
    fn a_message_is_its_fields_and_the_unchanged_payload() {
        assert_eq!(
            written(b"", b"{ \"a\":1e400 }", LineBreaks::Kept),
            r#"{"offset":17,"epoch":4,"timestamp_ms":1700000000000,"data":{ "a":1e400 }}"#
        );
        assert_eq!(
            written(b"k\"1", b"null", LineBreaks::Kept),
            r#"{"offset":17,"epoch":4,"timestamp_ms":1700000000000,"idempotency_key":"k\"1","data":null}"#
        );
    }

    #[test]
    fn a_payload_that_is_not_json_is_written_as_base64_and_the_message_stays_json() {
        let payloads: [&[u8]; 8] = [
            b"hello",
            b"",
            b"\xff\x00",
            b"\"\xff\"",
            b"{\"a\":1",
            b"1 2",
            b"\"\x01\"",
            b"\xef\xbb\xbf1",
        ];
        for payload in payloads {
            for line_breaks in [LineBreaks::Kept, LineBreaks::Spaces] {
                let text = written(b"", payload, line_breaks);
                let message: serde_json::Value = serde_json::from_str(&text).expect(&text);
                let bytes = message["data_base64"].as_str().expect("bytes");
                assert_eq!(STANDARD.decode(bytes).expect("base64"), payload);
                assert!(message.get("data").is_none(), "{text}");
            }
        }
        let message = MessageRef {
            offset: Offset(0),
            epoch: Epoch(1),
            timestamp_ms: 0,
            key: b"",
            payload: b"hello",
        };
        let mut data = BytesMut::new();
        Fields::of_ref(message).write_data(&mut data, LineBreaks::Spaces);
        assert_eq!(&data[..], br#"{"data_base64":"aGVsbG8="}"#);
    }

    #[test]
    fn line_breaks_become_spaces_only_where_a_message_must_be_one_line() {
        assert!(written(b"", b"[1,\r\n2]", LineBreaks::Kept).contains("[1,\r\n2]"));
        assert!(written(b"", b"[1,\r\n2]", LineBreaks::Spaces).contains("[1,  2]"));
    }
}
