//! The result of an awkward message at each server: it is stored as it was sent, with the exceptions below.

use crate::{awkward::wire, servers::Server};

pub enum Fate {
    /// Stored like this after the server's own first headers; and what the server did to it, if anything.
    Stored(Vec<u8>, &'static str),
    /// Not sent at all: a word of the error, and the reason.
    RefusedHere(&'static str, &'static str),
    /// Refused by the server: the code, and the reason.
    RefusedThere(u16, &'static str),
}

use Fate::{RefusedHere, RefusedThere, Stored};

/// How a message is sent, as far as it matters here.
pub struct Path {
    pub lmtp: bool,
    /// Whether it is sent to the port with few extensions.
    pub old: bool,
}

pub fn fate(server: &Server, path: &Path, name: &str, text: &[u8]) -> Fate {
    let sent = wire(text);
    if text.contains(&0) {
        return RefusedHere("NUL", "SMTP cannot carry NUL");
    }
    // The port of aiosmtpd offers 8BITMIME nevertheless.
    if path.old && server.name != "aiosmtpd" && !text.is_ascii() {
        return RefusedHere("8BITMIME", "the server does not offer 8BITMIME");
    }
    if path.old && sent.len() > 20_000 {
        return RefusedHere("20000", "it is larger than the server's SIZE");
    }
    let headless = matches!(name, "no header, text" | "a lone dot" | "a lone dot and an end");
    let (stored, note) = match (server.name, name) {
        ("postfix" | "exim" | "sendmail", _) if headless => {
            ([b"\r\n", &sent[..]].concat(), "the server puts an empty line before what begins with no header")
        }
        ("exim" | "sendmail", "one header only") => {
            ([&sent[..], b"\r\n"].concat(), "the server puts an empty line behind headers without a body")
        }
        ("aiosmtpd", "a line of 5,000 octets") => {
            return RefusedThere(500, "aiosmtpd takes lines up to 999 octets");
        }
        ("dovecot", "a line of 5,000 octets") if !path.lmtp => {
            return RefusedThere(
                500,
                "aiosmtpd, which its proxy hands mail to, takes lines up to 999 octets",
            );
        }
        _ => (sent, ""),
    };
    Stored(server.as_stored(&stored), note)
}
