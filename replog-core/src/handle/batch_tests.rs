//! Tests of batches in entire clusters in one process.

use super::tests::{Cluster, concern, payloads, until, within};
use crate::{
    AppendOptions, IdempotencyKey, MessageBatch, Offset, ReadLevel,
    error::{AppendError, LimitName, Outcome},
    frame::{HEADER_BYTES, MESSAGE_HEADER_BYTES},
    limits::{FRAME_BYTES_MAX, KEY_BYTES_MAX},
};

fn batch(range: std::ops::Range<u32>) -> MessageBatch {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn a_batch_is_one_append_on_every_node_and_across_restarts() {
    let mut cluster = Cluster::new(2);
    cluster.config.log.segment_bytes = 4096;
    let (master, secondaries) = cluster.start_all().await;
    let key = IdempotencyKey::new("k").unwrap();
    let options = concern(3).idempotency_key(key);
    within(master.append("first", concern(3))).await.unwrap();
    let receipt = within(master.append_batch(batch(0..500), options.clone()))
        .await
        .unwrap();
    assert_eq!((receipt.first_offset, receipt.count), (Offset(1), 500));
    assert!(receipt.concern_met && !receipt.replayed && receipt.acks.len() == 3);
    for secondary in &secondaries {
        assert_eq!(secondary.reader().end(ReadLevel::Local), Some(Offset(501)));
    }
    within(master.stop()).await;
    let master = cluster.start_master().await;
    within(master.wait_until_writable()).await.unwrap();
    let again = within(master.append_batch(batch(0..500), options.clone()))
        .await
        .unwrap();
    assert_eq!((again.first_offset, again.count), (Offset(1), 500));
    assert!(again.replayed, "rule 3");
    let other = within(master.append_batch(batch(0..499), options)).await;
    assert!(matches!(
        other,
        Err(AppendError::KeyReused { offset: Offset(1) })
    ));
    assert_eq!(payloads(&master.reader()).await.len(), 501);
}

#[tokio::test]
async fn a_node_that_holds_a_message_of_a_batch_holds_all_of_it() {
    let cluster = Cluster::new(2);
    let (master, secondaries) = cluster.start_all().await;
    within(master.append_batch(batch(0..9), concern(3)))
        .await
        .unwrap();
    cluster.stop_secondary(&secondaries[1]).await;
    let waiting = {
        let master = master.clone();
        tokio::spawn(async move { master.append_batch(batch(9..12), concern(3)).await })
    };
    until(&master, |health| {
        health.waiting_appends == 1 && health.log.committed == Some(Offset(12))
    })
    .await;
    assert_eq!(
        within(master.holders(Offset(10))).await.unwrap().acks.len(),
        2
    );
    assert_eq!(
        within(master.holders(Offset(3))).await.unwrap().acks.len(),
        3
    );
    let appends = within(master.waiting_appends(9)).await.unwrap();
    assert_eq!(appends.appends[0].offset, Offset(9));
    cluster.start_secondary(1).await;
    let receipt = within(waiting).await.unwrap().unwrap();
    assert_eq!((receipt.first_offset, receipt.count), (Offset(9), 3));
}

#[tokio::test]
async fn a_refused_batch_leaves_nothing_behind() {
    let mut cluster = Cluster::new(0);
    cluster.config.max_message_bytes = 100;
    cluster.config.max_queued_bytes = 1000;
    let (master, _) = cluster.start_all().await;
    let long: MessageBatch = ["x".repeat(50), "x".repeat(101)].iter().collect();
    let table = [
        (MessageBatch::new(), "at least one message"),
        (long, "101 bytes and 100 are allowed"),
        (batch(0..200), "max-queued-bytes is reached at 1000"),
    ];
    for (batch, expected) in table {
        let error = within(master.append_batch(batch, concern(1)))
            .await
            .unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotAppended);
        assert!(error.to_string().contains(expected), "{error}");
    }
    let waits = |error: &AppendError| match error {
        AppendError::Overloaded { limit, .. } => *limit == LimitName::MaxQueuedBytes,
        _ => false,
    };
    for _ in 0..100 {
        let result = within(master.append_batch(batch(0..20), concern(1))).await;
        assert!(
            !result.is_err_and(|error| waits(&error)),
            "bytes were not given back"
        );
    }
    assert_eq!(payloads(&master.reader()).await.len(), 2000);
}

#[tokio::test]
async fn an_append_of_exactly_the_limit_is_taken_and_one_byte_more_leaves_nothing() {
    let mut cluster = Cluster::new(0);
    cluster.config.max_message_bytes = FRAME_BYTES_MAX;
    let (master, _) = cluster.start_all().await;
    let key = |letter: &str| IdempotencyKey::new(&letter.repeat(KEY_BYTES_MAX)).unwrap();
    let with_key = |letter| concern(1).idempotency_key(key(letter));
    let rest = FRAME_BYTES_MAX - HEADER_BYTES - 3 * MESSAGE_HEADER_BYTES;
    let alone = FRAME_BYTES_MAX - HEADER_BYTES - MESSAGE_HEADER_BYTES;
    // The options, and the lengths of the messages that are exactly the limit with them.
    let table: [(AppendOptions, &[usize]); 5] = [
        (concern(1), &[alone]),
        (with_key("a"), &[alone - KEY_BYTES_MAX]),
        (concern(1), &[5, 0, rest - 5]),
        (concern(1), &[rest / 2, rest - rest / 2, 0]),
        (with_key("b"), &[0, 9, rest - 9 - KEY_BYTES_MAX]),
    ];
    let mut next = 0;
    for (options, lengths) in table {
        let batch = |more: usize| -> MessageBatch {
            let more = std::iter::once(more).chain(std::iter::repeat(0));
            let lengths = lengths.iter().zip(more);
            lengths
                .map(|(length, more)| vec![b'x'; length + more])
                .collect()
        };
        let refused = match lengths {
            [length] => within(master.append(vec![b'x'; length + 1], options.clone()))
                .await
                .unwrap_err(),
            _ => within(master.append_batch(batch(1), options.clone()))
                .await
                .unwrap_err(),
        };
        assert!(
            matches!(
                refused,
                AppendError::TooLarge {
                    limit: LimitName::MaxRequestBytes,
                    bytes,
                    limit_bytes: FRAME_BYTES_MAX,
                } if bytes == FRAME_BYTES_MAX + 1
            ),
            "{lengths:?}: {refused}"
        );
        assert_eq!(refused.outcome(), Outcome::NotAppended);
        assert!(!refused.is_retryable());
        assert_eq!(
            refused.to_string(),
            "the append has 8388609 bytes and 8388608 are allowed (max-request-bytes)"
        );
        let first = match lengths {
            [length] => {
                within(master.append(vec![b'x'; *length], options))
                    .await
                    .unwrap()
                    .offset
            }
            _ => {
                within(master.append_batch(batch(0), options))
                    .await
                    .unwrap()
                    .first_offset
            }
        };
        assert_eq!(first, Offset(next), "{lengths:?}: nothing was appended");
        next += lengths.len() as u64;
    }
    assert_eq!(payloads(&master.reader()).await.len() as u64, next);
}

#[tokio::test]
async fn a_batch_of_many_short_messages_is_refused_for_what_it_takes_in_the_log() {
    let (master, _) = Cluster::new(0).start_all().await;
    let each = MESSAGE_HEADER_BYTES + 1;
    let count = (FRAME_BYTES_MAX - HEADER_BYTES) / each;
    let batch = |count: usize| -> MessageBatch { std::iter::repeat_n("1", count).collect() };
    let refused = within(master.append_batch(batch(count + 1), concern(1))).await;
    let expected = HEADER_BYTES + (count + 1) * each;
    assert!(
        matches!(refused, Err(AppendError::TooLarge { bytes, .. }) if bytes == expected),
        "{refused:?}"
    );
    let taken = within(master.append_batch(batch(count), concern(1))).await;
    assert_eq!(taken.unwrap().first_offset, Offset(0));
}
