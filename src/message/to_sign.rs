//! Signed content: `multipart/signed` (RFC 1847), as used by OpenPGP (RFC 3156) and S/MIME (RFC 8551).

use super::{
    Attachment, Message,
    builder::Prepared,
    header_writer::Field,
    mime_part::{Part, check_protocol},
};
use crate::{Envelope, Error};

/// The content of a message, to be signed by another library or program. Created by
/// [`MessageBuilder::build_to_sign`](super::MessageBuilder::build_to_sign).
///
/// The signature covers the text and the attachments, with their MIME header fields, but not the header of the message.
/// It must be a detached signature of the [octets](ContentToSign::octets):
///
/// ```
/// use postino::Message;
///
/// # fn sign(octets: &[u8]) -> Result<Vec<u8>, postino::Error> { Ok(b"-----BEGIN PGP SIGNATURE-----\r\n".to_vec()) }
/// let content = Message::builder()
///     .from("alice@example.org")
///     .to("bob@example.net")
///     .subject("Signed")
///     .text("Hello, Bob!\n")
///     .build_to_sign()?;
/// let signature = sign(content.octets())?; // such as the output of gpg --detach-sign --armor
/// let message = content.signed("application/pgp-signature", "pgp-sha256", signature)?;
/// # assert!(message.header("Content-Type").unwrap().starts_with("multipart/signed; protocol="));
/// # Ok::<(), postino::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ContentToSign {
    /// The header of the message, without the fields that describe its content.
    fields: Vec<Field>,
    octets: Vec<u8>,
    levels: usize,
    envelope: Option<Envelope>,
}

impl ContentToSign {
    pub(super) fn new(prepared: Prepared) -> Result<ContentToSign, Error> {
        let Prepared { fields, part, levels, envelope } = prepared;
        let octets = Message::new(part.fields, part.content, part.eight_bit).to_bytes()?;
        if !octets.is_ascii() {
            let why =
                "an attached message with non-ASCII octets cannot be signed, because it cannot be encoded";
            return Err(Error::Message(why.into()));
        }
        Ok(ContentToSign { fields, octets, levels, envelope })
    }

    /// Returns the octets that the signature has to cover. They are ASCII, in lines that end in CRLF. No line ends in a
    /// space or a tab, except in attached messages and in the fields of a report.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Adds the signature. `protocol` is its media type: `application/pgp-signature` for an armored OpenPGP signature,
    /// or `application/pkcs7-signature` for an S/MIME signature in DER. `micalg` names its hash algorithm, such
    /// as `pgp-sha256` for OpenPGP, or `sha-256` for S/MIME.
    ///
    /// The content must not be changed afterwards. Signing the message with `Dkim` does not change it.
    ///
    /// # Errors
    ///
    /// [`Error::Message`] if the media type or the hash name is invalid, or if the signature is empty. The
    /// signature is not verified.
    pub fn signed(
        self,
        protocol: &str,
        micalg: &str,
        signature: impl Into<Vec<u8>>,
    ) -> Result<Message, Error> {
        let signature = signature.into();
        check_protocol(protocol, micalg)?;
        if signature.is_empty() {
            return Err(Error::Message("the signature is empty".into()));
        }
        let name = match protocol.to_ascii_lowercase().as_str() {
            "application/pgp-signature" => "signature.asc",
            "application/pkcs7-signature" => "smime.p7s",
            _ => "signature",
        };
        let signature = Part::attachment(Attachment::bytes(name, signature).content_type(protocol))?;
        let ContentToSign { mut fields, octets, levels, envelope } = self;
        let part = Part::signed(protocol, micalg, octets, signature)?;
        fields.extend(part.fields);
        let message = Message::new(fields, part.content, part.eight_bit).with_levels(levels);
        Ok(message.with_given_envelope(envelope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_octets_are_sent_unchanged_before_the_signature() {
        for text in ["Hello\n", "-- \nAlice\t\n", "Grüße\n", "From x\n", "no line ending", ""] {
            let content = Message::builder().from("a@example.org").text(text);
            let content = content.attach(Attachment::bytes("a.txt", "x \n")).build_to_sign().unwrap();
            let octets = content.octets().to_owned();
            assert!(octets.starts_with(b"Content-Type: multipart/mixed;"));
            let as_text = String::from_utf8(octets.clone()).unwrap();
            assert!(as_text.is_ascii() && as_text.replace("\r\n", "").contains('\n').eq(&false));
            assert!(!as_text.contains(" \r\n") && !as_text.contains("\t\r\n"), "{as_text}");
            let message = content.signed("application/pgp-signature", "pgp-sha256", "-----BEGIN").unwrap();
            let kind = message.header("Content-Type").unwrap();
            let expected =
                "multipart/signed; protocol=\"application/pgp-signature\"; micalg=pgp-sha256; boundary=\"";
            let boundary = kind.strip_prefix(expected).unwrap().trim_end_matches('"');
            let sent = String::from_utf8(message.to_bytes().unwrap()).unwrap();
            let (_, body) = sent.split_once("\r\n\r\n").unwrap();
            let parts: Vec<_> = body.split(&format!("--{boundary}")).collect();
            assert_eq!((parts.len(), parts[0], parts[3]), (4, "", "--\r\n"), "{sent}");
            assert_eq!(parts[1], format!("\r\n{as_text}\r\n"));
            assert!(parts[2].starts_with("\r\nContent-Type: application/pgp-signature\r\n"), "{sent}");
        }
    }

    #[test]
    fn what_cannot_be_signed_is_refused() {
        let builder = || Message::builder().from("a@example.org").text("Hello\n");
        let foreign = Attachment::bytes("", "Subject: ü\r\n\r\n").content_type("message/rfc822");
        assert!(matches!(builder().attach(foreign).build_to_sign(), Err(Error::Message(_))));
        for (protocol, micalg, signature) in [
            ("application/pgp-signature", "pgp sha", "x"),
            ("application/pgp-signature", "", "x"),
            ("application/pgp-signature; x=y", "pgp-sha256", "x"),
            ("application", "pgp-sha256", "x"),
            ("application/a\"b", "pgp-sha256", "x"),
            ("multipart/mixed", "pgp-sha256", "x"),
            ("application/pgp-signature", "pgp-sha256", ""),
        ] {
            let content = builder().build_to_sign().unwrap();
            let result = content.signed(protocol, micalg, signature);
            assert!(matches!(result, Err(Error::Message(_))), "{protocol} {micalg}");
        }
    }
}
