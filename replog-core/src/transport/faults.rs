//! Fault injection: deliberate failures of a node's replication requests.
//!
//! Owns the settings, their validation, and the dice. Knows no HTTP beyond status numbers and
//! keeps nothing over a restart. [`FaultInjector::serve`] sits in front of a secondary,
//! [`FaultyNetwork`] between a master and its network; clients' reads and appends pass through neither.
//!
//! The replication requests are `Append`, which carries records, and `Fetch`, which asks for them.
//! All others count as heartbeats: only `isolate` affects them.
//!
//! | fault | on a secondary | on a master |
//! | --- | --- | --- |
//! | `isolate` | nothing comes in, no answer goes out | nothing is sent, no answer comes in |
//! | `block_replication` | 500 to replication requests | replication requests fail |
//! | `delay_ms` | waits before a replication request is handled | |
//! | `error_before_append` | 500 to a replication request that is not handled | |
//! | `error_after_append` | 500 to a replication request that was handled | |
//!
//! An isolated node behaves as behind a cut cable: callers wait until they give up. What was in flight to a
//! secondary arrives late, when the cable is repaired; what a master would have sent meanwhile is lost.

use std::{
    future::Future,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    config::Peer,
    error::{ConfigError, Stopped},
    events::Fault,
    transport::{
        CallFuture, Network, OnBytesMoved, Transport, TransportError,
        message::{Request, RequestBody, Response},
    },
};

/// The longest delay that can be set, in milliseconds: ten minutes. A longer one is more
/// likely a mistake than a test.
pub const FAULT_DELAY_MS_MAX: u64 = 600_000;

/// The answer to a replication request that fails because of an injected fault.
const FAILED: TransportError = TransportError::Injected;

/// The set of faults to inject into a node. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultSettings {
    /// Probability, 0 to 1, of an error to a replication request before anything is stored.
    pub error_before_append: f64,
    /// Probability, 0 to 1, of an error to a replication request after the records were stored.
    pub error_after_append: f64,
    /// The shortest and the longest delay before a replication request is handled, in
    /// milliseconds, both inclusive, at most [`FAULT_DELAY_MS_MAX`]; `None`: no delay.
    pub delay_ms: Option<[u64; 2]>,
    /// True to fail replication requests while heartbeats go on.
    pub block_replication: bool,
    /// True to fail replication requests and heartbeats, as behind a cut cable.
    pub isolate: bool,
    /// The seed of the dice. `None`: one is drawn, and [`FaultInjector::set`] returns it.
    pub seed: Option<u64>,
}

/// Invalid fault settings.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultSettingsError {
    /// A probability outside 0 to 1, or not a number.
    #[error("{field} must be a probability from 0 to 1, not {value}")]
    Probability {
        /// The field's name.
        field: &'static str,
        /// The field's value.
        value: f64,
    },
    /// A shortest delay that is longer than the longest.
    #[error("delay_ms must be [min, max] with min <= max, not [{min}, {max}]")]
    DelayOrder {
        /// The shortest delay.
        min: u64,
        /// The longest delay.
        max: u64,
    },
    /// A longest delay beyond [`FAULT_DELAY_MS_MAX`].
    #[error("delay_ms must be at most {FAULT_DELAY_MS_MAX}, not {max}")]
    DelayTooLong {
        /// The longest delay.
        max: u64,
    },
}

impl FaultSettings {
    /// Checks the settings as a whole.
    ///
    /// # Errors
    ///
    /// The first [`FaultSettingsError`] found.
    pub fn validate(&self) -> Result<(), FaultSettingsError> {
        let probabilities = [
            ("error_before_append", self.error_before_append),
            ("error_after_append", self.error_after_append),
        ];
        for (field, value) in probabilities {
            // NaN is in no range.
            if !(0.0..=1.0).contains(&value) {
                return Err(FaultSettingsError::Probability { field, value });
            }
        }
        match self.delay_ms {
            Some([min, max]) if min > max => Err(FaultSettingsError::DelayOrder { min, max }),
            Some([_, max]) if max > FAULT_DELAY_MS_MAX => {
                Err(FaultSettingsError::DelayTooLong { max })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Reports whether anything is left to chance.
    fn rolls_dice(&self) -> bool {
        self.error_before_append > 0.0
            || self.error_after_append > 0.0
            || self.delay_ms.is_some_and(|[min, max]| min < max)
    }
}

/// A fault injector of one node. Clones share settings and dice.
#[derive(Clone, Debug, Default)]
pub struct FaultInjector {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    settings: FaultSettings,
    dice: ChaCha8Rng,
    listener: Option<Listener>,
    /// True while the node is isolated; watched by tasks that wait for a change.
    isolated: watch::Sender<bool>,
}

/// News about faults.
#[derive(Clone, Debug)]
pub(crate) enum FaultNews {
    /// This set of faults is now in effect.
    Set(FaultSettings),
    /// A fault happened.
    Happened(Fault),
}

/// The listener to news about faults.
#[derive(Clone)]
struct Listener(Arc<dyn Fn(FaultNews) + Send + Sync>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

impl State {
    fn publish(&self, news: impl FnOnce() -> FaultNews) {
        if let Some(Listener(listener)) = &self.listener {
            listener(news());
        }
    }

    fn publish_fault(&self, fault: Fault) {
        self.publish(|| FaultNews::Happened(fault));
    }

    fn isolates(&self) -> bool {
        let isolates = self.settings.isolate;
        if isolates {
            self.publish_fault(Fault::Isolate);
        }
        isolates
    }
}

impl Default for State {
    fn default() -> State {
        State {
            settings: FaultSettings::default(),
            dice: ChaCha8Rng::seed_from_u64(0),
            listener: None,
            isolated: watch::Sender::new(false),
        }
    }
}

/// The fate of one replication request.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fate {
    delay: Duration,
    error_before: bool,
    error_after: bool,
}

impl FaultInjector {
    /// Creates an injector without faults.
    #[must_use]
    pub fn new() -> FaultInjector {
        FaultInjector::default()
    }

    /// Replaces the whole set, restarts the dice, and returns the set that is now in effect.
    /// If something is left to chance and no seed was given, a seed is drawn and included:
    /// setting the returned set repeats the sequence.
    ///
    /// # Errors
    ///
    /// [`FaultSettingsError`]; the previous set then stays in effect.
    pub fn set(&self, mut settings: FaultSettings) -> Result<FaultSettings, FaultSettingsError> {
        settings.validate()?;
        if settings.seed.is_none() && settings.rolls_dice() {
            // 32 bits: a JSON number that every client reads exactly.
            settings.seed = Some(rand::rng().random::<u32>().into());
        }
        let mut state = self.lock();
        state.dice = ChaCha8Rng::seed_from_u64(settings.seed.unwrap_or(0));
        state.settings = settings.clone();
        state.isolated.send_replace(settings.isolate);
        state.publish(|| FaultNews::Set(settings.clone()));
        Ok(settings)
    }

    /// Returns the set that is in effect.
    #[must_use]
    pub fn get(&self) -> FaultSettings {
        self.lock().settings.clone()
    }

    /// Removes all faults and returns the empty set. Calling it twice is the same as calling it once.
    pub fn clear(&self) -> FaultSettings {
        let mut state = self.lock();
        state.dice = ChaCha8Rng::seed_from_u64(0);
        state.settings = FaultSettings::default();
        state.isolated.send_replace(false);
        state.publish(|| FaultNews::Set(FaultSettings::default()));
        FaultSettings::default()
    }

    /// Sets the only listener to news from now on. It is called while the injector is locked.
    pub(crate) fn on_news(&self, listener: impl Fn(FaultNews) + Send + Sync + 'static) {
        self.lock().listener = Some(Listener(Arc::new(listener)));
    }

    /// Answers a request of a master through `handler`, with the faults that are set when the request
    /// arrives. Isolation that begins while `handler` works holds the answer back too.
    ///
    /// # Errors
    ///
    /// [`TransportError::Injected`] for a fault; otherwise the error of `handler`. While the node is isolated there is
    /// no answer at all.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped during the delay, nothing was handled; if later, `handler`'s future is dropped.
    pub async fn serve<H, F, E>(
        &self,
        request: Request,
        handler: H,
    ) -> Result<Response, TransportError>
    where
        H: FnOnce(Request) -> F,
        F: Future<Output = Result<Response, E>>,
        E: Into<TransportError>,
    {
        self.wait_while_isolated().await;
        let fate = self.fate(&request)?;
        if !fate.delay.is_zero() {
            tokio::time::sleep(fate.delay).await;
        }
        if fate.error_before {
            return Err(FAILED);
        }
        let answer = handler(request).await.map_err(Into::into);
        self.wait_while_isolated().await;
        if fate.error_after {
            self.lock().publish_fault(Fault::ErrorAfterAppend);
            Err(FAILED)
        } else {
            answer
        }
    }

    /// Decides the fate of a request that arrives now. Every replication request rolls the dice
    /// equally often, so that the sequence does not depend on earlier outcomes.
    fn fate(&self, request: &Request) -> Result<Fate, TransportError> {
        let mut state = self.lock();
        if !is_replication(request) {
            return Ok(Fate {
                delay: Duration::ZERO,
                error_before: false,
                error_after: false,
            });
        }
        if state.settings.block_replication {
            state.publish_fault(Fault::BlockReplication);
            return Err(FAILED);
        }
        let State { settings, dice, .. } = &mut *state;
        let [min, max] = settings.delay_ms.unwrap_or([0, 0]);
        let fate = Fate {
            delay: Duration::from_millis(dice.random_range(min..=max)),
            error_before: dice.random_bool(settings.error_before_append),
            error_after: dice.random_bool(settings.error_after_append),
        };
        if !fate.delay.is_zero() {
            state.publish_fault(Fault::DelayMs);
        }
        if fate.error_before {
            state.publish_fault(Fault::ErrorBeforeAppend);
        }
        Ok(fate)
    }

    /// Waits until the node is not isolated; returns at once if it is not.
    async fn until_not_isolated(&self) {
        self.wait_for_isolation(false).await;
    }

    /// Waits until the node is isolated.
    #[cfg(feature = "net")]
    pub(crate) async fn until_isolated(&self) {
        self.wait_for_isolation(true).await;
    }

    async fn wait_for_isolation(&self, wanted: bool) {
        let mut isolated = self.lock().isolated.subscribe();
        // Never an error: this injector owns the sender, so it cannot be gone.
        let _ = isolated.wait_for(|isolated| *isolated == wanted).await;
    }

    /// Waits while the node is isolated, and reports the fault if it is.
    pub(crate) async fn wait_while_isolated(&self) {
        if self.lock().isolates() {
            self.until_not_isolated().await;
        }
    }

    /// Returns an error if replication is blocked and a master therefore must not send this request.
    fn blocks_sending(&self, request: &Request) -> Result<(), TransportError> {
        let state = self.lock();
        if state.settings.block_replication && is_replication(request) {
            state.publish_fault(Fault::BlockReplication);
            let what = "replication is blocked by fault injection";
            return Err(TransportError::Connection(what.to_owned()));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A network that injects a master's faults: `block_replication` and `isolate` cut what the master
/// sends; the other faults have no effect here.
pub struct FaultyNetwork {
    inner: Arc<dyn Network>,
    injector: FaultInjector,
}

impl FaultyNetwork {
    /// Wraps `inner` with the faults of `injector`.
    #[must_use]
    pub fn new(inner: Arc<dyn Network>, injector: FaultInjector) -> FaultyNetwork {
        FaultyNetwork { inner, injector }
    }
}

impl Network for FaultyNetwork {
    fn connect(&self, peer: &Peer) -> Rc<dyn Transport> {
        let inner = self.inner.connect(peer);
        Rc::new(FaultyTransport {
            inner,
            injector: self.injector.clone(),
        })
    }

    fn check(&self, peers: &[Peer]) -> Result<(), ConfigError> {
        self.inner.check(peers)
    }
}

impl std::fmt::Debug for FaultyNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyNetwork")
            .field("injector", &self.injector)
            .finish_non_exhaustive()
    }
}

struct FaultyTransport {
    inner: Rc<dyn Transport>,
    injector: FaultInjector,
}

impl Transport for FaultyTransport {
    fn call(&self, request: Request) -> CallFuture {
        self.call_observed(request, Rc::new(|_| {}))
    }

    fn call_observed(&self, request: Request, moved: OnBytesMoved) -> CallFuture {
        let injector = self.injector.clone();
        if injector.lock().isolates() {
            // Lost, as the caller finds out when it times out.
            return Box::pin(async move {
                injector.until_not_isolated().await;
                Err(TransportError::TimedOut)
            });
        }
        if let Err(error) = injector.blocks_sending(&request) {
            return Box::pin(async move { Err(error) });
        }
        let through_cable = injector.clone();
        let moved = Rc::new(move |what| {
            if !through_cable.lock().settings.isolate {
                moved(what);
            }
        });
        let answer = self.inner.call_observed(request, moved);
        Box::pin(async move {
            let answer = answer.await;
            // A cable that was cut meanwhile holds the answer back.
            injector.wait_while_isolated().await;
            answer
        })
    }
}

/// A node that has stopped no longer listens.
impl From<Stopped> for TransportError {
    fn from(_: Stopped) -> TransportError {
        TransportError::ConnectionRefused
    }
}

fn is_replication(request: &Request) -> bool {
    match request.body {
        RequestBody::Append(_) | RequestBody::Fetch(_) => true,
        RequestBody::Identify
        | RequestBody::Promise(_)
        | RequestBody::Hello(_)
        | RequestBody::Heartbeat(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        transport::{
            LocalNetwork,
            suite::{self, StandIn},
        },
        types::{NodeName, Offset},
    };

    fn append() -> Request {
        suite::append(suite::large_batch(Offset(5)))
    }

    fn injector(settings: FaultSettings) -> FaultInjector {
        let injector = FaultInjector::new();
        injector.set(settings).unwrap();
        injector
    }

    /// Reports whether the request is answered rather than failed by a fault.
    async fn serve(injector: &FaultInjector, fake: &StandIn, request: Request) -> bool {
        match injector.serve(request, |request| fake.serve(request)).await {
            Ok(_) => true,
            Err(TransportError::Injected) => false,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn settings_are_read_as_a_whole_and_unknown_fields_are_refused() {
        let read = serde_json::from_str::<FaultSettings>;
        assert_eq!(read("{}").unwrap(), FaultSettings::default());
        let all = r#"{"error_before_append":0.5,"error_after_append":1,"delay_ms":[1,20],
            "block_replication":true,"isolate":true,"seed":7}"#;
        let expected = FaultSettings {
            error_before_append: 0.5,
            error_after_append: 1.0,
            delay_ms: Some([1, 20]),
            block_replication: true,
            isolate: true,
            seed: Some(7),
        };
        assert_eq!(read(all).unwrap(), expected);
        assert_eq!(
            read(r#"{"delay_ms":null,"seed":null}"#).unwrap(),
            FaultSettings::default()
        );
        for bad in [
            r#"{"error":0.5}"#,
            r#"{"delay_ms":5}"#,
            r#"{"delay_ms":[1,2,3]}"#,
            r#"{"delay_ms":[-1,2]}"#,
            r#"{"isolate":"yes"}"#,
            r#"{"isolate":true,"isolate":false}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let shown = serde_json::to_string(&FaultSettings::default()).unwrap();
        let none = concat!(
            r#"{"error_before_append":0.0,"error_after_append":0.0,"delay_ms":null,"#,
            r#""block_replication":false,"isolate":false,"seed":null}"#,
        );
        assert_eq!(shown, none);
    }

    #[test]
    fn invalid_settings_are_refused_and_change_nothing() {
        let none = FaultSettings::default;
        let injector = injector(FaultSettings {
            isolate: true,
            ..none()
        });
        let before = injector.get();
        for value in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            for bad in [
                FaultSettings {
                    error_before_append: value,
                    ..none()
                },
                FaultSettings {
                    error_after_append: value,
                    ..none()
                },
            ] {
                let error = injector.set(bad).unwrap_err();
                assert!(
                    matches!(error, FaultSettingsError::Probability { .. }),
                    "{error}"
                );
            }
        }
        for (delay_ms, error) in [
            ([2, 1], FaultSettingsError::DelayOrder { min: 2, max: 1 }),
            (
                [0, 600_001],
                FaultSettingsError::DelayTooLong { max: 600_001 },
            ),
        ] {
            let bad = FaultSettings {
                delay_ms: Some(delay_ms),
                ..none()
            };
            assert_eq!(injector.set(bad), Err(error));
        }
        assert_eq!(injector.get(), before);
    }

    #[test]
    fn the_same_seed_repeats_the_sequence() {
        let settings = FaultSettings {
            error_before_append: 0.3,
            error_after_append: 0.3,
            delay_ms: Some([0, 100]),
            seed: Some(42),
            ..FaultSettings::default()
        };
        let injector = injector(settings.clone());
        let fates = || {
            (0..100)
                .map(|_| injector.fate(&append()).unwrap())
                .collect::<Vec<_>>()
        };
        let first = fates();
        assert_ne!(first, fates(), "the dice roll on");
        injector.set(settings.clone()).unwrap();
        assert_eq!(first, fates());
        // Heartbeats between them change nothing.
        injector.set(settings).unwrap();
        for fate in first {
            injector.fate(&suite::heartbeat(1)).unwrap();
            assert_eq!(injector.fate(&append()).unwrap(), fate);
        }
    }

    #[test]
    fn a_missing_seed_is_drawn_and_returned() {
        let injector = FaultInjector::new();
        let settings = FaultSettings {
            error_before_append: 0.5,
            ..FaultSettings::default()
        };
        let held = injector.set(settings).unwrap();
        assert!(held.seed.is_some());
        assert_eq!(injector.get(), held);
        let fates = || {
            (0..50)
                .map(|_| injector.fate(&append()).unwrap())
                .collect::<Vec<_>>()
        };
        let first = fates();
        injector.set(held).unwrap();
        assert_eq!(first, fates());
        let certain = FaultSettings {
            isolate: true,
            ..FaultSettings::default()
        };
        assert_eq!(injector.set(certain.clone()), Ok(certain));
        assert_eq!(injector.clear(), FaultSettings::default());
        assert_eq!(injector.get(), FaultSettings::default());
    }

    #[test]
    fn blocked_replication_leaves_heartbeats_alone() {
        suite::run(async {
            let fake = StandIn::new();
            let settings = FaultSettings {
                block_replication: true,
                ..FaultSettings::default()
            };
            let injector = injector(settings);
            assert!(!serve(&injector, &fake, append()).await);
            assert!(!serve(&injector, &fake, suite::fetch(1)).await);
            assert_eq!(fake.arrived(), 0);
            assert!(serve(&injector, &fake, suite::heartbeat(1)).await);
            let identify = suite::request(RequestBody::Identify);
            assert!(serve(&injector, &fake, identify).await);
            assert_eq!(fake.arrived(), 2);
        });
    }

    #[test]
    fn an_error_before_append_handles_nothing_and_an_error_after_append_handles_everything() {
        suite::run(async {
            let fake = StandIn::new();
            let none = FaultSettings::default;
            let before = injector(FaultSettings {
                error_before_append: 1.0,
                ..none()
            });
            assert!(!serve(&before, &fake, append()).await);
            assert_eq!(fake.arrived(), 0);
            let after = injector(FaultSettings {
                error_after_append: 1.0,
                ..none()
            });
            assert!(!serve(&after, &fake, append()).await);
            assert_eq!(fake.arrived(), 1);
            assert!(serve(&after, &fake, suite::heartbeat(1)).await);
        });
    }

    #[test]
    fn isolation_holds_back_requests_and_answers_until_it_ends() {
        suite::run(async {
            let (fake, injector) = (StandIn::new(), FaultInjector::new());
            let mut call = Box::pin(serve(&injector, &fake, suite::held_heartbeat(1)));
            suite::meanwhile(&mut call, fake.has_arrived(1)).await;
            let isolate = FaultSettings {
                isolate: true,
                ..FaultSettings::default()
            };
            injector.set(isolate).unwrap();
            fake.let_go();
            assert!(suite::is_pending(&mut call).await);
            let mut next = Box::pin(serve(&injector, &fake, suite::heartbeat(1)));
            assert!(suite::is_pending(&mut next).await);
            assert_eq!(fake.arrived(), 1);
            injector.clear();
            assert_eq!((call.await, next.await), (true, true));
            assert_eq!(fake.arrived(), 2);
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_comes_before_the_request_is_handled() {
        let fake = StandIn::new();
        let delay_ms = Some([250, 250]);
        let injector = injector(FaultSettings {
            delay_ms,
            ..FaultSettings::default()
        });
        let before = tokio::time::Instant::now();
        assert!(serve(&injector, &fake, suite::heartbeat(1)).await);
        assert_eq!(before.elapsed(), Duration::ZERO);
        let mut call = Box::pin(serve(&injector, &fake, append()));
        assert!(suite::is_pending(&mut call).await);
        assert_eq!(fake.arrived(), 1);
        assert!(call.await);
        assert_eq!(before.elapsed(), Duration::from_millis(250));
    }

    #[test]
    fn a_faulty_network_checks_addresses_as_its_inner_network_does() {
        struct Strict;
        impl Network for Strict {
            fn connect(&self, _: &Peer) -> Rc<dyn Transport> {
                unreachable!("the test never connects")
            }

            fn check(&self, peers: &[Peer]) -> Result<(), ConfigError> {
                match peers {
                    [] => Ok(()),
                    _ => Err(ConfigError::new("no peers are wanted")),
                }
            }
        }
        let network = FaultyNetwork::new(Arc::new(Strict), FaultInjector::new());
        assert!(network.check(&[]).is_ok());
        let peer = Peer {
            name: NodeName::new("secondary-1").unwrap(),
            address: String::new(),
        };
        assert!(network.check(&[peer]).is_err());
    }

    #[test]
    fn a_master_is_cut_off_by_its_own_faults() {
        suite::run(async {
            let (network, fake) = (LocalNetwork::new(), StandIn::new());
            let name = NodeName::new("secondary-1").unwrap();
            network.attach(&name, fake.clone(), None);
            let injector = FaultInjector::new();
            let network = FaultyNetwork::new(Arc::new(network), injector.clone());
            let transport = network.connect(&Peer {
                name,
                address: String::new(),
            });
            let none = FaultSettings::default;

            injector
                .set(FaultSettings {
                    block_replication: true,
                    ..none()
                })
                .unwrap();
            let error = transport.call(append()).await.unwrap_err();
            assert!(matches!(error, TransportError::Connection(_)), "{error}");
            assert!(transport.call(suite::heartbeat(1)).await.is_ok());

            let mut call = transport.call(suite::held_heartbeat(2));
            suite::meanwhile(&mut call, fake.has_arrived(2)).await;
            injector
                .set(FaultSettings {
                    isolate: true,
                    ..none()
                })
                .unwrap();
            fake.let_go();
            assert!(suite::is_pending(&mut call).await);
            let mut lost = transport.call(suite::heartbeat(1));
            assert!(suite::is_pending(&mut lost).await);
            assert_eq!(fake.arrived(), 2);

            // What was in flight arrives late; what would have been sent meanwhile is lost.
            injector.clear();
            assert!(call.await.is_ok());
            assert_eq!(lost.await, Err(TransportError::TimedOut));
            assert!(transport.call(append()).await.is_ok());
            assert_eq!(fake.arrived(), 3);
        });
    }
}
