//! The client, written once and compiled twice: by `blocking/` with `async` stripped, and by `aio/` unchanged.
//!
//! The parent provides these items, with the same names and signatures in both: `maybe_async`, `stream::Stream`
//! (sockets and TLS), `resolve::resolve` (the name lookup), `body::open` and `body::Source` (content),
//! `secret::Secrets` (passwords and OAuth tokens from a callback), `bell::Bell` (wakes a waiter; a stop handle ends the
//! wait only if it rings the bell), `breathe` (lets other tasks run), and `stop::StopHandle` (stops the blocking client
//! from another thread; it does nothing in `aio`).
//!
//! Every call is awaited where it is written. There are no `async` blocks, closures, spawns, selects, traits or
//! recursion, no `.await` inside a macro, and no `cfg`.

use super::{bell, body, breathe, maybe_async, resolve, secret, stop, stream};

// Documentation shows the methods of a client in the order of these modules: what a reader needs first comes first.
mod builder;

mod session;

mod send;

mod batch;
mod commands;
mod connect;
mod pool;
mod tls;
mod verify;

// The parts of a client. Imports go one way: pool, batch, builder ─▶ send, connect, commands ─▶ session ─▶ run, dial
// ─▶ origin ─▶ link, call, known.
mod call;
mod dial;
mod known;
mod link;
mod origin;
mod run;
mod sending;

pub use self::{
    batch::Batch,
    builder::Builder,
    pool::{Pool, PoolBuilder, Pooled},
    session::Client,
};

/// The result of [`Stream::write_or_read`](stream::Stream::write_or_read), in octets.
pub(super) enum Moved {
    Written(usize),
    /// Octets from the server arrived first.
    Read(usize),
}

/// The result of [`Stream::fetch`](stream::Stream::fetch).
#[allow(dead_code)] // the blocking client does not read replies while it reads content
pub(super) enum Fetched {
    /// The next piece of the content is available.
    Piece,
    /// Nothing is available yet.
    Nothing,
    /// Octets from the server arrived first, or its connection failed.
    Read(std::io::Result<usize>),
}
