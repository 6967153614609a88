//! [`Secondary`]: the handle of a secondary node.

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
    rules::replica::Replica,
    storage::Storage,
    transport::{FaultInjector, Request, Response, Serve, ServeFuture},
    types::NodeName,
    views::SecondaryHealth,
    watch,
};

/// A running secondary. Clones share it; when the last one is dropped it stops by itself.
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
    /// Starts a secondary on its own thread. Returns once its directory is open; it shows what
    /// it holds at once, and takes records when a master finds it.
    ///
    /// # Errors
    ///
    /// [`StartError`]: settings that contradict each other, or a directory that is in use, another
    /// node's, or contradicts itself. Nothing was changed then. Damage is no error: the log counts
    /// for nothing until it is mended from other nodes.
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

    /// As [`Secondary::start`], on the calling thread: its actors are tasks of the `LocalSet`, or of the
    /// actix arbiter, that this is called within, and end with it. For a program whose requests come in
    /// on that thread. Blocks while the directory is opened.
    ///
    /// # Errors
    ///
    /// As [`Secondary::start`].
    ///
    /// # Panics
    ///
    /// Outside of a `LocalSet`.
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

    /// Checks whether a start with these settings would refuse the directory, by what it says of its node. Changes
    /// nothing and takes no lock. The log itself is only read by a start.
    ///
    /// # Errors
    ///
    /// [`StartError`]: settings that contradict each other, or a directory that is another node's or has no meta file
    /// that can be read.
    pub fn check_start(config: &SecondaryConfig, storage: &dyn Storage) -> Result<(), StartError> {
        config.validate()?;
        runtime::known_meta(storage, &config.name, None).map(drop)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.inner.name
    }

    /// Answers a request of a master. May take as long as the disk does, and as long as a gap
    /// before the records lasts: callers give up when they like.
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

    /// How it does.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn health(&self) -> Result<SecondaryHealth, Stopped> {
        self.describe(|answer_to| DescribeSecondary { answer_to })
            .await
    }

    /// What it counts and measures.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node has ended.
    pub async fn metrics(&self) -> Result<SecondaryMetrics, Stopped> {
        self.describe(|answer_to| MeasureSecondary { answer_to })
            .await
    }

    /// Reads its log.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(
            &self.inner.view,
            &self.inner.shared,
            &self.inner.host,
            &self.inner.ended,
        )
    }

    /// Listens to it: every change of epoch, of gaps and of what it holds, from now on. Listening keeps no
    /// node running.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(
            &self.inner.view,
            &self.inner.shared,
            &self.inner.host,
            &self.inner.ended,
        )
    }

    /// Its events tell of the faults of `injector` too, from now on: when they are set, and when they
    /// happen. An injector tells one node, the last one that asked.
    pub fn publish_faults(&self, injector: &FaultInjector) {
        events::publish_faults(&self.inner.shared, &self.inner.host, injector);
    }

    /// Syncs the log and ends; waits for the end. Calling it twice is as calling it once.
    pub async fn stop(&self) {
        self.inner.replica.do_send(Stop);
        self.stopped().await;
    }

    /// Waits for the end of the node, whoever caused it.
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
        // Answers wait for what is durable: each wake-up for less would be for nothing.
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
    let parts = ReplicaParts {
        replica: Replica::new(meta, whole_end).reached_at(config.public_url.clone()),
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
