//! What the process holds, as the system sees it.

use std::{
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

/// So long what is on its way out may take: threads of pools leave when they have been idle for a moment.
const SETTLING: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    pub descriptors: usize,
    pub threads: usize,
    /// In KiB.
    pub resident: usize,
}

impl Footprint {
    pub fn now() -> Footprint {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
        };
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
        Footprint { descriptors, threads: number("Threads:"), resident: number("VmRSS:") }
    }

    /// Waits until there are no more descriptors and threads than before.
    pub fn settled(before: Option<Footprint>) -> Footprint {
        let start = Instant::now();
        let mut last = Footprint::now();
        let mut same = 0;
        while start.elapsed() < SETTLING {
            sleep(Duration::from_millis(100));
            let now = Footprint::now();
            same =
                if (now.descriptors, now.threads) == (last.descriptors, last.threads) { same + 1 } else { 0 };
            last = now;
            // A pool's threads leave within half a second.
            let back = before.is_none_or(|it| now.descriptors <= it.descriptors && now.threads <= it.threads);
            if same >= 10 && back {
                break;
            }
        }
        last
    }
}

/// The process has one footprint: nobody else may run meanwhile.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
