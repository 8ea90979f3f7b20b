//! The results that the clients got for each message, compared with what the server knows of it.

use std::{
    collections::HashMap,
    ops::{AddAssign, Range},
    sync::Mutex,
};

use postino::{Delivery, Error, Outcome};

use super::mail::{self, COPIES};
use crate::rules::Ruled;

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
    pub fn check(&self, server: &Ruled) -> Result<Sums, String> {
        let stored = count(server)?;
        let entries = self.entries.lock().unwrap();
        let mut sums = Sums { messages: entries.len() as u64, ..Sums::default() };
        for (message, entry) in (self.first..).zip(&*entries) {
            let wrong = |what: &str| {
                let history = server.history(&format!("MAIL FROM:<m{message}-")).join("\n  ");
                format!("message {message}, {}: {what}\n  {history}", entry.how)
            };
            if entry.told != 1 {
                return Err(wrong("not exactly one result was reported, or one that contradicts itself"));
            }
            for copy in 0..mail::copies(message) {
                let outcome = entry.copies[copy];
                let stored = stored.get(&(message, copy)).copied().unwrap_or(0);
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
        server.violation().map_or(Ok(sums), Err)
    }
}

/// Returns how often the server has stored each copy of a message, if all of them are as they were sent.
fn count(server: &Ruled) -> Result<HashMap<(usize, usize), u32>, String> {
    let mut counts = HashMap::new();
    for stored in server.take().stored {
        let (message, _) = mail::parse(&stored.sender).ok_or(format!("nobody sent {stored:?}"))?;
        if stored.content.as_bytes() != mail::content(message) {
            return Err(format!("message {message} is not as it was: {stored:.300?}"));
        }
        for recipient in &stored.recipients {
            match mail::parse(recipient) {
                Some(copy) if copy.0 == message => *counts.entry(copy).or_default() += 1,
                _ => return Err(format!("message {message} goes to {recipient}")),
            }
        }
    }
    Ok(counts)
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
