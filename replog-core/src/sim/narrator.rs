//! The log lines of nodes: written to the trace, under the name of their machine, and counted.
//!
//! In the lines that people read a node says what it decided: so they tell which branches of the
//! rules a run went through, and the nodes need not know that they are watched.

use std::fmt::{self, Write as _};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
    subscriber::DefaultGuard,
};

use super::world::{self, MachineId, World};

/// The beginning or a part of a log line, and the occurrence that it counts as.
const COUNTED: &[(&str, &str)] = &[
    ("recovery: founding cluster", "recovery: founding"),
    (
        "recovery: this master is blank",
        "recovery: of a wiped master",
    ),
    ("recovery: FORCED", "recovery: forced"),
    (
        " refuses epoch ",
        "recovery: the epoch was raised on the way",
    ),
    (
        "starting a new round of promises",
        "recovery: its source was gone",
    ),
    (
        "can no longer be adopted",
        "recovery: its source had changed",
    ),
    ("fenced: another master", "master: fenced"),
    ("this node's log was cut", "master: half a log cut"),
    ("secondary is Healthy", "status: healthy"),
    ("secondary is Suspected", "status: suspected"),
    ("secondary is Unhealthy", "status: unhealthy"),
    ("secondary keeps failing", "link: many failures in a row"),
    ("joining the cluster", "secondary: joins"),
    ("cut records that no majority holds", "secondary: log cut"),
    ("the log counts", "secondary: log counts"),
    ("the disk refuses writes", "disk: refuses writes"),
    ("the disk takes writes again", "disk: takes writes again"),
    ("the disk failed", "disk: failed for good"),
    (
        "the last segment is copied",
        "start: records above the mark copied",
    ),
    ("a torn tail is cut", "start: torn tail cut"),
    (
        "the snapshot of keys is ignored",
        "keys: snapshot put aside",
    ),
    ("reading the keys of the log", "keys: read from the log"),
    (
        "records that are about to be cut were quarantined",
        "log: quarantined",
    ),
    (
        "the log is damaged: this node does not count",
        "damage: found at a start",
    ),
    (
        "a record cannot be read: this node does not count",
        "damage: found by a secondary",
    ),
    (
        "a record cannot be read: it is repaired",
        "damage: found by a master",
    ),
    ("the records of a hole are filled in", "damage: mended"),
    (
        "the log is intact again",
        "damage: mended by a leading master",
    ),
    ("no secondary has the records", "damage: no node has it"),
    (
        "copying a segment that was written to in place",
        "damage: a mended segment copied",
    ),
    (
        "has promised this epoch to another directory",
        "master: its epoch promised to another",
    ),
];

/// Listens to the nodes of this thread for as long as the result is kept.
pub(crate) fn listen() -> DefaultGuard {
    tracing::subscriber::set_default(Narrator)
}

struct Narrator;

impl Subscriber for Narrator {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.is_event()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        let Some(life) = world::current() else {
            return;
        };
        let mut line = Line::default();
        event.record(&mut line);
        world::with(|world| world.says(life.machine, &line));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A log line being read.
#[derive(Debug, Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

impl World {
    fn says(&mut self, machine: MachineId, line: &Line) {
        let Line { message, fields } = line;
        let counted = COUNTED.iter().find(|(part, _)| message.contains(part));
        if let Some((_, what)) = counted {
            self.count(what);
        }
        // Source of the adopted log: the node's own, if nothing else was logged before it serves.
        if message.contains("recovery: adopting the log of") {
            self.adopting.insert(machine);
        } else if message.contains("recovered: serving") {
            let from_another = self.adopting.remove(&machine);
            self.count(match from_another {
                true => "recovery: another's log adopted",
                false => "recovery: own log adopted",
            });
        }
        self.note_of(machine, format_args!("says: {message}{fields}"));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use super::*;

    /// Returns the source files below a directory, without this one.
    fn sources(directory: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).expect("it can be listed");
        let paths = entries.map(|entry| entry.expect("it can be read").path());
        paths
            .flat_map(|path| match path.is_dir() {
                true => sources(&path),
                false => vec![path],
            })
            .filter(|path| !path.ends_with(file!().rsplit('/').next().expect("a name")))
            .collect()
    }

    #[test]
    fn every_line_that_is_counted_stands_in_the_source() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let source: String = sources(&directory)
            .iter()
            .map(|path| fs::read_to_string(path).expect("it can be read"))
            .collect();
        for (part, what) in COUNTED {
            // The actor writes this before each line of a recovery.
            let part = part.strip_prefix("recovery: ").unwrap_or(part);
            assert!(source.contains(part), "{what}: nothing logs {part:?}");
        }
    }
}
