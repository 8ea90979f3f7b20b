//! The results that the clients got for each message, compared with what the server knows of it.

use std::{
    ops::{AddAssign, Range},
    sync::Mutex,
};

use postino::{Delivery, Error, Outcome};

use super::{
    mail::{self, COPIES},
    server::Record,
};

/// The result reported for a message.
#[derive(Default, Clone)]
struct Entry {
    told: u32,
    copies: [Option<Outcome>; COPIES],
    how: String,
}

pub struct Book {
    first: usize,
    entries: Mutex<Vec<Entry>>,
}

/// Copies, by reported result.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sums {
    pub messages: u64,
    pub copies: u64,
    pub accepted: u64,
    pub refused: u64,
    pub not_sent: u64,
    pub in_doubt: u64,
    /// In doubt, but stored.
    pub arrived: u64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Sums) {
        self.messages += other.messages;
        self.copies += other.copies;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.not_sent += other.not_sent;
        self.in_doubt += other.in_doubt;
        self.arrived += other.arrived;
    }
}

impl Book {
    pub fn new(first: usize, messages: usize) -> Book {
        Book { first, entries: Mutex::new(vec![Entry::default(); messages]) }
    }

    /// Enters the result that a client got for one message.
    pub fn enter(&self, message: usize, result: &Result<Delivery, Error>) {
        let entry = match result {
            Ok(delivery) => Entry { how: "sent".into(), ..Entry::told_of(delivery) },
            Err(e) => Entry { how: chain(e), ..e.delivery().map_or_else(Entry::not_sent, Entry::told_of) },
        };
        let entry = if entry.contradicts(result) { Entry { told: 2, ..entry } } else { entry };
        let old = &mut self.entries.lock().unwrap()[message - self.first];
        *old = Entry { told: old.told + entry.told, ..entry };
    }

    /// Enters messages for which there was no connection.
    pub fn enter_none(&self, messages: Range<usize>, why: &Error) {
        for message in messages {
            let entry = &mut self.entries.lock().unwrap()[message - self.first];
            *entry = Entry { told: entry.told + 1, how: chain(why), ..Entry::not_sent() };
        }
    }

    /// Checks that all messages are accounted for once, and as the server has them.
    pub fn check(&self, record: &Record) -> Result<Sums, String> {
        let entries = self.entries.lock().unwrap();
        let mut sums = Sums { messages: entries.len() as u64, ..Sums::default() };
        for (message, entry) in (self.first..).zip(&*entries) {
            let wrong = |what: &str| {
                let history = record.history(message).join("\n  ");
                format!("message {message}, {}: {what}\n  {history}", entry.how)
            };
            if entry.told != 1 {
                return Err(wrong("it was not told of it once, or in words that contradict each other"));
            }
            for copy in 0..mail::copies(message) {
                let (outcome, stored) = (entry.copies[copy], record.stored(message, copy));
                sums.copies += 1;
                let right = match outcome {
                    Some(Outcome::Accepted) => {
                        sums.accepted += 1;
                        stored == 1
                    }
                    Some(Outcome::Refused) => {
                        sums.refused += 1;
                        stored == 0
                    }
                    Some(Outcome::NotSent) => {
                        sums.not_sent += 1;
                        stored == 0
                    }
                    Some(Outcome::InDoubt) => {
                        sums.in_doubt += 1;
                        sums.arrived += u64::from(stored);
                        stored <= 1
                    }
                    _ => false,
                };
                if !right {
                    return Err(wrong(&format!("copy {copy} is {outcome:?}, and was stored {stored} times")));
                }
            }
        }
        match record.complaint() {
            Some(complaint) => Err(complaint),
            None => Ok(sums),
        }
    }
}

impl Entry {
    fn told_of(delivery: &Delivery) -> Entry {
        let mut copies = [None; COPIES];
        for (copy, recipient) in copies.iter_mut().zip(delivery.recipients()) {
            *copy = Some(recipient.outcome());
        }
        Entry { told: 1, copies, how: String::new() }
    }

    fn not_sent() -> Entry {
        Entry { told: 1, copies: [Some(Outcome::NotSent); COPIES], how: String::new() }
    }

    /// Whether the short answers differ from those of the long one.
    fn contradicts(&self, result: &Result<Delivery, Error>) -> bool {
        let any = |outcome| self.copies.contains(&Some(outcome));
        match result {
            Ok(delivery) => delivery.outcome() != Outcome::Accepted || !any(Outcome::Accepted),
            Err(e) => any(Outcome::Accepted) || e.in_doubt() != any(Outcome::InDoubt),
        }
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
