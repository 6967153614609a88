//! The simulated network: packets that are late, lost, duplicated, reordered, or cut off.
//!
//! A packet in flight belongs to the world and outlives its sender; whatever a request starts on
//! the machine that it reaches dies with that machine. Calls are typed: a machine listens for a
//! type of request, which takes the place of a port.

use std::{
    any::{Any, TypeId},
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use tokio::sync::oneshot;

use super::{
    hands::{About, Label, Side},
    mistakes,
    world::{self, Event, Life, MachineId, World},
};
use crate::{
    config::Peer,
    error::ConfigError,
    transport::{CallFuture, Network, Request, Response, Transport, TransportError},
};

/// Type of the requests that a machine listens for.
pub(crate) type PortId = TypeId;

/// Handler of requests of one type.
pub(crate) type Listener =
    Rc<dyn Fn(Box<dyn Any>) -> Pin<Box<dyn Future<Output = Option<Box<dyn Any>>>>>>;

/// Result of a call.
pub(crate) type Reply = Result<Box<dyn Any>, CallError>;

/// Reasons why a call got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nothing listens there.
    #[error("connection refused")]
    Refused,
    /// The other side went away; the request may have been carried out.
    #[error("connection broken")]
    Broken,
}

/// A request that can be sent twice.
pub(crate) trait Payload: Any {
    fn copy(&self) -> Box<dyn Payload>;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<T: Clone + 'static> Payload for T {
    fn copy(&self) -> Box<dyn Payload> {
        Box::new(self.clone())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A packet in flight.
pub(crate) struct Packet {
    pub(crate) from: MachineId,
    pub(crate) to: MachineId,
    pub(crate) label: Label,
    pub(crate) content: Content,
}

impl Packet {
    pub(crate) fn is(&self, from: MachineId, to: MachineId, label: Label) -> bool {
        (self.from, self.to, self.label) == (from, to, label)
    }

    /// Returns a copy of a replication request: a caller that gets two replies takes the first.
    /// Requests of clients come as over a connection: once or not at all.
    pub(crate) fn copy(&self) -> Option<Packet> {
        let label = self.label;
        match &self.content {
            Content::Request { port, .. } if *port != TypeId::of::<Replication>() => None,
            Content::Reply { .. } => None,
            Content::Request {
                call,
                caller,
                port,
                payload,
            } => Some(Packet {
                from: self.from,
                to: self.to,
                label,
                content: Content::Request {
                    call: *call,
                    caller: *caller,
                    port: *port,
                    payload: (**payload).copy(),
                },
            }),
        }
    }

    /// Returns the same replication request with changed content; any other packet as it is.
    pub(crate) fn forged(mut self, change: impl FnOnce(&mut Request)) -> Packet {
        if let Content::Request { port, payload, .. } = &mut self.content
            && *port == TypeId::of::<Replication>()
            && let Ok(mut replication) = payload.copy().into_any().downcast::<Replication>()
        {
            change(&mut replication.0);
            *payload = replication;
        }
        self
    }
}

pub(crate) enum Content {
    Request {
        call: u64,
        caller: Life,
        port: PortId,
        payload: Box<dyn Payload>,
    },
    Reply {
        call: u64,
        caller: Life,
        reply: Reply,
    },
}

/// The directions that are cut.
#[derive(Debug, Default)]
pub(crate) struct Wires {
    /// Pairs of sender and receiver.
    cut: BTreeSet<(MachineId, MachineId)>,
}

impl Wires {
    pub(crate) fn cut(&mut self, from: MachineId, to: MachineId) {
        self.cut.insert((from, to));
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn mend(&mut self, from: MachineId, to: MachineId) {
        self.cut.remove(&(from, to));
    }

    pub(crate) fn is_cut(&self, from: MachineId, to: MachineId) -> bool {
        self.cut.contains(&(from, to))
    }
}

impl World {
    /// Sends a packet: it may be lost, late, or sent twice.
    pub(crate) fn send(&mut self, packet: Packet) {
        let (loss, duplicate, slow) = if self.faults_on {
            let faults = &self.faults;
            (faults.loss, faults.duplicate, faults.late)
        } else {
            (0.0, 0.0, 0.0)
        };
        let Some(packet) = self.hands.pass(packet) else {
            self.count("schedule: packet kept back");
            return;
        };
        if self.wires.is_cut(packet.from, packet.to) {
            self.count("fault: packet cut off");
            return;
        }
        if self.chance(loss) {
            self.count("fault: packet lost");
            return;
        }
        if let Some(copy) = packet.copy()
            && self.chance(duplicate)
        {
            self.count("fault: request doubled");
            // Mostly soon, sometimes much later: across a restart.
            let us = if self.chance(0.2) { 5_000_000 } else { 50_000 };
            let delay = self.between(0, us);
            self.schedule(delay, Event::Deliver(copy));
        }
        let (low, high) = self.faults.delay_us;
        let delay = if self.chance(slow) {
            self.count("fault: packet late");
            self.between(high, high.saturating_mul(200))
        } else {
            self.between(low, high)
        };
        self.schedule(delay, Event::Deliver(packet));
    }

    /// Delivers a packet; returns the work that it starts, such as a request to run on its machine.
    pub(crate) fn deliver(&mut self, packet: Packet) -> Option<Arrival> {
        let Packet {
            from,
            to,
            label,
            content,
        } = packet;
        match content {
            Content::Reply {
                call,
                caller,
                reply,
            } => {
                if self.lives(caller)
                    && let Some(waiting) = self.replies.remove(&call)
                {
                    return Some(Arrival::Reply(waiting, reply));
                }
                None
            }
            Content::Request {
                call,
                caller,
                port,
                payload,
            } => {
                let machine = &self.machines[to.0];
                let listener = (machine.up && !machine.dying)
                    .then(|| machine.listeners.get(&port).cloned())
                    .flatten();
                let life = Life {
                    machine: to,
                    boot: machine.boot,
                };
                match listener {
                    Some(listener) => Some(Arrival::Request {
                        at: life,
                        serve: Serve {
                            from,
                            call,
                            caller,
                            about: label.about,
                            listener,
                            payload: payload.into_any(),
                        },
                    }),
                    None => {
                        let reply = Err(CallError::Refused);
                        self.reply((to, from), label.about, call, caller, reply);
                        None
                    }
                }
            }
        }
    }

    fn reply(
        &mut self,
        (from, to): (MachineId, MachineId),
        about: About,
        call: u64,
        caller: Life,
        reply: Reply,
    ) {
        let content = Content::Reply {
            call,
            caller,
            reply,
        };
        let side = Side::Answer;
        self.send(Packet {
            from,
            to,
            label: Label { about, side },
            content,
        });
    }
}

/// Work that a packet starts.
pub(crate) enum Arrival {
    Request { at: Life, serve: Serve },
    Reply(oneshot::Sender<Reply>, Reply),
}

/// A request being served.
pub(crate) struct Serve {
    from: MachineId,
    call: u64,
    caller: Life,
    about: About,
    listener: Listener,
    payload: Box<dyn Any>,
}

impl Serve {
    /// Serves it on the machine that it reached. Dropping this breaks the connection.
    pub(crate) async fn run(self, at: Life) {
        let Serve {
            from,
            call,
            caller,
            about,
            listener,
            payload,
        } = self;
        let reply = listener(payload).await.ok_or(CallError::Broken);
        world::with(|world| {
            if world.lives(at) {
                world.reply((at.machine, from), about, call, caller, reply);
            }
        });
    }
}

/// Calls a machine by name.
pub(crate) async fn call<Req, Resp>(from: Life, to: &str, request: Req) -> Result<Resp, CallError>
where
    Req: Clone + 'static,
    Resp: 'static,
{
    let answer = world::with(|world| {
        let &to = world.names.get(to).ok_or(CallError::Refused)?;
        if !world.lives(from) {
            return Err(CallError::Broken);
        }
        world.next_call += 1;
        let call = world.next_call;
        let (waiting, answer) = oneshot::channel();
        world.replies.insert(call, waiting);
        let about = About::of(&request);
        let content = Content::Request {
            call,
            caller: from,
            port: TypeId::of::<Req>(),
            payload: Box::new(request),
        };
        world.send(Packet {
            from: from.machine,
            to,
            label: Label {
                about,
                side: Side::Request,
            },
            content,
        });
        Ok(answer)
    })?;
    let reply = answer.await.unwrap_or(Err(CallError::Broken))?;
    match reply.downcast::<Resp>() {
        Ok(reply) => Ok(*reply),
        Err(_) => panic!("a listener answers with another type than its caller expects"),
    }
}

/// The network of one machine, as nodes use it: a peer's address is the name of its machine.
#[derive(Debug)]
pub(crate) struct SimulatedNetwork {
    pub(crate) life: Life,
}

impl Network for SimulatedNetwork {
    fn connect(&self, peer: &Peer) -> Rc<dyn Transport> {
        Rc::new(Way {
            life: self.life,
            to: peer.address.as_str().into(),
        })
    }

    /// Accepts every address: peers are found by the names of machines.
    fn check(&self, _: &[Peer]) -> Result<(), ConfigError> {
        Ok(())
    }
}

struct Way {
    life: Life,
    to: Arc<str>,
}

impl World {
    /// Counts a batch that was sent before, in the same or a smaller size.
    fn compare_batch(&mut self, from: MachineId, to: &str, request: &Request) {
        let crate::transport::RequestBody::Append(append) = &request.body else {
            return;
        };
        if let Some(first) = append.records.first()
            && let Some(last) = append.records.last()
        {
            let new = (first.first(), last.end());
            let before = self.batches.insert((from, to.to_owned()), new);
            match before {
                Some((first, end)) if first == new.0 && end > new.1 => {
                    self.count("batch: sent again, smaller");
                }
                Some((first, end)) if first == new.0 && end == new.1 => {
                    self.count("batch: sent again");
                }
                _ => {}
            }
        }
    }
}

/// Packet content of a replication request.
#[derive(Clone)]
pub(crate) struct Replication(pub(crate) Request);

impl Transport for Way {
    fn call(&self, request: Request) -> CallFuture {
        let (life, to) = (self.life, self.to.clone());
        world::with(|world| {
            world.checks.on_request_sent(life.machine, &request);
            world.compare_batch(life.machine, &to, &request);
            let text = Brief(&request);
            world.note_of(life.machine, format_args!("-> {to}: {text}"));
        });
        Box::pin(async move {
            if let Some(response) = mistakes::instead_of_call(life, &to, &request) {
                return Ok(response);
            }
            let epoch = request.epoch;
            let answer = call::<Replication, Response>(life, &to, Replication(request)).await;
            let answer = answer.map(|response| mistakes::on_answer(life, &to, epoch, response));
            if let Ok(response) = &answer {
                world::with(|world| world.on_contact(life, response));
            }
            answer.map_err(|error| match error {
                CallError::Refused => TransportError::ConnectionRefused,
                CallError::Broken => TransportError::Connection("broken".to_owned()),
            })
        })
    }
}

/// One-line display of a request.
pub(crate) struct Brief<'a>(pub(crate) &'a Request);

impl std::fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::transport::RequestBody as Body;
        let epoch = self.0.epoch;
        match &self.0.body {
            Body::Identify => f.write_str("who are you?"),
            Body::Promise(_) => write!(f, "promise epoch {epoch}"),
            Body::Hello(hello) => write!(
                f,
                "hello of epoch {epoch}: end {}, adopted {}",
                hello.end, hello.adopted_end
            ),
            Body::Heartbeat(progress) => write!(
                f,
                "heartbeat of epoch {epoch}: end {}, committed {:?}",
                progress.end,
                progress.committed.map(|end| end.0)
            ),
            Body::Append(append) => {
                let first = append.records.first().map_or(0, |batch| batch.first().0);
                let end = append.records.last().map_or(0, |batch| batch.end().0);
                write!(f, "records {first}..{end} of epoch {epoch}")
            }
            Body::Fetch(fetch) => write!(f, "fetch from {} in epoch {epoch}", fetch.from),
        }
    }
}

/// One-line display of a response.
pub(crate) struct BriefAnswer<'a>(pub(crate) &'a Response);

impl std::fmt::Display for BriefAnswer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::transport::Answer;
        let state = &self.0.state;
        match &self.0.answer {
            Answer::Identity(_) => f.write_str("identity")?,
            Answer::Promised(_) => f.write_str("promised")?,
            Answer::Aligned(aligned) => write!(f, "aligned, {} cut", aligned.cut_records)?,
            Answer::OlderStartsNeeded { before } => write!(f, "older pairs before {before}")?,
            Answer::Taken => f.write_str("taken")?,
            Answer::Records(fetched) => {
                let end = fetched.records.last().map_or(0, |batch| batch.end().0);
                write!(f, "records to {end}")?;
            }
            Answer::Refused(refusal) => write!(f, "refused: {refusal:?}")?,
        }
        let log_epoch = state.log_epoch.map(|epoch| epoch.0);
        write!(
            f,
            " (end {}, log epoch {log_epoch:?}, promised {})",
            state.durable_end, state.promised
        )
    }
}
