//! A message as it is sent: with `data`, or with `data_base64` if its payload is not JSON.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answers::{Message, WaitingFor};
use crate::types::{Epoch, NodeName, Offset};

/// The members, each present if known.
#[derive(Deserialize, Serialize)]
pub(super) struct MessageBody {
    offset: Offset,
    epoch: Epoch,
    timestamp_ms: u64,
    // Not `Option`: a payload of `null` is present.
    #[serde(default = "Absent::new", skip_serializing_if = "Absent::is_absent")]
    data: Absent,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    acks: Option<Vec<NodeName>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waiting_for: Option<Vec<WaitingFor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concern: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concern_met: Option<bool>,
}

/// A JSON value that may be missing, which is not the same as `null`.
struct Absent(Option<Box<RawValue>>);

impl Absent {
    fn new() -> Absent {
        Absent(None)
    }

    fn is_absent(&self) -> bool {
        self.0.is_none()
    }
}

impl<'de> Deserialize<'de> for Absent {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Absent, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|value| Absent(Some(value)))
    }
}

impl Serialize for Absent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl TryFrom<MessageBody> for Message {
    type Error = &'static str;

    fn try_from(sent: MessageBody) -> Result<Message, &'static str> {
        let data = match (sent.data.0, &sent.data_base64) {
            (Some(data), None) => data,
            (None, Some(_)) => RawValue::NULL.to_owned(),
            (None, None) => return Err("missing field `data`"),
            (Some(_), Some(_)) => return Err("both `data` and `data_base64`"),
        };
        Ok(Message {
            offset: sent.offset,
            epoch: sent.epoch,
            timestamp_ms: sent.timestamp_ms,
            data,
            data_base64: sent.data_base64,
            idempotency_key: sent.idempotency_key,
            acks: sent.acks,
            waiting_for: sent.waiting_for,
            concern: sent.concern,
            concern_met: sent.concern_met,
        })
    }
}

impl From<Message> for MessageBody {
    fn from(message: Message) -> MessageBody {
        let data = message.data_base64.is_none().then_some(message.data);
        MessageBody {
            offset: message.offset,
            epoch: message.epoch,
            timestamp_ms: message.timestamp_ms,
            data: Absent(data),
            data_base64: message.data_base64,
            idempotency_key: message.idempotency_key,
            acks: message.acks,
            waiting_for: message.waiting_for,
            concern: message.concern,
            concern_met: message.concern_met,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_as_it_was_read() {
        let head = r#"{"offset":3,"epoch":4,"timestamp_ms":5"#;
        for (rest, bytes, json) in [
            (
                r#","data":{"a" :1.0},"idempotency_key":"k"}"#,
                None,
                r#"{"a" :1.0}"#,
            ),
            (r#","data":null}"#, None, "null"),
            (
                r#","data_base64":"aGVsbG8=","acks":["master"]}"#,
                Some("aGVsbG8="),
                "null",
            ),
        ] {
            let text = format!("{head}{rest}");
            let message: Message = serde_json::from_str(&text).expect(&text);
            assert_eq!(message.data_base64.as_deref(), bytes);
            assert_eq!(message.data.get(), json);
            assert_eq!(serde_json::to_string(&message).expect("JSON"), text);
        }
        for rest in ["}", r#","data":1,"data_base64":""}"#] {
            assert!(serde_json::from_str::<Message>(&format!("{head}{rest}")).is_err());
        }
    }
}
