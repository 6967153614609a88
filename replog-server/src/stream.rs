//! Messages as a streamed body: JSON or NDJSON, in memory that does not grow with the answer.
//!
//! A batch of records is read, written out as text and sent before the next one is read; the
//! connection's own pace decides when that is. A read ends before a damaged record as it ends at
//! the log's end. Any other failure breaks the transfer off, so that no reader takes a part for
//! the whole. Keeps rules 2 and 11.

use std::future::Future;

use actix_web::{
    HttpResponse,
    body::{BodyStream, BoxBody, MessageBody as _},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{Stream, stream};
use replog_core::{Reader, error::ReadError, record::RecordBatch, types::Offset};

use crate::{
    accept::{Form, JSON, NDJSON},
    message::{Fields, LineBreaks},
    problem::{Problem, chain},
};

/// Bytes of records that are read at once: a few times what a socket takes, so that reading
/// costs few wake-ups, and little beside it in memory, however many read at the same time. One
/// record always comes, however long.
const READ_BYTES: usize = 256 << 10;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first offset wanted.
    pub(crate) from: Offset,
    /// The end: what was shown when the request came.
    pub(crate) end: Offset,
    /// Messages wanted at most.
    pub(crate) limit: u64,
}

/// Where records come from: a log, or what a test makes up.
pub(crate) trait Records: 'static {
    /// Reads records of `from..until`, up to `bytes_max` and at least one; none where there are
    /// none.
    fn read(
        &self,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Vec<RecordBatch>, ReadError>>;
}

impl Records for Reader {
    async fn read(
        &self,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Vec<RecordBatch>, ReadError> {
        Reader::read(self, from, until, bytes_max).await
    }
}

/// Answers with the messages of `span`.
///
/// # Errors
///
/// A problem, where not even the first records can be read.
pub(crate) async fn respond(
    records: impl Records,
    span: Span,
    form: Form,
) -> Result<HttpResponse, Problem> {
    let mut messages = Messages::new(records, span, form);
    // Read before the status is sent: what fails here is an error answer, and what fails later
    // can only break the transfer off.
    let first = messages.next_chunk().await?;
    let content_type = match form {
        Form::Json => JSON,
        Form::Ndjson => NDJSON,
    };
    let mut response = HttpResponse::Ok();
    response.content_type(content_type);
    if messages.phase == Phase::Done {
        // All of it fits: an answer with a length, which costs less than a stream.
        return Ok(response.body(first.unwrap_or_default()));
    }
    let body = BodyStream::new(chunks(first, messages));
    Ok(response.body(BoxBody::new(body.boxed())))
}

fn chunks<R: Records>(
    first: Option<Bytes>,
    messages: Messages<R>,
) -> impl Stream<Item = Result<Bytes, ReadError>> {
    stream::try_unfold((first, messages), |(ready, mut messages)| async move {
        let chunk = match ready {
            Some(chunk) => Some(chunk),
            None => messages.next_chunk().await.inspect_err(|error| {
                log::warn!("a read was broken off: {}", chain(error));
            })?,
        };
        Ok(chunk.map(|chunk| (chunk, (None, messages))))
    })
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was written.
    Begin,
    /// Messages are being written.
    Middle,
    /// Everything was written.
    Done,
}

/// An answer being written.
struct Messages<R> {
    records: R,
    form: Form,
    phase: Phase,
    /// The offset to go on from.
    next: Offset,
    end: Offset,
    /// Messages that are still wanted.
    left: u64,
    /// Whether a message was written, which a comma must follow.
    any: bool,
}

impl<R: Records> Messages<R> {
    fn new(records: R, span: Span, form: Form) -> Messages<R> {
        let Span { from, end, limit } = span;
        Messages {
            records,
            form,
            phase: Phase::Begin,
            next: from,
            end,
            left: limit,
            any: false,
        }
    }

    /// The next part of the body; `None` when all of it was written.
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.phase == Phase::Done {
            return Ok(None);
        }
        let mut text = BytesMut::new();
        if self.phase == Phase::Begin && self.form == Form::Json {
            text.put_slice(br#"{"messages":["#);
        }
        self.phase = Phase::Middle;
        // A batch may hold nothing to show; an empty chunk would cost a wake-up for nothing.
        let mut more = true;
        while more && text.len() < READ_BYTES / 4 {
            more = self.write_batch(&mut text).await?;
        }
        if !more {
            self.phase = Phase::Done;
            if self.form == Form::Json {
                text.put_slice(format!("],\"next\":{}}}\n", self.next).as_bytes());
            }
        }
        Ok((!text.is_empty()).then(|| text.freeze()))
    }

    /// Reads one batch and writes it. `false`: there are no more.
    async fn write_batch(&mut self, text: &mut BytesMut) -> Result<bool, ReadError> {
        if self.left == 0 || self.next >= self.end {
            return Ok(false);
        }
        let until = Offset(self.next.0.saturating_add(self.left)).min(self.end);
        let batches = match self.records.read(self.next, until, READ_BYTES).await {
            Ok(batches) => batches,
            Err(ReadError::Damaged { offset, .. }) => {
                log::warn!("a read ends before the damaged record at offset {offset}");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let Some(batch_end) = batches.last().map(RecordBatch::end) else {
            return Ok(false);
        };
        for record in batches.iter().flat_map(RecordBatch::records) {
            if record.offset >= self.end || self.left == 0 {
                break;
            }
            assert!(
                record.offset >= self.next,
                "offset {} was read twice",
                record.offset
            );
            self.next = record.offset.plus(1);
            if let Some(fields) = Fields::of_record(&record) {
                self.write_message(&fields, text);
            }
        }
        Ok(batch_end < self.end)
    }

    fn write_message(&mut self, fields: &Fields<'_>, text: &mut BytesMut) {
        match self.form {
            Form::Json => {
                if self.any {
                    text.put_u8(b',');
                }
                fields.write(text, LineBreaks::Kept);
            }
            Form::Ndjson => {
                fields.write(text, LineBreaks::Spaces);
                text.put_u8(b'\n');
            }
        }
        self.any = true;
        self.left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt as _, TryStreamExt as _};
    use replog_core::{
        record::{KIND_MESSAGE, Record, RecordError},
        types::Epoch,
    };
    use serde_json::{Value, json};

    /// A log of `count` messages; every third payload has a line break. What lies at `fails_at`
    /// cannot be read.
    #[derive(Clone)]
    struct Made {
        count: u64,
        payload_bytes: usize,
        fails_at: Option<(u64, ReadError)>,
    }

    impl Made {
        fn batch(&self, at: u64) -> RecordBatch {
            let payload = format!(
                "[{at},{}\"{}\"]",
                if at.is_multiple_of(3) { "\r\n" } else { "" },
                "x".repeat(self.payload_bytes)
            );
            let record = Record {
                offset: Offset(at),
                epoch: Epoch(1),
                timestamp_ms: 5,
                // Offset 4 is of a kind that this version does not know.
                kind: if at == 4 { 9 } else { KIND_MESSAGE },
                flags: 0,
                key: b"",
                payload: payload.as_bytes(),
            };
            let mut bytes = BytesMut::new();
            record.encode(&mut bytes);
            RecordBatch::check(Offset(at), bytes.freeze()).expect("a good record")
        }
    }

    impl Records for Made {
        async fn read(
            &self,
            from: Offset,
            until: Offset,
            bytes_max: usize,
        ) -> Result<Vec<RecordBatch>, ReadError> {
            let (mut batches, mut bytes) = (Vec::new(), 0);
            for at in from.0..until.0.min(self.count) {
                if let Some((_, error)) = self.fails_at.as_ref().filter(|(fails, _)| *fails == at) {
                    if batches.is_empty() {
                        return Err(error.clone());
                    }
                    break;
                }
                let batch = self.batch(at);
                bytes += batch.bytes().len();
                batches.push(batch);
                if bytes >= bytes_max {
                    break;
                }
            }
            Ok(batches)
        }
    }

    fn made(count: u64) -> Made {
        Made {
            count,
            payload_bytes: 10,
            fails_at: None,
        }
    }

    async fn text(records: Made, span: Span, form: Form) -> Result<(String, usize), ReadError> {
        let stream = chunks(None, Messages::new(records, span, form));
        let parts: Vec<Bytes> = Box::pin(stream).try_collect().await?;
        let text = String::from_utf8(parts.concat()).expect("UTF-8");
        Ok((text, parts.iter().map(Bytes::len).max().unwrap_or(0)))
    }

    fn span(from: u64, end: u64, limit: u64) -> Span {
        Span {
            from: Offset(from),
            end: Offset(end),
            limit,
        }
    }

    fn offsets(messages: &Value) -> Vec<u64> {
        let messages = messages["messages"].as_array().expect("an array");
        messages
            .iter()
            .map(|message| message["offset"].as_u64().expect("a number"))
            .collect()
    }

    #[tokio::test]
    async fn json_has_the_messages_and_where_to_go_on() {
        let table = [
            (0, 3, u64::MAX, vec![0, 1, 2], 3),
            (1, 3, 1, vec![1], 2),
            (0, 0, u64::MAX, vec![], 0),
            (3, 3, u64::MAX, vec![], 3),
            (90, 3, u64::MAX, vec![], 90),
            (u64::MAX, 3, u64::MAX, vec![], u64::MAX),
            (3, 7, u64::MAX, vec![3, 5, 6], 7),
            (3, 7, 2, vec![3, 5], 6),
        ];
        for (from, end, limit, expected, next) in table {
            let (text, _) = text(made(10), span(from, end, limit), Form::Json)
                .await
                .expect("readable");
            let parsed: Value =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(offsets(&parsed), expected, "from {from} limit {limit}");
            assert_eq!(parsed["next"], next, "from {from} limit {limit}");
        }
    }

    #[tokio::test]
    async fn ndjson_is_one_message_a_line_whatever_the_payload() {
        let (text, _) = text(made(10), span(0, 10, u64::MAX), Form::Ndjson)
            .await
            .expect("readable");
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
            .collect();
        assert_eq!(lines.len(), 9, "offset 4 is no message");
        assert_eq!(lines[3]["data"][0], json!(3));
        assert!(text.ends_with('\n'));
    }

    #[tokio::test]
    async fn a_long_answer_comes_in_parts_of_a_bounded_size() {
        let log = Made {
            count: 20_000,
            payload_bytes: 200,
            fails_at: None,
        };
        let (text, largest) = text(log, span(0, 20_000, u64::MAX), Form::Json)
            .await
            .expect("readable");
        assert!(text.len() > 4 << 20, "{}", text.len());
        assert!(largest < 2 * READ_BYTES, "{largest}");
        let parsed: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(offsets(&parsed).len(), 19_999);
    }

    #[tokio::test]
    async fn a_read_ends_before_a_damaged_record() {
        let damaged = ReadError::Damaged {
            path: "log/0.log".to_owned(),
            position: 99,
            offset: Offset(5),
            source: RecordError::Absent,
        };
        let log = Made {
            fails_at: Some((5, damaged)),
            ..made(10)
        };
        let (text, _) = text(log, span(0, 10, u64::MAX), Form::Json)
            .await
            .expect("a whole answer");
        let parsed: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (offsets(&parsed), &parsed["next"]),
            (vec![0, 1, 2, 3], &json!(5))
        );
    }

    #[tokio::test]
    async fn a_failed_read_breaks_the_transfer_off() {
        let log = Made {
            payload_bytes: 100_000,
            fails_at: Some((7, ReadError::Cut { offset: Offset(7) })),
            count: 10,
        };
        let messages = Messages::new(log, span(0, 10, u64::MAX), Form::Json);
        let parts: Vec<Result<Bytes, ReadError>> = Box::pin(chunks(None, messages)).collect().await;
        assert!(parts.len() > 1 && parts[0].is_ok());
        assert!(matches!(parts.last(), Some(Err(ReadError::Cut { .. }))));
    }
}
