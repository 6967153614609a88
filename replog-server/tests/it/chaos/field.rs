//! The nodes and the links between them: carries out troubles, ends them, and reports the state of the
//! nodes.
//!
//! Owns the state of each node and the steps of the troubles that are still to come. Stays within
//! the limits of the promises: one disk is replaced at a time, when all others are intact; records are
//! damaged on a minority of nodes at most.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use serde_json::Value;

use super::{
    damage,
    ledger::Ledger,
    links::Link,
    report::History,
    troubles::{Cut, Step, Trouble},
};
use crate::{
    http::{self, Answer, Connection},
    nodes::{Cluster, Node},
};

/// Flags that make nodes notice failures soon. A busy machine counts as trouble, too.
const FLAGS: [&str; 11] = [
    "--allow-faults",
    "--heartbeat-interval",
    "50ms",
    "--request-timeout",
    "500ms",
    "--suspect-after",
    "300ms",
    "--unhealthy-after",
    "800ms",
    "--retry-max",
    "300ms",
];
/// Maximum time for a node to report its health before it counts as not answering.
const HEALTH_TIME_MAX: Duration = Duration::from_secs(2);
/// Pause between two checks of whether another disk may be lost.
const WIPE_PAUSE: Duration = Duration::from_millis(20);
/// Amount of log that is shown of a node that ended by itself.
const LOG_SHOWN_BYTES: usize = 3_000;

/// Returns a node's name: 0 is the master.
pub(crate) fn name_of(node: usize) -> String {
    match node {
        0 => "master".to_owned(),
        secondary => format!("secondary-{secondary}"),
    }
}

/// State of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Runs,
    Paused,
    /// Asked to stop, and possibly still stopping.
    Stops,
    Down,
}

/// Damage to a node's disk that is not repaired yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Wiped,
    Damaged,
}

/// A step to be done later.
#[derive(Clone, Debug)]
enum Later {
    Begin(Step),
    Start { node: usize },
    Continue { node: usize },
    StopFailing { node: usize },
    Mend { link: usize },
}

/// A cluster under trouble.
pub(crate) struct Field {
    cluster: Cluster,
    links: Vec<Link>,
    states: Vec<State>,
    harms: Vec<(usize, Harm)>,
    /// Reports of nodes that ended although they should not.
    bad_ends: Vec<String>,
    rng: ChaCha8Rng,
    began: Instant,
    /// Steps to be done, by the time since `began` and the order of creation.
    later: BTreeMap<(Duration, u64), Later>,
    laters: u64,
    pub(crate) history: History,
    /// Everything below is known to be on every node.
    pub(crate) safe_end: u64,
}

impl Field {
    /// Starts a cluster of this many nodes, and waits until it takes appends with all nodes in contact.
    pub(crate) fn start(nodes: usize, seed: u64) -> Field {
        let mut links = Vec::new();
        let open = |secondary| {
            links.push(Link::open(secondary));
            links.last().expect("just pushed").address
        };
        let mut cluster = Cluster::prepare_behind(nodes - 1, &FLAGS, open);
        for secondary in &mut cluster.secondaries {
            secondary.start();
        }
        cluster.master.start();
        cluster.wait_read_write();
        cluster.wait_alive(nodes);
        // It has founded its cluster, and never does so again, even if its disk is lost.
        cluster.master.add_flag("--existing");
        Field {
            cluster,
            states: vec![State::Runs; nodes],
            links,
            harms: Vec::new(),
            bad_ends: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            began: Instant::now(),
            later: BTreeMap::new(),
            laters: 0,
            history: History::new(),
            safe_end: 0,
        }
    }

    pub(crate) fn nodes(&self) -> usize {
        self.states.len()
    }

    pub(crate) fn node(&self, node: usize) -> &Node {
        match node.checked_sub(1) {
            None => &self.cluster.master,
            Some(secondary) => &self.cluster.secondaries[secondary],
        }
    }

    fn node_mut(&mut self, node: usize) -> &mut Node {
        match node.checked_sub(1) {
            None => &mut self.cluster.master,
            Some(secondary) => &mut self.cluster.secondaries[secondary],
        }
    }

    /// Sets the origin of time for troubles to now.
    pub(crate) fn begin_round(&mut self) {
        self.began = Instant::now();
        assert!(self.later.is_empty(), "{:?}", self.later);
    }

    /// Begins a trouble at a time of the round, which is now.
    ///
    /// # Errors
    ///
    /// The reason why it is impossible now. In that case nothing was done.
    pub(crate) fn begin(
        &mut self,
        at: Duration,
        trouble: &Trouble,
        ledger: &Ledger,
    ) -> Result<(), String> {
        if let Some(secondaries) = &trouble.needs {
            self.check_serving(secondaries)?;
        }
        let steps = &trouble.steps;
        for (_, step) in steps.iter().filter(|(after, _)| after.is_zero()) {
            self.check_possible(step)?;
        }
        for (after, step) in steps {
            match after.is_zero() {
                true => self.take(at, step, ledger),
                false => self.do_later(at + *after, Later::Begin(step.clone())),
            }
        }
        Ok(())
    }

    /// Reports whether these secondaries run and the master takes appends.
    fn check_serving(&self, secondaries: &[usize]) -> Result<(), String> {
        self.check_running(0)?;
        for secondary in secondaries {
            self.check_running(*secondary)?;
        }
        match self.health(0) {
            Ok(health) if health["mode"] == "read-write" => Ok(()),
            Ok(health) => Err(format!("the master is {}", health["mode"])),
            Err(error) => Err(format!("the master does not answer: {error}")),
        }
    }

    fn check_running(&self, node: usize) -> Result<(), String> {
        match self.states[node] {
            State::Runs => Ok(()),
            _ => Err(format!("{} does not run", name_of(node))),
        }
    }

    fn check_possible(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Stop { node, .. } | Step::Pause { node, .. } => self.check_running(*node),
            // A node that has just been started may not listen yet.
            Step::Fail { node, .. } => {
                self.check_running(*node)?;
                let answer = self.set_faults(*node, "{}");
                answer.map_err(|error| error.to_string())
            }
            Step::Wipe { node, .. } => self.check_disk(*node, Harm::Wiped),
            Step::Damage { node, .. } => self.check_disk(*node, Harm::Damaged),
            _ => Ok(()),
        }
    }

    /// Carries out a step that is possible, and schedules its end.
    fn take(&mut self, at: Duration, step: &Step, ledger: &Ledger) {
        self.history.note(step);
        match step {
            Step::Kill { node, down } => {
                self.kill(*node);
                self.do_later(at + *down, Later::Start { node: *node });
            }
            Step::Stop { node, down } => {
                self.node(*node).process().signal(Signal::TERM);
                self.states[*node] = State::Stops;
                self.do_later(at + *down, Later::Start { node: *node });
            }
            Step::Pause { node, lasts } => {
                self.node(*node).process().signal(Signal::STOP);
                self.states[*node] = State::Paused;
                self.do_later(at + *lasts, Later::Continue { node: *node });
            }
            Step::Cut { link, cut, lasts } => {
                match cut {
                    Cut::Flows(requests, answers) => self.links[*link].set(*requests, *answers),
                    Cut::Refused => self.links[*link].refuse(),
                }
                self.do_later(at + *lasts, Later::Mend { link: *link });
            }
            Step::Reset { link } => self.links[*link].reset(),
            Step::Fail {
                node,
                faults,
                lasts,
            } => {
                // It may have become too slow to answer: then it fails all the same, or later.
                let _ = self.set_faults(*node, faults);
                self.do_later(at + *lasts, Later::StopFailing { node: *node });
            }
            Step::Wipe { node, down } => {
                self.kill(*node);
                self.harms.push((*node, Harm::Wiped));
                if *node == 0 {
                    ledger.master_loses_disk(self.safe_end);
                }
                fs::remove_dir_all(&self.node(*node).directory).expect("its directory");
                self.do_later(at + *down, Later::Start { node: *node });
            }
            Step::Damage { node, down } => {
                self.kill(*node);
                let directory = self.node(*node).directory.clone();
                if let Some(place) = damage::flip_bit(&directory, &mut self.rng) {
                    self.history.note(format_args!("  {place}"));
                    self.harms.push((*node, Harm::Damaged));
                    if *node == 0 {
                        ledger.master_loses_disk(self.safe_end);
                    }
                }
                self.do_later(at + *down, Later::Start { node: *node });
            }
        }
    }

    /// Reports whether this may happen to the disk of a node.
    fn check_disk(&mut self, node: usize, harm: Harm) -> Result<(), String> {
        self.forget_what_is_mended();
        let minority = (self.nodes() - 1) / 2;
        let is_possible = match harm {
            Harm::Wiped => self.harms.is_empty(),
            Harm::Damaged => {
                let all_damaged = self.harms.iter().all(|(_, harm)| *harm == Harm::Damaged);
                let others = self.harms.iter().filter(|(other, _)| *other != node);
                all_damaged && others.count() < minority
            }
        };
        match is_possible {
            true => Ok(()),
            false => Err(format!("these may not be intact yet: {:?}", self.harms)),
        }
    }

    /// A node that was wiped is intact, for good, once it says so. For a damaged one that is
    /// known only after all of its log was read.
    fn forget_what_is_mended(&mut self) {
        let harms = std::mem::take(&mut self.harms);
        let is_open = |(node, harm): &(usize, Harm)| {
            let is_mended = *harm == Harm::Wiped
                && self.states[*node] == State::Runs
                && self.health(*node).is_ok_and(|health| match node {
                    0 => health["mode"] == "read-write",
                    _ => health["intact"] == true,
                });
            !is_mended
        };
        self.harms = harms.into_iter().filter(is_open).collect();
    }

    /// Notes that all nodes are well and all logs were read to their end: everything below is on every node.
    pub(crate) fn all_was_read(&mut self, end: u64) {
        self.safe_end = end;
        self.harms.clear();
    }

    fn kill(&mut self, node: usize) {
        if self.states[node] != State::Down {
            self.look_at(node);
            self.node_mut(node).kill();
            self.states[node] = State::Down;
        }
    }

    /// Starts a node, unless it runs.
    fn launch(&mut self, node: usize) {
        if self.states[node] == State::Stops {
            let status = self.node_mut(node).take().wait();
            if status.code() != Some(0) {
                let what = format!("{} was asked to stop: {status}", name_of(node));
                self.bad_ends.push(what);
            }
            self.states[node] = State::Down;
        }
        if self.states[node] == State::Down {
            self.history.note(format_args!("{} starts", name_of(node)));
            self.node_mut(node).launch();
            self.states[node] = State::Runs;
        }
    }

    fn go_on(&mut self, node: usize) {
        if self.states[node] == State::Paused {
            self.history.note(format_args!("{} goes on", name_of(node)));
            self.node(node).process().signal(Signal::CONT);
            self.states[node] = State::Runs;
        }
    }

    fn do_later(&mut self, at: Duration, what: Later) {
        self.laters += 1;
        self.later.insert((at, self.laters), what);
    }

    /// Returns the time of the round at which the next step is due.
    pub(crate) fn next_at(&self) -> Option<Duration> {
        self.later.keys().next().map(|(at, _)| *at)
    }

    /// Returns the remaining time of the round until then.
    pub(crate) fn time_until(&self, at: Duration) -> Duration {
        at.saturating_sub(self.began.elapsed())
    }

    /// Carries out the next step.
    pub(crate) fn do_next(&mut self, ledger: &Ledger) {
        let Some(((at, _), what)) = self.later.pop_first() else {
            return;
        };
        match what {
            Later::Begin(step) => match self.check_possible(&step) {
                Ok(()) => self.take(at, &step, ledger),
                // As soon as it is allowed.
                Err(_) if matches!(step, Step::Wipe { .. }) => {
                    self.do_later(at + WIPE_PAUSE, Later::Begin(step));
                }
                Err(reason) => self
                    .history
                    .note(format_args!("not now ({reason}): {step}")),
            },
            Later::Start { node } => self.launch(node),
            Later::Continue { node } => self.go_on(node),
            Later::StopFailing { node } => {
                if self.states[node] == State::Runs {
                    // A node that is too slow to answer at the moment fails until the round ends.
                    let _ = self.set_faults(node, "{}");
                }
            }
            Later::Mend { link } => {
                let to = name_of(link + 1);
                self.history.note(format_args!("the way to {to} is open"));
                self.links[link].mend();
            }
        }
    }

    /// Ends all troubles at once.
    pub(crate) fn heal(&mut self) {
        self.history.note("all troubles end");
        self.later.clear();
        for link in &self.links {
            link.mend();
        }
        for node in 0..self.nodes() {
            self.go_on(node);
            self.launch(node);
        }
    }

    /// Names the node that ended although it should not, and what its log says.
    pub(crate) fn bad_end(&mut self) -> Option<String> {
        for node in 0..self.nodes() {
            self.look_at(node);
        }
        self.bad_ends.pop()
    }

    /// Notes each node that has ended although it should run.
    fn look_at(&mut self, node: usize) {
        let was_asked = self.states[node] == State::Stops;
        let Some(status) = self.node_mut(node).ended() else {
            return;
        };
        if was_asked && status.code() == Some(0) {
            return;
        }
        let log = self.node(node).process().log_text();
        let from = log.len().saturating_sub(LOG_SHOWN_BYTES);
        let shown = String::from_utf8_lossy(&log.as_bytes()[from..]).into_owned();
        let name = name_of(node);
        self.bad_ends
            .push(format!("{name} ended by itself ({status}): {shown}"));
    }

    /// `PUT /faults`.
    pub(crate) fn set_faults(&self, node: usize, faults: &str) -> io::Result<()> {
        let answer = self.ask(node, "PUT", "/faults", &[http::JSON], Some(faults))?;
        match answer.status {
            200 => Ok(()),
            _ => Err(io::Error::other(format!("{answer:?}"))),
        }
    }

    /// `GET /health`.
    pub(crate) fn health(&self, node: usize) -> io::Result<Value> {
        let answer = self.ask(node, "GET", "/health", &[], None)?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    fn ask(
        &self,
        node: usize,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> io::Result<Answer> {
        Connection::open(self.node(node).address)?
            .patience(Some(HEALTH_TIME_MAX))
            .request(method, path, headers, body.map(str::as_bytes))
    }

    /// Returns everything that a node shows, one message per line.
    pub(crate) fn dump(&self, node: usize) -> io::Result<Vec<u8>> {
        let headers = [("accept", "application/x-ndjson")];
        let answer = http::request(self.node(node).address, "GET", "/messages", &headers, None)?;
        match answer.status {
            200 => Ok(answer.body),
            _ => Err(io::Error::other(format!("{answer:?}"))),
        }
    }

    /// Stops every node as an operator would, and compares their files. Returns a description of what is wrong.
    pub(crate) fn finish(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        for node in 0..self.nodes() {
            let status = self.node_mut(node).take().terminate();
            self.states[node] = State::Down;
            if status.code() != Some(0) {
                wrong.push(format!("{} ended with {status}", name_of(node)));
            }
        }
        let on_master = self.node(0).log_files();
        for secondary in 1..self.nodes() {
            if self.node(secondary).log_files() != on_master {
                let name = name_of(secondary);
                wrong.push(format!("the files of {name} are not the master's"));
            }
        }
        wrong
    }

    /// Kills every node.
    pub(crate) fn kill_all(&mut self) {
        for node in 0..self.nodes() {
            self.kill(node);
        }
    }

    /// Keeps directories and logs, and prints their location.
    pub(crate) fn keep_directory(&mut self) -> PathBuf {
        self.cluster.keep_directory()
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let directory = self.keep_directory();
            eprintln!("{}\nkept: {}", self.history, directory.display());
        }
    }
}
