//! Validation of messages between nodes: the bounds that a message must keep before any rule acts on it.
//!
//! Owns checks of one message against itself and, for an answer, against the epoch that was asked for. Every
//! message of a correct node passes all of them; one that fails is answered `malformed` or counts as no answer,
//! and is counted. [`Epoch::capped_for_request`] and [`Epoch::capped_for_recovery`] limit how far an epoch is
//! followed. No check can tell whether a message that passes is *true*: the rules that act on it believe no more
//! of it than they must. Keeps rules 5, 9 and 11.

use crate::{
    transport::{Answer, Hello, Progress, Refusal, Request, RequestBody, Response},
    types::{Epoch, EpochStart, Offset},
};

/// Checks a request.
///
/// # Errors
///
/// A sentence that describes the defect.
pub(crate) fn check_request(request: &Request) -> Result<(), String> {
    let epoch = request.epoch;
    match &request.body {
        RequestBody::Identify | RequestBody::Fetch(_) => Ok(()),
        RequestBody::Promise(promise) => {
            check_raise(epoch)?;
            check_not_above(promise.log_epoch, epoch, "log epoch")
        }
        RequestBody::Hello(hello) => {
            check_raise(epoch)?;
            check_hello(epoch, hello)
        }
        RequestBody::Heartbeat(progress) => check_progress(progress),
        RequestBody::Append(append) => {
            let Some(last) = append.records.last() else {
                return Err("no records".to_owned());
            };
            let mut pairs = append.records.windows(2);
            if pairs.any(|pair| pair[0].end() != pair[1].first()) {
                return Err("a gap among the records".to_owned());
            }
            let mut pairs = append.records.windows(2);
            if pairs.any(|pair| pair[1].first_epoch() < pair[0].last_epoch()) {
                return Err("the epochs of the records decrease".to_owned());
            }
            let end = append.progress.end;
            if last.end() > end {
                let records_end = last.end();
                return Err(format!(
                    "records up to {records_end} of a log that ends at {end}"
                ));
            }
            check_not_above(Some(last.last_epoch()), epoch, "epoch of a record")?;
            check_progress(&append.progress)
        }
    }
}

/// Checks a response to a request of epoch `asked`, which this node has durably promised itself; 0 for a
/// request that asked for the node's identity.
///
/// # Errors
///
/// A sentence that describes the defect.
pub(crate) fn check_response(asked: Epoch, response: &Response) -> Result<(), String> {
    let promised = response.state.promised;
    check_not_above(response.state.log_epoch, promised, "log epoch")?;
    // A node acts on a request of an epoch only if it has promised that epoch, and no newer one.
    let is_done = || match promised == asked {
        true => Ok(()),
        false => Err(format!(
            "answer for epoch {asked} from a node that has promised {promised}"
        )),
    };
    match &response.answer {
        Answer::Identity(_) => Ok(()),
        Answer::Promised(granted) => {
            is_done()?;
            check_not_above(granted.forced_epoch, asked, "forced epoch")?;
            check_starts(&granted.epoch_starts, response.state.durable_end)?;
            if let Some(whole) = granted.last_whole {
                check_not_above(Some(whole.log_epoch), asked, "log epoch before damage")?;
                if response.state.log_epoch.is_some() {
                    return Err("both intact and damaged".to_owned());
                }
            }
            let newest = granted.epoch_starts.last();
            check_not_above(
                newest.map(|newest| newest.epoch),
                asked,
                "epoch of a record",
            )
        }
        Answer::Aligned(_) | Answer::OlderStartsNeeded { .. } | Answer::Taken => is_done(),
        Answer::Records(fetched) => {
            is_done()?;
            let mut pairs = fetched.records.windows(2);
            if pairs.any(|pair| pair[0].end() != pair[1].first()) {
                return Err("a gap among the records".to_owned());
            }
            let mut pairs = fetched.records.windows(2);
            if pairs.any(|pair| pair[1].first_epoch() < pair[0].last_epoch()) {
                return Err("the epochs of the records decrease".to_owned());
            }
            let newest = fetched.records.last().map(|batch| batch.last_epoch());
            check_not_above(newest, asked, "epoch of a record")
        }
        Answer::Refused(Refusal::Fenced(by)) => match by.epoch < asked {
            true => Err(format!(
                "fenced by epoch {}, which is older than {asked}",
                by.epoch
            )),
            false => Ok(()),
        },
        Answer::Refused(_) => Ok(()),
    }
}

/// Checks the epoch of a promise request or a hello, which raises this node's promise.
fn check_raise(epoch: Epoch) -> Result<(), String> {
    if epoch == Epoch(0) {
        return Err("epoch 0 belongs to no master".to_owned());
    }
    match epoch.is_believable() {
        true => Ok(()),
        false => Err(format!(
            "epoch {epoch} is higher than any that a cluster can reach"
        )),
    }
}

fn check_hello(epoch: Epoch, hello: &Hello) -> Result<(), String> {
    if hello.log_epoch != Some(epoch) {
        return Err("a hello before its sender took the log epoch".to_owned());
    }
    check_not_above(hello.forced_epoch, epoch, "forced epoch")?;
    let within = [
        ("adopted end", hello.adopted_end),
        ("end of the epoch starts", hello.epoch_starts_end),
    ];
    for (what, offset) in within {
        if offset > hello.end {
            let end = hello.end;
            return Err(format!("{what} {offset} lies beyond the log's end, {end}"));
        }
    }
    // The first record of the epoch may be written after the end was read.
    check_starts(&hello.epoch_starts, hello.epoch_starts_end.plus(1))?;
    let newest = hello.epoch_starts.last().map(|newest| newest.epoch);
    check_not_above(newest, epoch, "epoch of a record")
}

fn check_progress(progress: &Progress) -> Result<(), String> {
    let within = [
        ("committed", progress.committed),
        ("refill target", progress.refill_target),
    ];
    for (what, offset) in within {
        if let Some(offset) = offset.filter(|offset| *offset > progress.end) {
            let end = progress.end;
            return Err(format!("{what} {offset} lies beyond the log's end, {end}"));
        }
    }
    Ok(())
}

/// Checks that epochs ascend, each with a record of its own below `end`.
fn check_starts(starts: &[EpochStart], end: Offset) -> Result<(), String> {
    let ascends =
        |pair: &[EpochStart]| pair[0].epoch < pair[1].epoch && pair[0].first < pair[1].first;
    if !starts.windows(2).all(ascends) {
        return Err("the epoch starts do not ascend".to_owned());
    }
    match starts.last().filter(|newest| newest.first >= end) {
        Some(newest) => Err(format!(
            "epoch {} starts at {}, and the log ends before {end}",
            newest.epoch, newest.first
        )),
        None => Ok(()),
    }
}

fn check_not_above(found: Option<Epoch>, limit: Epoch, what: &str) -> Result<(), String> {
    match found.filter(|found| *found > limit) {
        Some(found) => Err(format!("{what} {found} is above epoch {limit}")),
        None => Ok(()),
    }
}
