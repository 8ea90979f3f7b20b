//! One text in two forms, plain and HTML; the mail reader chooses one (`multipart/alternative`).
//!
//! ```text
//! cargo run --features testing --example alternative
//! cargo run --features async,testing --example alternative -- --async
//! ```
//!
//! Prints the message as it arrived.

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
        .text("Hello World!\n")
        .html("<html><body><h1>Hello World!</h1></body></html>\n")
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
