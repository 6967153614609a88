//! One node behind HTTP: the library's handle and the other state that routes need.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use replog_core::{
    Concern, Events, Master, NodeName, Reader, Secondary,
    address::{HostPort, NodeUrl},
    error::{LimitName, Stopped},
    limits::FRAME_BYTES_MAX,
    transport::{
        FaultInjector,
        net::{NetCounters, Serving},
    },
};

use crate::{
    append_lines::LineLimits,
    args::CommonArgs,
    body::{BodyLimits, Budget},
    connections::Connections,
    files::OpenFiles,
    origin::Names,
    problem::Problem,
    shares::{Client, Wait, Waits},
};

/// Name of the limit on readers that wait or follow: it is not a setting of the node but the system's.
const OPEN_FILES: &str = "open-files";

/// A node's handle, by its role.
#[derive(Clone)]
pub(crate) enum Node {
    /// The node that takes appends.
    Master(Master),
    /// A node that holds a copy.
    Secondary(Secondary),
}

impl Node {
    /// Returns the node's name.
    pub(crate) fn name(&self) -> &NodeName {
        match self {
            Node::Master(master) => master.name(),
            Node::Secondary(secondary) => secondary.name(),
        }
    }

    /// Returns a reader of the node's log.
    pub(crate) fn reader(&self) -> Reader {
        match self {
            Node::Master(master) => master.reader(),
            Node::Secondary(secondary) => secondary.reader(),
        }
    }

    /// Returns the node's stream of events.
    pub(crate) fn events(&self) -> Events {
        match self {
            Node::Master(master) => master.events(),
            Node::Secondary(secondary) => secondary.events(),
        }
    }

    /// Reports these faults in the node's events too.
    fn publish_faults(&self, faults: &FaultInjector) {
        match self {
            Node::Master(master) => master.publish_faults(faults),
            Node::Secondary(secondary) => secondary.publish_faults(faults),
        }
    }

    /// Answers every waiting append and takes nothing new; reads go on.
    pub(crate) async fn drain(&self) {
        match self {
            Node::Master(master) => master.drain().await,
            Node::Secondary(_) => {}
        }
    }

    /// Syncs the log and ends the node.
    pub(crate) async fn stop(&self) {
        match self {
            Node::Master(master) => master.stop().await,
            Node::Secondary(secondary) => secondary.stop().await,
        }
    }

    /// Waits for the node's end, whatever its cause.
    pub(crate) async fn stopped(&self) -> Stopped {
        match self {
            Node::Master(master) => master.stopped().await,
            Node::Secondary(secondary) => secondary.stopped().await,
        }
    }
}

/// The node's interface to other nodes.
pub(crate) struct BetweenNodes {
    /// The address of its cluster listener.
    pub(crate) address: HostPort,
    /// Counters of both directions.
    pub(crate) counters: Arc<NetCounters>,
    /// The listener, until it is stopped.
    serving: Mutex<Option<Serving>>,
}

impl BetweenNodes {
    pub(crate) fn new(serving: Serving, counters: Arc<NetCounters>) -> BetweenNodes {
        BetweenNodes {
            address: serving.local_addr().into(),
            counters,
            serving: Mutex::new(Some(serving)),
        }
    }

    /// Closes the listener and every connection to it. Has no effect if it is closed already.
    pub(crate) async fn stop(&self) {
        let serving = self
            .serving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(serving) = serving {
            serving.stop().await;
        }
    }
}

/// State shared by the routes of one node.
pub(crate) struct NodeState {
    /// The node itself.
    pub(crate) node: Node,
    /// URL of the master for clients, as this node was told at its start.
    pub(crate) master_url: Option<NodeUrl>,
    /// The public URL of this node, for clients that reach it by another name than its machine's.
    pub(crate) public_url: Option<NodeUrl>,
    /// Names by which clients may reach this node, besides those that are always allowed.
    pub(crate) allowed_hosts: Vec<String>,
    /// URL of this node for clients, as told to others: the public URL, else that of its listener.
    pub(crate) own_url: Option<NodeUrl>,
    /// Time that an append waits when the request does not set one.
    pub(crate) append_timeout: Option<Duration>,
    /// Limits on the body of an append of one message.
    pub(crate) append_limits: BodyLimits,
    /// Limits on the body of a batch.
    pub(crate) batch_limits: BodyLimits,
    /// Limits on the lines of a batch.
    pub(crate) line_limits: LineLimits,
    /// Memory for the bodies of appends.
    pub(crate) append_budget: Arc<Budget>,
    /// This node's address for other nodes, and the counters of that interface.
    pub(crate) between_nodes: Option<BetweenNodes>,
    /// Faults injected on purpose, where allowed.
    pub(crate) faults: Option<FaultInjector>,
    /// Connections from clients.
    pub(crate) connections: Connections,
    /// Number of nodes of the cluster, as far as this node knows: it defines the concern `majority`.
    nodes: u32,
    /// Only this machine can reach the node.
    listens_here: bool,
    /// Slots for requests that last as long as others like: appends that another node may block, waits, followers and
    /// listeners. All slots together leave connections for everything else, and those of readers leave some for
    /// appends.
    waits: Waits,
}

impl NodeState {
    /// Returns the state of `node`, by its settings.
    pub(crate) fn new(
        node: Node,
        common: &CommonArgs,
        files: &OpenFiles,
        master_url: Option<NodeUrl>,
        faults: Option<FaultInjector>,
    ) -> NodeState {
        if let Some(faults) = &faults {
            node.publish_faults(faults);
        }
        NodeState {
            node,
            master_url,
            public_url: None,
            allowed_hosts: common.allowed_hosts.clone(),
            own_url: None,
            append_timeout: common.append_timeout,
            append_limits: BodyLimits::new(
                LimitName::MaxMessageBytes,
                common.max_message_bytes,
                common.max_request_bytes,
            ),
            batch_limits: BodyLimits::new(
                LimitName::MaxRequestBytes,
                common.max_request_bytes,
                common.max_request_bytes,
            ),
            line_limits: LineLimits {
                line_bytes: common.max_message_bytes,
                append_bytes: FRAME_BYTES_MAX,
                queued_bytes: common.max_queued_bytes,
            },
            append_budget: Budget::new(LimitName::MaxQueuedBytes.as_str(), common.max_queued_bytes),
            between_nodes: None,
            faults,
            connections: Connections::default(),
            nodes: 1,
            listens_here: false,
            waits: Waits::new(
                files.blockable_max(),
                files.waiting_max(usize::MAX),
                files.waiting_max(common.max_waiting_appends),
            ),
        }
    }

    /// Returns the state of a node with this public URL, which tells others that clients reach it at `own_url`.
    /// `listens_here`: only this machine reaches it.
    pub(crate) fn reached_at(
        self,
        public_url: Option<NodeUrl>,
        own_url: Option<NodeUrl>,
        listens_here: bool,
    ) -> NodeState {
        NodeState {
            public_url,
            own_url,
            listens_here,
            ..self
        }
    }

    /// Returns the state of a node with this interface to other nodes.
    pub(crate) fn reached_by_nodes(self, between_nodes: BetweenNodes) -> NodeState {
        let between_nodes = Some(between_nodes);
        NodeState {
            between_nodes,
            ..self
        }
    }

    /// Closes the cluster listener and every connection to it.
    pub(crate) async fn stop_between_nodes(&self) {
        if let Some(between_nodes) = &self.between_nodes {
            between_nodes.stop().await;
        }
    }

    /// Returns the URL of the master for clients: the one that the master published, else the one that this node was
    /// told.
    pub(crate) fn url_of_master(&self, said: Option<NodeUrl>) -> Option<NodeUrl> {
        said.or_else(|| self.master_url.clone())
    }

    /// Returns the state of a node of a cluster with this number of nodes.
    pub(crate) fn of_nodes(self, nodes: usize) -> NodeState {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        NodeState { nodes, ..self }
    }

    /// Returns the state of a node with these client connections.
    pub(crate) fn connected_by(self, connections: Connections) -> NodeState {
        NodeState {
            connections,
            ..self
        }
    }

    /// Returns the names that the node is known by.
    pub(crate) fn names(&self) -> Names<'_> {
        Names {
            public_url: self.public_url.as_ref(),
            allowed: &self.allowed_hosts,
            listens_here: self.listens_here,
        }
    }

    /// Admits an append that other nodes may block, until the result is dropped.
    ///
    /// The library limits the waiting appends of each concern, and knows no clients. This gives each client its share
    /// of that, and limits all concerns together, below the number of connections that the process can have: past that
    /// one, nobody would be answered at all, `/health` included.
    pub(crate) fn enter(&self, client: Client, concern: Concern) -> Result<Wait, Problem> {
        let limit = LimitName::MaxWaitingAppends.as_str();
        let entered = self.waits.append(client, concern.resolve(self.nodes));
        entered.map_err(|max| Problem::overloaded(limit, max as u64).not_appended())
    }

    /// Admits a reader that waits, follows or takes long, until the result is dropped.
    pub(crate) fn enter_reader(&self, client: Client) -> Result<Wait, Problem> {
        let entered = self.waits.reader(client);
        entered.map_err(|max| Problem::overloaded(OPEN_FILES, max as u64))
    }
}
