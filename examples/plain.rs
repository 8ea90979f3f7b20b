//! A message with plain text only.
//!
//! ```text
//! cargo run --features testing --example plain
//! cargo run --features async,testing --example plain -- --async
//! ```
//!
//! A date and an identifier are added automatically, and the envelope comes from the header fields. Prints the message as it
//! arrived.

use postino::{Delivery, Error, Message, testing::Server};

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

fn compose() -> Result<Message, Error> {
    Message::builder()
        .from("root@localhost")
        .to("somebody@example.com")
        .subject("Hello World!")
        .text("Sent via postino\n")
        .build()
}

#[cfg(feature = "async")]
fn send_async(url: &str, mail: &Message) -> Result<Delivery, Error> {
    smol::block_on(postino::aio::send(url, mail))
}

#[cfg(not(feature = "async"))]
fn send_async(_: &str, _: &Message) -> Result<Delivery, Error> {
    Err(Error::Config("--async needs the `async` feature".into()))
}
