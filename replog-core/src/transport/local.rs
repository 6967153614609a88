//! [`LocalNetwork`]: a network of nodes in one process, without sockets.
//!
//! Owns which node is reachable under which name, and cables that can be cut. Nothing is encoded: the
//! typed request goes to [`Secondary::serve`] and its answer comes back, sharing the records'
//! buffers. Never retries, never times out. For embedding, examples and tests; a
//! simulator that loses and reorders messages brings its own network.
//!
//! ```text
//!   call ─▶ latency ─▶ cable whole? ─▶ registered? ─▶ faults ─▶ serve ─▶ cable whole? ─▶ answer
//!                        │ waits          │ ConnectionRefused      │ gone meanwhile: Connection
//! ```

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    config::Peer,
    error::ConfigError,
    handle::Secondary,
    transport::{
        CallFuture, FaultInjector, Network, Serve, Transport, TransportError,
        message::{Request, Response},
    },
    types::NodeName,
};

/// A network within one process. Clones share it.
///
/// Peers are found by name; a [`Peer`]'s address means nothing here.
#[derive(Clone, Default)]
pub struct LocalNetwork {
    places: Arc<Mutex<BTreeMap<NodeName, Arc<Place>>>>,
    latency: Duration,
}

impl LocalNetwork {
    /// Creates an empty network: every call is refused until a node is registered.
    #[must_use]
    pub fn new() -> LocalNetwork {
        LocalNetwork::default()
    }

    /// Returns the same network with requests and answers each delayed by `latency`. Applies to transports
    /// created from the result, not to earlier ones.
    #[must_use]
    pub fn with_latency(self, latency: Duration) -> LocalNetwork {
        LocalNetwork { latency, ..self }
    }

    /// Makes `secondary` reachable under its name. It replaces a node registered earlier under that name, whose
    /// unanswered calls fail as if its process had restarted. A cut cable stays cut.
    pub fn register(&self, secondary: Secondary) {
        let name = secondary.name().clone();
        self.attach(&name, Arc::new(secondary), None);
    }

    /// Registers `secondary` as [`register`](LocalNetwork::register) does, with faults: `injector` acts on
    /// requests before and after they are served.
    pub fn register_with(&self, secondary: Secondary, injector: FaultInjector) {
        let name = secondary.name().clone();
        self.attach(&name, Arc::new(secondary), Some(injector));
    }

    /// Removes a node from the network, as if its process was gone: calls are refused, and unanswered
    /// ones fail. Has no effect if the name is not registered.
    pub fn unregister(&self, name: &NodeName) {
        self.place(name).replace_node(None);
    }

    /// Cuts the cable to a node: requests and answers stop arriving without an error. Calls
    /// hang until [`heal`](LocalNetwork::heal) or until they are dropped. Has no effect if
    /// the cable is already cut.
    pub fn cut(&self, name: &NodeName) {
        self.place(name).cable.send_modify(|cable| cable.cut = true);
    }

    /// Repairs the cable to a node: messages in flight arrive late. Has no effect if the cable is
    /// not cut.
    pub fn heal(&self, name: &NodeName) {
        self.place(name)
            .cable
            .send_modify(|cable| cable.cut = false);
    }

    /// Makes `node` reachable as `name`.
    pub(crate) fn attach(
        &self,
        name: &NodeName,
        node: Arc<dyn Serve>,
        injector: Option<FaultInjector>,
    ) {
        self.place(name)
            .replace_node(Some(Registered { node, injector }));
    }

    fn place(&self, name: &NodeName) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(places.entry(name.clone()).or_default())
    }
}

impl Network for LocalNetwork {
    fn connect(&self, peer: &Peer) -> Rc<dyn Transport> {
        Rc::new(LocalTransport {
            place: self.place(&peer.name),
            latency: self.latency,
        })
    }

    /// Accepts every address, because peers are found by name.
    fn check(&self, _: &[Peer]) -> Result<(), ConfigError> {
        Ok(())
    }
}

impl std::fmt::Debug for LocalNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let cables = places
            .iter()
            .map(|(name, place)| (name, *place.cable.borrow()));
        f.debug_map().entries(cables).finish()
    }
}

/// One name on the network, whether or not a node is there.
#[derive(Default)]
struct Place {
    registered: Mutex<Option<Registered>>,
    cable: watch::Sender<Cable>,
}

#[derive(Clone)]
struct Registered {
    node: Arc<dyn Serve>,
    injector: Option<FaultInjector>,
}

/// The state of a cable that affects calls in flight.
#[derive(Clone, Copy, Debug, Default)]
struct Cable {
    cut: bool,
    /// A number that increases whenever the node there goes away or is replaced.
    generation: u64,
}

impl Place {
    /// Puts another node here, or none. The generation ends after the exchange, so a call that finds the
    /// old node has read the old generation and ends with it.
    fn replace_node(&self, registered: Option<Registered>) {
        *self.lock() = registered;
        self.cable.send_modify(|cable| cable.generation += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Registered>> {
        self.registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the cable is not cut.
    async fn whole(&self) {
        // This place owns the sender, so it cannot be gone before the wait is over.
        let _ = self.cable.subscribe().wait_for(|cable| !cable.cut).await;
    }

    async fn exchange(&self, request: Request) -> Result<Response, TransportError> {
        self.whole().await;
        // In this order, a node that arrives between these two lines is taken for one that went
        // away, never the other way round.
        let generation = self.cable.borrow().generation;
        let Some(Registered { node, injector }) = self.lock().clone() else {
            return Err(TransportError::ConnectionRefused);
        };
        let serve = |request| async move {
            node.serve(request)
                .await
                .map_err(|_| TransportError::ConnectionRefused)
        };
        let answer = async {
            match &injector {
                Some(injector) => injector.serve(request, serve).await,
                None => serve(request).await,
            }
        };
        self.unless_gone(generation, answer).await
    }

    /// Returns the outcome of `answer`, unless the node of this generation goes away before the answer has passed
    /// the cable. A cut cable hides that too: the caller learns of it when the cable is repaired, as from a
    /// connection reset.
    async fn unless_gone(
        &self,
        generation: u64,
        answer: impl Future<Output = Result<Response, TransportError>>,
    ) -> Result<Response, TransportError> {
        let mut cable = self.cable.subscribe();
        let mut gone = pin!(cable.wait_for(|cable| cable.generation != generation && !cable.cut));
        let mut answer = pin!(async {
            let answer = answer.await;
            self.whole().await;
            answer
        });
        poll_fn(|cx| match gone.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(Err(TransportError::Connection(
                "the node went away".to_owned(),
            ))),
            Poll::Pending => answer.as_mut().poll(cx),
        })
        .await
    }
}

/// The transport to one name.
struct LocalTransport {
    place: Arc<Place>,
    latency: Duration,
}

impl Transport for LocalTransport {
    fn call(&self, request: Request) -> CallFuture {
        let (place, latency) = (Arc::clone(&self.place), self.latency);
        Box::pin(async move {
            if latency.is_zero() {
                return place.exchange(request).await;
            }
            tokio::time::sleep(latency).await;
            let answer = place.exchange(request).await;
            tokio::time::sleep(latency).await;
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::suite::{self, Bench, StandIn};

    fn name() -> NodeName {
        NodeName::new("secondary-1").unwrap()
    }

    fn peer(name: &str) -> Peer {
        Peer::named(NodeName::new(name).unwrap())
    }

    fn network() -> (LocalNetwork, Arc<StandIn>) {
        let (network, fake) = (LocalNetwork::new(), StandIn::new());
        network.attach(&name(), fake.clone(), None);
        (network, fake)
    }

    fn bench() -> Bench {
        let (network, fake) = network();
        let transport = network.connect(&peer("secondary-1"));
        let nobody = network.connect(&peer("secondary-2"));
        Bench {
            transport,
            nobody,
            stand_in: fake,
            keep: Box::new(network),
        }
    }

    suite::conformance!(bench());

    #[test]
    fn the_network_and_its_handles_are_send_and_sync() {
        fn anywhere<T: Send + Sync + Clone + 'static>() {}
        anywhere::<LocalNetwork>();
        anywhere::<FaultInjector>();
    }

    #[test]
    fn a_cut_cable_lets_nothing_through_until_it_is_healed() {
        suite::run(async {
            let (network, fake) = network();
            let transport = network.connect(&peer("secondary-1"));
            network.cut(&name());
            let mut call = transport.call(suite::heartbeat(17));
            assert!(suite::is_pending(&mut call).await);
            assert_eq!(fake.arrived(), 0);
            network.heal(&name());
            assert_eq!(call.await, Ok(suite::taken(17)));
            assert_eq!(fake.arrived(), 1);
        });
    }

    #[test]
    fn an_answer_does_not_pass_a_cable_that_was_cut_meanwhile() {
        suite::run(async {
            let (network, fake) = network();
            let transport = network.connect(&peer("secondary-1"));
            let mut call = transport.call(suite::held_heartbeat(17));
            assert!(suite::is_pending(&mut call).await);
            assert_eq!(fake.arrived(), 1);
            network.cut(&name());
            fake.let_go();
            assert!(suite::is_pending(&mut call).await);
            network.heal(&name());
            assert!(call.await.is_ok());
        });
    }

    #[test]
    fn unanswered_calls_fail_when_the_node_goes_away() {
        suite::run(async {
            let (network, _fake) = network();
            let transport = network.connect(&peer("secondary-1"));
            let mut call = transport.call(suite::held_heartbeat(17));
            assert!(suite::is_pending(&mut call).await);
            network.unregister(&name());
            let error = call.await.unwrap_err();
            assert!(matches!(error, TransportError::Connection(_)), "{error}");
            let refused = transport.call(suite::heartbeat(18)).await;
            assert_eq!(refused, Err(TransportError::ConnectionRefused));
        });
    }

    #[test]
    fn a_node_of_the_same_name_takes_over_existing_transports() {
        suite::run(async {
            let (network, old) = network();
            let transport = network.connect(&peer("secondary-1"));
            let mut call = transport.call(suite::held_heartbeat(17));
            assert!(suite::is_pending(&mut call).await);
            let new = StandIn::new();
            network.attach(&name(), new.clone(), None);
            assert!(call.await.is_err());
            assert_eq!(
                transport.call(suite::heartbeat(18)).await,
                Ok(suite::taken(18))
            );
            assert_eq!((old.arrived(), new.arrived()), (1, 1));
        });
    }

    #[test]
    fn a_stopped_node_refuses_connections() {
        suite::run(async {
            let (network, fake) = network();
            let transport = network.connect(&peer("secondary-1"));
            fake.stop();
            let refused = transport.call(suite::heartbeat(17)).await;
            assert_eq!(refused, Err(TransportError::ConnectionRefused));
        });
    }

    #[tokio::test(start_paused = true)]
    async fn latency_applies_in_both_directions() {
        let (network, _fake) = network();
        let network = network.with_latency(Duration::from_millis(20));
        let transport = network.connect(&peer("secondary-1"));
        let before = tokio::time::Instant::now();
        assert!(transport.call(suite::heartbeat(17)).await.is_ok());
        assert_eq!(before.elapsed(), Duration::from_millis(40));
    }

    #[test]
    fn an_injector_acts_on_what_arrives() {
        suite::run(async {
            let (network, injector) = (LocalNetwork::new(), FaultInjector::new());
            let fake = StandIn::new();
            network.attach(&name(), fake.clone(), Some(injector.clone()));
            let transport = network.connect(&peer("secondary-1"));
            let isolate = crate::transport::FaultSettings {
                isolate: true,
                ..Default::default()
            };
            injector.set(isolate).unwrap();
            let mut held = transport.call(suite::heartbeat(17));
            assert!(suite::is_pending(&mut held).await);
            assert_eq!(fake.arrived(), 0);
            injector.clear();
            assert_eq!(held.await, Ok(suite::taken(17)));
            assert_eq!(fake.arrived(), 1);
        });
    }
}
