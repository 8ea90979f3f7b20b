//! The serialized forms of values (feature `serde`). They are described in `src/guide/serialization.md`, and must stay
//! readable by later versions.
//!
//! Whatever is read goes through the constructors and setters that check it, as if a caller had passed it.

use std::{fmt, marker::PhantomData, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::{
    Address, Delivery, Envelope, Error, MailOption, OnLate, Outcome, RcptOption, Recipient, Reply, Ret,
    Security, Timings, message::Mailbox,
};

mod settings;
#[cfg(test)]
mod tests;

pub use self::settings::Settings;

/// Maximum number of options of one command. The time to check them grows with the square of their number.
const MAX_OPTIONS: usize = 100;

/// Reads a value from text, which the `FromStr` of its type checks.
struct Text<T>(&'static str, PhantomData<T>);

impl<T: FromStr<Err = Error>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        deserializer.deserialize_str(Text("a mail address", PhantomData))
    }
}

impl Serialize for Mailbox {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.name().contains(char::is_control) {
            return Err(ser::Error::custom("the name of a mailbox contains a control character"));
        }
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mailbox {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mailbox, D::Error> {
        deserializer.deserialize_str(Text("a mail address with an optional name", PhantomData))
    }
}

/// Implements serde's traits for a type by delegating to a form that is derived with `serde(remote)`.
macro_rules! by_form {
    ($($kind:ident: $form:ident),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $form::serialize(self, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$kind, D::Error> {
                $form::deserialize(deserializer)
            }
        }
    )*};
}
by_form!(Outcome: OutcomeForm, Security: SecurityForm, Ret: RetForm, OnLate: OnLateForm);
by_form!(MailOption: MailOptionForm, RcptOption: RcptOptionForm);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Outcome", rename_all = "snake_case")]
enum OutcomeForm {
    Accepted,
    Refused,
    NotSent,
    InDoubt,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Security", rename_all = "snake_case")]
enum SecurityForm {
    Auto,
    Plaintext,
    Opportunistic,
    #[serde(rename = "starttls")]
    StartTls,
    Implicit,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Ret", rename_all = "snake_case")]
enum RetForm {
    Full,
    Headers,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "OnLate", rename_all = "snake_case")]
enum OnLateForm {
    Return,
    Notify,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "MailOption", rename_all = "snake_case", deny_unknown_fields)]
enum MailOptionForm {
    Ret(Ret),
    EnvelopeId(String),
    RequireTls,
    Priority(i8),
    DeliverBy {
        seconds: i32,
        late: OnLate,
        #[serde(default)]
        trace: bool,
    },
    HoldFor(#[serde(with = "whole_seconds")] Duration),
    HoldUntil(String),
    Auth(Option<Address>),
    Xverp(Option<[char; 2]>),
    Raw(String),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "RcptOption", rename_all = "snake_case", deny_unknown_fields)]
enum RcptOptionForm {
    Notify {
        #[serde(default)]
        success: bool,
        #[serde(default)]
        failure: bool,
        #[serde(default)]
        delay: bool,
    },
    NotifyNever,
    OriginalRecipient(Address),
    Raw(String),
}

/// HOLDFOR has whole seconds only.
mod whole_seconds {
    use super::{Deserialize, Deserializer, Duration, Serialize, Serializer};

    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        time.as_secs().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Envelope", deny_unknown_fields)]
struct EnvelopeForm {
    /// A missing sender is an error: only `null` is the null sender.
    #[serde(deserialize_with = "Option::deserialize")]
    sender: Option<Address>,
    recipients: Vec<Address>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    options: Vec<MailOption>,
    /// The options of each recipient, in the order of the recipients. Those of the last recipients may be missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recipient_options: Vec<Vec<RcptOption>>,
}

impl EnvelopeForm {
    fn check(self) -> Result<Envelope, Error> {
        let numbers = self.recipient_options.iter().map(Vec::len).chain([self.options.len()]);
        if numbers.max() > Some(MAX_OPTIONS) {
            return Err(Error::Config(format!("an envelope has more than {MAX_OPTIONS} options").into()));
        }
        if self.recipient_options.len() > self.recipients.len() {
            return Err(Error::Config("an envelope has options for more recipients than it has".into()));
        }
        let envelope = Envelope::from_addresses(self.sender, self.recipients)?;
        let envelope = self.options.into_iter().try_fold(envelope, Envelope::option)?;
        let own = self.recipient_options.into_iter().enumerate();
        let mut own =
            own.flat_map(|(number, options)| options.into_iter().map(move |option| (number, option)));
        own.try_fold(envelope, |envelope, (number, option)| envelope.recipient_option(number, option))
    }
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = 0..self.recipients().len();
        let with_options = all.clone().rev().find(|number| !self.options_of(*number).is_empty());
        let own = 0..with_options.map_or(0, |last| last + 1);
        let form = EnvelopeForm {
            sender: self.sender().cloned(),
            recipients: self.recipients().to_vec(),
            options: self.mail_options().to_vec(),
            recipient_options: own.map(|number| self.options_of(number).to_vec()).collect(),
        };
        form.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Envelope, D::Error> {
        EnvelopeForm::deserialize(deserializer)?.check().map_err(de::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Reply")]
struct ReplyForm {
    code: u16,
    text: String,
}

impl Serialize for Reply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ReplyForm { code: self.code(), text: self.text() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Reply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reply, D::Error> {
        let ReplyForm { code, text } = ReplyForm::deserialize(deserializer)?;
        let lines: Vec<&str> = text.split('\n').collect();
        let (last, others) = lines.split_last().expect("splitting text gives at least one line");
        let mut octets = String::new();
        others.iter().for_each(|line| octets += &format!("{code}-{line}\r\n"));
        octets += &format!("{code} {last}\r\n");
        Reply::parse(octets.as_bytes()).map_err(|why| de::Error::custom(format!("invalid reply: {why}")))
    }
}

/// The durations in seconds, with fractions. They are measured values, which are never read back.
#[derive(Serialize)]
#[serde(rename = "Timings")]
struct TimingsForm {
    envelope: f64,
    content: f64,
    end: f64,
    total: f64,
}

impl Serialize for Timings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let form = TimingsForm {
            envelope: self.envelope.as_secs_f64(),
            content: self.content.as_secs_f64(),
            end: self.end.as_secs_f64(),
            total: self.total.as_secs_f64(),
        };
        form.serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(rename = "Recipient")]
struct RecipientForm<'d> {
    address: &'d Address,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<&'d Reply>,
}

impl<'d> RecipientForm<'d> {
    fn new(recipient: &Recipient<'d>) -> RecipientForm<'d> {
        RecipientForm { address: recipient.address(), outcome: recipient.outcome(), reply: recipient.reply() }
    }
}

impl Serialize for Recipient<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RecipientForm::new(self).serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(rename = "Delivery")]
struct DeliveryForm<'d> {
    outcome: Outcome,
    reply: Option<&'d Reply>,
    queue_id: Option<&'d str>,
    sender: Option<&'d Address>,
    /// The reply of a recipient is left out if it equals `reply`, so that the size does not grow with the number of
    /// recipients times the length of the reply.
    recipients: Vec<RecipientForm<'d>>,
    timings: Timings,
}

impl Serialize for Delivery {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let recipients = self.recipients().map(|recipient| {
            let form = RecipientForm::new(&recipient);
            RecipientForm { reply: form.reply.filter(|reply| Some(*reply) != self.reply()), ..form }
        });
        let form = DeliveryForm {
            outcome: self.outcome(),
            reply: self.reply(),
            queue_id: self.queue_id(),
            sender: self.envelope().sender(),
            recipients: recipients.collect(),
            timings: self.timings(),
        };
        form.serialize(serializer)
    }
}
