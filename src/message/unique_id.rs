//! Unique identifiers: for `Message-ID`, and for the boundaries of multiparts.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    process,
    sync::atomic::{AtomicUsize, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// Returns 32 hexadecimal digits that are unique and cannot be guessed.
pub(crate) fn unique_id() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    // The hasher's keys are random. The other values distinguish copies of the state made by a fork or snapshot.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u128(time);
    hasher.write_u32(process::id());
    hasher.write_usize(COUNT.fetch_add(1, Ordering::Relaxed));
    let first = hasher.finish();
    hasher.write_u64(first);
    format!("{first:016x}{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_identifier_repeats() {
        let seen: HashSet<String> = (0..10_000).map(|_| unique_id()).collect();
        assert_eq!(seen.len(), 10_000);
        assert!(seen.iter().all(|digits| digits.len() == 32));
    }
}
