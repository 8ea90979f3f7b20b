//! Wakes one waiter of a pool.

use std::{
    future::poll_fn,
    mem::take,
    sync::{Mutex, PoisonError},
    task::{Poll, Waker},
    time::Instant,
};

use super::stream::Alarm;

#[derive(Default)]
pub(super) struct Bell(Mutex<State>);

#[derive(Default)]
struct State {
    rung: bool,
    waker: Option<Waker>,
}

impl Bell {
    /// Waits until the bell is rung or `until` has passed. Returns at once if it was rung since the last wait.
    pub async fn wait(&self, until: Instant) {
        let rung = poll_fn(|cx| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if take(&mut state.rung) {
                return Poll::Ready(Ok(()));
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        });
        // The caller looks at the clock itself.
        let _rung_or_late = Alarm::default().within(until, rung).await;
    }

    pub fn ring(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.rung = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
