//! Compares the model with the product where the model repeats it: which requests for a promise are granted,
//! which requests are taken, and which log a recovering master adopts. For every value that the model can have.

use tokio::time::Instant;

use super::{
    Bounds, Protocol,
    state::{Disk, LastWhole, Log, Master, PeerReply, Promise, Record, Role, SECONDARIES, State},
    steps::{Action, grants, holds},
};
use crate::{
    config::{ForcedRecovery, Founding, Timing},
    log::{ClusterIdentity, Meta, Promised},
    rules::{
        durable::OwnLog,
        fence::{check_epoch, check_promise},
        master_log::MasterNode,
        recovery::{Recovery, RecoveryAction, Settings},
    },
    transport::{self, Answer, NodeState, Request, RequestBody, Response},
    types::{self, ClusterId, Epoch, Incarnation, InstanceId, NodeName, Offset},
};

const INSTANCES: u8 = 3;
const LOG_EPOCHS: [Option<u8>; 3] = [None, Some(1), Some(2)];
/// Possible knowledge, in a node that is not intact, of its log before the damage.
const LAST_WHOLES: [Option<LastWhole>; 5] =
    [None, Some((1, 1)), Some((1, 2)), Some((2, 1)), Some((2, 2))];

fn name(index: usize) -> NodeName {
    NodeName::new(["a", "b", "m"][index]).unwrap()
}

fn instance(byte: u8) -> InstanceId {
    InstanceId::from_bytes([byte; 16])
}

fn life(byte: u8) -> Incarnation {
    Incarnation {
        instance: instance(byte),
        start: 1,
    }
}

fn epoch(epoch: u8) -> Epoch {
    Epoch(u64::from(epoch))
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([9; 16])
}

/// Returns each log epoch of a node, with what the node knows of its earlier log if it has none.
fn epochs() -> impl Iterator<Item = (Option<u8>, Option<LastWhole>)> {
    let intact = LOG_EPOCHS[1..].iter().map(|log_epoch| (*log_epoch, None));
    intact.chain(LAST_WHOLES.map(|last_whole| (None, last_whole)))
}

fn last_whole(known: Option<LastWhole>) -> Option<types::LastWhole> {
    known.map(|(log_epoch, end)| types::LastWhole {
        log_epoch: epoch(log_epoch),
        end: Offset(u64::from(end)),
    })
}

/// Returns the meta of a node. A promise of the model stands for one incarnation of each instance and epoch, so
/// one start is enough.
fn meta(
    node: usize,
    promise: &Promise,
    (log_epoch, known): (Option<u8>, Option<LastWhole>),
) -> Meta {
    let replaced = (0..INSTANCES).filter(|by| promise.replaced & (1 << by) != 0);
    Meta {
        last_whole: last_whole(known),
        name: name(node),
        instance: instance(0),
        start: 1,
        cluster: Some(ClusterIdentity {
            id: cluster(),
            nodes: (0..3).map(name).collect(),
        }),
        promised: (promise.epoch > 0).then(|| Promised {
            epoch: epoch(promise.epoch),
            name: name(2),
            instance: instance(promise.holder),
            start: 1,
            replaced: replaced.map(instance).collect(),
        }),
        log_epoch: log_epoch.map(epoch),
        forced_epoch: None,
    }
}

fn request(from: u8, at: u8) -> Request {
    Request {
        cluster: Some(cluster()),
        from: name(2),
        incarnation: life(from),
        to: name(0),
        epoch: epoch(at),
        body: RequestBody::Identify,
    }
}

#[test]
fn the_fence_of_the_model_equals_that_of_the_product() {
    let promises = (0..4_u8).flat_map(|epoch| {
        (0..INSTANCES).flat_map(move |holder| {
            (0..1 << INSTANCES).map(move |replaced| Promise {
                epoch,
                holder,
                replaced,
                met: 0,
            })
        })
    });
    // A node files as replaced only an instance that it had promised something, and never the holder of its
    // promise.
    let real = promises.filter(|promise| {
        promise.replaced & (1 << promise.holder) == 0
            && (promise.epoch > 0 || (promise.replaced, promise.holder) == (0, 0))
    });
    for promise in real {
        for (log_epoch, last_whole) in epochs() {
            let disk = Disk {
                promise,
                log_epoch,
                last_whole,
                ..Disk::default()
            };
            let meta = meta(0, &promise, (log_epoch, last_whole));
            for (from, at) in (0..INSTANCES).flat_map(|from| (1..5).map(move |at| (from, at))) {
                let request = request(from, at);
                let taken = check_epoch(&meta, &request).is_ok();
                assert_eq!(holds(&promise, from, at), taken, "{disk:?} {request:?}");
                for theirs in LOG_EPOCHS {
                    let given = check_promise(&meta, &request, theirs.map(epoch)).is_ok();
                    let modelled = grants(&disk, from, at, theirs);
                    assert_eq!(modelled, given, "{disk:?} {request:?} {theirs:?}");
                }
            }
        }
    }
}

/// Decision of a recovery, given its promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Waits,
    BecomesLeader,
    /// Cuts its own log to `from`, and fetches what is missing.
    Adopts {
        source: usize,
        from: u64,
    },
}

type Known = ((Option<u8>, Option<LastWhole>), Log);

/// Returns the logs that one history may leave behind, with every log epoch that goes with them.
fn known() -> Vec<Known> {
    let logs = [&[][..], &[1], &[1, 1], &[1, 2], &[2], &[2, 2]].map(|epochs| {
        let mut log = Log::default();
        for &epoch in epochs {
            log.push(Record { epoch, author: 0 });
        }
        log
    });
    let pairs = logs
        .into_iter()
        .flat_map(|log| epochs().map(move |known| (known, log)));
    pairs.collect()
}

fn modelled(
    ((log_epoch, last_whole), log): Known,
    heard: [Option<Known>; SECONDARIES],
) -> Option<Decision> {
    let bounds = Bounds {
        epochs: 4,
        ..super::FEW
    };
    let protocol = Protocol {
        bounds,
        mistake: None,
        replacing: super::Replacing::Filed,
    };
    let heard = heard.map(|heard| {
        heard.map(|((log_epoch, last_whole), log)| PeerReply {
            life: 0,
            log_epoch,
            last_whole,
            log,
        })
    });
    let mut disk = Disk {
        log,
        synced: log.len(),
        log_epoch,
        last_whole,
        ..Disk::default()
    };
    disk.extend_last_whole();
    let mut state: State = Protocol::beginning();
    let role = Role::Promising { epoch: 4, heard };
    state.masters[0] = Some(Master { disk, role });
    let (master, first) = (0, 0);
    protocol.step(&mut state, Action::Decide { master, first });
    let master = state.masters[0].unwrap();
    if state.seen.broken.is_some() {
        return None;
    }
    Some(match master.role {
        Role::Promising { .. } => Decision::Waits,
        // Records that are there already need not be fetched.
        Role::Adopting { end, .. } if end == master.disk.log.len() => Decision::BecomesLeader,
        Role::Adopting { source, .. } => Decision::Adopts {
            source: usize::from(source),
            from: u64::from(master.disk.log.len()),
        },
        _ => Decision::BecomesLeader,
    })
}

fn decided((epochs, log): Known, heard: [Option<Known>; SECONDARIES]) -> Decision {
    let settings = Settings {
        nodes: (0..3).map(name).collect(),
        founding: Founding::Allowed,
        forced_recovery: ForcedRecovery::default(),
        take_over: crate::config::TakeOver::default(),
        timing: Timing::default(),
        drawn: cluster(),
    };
    let promise = Promise {
        epoch: 3,
        ..Promise::default()
    };
    let now = Instant::now();
    let end = |log: &Log| Offset(u64::from(log.len()));
    let meta = meta(2, &promise, epochs);
    let own_starts = log.starts();
    let mut node = MasterNode::new(meta, OwnLog::whole(end(&log)));
    let mut recovery = Recovery::new(settings, &mut node, now);
    recovery.take_actions();
    node.on_saved(node.first_ticket());
    recovery.on_saved(&mut node, now);
    let asked = recovery.take_actions();
    let [RecoveryAction::Ask { serial, .. }] = asked[..] else {
        panic!("{asked:?}");
    };
    for (index, heard) in heard.iter().enumerate() {
        let Some(((log_epoch, known), log)) = heard else {
            continue;
        };
        let epoch_starts = log.starts();
        let response = Response {
            cluster: Some(cluster()),
            name: name(index),
            incarnation: life(0),
            state: NodeState {
                durable_end: end(log),
                log_epoch: log_epoch.map(epoch),
                promised: epoch(4),
                buffered: 0,
            },
            answer: Answer::Promised(transport::Promised {
                last_whole: last_whole(*known),
                epoch_starts,
                forced_epoch: None,
            }),
        };
        recovery.on_answer(&mut node, now, serial, response, &own_starts);
    }
    // The recovery waits for a node that does not answer until then.
    if heard.contains(&None)
        && let Some(deadline) = recovery.next_deadline(&node)
    {
        recovery.on_deadline(&mut node, deadline, &own_starts);
    }
    decision(recovery, node, now)
}

fn decision(mut recovery: Recovery, mut node: MasterNode, now: Instant) -> Decision {
    let mut decision = Decision::Waits;
    let mut actions = recovery.take_actions();
    while !actions.is_empty() {
        let action = actions.remove(0);
        match action {
            RecoveryAction::Truncate { ticket, to } => {
                node.on_cut(ticket, to);
                recovery.on_truncated(&mut node, now);
                actions.extend(recovery.take_actions());
            }
            RecoveryAction::Ask { to, body, .. } => {
                let RequestBody::Fetch(fetch) = body else {
                    panic!("{body:?}");
                };
                let source = (0..2).find(|index| to == [name(*index)]);
                decision = Decision::Adopts {
                    source: source.expect("a secondary is asked"),
                    from: fetch.from.0,
                };
            }
            RecoveryAction::Save(_) => decision = Decision::BecomesLeader,
            RecoveryAction::Quarantine { .. }
            | RecoveryAction::Note(_)
            | RecoveryAction::Warning(_) => {}
            other => panic!("{other:?}"),
        }
    }
    decision
}

#[test]
fn the_model_adopts_the_log_that_the_product_adopts() {
    let known = known();
    let answers: Vec<Option<Known>> = known.iter().copied().map(Some).chain([None]).collect();
    let mut compared = 0;
    for &own in &known {
        for &a in &answers {
            for &b in &answers {
                // A situation that an intact master must never meet is an assertion in the product.
                if let Some(modelled) = modelled(own, [a, b]) {
                    assert_eq!(modelled, decided(own, [a, b]), "{own:?} {a:?} {b:?}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 2000, "only {compared}");
}
