//! A link as a table of events and actions: its messages, its beliefs, and their times.

use std::time::Duration;

use super::*;
use crate::{
    limits::{BATCH_BYTES_MAX, BATCH_BYTES_MIN},
    transport::{Aligned, Fetch, Identity, NodeState, Promise, Promised},
    types::InstanceId,
};

const SECOND: Duration = Duration::from_secs(1);
const EPOCH: Epoch = Epoch(5);

struct Bench {
    link: Link,
    now: Instant,
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn cluster(byte: u8) -> ClusterId {
    ClusterId::from_bytes([byte; 16])
}

fn life(start: u64) -> Incarnation {
    Incarnation {
        instance: InstanceId::from_bytes([7; 16]),
        start,
    }
}

fn by() -> FencedBy {
    FencedBy {
        name: name("m"),
        instance: InstanceId::from_bytes([9; 16]),
        epoch: Epoch(9),
    }
}

/// Returns an answer of the secondary's incarnation `start`, with its end and log epoch.
fn response(start: u64, end: u64, log_epoch: Option<u64>, answer: Answer) -> Response {
    Response {
        cluster: Some(cluster(1)),
        name: name("s1"),
        incarnation: life(start),
        state: NodeState {
            durable_end: Offset(end),
            log_epoch: log_epoch.map(Epoch),
            promised: EPOCH,
            buffered: 0,
        },
        answer,
    }
}

fn aligned() -> Answer {
    Answer::Aligned(Aligned {
        cut_records: 0,
        public_url: None,
    })
}

impl Bench {
    fn new() -> Bench {
        let now = Instant::now();
        let link = Link::new(name("s1"), Timing::default(), 1, now);
        Bench { link, now }
    }

    /// Returns a bench that serves `end` records, with the hello in flight as attempt 1.
    fn handshake(end: u64) -> Bench {
        let mut bench = Bench::new();
        bench.link.on_log(bench.now, Offset(end), None);
        bench.link.serve(bench.now, cluster(1), EPOCH);
        let hello = LinkAction::Hello {
            attempt: 1,
            epoch: EPOCH,
            older_before: None,
        };
        assert_eq!(bench.sent(), [hello]);
        bench
    }

    /// Returns a bench in conversation with incarnation 1, whose log counts and ends at `held`.
    fn open(end: u64, held: u64) -> Bench {
        let mut bench = Bench::handshake(end);
        bench.answer(1, response(1, held, Some(5), aligned()));
        bench
    }

    /// Returns the actions due now that are sent, reported to the recovery, or fatal.
    fn sent(&mut self) -> Vec<LinkAction> {
        let mut actions = Vec::new();
        while let Some(action) = self.link.poll(self.now) {
            self.link.check_invariants();
            if !matches!(action, LinkAction::Report | LinkAction::Changed(_)) {
                actions.push(action);
            }
        }
        actions
    }

    /// Returns the batches sent now, each read to its end.
    fn batches(&mut self) -> Vec<(u64, u64, u64)> {
        let mut batches = Vec::new();
        while let Some(action) = self.link.poll(self.now) {
            if let LinkAction::SendBatch {
                attempt, wanted, ..
            } = action
            {
                let (from, until) = (wanted.from.0, wanted.until.0);
                batches.push((attempt, from, until));
                assert!(self.link.on_read(attempt, wanted.until, 1000));
            }
            self.link.check_invariants();
        }
        batches
    }

    fn answer(&mut self, attempt: u64, response: Response) {
        self.link.on_answer(self.now, attempt, Ok(response));
        self.link.check_invariants();
    }

    fn fail(&mut self, attempt: u64) {
        let error = Err(TransportError::TimedOut);
        self.link.on_answer(self.now, attempt, error);
        self.link.check_invariants();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn status(&self) -> Status {
        self.link.report(self.now).health.status(self.now)
    }

    fn counted(&self) -> Option<u64> {
        self.link.report(self.now).counted.map(|end| end.0)
    }

    /// Returns the attempt of the heartbeat that is due.
    fn heartbeat(&mut self) -> (u64, transport::Progress) {
        let sent = self.sent();
        let found = sent.iter().find_map(|action| match action {
            LinkAction::Heartbeat {
                attempt, progress, ..
            } => Some((*attempt, *progress)),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no heartbeat in {sent:?}"))
    }

    fn ask(&mut self, serial: u64, body: RequestBody) {
        self.link
            .ask(self.now, Some(cluster(1)), EPOCH, serial, body);
    }
}

fn promise() -> RequestBody {
    RequestBody::Promise(Promise {
        nodes: vec![name("m"), name("s1")],
        log_epoch: Some(Epoch(4)),
    })
}

fn attempts(sent: &[LinkAction]) -> Vec<u64> {
    let attempt = |action: &LinkAction| match action {
        LinkAction::Ask { attempt, .. }
        | LinkAction::Hello { attempt, .. }
        | LinkAction::Heartbeat { attempt, .. }
        | LinkAction::SendBatch { attempt, .. } => Some(*attempt),
        _ => None,
    };
    sent.iter().filter_map(attempt).collect()
}

#[test]
fn a_recovery_question_is_repeated_until_the_next_one() {
    let mut bench = Bench::new();
    bench.ask(3, promise());
    let again = |attempt| LinkAction::Ask {
        attempt,
        epoch: EPOCH,
        body: promise(),
    };
    assert_eq!(bench.sent(), [again(1)]);
    assert_eq!(bench.sent(), []);
    bench.pass(SECOND / 2);
    assert_eq!(bench.sent(), [again(2)]);
    let answer = Answer::Promised(Promised {
        last_whole: None,
        epoch_starts: Vec::new(),
        forced_epoch: None,
    });
    let promised = response(1, 7, Some(4), answer);
    bench.answer(2, promised.clone());
    let answered = LinkAction::Answered {
        serial: 3,
        response: Box::new(promised.clone()),
    };
    assert_eq!(bench.sent(), [answered]);
    assert_eq!(bench.status(), Status::Healthy);
    bench.ask(4, RequestBody::Identify);
    bench.sent();
    bench.answer(1, promised);
    assert_eq!(bench.sent(), [], "an answer to a question that is over");
}

#[test]
fn fetched_records_are_not_requested_again() {
    let mut bench = Bench::new();
    let fetch = Fetch {
        to_incarnation: life(1),
        from: Offset(0),
        bytes_max: 1,
        epoch_starts: false,
    };
    bench.ask(1, RequestBody::Fetch(fetch));
    assert_eq!(attempts(&bench.sent()), [1]);
    bench.pass(SECOND / 2);
    assert_eq!(attempts(&bench.sent()), [2], "no answer yet");
    bench.answer(1, response(1, 7, None, Answer::Taken));
    bench.sent();
    bench.pass(SECOND / 2);
    assert_eq!(bench.sent(), []);
}

#[test]
fn a_late_refusal_of_a_promise_request_does_not_fence_a_serving_leader() {
    let mut bench = Bench::new();
    bench.ask(1, promise());
    assert_eq!(attempts(&bench.sent()), [1]);
    bench.pass(SECOND / 2);
    assert_eq!(attempts(&bench.sent()), [2]);
    bench.link.serve(bench.now, cluster(1), EPOCH);
    let hello = attempts(&bench.sent())[0];
    bench.answer(hello, response(1, 0, Some(5), aligned()));
    bench.sent();
    for late in [Refusal::OutOfDate(by()), Refusal::Fenced(by())] {
        bench.answer(1, response(1, 0, Some(5), Answer::Refused(late)));
        assert_eq!(bench.sent(), []);
    }
    assert_eq!(bench.counted(), Some(0));
}

#[test]
fn the_refill_target_is_the_end_when_the_hello_is_answered() {
    let mut bench = Bench::handshake(10);
    bench.link.on_log(bench.now, Offset(30), None);
    bench.answer(1, response(1, 4, None, aligned()));
    bench.link.on_log(bench.now, Offset(50), None);
    let (attempt, progress) = bench.heartbeat();
    let expected = transport::Progress {
        to_incarnation: life(1),
        end: Offset(50),
        committed: None,
        refill_target: Some(Offset(30)),
    };
    assert_eq!(
        progress, expected,
        "at once: the target travels after the hello"
    );
    assert_eq!(bench.counted(), None);
    bench.answer(attempt, response(1, 29, None, Answer::Taken));
    assert_eq!(
        bench.counted(),
        None,
        "its end does not count until the target is reached"
    );
    bench.pass(SECOND / 2);
    let (attempt, _) = bench.heartbeat();
    bench.answer(attempt, response(1, 30, Some(5), Answer::Taken));
    assert_eq!(bench.counted(), Some(30));
    bench.pass(SECOND / 2);
    assert_eq!(bench.heartbeat().1.refill_target, None);
}

#[test]
fn a_new_hello_resets_the_refill_target() {
    let mut bench = Bench::handshake(10);
    bench.answer(1, response(1, 0, None, aligned()));
    let (attempt, _) = bench.heartbeat();
    bench.link.on_log(bench.now, Offset(20), None);
    bench.pass(SECOND);
    bench.answer(attempt, response(2, 0, None, Answer::Taken));
    let sent = bench.sent();
    let [LinkAction::Hello { attempt, .. }] = sent[..] else {
        panic!("{sent:?}")
    };
    bench.answer(attempt, response(2, 0, None, aligned()));
    let (_, progress) = bench.heartbeat();
    let expected = (life(2), Some(Offset(20)));
    assert_eq!((progress.to_incarnation, progress.refill_target), expected);
}

#[test]
fn answers_that_make_no_sense_do_not_count_and_end_the_conversation() {
    let with = |promised: u64, answer: Answer| {
        let mut response = response(1, 8, Some(5), answer);
        response.state.promised = Epoch(promised);
        response
    };
    let fenced = |epoch| {
        Answer::Refused(Refusal::Fenced(FencedBy {
            epoch: Epoch(epoch),
            ..by()
        }))
    };
    let table = [
        with(4, Answer::Taken),
        with(6, Answer::Taken),
        with(5, fenced(4)),
        response(1, 8, Some(6), Answer::Taken),
        response(1, 11, Some(5), Answer::Taken),
    ];
    for response in table {
        let mut bench = Bench::open(10, 8);
        bench.sent();
        bench.pass(SECOND / 2);
        let (attempt, _) = bench.heartbeat();
        bench.answer(attempt, response.clone());
        assert_eq!(bench.counted(), None, "{response:?}");
        assert_eq!(bench.link.tally().malformed, 1);
        bench.pass(SECOND / 2);
        let sent = bench.sent();
        assert!(
            matches!(sent[..], [LinkAction::Hello { .. }]),
            "{response:?}: {sent:?}"
        );
    }
    // An aligned log is never longer than the master's.
    let mut bench = Bench::handshake(10);
    bench.answer(1, response(1, 11, Some(5), aligned()));
    assert_eq!(bench.link.report(bench.now).durable_end, None);
    assert_eq!(bench.link.tally().malformed, 1);
}

#[test]
fn an_end_counts_only_with_the_log_epoch_of_the_master() {
    for (log_epoch, counted) in [(None, None), (Some(4), None), (Some(5), Some(8))] {
        let mut bench = Bench::handshake(10);
        bench.answer(1, response(1, 8, log_epoch, aligned()));
        assert_eq!(bench.counted(), counted, "{log_epoch:?}");
        assert_eq!(bench.link.report(bench.now).durable_end, Some(Offset(8)));
    }
}

#[test]
fn answers_that_end_the_conversation() {
    let table = [
        (Refusal::HelloFirst, true),
        (Refusal::WrongIncarnation, true),
        (Refusal::NotAligned, true),
        (Refusal::Fenced(by()), false),
        (Refusal::Replaced(by()), false),
        (Refusal::OutOfDate(by()), false),
    ];
    for (refusal, greets) in table {
        let mut bench = Bench::open(20, 10);
        let batch = bench.batches()[0].0;
        bench.pass(SECOND / 4);
        bench.answer(
            batch,
            response(1, 10, Some(5), Answer::Refused(refusal.clone())),
        );
        let sent = bench.sent();
        if greets {
            let again = matches!(sent[..], [LinkAction::Hello { epoch: EPOCH, .. }]);
            assert!(again, "{refusal:?} {sent:?}");
        } else {
            assert_eq!(sent, [LinkAction::BecomeFenced(by())], "{refusal:?}");
            bench.pass(60 * SECOND);
            assert_eq!(bench.sent(), [], "nothing is sent any more");
        }
        assert_eq!(bench.counted(), None, "{refusal:?}");
    }
}

#[test]
fn a_hello_refused_for_its_epoch_fences_the_leader() {
    let mut bench = Bench::handshake(10);
    bench.answer(
        1,
        response(1, 0, None, Answer::Refused(Refusal::Fenced(by()))),
    );
    assert_eq!(bench.sent(), [LinkAction::BecomeFenced(by())]);
}

#[test]
fn an_answer_of_another_incarnation_is_never_believed() {
    let mut bench = Bench::open(20, 10);
    bench.pass(SECOND / 2);
    let (attempt, _) = bench.heartbeat();
    bench.answer(attempt, response(2, 20, Some(5), Answer::Taken));
    assert_eq!(bench.counted(), None);
    assert!(matches!(bench.sent()[..], [LinkAction::Hello { .. }]));
    assert_eq!(bench.link.report(bench.now).durable_end, None);
}

#[test]
fn repeated_hellos_are_spaced_by_a_pause() {
    let mut bench = Bench::open(20, 10);
    for _ in 0..3 {
        let batch = bench.batches()[0].0;
        let refused = Answer::Refused(Refusal::NotAligned);
        bench.answer(batch, response(1, 10, Some(5), refused));
        assert_eq!(bench.sent(), []);
        bench.pass(Timing::default().retry_min);
        let hello = attempts(&bench.sent())[0];
        bench.answer(hello, response(1, 10, Some(5), aligned()));
    }
}

#[test]
fn older_pairs_are_sent_at_once_when_requested() {
    let mut bench = Bench::handshake(20);
    let before = Offset(12);
    bench.answer(
        1,
        response(1, 0, None, Answer::OlderStartsNeeded { before }),
    );
    let hello = LinkAction::Hello {
        attempt: 2,
        epoch: EPOCH,
        older_before: Some(before),
    };
    assert_eq!(bench.sent(), [hello]);
    assert_eq!(bench.status(), Status::Healthy);
}

#[test]
fn an_end_that_went_back_causes_a_new_hello_unless_it_counts() {
    for (log_epoch, greets) in [(Some(4), true), (Some(5), false)] {
        let mut bench = Bench::handshake(20);
        bench.answer(1, response(1, 10, log_epoch, aligned()));
        bench.pass(SECOND / 2);
        let (attempt, _) = bench.heartbeat();
        bench.answer(attempt, response(1, 8, log_epoch, Answer::Taken));
        let again = matches!(bench.sent()[..], [LinkAction::Hello { .. }]);
        assert_eq!(again, greets, "{log_epoch:?}");
    }
}

#[test]
fn an_answer_of_a_stranger_is_a_failure_and_not_a_contact() {
    let good = response(1, 10, Some(5), Answer::Taken);
    let refused = |refusal| response(1, 10, Some(5), Answer::Refused(refusal));
    let table = [
        Response {
            name: name("s2"),
            ..good.clone()
        },
        Response {
            cluster: Some(cluster(2)),
            ..good.clone()
        },
        refused(Refusal::WrongNode),
        refused(Refusal::WrongCluster),
        refused(Refusal::OtherNodes { nodes: Vec::new() }),
        refused(Refusal::Stopping),
        response(
            1,
            10,
            Some(5),
            Answer::Identity(Identity {
                nodes: Vec::new(),
                master: None,
            }),
        ),
    ];
    for answer in table {
        let mut bench = Bench::open(10, 10);
        let before = bench.now;
        bench.pass(SECOND / 2);
        let (attempt, _) = bench.heartbeat();
        bench.answer(attempt, answer.clone());
        let report = bench.link.report(bench.now);
        assert_eq!(report.health.last_contact(), Some(before), "{answer:?}");
        assert_eq!(report.failed_attempts, 1, "{answer:?}");
    }
}

#[test]
fn several_batches_are_in_flight_to_a_healthy_secondary_and_one_to_a_suspected() {
    for (pause, expected) in [(Duration::ZERO, BATCHES_IN_FLIGHT_MAX), (SECOND, 1)] {
        let mut bench = Bench::open(0, 0);
        bench.pass(pause);
        for end in 1..=9 {
            bench.link.on_log(bench.now, Offset(end), None);
            bench.batches();
        }
        let Phase::Open(open) = &bench.link.phase else {
            panic!("not open")
        };
        assert_eq!(open.progress.batches_in_flight(), expected);
    }
}

#[test]
fn the_first_failed_batch_is_retried_at_once_and_later_ones_after_growing_delays() {
    let mut bench = Bench::open(20, 10);
    let mut batch = bench.batches()[0].0;
    bench.fail(batch);
    batch = bench.batches()[0].0;
    let mut ceiling = Timing::default().retry_min;
    for _ in 0..4 {
        bench.fail(batch);
        assert_eq!(bench.batches(), [], "not before its delay");
        let retry = bench.link.report(bench.now).next_retry_at.unwrap();
        let delay = retry.min(bench.link.retry_at.unwrap()) - bench.now;
        assert!(
            delay >= ceiling / 2 && delay <= ceiling,
            "{delay:?} {ceiling:?}"
        );
        assert!(bench.link.next_deadline(bench.now).unwrap() <= bench.now + delay);
        bench.pass(delay);
        batch = bench.batches()[0].0;
        ceiling *= 2;
    }
    bench.answer(batch, response(1, 20, Some(5), Answer::Taken));
    bench.link.on_log(bench.now, Offset(30), None);
    let batch = bench.batches()[0].0;
    bench.fail(batch);
    assert_eq!(bench.batches().len(), 1, "a success ends the delays");
}

#[test]
fn the_batch_that_fills_a_gap_is_not_held_up_by_those_behind_the_gap() {
    let mut bench = Bench::open(0, 0);
    for end in [10, 20, 30] {
        bench.link.on_log(bench.now, Offset(end), None);
        assert_eq!(bench.batches().len(), 1);
    }
    // The second and third are parked at the secondary: they are not answered before the first.
    bench.fail(2);
    assert_eq!(bench.batches(), [(5, 0, 10)]);
    // A new one does wait: one batch at a time after a failure.
    bench.link.on_log(bench.now, Offset(40), None);
    assert_eq!(bench.batches(), []);
    bench.answer(5, response(1, 30, Some(5), Answer::Taken));
    assert_eq!(bench.batches(), [(6, 30, 40)]);
}

#[test]
fn batches_that_fail_together_cause_one_delay() {
    let mut bench = Bench::open(0, 0);
    let mut sent = Vec::new();
    for end in 1..=4 {
        bench.link.on_log(bench.now, Offset(end), None);
        sent.extend(bench.batches());
    }
    for (attempt, ..) in sent {
        bench.fail(attempt);
    }
    assert_eq!(bench.batches().len(), 1, "at once");
}

#[test]
fn an_unhealthy_secondary_gets_only_heartbeats_until_its_first_answer() {
    let mut bench = Bench::open(20, 20);
    let mut last = 0;
    for half in 1..=20 {
        bench.pass(SECOND / 2);
        let (attempt, _) = bench.heartbeat();
        if last > 0 {
            bench.fail(last);
        }
        last = attempt;
        let expected = match half {
            0..=1 => Status::Healthy,
            2..=5 => Status::Suspected,
            _ => Status::Unhealthy,
        };
        assert_eq!(bench.status(), expected, "after {half} halves of a second");
    }
    bench.link.on_log(bench.now, Offset(30), None);
    assert_eq!(bench.batches(), []);
    bench.answer(last, response(1, 20, Some(5), Answer::Taken));
    assert_eq!(
        bench.batches().len(),
        1,
        "at once, without waiting for the backoff"
    );
}

#[test]
fn no_more_probes_are_in_flight_than_allowed() {
    let mut bench = Bench::open(10, 10);
    let mut sent = 0;
    for _ in 0..20 {
        bench.pass(SECOND / 2);
        sent += bench.sent().len();
    }
    assert_eq!(sent, PROBES_IN_FLIGHT_MAX);
}

#[test]
fn a_master_that_was_paused_sends_no_burst_of_heartbeats() {
    let mut bench = Bench::open(10, 10);
    bench.pass(60 * SECOND);
    assert_eq!(bench.sent().len(), 1);
    assert_eq!(
        bench.status(),
        Status::Unhealthy,
        "and does not act on old news"
    );
}

#[test]
fn a_secondary_that_is_back_goes_straight_to_healthy() {
    let mut bench = Bench::open(10, 8);
    bench.batches();
    bench.pass(60 * SECOND);
    assert_eq!(bench.status(), Status::Unhealthy);
    let (attempt, _) = bench.heartbeat();
    let mut changes = Vec::new();
    let mut pump = |bench: &mut Bench| {
        while let Some(action) = bench.link.poll(bench.now) {
            if let LinkAction::Changed(Change::Status { from, to }) = action {
                changes.push((from, to));
            }
        }
    };
    pump(&mut bench);
    bench.answer(attempt, response(1, 8, Some(5), Answer::Taken));
    pump(&mut bench);
    assert_eq!(changes, [(Status::Unhealthy, Status::Healthy)]);
}

#[test]
fn a_secondary_that_answers_but_takes_nothing_is_suspected_and_keeps_its_backoff() {
    let mut bench = Bench::open(20, 10);
    let mut batch = bench.batches()[0].0;
    for _ in 0..4 {
        bench.pass(SECOND / 2);
        bench.fail(batch);
        let (attempt, _) = bench.heartbeat_and_batches(&mut batch);
        bench.answer(attempt, response(1, 10, Some(5), Answer::Taken));
    }
    assert_eq!(bench.status(), Status::Suspected);
    assert!(
        bench.link.backoff.failures() >= 3,
        "heartbeats do not end the backoff"
    );
    bench.pass(SECOND / 2);
    bench.heartbeat_and_batches(&mut batch);
    bench.answer(batch, response(1, 20, Some(5), Answer::Taken));
    assert_eq!(bench.status(), Status::Healthy);
}

#[test]
fn a_stall_ends_when_nothing_is_due_even_if_the_answer_to_the_batch_was_lost() {
    let mut bench = Bench::open(20, 10);
    let batch = bench.batches()[0].0;
    bench.pass(SECOND);
    bench.fail(batch);
    let (attempt, _) = bench.heartbeat();
    bench.answer(attempt, response(1, 20, Some(5), Answer::Taken));
    assert_eq!(bench.batches(), []);
    assert_eq!(bench.status(), Status::Healthy);
}

#[test]
fn time_outs_shrink_batches_down_to_one_record() {
    let mut bench = Bench::open(1000, 0);
    let mut bytes_max = BATCH_BYTES_MAX;
    for _ in 0..30 {
        let (attempt, wanted) = bench.wanted();
        assert!(wanted.bytes_max <= bytes_max);
        bytes_max = wanted.bytes_max;
        let end = wanted.from.plus(1);
        assert!(bench.link.on_read(attempt, end, bytes_max.max(2)));
        bench.fail(attempt);
        bench.pass(Duration::from_millis(2900));
        bench.link.health.on_contact(bench.now);
        bench.link.resume_batches();
    }
    assert_eq!(bytes_max, BATCH_BYTES_MIN);
}

impl Bench {
    fn wanted(&mut self) -> (u64, Wanted) {
        let sent = self.sent();
        let found = sent.iter().find_map(|action| match action {
            LinkAction::SendBatch {
                attempt, wanted, ..
            } => Some((*attempt, *wanted)),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no batch in {sent:?}"))
    }

    /// Returns the heartbeat that is due; if a batch is sent too, it is the one in flight.
    fn heartbeat_and_batches(&mut self, batch: &mut u64) -> (u64, transport::Progress) {
        let mut heartbeat = None;
        while let Some(action) = self.link.poll(self.now) {
            match action {
                LinkAction::Heartbeat {
                    attempt, progress, ..
                } => heartbeat = Some((attempt, progress)),
                LinkAction::SendBatch {
                    attempt, wanted, ..
                } => {
                    assert!(self.link.on_read(attempt, wanted.until, 1000));
                    *batch = attempt;
                }
                _ => {}
            }
        }
        heartbeat.expect("one is due")
    }
}

#[test]
fn a_secondary_with_a_full_disk_is_reported_and_not_retried_in_a_loop() {
    let mut bench = Bench::open(20, 10);
    let full = || {
        Answer::Refused(Refusal::Storage {
            detail: "no room".to_owned(),
        })
    };
    let mut sent = 0;
    let mut asked = bench.sent();
    for _ in 0..80 {
        for attempt in attempts(&asked) {
            sent += 1;
            if let Some(LinkAction::SendBatch { wanted, .. }) = asked
                .iter()
                .find(|action| matches!(action, LinkAction::SendBatch { attempt: a, .. } if *a == attempt))
            {
                assert!(bench.link.on_read(attempt, wanted.until, 1000));
            }
            // It arrives, but that is not a contact.
            bench.link.on_bytes_moved(bench.now, attempt, Some(life(1)));
            bench.answer(attempt, response(1, 10, Some(5), full()));
        }
        bench.pass(SECOND / 20);
        asked = bench.sent();
    }
    assert_eq!(bench.status(), Status::Unhealthy);
    let report = bench.link.report(bench.now);
    assert_eq!(report.failure.unwrap().reason, WaitReason::Storage);
    // Heartbeats for four seconds, and retries with a growing delay.
    assert!((8..25).contains(&sent), "{sent} requests");

    // With disk space again it asks for a hello, and gets the missing records at once.
    let (attempt, _) = loop {
        if let Some(LinkAction::Heartbeat {
            attempt, progress, ..
        }) = asked
            .iter()
            .find(|action| matches!(action, LinkAction::Heartbeat { .. }))
        {
            break (*attempt, *progress);
        }
        bench.pass(SECOND / 20);
        asked = bench.sent();
    };
    bench.answer(
        attempt,
        response(1, 10, Some(5), Answer::Refused(Refusal::HelloFirst)),
    );
    bench.pass(SECOND / 20);
    let sent = bench.sent();
    let [LinkAction::Hello { attempt, .. }] = sent[..] else {
        panic!("{sent:?}");
    };
    bench.answer(attempt, response(1, 10, Some(5), aligned()));
    let [(attempt, 10, 20)] = bench.batches()[..] else {
        panic!("expected the missing records without a delay");
    };
    bench.answer(attempt, response(1, 20, Some(5), Answer::Taken));
    assert_eq!(bench.status(), Status::Healthy);
    assert_eq!(bench.link.report(bench.now).failure, None);
}

#[test]
fn a_serving_link_goes_back_to_asking_when_its_master_recovers_again() {
    let mut bench = Bench::open(20, 10);
    let batch = bench.batches()[0].0;
    assert_eq!(bench.counted(), Some(10));
    bench
        .link
        .ask(bench.now, Some(cluster(1)), Epoch(6), 9, promise());
    assert_eq!(bench.counted(), None);
    let report = bench.link.report(bench.now);
    assert_eq!((report.epoch, report.durable_end), (None, None));
    let sent = bench.sent();
    assert!(
        matches!(
            sent[..],
            [LinkAction::Ask {
                epoch: Epoch(6),
                ..
            }]
        ),
        "{sent:?}"
    );
    // Nothing from the old conversation is believed.
    bench.answer(batch, response(1, 20, Some(5), Answer::Taken));
    assert_eq!(bench.counted(), None);
    bench.pass(3 * SECOND / 2);
    bench.answer(
        attempts(&sent)[0],
        response(
            1,
            20,
            Some(5),
            Answer::Promised(Promised {
                last_whole: None,
                epoch_starts: Vec::new(),
                forced_epoch: None,
            }),
        ),
    );
    assert_eq!(bench.status(), Status::Healthy, "no records are due");
    bench.link.on_log(bench.now, Offset(20), None);
    bench.link.serve(bench.now, cluster(1), Epoch(6));
    let hello = bench.sent();
    assert!(
        hello.iter().any(|action| matches!(
            action,
            LinkAction::Hello {
                epoch: Epoch(6),
                ..
            }
        )),
        "{hello:?}"
    );
}

#[test]
fn a_link_keeps_its_counts_of_heartbeats_batches_acks_and_failures() {
    let mut bench = Bench::open(3, 0);
    assert_eq!(bench.batches(), [(2, 0, 3)]);
    bench.answer(2, response(1, 3, Some(5), Answer::Taken));
    bench.now += Timing::default().heartbeat_interval;
    let [LinkAction::Heartbeat { attempt, .. }] = bench.sent()[..] else {
        panic!("a heartbeat is due");
    };
    bench.now += Duration::from_millis(3);
    bench.answer(attempt, response(1, 3, Some(5), Answer::Taken));
    bench.now += Timing::default().heartbeat_interval;
    let [LinkAction::Heartbeat { attempt, .. }] = bench.sent()[..] else {
        panic!("another is due");
    };
    bench
        .link
        .on_answer(bench.now, attempt, Err(TransportError::TimedOut));
    let metrics = |bench: &Bench| bench.link.tally().snapshot(0);
    let before = metrics(&bench);
    assert_eq!((before.acks, before.heartbeats), (1, 2));
    assert_eq!(
        (before.round_trips.count(), before.round_trips.sum()),
        (1, 0.003)
    );
    assert_eq!(
        (before.batch_records.count(), before.batch_records.sum()),
        (1, 3.0)
    );
    let timed_out = |metrics: &crate::metrics::LinkMetrics| {
        let mut retries = metrics.retries.iter();
        retries
            .find(|(reason, _)| *reason == WaitReason::TimedOut)
            .unwrap()
            .1
    };
    assert_eq!(timed_out(&before), 1);

    bench.now += Timing::default().heartbeat_interval;
    let [LinkAction::Heartbeat { attempt, .. }] = bench.sent()[..] else {
        panic!("another is due");
    };
    bench.answer(attempt, response(1, 3, Some(5), Answer::Taken));
    assert_eq!(bench.link.report(bench.now).failed_attempts, 0);
    assert_eq!(
        timed_out(&metrics(&bench)),
        1,
        "the series has ended, and the total is kept"
    );
}

#[test]
fn a_refused_batch_counts_as_one_retry() {
    let mut bench = Bench::open(3, 0);
    assert_eq!(bench.batches(), [(2, 0, 3)]);
    let detail = "full".to_owned();
    let refused = Answer::Refused(Refusal::Storage { detail });
    bench.answer(2, response(1, 0, Some(5), refused));
    let retries = bench.link.tally().snapshot(0).retries;
    let counted: Vec<_> = retries
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(counted, [(WaitReason::Storage, 1)]);
}

#[test]
fn the_later_of_two_failures_is_the_reason_for_waiting() {
    let mut bench = Bench::open(20, 10);
    let reason = |bench: &Bench| {
        let failure = bench.link.report(bench.now).failure;
        failure.map(|failure| failure.reason)
    };
    let mut batch = bench.batches()[0].0;
    let status = || Err(TransportError::Injected);
    bench.link.on_answer(bench.now, batch, status());
    assert_eq!(reason(&bench), Some(WaitReason::HttpStatus));
    // It answers, but takes no records.
    bench.pass(SECOND / 2);
    let (probe, _) = bench.heartbeat_and_batches(&mut batch);
    bench.answer(probe, response(1, 10, Some(5), Answer::Taken));
    assert_eq!(reason(&bench), Some(WaitReason::HttpStatus));
    bench.link.on_answer(bench.now, batch, status());
    // Then its process is gone.
    let refused = || Err(TransportError::ConnectionRefused);
    for _ in 0..20 {
        bench.pass(SECOND / 2);
        let (probe, _) = bench.heartbeat_and_batches(&mut batch);
        bench.link.on_answer(bench.now, probe, refused());
        assert_eq!(reason(&bench), Some(WaitReason::ConnectionRefused));
    }
    assert_eq!(bench.status(), Status::Unhealthy);
    // Back, and as before.
    bench.pass(SECOND / 2);
    let (probe, _) = bench.heartbeat_and_batches(&mut batch);
    bench.answer(probe, response(1, 10, Some(5), Answer::Taken));
    assert_eq!(reason(&bench), None);
    bench.link.on_answer(bench.now, batch, status());
    assert_eq!(reason(&bench), Some(WaitReason::HttpStatus));
}

#[test]
fn moving_bytes_keep_contact_only_with_the_run_of_the_conversation() {
    for (run, expected) in [
        (Some(life(1)), Status::Suspected),
        (Some(life(2)), Status::Unhealthy),
        (None, Status::Unhealthy),
    ] {
        let mut bench = Bench::open(100, 0);
        let (long, ..) = bench.batches()[0];
        // At 2 MB/s 20 MiB take ten seconds; heartbeats wait behind them without an answer.
        for _ in 0..20 {
            bench.pass(SECOND / 2);
            bench.link.on_bytes_moved(bench.now, long, run);
            bench.sent();
        }
        // Records are due and none were taken: it lags, but it is in contact.
        assert_eq!(bench.status(), expected, "{run:?}");
        bench.answer(long, response(1, 100, Some(5), Answer::Taken));
        assert_eq!(bench.counted(), Some(100));
        assert_eq!(bench.status(), Status::Healthy);
    }
}

#[test]
fn bytes_of_a_finished_request_are_ignored() {
    let mut bench = Bench::open(100, 0);
    let (first, ..) = bench.batches()[0];
    bench.fail(first);
    bench.pass(4 * SECOND);
    bench.link.on_bytes_moved(bench.now, first, Some(life(1)));
    bench.link.on_bytes_moved(bench.now, 999, Some(life(1)));
    assert_eq!(bench.status(), Status::Unhealthy);
}
