//! The contestants: replog by concern, bare programs, and peers as clusters of three.
//!
//! Owns the start of each: with its own documented defaults for durability, on loopback, its data
//! in a fresh directory of the same file system. Never installs anything: a contestant that is not
//! available is reported as missing, and the others are measured.

mod bare;
#[cfg(feature = "peers")]
mod etcd;
mod nats;
mod redis;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    cluster::{Cluster, Replog},
    wire::{Protocol, Work},
};

/// A contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    #[value(name = "replog-w1")]
    ReplogW1,
    #[value(name = "replog-w2")]
    ReplogW2,
    #[value(name = "replog-w3")]
    ReplogW3,
    ReplogInsecure,
    ReplogOne,
    BareHttp,
    BareOne,
    BareThree,
    Etcd,
    Nats,
    NatsAlways,
    Redis,
    RedisAlways,
}

/// Locations of everything that a contestant needs.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    pub(crate) replog: Replog<'a>,
    /// Directory of the bare programs.
    pub(crate) own: &'a Path,
    /// Directory that `scripts/bench-peers` fills: `bin` and `lib`.
    pub(crate) peers: &'a Path,
}

/// A running contestant, and its protocol.
pub(crate) struct Running {
    pub(crate) cluster: Cluster,
    protocol: Protocol,
}

impl Running {
    /// Returns the work of this many clients on it.
    pub(crate) fn work(&self, clients: usize, payload_bytes: usize) -> Result<Work, String> {
        Ok(Work {
            address: self.cluster.master_address()?,
            protocol: self.protocol,
            clients,
            payload_bytes,
        })
    }
}

impl Contestant {
    /// Returns the name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Contestant::ReplogW1 => "replog w=1",
            Contestant::ReplogW2 => "replog w=2",
            Contestant::ReplogW3 => "replog w=3",
            Contestant::ReplogInsecure => "replog w=2, no TLS",
            Contestant::ReplogOne => "replog, one node",
            Contestant::BareHttp => "bare HTTP",
            Contestant::BareOne => "bare, one node",
            Contestant::BareThree => "bare, three nodes",
            Contestant::Etcd => "etcd",
            Contestant::Nats => "NATS",
            Contestant::NatsAlways => "NATS, sync always",
            Contestant::Redis => "Redis, everysec",
            Contestant::RedisAlways => "Redis, always",
        }
    }

    /// Describes what it does before it answers, and its settings.
    pub(crate) fn settings(self) -> &'static str {
        match self {
            Contestant::ReplogW1 => {
                "HTTP; synced by the master, copied to two secondaries meanwhile"
            }
            Contestant::ReplogW2 => "HTTP; synced by the master and one of two secondaries",
            Contestant::ReplogW3 => "HTTP; synced by the master and both secondaries",
            Contestant::ReplogInsecure => "as w=2, started with --cluster-insecure",
            Contestant::ReplogOne => "HTTP; a master alone, synced by it",
            Contestant::BareHttp => {
                "actix-web with one worker: parses and answers 201, keeps nothing"
            }
            Contestant::BareOne => "the same, appends and syncs in groups; no checks, no recovery",
            Contestant::BareThree => {
                "the same, synced by itself and one of two followers too; no checks, no recovery"
            }
            Contestant::Etcd => {
                "three members, gRPC Put of a new key each to the leader; synced by two (its \
                 default); quota 8 GiB"
            }
            Contestant::Nats => {
                "JetStream R3, file storage, sync_interval 2m (its default): two nodes have written \
                 it, nobody has synced it"
            }
            Contestant::NatsAlways => "JetStream R3, file storage, sync_interval always",
            Contestant::Redis => {
                "two replicas, XADD and WAIT 1 in one round trip, appendonly yes, appendfsync \
                 everysec (its default), no snapshots: two nodes have it, nobody has synced it"
            }
            Contestant::RedisAlways => {
                "the same with appendfsync always; WAIT promises no sync of a replica"
            }
        }
    }

    /// Returns the contestant that it is compared with: the one with the most similar promise.
    pub(crate) fn reference(self) -> Contestant {
        match self {
            Contestant::ReplogW1 => Contestant::ReplogW1,
            Contestant::ReplogOne | Contestant::BareHttp | Contestant::BareOne => {
                Contestant::ReplogOne
            }
            Contestant::ReplogW3 => Contestant::ReplogW3,
            Contestant::ReplogW2
            | Contestant::ReplogInsecure
            | Contestant::BareThree
            | Contestant::Etcd
            | Contestant::Nats
            | Contestant::NatsAlways
            | Contestant::Redis
            | Contestant::RedisAlways => Contestant::ReplogW2,
        }
    }

    /// Returns true if it is the product itself, whose failure fails the run.
    pub(crate) fn is_replog(self) -> bool {
        self.reference() == self
    }

    /// Starts it with fresh data and waits until it takes appends.
    ///
    /// # Errors
    ///
    /// The reason why it is not available here, or did not start.
    pub(crate) async fn start(self, places: Places<'_>) -> Result<Running, String> {
        let replog = async |concern| {
            Ok(Running {
                cluster: places.replog.start().await?,
                protocol: Protocol::Http { concern },
            })
        };
        match self {
            Contestant::ReplogW1 => replog(1).await,
            Contestant::ReplogW2 => replog(2).await,
            Contestant::ReplogW3 => replog(3).await,
            Contestant::ReplogInsecure => Ok(Running {
                cluster: places.replog.start_insecure().await?,
                protocol: Protocol::Http { concern: 2 },
            }),
            Contestant::ReplogOne => Ok(Running {
                cluster: places.replog.start_alone().await?,
                protocol: Protocol::Http { concern: 1 },
            }),
            Contestant::BareHttp => bare::http(places).await,
            Contestant::BareOne => bare::one(places).await,
            Contestant::BareThree => bare::three(places).await,
            #[cfg(feature = "peers")]
            Contestant::Etcd => etcd::start(places).await,
            #[cfg(not(feature = "peers"))]
            Contestant::Etcd => Err("built without the feature peers".to_owned()),
            Contestant::Nats => nats::start(places, None).await,
            Contestant::NatsAlways => nats::start(places, Some("always")).await,
            Contestant::Redis => redis::start(places, "everysec").await,
            Contestant::RedisAlways => redis::start(places, "always").await,
        }
    }

    /// Returns the version that its program reports.
    pub(crate) fn version(self, places: Places<'_>) -> String {
        let (program, argument) = match self {
            Contestant::ReplogW1
            | Contestant::ReplogW2
            | Contestant::ReplogW3
            | Contestant::ReplogInsecure
            | Contestant::ReplogOne => (Ok(places.replog.program.to_owned()), "--version"),
            Contestant::BareHttp | Contestant::BareOne | Contestant::BareThree => {
                return concat!("replog-bench ", env!("CARGO_PKG_VERSION")).to_owned();
            }
            Contestant::Etcd => (places.peer("etcd"), "--version"),
            Contestant::Nats | Contestant::NatsAlways => (places.peer("nats-server"), "--version"),
            Contestant::Redis | Contestant::RedisAlways => {
                (places.peer("redis-server"), "--version")
            }
        };
        let Ok(program) = program else {
            return "not there".to_owned();
        };
        let output = std::process::Command::new(program)
            .arg(argument)
            .env("LD_LIBRARY_PATH", places.peers.join("lib"))
            .output();
        let text = output.map_or_else(|error| error.to_string().into_bytes(), |said| said.stdout);
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next().unwrap_or("unknown");
        // Redis appends checksums and settings of its build.
        line.split(" sha=").next().unwrap_or(line).trim().to_owned()
    }
}

impl Places<'_> {
    /// Returns the path of a peer's program: the one in this directory, or else the system's.
    fn peer(&self, name: &str) -> Result<PathBuf, String> {
        let own = self.peers.join("bin").join(name);
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::iter::once(own)
            .chain(std::env::split_paths(&path).map(|directory| directory.join(name)))
            .find(|program| program.is_file())
            .ok_or_else(|| format!("there is no {name}: scripts/bench-peers gets it"))
    }

    /// Returns the directory of libraries that came with the peers.
    fn libraries(&self) -> Option<PathBuf> {
        let libraries = self.peers.join("lib");
        libraries.is_dir().then_some(libraries)
    }
}
