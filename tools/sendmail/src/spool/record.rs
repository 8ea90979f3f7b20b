//! What became of each recipient, as lines that are only ever appended.
//!
//! | line | meaning |
//! |---|---|
//! | `sending TIME` | the last octet of the content is about to be passed on; from here on the message may be delivered |
//! | `accepted N` | the server has taken it for recipient number N |
//! | `refused N REASON` | it never will |
//! | `doubt N REASON` | it may have |
//! | `waited SECONDS UPTIME` | the message has waited for at least SECONDS; at that moment, the machine had run for UPTIME |
//! | `tried TIME NEXT REASON` | an attempt has ended; the recipients that are left are due at NEXT |
//! | `told` | the sender knows of all refusals so far |
//! | `due N` | it is due again, by order of a person |
//! | `again` | the end of the order: the message is due now, and its waits begin anew |
//!
//! `sending` without `tried` or `again` after it is that of a process that was killed. A last line without its end was
//! being written when that happened, so what it announces had not begun. A line with a NUL was damaged by a loss of
//! power; another line may be missing, so the message may have been delivered.

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
    /// Some recipients are left.
    Due,
    /// None is left, and some may have received it.
    Doubt,
    /// None is left, and the sender was not told of some refusals.
    Failed,
    /// None is left.
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub recipients: Vec<State>,
    /// The number of attempts that have ended.
    pub tries: usize,
    /// The number of them before the last order of a person.
    tries_before: usize,
    /// How long the message has waited at least, and how long the machine ran when that was written, in seconds.
    pub waited: Option<(u64, u64)>,
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
        Record {
            recipients,
            tries: 0,
            tries_before: 0,
            waited: None,
            next: 0,
            reason: String::new(),
            length: 0,
        }
    }

    /// The number of attempts since the message was accepted, or a person ordered to send it again.
    pub fn attempts(&self) -> usize {
        self.tries - self.tries_before
    }

    /// Reads the lines of a message with this number of recipients.
    pub fn read(recipients: usize, text: &[u8]) -> Record {
        let mut record = Record::new(recipients);
        let (mut is_sending, mut is_damaged) = (false, false);
        for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            record.length += line.len();
            is_damaged |= line.contains(&0);
            let line = String::from_utf8_lossy(line);
            let line = line.trim_end_matches('\n');
            match line.split(' ').next() {
                Some("sending") => is_sending = true,
                // Only this line says that all before it is complete.
                Some("tried") => is_sending = false,
                Some("again") => (is_sending, is_damaged) = (false, false),
                _ => {}
            }
            record.apply(line);
        }
        if is_sending {
            record.lose("the program was killed while it was waiting for the server's reply");
        } else if is_damaged {
            record.lose("the record of the message is damaged");
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
            "waited" => {
                self.waited = first.parse().ok().zip(reason.parse().ok());
                return;
            }
            "again" => {
                (self.tries_before, self.waited, self.next) = (self.tries, None, 0);
                "to be sent again by order of a person".clone_into(&mut self.reason);
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
        if any(|r| matches!(r, State::Due)) {
            Fate::Due
        } else if any(|r| matches!(r, State::Doubt(_))) {
            Fate::Doubt
        } else if self.has_refusals() {
            Fate::Failed
        } else {
            Fate::Done
        }
    }

    /// Whether there are refusals that the sender was not told of.
    pub fn has_refusals(&self) -> bool {
        self.recipients.iter().any(|state| matches!(state, State::Refused(_)))
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

    pub fn waited(&mut self, seconds: u64, uptime: u64) {
        self.line(format_args!("waited {seconds} {uptime}"));
    }

    pub fn again(&mut self) {
        self.line(format_args!("again"));
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
        // The lines of the result were being written.
        assert_eq!(fate(2, "sending 7\naccepted 0\n"), Fate::Doubt);
        assert_eq!(fate(2, "sending 7\naccepted 0\ndue 1\ntried 8"), Fate::Doubt);
    }

    #[test]
    fn a_record_damaged_by_a_loss_of_power_leaves_the_message_in_doubt() {
        // A block of zeros instead of the beginning of what was written last.
        assert_eq!(fate(2, "sending 7\n\0\0\0\0epted 0\ntried 8 9 451 later\n"), Fate::Doubt);
        assert_eq!(fate(1, "sending 7\n\0\0\0\0\ndue 0\nagain\n"), Fate::Due);
    }

    #[test]
    fn an_order_of_a_person_is_not_an_attempt() {
        let record = Record::read(1, b"waited 5 70\ntried 8 9 451 later\nsending 10\ndue 0\nagain\n");
        assert_eq!((record.fate(), record.tries, record.attempts(), record.next), (Fate::Due, 1, 0, 0));
        assert_eq!(record.waited, None);
        let record = Record::read(1, b"tried 8 9 x\ndue 0\nagain\ntried 10 11 x\n");
        assert_eq!((record.tries, record.attempts()), (2, 1));
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
        for (text, expected) in [
            ("accepted 0\nrefused 1 550 no\n", Fate::Failed),
            ("doubt 0 lost\nrefused 1 550 no\n", Fate::Doubt),
            ("refused 1 550 no\n", Fate::Due),
        ] {
            let record = Record::read(2, text.as_bytes());
            assert!(record.has_refusals() && record.fate() == expected, "{text}");
            let told = Record::read(2, format!("{text}told\n").as_bytes());
            let expected = if expected == Fate::Failed { Fate::Done } else { expected };
            assert!(!told.has_refusals() && told.fate() == expected, "{text}");
        }
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
            "waited x\n",
            "\u{fffd}\n",
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
