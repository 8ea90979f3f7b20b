//! The queue id of a message, read from the server's reply to the end of the message.
//!
//! No standard defines it. The forms here are those that servers and providers are known to use; the table in the tests
//! has an example of each. If a reply has none of these forms, there is no id: a wrong id would send people looking for
//! somebody else's message.

/// Returns the queue id in one line of a reply, without its code.
pub(crate) fn queue_id(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    marked(line).or_else(|| shaped(line))
}

/// Texts before an id, in lower case; the characters that may come before such a text, besides the start of the line;
/// and the characters that end the id, besides white space.
const MARKS: [(&str, &str, &str); 6] = [
    // Postfix, and many servers that followed it. NetEase ids contain commas.
    ("queued as ", " (", ";>)"),
    ("queued with id ", " (", ",;>)"), // Stalwart
    ("queue id ", " (", ",;>)"),       // Sina
    ("id=", " (", ",;>)"),             // Exim, GMX, amavis
    ("[internalid=", " ", ",]"),       // Exchange, Microsoft 365
    ("envid=", "#", ",;>)"),           // Alibaba Cloud
];

/// Returns the id after one of the marks.
fn marked(line: &str) -> Option<&str> {
    let lower = line.to_ascii_lowercase(); // has the same length
    MARKS.iter().find_map(|(mark, before, ends)| {
        let mut places = lower.match_indices(mark).map(|(at, _)| at);
        let at = places.find(|at| *at == 0 || lower[..*at].ends_with(|c| before.contains(c)))?;
        let rest = line[at + mark.len()..].trim_start_matches([' ', '<']);
        let id = rest.split(|c: char| c.is_ascii_whitespace() || ends.contains(c)).next()?;
        Some(id.trim_end_matches([',', '.', ':'])).filter(|id| is_id(id))
    })
}

/// Returns the id in a line that has one of these forms as a whole.
fn shaped(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace().peekable();
    words.next_if(|word| is_status(word));
    let last = line.split_ascii_whitespace().next_back()?;
    let words: Vec<&str> = words.take(8).collect();
    let is = |word: &str, text: &str| word.eq_ignore_ascii_case(text);
    match words[..] {
        // qmail: the time, and the process id that identifies the message in its log.
        [ok, time, qp, id, ..] if is(ok, "ok") && is_number(time) && qp == "qp" => {
            Some(id).filter(|id| is_number(id))
        }
        // Gmail.
        [ok, time, id, "-", "gsmtp"] if is(ok, "ok") && is_number(time) => Some(id).filter(|id| is_id(id)),
        [ok, id] if is(ok, "ok") => Some(id).filter(|id| is_amazon(id) || is_momentum(id)),
        [ok, id] if is(ok, "ok.") => Some(id).filter(|id| is_courier(id)),
        // Cisco.
        [ok, message, id, accepted]
            if is(ok, "ok:") && is(message, "message") && is(accepted, "accepted") =>
        {
            Some(id).filter(|id| is_number(id))
        }
        // Sendmail, OpenSMTPD, Proofpoint, CommuniGate. A short number would be a count of messages.
        [id, what, "accepted", "for", "delivery", ..] if is(what, "message") || is(what, "mail") => {
            Some(id).filter(|id| id.len() >= 6 && is_id(id) && has_digit(id))
        }
        // Openwave.
        [message, "received:", id] if is(message, "message") => {
            Some(id).filter(|id| is_id(id) && has_digit(id))
        }
        // Yandex.
        [_, "queued", "on", _, "as", id] | [_, "queued", "on", _, id] => Some(id).filter(|id| is_yandex(id)),
        // Haraka, also after the reply of a server to which it forwarded the message.
        _ => {
            let id = last.strip_prefix('(')?.strip_suffix(')')?;
            let (uuid, number) = id.split_once('.').unwrap_or((id, "1"));
            Some(id).filter(|_| is_uuid(uuid) && is_number(number))
        }
    }
}

/// Returns whether the text is more than a plain word: ids have digits, or letters of both cases.
fn is_id(text: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || "-_.,@+/=:!$%*".contains(c);
    let mixed = text.len() >= 8 && text.chars().skip(1).any(|c| c.is_ascii_uppercase());
    text.chars().all(letters) && (has_digit(text) || mixed)
}

fn has_digit(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_digit())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Returns whether a word is an enhanced status code, possibly with the colon of older OpenSMTPD versions.
fn is_status(word: &str) -> bool {
    let word = word.strip_suffix(':').unwrap_or(word);
    word.split('.').count() == 3 && word.split('.').all(is_number)
}

fn is_uuid(text: &str) -> bool {
    has_groups(text, &[8, 4, 4, 4, 12])
}

/// Returns whether the text consists of hexadecimal numbers of these lengths, separated by hyphens.
fn has_groups(text: &str, lengths: &[usize]) -> bool {
    let groups = text.split('-').map(|group| if is_hex(group) { group.len() } else { 0 });
    groups.eq(lengths.iter().copied())
}

/// Amazon SES: `0100…-UUID-000000`, or for inbound mail, 40 letters and digits.
fn is_amazon(id: &str) -> bool {
    let small = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    has_groups(id, &[16, 8, 4, 4, 4, 12, 6]) || id.len() == 40 && id.bytes().all(small) && has_digit(id)
}

/// Momentum, which SparkPost and others use: `00/00-28443-3AF54065`.
fn is_momentum(id: &str) -> bool {
    let Some((first, rest)) = id.split_once('/') else { return false };
    first.len() == 2 && is_hex(first) && rest.split('-').count() == 3 && rest.split('-').all(is_hex)
}

/// Courier: the inode, the time and the process id, in hexadecimal.
fn is_courier(id: &str) -> bool {
    id.split('.').count() == 3 && id.split('.').all(|group| group.len() >= 8 && is_hex(group))
}

/// Yandex: the time, a hyphen, and letters.
fn is_yandex(id: &str) -> bool {
    id.split_once('-').is_some_and(|(time, _)| time.len() == 10 && is_number(time)) && is_id(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Replies from documentation and published logs, some of them shortened.
    const KNOWN: [(&str, &str); 37] = [
        // Postfix, with short and long ids; after amavis; as sent by SendGrid, Mandrill, Fastmail and others.
        ("2.0.0 Ok: queued as 5B1293FCCD", "5B1293FCCD"),
        ("2.0.0 Ok: queued as 4bXyZ9Qm2Rz1kT", "4bXyZ9Qm2Rz1kT"),
        ("2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as BF88888888", "BF88888888"),
        ("2.6.0 Ok, id=12345-01, from MTA([127.0.0.1]:10025): 250 2.0.0 Ok: queued as 1A2B3C", "1A2B3C"),
        ("2.5.0 Ok, id=12345-01, BOUNCE", "12345-01"),
        ("Ok: queued as bdT3qimVR7SSpBEKunexIg", "bdT3qimVR7SSpBEKunexIg"),
        // MailerSend, Mailjet, Brevo, MailHog, STRATO.
        ("Message queued as 6232416d01542d6b321d000d", "6232416d01542d6b321d000d"),
        ("OK queued as 2b1bb2a6-dd2f-4b0b-b0f8-0ed7b8b2a3f1", "2b1bb2a6-dd2f-4b0b-b0f8-0ed7b8b2a3f1"),
        (
            "2.0.0 OK: queued as <202301011200.12345678901@smtp-relay.example>",
            "202301011200.12345678901@smtp-relay.example",
        ),
        ("Ok: queued as Vtlb3Kk0c5Y=@mailhog.example", "Vtlb3Kk0c5Y=@mailhog.example"),
        ("2.0.0 Message received and queued as b30000002c3c62.", "b30000002c3c62"),
        ("thanks (Queued as ab12cd)", "ab12cd"),
        // Exim, before and since 4.97; GMX and IONOS.
        ("OK id=1Levw3-0007fD-VY", "1Levw3-0007fD-VY"),
        ("OK id=10HmaX-000000005vi-0000", "10HmaX-000000005vi-0000"),
        ("Requested mail action okay, completed: id=1MKsaz-1wevcp3BHR-00M7kH", "1MKsaz-1wevcp3BHR-00M7kH"),
        // Sendmail; Proofpoint; OpenSMTPD, old and new; CommuniGate; Telia.
        ("2.0.0 p6FLP3u6006021 Message accepted for delivery", "p6FLP3u6006021"),
        ("e6FFAFv24566 Message accepted for delivery", "e6FFAFv24566"),
        ("2.0.0 3kx8fba2pq-1 Message accepted for delivery", "3kx8fba2pq-1"),
        ("2.0.0: 832a2432 Message accepted for delivery", "832a2432"),
        ("2.0.0 832a2432 Message accepted for delivery", "832a2432"),
        ("266668137 message accepted for delivery", "266668137"),
        ("2.0.0 6FVIjIMwUJwU66FVIjAEB0 mail accepted for delivery", "6FVIjIMwUJwU66FVIjAEB0"),
        // qmail, and what other servers add to its reply.
        ("ok 1375388751 qp 26627", "26627"),
        ("ok 1349174460 qp 13230 by mx1.example.org", "13230"),
        // Courier; Haraka, alone and after the reply of the next server.
        ("Ok. 000000000006A5B8.000000005F3D2A51.00003C5E", "000000000006A5B8.000000005F3D2A51.00003C5E"),
        ("Message Queued (2E3D5E0B-2F4C-4A3C-9C6B-0D0F4B6C1A11.1)", "2E3D5E0B-2F4C-4A3C-9C6B-0D0F4B6C1A11.1"),
        // Exchange 2010 and later, Microsoft 365.
        (
            "2.6.0 <20111025103822.7F94E1C0299@example.org> [InternalId=274498] Queued mail for delivery",
            "274498",
        ),
        (
            "2.6.0 <a@b.example> [InternalId=95992519094146, Hostname=HE1EUR04HT112.example] 13478 bytes in 0.277, 47.373 KB/sec Queued mail for delivery -> 250 2.1.5",
            "95992519094146",
        ),
        // Gmail, before and since 2017.
        ("2.0.0 OK 1434754632 he9sm12236175pbc.7 - gsmtp", "he9sm12236175pbc.7"),
        (
            "2.0.0 OK  1690517236 x6-20020a05610223c600b004451f8ccf1csm418782vsr.11 - gsmtp",
            "x6-20020a05610223c600b004451f8ccf1csm418782vsr.11",
        ),
        // Amazon SES.
        (
            "Ok 0100016e4ab7c399-5058a2a5-d4ad-407b-92b8-94472f229325-000000",
            "0100016e4ab7c399-5058a2a5-d4ad-407b-92b8-94472f229325-000000",
        ),
        // Momentum, Cisco.
        ("2.0.0 OK 00/00-28443-3AF54065", "00/00-28443-3AF54065"),
        ("ok:  Message 348102483 accepted", "348102483"),
        // NetEase (163.com, 126.com), Sina, Alibaba Cloud.
        (
            "Mail OK queued as zwqz-smtp-mta-g0-1,_____wDnF4jOiCdlWH9UAQ--.45967S3 1697089742",
            "zwqz-smtp-mta-g0-1,_____wDnF4jOiCdlWH9UAQ--.45967S3",
        ),
        ("ok queue id 55409337358921", "55409337358921"),
        ("Data Ok: queued as freedom ###envid=123456789012", "123456789012"),
        // Yandex, with and without `as`.
        (
            "2.0.0 Ok: queued on smtp3j.mail.yandex.net as 1487181064-lyDmMVZ9eP-p2c0s157",
            "1487181064-lyDmMVZ9eP-p2c0s157",
        ),
    ];

    /// Replies without an id, or with something that looks like one.
    const NONE: [&str; 41] = [
        "",
        "ok",
        "2.0.0 Ok",
        "OK , completed",
        // Yahoo, Mailgun, Zoho, Dovecot, Cyrus, hMailServer, MDaemon, Domino, James, Stalwart.
        "ok dirdel",
        "Great success",
        "Queued. Thank you.",
        "Message received",
        "2.0.0 <bob@example.net> s3F/FLrz7GiE0QAA0WRAUQ Saved",
        "2.1.5 Ok SESSIONID=<cyrus-1234-1>",
        "Queued (0.123 seconds)",
        "Ok, message saved <Message-ID: 123@example.org>",
        "Message accepted for delivery",
        "2.5.0 Message accepted for delivery",
        "2.0.0: Message accepted for delivery",
        "OK: Message accepted for delivery",
        "2.6.0 Message received",
        "2.0.0 Message queued for delivery.",
        // Tencent sends this for every message; Alibaba's text is always the same.
        "OK: queued as.",
        "Ok: queued as",
        "Data Ok: queued as freedom",
        "queued as spam, 3 of 5 points",
        // Exchange 2003: the Message-ID.
        "2.6.0 <WEB01JswFCHOzyfyz5b000015ac@smtprelay.example> Queued mail for delivery",
        // Numbers that count something.
        "1 message accepted for delivery",
        "2.0.0 3 messages accepted for delivery",
        "1234 byte chunk, total 5678",
        "OK 1727 - gsmtp",
        "2.1.5 OK ffacd0b85a97d-36d2728ab0fsi1176860f8f.752 - gsmtp",
        "OK 172938102938 mailer",
        "ok 1375388751",
        "ok soon qp 26627",
        "OK 12345",
        "Ok. 1460191710 b128si9046197lfb.",
        "Message Queued (3)",
        "Message Queued (offline)",
        "Ok: Message 5 of 6 accepted",
        // Marks within words.
        "see https://example.org/?grid=1&id=5",
        "void=1 accepted",
        "unqueued as 5B1293FCCD",
        "InternalId=274498",
        "id=\u{e4}1",
    ];

    #[test]
    fn the_queue_id_is_found_in_the_replies_of_known_servers() {
        for (line, id) in KNOWN {
            assert_eq!(queue_id(line.as_bytes()), Some(id), "{line}");
        }
    }

    #[test]
    fn doubtful_text_is_not_taken_for_a_queue_id() {
        for line in NONE {
            assert_eq!(queue_id(line.as_bytes()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_queue_id_is_never_empty_and_is_ascii_without_spaces(
            line in prop_oneof!["\\PC{0,60}", "(queued|as|on|id=|ok|OK|[.]|[(]|[)]|-|gsmtp|qp|1| |\u{e4}|<){0,12}"],
        ) {
            let id = queue_id(line.as_bytes()).unwrap_or("1");
            prop_assert!(!id.is_empty() && id.is_ascii() && !id.contains(' '));
        }
    }
}
