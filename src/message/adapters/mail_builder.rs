//! `Mail` for the messages of mail-builder 2.

use mail_builder::MessageBuilder;

use crate::{
    Envelope, Error,
    message::{Body, Mail, header_reader::remove_bcc},
};

/// The envelope is taken from the headers ([`Envelope::from_headers`]), including `Bcc`, which is not sent. The message
/// is serialized in memory when it is sent.
///
/// mail-builder generates missing headers anew each time a message is serialized. If a message is sent twice, the
/// copies can be recognized as duplicates only if a `Message-ID` was set explicitly.
///
/// ```no_run
/// use mail_builder::MessageBuilder;
///
/// let message = MessageBuilder::new()
///     .from(("Alice", "alice@example.org"))
///     .to(("Bob", "bob@example.net"))
///     .subject("Grüße")
///     .text_body("Hello, Bob!\n");
/// postino::send("smtp://mail.example.org", &message)?;
/// # Ok::<(), postino::Error>(())
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "mail-builder-2")))]
impl Mail for MessageBuilder<'_> {
    fn envelope(&self) -> Result<Envelope, Error> {
        // The parts, which may be large, are left out.
        let headers = MessageBuilder { headers: self.headers.clone(), ..MessageBuilder::new() };
        Envelope::from_headers(&written(headers)?)
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        Ok(Body::from(remove_bcc(written(self.clone())?)))
    }
}

fn written(message: MessageBuilder<'_>) -> Result<Vec<u8>, Error> {
    message.write_to_vec().map_err(Error::Source)
}
