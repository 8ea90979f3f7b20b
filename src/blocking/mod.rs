//! The blocking client: `client/` compiled without `async`, over `std::net`. No runtime, and no long-lived thread.

use ::maybe_async::must_be_sync as maybe_async;

#[macro_use]
mod examples;

#[path = "../client/mod.rs"]
mod client;

#[path = "../mailers/mod.rs"]
mod mailers;

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[path = "../tls_connector.rs"]
mod tls_connector;

mod aside;
mod batch;
mod bell;
mod body;
mod mailer;
mod resolve;
mod secret;
mod session;
mod stop;
mod stream;
mod transport;

pub use client::{Batch, Builder, Client, Pool, PoolBuilder, Pooled};
pub use mailer::Mailer;
pub use mailers::{Failover, Retrying};
pub use stop::StopHandle;
pub use transport::{NoTimeouts, Transport};

/// Does nothing: there are no other tasks on this thread.
fn breathe() {}

/// Returns the value: in the blocking client, a "future" is already its own output.
#[cfg(test)]
fn block_on<T>(value: T) -> T {
    value
}
