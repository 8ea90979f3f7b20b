//! The resources that the process holds, as reported by the system.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

/// Maximum time for resources to be released.
const SETTLING: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    pub descriptors: usize,
    pub threads: usize,
    /// Resident memory, in KiB.
    pub resident: usize,
}

impl Footprint {
    /// Returns the current footprint, or `None` on systems without this kind of `/proc`.
    pub fn now() -> Option<Footprint> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let descriptors = fs::read_dir("/proc/self/fd").ok()?.count() - 1; // without the one for reading this directory
        Some(Footprint { descriptors, threads: number("Threads:")?, resident: number("VmRSS:")? })
    }

    /// Whether the footprint is back to `before`: with no more descriptors, and at most this many more threads and this
    /// much more memory.
    pub fn is_back(self, before: Footprint, threads: usize, memory: usize) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads + threads
            && self.resident <= before.resident + memory
    }

    /// Waits until nothing changes any more and `enough` accepts the footprint. A thread is still counted for a moment
    /// after it has been joined.
    pub fn settled(enough: impl Fn(Footprint) -> bool) -> Option<Footprint> {
        let start = Instant::now();
        let mut last = Footprint::now()?;
        let mut same = 0;
        while start.elapsed() < SETTLING && !(same >= 10 && enough(last)) {
            sleep(Duration::from_millis(100));
            let now = Footprint::now()?;
            let is_same = (now.descriptors, now.threads) == (last.descriptors, last.threads);
            same = if is_same { same + 1 } else { 0 };
            last = now;
        }
        Some(last)
    }
}
