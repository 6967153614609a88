//! Groups, the order of reports, sync policies, failures and the thread.

use std::sync::mpsc::channel;

use super::*;
use crate::{
    log::{
        ClusterIdentity, LogOptions, LogView,
        testing::{CLUSTER, Fault, FaultyStorage, Records, open_log, options, read_all},
    },
    storage::FileStorage,
    types::{Epoch, InstanceId, NodeName},
};

const LIMIT: Duration = Duration::from_secs(20);

fn writer_on(storage: &FaultyStorage, sync: SyncPolicy) -> (WriterLoop, Arc<LogView>) {
    let options = LogOptions {
        sync,
        segment_bytes: 1 << 20,
        ..options()
    };
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    let (files, view, _) =
        crate::log::testing::open_with(storage.clone(), options, Some(CLUSTER)).unwrap();
    (WriterLoop::new(files, storage), view)
}

fn append(first: u64, count: usize) -> WriteCommand {
    WriteCommand::Append(Records::new(first, vec![(1, 20); count]).batch())
}

fn meta(start: u64) -> Meta {
    let name = NodeName::new("node").unwrap();
    Meta {
        last_whole: None,
        name: name.clone(),
        instance: InstanceId::from_bytes([1; 16]),
        start,
        cluster: Some(ClusterIdentity {
            id: CLUSTER,
            nodes: vec![name],
        }),
        promised: None,
        log_epoch: Some(Epoch(1)),
        forced_epoch: None,
    }
}

fn save(ticket: u64) -> WriteCommand {
    WriteCommand::SaveMeta {
        ticket,
        meta: Box::new(meta(ticket)),
    }
}

fn cut(ticket: u64, to: u64) -> WriteCommand {
    WriteCommand::Truncate {
        ticket,
        to: Offset(to),
    }
}

/// Formats a report in a few words, for comparison.
fn words(report: &WriteReport) -> String {
    match report {
        WriteReport::Written { end } => format!("written {end}"),
        WriteReport::Durable { end, .. } => format!("durable {end}"),
        WriteReport::Truncated { ticket, cut } => {
            format!("truncated #{ticket} from {} by {}", cut.from, cut.records)
        }
        WriteReport::NotTruncated { ticket, offset } => {
            format!("#{ticket} not truncated: {offset} cannot be read")
        }
        WriteReport::MetaSaved {
            ticket,
            durable_end,
        } => {
            format!("saved #{ticket} at {durable_end}")
        }
        WriteReport::WriteFailed { error } => format!("write failed: {:?}", error.kind()),
        WriteReport::Resumed { whole_end } => format!("resumed at {whole_end}"),
        WriteReport::Inspected { holes, .. } => format!("inspected: {holes:?}"),
        WriteReport::Failed { error } => format!("failed: {:?}", error.kind()),
        WriteReport::Closed => "closed".to_owned(),
    }
}

fn run(writer: &mut WriterLoop, commands: Vec<WriteCommand>) -> (Vec<String>, bool) {
    let mut reports = Vec::new();
    let flow = writer.run(commands, &mut |report| reports.push(words(&report)));
    (reports, flow.is_break())
}

#[test]
fn adjacent_appends_are_one_write_and_one_sync() {
    let storage = FaultyStorage::new();
    let (mut writer, view) = writer_on(&storage, SyncPolicy::Always);
    run(&mut writer, vec![append(0, 1)]);
    let (appends, syncs) = (storage.appends(), storage.file_syncs());
    let commands = (0..100).map(|n| append(1 + n * 2, 2)).collect();
    let (reports, ended) = run(&mut writer, commands);
    assert_eq!(reports, ["written 201", "durable 201"]);
    assert!(!ended);
    assert_eq!(
        (storage.appends(), storage.file_syncs()),
        (appends + 1, syncs + 1)
    );
    assert_eq!(view.durable_end(), Offset(201));
}

#[test]
fn reports_come_in_the_order_of_the_commands() {
    let storage = FaultyStorage::new();
    let (mut writer, view) = writer_on(&storage, SyncPolicy::Always);
    let commands = vec![
        append(0, 5),
        append(5, 5),
        cut(1, 7),
        append(7, 1),
        save(2),
        save(3),
        append(8, 1),
        cut(4, 20),
        WriteCommand::Close,
        append(9, 1),
    ];
    let (reports, ended) = run(&mut writer, commands);
    let expected = [
        "written 10",
        "durable 10",
        "truncated #1 from 7 by 3",
        "written 8",
        "durable 8",
        "saved #2 at 8",
        "saved #3 at 8",
        "written 9",
        "durable 9",
        "truncated #4 from 9 by 0",
        "closed",
    ];
    assert_eq!(reports, expected);
    assert!(ended);
    assert_eq!(Meta::load(&storage).unwrap(), Some(meta(3)));
    assert_eq!(view.written_end(), Offset(9));
    // Nothing is done after the end.
    assert_eq!(run(&mut writer, vec![append(9, 1)]), (vec![], true));
    assert!(open_log(&storage).unwrap().2.clean);
}

#[test]
fn without_a_sync_for_each_write_written_records_are_held() {
    let interval = Duration::from_millis(50);
    for (sync, delay) in [
        (SyncPolicy::Interval(interval), Some(interval)),
        (SyncPolicy::Never, None),
    ] {
        let storage = FaultyStorage::new();
        let (mut writer, _) = writer_on(&storage, sync);
        assert_eq!(writer.sync_delay(), None);
        run(&mut writer, vec![append(0, 1)]);
        let syncs = storage.file_syncs();
        assert_eq!(
            run(&mut writer, vec![append(1, 2)]).0,
            ["written 3", "durable 3"]
        );
        assert_eq!(storage.file_syncs(), syncs, "{sync:?}");
        assert_eq!(writer.sync_delay(), delay);
        let mut reports = Vec::new();
        let flow = writer.on_sync_due(&mut |report| reports.push(words(&report)));
        assert!(flow.is_continue() && reports.is_empty(), "{reports:?}");
        assert_eq!(storage.file_syncs(), syncs + 1);
        assert_eq!(writer.sync_delay(), None);
        // Anything that others rely on is synced under any policy.
        let commands = [save(1), cut(2, 0), WriteCommand::Close];
        for (nth, command) in commands.into_iter().enumerate() {
            let end = if nth < 2 { 3 + nth as u64 } else { 0 };
            let syncs = storage.file_syncs();
            run(&mut writer, vec![append(end, 1), command]);
            assert!(storage.file_syncs() > syncs + 1, "{nth}");
            assert_eq!(writer.sync_delay(), None);
        }
    }
}

#[test]
fn meta_is_saved_only_after_the_records_before_it_are_durable() {
    for seed in 0..20 {
        for step in 0.. {
            let storage = FaultyStorage::new();
            let (mut writer, _) = writer_on(&storage, SyncPolicy::Never);
            storage.fail_at(step, Fault::Stop);
            run(&mut writer, vec![append(0, 3), save(1), append(3, 1)]);
            let left = storage.after_power_cut(seed);
            let (_, view, _) = open_log(&left).unwrap();
            if Meta::load(&left).unwrap().is_some() {
                assert!(view.durable_end() >= Offset(3), "step {step}, seed {seed}");
            }
            if !storage.has_failed() {
                break;
            }
        }
    }
}

/// Returns the commands for a writer in the tests of failures, and its reports without a failure.
fn work() -> (Vec<WriteCommand>, [&'static str; 7]) {
    let commands = vec![append(2, 2), save(1), append(4, 1), cut(2, 1), append(1, 3)];
    let reports = [
        "written 4",
        "durable 4",
        "saved #1 at 4",
        "written 5",
        "durable 5",
        "truncated #2 from 1 by 4",
        "written 4",
    ];
    (commands, reports)
}

/// Returns a writer that holds two records and fails at this step of its work, its reports, and if
/// it ended. `None` if the work has fewer steps.
fn failing(
    step: usize,
    kind: io::ErrorKind,
) -> Option<(FaultyStorage, WriterLoop, Vec<String>, bool)> {
    let storage = FaultyStorage::new();
    let (mut writer, view) = writer_on(&storage, SyncPolicy::Always);
    run(&mut writer, vec![append(0, 2)]);
    storage.fail_at(step, Fault::Short(10, kind));
    let (commands, all) = work();
    let (reports, ended) = run(&mut writer, commands);
    if !storage.has_failed() {
        assert_eq!(reports[..all.len()], all);
        assert!(step > 10, "only {step} steps");
        return None;
    }
    let (_, before) = reports.split_last().unwrap();
    assert_eq!(before, &all[..before.len()], "step {step}");
    view.check();
    Some((storage, writer, reports, ended))
}

#[test]
fn the_first_failure_is_the_last_report() {
    let (mut refused, mut finals) = (0, 0);
    for step in 0.. {
        let Some((storage, mut writer, reports, ended)) = failing(step, io::ErrorKind::StorageFull)
        else {
            break;
        };
        let expected = match ended {
            true => "failed: StorageFull",
            false => "write failed: StorageFull",
        };
        assert_eq!(reports.last().unwrap(), expected, "step {step}");
        *(if ended { &mut finals } else { &mut refused }) += 1;
        let steps = storage.steps();
        assert_eq!(
            run(&mut writer, vec![append(4, 1), save(3)]),
            (vec![], ended)
        );
        let flow = writer.on_sync_due(&mut |report| panic!("{report:?}"));
        assert_eq!(flow.is_break(), ended);
        assert_eq!(storage.steps(), steps, "something was done after a failure");
    }
    // Three appends, a save and a cut: each has writes and syncs.
    assert!(refused > 5 && finals > 5, "{refused} {finals}");
}

#[test]
fn after_a_refused_write_the_writer_resumes_only_when_there_is_space() {
    for step in 0.. {
        let Some((storage, mut writer, reports, ended)) = failing(step, io::ErrorKind::StorageFull)
        else {
            break;
        };
        if ended {
            assert_eq!(run(&mut writer, vec![WriteCommand::Resume]), (vec![], true));
            continue;
        }
        // The probe does not fit yet: it is the first append to a file.
        storage.fail_at(0, Fault::Error(io::ErrorKind::StorageFull));
        let (again, ended) = run(&mut writer, vec![WriteCommand::Resume, append(9, 1)]);
        assert!(!ended, "step {step}: {again:?}");
        assert_eq!(again, ["write failed: StorageFull"], "step {step}");
        // Records that became durable before the failure stay.
        let cut = reports.iter().any(|report| report.starts_with("truncated"));
        let (resumed, _) = run(&mut writer, vec![WriteCommand::Resume]);
        let ends: &[u64] = if cut { &[1, 4] } else { &[2, 4, 5] };
        let ends: Vec<_> = ends.iter().map(|end| format!("resumed at {end}")).collect();
        assert!(ends.contains(&resumed[0]), "step {step}: {resumed:?}");
        let end: u64 = resumed[0].rsplit(' ').next().unwrap().parse().unwrap();
        let next = vec![append(end, 2), save(7), WriteCommand::Close];
        let done = [
            format!("written {}", end + 2),
            format!("durable {}", end + 2),
            format!("saved #7 at {}", end + 2),
            "closed".to_owned(),
        ];
        assert_eq!(run(&mut writer, next), (done.to_vec(), true), "step {step}");
        let (_, view, report) = open_log(&storage).unwrap();
        assert!(report.clean && report.end == Offset(end + 2), "{report:?}");
        assert_eq!(
            read_all(&view, 1000),
            Records::new(0, vec![(1, 20); end as usize + 2]).bytes()
        );
        assert_eq!(Meta::load(&storage).unwrap(), Some(meta(7)));
        assert!(!storage.list("").unwrap().contains(&PROBE_PATH.to_owned()));
    }
}

#[test]
fn a_stop_on_a_full_disk_is_clean() {
    for at_once in [true, false] {
        let storage = FaultyStorage::new();
        let (mut writer, _) = writer_on(&storage, SyncPolicy::Always);
        run(&mut writer, vec![append(0, 2)]);
        storage.fail_at(0, Fault::Short(10, io::ErrorKind::StorageFull));
        let mut commands = vec![append(2, 1), append(3, 1)];
        commands.extend(at_once.then_some(WriteCommand::Close));
        let (mut reports, mut ended) = run(&mut writer, commands);
        if !at_once {
            let (more, now) = run(&mut writer, vec![append(4, 1), WriteCommand::Close]);
            reports.extend(more);
            ended = now;
        }
        assert!(ended);
        assert_eq!(reports, ["write failed: StorageFull", "closed"]);
        let report = open_log(&storage).unwrap().2;
        assert!(report.clean && report.end == Offset(2), "{report:?}");
    }
}

#[test]
fn a_group_is_bounded_in_bytes() {
    let (commands, queue) = channel();
    let batch = Records::new(0, [(1, WRITE_GROUP_BYTES_MAX / 4)]).batch();
    for _ in 0..10 {
        commands.send(WriteCommand::Append(batch.clone())).unwrap();
    }
    let taken: Vec<usize> =
        std::iter::from_fn(|| Some(take_group(queue.try_recv().ok()?, &queue).len())).collect();
    assert_eq!(taken, [4, 4, 2]);
}

/// Starts a writer on a thread and returns its reports.
fn spawn(storage: &FaultyStorage, sync: SyncPolicy) -> (LogWriter, Receiver<String>) {
    let (writer, _) = writer_on(storage, sync);
    let (sender, reports) = channel();
    let report = move |report: WriteReport| {
        // The test may have seen enough.
        let _ = sender.send(words(&report));
    };
    (LogWriter::spawn(writer, Box::new(report)).unwrap(), reports)
}

#[test]
fn the_thread_does_what_it_is_told_and_ends_after_close() {
    let storage = FaultyStorage::new();
    let (writer, reports) = spawn(&storage, SyncPolicy::Always);
    let another = writer.clone();
    for n in 0..50 {
        if n % 2 == 0 { &writer } else { &another }.submit(append(n, 1));
    }
    another.submit(cut(7, 40));
    another.submit(WriteCommand::Close);
    another.submit(append(40, 1));
    writer.join();
    writer.join();
    another.submit(append(41, 1));
    let reports: Vec<String> = reports.iter().collect();
    assert_eq!(
        reports[reports.len() - 3..],
        ["durable 50", "truncated #7 from 40 by 10", "closed"]
    );
    let (_, view, report) = open_log(&storage).unwrap();
    assert!(report.clean);
    assert_eq!(
        read_all(&view, 1000),
        Records::new(0, [(1, 20); 40]).bytes()
    );
}

#[test]
fn the_thread_ends_without_a_clean_mark_when_no_handle_is_left() {
    let storage = FaultyStorage::new();
    let (writer, reports) = spawn(&storage, SyncPolicy::Always);
    writer.submit(append(0, 1));
    assert_eq!(reports.recv_timeout(LIMIT).unwrap(), "written 1");
    assert_eq!(reports.recv_timeout(LIMIT).unwrap(), "durable 1");
    drop(writer);
    // The reports end with the thread.
    assert!(matches!(
        reports.recv_timeout(LIMIT),
        Err(RecvTimeoutError::Disconnected)
    ));
    let report = open_log(&storage).unwrap().2;
    assert_eq!((report.end, report.clean), (Offset(1), false));
}

#[test]
fn the_thread_syncs_at_its_interval_also_under_load() {
    let storage = FaultyStorage::new();
    let (writer, reports) = spawn(&storage, SyncPolicy::Interval(Duration::from_millis(5)));
    writer.submit(append(0, 1));
    assert_eq!(reports.recv_timeout(LIMIT).unwrap(), "written 1");
    let deadline = Instant::now() + LIMIT;
    let syncs = storage.file_syncs();
    while storage.file_syncs() < syncs.max(2) {
        assert!(Instant::now() < deadline, "no sync without load");
        thread::yield_now();
    }
    let (syncs, mut next) = (storage.file_syncs(), 1);
    while storage.file_syncs() < syncs + 2 {
        assert!(Instant::now() < deadline, "no sync under load");
        writer.submit(append(next, 1));
        next += 1;
        thread::yield_now();
    }
    writer.submit(WriteCommand::Close);
    writer.join();
    assert_eq!(reports.iter().last().unwrap(), "closed");
}

#[test]
fn a_panic_of_the_writer_is_reported_as_a_failure() {
    let storage = FaultyStorage::new();
    let (writer, reports) = spawn(&storage, SyncPolicy::Always);
    writer.submit(append(5, 1));
    assert_eq!(reports.recv_timeout(LIMIT).unwrap(), "failed: Other");
    writer.join();
    assert!(reports.recv().is_err());
}

/// Rule 10 is about the log: a snapshot of its keys can be made again.
#[test]
fn a_failure_to_save_the_snapshot_of_keys_does_not_make_a_stop_unclean() {
    for failing_step in [None, Some(0), Some(1), Some(2)] {
        let storage = FaultyStorage::new();
        let (mut writer, _) = writer_on(&storage, SyncPolicy::Always);
        run(&mut writer, vec![append(0, 3)]);
        if let Some(step) = failing_step {
            storage.fail_at(step, Fault::Error(io::ErrorKind::StorageFull));
        }
        let snapshot = b"snapshot".to_vec();
        let stop = vec![WriteCommand::SaveKeys { snapshot }, WriteCommand::Close];
        assert_eq!(run(&mut writer, stop), (vec!["closed".to_owned()], true));
        assert_eq!(storage.has_failed(), failing_step.is_some());
        let (_, _, report) = open_log(&storage).unwrap();
        assert!(report.clean && report.end == Offset(3), "{report:?}");
        let found = keys_file::load(&storage).unwrap();
        assert_eq!(found.is_some(), failing_step.is_none());
    }
}

#[test]
fn the_thread_measures_a_sync_for_each_group_that_it_syncs() {
    for (policy, expected) in [(SyncPolicy::Always, 2), (SyncPolicy::Never, 0)] {
        let storage = FaultyStorage::new();
        let (looped, view) = writer_on(&storage, policy);
        let (sender, reports) = channel();
        let report = move |report: WriteReport| sender.send(words(&report)).unwrap();
        let writer = LogWriter::spawn(looped, Box::new(report)).unwrap();
        for first in 0..2 {
            writer.submit(append(first, 1));
            reports.recv_timeout(LIMIT).unwrap();
            reports.recv_timeout(LIMIT).unwrap();
        }
        assert_eq!(writer.metrics(&view).syncs.count(), expected, "{policy:?}");
        writer.submit(WriteCommand::Close);
        writer.join();
    }
}

#[test]
fn a_removed_moved_or_replaced_directory_is_a_final_failure() {
    type Harm = fn(&std::path::Path);
    let harms: [(&str, Harm); 4] = [
        ("removed", |dir| std::fs::remove_dir_all(dir).unwrap()),
        ("moved", |dir| {
            std::fs::rename(dir, dir.with_extension("moved")).unwrap()
        }),
        ("log removed", |dir| {
            std::fs::remove_dir_all(dir.join("log")).unwrap()
        }),
        ("mark replaced", |dir| {
            std::fs::copy(dir.join("mark"), dir.join("copy")).unwrap();
            std::fs::rename(dir.join("copy"), dir.join("mark")).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("data");
        let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(&dir).unwrap());
        let lock = storage.lock().unwrap();
        let (files, _, _) =
            crate::log::testing::open_with(storage.clone(), options(), Some(CLUSTER)).unwrap();
        let (told, reports) = channel();
        let report = move |report: WriteReport| {
            let _held = &lock;
            let _ = told.send(report);
        };
        let writer = WriterLoop::new(files, storage);
        let writer = LogWriter::spawn(writer, Box::new(report)).unwrap();
        writer.submit(append(0, 3));
        let next = || {
            reports
                .recv_timeout(LIMIT)
                .unwrap_or_else(|_| panic!("{what}: nothing"))
        };
        while words(&next()) != "durable 3" {}
        harm(&dir);
        // Nothing is written: it is noticed all the same.
        let WriteReport::Failed { error } = next() else {
            panic!("{what}: not noticed");
        };
        let text = error.to_string();
        assert!(
            text.starts_with("the directory was removed, moved or replaced while the node ran"),
            "{what}: {text}"
        );
        writer.join();
    }
}

/// A command given when the directory is gone is never reported as done.
#[test]
fn nothing_is_reported_durable_in_a_missing_directory() {
    for policy in [SyncPolicy::Always, SyncPolicy::Never] {
        for command in [append(3, 1), save(1)] {
            let above = tempfile::tempdir().unwrap();
            let dir = above.path().join("data");
            let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(&dir).unwrap());
            let _lock = storage.lock().unwrap();
            let options = LogOptions {
                sync: policy,
                ..options()
            };
            let (files, _, _) =
                crate::log::testing::open_with(storage.clone(), options, Some(CLUSTER)).unwrap();
            let mut writer = WriterLoop::new(files, storage);
            let mut place = Place {
                age_max: Some(Duration::ZERO),
                ..Place::of(&writer)
            };
            let syncs = Syncs::new();
            let mut told = Vec::new();
            let mut run = |command| {
                let mut report = |report: WriteReport| told.push(words(&report));
                run_measured(&mut writer, vec![command], &syncs, &mut place, &mut report)
            };
            assert!(run(append(0, 3)).is_continue());
            std::fs::remove_dir_all(&dir).unwrap();
            let text = format!("{policy:?} {command:?}");
            assert!(run(command).is_break(), "{text}");
            let durable = told.iter().filter(|told| told.starts_with("durable"));
            assert_eq!(durable.count(), 1, "{text}: {told:?}");
            let last = told.last().unwrap();
            assert!(last.starts_with("failed"), "{text}: {told:?}");
        }
    }
}
