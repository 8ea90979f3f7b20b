//! Stops a blocking client from another thread.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::client::{Builder, Client};

type End = Arc<dyn Fn() + Send + Sync>;

/// Stops blocking clients from another thread, whatever they are waiting for.
///
/// A stop is final. The call under way fails at once with [`Error::Stopped`](crate::Error::Stopped), and so does every
/// later call, including [`connect`](Builder::connect) on a builder with this stop handle. Nothing more is sent to the
/// server, not even QUIT. If the call was sending a message, it fails instead with an
/// [`Error::Transaction`](crate::Error::Transaction) whose source is `Stopped`. That error has the outcome for
/// each recipient. The message may be [in doubt](crate::Error::in_doubt).
///
/// A stop cannot interrupt a call to a content reader, to a [`NoTimeouts`](crate::NoTimeouts) stream, or to a TLS
/// library that is reading certificates. The stop takes effect only after that call returns.
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
/// Clones stop the same clients. The async client ([`aio`](crate#async)) has no stop handle: drop the future instead.
#[derive(Clone, Default)]
pub struct StopHandle(Arc<State>);

#[derive(Default)]
struct State {
    stopped: AtomicBool,
    live: Mutex<Live>,
}

/// The open connections, which a stop has to end.
#[derive(Default)]
struct Live {
    next: u64,
    /// The functions that end the connections, each with the key of its watch.
    ends: Vec<(u64, End)>,
}

/// Keeps a connection registered with the stop handle until this value is dropped.
pub(super) struct Watch {
    stop_handle: StopHandle,
    key: u64,
}

impl StopHandle {
    /// Creates a stop handle. One handle is enough for any number of clients that are to be stopped together.
    #[must_use]
    pub fn new() -> StopHandle {
        StopHandle::default()
    }

    /// Stops all clients that use this stop handle, and prevents new ones from connecting. Returns without waiting.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        let ends: Vec<_> = self.live().ends.iter().map(|(_, end)| End::clone(end)).collect();
        ends.iter().for_each(|end| end());
    }

    /// Returns whether [`stop`](StopHandle::stop) has been called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    /// Registers a connection. `end` is called by a stop, or at once if the handle is already stopped.
    pub(super) fn watch(&self, end: Box<dyn Fn() + Send + Sync>) -> Watch {
        let end = End::from(end);
        let mut live = self.live();
        let key = live.next;
        live.next += 1;
        live.ends.push((key, End::clone(&end)));
        drop(live);
        // From here on, a stop finds the connection in the list.
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
    /// Sets the stop handle for all clients of this builder, so that they can be stopped from another thread, even
    /// while they are connecting. Defaults to a separate handle for each client (see [`Client::stop_handle`]).
    pub fn stop_handle(mut self, stop_handle: &StopHandle) -> Builder {
        self.stop_handle = Some(stop_handle.clone());
        self
    }
}

impl Client {
    /// Returns the stop handle of this client, for stopping it from another thread.
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
    fn a_stop_ends_open_connections_and_any_made_later() {
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
    fn a_stop_handle_forgets_closed_connections() {
        let stop_handle = StopHandle::new();
        (0..10).for_each(|_| drop(stop_handle.watch(counting().1)));
        assert_eq!(stop_handle.live().ends.len(), 0);
    }
}
