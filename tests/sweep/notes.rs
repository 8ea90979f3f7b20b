//! What the caller knows, step by step, and whether it agrees with the server.

use std::collections::BTreeMap;

use postino::{Delivery, Envelope, Error, Mail, Outcome, Raw, Reply};

use super::{rules::shown, server::Kind, wire::Wire};

/// A message: its name, its recipients, and its content.
#[derive(Debug, Clone)]
pub struct Letter {
    pub name: String,
    pub recipients: Vec<&'static str>,
    pub content: Vec<u8>,
}

impl Letter {
    pub fn new(name: &str, recipients: &[&'static str], text: &str) -> Letter {
        let content = format!("{name}\r\n\r\n{text}\r\n").into_bytes();
        Letter { name: name.into(), recipients: recipients.to_vec(), content }
    }

    pub fn mail(&self) -> Raw<'static> {
        let envelope = Envelope::new("alice@example.org", &self.recipients).unwrap();
        Raw::bytes(envelope, self.content.clone())
    }

    /// Returns the message with a progress callback, so that a batch does not take its content at once.
    pub fn watched(&self) -> impl Mail + use<> {
        self.mail().on_progress(|_, _| {})
    }
}

/// What was reported to the caller.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Notes {
    /// The outcome of each message and recipient; `None` while it is under way.
    fates: BTreeMap<(String, String), Option<Outcome>>,
    contents: BTreeMap<String, Vec<u8>>,
    /// The result of each step.
    pub steps: Vec<String>,
    /// Number of octets that the server had received when a step failed.
    broken_at: Option<usize>,
    /// The number of that step.
    broken_step: Option<usize>,
}

impl Notes {
    /// Notes that the letter is handed over.
    pub fn begin(&mut self, letter: &Letter) {
        self.contents.insert(letter.name.clone(), letter.content.clone());
        for recipient in &letter.recipients {
            self.fates.insert((letter.name.clone(), recipient.to_string()), None);
        }
    }

    /// Notes the reply to a command, which must be the reply to that command.
    pub fn reply(&mut self, verb: &str, result: &Result<Reply, Error>, wire: &Wire) {
        if let Ok(reply) = result {
            assert!(reply.text().starts_with(verb), "{verb} was answered by {reply}");
        }
        self.step(verb, result, wire);
    }

    pub fn delivery(&mut self, letter: &Letter, result: &Result<Delivery, Error>, wire: &Wire) {
        let delivery = match result {
            Ok(delivery) => Some(delivery),
            Err(error) => error.delivery(),
        };
        match delivery {
            Some(delivery) => {
                assert_eq!(result.is_ok(), delivery.outcome() == Outcome::Accepted);
                for recipient in delivery.recipients() {
                    let address = recipient.address().as_str().to_owned();
                    self.tell(letter, &address, recipient.outcome());
                }
                if delivery.outcome() == Outcome::Accepted {
                    let text = delivery.reply().map(Reply::text);
                    assert_eq!(text, Some(format!("{} taken", letter.name)));
                }
            }
            None => self.not_sent(letter),
        }
        self.step(&letter.name, result, wire);
    }

    /// Notes the result of a message sent by single commands.
    pub fn data(&mut self, letter: &Letter, result: &Result<Reply, Error>, wire: &Wire) {
        let outcome = match result {
            Ok(reply) => {
                assert_eq!(reply.text(), format!("{} taken", letter.name));
                Outcome::Accepted
            }
            Err(error) if error.in_doubt() => Outcome::InDoubt,
            Err(Error::Refused { .. }) => Outcome::Refused,
            Err(_) => Outcome::NotSent,
        };
        for recipient in &letter.recipients {
            self.tell(letter, recipient, outcome);
        }
        self.step(&letter.name, result, wire);
    }

    pub fn not_sent(&mut self, letter: &Letter) {
        for recipient in &letter.recipients {
            self.tell(letter, recipient, Outcome::NotSent);
        }
    }

    fn tell(&mut self, letter: &Letter, recipient: &str, outcome: Outcome) {
        let fate = self.fates.get_mut(&(letter.name.clone(), recipient.to_owned())).unwrap();
        assert_eq!(fate.replace(outcome), None, "{} was told of twice", letter.name);
    }

    /// Notes the result of a step. After a step that broke the connection, every other one fails.
    pub fn step<T>(&mut self, name: &str, result: &Result<T, Error>, wire: &Wire) {
        let came = match result {
            Ok(_) => "done".to_owned(),
            Err(Error::Transaction { source, .. }) => format!("not done: {source}"),
            Err(error) => error.to_string(),
        };
        self.steps.push(format!("{name}: {came}"));
        let broke = match result {
            Ok(_) | Err(Error::Refused { .. }) => false,
            Err(Error::Transaction { delivery, .. }) => delivery.outcome() != Outcome::Refused,
            Err(_) => true,
        };
        assert!(broke || self.broken_at.is_none(), "it came back to life: {:?}", self.steps);
        if broke && self.broken_at.is_none() {
            self.broken_at = Some(wire.heard());
            self.broken_step = Some(self.steps.len() - 1);
        }
    }

    pub fn is_broken(&self) -> bool {
        self.broken_at.is_some()
    }

    /// The first step that failed with the connection, preceded by the one before it.
    pub fn broken_step(&self) -> Option<(&str, &str)> {
        let step = |number: usize| self.steps.get(number).map_or("", String::as_str);
        self.broken_step.map(|number| (number.checked_sub(1).map_or("", step), step(number)))
    }

    /// Asserts that every message that was handed over has an outcome.
    #[track_caller]
    pub fn assert_all_told(&self) {
        assert!(self.fates.values().all(Option::is_some), "{:?}", self.fates);
    }

    /// Asserts that the reports agree with what the server accepted, and that the client sent nothing after a failure.
    #[track_caller]
    pub fn assert_true_to(&self, wire: &Wire, kind: Kind) {
        let (accepted, heard) = wire.with(|server| (server.accepted().to_vec(), server.heard.len()));
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for taken in accepted {
            let name = taken.content.lines().next().unwrap_or_default().to_owned();
            let right = self.contents.get(&name).map(Vec::as_slice) == Some(taken.content.as_bytes());
            assert!(right, "{kind:?}: {name}, and its content is {}", shown(taken.content.as_bytes()));
            for recipient in taken.recipients {
                *counts.entry((name.clone(), recipient)).or_default() += 1;
            }
        }
        for (who, fate) in &self.fates {
            let count = counts.remove(who).unwrap_or_default();
            let right = match fate {
                Some(Outcome::Accepted) => count == 1,
                Some(Outcome::Refused | Outcome::NotSent) => count == 0,
                Some(Outcome::InDoubt) | None => count <= 1,
                Some(other) => panic!("there is no {other:?}"),
            };
            assert!(right, "{kind:?} {who:?}: {fate:?}, and taken {count} times; {:?}", self.steps);
        }
        assert!(counts.is_empty(), "nobody sent {counts:?}");
        let doubts = self.fates.iter().filter(|(_, fate)| **fate == Some(Outcome::InDoubt));
        let mut doubtful: Vec<&String> = doubts.map(|((name, _), _)| name).collect();
        doubtful.dedup();
        assert!(
            kind.chunking || doubtful.len() <= 1,
            "content leaves one by one, and in doubt are {doubtful:?}"
        );
        if let Some(then) = self.broken_at {
            assert_eq!(then, heard, "it has spoken behind its failure: {:?}", self.steps);
        }
    }

    /// Number of messages with this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.fates.values().filter(|fate| **fate == Some(outcome)).count()
    }
}
