//! The options of a mail as JSON, as they are in the column `options`. Producers in other languages write the same
//! keys.
//!
//! Options that have no key here, such as those that postino adds later, are stored as raw parameters.

use std::time::Duration;

use postino::{Address, Envelope, Error, MailOption, OnLate, RcptOption, Ret};
use serde_json::{Map, Value, json};

/// The options of a mail: those of MAIL, and those of RCPT for all recipients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub(crate) mail: Vec<MailOption>,
    pub(crate) rcpt: Vec<RcptOption>,
}

impl Options {
    /// Returns the options as JSON text.
    pub(crate) fn to_json(&self) -> String {
        let mut object = Map::new();
        for option in &self.mail {
            let (key, value) = match option {
                MailOption::Ret(ret) => ("ret", json!(if *ret == Ret::Full { "full" } else { "headers" })),
                MailOption::EnvelopeId(id) => ("envelope_id", json!(id)),
                MailOption::RequireTls => ("require_tls", json!(true)),
                MailOption::Priority(level) => ("priority", json!(level)),
                MailOption::DeliverBy { seconds, late, trace } => {
                    let late = if *late == OnLate::Return { "return" } else { "notify" };
                    ("deliver_by", json!({ "seconds": seconds, "late": late, "trace": trace }))
                }
                MailOption::HoldFor(time) => ("hold_for", json!(time.as_secs())),
                MailOption::HoldUntil(time) => ("hold_until", json!(time)),
                MailOption::Auth(address) => ("auth", json!(address.as_ref().map(Address::as_str))),
                other => {
                    push_raw(&mut object, "raw", other.to_string());
                    continue;
                }
            };
            object.insert(key.to_owned(), value);
        }
        for option in &self.rcpt {
            let (key, value) = match option {
                RcptOption::Notify { success, failure, delay } => {
                    let words = [(success, "success"), (failure, "failure"), (delay, "delay")];
                    let words = words.iter().filter(|(wanted, _)| **wanted).map(|(_, word)| *word);
                    ("notify", json!(words.collect::<Vec<_>>()))
                }
                RcptOption::NotifyNever => ("notify", json!("never")),
                RcptOption::OriginalRecipient(address) => ("original_recipient", json!(address.as_str())),
                other => {
                    push_raw(&mut object, "raw_rcpt", other.to_string());
                    continue;
                }
            };
            object.insert(key.to_owned(), value);
        }
        Value::Object(object).to_string()
    }

    /// Reads the options from JSON text.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for an unknown key or an invalid value.
    pub(crate) fn from_json(text: &str) -> Result<Options, Error> {
        let mut options = Options::default();
        if text == "{}" {
            return Ok(options);
        }
        let value: Value = serde_json::from_str(text).map_err(|e| wrong("options", &e.to_string()))?;
        let object = value.as_object().ok_or_else(|| wrong("options", "not an object"))?;
        for (key, value) in object {
            options.read(key, value).ok_or_else(|| wrong(key, &value.to_string()))?;
        }
        Ok(options)
    }

    /// Reads one key. Returns `None` if the key is unknown or its value is invalid.
    fn read(&mut self, key: &str, value: &Value) -> Option<()> {
        let text = || value.as_str().map(str::to_owned);
        self.mail.push(match key {
            "ret" => MailOption::Ret(match value.as_str()? {
                "full" => Ret::Full,
                "headers" => Ret::Headers,
                _ => return None,
            }),
            "envelope_id" => MailOption::EnvelopeId(text()?),
            "require_tls" if value.as_bool()? => MailOption::RequireTls,
            "require_tls" => return Some(()),
            "priority" => MailOption::Priority(value.as_i64()?.try_into().ok()?),
            "deliver_by" => MailOption::DeliverBy {
                seconds: value.get("seconds")?.as_i64()?.try_into().ok()?,
                late: match value.get("late")?.as_str()? {
                    "return" => OnLate::Return,
                    "notify" => OnLate::Notify,
                    _ => return None,
                },
                trace: value.get("trace").map_or(Some(false), Value::as_bool)?,
            },
            "hold_for" => MailOption::HoldFor(Duration::from_secs(value.as_u64()?)),
            "hold_until" => MailOption::HoldUntil(text()?),
            "auth" if value.is_null() => MailOption::Auth(None),
            "auth" => MailOption::Auth(Some(Address::new(value.as_str()?).ok()?)),
            "raw" => {
                for raw in value.as_array()? {
                    self.mail.push(MailOption::Raw(raw.as_str()?.to_owned()));
                }
                return Some(());
            }
            _ => return self.read_rcpt(key, value),
        });
        Some(())
    }

    fn read_rcpt(&mut self, key: &str, value: &Value) -> Option<()> {
        self.rcpt.push(match key {
            "notify" if value.as_str() == Some("never") => RcptOption::NotifyNever,
            "notify" => {
                let events: Option<Vec<&str>> = value.as_array()?.iter().map(Value::as_str).collect();
                let events = events?;
                if !events.iter().all(|event| matches!(*event, "success" | "failure" | "delay")) {
                    return None;
                }
                let has = |event| events.contains(&event);
                RcptOption::Notify { success: has("success"), failure: has("failure"), delay: has("delay") }
            }
            "original_recipient" => RcptOption::OriginalRecipient(Address::new(value.as_str()?).ok()?),
            "raw_rcpt" => {
                for raw in value.as_array()? {
                    self.rcpt.push(RcptOption::Raw(raw.as_str()?.to_owned()));
                }
                return Some(());
            }
            _ => return None,
        });
        Some(())
    }

    /// Sets the options on an envelope, which also checks them.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if an option is invalid.
    pub(crate) fn apply(&self, envelope: Envelope) -> Result<Envelope, Error> {
        let envelope = self.mail.iter().cloned().try_fold(envelope, Envelope::option)?;
        self.rcpt.iter().cloned().try_fold(envelope, Envelope::recipient_options)
    }
}

fn push_raw(object: &mut Map<String, Value>, key: &str, raw: String) {
    if let Some(all) = object.entry(key).or_insert_with(|| json!([])).as_array_mut() {
        all.push(raw.into());
    }
}

fn wrong(key: &str, what: &str) -> Error {
    Error::Config(format!("invalid options of a queued mail: {key}: {what}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_the_database() {
        let address = || Address::new("a@b.example").unwrap();
        let all = Options {
            mail: vec![
                MailOption::Auth(Some(address())),
                MailOption::DeliverBy { seconds: 60, late: OnLate::Notify, trace: true },
                MailOption::EnvelopeId("id".into()),
                MailOption::HoldFor(Duration::from_secs(5)),
                MailOption::Priority(-3),
                MailOption::Raw("X=1".into()),
                MailOption::Raw("Y".into()),
                MailOption::RequireTls,
                MailOption::Ret(Ret::Headers),
            ],
            rcpt: vec![
                RcptOption::Notify { success: true, failure: false, delay: true },
                RcptOption::OriginalRecipient(address()),
                RcptOption::Raw("Z=2".into()),
            ],
        };
        // The keys of an object have no order in jsonb.
        let sorted = |options: Options| {
            let mut texts: Vec<String> = options.mail.iter().map(|option| format!("{option:?}")).collect();
            texts.extend(options.rcpt.iter().map(|option| format!("{option:?}")));
            texts.sort();
            texts
        };
        assert_eq!(sorted(Options::from_json(&all.to_json()).unwrap()), sorted(all));
        for one in [
            Options { mail: vec![MailOption::Auth(None)], ..Options::default() },
            Options {
                mail: vec![MailOption::HoldUntil("2027-01-31T08:00:00Z".into())],
                ..Options::default()
            },
            Options { rcpt: vec![RcptOption::NotifyNever], ..Options::default() },
            Options::default(),
        ] {
            assert_eq!(Options::from_json(&one.to_json()).unwrap(), one);
        }
    }

    #[test]
    fn unknown_keys_and_invalid_values_are_errors() {
        for text in [
            "[]",
            "{",
            r#"{"colour":"red"}"#,
            r#"{"ret":"half"}"#,
            r#"{"priority":1000}"#,
            r#"{"notify":["sometimes"]}"#,
            r#"{"auth":1}"#,
        ] {
            assert!(Options::from_json(text).is_err(), "{text}");
        }
    }
}
