//! What a schedule does to packets on their way: keep them back, copy them, let them go.
//!
//! Knows a packet by its way and by what it is about, and nothing else of it.

use std::any::Any;

use super::{
    network::{Packet, Replication},
    world::MachineId,
};

/// What a packet is about, as far as a schedule tells packets apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) about: About,
    pub(crate) side: Side,
}

/// What a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Identify,
    Promise,
    Hello,
    Heartbeat,
    Append,
    Fetch,
    /// No request of a master's.
    Other,
}

/// Whether a packet asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Answer,
}

impl About {
    pub(crate) fn of(request: &dyn Any) -> About {
        use crate::transport::RequestBody as Body;
        match request.downcast_ref::<Replication>() {
            None => About::Other,
            Some(Replication(request)) => match request.body {
                Body::Identify => About::Identify,
                Body::Promise(_) => About::Promise,
                Body::Hello(_) => About::Hello,
                Body::Heartbeat(_) => About::Heartbeat,
                Body::Append(_) => About::Append,
                Body::Fetch(_) => About::Fetch,
            },
        }
    }
}

/// A hand on a way: what passes there is kept back, or copied, until it is let go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grip {
    pub(crate) from: MachineId,
    pub(crate) to: MachineId,
    pub(crate) label: Label,
    pub(crate) how: Grasp,
}

/// What a hand does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grasp {
    /// Keeps what comes.
    Hold,
    /// Keeps the next one, and lets the others pass.
    HoldOne,
    /// Lets it pass and keeps a copy.
    Copy,
}

/// The hands that a schedule has on the network, and what is in them.
#[derive(Default)]
pub(crate) struct Hands {
    grips: Vec<Grip>,
    kept: Vec<Packet>,
}

impl Hands {
    pub(crate) fn grip(&mut self, grip: Grip) {
        self.grips.push(grip);
    }

    /// How many packets of this kind are kept.
    pub(crate) fn kept(&self, from: MachineId, to: MachineId, label: Label) -> usize {
        let is = |packet: &&Packet| packet.is(from, to, label);
        self.kept.iter().filter(is).count()
    }

    /// Opens the hands on this way for this kind, and hands out what was kept of it.
    pub(crate) fn open(&mut self, from: MachineId, to: MachineId, label: Label) -> Vec<Packet> {
        self.grips
            .retain(|grip| (grip.from, grip.to, grip.label) != (from, to, label));
        let all = std::mem::take(&mut self.kept);
        let (out, rest) = all
            .into_iter()
            .partition(|packet| packet.is(from, to, label));
        self.kept = rest;
        out
    }

    /// Hands out the oldest packet of this kind.
    pub(crate) fn take_one(
        &mut self,
        from: MachineId,
        to: MachineId,
        label: Label,
    ) -> Option<Packet> {
        let mut kept = self.kept.iter();
        let nth = kept.position(|packet| packet.is(from, to, label))?;
        Some(self.kept.remove(nth))
    }

    /// Opens all hands.
    pub(crate) fn open_all(&mut self) -> Vec<Packet> {
        self.grips.clear();
        std::mem::take(&mut self.kept)
    }

    /// A packet sets out; comes back where it goes on.
    pub(crate) fn pass(&mut self, packet: Packet) -> Option<Packet> {
        let on = |grip: &Grip| packet.is(grip.from, grip.to, grip.label);
        let Some(nth) = self.grips.iter().position(on) else {
            return Some(packet);
        };
        match self.grips[nth].how {
            Grasp::Copy => {
                self.kept.extend(packet.copy());
                Some(packet)
            }
            Grasp::HoldOne => {
                self.grips.remove(nth);
                self.kept.push(packet);
                None
            }
            Grasp::Hold => {
                self.kept.push(packet);
                None
            }
        }
    }
}
