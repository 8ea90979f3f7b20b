//! What the users of a pool wait at: a state, and a signal that it has changed.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use event_listener::Event;

use super::stream::Alarm;

pub(super) struct Gate<T> {
    state: Mutex<T>,
    changed: Event,
}

impl<T> Gate<T> {
    pub fn new(state: T) -> Gate<T> {
        Gate { state: Mutex::new(state), changed: Event::new() }
    }

    /// Looks at the state, or changes it. Nothing waits in there.
    pub fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who waits looks again.
    pub fn notify(&self) {
        self.changed.notify(usize::MAX);
    }

    /// Waits until there is what is looked for; `None` when the time is up.
    pub async fn wait<R>(&self, until: Instant, mut look: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let mut alarm = Alarm::default();
        loop {
            // Listening begins before the look: nothing that changes in between is missed.
            let listener = self.changed.listen();
            if let Some(found) = self.with(&mut look) {
                return Some(found);
            }
            let heard = async {
                listener.await;
                Ok(())
            };
            alarm.within(until, heard).await.ok()?;
        }
    }
}
