//! The text of messages in a body: each form and view, and the text before, between and after them.
//!
//! Owns no message and no connection. A line stays one line, whatever a message contains.

use bytes::{BufMut as _, BytesMut};
use replog_core::types::{ClusterId, Offset};
use serde_json::json;

use crate::{
    accept::Form,
    message::{Fields, LineBreaks},
};

/// The part of a message that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// All its fields.
    Message,
    /// Only its data.
    Data,
}

/// Form and view of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) form: Form,
    pub(crate) view: View,
}

impl Layout {
    /// Writes the text before the first message.
    pub(super) fn open(self, text: &mut BytesMut) {
        match (self.form, self.view) {
            (Form::Json, View::Message) => text.put_slice(br#"{"messages":["#),
            (Form::Json, View::Data) => text.put_u8(b'['),
            (Form::Ndjson | Form::Events, _) => {}
        }
    }

    /// Writes the text between two messages.
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

    /// Writes the text after the last message of a read that came to its end; `next` is the offset to continue from.
    pub(super) fn close(self, next: Offset, text: &mut BytesMut) {
        match (self.form, self.view) {
            (Form::Json, View::Message) => {
                text.put_slice(format!("],\"next\":{next}}}\n").as_bytes());
            }
            (Form::Json, View::Data) => text.put_slice(b"]\n"),
            (Form::Ndjson | Form::Events, _) => {}
        }
    }

    /// Writes a sign of life while the node has nothing else to send.
    pub(super) fn sign(self, text: &mut BytesMut) {
        text.put_slice(self.form.sign().as_bytes());
    }

    /// Writes that the node stops. Lines of bare data announce it only by ending: a reader that takes each line for a
    /// message would take the announcement for one.
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

    /// Returns `true` if a body can express notices besides messages.
    pub(crate) fn has_notices(self) -> bool {
        match (self.form, self.view) {
            (Form::Ndjson, View::Message) | (Form::Events, _) => true,
            (Form::Ndjson, View::Data) | (Form::Json, _) => false,
        }
    }

    /// Writes that the node has this log and not the requested one, and that this log follows from its start. Only for
    /// a body that [can express](Layout::has_notices) it.
    pub(super) fn another_log(self, log: ClusterId, text: &mut BytesMut) {
        let notice = json!({ "event": "another_log", "cluster_id": log });
        let notice = match self.form {
            // The last event's id, which a browser keeps, belongs to the other log: it is cleared.
            Form::Events => format!("event: another_log\nid\ndata: {notice}\n\n"),
            Form::Ndjson | Form::Json => format!("{notice}\n"),
        };
        text.put_slice(notice.as_bytes());
    }

    /// Writes that messages that were sent are no longer in the log, from `offset` on. Returns `false` if the form
    /// cannot express it, and the body must not end as if it were complete.
    #[must_use]
    pub(super) fn cut(self, offset: Offset, text: &mut BytesMut) -> bool {
        let end = json!({ "event": "cut", "offset": offset });
        match (self.form, self.view) {
            (Form::Ndjson, View::Message) => text.put_slice(format!("{end}\n").as_bytes()),
            (Form::Events, _) => {
                // A browser that reconnects continues after this one: at the first message that was cut.
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
    use replog_core::{frame::MessageRef, types::Epoch};

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut text = BytesMut::new();
        write(&mut text);
        String::from_utf8(text.to_vec()).expect("UTF-8")
    }

    #[test]
    fn two_messages_have_the_documented_text() {
        let message = |offset, payload| MessageRef {
            offset: Offset(offset),
            epoch: Epoch(1),
            timestamp_ms: 5,
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
            let layout = Layout { form, view };
            let text = written(|text| {
                let (first, second) = (message(7, b"[\r\n1]"), message(8, b"null"));
                layout.open(text);
                layout.message(&Fields::of_ref(first), text);
                layout.separate(text);
                layout.message(&Fields::of_ref(second), text);
                layout.close(Offset(9), text);
            });
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn every_end_is_announced_where_the_form_allows_it() {
        let layout = |form, view| Layout { form, view };
        let lines = layout(Form::Ndjson, View::Message);
        let data = layout(Form::Ndjson, View::Data);
        let events = layout(Form::Events, View::Data);
        assert_eq!(written(|text| lines.bye(text)), "{\"event\":\"bye\"}\n");
        assert_eq!(written(|text| data.bye(text)), "");
        assert_eq!(
            written(|text| events.bye(text)),
            "event: bye\ndata: {\"event\":\"bye\"}\n\n"
        );
        let cut = |layout: Layout, offset| {
            let mut is_expressed = false;
            let text = written(|text| is_expressed = layout.cut(Offset(offset), text));
            (is_expressed, text)
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
    fn a_sign_of_life_changes_no_line_and_no_event() {
        let lines = Layout {
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
        let events = Layout {
            form: Form::Events,
            view: View::Message,
        };
        assert_eq!(written(|text| events.sign(text)), ":\n\n", "a comment");
    }
}
