//! The wire format: messages between nodes as bytes.
//!
//! Owns the encoding of [`Request`] and [`Response`] and every check that bytes from another
//! node must pass before they are used. Knows no connection; decides nothing. No bytes make it panic. Keeps rules 10
//! and 11.
//!
//! One message is one body. All integers are little-endian.
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic, `RPLW` |
//! | 4 | 2 | protocol version, 2 |
//! | 6 | 1 | kind: 1 is a request, 2 a response |
//! | 7 | 1 | reserved: sent as 0, ignored |
//! | 8 | 4 | length of the header in bytes, at most [`WIRE_HEADER_BYTES_MAX`] |
//! | 12 | 4 | CRC-32C over bytes 0..12 and the header |
//! | 16 | | header: compact JSON, everything but the records |
//! | | | records as on disk, each with its own checksum, to the end of the body |
//!
//! The header gives the first offset of the records and their length in bytes, so that a truncated body
//! is detected even if it ends exactly after a record. Unknown members are ignored: a later version may
//! add some without a new version number, but it may not change the meaning of existing ones.
//!
//! Outgoing records are the log's own buffers, incoming records a slice of the one body: this module never
//! copies them. The prefix up to the version number is the same in every version, so that another version can be
//! distinguished from damage.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    frame::{FrameBatch, FrameError},
    limits::{EPOCH_STARTS_MAX, FRAME_BYTES_MAX, NODES_MAX, WIRE_HEADER_BYTES_MAX},
    transport::message::{
        Aligned, Answer, Append, Fetch, Fetched, Hello, Identity, NodeState, Progress, Promise,
        Promised, Refusal, Request, RequestBody, Response,
    },
    types::{ClusterId, Epoch, EpochStart, Incarnation, NodeName, Offset},
    words::counted,
};

/// The version of the protocol that this library speaks.
pub const PROTOCOL_VERSION: u16 = 2;

/// Length of the prefix before the header, in bytes.
pub const PREFIX_BYTES: usize = 16;

/// The longest message, in bytes: the header, and either a batch or a single record that is
/// longer than a batch. More is not read.
pub const BODY_BYTES_MAX: usize = PREFIX_BYTES + WIRE_HEADER_BYTES_MAX + FRAME_BYTES_MAX;

/// An offset that no log reaches. Messages with this or a higher offset are refused, so that sums of offsets
/// cannot overflow in the code that uses them.
const OFFSET_LIMIT: Offset = Offset(1 << 62);

const MAGIC: [u8; 4] = *b"RPLW";
/// The position of the checksum, which covers everything before it.
const CHECKSUM_AT: usize = 12;

const _: () = assert!(crate::limits::BATCH_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!((BODY_BYTES_MAX as u64) < OFFSET_LIMIT.0);

/// The reason why bytes are not a valid message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The other end does not speak this protocol.
    #[error("not a message of this protocol")]
    NotThisProtocol,
    /// The other node speaks another version of the protocol.
    #[error(
        "the other node speaks version {theirs} of the protocol, this one speaks version {ours}"
    )]
    Version {
        /// The version of the message.
        theirs: u16,
        /// The version of this library.
        ours: u16,
    },
    /// The bytes end before the header does.
    #[error(
        "the message needs {} before its records and has {have}",
        counted(needed, "byte")
    )]
    Truncated {
        /// The length of prefix and header in bytes.
        needed: usize,
        /// The number of bytes received.
        have: usize,
    },
    /// The header is longer than any node sends.
    #[error("a header of {bytes} bytes is longer than {WIRE_HEADER_BYTES_MAX}")]
    HeaderTooLong {
        /// The length field.
        bytes: u32,
    },
    /// The checksum of prefix and header does not match.
    #[error("the checksum is {found:08x} and should be {expected:08x}")]
    Checksum {
        /// The checksum that was read.
        found: u32,
        /// The checksum computed from the bytes that were read.
        expected: u32,
    },
    /// A response where a request is expected, the reverse, or neither.
    #[error("the message is of kind {found}, not of the expected kind {expected}")]
    Kind {
        /// The kind that was read.
        found: u8,
        /// The expected kind.
        expected: u8,
    },
    /// The header is not one that a node of this version writes.
    #[error("the header cannot be read: {detail}")]
    Header {
        /// The problem with the header.
        detail: String,
    },
    /// An append without records.
    #[error("records are missing")]
    RecordsMissing,
    /// Bytes after a header that announces none, or records where none are expected.
    #[error("{} too many: no records are expected here", counted(bytes, "byte"))]
    RecordsUnexpected {
        /// The number of bytes after the header.
        bytes: usize,
    },
    /// More or fewer bytes than the header announces: a truncated body, or several joined into one.
    #[error(
        "the header announces {} of records, not {found}",
        counted(announced, "byte")
    )]
    RecordsLength {
        /// The number of bytes that the header announces.
        announced: u64,
        /// The number of bytes after the header.
        found: usize,
    },
    /// A damaged record, or one in the wrong place.
    #[error("byte {position} of the records: {source}")]
    Records {
        /// The byte position of the record, counted from the first record.
        position: usize,
        /// The problem with the record.
        source: FrameError,
    },
    /// More pairs of epoch and first offset than a node sends.
    #[error("{count} epoch starts are more than {EPOCH_STARTS_MAX}")]
    TooManyEpochStarts {
        /// The number of pairs.
        count: usize,
    },
    /// Pairs of epoch and first offset that are not in ascending order.
    #[error("the start of epoch {epoch} is not in ascending order")]
    EpochStartsOrder {
        /// The epoch of the first pair out of order.
        epoch: Epoch,
    },
    /// A list of more nodes than a cluster can have.
    #[error("{count} nodes are more than {NODES_MAX}")]
    TooManyNodes {
        /// The number of nodes.
        count: usize,
    },
    /// An offset that no log reaches.
    #[error("no log reaches offset {offset}")]
    OffsetTooLarge {
        /// The offset.
        offset: Offset,
    },
    /// An epoch that no cluster reaches.
    #[error("epoch {epoch} is above {}, the highest", Epoch::MAX)]
    EpochTooLarge {
        /// The epoch.
        epoch: Epoch,
    },
}

/// Encodes a request as the parts of one body: prefix and header, then the records' own buffers.
#[must_use]
pub fn encode_request(request: &Request) -> Vec<Bytes> {
    let no_records: &[FrameBatch] = &[];
    let (body, records) = match &request.body {
        RequestBody::Identify => (RequestKind::Identify {}, no_records),
        RequestBody::Promise(promise) => (RequestKind::Promise(promise.clone()), no_records),
        RequestBody::Hello(hello) => (RequestKind::Hello(hello.clone()), no_records),
        RequestBody::Heartbeat(progress) => (RequestKind::Heartbeat(*progress), no_records),
        RequestBody::Append(append) => {
            debug_assert!(!append.records.is_empty(), "an append without records");
            (
                RequestKind::Append(append.progress),
                append.records.as_slice(),
            )
        }
        RequestBody::Fetch(fetch) => (RequestKind::Fetch(*fetch), no_records),
    };
    let header = RequestHeader {
        cluster: request.cluster,
        from: request.from.clone(),
        incarnation: request.incarnation,
        to: request.to.clone(),
        epoch: request.epoch,
        body,
        records: Span::of(records),
    };
    encode(Kind::Request, &header, records)
}

/// Decodes a request from one body. Its records, if any, are one batch that shares `body`.
///
/// # Errors
///
/// Any [`WireError`]; no part of the request is trusted then.
pub fn decode_request(body: Bytes) -> Result<Request, WireError> {
    let (header, rest): (RequestHeader, Bytes) = decode(Kind::Request, &body)?;
    let has_records = matches!(header.body, RequestKind::Append(_));
    let records = take_records(header.records, rest, has_records)?;
    check_epochs([header.epoch])?;
    let body = match header.body {
        RequestKind::Identify {} => RequestBody::Identify,
        RequestKind::Promise(promise) => {
            check_nodes(&promise.nodes)?;
            check_epochs(promise.log_epoch)?;
            RequestBody::Promise(promise)
        }
        RequestKind::Hello(hello) => {
            check_nodes(&hello.nodes)?;
            check_epoch_starts(&hello.epoch_starts)?;
            check_offsets([hello.end, hello.adopted_end, hello.epoch_starts_end])?;
            check_epochs(hello.log_epoch.into_iter().chain(hello.forced_epoch))?;
            RequestBody::Hello(hello)
        }
        RequestKind::Heartbeat(progress) => {
            check_progress(&progress)?;
            RequestBody::Heartbeat(progress)
        }
        RequestKind::Append(progress) => {
            check_progress(&progress)?;
            if records.is_empty() {
                return Err(WireError::RecordsMissing);
            }
            RequestBody::Append(Append { progress, records })
        }
        RequestKind::Fetch(fetch) => {
            check_offsets([fetch.from])?;
            RequestBody::Fetch(fetch)
        }
    };
    Ok(Request {
        cluster: header.cluster,
        from: header.from,
        incarnation: header.incarnation,
        to: header.to,
        epoch: header.epoch,
        body,
    })
}

/// Encodes a response as the parts of one body: prefix and header, then the records' own buffers.
#[must_use]
pub fn encode_response(response: &Response) -> Vec<Bytes> {
    let no_records: &[FrameBatch] = &[];
    let (answer, records) = match &response.answer {
        Answer::Identity(identity) => (AnswerKind::Identity(identity.clone()), no_records),
        Answer::Promised(promised) => (AnswerKind::Promised(promised.clone()), no_records),
        Answer::Aligned(aligned) => (AnswerKind::Aligned(aligned.clone()), no_records),
        Answer::OlderStartsNeeded { before } => (
            AnswerKind::OlderStartsNeeded { before: *before },
            no_records,
        ),
        Answer::Taken => (AnswerKind::Taken {}, no_records),
        Answer::Records(fetched) => {
            let epoch_starts = fetched.epoch_starts.clone();
            (
                AnswerKind::Records { epoch_starts },
                fetched.records.as_slice(),
            )
        }
        Answer::Refused(refusal) => (AnswerKind::Refused(refusal.clone()), no_records),
    };
    let header = ResponseHeader {
        cluster: response.cluster,
        name: response.name.clone(),
        incarnation: response.incarnation,
        state: response.state,
        answer,
        records: Span::of(records),
    };
    encode(Kind::Response, &header, records)
}

/// Decodes a response from one body. Its records, if any, are one batch that shares `body`.
///
/// # Errors
///
/// Any [`WireError`]; no part of the response is trusted then.
pub fn decode_response(body: Bytes) -> Result<Response, WireError> {
    let (header, rest): (ResponseHeader, Bytes) = decode(Kind::Response, &body)?;
    check_offsets([header.state.durable_end])?;
    let NodeState {
        log_epoch,
        promised,
        ..
    } = header.state;
    check_epochs(log_epoch.into_iter().chain([promised]))?;
    let has_records = matches!(header.answer, AnswerKind::Records { .. });
    let records = take_records(header.records, rest, has_records)?;
    let answer = match header.answer {
        AnswerKind::Identity(identity) => {
            check_nodes(&identity.nodes)?;
            Answer::Identity(identity)
        }
        AnswerKind::Promised(promised) => {
            check_epoch_starts(&promised.epoch_starts)?;
            check_epochs(promised.forced_epoch)?;
            check_epochs(promised.last_whole.map(|whole| whole.log_epoch))?;
            check_offsets(promised.last_whole.map(|whole| whole.end))?;
            Answer::Promised(promised)
        }
        AnswerKind::Aligned(aligned) => Answer::Aligned(aligned),
        AnswerKind::OlderStartsNeeded { before } => {
            check_offsets([before])?;
            Answer::OlderStartsNeeded { before }
        }
        AnswerKind::Taken {} => Answer::Taken,
        AnswerKind::Records { epoch_starts } => {
            check_epoch_starts(&epoch_starts)?;
            Answer::Records(Fetched {
                epoch_starts,
                records,
            })
        }
        AnswerKind::Refused(refusal) => {
            match &refusal {
                Refusal::OtherNodes { nodes } => check_nodes(nodes)?,
                Refusal::BelowCommitted { committed } => check_offsets([*committed])?,
                Refusal::Fenced(by) | Refusal::Replaced(by) | Refusal::OutOfDate(by) => {
                    check_epochs([by.epoch])?;
                }
                _ => {}
            }
            Answer::Refused(refusal)
        }
    };
    Ok(Response {
        cluster: header.cluster,
        name: header.name,
        incarnation: header.incarnation,
        state: header.state,
        answer,
    })
}

/// The kind byte.
#[derive(Clone, Copy)]
enum Kind {
    Request = 1,
    Response = 2,
}

/// A request without its records. Variants that carry nothing are empty structs, so that a
/// later version may add members.
#[derive(Serialize, Deserialize)]
struct RequestHeader {
    cluster: Option<ClusterId>,
    from: NodeName,
    incarnation: Incarnation,
    to: NodeName,
    epoch: Epoch,
    body: RequestKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    records: Option<Span>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RequestKind {
    Identify {},
    Promise(Promise),
    Hello(Hello),
    Heartbeat(Progress),
    Append(Progress),
    Fetch(Fetch),
}

/// A response without its records.
#[derive(Serialize, Deserialize)]
struct ResponseHeader {
    cluster: Option<ClusterId>,
    name: NodeName,
    incarnation: Incarnation,
    state: NodeState,
    answer: AnswerKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    records: Option<Span>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnswerKind {
    Identity(Identity),
    Promised(Promised),
    Aligned(Aligned),
    OlderStartsNeeded { before: Offset },
    Taken {},
    Records { epoch_starts: Vec<EpochStart> },
    Refused(Refusal),
}

/// The extent of the records that follow the header.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Span {
    first: Offset,
    bytes: u64,
}

impl Span {
    fn of(records: &[FrameBatch]) -> Option<Span> {
        debug_assert!(
            records
                .windows(2)
                .all(|pair| pair[0].end() == pair[1].first()),
            "a gap among {records:?}"
        );
        let first = records.first()?.first();
        let bytes = records.iter().map(|batch| batch.bytes().len() as u64).sum();
        Some(Span { first, bytes })
    }
}

fn encode(kind: Kind, header: &impl Serialize, records: &[FrameBatch]) -> Vec<Bytes> {
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    head.extend_from_slice(&[kind as u8, 0]);
    head.resize(PREFIX_BYTES, 0);
    serde_json::to_writer(&mut head, header)
        .expect("headers have only named members, and a vector takes every byte");
    let (prefix, header) = head.split_at_mut(PREFIX_BYTES);
    let header_bytes =
        u32::try_from(header.len()).expect("a header holds bounded lists of short names");
    prefix[8..CHECKSUM_AT].copy_from_slice(&header_bytes.to_le_bytes());
    let crc = checksum(&prefix[..CHECKSUM_AT], header);
    prefix[CHECKSUM_AT..].copy_from_slice(&crc.to_le_bytes());
    let mut parts = Vec::with_capacity(1 + records.len());
    parts.push(Bytes::from(head));
    parts.extend(records.iter().map(|batch| batch.bytes().clone()));
    parts
}

/// Reads prefix and header; the rest of the body is the records.
fn decode<H: DeserializeOwned>(expected: Kind, body: &Bytes) -> Result<(H, Bytes), WireError> {
    if !body.starts_with(&MAGIC) {
        return Err(WireError::NotThisProtocol);
    }
    // The version is checked before everything else: another version may differ in all that follows.
    if let Some(version) = body.get(4..6) {
        let theirs = u16::from_le_bytes([version[0], version[1]]);
        if theirs != PROTOCOL_VERSION {
            return Err(WireError::Version {
                theirs,
                ours: PROTOCOL_VERSION,
            });
        }
    }
    let Some((prefix, behind)) = body.split_at_checked(PREFIX_BYTES) else {
        return Err(WireError::Truncated {
            needed: PREFIX_BYTES,
            have: body.len(),
        });
    };
    let bytes = u32_at(prefix, 8);
    let header_bytes = bytes as usize;
    if header_bytes > WIRE_HEADER_BYTES_MAX {
        return Err(WireError::HeaderTooLong { bytes });
    }
    let needed = PREFIX_BYTES + header_bytes;
    let Some(header) = behind.get(..header_bytes) else {
        return Err(WireError::Truncated {
            needed,
            have: body.len(),
        });
    };
    let (found, expected_crc) = (
        u32_at(prefix, CHECKSUM_AT),
        checksum(&prefix[..CHECKSUM_AT], header),
    );
    if found != expected_crc {
        return Err(WireError::Checksum {
            found,
            expected: expected_crc,
        });
    }
    if prefix[6] != expected as u8 {
        return Err(WireError::Kind {
            found: prefix[6],
            expected: expected as u8,
        });
    }
    let header = serde_json::from_slice(header).map_err(|error| WireError::Header {
        detail: error.to_string(),
    })?;
    Ok((header, body.slice(needed..)))
}

/// Checks the bytes after the header against what the header announces, and returns the records.
fn take_records(
    span: Option<Span>,
    rest: Bytes,
    belong_here: bool,
) -> Result<Vec<FrameBatch>, WireError> {
    let found = rest.len();
    let Some(span) = span.filter(|_| belong_here) else {
        let unexpected = found > 0 || span.is_some();
        return match unexpected {
            true => Err(WireError::RecordsUnexpected { bytes: found }),
            false => Ok(Vec::new()),
        };
    };
    if span.bytes != found as u64 {
        return Err(WireError::RecordsLength {
            announced: span.bytes,
            found,
        });
    }
    // Before the records are checked, because counting them up from this offset must not overflow.
    check_offsets([span.first])?;
    let records = FrameBatch::check(span.first, rest)
        .map_err(|(position, source)| WireError::Records { position, source })?;
    // Epochs never decrease within a batch, so the last one is the highest.
    check_epochs([records.last_epoch()])?;
    Ok(vec![records])
}

fn check_nodes(nodes: &[NodeName]) -> Result<(), WireError> {
    match nodes.len() {
        0..=NODES_MAX => Ok(()),
        count => Err(WireError::TooManyNodes { count }),
    }
}

/// Checks that epochs ascend and that their first offsets never decrease.
fn check_epoch_starts(starts: &[EpochStart]) -> Result<(), WireError> {
    if starts.len() > EPOCH_STARTS_MAX {
        return Err(WireError::TooManyEpochStarts {
            count: starts.len(),
        });
    }
    check_offsets(starts.iter().map(|start| start.first))?;
    check_epochs(starts.iter().map(|start| start.epoch))?;
    let falls =
        |pair: &&[EpochStart]| pair[1].epoch <= pair[0].epoch || pair[1].first < pair[0].first;
    match starts.windows(2).find(falls) {
        Some(pair) => Err(WireError::EpochStartsOrder {
            epoch: pair[1].epoch,
        }),
        None => Ok(()),
    }
}

fn check_progress(progress: &Progress) -> Result<(), WireError> {
    let known = [
        Some(progress.end),
        progress.committed,
        progress.refill_target,
    ];
    check_offsets(known.into_iter().flatten())
}

fn check_offsets(offsets: impl IntoIterator<Item = Offset>) -> Result<(), WireError> {
    match offsets.into_iter().find(|offset| *offset >= OFFSET_LIMIT) {
        Some(offset) => Err(WireError::OffsetTooLarge { offset }),
        None => Ok(()),
    }
}

fn check_epochs(epochs: impl IntoIterator<Item = Epoch>) -> Result<(), WireError> {
    match epochs.into_iter().find(|epoch| *epoch > Epoch::MAX) {
        Some(epoch) => Err(WireError::EpochTooLarge { epoch }),
        None => Ok(()),
    }
}

fn checksum(prefix: &[u8], header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(prefix), header)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
