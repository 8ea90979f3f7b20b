//! The header fields of a message while they are being set.

use super::{
    header_writer::{Field, Kind, Value},
    mailbox::Item,
};
use crate::{Address, Error};

/// Names of the fields that every message, or every block of `Resent-` fields, must have.
pub(super) struct OriginNames {
    pub from: &'static str,
    pub sender: &'static str,
    pub date: &'static str,
    pub id: &'static str,
}

/// Fields that are being set.
#[derive(Debug, Clone, Default)]
pub(super) struct FieldSet {
    pub all: Vec<(String, Value)>,
    /// Positions of the fields that occur once: only a few, however many other fields there are.
    once: Vec<usize>,
}

impl FieldSet {
    fn get(&self, name: &str) -> Option<&Value> {
        self.all.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Finds a field that was [set](FieldSet::set) or [added](FieldSet::add).
    fn find(&mut self, name: &str) -> Option<&mut Value> {
        let at = self.once.iter().find(|at| self.all[**at].0.eq_ignore_ascii_case(name))?;
        Some(&mut self.all[*at].1)
    }

    /// Appends a field after all others.
    pub fn push(&mut self, name: &str, value: Value) {
        self.all.push((name.to_owned(), value));
    }

    /// Sets a field, replacing an existing one.
    pub fn set(&mut self, name: &str, value: Value) {
        match self.find(name) {
            Some(there) => *there = value,
            None => {
                self.once.push(self.all.len());
                self.push(name, value);
            }
        }
    }

    /// Adds to an existing field, or sets it.
    pub fn add(&mut self, name: &str, mut value: Value) {
        match (self.find(name), &mut value) {
            (None, _) => self.set(name, value),
            (Some(Value::Mailboxes(there)), Value::Mailboxes(more)) => there.append(more),
            (Some(Value::Uris(there)), Value::Uris(more)) => there.append(more),
            (Some(Value::Text(there)), Value::Text(more)) => {
                there.push_str(if Kind::of(name) == Kind::Phrases { ", " } else { " " });
                there.push_str(more);
            }
            (Some(_), _) => self.push(name, value),
        }
    }

    /// Builds the fields, and adds the date and the identifier if they are missing.
    ///
    /// # Errors
    ///
    /// A value is not allowed in its field, there is no author, or there are several authors but no sender.
    pub fn build(&self, names: &OriginNames) -> Result<Vec<Field>, Error> {
        let fields = self.all.iter().filter_map(|(name, value)| Field::new(name, value).transpose());
        let mut fields = fields.collect::<Result<Vec<_>, _>>()?;
        let has =
            |fields: &[Field], name: &str| fields.iter().any(|field| field.name().eq_ignore_ascii_case(name));
        let authors = match self.get(names.from) {
            Some(Value::Mailboxes(mailboxes)) => mailboxes.read()?,
            _ => Vec::new(),
        };
        let Some(Item::Mailbox(author)) = authors.first() else {
            return Err(Error::Message(format!("the message has no {}", names.from).into()));
        };
        if authors.len() > 1 && !has(&fields, names.sender) {
            // RFC 5322 §3.6.2
            let OriginNames { from, sender, .. } = names;
            return Err(Error::Message(format!("several addresses in {from} require a {sender}").into()));
        }
        if !has(&fields, names.date) {
            fields.push(Field::now(names.date)?);
        }
        if !has(&fields, names.id) {
            let author = author.address().without_utf8().ok();
            let domain = author.as_ref().and_then(Address::domain);
            fields.push(Field::unique_id(names.id, domain.unwrap_or("localhost"))?);
        }
        Ok(fields)
    }
}
