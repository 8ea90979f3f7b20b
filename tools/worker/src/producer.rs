//! Queueing mail, in the caller's transaction.

use std::{
    io::Read,
    time::{SystemTime, UNIX_EPOCH},
};

use diesel::{
    PgConnection, QueryableByName, RunQueryDsl, sql_query,
    sql_types::{Array, BigInt, Bool, Double, Nullable, Text},
};
use postino::{Address, Envelope, Mail, MailOption, RcptOption};

use crate::{Error, MAX_CONTENT, MAX_RECIPIENTS};

/// A mail to be queued by [`enqueue`].
///
/// ```
/// use postino_worker::NewMail;
///
/// let mail = NewMail::new("shop@example.org", ["bob@example.net"], "Subject: Your order\n\nThank you!\n")?
///     .dedup("order 4711")
///     .lane("transactional");
/// # let _ = mail;
/// # Ok::<(), postino_worker::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct NewMail {
    envelope: Envelope,
    content: Content,
    dedup: Option<String>,
    lane: String,
    due: Option<SystemTime>,
    message_id: Option<String>,
}

#[derive(Debug, Clone)]
enum Content {
    Bytes(Vec<u8>),
    Path(String),
}

impl NewMail {
    /// Creates a mail from a finished message: headers and body. An empty sender is the null reverse-path of bounces.
    ///
    /// If the message has no `Message-ID` or no `Date`, the worker adds it. Both are determined when the mail is
    /// queued, so they stay the same however often it is sent. The message is otherwise not changed: even `Bcc` is
    /// sent.
    ///
    /// # Errors
    ///
    /// [`Error::Mail`] for an invalid address, for no recipients or more than 10,000, and for content of more than
    /// 64 MiB.
    pub fn new<R: AsRef<str>>(
        sender: &str,
        recipients: impl IntoIterator<Item = R>,
        content: impl Into<Vec<u8>>,
    ) -> Result<NewMail, Error> {
        let content = content.into();
        if content.len() > MAX_CONTENT {
            let (size, limit) = (content.len() as u64, MAX_CONTENT as u64);
            return Err(Error::Mail(postino::Error::TooLarge { size, limit }));
        }
        NewMail::with(Envelope::new(sender, recipients)?, Content::Bytes(content))
    }

    /// Creates a mail whose message is a file. The path is relative to the folder `files` in the worker's
    /// configuration, which all workers must be able to read. The file must exist until the mail is final, and is never
    /// deleted.
    ///
    /// # Errors
    ///
    /// As for [`new`](NewMail::new).
    pub fn file<R: AsRef<str>>(
        sender: &str,
        recipients: impl IntoIterator<Item = R>,
        path: impl Into<String>,
    ) -> Result<NewMail, Error> {
        NewMail::with(Envelope::new(sender, recipients)?, Content::Path(path.into()))
    }

    /// Creates a mail from any message of postino, such as a `postino::Message`. The options of its envelope are queued
    /// too, including those of single recipients. The message is read immediately.
    ///
    /// # Errors
    ///
    /// [`Error::Mail`] if the message cannot be read, is larger than 64 MiB, or has more than 10,000 recipients.
    pub fn from_mail(mail: &impl Mail) -> Result<NewMail, Error> {
        let envelope = mail.envelope()?;
        let mut content = Vec::new();
        let reader = mail.body()?.into_reader().map_err(postino::Error::Source)?;
        let limit = MAX_CONTENT as u64;
        reader.take(limit + 1).read_to_end(&mut content).map_err(postino::Error::Source)?;
        if content.len() > MAX_CONTENT {
            return Err(Error::Mail(postino::Error::TooLarge { size: content.len() as u64, limit }));
        }
        NewMail::with(envelope, Content::Bytes(content))
    }

    fn with(envelope: Envelope, content: Content) -> Result<NewMail, Error> {
        if envelope.recipients().len() > MAX_RECIPIENTS {
            let what = format!("a queued mail can have at most {MAX_RECIPIENTS} recipients");
            return Err(Error::Mail(postino::Error::Config(what.into())));
        }
        Ok(NewMail {
            envelope,
            content,
            dedup: None,
            lane: "default".to_owned(),
            due: None,
            message_id: None,
        })
    }

    /// Sets a key that is unique to this mail. If a mail with the same key was queued before and not purged, this one
    /// is not queued.
    #[must_use]
    pub fn dedup(mut self, key: impl Into<String>) -> NewMail {
        self.dedup = Some(key.into());
        self
    }

    /// Sets the lane. Defaults to `default`.
    #[must_use]
    pub fn lane(mut self, name: impl Into<String>) -> NewMail {
        self.lane = name.into();
        self
    }

    /// Sets the time before which the mail is not sent. Defaults to now.
    #[must_use]
    pub fn due(mut self, time: SystemTime) -> NewMail {
        self.due = Some(time);
        self
    }

    /// Sets the `Message-ID`, with its angle brackets, that is added if the message has none. Defaults to a random one
    /// in the domain of the sender.
    #[must_use]
    pub fn message_id(mut self, id: impl Into<String>) -> NewMail {
        self.message_id = Some(id.into());
        self
    }

    /// Adds an option for the message.
    ///
    /// # Errors
    ///
    /// [`Error::Mail`] if the option is invalid, or contradicts another one.
    pub fn option(mut self, option: MailOption) -> Result<NewMail, Error> {
        self.envelope = self.envelope.option(option)?;
        Ok(self)
    }

    /// Adds an option for all recipients.
    ///
    /// # Errors
    ///
    /// [`Error::Mail`] if the option is invalid, or contradicts another one.
    pub fn recipient_options(mut self, option: RcptOption) -> Result<NewMail, Error> {
        self.envelope = self.envelope.recipient_options(option)?;
        Ok(self)
    }

    /// Adds an option for one recipient. `index` is its place in the list of recipients, from 0.
    ///
    /// # Errors
    ///
    /// [`Error::Mail`] if there is no such recipient, or if the option is invalid or contradicts another one.
    pub fn recipient_option(mut self, index: usize, option: RcptOption) -> Result<NewMail, Error> {
        self.envelope = self.envelope.recipient_option(index, option)?;
        Ok(self)
    }

    /// Returns the options of the envelope as JSON, in the form of postino's feature `serde`.
    fn options(&self) -> Result<String, Error> {
        let form = serde_json::to_value(&self.envelope);
        let mut form = form.map_err(|e| postino::Error::Config(format!("options: {e}").into()))?;
        if let Some(fields) = form.as_object_mut() {
            fields.retain(|key, _| !matches!(&key[..], "sender" | "recipients"));
        }
        Ok(form.to_string())
    }
}

/// The result of [`enqueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enqueued {
    /// The number of the mail in the queue.
    pub id: i64,
    /// Whether the mail was queued now. If a mail with the same dedup key was queued before, this is false, and `id` is
    /// the id of that mail.
    pub is_new: bool,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Bool)]
    is_new: bool,
}

/// Queues a mail in the transaction of the connection, so that it is sent if and only if the transaction commits.
///
/// ```no_run
/// use diesel::{Connection, PgConnection};
/// use postino_worker::{NewMail, enqueue};
///
/// let mut connection = PgConnection::establish("postgres:///shop")?;
/// connection.transaction(|connection| {
///     // … the order …
///     let mail = NewMail::new("shop@example.org", ["bob@example.net"], "Subject: Your order\n\nThank you!\n")?;
///     enqueue(connection, &mail.dedup("order 4711"))
/// })?;
/// # Ok::<(), postino_worker::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Database`], for instance if the lane does not exist, if the role may not execute `postino_enqueue`, or if
/// there are more than 100 options for MAIL or for one recipient.
pub fn enqueue(connection: &mut PgConnection, mail: &NewMail) -> Result<Enqueued, Error> {
    let (content, path) = match &mail.content {
        Content::Bytes(bytes) => (Some(&bytes[..]), None),
        Content::Path(path) => (None, Some(&path[..])),
    };
    let due = mail.due.map(|due| match due.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    });
    let row: Row = sql_query(
        "select id, is_new from postino_enqueue(
           sender => $1, recipients => $2, content => $3, path => $4, dedup => $5, lane => $6,
           due => coalesce(to_timestamp($7), now()), options => $8::jsonb, message_id => $9)",
    )
    .bind::<Text, _>(mail.envelope.sender().map_or("", Address::as_str))
    .bind::<Array<Text>, _>(mail.envelope.recipients().iter().map(Address::as_str).collect::<Vec<_>>())
    .bind::<Nullable<diesel::sql_types::Binary>, _>(content)
    .bind::<Nullable<Text>, _>(path)
    .bind::<Nullable<Text>, _>(mail.dedup.as_deref())
    .bind::<Text, _>(&mail.lane)
    .bind::<Nullable<Double>, _>(due)
    .bind::<Text, _>(mail.options()?)
    .bind::<Nullable<Text>, _>(mail.message_id.as_deref())
    .get_result(connection)?;
    Ok(Enqueued { id: row.id, is_new: row.is_new })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_an_envelope_are_queued() {
        let envelope = Envelope::new("a@b", ["c@d", "e@f", "g@h"])
            .and_then(|envelope| envelope.option(MailOption::RequireTls))
            .and_then(|envelope| envelope.recipient_option(1, RcptOption::NotifyNever));
        let mail = NewMail::from_mail(&postino::Raw::bytes(envelope.unwrap(), "Subject: x\n\n")).unwrap();
        let options = r#"{"options":["require_tls"],"recipient_options":[[],["notify_never"]]}"#;
        assert_eq!(mail.options().unwrap(), options);
        assert!(mail.recipient_option(3, RcptOption::NotifyNever).is_err());
        assert_eq!(NewMail::new("", ["c@d"], "").unwrap().options().unwrap(), "{}");
    }

    #[test]
    fn invalid_mail_is_refused_before_it_is_queued() {
        assert!(NewMail::new("a@b", ["no\r\nRCPT"], "").is_err());
        assert!(NewMail::new("a@b", [] as [&str; 0], "").is_err());
        let many = (0..=MAX_RECIPIENTS).map(|number| format!("{number}@x"));
        assert!(NewMail::new("a@b", many, "").is_err());
        assert!(NewMail::new("a@b", ["c@d"], vec![0; MAX_CONTENT + 1]).is_err());
        let mail = NewMail::new("a@b", ["c@d"], "").unwrap();
        assert!(mail.option(MailOption::Priority(99)).is_err());
    }
}
