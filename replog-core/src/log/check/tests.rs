//! Every defect that a directory may have, one at a time, and the report of it.

mod segments;
mod size;
mod starts;

use super::*;
use crate::{
    log::{
        ClusterIdentity, LogFiles,
        mark::MarkFile,
        testing::{
            CLUSTER, FaultyStorage, Records, content, dump, open_log, segments, set_content,
            storage_of,
        },
    },
    rules::keys::Keys,
    storage::{FileStorage, MemoryStorage},
    types::InstanceId,
};

/// Meta of the node that owns all these directories.
fn meta(cluster: Option<ClusterId>) -> Meta {
    let name = NodeName::new("node-1").unwrap();
    Meta {
        last_whole: None,
        name: name.clone(),
        instance: InstanceId::from_bytes([1; 16]),
        start: 3,
        cluster: cluster.map(|id| ClusterIdentity {
            id,
            nodes: vec![name],
        }),
        promised: None,
        log_epoch: cluster.map(|_| Epoch(2)),
        forced_epoch: None,
    }
}

/// Returns enough records for four segments of four, of three epochs and of different lengths.
fn some_records() -> Records {
    Records::new(0, (0..16).map(|n| (1 + n / 7, 52 + n as usize % 12)))
}

/// Writes a node's directory with these records, after a clean stop.
fn write(storage: &(impl Storage + Clone), records: &Records) {
    let mut files = open_log(storage).unwrap().0;
    // As a node does it: first the mark, then a log epoch.
    meta(Some(CLUSTER)).save(storage).unwrap();
    files.append(&records.batches(&[3])).unwrap();
    files.close().unwrap();
}

fn written(records: &Records) -> MemoryStorage {
    let storage = MemoryStorage::new();
    write(&storage, records);
    storage
}

/// Returns a directory, and for each record its file, beginning and end.
fn some_node() -> (MemoryStorage, Vec<(String, usize, usize)>) {
    let storage = written(&some_records());
    let mut places = Vec::new();
    let records = some_records();
    for (path, bytes) in segments(&storage) {
        let header = segment::SegmentHeader::decode(&bytes).unwrap();
        let mut at = usize::try_from(header.encoded_bytes()).unwrap();
        while at < bytes.len() {
            let end = at + records.encoded[places.len()].1.len();
            places.push((path.clone(), at, end));
            at = end;
        }
    }
    assert_eq!(places.len(), records.encoded.len());
    let paths: Vec<String> = segments(&storage).into_keys().collect();
    assert_eq!(paths, [0, 4, 8, 12].map(seg));
    (storage, places)
}

fn set_mark(storage: &dyn Storage, end: u64) {
    let mark = Mark {
        end: Offset(end),
        state: mark::MarkState::Open,
    };
    MarkFile::open(storage).unwrap().write(mark).unwrap();
}

fn change(storage: &dyn Storage, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = content(storage, path);
    change(&mut bytes);
    set_content(storage, path, &bytes);
}

fn report(storage: &dyn Storage) -> Report {
    let report = directory(storage).unwrap();
    assert_eq!(report.left_out(), 0);
    report
}

/// Returns the findings as lines.
fn lines(storage: &dyn Storage) -> Vec<String> {
    report(storage)
        .findings
        .iter()
        .map(Finding::to_string)
        .collect()
}

/// Returns the path of the segment of `first`.
fn seg(first: u64) -> String {
    segment::path(Offset(first))
}

#[test]
fn a_good_directory_is_reported_as_it_is_and_not_changed() {
    let storage = FaultyStorage::new();
    write(&storage, &some_records());
    let steps = storage.steps();
    let files = dump(&storage);
    let found = directory(&storage).unwrap();
    assert_eq!(storage.steps(), steps, "something was changed or synced");
    assert_eq!(dump(&storage), files);
    let bytes: usize = segments(&storage).values().map(Vec::len).sum();
    let expected = Report {
        name: Some(NodeName::new("node-1").unwrap()),
        cluster_id: Some(CLUSTER),
        log_epoch: Some(Epoch(2)),
        intact: true,
        segments: 4,
        records: 16,
        bytes: bytes as u64,
        end: Offset(16),
        mark: Some(Offset(16)),
        counts: Counts::default(),
        findings: Vec::new(),
    };
    assert_eq!(found, expected);
    // The lock is released.
    assert_eq!(directory(&storage).unwrap(), expected);
}

#[test]
fn a_directory_without_a_node_or_with_a_running_one_is_refused() {
    let storage = MemoryStorage::new();
    let refused = |storage: &MemoryStorage| directory(storage).unwrap_err();
    assert!(matches!(refused(&storage), CheckError::NoNode));
    storage.create_dir("log").unwrap();
    set_content(&storage, "log/notes.txt", b"mine");
    set_content(&storage, "lock", b"");
    assert!(matches!(refused(&storage), CheckError::NoNode));

    let (storage, _) = some_node();
    let lock = storage.lock().unwrap();
    assert!(matches!(refused(&storage), CheckError::Locked));
    drop(lock);
    assert_eq!(report(&storage).records, 16);

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("log"), "in its place").unwrap();
    let storage = FileStorage::open_read_only(dir.path()).unwrap();
    let refused = directory(&storage).unwrap_err();
    assert!(matches!(refused, CheckError::Io { path, .. } if path == "log"));
}

#[test]
fn another_cluster_is_reported_and_its_records_are_read() {
    let (storage, _) = some_node();
    let other = ClusterId::from_bytes([8; 16]);
    let belongs = |first, to: &str| {
        format!(
            "{} at byte 0, offset {first}: damage, it belongs to cluster {CLUSTER}, {to}",
            seg(first)
        )
    };
    meta(Some(other)).save(&storage).unwrap();
    let to = format!("this node to {other}");
    assert_eq!(
        lines(&storage),
        [0, 4, 8, 12].map(|first| belongs(first, &to))
    );
    assert_eq!(report(&storage).records, 16);
    // For a node that never joined, it is reported once.
    meta(None).save(&storage).unwrap();
    let found = report(&storage);
    assert_eq!((found.cluster_id, found.intact), (None, false));
    assert_eq!(lines(&storage), [belongs(0, "this node to none")]);
}

#[test]
fn without_a_mark_a_log_is_not_intact_and_a_bad_end_is_damage() {
    let (storage, places) = some_node();
    let (path, start, _) = &places[14];
    let mark = content(&storage, "mark");
    let unreadable = [
        mark[..20].to_vec(),
        b"x".to_vec(),
        [&mark[..], b"0"].concat(),
    ];
    for mark in unreadable.iter().map(Some).chain([None]) {
        let storage = storage_of(&dump(&storage));
        match mark {
            Some(mark) => set_content(&storage, "mark", mark),
            None => storage.remove("mark").unwrap(),
        }
        let found = report(&storage);
        assert_eq!(
            (found.mark, found.counts.damage, found.counts.note),
            (None, 1, 0)
        );
        let what = &found.findings[0].what;
        assert_eq!(found.findings[0].path, "mark");
        assert!(
            what.ends_with("until it is refilled from another"),
            "{what}"
        );
        // A log that did not count as intact loses nothing by it.
        let not_intact = Meta {
            log_epoch: None,
            ..meta(Some(CLUSTER))
        };
        not_intact.save(&storage).unwrap();
        let found = report(&storage);
        assert_eq!((found.counts.damage, found.counts.note), (0, 1));
        change(&storage, path, |bytes| bytes[start + 50] ^= 1);
        let found = report(&storage);
        assert_eq!((found.counts.damage, found.records), (1, 15));
        let what = &found.findings[1].what;
        assert!(
            what.ends_with("and no mark tells how far the log was synced"),
            "{what}"
        );
        change(&storage, path, |bytes| bytes.truncate(start + 50));
        let found = report(&storage);
        assert_eq!((found.counts.damage, found.findings[1].until), (1, None));
        // Not even a header: it is unknown what was behind it.
        set_content(&storage, path, &[0; 30]);
        assert_eq!(report(&storage).counts.damage, 1);
    }
}

#[test]
fn a_missing_or_unreadable_meta_file_is_damage_where_there_is_a_log() {
    let (storage, _) = some_node();
    let good = content(&storage, "meta.json");
    let text = String::from_utf8(good.clone()).unwrap();
    let table = [
        (
            text.replace("node-1", "node-2"),
            "it is damaged: its checksum is ",
        ),
        (text[..40].to_owned(), "it is not a meta file: "),
        (String::new(), "it is not a meta file: "),
        (
            text.replace("\"format\": 2", "\"format\": 1"),
            "it has format 1, and this program reads 2",
        ),
    ];
    for (text, expected) in table {
        set_content(&storage, "meta.json", text.as_bytes());
        let found = report(&storage);
        assert_eq!((found.counts.damage, found.findings.len()), (1, 1));
        assert_eq!((&found.name, found.records), (&None, 16));
        assert!(found.findings[0].what.starts_with(expected), "{found:?}");
    }
    storage.remove("meta.json").unwrap();
    let found = lines(&storage);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("meta.json: damage, it is missing, and nothing else says whose log")
    );
    // A first start that did not get far has lost nothing.
    let storage = MemoryStorage::new();
    drop(open_log(&storage).unwrap());
    let found = report(&storage);
    assert_eq!((found.counts.damage, found.counts.note), (0, 1));
    assert_eq!(found.findings[0].path, "meta.json");
}

#[test]
fn an_unreadable_snapshot_of_keys_is_a_note() {
    let (storage, _) = some_node();
    let good = Keys::new(100, Offset::ZERO).encode(CLUSTER).unwrap();
    keys_file::save(&storage, &good).unwrap();
    assert_eq!(lines(&storage), Vec::<String>::new());
    change(&storage, "keys", |bytes| bytes[30] ^= 1);
    let expected = "keys: note, its checksum does not match: \
                    the next start of a master reads the keys from the log";
    assert_eq!(lines(&storage), [expected]);
    change(&storage, "keys", |bytes| bytes.clear());
    assert_eq!(
        report(&storage).counts,
        Counts {
            note: 1,
            ..Counts::default()
        }
    );
}

#[test]
fn leftovers_are_reported() {
    let (storage, _) = some_node();
    let copy = format!("{}.new", seg(12));
    let paths = [
        &*copy,
        "log/notes",
        "keys.new",
        "meta.json.new",
        "notes",
        "room.probe",
    ];
    for path in paths {
        set_content(&storage, path, b"?");
    }
    let found = report(&storage);
    let told: Vec<&str> = found
        .findings
        .iter()
        .map(|finding| &*finding.path)
        .collect();
    assert_eq!(told, paths);
    assert_eq!(
        found.counts,
        Counts {
            note: 6,
            ..Counts::default()
        }
    );
    set_content(&storage, "log/7.log", b"?");
    assert_eq!(
        lines(&storage)[1],
        "log/7.log: damage, it is not the name of a segment, and no node starts while it is there"
    );
}

#[test]
fn quarantined_records_are_checked() {
    let storage = MemoryStorage::new();
    meta(Some(CLUSTER)).save(&storage).unwrap();
    let mut files = open_log(&storage).unwrap().0;
    files.append(&[some_records().batch()]).unwrap();
    files.sync().unwrap();
    files.quarantine(Offset(10), Epoch(9)).unwrap();
    files.truncate(Offset(10)).unwrap();
    files.close().unwrap();
    let path = "quarantine/00000000000000000010-00000000000000000016-epoch-9.log";
    let kept = format!("{path}: note, quarantined before a cut: offsets 10..16");
    assert_eq!(lines(&storage), [kept]);
    let bytes = content(&storage, path);
    let header = segment::SegmentHeader::decode(&bytes)
        .unwrap()
        .encoded_bytes() as usize;
    let records = some_records();
    let at = header + records.bytes_of(10, 12).len();
    change(&storage, path, |bytes| bytes[at + 45] ^= 1);
    let found = lines(&storage);
    let expected = format!(
        "{path} at byte {at}, offset 12: note, quarantined before a cut: offsets 10..12, and then: "
    );
    assert!(found[0].starts_with(&expected), "{found:?}");
    change(&storage, path, |bytes| bytes.truncate(5));
    set_content(&storage, "quarantine/new", b"");
    let found = report(&storage);
    assert_eq!(
        (found.counts.note, found.counts.damage, found.records),
        (2, 0, 10)
    );
}

#[test]
fn a_file_that_the_disk_cannot_read_is_reported() {
    let (storage, _) = some_node();
    storage.remove(&seg(4)).unwrap();
    storage.create_dir(&seg(4)).unwrap();
    for path in ["meta.json", "mark", "keys"] {
        let _ = storage.remove(path);
        storage.create_dir(path).unwrap();
    }
    let found = report(&storage);
    let told: Vec<(&str, Class)> = found
        .findings
        .iter()
        .map(|finding| (&*finding.path, finding.class))
        .collect();
    let four = seg(4);
    let expected = [
        ("mark", Class::Damage),
        ("meta.json", Class::Damage),
        (&*four, Class::Damage),
        ("keys", Class::Note),
    ];
    assert_eq!(told, expected);
    assert_eq!(found.findings[2].until, Some(Offset(8)));
    assert_eq!(found.records, 12);
}

#[test]
fn the_list_of_findings_is_bounded_per_class() {
    let (storage, places) = some_node();
    for number in 0..FINDINGS_MAX + 7 {
        set_content(&storage, &format!("log/{number:05}.txt"), b"");
    }
    let (path, start, _) = &places[2];
    change(&storage, path, |bytes| bytes[start + 40] ^= 1);
    let found = directory(&storage).unwrap();
    assert_eq!(
        (found.counts.note, found.counts.damage),
        (FINDINGS_MAX + 7, 1)
    );
    assert_eq!(found.left_out(), 7);
    let last = found.findings.last().unwrap();
    assert_eq!(
        last.class,
        Class::Damage,
        "one class does not crowd out another"
    );
}
