//! Envelopes: the sender, the recipients, and the options of MAIL and RCPT.

use std::sync::Arc;

use crate::{Address, Capabilities, Error, MailOption, RcptOption};

/// The sender and the recipients of a message, independent of its headers (RFC 5321 §2.3.1).
///
/// An envelope has at least one recipient. Duplicate recipients are kept. Clones share their data.
///
/// An envelope can have options for the server, such as requests for delivery reports. If the server does not offer an
/// option, sending fails with [`Error::Unsupported`] before any part of the message is sent. Raw options are not
/// checked against what the server offers.
///
/// ```
/// use postino::{Envelope, MailOption, RcptOption, Ret};
///
/// let envelope = Envelope::new("alice@example.org", ["bob@example.net", "carol@example.com"])?
///     .option(MailOption::Ret(Ret::Headers))?
///     .recipient_options(RcptOption::Notify { success: true, failure: true, delay: false })?
///     .recipient_option(1, RcptOption::NotifyNever)?;
/// # let _ = envelope;
/// # Ok::<(), postino::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope(Arc<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    sender: Option<Address>,
    recipients: Box<[Address]>,
    /// In the order they were given: each kind once, except raw options, which are all kept.
    options: Vec<MailOption>,
    /// The options of each recipient; shorter than the recipients if the last ones have none.
    recipient_options: Vec<Vec<RcptOption>>,
}

impl Envelope {
    /// Creates an envelope from addresses in text form. Each recipient must be exactly one address. If `sender` is `""`
    /// or `"<>"`, the envelope has the null sender, which is for bounces (RFC 5321 §4.5.5).
    ///
    /// # Errors
    ///
    /// [`Error::Address`] for the first invalid address; [`Error::NoRecipients`] if there are no recipients.
    pub fn new<T: AsRef<str>>(
        sender: &str,
        recipients: impl IntoIterator<Item = T>,
    ) -> Result<Envelope, Error> {
        let sender = match sender.trim_matches(' ') {
            "" | "<>" => None,
            _ => Some(Address::new(sender)?),
        };
        let recipients: Result<Vec<_>, _> =
            recipients.into_iter().map(|r| Address::new(r.as_ref())).collect();
        Envelope::from_addresses(sender, recipients?)
    }

    /// Creates an envelope for exactly one recipient. Use this for untrusted input, such as an address from a web form.
    /// If `sender` is `""` or `"<>"`, the envelope has the null sender.
    ///
    /// ```
    /// use postino::{Envelope, Error};
    ///
    /// let envelope = Envelope::to_one("shop@example.org", "bob@example.net")?;
    /// assert_eq!(envelope.recipients(), ["bob@example.net"]);
    /// let several = Envelope::to_one("shop@example.org", "bob@example.net, everybody@example.net");
    /// assert!(matches!(several, Err(Error::Address { .. })));
    /// # Ok::<(), postino::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if an address is invalid, or if the recipient has no domain.
    pub fn to_one(sender: &str, recipient: &str) -> Result<Envelope, Error> {
        let envelope = Envelope::new(sender, [recipient])?;
        if envelope.recipients()[0].domain().is_none() {
            return Err(Error::Address { input: recipient.to_owned(), why: "no @", header: None });
        }
        Ok(envelope)
    }

    /// Creates an envelope from addresses. If `sender` is `None`, the envelope has the null sender.
    ///
    /// # Errors
    ///
    /// [`Error::NoRecipients`] if there are no recipients.
    pub fn from_addresses(sender: Option<Address>, recipients: Vec<Address>) -> Result<Envelope, Error> {
        if recipients.is_empty() {
            return Err(Error::NoRecipients);
        }
        let recipients = recipients.into();
        Ok(Envelope(Arc::new(Parts {
            sender,
            recipients,
            options: Vec::new(),
            recipient_options: Vec::new(),
        })))
    }

    /// Returns the sender, to whom bounces are sent; `None` means the null sender.
    #[must_use]
    pub fn sender(&self) -> Option<&Address> {
        self.0.sender.as_ref()
    }

    /// Returns the recipients. There is at least one.
    #[must_use]
    pub fn recipients(&self) -> &[Address] {
        &self.0.recipients
    }

    /// Returns whether all addresses are ASCII, so that SMTPUTF8 is not needed (RFC 6531).
    #[must_use]
    pub(crate) fn is_ascii(&self) -> bool {
        self.0.sender.iter().chain(&self.0.recipients).all(Address::is_ascii)
    }

    /// Converts non-ASCII domains to A-labels, for a server without SMTPUTF8.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for an address that cannot be converted to ASCII.
    pub(crate) fn without_utf8(mut self) -> Result<Envelope, Error> {
        if !self.is_ascii() {
            let parts = Arc::make_mut(&mut self.0);
            for address in parts.sender.iter_mut().chain(&mut parts.recipients) {
                *address = address.without_utf8()?;
            }
        }
        Ok(self)
    }

    /// Adds an option to MAIL. The option replaces an earlier one of the same kind, but an envelope may have more than
    /// one [`MailOption::Raw`].
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the value is invalid, or if the envelope already has an option that conflicts with it. Two
    /// options conflict if one is HOLDFOR and the other HOLDUNTIL, or if they have the same keyword and at least one of
    /// them is a [`MailOption::Raw`].
    pub fn option(mut self, option: MailOption) -> Result<Envelope, Error> {
        option.check()?;
        let options = &mut Arc::make_mut(&mut self.0).options;
        options.retain(|old| !old.is_replaced_by(&option));
        options.iter().try_for_each(|old| option.check_beside(old))?;
        options.push(option);
        Ok(self)
    }

    /// Adds an option to RCPT for the recipient with index `number` in [`recipients`](Envelope::recipients). The option
    /// replaces an earlier one of the same kind, but a recipient may have more than one [`RcptOption::Raw`].
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the value is invalid, if there is no such recipient, or if the recipient already has an
    /// option with the same keyword and at least one of the two is a [`RcptOption::Raw`].
    pub fn recipient_option(mut self, number: usize, option: RcptOption) -> Result<Envelope, Error> {
        option.check()?;
        if number >= self.recipients().len() {
            return Err(Error::Config(format!("there is no recipient with index {number}").into()));
        }
        let all = &mut Arc::make_mut(&mut self.0).recipient_options;
        all.resize(all.len().max(number + 1), Vec::new());
        let own = &mut all[number];
        own.retain(|old| !old.is_replaced_by(&option));
        own.iter().try_for_each(|old| option.check_beside(old))?;
        own.push(option);
        Ok(self)
    }

    /// Adds an option to RCPT for every recipient; see [`recipient_option`](Envelope::recipient_option).
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the value is invalid, or conflicts with an option that a recipient already has.
    pub fn recipient_options(self, option: RcptOption) -> Result<Envelope, Error> {
        (0..self.recipients().len())
            .try_fold(self, |envelope, number| envelope.recipient_option(number, option.clone()))
    }

    /// Returns the options of MAIL.
    pub(crate) fn mail_options(&self) -> &[MailOption] {
        &self.0.options
    }

    /// Returns the options of RCPT for the recipient with this index.
    pub(crate) fn options_of(&self, number: usize) -> &[RcptOption] {
        self.0.recipient_options.get(number).map_or(&[], Vec::as_slice)
    }

    /// Returns the envelope restricted to some of the recipients, by their indices. There must be at least one.
    pub(crate) fn part(&self, numbers: &[usize]) -> Envelope {
        let with_options = numbers.iter().rposition(|n| !self.options_of(*n).is_empty());
        let own = &numbers[..with_options.map_or(0, |last| last + 1)];
        Envelope(Arc::new(Parts {
            sender: self.0.sender.clone(),
            recipients: numbers.iter().map(|n| self.0.recipients[*n].clone()).collect(),
            options: self.0.options.clone(),
            recipient_options: own.iter().map(|n| self.options_of(*n).to_vec()).collect(),
        }))
    }

    /// Checks that the server offers all options.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if it does not; [`Error::Config`] if a value is beyond the server's limit.
    pub(crate) fn check_offered(&self, offered: &Capabilities, encrypted: bool) -> Result<(), Error> {
        for option in &self.0.options {
            option.check_offered(offered, encrypted)?;
        }
        let mut each = self.0.recipient_options.iter().flatten();
        if each.any(|option| !matches!(option, RcptOption::Raw(_))) && !offered.offers("DSN") {
            return Err(Error::Unsupported("DSN"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope::new("s@x", ["a@x", "b@x"]).unwrap()
    }

    #[test]
    fn an_envelope_needs_at_least_one_recipient() {
        assert!(matches!(Envelope::new("a@b", [] as [&str; 0]), Err(Error::NoRecipients)));
        let bounce = Envelope::new("", ["a@b"]).unwrap();
        assert_eq!(bounce.sender(), None);
        assert_eq!(Envelope::new("<>", ["a@b"]).unwrap(), bounce);
    }

    #[test]
    fn a_later_option_replaces_an_earlier_one_of_the_same_kind() {
        let report = RcptOption::Notify { success: true, failure: false, delay: false };
        let envelope = envelope()
            .option(MailOption::Priority(1))
            .and_then(|e| e.option(MailOption::Raw("A".into())))
            .and_then(|e| e.option(MailOption::Raw("B".into())))
            .and_then(|e| e.option(MailOption::Priority(2)))
            .and_then(|e| e.recipient_options(report.clone()))
            .and_then(|e| e.recipient_option(1, RcptOption::NotifyNever))
            .unwrap();
        let raw = |text: &str| MailOption::Raw(text.into());
        assert_eq!(envelope.mail_options(), [raw("A"), raw("B"), MailOption::Priority(2)]);
        assert_eq!(envelope.options_of(0), [report]);
        assert_eq!(envelope.options_of(1), [RcptOption::NotifyNever]);
        let part = envelope.part(&[1]);
        assert_eq!(part.recipients(), &envelope.recipients()[1..]);
        assert_eq!(part.options_of(0), [RcptOption::NotifyNever]);
        assert_eq!(part.mail_options(), envelope.mail_options());
    }
}
