//! Digests that stand for a key and for the payloads of its append.
//!
//! Owns the digests. A digest made from the log must equal the one made from the request. Keeps rule 3.

use sha2::{Digest as _, Sha256};

/// Prefix that distinguishes a digest of several payloads from that of one.
const BATCH_PREFIX: &[u8] = b"replog batch\0";

/// Digest of a key: the first 16 bytes of its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyDigest(pub(super) [u8; 16]);

/// Digest of an append's payloads: the SHA-256 of a single one, or of all with their lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PayloadDigest(pub(super) [u8; 32]);

impl KeyDigest {
    pub(super) fn of(key: &[u8]) -> KeyDigest {
        let mut first = [0; 16];
        first.copy_from_slice(&Sha256::digest(key)[..16]);
        KeyDigest(first)
    }
}

impl PayloadDigest {
    pub(super) fn of(payload: &[u8]) -> PayloadDigest {
        PayloadDigest(Sha256::digest(payload).into())
    }

    /// Returns the digest of all payloads. An append of one message has the same one as a message alone:
    /// in the log they are the same.
    pub(super) fn of_all<'a>(mut payloads: impl Iterator<Item = &'a [u8]>) -> PayloadDigest {
        let Some(first) = payloads.next() else {
            return PayloadDigest::of(b"");
        };
        let Some(second) = payloads.next() else {
            return PayloadDigest::of(first);
        };
        let mut hasher = Sha256::new_with_prefix(BATCH_PREFIX);
        for payload in [first, second].into_iter().chain(payloads) {
            // Includes the length, so that payloads with other boundaries have another digest.
            hasher.update((payload.len() as u64).to_le_bytes());
            hasher.update(payload);
        }
        PayloadDigest(hasher.finalize().into())
    }
}
