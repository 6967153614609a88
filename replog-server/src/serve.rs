//! From flags to a running node: a listener, a log, the library's node, a web server.
//!
//! Owns the order of a start. The listener comes first: a port that is taken is noticed before a directory is touched,
//! and a free port that was asked for is known before its URL is needed.

use std::{
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use actix_web::{
    App,
    dev::{Server, ServerHandle},
    middleware::from_fn,
};
use replog_core::{
    ForcedRecovery, Master, NodeName, Peer, Secondary,
    address::{HostPort, NodeUrl},
    error::StartError,
    storage::{FileStorage, MemoryStorage, Storage},
    transport::{
        FaultInjector, FaultyNetwork, Network,
        net::{
            ClusterIdentity, ClusterListener, ClusterNetwork, NetCounters, NetworkOptions,
            ServeOptions,
        },
    },
};
use rustix::net::sockopt;
use tokio::sync::{Notify, watch};

use crate::{
    app,
    args::CommonArgs,
    connections::Connections,
    files::OpenFiles,
    log_lines,
    node::{BetweenNodes, Node, NodeState},
    problem::chain,
    protocol, web_server,
};

/// Connections that wait to be accepted. The system may allow fewer.
const BACKLOG: i32 = 4096;
/// Idle time of a connection before the system probes whether the other machine is still there: a dead connection must
/// not keep its slot among those that wait.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time that a probe waits for an answer, and the interval between probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// A node and its web server.
pub(crate) struct RunningNode {
    /// The node.
    pub(crate) state: Arc<NodeState>,
    /// URL of the node.
    pub(crate) url: NodeUrl,
    /// Handle of its web server.
    pub(crate) server: ServerHandle,
    /// End of its web server.
    pub(crate) server_end: ServerEnd,
    /// Connections to it.
    pub(crate) connections: Connections,
}

/// The end of a web server, as a value that tasks can wait for.
#[derive(Clone, Debug)]
pub(crate) struct ServerEnd(watch::Receiver<Option<String>>);

impl ServerEnd {
    /// Runs a web server in a task of its own.
    fn of(server: Server) -> ServerEnd {
        let (sender, receiver) = watch::channel(None);
        actix_web::rt::spawn(async move {
            let reason = match server.await {
                Ok(()) => "the web server ended".to_owned(),
                Err(error) => format!("the web server ended: {error}"),
            };
            sender.send_replace(Some(reason));
        });
        ServerEnd(receiver)
    }

    /// Waits for the end, and returns its reason.
    pub(crate) async fn reason(mut self) -> String {
        match self.0.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the web server was dropped".to_owned(),
        }
    }
}

/// The settings of a master's start, besides the common ones.
pub(crate) struct MasterStart {
    pub(crate) name: NodeName,
    pub(crate) secondaries: Vec<Peer>,
    pub(crate) public_url: Option<NodeUrl>,
    pub(crate) forced_recovery: ForcedRecovery,
    pub(crate) directory: PathBuf,
    pub(crate) identity: ClusterIdentity,
    pub(crate) workers: usize,
}

/// Starts a master and its web server.
pub(crate) async fn start_master(
    start: MasterStart,
    common: &CommonArgs,
    files: &OpenFiles,
    listeners: Listeners,
) -> Result<RunningNode, String> {
    let MasterStart {
        name,
        secondaries,
        public_url,
        forced_recovery,
        directory,
        identity,
        workers,
    } = start;
    let listens_here = is_on_loopback(&listeners.clients)?;
    let own_url = own_url(public_url.as_ref(), &listeners.clients)?;
    let nodes_count = 1 + secondaries.len();
    let mut config = common.master_config(name.clone(), secondaries);
    config.public_url = public_url.clone();
    config.forced_recovery = forced_recovery;
    config.max_waiting_appends = files.waiting_max(common.max_waiting_appends);
    log::info!(
        "{name}: {files}, waiting appends {} of each concern",
        config.max_waiting_appends
    );
    let storage = open_storage(common, &directory)?;
    let faults = common.allow_faults.then(FaultInjector::new);
    let counters = Arc::new(NetCounters::default());
    let network = network(common, &identity, &counters, faults.as_ref());
    let (common, files) = (common.clone(), *files);
    let Listeners { clients, nodes } = listeners;
    let advertised_url = own_url.as_ref().map(NodeUrl::to_string);
    let site = Endpoint {
        listener: clients,
        workers,
    };
    site.serve(files.connections_max(), move || {
        log_lines::set_thread_node(&name);
        let master = Master::start_here(config, storage, &*network)
            .map_err(|error| not_started(&name, &directory, &error))?;
        // It takes no requests of other nodes, and tells that to those that prove that they are nodes.
        let options = ServeOptions::new(identity)
            .counters(Arc::clone(&counters))
            .handshakes_max(files.handshakes_max())
            .clients_at(advertised_url);
        let between_nodes = listen_to_nodes(&name, nodes, options, counters)?;
        let node = Node::Master(master);
        Ok(NodeState::new(node, &common, &files, None, faults)
            .of_nodes(nodes_count)
            .reached_at(public_url, own_url, listens_here)
            .reached_by_nodes(between_nodes))
    })
    .await
}

/// The settings of a secondary's start, besides the common ones.
pub(crate) struct SecondaryStart {
    pub(crate) name: NodeName,
    pub(crate) master_url: Option<NodeUrl>,
    pub(crate) public_url: Option<NodeUrl>,
    pub(crate) directory: PathBuf,
    pub(crate) identity: ClusterIdentity,
    pub(crate) workers: usize,
}

/// Starts a secondary and its web server.
pub(crate) async fn start_secondary(
    start: SecondaryStart,
    common: &CommonArgs,
    files: &OpenFiles,
    listeners: Listeners,
) -> Result<RunningNode, String> {
    let SecondaryStart {
        name,
        master_url,
        public_url,
        directory,
        identity,
        workers,
    } = start;
    log::info!("{name}: {files}");
    let storage = open_storage(common, &directory)?;
    let faults = common.allow_faults.then(FaultInjector::new);
    let mut config = common.secondary_config(name.clone());
    let listens_here = is_on_loopback(&listeners.clients)?;
    let own_url = own_url(public_url.as_ref(), &listeners.clients)?;
    config.public_url.clone_from(&own_url);
    let (common, files) = (common.clone(), *files);
    let Listeners { clients, nodes } = listeners;
    let advertised_url = own_url.as_ref().map(NodeUrl::to_string);
    let site = Endpoint {
        listener: clients,
        workers,
    };
    site.serve(files.connections_max(), move || {
        log_lines::set_thread_node(&name);
        let secondary = Secondary::start_here(config, storage)
            .map_err(|error| not_started(&name, &directory, &error))?;
        let counters = Arc::new(NetCounters::default());
        let mut options = ServeOptions::new(identity)
            .node(Arc::new(secondary.clone()))
            .counters(Arc::clone(&counters))
            .handshakes_max(files.handshakes_max())
            .clients_at(advertised_url);
        if let Some(faults) = &faults {
            options = options.faults(faults.clone());
        }
        let between_nodes = listen_to_nodes(&name, nodes, options, counters)?;
        let node = Node::Secondary(secondary);
        Ok(NodeState::new(node, &common, &files, master_url, faults)
            .reached_at(public_url, own_url, listens_here)
            .reached_by_nodes(between_nodes))
    })
    .await
}

fn open_storage(common: &CommonArgs, directory: &Path) -> Result<Arc<dyn Storage>, String> {
    if common.memory {
        return Ok(Arc::new(MemoryStorage::new()));
    }
    match FileStorage::open(directory) {
        Ok(storage) => Ok(Arc::new(storage)),
        Err(error) => Err(format!("{}: {error}", directory.display())),
    }
}

fn network(
    common: &CommonArgs,
    identity: &ClusterIdentity,
    counters: &Arc<NetCounters>,
    faults: Option<&FaultInjector>,
) -> Arc<dyn Network> {
    let options = NetworkOptions {
        connect_timeout: common.request_timeout,
        counters: Arc::clone(counters),
        ..NetworkOptions::default()
    };
    let network = Arc::new(ClusterNetwork::new(identity.clone(), options));
    match faults {
        Some(faults) => Arc::new(FaultyNetwork::new(network, faults.clone())),
        None => network,
    }
}

/// Serves other nodes on this thread, which is the node's.
fn listen_to_nodes(
    name: &NodeName,
    listener: ClusterListener,
    options: ServeOptions,
    counters: Arc<NetCounters>,
) -> Result<BetweenNodes, String> {
    let serving = listener
        .serve_here(options)
        .map_err(|error| format!("{name}: the listener for other nodes: {error}"))?;
    let between_nodes = BetweenNodes::new(serving, counters);
    log::info!(
        "{name}: listening for other nodes on {}",
        between_nodes.address
    );
    Ok(between_nodes)
}

/// The listeners of one node, bound before anything else is done.
pub(crate) struct Listeners {
    /// For clients.
    pub(crate) clients: TcpListener,
    /// For other nodes.
    pub(crate) nodes: ClusterListener,
}

impl Listeners {
    /// Binds both.
    ///
    /// # Errors
    ///
    /// The address that could not be bound, and the reason.
    pub(crate) fn bind(clients: &HostPort, nodes: &HostPort) -> Result<Listeners, String> {
        Ok(Listeners {
            clients: listen(clients)?,
            nodes: listen_for_nodes(nodes)?,
        })
    }
}

/// Returns the reason why a node did not start from its directory.
pub(crate) fn not_started(name: &NodeName, directory: &Path, error: &StartError) -> String {
    format!("{name} ({}): {}", directory.display(), chain(error))
}

/// Binds a listener to an address such as `127.0.0.1:5000`.
///
/// # Errors
///
/// The address, and the reason.
pub(crate) fn listen(address: &HostPort) -> Result<TcpListener, String> {
    let bind = || {
        let addresses = addresses_of(address)?;
        let listener = TcpListener::bind(&*addresses)?;
        // Sets the backlog again: the one from binding is short, and thousands of clients may connect at once.
        rustix::net::listen(&listener, BACKLOG)?;
        // Accepted connections inherit it.
        sockopt::set_socket_keepalive(&listener, true)?;
        sockopt::set_tcp_keepidle(&listener, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&listener, PROBE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&listener, PROBES)?;
        Ok(listener)
    };
    bind().map_err(|error| cannot_listen(address, &error))
}

/// Binds the listener for other nodes.
///
/// # Errors
///
/// The address, and the reason.
fn listen_for_nodes(address: &HostPort) -> Result<ClusterListener, String> {
    let bind = || {
        let mut last = no_address();
        for address in addresses_of(address)? {
            match ClusterListener::bind(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    bind().map_err(|error| cannot_listen_for_nodes(address, &error))
}

fn addresses_of(address: &HostPort) -> io::Result<Vec<SocketAddr>> {
    let addresses = (address.host(), address.port()).to_socket_addrs()?;
    Ok(addresses.collect())
}

/// Checks that both addresses are of this machine, and listens on neither: a node with the same ports may be running.
///
/// # Errors
///
/// Those of [`Listeners::bind`], except for ports that are taken or need a privilege.
pub(crate) fn check_listen(clients: &HostPort, nodes: &HostPort) -> Result<(), String> {
    let is_here = |address: &HostPort| {
        let mut last = no_address();
        for address in addresses_of(address)? {
            // Any free port of a connectionless protocol: it disturbs nothing.
            match UdpSocket::bind((address.ip(), 0)) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    is_here(clients).map_err(|error| cannot_listen(clients, &error))?;
    is_here(nodes).map_err(|error| cannot_listen_for_nodes(nodes, &error))
}

fn no_address() -> io::Error {
    io::Error::other("the name has no address")
}

fn cannot_listen(address: &HostPort, error: &io::Error) -> String {
    format!("cannot listen on {address}: {error}")
}

fn cannot_listen_for_nodes(address: &HostPort, error: &io::Error) -> String {
    format!("cannot listen for other nodes on {address} (--cluster-listen): {error}")
}

/// Returns the URL of a listener, for clients on this machine.
pub(crate) fn url_of(listener: &TcpListener) -> Result<NodeUrl, String> {
    let address = HostPort::from(address_of(listener)?);
    Ok(NodeUrl::http(match address.is_unspecified() {
        true => address.with_host_localhost(),
        false => address,
    }))
}

/// Describes the address of a listener in words.
fn listens_at(listener: &TcpListener) -> Result<String, String> {
    let (address, url) = (address_of(listener)?, url_of(listener)?);
    Ok(match (address.ip().is_unspecified(), address.is_ipv4()) {
        (false, _) => url.to_string(),
        (true, true) => {
            format!("{address}, which is every IPv4 address of this machine; here it is {url}")
        }
        (true, false) => {
            format!("{address}, which is every address of this machine; here it is {url}")
        }
    })
}

/// Returns `true` if only this machine reaches a listener.
fn is_on_loopback(listener: &TcpListener) -> Result<bool, String> {
    let address = address_of(listener)?;
    Ok(address.ip().to_canonical().is_loopback())
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, String> {
    listener
        .local_addr()
        .map_err(|error| format!("no address: {error}"))
}

/// Returns the URL that a node tells others as its own: its public one, else that of its listener; `None` if the
/// listener has no address that others could use.
fn own_url(public: Option<&NodeUrl>, listener: &TcpListener) -> Result<Option<NodeUrl>, String> {
    if let Some(public) = public {
        return Ok(Some(public.clone()));
    }
    let address = address_of(listener)?;
    Ok((!address.ip().is_unspecified()).then(|| NodeUrl::http(address.into())))
}

/// A node's listener and its number of web workers.
struct Endpoint {
    listener: TcpListener,
    workers: usize,
}

impl Endpoint {
    /// Starts a web server and, on the thread of its first worker, the node behind it: a request that arrives there
    /// reaches the node without waking another thread.
    async fn serve(
        self,
        connections_max: usize,
        start: impl FnOnce() -> Result<NodeState, String> + Send + 'static,
    ) -> Result<RunningNode, String> {
        let Endpoint { listener, workers } = self;
        let (url, listens_at) = (url_of(&listener)?, listens_at(&listener)?);
        let connections = Connections::default();
        let opened = connections.clone();
        let first = Arc::new(FirstWorker::new(move || {
            start().map(|state| state.connected_by(opened))
        }));
        let started = Arc::clone(&first);
        let application = move || {
            let state = started.state();
            App::new()
                .wrap(from_fn(protocol::serve))
                .configure(|config| {
                    // If the node did not start, nothing is served: the server is about to be stopped.
                    if let Ok(state) = state {
                        // The node's own thread is one of the workers, and sets its name earlier.
                        log_lines::set_thread_node(state.node.name());
                        app::configure(config, &state);
                    }
                })
        };
        let settings = web_server::Settings {
            connections: connections.clone(),
            connections_max,
            workers,
        };
        let server = web_server::run(listener, settings, application)
            .map_err(|error| format!("{url}: {error}"))?;
        let handle = server.handle();
        let server_end = ServerEnd::of(server);
        let started = tokio::select! {
            biased;
            started = first.started() => started,
            reason = server_end.clone().reason() => Err(reason),
        };
        let state = match started {
            Ok(state) => state,
            Err(reason) => {
                handle.stop(false).await;
                return Err(reason);
            }
        };
        log::info!("{}: listening on {listens_at}", state.node.name());
        Ok(RunningNode {
            state,
            url,
            server: handle,
            server_end,
            connections,
        })
    }
}

/// The node, or the reason why it did not start.
type Started = Result<Arc<NodeState>, String>;

/// Starts the node on whichever worker comes first; the others wait for it.
struct FirstWorker<F> {
    start: Mutex<Option<F>>,
    started: OnceLock<Started>,
    notify: Notify,
}

impl<F: FnOnce() -> Result<NodeState, String>> FirstWorker<F> {
    fn new(start: F) -> FirstWorker<F> {
        FirstWorker {
            start: Mutex::new(Some(start)),
            started: OnceLock::new(),
            notify: Notify::new(),
        }
    }

    /// Returns the node on a worker, and starts it here if it is the first.
    fn state(&self) -> Started {
        let started = self.started.get_or_init(|| {
            let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
            match start.take() {
                Some(start) => start().map(Arc::new),
                None => Err("its start panicked".to_owned()),
            }
        });
        self.notify.notify_one();
        started.clone()
    }

    /// Waits, elsewhere than on a worker, until a worker has started the node.
    async fn started(&self) -> Started {
        loop {
            if let Some(started) = self.started.get() {
                return started.clone();
            }
            self.notify.notified().await;
        }
    }
}
