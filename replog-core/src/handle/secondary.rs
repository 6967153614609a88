//! [`Secondary`]: the handle to a secondary node.

use std::{fmt, sync::Arc};

use actix::{Addr, Context};
use tokio::sync::oneshot;

use crate::{
    actors::{
        Answer, DamageNoticed, DescribeSecondary, MeasureSecondary, ReplicaActor, ReplicaParts,
        Stop, WriterReported,
    },
    config::SecondaryConfig,
    error::{StartError, Stopped},
    handle::{
        Events, Reader, Shared, events,
        host::{Host, Role, Watched},
        runtime,
    },
    log::{LogView, WriteReport},
    metrics::SecondaryMetrics,
    rules::{durable::OwnLog, replica::Replica},
    storage::Storage,
    transport::{FaultInjector, Request, Response, Serve, ServeFuture},
    types::NodeName,
    views::SecondaryHealth,
    watch,
};

/// A running secondary. Clones share it; dropping the last one stops it.
#[derive(Clone)]
pub struct Secondary {
    inner: Arc<Inner>,
}

struct Inner {
    name: NodeName,
    replica: Addr<ReplicaActor>,
    view: Arc<LogView>,
    shared: Arc<Shared>,
    host: Arc<dyn Host>,
    ended: runtime::Ended,
}

impl Secondary {
    /// Starts a secondary on its own thread. Returns once its directory is open; the node shows what it
    /// holds at once, and takes records when a master connects to it.
    ///
    /// # Errors
    ///
    /// [`StartError`]: settings that contradict each other, or a directory that is in use, belongs to another
    /// node, or contradicts itself. Nothing was changed then. Damage is not an error: the log does not count
    /// until it has been repaired from other nodes.
    pub async fn start(
        config: SecondaryConfig,
        storage: Arc<dyn Storage>,
    ) -> Result<Secondary, StartError> {
        config.validate()?;
        let name = config.name.clone();
        runtime::start_node(&name, move |host| {
            let inner = build(host, &config, storage)?;
            let ended = inner.ended.clone();
            Ok((
                Secondary {
                    inner: Arc::new(inner),
                },
                ended,
            ))
        })
        .await
    }

    /// Starts a secondary on the calling thread, otherwise as [`Secondary::start`] does: its actors are tasks
    /// of the surrounding `LocalSet` or actix arbiter, and end with it. Suits a program whose requests arrive
    /// on that thread. Blocks while the directory is opened.
    ///
    /// # Errors
    ///
    /// As [`Secondary::start`].
    ///
    /// # Panics
    ///
    /// Panics outside a `LocalSet`.
    pub fn start_here(
        config: SecondaryConfig,
        storage: Arc<dyn Storage>,
    ) -> Result<Secondary, StartError> {
        config.validate()?;
        let inner = runtime::start_node_here(|host| build(host, &config, storage))?;
        Ok(Secondary {
            inner: Arc::new(inner),
        })
    }

    /// Checks whether a start with these settings would refuse the directory because of what it says about its node.
    /// Changes nothing and takes no lock. Only a start reads the log itself.
    ///
    /// # Errors
    ///
    /// [`StartError`]: settings that contradict each other, or a directory that belongs to another node or has no
    /// readable meta file.
    pub fn check_start(config: &SecondaryConfig, storage: &dyn Storage) -> Result<(), StartError> {
        config.validate()?;
        runtime::known_meta(storage, &config.name, None).map(drop)
    }

    /// Returns the node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.inner.name
    }

    /// Answers a request from a master. May take as long as the disk does, and as long as a gap
    /// before the records lasts: callers set their own time limit.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the request is handed over: dropping the future changes nothing about it.
    pub async fn serve(&self, request: Request) -> Result<Response, Stopped> {
        self.describe(|answer_to| Answer { request, answer_to })
            .await
    }

    /// Reports the node's health.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn health(&self) -> Result<SecondaryHealth, Stopped> {
        self.describe(|answer_to| DescribeSecondary { answer_to })
            .await
    }

    /// Returns the node's metrics.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn metrics(&self) -> Result<SecondaryMetrics, Stopped> {
        self.describe(|answer_to| MeasureSecondary { answer_to })
            .await
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

    /// Listens to the node's events from now on: every change of epoch, of gaps and of what it holds.
    /// Listening does not keep a node running.
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

    /// Syncs the log, stops the node and waits until it has ended. Calling it twice is the same as calling it
    /// once.
    pub async fn stop(&self) {
        self.inner.replica.do_send(Stop);
        self.stopped().await;
    }

    /// Waits until the node has ended, for whatever reason.
    pub async fn stopped(&self) -> Stopped {
        runtime::wait_for_end(self.inner.ended.clone()).await
    }

    async fn describe<T, M>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> M,
    ) -> Result<T, Stopped>
    where
        M: actix::Message<Result = ()> + Send + 'static,
        ReplicaActor: actix::Handler<M>,
        Context<ReplicaActor>: actix::dev::ToEnvelope<ReplicaActor, M>,
    {
        let (answer_to, answer) = oneshot::channel();
        self.inner.replica.do_send(message(answer_to));
        answer
            .await
            .map_err(|_| runtime::why_ended(&self.inner.ended))
    }
}

impl Serve for Secondary {
    fn serve(&self, request: Request) -> ServeFuture {
        let secondary = self.clone();
        Box::pin(async move { Secondary::serve(&secondary, request).await })
    }
}

impl fmt::Debug for Secondary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secondary")
            .field("name", &self.inner.name)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.replica.do_send(Stop);
    }
}

/// Opens the directory and starts the actor, on the node's own thread.
fn build(
    host: Arc<dyn Host>,
    config: &SecondaryConfig,
    storage: Arc<dyn Storage>,
) -> Result<Inner, StartError> {
    let opened = runtime::open(
        &*host,
        &storage,
        &config.name,
        None,
        config.sync,
        &config.log,
    )?;
    let runtime::Opened {
        files,
        view,
        whole_end,
        meta,
        lock,
        durable: _,
    } = opened;
    let ctx = Context::<ReplicaActor>::new();
    let replica = actix::AsyncContext::address(&ctx);
    let reports_to = replica.clone();
    let writer = runtime::start_writer(&*host, storage, files, lock, move |report| {
        // Answers wait until records are durable, so waking up for less would be useless.
        if !matches!(report, WriteReport::Written { .. }) {
            reports_to.do_send(WriterReported(report));
        }
    })?;
    let told = replica.clone();
    view.on_damage(move |offset| told.do_send(DamageNoticed { offset }));
    let (ended, has_ended) = watch::channel(None);
    let shared = Arc::new(Shared::new(config.name.clone(), Vec::new()));
    host.watch(Watched {
        role: Role::Secondary,
        view: view.clone(),
        shared: shared.clone(),
    });
    let own = OwnLog {
        whole_end,
        end: view.written_end(),
    };
    let parts = ReplicaParts {
        replica: Replica::new(meta, own).reached_at(config.public_url.clone()),
        view: view.clone(),
        writer,
        shared: shared.clone(),
        host: host.clone(),
        ended,
    };
    ctx.run(ReplicaActor::new(parts));
    Ok(Inner {
        name: config.name.clone(),
        replica,
        view,
        shared,
        host,
        ended: has_ended,
    })
}
