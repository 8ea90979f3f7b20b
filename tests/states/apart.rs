//! A test in a process of its own, whose footprint nobody else changes.

use std::{
    env,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

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
