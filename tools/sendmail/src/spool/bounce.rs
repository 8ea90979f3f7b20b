//! Bounces: messages that tell the sender which recipients were refused (RFC 3464). They consist of ASCII only, so that
//! every server accepts them.

use std::{
    fmt::Write,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use postino::message::{date_time, header_length};

use super::{Entry, Request, Spool, record::State};
use crate::id::new_id;

/// Maximum length of a reason, in octets, so that no line gets too long.
const MAX_REASON: usize = 700;
/// Maximum number of recipients whose reason is given. Of all others, only the address is.
const MAX_REASONS: usize = 100;
/// Maximum length of a line of the returned header, in octets.
const MAX_LINE: usize = 998;

/// Stores the bounce for the refusals that the sender does not know of. It has the null sender, so that nothing answers
/// it (RFC 5321 §4.5.5). Its identifier follows from that of the message and the number of attempts, so that it is
/// stored once, even if the program is killed before it can record that. Returns the bounce, which nobody sends as long
/// as this value lives, if there was none.
pub fn bounce(spool: &Spool, entry: &Entry, domain: &str) -> io::Result<Option<Entry>> {
    let content = compose(entry, domain)?;
    let request = Request {
        uid: entry.request().uid,
        time: super::now(),
        account: entry.request().account.clone(),
        to: vec![entry.request().from.clone()],
        ..Request::default()
    };
    spool.store_as(&format!("{}B{}", entry.id(), entry.record().tries), &request, &content)
}

fn compose(entry: &Entry, domain: &str) -> io::Result<Vec<u8>> {
    let domain = if domain.is_ascii() { domain } else { "localhost" };
    let request = entry.request();
    let refused: Vec<_> = request
        .to
        .iter()
        .zip(&entry.record().recipients)
        .filter_map(|(to, state)| match state {
            State::Refused(reason) => Some((to.as_str(), ascii(reason))),
            _ => None,
        })
        .collect();
    let mut text = "Your message could not be delivered to these recipients:\r\n\r\n".to_owned();
    let mut status = format!("Reporting-MTA: dns; {domain}\r\n");
    if let Some(id) = &request.envid {
        let _ = write!(status, "Original-Envelope-Id: {}\r\n", ascii(id));
    }
    let arrived = UNIX_EPOCH.checked_add(Duration::from_secs(request.time)).and_then(date_time);
    let _ = write!(status, "Arrival-Date: {}\r\n", arrived.unwrap_or_default());
    let _ = write!(status, "X-Spool-ID: {}\r\n", entry.id());
    for (number, (to, reason)) in refused.iter().enumerate() {
        let _ = write!(
            status,
            "\r\nFinal-Recipient: {}\r\nAction: failed\r\nStatus: {}\r\n",
            final_recipient(to),
            enhanced(reason)
        );
        if number < MAX_REASONS {
            let _ = write!(text, "  <{to}>\r\n    {reason}\r\n");
            let _ = write!(status, "Diagnostic-Code: smtp; {reason}\r\n");
        } else {
            let _ = write!(text, "  <{to}>\r\n");
        }
    }
    text.push_str("\r\nIt will not be tried again. The header of the message follows.\r\n");

    // Not composed by the library, whose composer would add 230 kB to the program.
    let mut message = format!("From: Mail Delivery System <MAILER-DAEMON@{domain}>\r\n");
    // The address of a sender beyond ASCII is only in the envelope.
    if request.from.is_ascii() {
        let _ = write!(message, "To: {}\r\n", request.from);
    }
    let (now, id) = (date_time(SystemTime::now()).unwrap_or_default(), new_id());
    let boundary = format!("postino-{}", entry.id());
    let part = |kind: &str| format!("\r\n--{boundary}\r\nContent-Type: {kind}\r\n\r\n");
    let _ = write!(
        message,
        "Subject: Undelivered mail returned to sender\r\nDate: {now}\r\nMessage-ID: <{id}.{}@{domain}>\r\n\
         Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"{boundary}\"\r\n{}{}{}{status}{}{}\r\n--{boundary}--\r\n",
        entry.id(),
        part("text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable"),
        quoted_printable(&text),
        part("message/delivery-status"),
        part("text/rfc822-headers"),
        header(entry)?,
    );
    Ok(message.into_bytes())
}

/// Returns the header of the message, in ASCII, with CRLF.
fn header(entry: &Entry) -> io::Result<String> {
    let head = entry.head()?;
    let end = header_length(&head).unwrap_or(head.len());
    let text = String::from_utf8_lossy(&head[..end]);
    let lines =
        text.lines().map(|line| line.chars().map(printable).take(MAX_LINE).collect::<String>() + "\r\n");
    Ok(lines.collect::<String>().trim_end().to_owned())
}

fn ascii(reason: &str) -> String {
    reason.chars().map(printable).take(MAX_REASON).collect()
}

fn printable(c: char) -> char {
    if matches!(c, ' '..='~' | '\t') { c } else { '?' }
}

/// Encodes text with CRLF line endings, none of whose lines ends with white space (RFC 2045 §6.7).
fn quoted_printable(text: &str) -> String {
    let mut encoded = String::new();
    for line in text.split_inclusive("\r\n") {
        let mut column = 0;
        for byte in line.trim_end_matches("\r\n").bytes() {
            let piece = match byte {
                b' '..=b'~' if byte != b'=' => char::from(byte).to_string(),
                _ => format!("={byte:02X}"),
            };
            if column + piece.len() > 75 {
                encoded.push_str("=\r\n");
                column = 0;
            }
            column += piece.len();
            encoded.push_str(&piece);
        }
        encoded.push_str("\r\n");
    }
    encoded
}

/// Returns the type and the address of a recipient. An address beyond ASCII is written in its form for 7-bit messages,
/// `utf-8-addr-xtext` (RFC 6533 §3).
fn final_recipient(to: &str) -> String {
    if to.is_ascii() {
        return format!("rfc822; {to}");
    }
    let escaped = to.chars().map(|c| match c {
        '!'..='~' if !matches!(c, '+' | '=' | '\\') => c.to_string(),
        _ => format!("\\x{{{:02X}}}", u32::from(c)),
    });
    format!("utf-8; {}", escaped.collect::<String>())
}

/// Returns the enhanced status code of a reply such as `550 5.1.1 no such user` (RFC 3463), or the general one.
fn enhanced(reason: &str) -> &str {
    let is_code = |word: &&str| {
        let mut parts = word.split('.');
        parts.next() == Some("5")
            && parts.clone().count() == 2
            && parts.all(|part| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()))
    };
    reason.split([' ', ':']).find(is_code).unwrap_or("5.0.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_beyond_ascii_are_escaped() {
        for (to, expected) in [
            ("bob+x@example.org", "rfc822; bob+x@example.org"),
            ("jörg+x@example.org", "utf-8; j\\x{F6}rg\\x{2B}x@example.org"),
            ("用户@例子.example", "utf-8; \\x{7528}\\x{6237}@\\x{4F8B}\\x{5B50}.example"),
        ] {
            assert_eq!(final_recipient(to), expected);
        }
    }

    #[test]
    fn lines_are_encoded_and_kept_short() {
        assert_eq!(quoted_printable("a = ö\r\n\r\nb"), "a =3D =C3=B6\r\n\r\nb\r\n");
        let long = quoted_printable(&format!("{}\r\n", "ö".repeat(100)));
        assert!(long.lines().all(|line| line.len() <= 76), "{long}");
        assert_eq!(long.replace("=\r\n", ""), format!("{}\r\n", "=C3=B6".repeat(100)));
    }
}
