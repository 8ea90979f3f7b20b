//! What the process has of the system's, where /proc tells.

use std::fs;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// In KiB.
    pub memory: u64,
    pub threads: u64,
    pub descriptors: u64,
}

impl Usage {
    /// None where there is no such /proc.
    pub fn now() -> Option<Usage> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let descriptors = fs::read_dir("/proc/self/fd").ok()?.count() as u64 - 1; // but for the directory's own
        Some(Usage { memory: number("VmRSS:")?, threads: number("Threads:")?, descriptors })
    }
}
