//! The gate that clients pass before each message. When it is closed, it shows whether all messages were answered.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard},
    time::Instant,
};

/// Allows or stops the beginning of messages.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    over: bool,
    /// The activity of each client that passed the gate, and the time when it began.
    busy: BTreeMap<usize, (String, Instant)>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Waits until the client may begin a message; returns `false` if no more messages are to be sent.
    pub(crate) fn enter(&self, client: usize) -> bool {
        let shut = |state: &mut State| state.closed && !state.over;
        let mut state = self
            .changed
            .wait_while(self.state(), shut)
            .expect("no panic");
        state
            .busy
            .insert(client, ("begins".to_owned(), Instant::now()));
        !state.over
    }

    /// Notes the current activity of the client.
    pub(crate) fn doing(&self, client: usize, what: String) {
        self.state().busy.insert(client, (what, Instant::now()));
    }

    /// Notes that the client has finished its message.
    pub(crate) fn leave(&self, client: usize) {
        self.state().busy.remove(&client);
    }

    /// Stops clients from beginning messages until it is opened again.
    pub(crate) fn close(&self) {
        self.state().closed = true;
    }

    /// Allows clients to begin messages again.
    pub(crate) fn open(&self) {
        self.state().closed = false;
        self.changed.notify_all();
    }

    /// Ends the run.
    pub(crate) fn end(&self) {
        self.state().over = true;
        self.changed.notify_all();
    }

    /// Reports whether the run has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.state().over
    }

    /// Returns the clients that have not finished.
    pub(crate) fn busy(&self) -> Vec<String> {
        let say = |(client, (what, since)): (&usize, &(String, Instant))| {
            let seconds = since.elapsed().as_secs_f64();
            format!("client {client} {what}, for {seconds:.1} s")
        };
        self.state().busy.iter().map(say).collect()
    }
}
