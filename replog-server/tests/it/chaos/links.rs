//! The connections between the master and its secondaries: a proxy for each, which can hold, drop, delay
//! and break off traffic, in one direction or both. It needs no administrator rights.
//!
//! Dropped bytes are lost for good, so their connection breaks off once the link is open
//! again; held bytes arrive, however late, even if their sender is gone by then.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    runtime,
    sync::{oneshot, watch},
};

/// Maximum number of bytes that are forwarded at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Treatment of bytes in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// They arrive.
    Pass,
    /// They arrive late, piece by piece.
    Delay(Duration),
    /// They arrive once the link is open again.
    Hold,
    /// They never arrive.
    Lose,
}

/// The state of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wiring {
    /// From the master to the secondary.
    pub(crate) requests: Flow,
    /// From the secondary to the master.
    pub(crate) answers: Flow,
    /// New connections are broken off at once.
    pub(crate) refuses: bool,
    /// Whenever this changes, all connections break off.
    resets: u64,
}

impl Wiring {
    const OPEN: Wiring = Wiring {
        requests: Flow::Pass,
        answers: Flow::Pass,
        refuses: false,
        resets: 0,
    };
}

/// The link from the master to one secondary.
pub(crate) struct Link {
    /// The address at which the master finds the secondary.
    pub(crate) address: SocketAddr,
    wiring: watch::Sender<Wiring>,
    /// Dropped to end it.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Opens a link to `secondary`.
    pub(crate) fn open(secondary: SocketAddr) -> Link {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("it is bound");
        let (wiring, watching) = watch::channel(Wiring::OPEN);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = stopped => {}
                    result = accept(listener, secondary, watching) => {
                        result.expect("a listener accepts");
                    }
                }
            });
        });
        Link {
            address,
            wiring,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Forwards everything without delay. Held bytes arrive.
    pub(crate) fn mend(&self) {
        self.change(|wiring| {
            *wiring = Wiring {
                resets: wiring.resets,
                ..Wiring::OPEN
            };
        });
    }

    /// Changes the treatment of the traffic.
    pub(crate) fn set(&self, requests: Flow, answers: Flow) {
        self.change(|wiring| (wiring.requests, wiring.answers) = (requests, answers));
    }

    /// Breaks off all connections and every new one, until the link is restored.
    pub(crate) fn refuse(&self) {
        self.change(|wiring| {
            wiring.refuses = true;
            wiring.resets += 1;
        });
    }

    /// Breaks off all connections; new ones can be opened at once.
    pub(crate) fn reset(&self) {
        self.change(|wiring| wiring.resets += 1);
    }

    fn change(&self, change: impl FnOnce(&mut Wiring)) {
        self.wiring.send_modify(change);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a link panicked");
        }
    }
}

async fn accept(
    listener: TcpListener,
    secondary: SocketAddr,
    wiring: watch::Receiver<Wiring>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (master, _) = listener.accept().await?;
        tokio::spawn(forward(master, secondary, wiring.clone()));
    }
}

/// Runs one connection, from its beginning to its end.
async fn forward(
    mut master: TcpStream,
    secondary: SocketAddr,
    mut wiring: watch::Receiver<Wiring>,
) {
    let wanted = *wiring.borrow_and_update();
    if wanted.refuses {
        return break_off(&master);
    }
    let Ok(mut secondary) = TcpStream::connect(secondary).await else {
        return break_off(&master);
    };
    for stream in [&master, &secondary] {
        // A connection that has ended already is noticed when it is read.
        let _ = stream.set_nodelay(true);
    }
    let broken = {
        let (from_master, to_master) = master.split();
        let (from_secondary, to_secondary) = secondary.split();
        let mut requests = Pump::new(from_master, to_secondary, wiring.clone(), |w| w.requests);
        let mut answers = Pump::new(from_secondary, to_master, wiring.clone(), |w| w.answers);
        let reset = wiring.wait_for(|now| now.resets != wanted.resets);
        tokio::select! {
            biased;
            // If the sender is gone, the link is, too.
            _ = reset => true,
            ended = async { tokio::try_join!(requests.run(), answers.run()) } => ended.is_err(),
        }
    };
    if broken {
        break_off(&master);
        break_off(&secondary);
    }
}

/// Turns the end of a connection into a reset, which its other end notices at once.
fn break_off(stream: &TcpStream) {
    // It may be broken already.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

/// One direction of a connection.
struct Pump<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    wiring: watch::Receiver<Wiring>,
    flow: fn(&Wiring) -> Flow,
}

impl<'a> Pump<'a> {
    fn new(
        from: ReadHalf<'a>,
        to: WriteHalf<'a>,
        wiring: watch::Receiver<Wiring>,
        flow: fn(&Wiring) -> Flow,
    ) -> Pump<'a> {
        Pump {
            from,
            to,
            wiring,
            flow,
        }
    }

    /// Forwards until the sender closes. An error means that the connection is to be broken off.
    async fn run(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = self.from.read(&mut chunk).await?;
            let flow = self.flow;
            let now = flow(&self.wiring.borrow_and_update());
            match now {
                Flow::Pass => {}
                Flow::Delay(delay) => tokio::time::sleep(delay).await,
                Flow::Hold => {
                    self.until(|wiring| flow(wiring) != Flow::Hold).await?;
                }
                Flow::Lose => return self.lose().await,
            }
            if count == 0 {
                return self.to.shutdown().await;
            }
            self.to.write_all(&chunk[..count]).await?;
        }
    }

    /// Notes that something was lost: the rest is lost too, and the connection breaks off when the link is open.
    async fn lose(&mut self) -> io::Result<()> {
        let flow = self.flow;
        let mut wiring = self.wiring.clone();
        let open = wiring.wait_for(|wiring| flow(wiring) != Flow::Lose);
        let swallow = async {
            let mut chunk = vec![0; CHUNK_BYTES];
            // Its end is lost as well.
            while self.from.read(&mut chunk).await? > 0 {}
            std::future::pending::<io::Result<()>>().await
        };
        tokio::select! {
            biased;
            _ = open => {}
            ended = swallow => ended?,
        }
        Err(io::ErrorKind::ConnectionReset.into())
    }

    async fn until(&mut self, condition: impl FnMut(&Wiring) -> bool) -> io::Result<()> {
        match self.wiring.wait_for(condition).await {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}
