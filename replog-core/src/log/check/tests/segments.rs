//! Defects of segments, of records in them, and of their order.

use super::*;
use crate::words::counted;

/// Bytes of a record that are not of its payload; its key has one.
const FIXED_BYTES: usize = crate::frame::HEADER_BYTES + 1 + crate::frame::MESSAGE_HEADER_BYTES;

/// Rule 10: wherever a bit is flipped, the record that contains it is named, and no other is lost.
#[test]
fn every_flipped_bit_is_found_where_it_is() {
    let (storage, places) = some_node();
    let files = dump(&storage);
    for (path, bytes) in segments(&storage) {
        for at in 0..bytes.len() {
            for bit in [0x01, 0x10, 0x80] {
                let mut files = files.clone();
                files.get_mut(&path).unwrap()[at] ^= bit;
                let found = report(&storage_of(&files));
                let case = format!("bit {bit} of byte {at} of {path}: {found:?}");
                assert_eq!(found.counts.damage, 1, "{case}");
                assert_eq!(found.findings.len(), 1, "{case}");
                let finding = &found.findings[0];
                assert_eq!(finding.path, path, "{case}");
                let within = |place: &&(String, usize, usize)| {
                    place.0 == path && (place.1..place.2).contains(&at)
                };
                let record = places.iter().position(|place| within(&place));
                let Some(record) = record else {
                    // In the header: every record after it can still be read.
                    assert_eq!(finding.position, Some(0), "{case}");
                    assert_eq!((found.records, finding.until), (16, None), "{case}");
                    continue;
                };
                assert_eq!(finding.position, Some(places[record].1 as u64), "{case}");
                assert_eq!(finding.offset, Some(Offset(record as u64)), "{case}");
                let until = Some(Offset(record as u64 + 1));
                assert_eq!((found.records, finding.until), (15, until), "{case}");
            }
        }
    }
}

#[test]
fn a_damaged_range_ends_where_records_can_be_read_again() {
    let (storage, places) = some_node();
    let before = dump(&storage);
    let overwritten = |from: usize, until: usize, with: u8| {
        let storage = storage_of(&before);
        let (start, end) = (places[from].1, places[until - 1].2);
        change(&storage, &places[from].0, |bytes| {
            bytes[start..end].fill(with)
        });
        (report(&storage).records, lines(&storage))
    };
    let (records, found) = overwritten(5, 7, 0xee);
    assert_eq!(records, 14);
    let at = places[5].1;
    let expected = format!(
        "{} at byte {at}, offset 5: damage, no frame has a length of 4008636142 bytes; \
         offsets 5..7 cannot be read",
        seg(4)
    );
    assert_eq!(found, [expected]);
    // Zeros in the middle are not the end.
    let (_, found) = overwritten(5, 7, 0);
    assert!(
        found[0].ends_with("no frame here; offsets 5..7 cannot be read"),
        "{found:?}"
    );
    // Up to the end of the file; the next one continues.
    let (records, found) = overwritten(6, 8, 0xee);
    assert_eq!(records, 14);
    assert!(
        found[0].ends_with("; offsets 6..8 cannot be read"),
        "{found:?}"
    );
    // Below the mark it is damage in the last file too.
    let (records, found) = overwritten(14, 16, 0xee);
    assert_eq!((records, found.len()), (14, 1));
    assert!(found[0].contains("offset 14: damage"), "{found:?}");
    assert!(
        found[0].ends_with("; offsets 14..16 cannot be read"),
        "{found:?}"
    );
}

#[test]
fn each_of_several_damaged_places_is_reported() {
    let (storage, places) = some_node();
    for offset in [1, 2, 6, 12] {
        let (path, start, _) = &places[offset];
        change(&storage, path, |bytes| bytes[start + 40] ^= 1);
    }
    let found = report(&storage);
    let ranges: Vec<_> = found
        .findings
        .iter()
        .map(|finding| (finding.offset.unwrap().0, finding.until.unwrap().0))
        .collect();
    assert_eq!(ranges, [(1, 3), (6, 7), (12, 13)]);
    assert_eq!((found.records, found.end), (12, Offset(16)));
}

#[test]
fn a_missing_segment_is_reported_wherever_it_is() {
    let (storage, _) = some_node();
    let before = dump(&storage);
    for (gone, until) in [(0, 4), (4, 8), (8, 12)] {
        let storage = storage_of(&before);
        storage.remove(&seg(gone)).unwrap();
        let found = report(&storage);
        assert_eq!(found.records, 12);
        let expected = format!(
            "{}, offset {gone}: damage, the segment is missing; offsets {gone}..{until} cannot be read",
            seg(gone)
        );
        assert_eq!(lines(&storage), [expected]);
    }
    // Only the mark knows of the last one.
    let storage = storage_of(&before);
    storage.remove(&seg(12)).unwrap();
    let at = before[&seg(8)].len();
    let expected = format!(
        "{} at byte {at}, offset 12: damage, the records up to 16 are missing; \
         offsets 12..16 cannot be read",
        seg(8)
    );
    assert_eq!(lines(&storage), [expected]);
    set_mark(&storage, 12);
    assert_eq!(lines(&storage), Vec::<String>::new());
    for first in [0, 4, 8] {
        storage.remove(&seg(first)).unwrap();
    }
    let expected = format!(
        "{}, offset 0: damage, the segment is missing; offsets 0..12 cannot be read",
        seg(0)
    );
    assert_eq!(lines(&storage), [expected]);
}

#[test]
fn a_truncated_file_is_told_apart_from_a_missing_one() {
    let (storage, places) = some_node();
    // Within a record, and then between two.
    let table = [
        (places[6].2 - 3, "; offsets 6..8 cannot be read"),
        (
            places[5].2,
            "damage, the records up to 8 are missing; offsets 6..8 cannot be read",
        ),
    ];
    for (bytes_left, expected) in table {
        change(&storage, &seg(4), |bytes| bytes.truncate(bytes_left));
        let found = lines(&storage);
        assert_eq!(found.len(), 1, "{found:?}");
        let place = format!("{} at byte {}, offset 6: ", seg(4), places[5].2);
        assert!(found[0].starts_with(&place), "{found:?}");
        assert!(found[0].ends_with(expected), "{found:?}");
    }
}

#[test]
fn swapped_segments_are_reported() {
    let (storage, _) = some_node();
    let (four, eight) = (content(&storage, &seg(4)), content(&storage, &seg(8)));
    set_content(&storage, &seg(4), &eight);
    set_content(&storage, &seg(8), &four);
    let expected = [
        format!(
            "{} at byte 0, offset 4: damage, it is the segment of offset 8",
            seg(4)
        ),
        format!(
            "{} at byte 0, offset 8: damage, it is the segment of offset 4",
            seg(8)
        ),
        format!(
            "{}, offset 4: damage, the segment is missing; offsets 4..12 cannot be read",
            seg(4)
        ),
    ];
    assert_eq!(lines(&storage), expected);
}

#[test]
fn a_second_copy_of_a_segment_hides_nothing() {
    let (storage, _) = some_node();
    let copied = content(&storage, &seg(4));
    for name in [6, 99] {
        let storage = storage_of(&dump(&storage));
        set_content(&storage, &seg(name), &copied);
        let expected = format!(
            "{} at byte 0, offset {name}: damage, it is the segment of offset 4",
            seg(name)
        );
        assert_eq!(lines(&storage), [expected]);
        assert_eq!(report(&storage).records, 16);
    }
}

#[test]
fn a_segment_of_another_branch_is_reported() {
    // The same offsets, written in other epochs: each file is valid by itself.
    let (storage, _) = some_node();
    let others = Records::new(
        0,
        some_records()
            .encoded
            .iter()
            .map(|(epoch, bytes)| (epoch + 5, bytes.len() - FIXED_BYTES)),
    );
    let other = written(&others);
    set_content(&storage, &seg(8), &content(&other, &seg(8)));
    let found = lines(&storage);
    let epochs = |first| {
        format!(
            "{} at byte 48, offset {first}: damage, its epochs do not match the records before it",
            seg(first)
        )
    };
    assert_eq!(found, [epochs(8), epochs(12)]);
}

#[test]
fn an_epoch_that_falls_is_told() {
    let (storage, places) = some_node();
    // Record 5 again, well-formed, of an older epoch than record 4.
    assert_eq!(some_records().encoded[9].0, 2);
    let (path, start, end) = places[9].clone();
    let payload_bytes = end - start - FIXED_BYTES;
    let older = Records::new(9, [(1, payload_bytes)]).bytes();
    change(&storage, &path, |bytes| {
        bytes[start..end].copy_from_slice(&older)
    });
    let expected = format!(
        "{path} at byte {start}, offset 9: damage, the frame has epoch 1 after epoch 2; \
         offsets 9..10 cannot be read"
    );
    assert_eq!(lines(&storage), [expected]);
}

#[test]
fn a_header_with_a_wrong_number_is_reported() {
    let (storage, _) = some_node();
    change(&storage, &seg(8), |bytes| {
        let mut header = segment::SegmentHeader::decode(bytes).unwrap();
        header.number = 7;
        let header = header.encode();
        bytes[..header.len()].copy_from_slice(&header);
    });
    let counts = |first, number, expected| {
        format!(
            "{} at byte 40, offset {first}: damage, its header counts {} before it, and there are {expected}",
            seg(first),
            counted(number, "segment")
        )
    };
    assert_eq!(lines(&storage), [counts(8, 7, 2), counts(12, 3, 8)]);
}

#[test]
fn a_file_that_does_not_begin_as_a_segment_is_reported() {
    let (storage, _) = some_node();
    for bytes in [
        &b""[..],
        &[0; 300],
        b"something else altogether, and longer than a header is by far",
    ] {
        set_content(&storage, &seg(4), bytes);
        let found = lines(&storage);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("{} at byte 0, offset 4: damage, ", seg(4))));
        assert!(
            found[0].ends_with("; offsets 4..8 cannot be read"),
            "{found:?}"
        );
        assert_eq!(report(&storage).records, 12);
    }
}

#[test]
fn a_torn_tail_is_not_damage_and_its_bytes_are_counted() {
    let (storage, places) = some_node();
    let before = dump(&storage);
    let more = Records::new(16, [(3, 30)]).bytes();
    let end = places[15].2;
    for length in 1..more.len() {
        let storage = storage_of(&before);
        change(&storage, &seg(12), |bytes| {
            bytes.extend_from_slice(&more[..length]);
            bytes.resize(bytes.len() + 100, 0);
        });
        let found = report(&storage);
        let zeros = more[..length]
            .iter()
            .rev()
            .take_while(|byte| **byte == 0)
            .count();
        assert_eq!((found.counts.damage, found.counts.torn_tail), (0, 1));
        let finding = &found.findings[0];
        assert_eq!(finding.class, Class::TornTail);
        assert_eq!(
            (&finding.path, finding.position),
            (&seg(12), Some(end as u64))
        );
        assert_eq!(finding.offset, Some(Offset(16)));
        assert_eq!(finding.torn_bytes, Some((length - zeros) as u64));
        assert_eq!((found.records, found.end), (16, Offset(16)));
    }
    // No matter what follows: above the mark it is cut; below the mark it is damage.
    let (path, start, _) = &places[13];
    change(&storage, path, |bytes| bytes[start + 50] ^= 1);
    for (mark, torn, damage) in [(13, 1, 0), (14, 0, 1)] {
        set_mark(&storage, mark);
        let found = report(&storage);
        assert_eq!(
            (found.counts.torn_tail, found.counts.damage),
            (torn, damage)
        );
    }
    let line = lines(&storage).pop().unwrap();
    set_mark(&storage, 13);
    let torn = lines(&storage).pop().unwrap();
    assert!(line.ends_with("; offsets 13..14 cannot be read"), "{line}");
    let cut = places[15].2 - start;
    assert!(
        torn.ends_with(&format!(
            "; the next start cuts {} away",
            counted(cut, "byte")
        )),
        "{torn}"
    );
    assert!(
        torn.contains(", offset 13: torn tail, the checksum is "),
        "{torn}"
    );
}

#[test]
fn a_file_with_zeros_after_its_records_is_good() {
    let (storage, _) = some_node();
    for first in [0, 4, 12] {
        change(&storage, &seg(first), |bytes| {
            bytes.resize(bytes.len() + 5000, 0)
        });
    }
    let found = report(&storage);
    assert_eq!((found.findings, found.records), (Vec::new(), 16));
}

#[test]
fn bytes_after_the_last_record_of_an_older_file_are_reported_as_a_note() {
    let (storage, places) = some_node();
    let at = places[7].2;
    change(&storage, &seg(4), |bytes| {
        bytes.extend_from_slice(&[0, 0, 0xab, 0xcd, 0, 0])
    });
    let expected = format!(
        "{} at byte {at}, offset 8: note, 4 bytes after the last record, which no node reads",
        seg(4)
    );
    assert_eq!(lines(&storage), [expected]);
    // A record is different: two files contradict each other about offset 8.
    let eight = some_records().bytes_of(8, 9);
    let whole = content(&written(&some_records()), &seg(4));
    set_content(&storage, &seg(4), &[whole, eight].concat());
    let expected = format!(
        "{} at byte {at}, offset 8: damage, it continues where the next segment begins",
        seg(4)
    );
    assert_eq!(lines(&storage), [expected]);
}

#[test]
fn a_torn_header_is_a_torn_tail_unless_records_after_it_were_synced() {
    let (storage, _) = some_node();
    let header = content(&storage, &seg(12));
    for length in [0, 10, 60] {
        set_mark(&storage, 12);
        set_content(&storage, &seg(12), &header[..length]);
        let found = report(&storage);
        assert_eq!(
            (found.counts.torn_tail, found.counts.damage),
            (1, 0),
            "{found:?}"
        );
        assert_eq!((found.records, found.end), (12, Offset(12)));
        assert_eq!(found.findings[0].torn_bytes, Some(length as u64));
        set_mark(&storage, 13);
        let found = report(&storage);
        assert_eq!(
            (found.counts.torn_tail, found.counts.damage),
            (0, 1),
            "{found:?}"
        );
        assert_eq!(found.findings[0].until, Some(Offset(13)));
    }
    // Bytes between the last record and a torn header go with it.
    set_mark(&storage, 12);
    let whole = content(&storage, &seg(8));
    set_content(&storage, &seg(8), &[&whole[..], b"torn"].concat());
    let found = report(&storage);
    assert_eq!(
        (found.counts.torn_tail, found.counts.damage),
        (2, 0),
        "{found:?}"
    );
    // But not if the records do not reach the header.
    set_content(&storage, &seg(8), &whole[..whole.len() - 1]);
    assert_eq!(report(&storage).counts.damage, 1);
}
