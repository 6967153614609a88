//! A node's promise, and the senders that it refuses because of it.
//!
//! Owns the checks on identity and epoch that every request passes before anything in it is
//! believed. Changes nothing: the replica saves a new promise before it answers. Keeps rule 9.

use crate::{
    limits::REPLACED_INSTANCES_MAX,
    log::{Meta, Promised},
    transport::{FencedBy, Refusal, Request},
    types::{Epoch, Incarnation, NodeName},
};

/// Checks that the request is for this node and from its cluster.
///
/// A blank node accepts any cluster; a request without a cluster asks only for the node's identity.
pub(crate) fn check_identity(meta: &Meta, request: &Request) -> Result<(), Refusal> {
    if request.to != meta.name {
        return Err(Refusal::WrongNode);
    }
    match (&meta.cluster, request.cluster) {
        (Some(own), Some(theirs)) if own.id != theirs => Err(Refusal::WrongCluster),
        _ => Ok(()),
    }
}

/// Checks that the node list of a promise request or hello is the one of this node, or may become
/// it.
pub(crate) fn check_nodes(
    meta: &Meta,
    sender: &NodeName,
    nodes: &[NodeName],
) -> Result<(), Refusal> {
    let ascending = nodes.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascending || !nodes.contains(&meta.name) || !nodes.contains(sender) {
        let detail = "the list of nodes must be ascending and name sender and receiver".to_owned();
        return Err(Refusal::Malformed { detail });
    }
    match &meta.cluster {
        Some(own) if own.nodes != nodes => Err(Refusal::OtherNodes {
            nodes: own.nodes.clone(),
        }),
        _ => Ok(()),
    }
}

/// Checks that the sender may have the promise of its epoch: a higher epoch, or the same one again,
/// and neither a replaced directory nor an outdated one.
pub(crate) fn check_promise(
    meta: &Meta,
    request: &Request,
    log_epoch: Option<Epoch>,
) -> Result<(), Refusal> {
    if let Some(promised) = &meta.promised {
        if promised.replaced.contains(&request.incarnation.instance) {
            return Err(Refusal::Replaced(fenced_by(promised)));
        }
        let again = request.epoch == promised.epoch && is_holder(promised, request);
        if request.epoch <= promised.epoch && !again {
            return Err(Refusal::Fenced(fenced_by(promised)));
        }
        // Applies to the holder as well: an outdated directory may reach the same epoch and start
        // again.
        let last_whole = meta.last_whole.map(|whole| whole.log_epoch);
        if let (Some(own), Some(theirs)) = (meta.log_epoch.or(last_whole), log_epoch)
            && theirs < own
        {
            return Err(Refusal::OutOfDate(FencedBy {
                epoch: own,
                ..fenced_by(promised)
            }));
        }
    }
    Ok(())
}

/// Checks that the sender speaks for the promised epoch, as every message except a promise request
/// and a hello must.
pub(crate) fn check_epoch(meta: &Meta, request: &Request) -> Result<(), Refusal> {
    match &meta.promised {
        None => Err(Refusal::HelloFirst),
        Some(promised) if promised.replaced.contains(&request.incarnation.instance) => {
            Err(Refusal::Replaced(fenced_by(promised)))
        }
        Some(promised) if request.epoch > promised.epoch => Err(Refusal::HelloFirst),
        Some(promised) if request.epoch == promised.epoch && is_holder(promised, request) => Ok(()),
        Some(promised) => Err(Refusal::Fenced(fenced_by(promised))),
    }
}

/// Returns the promise to a sender that passed [`check_promise`].
pub(crate) fn promise_to(
    before: Option<&Promised>,
    epoch: Epoch,
    name: &NodeName,
    incarnation: Incarnation,
) -> Promised {
    let mut replaced = Vec::new();
    if let Some(before) = before {
        replaced.clone_from(&before.replaced);
        if before.name == *name && before.instance != incarnation.instance {
            replaced.push(before.instance);
        }
        let surplus = replaced.len().saturating_sub(REPLACED_INSTANCES_MAX);
        replaced.drain(..surplus);
    }
    let Incarnation { instance, start } = incarnation;
    Promised {
        epoch,
        name: name.clone(),
        instance,
        start,
        replaced,
    }
}

/// Returns the holder of the promise, for the senders that it shuts out.
pub(crate) fn fenced_by(promised: &Promised) -> FencedBy {
    FencedBy {
        name: promised.name.clone(),
        instance: promised.instance,
        epoch: promised.epoch,
    }
}

fn is_holder(promised: &Promised, request: &Request) -> bool {
    let holder = Incarnation {
        instance: promised.instance,
        start: promised.start,
    };
    promised.name == request.from && holder == request.incarnation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::ClusterIdentity,
        transport::RequestBody,
        types::{ClusterId, InstanceId},
    };

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn instance(byte: u8) -> InstanceId {
        InstanceId::from_bytes([byte; 16])
    }

    fn request(epoch: u64, by: u8, start: u64) -> Request {
        Request {
            cluster: Some(ClusterId::from_bytes([1; 16])),
            from: name("master"),
            incarnation: Incarnation {
                instance: instance(by),
                start,
            },
            to: name("s1"),
            epoch: Epoch(epoch),
            body: RequestBody::Identify,
        }
    }

    fn meta(promised: Option<(u64, u8, u64)>, log_epoch: Option<u64>) -> Meta {
        Meta {
            last_whole: None,
            name: name("s1"),
            instance: instance(99),
            start: 1,
            cluster: Some(ClusterIdentity {
                id: ClusterId::from_bytes([1; 16]),
                nodes: vec![name("master"), name("s1")],
            }),
            promised: promised.map(|(epoch, by, start)| Promised {
                epoch: Epoch(epoch),
                name: name("master"),
                instance: instance(by),
                start,
                replaced: vec![instance(50)],
            }),
            log_epoch: log_epoch.map(Epoch),
            forced_epoch: None,
        }
    }

    #[test]
    fn a_promise_is_given_for_a_higher_epoch_or_again_to_the_same_run() {
        let meta = meta(Some((5, 1, 3)), Some(5));
        let granted = |epoch, by, start| check_promise(&meta, &request(epoch, by, start), None);
        assert_eq!(granted(6, 1, 4), Ok(()));
        assert_eq!(granted(6, 2, 1), Ok(()));
        assert_eq!(granted(5, 1, 3), Ok(()));
        assert!(matches!(granted(5, 1, 4), Err(Refusal::Fenced(_))));
        assert!(matches!(granted(5, 2, 3), Err(Refusal::Fenced(_))));
        assert!(matches!(granted(4, 1, 3), Err(Refusal::Fenced(_))));
    }

    #[test]
    fn a_replaced_or_outdated_directory_is_refused_whatever_the_epoch() {
        let meta = meta(Some((5, 1, 3)), Some(5));
        let refused = check_promise(&meta, &request(9, 50, 1), None);
        assert!(matches!(refused, Err(Refusal::Replaced(_))));
        let refused = check_promise(&meta, &request(9, 1, 4), Some(Epoch(4)));
        assert!(matches!(refused, Err(Refusal::OutOfDate(_))));
        assert_eq!(
            check_promise(&meta, &request(9, 1, 4), Some(Epoch(5))),
            Ok(())
        );
        // An older copy of the holder's directory took the same epoch at its own third start.
        let refused = check_promise(&meta, &request(5, 1, 3), Some(Epoch(4)));
        assert!(matches!(refused, Err(Refusal::OutOfDate(_))));
    }

    #[test]
    fn everything_but_a_hello_must_speak_for_the_promised_epoch() {
        let promised = meta(Some((5, 1, 3)), None);
        assert_eq!(check_epoch(&promised, &request(5, 1, 3)), Ok(()));
        assert_eq!(
            check_epoch(&promised, &request(6, 1, 3)),
            Err(Refusal::HelloFirst)
        );
        assert!(matches!(
            check_epoch(&promised, &request(4, 1, 3)),
            Err(Refusal::Fenced(_))
        ));
        assert!(matches!(
            check_epoch(&promised, &request(5, 2, 3)),
            Err(Refusal::Fenced(_))
        ));
        assert!(matches!(
            check_epoch(&promised, &request(5, 50, 3)),
            Err(Refusal::Replaced(_))
        ));
        assert_eq!(
            check_epoch(&meta(None, None), &request(5, 1, 3)),
            Err(Refusal::HelloFirst)
        );
    }

    #[test]
    fn a_new_directory_of_the_same_master_shuts_the_old_one_out() {
        let before = meta(Some((5, 1, 3)), None).promised;
        let life = Incarnation {
            instance: instance(2),
            start: 1,
        };
        let after = promise_to(before.as_ref(), Epoch(6), &name("master"), life);
        assert_eq!(after.replaced, [instance(50), instance(1)]);
        let next = Incarnation {
            instance: instance(2),
            start: 2,
        };
        let again = promise_to(Some(&after), Epoch(7), &name("master"), next);
        assert_eq!(again.replaced, after.replaced, "a restart replaces nothing");
    }

    #[test]
    fn strangers_are_refused_with_the_reason() {
        let own = meta(None, None);
        let mut stranger = request(1, 1, 1);
        stranger.cluster = Some(ClusterId::from_bytes([9; 16]));
        assert_eq!(check_identity(&own, &stranger), Err(Refusal::WrongCluster));
        let mut misdirected = request(1, 1, 1);
        misdirected.to = name("s2");
        assert_eq!(check_identity(&own, &misdirected), Err(Refusal::WrongNode));
        let master = name("master");
        let nodes = [name("master"), name("s1"), name("s2")];
        assert!(matches!(
            check_nodes(&own, &master, &nodes),
            Err(Refusal::OtherNodes { .. })
        ));
        let nodes = [name("s1"), name("master")];
        assert!(matches!(
            check_nodes(&own, &master, &nodes),
            Err(Refusal::Malformed { .. })
        ));
    }
}
