//! A value of which only the newest state counts, and any number of tasks that wait for it to change.
//!
//! Owns the value, its number of changes, and the waiting tasks. Used like `tokio::sync::watch`, with one
//! difference: tasks are woken in an order that follows from the order in which they began to wait. `tokio`
//! spreads them over eight lists by a random choice that no seed controls, and so no simulation with two
//! followers of one node would be reproducible.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

/// Number of lists over which waiting tasks are spread, so that thousands on several threads do not queue for one
/// lock.
const LISTS: usize = 8;

/// The sending half, which changes the value. Dropping it ends every wait.
pub(crate) struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The receiving half, which waits for changes of the value. A clone has seen what the original has seen.
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// Error of a wait after the sender is gone: the value no longer changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// A borrow of the value, which does not change while this exists.
pub(crate) struct Ref<'a, T>(RwLockReadGuard<'a, Newest<T>>);

struct Shared<T> {
    newest: RwLock<Newest<T>>,
    lists: [Notify; LISTS],
    /// The next list in round-robin order.
    next_list: AtomicUsize,
}

struct Newest<T> {
    value: T,
    version: u64,
    is_closed: bool,
}

/// Creates a sender and a receiver of a value.
pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    pub(crate) fn new(value: T) -> Sender<T> {
        let newest = Newest {
            value,
            version: 0,
            is_closed: false,
        };
        Sender {
            shared: Arc::new(Shared {
                newest: RwLock::new(newest),
                lists: Default::default(),
                next_list: AtomicUsize::new(0),
            }),
        }
    }

    /// Returns a receiver that has seen the current value.
    pub(crate) fn subscribe(&self) -> Receiver<T> {
        Receiver {
            seen: self.shared.read().version,
            shared: self.shared.clone(),
        }
    }

    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.read())
    }

    /// Replaces the value and returns the previous one.
    pub(crate) fn send_replace(&self, value: T) -> T {
        let mut before = value;
        self.send_modify(|known| std::mem::swap(known, &mut before));
        before
    }

    /// Changes the value in place. It counts as changed whatever `change` does.
    pub(crate) fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Changes the value in place, and wakes the waiting tasks if `change` returns `true`.
    pub(crate) fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let has_changed = {
            let mut newest = self.shared.write();
            let has_changed = change(&mut newest.value);
            newest.version += u64::from(has_changed);
            has_changed
        };
        if has_changed {
            self.shared.wake_all();
        }
        has_changed
    }
}

impl<T> Receiver<T> {
    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.read())
    }

    /// Returns the value, which counts as seen from now on.
    pub(crate) fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let newest = self.shared.read();
        self.seen = newest.version;
        Ref(newest)
    }

    /// Marks the current value as seen.
    pub(crate) fn mark_unchanged(&mut self) {
        self.seen = self.shared.read().version;
    }

    /// Returns `true` if the value has changed since it was seen.
    #[cfg(test)]
    pub(crate) fn has_changed(&self) -> Result<bool, Closed> {
        let newest = self.shared.read();
        match newest.is_closed {
            true => Err(Closed),
            false => Ok(newest.version != self.seen),
        }
    }

    /// Waits until the value differs from the one last seen, and marks it as seen.
    ///
    /// # Errors
    ///
    /// [`Closed`] if it has not changed and never will.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future misses no change.
    pub(crate) async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Registered for every change from here on, before the value is checked.
            let woken = self.shared.next_list().notified();
            {
                let newest = self.shared.read();
                if newest.version != self.seen {
                    self.seen = newest.version;
                    return Ok(());
                }
                if newest.is_closed {
                    return Err(Closed);
                }
            }
            woken.await;
        }
    }

    /// Waits until the value meets a condition. Returns the newest value, which may be a later one.
    ///
    /// # Errors
    ///
    /// [`Closed`] if it does not meet the condition and never will.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future misses no change.
    pub(crate) async fn wait_for(
        &mut self,
        mut is_so: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, Closed> {
        loop {
            if is_so(&self.borrow_and_update()) {
                break;
            }
            self.changed().await?;
        }
        Ok(self.borrow())
    }
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, Newest<T>> {
        self.newest.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Newest<T>> {
        self.newest.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_list(&self) -> &Notify {
        &self.lists[self.next_list.fetch_add(1, Ordering::Relaxed) % LISTS]
    }

    fn wake_all(&self) {
        self.lists.iter().for_each(Notify::notify_waiters);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.write().is_closed = true;
        self.shared.wake_all();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver {
            shared: self.shared.clone(),
            seen: self.seen,
        }
    }
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&*self.borrow()).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&*self.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use tokio::task::{LocalSet, yield_now};

    use super::*;

    /// Returns the order in which twenty tasks run that wait for one change after another.
    async fn order_of_wake_ups() -> Vec<usize> {
        let (sender, receiver) = channel(0);
        let order: Rc<RefCell<Vec<usize>>> = Rc::default();
        let tasks = LocalSet::new();
        for nth in 0..20 {
            let (mut receiver, order) = (receiver.clone(), order.clone());
            tasks.spawn_local(async move {
                while receiver.changed().await.is_ok() {
                    order.borrow_mut().push(nth);
                }
            });
        }
        tasks
            .run_until(async {
                for value in 1..=10 {
                    yield_now().await;
                    sender.send_replace(value);
                    yield_now().await;
                }
            })
            .await;
        drop(sender);
        tasks.await;
        order.take()
    }

    #[tokio::test]
    async fn waiting_tasks_are_woken_in_the_same_order_every_time() {
        let order = order_of_wake_ups().await;
        assert_eq!(order.len(), 200);
        for _ in 0..5 {
            assert_eq!(order_of_wake_ups().await, order);
        }
    }

    #[tokio::test]
    async fn a_change_is_seen_once_and_none_is_missed() {
        let (sender, mut receiver) = channel(1);
        assert_eq!(receiver.has_changed(), Ok(false));
        assert_eq!(sender.send_replace(2), 1);
        assert_eq!(receiver.has_changed(), Ok(true));
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(receiver.has_changed(), Ok(false));
        assert!(!sender.send_if_modified(|_| false));
        assert_eq!(receiver.has_changed(), Ok(false));
        sender.send_modify(|_| {});
        assert_eq!(*receiver.borrow_and_update(), 2);
        assert_eq!(receiver.has_changed(), Ok(false));
        assert_eq!(sender.subscribe().has_changed(), Ok(false));
    }

    #[tokio::test]
    async fn the_last_value_can_still_be_read_when_the_sender_is_gone() {
        let (sender, mut receiver) = channel(1);
        sender.send_replace(2);
        drop(sender);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(receiver.changed().await, Err(Closed));
        assert_eq!(
            receiver.wait_for(|value| *value == 2).await.as_deref(),
            Ok(&2)
        );
        assert!(receiver.wait_for(|value| *value == 3).await.is_err());
    }

    #[tokio::test]
    async fn waits_end_with_an_error_when_the_sender_is_gone() {
        let (sender, mut receiver) = channel(1);
        let waits = tokio::spawn(async move { receiver.changed().await });
        yield_now().await;
        drop(sender);
        assert_eq!(waits.await.unwrap(), Err(Closed));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_receivers_on_other_threads_all_see_the_last_value() {
        let (sender, receiver) = channel(0);
        let waiters: Vec<_> = (0..64)
            .map(|_| {
                let mut receiver = receiver.clone();
                tokio::spawn(
                    async move { receiver.wait_for(|value| *value == 1_000).await.is_ok() },
                )
            })
            .collect();
        for value in 1..=1_000 {
            sender.send_replace(value);
        }
        for waiter in waiters {
            assert!(waiter.await.unwrap());
        }
    }
}
