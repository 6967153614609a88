//! [`Cluster`]: a master and two secondaries in this process, and a watcher of their health.
//!
//! Owns the nodes' storage in memory, the network between them, and a task that asks the master for
//! its health every few milliseconds: it prints each change of status and mode, and all waits for a
//! condition use the health that it gets.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use replog_core::{
    Master, MasterConfig, Mode, NodeName, Peer, Secondary, SecondaryConfig, Status, Timing,
    storage::MemoryStorage,
    transport::{FaultInjector, FaultSettings, LocalNetwork},
    views::{MasterHealth, SecondaryStatus},
};
use tokio::{sync::watch, task::JoinHandle, time::MissedTickBehavior};

use crate::{DEADLINE, Failure, MASTER, ONE, Story, TWO, Traffic, slowness, within};

/// Interval at which the master is asked for its health.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Returns times shortened about fivefold, so that a person sees everything within seconds.
#[must_use]
pub fn timing() -> Timing {
    let slowness = slowness();
    Timing {
        heartbeat_interval: Duration::from_millis(100) * slowness,
        request_timeout: Duration::from_millis(200) * slowness,
        suspect_after: Duration::from_millis(300) * slowness,
        unhealthy_after: Duration::from_millis(900) * slowness,
        retry_min: Duration::from_millis(20) * slowness,
        retry_max: Duration::from_millis(200) * slowness,
    }
}

/// A master and the secondaries [`ONE`] and [`TWO`], each started when the story wants it.
pub struct Cluster {
    story: Story,
    timing: Timing,
    network: LocalNetwork,
    traffic: Traffic,
    nodes: Vec<Node>,
    watcher: Option<Watcher>,
}

/// A secondary, running or not. Its storage outlives it, as a disk does a process.
struct Node {
    name: NodeName,
    storage: MemoryStorage,
    faults: FaultInjector,
    running: Option<Secondary>,
}

/// A change of a secondary's status.
#[derive(Clone, Debug)]
pub struct StatusChange {
    /// Time since the story began at which it was noticed.
    pub at: Duration,
    /// The secondary's name.
    pub node: String,
    /// The new status.
    pub to: Status,
    /// Nodes in contact at that moment, the master included.
    pub alive: u32,
    /// Time since the last contact.
    pub last_contact: Option<Duration>,
}

/// A change of the master's mode.
#[derive(Clone, Copy, Debug)]
pub struct ModeChange {
    /// Time since the story began at which it was noticed.
    pub at: Duration,
    /// The new mode.
    pub to: Mode,
}

/// Returns the part of a master's health that is about one secondary.
///
/// # Panics
///
/// If the master has none of that name.
#[must_use]
pub fn secondary<'a>(health: &'a MasterHealth, name: &str) -> &'a SecondaryStatus {
    let mut all = health.secondaries.iter();
    all.find(|secondary| secondary.name.as_str() == name)
        .expect("the master was set up with this secondary")
}

impl Cluster {
    /// Makes a cluster with no node running yet.
    ///
    /// # Errors
    ///
    /// None in practice: the names are fixed.
    pub fn new(story: &Story, timing: Timing) -> Result<Cluster, Failure> {
        let network = LocalNetwork::new();
        let node = |name| -> Result<Node, Failure> {
            Ok(Node {
                name: NodeName::new(name)?,
                storage: MemoryStorage::new(),
                faults: FaultInjector::new(),
                running: None,
            })
        };
        Ok(Cluster {
            story: story.clone(),
            timing,
            traffic: Traffic::new(story, &network),
            network,
            nodes: vec![node(ONE)?, node(TWO)?],
            watcher: None,
        })
    }

    /// Starts the master, and waits until it takes appends: a majority of nodes must run.
    ///
    /// # Errors
    ///
    /// The master did not start, or not in time.
    pub async fn start_master(&mut self) -> Result<Master, Failure> {
        let peers = self.nodes.iter().map(|node| Peer::named(node.name.clone()));
        let mut config = MasterConfig::new(NodeName::new(MASTER)?, peers.collect());
        config.timing = self.timing.clone();
        let storage = Arc::new(MemoryStorage::new());
        let master = Master::start(config, storage, Arc::new(self.traffic.clone())).await?;
        self.story.line(MASTER, "started");
        self.watcher = Some(Watcher::start(&self.story, &master).await?);
        self.until("the master to take appends", |health| {
            health.mode == Mode::ReadWrite
        })
        .await?;
        Ok(master)
    }

    /// Starts a secondary on what its storage holds, and connects it.
    ///
    /// # Errors
    ///
    /// The secondary did not start.
    pub async fn start_secondary(&mut self, name: &str) -> Result<Secondary, Failure> {
        let node = self.node(name)?;
        let config = SecondaryConfig::new(node.name.clone());
        let secondary = Secondary::start(config, Arc::new(node.storage.clone())).await?;
        node.running = Some(secondary.clone());
        let faults = node.faults.clone();
        self.traffic.attach(name, secondary.reader());
        self.network.register_with(secondary.clone(), faults);
        let end = secondary.health().await?.log.next;
        let line = format!("started, holds {end} messages");
        self.story.line(name, line);
        Ok(secondary)
    }

    /// Stops a secondary: its port is closed, its storage stays.
    ///
    /// # Errors
    ///
    /// The secondary was not running.
    pub async fn stop_secondary(&mut self, name: &str) -> Result<(), Failure> {
        let node = self.node(name)?;
        let secondary = node.running.take();
        let secondary = secondary.ok_or_else(|| format!("{name} does not run"))?;
        let address = node.name.clone();
        self.network.unregister(&address);
        within(&format!("{name} to stop"), secondary.stop()).await?;
        self.story
            .line(name, "stopped: connections to it are refused");
        Ok(())
    }

    /// Gives a stopped secondary a new, empty storage, as if its disk had been replaced.
    ///
    /// # Errors
    ///
    /// There is no secondary of that name.
    pub fn empty_secondary(&mut self, name: &str) -> Result<(), Failure> {
        self.node(name)?.storage = MemoryStorage::new();
        self.story
            .line(name, "its disk is replaced by an empty one");
        Ok(())
    }

    /// Sets the faults of a secondary from now on, replacing those that were set before.
    ///
    /// # Errors
    ///
    /// Inconsistent settings.
    pub fn set_faults(&mut self, name: &str, faults: FaultSettings) -> Result<(), Failure> {
        self.node(name)?.faults.set(faults)?;
        Ok(())
    }

    /// Cuts the cable to a secondary: nothing arrives either way, and neither side is told.
    ///
    /// # Errors
    ///
    /// There is no secondary of that name.
    pub fn cut(&mut self, name: &str) -> Result<(), Failure> {
        let address = self.node(name)?.name.clone();
        self.network.cut(&address);
        self.story.line(name, "its cable is cut");
        Ok(())
    }

    /// Restores the cable to a secondary.
    ///
    /// # Errors
    ///
    /// There is no secondary of that name.
    pub fn heal(&mut self, name: &str) -> Result<(), Failure> {
        let address = self.node(name)?.name.clone();
        self.network.heal(&address);
        self.story.line(name, "its cable is repaired");
        Ok(())
    }

    /// Returns the requests that the master has sent so far.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Waits until the master's health is as wanted, and returns it.
    ///
    /// # Errors
    ///
    /// The condition was not met in time, or the master has ended.
    pub async fn until(
        &self,
        what: &str,
        wanted: impl FnMut(&MasterHealth) -> bool,
    ) -> Result<MasterHealth, Failure> {
        self.watcher()?.until(what, wanted).await
    }

    /// Waits until the master gives a secondary this status.
    ///
    /// # Errors
    ///
    /// The same as for [`Cluster::until`].
    pub async fn until_status(&self, name: &str, status: Status) -> Result<MasterHealth, Failure> {
        let what = format!("{name} to be {status}");
        self.until(&what, |health| secondary(health, name).status == status)
            .await
    }

    /// Waits until every secondary holds everything that the master holds.
    ///
    /// # Errors
    ///
    /// The same as for [`Cluster::until`].
    pub async fn until_equal(&self) -> Result<MasterHealth, Failure> {
        self.until("all nodes to hold everything", |health| {
            let mut all = health.secondaries.iter();
            all.all(|secondary| secondary.durable_end == Some(health.log.next))
        })
        .await
    }

    /// Returns the changes of status so far, of all secondaries.
    ///
    /// # Errors
    ///
    /// The master was not started.
    pub fn status_changes(&self) -> Result<Vec<StatusChange>, Failure> {
        Ok(self.watcher()?.lock().statuses.clone())
    }

    /// Returns the changes of mode so far.
    ///
    /// # Errors
    ///
    /// The master was not started.
    pub fn mode_changes(&self) -> Result<Vec<ModeChange>, Failure> {
        Ok(self.watcher()?.lock().modes.clone())
    }

    fn node(&mut self, name: &str) -> Result<&mut Node, Failure> {
        let mut nodes = self.nodes.iter_mut();
        let found = nodes.find(|node| node.name.as_str() == name);
        found.ok_or_else(|| format!("there is no {name}").into())
    }

    fn watcher(&self) -> Result<&Watcher, Failure> {
        let watcher = self.watcher.as_ref();
        watcher.ok_or_else(|| "the master was not started".into())
    }
}

/// Repeatedly asks for the master's health. Ends when it is dropped.
struct Watcher {
    looks: watch::Receiver<Look>,
    changes: Arc<Mutex<Changes>>,
    task: JoinHandle<()>,
}

/// The newest health, and how often the master was asked.
#[derive(Clone)]
struct Look {
    count: u64,
    health: MasterHealth,
}

#[derive(Default)]
struct Changes {
    statuses: Vec<StatusChange>,
    modes: Vec<ModeChange>,
}

impl Watcher {
    async fn start(story: &Story, master: &Master) -> Result<Watcher, Failure> {
        let health = master.health().await?;
        publish_mode(story, &health);
        let (published, looks) = watch::channel(Look { count: 0, health });
        let changes = Arc::new(Mutex::new(Changes::default()));
        let (story, master, notes) = (story.clone(), master.clone(), Arc::clone(&changes));
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Ok(health) = master.health().await else {
                    return;
                };
                let before = published.borrow().clone();
                note(&story, &notes, &before.health, &health);
                let count = before.count + 1;
                published.send_replace(Look { count, health });
            }
        });
        Ok(Watcher {
            looks,
            changes,
            task,
        })
    }

    async fn until(
        &self,
        what: &str,
        mut wanted: impl FnMut(&MasterHealth) -> bool,
    ) -> Result<MasterHealth, Failure> {
        let mut looks = self.looks.clone();
        // A look that is in progress may show the state before this call.
        let fresh = looks.borrow().count + 2;
        let found = looks.wait_for(|look| look.count >= fresh && wanted(&look.health));
        match tokio::time::timeout(DEADLINE * slowness(), found).await {
            Ok(Ok(look)) => Ok(look.health.clone()),
            Ok(Err(_)) => Err(format!("the master ended during the wait for {what}").into()),
            Err(_) => Err(crate::late(what)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Prints and keeps the differences between two looks.
fn note(story: &Story, changes: &Mutex<Changes>, before: &MasterHealth, now: &MasterHealth) {
    let mut changes = changes.lock().unwrap_or_else(PoisonError::into_inner);
    let at = story.elapsed();
    for (old, new) in before.secondaries.iter().zip(&now.secondaries) {
        if old.status != new.status {
            tell_status(story, new);
            changes.statuses.push(StatusChange {
                at,
                node: new.name.to_string(),
                to: new.status,
                alive: now.quorum.alive,
                last_contact: new.last_contact,
            });
        }
    }
    if before.mode != now.mode {
        publish_mode(story, now);
        changes.modes.push(ModeChange { at, to: now.mode });
    }
}

fn tell_status(story: &Story, secondary: &SecondaryStatus) {
    let contact = match secondary.last_contact {
        Some(ago) => format!("last contact {} ms ago", ago.as_millis()),
        None => "never reached".to_owned(),
    };
    let reason = match secondary.reason {
        Some(reason) => format!(", failed attempts {}: {reason}", secondary.failed_attempts),
        None => String::new(),
    };
    let name = secondary.name.as_str();
    let status = secondary.status;
    story.line(name, format_args!("is {status} ({contact}{reason})"));
}

fn publish_mode(story: &Story, health: &MasterHealth) {
    if let Some(recovery) = &health.recovery {
        let names: Vec<&str> = recovery.waiting_for.iter().map(NodeName::as_str).collect();
        let (mode, names) = (health.mode, names.join(", "));
        story.line(MASTER, format_args!("is {mode} (asks {names})"));
        return;
    }
    let (quorum, mode) = (health.quorum, health.mode);
    let reason = health
        .mode_reason
        .map_or_else(String::new, |reason| format!("{reason}, "));
    let (alive, nodes, needed) = (quorum.alive, quorum.nodes, quorum.needed);
    story.line(
        MASTER,
        format_args!("is {mode} ({reason}{alive} of {nodes} nodes in contact, {needed} needed)"),
    );
}
