//! How long to wait before the next attempt.

use std::time::Duration;

/// How long to wait before a message that was refused with 4yz is sent again (RFC 5321 §4.5.4.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    /// The wait after the first attempt. It doubles with each attempt. Defaults to one minute.
    pub first: Duration,
    /// Maximum wait. Defaults to four hours.
    pub max: Duration,
    /// How long a message is retried. It is refused if the next attempt would be later. Defaults to five days.
    pub give_up_after: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            first: Duration::from_secs(60),
            max: Duration::from_secs(4 * 3600),
            give_up_after: Duration::from_secs(5 * 86_400),
        }
    }
}

impl Backoff {
    /// Returns the wait after an attempt that follows this number of earlier ones, varied by up to 10 %. `random` is
    /// from 0 to 1.
    #[must_use]
    pub fn wait(&self, earlier: u32, random: f64) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(earlier.min(30)));
        doubled.min(self.max).mul_f64(0.9 + 0.2 * random.clamp(0.0, 1.0))
    }
}

/// Returns a number from 0 to 1, different in each call and each process.
pub(crate) fn random() -> f64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum() {
        let waits: Vec<u64> =
            (0..10).map(|earlier| Backoff::default().wait(earlier, 0.5).as_secs()).collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3840, 7680, 14_400, 14_400]);
        assert_eq!(Backoff::default().wait(u32::MAX, 0.5).as_secs(), 14_400);
    }

    #[test]
    fn waits_vary_by_a_tenth() {
        let wait = |random| Backoff::default().wait(0, random).as_millis();
        assert_eq!((wait(0.0), wait(1.0)), (54_000, 66_000));
    }
}
