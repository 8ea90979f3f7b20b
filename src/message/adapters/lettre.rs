//! `Mail` for the messages of lettre 0.11.

use lettre::{Address as Theirs, Message};

use crate::{
    Address, Envelope, Error,
    message::{Body, Mail, header_reader::remove_bcc},
};

/// The envelope is that of the lettre message. `Bcc` is never sent, not even with `keep_bcc`, which is for transports
/// that take the recipients from that header. The message is serialized in memory when it is sent.
///
/// ```no_run
/// let message = lettre::Message::builder()
///     .from("Alice <alice@example.org>".parse()?)
///     .to("Bob <bob@example.net>".parse()?)
///     .subject("Grüße")
///     .body("Hello, Bob!\n".to_owned())?;
/// postino::send("smtp://mail.example.org", &message)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "lettre-0_11")))]
impl Mail for Message {
    fn envelope(&self) -> Result<Envelope, Error> {
        let address = |theirs: &Theirs| Address::new(theirs.as_ref());
        let sender = self.envelope().from().map(address).transpose()?;
        let recipients = self.envelope().to().iter().map(address).collect::<Result<Vec<_>, Error>>()?;
        Envelope::from_addresses(sender, recipients)
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        Ok(Body::from(remove_bcc(self.formatted())))
    }
}
