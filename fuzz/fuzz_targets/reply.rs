//! Whatever a server says: the same replies however it is cut, within the limits, and safe to show.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postino::{Reply, proto::Inbox};
use postino_fuzz::{feed, is_safe_to_show, replies};

/// The limits that `Inbox` documents: octets of a line, lines of a reply, octets of a reply.
const MAX_LINE: usize = 8_192;
const MAX_LINES: usize = 512;
const MAX_REPLY: usize = 65_536;

fuzz_target!(|input: &[u8]| {
    let Some((step, mut bytes)) = input.split_first() else { return };
    // The limits are far away: a first octet of 255 says that what follows is repeated up to them.
    let long;
    if *step == 255 && !bytes.is_empty() {
        long = bytes.iter().copied().cycle().take(MAX_REPLY + 3 * MAX_LINE).collect::<Vec<u8>>();
        bytes = &long;
    }
    let whole = replies(bytes, usize::MAX);
    assert_eq!(whole, replies(bytes, usize::from(*step) + 1), "it depends on how it is cut");
    if bytes.len() < 4096 {
        assert_eq!(whole, replies(bytes, 1), "it depends on how it is cut");
    }

    let (replies, wrong, taken) = whole;
    assert_eq!(replies.iter().flat_map(Reply::raw).copied().collect::<Vec<u8>>(), bytes[..taken]);
    replies.iter().take(100).for_each(check);
    if !wrong {
        assert!(bytes.len() - taken < MAX_REPLY, "so much is kept of what may become a reply");
        // What is left is the beginning of a reply.
        let rest = &bytes[taken..];
        let lines = rest.iter().filter(|b| **b == b'\n').count();
        assert!(lines < MAX_LINES && rest.split(|b| *b == b'\n').all(|line| line.len() < MAX_LINE));
    }
    rejected(bytes);
});

fn check(reply: &Reply) {
    let raw = reply.raw();
    assert!(raw.len() <= MAX_REPLY);
    let lines: Vec<&[u8]> = raw.split_inclusive(|b| *b == b'\n').collect();
    assert!(lines.len() <= MAX_LINES && lines.len() == reply.text_lines().count());
    for (number, line) in lines.iter().enumerate() {
        assert!(line.ends_with(b"\n") && line.len() <= MAX_LINE);
        assert_eq!(line[..3], *reply.code().to_string().as_bytes());
        assert_eq!(line[3] == b'-', number + 1 < lines.len());
    }
    assert!((200..600).contains(&reply.code()));
    assert_eq!(Reply::parse(raw).as_ref(), Ok(reply));
    assert!(is_safe_to_show(&reply.to_string()) && is_safe_to_show(&format!("{reply:?}")));
    if let Some(code) = reply.enhanced() {
        assert_eq!(u16::from(code.class), reply.code() / 100);
        assert!(code.subject < 1000 && code.detail < 1000);
    }
    let _ = reply.text();
}

/// What is no reply can be shown.
fn rejected(mut bytes: &[u8]) {
    let mut inbox = Inbox::default();
    while !bytes.is_empty() {
        bytes = &bytes[feed(&mut inbox, bytes, usize::MAX)..];
        loop {
            match inbox.next_reply() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    let shown = inbox.rejected_line();
                    // Each octet may become an escape, such as `\u{85}`.
                    assert!(is_safe_to_show(&shown) && shown.len() < 1024, "{shown}");
                    return;
                }
            }
        }
    }
}
