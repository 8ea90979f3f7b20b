//! A message that is there already, as bytes: nothing in it is read or changed.
//!
//! ```text
//! cargo run --features testing --example raw
//! cargo run --features async,testing --example raw -- --async
//! ```
//!
//! Line ends become CRLF, and dots need no care. `Raw::path` and `Raw::reader` do the same for files and readers;
//! `Envelope::from_headers` reads the envelope from the message. What arrived is shown.

use postino::{Delivery, Envelope, Error, Raw, testing::Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start()?; // yours has a URL such as smtps://user:secret@mail.example.org
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
    Err(Error::Config("--async needs the feature `async`".into()))
}
