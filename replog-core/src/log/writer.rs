//! The log writer: the one that writes, a group at a time.
//!
//! Takes all that is queued, writes it with one call, reports the written end, syncs once,
//! reports the durable end. Commands and reports keep their order. A loop over [`LogFiles`]: on
//! a thread of its own in production.
//!
//! ```text
//!   Append Append Append  Truncate  Append  SaveMeta
//!   └──── one group ───┘  └ alone ┘ └group┘ └ alone ┘
//!   write, Written, sync, Durable; cut, Truncated; write, Written, sync, Durable; save, MetaSaved
//! ```
//!
//! [`WriterLoop`] has no clock and no thread: it is given what is queued, works it off step by
//! step, and is told when a sync is due. A simulation lets time pass between the steps. Keeps
//! rules 4 and 10: what is reported as durable is, and a failure is final.

use std::{
    collections::VecDeque,
    fmt, io,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    limits::WRITE_GROUP_BYTES_MAX,
    log::{Cut, LogFiles, Meta},
    record::RecordBatch,
    storage::Storage,
    types::{Offset, SyncPolicy},
};

/// What the writer is asked to do, in order.
#[derive(Debug)]
pub(crate) enum WriteCommand {
    /// Write these records behind the written end.
    Append(RecordBatch),
    /// Cut the log back; everything before it in the queue is written first.
    Truncate { ticket: u64, to: Offset },
    /// Write and sync everything before it, then save this. Also sets the files' cluster id from
    /// it.
    SaveMeta { ticket: u64, meta: Box<Meta> },
    /// Sync everything, leave a clean mark, end.
    Close,
}

/// What the writer has done, in the order of the commands.
#[derive(Debug)]
pub(crate) enum WriteReport {
    /// Everything below is written.
    Written { end: Offset },
    /// Everything below is held as the sync policy defines it.
    Durable { end: Offset },
    /// The cut of `ticket` is done and durable.
    Truncated { ticket: u64, cut: Cut },
    /// The meta of `ticket` is durable, and so is every record before it.
    MetaSaved { ticket: u64, durable_end: Offset },
    /// Final: a write or a sync failed. Nothing is done any more; every later command is
    /// dropped.
    Failed { error: io::Error },
    /// The clean end.
    Closed,
}

impl WriteCommand {
    /// Bytes that it brings into a group.
    fn bytes(&self) -> usize {
        match self {
            WriteCommand::Append(batch) => batch.bytes().len(),
            WriteCommand::Truncate { .. } | WriteCommand::SaveMeta { .. } | WriteCommand::Close => {
                0
            }
        }
    }
}

/// What the writer does, without a thread: commands in, reports out.
#[derive(Debug)]
pub(crate) struct WriterLoop {
    files: LogFiles,
    storage: Arc<dyn Storage>,
    /// What is still to be done, in order.
    queued: VecDeque<WriteCommand>,
    /// A group was written, and nobody was told yet how far the log is durable.
    group_written: bool,
    ended: bool,
}

/// What comes after a step of a [`WriterLoop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// Nothing is queued.
    Idle,
    /// To write the records that are next in the queue, as one group.
    Write,
    /// To make the group that was written durable.
    Sync,
    /// To carry out a command that stands alone.
    Alone,
    /// Nothing, ever: it has ended or failed.
    Ended,
}

impl WriterLoop {
    /// A writer of `files`, and of the meta in `storage`.
    pub(crate) fn new(files: LogFiles, storage: Arc<dyn Storage>) -> WriterLoop {
        WriterLoop {
            files,
            storage,
            queued: VecDeque::new(),
            group_written: false,
            ended: false,
        }
    }

    /// Carries out what was taken from the queue at once, in order. Appends next to each other
    /// are one group: one write for each segment, and one sync. `Break` after the end or a
    /// failure, and for ever after.
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
        }
    }

    /// What [`WriterLoop::step`] would do.
    pub(crate) fn next_step(&self) -> NextStep {
        match self.queued.front() {
            _ if self.ended => NextStep::Ended,
            _ if self.group_written => NextStep::Sync,
            Some(WriteCommand::Append(_)) => NextStep::Write,
            Some(_) => NextStep::Alone,
            None => NextStep::Idle,
        }
    }

    /// The ticket of the meta that the next step saves, and the durable end then.
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
        // The outcome is in `ended`, which the next look at `next_step` tells.
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

    /// How long after the first write that is not synced a sync is due; `None` where none is.
    pub(crate) fn sync_delay(&self) -> Option<Duration> {
        match self.files.sync_policy() {
            SyncPolicy::Interval(interval) if !self.ended && !self.files.is_synced() => {
                Some(interval)
            }
            SyncPolicy::Interval(_) | SyncPolicy::Always | SyncPolicy::Never => None,
        }
    }

    /// Syncs what is written: the delay has passed.
    pub(crate) fn on_sync_due(&mut self, report: &mut dyn FnMut(WriteReport)) -> ControlFlow<()> {
        self.until_failure(report, |writer, _| writer.files.sync())
    }

    fn until_failure(
        &mut self,
        report: &mut dyn FnMut(WriteReport),
        work: impl FnOnce(&mut WriterLoop, &mut dyn FnMut(WriteReport)) -> io::Result<()>,
    ) -> ControlFlow<()> {
        if self.ended {
            return ControlFlow::Break(());
        }
        if let Err(error) = work(self, report) {
            self.ended = true;
            report(WriteReport::Failed { error });
        }
        if self.ended {
            self.queued.clear();
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Writes the records at the front of the queue.
    fn write_group(&mut self, report: &mut dyn FnMut(WriteReport)) -> io::Result<()> {
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

    /// Makes what was written durable, as the sync policy has it.
    fn sync_group(&mut self, report: &mut dyn FnMut(WriteReport)) -> io::Result<()> {
        self.group_written = false;
        if self.files.sync_policy() == SyncPolicy::Always {
            self.files.sync()?;
        }
        report(WriteReport::Durable {
            end: self.files.durable_end(),
        });
        Ok(())
    }

    fn run_alone(
        &mut self,
        command: WriteCommand,
        report: &mut dyn FnMut(WriteReport),
    ) -> io::Result<()> {
        // What follows relies on all before it, whatever the sync policy is.
        self.files.sync()?;
        match command {
            WriteCommand::Append(batch) => unreachable!("{batch:?} belongs to a group"),
            WriteCommand::Truncate { ticket, to } => {
                let cut = self.files.truncate(to)?;
                report(WriteReport::Truncated { ticket, cut });
            }
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
            WriteCommand::Close => {
                self.files.close()?;
                self.ended = true;
                report(WriteReport::Closed);
            }
        }
        Ok(())
    }
}

/// Where commands for a writer go. Cheap to clone; dropping the last one ends the writer
/// without a clean mark.
#[derive(Clone)]
pub(crate) struct LogWriter {
    way: Way,
}

/// How commands reach the writer.
#[derive(Clone)]
enum Way {
    Thread {
        commands: Sender<WriteCommand>,
        thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    },
    /// Whoever drives it.
    #[cfg_attr(
        not(feature = "sim"),
        expect(dead_code, reason = "a system has threads")
    )]
    Hosted(Arc<dyn Fn(WriteCommand) + Send + Sync>),
}

impl LogWriter {
    /// Starts a thread for `writer` that calls `report` for everything it did.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(crate) fn spawn(
        writer: WriterLoop,
        mut report: Box<dyn FnMut(WriteReport) + Send>,
    ) -> io::Result<LogWriter> {
        let (commands, queue) = mpsc::channel();
        let body = move || {
            // Without this, a broken assertion would leave everybody waiting for a report.
            let drive = AssertUnwindSafe(|| drive(writer, &queue, &mut *report));
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
            way: Way::Thread { commands, thread },
        })
    }

    /// A writer that somebody else drives: `submit` takes the commands, and never blocks.
    #[cfg(feature = "sim")]
    pub(crate) fn hosted(submit: Arc<dyn Fn(WriteCommand) + Send + Sync>) -> LogWriter {
        LogWriter {
            way: Way::Hosted(submit),
        }
    }

    /// Queues a command. Never blocks. After a failure or the end it does nothing.
    pub(crate) fn submit(&self, command: WriteCommand) {
        match &self.way {
            Way::Thread { commands, .. } => {
                // Nobody is there to take it after the end, which was reported.
                let _ = commands.send(command);
            }
            Way::Hosted(submit) => submit(command),
        }
    }

    /// Waits until the thread has ended, once `Closed` or `Failed` was reported: before that,
    /// it waits for them. To call it from the report itself would wait for ever. Calling it
    /// twice does no harm.
    pub(crate) fn join(&self) {
        let Way::Thread { thread, .. } = &self.way else {
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

/// Feeds a writer from a queue until it ends or nobody is left who could send.
fn drive(
    mut writer: WriterLoop,
    queue: &Receiver<WriteCommand>,
    report: &mut dyn FnMut(WriteReport),
) {
    let mut sync_due: Option<Instant> = None;
    loop {
        let received = match sync_due {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => queue.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        let mut flow = match received {
            Ok(command) => writer.run(take_group(command, queue), report),
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // Checked after every turn: under load the queue never runs dry.
        if flow.is_continue() && sync_due.is_some_and(|due| due <= Instant::now()) {
            flow = writer.on_sync_due(report);
            sync_due = None;
        }
        if flow.is_break() {
            return;
        }
        sync_due = writer
            .sync_delay()
            .map(|delay| sync_due.unwrap_or(Instant::now() + delay));
    }
}

/// All that is queued behind `first`, as long as it is one group's worth of bytes.
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
