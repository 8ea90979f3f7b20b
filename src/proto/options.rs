//! The options of MAIL and RCPT: how they are sent, and whether a server offers them.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Capabilities, Parameters};
use crate::{Address, Error};

/// The part of a message that a bounce returns (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Only the headers.
    Headers,
}

/// What a server does with a message that has not been delivered in time (RFC 2852 §4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnLate {
    /// Returns the message to the sender.
    Return,
    /// Notifies the sender, and keeps trying to deliver the message.
    Notify,
}

/// An option for a message, sent as a parameter of MAIL.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MailOption {
    /// RET: the part of the message that a bounce returns (RFC 3461 §4.3). Needs DSN.
    Ret(Ret),
    /// ENVID: an identifier that is included in bounces and reports (RFC 3461 §4.4). It consists of printable ASCII
    /// characters, and is 1 to 100 octets long after encoding. Needs DSN.
    EnvelopeId(String),
    /// REQUIRETLS: no server along the way may relay the message without TLS (RFC 8689). Needs the extension and a
    /// TLS connection.
    RequireTls,
    /// MT-PRIORITY: a priority from -9 to 9, where 9 is the most urgent (RFC 6710). Needs MT-PRIORITY.
    Priority(i8),
    /// BY: a time limit for the delivery, and what to do once the limit has passed (RFC 2852). Needs DELIVERBY.
    DeliverBy {
        /// The time limit, from 1 to 999,999,999 seconds. With [`OnLate::Notify`], it may also be 0 or negative, down
        /// to -999,999,999, if the time has already passed.
        seconds: i32,
        /// What to do if the message is late.
        late: OnLate,
        /// Whether every server along the way reports that it has relayed the message.
        trace: bool,
    },
    /// HOLDFOR: how long the server holds the message, in whole seconds from 1 to 999,999,999 (RFC 4865). Needs
    /// FUTURERELEASE, and cannot be combined with [`HoldUntil`](MailOption::HoldUntil).
    HoldFor(Duration),
    /// HOLDUNTIL: when the server releases the message, as an RFC 3339 date and time such as `2027-01-31T08:00:00Z`
    /// (RFC 4865). Needs FUTURERELEASE, and cannot be combined with [`HoldFor`](MailOption::HoldFor). A time beyond the
    /// server's limit is an [`Error::Config`] before MAIL.
    HoldUntil(String),
    /// AUTH: the original submitter of the message, or `None` if the submitter is unknown or not trusted (RFC 4954
    /// §5). Needs AUTH.
    Auth(Option<Address>),
    /// XVERP: the server sends a separate copy to each recipient, with the recipient in the sender's address, such as
    /// `list+bob=example.net@example.org`. A bounce then shows which recipient it is about. The first character is put
    /// before the recipient, and the second replaces its `@`. Each must be `+`, `-` or `=`. With `None`, Postfix uses
    /// its default, `+=`. Needs XVERP, an extension of [Postfix](https://www.postfix.org/VERP_README.html), which
    /// offers it only to clients in `smtpd_authorized_verp_clients`. For other servers, see [`Address::verp`].
    Xverp(Option<[char; 2]>),
    /// Any other parameter as it is sent: `KEYWORD` or `KEYWORD=value` (RFC 5321 §4.1.2). Each keyword can be set only
    /// once. Whether the server offers it is not checked. SIZE, BODY and SMTPUTF8 are not allowed here: they are added
    /// automatically where they are needed.
    Raw(String),
}

/// The parameters of MAIL, and the EHLO keyword of the extension that each belongs to.
const MAIL_PARAMETERS: [(&str, &str); 12] = [
    ("SIZE", "SIZE"),
    ("BODY", "8BITMIME"),
    ("SMTPUTF8", "SMTPUTF8"),
    ("RET", "DSN"),
    ("ENVID", "DSN"),
    ("REQUIRETLS", "REQUIRETLS"),
    ("MT-PRIORITY", "MT-PRIORITY"),
    ("BY", "DELIVERBY"),
    ("HOLDFOR", "FUTURERELEASE"),
    ("HOLDUNTIL", "FUTURERELEASE"),
    ("AUTH", "AUTH"),
    ("XVERP", "XVERP"),
];

/// Returns the EHLO keyword of the extension that a parameter of MAIL belongs to, such as `DSN` for `RET=FULL`.
pub(crate) fn mail_extension(parameter: &str) -> Option<&'static str> {
    let keyword = parameter.split_once('=').map_or(parameter, |(keyword, _)| keyword);
    let row = MAIL_PARAMETERS.iter().find(|(parameter, _)| parameter.eq_ignore_ascii_case(keyword));
    row.map(|(_, extension)| *extension)
}

/// Returns the EHLO keywords of all extensions that have parameters of MAIL.
#[cfg(feature = "testing")]
pub(crate) fn mail_extensions() -> impl Iterator<Item = &'static str> {
    MAIL_PARAMETERS.iter().map(|(_, extension)| *extension)
}

impl MailOption {
    pub(crate) fn check(&self) -> Result<(), Error> {
        // There is no `_` arm: a new option does not compile until a check is added.
        match self {
            MailOption::Ret(Ret::Full | Ret::Headers) | MailOption::RequireTls | MailOption::Auth(_) => {
                Ok(())
            }
            MailOption::EnvelopeId(id) => {
                if id.is_empty() {
                    Err(wrong("ENVID: the envelope id is empty"))
                } else if !id.bytes().all(|b| matches!(b, 32..=126)) {
                    Err(wrong("ENVID: the envelope id contains characters other than printable ASCII"))
                } else if xtext_len(id) > 100 {
                    Err(wrong("ENVID: the encoded envelope id is longer than 100 octets"))
                } else {
                    Ok(())
                }
            }
            MailOption::Priority(-9..=9) => Ok(()),
            MailOption::Priority(_) => Err(wrong("MT-PRIORITY: the priority is not between -9 and 9")),
            MailOption::DeliverBy { seconds: 1..=999_999_999, late: OnLate::Return, trace: _ }
            | MailOption::DeliverBy { seconds: -999_999_999..=999_999_999, late: OnLate::Notify, trace: _ } => {
                Ok(())
            }
            MailOption::DeliverBy { .. } => Err(wrong("DELIVERBY: seconds out of range")),
            MailOption::HoldFor(time) => {
                if (1..=999_999_999).contains(&time.as_secs()) {
                    Ok(())
                } else {
                    Err(wrong("HOLDFOR: the time is not between 1 and 999,999,999 seconds"))
                }
            }
            MailOption::HoldUntil(time) => match date_time(time) {
                Some(_) => Ok(()),
                None => Err(wrong("HOLDUNTIL: not an RFC 3339 date and time")),
            },
            MailOption::Xverp(None) => Ok(()),
            MailOption::Xverp(Some(delimiters)) if delimiters.iter().all(|c| "+-=".contains(*c)) => Ok(()),
            MailOption::Xverp(Some(_)) => Err(wrong("XVERP: a delimiter is not one of +, - or =")),
            MailOption::Raw(text) => check_raw(text, &["SIZE", "BODY", "SMTPUTF8"]),
        }
    }

    /// Returns whether a later option replaces this one: both are of the same kind, and not raw.
    pub(crate) fn is_replaced_by(&self, new: &MailOption) -> bool {
        !matches!(self, MailOption::Raw(_)) && std::mem::discriminant(self) == std::mem::discriminant(new)
    }

    /// Checks that another option may be in the same command.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if both have the same keyword, or if they are HOLDFOR and HOLDUNTIL (RFC 4865).
    pub(crate) fn check_beside(&self, other: &MailOption) -> Result<(), Error> {
        let (own, others) = (self.keyword(), other.keyword());
        check_keywords(own, others)?;
        let is = |keyword: &str, expected: &str| keyword.eq_ignore_ascii_case(expected);
        if is(own, "HOLDFOR") && is(others, "HOLDUNTIL") || is(own, "HOLDUNTIL") && is(others, "HOLDFOR") {
            return Err(wrong("HOLDFOR and HOLDUNTIL are mutually exclusive"));
        }
        Ok(())
    }

    fn keyword(&self) -> &str {
        match self {
            MailOption::Ret(_) => "RET",
            MailOption::EnvelopeId(_) => "ENVID",
            MailOption::RequireTls => "REQUIRETLS",
            MailOption::Priority(_) => "MT-PRIORITY",
            MailOption::DeliverBy { .. } => "BY",
            MailOption::HoldFor(_) => "HOLDFOR",
            MailOption::HoldUntil(_) => "HOLDUNTIL",
            MailOption::Auth(_) => "AUTH",
            MailOption::Xverp(_) => "XVERP",
            MailOption::Raw(text) => raw_keyword(text),
        }
    }

    pub(crate) fn check_offered(&self, offered: &Capabilities, encrypted: bool) -> Result<(), Error> {
        let keyword = match self {
            MailOption::Raw(_) => return Ok(()),
            option => mail_extension(&option.to_string()).unwrap_or("an extension that supports this option"),
        };
        let Some(parameters) = offered.parameters(keyword) else { return Err(Error::Unsupported(keyword)) };
        let limit = parameters.split([' ', ',']).next().and_then(|word| word.parse::<u64>().ok());
        match (self, limit) {
            (MailOption::RequireTls, _) if !encrypted => {
                Err(Error::Unsupported("a usable REQUIRETLS, because the connection has no TLS"))
            }
            // RFC 2852 §2: the shortest time limit that the server accepts.
            (MailOption::DeliverBy { seconds, late: OnLate::Return, .. }, Some(least))
                if u64::try_from(*seconds).is_ok_and(|seconds| seconds < least) =>
            {
                Err(wrong(&format!("DELIVERBY: the time is below the server's minimum of {least} seconds")))
            }
            (MailOption::HoldFor(time), Some(most)) if time.as_secs() > most => {
                Err(wrong(&format!("HOLDFOR: the time is above the server's maximum of {most} seconds")))
            }
            (MailOption::HoldUntil(time), limit) if date_time(time) > latest_release(parameters, limit) => {
                Err(wrong("HOLDUNTIL: the time is later than the server allows"))
            }
            _ => Ok(()),
        }
    }
}

/// Writes the parameter as it is sent.
impl fmt::Display for MailOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MailOption::Ret(Ret::Full) => f.write_str("RET=FULL"),
            MailOption::Ret(Ret::Headers) => f.write_str("RET=HDRS"),
            MailOption::EnvelopeId(id) => write!(f, "ENVID={}", Xtext(id)),
            MailOption::RequireTls => f.write_str("REQUIRETLS"),
            MailOption::Priority(level) => write!(f, "MT-PRIORITY={level}"),
            MailOption::DeliverBy { seconds, late, trace } => {
                let late = if *late == OnLate::Return { "R" } else { "N" };
                write!(f, "BY={seconds};{late}{}", if *trace { "T" } else { "" })
            }
            MailOption::HoldFor(time) => write!(f, "HOLDFOR={}", time.as_secs()),
            MailOption::HoldUntil(time) => write!(f, "HOLDUNTIL={time}"),
            MailOption::Auth(None) => f.write_str("AUTH=<>"),
            MailOption::Auth(Some(address)) => write!(f, "AUTH={}", Xtext(address.as_str())),
            MailOption::Xverp(None) => f.write_str("XVERP"),
            MailOption::Xverp(Some([first, second])) => write!(f, "XVERP={first}{second}"),
            MailOption::Raw(text) => f.write_str(text),
        }
    }
}

/// An option for a recipient, sent as a parameter of RCPT.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RcptOption {
    /// NOTIFY: the events to report (RFC 3461 §4.1). Needs DSN.
    Notify {
        /// Whether to report that the message has been delivered.
        success: bool,
        /// Whether to report that the message cannot be delivered.
        failure: bool,
        /// Whether to report that the delivery is delayed.
        delay: bool,
    },
    /// NOTIFY=NEVER: no reports at all, not even a bounce. Needs DSN.
    NotifyNever,
    /// ORCPT: the original recipient, before any mailing list or alias was expanded, with the address type `rfc822`
    /// (RFC 3461 §4.2). Needs DSN.
    OriginalRecipient(Address),
    /// Any other parameter as it is sent: `KEYWORD` or `KEYWORD=value` (RFC 5321 §4.1.2). Each keyword can be set only
    /// once. Whether the server offers it is not checked.
    Raw(String),
}

impl RcptOption {
    /// Returns whether a later option replaces this one: both have the same keyword, and neither is raw.
    pub(crate) fn is_replaced_by(&self, new: &RcptOption) -> bool {
        let is_raw = |option: &RcptOption| matches!(option, RcptOption::Raw(_));
        !is_raw(self) && !is_raw(new) && self.keyword() == new.keyword()
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            RcptOption::Notify { success: false, failure: false, delay: false } => {
                Err(wrong("NOTIFY: no event is set (use NotifyNever)"))
            }
            RcptOption::Notify { success: _, failure: _, delay: _ } | RcptOption::NotifyNever => Ok(()),
            RcptOption::OriginalRecipient(address) => {
                if address.as_str().is_ascii() {
                    Ok(())
                } else {
                    Err(wrong("ORCPT: the original recipient contains non-ASCII characters"))
                }
            }
            RcptOption::Raw(text) => check_raw(text, &[]),
        }
    }

    /// Checks that another option may be in the same command.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if both have the same keyword.
    pub(crate) fn check_beside(&self, other: &RcptOption) -> Result<(), Error> {
        check_keywords(self.keyword(), other.keyword())
    }

    fn keyword(&self) -> &str {
        match self {
            RcptOption::Notify { .. } | RcptOption::NotifyNever => "NOTIFY",
            RcptOption::OriginalRecipient(_) => "ORCPT",
            RcptOption::Raw(text) => raw_keyword(text),
        }
    }
}

/// Writes the parameter as it is sent.
impl fmt::Display for RcptOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RcptOption::Notify { success, failure, delay } => {
                let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
                let words = words.iter().filter(|(wanted, _)| **wanted).map(|(_, word)| *word);
                write!(f, "NOTIFY={}", words.collect::<Vec<_>>().join(","))
            }
            RcptOption::NotifyNever => f.write_str("NOTIFY=NEVER"),
            RcptOption::OriginalRecipient(address) => write!(f, "ORCPT=rfc822;{}", Xtext(address.as_str())),
            RcptOption::Raw(text) => f.write_str(text),
        }
    }
}

fn wrong(what: &str) -> Error {
    Error::Config(format!("invalid envelope option: {what}").into())
}

/// Checks that two options of one command have different keywords.
fn check_keywords(one: &str, other: &str) -> Result<(), Error> {
    if one.eq_ignore_ascii_case(other) {
        return Err(wrong(&format!("{one} is set twice")));
    }
    Ok(())
}

fn raw_keyword(text: &str) -> &str {
    text.split_once('=').map_or(text, |(keyword, _)| keyword)
}

fn check_raw(text: &str, own: &[&str]) -> Result<(), Error> {
    let keyword = raw_keyword(text);
    match own.iter().find(|own| keyword.eq_ignore_ascii_case(own)) {
        Some(own) => Err(wrong(&format!("{own} is added automatically where it is needed"))),
        None => Parameters::new([text]).map(drop),
    }
}

/// Returns the latest time until which a server holds a message: the date and time that it announces, or else its
/// longest interval in seconds from now, by this machine's clock (RFC 4865 §4). If the server announces neither,
/// returns the largest `DateTime`.
fn latest_release(parameters: &str, longest: Option<u64>) -> Option<DateTime> {
    let named = parameters.split([' ', ',']).find_map(date_time);
    let by_clock = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(DateTime { seconds: i64::try_from(now.as_secs().checked_add(longest?)?).ok()?, nanos: u32::MAX })
    };
    Some(named.or_else(by_clock).unwrap_or(DateTime { seconds: i64::MAX, nanos: u32::MAX }))
}

/// Seconds since 1970 in UTC, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct DateTime {
    seconds: i64,
    nanos: u32,
}

/// Parses a date and time such as `2027-01-31T08:00:00Z`, optionally with a fraction of a second or an offset (RFC 3339
/// §5.6).
fn date_time(text: &str) -> Option<DateTime> {
    const SHAPE: &str = "0000-00-00T00:00:00";
    let has_shape = |text: &str, shape: &str| {
        let same = |(c, s): (u8, u8)| if s == b'0' { c.is_ascii_digit() } else { c == s };
        text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(same)
    };
    let (time, rest) = text.get(..SHAPE.len()).zip(text.get(SHAPE.len()..))?;
    let fraction_len = rest.strip_prefix('.').map(|rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let (fraction, zone) = match fraction_len {
        None => ("", rest),
        Some(0) => return None,
        Some(digits) => (&rest[1..=digits], &rest[1 + digits..]),
    };
    let offset = match zone.as_bytes().first()? {
        b'Z' if zone.len() == 1 => 0,
        sign @ (b'+' | b'-') if has_shape(&zone[1..], "00:00") => {
            let (hours, minutes) = (number(&zone[1..3])?, number(&zone[4..])?);
            let offset = (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)?;
            if *sign == b'+' { offset } else { -offset }
        }
        _ => return None,
    };
    if !has_shape(time, SHAPE) {
        return None;
    }
    let part = |from: usize, to: usize| number(&time[from..to]);
    let days = days_since_1970(part(0, 4)?, part(5, 7)?, part(8, 10)?)?;
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let seconds = (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)?;
    let nanos = format!("{fraction:0<9.9}").parse().ok()?;
    Some(DateTime { seconds: days * 86_400 + seconds - offset, nanos })
}

fn number(digits: &str) -> Option<i64> {
    digits.parse().ok()
}

/// Returns the number of days from 1970-01-01 to a day of the Gregorian calendar, or `None` if there is no such day.
/// (Howard Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`.)
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// Text in a parameter. Octets that could end it are written as `+` and two hexadecimal digits (RFC 3461 §4).
struct Xtext<'a>(&'a str);

fn is_plain(octet: u8) -> bool {
    matches!(octet, b'!'..=b'~') && !matches!(octet, b'+' | b'=')
}

fn xtext_len(text: &str) -> usize {
    text.bytes().map(|b| if is_plain(b) { 1 } else { 3 }).sum()
}

impl fmt::Display for Xtext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|b| {
            if is_plain(b) { write!(f, "{}", char::from(b)) } else { write!(f, "+{b:02X}") }
        })
    }
}

/// Returns at least one of each option for a message. A `match` ensures that new variants are added here.
#[cfg(test)]
pub(crate) fn one_of_each() -> Vec<MailOption> {
    let all = vec![
        MailOption::Ret(Ret::Headers),
        MailOption::EnvelopeId("id".into()),
        MailOption::RequireTls,
        MailOption::Priority(1),
        MailOption::DeliverBy { seconds: 60, late: OnLate::Return, trace: true },
        MailOption::HoldFor(Duration::from_secs(60)),
        MailOption::HoldUntil("2027-01-31T08:00:00Z".into()),
        MailOption::Auth(None),
        MailOption::Xverp(None),
        MailOption::Raw("XFOO=bar".into()),
    ];
    let number = |option: &MailOption| match option {
        MailOption::Ret(_) => 0,
        MailOption::EnvelopeId(_) => 1,
        MailOption::RequireTls => 2,
        MailOption::Priority(_) => 3,
        MailOption::DeliverBy { .. } => 4,
        MailOption::HoldFor(_) => 5,
        MailOption::HoldUntil(_) => 6,
        MailOption::Auth(_) => 7,
        MailOption::Xverp(_) => 8,
        MailOption::Raw(_) => 9,
    };
    assert!(all.iter().map(number).eq(0..all.len()));
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Envelope, proto::Inbox};

    fn envelope() -> Envelope {
        Envelope::new("s@x", ["a@x", "b@x"]).unwrap()
    }

    #[test]
    fn options_are_formatted_as_their_rfcs_specify() {
        let address = Address::new("\"a b+c\"@x").unwrap();
        for (option, wire) in [
            (MailOption::Ret(Ret::Full), "RET=FULL"),
            (MailOption::Ret(Ret::Headers), "RET=HDRS"),
            (MailOption::EnvelopeId("a b=c+".into()), "ENVID=a+20b+3Dc+2B"),
            (MailOption::RequireTls, "REQUIRETLS"),
            (MailOption::Priority(-3), "MT-PRIORITY=-3"),
            (MailOption::DeliverBy { seconds: 120, late: OnLate::Return, trace: true }, "BY=120;RT"),
            (MailOption::DeliverBy { seconds: -5, late: OnLate::Notify, trace: false }, "BY=-5;N"),
            (MailOption::HoldFor(Duration::from_secs(60)), "HOLDFOR=60"),
            (MailOption::HoldUntil("2027-01-31T08:00:00Z".into()), "HOLDUNTIL=2027-01-31T08:00:00Z"),
            (MailOption::Auth(None), "AUTH=<>"),
            (MailOption::Auth(Some(address.clone())), "AUTH=\"a+20b+2Bc\"@x"),
            (MailOption::Xverp(None), "XVERP"),
            (MailOption::Xverp(Some(['+', '='])), "XVERP=+="),
            (MailOption::Raw("XFOO=bar".into()), "XFOO=bar"),
        ] {
            option.check().unwrap();
            assert_eq!(option.to_string(), wire);
        }
        for (option, wire) in [
            (
                RcptOption::Notify { success: true, failure: true, delay: true },
                "NOTIFY=SUCCESS,FAILURE,DELAY",
            ),
            (RcptOption::NotifyNever, "NOTIFY=NEVER"),
            (RcptOption::OriginalRecipient(address), "ORCPT=rfc822;\"a+20b+2Bc\"@x"),
        ] {
            option.check().unwrap();
            assert_eq!(option.to_string(), wire);
        }
    }

    #[test]
    fn each_mail_option_requires_its_extension() {
        let nothing = Capabilities::default();
        for option in one_of_each() {
            let extension = match option {
                MailOption::Ret(_) | MailOption::EnvelopeId(_) => "DSN",
                MailOption::RequireTls => "REQUIRETLS",
                MailOption::Priority(_) => "MT-PRIORITY",
                MailOption::DeliverBy { .. } => "DELIVERBY",
                MailOption::HoldFor(_) | MailOption::HoldUntil(_) => "FUTURERELEASE",
                MailOption::Auth(_) => "AUTH",
                MailOption::Xverp(_) => "XVERP",
                MailOption::Raw(_) => {
                    option.check_offered(&nothing, true).unwrap();
                    continue;
                }
            };
            let error = option.check_offered(&nothing, true).unwrap_err();
            assert!(matches!(error, Error::Unsupported(keyword) if keyword == extension), "{error:?}");
        }
    }

    #[test]
    fn invalid_options_are_refused_immediately() {
        for option in [
            MailOption::EnvelopeId(String::new()),
            MailOption::EnvelopeId("ü".into()),
            MailOption::EnvelopeId("=".repeat(34)),
            MailOption::Priority(10),
            MailOption::DeliverBy { seconds: 0, late: OnLate::Return, trace: false },
            MailOption::DeliverBy { seconds: i32::MIN, late: OnLate::Notify, trace: false },
            MailOption::HoldFor(Duration::from_millis(999)),
            MailOption::HoldUntil("tomorrow".into()),
            MailOption::HoldUntil("2027-01-31T08:00:00.Z".into()),
            MailOption::HoldUntil("2027-01-31T08:00:00Z\r\nDATA".into()),
            MailOption::HoldUntil("2027-02-29T08:00:00Z".into()),
            MailOption::HoldUntil("2027-13-01T08:00:00Z".into()),
            MailOption::HoldUntil("2027-01-31T24:00:00Z".into()),
            MailOption::HoldUntil("2027-01-31T08:00:00+24:00".into()),
            MailOption::HoldUntil("2027-01-31T08:00:00".into()),
            MailOption::Xverp(Some(['+', '\r'])),
            MailOption::Xverp(Some(['%', '='])),
            MailOption::Raw("SIZE=1".into()),
            MailOption::Raw("smtputf8".into()),
            MailOption::Raw("A=b c".into()),
            MailOption::Raw("A=b\r\nRSET".into()),
            MailOption::Raw(String::new()),
            MailOption::Raw("A=".into()),
            MailOption::Raw("-A".into()),
        ] {
            assert!(matches!(envelope().option(option.clone()), Err(Error::Config(_))), "{option:?}");
        }
        let never = RcptOption::Notify { success: false, failure: false, delay: false };
        assert!(envelope().recipient_option(0, never).is_err());
        assert!(envelope().recipient_option(2, RcptOption::NotifyNever).is_err());
        let beyond = RcptOption::OriginalRecipient(Address::new("ü@x").unwrap());
        assert!(envelope().recipient_options(beyond).is_err());
    }

    #[test]
    fn duplicate_keywords_and_release_times_are_refused() {
        let (hold_for, hold_until) = (
            MailOption::HoldFor(Duration::from_secs(60)),
            MailOption::HoldUntil("2027-01-31T08:00:00Z".into()),
        );
        let raw = |text: &str| MailOption::Raw(text.into());
        for (first, second) in [
            (hold_for.clone(), hold_until.clone()),
            (hold_for.clone(), raw("HoldUntil=2027-01-31T08:00:00Z")),
            (hold_until, raw("HOLDFOR=60")),
            (hold_for, raw("holdfor=60")),
            (MailOption::Ret(Ret::Full), raw("ret=HDRS")),
            (MailOption::EnvelopeId("x".into()), raw("ENVID=x")),
            (MailOption::RequireTls, raw("REQUIRETLS")),
            (MailOption::Priority(1), raw("MT-PRIORITY=1")),
            (MailOption::DeliverBy { seconds: 60, late: OnLate::Notify, trace: true }, raw("BY=60;N")),
            (MailOption::Auth(None), raw("AUTH=<>")),
            (MailOption::Xverp(None), raw("xverp")),
            (raw("X-OWN"), raw("x-own=1")),
        ] {
            for (first, second) in [(&first, &second), (&second, &first)] {
                let once = envelope().option(first.clone()).unwrap();
                let twice = once.option(second.clone());
                assert!(matches!(twice, Err(Error::Config(_))), "{first}, {second}: {twice:?}");
            }
        }
        let address = Address::new("a@x").unwrap();
        let raw = |text: &str| RcptOption::Raw(text.into());
        for (first, second) in [
            (RcptOption::Notify { success: true, failure: true, delay: true }, raw("notify=NEVER")),
            (RcptOption::NotifyNever, raw("NOTIFY=NEVER")),
            (RcptOption::OriginalRecipient(address), raw("ORCPT=rfc822;a@x")),
            (raw("X-OWN"), raw("X-Own")),
        ] {
            for (first, second) in [(&first, &second), (&second, &first)] {
                let once = envelope().recipient_option(1, first.clone()).unwrap();
                assert!(once.clone().recipient_option(0, second.clone()).is_ok(), "the recipients differ");
                let twice = once.recipient_option(1, second.clone());
                assert!(matches!(twice, Err(Error::Config(_))), "{first}, {second}: {twice:?}");
            }
        }
    }

    #[test]
    fn dates_are_compared_as_instants_regardless_of_offset() {
        let seconds = |text: &str| date_time(text).unwrap().seconds;
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2027-01-31T08:00:00Z", 1_801_382_400),
            ("2027-01-31T09:30:00.5+01:30", 1_801_382_400),
            ("2027-01-30T23:00:00-09:00", 1_801_382_400),
            ("2016-12-31T23:59:60Z", 1_483_228_800),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        let order = [
            "2027-01-31T08:00:00Z",
            "2027-01-31T08:00:00.25Z",
            "2027-01-31T08:00:00.3Z",
            "2027-01-31T08:00:01Z",
        ];
        assert!(order.windows(2).all(|two| date_time(two[0]) < date_time(two[1])));
    }

    #[test]
    fn hold_until_must_not_exceed_the_latest_time_of_the_server() {
        let check = |time: &str, parameters: &str| {
            let text = format!("250-me\r\n250 FUTURERELEASE {parameters}\r\n");
            let mut inbox = Inbox::default();
            inbox.room()[..text.len()].copy_from_slice(text.as_bytes());
            inbox.arrived(text.len());
            let offered = Capabilities::parse(inbox.next_reply().unwrap().unwrap());
            MailOption::HoldUntil(time.to_owned()).check_offered(&offered, false).is_ok()
        };
        let both = "3600 2027-01-31T08:00:00Z";
        assert!(check("2027-01-31T08:00:00Z", both) && check("2027-01-31T09:00:00+01:00", both));
        assert!(!check("2027-01-31T08:00:01Z", both) && !check("2027-01-31T08:00:00-00:01", both));
        assert!(check("2027-01-31T08:00:00Z", "2027-01-31T08:00:00Z"));
        assert!(!check("9999-01-01T00:00:00Z", "3600") && check("2020-01-01T00:00:00Z", "3600"));
        assert!(check("9999-01-01T00:00:00Z", "") && check("9999-01-01T00:00:00Z", "soon"));
    }

    proptest! {
        // Threats 20 and 22.
        #[test]
        fn no_valid_option_contains_a_space_or_control_character(text in any::<String>()) {
            for option in [
                MailOption::EnvelopeId(text.clone()),
                MailOption::HoldUntil(text.clone()),
                MailOption::Raw(text.clone()),
            ] {
                if option.check().is_ok() {
                    let wire = option.to_string();
                    prop_assert!(!wire.contains(|c: char| c == ' ' || c.is_control()), "{wire:?}");
                }
            }
        }
    }
}
