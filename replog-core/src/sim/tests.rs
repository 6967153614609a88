//! Bugs that runs found, each as the smallest run that shows it.

use std::{cell::RefCell, rc::Rc, time::Duration};

use crate::{
    frame::testing::batch,
    log::{self, LogOptions},
    sim::{Faults, Machine, Simulation},
    types::{ClusterId, Offset, SyncPolicy},
};

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

fn open(machine: &Machine) -> Option<(log::LogFiles, Offset)> {
    let options = LogOptions {
        segment_bytes: 1 << 20,
        tail_bytes: 0,
        preallocate_bytes: 0,
        sync: SyncPolicy::Always,
    };
    // Without a mark nothing counts as intact yet.
    let storage = machine.storage();
    let names = storage.list("").ok()?;
    let look = match names.iter().any(|name| name == "mark") {
        true => log::OpenScan::LastSegment,
        false => log::OpenScan::AllSegments,
    };
    let (files, _, report) = log::open(storage, options, Some(CLUSTER), look, |_| Ok(())).ok()?;
    Some((files, report.end))
}

/// A sync of the first segment's header failed, the process ended, and the next one read the header
/// from the cache: it was never on the disk, and a power cut took everything written after it.
#[test]
fn a_header_whose_sync_failed_is_not_believed_at_the_next_start() {
    let mut held = 0;
    for seed in 0..200 {
        let ends = Rc::new(RefCell::new(Vec::new()));
        let seen = ends.clone();
        let faults = Faults {
            failed_sync: 0.2,
            ..Faults::none()
        };
        let outcome = Simulation::new(seed)
            .client("alone", move |machine: Machine| {
                let seen = seen.clone();
                async move {
                    let Some((mut files, end)) = open(&machine) else {
                        return;
                    };
                    // Everything reported as durable is there at every later start.
                    let durable = seen.borrow().last().copied().unwrap_or(Offset::ZERO);
                    if end < durable {
                        machine.fail(format!("{durable} was durable, and the log ends at {end}"));
                    }
                    let records = batch(end.0..end.0 + 1, 1);
                    if files.append(&[records]).is_ok() && files.sync().is_ok() {
                        seen.borrow_mut().push(files.durable_end());
                    }
                    machine.sleep(Duration::from_millis(100)).await;
                    machine.lose_power();
                    std::future::pending().await
                }
            })
            .faults(faults)
            .lasting(Duration::from_secs(20), Duration::from_secs(1))
            .run();
        held += ends.borrow().len();
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
    assert!(held > 200, "{held} records were durable");
}
