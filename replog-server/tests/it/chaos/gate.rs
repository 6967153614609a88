//! The gate that clients pass before each message: closed, it shows whether all were answered.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard},
    time::Instant,
};

/// Lets clients begin messages, or not.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    over: bool,
    /// What each client that went through it is busy with, and since when.
    busy: BTreeMap<usize, (String, Instant)>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Waits until the client may begin a message; `false` where there shall be none any more.
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

    /// Says what the client does now.
    pub(crate) fn doing(&self, client: usize, what: String) {
        self.state().busy.insert(client, (what, Instant::now()));
    }

    /// The client is done with its message.
    pub(crate) fn leave(&self, client: usize) {
        self.state().busy.remove(&client);
    }

    /// Lets nobody begin a message until it is opened again.
    pub(crate) fn close(&self) {
        self.state().closed = true;
    }

    /// Lets clients begin messages again.
    pub(crate) fn open(&self) {
        self.state().closed = false;
        self.changed.notify_all();
    }

    /// Ends it all.
    pub(crate) fn end(&self) {
        self.state().over = true;
        self.changed.notify_all();
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.state().over
    }

    /// Those who are not done yet.
    pub(crate) fn busy(&self) -> Vec<String> {
        let say = |(client, (what, since)): (&usize, &(String, Instant))| {
            let seconds = since.elapsed().as_secs_f64();
            format!("client {client} {what}, for {seconds:.1} s")
        };
        self.state().busy.iter().map(say).collect()
    }
}
