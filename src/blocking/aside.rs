//! Runs uninterruptible work on a separate thread, which is abandoned at the time limit.

use std::{
    io,
    panic::resume_unwind,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Instant,
};

use super::{stop::StopHandle, stream::GLANCE};

/// Why there is no result.
pub(super) enum GivenUp {
    Late,
    Stopped,
    /// The thread could not be started.
    NoThread(io::Error),
}

/// Runs the work on another thread. A panic of the work is resumed on this thread.
pub(super) fn aside<T: Send + 'static>(
    name: &str,
    until: Instant,
    stop_handle: &StopHandle,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, GivenUp> {
    // A channel would also work, but would add 12 kB to a small program.
    let told = Arc::new((Mutex::new(None), Condvar::new()));
    let answer = Arc::clone(&told);
    let tell = move || {
        let done = work();
        *answer.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        answer.1.notify_one();
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(tell).map_err(GivenUp::NoThread)?;
    let mut done = told.0.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let over = thread.is_finished();
        let left = until.saturating_duration_since(Instant::now());
        if !over {
            let waited = told.1.wait_timeout_while(done, left.min(GLANCE), |done| done.is_none());
            (done, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        match done.take() {
            Some(done) => return Ok(done),
            None if over => match thread.join() {
                Err(panic) => resume_unwind(panic),
                Ok(()) => return Err(GivenUp::Late), // never: it stores its result before it ends
            },
            None if stop_handle.is_stopped() => return Err(GivenUp::Stopped),
            None if left <= GLANCE => return Err(GivenUp::Late),
            None => {}
        }
    }
}
