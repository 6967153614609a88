//! All that one call measured, and where it goes: the report, the figures, the plots.
//!
//! Owns the files. What was measured is said at once, since a run takes long.

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

/// Everything, as it is written as JSON.
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
    /// Nothing measured yet.
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
        outcome.say(&text);
        Ok(outcome)
    }

    pub(crate) fn idle(&mut self, idle: Idle) {
        self.say(&idle.to_string());
        self.idle = Some(idle);
    }

    pub(crate) fn contestants(&mut self, sweep: Sweep) -> Result<(), String> {
        self.say(&sweep.text());
        for (name, plot) in plots::of_contestants(&sweep, self.settings.payload_bytes) {
            write(&self.directory, name, &plot.svg())?;
        }
        self.contestants = Some(sweep);
        Ok(())
    }

    pub(crate) fn waiting(&mut self, waiting: Waiting) {
        self.say(&waiting.to_string());
        self.waiting = Some(waiting);
    }

    pub(crate) fn secondaries(&mut self, secondaries: Secondaries) {
        self.say(&secondaries.to_string());
        self.secondaries = Some(secondaries);
    }

    pub(crate) fn batches(&mut self, batches: Batches) {
        self.say(&batches.to_string());
        self.batches = Some(batches);
    }

    pub(crate) fn missed(&mut self, missed: Missed) {
        self.say(&missed.to_string());
        self.missed = Some(missed);
    }

    pub(crate) fn catch_up(&mut self, catch_up: CatchUp) -> Result<(), String> {
        self.say(&catch_up.to_string());
        let plot = plots::of_catching_up(&catch_up.held, catch_up.log_mib());
        self.catch_up = Some(catch_up);
        write(&self.directory, "catch-up.svg", &plot.svg())
    }

    pub(crate) fn start_up(&mut self, start_up: StartUp) {
        self.say(&start_up.to_string());
        self.start_up = Some(start_up);
    }

    pub(crate) fn in_process(&mut self, in_process: InProcess) {
        self.say(&in_process.to_string());
        self.in_process = Some(in_process);
    }

    pub(crate) fn million(&mut self, million: Million) {
        self.say(&million.to_string());
        self.million = Some(million);
    }

    /// Writes the report and the figures.
    pub(crate) fn end(mut self) -> Result<(), String> {
        let figures = serde_json::to_string(&self).map_err(|error| error.to_string())?;
        write(&self.directory, "result.json", &(figures + "\n"))?;
        write(&self.directory, "report.md", &self.report)?;
        let directory = self.directory.display().to_string();
        self.say(&format!(
            "The report, the figures and the plots are in {directory}"
        ));
        Ok(())
    }

    /// Text for people, at once.
    fn say(&mut self, text: &str) {
        let text = text.trim_end();
        self.report += &format!("{text}\n\n");
        let mut stdout = std::io::stdout().lock();
        // Who reads may have gone; the figures go to the files all the same.
        let _ = writeln!(stdout, "{text}\n").and_then(|()| stdout.flush());
    }
}

fn write(directory: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = directory.join(name);
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}
