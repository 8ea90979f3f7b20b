//! Deadlines: adding a time limit to a point in time, without overflow.

use std::time::{Duration, Instant};

/// Returns `now + limit`, saturating at thirty years.
pub(crate) fn later(now: Instant, limit: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    now.checked_add(limit.min(FAR)).unwrap_or(now)
}
