//! The commands and replies of a connection, taken from the log.

use std::sync::Once;

use crate::journal;

/// Logs every connection, without its octets.
pub fn keep_a_journal() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        journal::begin();
        log::set_max_level(log::LevelFilter::Debug);
    });
}

/// The commands and replies on the connection with this number, `C: …` and `S: …`.
pub fn dialogue_of(number: u64) -> Vec<String> {
    let mark = format!(" #{number} ");
    let lines = journal::lines_with(&mark);
    lines.iter().filter_map(|line| line.split_once(&mark)).map(|(_, said)| said.to_owned()).collect()
}

/// Number of envelopes sent with the end of the message before.
pub fn joined(dialogue: &[String]) -> usize {
    let ends = |line: &str| line.starts_with("C: (") || line == "C: .";
    dialogue.windows(2).filter(|two| ends(&two[0]) && two[1].starts_with("C: MAIL")).count()
}
