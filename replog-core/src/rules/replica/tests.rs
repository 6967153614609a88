//! A replica under test: requests and reports in, exact actions out.

use super::*;
use crate::{
    frame::testing::batch,
    limits::REORDER_RECORDS_MAX,
    log::ClusterIdentity,
    rules::fence::promise_to,
    transport::{FencedBy, Promise, Promised as GrantedPromise},
    types::{DiskState, InstanceId},
};

/// Epochs of a written log.
#[derive(Default)]
struct Log(Vec<u64>);

impl LogFacts for Log {
    fn epoch_starts(&self, limit: usize) -> Vec<EpochStart> {
        let mut starts: Vec<EpochStart> = Vec::new();
        for (first, epoch) in self.0.iter().enumerate() {
            if starts.last().is_none_or(|last| last.epoch != Epoch(*epoch)) {
                starts.push(start(*epoch, first as u64));
            }
        }
        starts.split_off(starts.len().saturating_sub(limit))
    }

    fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        self.0.get(offset.0 as usize).copied().map(Epoch)
    }

    fn end(&self) -> Offset {
        Offset(self.0.len() as u64)
    }
}

struct Bench {
    replica: Replica,
    log: Log,
    now: Instant,
    next: RequestId,
}

fn start(epoch: u64, first: u64) -> EpochStart {
    EpochStart {
        epoch: Epoch(epoch),
        first: Offset(first),
    }
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn nodes() -> Vec<NodeName> {
    vec![name("m"), name("s1"), name("s2")]
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([1; 16])
}

fn life(byte: u8, start: u64) -> Incarnation {
    Incarnation {
        instance: InstanceId::from_bytes([byte; 16]),
        start,
    }
}

/// Returns the secondary's own incarnation.
fn own() -> Incarnation {
    life(7, 1)
}

fn blank() -> Meta {
    Meta {
        last_whole: None,
        name: name("s1"),
        instance: own().instance,
        start: 1,
        cluster: None,
        promised: None,
        log_epoch: None,
        forced_epoch: None,
    }
}

/// Returns a meta that has promised `epoch` to its master, with this log epoch.
fn meta(epoch: u64, log_epoch: Option<u64>) -> Meta {
    Meta {
        cluster: Some(ClusterIdentity {
            id: cluster(),
            nodes: nodes(),
        }),
        promised: Some(promise_to(None, Epoch(epoch), &name("m"), life(1, epoch))),
        log_epoch: log_epoch.map(Epoch),
        ..blank()
    }
}

fn request(epoch: u64, body: RequestBody) -> Request {
    Request {
        cluster: Some(cluster()),
        from: name("m"),
        incarnation: life(1, epoch),
        to: name("s1"),
        epoch: Epoch(epoch),
        body,
    }
}

fn promise(log_epoch: u64) -> RequestBody {
    RequestBody::Promise(Promise {
        nodes: nodes(),
        log_epoch: Some(Epoch(log_epoch)),
    })
}

fn hello(epoch: u64, end: u64, adopted_end: u64, starts: &[(u64, u64)]) -> RequestBody {
    RequestBody::Hello(Hello {
        nodes: nodes(),
        log_epoch: Some(Epoch(epoch)),
        public_url: None,
        end: Offset(end),
        adopted_end: Offset(adopted_end),
        epoch_starts: starts.iter().map(|(e, f)| start(*e, *f)).collect(),
        epoch_starts_end: Offset(end),
        forced_epoch: None,
    })
}

fn progress(end: u64, committed: Option<u64>, refill_target: Option<u64>) -> Progress {
    Progress {
        to_incarnation: own(),
        end: Offset(end),
        committed: committed.map(Offset),
        refill_target: refill_target.map(Offset),
    }
}

fn append(range: std::ops::Range<u64>, epoch: u64) -> RequestBody {
    RequestBody::Append(Append {
        progress: progress(range.end, None, None),
        records: vec![batch(range, epoch)],
    })
}

/// Short form of an action in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    Write(u64, u64),
    /// The promised epoch and the log epoch to be saved.
    Save(u64, Option<u64>),
    Quarantine(u64, u64),
    Truncate(u64),
    ReadStarts(u64),
    Fetch,
    Resume,
    Inspect(u64),
    /// The request, the answer, and the end and log epoch that it names.
    Answer(RequestId, Answer, u64, Option<u64>),
}
use Did::{Save, Truncate, Write};

fn answered(request: RequestId, answer: Answer, end: u64, log_epoch: Option<u64>) -> Did {
    Did::Answer(request, answer, end, log_epoch)
}

fn refused(request: RequestId, refusal: Refusal, end: u64, log_epoch: Option<u64>) -> Did {
    Did::Answer(request, Answer::Refused(refusal), end, log_epoch)
}

fn aligned(cut_records: u64) -> Answer {
    Answer::Aligned(Aligned {
        cut_records,
        public_url: None,
    })
}

fn fenced_by(epoch: u64) -> FencedBy {
    FencedBy {
        name: name("m"),
        instance: life(1, 0).instance,
        epoch: Epoch(epoch),
    }
}

impl Bench {
    fn new(meta: Meta, log: &[u64]) -> Bench {
        Bench {
            replica: Replica::new(meta, OwnLog::whole(Offset(log.len() as u64))),
            log: Log(log.to_vec()),
            now: Instant::now(),
            next: 0,
        }
    }

    /// Returns a bench intact at epoch 5 and aligned in it; request 0 is answered.
    fn aligned(log: &[u64]) -> Bench {
        let mut bench = Bench::new(meta(5, Some(5)), log);
        let end = log.len() as u64;
        let starts: Vec<(u64, u64)> = bench.pairs();
        bench.ask(5, hello(5, end, 0, &starts));
        bench.saved();
        bench
    }

    /// Returns a bench that is not intact and aligned in epoch 5 with an empty log.
    fn refilling() -> Bench {
        let mut bench = Bench::new(blank(), &[]);
        bench.ask(5, hello(5, 10, 10, &[(4, 0)]));
        assert_eq!(bench.saved(), [answered(0, aligned(0), 0, None)]);
        bench
    }

    fn pairs(&self) -> Vec<(u64, u64)> {
        let starts = self.log.epoch_starts(usize::MAX);
        starts.iter().map(|s| (s.epoch.0, s.first.0)).collect()
    }

    fn ask(&mut self, epoch: u64, body: RequestBody) -> Vec<Did> {
        self.send(request(epoch, body))
    }

    fn send(&mut self, request: Request) -> Vec<Did> {
        let id = self.next;
        self.next += 1;
        self.replica.on_request(self.now, id, request, &self.log);
        self.did()
    }

    /// The writer reports the next save.
    fn saved(&mut self) -> Vec<Did> {
        let ticket = self.replica.durable.first_ticket();
        let end = Offset(self.log.0.len() as u64);
        self.replica.on_saved(ticket, end, &self.log);
        self.did()
    }

    /// The writer has written and synced these.
    fn durable(&mut self, epochs: &[u64]) -> Vec<Did> {
        self.log.0.extend(epochs);
        self.replica.on_durable(Offset(self.log.0.len() as u64));
        self.did()
    }

    fn truncated(&mut self, to: usize) -> Vec<Did> {
        let ticket = self.replica.durable.first_ticket();
        let records = (self.log.0.len() - to) as u64;
        self.log.0.truncate(to);
        let from = Offset(to as u64);
        self.replica.on_truncated(ticket, Cut { from, records });
        self.did()
    }

    fn did(&mut self) -> Vec<Did> {
        self.replica.reorder.check();
        let did = |action| {
            Some(match action {
                ReplicaAction::Answer { request, response } => {
                    assert_eq!(response.incarnation, own());
                    let state = response.state;
                    let log_epoch = state.log_epoch.map(|e| e.0);
                    Did::Answer(request, response.answer, state.durable_end.0, log_epoch)
                }
                ReplicaAction::Write(batch) => Write(batch.first().0, batch.end().0),
                ReplicaAction::Save(save) => {
                    let meta = save.meta;
                    let promised = meta.promised.map_or(0, |promised| promised.epoch.0);
                    Save(promised, meta.log_epoch.map(|e| e.0))
                }
                ReplicaAction::Quarantine { from, epoch } => Did::Quarantine(from.0, epoch.0),
                ReplicaAction::Truncate { to, .. } => Truncate(to.0),
                ReplicaAction::Fetch { .. } => Did::Fetch,
                ReplicaAction::ReadStarts { before, .. } => Did::ReadStarts(before.0),
                ReplicaAction::Resume => Did::Resume,
                ReplicaAction::Inspect { offset } => Did::Inspect(offset.0),
                ReplicaAction::Changed(_) => return None,
            })
        };
        self.replica
            .take_actions()
            .into_iter()
            .filter_map(did)
            .collect()
    }
}

fn heartbeat(committed: Option<u64>, refill_target: Option<u64>) -> RequestBody {
    RequestBody::Heartbeat(progress(100, committed, refill_target))
}

#[test]
fn a_promise_is_saved_before_it_is_answered_even_when_repeated() {
    let mut bench = Bench::new(meta(5, Some(5)), &[5, 5]);
    for request in 0..2 {
        assert_eq!(bench.ask(6, promise(5)), [Save(6, Some(5))]);
        let epoch_starts = vec![start(5, 0)];
        let promised = Answer::Promised(GrantedPromise {
            last_whole: None,
            epoch_starts,
            forced_epoch: None,
        });
        assert_eq!(bench.saved(), [answered(request, promised, 2, Some(5))]);
    }
    let mut other = request(6, promise(5));
    other.incarnation.start += 1;
    let fenced = Refusal::Fenced(fenced_by(6));
    assert_eq!(bench.send(other), [refused(2, fenced, 2, Some(5))]);
}

#[test]
fn promises_that_are_refused() {
    let mut replaced = meta(5, Some(5));
    replaced.promised.as_mut().unwrap().replaced = vec![life(2, 0).instance];
    let by = fenced_by(5);
    let mut old = request(9, promise(5));
    old.incarnation = life(2, 9);
    let table = [
        (request(4, promise(4)), Refusal::Fenced(by.clone())),
        (request(4, hello(4, 0, 0, &[])), Refusal::Fenced(by.clone())),
        (request(9, promise(4)), Refusal::OutOfDate(by.clone())),
        (old, Refusal::Replaced(by)),
    ];
    for (request, refusal) in table {
        let mut bench = Bench::new(replaced.clone(), &[5]);
        assert_eq!(bench.send(request), [refused(0, refusal, 1, Some(5))]);
    }
}

#[test]
fn requests_without_a_hello_are_refused() {
    let mut other_life = progress(9, None, None);
    other_life.to_incarnation.start = 0;
    let fetch = Fetch {
        to_incarnation: own(),
        from: Offset(0),
        bytes_max: 1,
        epoch_starts: false,
    };
    let table = [
        (5, heartbeat(None, None), Refusal::HelloFirst),
        (5, append(0..1, 5), Refusal::HelloFirst),
        (6, heartbeat(None, None), Refusal::HelloFirst),
        (6, append(0..1, 6), Refusal::HelloFirst),
        (6, RequestBody::Fetch(fetch), Refusal::HelloFirst),
        (
            5,
            RequestBody::Heartbeat(other_life),
            Refusal::WrongIncarnation,
        ),
        (4, append(0..1, 4), Refusal::Fenced(fenced_by(5))),
        (4, RequestBody::Fetch(fetch), Refusal::Fenced(fenced_by(5))),
    ];
    for (epoch, body, refusal) in table {
        let mut bench = Bench::new(meta(5, Some(4)), &[4]);
        let did = bench.ask(epoch, body.clone());
        assert_eq!(did, [refused(0, refusal, 1, Some(4))], "{epoch} {body:?}");
    }
    let mut bench = Bench::new(meta(5, Some(4)), &[4]);
    assert_eq!(bench.ask(5, RequestBody::Fetch(fetch)), [Did::Fetch]);
}

#[test]
fn a_blank_node_joins_with_the_hello_and_is_not_intact_until_its_target_is_reached() {
    let mut bench = Bench::refilling();
    assert_eq!(
        bench.replica.meta().promised.as_ref().unwrap().epoch,
        Epoch(5)
    );
    assert_eq!(bench.ask(5, append(0..10, 4)), [Write(0, 10)]);
    let taken = answered(1, Answer::Taken, 10, None);
    assert_eq!(
        bench.durable(&[4; 10]),
        [taken],
        "no target yet: its end does not count"
    );
    let taken = answered(2, Answer::Taken, 10, None);
    assert_eq!(bench.ask(5, heartbeat(None, Some(12))), [taken]);
    assert_eq!(bench.ask(5, append(10..12, 5)), [Write(10, 12)]);
    assert_eq!(
        bench.durable(&[5; 2]),
        [Save(5, Some(5))],
        "answers wait for the log epoch"
    );
    assert_eq!(bench.saved(), [answered(3, Answer::Taken, 12, Some(5))]);
}

#[test]
fn a_hello_resets_the_refill_target() {
    let mut bench = Bench::refilling();
    bench.ask(5, heartbeat(None, Some(10)));
    bench.ask(5, append(0..5, 4));
    bench.durable(&[4; 5]);
    assert_eq!(
        bench.ask(5, hello(5, 20, 10, &[(4, 0), (5, 10)])),
        [Save(5, None)]
    );
    assert_eq!(bench.saved(), [answered(3, aligned(0), 5, None)]);
    bench.ask(5, append(5..10, 4));
    assert_eq!(
        bench.durable(&[4; 5]),
        [answered(4, Answer::Taken, 10, None)]
    );
}

#[test]
fn an_intact_log_takes_the_log_epoch_once_it_covers_what_the_master_adopted() {
    for (adopted_end, at_once) in [(2, true), (3, false)] {
        let mut bench = Bench::new(meta(4, Some(4)), &[4, 4]);
        assert_eq!(
            bench.ask(5, hello(5, 9, adopted_end, &[(4, 0), (5, 5)])),
            [Save(5, Some(4))]
        );
        if at_once {
            assert_eq!(bench.saved(), [Save(5, Some(5))]);
            assert_eq!(bench.saved(), [answered(0, aligned(0), 2, Some(5))]);
        } else {
            assert_eq!(bench.saved(), [answered(0, aligned(0), 2, Some(4))]);
            assert_eq!(bench.ask(5, append(2..3, 4)), [Write(2, 3)]);
            assert_eq!(bench.durable(&[4]), [Save(5, Some(5))]);
            assert_eq!(bench.saved(), [answered(1, Answer::Taken, 3, Some(5))]);
        }
    }
}

#[test]
fn an_alignment_cuts_to_where_the_logs_agree() {
    // Columns: own epochs, the master's end and pairs, and the offset at which the own log is cut.
    type Case = (&'static [u64], u64, &'static [(u64, u64)], Option<u64>);
    let table: [Case; 6] = [
        (&[1, 1, 1], 9, &[(1, 0), (4, 3)], None),
        (&[1, 1, 2, 2], 9, &[(1, 0), (3, 2)], Some(2)),
        (&[1, 1, 1, 1], 9, &[(1, 0), (3, 2)], Some(2)),
        // A longer log whose pairs agree ends at the master's end.
        (&[1, 1, 1, 1], 2, &[(1, 0)], Some(2)),
        (&[2, 2], 5, &[(1, 0)], Some(0)),
        (&[1, 1], 0, &[], Some(0)),
    ];
    for (own, end, pairs, cut) in table {
        let mut bench = Bench::new(meta(4, Some(3)), own);
        bench.ask(5, hello(5, end, 0, pairs));
        let did = bench.saved();
        match cut {
            None => assert_eq!(did, [Save(5, Some(5))], "{own:?} {pairs:?}"),
            Some(to) => {
                assert_eq!(
                    did,
                    [Did::Quarantine(to, 5), Truncate(to)],
                    "{own:?} {pairs:?}"
                );
                assert_eq!(bench.truncated(to as usize), [Save(5, Some(5))]);
                let records = own.len() as u64 - to;
                assert_eq!(bench.saved(), [answered(0, aligned(records), to, Some(5))]);
            }
        }
    }
}

#[test]
fn the_log_is_not_cut_once_its_log_epoch_is_the_senders() {
    let mut bench = Bench::aligned(&[5, 5, 5]);
    let late = hello(5, 1, 0, &[(5, 0)]);
    assert_eq!(
        bench.ask(5, late.clone()),
        [answered(1, aligned(0), 3, Some(5))]
    );
    let mut bench = Bench::new(meta(5, Some(5)), &[5, 5, 5]);
    assert_eq!(bench.ask(5, late), [Save(5, Some(5))], "after a restart");
    assert_eq!(bench.saved(), [answered(0, aligned(0), 3, Some(5))]);
}

#[test]
fn a_repeated_hello_joins_the_first() {
    let mut bench = Bench::new(meta(4, Some(4)), &[4, 4, 4]);
    let body = hello(5, 2, 2, &[(4, 0)]);
    assert_eq!(bench.ask(5, body.clone()), [Save(5, Some(4))]);
    assert_eq!(bench.ask(5, body.clone()), []);
    assert_eq!(bench.saved(), [Did::Quarantine(2, 5), Truncate(2)]);
    assert_eq!(bench.ask(5, body), []);
    assert_eq!(bench.truncated(2), [Save(5, Some(5))]);
    let all = [0, 1, 2].map(|request| answered(request, aligned(1), 2, Some(5)));
    assert_eq!(bench.saved(), all);
}

#[test]
fn a_hello_of_a_higher_epoch_overtakes_one_in_progress() {
    let mut bench = Bench::new(meta(4, Some(4)), &[4, 4, 4]);
    bench.ask(5, hello(5, 2, 2, &[(4, 0)]));
    assert_eq!(bench.saved(), [Did::Quarantine(2, 5), Truncate(2)]);
    let did = bench.ask(6, hello(6, 1, 1, &[(4, 0)]));
    assert_eq!(
        did,
        [
            refused(0, Refusal::HelloFirst, 2, Some(4)),
            Save(6, Some(4))
        ]
    );
    assert_eq!(bench.truncated(2), []);
    assert_eq!(bench.saved(), [Did::Quarantine(1, 6), Truncate(1)]);
    assert_eq!(bench.truncated(1), [Save(6, Some(6))]);
    assert_eq!(bench.saved(), [answered(1, aligned(1), 1, Some(6))]);
}

#[test]
fn an_end_that_is_about_to_be_cut_is_not_named() {
    let mut bench = Bench::new(meta(4, Some(4)), &[4, 4, 4]);
    bench.ask(5, hello(5, 1, 1, &[(4, 0)]));
    // A promise request of the same epoch, late: its save stands before the cut in the queue,
    // and its report may come when the disk has done both.
    assert_eq!(bench.ask(5, promise(4)), [Save(5, Some(4))]);
    assert_eq!(bench.saved(), [Did::Quarantine(1, 5), Truncate(1)]);
    let did = bench.saved();
    let [Did::Answer(1, Answer::Promised(_), end, Some(4))] = &did[..] else {
        panic!("{did:?}");
    };
    assert_eq!(*end, 1);
}

#[test]
fn older_pairs_are_requested_from_either_log() {
    let mut bench = Bench::new(meta(4, Some(4)), &[1, 1, 1]);
    bench.ask(5, hello(5, 200, 0, &[(3, 100), (4, 120)]));
    let older = Answer::OlderStartsNeeded {
        before: Offset(100),
    };
    assert_eq!(bench.saved(), [answered(0, older, 3, Some(4))]);
    let heartbeat = bench.ask(5, heartbeat(None, None));
    assert_eq!(
        heartbeat,
        [refused(1, Refusal::HelloFirst, 3, Some(4))],
        "not aligned yet"
    );

    /// A log of which only the newest pair is in memory.
    struct Newest;
    impl LogFacts for Newest {
        fn epoch_starts(&self, _: usize) -> Vec<EpochStart> {
            vec![start(4, 2)]
        }
        fn epoch_at(&self, _: Offset) -> Option<Epoch> {
            None
        }
        fn end(&self) -> Offset {
            Offset(3)
        }
    }
    let mut bench = Bench::new(meta(4, Some(4)), &[1, 1, 4]);
    bench.ask(5, hello(5, 2, 2, &[(1, 0)]));
    let ticket = bench.replica.durable.first_ticket();
    bench.replica.on_saved(ticket, Offset(3), &Newest);
    let actions = bench.replica.take_actions();
    let Some(ReplicaAction::ReadStarts {
        serial,
        hello,
        before: Offset(2),
    }) = actions.into_iter().next()
    else {
        panic!("own pairs are needed")
    };
    let mut unread = Bench::new(meta(4, Some(4)), &[1, 1, 4]);
    unread.ask(5, RequestBody::Hello((*hello).clone()));
    let ticket = unread.replica.durable.first_ticket();
    unread.replica.on_saved(ticket, Offset(3), &Newest);
    unread.did();
    unread
        .replica
        .on_older_starts(serial, hello.clone(), &[], &Newest);
    assert!(matches!(
        unread.did()[..],
        [Did::Answer(
            0,
            Answer::Refused(Refusal::Storage { .. }),
            3,
            Some(4)
        )]
    ));
    bench
        .replica
        .on_older_starts(serial, hello, &[start(1, 0), start(4, 2)], &Newest);
    assert_eq!(bench.did(), [Did::Quarantine(2, 5), Truncate(2)]);
}

#[test]
fn a_promise_waits_for_earlier_writes_and_fences_later_ones() {
    let mut bench = Bench::aligned(&[5]);
    assert_eq!(bench.ask(5, append(1..3, 5)), [Write(1, 3)]);
    assert_eq!(bench.ask(5, append(4..5, 5)), [], "behind a gap");
    let did = bench.ask(6, promise(5));
    let parked = |request| refused(request, Refusal::HelloFirst, 1, Some(5));
    assert_eq!(did, [parked(1), parked(2), Save(6, Some(5))]);
    let fenced = Refusal::Fenced(fenced_by(6));
    assert_eq!(
        bench.ask(5, append(3..4, 5)),
        [refused(4, fenced, 1, Some(5))]
    );
    assert_eq!(bench.durable(&[5, 5]), []);
    let epoch_starts = vec![start(5, 0)];
    let promised = Answer::Promised(GrantedPromise {
        last_whole: None,
        epoch_starts,
        forced_epoch: None,
    });
    assert_eq!(bench.saved(), [answered(3, promised, 3, Some(5))]);
    assert_eq!(
        bench.replica.state().buffered,
        0,
        "the reorder buffer is empty"
    );
}

#[test]
fn a_promise_overtaken_while_it_is_saved_is_not_granted() {
    let mut bench = Bench::new(meta(5, Some(5)), &[5]);
    bench.ask(6, promise(5));
    bench.ask(7, promise(5));
    let fenced = Refusal::Fenced(fenced_by(7));
    assert_eq!(bench.saved(), [refused(0, fenced, 1, Some(5))]);
    assert!(matches!(
        bench.saved()[..],
        [Did::Answer(1, Answer::Promised(_), 1, Some(5))]
    ));
}

#[test]
fn records_behind_a_gap_are_held_back_and_answered_when_durable() {
    let mut bench = Bench::aligned(&[5]);
    assert_eq!(bench.ask(5, append(2..3, 5)), []);
    assert_eq!(bench.ask(5, append(2..3, 5)), [], "twice");
    assert_eq!(bench.ask(5, append(1..2, 5)), [Write(1, 2), Write(2, 3)]);
    assert_eq!(
        bench.durable(&[5]),
        [answered(3, Answer::Taken, 2, Some(5))]
    );
    let both = [1, 2].map(|request| answered(request, Answer::Taken, 3, Some(5)));
    assert_eq!(bench.durable(&[5]), both);
    let again = answered(4, Answer::Taken, 3, Some(5));
    assert_eq!(
        bench.ask(5, append(0..3, 5)),
        [again],
        "a duplicate is answered at once"
    );
}

#[test]
fn records_that_are_refused() {
    let far = REORDER_RECORDS_MAX + 3;
    let empty = RequestBody::Append(Append {
        progress: progress(9, None, None),
        records: Vec::new(),
    });
    let gap = RequestBody::Append(Append {
        progress: progress(9, None, None),
        records: vec![batch(3..4, 5), batch(5..6, 5)],
    });
    let malformed = |detail: &str| Refusal::Malformed {
        detail: detail.to_owned(),
    };
    let table = [
        (append(far..far + 1, 5), Refusal::BeyondWindow),
        (append(0..1, 4), Refusal::NotAligned),
        (append(1..4, 4), Refusal::NotAligned),
        (empty, malformed("no records")),
        (gap, malformed("a gap among the records")),
    ];
    for (body, refusal) in table {
        let mut bench = Bench::aligned(&[5, 5, 5]);
        assert_eq!(bench.ask(5, body), [refused(1, refusal, 3, Some(5))]);
    }
}

#[test]
fn requests_that_make_no_sense_change_nothing_and_end_the_conversation() {
    let hello_with = |change: fn(&mut Hello)| {
        let RequestBody::Hello(mut body) = hello(5, 4, 3, &[(4, 0), (5, 3)]) else {
            unreachable!("the helper makes hellos");
        };
        change(&mut body);
        RequestBody::Hello(body)
    };
    let append_with = |change: fn(&mut Progress), records: Vec<FrameBatch>| {
        let mut progress = progress(9, Some(1), None);
        change(&mut progress);
        RequestBody::Append(Append { progress, records })
    };
    let table = [
        hello_with(|hello| hello.log_epoch = Some(Epoch(4))),
        hello_with(|hello| hello.log_epoch = None),
        hello_with(|hello| hello.adopted_end = Offset(5)),
        hello_with(|hello| hello.epoch_starts_end = Offset(5)),
        hello_with(|hello| hello.epoch_starts.push(start(6, 4))),
        hello_with(|hello| hello.epoch_starts[1].first = Offset(5)),
        hello_with(|hello| hello.epoch_starts.reverse()),
        hello_with(|hello| hello.forced_epoch = Some(Epoch(6))),
        heartbeat(Some(101), None),
        heartbeat(None, Some(101)),
        append_with(|_| {}, vec![batch(3..4, 6)]),
        append_with(|_| {}, vec![batch(3..4, 5), batch(4..5, 4)]),
        append_with(|progress| progress.end = Offset(3), vec![batch(3..4, 5)]),
        append_with(
            |progress| progress.committed = Some(Offset(10)),
            vec![batch(3..4, 5)],
        ),
        // After a record of epoch 5 in the log.
        append(3..4, 4),
    ];
    for (nth, body) in table.into_iter().enumerate() {
        let mut bench = Bench::aligned(&[4, 4, 5]);
        let before = bench.replica.meta().clone();
        let did = bench.ask(5, body.clone());
        let is_malformed = |did: &Did| {
            matches!(
                did,
                Did::Answer(1, Answer::Refused(Refusal::Malformed { .. }), 3, Some(5))
            )
        };
        assert!(
            did.len() == 1 && is_malformed(&did[0]),
            "{nth} {body:?}: {did:?}"
        );
        assert_eq!(
            (bench.replica.meta(), bench.replica.malformed()),
            (&before, 1)
        );
        // The correct master goes on from its next hello.
        let first = bench.ask(5, heartbeat(None, None));
        assert_eq!(
            first,
            [refused(2, Refusal::HelloFirst, 3, Some(5))],
            "{nth}"
        );
        bench.ask(5, hello(5, 3, 0, &[(4, 0), (5, 2)]));
        assert_eq!(
            bench.saved(),
            [answered(3, aligned(0), 3, Some(5))],
            "{nth}"
        );
    }
}

#[test]
fn records_that_contradict_queued_or_buffered_ones_are_malformed() {
    // Columns: records that came before, and records that come now.
    let table = [
        (vec![append(3..4, 5)], append(4..5, 4)),
        (vec![append(4..5, 4)], append(3..4, 5)),
        (vec![append(4..6, 4)], append(3..5, 5)),
        (vec![append(4..6, 5)], append(8..9, 4)),
    ];
    for (before, now) in table {
        let mut bench = Bench::aligned(&[4, 4, 4]);
        for body in before {
            bench.ask(5, body);
        }
        let did = bench.ask(5, now);
        let malformed = |did: &Did| {
            matches!(
                did,
                Did::Answer(2, Answer::Refused(Refusal::Malformed { .. }), ..)
            )
        };
        assert!(did.iter().any(malformed), "{did:?}");
        assert!(!did.iter().any(|did| matches!(did, Write(..))), "{did:?}");
        assert_eq!(
            bench.replica.state().buffered,
            0,
            "the conversation has ended"
        );
    }
}

/// A node that was away for any number of forced recoveries comes back, and no single message uses up epochs.
#[test]
fn an_epoch_far_above_is_promised_step_by_step() {
    let leap = crate::limits::EPOCH_LEAP_MAX;
    let asked = 8 + 2 * leap;
    let far = |epoch| [promise(5), hello(epoch, 4, 4, &[(5, 0), (epoch, 3)])];
    for body in far(asked) {
        let mut bench = Bench::new(meta(5, Some(5)), &[5, 5, 5]);
        for (nth, part) in [5 + leap, 5 + 2 * leap].into_iter().enumerate() {
            assert_eq!(bench.ask(asked, body.clone()), [Save(part, Some(5))]);
            let again = refused(nth as u64, Refusal::HelloFirst, 3, Some(5));
            assert_eq!(bench.saved(), [again]);
            assert_eq!(bench.replica.state().promised, Epoch(part));
        }
        assert_eq!(bench.ask(asked, body), [Save(asked, Some(5))]);
        let did = bench.saved();
        assert!(
            matches!(
                &did[..],
                [Did::Answer(2, Answer::Promised(_) | Answer::Aligned(_), ..)]
            ),
            "{did:?}"
        );
    }
}

#[test]
fn an_epoch_that_no_cluster_can_reach_is_not_promised() {
    let leap = crate::limits::EPOCH_LEAP_MAX;
    let far = |epoch| [promise(5), hello(epoch, 1, 0, &[(5, 0)])];
    for epoch in [1 << 62, u64::MAX] {
        for body in far(epoch) {
            let mut bench = Bench::new(meta(5, Some(5)), &[5]);
            let did = bench.ask(epoch, body);
            let malformed = Refusal::Malformed {
                detail: String::new(),
            };
            let [Did::Answer(0, Answer::Refused(refusal), 1, Some(5))] = &did[..] else {
                panic!("{did:?}");
            };
            let same_kind = std::mem::discriminant(refusal) == std::mem::discriminant(&malformed);
            assert!(same_kind, "{refusal:?}");
            assert_eq!(bench.replica.meta(), &meta(5, Some(5)));
            assert_eq!(
                bench.ask(6, promise(5)),
                [Save(6, Some(5))],
                "the correct master's"
            );
        }
    }
    // Within reach, even for a node that has promised nothing yet.
    let mut bench = Bench::new(meta(5, Some(5)), &[5]);
    assert_eq!(bench.ask(5 + leap, promise(5)), [Save(5 + leap, Some(5))]);
    let mut bench = Bench::new(blank(), &[]);
    assert_eq!(bench.ask(9 * leap, promise(5)), [Save(9 * leap, None)]);
    let mut bench = Bench::new(blank(), &[]);
    assert!(matches!(
        bench.ask(1 << 62, promise(5))[..],
        [Did::Answer(..)]
    ));
    assert!(matches!(bench.ask(0, promise(0))[..], [Did::Answer(..)]));
}

#[test]
fn a_hello_that_would_lose_known_committed_records_is_refused() {
    let known = || {
        let mut bench = Bench::aligned(&[5, 5, 5, 5]);
        bench.ask(5, heartbeat(Some(3), None));
        bench
    };
    // From the same master, and from the next: the knowledge outlives the epoch.
    let mut bench = known();
    assert_eq!(bench.ask(6, promise(5)), [Save(6, Some(5))]);
    bench.saved();
    let below = Refusal::BelowCommitted {
        committed: Offset(3),
    };
    let hello_6 = |end| hello(6, end, end, &[(5, 0)]);
    assert_eq!(bench.ask(6, hello_6(2)), [refused(3, below, 4, Some(5))]);
    assert_eq!(bench.ask(6, hello_6(3)), [Save(6, Some(5))]);
    assert_eq!(bench.saved(), [Did::Quarantine(3, 6), Truncate(3)]);

    // It does not vouch for records that it does not hold.
    let mut bench = Bench::aligned(&[5, 5]);
    bench.ask(5, heartbeat(Some(9), None));
    assert_eq!(bench.ask(6, hello(6, 2, 2, &[(5, 0)])), [Save(6, Some(5))]);

    // A forced recovery may lose them, and what it kept is committed from then on.
    let mut bench = known();
    assert_eq!(
        bench.ask(90, forced_hello(90, 2, &[(5, 0)], 90)),
        [Save(90, Some(5))]
    );
    assert_eq!(bench.saved(), [Did::Quarantine(2, 90), Truncate(2)]);
    assert_eq!(bench.truncated(2), [Save(90, Some(90))]);
    bench.saved();
    assert_eq!(
        bench.ask(91, hello(91, 2, 2, &[(5, 0)])),
        [Save(91, Some(90))]
    );

    // The same hello again, late: nothing is cut any more, nor refused.
    let mut bench = known();
    assert_eq!(
        bench.ask(5, hello(5, 1, 0, &[(5, 0)])),
        [answered(2, aligned(0), 4, Some(5))]
    );
}

#[test]
fn no_more_answers_are_parked_than_allowed() {
    let mut bench = Bench::aligned(&[5]);
    for _ in 0..PARKED_ANSWERS_MAX {
        assert_eq!(bench.ask(5, append(2..3, 5)), []);
    }
    let did = bench.ask(5, append(2..3, 5));
    assert!(matches!(
        did[..],
        [Did::Answer(_, Answer::Refused(Refusal::BeyondWindow), ..)]
    ));
}

#[test]
fn committed_is_taken_over_only_once_aligned_and_shown_only_as_far_as_held() {
    let mut bench = Bench::new(meta(5, Some(5)), &[5, 5]);
    bench.ask(5, heartbeat(Some(2), None));
    assert_eq!(bench.replica.committed(), None);
    bench.ask(5, hello(5, 9, 0, &[(5, 0)]));
    bench.ask(5, heartbeat(Some(2), None));
    assert_eq!(
        bench.replica.committed(),
        None,
        "the hello is not answered yet"
    );
    bench.saved();
    bench.ask(5, heartbeat(Some(4), None));
    assert_eq!(bench.replica.committed(), Some(Offset(2)));
    bench.ask(5, heartbeat(Some(1), None));
    bench.ask(5, heartbeat(None, None));
    assert_eq!(
        bench.replica.committed(),
        Some(Offset(2)),
        "it never goes back"
    );
    bench.ask(6, promise(5));
    assert_eq!(bench.replica.committed(), None, "another epoch");
}

#[test]
fn a_failed_disk_acknowledges_nothing_any_more() {
    let mut bench = Bench::aligned(&[5]);
    bench.ask(5, append(1..2, 5));
    bench.replica.on_failed("broken");
    let storage = || Refusal::Storage {
        detail: "broken".to_owned(),
    };
    assert_eq!(bench.did(), [refused(1, storage(), 1, Some(5))]);
    assert_eq!(
        bench.ask(5, heartbeat(None, None)),
        [refused(2, storage(), 1, Some(5))]
    );
}

#[test]
fn strangers_learn_nothing_and_change_nothing() {
    let mut bench = Bench::new(meta(5, Some(5)), &[5]);
    let mut other = request(9, promise(5));
    other.cluster = Some(ClusterId::from_bytes([2; 16]));
    assert_eq!(
        bench.send(other),
        [refused(0, Refusal::WrongCluster, 1, Some(5))]
    );
    let mut other = request(9, promise(5));
    other.to = name("s2");
    assert_eq!(
        bench.send(other),
        [refused(1, Refusal::WrongNode, 1, Some(5))]
    );
    let mut identify = request(0, RequestBody::Identify);
    identify.cluster = None;
    let identity = Answer::Identity(Identity {
        nodes: nodes(),
        master: None,
    });
    assert_eq!(bench.send(identify), [answered(2, identity, 1, Some(5))]);
    assert_eq!(bench.replica.meta(), &meta(5, Some(5)));
}

fn full() -> WriteOutage {
    WriteOutage {
        disk: DiskState::Full,
        detail: "no room".into(),
    }
}

fn no_room() -> Refusal {
    Refusal::Storage {
        detail: "no room".to_owned(),
    }
}

#[test]
fn a_full_disk_ends_the_conversation_and_drops_unwritten_records() {
    let mut bench = Bench::refilling();
    bench.ask(5, heartbeat(None, Some(10)));
    bench.ask(5, append(0..10, 4));
    bench.durable(&[4; 10]);
    bench.saved();
    assert_eq!(bench.ask(5, append(10..12, 5)), [Write(10, 12)]);
    assert_eq!(bench.ask(5, append(14..15, 5)), [], "behind a gap");
    bench.replica.on_write_failed(bench.now, full());
    let refused_both = [
        refused(3, no_room(), 10, Some(5)),
        refused(4, no_room(), 10, Some(5)),
    ];
    assert_eq!(bench.did(), refused_both);
    assert_eq!(bench.replica.disk(), DiskState::Full);
    assert_eq!(bench.replica.state().buffered, 0);

    // Heartbeats too: a node that cannot take records does not count for a quorum.
    let asked = [
        heartbeat(None, None),
        append(10..12, 5),
        hello(5, 12, 10, &[(4, 0), (5, 10)]),
    ];
    for (nth, body) in asked.into_iter().enumerate() {
        let refusal = refused(5 + nth as u64, no_room(), 10, Some(5));
        assert_eq!(bench.ask(5, body), [refusal]);
    }
    let fenced = refused(8, Refusal::Fenced(fenced_by(5)), 10, Some(5));
    assert_eq!(
        bench.ask(4, append(10..12, 4)),
        [fenced],
        "rule 9 comes first"
    );

    bench.replica.on_deadline(bench.now);
    assert_eq!(bench.did(), [], "no probe before its time");
    bench.now = bench.replica.next_deadline().unwrap();
    bench.replica.on_deadline(bench.now);
    assert_eq!(bench.did(), [Did::Resume]);
    bench
        .replica
        .on_resumed(bench.now, OwnLog::whole(Offset(10)));
    assert_eq!(bench.replica.disk(), DiskState::Ok);
    let greet = refused(9, Refusal::HelloFirst, 10, Some(5));
    assert_eq!(bench.ask(5, heartbeat(None, None)), [greet]);
    assert_eq!(
        bench.ask(5, hello(5, 12, 10, &[(4, 0), (5, 10)])),
        [Save(5, Some(5))]
    );
    assert_eq!(bench.saved(), [answered(10, aligned(0), 10, Some(5))]);
    assert_eq!(
        bench.ask(5, append(10..12, 5)),
        [Write(10, 12)],
        "once more"
    );
}

#[test]
fn a_promise_that_could_not_be_saved_was_not_granted() {
    let mut bench = Bench::new(meta(5, Some(4)), &[4]);
    assert_eq!(bench.ask(6, promise(5)), [Save(6, Some(4))]);
    bench.replica.on_write_failed(bench.now, full());
    assert_eq!(bench.did(), [refused(0, no_room(), 1, Some(4))]);
    assert_eq!(bench.replica.state().promised, Epoch(5));
    bench
        .replica
        .on_resumed(bench.now, OwnLog::whole(Offset(1)));
    bench.did();
    // The previous master holds the promise.
    assert_eq!(bench.ask(5, hello(5, 1, 1, &[(4, 0)])), [Save(5, Some(4))]);
}

#[test]
fn a_hello_or_a_log_epoch_that_could_not_be_saved_is_retried() {
    let mut bench = Bench::new(meta(4, Some(4)), &[4, 4]);
    assert_eq!(bench.ask(5, hello(5, 2, 2, &[(4, 0)])), [Save(5, Some(4))]);
    assert_eq!(bench.saved(), [Save(5, Some(5))], "the log epoch");
    bench.replica.on_write_failed(bench.now, full());
    assert_eq!(bench.did(), [refused(0, no_room(), 2, Some(4))]);
    bench
        .replica
        .on_resumed(bench.now, OwnLog::whole(Offset(2)));
    bench.did();
    assert_eq!(bench.ask(5, hello(5, 2, 2, &[(4, 0)])), [Save(5, Some(4))]);
    assert_eq!(bench.saved(), [Save(5, Some(5))]);
    assert_eq!(bench.saved(), [answered(1, aligned(0), 2, Some(5))]);
}

/// Returns a hello of a master whose recovery was forced in `forced`.
fn forced_hello(epoch: u64, end: u64, starts: &[(u64, u64)], forced: u64) -> RequestBody {
    let RequestBody::Hello(mut hello) = hello(epoch, end, end, starts) else {
        unreachable!("the helper makes hellos");
    };
    hello.forced_epoch = Some(Epoch(forced));
    RequestBody::Hello(hello)
}

#[test]
fn records_lost_by_a_forced_recovery_are_quarantined_before_they_are_cut() {
    // Also if this hello is of a later epoch: the node was away when recovery was forced.
    for epoch in [90, 95] {
        let mut bench = Bench::new(meta(5, Some(5)), &[4, 4, 5, 5]);
        let hello = || forced_hello(epoch, 3, &[(4, 0), (90, 2)], 90);
        assert_eq!(bench.ask(epoch, hello()), [Save(epoch, Some(5))]);
        assert_eq!(bench.saved(), [Did::Quarantine(2, epoch), Truncate(2)]);
        assert_eq!(bench.truncated(2), [answered(0, aligned(2), 2, Some(5))]);
        let known = bench.replica.meta().forced_epoch;
        assert_eq!(known, Some(Epoch(90)), "even for a master that forgot it");
    }
}

#[test]
fn cut_records_are_quarantined_without_a_forced_recovery_and_after_one_too() {
    let cases = [(Some(5), None), (Some(95), Some(90)), (Some(90), Some(90))];
    for (log_epoch, forced) in cases {
        let mut meta = meta(96, log_epoch);
        meta.forced_epoch = forced.map(Epoch);
        let mut bench = Bench::new(meta, &[4, 4, 5, 5]);
        bench.ask(97, hello(97, 3, 3, &[(4, 0), (97, 2)]));
        assert_eq!(
            bench.saved(),
            [Did::Quarantine(2, 97), Truncate(2)],
            "{log_epoch:?} {forced:?}"
        );
    }
}

#[test]
fn a_node_that_is_not_intact_quarantines_cut_records_too() {
    let mut known = meta(90, None);
    known.forced_epoch = Some(Epoch(90));
    let mut bench = Bench::new(known, &[4, 4, 5, 5]);
    // The master's disk was replaced, and its hello does not mention it.
    bench.ask(91, hello(91, 3, 3, &[(4, 0), (91, 2)]));
    assert_eq!(bench.saved(), [Did::Quarantine(2, 91), Truncate(2)]);
}

#[test]
fn a_promise_names_the_last_forced_recovery() {
    let mut known = meta(5, Some(5));
    known.forced_epoch = Some(Epoch(5));
    let mut bench = Bench::new(known, &[5]);
    bench.ask(6, promise(5));
    let promised = Answer::Promised(GrantedPromise {
        last_whole: None,
        epoch_starts: vec![start(5, 0)],
        forced_epoch: Some(Epoch(5)),
    });
    assert_eq!(bench.saved(), [answered(0, promised, 1, Some(5))]);
}

#[test]
fn a_sender_that_should_not_be_here_is_reported_once_for_each_reason() {
    let mut bench = Bench::new(meta(5, Some(5)), &[5]);
    let mut told = |request: Request| -> Vec<Refusal> {
        let log = Log(vec![5]);
        bench.replica.on_request(bench.now, 0, request, &log);
        let refused = |action| match action {
            ReplicaAction::Changed(ReplicaChange::Refused { from, refusal }) => {
                assert_eq!(from, name("m"));
                Some(refusal)
            }
            _ => None,
        };
        bench
            .replica
            .take_actions()
            .into_iter()
            .filter_map(refused)
            .collect()
    };
    let foreign = || Request {
        cluster: Some(ClusterId::from_bytes([9; 16])),
        ..request(6, promise(5))
    };
    let misdirected = || Request {
        to: name("s2"),
        ..request(6, promise(5))
    };
    let other_nodes = || {
        let nodes = vec![name("m"), name("s1")];
        let log_epoch = Some(Epoch(5));
        request(6, RequestBody::Promise(Promise { nodes, log_epoch }))
    };
    for _ in 0..3 {
        told(request(4, heartbeat(None, None)));
    }
    assert_eq!(told(foreign()), [Refusal::WrongCluster]);
    assert_eq!(told(misdirected()), [Refusal::WrongNode]);
    let nodes = nodes();
    assert_eq!(told(other_nodes()), [Refusal::OtherNodes { nodes }]);
    for request in [foreign(), misdirected(), other_nodes(), foreign()] {
        assert_eq!(told(request), [], "said before");
    }
    assert_eq!(bench.replica.meta(), &meta(5, Some(5)), "nothing changed");
}

/// Returns a bench with a log of eight records of which the fourth and fifth cannot be read; not intact.
fn with_hole() -> Bench {
    let mut bench = Bench::new(meta(5, None), &[5, 5, 5, 5, 5, 5, 5, 5]);
    let own = OwnLog {
        whole_end: Offset(3),
        end: Offset(8),
    };
    bench.replica = Replica::new(meta(5, None), own);
    bench
}

#[test]
fn a_damaged_log_ends_at_its_hole_and_once_filled_passes_the_records_behind_it() {
    let mut bench = with_hole();
    bench.ask(5, hello(5, 8, 0, &[(5, 0)]));
    let ticket = bench.replica.durable.first_ticket();
    bench.replica.on_saved(ticket, Offset(3), &bench.log);
    assert_eq!(
        bench.did(),
        [answered(0, aligned(0), 3, None)],
        "nothing is cut"
    );
    bench.ask(5, heartbeat(None, Some(10)));
    assert_eq!(bench.ask(5, append(3..5, 5)), [Write(3, 5)]);
    // Records sent behind it wait for those in between, which are there.
    assert_eq!(bench.ask(5, append(8..10, 5)), []);
    bench.replica.on_durable(Offset(8));
    assert_eq!(
        bench.did(),
        [Write(8, 10), answered(2, Answer::Taken, 8, None)],
        "the end passes what lies behind the hole"
    );
    bench.replica.on_durable(Offset(10));
    assert_eq!(bench.did(), [Save(5, Some(5))], "refilled to its target");
}

#[test]
fn a_damaged_log_is_compared_including_the_records_behind_its_hole() {
    // Columns: the master's end and pairs, and the offset at which the own log is cut. The log itself must find
    // out whether there is a hole.
    let table = [
        (8, (5, 0), None),
        (6, (5, 0), Some(6)),
        (9, (4, 0), Some(0)),
    ];
    for (end, pairs, cut) in table {
        let mut bench = with_hole();
        bench.ask(5, hello(5, end, 0, &[pairs]));
        let ticket = bench.replica.durable.first_ticket();
        bench.replica.on_saved(ticket, Offset(3), &bench.log);
        let did = bench.did();
        match cut {
            None => assert_eq!(did, [answered(0, aligned(0), 3, None)], "{pairs:?}"),
            Some(to) => assert_eq!(did, [Did::Quarantine(to, 5), Truncate(to)], "{pairs:?}"),
        }
    }
}

#[test]
fn an_unreadable_record_removes_the_log_epoch_before_anything_else() {
    let mut bench = Bench::aligned(&[5, 5, 5, 5]);
    assert_eq!(bench.ask(5, append(4..6, 5)), [Write(4, 6)]);
    bench.replica.on_damage(Offset(2));
    let hello_first = refused(1, Refusal::HelloFirst, 4, None);
    assert_eq!(bench.did(), [hello_first, Save(5, None), Did::Inspect(2)]);
    assert_eq!(bench.replica.state().log_epoch, None);
    bench.replica.on_damage(Offset(1));
    assert_eq!(bench.did(), [], "one inspection at a time");
    bench.log.0.extend([5, 5]);
    let ticket = bench.replica.durable.first_ticket();
    bench.replica.on_saved(ticket, Offset(6), &bench.log);
    let with_hole = OwnLog {
        whole_end: Offset(2),
        end: Offset(6),
    };
    bench
        .replica
        .on_inspected(&[Offset(2)..Offset(3)], with_hole);
    assert_eq!(
        bench.did(),
        [Save(5, None), Did::Inspect(1)],
        "then the other"
    );
    assert_eq!(bench.replica.state().durable_end, Offset(2));
    // Messages that do not know of the damage, a refill target among them, are for an incarnation that is over.
    let late = heartbeat(None, Some(1));
    let id = bench.next;
    bench.next += 1;
    bench
        .replica
        .on_request(bench.now, id, request(5, late), &bench.log);
    let actions = bench.replica.take_actions();
    let [ReplicaAction::Answer { response, .. }] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(response.answer, Answer::Refused(Refusal::WrongIncarnation));
    assert_eq!(response.incarnation.start, own().start + 1);
    assert_eq!(bench.replica.meta().start, own().start + 1);
}

#[test]
fn damage_found_while_a_log_epoch_is_saved_is_not_forgotten() {
    let mut bench = Bench::new(meta(4, Some(4)), &[4, 4]);
    bench.ask(5, hello(5, 9, 2, &[(4, 0), (5, 5)]));
    assert_eq!(bench.saved(), [Save(5, Some(5))]);
    bench.replica.on_damage(Offset(1));
    assert_eq!(bench.did()[1..], [Save(5, None), Did::Inspect(1)]);
    assert_eq!(bench.saved(), []);
    assert_eq!(bench.replica.meta().log_epoch, None);
    assert_eq!(bench.saved(), []);
}

#[test]
fn a_repeated_promise_request_joins_the_one_in_progress() {
    let mut bench = Bench::new(meta(5, Some(5)), &[5, 5]);
    assert_eq!(bench.ask(6, promise(5)), [Save(6, Some(5))]);
    assert_eq!(bench.ask(6, promise(5)), [], "no second save");
    let granted = |request| {
        let promised = GrantedPromise {
            last_whole: None,
            epoch_starts: vec![start(5, 0)],
            forced_epoch: None,
        };
        answered(request, Answer::Promised(promised), 2, Some(5))
    };
    assert_eq!(bench.saved(), [granted(0), granted(1)]);
    // A request of another master or in another epoch has a save of its own.
    assert_eq!(bench.ask(6, promise(5)), [Save(6, Some(5))]);
    assert_eq!(bench.ask(7, promise(5)), [Save(7, Some(5))]);
    assert_eq!(
        bench.saved(),
        [refused(2, Refusal::Fenced(fenced_by(7)), 2, Some(5))]
    );
}

#[test]
fn a_cut_that_meets_damage_is_made_once_the_damage_is_known() {
    let mut bench = Bench::new(meta(4, Some(3)), &[1, 1, 2, 2]);
    bench.ask(5, hello(5, 9, 0, &[(1, 0), (3, 2)]));
    assert_eq!(bench.saved(), [Did::Quarantine(2, 5), Truncate(2)]);
    let ticket = bench.replica.durable.first_ticket();
    bench.replica.on_not_truncated(ticket, Offset(1));
    let did = bench.did();
    assert_eq!(did[1..], [Save(5, None), Did::Inspect(1)], "{did:?}");
    assert_eq!(did[0], refused(0, Refusal::HelloFirst, 4, None));
}

#[test]
fn a_cut_that_meets_damage_behind_a_known_hole_has_it_inspected_too() {
    let mut bench = with_hole();
    bench.ask(5, hello(5, 6, 0, &[(5, 0)]));
    let ticket = bench.replica.durable.first_ticket();
    bench.replica.on_saved(ticket, Offset(3), &bench.log);
    assert_eq!(bench.did(), [Did::Quarantine(6, 5), Truncate(6)]);
    let ticket = bench.replica.durable.first_ticket();
    bench.replica.on_not_truncated(ticket, Offset(5));
    assert_eq!(bench.did()[1..], [Save(5, None), Did::Inspect(5)]);
}
