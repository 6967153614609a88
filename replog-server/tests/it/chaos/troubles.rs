//! Troubles of a cluster: their kinds, the deck they are dealt from, and the details drawn
//! for each.
//!
//! Knows no process: [`field`](super::field) carries out what is drawn here.

use std::{collections::VecDeque, fmt, ops::Range, time::Duration};

use rand::{RngExt as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

use super::{field::name_of, links::Flow};

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    KillMaster,
    KillSecondary,
    /// Killed, and again while it starts.
    KillTwice,
    KillAll,
    /// Asked to stop, as an operator does, while appends wait.
    StopMaster,
    StopSecondary,
    PauseMaster,
    PauseSecondary,
    /// The master is isolated from all secondaries.
    CutOffMaster,
    CutTwoWays,
    CutRequests,
    CutAnswers,
    Hold,
    Slow,
    Reset,
    FailRequests,
    WipeSecondary,
    WipeMaster,
    /// The master's disk is lost as soon as a secondary that lost its own is intact again.
    WipeInTurn,
    /// The master's disk is lost when only nodes that are away know what it acknowledged last.
    WipeWhileAway,
    DamageSecondary,
    DamageMaster,
}

/// All kinds; those with a higher weight occur more than once.
const DECK: [Kind; 24] = [
    Kind::KillMaster,
    Kind::KillMaster,
    Kind::KillSecondary,
    Kind::KillTwice,
    Kind::KillAll,
    Kind::StopMaster,
    Kind::StopSecondary,
    Kind::PauseMaster,
    Kind::PauseSecondary,
    Kind::CutOffMaster,
    Kind::CutTwoWays,
    Kind::CutRequests,
    Kind::CutAnswers,
    Kind::Hold,
    Kind::Slow,
    Kind::Reset,
    Kind::FailRequests,
    Kind::FailRequests,
    Kind::WipeSecondary,
    Kind::WipeMaster,
    Kind::WipeInTurn,
    Kind::WipeWhileAway,
    Kind::DamageSecondary,
    Kind::DamageMaster,
];

impl Kind {
    /// Returns the name under which it is counted.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::KillMaster => "master killed",
            Kind::KillSecondary => "secondary killed",
            Kind::KillTwice => "killed twice",
            Kind::KillAll => "all killed",
            Kind::StopMaster => "master stopped",
            Kind::StopSecondary => "secondary stopped",
            Kind::PauseMaster => "master paused",
            Kind::PauseSecondary => "secondary paused",
            Kind::CutOffMaster => "master cut off",
            Kind::CutTwoWays => "two-way cut",
            Kind::CutRequests => "requests lost",
            Kind::CutAnswers => "answers lost",
            Kind::Hold => "link held",
            Kind::Slow => "link slow",
            Kind::Reset => "connections reset",
            Kind::FailRequests => "requests failed",
            Kind::WipeSecondary => "secondary wiped",
            Kind::WipeMaster => "master wiped",
            Kind::WipeInTurn => "wiped in turn",
            Kind::WipeWhileAway => "wiped while others are away",
            Kind::DamageSecondary => "secondary damaged",
            Kind::DamageMaster => "master damaged",
        }
    }

    /// Reports whether it has a plot that other troubles would spoil.
    fn has_plot(self) -> bool {
        matches!(self, Kind::WipeInTurn | Kind::WipeWhileAway)
    }

    /// Returns the names of all kinds, some more than once.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        DECK.into_iter().map(Kind::name)
    }
}

/// Deals every kind once before it deals one again.
pub(crate) struct Deck {
    cards: VecDeque<Kind>,
    /// The troubles that were impossible in this round.
    put_back: Vec<Kind>,
}

impl Deck {
    pub(crate) fn new() -> Deck {
        Deck {
            cards: VecDeque::new(),
            put_back: Vec::new(),
        }
    }

    /// Deals the next one. Troubles with a plot come first in a round, or last. Before them comes
    /// what was put back: then nothing that conflicts with it is under way.
    pub(crate) fn deal(&mut self, is_first: bool, rng: &mut ChaCha8Rng) -> Kind {
        if is_first && !self.put_back.is_empty() {
            let kind = self.put_back.remove(0);
            for later in self.put_back.drain(..) {
                self.cards.push_front(later);
            }
            return kind;
        }
        if self.cards.is_empty() {
            let mut cards = DECK;
            cards.shuffle(rng);
            self.cards.extend(cards);
        }
        let fits = |kind: &Kind| kind.has_plot() == is_first;
        let at = self.cards.iter().position(fits).unwrap_or(0);
        self.cards.remove(at).expect("it was filled just now")
    }

    /// Puts back what is impossible now; it is dealt again in the next round. Some of it is impossible until
    /// this round is over, and the round goes on with others.
    pub(crate) fn put_back(&mut self, kind: Kind) {
        self.put_back.push(kind);
    }
}

/// Manner in which a link is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// Treatment of requests and of answers.
    Flows(Flow, Flow),
    /// Every connection is broken off.
    Refused,
}

/// One action on a node or a link, and its duration. Node 0 is the master;
/// link 0 leads to node 1.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Kill {
        node: usize,
        down: Duration,
    },
    Stop {
        node: usize,
        down: Duration,
    },
    Pause {
        node: usize,
        lasts: Duration,
    },
    Cut {
        link: usize,
        cut: Cut,
        lasts: Duration,
    },
    Reset {
        link: usize,
    },
    Fail {
        node: usize,
        /// Returns the body of `PUT /faults`.
        faults: String,
        lasts: Duration,
    },
    Wipe {
        node: usize,
        down: Duration,
    },
    Damage {
        node: usize,
        down: Duration,
    },
}

/// One or more steps that belong together.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    /// A master that takes appends, and these secondaries, without which it would not be this
    /// trouble.
    pub(crate) needs: Option<Vec<usize>>,
    /// Each with the time from the beginning of the trouble to its own beginning.
    pub(crate) steps: Vec<(Duration, Step)>,
    /// Time in which no other trouble begins.
    pub(crate) alone: Duration,
}

impl Trouble {
    /// Steps that are possible in any state of the nodes.
    fn of(steps: Vec<(Duration, Step)>) -> Trouble {
        Trouble {
            needs: None,
            steps,
            alone: Duration::ZERO,
        }
    }
}

/// Longer than `--unhealthy-after`, so that there is time to react to what is noticed.
const LONG_MS: Range<u64> = 1_000..2_500;

/// Time from a wipe to its consequences.
const PLOT_TIME: Duration = Duration::from_millis(1_300);

/// Draws a trouble of this kind for a cluster of this many nodes.
pub(crate) fn draw(kind: Kind, nodes: usize, rng: &mut ChaCha8Rng) -> Trouble {
    let secondary = rng.random_range(1..nodes);
    let any = rng.random_range(0..nodes);
    let link = rng.random_range(0..nodes - 1);
    let down = some_ms(0..800, rng);
    let lasts = some_ms(100..2_000, rng);
    let now = |step: Step| Trouble::of(vec![(Duration::ZERO, step)]);
    match kind {
        Kind::KillMaster => now(Step::Kill { node: 0, down }),
        Kind::KillSecondary => now(Step::Kill {
            node: secondary,
            down: lasts,
        }),
        Kind::KillTwice => kill_twice(any, rng),
        Kind::KillAll => kill_all(nodes, rng),
        Kind::StopMaster => stop_master(nodes, rng),
        Kind::StopSecondary => now(Step::Stop {
            node: secondary,
            down,
        }),
        Kind::PauseMaster => {
            let lasts = some_ms(LONG_MS, rng);
            now(Step::Pause { node: 0, lasts })
        }
        Kind::PauseSecondary => now(Step::Pause {
            node: secondary,
            lasts,
        }),
        Kind::CutOffMaster => {
            let (pass, lose) = (Flow::Pass, Flow::Lose);
            let cuts = [Cut::Refused, Cut::Flows(lose, lose), Cut::Flows(pass, lose)];
            let cut = cuts[rng.random_range(0..cuts.len())];
            Trouble::of(cut_off(1..nodes, cut, some_ms(LONG_MS, rng)))
        }
        Kind::CutTwoWays | Kind::CutRequests | Kind::CutAnswers | Kind::Hold | Kind::Slow => {
            let cut = draw_cut(kind, rng);
            now(Step::Cut { link, cut, lasts })
        }
        Kind::Reset => now(Step::Reset { link }),
        Kind::FailRequests => now(Step::Fail {
            node: secondary,
            faults: draw_faults(rng),
            lasts,
        }),
        Kind::WipeSecondary => now(Step::Wipe {
            node: secondary,
            down,
        }),
        Kind::WipeMaster => now(Step::Wipe { node: 0, down }),
        Kind::WipeInTurn => wipe_in_turn(nodes, rng),
        Kind::WipeWhileAway => wipe_while_away(nodes, rng),
        Kind::DamageSecondary => now(Step::Damage {
            node: secondary,
            down,
        }),
        Kind::DamageMaster => now(Step::Damage { node: 0, down }),
    }
}

fn some_ms(range: Range<u64>, rng: &mut ChaCha8Rng) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

fn draw_cut(kind: Kind, rng: &mut ChaCha8Rng) -> Cut {
    let (pass, lose, hold) = (Flow::Pass, Flow::Lose, Flow::Hold);
    match kind {
        Kind::CutRequests => Cut::Flows(lose, pass),
        Kind::CutAnswers => Cut::Flows(pass, lose),
        Kind::Hold => {
            let held = [(hold, hold), (hold, pass), (pass, hold)][rng.random_range(0..3)];
            Cut::Flows(held.0, held.1)
        }
        Kind::Slow => {
            let slow = Flow::Delay(some_ms(5..400, rng));
            Cut::Flows(slow, slow)
        }
        _ if rng.random_bool(0.5) => Cut::Refused,
        _ => Cut::Flows(lose, lose),
    }
}

fn draw_faults(rng: &mut ChaCha8Rng) -> String {
    let chances = [0.0, 0.3, 0.8];
    let before = chances[rng.random_range(0..3)];
    let after = chances[rng.random_range(0..3)];
    let delay_ms = rng.random_range(0..200);
    let seed: u32 = rng.random();
    format!(
        r#"{{"error_before_append":{before},"error_after_append":{after},"delay_ms":[0,{delay_ms}],"seed":{seed}}}"#
    )
}

fn kill_twice(node: usize, rng: &mut ChaCha8Rng) -> Trouble {
    let down = some_ms(0..100, rng);
    let again = down + some_ms(0..250, rng);
    let kill = Step::Kill { node, down };
    Trouble::of(vec![(Duration::ZERO, kill.clone()), (again, kill)])
}

fn kill_all(nodes: usize, rng: &mut ChaCha8Rng) -> Trouble {
    let mut kill = |node| {
        let down = some_ms(0..1_000, rng);
        (Duration::ZERO, Step::Kill { node, down })
    };
    Trouble::of((0..nodes).map(&mut kill).collect())
}

fn stop_master(nodes: usize, rng: &mut ChaCha8Rng) -> Trouble {
    let cut = Cut::Flows(Flow::Lose, Flow::Lose);
    let cut_off_before = some_ms(50..300, rng);
    let down = some_ms(0..800, rng);
    let mut steps = cut_off(1..nodes, cut, cut_off_before + down);
    steps.push((cut_off_before, Step::Stop { node: 0, down }));
    Trouble {
        needs: Some(Vec::new()),
        steps,
        alone: cut_off_before,
    }
}

/// Isolates these secondaries.
fn cut_off(
    secondaries: impl IntoIterator<Item = usize>,
    cut: Cut,
    lasts: Duration,
) -> Vec<(Duration, Step)> {
    let link = |secondary: usize| secondary - 1;
    let cut = |secondary| Step::Cut {
        link: link(secondary),
        cut,
        lasts,
    };
    let secondaries = secondaries.into_iter();
    secondaries
        .map(|secondary| (Duration::ZERO, cut(secondary)))
        .collect()
}

/// Splits the secondaries: those that form a bare majority together with the master,
/// and the others.
fn divide(nodes: usize, rng: &mut ChaCha8Rng) -> (Vec<usize>, Vec<usize>) {
    let mut secondaries: Vec<usize> = (1..nodes).collect();
    secondaries.shuffle(rng);
    let others = secondaries.split_off(nodes / 2);
    (secondaries, others)
}

/// Lets the master acknowledge what these secondaries get for one duration, and the others get nothing for
/// the other.
fn acknowledge_with(
    (knowing, others): (&[usize], &[usize]),
    lasts: Duration,
    cut_lasts: Duration,
) -> Trouble {
    let (open, cut) = (Flow::Pass, Flow::Lose);
    let mut steps = cut_off(others.iter().copied(), Cut::Flows(cut, cut), cut_lasts);
    steps.extend(cut_off(
        knowing.iter().copied(),
        Cut::Flows(open, open),
        lasts,
    ));
    Trouble {
        needs: Some(knowing.to_vec()),
        steps,
        alone: lasts + PLOT_TIME,
    }
}

/// Wipes a node that has what a bare majority acknowledged. The master fills it again over
/// a slow link, and the master's own disk is lost as soon as that node says that it is intact.
fn wipe_in_turn(nodes: usize, rng: &mut ChaCha8Rng) -> Trouble {
    let (knowing, others) = divide(nodes, rng);
    let lasts = some_ms(150..600, rng);
    let more = some_ms(0..1_000, rng);
    let mut trouble = acknowledge_with((&knowing, &others), lasts, lasts + more);
    let Some((wiped, away)) = knowing.split_first() else {
        return trouble;
    };
    let down = some_ms(0..100, rng);
    let slow = Flow::Delay(some_ms(20..100, rng));
    let slow_link = Step::Cut {
        link: wiped - 1,
        cut: Cut::Flows(slow, Flow::Pass),
        lasts: some_ms(LONG_MS, rng),
    };
    let wipe = |node| Step::Wipe { node, down };
    trouble.steps.push((lasts, wipe(*wiped)));
    trouble.steps.push((lasts, slow_link));
    for node in away {
        let pause = Step::Pause {
            node: *node,
            lasts: some_ms(LONG_MS, rng),
        };
        trouble.steps.push((lasts, pause));
    }
    trouble.steps.push((lasts + down, wipe(0)));
    trouble
}

/// Lets the master acknowledge what only a bare majority gets. Then all of that majority are gone: the secondaries
/// for a while, the master's disk for good.
fn wipe_while_away(nodes: usize, rng: &mut ChaCha8Rng) -> Trouble {
    let (knowing, others) = divide(nodes, rng);
    let lasts = some_ms(150..600, rng);
    let mut trouble = acknowledge_with((&knowing, &others), lasts, lasts);
    let down = some_ms(0..200, rng);
    let away = some_ms(LONG_MS, rng);
    for node in knowing {
        let step = match rng.random_bool(0.5) {
            true => Step::Kill { node, down: away },
            false => Step::Pause { node, lasts: away },
        };
        trouble.steps.push((lasts, step));
    }
    trouble.steps.push((lasts, Step::Wipe { node: 0, down }));
    trouble
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_link = |link: &usize| name_of(link + 1);
        match self {
            Step::Kill { node, down } => {
                write!(f, "{} is killed, down for {down:?}", name_of(*node))
            }
            Step::Stop { node, down } => {
                write!(f, "{} is asked to stop, down for {down:?}", name_of(*node))
            }
            Step::Pause { node, lasts } => {
                write!(f, "{} stands still for {lasts:?}", name_of(*node))
            }
            Step::Cut { link, cut, lasts } => {
                write!(f, "the way to {} is {cut:?} for {lasts:?}", at_link(link))
            }
            Step::Reset { link } => {
                write!(f, "connections to {} are broken off", at_link(link))
            }
            Step::Fail {
                node,
                faults,
                lasts,
            } => write!(f, "{} fails for {lasts:?}: {faults}", name_of(*node)),
            Step::Wipe { node, down } => {
                write!(f, "{} loses its disk, down for {down:?}", name_of(*node))
            }
            Step::Damage { node, down } => {
                write!(f, "a bit flips on {}, down for {down:?}", name_of(*node))
            }
        }
    }
}
