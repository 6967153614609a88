//! Results of a run: violations, the history of troubles, and how to repeat it.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::PathBuf,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{
    Plan,
    ledger::{Tally, add_counts, counts},
};

/// Maximum number of violations that are kept; one cause has many effects.
const VIOLATIONS_MAX: usize = 40;

/// Collects violations from any thread.
#[derive(Default)]
pub(crate) struct Violations(Mutex<Vec<String>>);

impl Violations {
    /// Records a violation.
    pub(crate) fn report(&self, what: String) {
        let mut all = self.0.lock().expect("no panic");
        if all.len() < VIOLATIONS_MAX {
            all.push(what);
        }
    }

    /// Takes all violations.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }

    /// Reports whether there is no violation.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().expect("no panic").is_empty()
    }
}

/// The troubles of a cluster, and their times.
pub(crate) struct History {
    started: Instant,
    lines: Vec<String>,
}

impl History {
    pub(crate) fn new() -> History {
        History {
            started: Instant::now(),
            lines: Vec::new(),
        }
    }

    /// Records a trouble that was carried out just now.
    pub(crate) fn note(&mut self, what: impl fmt::Display) {
        let at = self.started.elapsed().as_secs_f64();
        self.lines.push(format!("{at:9.3} s  {what}"));
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// Results of the clusters that kept their promises.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) clusters: u64,
    pub(crate) rounds: u64,
    pub(crate) tally: Tally,
    /// Messages in the logs.
    pub(crate) messages: u64,
    /// Number of times that each trouble occurred.
    pub(crate) troubles: BTreeMap<&'static str, u64>,
    /// Time from the end of the troubles until all was well.
    pub(crate) healing_max: Duration,
}

impl Summary {
    /// Adds the results of another cluster.
    pub(crate) fn add(&mut self, other: &Summary) {
        self.clusters += other.clusters;
        self.rounds += other.rounds;
        self.tally.add(&other.tally);
        self.messages += other.messages;
        self.healing_max = self.healing_max.max(other.healing_max);
        add_counts(&mut self.troubles, &other.troubles);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary {
            clusters,
            rounds,
            tally,
            messages,
            troubles,
            healing_max,
        } = self;
        writeln!(f, "rounds:   {rounds}, in {clusters} clusters")?;
        writeln!(f, "appends:  {tally}")?;
        writeln!(f, "answers:  {}", counts(&tally.answers))?;
        writeln!(f, "logs:     {messages} messages, the same on every node")?;
        writeln!(f, "troubles: {}", counts(troubles))?;
        let seconds = healing_max.as_secs_f64();
        write!(f, "healed:   after {seconds:.1} s at most")
    }
}

/// Reason why a run did not come to its end.
pub(crate) enum End {
    /// It was asked to stop.
    Interrupted,
    /// Something is wrong.
    Violated(Box<Failure>),
}

/// Everything that is known about a failure.
pub(crate) struct Failure {
    pub(crate) plan: Plan,
    pub(crate) violations: Vec<String>,
    pub(crate) history: String,
    pub(crate) directory: PathBuf,
}

impl Failure {
    /// Writes it beside the logs of the nodes.
    pub(crate) fn save(&self) {
        let path = self.directory.join("failure.txt");
        fs::write(path, self.to_string()).expect("a file that can be written");
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: what was promised is not what is there\n\n{}\n\n\
             what is wrong:\n- {}\n\ndirectories and logs of the nodes: {}",
            self.plan,
            self.history,
            self.violations.join("\n- "),
            self.directory.display()
        )
    }
}
