//! The queue of lines between the threads that log and stderr.
//!
//! Owns one bounded queue and the thread that empties it. A thread hands its line over and goes on: a log driver that
//! hangs must not hold up a node. A line for which there is no space is dropped and counted, and the next one that is
//! queued follows a line with the number of dropped lines. Keeps rule 11.

use std::{
    collections::VecDeque,
    io,
    os::fd::AsFd as _,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

/// Maximum number of bytes of lines that wait to be written. A line beyond that is dropped.
const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Lines that wait to be written.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    dropped_total: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    bytes_max: usize,
    /// Makes the line with the number of dropped lines.
    notice_of: fn(u64) -> Vec<u8>,
    /// Lines dropped since the last one that was queued.
    dropped: u64,
    /// A thread that writes was started.
    started: bool,
    /// A line was taken out and is being written.
    writing: bool,
}

impl Waiting {
    const fn new(bytes_max: usize, notice_of: fn(u64) -> Vec<u8>) -> Waiting {
        Waiting {
            lines: VecDeque::new(),
            bytes: 0,
            bytes_max,
            notice_of,
            dropped: 0,
            started: false,
            writing: false,
        }
    }

    /// Queues a line; `false`: there is no space, and it is dropped.
    fn push(&mut self, line: Vec<u8>) -> bool {
        let notice = self.notice().unwrap_or_default();
        if self.bytes + notice.len() + line.len() > self.bytes_max {
            self.dropped += 1;
            return false;
        }
        for line in [notice, line] {
            self.queue(line);
        }
        self.dropped = 0;
        true
    }

    fn queue(&mut self, line: Vec<u8>) {
        if !line.is_empty() {
            self.bytes += line.len();
            self.lines.push_back(line);
        }
    }

    /// Takes the next line out; at the end, the notice about dropped lines.
    fn pop(&mut self) -> Option<Vec<u8>> {
        if let Some(line) = self.lines.pop_front() {
            self.bytes -= line.len();
            return Some(line);
        }
        let notice = self.notice();
        self.dropped = 0;
        notice
    }

    fn notice(&self) -> Option<Vec<u8>> {
        (self.dropped > 0).then(|| (self.notice_of)(self.dropped))
    }

    fn is_written(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0 && !self.writing
    }
}

/// Each call hands over one line.
impl io::Write for &'static Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    /// Returns an empty queue without a thread that empties it. `notice_of` makes the line with the number of dropped
    /// lines.
    pub(crate) const fn new(notice_of: fn(u64) -> Vec<u8>) -> Queue {
        Queue {
            waiting: Mutex::new(Waiting::new(QUEUE_BYTES_MAX, notice_of)),
            changed: Condvar::new(),
            dropped_total: AtomicU64::new(0),
        }
    }

    /// Starts the thread that writes the lines to stderr.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub(crate) fn start(&'static self) -> io::Result<()> {
        let thread = thread::Builder::new().name("replog-log".to_owned());
        thread.spawn(|| self.write_all(write_to_stderr))?;
        self.waiting().started = true;
        Ok(())
    }

    /// Hands over a line, including its line end. Never waits for stderr.
    pub(crate) fn push(&self, line: Vec<u8>) {
        if !self.waiting().push(line) {
            self.dropped_total.fetch_add(1, Ordering::Relaxed);
        }
        self.changed.notify_all();
    }

    /// Returns the number of lines that were dropped.
    pub(crate) fn dropped_total(&self) -> u64 {
        self.dropped_total.load(Ordering::Relaxed)
    }

    /// Waits until every line is written, for at most `time_max`; `false`: some are not. Writes them itself if no
    /// thread could be started.
    pub(crate) fn flush(&self, time_max: Duration) -> bool {
        let deadline = Instant::now() + time_max;
        let mut waiting = self.waiting();
        if !waiting.started {
            while let Some(line) = waiting.pop() {
                write_to_stderr(&line);
            }
        }
        while !waiting.is_written() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(waiting, left);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Writes lines as they arrive, for ever. The lock is free while a line is written.
    fn write_all(&self, write: impl Fn(&[u8])) {
        loop {
            let mut waiting = self.waiting();
            let line = loop {
                if let Some(line) = waiting.pop() {
                    break line;
                }
                let waited = self.changed.wait(waiting);
                waiting = waited.unwrap_or_else(PoisonError::into_inner);
            };
            waiting.writing = true;
            drop(waiting);
            write(&line);
            self.waiting().writing = false;
            self.changed.notify_all();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a line, however long that takes. Without the lock of the standard library's stderr: a thread that waits here
/// must not hold up others. What cannot be written is lost, since a closed pipe is no reason to stop.
fn write_to_stderr(mut line: &[u8]) {
    let stderr = io::stderr();
    let stderr = stderr.as_fd();
    while !line.is_empty() {
        match rustix::io::write(stderr, line) {
            Ok(written) => line = &line[written..],
            Err(Errno::INTR) => {}
            // The other end made it non-blocking.
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            },
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn notice_of(dropped: u64) -> Vec<u8> {
        format!("{dropped} dropped\n").into_bytes()
    }

    fn lines(waiting: &mut Waiting) -> Vec<String> {
        std::iter::from_fn(|| waiting.pop())
            .map(|line| String::from_utf8(line).expect("UTF-8"))
            .collect()
    }

    #[test]
    fn a_line_without_space_is_dropped_and_the_next_one_reports_it() {
        let mut waiting = Waiting::new(100, notice_of);
        assert!(waiting.push(vec![b'a'; 60]));
        assert!(!waiting.push(vec![b'b'; 60]));
        assert!(!waiting.push(vec![b'c'; 60]));
        assert_eq!(waiting.pop(), Some(vec![b'a'; 60]));
        assert!(waiting.push(b"d\n".to_vec()));
        let notice = "2 dropped\n";
        assert_eq!(lines(&mut waiting), [notice, "d\n"]);
        assert!(waiting.is_written() && waiting.bytes == 0);

        assert!(
            !waiting.push(vec![b'e'; 101]),
            "longer than the whole queue"
        );
        assert!(!waiting.is_written(), "still to be reported");
        let notice = "1 dropped\n";
        assert_eq!(lines(&mut waiting), [notice], "even if no line follows");
        assert!(waiting.is_written());
    }

    #[test]
    fn no_thread_waits_for_a_writer_that_hangs() {
        let queue: &'static Queue = Box::leak(Box::new(Queue::new(notice_of)));
        let (go_on, hangs) = channel::<()>();
        let (sender, written) = channel();
        queue.waiting().started = true;
        thread::spawn(move || {
            queue.write_all(move |line| {
                let _ = hangs.recv();
                let _ = sender.send(line.len());
            });
        });
        let line = vec![b'x'; 1 << 10];
        for _ in 0..2 * QUEUE_BYTES_MAX / line.len() {
            queue.push(line.clone());
        }
        let dropped = queue.dropped_total();
        assert!(dropped >= 1023, "{dropped}");
        assert!(!queue.flush(Duration::from_millis(1)));
        drop(go_on);
        assert!(queue.flush(Duration::from_secs(60)));
        let written: Vec<usize> = written.try_iter().collect();
        assert_eq!(written.len() as u64, 2049 - dropped, "and a notice");
    }
}
