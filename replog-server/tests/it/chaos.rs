//! Real processes, real sockets and real files under every kind of trouble at once, and under load: after
//! healing, every acknowledged message is on every node, once, at its offset, and nothing else
//! is there except messages that some client sent and that were not refused.
//!
//! A run is one cluster and a number of rounds. In a round, troubles are dealt from a seeded deck,
//! one on top of the other; then all of them end, the nodes get time to recover, every client
//! must be answered, and what all nodes show is compared with what the clients were told. The seed
//! determines the order of the troubles, but not the moments at which they meet the nodes' work.
//!
//! `cargo test` makes a short run; `scripts/torture` makes runs of any length.

mod check;
mod clients;
mod damage;
mod field;
mod gate;
mod ledger;
pub(crate) mod links;
mod report;
mod troubles;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{http::Connection, nodes::PATIENCE};
use check::Shown;
use clients::{Clients, Shared};
use field::Field;
pub(crate) use report::{End, Failure, Summary};
use troubles::{Deck, Kind};

/// Time between the beginnings of two troubles.
const GAP_MS: std::ops::Range<u64> = 50..800;
/// Pause between two checks of a condition.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Maximum time that a reader waits for a node.
const READ_TIME_MAX: Duration = Duration::from_millis(500);

/// Settings of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Seed of every choice.
    pub(crate) seed: u64,
    /// Number of nodes, including the master.
    pub(crate) nodes: usize,
    pub(crate) clients: usize,
    pub(crate) rounds: u64,
    /// Troubles in each round.
    pub(crate) troubles: usize,
    /// No round begins after this.
    pub(crate) until: Option<Instant>,
}

/// Runs one cluster.
///
/// `watch` is shown the progress so far, several times a second.
///
/// # Errors
///
/// [`End::Violated`] when something is wrong; directories and logs are kept in that case.
/// [`End::Interrupted`] when `interrupted` was set.
pub(crate) fn run(
    plan: Plan,
    interrupted: &AtomicBool,
    watch: &mut dyn FnMut(&Summary),
) -> Result<Summary, End> {
    let field = Field::start(plan.nodes, plan.seed);
    let shared = Arc::new(Shared {
        master: field.node(0).address,
        nodes: plan.nodes,
        ledger: ledger::Ledger::new(plan.nodes, plan.clients),
        violations: report::Violations::default(),
        gate: gate::Gate::default(),
    });
    let clients = Clients::start(plan.clients, plan.seed, &shared);
    let reader = start_reader(&field, &shared);
    let mut run = Run {
        plan,
        rng: ChaCha8Rng::seed_from_u64(plan.seed),
        deck: Deck::new(),
        field,
        shared,
        shown: Vec::new(),
        summary: Summary {
            clusters: 1,
            troubles: Kind::names().map(|name| (name, 0)).collect(),
            ..Summary::default()
        },
        interrupted,
        watch,
    };
    let result = run.all_rounds();
    let Run {
        mut field,
        shared,
        summary,
        ..
    } = run;
    let mut wrong = match result {
        Ok(()) => field.finish(),
        Err(Broken::Interrupted) => {
            drop(field);
            clients.end();
            return Err(End::Interrupted);
        }
        Err(Broken::Wrong(wrong)) => wrong,
    };
    // Waiting clients are released when the master ends.
    field.kill_all();
    clients.end();
    if reader.join().is_err() {
        wrong.push("the reader panicked: see above".to_owned());
    }
    wrong.extend(shared.violations.take());
    if wrong.is_empty() {
        return Ok(summary);
    }
    let failure = Failure {
        plan,
        violations: wrong,
        history: field.history.to_string(),
        directory: field.keep_directory(),
    };
    failure.save();
    Err(End::Violated(Box::new(failure)))
}

/// Reason why a run ends early.
enum Broken {
    Interrupted,
    Wrong(Vec<String>),
}

struct Run<'a> {
    plan: Plan,
    rng: ChaCha8Rng,
    deck: Deck,
    field: Field,
    shared: Arc<Shared>,
    /// The messages that all nodes showed at the end of the last round.
    shown: Vec<u8>,
    summary: Summary,
    interrupted: &'a AtomicBool,
    watch: &'a mut dyn FnMut(&Summary),
}

impl Run<'_> {
    fn all_rounds(&mut self) -> Result<(), Broken> {
        // The promises hold once every node has joined once.
        self.wait_until_well()?;
        for round in 0..self.plan.rounds {
            if self.plan.until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            self.field.history.note(format_args!("round {round}"));
            self.make_trouble()?;
            self.heal()?;
            self.summary.rounds += 1;
        }
        Ok(())
    }

    fn make_trouble(&mut self) -> Result<(), Broken> {
        self.shared.gate.open();
        self.field.begin_round();
        let mut at = Duration::ZERO;
        let mut begun = 0;
        while begun < self.plan.troubles {
            at += self.gap();
            self.come_to(at)?;
            let kind = self.deck.deal(begun == 0, &mut self.rng);
            let trouble = troubles::draw(kind, self.plan.nodes, &mut self.rng);
            let ledger = &self.shared.ledger;
            match self.field.begin(at, &trouble, ledger) {
                Ok(()) => {
                    begun += 1;
                    at += trouble.alone;
                    *self.summary.troubles.entry(kind.name()).or_default() += 1;
                }
                Err(reason) => {
                    let note = format!("not now ({reason}): {}", kind.name());
                    self.field.history.note(note);
                    self.deck.put_back(kind);
                }
            }
        }
        // Time for the last append; the others may be in the middle of theirs.
        at += self.gap();
        self.come_to(at)
    }

    /// Advances the round's time to `at`, and does what is due until then.
    fn come_to(&mut self, at: Duration) -> Result<(), Broken> {
        while let Some(next) = self.field.next_at().filter(|next| *next <= at) {
            self.pass_time(next)?;
            self.field.do_next(&self.shared.ledger);
        }
        self.pass_time(at)
    }

    fn gap(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(GAP_MS))
    }

    fn heal(&mut self) -> Result<(), Broken> {
        self.field.heal();
        let started = Instant::now();
        self.wait_for("not every node stopped failing", |run| {
            let mut nodes = 0..run.plan.nodes;
            nodes
                .try_for_each(|node| run.field.set_faults(node, "{}"))
                .map_err(|error| error.to_string())
        })?;
        self.wait_until_well()?;
        let well_after = started.elapsed();
        self.summary.healing_max = self.summary.healing_max.max(well_after);
        self.shared.gate.close();
        self.wait_for("not every client was answered", |run| {
            let busy = run.shared.gate.busy();
            match busy.is_empty() {
                true => Ok(()),
                false => Err(busy.join("; ")),
            }
        })?;
        let (end, dumps) = self.wait_for("not every node has the same", |run| {
            let end = check::common_end(&run.field)?;
            let dumps = (0..run.plan.nodes).map(|node| run.field.dump(node));
            let dumps: Vec<Vec<u8>> = dumps
                .collect::<Result<_, _>>()
                .map_err(|error| error.to_string())?;
            // A client that hung up may have sent a message that arrives only now.
            match check::common_end(&run.field)? {
                same if same == end => Ok((end, dumps)),
                other => Err(format!("the end goes from {end} to {other}")),
            }
        })?;
        let ledger = &self.shared.ledger;
        let wrong = check::violations(&self.field, ledger, &self.shown, &dumps);
        if !wrong.is_empty() {
            return Err(Broken::Wrong(wrong));
        }
        self.shown = dumps.into_iter().next().unwrap_or_default();
        self.field.all_was_read(end);
        self.summary.messages = end;
        let seconds = well_after.as_secs_f64();
        let note = format!("all is well after {seconds:.1} s: {end} messages");
        self.field.history.note(note);
        Ok(())
    }

    fn wait_until_well(&mut self) -> Result<(), Broken> {
        self.wait_for("not every node is well", |run| {
            match check::illness(&run.field) {
                None => Ok(()),
                Some(what) => Err(what),
            }
        })
    }

    /// Waits until the round's time is `at`.
    fn pass_time(&mut self, at: Duration) -> Result<(), Broken> {
        loop {
            self.look()?;
            let rest = self.field.time_until(at);
            if rest.is_zero() {
                return Ok(());
            }
            thread::sleep(rest.min(LOOK_PAUSE));
        }
    }

    /// Waits until a condition holds. It is a violation if it never does.
    fn wait_for<T>(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&Run<'_>) -> Result<T, String>,
    ) -> Result<T, Broken> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.look()?;
            match condition(self) {
                Ok(value) => return Ok(value),
                Err(why) if Instant::now() >= deadline => {
                    let wrong = format!("{what} in {PATIENCE:?}: {why}");
                    return Err(Broken::Wrong(vec![wrong]));
                }
                Err(_) => thread::sleep(LOOK_PAUSE),
            }
        }
    }

    /// Checks what must hold in the middle of trouble, too.
    fn look(&mut self) -> Result<(), Broken> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Broken::Interrupted);
        }
        self.summary.tally = self.shared.ledger.tally();
        (self.watch)(&self.summary);
        if let Some(what) = self.field.bad_end() {
            return Err(Broken::Wrong(vec![what]));
        }
        match self.shared.violations.is_empty() {
            true => Ok(()),
            false => Err(Broken::Wrong(Vec::new())),
        }
    }
}

/// Reads the newest messages of one node after the other, in the middle of trouble: no node may ever
/// show a gap, or a message that was never sent.
fn start_reader(field: &Field, shared: &Arc<Shared>) -> JoinHandle<()> {
    let nodes: Vec<_> = (0..field.nodes())
        .map(|node| (field::name_of(node), field.node(node).address))
        .collect();
    let shared = shared.clone();
    let read = |address| {
        let headers = [("accept", "application/x-ndjson")];
        let connection = Connection::open(address).ok()?;
        let mut connection = connection.patience(Some(READ_TIME_MAX));
        let answer = connection.request("GET", "/messages?last=100", &headers, None);
        answer.ok().filter(|answer| answer.status == 200)
    };
    thread::spawn(move || {
        for (name, address) in nodes.iter().cycle() {
            if shared.gate.is_over() {
                return;
            }
            thread::sleep(LOOK_PAUSE);
            // It may be down or paused.
            let Some(answer) = read(*address) else {
                continue;
            };
            let wrong = match Shown::read(&answer.body) {
                Ok(shown) => wrong_in_passing(&shown, &shared),
                Err(error) => Some(error),
            };
            if let Some(what) = wrong {
                shared.violations.report(format!("{name} shows: {what}"));
            }
        }
    })
}

fn wrong_in_passing(shown: &[Shown], shared: &Shared) -> Option<String> {
    let gap = shown
        .windows(2)
        .find(|two| two[0].offset + 1 != two[1].offset);
    if let Some(gap) = gap {
        return Some(format!("a gap: {gap:?}"));
    }
    let mut foreign = shown.iter().map(|message| message.identify(&shared.ledger));
    foreign.find_map(Result::err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_quietly(plan: Plan) -> Summary {
        println!("{plan:?}");
        match run(plan, &AtomicBool::new(false), &mut |_| ()) {
            Ok(summary) => summary,
            Err(End::Violated(failure)) => panic!("{failure}"),
            Err(End::Interrupted) => unreachable!("nobody does"),
        }
    }

    #[test]
    fn a_trouble_that_is_impossible_in_a_round_does_not_hold_up_the_others() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut deck = Deck::new();
        let is_possible = |kind: &Kind| !kind.name().contains("wiped");
        let mut made = 0;
        for _ in 0..1000 {
            match deck.deal(false, &mut rng) {
                kind if is_possible(&kind) => made += 1,
                kind => deck.put_back(kind),
            }
        }
        assert!(made > 500, "{made} of 1000");
        assert!(
            !is_possible(&deck.deal(true, &mut rng)),
            "before all others in the next round"
        );
    }

    #[test]
    fn acknowledged_messages_are_on_every_node_after_every_trouble() {
        // One round more than the deck has cards for: what is impossible in one is done in the next.
        let plan = Plan {
            seed: 20,
            nodes: 3,
            clients: 8,
            rounds: 4,
            troubles: 8,
            until: None,
        };
        let mut summary = run_quietly(plan);
        summary.add(&run_quietly(Plan {
            nodes: 5,
            rounds: 2,
            ..plan
        }));
        println!("{summary}");
        assert_eq!(summary.rounds, 6);
        let never = summary.troubles.values().find(|count| **count == 0);
        assert_eq!(never, None, "{summary}");
        assert!(summary.tally.acknowledged > 100, "{summary}");
    }
}
