//! Written once, compiled twice: by `blocking/` with `async` stripped, and by `aio/` as is.
//!
//! The parent supplies, under the same names and with the same `async fn` shapes: `maybe_async`, `stream::Stream`
//! (the connection), `resolve::resolve` (the name lookup), `body::open` and `body::Source` (where content comes from),
//! `token::Tokens` (where tokens come from), `bell::Bell` (what wakes a waiter of a pool), `breathe` (lets other tasks run),
//! `stop::StopHandle` (what ends it all from outside; nothing in `aio`).
//!
//! The same source is not always the same behaviour. Here every call is awaited where it is written, and there are
//! no `async` blocks, closures, spawns, selects, traits or recursion, no `.await` inside a macro, and no `cfg`.

use super::{bell, body, breathe, maybe_async, resolve, stop, stream, token};

// Documentation shows the methods of a client in the order of these modules: what a reader needs first comes first.
mod builder;

mod session;

mod send;

mod batch;
mod commands;
mod connect;
mod pool;
mod tls;

// What a client is made of. Each of these uses only those after it.
mod run;

mod link;

mod origin;

mod call;
mod dial;
mod known;

pub use self::{
    batch::Batch,
    builder::Builder,
    pool::{Pool, PoolBuilder, Pooled},
    session::Client,
};

/// What [`Stream::write_or_read`](stream::Stream::write_or_read) did.
pub(super) enum Moved {
    Written(usize),
    /// The server had something to say first.
    Read(usize),
}

/// What [`Stream::fetch`](stream::Stream::fetch) has come back with.
#[allow(dead_code)] // the blocking client cannot hear the server while it reads
pub(super) enum Fetched {
    /// The next piece of the content is there.
    Piece,
    /// Nothing is there yet.
    Nothing,
    /// The server had something to say first, or its connection failed.
    Read(std::io::Result<usize>),
}
