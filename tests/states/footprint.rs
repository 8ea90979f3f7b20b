//! What the process holds, as the system sees it.

use std::{
    env, fs,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

/// So long what is on its way out may take.
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

    /// Whether there are no more descriptors than before, and no more threads than so many more.
    pub fn is_back(self, before: Footprint, threads: usize) -> bool {
        self.descriptors <= before.descriptors && self.threads <= before.threads + threads
    }

    /// Waits until nothing changes any more, and until it [is back](Self::is_back).
    pub fn settled(before: Option<Footprint>, threads: usize) -> Footprint {
        let start = Instant::now();
        let mut last = Footprint::now();
        let mut same = 0;
        while start.elapsed() < SETTLING {
            sleep(Duration::from_millis(100));
            let now = Footprint::now();
            same =
                if (now.descriptors, now.threads) == (last.descriptors, last.threads) { same + 1 } else { 0 };
            last = now;
            if same >= 10 && before.is_none_or(|before| now.is_back(before, threads)) {
                break;
            }
        }
        last
    }
}

const OWN: &str = "POSTINO_OWN_PROCESS";

pub fn is_own_process() -> bool {
    env::var_os(OWN).is_some()
}

/// Runs a test of this binary alone in a process. With one arena for all threads (glibc's word for where it allocates) its
/// memory does not depend on which thread got which; and the first backtrace would take tens of MB, for good.
pub fn in_own_process(module: &str, test: &str) {
    let (_, module) = module.split_once("::").unwrap();
    let mut alone = Command::new(env::current_exe().unwrap());
    alone.args([&format!("{module}::{test}"), "--exact", "--nocapture"]);
    alone.envs([(OWN, "1"), ("MALLOC_ARENA_MAX", "1"), ("RUST_BACKTRACE", "0")]);
    let output = alone.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let ran = said.contains("1 passed");
    assert!(output.status.success() && ran, "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said.lines().filter(|line| line.contains("cells")).for_each(|line| println!("{line}"));
}

/// The process has one footprint: nobody else may run meanwhile.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
