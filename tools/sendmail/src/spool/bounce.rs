//! Bounces: messages that tell the sender which recipients were refused (RFC 3464).

use std::{fmt::Write, io, time::SystemTime};

use postino::message::header_length;

use super::{Entry, Request, Spool, record::State};
use crate::compose::{date, unique};

/// Maximum length of a reason, in octets, so that no line gets too long.
const MAX_REASON: usize = 700;

/// Stores the bounce for the refusals that the sender does not know of. It has the null sender, so that nothing answers
/// it (RFC 5321 §4.5.5). Its identifier follows from that of the message and the number of attempts, so that it is
/// stored once, even if the program is killed before it can record that.
pub fn bounce(spool: &Spool, entry: &Entry, domain: &str) -> io::Result<()> {
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
    let refused: Vec<_> = entry
        .request()
        .to
        .iter()
        .zip(&entry.record().recipients)
        .filter_map(|(to, state)| match state {
            State::Refused(reason) => Some((to.as_str(), ascii(reason))),
            _ => None,
        })
        .collect();
    let mut list = String::new();
    let mut status = format!("Reporting-MTA: dns; {domain}\r\nX-Spool-ID: {}\r\n", entry.id());
    for (to, reason) in &refused {
        let _ = write!(list, "  <{to}>\r\n    {reason}\r\n");
        let kind = if to.is_ascii() { "rfc822" } else { "utf-8" }; // RFC 6533
        let _ = write!(
            status,
            "\r\nFinal-Recipient: {kind}; {to}\r\nAction: failed\r\nStatus: {}\r\nDiagnostic-Code: smtp; {reason}\r\n",
            enhanced(reason)
        );
    }

    // Not composed by the library, whose composer would add 230 kB to the program.
    let mut text = String::new();
    let (from, id) = (format!("MAILER-DAEMON@{domain}"), unique());
    let _ = write!(text, "From: Mail Delivery System <{from}>\r\n");
    let sender = &entry.request().from;
    if sender.is_ascii() {
        let _ = write!(text, "To: {sender}\r\n");
    }
    let date = date(SystemTime::now());
    let _ = write!(
        text,
        "Subject: Undelivered mail returned to sender\r\nDate: {date}\r\nMessage-ID: <{id}@{domain}>\r\n\
         Auto-Submitted: auto-replied\r\n"
    );
    let boundary = format!("postino-{}", entry.id());
    let part = |kind: &str| format!("\r\n--{boundary}\r\nContent-Type: {kind}\r\n\r\n");
    let _ = write!(
        text,
        "MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"{boundary}\"\r\n{}\
         Your message could not be delivered to these recipients:\r\n\r\n{list}\r\n\
         It will not be tried again. The header of the message follows.\r\n{}{status}{}{}\r\n--{boundary}--\r\n",
        part("text/plain; charset=utf-8"),
        part("message/delivery-status"),
        part("text/rfc822-headers"),
        header(entry)?,
    );
    Ok(text.into_bytes())
}

/// Returns the header of the message, in ASCII, with CRLF.
fn header(entry: &Entry) -> io::Result<String> {
    let head = entry.head()?;
    let end = header_length(&head).unwrap_or(head.len());
    let text = String::from_utf8_lossy(&head[..end]);
    let lines = text.lines().map(|line| line.chars().map(printable).collect::<String>() + "\r\n");
    Ok(lines.collect::<String>().trim_end().to_owned())
}

fn ascii(reason: &str) -> String {
    reason.chars().map(printable).take(MAX_REASON).collect()
}

fn printable(c: char) -> char {
    if matches!(c, ' '..='~' | '\t') { c } else { '?' }
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
