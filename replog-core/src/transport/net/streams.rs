//! [`Streams`]: the open streams of other nodes at a listener, and the rules by which one displaces another.
//!
//! Owns the list of streams and their nodes. Never reads or writes one, never logs: the listener does. Keeps rules 9
//! and 11.
//!
//! A run of a node has one stream: a newer stream of the same name and instance replaces the older one, of which
//! nothing more is read. So what the older one still carries is lost and never arrives late. The first request
//! shows which instance speaks. Two instances of one name, such as a replaced master that runs alongside its
//! successor, have a stream each: otherwise they would end each other's stream for as long as both run.

use std::net::SocketAddr;

use tokio::sync::oneshot;

use crate::{
    limits::{CLUSTER_STREAMS_MAX, CLUSTER_STREAMS_OF_NAME_MAX},
    types::{Epoch, InstanceId, NodeName},
};

/// The reason why a stream is displaced by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Displaced {
    /// The same node opened a newer one.
    Replaced,
    /// This node has promised a higher epoch than the one that the stream speaks for.
    Fenced,
}

/// Another instance of the same name that has a stream at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rival {
    pub(super) instance: InstanceId,
    pub(super) address: SocketAddr,
}

/// The open streams, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: Vec<Open>,
    /// The highest epoch that an answer of this node named as promised.
    promised: Epoch,
}

#[derive(Debug)]
struct Open {
    id: u64,
    name: NodeName,
    address: SocketAddr,
    /// The instance that speaks on the stream, known from its first request on.
    instance: Option<InstanceId>,
    /// The highest epoch that the stream spoke for.
    epoch: Epoch,
    end: oneshot::Sender<Displaced>,
}

impl Streams {
    /// Reports whether one more stream of `name` can be opened.
    pub(super) fn has_room_for(&self, name: &NodeName) -> bool {
        self.open.len() < CLUSTER_STREAMS_MAX || self.open.iter().any(|open| open.name == *name)
    }

    /// Registers a stream of `name` that has carried no request yet. It displaces an older stream of the name
    /// that has carried none either, and the oldest one if the name has too many. Returns the number of
    /// displaced streams, and a receiver that reports when this stream is displaced.
    pub(super) fn open(
        &mut self,
        id: u64,
        name: &NodeName,
        address: SocketAddr,
    ) -> (usize, oneshot::Receiver<Displaced>) {
        let mut ended = self.end_where(Displaced::Replaced, |open| {
            open.name == *name && open.instance.is_none()
        });
        let of_name = |open: &&Open| open.name == *name;
        let count = self.open.iter().filter(of_name).count();
        if (count >= CLUSTER_STREAMS_OF_NAME_MAX || self.open.len() >= CLUSTER_STREAMS_MAX)
            && let Some(oldest) = self.open.iter().find(of_name).map(|open| open.id)
        {
            ended += self.end_where(Displaced::Replaced, |open| open.id == oldest);
        }
        let (end, displaced) = oneshot::channel();
        self.open.push(Open {
            id,
            name: name.clone(),
            address,
            instance: None,
            epoch: Epoch::default(),
            end,
        });
        (ended, displaced)
    }

    /// Records which instance speaks on a stream and for which epoch. Older streams of the same instance end.
    /// Returns how many did, and another instance of the name if there is one.
    pub(super) fn on_request(
        &mut self,
        id: u64,
        instance: InstanceId,
        epoch: Epoch,
    ) -> (usize, Option<Rival>) {
        let Some(speaker) = self.open.iter_mut().find(|open| open.id == id) else {
            return (0, None);
        };
        speaker.epoch = speaker.epoch.max(epoch);
        if speaker.instance == Some(instance) {
            return (0, None);
        }
        speaker.instance = Some(instance);
        let name = speaker.name.clone();
        let ended = self.end_where(Displaced::Replaced, |open| {
            open.id != id && open.name == name && open.instance == Some(instance)
        });
        let rival = self.open.iter().find_map(|open| {
            let other = open
                .instance
                .filter(|_| open.name == name && open.id != id)?;
            Some(Rival {
                instance: other,
                address: open.address,
            })
        });
        (ended, rival)
    }

    /// Records the epoch that this node, in an answer on stream `id`, says it has promised. If that is new, other
    /// streams that speak for an older epoch end: what they carry is refused anyway, and while a long
    /// record is still coming in, its receipts must not be taken as contact with a node that obeys the sender.
    pub(super) fn on_promised(&mut self, id: u64, promised: Epoch) -> usize {
        if promised <= self.promised {
            return 0;
        }
        self.promised = promised;
        self.end_where(Displaced::Fenced, |open| {
            open.id != id && open.epoch < promised
        })
    }

    /// Removes a stream that has ended.
    pub(super) fn close(&mut self, id: u64) {
        self.open.retain(|open| open.id != id);
    }

    fn end_where(&mut self, why: Displaced, ends: impl Fn(&Open) -> bool) -> usize {
        let ended: Vec<Open> = self.open.extract_if(.., |open| ends(open)).collect();
        let count = ended.len();
        for open in ended {
            // An error means that it has already ended.
            let _ = open.end.send(why);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Ends = oneshot::Receiver<Displaced>;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn instance(byte: u8) -> InstanceId {
        InstanceId::from_bytes([byte; 16])
    }

    fn ended(stream: &mut Ends) -> Option<Displaced> {
        stream.try_recv().ok()
    }

    #[test]
    fn a_newer_stream_of_the_same_instance_replaces_the_older_with_its_first_request() {
        let mut streams = Streams::default();
        let (_, mut older) = streams.open(1, &name("master"), address(1));
        streams.on_request(1, instance(1), Epoch(3));
        let (count, mut newer) = streams.open(2, &name("master"), address(2));
        assert_eq!((count, ended(&mut older)), (0, None));
        assert_eq!(streams.on_request(2, instance(1), Epoch(3)), (1, None));
        assert_eq!(ended(&mut older), Some(Displaced::Replaced));
        assert_eq!(ended(&mut newer), None);
        assert_eq!(streams.open.len(), 1);
    }

    #[test]
    fn two_instances_of_one_name_keep_a_stream_each_and_are_reported_as_rivals() {
        let mut streams = Streams::default();
        let (_, mut one) = streams.open(1, &name("master"), address(1));
        streams.on_request(1, instance(1), Epoch(3));
        let (_, mut other) = streams.open(2, &name("master"), address(2));
        let rival = Rival {
            instance: instance(1),
            address: address(1),
        };
        let first = streams.on_request(2, instance(2), Epoch(0));
        assert_eq!(first, (0, Some(rival)));
        // Once, not with every request.
        assert_eq!(streams.on_request(2, instance(2), Epoch(0)), (0, None));
        assert_eq!(streams.on_request(1, instance(1), Epoch(3)), (0, None));
        assert_eq!((ended(&mut one), ended(&mut other)), (None, None));
    }

    #[test]
    fn idle_streams_and_streams_of_many_instances_do_not_accumulate() {
        let mut streams = Streams::default();
        let (_, mut silent) = streams.open(1, &name("master"), address(1));
        assert_eq!(streams.open(2, &name("master"), address(2)).0, 1);
        assert_eq!(ended(&mut silent), Some(Displaced::Replaced));
        for number in 3..100 {
            streams.on_request(number - 1, instance(number as u8), Epoch(1));
            streams.open(number, &name("master"), address(3));
            assert!(streams.open.len() <= CLUSTER_STREAMS_OF_NAME_MAX);
        }
        for number in 0..1000 {
            let name = name(&format!("n{number}"));
            if streams.has_room_for(&name) {
                streams.open(1000 + number, &name, address(4));
            }
        }
        assert_eq!(streams.open.len(), CLUSTER_STREAMS_MAX);
        assert!(streams.has_room_for(&name("n0")));
        streams.on_request(1000, instance(1), Epoch(1));
        assert_eq!(streams.open(5000, &name("n0"), address(4)).0, 1);
        assert_eq!(streams.open.len(), CLUSTER_STREAMS_MAX);
    }

    #[test]
    fn a_new_promise_ends_other_streams_of_older_epochs_once() {
        let mut streams = Streams::default();
        let (_, mut fenced) = streams.open(1, &name("master"), address(1));
        streams.on_request(1, instance(1), Epoch(5));
        let (_, mut newer) = streams.open(2, &name("other"), address(2));
        streams.on_request(2, instance(2), Epoch(6));
        assert_eq!(streams.on_promised(1, Epoch(5)), 0);
        assert_eq!(streams.on_promised(2, Epoch(6)), 1);
        assert_eq!(ended(&mut fenced), Some(Displaced::Fenced));
        // It reconnects to learn the reason, and does.
        let (_, mut again) = streams.open(3, &name("master"), address(1));
        streams.on_request(3, instance(1), Epoch(5));
        assert_eq!(streams.on_promised(3, Epoch(6)), 0);
        assert_eq!(streams.on_promised(2, Epoch(6)), 0);
        assert_eq!((ended(&mut again), ended(&mut newer)), (None, None));
    }
}
