use super::*;
use crate::{
    transport::RequestBody,
    types::{InstanceId, LastWhole},
};

/// A node whose owner gives each save and cut a name.
type Node = Durable<&'static str>;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn instance(byte: u8) -> InstanceId {
    InstanceId::from_bytes([byte; 16])
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([1; 16])
}

/// Returns the meta of a blank node in its second start.
fn blank() -> Meta {
    Meta {
        name: name("s1"),
        instance: instance(9),
        start: 2,
        cluster: None,
        promised: None,
        log_epoch: None,
        last_whole: None,
        forced_epoch: None,
    }
}

/// Returns a node that has promised epoch 5, with a whole log of ten records and this log epoch.
fn node(log_epoch: Option<u64>) -> Node {
    let mut node = Node::new(blank(), OwnLog::whole(Offset(10)));
    promise(&mut node, 5);
    if let Some(log_epoch) = log_epoch {
        node.take_log_epoch(Epoch(log_epoch));
    }
    let save = node.save("start");
    assert_eq!(saved(&mut node, &save), "start");
    node
}

fn request(epoch: u64) -> Request {
    Request {
        cluster: Some(cluster()),
        from: name("m"),
        incarnation: Incarnation {
            instance: instance(1),
            start: 1,
        },
        to: name("s1"),
        epoch: Epoch(epoch),
        body: RequestBody::Identify,
    }
}

fn promise(node: &mut Node, epoch: u64) -> StagedPromise {
    let nodes = [name("m"), name("s1")];
    let request = request(epoch);
    node.check_promise(&request, &nodes, None).unwrap();
    node.stage_promise(&request, Epoch(epoch), &nodes).unwrap()
}

/// Reports a save as done.
fn saved(node: &mut Node, save: &Save) -> &'static str {
    let then = node.on_saved(save.ticket);
    node.check();
    then
}

fn notice(node: &mut Node, offset: u64) -> DamageNoticed {
    let held = node.whole_end();
    let noticed = node.on_damage_noticed(Offset(offset), held);
    node.check();
    noticed
}

/// Reports an inspection that found this hole, in a log that ends at 10. What it returns is to be noticed at once.
fn inspected(node: &mut Node, hole: Range<u64>) -> Option<u64> {
    let own = OwnLog {
        whole_end: Offset(hole.start),
        end: Offset(10),
    };
    let next = node.on_inspected(&[Offset(hole.start)..Offset(hole.end)], own);
    next.map(|offset| offset.0)
}

fn fill_disk(node: &mut Node, now: Instant) -> WriteRefused<&'static str> {
    let outage = WriteOutage {
        disk: DiskState::Full,
        detail: "no space".into(),
    };
    let refused = node.on_write_failed(now, outage);
    node.check();
    refused
}

fn make_room(node: &mut Node, now: Instant) -> Option<u64> {
    let next = node.on_resumed(now, OwnLog::whole(Offset(10)));
    next.map(|offset| offset.0)
}

fn held(end: u64) -> Option<LastWhole> {
    Some(LastWhole {
        log_epoch: Epoch(5),
        end: Offset(end),
    })
}

#[test]
fn saves_are_attributed_by_ticket_also_when_several_are_under_way() {
    let mut node = node(None);
    promise(&mut node, 6);
    let first = node.save("sixth");
    promise(&mut node, 7);
    let second = node.save("seventh");
    assert_eq!(second.ticket, first.ticket + 1);
    assert_eq!(node.durable_epoch(), Epoch(5), "nothing is durable yet");
    assert_eq!(saved(&mut node, &first), "sixth");
    assert_eq!(node.saved(), &*first.meta);
    assert_eq!(node.durable_epoch(), Epoch(6));
    assert_eq!(node.staged(), &*second.meta, "and the other will be");
    assert_eq!(saved(&mut node, &second), "seventh");
    assert_eq!(node.durable_epoch(), Epoch(7));
}

#[test]
#[should_panic(expected = "the writer keeps the order of its commands")]
fn a_report_of_another_save_is_not_taken_for_the_first() {
    let mut node = node(None);
    let _first = node.save("first");
    let second = node.save("second");
    node.on_saved(second.ticket);
}

#[test]
#[should_panic(expected = "was a cut, not a save")]
fn a_report_of_a_save_is_not_taken_for_a_cut() {
    let mut node = node(None);
    let ticket = node.cut(Offset(3), "cut");
    node.on_saved(ticket);
}

#[test]
fn another_save_of_the_same_meta_joins_the_last_one() {
    let mut node = node(None);
    assert_eq!(node.last_save(), None, "nothing is under way");
    promise(&mut node, 6);
    let _save = node.save("sixth");
    assert_eq!(node.last_save(), Some(&mut "sixth"));
    promise(&mut node, 7);
    assert_eq!(
        node.last_save(),
        None,
        "what is under way does not save this"
    );
    let _save = node.save("seventh");
    node.cut(Offset(3), "cut");
    assert_eq!(node.last_save(), None, "a cut follows it");
}

#[test]
fn a_promise_binds_before_it_is_durable_and_no_longer_if_its_save_is_refused() {
    let (mut node, now) = (node(None), Instant::now());
    let staged = promise(&mut node, 6);
    assert_eq!((staged.joined, staged.raised), (None, true));
    let _save = node.save("sixth");
    let fenced = node.check_epoch(&request(5));
    assert!(matches!(fenced, Err(Refusal::Fenced(_))), "{fenced:?}");
    let refused = fill_disk(&mut node, now);
    assert_eq!(
        (refused.is_news, &refused.dropped[..]),
        (true, &["sixth"][..])
    );
    assert_eq!(node.check_epoch(&request(5)), Ok(()));
}

#[test]
fn a_blank_node_joins_a_cluster_with_its_first_promise() {
    let mut node = Node::new(blank(), OwnLog::whole(Offset::ZERO));
    let staged = promise(&mut node, 5);
    assert_eq!((staged.joined, staged.raised), (Some(cluster()), true));
    assert_eq!(node.saved().cluster, None);
    let save = node.save("joined");
    assert_eq!(saved(&mut node, &save), "joined");
    let staged = promise(&mut node, 5);
    assert_eq!((staged.joined, staged.raised), (None, false));
}

#[test]
fn the_log_is_not_intact_from_the_moment_at_which_damage_is_found() {
    let mut node = node(Some(5));
    assert_eq!(notice(&mut node, 3), DamageNoticed::Inspect);
    for meta in [node.saved(), node.staged()] {
        assert_eq!((meta.log_epoch, meta.last_whole), (None, held(10)));
    }
    let save = node.save("damaged");
    assert_eq!(saved(&mut node, &save), "damaged");
    assert_eq!(node.saved().log_epoch, None, "while the inspection runs");
    assert_eq!(inspected(&mut node, 3..5), None);
    assert_eq!(node.saved().log_epoch, None);
    assert_eq!(node.whole_end(), Offset(3));
    assert_eq!(node.own_log().end, Offset(10));
}

#[test]
#[should_panic(expected = "3 cannot be read in a log that counts")]
fn a_log_under_inspection_takes_no_log_epoch() {
    let mut node = node(Some(5));
    notice(&mut node, 3);
    node.take_log_epoch(Epoch(6));
    node.check();
}

#[test]
fn a_meta_whose_save_was_requested_before_damage_was_found_claims_too_much_and_is_corrected() {
    let mut node = node(Some(5));
    promise(&mut node, 6);
    let before = node.save("before");
    assert_eq!(notice(&mut node, 3), DamageNoticed::Inspect);
    let after = node.save("after");
    assert_eq!(before.meta.log_epoch, Some(Epoch(5)));
    assert_eq!(saved(&mut node, &before), "before");
    assert_eq!(node.durable_epoch(), Epoch(6), "the promise is durable");
    let meta = node.saved();
    assert_eq!((meta.log_epoch, meta.last_whole), (None, held(10)));
    assert_eq!(saved(&mut node, &after), "after");
    assert_eq!(node.saved(), &*after.meta);
}

#[test]
fn damage_found_again_does_not_shorten_what_the_log_had_held() {
    let mut node = node(Some(5));
    notice(&mut node, 7);
    inspected(&mut node, 7..8);
    assert_eq!(notice(&mut node, 2), DamageNoticed::Inspect);
    assert_eq!(node.staged().last_whole, held(10), "not 7");
}

#[test]
fn damage_noticed_during_an_inspection_is_inspected_next() {
    let mut node = node(Some(5));
    assert_eq!(notice(&mut node, 3), DamageNoticed::Inspect);
    assert_eq!(notice(&mut node, 8), DamageNoticed::Later);
    assert_eq!(inspected(&mut node, 3..5), Some(8));
    assert_eq!(notice(&mut node, 8), DamageNoticed::Inspect);
    assert_eq!(inspected(&mut node, 3..5), None, "once");
}

#[test]
fn all_damage_noticed_during_an_inspection_is_inspected_one_after_the_other() {
    let mut node = node(Some(5));
    notice(&mut node, 3);
    for later in [8, 6, 4] {
        assert_eq!(notice(&mut node, later), DamageNoticed::Later);
    }
    assert_eq!(inspected(&mut node, 3..5), Some(6), "4 is known by now");
    assert_eq!(notice(&mut node, 6), DamageNoticed::Inspect);
    assert_eq!(inspected(&mut node, 6..7), Some(8));
    assert_eq!(notice(&mut node, 8), DamageNoticed::Inspect);
    assert_eq!(inspected(&mut node, 8..9), None);
}

#[test]
fn a_full_disk_forgets_no_damage() {
    let (mut node, now) = (node(Some(5)), Instant::now());
    notice(&mut node, 3);
    notice(&mut node, 8);
    fill_disk(&mut node, now);
    assert_eq!(make_room(&mut node, now), Some(3));
    notice(&mut node, 3);
    assert_eq!(inspected(&mut node, 3..5), Some(8));
    assert_eq!(notice(&mut node, 8), DamageNoticed::Inspect);
}

#[test]
fn damage_that_is_noticed_while_much_is_remembered_is_noticed_again_later() {
    let mut node = node(Some(5));
    notice(&mut node, 0);
    for offset in 1..=2 * NOTICED_RECORDS_MAX as u64 {
        assert_eq!(notice(&mut node, offset), DamageNoticed::Later);
    }
}

#[test]
fn damage_that_an_inspection_has_covered_is_not_inspected_again() {
    for again in [3, 4] {
        let mut node = node(Some(5));
        notice(&mut node, 3);
        assert_eq!(notice(&mut node, again), DamageNoticed::Later);
        assert_eq!(inspected(&mut node, 3..5), None, "{again}");
    }
    // The record can be read after all: the disk erred once.
    let mut node = node(Some(5));
    notice(&mut node, 3);
    notice(&mut node, 3);
    let next = node.on_inspected(&[], OwnLog::whole(Offset(10)));
    assert_eq!(next, None);
}

#[test]
fn damage_noticed_while_the_disk_refuses_writes_is_inspected_once_it_takes_them() {
    let (mut node, now) = (node(Some(5)), Instant::now());
    fill_disk(&mut node, now);
    assert_eq!(notice(&mut node, 3), DamageNoticed::Later);
    assert_eq!(make_room(&mut node, now), Some(3));
    assert_eq!(notice(&mut node, 3), DamageNoticed::Inspect);
}

#[test]
fn damage_noticed_before_the_disk_ran_full_is_inspected_once_it_takes_writes() {
    let (mut node, now) = (node(Some(5)), Instant::now());
    notice(&mut node, 3);
    let _save = node.save("damaged");
    assert_eq!(fill_disk(&mut node, now).dropped, ["damaged"]);
    assert_eq!(node.saved().log_epoch, None, "the damage stays known");
    assert_eq!(node.staged(), node.saved());
    assert_eq!(make_room(&mut node, now), Some(3));
    assert_eq!(notice(&mut node, 3), DamageNoticed::Inspect);
    let save = node.save("damaged");
    assert_eq!(
        save.meta.last_whole,
        held(10),
        "what the next start may claim"
    );
    assert_eq!(saved(&mut node, &save), "damaged");
    assert_eq!(inspected(&mut node, 3..5), None);
}

#[test]
fn a_refused_write_takes_a_new_incarnation_back_which_the_next_inspection_begins_again() {
    let (mut node, now) = (node(Some(5)), Instant::now());
    let before = node.incarnation();
    for attempt in 0..2 {
        assert_eq!(notice(&mut node, 3), DamageNoticed::Inspect);
        node.begin_incarnation();
        let save = node.save("damaged");
        assert_eq!(node.incarnation(), before, "not before it is durable");
        if attempt == 0 {
            fill_disk(&mut node, now);
            assert_eq!(make_room(&mut node, now), Some(3));
        } else {
            saved(&mut node, &save);
        }
    }
    assert_eq!(node.incarnation().start, before.start + 1);
}

#[test]
fn a_failed_disk_is_not_inspected() {
    let mut node = node(Some(5));
    node.on_failed("broken".into());
    assert_eq!(notice(&mut node, 3), DamageNoticed::Never);
    assert_eq!(node.disk(), DiskState::Failed);
}

#[test]
fn records_that_are_about_to_be_cut_are_no_longer_acknowledged() {
    let mut node = node(Some(5));
    let ticket = node.cut(Offset(6), "cut");
    assert_eq!(node.whole_end(), Offset(10));
    assert_eq!(node.whole_end_after_cuts(), Offset(6));
    assert_eq!(node.on_cut(ticket, Offset(6)), "cut");
    assert_eq!(node.own_log(), OwnLog::whole(Offset(6)));
    let ticket = node.cut(Offset(4), "not made");
    assert_eq!(node.on_not_cut(ticket), "not made");
    assert_eq!(node.whole_end_after_cuts(), Offset(6));
}

#[test]
fn a_filled_hole_moves_the_end_behind_the_records_that_were_there() {
    let mut node = node(Some(5));
    notice(&mut node, 3);
    inspected(&mut node, 3..5);
    node.on_durable(Offset(4));
    assert_eq!(node.whole_end(), Offset(4));
    node.on_durable(Offset(10));
    assert_eq!(node.own_log(), OwnLog::whole(Offset(10)));
    node.on_durable(Offset(12));
    assert_eq!(node.own_log(), OwnLog::whole(Offset(12)));
}
