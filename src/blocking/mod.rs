//! Mounts `client/` as plain blocking code over `std::net`: no runtime, no lasting thread.

use ::maybe_async::must_be_sync as maybe_async;

mod body;
mod resolve;
mod stream;
mod token;

#[path = "../client/mod.rs"]
mod client;

#[cfg(feature = "dkim")]
pub(crate) use body::sign;
pub use client::{Builder, Client};

/// In the blocking world a "future" is its value already.
#[cfg(test)]
fn block_on<T>(value: T) -> T {
    value
}
