//! What the targets share: bytes to replies, and how their input is cut.

pub mod walk;

use postino::{Reply, proto::Inbox};

/// Numbers that are all 0 would cut for ever.
const MAX_PIECES: usize = 10_000;

/// All replies in these bytes, fed in pieces of at most this many octets; whether what follows them is no reply; and how
/// many octets of the input were taken.
pub fn replies(mut bytes: &[u8], step: usize) -> (Vec<Reply>, bool, usize) {
    let (mut inbox, mut replies, mut taken) = (Inbox::default(), Vec::new(), 0);
    loop {
        loop {
            match inbox.next_reply() {
                Ok(Some(reply)) => {
                    let reply = reply.keep();
                    taken += reply.raw().len();
                    replies.push(reply);
                }
                Ok(None) => break,
                Err(_) => return (replies, true, taken),
            }
        }
        if bytes.is_empty() {
            return (replies, false, taken);
        }
        let n = feed(&mut inbox, bytes, step);
        bytes = &bytes[n..];
    }
}

/// As much as there is room for, and no more than `step`.
pub fn feed(inbox: &mut Inbox, bytes: &[u8], step: usize) -> usize {
    let room = inbox.room();
    let n = room.len().min(bytes.len()).min(step);
    assert!(n > 0, "no room and no error");
    room[..n].copy_from_slice(&bytes[..n]);
    inbox.arrived(n);
    n
}

/// Cuts bytes into pieces as long as these numbers say, again and again; some may be empty.
pub fn pieces<'b>(cuts: &[u8], mut bytes: &'b [u8]) -> Vec<&'b [u8]> {
    let (mut pieces, mut cuts) = (Vec::new(), cuts.iter().cycle());
    while !bytes.is_empty() && pieces.len() < MAX_PIECES {
        let Some(cut) = cuts.next() else { break };
        let (piece, rest) = bytes.split_at(bytes.len().min(usize::from(*cut)));
        pieces.push(piece);
        bytes = rest;
    }
    pieces.push(bytes);
    pieces
}

/// Whether one is in the other.
pub fn has(bytes: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && bytes.windows(part.len()).any(|window| window == part)
}

/// A text for people has nothing that plays with their terminal.
pub fn is_safe_to_show(text: &str) -> bool {
    !text.chars().any(char::is_control)
}
