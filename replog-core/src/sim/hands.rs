//! Control of a schedule over packets in flight: holding, copying and releasing them.
//!
//! Knows a packet by its route and its subject, and nothing else of it.

use std::any::Any;

use super::{
    network::{Packet, Replication},
    world::MachineId,
};

/// Subject of a packet, as far as schedules distinguish packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) about: About,
    pub(crate) side: Side,
}

/// Subject of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Identify,
    Promise,
    Hello,
    Heartbeat,
    Append,
    Fetch,
    /// Any request that is not a master's.
    Other,
}

/// Direction of a packet: request or answer.
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

/// A hold on a route: packets there are kept back, or copied, until it is released.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    pub(crate) from: MachineId,
    pub(crate) to: MachineId,
    pub(crate) label: Label,
    pub(crate) how: HoldMode,
}

/// Mode of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldMode {
    /// Keeps every packet.
    Hold,
    /// Keeps the next packet, and lets the others pass.
    HoldOne,
    /// Lets packets pass and keeps a copy.
    Copy,
}

/// All holds of a schedule, and the packets in them.
#[derive(Default)]
pub(crate) struct Hands {
    grips: Vec<Hold>,
    kept: Vec<Packet>,
}

impl Hands {
    pub(crate) fn grip(&mut self, grip: Hold) {
        self.grips.push(grip);
    }

    /// Returns how many packets of this kind are kept.
    pub(crate) fn kept(&self, from: MachineId, to: MachineId, label: Label) -> usize {
        let is = |packet: &&Packet| packet.is(from, to, label);
        self.kept.iter().filter(is).count()
    }

    /// Releases the holds on this route for this kind, and returns the packets kept there.
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

    /// Returns the oldest packet of this kind.
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

    /// Releases all holds.
    pub(crate) fn open_all(&mut self) -> Vec<Packet> {
        self.grips.clear();
        std::mem::take(&mut self.kept)
    }

    /// Passes a packet that sets out; returns it if it goes on.
    pub(crate) fn pass(&mut self, packet: Packet) -> Option<Packet> {
        let on = |grip: &Hold| packet.is(grip.from, grip.to, grip.label);
        let Some(nth) = self.grips.iter().position(on) else {
            return Some(packet);
        };
        match self.grips[nth].how {
            HoldMode::Copy => {
                self.kept.extend(packet.copy());
                Some(packet)
            }
            HoldMode::HoldOne => {
                self.grips.remove(nth);
                self.kept.push(packet);
                None
            }
            HoldMode::Hold => {
                self.kept.push(packet);
                None
            }
        }
    }
}
