//! [`Master`]: the handle to a master node.

use std::{fmt, sync::Arc, time::Duration};

use actix::{Addr, Context, dev::ToEnvelope};
use bytes::Bytes;
use rand::RngExt as _;
use tokio::{sync::oneshot, time::Instant};
use tracing::warn;

use crate::{
    actors::{
        AppendsQueued, Caller, Coordinator, CoordinatorParts, DamageNoticed, DescribeHolders,
        DescribeMaster, DescribeWaiting, Drain, Inbox, MeasureMaster, RequestedMode, SetMode, Stop,
        WriterReported,
    },
    config::{ForcedRecovery, MasterConfig},
    error::{AppendError, LimitName, ModeState, StartError, Stopped},
    frame::{MessageBatch, bytes_of},
    handle::{
        Events, Reader, Shared, events,
        host::{Host, Role, Watched},
        runtime,
    },
    limits::FRAME_BYTES_MAX,
    log::LogView,
    metrics::{MasterMetrics, tally::DoorTally},
    rules::{keys::Claim, leader::NewAppend, recovery::Settings},
    spans::AppendSpan,
    storage::Storage,
    transport::{FaultInjector, Network},
    types::{ClusterId, Concern, IdempotencyKey, Mode, NodeName, Offset},
    views::{BatchReceipt, Holders, MasterHealth, Receipt, WaitingAppends},
    watch,
};

mod concern;
mod waits;

use waits::WaitGuard;

/// A running master. Clones share it; dropping the last one stops it.
///
/// Its actors run on their own thread, so it works in any tokio program. Every future may be dropped at any
/// time: an append that was handed over proceeds, its answer is discarded, and nothing waits for it.
#[derive(Clone)]
pub struct Master {
    inner: Arc<Inner>,
}

struct Inner {
    name: NodeName,
    max_message_bytes: usize,
    coordinator: Addr<Coordinator>,
    inbox: Arc<Inbox>,
    /// Counts of the appends that this handle refused itself.
    door_tally: DoorTally,
    view: Arc<LogView>,
    shared: Arc<Shared>,
    host: Arc<dyn Host>,
    ended: runtime::Ended,
}

/// Options of an append.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AppendOptions {
    /// The number of nodes that must hold the message.
    pub concern: Concern,
    /// The longest time to wait for the concern; `None`: no limit. Zero: answer once the master holds the message.
    pub timeout: Option<Duration>,
    /// A key under which the message is appended only once: a repeat with the same payload appends nothing while
    /// the message is among the last `key_horizon` ones. `None`: sending twice appends twice.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The only offset at which the message may be appended. Not checked for a message whose key is known.
    pub expected_offset: Option<Offset>,
}

impl AppendOptions {
    /// Returns options that wait for `concern` without a time limit.
    #[must_use]
    pub fn concern(concern: Concern) -> AppendOptions {
        AppendOptions {
            concern,
            ..AppendOptions::default()
        }
    }

    /// Limits the wait to `timeout`.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> AppendOptions {
        AppendOptions {
            timeout: Some(timeout),
            ..self
        }
    }

    /// Appends the message once, however often this key is sent.
    #[must_use]
    pub fn idempotency_key(self, key: IdempotencyKey) -> AppendOptions {
        AppendOptions {
            idempotency_key: Some(key),
            ..self
        }
    }

    /// Appends the message only at this offset.
    #[must_use]
    pub fn expected_offset(self, offset: Offset) -> AppendOptions {
        AppendOptions {
            expected_offset: Some(offset),
            ..self
        }
    }
}

impl Master {
    /// Starts a master on its own thread. Returns once its directory is open; recovery continues in the
    /// background, and [`Master::wait_until_writable`] waits for its end.
    ///
    /// # Errors
    ///
    /// [`StartError`]: settings that contradict each other, or a directory that is in use, belongs to another
    /// node, or contradicts itself. Nothing was changed then. Damage is not an error: the log does not count
    /// until it has been repaired from other nodes.
    pub async fn start(
        config: MasterConfig,
        storage: Arc<dyn Storage>,
        network: Arc<dyn Network>,
    ) -> Result<Master, StartError> {
        config.validate()?;
        network.check(&config.secondaries)?;
        let name = config.name.clone();
        runtime::start_node(&name, move |host| {
            let inner = build(host, config, storage, &*network)?;
            let ended = inner.ended.clone();
            Ok((
                Master {
                    inner: Arc::new(inner),
                },
                ended,
            ))
        })
        .await
    }

    /// Starts a master on the calling thread, otherwise as [`Master::start`] does: its actors are tasks of the
    /// surrounding `LocalSet` or actix arbiter, and end with it. Suits a program whose requests arrive on that
    /// thread: an append is handed over without waking another. Blocks while the directory is opened.
    ///
    /// # Errors
    ///
    /// As [`Master::start`].
    ///
    /// # Panics
    ///
    /// Panics outside a `LocalSet`.
    pub fn start_here(
        config: MasterConfig,
        storage: Arc<dyn Storage>,
        network: &dyn Network,
    ) -> Result<Master, StartError> {
        config.validate()?;
        network.check(&config.secondaries)?;
        let inner = runtime::start_node_here(|host| build(host, config, storage, network))?;
        Ok(Master {
            inner: Arc::new(inner),
        })
    }

    /// Checks whether a start with these settings would refuse the directory because of what it says about its node.
    /// Changes nothing and takes no lock. Only a start reads the log itself.
    ///
    /// # Errors
    ///
    /// [`StartError`]: settings that contradict each other, or a directory that belongs to another node, was made for
    /// another list of nodes, or has no readable meta file.
    pub fn check_start(config: &MasterConfig, storage: &dyn Storage) -> Result<(), StartError> {
        config.validate()?;
        let nodes = config.node_names();
        runtime::known_meta(storage, &config.name, Some(&nodes)).map(drop)
    }

    /// Returns the node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.inner.name
    }

    /// Appends a message and waits until its concern is met or its timeout expires.
    ///
    /// After a timeout the receipt says `concern_met: false`: the message is in the log and still being
    /// copied. Appending the same payload twice appends two messages, except under one idempotency key:
    /// then the second is answered with a receipt for the first, marked `replayed`, once the concern of
    /// the second is met. Sending an append with a key again is safe whatever became of it.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; [`AppendError::outcome`] says whether the message may be in the log.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the append is handed over: dropping the future changes nothing about it. It no longer
    /// counts as waiting: it is not in [`Master::waiting_appends`], and its place below
    /// `max_waiting_appends` is free.
    pub async fn append(
        &self,
        payload: impl Into<Bytes>,
        options: AppendOptions,
    ) -> Result<Receipt, AppendError> {
        let payload = payload.into();
        let limit_bytes = self.inner.max_message_bytes;
        if payload.len() > limit_bytes {
            return Err(self.refused(AppendError::TooLarge {
                limit: LimitName::MaxMessageBytes,
                bytes: payload.len(),
                limit_bytes,
            }));
        }
        let claim = options.idempotency_key.clone();
        let claim = claim.map(|key| Claim::new(key, &payload));
        let key_bytes = claim.as_ref().map_or(0, |claim| claim.key_bytes().len());
        self.check_append_bytes(bytes_of(key_bytes, 1, payload.len()))?;
        self.hand_over(payload, None, claim, options).await
    }

    /// Appends all messages of a batch at consecutive offsets and waits until its concern is met for all
    /// of them or its timeout expires.
    ///
    /// They are one append: whatever crashes and when, either all of them are in the log or none is, and no
    /// node shows some of them before it shows all. The concern is met once enough nodes hold the last
    /// message; a key covers all of them; `expected_offset` is that of the first. In everything else it
    /// behaves as [`Master::append`]. A batch takes up [`MessageBatch::bytes`] of `max_queued_bytes`, and is
    /// never accepted if it is larger than that limit or than
    /// [`FRAME_BYTES_MAX`](crate::limits::FRAME_BYTES_MAX).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use replog_core::{
    /// #     AppendOptions, Concern, Master, MasterConfig, MessageBatch, Offset,
    /// #     storage::MemoryStorage, transport::LocalNetwork,
    /// # };
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = MasterConfig::new("master".parse()?, vec![]);
    /// # let network = Arc::new(LocalNetwork::new());
    /// # let master = Master::start(config, Arc::new(MemoryStorage::new()), network).await?;
    /// # master.wait_until_writable().await?;
    /// let batch: MessageBatch = ["one", "two", "three"].into_iter().collect();
    /// let receipt = master.append_batch(batch, AppendOptions::concern(Concern::All)).await?;
    /// assert_eq!((receipt.first_offset, receipt.count), (Offset(0), 3));
    /// let last = master.reader().get(Offset(2)).await?.expect("all of them are there");
    /// assert_eq!(last.payload, "three");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`AppendError`]; [`AppendError::outcome`] says whether the messages may be in the log, all of
    /// them. [`AppendError::TooLarge`] if the longest message or the whole batch is too large: it is never split.
    /// [`AppendError::EmptyBatch`] if there are no messages, and [`AppendError::BatchBeyondHorizon`] for a key that
    /// would be forgotten at once.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the append is handed over: dropping the future changes nothing about it. It no longer
    /// counts as waiting: it is not in [`Master::waiting_appends`], and its place below
    /// `max_waiting_appends` is free.
    pub async fn append_batch(
        &self,
        mut batch: MessageBatch,
        options: AppendOptions,
    ) -> Result<BatchReceipt, AppendError> {
        let (bytes, limit_bytes) = (batch.longest(), self.inner.max_message_bytes);
        if bytes > limit_bytes {
            return Err(self.refused(AppendError::TooLarge {
                limit: LimitName::MaxMessageBytes,
                bytes,
                limit_bytes,
            }));
        }
        if batch.is_empty() {
            return Err(self.refused(AppendError::EmptyBatch));
        }
        let count = batch.count();
        let claim = options.idempotency_key.clone();
        let claim = claim.map(|key| Claim::of_batch(key, &batch));
        if let Some(claim) = &claim {
            batch.set_key(claim.key_bytes());
        }
        self.check_append_bytes(batch.bytes())?;
        let receipt = self.hand_over(Bytes::new(), Some(batch), claim, options);
        Ok(BatchReceipt::of(receipt.await?, count))
    }

    /// Refuses an append that has more bytes in the log than any may have.
    fn check_append_bytes(&self, bytes: usize) -> Result<(), AppendError> {
        if bytes <= FRAME_BYTES_MAX {
            return Ok(());
        }
        Err(self.refused(AppendError::TooLarge {
            limit: LimitName::MaxRequestBytes,
            bytes,
            limit_bytes: FRAME_BYTES_MAX,
        }))
    }

    async fn hand_over(
        &self,
        payload: Bytes,
        batch: Option<MessageBatch>,
        claim: Option<Claim>,
        options: AppendOptions,
    ) -> Result<Receipt, AppendError> {
        let (bytes, count) = match &batch {
            None => (payload.len(), 1),
            Some(batch) => (batch.bytes(), batch.count()),
        };
        let span = AppendSpan::begin(&self.inner.name, count, bytes, &options);
        let result = self.wait_for_receipt(payload, batch, claim, options).await;
        span.end(&result);
        result
    }

    async fn wait_for_receipt(
        &self,
        payload: Bytes,
        batch: Option<MessageBatch>,
        claim: Option<Claim>,
        options: AppendOptions,
    ) -> Result<Receipt, AppendError> {
        let (answer_to, answer) = oneshot::channel();
        let AppendOptions {
            concern,
            timeout,
            expected_offset,
            ..
        } = options;
        let append = NewAppend {
            payload,
            batch: batch.map(Box::new),
            concern,
            timeout,
            arrived: Instant::now(),
            claim,
            expected_offset,
            waiter: self.inner.inbox.next_waiter(),
            caller: Caller::Append(answer_to),
        };
        let waits = WaitGuard::of(self, append.waiter);
        match self.inner.inbox.push(append) {
            Ok(true) => self.inner.coordinator.do_send(AppendsQueued),
            Ok(false) => {}
            Err(error) => {
                waits.disarm();
                return Err(self.refused(error));
            }
        }
        waits.answered(answer.await)
    }

    fn refused(&self, error: AppendError) -> AppendError {
        self.inner.door_tally.count(&error);
        error
    }

    /// Reports which nodes hold the message at `offset`, and why the others do not. A node holds a message
    /// of a batch once it holds the whole batch.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn holders(&self, offset: Offset) -> Result<Holders, Stopped> {
        // An unreadable message is not known to belong to a batch, so it is taken to stand alone.
        let offset = self.reader().last_of_append(offset).await.unwrap_or(offset);
        self.describe(|answer_to| DescribeHolders { offset, answer_to })
            .await
    }

    /// Reports the `limit` oldest appends that wait for their concern.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn waiting_appends(&self, limit: usize) -> Result<WaitingAppends, Stopped> {
        self.describe(|answer_to| DescribeWaiting { limit, answer_to })
            .await
    }

    /// Reports the node's health.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn health(&self) -> Result<MasterHealth, Stopped> {
        self.describe(|answer_to| DescribeMaster { answer_to })
            .await
    }

    /// Returns the node's metrics. They are not all taken at exactly the same instant: a link's counts are
    /// as of its last report.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn metrics(&self) -> Result<MasterMetrics, Stopped> {
        let mut metrics = self
            .describe(|answer_to| MeasureMaster { answer_to })
            .await?;
        self.inner.door_tally.add_to(&mut metrics.appends);
        Ok(metrics)
    }

    /// Returns a reader of the node's log.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(
            &self.inner.view,
            &self.inner.shared,
            &self.inner.host,
            &self.inner.ended,
        )
    }

    /// Listens to the node's events from now on: every change of mode, of epoch, of each secondary's status,
    /// and of what all of the nodes hold. Listening does not keep a node running.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(
            &self.inner.view,
            &self.inner.shared,
            &self.inner.host,
            &self.inner.ended,
        )
    }

    /// Includes the faults of `injector` in the node's events from now on: when they are set, and when they
    /// happen. An injector reports to one node only, the last one that asked.
    pub fn publish_faults(&self, injector: &FaultInjector) {
        events::publish_faults(&self.inner.shared, &self.inner.host, injector);
    }

    /// Waits until the master accepts appends.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn wait_until_writable(&self) -> Result<(), Stopped> {
        let mut mode = self.inner.shared.watch_mode();
        let mut ended = self.inner.ended.clone();
        tokio::select! {
            // The mode of a node that ended without reporting stays what it was.
            biased;
            _ = ended.wait_for(Option::is_some) => Err(runtime::why_ended(&self.inner.ended)),
            Ok(_) = mode.wait_for(|mode| *mode == Mode::ReadWrite) => Ok(()),
        }
    }

    /// Makes the master read-only, for example before this process is stopped or while another is examined.
    ///
    /// Once this returns, no append gets an offset until [`Master::resume_appends`], not even in a later epoch
    /// of this process: appends are refused with [`AppendError::ReadOnly`] and
    /// [`ModeReason::Asked`](crate::types::ModeReason::Asked). Those that have an offset keep waiting and are
    /// answered as usual; so is a known idempotency key. Reads, heartbeats and copying go on. The next start
    /// forgets it. Calling it twice is the same as calling it once. Returns the current mode: that the master is
    /// recovering or fenced takes precedence over the pause.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn pause_appends(&self) -> Result<ModeState, Stopped> {
        self.ask_mode(RequestedMode::ReadOnly).await
    }

    /// Ends the pause that [`Master::pause_appends`] began; any other reason for refusing appends remains.
    /// Calling it without a pause, or twice, changes nothing. Returns the current mode.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn resume_appends(&self) -> Result<ModeState, Stopped> {
        self.ask_mode(RequestedMode::ReadWrite).await
    }

    async fn ask_mode(&self, asked: RequestedMode) -> Result<ModeState, Stopped> {
        self.describe(|answer_to| SetMode { asked, answer_to })
            .await
    }

    /// Refuses new appends from now on and answers waiting ones, all with [`AppendError::Stopping`].
    /// Calling it twice is the same as calling it once.
    pub async fn drain(&self) {
        // An error means that the node has ended, so no append waits any more.
        let _ = self.describe(|done| Drain { done }).await;
    }

    /// Drains the node, syncs its log, stops it and waits until it has ended. Calling it twice is the same as
    /// calling it once.
    pub async fn stop(&self) {
        self.inner.coordinator.do_send(Stop);
        self.stopped().await;
    }

    /// Waits until the node has ended, for whatever reason.
    pub async fn stopped(&self) -> Stopped {
        runtime::wait_for_end(self.inner.ended.clone()).await
    }

    /// Returns the number of times that the coordinator woke up.
    #[cfg(test)]
    pub(crate) fn wake_ups(&self) -> u64 {
        self.inner.shared.wake_ups()
    }

    async fn describe<T, M>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> M,
    ) -> Result<T, Stopped>
    where
        M: actix::Message<Result = ()> + Send + 'static,
        Coordinator: actix::Handler<M>,
        Context<Coordinator>: ToEnvelope<Coordinator, M>,
    {
        let (answer_to, answer) = oneshot::channel();
        self.inner.coordinator.do_send(message(answer_to));
        answer
            .await
            .map_err(|_| runtime::why_ended(&self.inner.ended))
    }
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Master")
            .field("name", &self.inner.name)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.coordinator.do_send(Stop);
    }
}

/// Opens the directory and starts the actors, on the node's own thread.
fn build(
    host: Arc<dyn Host>,
    config: MasterConfig,
    storage: Arc<dyn Storage>,
    network: &dyn Network,
) -> Result<Inner, StartError> {
    let nodes = config.node_names();
    let opened = runtime::open(
        &*host,
        &storage,
        &config.name,
        Some(&nodes),
        config.sync,
        &config.log,
    )?;
    let runtime::Opened {
        files,
        view,
        whole_end,
        meta,
        lock,
        durable,
    } = opened;
    let ctx = Context::<Coordinator>::new();
    let coordinator = actix::AsyncContext::address(&ctx);
    let reports_to = coordinator.clone();
    let writer = runtime::start_writer(&*host, storage.clone(), files, lock, move |report| {
        reports_to.do_send(WriterReported(report));
    })?;
    let told = coordinator.clone();
    view.on_damage(move |offset| told.do_send(DamageNoticed { offset }));
    if config.forced_recovery != ForcedRecovery::Never {
        warn!("a recovery may be forced: without a majority, this start loses messages");
    }
    let settings = Settings {
        nodes,
        founding: config.founding,
        forced_recovery: config.forced_recovery,
        take_over: config.take_over,
        timing: config.timing.clone(),
        drawn: ClusterId::draw(&mut host.rng()),
    };
    let (ended, has_ended) = watch::channel(None);
    let peers = config.secondaries.iter();
    let secondaries = peers.map(|peer| peer.name.clone()).collect();
    let inner = Inner {
        name: config.name.clone(),
        max_message_bytes: config.max_message_bytes,
        coordinator: coordinator.clone(),
        inbox: Arc::new(Inbox::new(config.max_queued_bytes)),
        door_tally: DoorTally::default(),
        view: view.clone(),
        shared: Arc::new(Shared::new(config.name.clone(), secondaries)),
        host: host.clone(),
        ended: has_ended,
    };
    host.watch(Watched {
        role: Role::Master {
            nodes: config.node_names(),
            timing: config.timing.clone(),
        },
        view: view.clone(),
        shared: inner.shared.clone(),
    });
    let parts = CoordinatorParts {
        settings,
        whole_end,
        meta,
        transports: config
            .secondaries
            .iter()
            .map(|peer| network.connect(peer))
            .collect(),
        seed: host.rng().random(),
        durable,
        inbox: inner.inbox.clone(),
        view,
        storage,
        writer,
        shared: inner.shared.clone(),
        host,
        ended,
        config,
    };
    ctx.run(Coordinator::new(parts, &coordinator));
    Ok(inner)
}
