//! Messages that are hard to transmit, and what of them is stored.

/// An awkward message: its name, and its text for a message with this token.
pub struct Awkward {
    pub name: &'static str,
    pub text: fn(&str) -> Vec<u8>,
}

const fn of(name: &'static str, text: fn(&str) -> Vec<u8>) -> Awkward {
    Awkward { name, text }
}

/// Puts a header before the body.
fn body(body: &str) -> Vec<u8> {
    [b"Subject: x\r\n\r\n", body.as_bytes()].concat()
}

/// A text that a careless client and a careless server take for two messages.
fn two(token: &str, end: &str) -> Vec<u8> {
    body(&format!(
        "one{end}MAIL FROM:<bob@lab.test>\r\nRCPT TO:<alice+{token}@lab.test>\r\nDATA\r\n\
         Subject: two\r\nX-Token: {token}\r\n\r\ntwo\r\n"
    ))
}

/// Sequences that some server takes for the end of data (names starting with `smuggling`), and ends and beginnings that
/// are easy to get wrong.
pub const MESSAGES: &[Awkward] = &[
    of("nothing at all", |_| Vec::new()),
    of("an empty line", |_| b"\r\n".to_vec()),
    of("one header only", |_| b"Subject: x\r\n".to_vec()),
    of("a header and an empty body", |_| body("")),
    of("no header, text", |_| b"Hello.\r\nYours\r\n".to_vec()),
    of("a lone dot", |_| b".".to_vec()),
    of("a lone dot and an end", |_| b".\r\n".to_vec()),
    of("a body of a lone dot", |_| body(".\r\n")),
    of("a body of a lone dot, without an end", |_| body(".")),
    of("a body of two lone dots", |_| body(".\r\n.\r\n")),
    of("a body of two dots, without an end", |_| body("..")),
    of("a dot behind a line, without an end", |_| body("x\r\n.")),
    of("a dot between empty lines", |_| body("\r\n.\r\n\r\n.\r\n")),
    of("lines that begin with dots", |_| body("..\r\n.x\r\n...\r\n.. \r\n. \r\nx\r\n....\r\n")),
    of("a lone dot and an empty line at the end", |_| body("x\r\n.\r\n\r\n")),
    of("a body of empty lines", |_| body("\r\n\r\n\r\n")),
    of("no end of the last line", |_| body("last")),
    of("empty lines at the end", |_| body("x\r\n\r\n\r\n\r\n")),
    of("blanks at the ends of lines", |_| body("x \r\n\t\r\n  \r\nx\t\r\n")),
    of("From at the start of a line", |_| body("From bob\r\n>From bob\r\n\r\nFrom bob\r\n")),
    of("bare LF", |_| body("one\ntwo\n\n.\n..\nthree\n")),
    of("bare CR", |_| body("one\rtwo\r\r.\r..\rthree\r")),
    of("every kind of line ending", |_| body("unix\nmac\rdos\r\n.\n..\r.\r\n\n\r\rend\r")),
    of("headers with bare LF", |_| b"Subject: x\nX-Folded: one\n\ttwo  \n\nx\n".to_vec()),
    of("a line of 998 octets", |_| body(&format!("{}\r\n", "x".repeat(998)))),
    of("a line of 999 octets", |_| body(&format!("{}\r\n", "x".repeat(999)))),
    of("a line of 5,000 octets", |_| body(&format!("a\r\n{}\r\nb\r\n", "x".repeat(5_000)))),
    of("8-bit, UTF-8", |_| body("\u{e9} \u{20ac}\r\n.\u{e9}\r\n\u{e9}")),
    of("8-bit, every octet but NUL, CR and LF", |_| {
        let octets: Vec<u8> = (1..=255).filter(|octet| !matches!(octet, b'\r' | b'\n')).collect();
        [body("."), octets, b"\xff\r\n.\xff".to_vec()].concat()
    }),
    of("8-bit in a header", |_| b"Subject: \xfc\xc3\xbc\r\n\r\nx\r\n".to_vec()),
    of("NUL", |_| body("a\0b\r\n")),
    of("smuggling: CRLF.CRLF", |token| two(token, "\r\n.\r\n")),
    of("smuggling: LF.LF", |token| two(token, "\n.\n")),
    of("smuggling: CRLF.LF", |token| two(token, "\r\n.\n")),
    of("smuggling: LF.CRLF", |token| two(token, "\n.\r\n")),
    of("smuggling: CR.CR", |token| two(token, "\r.\r")),
    of("smuggling: CRLF.CR", |token| two(token, "\r\n.\r")),
    of("smuggling: CR.CRLF", |token| two(token, "\r.\r\n")),
    of("smuggling: CRLF.NUL CRLF", |token| two(token, "\r\n.\0\r\n")),
];

/// A message that is slow to transmit everywhere.
pub const LARGE: Awkward = of("10 MiB", |_| {
    let lines = b".\r\n..dots\n\xc3\xa9\xff eight\r".to_vec();
    let lines = [lines, vec![b'x'; 900], b"\r\n".to_vec()].concat();
    let lines = lines.repeat((10 << 20) / lines.len() + 1);
    [body(""), lines, b".".to_vec()].concat()
});

/// The text with every line ending made CRLF, and one at the end: the octets on the wire, except for dot-stuffing. A
/// message has at least one line.
pub fn wire(text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(text.len() + text.len() / 16);
    let mut last = 0;
    for &octet in text {
        match (last, octet) {
            (b'\r', b'\n') => {}
            (_, b'\r' | b'\n') => wire.extend_from_slice(b"\r\n"),
            _ => wire.push(octet),
        }
        last = octet;
    }
    if !wire.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire
}
