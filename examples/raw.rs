//! A message that already exists as bytes, which are neither parsed nor changed.
//!
//! ```text
//! cargo run --features testing --example raw
//! cargo run --features async,testing --example raw -- --async
//! ```
//!
//! Only line endings become CRLF, and dots at the start of a line are escaped. `Raw::path` and `Raw::reader` do the same for
//! files and readers. `Envelope::from_headers` takes the envelope from the message. Prints the message as it arrived.

use postino::{Delivery, Envelope, Error, Raw, testing::Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start()?; // a real server has a URL such as smtps://user:secret@mail.example.org
    let mail = compose()?;
    let delivery = match std::env::args().nth(1).as_deref() {
        Some("--async") => send_async(&server.url(), &mail)?,
        _ => postino::send(&server.url(), &mail)?,
    };
    for recipient in delivery.refused() {
        eprintln!("{} was refused: {:?}", recipient.address(), recipient.reply());
    }
    println!("{}", String::from_utf8_lossy(server.wait_for_messages(1)[0].content()));
    Ok(())
}

fn compose() -> Result<Raw<'static>, Error> {
    let envelope = Envelope::new("root@localhost", ["somebody@example.com"])?;
    let bytes = b"To: somebody@example.com
From: root@localhost
Subject: Hello World!

Sent via postino
";
    Ok(Raw::bytes(envelope, bytes))
}

#[cfg(feature = "async")]
fn send_async(url: &str, mail: &Raw<'_>) -> Result<Delivery, Error> {
    smol::block_on(postino::aio::send(url, mail))
}

#[cfg(not(feature = "async"))]
fn send_async(_: &str, _: &Raw<'_>) -> Result<Delivery, Error> {
    Err(Error::Config("--async needs the `async` feature".into()))
}
