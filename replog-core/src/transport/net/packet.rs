//! The bytes of a stream between two nodes: a preamble in each direction, then packets.
//!
//! Owns their encoding and every check that they must pass before they are used. Knows no socket
//! and no meaning. No bytes make it panic. All integers are little-endian.
//!
//! The node that connected begins:
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic, `RPLN` |
//! | 4 | 2 | the oldest version of these packets that it speaks |
//! | 6 | 2 | the newest one |
//! | 8 | 1 | length of its name in bytes, 1 to 64 |
//! | 9 | 1 | length of the name of the node that it wants, 1 to 64 |
//! | 10 | | the two names |
//!
//! The other node answers:
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic, `RPLN` |
//! | 4 | 2 | the version that both speak from now on; 0: refused, the stream ends |
//! | 6 | 2 | length of the reason in bytes, 0 unless refused |
//! | 8 | | the reason: one sentence for people, UTF-8 |
//!
//! Both are the same in every version. Then each direction is a sequence of packets. A packet's length
//! determines where the next one begins and means nothing else: the transport below may split and join
//! packets.
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | bytes after these 24 |
//! | 4 | 1 | kind |
//! | 5 | 3 | reserved: sent as 0, ignored |
//! | 8 | 8 | number of the request on this stream, repeated in its answer; else 0 |
//! | 16 | 8 | bytes of packets that the sender has received on this stream so far |
//!
//! | kind | sent by | carries |
//! | --- | --- | --- |
//! | 1 request | the node that connected | a request ([`wire`](crate::transport::wire)) |
//! | 2 response | the node that was asked | a response |
//! | 3 failure | the node that was asked | 1 byte: why the request failed; 1: by an injected fault |
//! | 4 receipt | either | nothing: only reports how much of a long packet has arrived |
//! | 5 refusal | either | one sentence for people; the stream ends |
//!
//! Requests are handled in the order of the stream, and answered in any order.

use bytes::Bytes;

use crate::{transport::wire, types::NodeName, words::counted};

/// The oldest version of these packets that this library speaks. Version 1 was WebSockets.
pub(super) const VERSION_MIN: u16 = 2;
/// The newest version of these packets that this library speaks.
pub(super) const VERSION_MAX: u16 = 2;

pub(super) const MAGIC: [u8; 4] = *b"RPLN";

/// Length of a preamble before its names, in bytes.
const PREAMBLE_BYTES: usize = 10;
/// Length of the answer to a preamble before its reason, in bytes.
const REPLY_BYTES: usize = 8;

/// The longest sentence for people, in bytes: longer ones are cut.
const REASON_BYTES_MAX: usize = 1024;

/// Length of a packet's header, in bytes.
pub(super) const PACKET_HEADER_BYTES: usize = 24;

/// The most bytes that a packet carries: the longest message.
pub(super) const PACKET_BYTES_MAX: usize = wire::BODY_BYTES_MAX;

const _: () = assert!(PACKET_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(VERSION_MIN <= VERSION_MAX && VERSION_MIN > 0);

/// The reason why bytes are not a stream of this protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    #[error("not a stream between nodes")]
    NotThisProtocol,
    #[error("invalid node name")]
    BadName,
    #[error("a packet of {bytes} bytes is longer than {PACKET_BYTES_MAX}")]
    TooLong { bytes: u32 },
    #[error("a packet of kind {kind} is not allowed here")]
    Kind { kind: u8 },
    #[error("it claims to have received {} of {sent}", counted(received, "byte"))]
    NeverSent { received: u64, sent: u64 },
}

/// The first bytes from the node that connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Preamble {
    pub(super) version_min: u16,
    pub(super) version_max: u16,
    pub(super) from: NodeName,
    pub(super) to: NodeName,
}

impl Preamble {
    pub(super) fn new(from: NodeName, to: NodeName) -> Preamble {
        Preamble {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            from,
            to,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let name_bytes = |name: &NodeName| {
            u8::try_from(name.as_str().len()).expect("a node name has at most 64 bytes")
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.version_min.to_le_bytes());
        bytes.extend_from_slice(&self.version_max.to_le_bytes());
        bytes.extend_from_slice(&[name_bytes(&self.from), name_bytes(&self.to)]);
        bytes.extend_from_slice(self.from.as_str().as_bytes());
        bytes.extend_from_slice(self.to.as_str().as_bytes());
        bytes
    }

    /// Reads a preamble from the beginning of a stream. Returns it and its length in bytes; `None` if more
    /// bytes are needed.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Preamble, usize)>, PacketError> {
        check_magic(bytes)?;
        let Some((header, names)) = bytes.split_first_chunk::<PREAMBLE_BYTES>() else {
            return Ok(None);
        };
        let (from_bytes, to_bytes) = (usize::from(header[8]), usize::from(header[9]));
        // Checked before the names have arrived: do not wait for what cannot be a name.
        if !(1..=64).contains(&from_bytes) || !(1..=64).contains(&to_bytes) {
            return Err(PacketError::BadName);
        }
        let Some(names) = names.get(..from_bytes + to_bytes) else {
            return Ok(None);
        };
        let name = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).map_err(|_| PacketError::BadName)?;
            NodeName::new(text).map_err(|_| PacketError::BadName)
        };
        let preamble = Preamble {
            version_min: u16::from_le_bytes([header[4], header[5]]),
            version_max: u16::from_le_bytes([header[6], header[7]]),
            from: name(&names[..from_bytes])?,
            to: name(&names[from_bytes..])?,
        };
        Ok(Some((preamble, PREAMBLE_BYTES + from_bytes + to_bytes)))
    }

    /// Returns the newest version that both ends speak, or the reason why there is none.
    pub(super) fn version(&self) -> Result<u16, String> {
        let version = self.version_max.min(VERSION_MAX);
        match version >= self.version_min.max(VERSION_MIN) {
            true => Ok(version),
            false => Err(format!(
                "no common version of the protocol: {} speaks {} to {}, this node {VERSION_MIN} to {VERSION_MAX}",
                self.from, self.version_min, self.version_max
            )),
        }
    }
}

/// The answer to a preamble: the version that both speak, or the reason why the stream ends.
pub(super) type Reply = Result<u16, String>;

pub(super) fn encode_reply(reply: &Reply) -> Vec<u8> {
    let (version, reason) = match reply {
        Ok(version) => (*version, ""),
        Err(reason) => (0, shortened(reason)),
    };
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&version.to_le_bytes());
    let reason_bytes = u16::try_from(reason.len()).expect("a reason is short");
    bytes.extend_from_slice(&reason_bytes.to_le_bytes());
    bytes.extend_from_slice(reason.as_bytes());
    bytes
}

/// Reads the answer to a preamble. Returns it and its length in bytes; `None` if more bytes are needed.
pub(super) fn decode_reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, PacketError> {
    check_magic(bytes)?;
    let Some((header, behind)) = bytes.split_first_chunk::<REPLY_BYTES>() else {
        return Ok(None);
    };
    let version = u16::from_le_bytes([header[4], header[5]]);
    let reason_bytes = usize::from(u16::from_le_bytes([header[6], header[7]]));
    if reason_bytes > REASON_BYTES_MAX || (version > 0 && reason_bytes > 0) {
        return Err(PacketError::NotThisProtocol);
    }
    let Some(reason) = behind.get(..reason_bytes) else {
        return Ok(None);
    };
    let reply = match version {
        0 => Err(readable(reason)),
        VERSION_MIN..=VERSION_MAX => Ok(version),
        _ => return Err(PacketError::NotThisProtocol),
    };
    Ok(Some((reply, REPLY_BYTES + reason_bytes)))
}

fn check_magic(bytes: &[u8]) -> Result<(), PacketError> {
    let have = bytes.len().min(MAGIC.len());
    match bytes[..have] == MAGIC[..have] {
        true => Ok(()),
        false => Err(PacketError::NotThisProtocol),
    }
}

/// The kind of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request = 1,
    Response = 2,
    Failure = 3,
    Receipt = 4,
    Refusal = 5,
}

/// The header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PacketHeader {
    pub(super) bytes: usize,
    pub(super) kind: Kind,
    pub(super) number: u64,
    pub(super) received: u64,
}

impl PacketHeader {
    pub(super) fn encode(&self) -> [u8; PACKET_HEADER_BYTES] {
        let bytes = u32::try_from(self.bytes).expect("a packet is shorter than 4 GiB");
        let mut header = [0; PACKET_HEADER_BYTES];
        header[..4].copy_from_slice(&bytes.to_le_bytes());
        header[4] = self.kind as u8;
        header[8..16].copy_from_slice(&self.number.to_le_bytes());
        header[16..].copy_from_slice(&self.received.to_le_bytes());
        header
    }

    pub(super) fn decode(header: &[u8; PACKET_HEADER_BYTES]) -> Result<PacketHeader, PacketError> {
        let u64_at = |at: usize| {
            let bytes = header[at..at + 8].try_into();
            u64::from_le_bytes(bytes.expect("eight bytes"))
        };
        let kind = match header[4] {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Failure,
            4 => Kind::Receipt,
            5 => Kind::Refusal,
            kind => return Err(PacketError::Kind { kind }),
        };
        let bytes = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let bytes_max = match kind {
            Kind::Request | Kind::Response => PACKET_BYTES_MAX,
            Kind::Failure => FAILURE_INJECTED.len(),
            Kind::Receipt => 0,
            Kind::Refusal => REASON_BYTES_MAX,
        };
        if bytes as usize > bytes_max {
            return Err(PacketError::TooLong { bytes });
        }
        Ok(PacketHeader {
            bytes: bytes as usize,
            kind,
            number: u64_at(8),
            received: u64_at(16),
        })
    }
}

/// A packet as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) header: PacketHeader,
    pub(super) body: Bytes,
}

/// The body of a failure by an injected fault.
pub(super) const FAILURE_INJECTED: [u8; 1] = [1];

/// Checks that a failure is of a known kind.
pub(super) fn check_failure(body: &[u8]) -> Result<(), PacketError> {
    match body == FAILURE_INJECTED {
        true => Ok(()),
        false => Err(PacketError::NotThisProtocol),
    }
}

/// Returns a sentence from another node made safe for a line in the log and for a terminal.
pub(super) fn readable(reason: &[u8]) -> String {
    String::from_utf8_lossy(reason)
        .chars()
        .map(|character| match changes_what_is_seen(character) {
            true => ' ',
            false => character,
        })
        .collect()
}

/// Reports whether a character moves the text around it or is invisible: control characters, those that change the
/// direction of writing (Unicode TR 36, section 2.7), line ends, and tags.
fn changes_what_is_seen(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns the beginning of a sentence, cut to the length that is sent.
pub(super) fn shortened(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_golden, golden};

    fn preamble() -> Preamble {
        Preamble::new(
            NodeName::new("master").unwrap(),
            NodeName::new("s-1").unwrap(),
        )
    }

    #[test]
    fn a_preamble_is_these_bytes() {
        let expected = golden("preamble");
        assert_golden("preamble", &preamble().encode());
        let mut longer = expected.clone();
        longer.push(9);
        assert_eq!(
            Preamble::decode(&longer),
            Ok(Some((preamble(), expected.len())))
        );
        for end in 0..expected.len() {
            assert_eq!(Preamble::decode(&expected[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn a_reply_is_these_bytes() {
        let accepted = b"RPLN\x02\0\0\0";
        let refused = b"RPLN\0\0\x03\0why";
        assert_eq!(encode_reply(&Ok(2)), accepted);
        assert_golden("reply", accepted);
        assert_eq!(encode_reply(&Err("why".to_owned())), refused);
        assert_eq!(decode_reply(accepted), Ok(Some((Ok(2), 8))));
        assert_eq!(
            decode_reply(refused),
            Ok(Some((Err("why".to_owned()), refused.len())))
        );
        for end in 0..refused.len() {
            assert_eq!(decode_reply(&refused[..end]), Ok(None), "{end}");
        }
        // A reason that is too long is cut between characters.
        let long = "é".repeat(REASON_BYTES_MAX);
        let reply = decode_reply(&encode_reply(&Err(long))).unwrap().unwrap();
        assert_eq!(reply.0.unwrap_err(), "é".repeat(REASON_BYTES_MAX / 2));
    }

    #[test]
    fn a_packet_header_is_these_bytes() {
        let header = PacketHeader {
            bytes: 0x0002_0304,
            kind: Kind::Request,
            number: 0x1112_1314_1516_1718,
            received: 0x2122_2324_2526_2728,
        };
        let expected = header.encode();
        assert_golden("packet header", &expected);
        assert_eq!(PacketHeader::decode(&expected), Ok(header));
        let mut too_long = expected;
        too_long[3] = 0x7f;
        let refused = Err(PacketError::TooLong { bytes: 0x7f02_0304 });
        assert_eq!(PacketHeader::decode(&too_long), refused);
        let kinds = [
            Kind::Request,
            Kind::Response,
            Kind::Failure,
            Kind::Receipt,
            Kind::Refusal,
        ];
        for (kind, byte) in kinds.into_iter().zip(1..) {
            let header = PacketHeader {
                bytes: 0,
                kind,
                number: 7,
                received: 8,
            };
            assert_eq!(header.encode()[4], byte);
            assert_eq!(PacketHeader::decode(&header.encode()), Ok(header));
        }
    }

    #[test]
    fn invalid_bytes_are_refused_as_early_as_possible() {
        let http = Err(PacketError::NotThisProtocol);
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"R0",
            b"RPLW\x02",
        ] {
            assert_eq!(Preamble::decode(bytes), http, "{bytes:?}");
            assert!(decode_reply(bytes).is_err(), "{bytes:?}");
        }
        let bad_name = Err(PacketError::BadName);
        for bytes in [
            &b"RPLN\x02\0\x02\0\0\x03s-1"[..],
            b"RPLN\x02\0\x02\0\x41\x03",
            b"RPLN\x02\0\x02\0\x01\xff",
            b"RPLN\x02\0\x02\0\x01\x01/a",
            b"RPLN\x02\0\x02\0\x01\x01a\xff",
        ] {
            assert_eq!(Preamble::decode(bytes), bad_name, "{bytes:?}");
        }
        assert!(decode_reply(b"RPLN\x09\0\0\0").is_err());
        assert!(decode_reply(b"RPLN\x02\0\x01\0x").is_err());
        assert!(decode_reply(b"RPLN\0\0\xff\xff").is_err());
        for (kind, bytes) in [
            (1, u32::MAX),
            (2, u32::MAX),
            (3, 3),
            (4, 1),
            (5, 1025),
            (0, 0),
            (6, 0),
        ] {
            let mut header = [0; PACKET_HEADER_BYTES];
            header[..4].copy_from_slice(&u32::to_le_bytes(bytes));
            header[4] = kind;
            assert!(PacketHeader::decode(&header).is_err(), "{kind} {bytes}");
        }
        assert_eq!(check_failure(&[1]), Ok(()));
        for body in [&b""[..], &[0], &[2], &[0xf4, 1]] {
            assert!(check_failure(body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn the_newest_common_version_is_spoken_or_the_error_names_both() {
        let speaks = |version_min, version_max| Preamble {
            version_min,
            version_max,
            ..preamble()
        };
        for (versions, expected) in [
            ((2, 2), Some(2)),
            ((1, 2), Some(2)),
            ((2, 9), Some(2)),
            ((0, u16::MAX), Some(2)),
            ((1, 1), None),
            ((3, 4), None),
            ((3, 1), None),
        ] {
            let version = speaks(versions.0, versions.1).version();
            assert_eq!(version.clone().ok(), expected, "{versions:?}");
            if let Err(why) = version {
                assert!(why.contains("master speaks"), "{why}");
            }
        }
    }

    #[test]
    fn a_reason_from_another_node_is_one_line() {
        assert_eq!(readable(b"a\nb\x1b[31m\xff"), "a b [31m\u{fffd}");
        let turned = "a\u{202e}b\u{2067}c\u{2028}d\u{feff}e\u{e0041}f h\u{e9} \u{5d0}";
        assert_eq!(readable(turned.as_bytes()), "a b c d e f h\u{e9} \u{5d0}");
    }
}
