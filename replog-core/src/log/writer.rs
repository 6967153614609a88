//! The log writer: writes the log, one group of commands at a time.
//!
//! Takes everything that is queued, writes it with one call, reports the written end, syncs once, reports the
//! durable end. Commands and reports keep their order. A loop over [`LogFiles`]: on a thread of its own in
//! production.
//!
//! ```text
//!   Append Append Append  Truncate  Append  SaveMeta
//!   └──── one group ───┘  └ alone ┘ └group┘ └ alone ┘
//!   write, Written, sync, Durable; cut, Truncated; write, Written, sync, Durable; save, MetaSaved
//! ```
//!
//! [`WriterLoop`] has no clock and no thread: it receives the queued commands, processes them step by step, and is
//! called when a sync is due. A simulation lets time pass between the steps. Keeps rules 4 and 10: everything
//! reported as durable is, and a failed sync is final.
//!
//! A refused write, as on a full disk, is not final: the rest of the queue is dropped, because its senders did not
//! know of the refusal, and so is everything that follows, up to a [`WriteCommand::Resume`].

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    ops::{ControlFlow, Range},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{
    frame::FrameBatch,
    limits::{PLACE_CHECK_AGE_MAX, PLACE_CHECK_INTERVAL, SPACE_PROBE_BYTES, WRITE_GROUP_BYTES_MAX},
    log::{Cut, HeldBack, LogError, LogFiles, LogView, Meta, Truncation, keys_file},
    metrics::{
        LogMetrics,
        tally::{SECONDS, Tally},
    },
    storage::{OpenHow, Storage},
    types::{Epoch, Offset, SyncPolicy},
};

/// Path of the file that is written and removed again to probe for space.
pub(crate) const PROBE_PATH: &str = "room.probe";

/// Commands for the writer, in order.
#[derive(Debug)]
pub(crate) enum WriteCommand {
    /// Write these records after the written end.
    Append(FrameBatch),
    /// Cut the log back; everything before it in the queue is written first.
    Truncate { ticket: u64, to: Offset },
    /// Copy the records from here on to the quarantine: a cut follows, because of the master of this epoch. Nothing
    /// is reported.
    Quarantine { from: Offset, epoch: Epoch },
    /// Write and sync everything before it, then save this meta. Also sets the files' cluster id from it.
    SaveMeta { ticket: u64, meta: Box<Meta> },
    /// A record could not be read: write and sync everything before the command, then read the record's whole
    /// segment, and report its holes.
    Inspect { offset: Offset, held_back: HeldBack },
    /// After a refused write: undo its effects, probe for space, and accept commands again.
    Resume,
    /// Write and sync everything before it, then save this snapshot for the next start. A failure to save it is not
    /// a failure of the writer, and not reported.
    SaveKeys { snapshot: Vec<u8> },
    /// Sync everything, leave a clean mark, end.
    Close,
}

/// Reports of the writer, in the order of the commands.
#[derive(Debug)]
pub(crate) enum WriteReport {
    /// Everything below `end` is written.
    Written { end: Offset },
    /// Everything below `end` is held as the sync policy defines it; up to `whole_end` without a hole.
    Durable { end: Offset, whole_end: Offset },
    /// The cut of `ticket` is done and durable.
    Truncated { ticket: u64, cut: Cut },
    /// Nothing was cut: damage that was not known was found on the way.
    NotTruncated { ticket: u64, offset: Offset },
    /// The meta of `ticket` is durable, and so is every record before it.
    MetaSaved { ticket: u64, durable_end: Offset },
    /// A write was refused. None of the work that it was for counts as done, and everything queued behind it is
    /// dropped, until the writer is told to resume.
    WriteFailed { error: io::Error },
    /// There is space, and commands are accepted again. The log is durable, up to here without a hole.
    Resumed { whole_end: Offset },
    /// The inspection is done: these records cannot be read, and all records before `whole_end` can.
    Inspected {
        holes: Vec<Range<Offset>>,
        whole_end: Offset,
    },
    /// Final: a sync failed, or worse. Nothing is done any more; every later command is dropped.
    Failed { error: io::Error },
    /// The clean end.
    Closed,
}

impl WriteCommand {
    /// Returns the bytes that the command adds to a group.
    fn bytes(&self) -> usize {
        match self {
            WriteCommand::Append(batch) => batch.bytes().len(),
            WriteCommand::Truncate { .. }
            | WriteCommand::Quarantine { .. }
            | WriteCommand::SaveMeta { .. }
            | WriteCommand::SaveKeys { .. }
            | WriteCommand::Inspect { .. }
            | WriteCommand::Resume
            | WriteCommand::Close => 0,
        }
    }
}

/// The writer without a thread: commands in, reports out.
#[derive(Debug)]
pub(crate) struct WriterLoop {
    files: LogFiles,
    storage: Arc<dyn Storage>,
    /// Commands still to be done, in order.
    queued: VecDeque<WriteCommand>,
    /// A group was written, and the durable end was not reported yet.
    group_written: bool,
    /// A write was refused: commands are dropped until the writer resumes.
    refusing: bool,
    ended: bool,
}

/// Kind of the next step of a [`WriterLoop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// Nothing is queued.
    Idle,
    /// Write the records that are next in the queue, as one group.
    Write,
    /// Make the written group durable.
    Sync,
    /// Carry out a command that stands alone.
    Alone,
    /// None, ever: the writer has ended or failed.
    Ended,
}

impl WriterLoop {
    /// Creates a writer of `files`, and of the meta in `storage`.
    pub(crate) fn new(files: LogFiles, storage: Arc<dyn Storage>) -> WriterLoop {
        WriterLoop {
            files,
            storage,
            queued: VecDeque::new(),
            group_written: false,
            refusing: false,
            ended: false,
        }
    }

    /// Carries out commands that were taken from the queue together, in order. Adjacent appends form one group: one
    /// write for each segment, and one sync. `Break` after the end or a failure, and ever after.
    #[cfg(test)]
    pub(crate) fn run(
        &mut self,
        commands: Vec<WriteCommand>,
        report: &mut dyn FnMut(WriteReport),
    ) -> ControlFlow<()> {
        self.queue(commands);
        loop {
            match self.next_step() {
                NextStep::Idle => return ControlFlow::Continue(()),
                NextStep::Ended => return ControlFlow::Break(()),
                NextStep::Write | NextStep::Sync | NextStep::Alone => self.step(report),
            }
        }
    }

    /// Queues commands behind those that wait.
    pub(crate) fn queue(&mut self, commands: impl IntoIterator<Item = WriteCommand>) {
        if !self.ended {
            self.queued.extend(commands);
            self.drop_refused();
        }
    }

    /// Drops commands from callers that did not know that writes are refused.
    fn drop_refused(&mut self) {
        let stays = |command: &mut WriteCommand| {
            matches!(command, WriteCommand::Resume | WriteCommand::Close)
        };
        while self.refusing
            && let Some(_) = self.queued.pop_front_if(|command| !stays(command))
        {}
    }

    /// Returns the step that [`WriterLoop::step`] would do.
    pub(crate) fn next_step(&self) -> NextStep {
        match self.queued.front() {
            _ if self.ended => NextStep::Ended,
            _ if self.group_written => NextStep::Sync,
            Some(WriteCommand::Append(_)) => NextStep::Write,
            Some(_) => NextStep::Alone,
            None => NextStep::Idle,
        }
    }

    /// Returns `true` if each group is synced before it is reported as durable.
    fn syncs_groups(&self) -> bool {
        self.files.sync_policy() == SyncPolicy::Always
    }

    /// Returns the ticket of the meta that the next step saves, and the durable end at that time.
    #[cfg(feature = "sim")]
    pub(crate) fn meta_next(&self) -> Option<(u64, Offset)> {
        match self.queued.front() {
            Some(WriteCommand::SaveMeta { ticket, .. }) => {
                Some((*ticket, self.files.durable_end()))
            }
            _ => None,
        }
    }

    /// Does the next step.
    pub(crate) fn step(&mut self, report: &mut dyn FnMut(WriteReport)) {
        let step = self.next_step();
        // The outcome is in `ended`, which the next call of `next_step` reports.
        let _ = self.until_failure(report, |writer, report| match step {
            NextStep::Write => writer.write_group(report),
            NextStep::Sync => writer.sync_group(report),
            NextStep::Alone => match writer.queued.pop_front() {
                Some(command) => writer.run_alone(command, report),
                None => Ok(()),
            },
            NextStep::Idle | NextStep::Ended => Ok(()),
        });
    }

    /// Returns the delay after the first unsynced write at which a sync is due; `None` if none is due.
    pub(crate) fn sync_delay(&self) -> Option<Duration> {
        match self.files.sync_policy() {
            SyncPolicy::Interval(interval)
                if !self.ended && !self.refusing && !self.files.is_synced() =>
            {
                Some(interval)
            }
            SyncPolicy::Interval(_) | SyncPolicy::Always | SyncPolicy::Never => None,
        }
    }

    /// Syncs the written records: the delay has passed.
    pub(crate) fn on_sync_due(&mut self, report: &mut dyn FnMut(WriteReport)) -> ControlFlow<()> {
        self.until_failure(report, |writer, _| match writer.refusing {
            true => Ok(()),
            false => writer.files.sync(),
        })
    }

    /// Returns `true` if the directory may be lost while this runs.
    fn may_lose_its_place(&self) -> bool {
        self.storage.survives_the_process()
    }

    /// Checks that the directory is still in its place. If it is not, the failure is final.
    pub(crate) fn check_place(&mut self, report: &mut dyn FnMut(WriteReport)) -> ControlFlow<()> {
        self.until_failure(report, |writer, _| match writer.refusing {
            // The refused write comes first: the files are checked again once there is space.
            true => Ok(writer.storage.check_place()?),
            false => writer.files.check_place(),
        })
    }

    fn until_failure(
        &mut self,
        report: &mut dyn FnMut(WriteReport),
        work: impl FnOnce(&mut WriterLoop, &mut dyn FnMut(WriteReport)) -> Result<(), LogError>,
    ) -> ControlFlow<()> {
        if self.ended {
            return ControlFlow::Break(());
        }
        match work(self, report) {
            Ok(()) => {}
            Err(LogError::Write(error)) => {
                self.refusing = true;
                self.drop_refused();
                report(WriteReport::WriteFailed { error });
            }
            Err(LogError::Final(error)) => {
                self.ended = true;
                report(WriteReport::Failed { error });
            }
        }
        if self.ended {
            self.queued.clear();
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Writes the records at the front of the queue.
    fn write_group(&mut self, report: &mut dyn FnMut(WriteReport)) -> Result<(), LogError> {
        let mut group = Vec::new();
        while let Some(WriteCommand::Append(batch)) = self
            .queued
            .pop_front_if(|command| matches!(command, WriteCommand::Append(_)))
        {
            group.push(batch);
        }
        self.files.append(&group)?;
        self.group_written = true;
        report(WriteReport::Written {
            end: self.files.end(),
        });
        Ok(())
    }

    /// Makes the written group durable, as the sync policy demands.
    fn sync_group(&mut self, report: &mut dyn FnMut(WriteReport)) -> Result<(), LogError> {
        self.group_written = false;
        if self.syncs_groups() {
            self.files.sync()?;
        }
        report(WriteReport::Durable {
            end: self.files.durable_end(),
            whole_end: self.files.whole_end(),
        });
        Ok(())
    }

    fn run_alone(
        &mut self,
        command: WriteCommand,
        report: &mut dyn FnMut(WriteReport),
    ) -> Result<(), LogError> {
        if matches!(command, WriteCommand::Close) {
            return self.close(report);
        }
        if matches!(command, WriteCommand::Resume) {
            // First the step that frees space.
            self.files.mend()?;
            probe_space(&*self.storage).map_err(LogError::Write)?;
            self.refusing = false;
        }
        // The commands below rely on everything before them, whatever the sync policy.
        self.files.sync()?;
        match command {
            WriteCommand::Append(batch) => unreachable!("{batch:?} belongs to a group"),
            WriteCommand::Truncate { ticket, to } => {
                report(match self.files.truncate(to)? {
                    Truncation::Cut(cut) => WriteReport::Truncated { ticket, cut },
                    Truncation::Damaged(offset) => WriteReport::NotTruncated { ticket, offset },
                });
            }
            WriteCommand::Quarantine { from, epoch } => self.files.quarantine(from, epoch)?,
            WriteCommand::SaveMeta { ticket, meta } => {
                meta.save(&*self.storage)?;
                if let Some(cluster) = &meta.cluster {
                    self.files.set_cluster(cluster.id);
                }
                let durable_end = self.files.durable_end();
                report(WriteReport::MetaSaved {
                    ticket,
                    durable_end,
                });
            }
            WriteCommand::SaveKeys { snapshot } => {
                if let Err(error) = keys_file::save(&*self.storage, &snapshot) {
                    warn!(%error, "the snapshot of keys was not saved: the next start reads the log");
                }
            }
            WriteCommand::Inspect { offset, held_back } => {
                self.files.inspect(offset, held_back)?;
                report(WriteReport::Inspected {
                    holes: self.files.damaged_ranges(),
                    whole_end: self.files.whole_end(),
                });
            }
            WriteCommand::Resume => report(WriteReport::Resumed {
                whole_end: self.files.whole_end(),
            }),
            WriteCommand::Close => unreachable!("close was handled above"),
        }
        Ok(())
    }

    fn close(&mut self, report: &mut dyn FnMut(WriteReport)) -> Result<(), LogError> {
        // On a full disk too: partial writes are removed, and the mark has its space. Nobody is left to retry, so
        // any failure is final.
        let closed = self.files.mend().and_then(|()| self.files.close());
        closed.map_err(|error| LogError::Final(error.into()))?;
        self.ended = true;
        report(WriteReport::Closed);
        Ok(())
    }
}

/// Writes a file and removes it, to check for space for more than the next record. Nothing relies on that file, so
/// a failed sync of it is a refused write like any other.
fn probe_space(storage: &dyn Storage) -> io::Result<()> {
    let file = storage.open(PROBE_PATH, OpenHow::Truncated)?;
    let chunk = [0xa5; 64 << 10];
    let write = || -> io::Result<()> {
        for _ in 0..SPACE_PROBE_BYTES / chunk.len() {
            file.append(&[IoSlice::new(&chunk)])?;
        }
        file.sync()
    };
    let written = write();
    let removed = storage.remove(PROBE_PATH);
    written.and(removed)
}

/// Handle to send commands to a writer. Cheap to clone; dropping the last one ends the writer without a clean mark.
#[derive(Clone)]
pub(crate) struct LogWriter {
    route: Route,
}

/// Route of commands to the writer.
#[derive(Clone)]
enum Route {
    Thread {
        commands: Sender<WriteCommand>,
        thread: Arc<Mutex<Option<JoinHandle<()>>>>,
        syncs: Arc<Syncs>,
    },
    /// A host that drives the writer.
    #[cfg_attr(
        not(feature = "sim"),
        expect(dead_code, reason = "a production node has threads")
    )]
    Hosted(Arc<dyn Fn(WriteCommand) + Send + Sync>),
}

impl LogWriter {
    /// Starts a thread for `writer` that calls `report` for everything that it did.
    ///
    /// # Errors
    ///
    /// If the system cannot create a thread.
    pub(crate) fn spawn(
        writer: WriterLoop,
        mut report: Box<dyn FnMut(WriteReport) + Send>,
    ) -> io::Result<LogWriter> {
        let (commands, queue) = mpsc::channel();
        let syncs = Arc::new(Syncs::new());
        let measured = syncs.clone();
        let body = move || {
            // Without this, a failed assertion would leave everyone waiting for a report.
            let drive = AssertUnwindSafe(|| drive(writer, &queue, &measured, &mut *report));
            if catch_unwind(drive).is_err() {
                report(WriteReport::Failed {
                    error: io::Error::other("the log writer panicked"),
                });
            }
        };
        let thread = thread::Builder::new()
            .name("replog-writer".to_owned())
            .spawn(body)?;
        let thread = Arc::new(Mutex::new(Some(thread)));
        Ok(LogWriter {
            route: Route::Thread {
                commands,
                thread,
                syncs,
            },
        })
    }

    /// Creates a handle for a writer that somebody else drives: `submit` takes the commands, and never blocks.
    #[cfg(feature = "sim")]
    pub(crate) fn hosted(submit: Arc<dyn Fn(WriteCommand) + Send + Sync>) -> LogWriter {
        LogWriter {
            route: Route::Hosted(submit),
        }
    }

    /// Queues a command. Never blocks. After a failure or the end it does nothing.
    pub(crate) fn submit(&self, command: WriteCommand) {
        match &self.route {
            Route::Thread { commands, .. } => {
                // Nothing receives it after the end, which was reported.
                let _ = commands.send(command);
            }
            Route::Hosted(submit) => submit(command),
        }
    }

    /// Returns the metrics of the log of `view` and of its writer; a hosted writer measures no syncs.
    pub(crate) fn metrics(&self, view: &LogView) -> LogMetrics {
        let syncs = match &self.route {
            Route::Thread { syncs, .. } => *syncs.tally(),
            Route::Hosted(_) => Tally::new(&SECONDS),
        };
        LogMetrics {
            durable_end: view.durable_end(),
            segments: view.segments() as u64,
            repaired_headers: view.repairs().headers,
            repaired_marks: view.repairs().marks,
            quarantined_records: view.records_quarantined(),
            syncs: syncs.snapshot(),
        }
    }

    /// Waits until the thread has ended, which it does after reporting `Closed` or `Failed`; before that, this
    /// waits for the report too. Calling it from the report callback would deadlock. Calling it twice is harmless.
    pub(crate) fn join(&self) {
        let Route::Thread { thread, .. } = &self.route else {
            return;
        };
        let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            thread
                .join()
                .expect("the thread catches the panics of its writer");
        }
    }
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogWriter")
    }
}

/// Durations of syncs: the thread adds one per group, readers of the metrics copy it.
#[derive(Debug)]
struct Syncs(Mutex<Tally<{ SECONDS.len() }>>);

impl Syncs {
    fn new() -> Syncs {
        Syncs(Mutex::new(Tally::new(&SECONDS)))
    }

    fn tally(&self) -> MutexGuard<'_, Tally<{ SECONDS.len() }>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time when the directory was last found in its place.
#[derive(Debug)]
struct Place {
    checked_at: Instant,
    /// Maximum age of that check when something is reported as durable; `None` if the directory cannot be lost.
    age_max: Option<Duration>,
}

impl Place {
    fn of(writer: &WriterLoop) -> Place {
        Place {
            checked_at: Instant::now(),
            age_max: writer.may_lose_its_place().then_some(PLACE_CHECK_AGE_MAX),
        }
    }

    /// Returns the time of the next check while nothing is written.
    fn due_at(&self) -> Option<Instant> {
        self.age_max.map(|_| self.checked_at + PLACE_CHECK_INTERVAL)
    }

    fn check(
        &mut self,
        writer: &mut WriterLoop,
        report: &mut dyn FnMut(WriteReport),
    ) -> ControlFlow<()> {
        // Taken before the check, which may miss changes that happen while it runs.
        self.checked_at = Instant::now();
        writer.check_place(report)
    }

    /// Checks the place if the last check is too old for the next report.
    fn check_before_report(
        &mut self,
        writer: &mut WriterLoop,
        report: &mut dyn FnMut(WriteReport),
    ) -> ControlFlow<()> {
        match self.age_max {
            Some(age_max) if self.checked_at.elapsed() >= age_max => self.check(writer, report),
            Some(_) | None => ControlFlow::Continue(()),
        }
    }
}

/// Carries out commands that were taken from the queue together, and adds what needs a clock: the syncs of groups
/// are measured, and nothing is reported as durable in a directory that is gone.
fn run_measured(
    writer: &mut WriterLoop,
    commands: Vec<WriteCommand>,
    syncs: &Syncs,
    place: &mut Place,
    report: &mut dyn FnMut(WriteReport),
) -> ControlFlow<()> {
    writer.queue(commands);
    loop {
        let step = writer.next_step();
        if matches!(step, NextStep::Sync | NextStep::Alone) {
            place.check_before_report(writer, report)?;
        }
        match step {
            NextStep::Idle => return ControlFlow::Continue(()),
            NextStep::Ended => return ControlFlow::Break(()),
            NextStep::Sync if writer.syncs_groups() => {
                let began = Instant::now();
                // Measured when it reports, which it does once: the receiver of the report finds the sync counted.
                writer.step(&mut |done| {
                    syncs.tally().record_seconds(began.elapsed());
                    report(done);
                });
            }
            NextStep::Write | NextStep::Sync | NextStep::Alone => writer.step(report),
        }
    }
}

/// Feeds a writer from a queue until it ends or no sender is left.
fn drive(
    mut writer: WriterLoop,
    queue: &Receiver<WriteCommand>,
    syncs: &Syncs,
    report: &mut dyn FnMut(WriteReport),
) {
    let mut sync_due: Option<Instant> = None;
    let mut place = Place::of(&writer);
    loop {
        let received = match [sync_due, place.due_at()].into_iter().flatten().min() {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => queue.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        let mut flow = match received {
            Ok(command) => {
                let commands = take_group(command, queue);
                run_measured(&mut writer, commands, syncs, &mut place, report)
            }
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // Checked after every turn: under load the queue never runs dry.
        if flow.is_continue() && sync_due.is_some_and(|due| due <= Instant::now()) {
            flow = writer.on_sync_due(report);
            sync_due = None;
        }
        if flow.is_continue() && place.due_at().is_some_and(|due| due <= Instant::now()) {
            flow = place.check(&mut writer, report);
        }
        if flow.is_break() {
            return;
        }
        sync_due = writer
            .sync_delay()
            .map(|delay| sync_due.unwrap_or(Instant::now() + delay));
    }
}

/// Takes everything queued behind `first`, up to one group's worth of bytes.
fn take_group(first: WriteCommand, queue: &Receiver<WriteCommand>) -> Vec<WriteCommand> {
    let mut bytes = first.bytes();
    let mut commands = vec![first];
    while bytes < WRITE_GROUP_BYTES_MAX {
        let Ok(command) = queue.try_recv() else { break };
        bytes += command.bytes();
        commands.push(command);
    }
    commands
}

#[cfg(test)]
mod tests;
