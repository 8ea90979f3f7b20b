//! The result: lines on standard error, the exit code, and one line of JSON.

use postino::{Delivery, Error, Outcome, Phase, Reply};

use crate::tell;

/// Reports each recipient that the message was not accepted for, and returns the exit code.
pub fn tell_recipients(delivery: &Delivery) -> u8 {
    let mut codes = [0; 3];
    for recipient in delivery.recipients() {
        let (i, code, what) = match recipient.outcome() {
            Outcome::Accepted => continue,
            Outcome::InDoubt => (0, 74, "may have received the message".to_owned()),
            Outcome::Refused => (
                1,
                67,
                format!("was refused: {}", recipient.reply().map(Reply::to_string).unwrap_or_default()),
            ),
            _ => (2, 75, "was not sent the message".to_owned()),
        };
        tell(&format!("{} {what}", recipient.address()));
        codes[i] = code;
    }
    codes.into_iter().find(|code| *code != 0).unwrap_or(0)
}

/// The exit code for an error (sysexits.h).
pub fn exit_code(error: &Error) -> u8 {
    let is_permanent = |reply: &Reply| reply.is_permanent();
    match error {
        _ if error.in_doubt() => 74,
        Error::Transaction { delivery, source } => {
            let for_good = delivery.refused().any(|recipient| recipient.reply().is_some_and(is_permanent));
            match **source {
                Error::Refused { phase: Phase::Recipient, .. } if for_good => 67,
                _ => exit_code(source),
            }
        }
        Error::Config(_) => 64,
        Error::Address { .. }
        | Error::NoRecipients
        | Error::Message(_)
        | Error::Unsupported(_)
        | Error::TooLarge { .. } => 65,
        Error::TlsRequired | Error::Certificate { .. } | Error::Tls { .. } => 77,
        Error::Auth { reply, .. } if reply.as_ref().is_none_or(is_permanent) => 77,
        Error::Refused { phase: Phase::StartTls | Phase::Auth, reply } if reply.is_permanent() => 77,
        Error::Refused { reply, .. } if reply.is_permanent() => 69,
        Error::Resolve { .. } => 68,
        Error::Protocol { .. } => 76,
        Error::Internal(_) => 70,
        _ => 75,
    }
}

/// The result on one line. `refused` lists the recipients that the server refused individually.
pub fn json(result: &Result<Delivery, Error>, known: &[String], reply: Option<&Reply>) -> String {
    let (delivery, error) = match result {
        Ok(delivery) => (Some(delivery), None),
        Err(e) => (e.delivery(), Some(e.to_string())),
    };
    let one = |address: &str, outcome, reply| {
        let (address, outcome, reply) = (quoted(Some(address)), name(outcome), quoted(reply));
        format!(r#"{{"recipient":{address},"outcome":"{outcome}","reply":{reply}}}"#)
    };
    let recipients: Vec<_> = match delivery {
        Some(d) => d.recipients().map(|r| one(r.address().as_str(), r.outcome(), r.reply())).collect(),
        None => known.iter().map(|address| one(address, Outcome::NotSent, None)).collect(),
    };
    let refused = delivery
        .into_iter()
        .flat_map(Delivery::refused)
        .map(|r| format!(r#"{{"recipient":{},"reply":{}}}"#, quoted(Some(r.address())), quoted(r.reply())));
    format!(
        r#"{{"outcome":"{}","reply":{},"refused":[{}],"recipients":[{}],"error":{}}}"#,
        name(delivery.map_or(Outcome::NotSent, Delivery::outcome)),
        quoted(reply),
        refused.collect::<Vec<_>>().join(","),
        recipients.join(","),
        quoted(error),
    )
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Refused => "refused",
        Outcome::InDoubt => "in_doubt",
        _ => "not_sent",
    }
}

/// A JSON string (RFC 8259 §7), or null.
fn quoted(text: Option<impl ToString>) -> String {
    let Some(text) = text else { return "null".to_owned() };
    let mut json = String::from('"');
    for c in text.to_string().chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            _ if c.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => json.push(c),
        }
    }
    json + "\""
}
