//! A message with text, HTML with an image, and a file, with a progress bar while it is sent.
//!
//! ```text
//! cargo run --features testing --example attachments
//! cargo run --features async,testing --example attachments -- --async
//! ```
//!
//! The message is sent to the testing server, and printed as a mail reader would show it. It is parsed by a different library
//! (mail-parser) than the one that composed it.

use std::{error, fs, process};

use indicatif::{ProgressBar, ProgressStyle};
use mail_parser::{MessageParser, MimeHeaders};
use postino::{Delivery, Error, Mail, Message, message::Attachment, testing::Server};

/// A red dot.
const DOT: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde\0\0\0\
    \x0cIDATx\x9cc\xf8\xcf\xc0\0\0\x03\x01\x01\0\xc9\xfe\x92\xef\0\0\0\0IEND\xaeB`\x82";

fn main() -> Result<(), Box<dyn error::Error>> {
    let server = Server::start()?;
    let path = std::env::temp_dir().join(format!("Überstunden-{}.csv", process::id()));
    fs::write(&path, "Tag;Stunden\r\n".repeat(1_000_000))?;
    let sent = send(&server.url(), &compose(&path)?);
    fs::remove_file(&path)?;
    println!("The server calls it {}.\n", sent?.queue_id().unwrap_or_default());
    show(server.wait_for_messages(1)[0].content())
}

/// The file is read and encoded only while it is sent, so it may have any size.
fn compose(table: &std::path::Path) -> Result<Message, Error> {
    Message::builder()
        .from("Jörg Müller <joerg@example.org>")
        .to("Bob <bob@example.net>")
        .subject("Überstunden, wie versprochen")
        .text("Hallo Bob,\n\nanbei die Überstunden.\n\nJörg\n")
        .html("<p>Hallo Bob,</p><p>anbei die <b>Überstunden</b>.</p><p>Jörg <img src=\"cid:dot\"></p>\n")
        .attach(Attachment::bytes("dot.png", DOT).content_id("dot"))
        .attach(Attachment::path(table))
        .build()
}

fn send(url: &str, message: &Message) -> Result<Delivery, Error> {
    let bar = ProgressBar::no_length().with_style(style());
    let mail = message.on_progress(|sent, total| {
        bar.set_length(total.unwrap_or(sent));
        bar.set_position(sent);
    });
    let delivery = match std::env::args().nth(1).as_deref() {
        Some("--async") => send_async(url, &mail),
        _ => postino::send(url, &mail),
    };
    bar.finish();
    delivery
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(feature = "async")]
fn send_async(url: &str, mail: &impl Mail) -> Result<Delivery, Error> {
    smol::block_on(postino::aio::send(url, mail))
}

#[cfg(not(feature = "async"))]
fn send_async(_: &str, _: &impl Mail) -> Result<Delivery, Error> {
    Err(Error::Config("--async needs the `async` feature".into()))
}

fn show(bytes: &[u8]) -> Result<(), Box<dyn error::Error>> {
    let message = MessageParser::default().parse(bytes).ok_or("an invalid message arrived")?;
    let author = message.from().and_then(|from| from.first()).ok_or("the message has no author")?;
    println!("From:    {} <{}>", author.name().unwrap_or_default(), author.address().unwrap_or_default());
    println!("Subject: {}", message.subject().unwrap_or_default());
    println!("\n{}", message.body_text(0).unwrap_or_default());
    println!("or, in HTML:\n\n{}", message.body_html(0).unwrap_or_default());
    for part in message.attachments() {
        let kind = part
            .content_type()
            .map(|kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default()));
        let name = part.attachment_name().or(part.content_id()).unwrap_or_default();
        println!("[{name}: {}, {} octets]", kind.unwrap_or_default(), part.contents().len());
    }
    Ok(())
}
