//! A log that keeps every line of the whole test binary, at level TRACE.

use std::sync::{Mutex, Once, PoisonError};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Journal;

impl log::Log for Journal {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}: {}", record.level(), record.target(), record.args());
        // Lines from tests with thousands of recipients would slow down every search.
        let many = [" C: RCPT TO:<recipient-", " S: 250 a long answer"];
        if many.iter().any(|part| line.contains(part)) {
            return;
        }
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn flush(&self) {}
}

/// Starts keeping lines. Can be called more than once.
pub fn begin() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Journal).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

/// Forgets all lines so far.
#[allow(dead_code)] // for tests that log a lot
pub fn forget() {
    *LINES.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
}

/// Returns the lines so far that contain `text`, whichever test wrote them.
pub fn lines_with(text: &str) -> Vec<String> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().filter(|line| line.contains(text)).cloned().collect()
}
