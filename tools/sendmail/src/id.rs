//! Identifiers of messages, in the log and in the spool.

use std::{
    hash::{BuildHasher, RandomState},
    time::{SystemTime, UNIX_EPOCH},
};

/// Returns a new identifier: the time in seconds since 1970, and a random part.
pub fn new_id() -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // The keys of the hasher are random.
    let random = RandomState::new().hash_one(std::process::id()) & 0xFF_FFFF;
    format!("{time:08X}{random:06X}")
}
