//! Connection attempts: the order of the addresses, the race between them (RFC 8305), and the error if all fail.

use std::{
    error, fmt, io,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
    vec,
};

/// Delay between the starts of two attempts, unless the first one fails earlier (RFC 8305 §5).
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Delay between two attempts to connect to a Unix socket whose queue is full. The system does not report when there is
/// room.
pub(crate) const QUEUE_DELAY: Duration = Duration::from_millis(10);

/// Returns the number of a new connection for the log, counted from 1. It is unique within the process (on 32-bit CPUs,
/// some of which lack 64-bit atomics, only among 2^32 connections).
pub(crate) fn next_number() -> u64 {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) as u64 + 1
}

/// Orders addresses so that IPv6 and IPv4 alternate, beginning with the family that the resolver put first (RFC 8305
/// §4). A family that cannot be reached then costs one delay, and not one for each of its addresses.
pub(crate) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (ours, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first);
    let (longest, mut others) = (ours.len().max(others.len()), others.into_iter());
    let mut ours = ours.into_iter();
    (0..longest).flat_map(|_| [ours.next(), others.next()]).flatten().collect()
}

/// The addresses that are left, and those that have failed.
#[derive(Debug)]
pub(crate) struct Race {
    left: vec::IntoIter<SocketAddr>,
    /// When the next attempt may start.
    next: Instant,
    failed: Vec<(SocketAddr, io::Error)>,
}

impl Race {
    pub fn new(addresses: Vec<SocketAddr>, now: Instant) -> Race {
        Race { left: addresses.into_iter(), next: now, failed: Vec::new() }
    }

    /// Returns the next address, if its time has come.
    pub fn turn(&mut self, now: Instant) -> Option<SocketAddr> {
        if now < self.next {
            return None;
        }
        self.next = now + ATTEMPT_DELAY;
        self.left.next()
    }

    /// Returns when the next attempt may start; `None` if all have started.
    pub fn next_turn(&self) -> Option<Instant> {
        (!self.left.as_slice().is_empty()).then_some(self.next)
    }

    /// Records a failure. The next attempt may start at once.
    pub fn failed(&mut self, address: SocketAddr, error: io::Error, now: Instant) {
        self.failed.push((address, error));
        self.next = now;
    }

    /// Returns the error if no attempt has succeeded. Those in `late` have timed out.
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

/// The error of each address.
#[derive(Debug)]
struct Attempts {
    failed: Vec<(SocketAddr, io::Error)>,
    untried: usize,
}

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.failed.len() + self.untried;
        write!(f, "tried {} of {all} addresses", self.failed.len())?;
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
    fn address_families_alternate() {
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
    fn the_next_attempt_starts_after_a_delay_or_a_failure() {
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
    fn the_connect_error_reports_the_failure_of_each_address() {
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
            "tried 2 of 3 addresses: [::1]:25: connection refused; 127.0.0.1:25: timed out"
        );

        let mut race = Race::new(all[..1].to_vec(), start);
        race.turn(start);
        race.failed(all[0], refused(), start);
        assert_eq!(race.lost([]).to_string(), "connection refused");
    }
}
