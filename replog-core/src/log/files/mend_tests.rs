//! Refused writes, and the log that continues after them.

use super::*;
use crate::log::testing::{Fault, FaultyStorage, Records, open_log, options, read_all, segments};

const FULL: io::ErrorKind = io::ErrorKind::StorageFull;

/// Returns enough records for several segments.
fn some_records(count: u64) -> Records {
    Records::new(
        0,
        (0..count).map(|n| (1 + n / 7, 10 + (n as usize * 37) % 60)),
    )
}

/// Returns a log of ten records to which ten more could not be written because this step failed,
/// with the error. `None` if there are fewer steps.
fn refused(
    records: &Records,
    step: usize,
    fault: Fault,
) -> Option<(FaultyStorage, LogFiles, Arc<LogView>, LogError)> {
    let storage = FaultyStorage::new();
    let (mut files, view, _) = open_log(&storage).unwrap();
    files.append(&[records.truncated(10).batch()]).unwrap();
    files.sync().unwrap();
    let more = records.batch().slice(Offset(10), Offset(20)).unwrap();
    storage.fail_at(step, fault);
    let result = files.append(&[more]).and_then(|()| files.sync());
    match result {
        Ok(()) => {
            assert!(!storage.has_failed() && step > 10, "{step} steps");
            None
        }
        Err(error) => Some((storage, files, view, error)),
    }
}

/// Appends the missing records; the log must be as if nothing had ever failed.
fn check_complete(
    records: &Records,
    storage: &FaultyStorage,
    files: &mut LogFiles,
    view: &Arc<LogView>,
) {
    let rest = records.batch().slice(files.end(), Offset(20));
    files.append(&rest.into_iter().collect::<Vec<_>>()).unwrap();
    files.sync().unwrap();
    view.check();
    assert_eq!(read_all(view, 200), records.bytes());
    let undisturbed = FaultyStorage::new();
    let (mut other, ..) = open_log(&undisturbed).unwrap();
    other.append(&records.batches(&[3])).unwrap();
    assert_eq!(segments(storage), segments(&undisturbed));
    files.close().unwrap();
    let (_, again, report) = open_log(storage).unwrap();
    assert!(report.clean && report.torn_bytes == 0, "{report:?}");
    assert_eq!(read_all(&again, 1000), records.bytes());
}

#[test]
fn after_a_refused_write_the_log_continues_as_if_it_had_not_been_tried() {
    let records = some_records(20);
    for fault in [
        Fault::Error(FULL),
        Fault::Short(1, FULL),
        Fault::Short(40, FULL),
    ] {
        let mut mended = 0;
        for step in 0.. {
            let Some((storage, mut files, view, error)) = refused(&records, step, fault) else {
                break;
            };
            let end = view.written_end();
            assert!(end >= Offset(10) && files.end() == end, "step {step}");
            assert_eq!(
                read_all(&view, 200),
                records.bytes_of(0, end.0),
                "step {step}: a part of a record is shown"
            );
            if matches!(error, LogError::Final(_)) {
                files.mend().unwrap_err();
                files.append(&[]).unwrap_err();
                continue;
            }
            mended += 1;
            files.append(&[]).unwrap_err();
            files.mend().unwrap();
            assert_eq!((files.end(), view.durable_end()), (end, end), "step {step}");
            check_complete(&records, &storage, &mut files, &view);
        }
        assert!(mended > 5, "only {mended} of the steps were writes");
    }
}

#[test]
fn mending_may_be_refused_too_and_can_be_retried() {
    let records = some_records(20);
    for step in 0.. {
        if refused(&records, step, Fault::Short(7, FULL)).is_none() {
            break;
        }
        for mending_step in 0.. {
            let Some((storage, mut files, view, LogError::Write(_))) =
                refused(&records, step, Fault::Short(7, FULL))
            else {
                break;
            };
            storage.fail_at(mending_step, Fault::Error(FULL));
            match files.mend() {
                Ok(()) => assert!(!storage.has_failed()),
                Err(LogError::Write(_)) => files.mend().unwrap(),
                Err(LogError::Final(_)) => {
                    files.mend().unwrap_err();
                    continue;
                }
            }
            let is_over = !storage.has_failed();
            storage.cancel_fault();
            check_complete(&records, &storage, &mut files, &view);
            if is_over {
                break;
            }
        }
    }
}

#[test]
fn a_power_cut_before_or_during_mending_keeps_all_durable_records() {
    let records = some_records(20);
    for step in 0.. {
        if refused(&records, step, Fault::Short(7, FULL)).is_none() {
            break;
        }
        for (stop, seed) in (0..8).flat_map(|stop| (0..4).map(move |seed| (stop, seed))) {
            let (storage, mut files, view, _) =
                refused(&records, step, Fault::Short(7, FULL)).unwrap();
            storage.fail_at(stop, Fault::Stop);
            // It may have completed or not.
            let _ = files.mend();
            let durable_end = view.durable_end();
            let (_, again, report) = open_log(&storage.after_power_cut(seed)).unwrap();
            again.check();
            assert!(report.end >= durable_end, "{} of {durable_end}", report.end);
            assert!(records.bytes().starts_with(&read_all(&again, 1000)));
        }
    }
}

#[test]
fn a_power_cut_does_not_change_what_a_start_showed_after_a_failed_sync_of_mending() {
    let records = some_records(20);
    // Parts of a record, and whole ones.
    for (step, length) in (0..30).flat_map(|step| [(step, 7), (step, 130)]) {
        for mending_step in 0..8 {
            let Some((storage, mut files, _, LogError::Write(_))) =
                refused(&records, step, Fault::Short(length, FULL))
            else {
                continue;
            };
            storage.fail_at(mending_step, Fault::LostSync);
            let _ = files.mend();
            storage.cancel_fault();
            let (_, shown, _) = open_log(&storage).unwrap();
            let shown = read_all(&shown, 1000);
            for seed in 0..4 {
                let (_, left, _) = open_log(&storage.after_power_cut(seed)).unwrap();
                let is_same = read_all(&left, 1000) == shown;
                assert!(is_same, "steps {step} and {mending_step}");
            }
        }
    }
}

#[test]
fn without_a_sync_for_each_write_held_records_stay_held() {
    let records = some_records(20);
    let storage = FaultyStorage::new();
    let options = LogOptions {
        sync: SyncPolicy::Never,
        segment_bytes: 1 << 20,
        ..options()
    };
    let (mut files, view, _) = crate::log::testing::open_with(
        Arc::new(storage.clone()),
        options,
        Some(crate::log::testing::CLUSTER),
    )
    .unwrap();
    files.append(&[records.truncated(10).batch()]).unwrap();
    storage.fail_at(0, Fault::Short(100, FULL));
    let more = records.batch().slice(Offset(10), Offset(20)).unwrap();
    files.append(std::slice::from_ref(&more)).unwrap_err();
    assert_eq!(view.durable_end(), Offset(10));
    files.mend().unwrap();
    assert!(files.is_synced());
    assert_eq!(view.durable_end(), Offset(10));
    files.append(&[more]).unwrap();
    assert_eq!(read_all(&view, 1000), records.bytes());
}
