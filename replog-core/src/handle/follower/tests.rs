//! Tests of followers of a log that the test itself writes: nothing runs by itself, so that every interleaving
//! of a read, a cut and its detection can be produced.

use std::{
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    error::Stopped,
    frame::{FrameBatch, testing::appends},
    handle::{
        Shared,
        host::{Host, Reports, Watched, Work},
        tests::within,
    },
    log::{
        HeldBack, LogFiles, LogOptions, LogView, LogWriter, WriterLoop,
        testing::{CLUSTER, FaultyStorage, HookTime, Records, open_with, options, read_all},
    },
    storage::{MemoryStorage, OpenHow, Storage},
    types::Epoch,
};

/// A host that runs blocking work at once.
#[derive(Debug)]
struct Here;

impl Host for Here {
    fn wall_ms(&self) -> u64 {
        0
    }

    fn rng(&self) -> ChaCha8Rng {
        rand::SeedableRng::seed_from_u64(0)
    }

    fn off_thread(&self, work: Work) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        work();
        Box::pin(std::future::ready(()))
    }

    fn start_writer(&self, _: WriterLoop, _: Reports) -> io::Result<LogWriter> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn watch(&self, _: Watched) {}
}

/// A node that consists only of its log.
struct Node {
    files: Arc<Mutex<LogFiles>>,
    view: Arc<LogView>,
    shared: Arc<Shared>,
    ended: watch::Sender<Option<Stopped>>,
    reader: Reader,
}

impl Node {
    /// Creates a node that keeps its whole log in memory, as appended.
    fn new() -> Node {
        let options = LogOptions {
            segment_bytes: 1 << 20,
            tail_bytes: 1 << 20,
            ..options()
        };
        Node::on(MemoryStorage::new(), options)
    }

    /// Creates a node that keeps nothing in memory.
    fn on_files(storage: impl Storage) -> Node {
        let options = LogOptions {
            tail_bytes: 0,
            ..options()
        };
        Node::on(storage, options)
    }

    fn on(storage: impl Storage, options: LogOptions) -> Node {
        let (files, view, _) = open_with(Arc::new(storage), options, Some(CLUSTER)).unwrap();
        let shared = Arc::new(Shared::new("node".parse().unwrap(), Vec::new()));
        let (ended, has_ended) = watch::channel(None);
        let host: Arc<dyn Host> = Arc::new(Here);
        Node {
            files: Arc::new(Mutex::new(files)),
            reader: Reader::new(&view, &shared, &host, &has_ended),
            view,
            shared,
            ended,
        }
    }

    fn files(&self) -> MutexGuard<'_, LogFiles> {
        self.files.lock().unwrap()
    }

    /// Appends `count` records of an epoch in one batch, and syncs them.
    fn append(&self, count: usize, epoch: u64) {
        let first = self.view.written_end().0;
        self.append_all(&[Records::new(first, vec![(epoch, 40); count]).batch()]);
    }

    /// Appends `count` records as [`Node::append`] does, but one by one: if nothing else is kept in memory, only the
    /// newest is.
    fn append_each(&self, count: usize, epoch: u64) {
        let first = self.view.written_end().0;
        self.append_all(&Records::new(first, vec![(epoch, 40); count]).batches(&[1]));
    }

    fn append_all(&self, batches: &[FrameBatch]) {
        let mut files = self.files();
        files.append(batches).unwrap();
        files.sync().unwrap();
    }

    fn cut(&self, to: u64) {
        self.files().truncate(Offset(to)).unwrap();
    }

    fn follow(&self, from: u64) -> Follower {
        self.reader.follow(Offset(from), ReadLevel::Local)
    }
}

/// Polls the follower once; returns `None` if it waits. The waiting future is dropped.
fn next(follower: &mut Follower, bytes_max: usize) -> Option<Result<Followed, ReadError>> {
    let mut next = pin!(follower.next(bytes_max));
    match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(followed) => Some(followed),
        Poll::Pending => None,
    }
}

/// The result of a follower: records as (first, end), a cut with its offset, or nothing.
#[derive(Debug, PartialEq, Eq)]
enum Gave {
    Records(u64, u64),
    Cut(u64),
    Nothing,
}

fn gives(follower: &mut Follower) -> Gave {
    match next(follower, 1 << 20) {
        Some(Ok(Followed::Records(ranges))) => {
            Gave::Records(ranges[0].first().0, ranges.last().unwrap().end().0)
        }
        Some(Ok(Followed::Cut { offset })) => Gave::Cut(offset.0),
        None => Gave::Nothing,
        Some(Err(error)) => panic!("{error}"),
    }
}

/// A client that takes what a follower delivers, and goes back when the follower reports a cut.
#[derive(Default)]
struct Taker {
    from: usize,
    /// The epoch of each record.
    taken: Vec<Epoch>,
    cuts: usize,
}

impl Taker {
    /// Takes everything available, a little at a time.
    fn take(&mut self, follower: &mut Follower) {
        self.take_checking(follower, |_| {});
    }

    /// Takes everything as [`Taker::take`] does, and calls `check` on all taken epochs whenever records were taken.
    fn take_checking(&mut self, follower: &mut Follower, check: impl Fn(&[Epoch])) {
        while let Some(followed) = next(follower, 100) {
            match followed.unwrap() {
                Followed::Records(ranges) => {
                    for message in ranges.iter().flat_map(MessageRange::refs) {
                        assert_eq!(message.offset.0 as usize, self.from + self.taken.len());
                        self.taken.push(message.epoch);
                    }
                    check(&self.taken);
                }
                Followed::Cut { offset } => {
                    let kept = offset.0 as usize - self.from;
                    assert!(kept < self.taken.len(), "cut where it had nothing");
                    self.taken.truncate(kept);
                    self.cuts += 1;
                }
            }
        }
    }
}

/// Returns the epochs of all records from `from` on.
fn epochs(view: &Arc<LogView>, from: u64) -> Vec<Epoch> {
    let all = read_all(view, 1000);
    let batch = FrameBatch::check(Offset(0), all.into()).unwrap();
    let messages = batch.messages().skip(from as usize);
    messages.map(|message| message.epoch).collect()
}

#[test]
fn a_follower_delivers_existing_records_and_then_new_ones() {
    let node = Node::new();
    node.append(3, 1);
    let mut follower = node.follow(1);
    assert_eq!(gives(&mut follower), Gave::Records(1, 3));
    // Waiting futures are dropped here repeatedly.
    for _ in 0..3 {
        assert_eq!(gives(&mut follower), Gave::Nothing);
    }
    node.append(2, 1);
    assert_eq!(gives(&mut follower), Gave::Records(3, 5));
    assert_eq!(follower.offset(), Offset(5));
}

#[test]
fn a_follower_that_begins_beyond_the_end_waits_for_its_first_record() {
    let node = Node::new();
    node.append(3, 1);
    let mut follower = node.follow(5);
    assert_eq!(gives(&mut follower), Gave::Nothing);
    node.append(2, 1);
    assert_eq!(gives(&mut follower), Gave::Nothing);
    node.append(2, 1);
    assert_eq!(gives(&mut follower), Gave::Records(5, 7));
    assert_eq!(gives(&mut node.follow(u64::MAX)), Gave::Nothing);
}

#[tokio::test]
async fn a_waiting_follower_is_woken_by_a_record_by_a_cut_and_by_the_end() {
    let node = Node::new();
    let mut follower = node.follow(0);
    let end = || {
        node.ended.send_replace(Some(Stopped { reason: None }));
    };
    let changes: [&dyn Fn(); 3] = [&|| node.append(4, 1), &|| node.cut(1), &end];
    let mut told = Vec::new();
    for change in changes {
        // Polled in this order, so that it waits before anything changes.
        let followed = async { tokio::join!(biased; follower.next(1 << 20), async { change() }).0 };
        told.push(within(followed).await);
    }
    assert!(matches!(told[0], Ok(Followed::Records(_))), "{told:?}");
    assert!(
        matches!(told[1], Ok(Followed::Cut { offset: Offset(1) })),
        "{told:?}"
    );
    assert!(matches!(told[2], Err(ReadError::Stopped)), "{told:?}");
}

#[test]
fn a_slow_follower_reads_on_from_the_log() {
    let node = Node::on(MemoryStorage::new(), options());
    let mut follower = node.follow(0);
    let mut taker = Taker::default();
    for epoch in 1..10 {
        node.append(20, epoch);
    }
    taker.take(&mut follower);
    assert_eq!(taker.taken, epochs(&node.view, 0));
    assert_eq!(taker.taken.len(), 180);
}

#[test]
fn a_batch_is_delivered_once_all_of_it_is_durable() {
    let node = Node::new();
    node.append_all(&[appends(0, 1, &[1])]);
    let mut follower = node.follow(0);
    node.files().append(&[appends(1, 1, &[3])]).unwrap();
    assert_eq!(gives(&mut follower), Gave::Records(0, 1));
    assert_eq!(gives(&mut follower), Gave::Nothing, "it is not synced");
    node.files().sync().unwrap();
    assert_eq!(gives(&mut follower), Gave::Records(1, 4));
}

#[test]
fn a_follower_may_begin_inside_a_batch() {
    let node = Node::new();
    node.append_all(&[appends(0, 1, &[2, 4, 1])]);
    for from in 0..7 {
        let mut follower = node.follow(from);
        assert_eq!(gives(&mut follower), Gave::Records(from, 7));
        assert_eq!(gives(&mut follower), Gave::Nothing);
    }
}

#[test]
fn of_a_batch_that_another_node_calls_committed_in_part_nothing_is_delivered() {
    let node = Node::new();
    node.append_all(&[appends(0, 1, &[2, 4, 1])]);
    let mut follower = node.reader.follow(Offset(0), ReadLevel::Committed);
    node.shared.set_committed(Some(Offset(4)));
    assert_eq!(gives(&mut follower), Gave::Records(0, 2));
    assert_eq!(gives(&mut follower), Gave::Nothing);
    node.shared.set_committed(Some(Offset(6)));
    assert_eq!(gives(&mut follower), Gave::Records(2, 6));
}

#[test]
fn a_follower_that_begins_inside_a_damaged_batch_waits_until_it_is_mended() {
    let storage = FaultyStorage::new();
    let node = Node::on_files(storage.clone());
    let damaged = appends(2, 1, &[4]);
    for frame in [appends(0, 1, &[2]), damaged.clone(), appends(6, 1, &[1])] {
        node.append_all(&[frame]);
    }
    rot_end_of(&storage, &damaged);
    let mut follower = node.follow(4);
    assert_eq!(gives(&mut follower), Gave::Nothing);
    node.files().inspect(Offset(2), HeldBack::No).unwrap();
    assert_eq!(gives(&mut follower), Gave::Nothing);
    node.append_all(&[damaged]);
    assert_eq!(gives(&mut follower), Gave::Records(4, 7));
}

#[test]
fn a_cut_of_delivered_records_is_reported_once_and_their_replacements_are_delivered() {
    let node = Node::new();
    node.append(10, 1);
    let mut follower = node.follow(2);
    assert_eq!(gives(&mut follower), Gave::Records(2, 10));
    assert_eq!(gives(&mut follower), Gave::Nothing);
    node.cut(4);
    assert_eq!(gives(&mut follower), Gave::Cut(4));
    assert_eq!(gives(&mut follower), Gave::Nothing);
    // The end is where it was, with other records.
    node.append(6, 2);
    assert_eq!(gives(&mut follower), Gave::Records(4, 10));
    // By the time it looks, the log is as long as before.
    node.cut(0);
    node.append(10, 3);
    assert_eq!(gives(&mut follower), Gave::Cut(2), "from where it began");
    assert_eq!(gives(&mut follower), Gave::Records(2, 10));
    assert_eq!(gives(&mut follower), Gave::Nothing);
}

#[test]
fn of_many_unseen_cuts_the_lowest_counts() {
    let node = Node::new();
    node.append(10, 1);
    let (mut ahead, mut behind) = (node.follow(0), node.follow(0));
    assert_eq!(gives(&mut ahead), Gave::Records(0, 10));
    // `behind` is in the middle of the log: only 5 records were delivered.
    while behind.offset() < Offset(5) {
        assert!(next(&mut behind, 1).is_some());
    }
    for (to, epoch) in [(8, 2), (6, 3), (9, 4), (7, 5)] {
        node.cut(to);
        node.append(4, epoch);
    }
    let now = epochs(&node.view, 0);
    assert_eq!(now.len(), 11);
    assert_eq!(gives(&mut ahead), Gave::Cut(6));
    for (follower, had) in [(&mut ahead, 6), (&mut behind, 5)] {
        let mut taker = Taker {
            taken: now[..had].to_vec(),
            ..Taker::default()
        };
        taker.take(follower);
        assert_eq!((&taker.taken, taker.cuts), (&now, 0));
    }
}

#[test]
fn a_cut_of_undelivered_records_is_not_reported() {
    let node = Node::new();
    node.append(10, 1);
    let mut beyond = node.follow(8);
    node.cut(3);
    assert_eq!(gives(&mut beyond), Gave::Nothing);
    node.append(7, 2);
    assert_eq!(gives(&mut beyond), Gave::Records(8, 10));
}

/// Cuts the log during the read that follows `reads` others, and writes other records there: synced, and so
/// shown, if `held`, else not shown yet.
fn cut_within(
    storage: &FaultyStorage,
    node: &Node,
    (time, reads): (HookTime, usize),
    to: u64,
    held: bool,
) {
    let files = node.files.clone();
    storage.hook_read(reads, time, move || {
        let mut files = files.lock().unwrap();
        files.truncate(Offset(to)).unwrap();
        // Few enough to fit into one segment, because starting another one syncs.
        let count = if held { 15 } else { 4 };
        let records = Records::new(to, vec![(9, 40); count]);
        files.append(&records.batches(&[2])).unwrap();
        if held {
            files.sync().unwrap();
        }
    });
}

#[test]
fn a_cut_at_any_moment_of_a_read_replaces_nothing_silently() {
    for time in [HookTime::BeforeRead, HookTime::AfterRead] {
        for to in [0, 5, 12, 20] {
            for given in [0, 4, 6, 13, 20, 29] {
                for (from, held) in [(0, true), (0, false), (3, true), (3, false)] {
                    for reads in 0.. {
                        if !cut_during_a_read((time, reads), to, held, (from, given)) {
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// Runs one case; reports whether there were enough reads for the cut to happen.
fn cut_during_a_read(
    (time, reads): (HookTime, usize),
    to: u64,
    held: bool,
    (from, given): (u64, u64),
) -> bool {
    let storage = FaultyStorage::new();
    let node = Node::on_files(storage.clone());
    node.append_each(30, 1);
    let mut follower = node.follow(from);
    let mut taker = Taker {
        from: from as usize,
        ..Taker::default()
    };
    while follower.offset() < Offset(given) {
        let Some(Ok(Followed::Records(ranges))) = next(&mut follower, 1) else {
            panic!("there are thirty");
        };
        taker.taken.extend(
            ranges
                .iter()
                .flat_map(MessageRange::refs)
                .map(|message| message.epoch),
        );
    }
    cut_within(&storage, &node, (time, reads), to, held);
    // If it switched to the other branch, it did so where that branch begins.
    let of_one_branch = |taken: &[Epoch]| {
        let other = taken.iter().position(|epoch| *epoch == Epoch(9));
        let begins = to.saturating_sub(from) as usize;
        assert!(
            other.is_none_or(|at| at == begins),
            "{taken:?}, cut to {to}"
        );
    };
    taker.take_checking(&mut follower, of_one_branch);
    if storage.is_hooked() {
        return false;
    }
    let what = format!("{time:?} {reads}, cut to {to} {held}, followed from {from}, {given} given");
    let shown = node.view.durable_end().max(Offset(from));
    assert!(
        follower.offset() <= shown,
        "more is given than shown: {what}"
    );
    node.files().sync().unwrap();
    taker.take(&mut follower);
    assert_eq!(taker.taken, epochs(&node.view, from), "{what}");
    let lost_some = given > to.max(from);
    assert!(taker.cuts <= 1 && (!lost_some || taker.cuts == 1), "{what}");
    true
}

#[test]
fn a_read_during_a_cut_returns_nothing_that_is_not_shown_yet() {
    let mut cuts = 0;
    for time in [HookTime::BeforeRead, HookTime::AfterRead] {
        for from in [0, 3, 6, 7, 20] {
            for reads in 0.. {
                let storage = FaultyStorage::new();
                let node = Node::on_files(storage.clone());
                node.append_each(30, 1);
                cut_within(&storage, &node, (time, reads), 5, false);
                let mut read = pin!(node.reader.read(Offset(from), Offset(30), 1 << 20));
                let mut cx = Context::from_waker(Waker::noop());
                let Poll::Ready(read) = read.as_mut().poll(&mut cx) else {
                    panic!("nothing to wait for");
                };
                if storage.is_hooked() {
                    break;
                }
                cuts += 1;
                let shown = node.view.durable_end();
                match read {
                    Ok(records) => {
                        let end = records.last().map_or(Offset(0), MessageRange::end);
                        assert!(
                            end <= shown,
                            "{time:?} {reads} from {from}: {end} of {shown}"
                        );
                    }
                    Err(ReadError::Cut { .. }) => assert!(from > 9, "{from}"),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    assert!(cuts > 10, "{cuts}");
}

#[test]
fn at_level_committed_only_records_known_to_be_committed_are_delivered() {
    let node = Node::new();
    node.append(5, 1);
    let mut follower = node.reader.follow(Offset(0), ReadLevel::Committed);
    assert_eq!(gives(&mut follower), Gave::Nothing, "not known");
    node.shared.set_committed(Some(Offset(2)));
    assert_eq!(gives(&mut follower), Gave::Records(0, 2));
    assert_eq!(gives(&mut follower), Gave::Nothing);
    // What a majority holds is not yet what this node holds.
    node.shared.set_committed(Some(Offset(9)));
    assert_eq!(gives(&mut follower), Gave::Records(2, 5));
    node.append(2, 1);
    assert_eq!(gives(&mut follower), Gave::Records(5, 7));
    // Recovering: `committed` is unknown again.
    node.shared.set_committed(None);
    node.append(2, 1);
    assert_eq!(gives(&mut follower), Gave::Nothing);
    // A cut beyond what it delivered does not affect it.
    node.cut(7);
    node.append(2, 2);
    node.shared.set_committed(Some(Offset(9)));
    assert_eq!(gives(&mut follower), Gave::Records(7, 9));
}

#[test]
fn a_follower_ends_with_its_node_whatever_is_left() {
    let node = Node::new();
    node.append(5, 1);
    let mut follower = node.follow(0);
    node.ended.send_replace(Some(Stopped { reason: None }));
    for _ in 0..2 {
        let ended = next(&mut follower, 1);
        assert!(matches!(ended, Some(Err(ReadError::Stopped))), "{ended:?}");
    }
}

#[tokio::test]
async fn a_follower_that_waits_at_damage_is_woken_by_the_repair() {
    for held_back in [HeldBack::No, HeldBack::Yes] {
        let storage = FaultyStorage::new();
        let node = Node::on_files(storage.clone());
        node.append_each(12, 1);
        let good = node.view.read(Offset(7), Offset(8), 1).unwrap();
        rot_end_of(&storage, &good[0]);
        let mut follower = node.follow(7);
        let mend = async {
            node.files().inspect(Offset(7), held_back).unwrap();
            // The follower checks again, and continues to wait.
            tokio::task::yield_now().await;
            node.append_all(&good);
        };
        let followed = async { tokio::join!(biased; follower.next(1), mend).0 };
        let followed = within(followed).await;
        assert!(matches!(followed, Ok(Followed::Records(_))), "{followed:?}");
    }
}

#[test]
fn a_follower_waits_at_damage_until_it_is_repaired() {
    for held_back in [HeldBack::No, HeldBack::Yes] {
        let storage = FaultyStorage::new();
        let node = Node::on_files(storage.clone());
        node.append_each(12, 1);
        // The end of the eighth record.
        let good = node.view.read(Offset(7), Offset(8), 1).unwrap();
        let (path, position) = rot_end_of(&storage, &good[0]);
        let mut follower = node.follow(0);
        let mut taker = Taker::default();
        taker.take(&mut follower);
        assert_eq!(taker.taken.len(), 7, "{path} at {position}");
        // Neither the inspection nor new appends change anything. If it kept re-reading, this would not
        // end.
        node.files().inspect(Offset(7), held_back).unwrap();
        assert_eq!(gives(&mut follower), Gave::Nothing);
        node.append(3, 1);
        assert_eq!(gives(&mut follower), Gave::Nothing);
        assert_eq!(gives(&mut node.follow(7)), Gave::Nothing);
        node.append_all(&good);
        taker.take(&mut follower);
        assert_eq!(taker.taken, epochs(&node.view, 0));
        assert_eq!(taker.taken.len(), 15);
    }
}

/// Changes the last byte of a record's file entry; returns its path and position.
fn rot_end_of(storage: &FaultyStorage, record: &FrameBatch) -> (String, u64) {
    let wanted = &record.bytes()[..];
    for name in storage.list("log").unwrap() {
        let path = format!("log/{name}");
        let file = storage.open(&path, OpenHow::Existing).unwrap();
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        let found = bytes
            .windows(wanted.len())
            .position(|window| window == wanted);
        if let Some(at) = found {
            let last = (at + wanted.len() - 1) as u64;
            let byte = bytes[last as usize] ^ 0x40;
            file.write_at(last, &[byte]).unwrap();
            return (path, last);
        }
    }
    panic!("{record:?} is nowhere");
}
