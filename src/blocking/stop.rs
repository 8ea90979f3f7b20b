//! Ends a blocking client from another thread.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::client::{Builder, Client};

type End = Arc<dyn Fn() + Send + Sync>;

/// Ends a client's work from another thread, whatever it waits for.
///
/// A stop is for good. What is under way fails at once with [`Error::Stopped`](crate::Error::Stopped), and so does every
/// later call, also [`connect`](Builder::connect) of a builder that has this stop handle. Nothing more is said to the server,
/// not even QUIT. What became of a message is told as ever: it may be [in doubt](crate::Error::in_doubt).
///
/// Only three things are not interrupted, and the stop is noticed after them: a reader of content, an [`NoTimeouts`](crate::NoTimeouts) stream, and a TLS library that reads its certificates.
///
/// ```no_run
/// use postino::{Client, StopHandle};
///
/// let stop_handle = StopHandle::new();
/// let builder = Client::builder("mail.example.org").stop_handle(&stop_handle);
/// let work = std::thread::spawn(move || builder.connect()?.noop());
/// stop_handle.stop();
/// assert!(matches!(work.join().unwrap(), Err(postino::Error::Stopped(_))));
/// ```
///
/// Clones are the same stop handle. There is none in [`aio`](crate#async): one drops the future.
#[derive(Clone, Default)]
pub struct StopHandle(Arc<State>);

#[derive(Default)]
struct State {
    stopped: AtomicBool,
    live: Mutex<Live>,
}

/// What has to be ended: the connections that stand.
#[derive(Default)]
struct Live {
    next: u64,
    /// Each with the key of its watch.
    ends: Vec<(u64, End)>,
}

/// Until it is dropped the stop handle knows of a connection.
pub(super) struct Watch {
    stop_handle: StopHandle,
    key: u64,
}

impl StopHandle {
    /// One that has not been used. One is enough for any number of clients, if they are to end together.
    #[must_use]
    pub fn new() -> StopHandle {
        StopHandle::default()
    }

    /// Ends all clients that have this stop handle, and keeps others from beginning. Does not wait for them.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        let ends: Vec<_> = self.live().ends.iter().map(|(_, end)| End::clone(end)).collect();
        ends.iter().for_each(|end| end());
    }

    /// Whether it was used.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    /// Ends this too when the time comes, or at once if it has come.
    pub(super) fn watch(&self, end: Box<dyn Fn() + Send + Sync>) -> Watch {
        let end = End::from(end);
        let mut live = self.live();
        let key = live.next;
        live.next += 1;
        live.ends.push((key, End::clone(&end)));
        drop(live);
        // Who stops from here on finds it in the list.
        if self.is_stopped() {
            end();
        }
        Watch { stop_handle: self.clone(), key }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop_handle.live().ends.retain(|(key, _)| *key != self.key);
    }
}

impl fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StopHandle").field(&self.is_stopped()).finish()
    }
}

impl Builder {
    /// What ends all clients of this builder from another thread, also while they connect. Defaults to one of its own
    /// for each client ([`Client::stop_handle`]).
    pub fn stop_handle(mut self, stop_handle: &StopHandle) -> Builder {
        self.stop_handle = Some(stop_handle.clone());
        self
    }
}

impl Client {
    /// What ends this client from another thread.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.stopped_by().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn counting() -> (Arc<AtomicUsize>, Box<dyn Fn() + Send + Sync>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let end = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        (count, Box::new(end))
    }

    #[test]
    fn it_ends_what_stands_and_what_comes_too_late() {
        let stop_handle = StopHandle::new();
        let ((early, end_early), (gone, end_gone), (late, end_late)) = (counting(), counting(), counting());
        let _early = stop_handle.watch(end_early);
        drop(stop_handle.watch(end_gone));
        stop_handle.clone().stop();
        let _late = stop_handle.watch(end_late);
        let counts = [&early, &gone, &late].map(|count| count.load(Ordering::SeqCst));
        assert_eq!((counts, stop_handle.is_stopped()), ([1, 0, 1], true));
    }

    #[test]
    fn it_remembers_no_connection_that_is_gone() {
        let stop_handle = StopHandle::new();
        (0..10).for_each(|_| drop(stop_handle.watch(counting().1)));
        assert_eq!(stop_handle.live().ends.len(), 0);
    }
}
