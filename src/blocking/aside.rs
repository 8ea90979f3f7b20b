//! Work that nothing can interrupt, on a thread that is given up at the limit.

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
    /// There is no thread to be had.
    NoThread(io::Error),
}

/// Does the work on another thread. A panic in there is one here.
pub(super) fn aside<T: Send + 'static>(
    name: &str,
    until: Instant,
    stop_handle: &StopHandle,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, GivenUp> {
    // A channel would do, but it is 12 kB more in a small program.
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
                Ok(()) => return Err(GivenUp::Late), // it has told before it ended
            },
            None if stop_handle.is_stopped() => return Err(GivenUp::Stopped),
            None if left <= GLANCE => return Err(GivenUp::Late),
            None => {}
        }
    }
}
