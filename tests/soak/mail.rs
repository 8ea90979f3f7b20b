//! The messages: each is identified by its number, which is in its sender, its recipients and its content.

use postino::{Envelope, Raw};

use crate::rules::dice::Dice;

/// Maximum number of recipients of a message. Each gets a copy, which is accounted for separately.
pub const COPIES: usize = 3;

fn dice(message: usize) -> Dice {
    Dice::new(0x50a6, message as u64)
}

/// Number of recipients of a message.
pub fn copies(message: usize) -> usize {
    *dice(message).of(&[1, 1, 1, 2, COPIES])
}

/// The content as it must arrive. Most are short; one in 500 is longer than what a socket takes at once.
pub fn content(message: usize) -> Vec<u8> {
    let mut dice = dice(message);
    let lines = if dice.one_in(500) { 4000 } else { dice.below(8) };
    let mut content = format!("Subject: {message}\r\n\r\n.\r\n").into_bytes();
    for line in 0..lines {
        let dots = if line % 3 == 0 { ".." } else { "" };
        content.extend(
            format!("{dots}line {line} of message {message}, which has {lines} of them\r\n").as_bytes(),
        );
    }
    content
}

pub fn mail(message: usize) -> Raw<'static> {
    let to = (0..copies(message)).map(|copy| format!("m{message}-{copy}@example.org"));
    let envelope = Envelope::new(&format!("m{message}-0@example.com"), to).unwrap();
    Raw::bytes(envelope, content(message))
}

/// The message and the copy that an address identifies.
pub fn parse(address: &str) -> Option<(usize, usize)> {
    let (message, rest) = address.strip_prefix('m')?.split_once('-')?;
    let (copy, _) = rest.split_once('@')?;
    Some((message.parse().ok()?, copy.parse().ok()?))
}
