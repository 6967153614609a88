//! All fixed limits: unit, reason, and the answer when the limit is reached.
//!
//! Limits that an operator may set are in `config.rs`; these are the ones that formats and the protocol rest
//! on. Keeps rule 11.

use std::time::Duration;

/// Bytes of one append in the log, which is one frame: 42, its key, and for each of its messages the payload and 4 more.
/// All of an append is in the log or none of it, and what is behind it waits for all of it, so that a longer one would
/// hold up every other append. This much goes to the disk with one sync. A longer append, of one message or of many, is
/// refused: [`AppendError::TooLarge`](crate::error::AppendError::TooLarge). It is never split. A longer length field in
/// a log is damage, not a reason to allocate. This is also the highest allowed setting of `max_message_bytes`, and the
/// default and the highest allowed setting of the server's `--max-request-bytes`.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// Bytes of records in one replication batch; one frame always fits, however long. Large enough that a round
/// trip costs little in comparison, small enough that a retry costs little too.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// The smallest size in bytes that a batch shrinks to after time-outs: a single frame is still sent, since a
/// batch always carries at least one.
pub const BATCH_BYTES_MIN: usize = 1;

/// Batches in flight to one Healthy secondary. Enough to keep a secondary's disk busy while answers travel; the
/// reorder window holds the same number of batches of the usual size. Longer ones, of one long append each, may be
/// refused behind a gap and are sent again.
pub const BATCHES_IN_FLIGHT_MAX: usize = 4;

/// Heartbeats or hellos in flight to one secondary. One that hangs must not delay the next, but they must not
/// pile up without end at a secondary that never answers: at the limit, the next is skipped.
pub const PROBES_IN_FLIGHT_MAX: usize = 4;

/// Bytes that a secondary holds back behind a gap. A batch that exceeds it is refused and sent again.
pub const REORDER_BYTES_MAX: usize = 16 << 20;

/// Greatest distance, in records, of a held-back record from the secondary's end.
pub const REORDER_RECORDS_MAX: u64 = 1 << 20;

/// Bytes of recent records that a node keeps in memory for links and readers. Older ones are
/// read from the files.
pub const TAIL_BYTES_MAX: usize = 4 << 20;

/// Frames longer than a batch that a node keeps in memory once they were read from the files: whoever reads such a frame
/// a little at a time, or for one of its messages, reads the files once. The frame read longest ago goes first.
pub const LONG_FRAMES_KEPT: usize = 2;

/// Bytes of zeros written ahead of the records of a log.
pub const PREALLOCATE_BYTES: u64 = 1 << 20;

/// Bytes of one segment file: a frame that would exceed it opens the next. Part of the format: the files of
/// two nodes are equal only if they roll at the same frames.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// (epoch, first offset) pairs in a hello and in a segment's header. A node that needs older
/// ones asks for them.
pub const EPOCH_STARTS_MAX: usize = 64;

/// (epoch, first offset) pairs of the newest part of the log that are kept in memory. Older ones
/// are read from the files.
pub const EPOCH_STARTS_KEPT: usize = 1024;

/// Interval at which a node's writer checks that its directory is still in its place: within a heartbeat of the
/// default settings, and a few system calls each time.
pub const PLACE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Greatest age of the check of [`PLACE_CHECK_INTERVAL`] when written records are reported as durable: no append is
/// acknowledged that began when the directory had been gone for longer. A few system calls per sync.
pub const PLACE_CHECK_AGE_MAX: Duration = Duration::from_millis(5);

/// Bytes of a segment between two entries of its index: the most that a read scans to find its first record.
pub const INDEX_STEP_BYTES: u64 = 64 << 10;

/// Older segments kept open for readers, each with its index. One more closes the least recently read one.
pub const SEGMENTS_OPEN_MAX: usize = 8;

/// Bytes that the log writer takes from its queue for one write and one sync. The rest waits for the next turn,
/// so that a group never makes its first record wait without end.
pub const WRITE_GROUP_BYTES_MAX: usize = 8 << 20;

/// Bytes that must be free on a disk that was full before its node takes records again: enough for more than a
/// batch, so that the next one does not fill it again.
pub const SPACE_PROBE_BYTES: usize = 2 << 20;

/// The shortest delay before a node checks for space on a disk that was full. Somebody has to free space, so
/// that a shorter delay would mostly be in vain.
pub const SPACE_PROBE_DELAY_MIN: Duration = Duration::from_millis(200);
/// The longest such delay; see [`SPACE_PROBE_DELAY_MIN`].
pub const SPACE_PROBE_DELAY_MAX: Duration = Duration::from_secs(5);

/// Time of successful writes after which a disk no longer counts as recently full.
pub const SPACE_CALM: Duration = Duration::from_secs(10);

/// Cuts of its log that a node distinguishes for its followers. Beyond it the two oldest count as one: a
/// follower that missed that many may be told to go back further than necessary.
pub const CUTS_KEPT: usize = 64;

/// The longest silence on a stream of messages: the sender then sends a sign of life, so that either end
/// notices when the other is gone.
pub const FOLLOW_SIGN_INTERVAL: Duration = Duration::from_secs(15);

/// Nodes of a cluster, including the master: a set of nodes is one 64-bit word.
pub const NODES_MAX: usize = 64;

/// Bytes of a message between nodes, not counting its records. A longer one is refused as malformed.
pub const WIRE_HEADER_BYTES_MAX: usize = 256 << 10;

/// The most that one request raises the epoch that a node has durably promised: 2^33, so that no single message
/// uses up the epochs of a cluster. A request for a higher one is not refused for good, since a node may have
/// been away for any number of forced recoveries: it raises the promise by this much and has to be sent again.
pub const EPOCH_LEAP_MAX: u64 = 1 << 33;

/// The most by which the epochs that a recovering master follows in one round of answers may exceed its own; the
/// epoch that it asks for next is one higher. Nodes that took part in that round promise it without a second
/// request, whatever one of them made up.
pub const EPOCH_FOLLOW_MAX: u64 = EPOCH_LEAP_MAX - 1;

/// The amount by which a forced recovery raises the epoch: 2^32, beyond what nodes that do not answer can have
/// promised in ordinary recoveries.
pub const EPOCH_FORCED_STEP: u64 = 1 << 32;

/// The highest epoch that a node promises to another: below [`Epoch::MAX`](crate::Epoch::MAX), so that
/// raising a believed epoch never passes that.
pub const EPOCH_BELIEVABLE_MAX: u64 = (1 << 62) - (1 << 34);

/// The highest epoch of another node that a recovering master follows, so that the higher epochs that it then
/// starts can still be believed.
pub const EPOCH_FOLLOWED_MAX: u64 = EPOCH_BELIEVABLE_MAX - EPOCH_LEAP_MAX;

/// Number of times that one run of a node may promise a log in a master's recovery and fail to deliver it,
/// before the recovery goes on without that log where the others are enough. Once or twice is bad luck, and the
/// node's log is longer.
pub const SOURCE_FAILURES_MAX: u32 = 3;

/// Files of records that were cut because of a master's hello: one more removes the oldest.
pub const QUARANTINE_FILES_MAX: usize = 64;

/// Parked batch answers on a secondary: requests whose records are not durable yet. Beyond it a batch is
/// refused and sent again.
pub const PARKED_ANSWERS_MAX: usize = 256;

/// Unreadable records that a node remembers until it can inspect them, while it inspects another or its disk refuses
/// writes. Beyond it one is forgotten, and noticed again by whoever reads it next.
pub const NOTICED_RECORDS_MAX: usize = 1_000;

/// Refused senders that a node remembers, so that it logs the reason only once for each of them.
pub const REFUSED_SENDERS_MAX: usize = 16;

/// Bytes of an idempotency key. A longer one is refused as malformed.
pub const KEY_BYTES_MAX: usize = 128;

/// The highest allowed setting of `key_horizon`, in records. A keyed record among them costs the master about a
/// hundred bytes of memory.
pub const KEY_HORIZON_MAX: u64 = 100_000_000;

/// Bytes of the log read at once to find out which keys it has, before a master serves.
pub const KEY_READ_BYTES_MAX: usize = 4 << 20;

/// Events that a node keeps for listeners that fall behind. A listener that falls further behind is told how
/// many it missed.
pub const EVENTS_KEPT: usize = 256;

/// The shortest interval between two reports of ends and counts to a listener: 20 times a second is as fast as
/// anybody looks, and ten thousand appends cost no more than one.
pub const EVENT_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Findings of each class that a check of a directory lists. Further ones are only counted: a thousand lines
/// are proof enough that the disk is not to be trusted.
pub const FINDINGS_MAX: u64 = 1000;

/// Replaced instances of a master that a node remembers and refuses.
pub const REPLACED_INSTANCES_MAX: usize = 1 << 10;

/// Connections to a node's cluster listener that have not authenticated yet. One more ends the oldest
/// connection of the address that has the most.
pub const CLUSTER_HANDSHAKES_MAX: usize = 64;

/// Time that a connection to the cluster listener has to authenticate before it is closed.
pub const CLUSTER_HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// TLS handshakes that a node computes at once for connections that have not authenticated, for one address and
/// for all: as many as may be in progress. Later ones wait for their turn, each for at most the time that a
/// handshake may take.
pub const CLUSTER_HANDSHAKE_BURST: u32 = CLUSTER_HANDSHAKES_MAX as u32;

/// Time in which one more handshake becomes available to one address: 20 a second. Nodes connect once and stay
/// connected.
pub const CLUSTER_HANDSHAKE_INTERVAL_OF_ADDRESS: Duration = Duration::from_millis(50);

/// Time in which one more handshake becomes available to all addresses: 100 a second, which take a few percent
/// of a slow core from the thread of the node's actors.
pub const CLUSTER_HANDSHAKE_INTERVAL: Duration = Duration::from_millis(10);

/// Streams of one name that a node serves at once, each of another instance: a master, its successor, and one
/// that has not sent anything yet. One more ends the oldest.
pub const CLUSTER_STREAMS_OF_NAME_MAX: usize = 3;

/// Nodes that may have a stream to one node at once; each has one. A further one is refused with the reason.
/// More than a cluster has, since nodes are renamed.
pub const CLUSTER_STREAMS_MAX: usize = 2 * NODES_MAX;

/// Requests of one stream in flight at once. Requests behind them are not read yet, heartbeats included: a
/// stream keeps its order. Links keep far fewer in flight; where more hang, because a disk hangs, the silence
/// ends the contact, as it should.
pub const CLUSTER_CALLS_MAX: usize = 64;

/// Bytes of one stream's requests in flight, and of the data waiting to be sent on one stream. Requests behind
/// them are not read yet, heartbeats included: heartbeats and records share one stream in one order, and so one
/// budget. The receipts for the bytes that still arrive keep the contact meanwhile. The longest message fits
/// behind as many records as may wait for a gap to be filled: otherwise the records that fill it would not be
/// read.
pub const CLUSTER_BUFFER_BYTES_MAX: usize =
    FRAME_BYTES_MAX + WIRE_HEADER_BYTES_MAX + REORDER_BYTES_MAX + (1 << 20);

/// Time that a stream without incoming data is kept open: a master sends heartbeats all the time.
pub const CLUSTER_IDLE_TIME_MAX: Duration = Duration::from_secs(75);

/// Interval at which the receiver of a long message reports the number of bytes received: far shorter than any
/// time-out, so that a slow line is not taken for a dead node.
pub const CLUSTER_RECEIPT_INTERVAL: Duration = Duration::from_millis(20);

const _: () = assert!(EPOCH_FORCED_STEP < EPOCH_FOLLOW_MAX);
const _: () = assert!(EPOCH_FOLLOW_MAX < EPOCH_LEAP_MAX);
const _: () = assert!(EPOCH_BELIEVABLE_MAX + EPOCH_LEAP_MAX < crate::types::Epoch::MAX.0);
const _: () = assert!(FRAME_BYTES_MAX <= WRITE_GROUP_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX * BATCHES_IN_FLIGHT_MAX <= REORDER_BYTES_MAX);
const _: () = assert!(BATCHES_IN_FLIGHT_MAX <= PARKED_ANSWERS_MAX);
const _: () = assert!(BATCHES_IN_FLIGHT_MAX + PROBES_IN_FLIGHT_MAX < CLUSTER_CALLS_MAX);
const _: () = assert!(CLUSTER_STREAMS_OF_NAME_MAX < CLUSTER_STREAMS_MAX);
// The addresses that can lack a token at once, each for at least its interval, are fewer than the buckets kept.
const _: () = assert!(
    CLUSTER_HANDSHAKE_BURST as u128
        + CLUSTER_HANDSHAKE_INTERVAL_OF_ADDRESS.as_nanos() * CLUSTER_HANDSHAKE_BURST as u128
            / CLUSTER_HANDSHAKE_INTERVAL.as_nanos()
        < 1024
);
const _: () = assert!(BATCH_BYTES_MAX <= TAIL_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX < SPACE_PROBE_BYTES);
const _: () = assert!(EPOCH_STARTS_MAX <= EPOCH_STARTS_KEPT);
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!((FRAME_BYTES_MAX as u64) < u32::MAX as u64);
const _: () = assert!(BATCH_BYTES_MAX <= FRAME_BYTES_MAX && FRAME_BYTES_MAX <= REORDER_BYTES_MAX);
