//! A message as text for people: its header, decoded, and the plain text.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{Message, encoded_stream::Piece, header_writer::quoted};

/// Header fields that a preview shows.
const SHOWN: [&str; 8] = ["From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Date", "Subject"];

/// Maximum lengths of a header field and of the text, in characters.
const MAX_FIELD: usize = 300;
const MAX_TEXT: usize = 4000;

impl Message {
    /// Returns the message as text for logs and terminals: the most important header fields (decoded), an empty line,
    /// and the plain text. HTML and attachments are not shown.
    ///
    /// Control characters, except for line endings and tabs, and characters that change the direction of text are
    /// replaced by `U+FFFD`, so that the text cannot control a terminal. A header field is cut off after 300
    /// characters, and the text after 4,000. `Bcc` is shown, although it is not sent.
    ///
    /// ```
    /// use postino::Message;
    ///
    /// let message = Message::builder()
    ///     .from(("Jörg", "joerg@example.org"))
    ///     .to("bob@example.net")
    ///     .subject("Grüße")
    ///     .text("Hello,\nBob!\x1b[2J\n")
    ///     .build()?;
    /// let preview = message.preview();
    /// assert!(preview.starts_with("From: Jörg <joerg@example.org>\nTo: bob@example.net\nSubject: Grüße\n"));
    /// assert!(preview.ends_with("\n\nHello,\nBob!\u{fffd}[2J\n"));
    /// # Ok::<(), postino::Error>(())
    /// ```
    #[must_use]
    pub fn preview(&self) -> String {
        let mut preview = String::new();
        for field in self.fields() {
            let Some(name) = SHOWN.iter().find(|name| name.eq_ignore_ascii_case(field.name())) else {
                continue;
            };
            let has_mailboxes = !matches!(*name, "Date" | "Subject");
            let value = shown(&decoded(&field.value(), has_mailboxes), MAX_FIELD);
            preview += &format!("{name}: {}\n", value.replace(['\n', '\t'], " "));
        }
        let text = self.plain_text().map(String::from_utf8_lossy).unwrap_or_default();
        if !text.is_empty() {
            preview.push('\n');
            preview += &shown(&text.replace("\r\n", "\n"), MAX_TEXT);
        }
        preview
    }

    /// Returns the beginning of the plain text, not encoded, if there is plain text that is not an attachment.
    fn plain_text(&self) -> Option<&[u8]> {
        let first = self.header("Content-Type").filter(|kind| kind.starts_with("text/plain"));
        let mut is_text = first.is_some();
        for piece in self.pieces_of_content() {
            match piece {
                Piece::Bytes { bytes, .. } if is_text => {
                    // A character has up to four octets, and a line ending two.
                    return Some(&bytes[..bytes.len().min(4 * MAX_TEXT + 4)]);
                }
                Piece::Text(header, _) if header.contains("\r\nContent-Disposition:") => return None,
                Piece::Text(header, _) => is_text = header.contains("\r\nContent-Type: text/plain;"),
                _ => is_text = false,
            }
        }
        None
    }
}

/// Returns the text in a form that is safe on a terminal, cut off after this number of characters.
fn shown(text: &str, most: usize) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars.by_ref().take(most).map(harmless).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

fn harmless(c: char) -> char {
    match c {
        '\n' | '\t' => c,
        // Marks, embeddings, overrides and isolates of bidirectional text, and separators of lines and paragraphs.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        _ if c.is_control() => '\u{fffd}',
        _ => c,
    }
}

/// Decodes the encoded words in a value (RFC 2047). A decoded name that could be mistaken for an address is quoted.
fn decoded(value: &str, has_mailboxes: bool) -> String {
    let mut out = String::new();
    let mut encoded: Option<String> = None; // adjacent encoded words, without the spaces between them
    let flush = |encoded: &mut Option<String>, out: &mut String| {
        if let Some(text) = encoded.take() {
            let is_misleading = has_mailboxes && text.contains(['<', '>', '@', ',', ';', '"', ':']);
            *out += &if is_misleading { quoted(&text) } else { text };
        }
    };
    let mut is_quoted = false;
    for (at, word) in value.split(' ').enumerate() {
        match decoded_word(word).filter(|_| !is_quoted) {
            Some(text) => match &mut encoded {
                Some(before) => *before += &text,
                None => {
                    out.push_str(if at == 0 { "" } else { " " });
                    encoded = Some(text);
                }
            },
            None => {
                flush(&mut encoded, &mut out);
                out.push_str(if at == 0 { "" } else { " " });
                out.push_str(word);
                let quotes = word.replace("\\\\", "").replace("\\\"", "").matches('"').count();
                is_quoted ^= has_mailboxes && quotes % 2 == 1;
            }
        }
    }
    flush(&mut encoded, &mut out);
    out
}

/// Decodes an encoded word. Returns `None` for any other text, and for charsets other than UTF-8, ASCII and ISO 8859-1.
fn decoded_word(word: &str) -> Option<String> {
    let mut parts = word.strip_prefix("=?")?.strip_suffix("?=")?.splitn(3, '?');
    let (charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
    let charset = charset.split('*').next().unwrap_or_default().to_ascii_lowercase();
    let octets = match encoding {
        "b" | "B" => BASE64_STANDARD.decode(text).ok()?,
        "q" | "Q" => unquoted(text)?,
        _ => return None,
    };
    match charset.as_str() {
        "utf-8" | "us-ascii" => Some(String::from_utf8_lossy(&octets).into_owned()),
        "iso-8859-1" => Some(octets.into_iter().map(char::from).collect()),
        _ => None,
    }
}

/// Decodes text in the "Q" encoding (RFC 2047 §4.2).
fn unquoted(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        octets.push(match byte {
            b'_' => b' ',
            b'=' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Attachment;

    fn builder() -> crate::message::MessageBuilder {
        Message::builder().from("a@example.org").message_id("1@x")
    }

    #[test]
    fn encoded_words_are_decoded_and_cannot_pose_as_addresses() {
        for (value, has_mailboxes, text) in [
            ("=?utf-8?b?R3LDvMOfZQ==?= to =?utf-8?q?B=C3=BCcher_x?=", false, "Grüße to Bücher x"),
            ("=?UTF-8?Q?a?= =?utf-8*de?Q?b?= c", false, "ab c"),
            (
                "=?iso-8859-1?q?=FC?= =?x-none?q?=FC?= =?utf-8?q?=F?=",
                false,
                "ü =?x-none?q?=FC?= =?utf-8?q?=F?=",
            ),
            ("=?utf-8?q?a?", false, "=?utf-8?q?a?"),
            ("=?utf-8?q?boss=40x_=3C?= <a@b>", true, "\"boss@x <\" <a@b>"),
            (
                "\"x =?utf-8?q?y?= z\" <a@b>, =?utf-8?q?=C3=BC?= <c@d>",
                true,
                "\"x =?utf-8?q?y?= z\" <a@b>, ü <c@d>",
            ),
        ] {
            assert_eq!(decoded(value, has_mailboxes), text);
        }
    }

    #[test]
    fn a_preview_has_no_character_that_controls_a_terminal() {
        let all: String =
            ('\0'..='\u{a0}').chain('\u{2000}'..='\u{2070}').chain(['\u{61c}', '\u{feff}']).collect();
        let preview = builder().text(&all).build().unwrap().preview();
        let bad = |c: char| {
            c.is_control() && c != '\n' && c != '\t' || "\u{202e}\u{2066}\u{200f}\u{61c}".contains(c)
        };
        assert!(!preview.contains(bad), "{preview:?}");
        assert!(preview.contains("\u{fffd}") && preview.contains('\u{a0}'));
        let encoded = "=?utf-8?q?=1B]0;title=07?=";
        assert_eq!(shown(&decoded(encoded, false), 99), "\u{fffd}]0;title\u{fffd}");
    }

    #[test]
    fn a_preview_is_bounded() {
        let to: Vec<String> = (0..1000).map(|n| format!("user{n}@example.net")).collect();
        let message = builder().to(to.join(", ")).subject("ü".repeat(2000)).text("ü\n".repeat(50_000));
        let preview = message.build().unwrap().preview();
        assert!(preview.lines().take(4).all(|line| line.chars().count() <= MAX_FIELD + 12), "{preview}");
        assert!(preview.chars().count() < 3 * MAX_FIELD + MAX_TEXT + 100);
        assert!(preview.ends_with("\nü\n…"), "{preview}");
    }

    #[test]
    fn only_plain_text_that_is_not_attached_is_shown() {
        let text = |message: Message| message.preview().split_once("\n\n").map(|(_, text)| text.to_owned());
        let inner = builder().text("inner\n").build().unwrap();
        let file = || Attachment::bytes("a.txt", "attached\n");
        for (message, shown) in [
            (builder().text("Hi\n").html("<p>").attach(file()), Some("Hi\n")),
            (builder().text("Grüße\n").attach(Attachment::message(inner.clone())), Some("Grüße\n")),
            (builder().text("x\n").report("delivery-status", "A: b\n"), Some("x\n")),
            (builder().html("<p>"), None),
            (builder().attach(file()), None),
            (builder().attach(Attachment::message(inner)), None),
            (builder().html("<p>").attach(file()), None),
            (builder(), None),
        ] {
            let message = message.build().unwrap();
            assert_eq!(text(message.clone()).as_deref(), shown, "{message:?}");
        }
    }
}
