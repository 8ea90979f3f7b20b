//! Messages that are sent in several transactions: how the recipients are split, and the result of the whole.

use std::collections::{HashMap, VecDeque};

use crate::{Address, Delivery, Envelope, Error, Outcome, Phase, Reply, delivery::Again, proto::is_too_many};

/// Splits recipients into parts, as a server with LIMITS requires (RFC 9422 §4): each part has a maximum number of
/// recipients and of their domains. The time is proportional to the number of recipients.
pub(crate) struct Splitter {
    most: usize,
    domains: usize,
    parts: Vec<Vec<usize>>,
    /// The part of each domain, as long as that part has room.
    homes: HashMap<String, usize>,
    /// Number of domains in the last part.
    last_domains: usize,
}

impl Splitter {
    pub fn new(most: usize, domains: usize) -> Splitter {
        Splitter { most, domains, parts: Vec::new(), homes: HashMap::new(), last_domains: 0 }
    }

    /// Adds the recipient with this number.
    pub fn push(&mut self, number: usize, recipient: &Address) {
        if self.domains == usize::MAX {
            let at = self.part_with_room();
            self.parts[at].push(number);
            return;
        }
        let domain = recipient.domain().unwrap_or_default().to_ascii_lowercase();
        if let Some(at) = self.homes.get(&domain).copied().filter(|at| self.parts[*at].len() < self.most) {
            self.parts[at].push(number);
            return;
        }
        let at = self.part_with_room();
        self.last_domains += 1;
        self.homes.insert(domain, at);
        self.parts[at].push(number);
    }

    /// Returns the last part, or a new one if that is full.
    fn part_with_room(&mut self) -> usize {
        let has_room = self.parts.last().is_some_and(|last| last.len() < self.most);
        if !has_room || self.last_domains >= self.domains {
            self.parts.push(Vec::new());
            self.last_domains = 0;
        }
        self.parts.len() - 1
    }

    pub fn finish(self) -> Vec<Vec<usize>> {
        self.parts
    }
}

/// A message in several transactions: the parts that are left, and the results of the others.
pub(crate) struct Parts {
    envelope: Envelope,
    /// The parts that are left. The beginning of the first one is under way, or comes next.
    left: VecDeque<Part>,
    /// Maximum number of recipients of a transaction, as far as is known: as many as the server accepted or refused
    /// before it replied that there are too many. If each transaction tried all that are left, the RCPT count would
    /// be quadratic.
    most: usize,
    done: Vec<(Vec<usize>, Delivery)>,
    /// The cause of the last part that was not accepted.
    source: Option<Error>,
    /// Whether the rest cannot be sent.
    failed: bool,
}

/// The numbers of a part's recipients, and whether it is sent one command at a time: see [`Again::OneByOne`].
struct Part {
    numbers: VecDeque<usize>,
    one_by_one: Option<usize>,
}

impl Parts {
    /// Creates the state of a message that is sent in these parts.
    pub fn new(envelope: Envelope, parts: Vec<Vec<usize>>) -> Parts {
        let left =
            parts.into_iter().map(|numbers| Part { numbers: numbers.into(), one_by_one: None }).collect();
        Parts { envelope, left, most: usize::MAX, done: Vec::new(), source: None, failed: false }
    }

    /// Creates the state of a message that was sent as a whole, and is sent again to some of its recipients.
    pub fn after(envelope: Envelope, result: Result<Delivery, Error>, again: Again) -> Parts {
        let all = (0..envelope.recipients().len()).collect();
        let mut parts = Parts::new(envelope, vec![all]);
        parts.settle(result, Some(again));
        parts
    }

    /// Returns the envelope of what comes next, and whether it is sent one command at a time.
    pub fn next(&self) -> Option<(Envelope, Option<usize>)> {
        let part = self.left.front().filter(|_| !self.failed)?;
        let numbers: Vec<usize> = part.numbers.iter().take(self.most).copied().collect();
        let is_whole = numbers.len() == self.envelope.recipients().len();
        let envelope = if is_whole { self.envelope.clone() } else { self.envelope.part(&numbers) };
        Some((envelope, part.one_by_one))
    }

    /// Returns whether the next part is the last, as far as is known.
    pub fn is_last(&self) -> bool {
        self.left.len() == 1 && self.left[0].numbers.len() <= self.most
    }

    pub fn is_first(&self) -> bool {
        self.done.is_empty()
    }

    /// Records the result of what was under way. Recipients that the message can be sent to again come next. After an
    /// error that is not about recipients, nothing more is sent.
    pub fn settle(&mut self, result: Result<Delivery, Error>, again: Option<Again>) {
        let delivery = match result {
            Ok(delivery) => delivery,
            Err(Error::Transaction { delivery, source }) => {
                self.source = Some(*source);
                *delivery
            }
            Err(e) => return self.fail(e),
        };
        let Some(mut part) = self.left.pop_front() else { return };
        let numbers: Vec<usize> = part.numbers.drain(..part.numbers.len().min(self.most)).collect();
        part.one_by_one = None;
        let those = |again: &[usize]| again.iter().map(|n| numbers[*n]).collect::<VecDeque<usize>>();
        let mut all = false;
        match again {
            Some(Again::Rest(rest)) => {
                self.most = (numbers.len() - rest.len()).max(1);
                let mut rest = those(&rest);
                rest.append(&mut part.numbers);
                part.numbers = rest;
            }
            Some(Again::OneByOne { recipients, command }) => {
                all = recipients.len() == numbers.len();
                self.put_back(part);
                part = Part { numbers: those(&recipients), one_by_one: Some(command) };
            }
            // The other recipients keep the reply that there were too many.
            Some(Again::Elsewhere) | None if has_no_room(&delivery) => part.numbers.clear(),
            Some(Again::Elsewhere) | None => {}
        }
        self.put_back(part);
        if !all {
            self.done.push((numbers, delivery)); // the result of the rest takes precedence
        }
    }

    /// Puts the rest of a part, or a part that is sent again, before all others.
    fn put_back(&mut self, part: Part) {
        if !part.numbers.is_empty() {
            self.left.push_front(part);
        }
    }

    /// Sends nothing more, for this reason.
    pub fn fail(&mut self, why: Error) {
        (self.source, self.failed) = (Some(why), true);
    }

    /// Sends nothing more, for the reason of the last part.
    pub fn stop(&mut self) {
        self.failed = true;
    }

    /// Returns the result of the message.
    pub fn finish(self) -> Result<Delivery, Error> {
        let Parts { envelope, left, mut done, source, failed, .. } = self;
        for part in left {
            let numbers = Vec::from(part.numbers);
            let delivery = Delivery::not_sent(envelope.part(&numbers));
            done.push((numbers, delivery));
        }
        let is_one = done.len() == 1;
        let delivery = if is_one { done.pop().map(|(_, delivery)| delivery) } else { None };
        let delivery = delivery.unwrap_or_else(|| Delivery::whole(envelope, done));
        if delivery.outcome() == Outcome::Accepted {
            return Ok(delivery);
        }
        let refused = || {
            let reply = delivery.refused().find_map(|recipient| recipient.reply().cloned());
            reply.map(|reply| Error::Refused { phase: Phase::Recipient, reply })
        };
        let source = match source {
            Some(source) if is_one || failed => source,
            source => {
                refused().or(source).unwrap_or(Error::Internal("a part of a message failed without a reason"))
            }
        };
        Err(Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) })
    }
}

/// Returns whether the server accepted no recipient because there were too many.
fn has_no_room(delivery: &Delivery) -> bool {
    let too_many = |reply: Option<&Reply>| reply.is_some_and(is_too_many);
    delivery.outcome() != Outcome::Accepted && delivery.refused().any(|recipient| too_many(recipient.reply()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn envelope(recipients: &[String]) -> Envelope {
        Envelope::new("a@example.org", recipients).unwrap()
    }

    fn split(most: usize, domains: usize, recipients: &[String]) -> Vec<Vec<usize>> {
        let envelope = envelope(recipients);
        let mut splitter = Splitter::new(most, domains);
        let all = envelope.recipients().iter().enumerate();
        all.for_each(|(number, recipient)| splitter.push(number, recipient));
        splitter.finish()
    }

    fn named(domains: &[&str]) -> Vec<String> {
        domains.iter().map(|domain| format!("u@{domain}.example")).collect()
    }

    #[test]
    fn recipients_are_split_by_number_and_by_domain() {
        let to = named(&["a", "b", "A", "c", "b", "a"]);
        for (most, domains, parts) in [
            (4, usize::MAX, vec![vec![0, 1, 2, 3], vec![4, 5]]),
            (usize::MAX, 1, vec![vec![0, 2, 5], vec![1, 4], vec![3]]),
            (2, 1, vec![vec![0, 2], vec![1, 4], vec![3], vec![5]]),
            (3, 2, vec![vec![0, 1, 2], vec![3, 4], vec![5]]),
            (usize::MAX, 3, vec![vec![0, 1, 2, 3, 4, 5]]),
        ] {
            assert_eq!(split(most, domains, &to), parts, "{most} {domains}");
        }
    }

    // With a quadratic algorithm this would take hours.
    #[test]
    fn very_many_recipients_of_very_many_domains_are_split_within_the_limits() {
        const COUNT: usize = 200_000;
        let to: Vec<String> = (0..COUNT).map(|n| format!("u@{}.example", n * 7 % (COUNT / 2))).collect();
        for (most, domains) in [(1, usize::MAX), (usize::MAX, COUNT / 2 - 1), (100, 7), (3, 1)] {
            let parts = split(most, domains, &to);
            let mut seen: Vec<usize> = parts.iter().flatten().copied().collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..COUNT));
            for part in &parts {
                let names: HashSet<&String> = part.iter().map(|n| &to[*n]).collect();
                assert!(part.len() <= most && names.len() <= domains);
            }
        }
    }

    fn own(code: u16, numbers: &[usize]) -> Vec<(usize, Outcome, Option<Reply>)> {
        let reply = Reply::parse(format!("{code} no\r\n").as_bytes()).unwrap();
        numbers.iter().map(|number| (*number, Outcome::Refused, Some(reply.clone()))).collect()
    }

    fn outcomes(delivery: &Delivery) -> Vec<Outcome> {
        delivery.recipients().map(|recipient| recipient.outcome()).collect()
    }

    #[test]
    fn retried_recipients_come_next_and_their_last_result_counts() {
        use Outcome::{Accepted, NotSent, Refused};
        let envelope = envelope(&named(&["a", "b", "c", "d"]));
        let first = || {
            let own = own(452, &[1, 2, 3]);
            Ok(Delivery::new(envelope.clone(), Accepted, Accepted, None, own))
        };
        let mut parts = Parts::after(envelope.clone(), first(), Again::Rest(vec![1, 2, 3]));
        let (next, one_by_one) = parts.next().unwrap();
        assert_eq!((next.recipients(), one_by_one), (&envelope.recipients()[1..2], None));
        parts.settle(Ok(Delivery::new(next, Accepted, Accepted, None, Vec::new())), None);
        assert_eq!(parts.next().unwrap().0.recipients(), &envelope.recipients()[2..3]);
        parts.stop();
        assert!(parts.next().is_none());
        assert_eq!(outcomes(&parts.finish().unwrap()), [Accepted, Accepted, NotSent, NotSent]);

        // The whole part is sent one command at a time, so the first result no longer counts.
        let refused = Delivery::new(envelope.clone(), Refused, Refused, None, Vec::new());
        let again = Again::OneByOne { recipients: vec![0, 1, 2, 3], command: 2 };
        let mut parts = Parts::after(envelope.clone(), Ok(refused), again);
        let (next, one_by_one) = parts.next().unwrap();
        assert_eq!((next.recipients().len(), one_by_one), (4, Some(2)));
        parts.settle(Ok(Delivery::new(next, Accepted, Accepted, None, Vec::new())), None);
        assert_eq!(outcomes(&parts.finish().unwrap()), [Accepted; 4]);
    }

    /// Returns the number of RCPT for a server that accepts `room` recipients in each transaction, the last number
    /// repeatedly.
    fn offered(count: usize, room: &[usize]) -> usize {
        let envelope = envelope(&(0..count).map(|n| format!("u@{n}.example")).collect::<Vec<_>>());
        let mut parts = Parts::new(envelope, vec![(0..count / 3).collect(), (count / 3..count).collect()]);
        let mut room = room.iter().copied().chain(std::iter::repeat(room[room.len() - 1]));
        let mut offered = 0;
        while let Some((next, _)) = parts.next() {
            let (all, room) = (next.recipients().len(), room.next().unwrap());
            offered += all;
            let rest: Vec<usize> = (room.min(all)..all).collect();
            let delivery = Delivery::new(next, Outcome::Accepted, Outcome::Accepted, None, own(452, &rest));
            parts.settle(Ok(delivery), if rest.is_empty() { None } else { Some(Again::Rest(rest)) });
        }
        assert!(outcomes(&parts.finish().unwrap()).iter().all(|outcome| *outcome == Outcome::Accepted));
        offered
    }

    #[test]
    fn the_number_of_rcpt_commands_is_linear_however_few_are_accepted() {
        let falling: Vec<usize> = (1..200).rev().collect();
        for room in [&[1][..], &[1, 100], &[50, 49], &[7], &[99, 3, 2, 1], &falling] {
            let offered = offered(3_000, room);
            assert!(offered <= 2 * 3_000, "{offered}");
        }
    }

    #[test]
    fn splitting_stops_when_a_server_has_no_room_for_any_recipient() {
        let envelope = envelope(&named(&["a", "b", "c", "d"]));
        let accepted = Outcome::Accepted;
        let first = || Ok(Delivery::new(envelope.clone(), accepted, accepted, None, own(452, &[1, 2, 3])));
        for (code, goes_on) in [(452, false), (550, true)] {
            let mut parts = Parts::after(envelope.clone(), first(), Again::Rest(vec![1, 2, 3]));
            let (next, _) = parts.next().unwrap();
            let refused = Delivery::new(next, Outcome::Refused, Outcome::NotSent, None, own(code, &[0]));
            let source = Box::new(Error::Internal("a test"));
            parts.settle(Err(Error::Transaction { delivery: Box::new(refused), source }), None);
            assert_eq!(parts.next().is_some(), goes_on, "{code}");
            let delivery = parts.finish().unwrap();
            assert!(goes_on || delivery.recipients().skip(1).all(|r| r.outcome() == Outcome::Refused));
        }
    }

    #[test]
    fn an_unsplit_message_keeps_the_cause_of_its_refusal() {
        let envelope = envelope(&named(&["a"]));
        let reply = Reply::parse(b"554 no\r\n").unwrap();
        let delivery = Delivery::new(
            envelope.clone(),
            Outcome::Refused,
            Outcome::Refused,
            Some(reply.clone()),
            Vec::new(),
        );
        let source = Box::new(Error::Refused { phase: Phase::End, reply });
        let mut parts = Parts::new(envelope, vec![vec![0]]);
        parts.settle(Err(Error::Transaction { delivery: Box::new(delivery), source }), None);
        let Err(Error::Transaction { source, .. }) = parts.finish() else { panic!("it was refused") };
        assert!(matches!(*source, Error::Refused { phase: Phase::End, .. }), "{source:?}");
    }
}
