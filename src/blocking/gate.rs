//! What the users of a pool wait at: a state, and a signal that it has changed.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Instant,
};

pub(super) struct Gate<T> {
    state: Mutex<T>,
    changed: Condvar,
}

impl<T> Gate<T> {
    pub fn new(state: T) -> Gate<T> {
        Gate { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Looks at the state, or changes it. Nothing waits in there.
    pub fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who waits looks again.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until there is what is looked for; `None` when the time is up.
    pub fn wait<R>(&self, until: Instant, mut look: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
