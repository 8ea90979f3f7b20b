//! Cases whose work must grow in proportion to the input: each processes `n` of something.

use std::{
    hint::black_box,
    io::{Read, Write},
};

use postino::{
    Capabilities, Envelope, Mail, Message,
    message::{Attachment, Mailbox, header_length, without_bcc},
    proto::{Dialogue, Inbox, MailParameters, Options, Outbox, Survey, Transaction, Transactions, Want},
};

/// The name of a case, its smallest `n`, and the work.
pub type Case = (&'static str, usize, fn(usize));

pub const CASES: &[Case] = &[
    ("recipients of an envelope", 500, |n| drop(envelope(n))),
    ("recipients of a transaction, half refused", 500, |n| transaction(n, false)),
    ("recipients of LMTP, half refused", 500, |n| transaction(n, true)),
    ("replies", 500, |n| replies(&"250 2.1.5 ok\r\n".repeat(n))),
    ("mechanisms of EHLO", 100, mechanisms),
    ("addresses in To, as text", 200, |n| built(|m| m.to(addresses(n)))),
    ("addresses in To, as mailboxes", 200, |n| built(|m| m.to(mailboxes(n)))),
    ("addresses in To, one by one", 200, |n| {
        built(|m| mailboxes(n).into_iter().fold(m, postino::message::MessageBuilder::to));
    }),
    ("addresses in a group", 200, |n| built(|m| m.to(format!("g: {};", addresses(n))))),
    ("addresses read from headers", 200, |n| read(&format!("To: {}\r\n", addresses(n)))),
    ("header fields", 200, |n| built(|m| (0..n).fold(m, |m, i| m.header(&format!("X-{i}"), "v")))),
    ("addresses in To, behind other header fields", 200, |n| {
        let other = |m: postino::message::MessageBuilder, i| m.header(&format!("X-{i}"), "v");
        built(|m| mailboxes(n).into_iter().fold((0..n).fold(m, other), postino::message::MessageBuilder::to));
    }),
    ("header fields that are read", 500, |n| read(&format!("To: a@b\r\n{}", "X: y\r\n".repeat(n)))),
    ("fields of Bcc that are left out", 500, |n| {
        black_box(without_bcc(format!("{}\r\n", "Bcc: a@b\r\n".repeat(n)).as_bytes()));
    }),
    ("comments side by side", 500, |n| read(&format!("To: {} a@b\r\n", "(x)".repeat(n)))),
    ("comments in comments", 500, |n| read(&format!("To: {}{} a@b\r\n", "(".repeat(n), ")".repeat(n)))),
    ("identifiers in References", 200, |n| {
        built(|m| m.references(joined(n, " ", |i| format!("<{i}@a.example>"))));
    }),
    ("phrases in Keywords", 200, |n| built(|m| m.header("Keywords", joined(n, ", ", |i| format!("key{i}"))))),
    ("words of a subject", 200, |n| built(|m| m.subject("word ".repeat(n)))),
    ("words of a subject beyond ASCII", 200, |n| built(|m| m.subject("wörd ".repeat(n)))),
    ("letters of a display name", 1000, |n| built(|m| m.to(("ö".repeat(n), "a@b")))),
    ("letters of a file name", 1000, |n| built(|m| m.attach(Attachment::bytes("ö".repeat(n), "x")))),
    ("parameters of a content type", 200, |n| {
        let parameters: String = (0..n).map(|i| format!("; p{i}=v")).collect();
        built(|m| m.attach(Attachment::bytes("f", "x").content_type(format!("text/plain{parameters}"))));
    }),
    ("attachments", 50, |n| {
        built(|m| (0..n).fold(m, |m, i| m.attach(Attachment::bytes(format!("f{i}"), "x"))));
    }),
    ("levels of messages, at most 50", 6, nested),
    ("text of a message in ASCII", 1000, |n| built(|m| m.text("A line of text.\n".repeat(n)))),
    ("text of a message beyond ASCII", 1000, |n| built(|m| m.text("Eine Zeile für sich.\n".repeat(n)))),
    ("octets of an attachment", 20_000, |n| built(|m| m.attach(Attachment::bytes("f", vec![0; n])))),
    ("octets of a reader", 20_000, |n| {
        built(|m| m.attach(Attachment::reader("f", std::io::repeat(7).take(n as u64))));
    }),
    ("lines of content", 2000, |n| content(&".A line of text.\r\n".repeat(n))),
    ("lines of content with bare ends", 2000, |n| content(&".A line of text.\n".repeat(n))),
];

fn joined(n: usize, between: &str, one: impl Fn(usize) -> String) -> String {
    (0..n).map(one).collect::<Vec<_>>().join(between)
}

fn addresses(n: usize) -> String {
    joined(n, ", ", |i| format!("Name {i} <u{i}@example.org>"))
}

fn mailboxes(n: usize) -> Vec<Mailbox> {
    (0..n).map(|i| Mailbox::new(format!("Name {i}"), format!("u{i}@example.org")).unwrap()).collect()
}

fn envelope(n: usize) -> Envelope {
    Envelope::new("a@example.org", (0..n).map(|i| format!("u{i}@example.org"))).unwrap()
}

/// Builds a message, and reads all of it.
fn built(with: impl FnOnce(postino::message::MessageBuilder) -> postino::message::MessageBuilder) {
    let message = with(Message::builder().from("a@example.org")).build().unwrap();
    let mut sent = Vec::new();
    message.body().unwrap().into_reader().unwrap().read_to_end(&mut sent).unwrap();
    black_box(header_length(&sent));
}

fn nested(n: usize) {
    let around = |inner: Option<Message>| {
        let outer = Message::builder().from("a@example.org").text("x");
        inner
            .into_iter()
            .fold(outer, |outer, inner| outer.attach(Attachment::message(inner)))
            .build()
            .unwrap()
    };
    let message = (0..n).fold(around(None), |message, _| around(Some(message)));
    black_box(message.to_bytes().unwrap());
}

fn read(headers: &str) {
    let message = format!("From: a@example.org\r\n{headers}\r\nx\r\n");
    black_box(Envelope::from_headers(message.as_bytes()).unwrap());
}

fn content(text: &str) {
    let survey = Survey::of(text.as_bytes());
    let parameters = MailParameters::default().eight_bit(true);
    let (mut talk, mut out, mut inbox) =
        (Transactions::new(Options::default(), false), Outbox::default(), Inbox::default());
    talk.message(Transaction::new(envelope(1), parameters));
    for reply in ["250 ok\r\n", "250 ok\r\n", "354 go on\r\n"] {
        talk.fill(&mut out);
        let octets = out.offer().len();
        out.written(octets);
        out.reply_arrived();
        hear(&mut inbox, reply.as_bytes(), |reply| talk.on_reply(reply, &out).unwrap());
    }
    for piece in text.as_bytes().chunks(10_000) {
        talk.body(piece, &mut out).unwrap();
    }
    talk.body(b"", &mut out).unwrap();
    black_box((survey.octets, out));
}

/// Parses these replies, and passes each to `then`.
fn hear(inbox: &mut Inbox, mut replies: &[u8], mut then: impl FnMut(postino::proto::ReplyRef<'_>)) {
    while !replies.is_empty() {
        let n = inbox.room().write(replies).unwrap();
        inbox.arrived(n);
        replies = &replies[n..];
        while let Some(reply) = inbox.next_reply().unwrap() {
            then(reply);
        }
    }
}

fn replies(replies: &str) {
    let mut heard = 0;
    hear(&mut Inbox::default(), replies.as_bytes(), |reply| heard += usize::from(reply.code()));
    black_box(heard);
}

/// Twelve mechanisms in each of up to 500 lines.
fn mechanisms(n: usize) {
    let lines: Vec<String> = (0..n.div_ceil(12))
        .map(|line| format!("250-AUTH {}\r\n", joined(12, " ", |i| format!("M{}", line * 12 + i))))
        .collect();
    let reply = format!("250-mail.example.org\r\n{}250 HELP\r\n", lines.concat());
    hear(&mut Inbox::default(), reply.as_bytes(), |reply| {
        black_box(Capabilities::parse(reply).auth_mechanisms().count());
    });
}

/// Sends one message to a server that refuses every other recipient.
fn transaction(n: usize, lmtp: bool) {
    let options = Options::default().pipelining(true).lmtp(lmtp);
    let (mut talk, mut out, mut inbox) =
        (Transactions::new(options, false), Outbox::default(), Inbox::default());
    talk.message(Transaction::new(envelope(n), MailParameters::default()));
    talk.no_more();
    let (mut written, mut recipients, mut said_end) = (0, 0, false);
    loop {
        match talk.fill(&mut out) {
            Want::Result => break,
            Want::Body(_) if said_end => talk.body(b"", &mut out).unwrap(),
            Want::Body(_) => {
                said_end = true;
                talk.body(b"x\r\n", &mut out).unwrap();
            }
            Want::Write | Want::Reply | Want::Probe => {
                let said = String::from_utf8(out.offer().to_vec()).unwrap();
                out.written(said.len());
                written += said.len();
                let mut answer = String::new();
                for line in said.lines() {
                    match line.get(..4) {
                        Some("MAIL") => answer.push_str("250 ok\r\n"),
                        Some("RCPT") => {
                            recipients += 1;
                            answer.push_str(if recipients % 2 == 0 { "550 no\r\n" } else { "250 ok\r\n" });
                        }
                        Some("DATA") => answer.push_str("354 go on\r\n"),
                        _ if line == "." => {
                            answer.push_str(&"250 ok\r\n".repeat(if lmtp { n.div_ceil(2) } else { 1 }));
                        }
                        _ => {}
                    }
                }
                hear(&mut inbox, answer.as_bytes(), |reply| {
                    out.reply_arrived();
                    talk.on_reply(reply, &out).unwrap();
                });
            }
            want => panic!("{want:?}"),
        }
    }
    black_box((written, talk.next_result().unwrap().unwrap().recipients().count()));
}
