//! The state table: 19 states x 17 events = 323 cells, from one table (`table.rs`) and one set of rules (`rules.rs`),
//! for both clients.
//!
//! A cell plays a session up to the state, makes the event happen there, and checks that
//!
//! 1. the call returns in time;
//! 2. it has the right outcome: accepted, refused, not sent, or in doubt for each recipient of a message; otherwise the
//!    right error in the right phase;
//! 3. the client can be used again, or else reports that it cannot, sends nothing more and has closed the connection;
//! 4. the server has received exactly the right octets.
//!
//! Most cells run several sessions: one for each place where the state occurs (step of a login, recipient, chunk), in
//! clear text and in TLS, for each wrong code, and for each octet to split at. For a cell that makes no sense, the
//! table gives a reason.
//!
//! ```sh
//! cargo test --features async --test states
//! CELLS=30 cargo test --features async --test states hostile_sessions_leave_nothing_behind -- --nocapture    # minutes
//! ```
//!
//! `hostile_sessions_leave_nothing_behind` repeats all cells, one variant at each place, in a separate process, and
//! looks for leaked descriptors, threads and memory. `CELLS` sets the number of repetitions (default: one); 30 run
//! about 9,000 cells with each client.
#![cfg(unix)] // its doubles need Unix sockets

mod apart;
#[path = "../support/footprint.rs"]
mod footprint;
mod rules;
#[path = "../support/mod.rs"]
mod support;
mod table;

#[path = "."]
mod blocking {
    use std::{
        net::TcpStream,
        os::unix::net::UnixStream,
        sync::mpsc,
        thread,
        time::{Duration, Instant},
    };

    use postino::{Builder, Client, Error, StopHandle, Transport};

    use crate::{rules::ClientKind, support::PATIENCE};

    const CLIENT: ClientKind = ClientKind::Blocking;

    /// With the blocking client, a "future" is already its value.
    fn block_on<T>(value: T) -> T {
        value
    }

    fn tcp(socket: TcpStream) -> impl Transport + 'static {
        socket
    }

    fn unix(socket: UnixStream) -> impl Transport + 'static {
        socket
    }

    type Bell = mpsc::Receiver<()>;

    /// Creates the signal that it is time to cancel.
    fn bell() -> (impl Fn() + Send + 'static, Bell) {
        let (ring, bell) = mpsc::channel();
        (move || _ = ring.send(()), bell)
    }

    fn stoppable(builder: Builder) -> (Builder, StopHandle) {
        let stop_handle = StopHandle::new();
        (builder.stop_handle(&stop_handle), stop_handle)
    }

    /// Stops an idle client.
    fn cancel_idle(_: &mut Client, stop_handle: &StopHandle) {
        stop_handle.stop();
    }

    /// Makes a call, and cancels it when the bell rings. Returns its result, and the time from then until it ended.
    fn cancelled<T>(
        bell: Bell,
        stop_handle: &StopHandle,
        after: impl FnOnce() + Send,
        call: impl FnOnce() -> T,
    ) -> (Option<T>, Duration) {
        thread::scope(|scope| {
            let stopping = scope.spawn(move || {
                let rung = bell.recv_timeout(PATIENCE);
                let start = Instant::now();
                if rung.is_ok() {
                    stop_handle.stop();
                }
                after();
                start
            });
            let done = call();
            let end = Instant::now();
            (Some(done), end.saturating_duration_since(stopping.join().unwrap()))
        })
    }

    /// Stops the client at a time that depends on `number`: during the lookup, or shortly before or after it.
    fn cancel_lookup(builder: Builder, number: u32) -> Option<Error> {
        let (builder, stop_handle) = stoppable(builder);
        thread::scope(|scope| {
            scope.spawn(move || {
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(20) * number {
                    thread::yield_now();
                }
                stop_handle.stop();
            });
            Some(builder.connect().unwrap_err())
        })
    }

    #[path = "cells.rs"]
    mod cells;
}

#[cfg(feature = "async")]
#[path = "."]
mod aio {
    use std::{
        future::Future,
        net::TcpStream,
        os::unix::net::UnixStream,
        time::{Duration, Instant},
    };

    use postino::{
        Error,
        aio::{Builder, Client},
    };
    use smol::{
        Async, block_on,
        channel::{self, Receiver},
        future::{or, poll_once},
        io::{AsyncRead, AsyncWrite},
    };

    use crate::rules::ClientKind;

    const CLIENT: ClientKind = ClientKind::Aio;

    /// The async client is stopped by dropping the future.
    type StopHandle = ();

    fn tcp(socket: TcpStream) -> impl AsyncRead + AsyncWrite + Send + 'static {
        Async::new(socket).unwrap()
    }

    fn unix(socket: UnixStream) -> impl AsyncRead + AsyncWrite + Send + 'static {
        Async::new(socket).unwrap()
    }

    type Bell = Receiver<()>;

    fn bell() -> (impl Fn() + Send + 'static, Bell) {
        let (ring, bell) = channel::bounded(1);
        (move || _ = ring.try_send(()), bell)
    }

    fn stoppable(builder: Builder) -> (Builder, StopHandle) {
        (builder, ())
    }

    fn cancel_idle(client: &mut Client, (): &StopHandle) {
        drop(client.noop());
    }

    fn cancelled<F: Future>(
        bell: Bell,
        (): &StopHandle,
        after: impl FnOnce() + Send,
        call: impl FnOnce() -> F,
    ) -> (Option<F::Output>, Duration) {
        let done = block_on(or(async { Err(call().await) }, async {
            bell.recv().await.ok();
            Ok(Instant::now())
        }));
        after();
        match done {
            Ok(start) => (None, start.elapsed()),
            Err(done) => (Some(done), Duration::ZERO),
        }
    }

    /// Drops the future once the lookup has begun.
    fn cancel_lookup(builder: Builder, _: u32) -> Option<Error> {
        assert!(block_on(poll_once(builder.connect())).is_none());
        None
    }

    #[path = "cells.rs"]
    #[allow(clippy::duplicate_mod)] // the same source, compiled for both clients
    mod cells;
}
