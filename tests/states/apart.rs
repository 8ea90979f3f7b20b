//! Runs a test in a separate process, so that no other test changes its footprint.

use std::{
    env,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

const OWN: &str = "POSTINO_OWN_PROCESS";

pub fn is_own_process() -> bool {
    env::var_os(OWN).is_some()
}

/// Runs one test of this binary in a separate process. A single malloc arena for all threads makes memory independent
/// of which thread uses which arena. Backtraces are off, because the first one would permanently take tens of MB.
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

/// Takes the lock of the process: its footprint is shared, so no other test may run in the meantime.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
