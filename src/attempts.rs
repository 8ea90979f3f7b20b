//! What connecting is made of in both worlds: whose turn it is, sockets on their way, and what became of each.

use std::{
    error, fmt, io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
    vec,
};

/// The next attempt starts so long behind the last one, unless that has failed before (RFC 8305 §5).
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A Unix socket whose queue is full tells nobody when there is room again: it is tried so often.
pub(crate) const QUEUE_DELAY: Duration = Duration::from_millis(10);

/// The number of a connection in the log, from 1: each has its own in the whole process.
pub(crate) fn next_number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// IPv6 and IPv4 in turns, beginning with the family that the resolver put first (RFC 8305 §4): one that is dead costs
/// one delay, and not one for each of its addresses.
pub(crate) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (ours, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first);
    let (longest, mut others) = (ours.len().max(others.len()), others.into_iter());
    let mut ours = ours.into_iter();
    (0..longest).flat_map(|_| [ours.next(), others.next()]).flatten().collect()
}

/// Whose turn it is, and who has failed.
#[derive(Debug)]
pub(crate) struct Race {
    left: vec::IntoIter<SocketAddr>,
    /// When the next one may start.
    next: Instant,
    failed: Vec<(SocketAddr, io::Error)>,
}

impl Race {
    pub fn new(addresses: Vec<SocketAddr>, now: Instant) -> Race {
        Race { left: addresses.into_iter(), next: now, failed: Vec::new() }
    }

    /// The next address, if its time has come.
    pub fn turn(&mut self, now: Instant) -> Option<SocketAddr> {
        if now < self.next {
            return None;
        }
        self.next = now + ATTEMPT_DELAY;
        self.left.next()
    }

    /// When somebody's time comes; none if all have started.
    pub fn next_turn(&self) -> Option<Instant> {
        (!self.left.as_slice().is_empty()).then_some(self.next)
    }

    /// Its successor need not wait any longer.
    pub fn failed(&mut self, address: SocketAddr, error: io::Error, now: Instant) {
        self.failed.push((address, error));
        self.next = now;
    }

    /// Nobody has won: all have failed, or, if there is a limit's worth of `late` ones, the time was up for those.
    pub fn lost(mut self, late: impl IntoIterator<Item = SocketAddr>) -> io::Error {
        self.failed.extend(late.into_iter().map(|address| (address, io::ErrorKind::TimedOut.into())));
        let untried = self.left.len();
        match self.failed.pop() {
            None => io::ErrorKind::TimedOut.into(),
            Some((_, error)) if self.failed.is_empty() && untried == 0 => error,
            Some(last) => {
                self.failed.push(last);
                let kind = if untried > 0 {
                    io::ErrorKind::TimedOut
                } else {
                    self.failed[self.failed.len() - 1].1.kind()
                };
                io::Error::new(kind, Attempts { failed: self.failed, untried })
            }
        }
    }
}

/// What became of each address.
#[derive(Debug)]
struct Attempts {
    failed: Vec<(SocketAddr, io::Error)>,
    untried: usize,
}

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.failed.len() + self.untried;
        write!(f, "{} of {all} addresses were tried", self.failed.len())?;
        for (i, (address, error)) in self.failed.iter().enumerate() {
            write!(f, "{} {address}: {error}", if i == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl error::Error for Attempts {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.failed.last().map(|(_, error)| error as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<SocketAddr> {
        text.split(' ').map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        for (resolved, order) in [
            ("1.1.1.1:1", "1.1.1.1:1"),
            ("[::1]:1 [::2]:1 [::3]:1 1.1.1.1:1", "[::1]:1 1.1.1.1:1 [::2]:1 [::3]:1"),
            ("1.1.1.1:1 1.1.1.2:1 [::1]:1 [::2]:1", "1.1.1.1:1 [::1]:1 1.1.1.2:1 [::2]:1"),
        ] {
            assert_eq!(interleave(addresses(resolved)), addresses(order));
        }
        assert_eq!(interleave(vec![]), []);
    }

    #[test]
    fn the_next_starts_after_a_delay_or_a_failure() {
        let start = Instant::now();
        let all = addresses("1.1.1.1:1 1.1.1.2:1 1.1.1.3:1");
        let mut race = Race::new(all.clone(), start);
        assert_eq!(race.turn(start), Some(all[0]));
        assert_eq!(race.turn(start), None);
        assert_eq!(race.next_turn(), Some(start + ATTEMPT_DELAY));
        race.failed(all[0], io::ErrorKind::ConnectionRefused.into(), start);
        assert_eq!(race.turn(start), Some(all[1]));
        assert_eq!(race.turn(start + ATTEMPT_DELAY), Some(all[2]));
        assert_eq!(race.next_turn(), None);
    }

    #[test]
    fn no_error_of_an_address_is_lost() {
        let start = Instant::now();
        let all = addresses("[::1]:25 127.0.0.1:25 127.0.0.2:25");
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let mut race = Race::new(all.clone(), start);
        race.turn(start);
        race.failed(all[0], refused(), start);
        race.turn(start);
        let error = race.lost([all[1]]);
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(
            error.to_string(),
            "2 of 3 addresses were tried: [::1]:25: connection refused; 127.0.0.1:25: timed out"
        );

        let mut race = Race::new(all[..1].to_vec(), start);
        race.turn(start);
        race.failed(all[0], refused(), start);
        assert_eq!(race.lost([]).to_string(), "connection refused");
    }
}
