//! Any content in any pieces: nothing in it ends the message, and undone it is what was given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postino::{
    Envelope, Error,
    proto::{Dialogue, Inbox, MailParameters, Options, Outbox, Survey, Transaction, Transactions, Want},
};
use postino_fuzz::{feed, has, pieces};

fuzz_target!(|input: &[u8]| {
    // How many cuts there are, the cuts, and the content.
    let Some((count, rest)) = input.split_first() else { return };
    let (cuts, content) = rest.split_at(rest.len().min(usize::from(count % 8)));
    let pieces = pieces(cuts, content);

    let (nul, eight_bit) = (content.contains(&0), content.iter().any(|b| *b >= 0x80));
    let plain = normalised(content);
    let survey = Survey::of(content);
    assert_eq!((survey.nul, survey.eight_bit), (nul, eight_bit));
    assert_eq!(survey.octets, plain.len() as u64);
    let longest = plain.split(|b| *b == b'\n').map(|line| line.len().saturating_sub(1)).max();
    assert_eq!(survey.long_line, longest.filter(|longest| *longest > 998));

    dots(&pieces, &plain, nul, eight_bit);
    // The end of what was put is cut off for some, so that the last piece is not always the rest.
    let binary = count & 0x80 != 0;
    chunks(&pieces, &plain, nul, binary, None);
    chunks(&pieces, &plain, nul, binary, Some(survey));
});

/// With CRLF at every line ending, and at the end.
fn normalised(content: &[u8]) -> Vec<u8> {
    let (mut out, mut bytes) = (Vec::new(), content.iter().peekable());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if(|next| **next == b'\n');
                out.extend_from_slice(b"\r\n");
            }
            b'\n' => out.extend_from_slice(b"\r\n"),
            byte => out.push(*byte),
        }
    }
    if !out.ends_with(b"\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Sends it by DATA.
fn dots(pieces: &[&[u8]], plain: &[u8], nul: bool, eight_bit: bool) {
    for allowed in [true, false] {
        let (mut talk, mut out) = in_data(allowed);
        let pushed = pieces.iter().filter(|piece| !piece.is_empty()).try_for_each(|piece| {
            let before = out.unsent().len();
            let pushed = talk.body(piece, &mut out);
            assert!(
                pushed.is_ok() || out.unsent().len() == before,
                "of a piece that is refused nothing goes out"
            );
            pushed
        });
        let forbidden = nul || eight_bit && !allowed;
        assert_eq!(pushed.is_err(), forbidden);
        match pushed {
            Err(Error::Message(_)) => assert!(nul),
            Err(error) => assert!(matches!(error, Error::Unsupported(_)) && eight_bit && !allowed),
            Ok(()) => {}
        }
        if forbidden {
            continue;
        }
        talk.body(b"", &mut out).expect("it is the end");
        let content = out.unsent().strip_suffix(b".\r\n").expect("the dot ends it");
        let wire = [b"\r\n", content].concat();
        assert!(!has(&wire, b"\r\n.\r\n"), "a part of it ends the message");
        let line_ends = wire.windows(2).filter(|pair| pair == b"\r\n").count();
        for byte in b"\r\n" {
            assert_eq!(wire.iter().filter(|b| *b == byte).count(), line_ends, "a bare CR or LF");
        }
        let lines = wire[2..].split_inclusive(|b| *b == b'\n');
        let undone: Vec<u8> =
            lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect();
        assert_eq!(undone, plain);
    }
}

/// A transaction whose DATA was granted.
fn in_data(eight_bit: bool) -> (Transactions, Outbox) {
    let envelope = Envelope::new("a@example.org", ["b@example.org"]).expect("they are good");
    let parameters = MailParameters::default().eight_bit(eight_bit);
    let (mut talk, mut out, mut inbox) =
        (Transactions::new(Options::default(), false), Outbox::default(), Inbox::default());
    talk.message(Transaction::new(envelope, parameters));
    for reply in [&b"250 ok\r\n"[..], b"250 ok\r\n", b"354 go on\r\n"] {
        assert_eq!(talk.fill(&mut out), Want::Reply);
        let n = out.offer().len();
        out.written(n);
        feed(&mut inbox, reply, usize::MAX);
        out.reply_arrived();
        let reply = inbox.next_reply().expect("it is one").expect("it is whole");
        talk.on_reply(reply, &out).expect("all is granted");
    }
    (talk, out)
}

/// The same by BDAT, to a server that takes everything: the sizes are true, and no dot is doubled. What was looked through is
/// handed over with its message, and not asked for.
fn chunks(pieces: &[&[u8]], plain: &[u8], nul: bool, binary: bool, at_hand: Option<Survey<'_>>) {
    let envelope = Envelope::new("a@example.org", ["b@example.org"]).expect("they are good");
    let parameters = MailParameters::default().eight_bit(!binary).binary(binary);
    let options = Options::default().chunking(true);
    let mut talk = Transactions::new(options, false);
    let transaction = Transaction::new(envelope, parameters);
    match at_hand {
        None => talk.message(transaction),
        Some(content) => {
            if let Err(forbidden) = talk.message_with(transaction, content) {
                assert!(nul && !binary, "{forbidden:?}");
                return;
            }
        }
    }
    let (mut inbox, mut out, mut wire) = (Inbox::default(), Outbox::default(), Vec::new());
    let mut rest = pieces.iter().filter(|piece| !piece.is_empty());
    let mut result = None;
    loop {
        while let Some(reply) = inbox.next_reply().expect("they are replies") {
            out.reply_arrived();
            talk.on_reply(reply, &out).expect("all is granted");
        }
        let want = talk.fill(&mut out);
        match want {
            Want::Body(0) if at_hand.is_none() => {
                let piece: &[u8] = rest.next().copied().unwrap_or_default();
                if let Err(error) = talk.body(piece, &mut out) {
                    assert!(nul && !binary, "{error}");
                    return;
                }
            }
            Want::Message => talk.no_more(),
            Want::Result => result = talk.next_result(),
            Want::Write | Want::Reply => {
                let n = out.offer().len();
                wire.extend_from_slice(out.offer());
                out.written(n);
                (0..out.due()).for_each(|_| {
                    feed(&mut inbox, b"250 ok\r\n", usize::MAX);
                });
            }
            Want::Nothing => break,
            want => panic!("nobody can give it {want:?}"),
        }
    }
    assert!(!nul || binary, "a NUL went out");
    let delivery = result.expect("it has a result").expect("it was accepted");
    assert_eq!(delivery.reply().map(|reply| reply.code()), Some(250));

    let mut taken = Vec::new();
    let mut wire = &wire[..];
    let mut last = false;
    while !wire.is_empty() {
        let end = wire.windows(2).position(|pair| pair == b"\r\n").expect("a command has an end");
        let line = std::str::from_utf8(&wire[..end]).expect("commands are ASCII here");
        wire = &wire[end + 2..];
        let mut words = line.split(' ');
        match words.next() {
            Some("BDAT") => {
                assert!(!last, "nothing follows the last");
                let size = words.next().and_then(|size| size.parse().ok()).expect("a size");
                let (chunk, behind) = wire.split_at(size);
                taken.extend_from_slice(chunk);
                wire = behind;
                last = words.next() == Some("LAST");
            }
            Some("MAIL" | "RCPT") if taken.is_empty() => {}
            _ => panic!("a command out of nowhere: {line:?}"),
        }
    }
    assert!(last);
    match binary {
        true => assert_eq!(taken, pieces.concat()),
        false => assert_eq!(taken, plain),
    }
}
