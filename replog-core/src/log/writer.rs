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
//! [`WriterLoop`] has no clock and no thread: it is given what is queued and told when a sync is
//! due. Keeps rules 4 and 10: what is reported as durable is, and a failure is final.

use std::{
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

use tracing::warn;

use crate::{
    limits::WRITE_GROUP_BYTES_MAX,
    log::{Cut, LogFiles, Meta, keys_file},
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
    /// Write and sync everything before it, then leave this for the next start. Not a failure
    /// when it cannot be left, and not reported.
    SaveKeys { snapshot: Vec<u8> },
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
            WriteCommand::Truncate { .. }
            | WriteCommand::SaveMeta { .. }
            | WriteCommand::SaveKeys { .. }
            | WriteCommand::Close => 0,
        }
    }
}

/// What the writer does, without a thread: commands in, reports out.
#[derive(Debug)]
pub(crate) struct WriterLoop {
    files: LogFiles,
    storage: Arc<dyn Storage>,
    ended: bool,
}

impl WriterLoop {
    /// A writer of `files`, and of the meta in `storage`.
    pub(crate) fn new(files: LogFiles, storage: Arc<dyn Storage>) -> WriterLoop {
        WriterLoop {
            files,
            storage,
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
        self.until_failure(report, |writer, report| {
            let mut group = Vec::new();
            for command in commands {
                match command {
                    WriteCommand::Append(batch) => group.push(batch),
                    other => {
                        writer.write_group(&mut group, report)?;
                        writer.run_alone(other, report)?;
                        if writer.ended {
                            return Ok(());
                        }
                    }
                }
            }
            writer.write_group(&mut group, report)
        })
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
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn write_group(
        &mut self,
        group: &mut Vec<RecordBatch>,
        report: &mut dyn FnMut(WriteReport),
    ) -> io::Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        self.files.append(group)?;
        group.clear();
        report(WriteReport::Written {
            end: self.files.end(),
        });
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
            WriteCommand::SaveKeys { snapshot } => {
                if let Err(error) = keys_file::save(&*self.storage, &snapshot) {
                    warn!(%error, "no snapshot of keys was left: the next start reads the log");
                }
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
    commands: Sender<WriteCommand>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl LogWriter {
    /// Starts a thread that owns `files` and calls `report` for everything it did.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(crate) fn spawn(
        files: LogFiles,
        storage: Arc<dyn Storage>,
        report: impl FnMut(WriteReport) + Send + 'static,
    ) -> io::Result<LogWriter> {
        let (commands, queue) = mpsc::channel();
        let mut report = report;
        let body = move || {
            let writer = WriterLoop::new(files, storage);
            // Without this, a broken assertion would leave everybody waiting for a report.
            let drive = AssertUnwindSafe(|| drive(writer, &queue, &mut report));
            if catch_unwind(drive).is_err() {
                report(WriteReport::Failed {
                    error: io::Error::other("the log writer panicked"),
                });
            }
        };
        let thread = thread::Builder::new()
            .name("replog-writer".to_owned())
            .spawn(body)?;
        Ok(LogWriter {
            commands,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// Queues a command. Never blocks. After a failure or the end it does nothing.
    pub(crate) fn submit(&self, command: WriteCommand) {
        // Nobody is there to take it after the end, which was reported.
        let _ = self.commands.send(command);
    }

    /// Waits until the thread has ended, once `Closed` or `Failed` was reported: before that,
    /// it waits for them. To call it from the report itself would wait for ever. Calling it
    /// twice does no harm.
    pub(crate) fn join(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
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
