//! The `Resent-` fields of a message that is resent.

use std::time::SystemTime;

use super::{
    Mailboxes,
    field_set::{FieldSet, OriginNames},
    header_writer::{Field, Value},
};
use crate::Error;

const ORIGIN: OriginNames = OriginNames {
    from: "Resent-From",
    sender: "Resent-Sender",
    date: "Resent-Date",
    id: "Resent-Message-ID",
};

/// The fields that are added to a message when it is resent: see [`Message::resend`](super::Message::resend).
#[derive(Debug, Clone)]
#[must_use]
pub struct Resent(FieldSet);

impl Resent {
    /// Creates the fields for a message that is resent by these mailboxes (`Resent-From`). If there are several,
    /// [`sender`](Resent::sender) is required.
    pub fn by(mailboxes: impl Into<Mailboxes>) -> Resent {
        let mut fields = FieldSet::default();
        fields.set(ORIGIN.from, Value::Mailboxes(mailboxes.into()));
        Resent(fields)
    }

    pub(super) fn build(&self) -> Result<Vec<Field>, Error> {
        self.0.build(&ORIGIN)
    }

    /// Sets the mailbox of the sender (`Resent-Sender`), if the sender differs from `Resent-From`.
    pub fn sender(mut self, mailbox: impl Into<Mailboxes>) -> Resent {
        self.0.set("Resent-Sender", Value::Mailboxes(mailbox.into()));
        self
    }

    /// Adds recipients (`Resent-To`).
    pub fn to(mut self, mailboxes: impl Into<Mailboxes>) -> Resent {
        self.0.add("Resent-To", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Adds carbon-copy recipients (`Resent-Cc`).
    pub fn cc(mut self, mailboxes: impl Into<Mailboxes>) -> Resent {
        self.0.add("Resent-Cc", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Adds blind-carbon-copy recipients, who are not named in the message that is sent (`Resent-Bcc`).
    pub fn bcc(mut self, mailboxes: impl Into<Mailboxes>) -> Resent {
        self.0.add("Resent-Bcc", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Sets the date of resending (`Resent-Date`). Defaults to the time of [`Message::resend`](super::Message::resend).
    pub fn date(mut self, time: SystemTime) -> Resent {
        self.0.set("Resent-Date", Value::Date(time, 0));
        self
    }

    /// Sets the identifier of the resent message (`Resent-Message-ID`). Defaults to a new identifier in the domain of
    /// `Resent-From`.
    pub fn message_id(mut self, id: impl Into<String>) -> Resent {
        self.0.set("Resent-Message-ID", Value::Text(id.into()));
        self
    }
}
