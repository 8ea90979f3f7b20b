//! What became of each recipient, as lines that are only ever appended.
//!
//! | line | meaning |
//! |---|---|
//! | `sending TIME` | the last octet of the content is about to be passed on; from here on the message may be delivered |
//! | `accepted N` | the server has taken it for recipient number N |
//! | `refused N REASON` | it never will |
//! | `doubt N REASON` | it may have |
//! | `tried TIME NEXT REASON` | an attempt has ended; the recipients that are left are due at NEXT |
//! | `told` | the sender knows of all refusals so far |
//! | `due N` | it is due again, by order of a person |
//!
//! `sending` without a line after it is that of a process that was killed. A last line without its end was being
//! written when that happened, so what it announces had not begun.

use std::fmt::Write;

/// What is known of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Still to be sent to.
    Due,
    Accepted,
    /// Refused permanently, or given up, with the reason. The sender has not been told.
    Refused(String),
    /// Refused, and the sender knows.
    Returned,
    /// May have received the message.
    Doubt(String),
}

/// What is to be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The sender has to be told of some refusals.
    Bounce,
    /// Some recipients are left.
    Due,
    /// None is left, and some may have received it.
    Doubt,
    /// None is left.
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub recipients: Vec<State>,
    /// The number of attempts that have ended.
    pub tries: usize,
    /// When the next attempt is due, in seconds since 1970.
    pub next: u64,
    /// Why the last attempt failed.
    pub reason: String,
    /// Length of the complete lines, in octets.
    pub length: usize,
}

impl Record {
    pub fn new(recipients: usize) -> Record {
        let recipients = vec![State::Due; recipients];
        Record { recipients, tries: 0, next: 0, reason: String::new(), length: 0 }
    }

    /// Reads the lines of a message with this number of recipients.
    pub fn read(recipients: usize, text: &[u8]) -> Record {
        let mut record = Record::new(recipients);
        let mut is_sending = false;
        for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            record.length += line.len();
            let line = String::from_utf8_lossy(line);
            let line = line.trim_end_matches('\n');
            is_sending = line.starts_with("sending ");
            record.apply(line);
        }
        if is_sending {
            record.lose("the program was killed while it was waiting for the server's reply");
        }
        record
    }

    fn apply(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (first, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        let state = match word {
            "accepted" => State::Accepted,
            "refused" => State::Refused(reason.to_owned()),
            "doubt" => State::Doubt(reason.to_owned()),
            "due" => State::Due,
            "returned" => State::Returned,
            "tried" => {
                let (next, reason) = reason.split_once(' ').unwrap_or((reason, ""));
                self.tries += 1;
                self.next = next.parse().unwrap_or(0);
                reason.clone_into(&mut self.reason);
                return;
            }
            "told" => {
                for refused in self.recipients.iter_mut().filter(|r| matches!(r, State::Refused(_))) {
                    *refused = State::Returned;
                }
                return;
            }
            _ => return,
        };
        if let Some(recipient) = first.parse().ok().and_then(|n: usize| self.recipients.get_mut(n)) {
            *recipient = state;
        }
    }

    /// The recipients that are left may have received the message.
    fn lose(&mut self, reason: &str) {
        for recipient in self.recipients.iter_mut().filter(|r| **r == State::Due) {
            *recipient = State::Doubt(reason.to_owned());
        }
        reason.clone_into(&mut self.reason);
    }

    pub fn fate(&self) -> Fate {
        let any = |wanted: fn(&State) -> bool| self.recipients.iter().any(wanted);
        if any(|r| matches!(r, State::Refused(_))) {
            Fate::Bounce
        } else if any(|r| matches!(r, State::Due)) {
            Fate::Due
        } else if any(|r| matches!(r, State::Doubt(_))) {
            Fate::Doubt
        } else {
            Fate::Done
        }
    }
}

/// Lines to be appended at once.
#[derive(Debug, Default)]
pub struct Lines(String);

impl Lines {
    pub fn sending(now: u64) -> Lines {
        Lines(format!("sending {now}\n"))
    }

    pub fn push(&mut self, number: usize, state: &State) {
        let (word, reason) = match state {
            State::Due => ("due", ""),
            State::Accepted => ("accepted", ""),
            State::Refused(reason) => ("refused", reason.as_str()),
            State::Returned => ("returned", ""),
            State::Doubt(reason) => ("doubt", reason.as_str()),
        };
        self.line(format_args!("{word} {number} {reason}"));
    }

    pub fn tried(&mut self, now: u64, next: u64, reason: &str) {
        self.line(format_args!("tried {now} {next} {reason}"));
    }

    pub fn told(&mut self) {
        self.line(format_args!("told"));
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        let text = text.to_string();
        let one: String = text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = writeln!(self.0, "{one}");
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(recipients: usize, text: &str) -> Fate {
        Record::read(recipients, text.as_bytes()).fate()
    }

    #[test]
    fn a_message_without_lines_in_its_record_is_due() {
        assert_eq!(fate(2, ""), Fate::Due);
        assert_eq!(Record::read(2, b"").next, 0);
    }

    #[test]
    fn a_process_killed_while_sending_leaves_the_message_in_doubt() {
        assert_eq!(fate(1, "sending 7\n"), Fate::Doubt);
        assert_eq!(fate(1, "sending 7\ntried 8 9 451 later\n"), Fate::Due);
        assert_eq!(fate(1, "tried 8 9 451 later\nsending 7\n"), Fate::Doubt);
    }

    #[test]
    fn an_incomplete_line_is_ignored() {
        let record = Record::read(1, b"tried 8 9 451 later\nsending 10");
        assert_eq!((record.fate(), record.next, record.tries), (Fate::Due, 9, 1));
        assert_eq!(record.length, b"tried 8 9 451 later\n".len());
    }

    #[test]
    fn only_the_remaining_recipients_are_in_doubt() {
        let record = Record::read(2, b"accepted 0\ntried 1 2 busy\nsending 3\n");
        assert_eq!(record.recipients[0], State::Accepted);
        assert!(matches!(record.recipients[1], State::Doubt(_)));
    }

    #[test]
    fn refusals_are_reported_only_once() {
        assert_eq!(fate(2, "accepted 0\nrefused 1 550 no\n"), Fate::Bounce);
        assert_eq!(fate(2, "accepted 0\nrefused 1 550 no\ntold\n"), Fate::Done);
        assert_eq!(fate(2, "doubt 0 lost\nrefused 1 550 no\n"), Fate::Bounce);
        assert_eq!(fate(2, "doubt 0 lost\nrefused 1 550 no\ntold\n"), Fate::Doubt);
        assert_eq!(fate(2, "refused 1 550 no\n"), Fate::Bounce);
        assert_eq!(fate(2, "refused 1 550 no\ntold\n"), Fate::Due);
    }

    #[test]
    fn a_record_with_any_content_can_be_read() {
        for text in [
            "\n\n",
            "accepted\n",
            "accepted 9\n",
            "accepted -1\n",
            "tried\n",
            "tried x y z\n",
            "\u{fffd}\0\n",
        ] {
            assert_eq!(fate(1, text), Fate::Due, "{text:?}");
        }
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        let mut lines = Lines::sending(1);
        let states = [
            State::Accepted,
            State::Refused("550 5.1.1 no such user".into()),
            State::Due,
            State::Doubt("lost".into()),
        ];
        for (number, state) in states.iter().enumerate() {
            lines.push(number, state);
        }
        lines.tried(2, 3, "several\r\nlines");
        let record = Record::read(4, lines.as_bytes());
        assert_eq!(record.recipients, states);
        assert_eq!((record.next, record.reason.as_str()), (3, "several  lines"));
        assert_eq!(record.length, lines.as_bytes().len());
    }
}
