//! The dialogues, with the blocking client. `aio.rs` has the same ones with the other.

use postino::{Builder, Client, Pool, send};

mod dialogue;
mod support;

/// In the blocking world a "future" is its value already.
fn block_on<T>(value: T) -> T {
    value
}
