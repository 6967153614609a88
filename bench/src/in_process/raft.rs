//! Three nodes of openraft with the in-memory store that it is tested with, connected by function
//! calls.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{
    Config, Raft, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
    storage::Adaptor,
};
use openraft_memstore::{ClientRequest, MemStore, TypeConfig};

use super::Append;

const NODES: [u64; 3] = [1, 2, 3];
/// Maximum time for choosing a leader.
const PATIENCE: Duration = Duration::from_secs(30);

type Node = Raft<TypeConfig>;
type CallError<E> = RPCError<u64, (), E>;

/// All nodes, by their numbers.
#[derive(Clone, Default)]
struct Router(Arc<Mutex<BTreeMap<u64, Node>>>);

/// The transport to one node.
struct Way {
    router: Router,
    target: u64,
}

pub(super) struct Cluster {
    leader: Node,
    router: Router,
    payload: String,
}

#[derive(Clone)]
pub(super) struct Appender {
    leader: Node,
    payload: String,
}

impl Cluster {
    pub(super) async fn start(payload_bytes: usize) -> Result<Cluster, String> {
        let config = Config::default().validate().map_err(text)?;
        let config = Arc::new(config);
        let router = Router::default();
        for id in NODES {
            let (log, machine) = Adaptor::new(Arc::new(MemStore::new()));
            let node = Raft::new(id, Arc::clone(&config), router.clone(), log, machine);
            let node = node.await.map_err(text)?;
            router.nodes(|nodes| nodes.insert(id, node));
        }
        let first = router.node(NODES[0]).ok_or("the first node is there")?;
        first
            .initialize(std::collections::BTreeSet::from(NODES))
            .await
            .map_err(text)?;
        let metrics = first
            .wait(Some(PATIENCE))
            .metrics(|metrics| metrics.current_leader.is_some(), "a leader")
            .await
            .map_err(text)?;
        let leader = metrics.current_leader.and_then(|id| router.node(id));
        Ok(Cluster {
            leader: leader.ok_or("a leader that is not a node")?,
            router,
            payload: crate::wire::payload(payload_bytes),
        })
    }

    pub(super) fn appender(&self) -> Appender {
        Appender {
            leader: self.leader.clone(),
            payload: self.payload.clone(),
        }
    }

    pub(super) async fn stop(self) -> Result<(), String> {
        for node in self.router.nodes(std::mem::take).into_values() {
            node.shutdown().await.map_err(text)?;
        }
        Ok(())
    }
}

impl Append for Appender {
    async fn append(&mut self, number: u64) -> Result<(), String> {
        let request = ClientRequest {
            client: String::new(),
            serial: number,
            status: self.payload.clone(),
        };
        let written = self.leader.client_write(request).await;
        written.map(drop).map_err(text)
    }
}

impl Router {
    fn nodes<T>(&self, look: impl FnOnce(&mut BTreeMap<u64, Node>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn node(&self, id: u64) -> Option<Node> {
        self.nodes(|nodes| nodes.get(&id).cloned())
    }
}

impl RaftNetworkFactory<TypeConfig> for Router {
    type Network = Way;

    async fn new_client(&mut self, target: u64, _node: &()) -> Way {
        Way {
            router: self.clone(),
            target,
        }
    }
}

impl Way {
    fn node(&self) -> Result<Node, Unreachable> {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the node is gone");
        self.router
            .node(self.target)
            .ok_or_else(|| Unreachable::new(&gone()))
    }

    fn refused<E: std::error::Error>(&self, error: E) -> CallError<E> {
        RPCError::RemoteError(RemoteError::new(self.target, error))
    }
}

impl RaftNetwork<TypeConfig> for Way {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError<RaftError<u64>>> {
        let answer = self
            .node()
            .map_err(RPCError::Unreachable)?
            .append_entries(request)
            .await;
        answer.map_err(|error| self.refused(error))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, CallError<RaftError<u64, InstallSnapshotError>>> {
        let answer = self
            .node()
            .map_err(RPCError::Unreachable)?
            .install_snapshot(request)
            .await;
        answer.map_err(|error| self.refused(error))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, CallError<RaftError<u64>>> {
        let answer = self
            .node()
            .map_err(RPCError::Unreachable)?
            .vote(request)
            .await;
        answer.map_err(|error| self.refused(error))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
