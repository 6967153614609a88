//! All results of one call, and their destination: the report, the figures, the plots.
//!
//! Owns the files. Results are reported at once, since a run takes long.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    args::Args, batches::Batches, catch_up::CatchUp, idle::Idle, in_process::InProcess,
    machine::Machine, million::Million, missed::Missed, pinning::Pinning, plots,
    secondaries::Secondaries, start_up::StartUp, sweep::Sweep, waiting::Waiting,
};

/// All results, as they are written as JSON.
#[derive(Serialize)]
pub(crate) struct Outcome {
    version: &'static str,
    machine: Machine,
    pinning: Pinning,
    settings: Args,
    idle: Option<Idle>,
    contestants: Option<Sweep>,
    waiting: Option<Waiting>,
    secondaries: Option<Secondaries>,
    batches: Option<Batches>,
    missed: Option<Missed>,
    catch_up: Option<CatchUp>,
    start_up: Option<StartUp>,
    in_process: Option<InProcess>,
    million: Option<Million>,
    #[serde(skip)]
    report: String,
    #[serde(skip)]
    directory: PathBuf,
}

impl Outcome {
    /// Starts with no results.
    pub(crate) fn begin(
        args: &Args,
        machine: Machine,
        pinning: Pinning,
    ) -> Result<Outcome, String> {
        let mut outcome = Outcome {
            version: env!("CARGO_PKG_VERSION"),
            machine,
            pinning,
            settings: args.clone(),
            idle: None,
            contestants: None,
            waiting: None,
            secondaries: None,
            batches: None,
            missed: None,
            catch_up: None,
            start_up: None,
            in_process: None,
            million: None,
            report: String::new(),
            directory: args.out_directory()?,
        };
        let text = format!(
            "replog {}\n{}\n{}",
            outcome.version, outcome.machine, outcome.pinning
        );
        outcome.say(&text)?;
        Ok(outcome)
    }

    pub(crate) fn idle(&mut self, idle: Idle) -> Result<(), String> {
        let text = idle.to_string();
        self.idle = Some(idle);
        self.keep(&text)
    }

    pub(crate) fn contestants(&mut self, sweep: Sweep) -> Result<(), String> {
        let text = sweep.text();
        for (name, plot) in plots::of_contestants(&sweep, self.settings.payload_bytes) {
            write(&self.directory, name, &plot.svg())?;
        }
        self.contestants = Some(sweep);
        self.keep(&text)
    }

    pub(crate) fn waiting(&mut self, waiting: Waiting) -> Result<(), String> {
        let text = waiting.to_string();
        self.waiting = Some(waiting);
        self.keep(&text)
    }

    pub(crate) fn secondaries(&mut self, secondaries: Secondaries) -> Result<(), String> {
        let text = secondaries.to_string();
        self.secondaries = Some(secondaries);
        self.keep(&text)
    }

    pub(crate) fn batches(&mut self, batches: Batches) -> Result<(), String> {
        let text = batches.to_string();
        self.batches = Some(batches);
        self.keep(&text)
    }

    pub(crate) fn missed(&mut self, missed: Missed) -> Result<(), String> {
        let text = missed.to_string();
        self.missed = Some(missed);
        self.keep(&text)
    }

    pub(crate) fn catch_up(&mut self, catch_up: CatchUp) -> Result<(), String> {
        let text = catch_up.to_string();
        let plot = plots::of_catching_up(&catch_up.held, catch_up.log_mib());
        write(&self.directory, "catch-up.svg", &plot.svg())?;
        self.catch_up = Some(catch_up);
        self.keep(&text)
    }

    pub(crate) fn start_up(&mut self, start_up: StartUp) -> Result<(), String> {
        let text = start_up.to_string();
        self.start_up = Some(start_up);
        self.keep(&text)
    }

    pub(crate) fn in_process(&mut self, in_process: InProcess) -> Result<(), String> {
        let text = in_process.to_string();
        self.in_process = Some(in_process);
        self.keep(&text)
    }

    pub(crate) fn million(&mut self, million: Million) -> Result<(), String> {
        let text = million.to_string();
        self.million = Some(million);
        self.keep(&text)
    }

    /// Reports a part that was not measured, and why.
    pub(crate) fn left_out(&mut self, part: &str, reason: &str) -> Result<(), String> {
        self.say(&format!("Left out: {part}: {reason}"))
    }

    /// Reports where everything is.
    pub(crate) fn end(&self) {
        eprintln!(
            "the report, the figures and the plots are in {}",
            self.directory.display()
        );
    }

    /// Prints text for people, at once. The files have everything up to now: an interrupted run
    /// keeps its results.
    fn say(&mut self, text: &str) -> Result<(), String> {
        let text = text.trim_end();
        self.report += &format!("{text}\n\n");
        let mut stdout = std::io::stdout().lock();
        // Stdout may be closed; the figures go to the files all the same.
        let _ = writeln!(stdout, "{text}\n").and_then(|()| stdout.flush());
        write(&self.directory, "report.md", &self.report)
    }

    /// Reports results once they are stored.
    fn keep(&mut self, text: &str) -> Result<(), String> {
        self.say(text)?;
        let figures = serde_json::to_string(&self).map_err(|error| error.to_string())?;
        write(&self.directory, "result.json", &(figures + "\n"))
    }
}

fn write(directory: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = directory.join(name);
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}
