//! How messages look in a body: each form and view, and what stands before, between and behind them.
//!
//! Owns no message and no connection. What is one line stays one, whatever a message has.

use bytes::{BufMut as _, BytesMut};
use replog_core::types::{ClusterId, Offset};
use serde_json::json;

use crate::{
    accept::Form,
    message::{Fields, LineBreaks},
};

/// How much of a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// All its fields.
    Message,
    /// Its data alone.
    Data,
}

/// The look of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) form: Form,
    pub(crate) view: View,
}

impl Frame {
    /// Writes what stands before the first message.
    pub(super) fn open(self, text: &mut BytesMut) {
        match (self.form, self.view) {
            (Form::Json, View::Message) => text.put_slice(br#"{"messages":["#),
            (Form::Json, View::Data) => text.put_u8(b'['),
            (Form::Ndjson | Form::Events, _) => {}
        }
    }

    /// Writes what stands between two messages.
    pub(super) fn separate(self, text: &mut BytesMut) {
        match self.form {
            Form::Json => text.put_u8(b','),
            Form::Ndjson | Form::Events => {}
        }
    }

    /// Writes a message.
    pub(super) fn message(self, fields: &Fields<'_>, text: &mut BytesMut) {
        let line_breaks = match self.form {
            Form::Json => LineBreaks::Kept,
            Form::Ndjson | Form::Events => LineBreaks::Spaces,
        };
        if self.form == Form::Events {
            text.put_slice(format!("id: {}\ndata: ", fields.offset()).as_bytes());
        }
        match self.view {
            View::Message => fields.write(text, line_breaks),
            View::Data => fields.write_data(text, line_breaks),
        }
        match self.form {
            Form::Json => {}
            Form::Ndjson => text.put_u8(b'\n'),
            Form::Events => text.put_slice(b"\n\n"),
        }
    }

    /// Writes what stands behind the last message of a read that came to its end; `next` is where to go on.
    pub(super) fn close(self, next: Offset, text: &mut BytesMut) {
        match (self.form, self.view) {
            (Form::Json, View::Message) => {
                text.put_slice(format!("],\"next\":{next}}}\n").as_bytes());
            }
            (Form::Json, View::Data) => text.put_slice(b"]\n"),
            (Form::Ndjson | Form::Events, _) => {}
        }
    }

    /// Writes a sign that the node is there, where it has nothing else to say.
    pub(super) fn sign(self, text: &mut BytesMut) {
        text.put_slice(self.form.sign().as_bytes());
    }

    /// Writes that the node stops. Lines of bare data say it with their end alone: whoever takes each for a
    /// message would take this for one.
    pub(super) fn bye(self, text: &mut BytesMut) {
        let end = json!({ "event": "bye" });
        match (self.form, self.view) {
            (Form::Ndjson, View::Message) => text.put_slice(format!("{end}\n").as_bytes()),
            (Form::Events, _) => {
                text.put_slice(format!("event: bye\ndata: {end}\n\n").as_bytes());
            }
            (Form::Ndjson, View::Data) | (Form::Json, _) => {}
        }
    }

    /// Whether a body has words for what is no message.
    pub(crate) fn has_notices(self) -> bool {
        match (self.form, self.view) {
            (Form::Ndjson, View::Message) | (Form::Events, _) => true,
            (Form::Ndjson, View::Data) | (Form::Json, _) => false,
        }
    }

    /// Writes that the node has this log and not the one that was asked for, and that it follows from its start. Only
    /// where the body [has words](Frame::has_notices) for that.
    pub(super) fn another_log(self, log: ClusterId, text: &mut BytesMut) {
        let notice = json!({ "event": "another_log", "cluster_id": log });
        let notice = match self.form {
            // What a browser had is of the other log: its last event's id goes with it.
            Form::Events => format!("event: another_log\nid\ndata: {notice}\n\n"),
            Form::Ndjson | Form::Json => format!("{notice}\n"),
        };
        text.put_slice(notice.as_bytes());
    }

    /// Writes that messages that were sent are not in the log any more, from `offset` on; `false`: it has no
    /// words for that, and the body must not end as if it were whole.
    #[must_use]
    pub(super) fn cut(self, offset: Offset, text: &mut BytesMut) -> bool {
        let end = json!({ "event": "cut", "offset": offset });
        match (self.form, self.view) {
            (Form::Ndjson, View::Message) => text.put_slice(format!("{end}\n").as_bytes()),
            (Form::Events, _) => {
                // A browser that connects again goes on behind this: at the first one that was cut.
                let kept = offset.0.checked_sub(1);
                let id = kept.map_or("id".to_owned(), |kept| format!("id: {kept}"));
                text.put_slice(format!("event: cut\n{id}\ndata: {end}\n\n").as_bytes());
            }
            (Form::Ndjson, View::Data) | (Form::Json, _) => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use replog_core::{
        record::{KIND_MESSAGE, Record},
        types::Epoch,
    };

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut text = BytesMut::new();
        write(&mut text);
        String::from_utf8(text.to_vec()).expect("UTF-8")
    }

    #[test]
    fn two_messages_look_like_this() {
        let record = |offset, payload| Record {
            offset: Offset(offset),
            epoch: Epoch(1),
            timestamp_ms: 5,
            kind: KIND_MESSAGE,
            flags: 0,
            key: b"",
            payload,
        };
        let table = [
            (
                (Form::Json, View::Message),
                "{\"messages\":[{\"offset\":7,\"epoch\":1,\"timestamp_ms\":5,\"data\":[\r\n1]},\
                 {\"offset\":8,\"epoch\":1,\"timestamp_ms\":5,\"data\":null}],\"next\":9}\n",
            ),
            ((Form::Json, View::Data), "[[\r\n1],null]\n"),
            (
                (Form::Ndjson, View::Message),
                "{\"offset\":7,\"epoch\":1,\"timestamp_ms\":5,\"data\":[  1]}\n\
                 {\"offset\":8,\"epoch\":1,\"timestamp_ms\":5,\"data\":null}\n",
            ),
            ((Form::Ndjson, View::Data), "[  1]\nnull\n"),
            (
                (Form::Events, View::Message),
                "id: 7\ndata: {\"offset\":7,\"epoch\":1,\"timestamp_ms\":5,\"data\":[  1]}\n\n\
                 id: 8\ndata: {\"offset\":8,\"epoch\":1,\"timestamp_ms\":5,\"data\":null}\n\n",
            ),
            (
                (Form::Events, View::Data),
                "id: 7\ndata: [  1]\n\nid: 8\ndata: null\n\n",
            ),
        ];
        for ((form, view), expected) in table {
            let frame = Frame { form, view };
            let text = written(|text| {
                let (first, second) = (record(7, b"[\r\n1]"), record(8, b"null"));
                frame.open(text);
                frame.message(&Fields::of_record(&first).expect("a message"), text);
                frame.separate(text);
                frame.message(&Fields::of_record(&second).expect("a message"), text);
                frame.close(Offset(9), text);
            });
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn every_end_is_told_where_it_can_be() {
        let frame = |form, view| Frame { form, view };
        let lines = frame(Form::Ndjson, View::Message);
        let data = frame(Form::Ndjson, View::Data);
        let events = frame(Form::Events, View::Data);
        assert_eq!(written(|text| lines.bye(text)), "{\"event\":\"bye\"}\n");
        assert_eq!(written(|text| data.bye(text)), "");
        assert_eq!(
            written(|text| events.bye(text)),
            "event: bye\ndata: {\"event\":\"bye\"}\n\n"
        );
        let cut = |frame: Frame, offset| {
            let mut told = false;
            let text = written(|text| told = frame.cut(Offset(offset), text));
            (told, text)
        };
        let line = "{\"event\":\"cut\",\"offset\":7}\n".to_owned();
        assert_eq!(cut(lines, 7), (true, line));
        assert_eq!(cut(data, 7), (false, String::new()));
        let event = "event: cut\nid: 6\ndata: {\"event\":\"cut\",\"offset\":7}\n\n";
        assert_eq!(cut(events, 7), (true, event.to_owned()));
        let event = "event: cut\nid\ndata: {\"event\":\"cut\",\"offset\":0}\n\n";
        assert_eq!(cut(events, 0), (true, event.to_owned()));
    }

    #[test]
    fn a_sign_changes_no_line_and_no_event() {
        let lines = Frame {
            form: Form::Ndjson,
            view: View::Message,
        };
        let line = written(|text| {
            lines.sign(text);
            lines.sign(text);
            lines.bye(text);
        });
        let parsed: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(parsed["event"], "bye");
        let events = Frame {
            form: Form::Events,
            view: View::Message,
        };
        assert_eq!(written(|text| events.sign(text)), ":\n\n", "a comment");
    }
}
