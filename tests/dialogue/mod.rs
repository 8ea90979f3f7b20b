//! Conversations of a client with a script, each compiled for both clients (`crate::block_on` is the difference).

mod auth;
mod batch;
mod body;
#[cfg(any(feature = "native-tls", feature = "rustls"))]
mod certificates;
mod chunking;
mod commands;
mod compose;
mod connect;
mod events;
mod farewell;
#[cfg(all(unix, any(feature = "native-tls", feature = "rustls")))]
pub mod floods;
mod headers;
mod hello;
mod hostile;
mod limits;
mod lmtp;
mod mailers;
mod options;
mod pool;
mod proxy;
mod replies;
mod sessions;
mod slow;
mod stalls;
#[cfg(feature = "testing")]
mod testing;
mod time;
#[cfg(any(feature = "native-tls", feature = "rustls"))]
mod tls;
mod transaction;
mod transports;
#[cfg(any(feature = "native-tls", feature = "rustls"))]
mod trust;
#[cfg(unix)]
mod unix_sockets;
mod verify;
#[cfg(all(feature = "native-tls", feature = "rustls"))]
pub mod with_rustls;

use std::error::Error as _;

#[cfg(any(feature = "native-tls", feature = "rustls"))]
use postino::TlsBackend;
use postino::{Delivery, Envelope, Error, Mail, Outcome, Raw};

use crate::{
    Builder, Client, block_on,
    support::{PATIENCE, Server, consistent::is_consistent},
};

/// Returns a builder with the name that scripts expect, and limits that no test reaches by accident.
pub fn builder(server: &Server) -> Builder {
    named(server, "127.0.0.1")
}

pub fn named(server: &Server, host: &str) -> Builder {
    let builder = Client::builder(host).port(server.port()).hello_name("client.example.org");
    builder.timeout(PATIENCE).final_reply_timeout(PATIENCE)
}

/// The TLS library of `certificates` and `tls`; `with_rustls` has another one.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
fn backend() -> TlsBackend {
    TlsBackend::default()
}

/// Is added to a number of CAs by which a test finds its own lines in the log.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
const MORE_CAS: usize = 0;

#[track_caller]
pub fn connect(server: &Server) -> Client {
    block_on(builder(server).connect()).unwrap()
}

/// Returns the error of connecting.
#[track_caller]
pub fn connect_error(builder: &Builder) -> Error {
    block_on(builder.connect()).unwrap_err()
}

/// The usual message: one line, from Alice to Bob.
pub fn mail() -> Raw<'static> {
    text(b"Hello\r\n")
}

pub fn text(text: &[u8]) -> Raw<'_> {
    Raw::bytes(envelope(&["bob@example.org"]), text)
}

pub fn mail_to(recipients: &[&str]) -> Raw<'static> {
    Raw::bytes(envelope(recipients), b"Hello\r\n")
}

pub fn envelope(recipients: &[&str]) -> Envelope {
    Envelope::new("alice@example.org", recipients).unwrap()
}

pub fn deliver(client: &mut Client, mail: &dyn Mail) -> Result<Delivery, Error> {
    let result = block_on(client.send(mail));
    assert!(result.as_ref().err().is_none_or(is_consistent), "{result:?}");
    result
}

/// Sends a message that every recipient gets.
#[track_caller]
pub fn accept(client: &mut Client, mail: &dyn Mail) {
    let delivery = deliver(client, mail).unwrap();
    assert!(delivery.recipients().all(|recipient| recipient.outcome() == Outcome::Accepted));
}

/// Returns the error of sending.
#[track_caller]
pub fn send_error(client: &mut Client, mail: &dyn Mail) -> Error {
    deliver(client, mail).unwrap_err()
}

/// Waits until the server has closed the connection.
#[track_caller]
pub fn wait_for_close(client: &mut Client) {
    let start = std::time::Instant::now();
    while client.is_connected() {
        assert!(start.elapsed() < PATIENCE, "the server has not closed it");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// A message from Alice to Bob whose only line is this number.
pub fn numbered(number: usize) -> Raw<'static> {
    Raw::bytes(envelope(&["bob@example.org"]), format!("{number}\r\n"))
}

/// Returns the result of each message of a batch. After the connection is lost, the others are left in the iterator.
#[track_caller]
pub fn send_all<M: Mail>(client: &mut Client, mails: Vec<M>) -> Vec<Result<Delivery, Error>> {
    let count = mails.len();
    let mut mails = mails.into_iter();
    let mut batch = client.send_all(mails.by_ref());
    let mut results = Vec::new();
    while let Some((number, result)) = block_on(batch.next()) {
        assert_eq!(number, results.len());
        assert!(result.as_ref().err().is_none_or(is_consistent), "{result:?}");
        results.push(result);
    }
    let is_lost = batch.is_lost();
    drop(batch);
    assert_eq!(results.len() + mails.len(), count);
    assert!(is_lost || mails.len() == 0);
    results
}

/// Returns the outcomes as one word, with a letter for each message.
pub fn outcomes(results: &[Result<Delivery, Error>]) -> String {
    let letter = |result: &Result<Delivery, Error>| match result {
        Ok(_) => 'A',
        Err(error) => match error.delivery().map(Delivery::outcome) {
            Some(Outcome::Refused) => 'R',
            Some(Outcome::NotSent) => 'N',
            Some(Outcome::InDoubt) => 'D',
            _ => 'E', // another error: nothing was begun
        },
    };
    results.iter().map(letter).collect()
}

/// The error inside an [`Error::Transaction`].
pub fn cause(error: &Error) -> &Error {
    error.source().and_then(|source| source.downcast_ref()).unwrap()
}

pub fn outcome(error: &Error) -> Outcome {
    error.delivery().unwrap().outcome()
}

/// Asserts that the client is unusable: it returns an error, and sends nothing.
#[track_caller]
pub fn assert_closed(client: &mut Client) {
    assert!(matches!(block_on(client.noop()), Err(Error::NotConnected)));
}

#[track_caller]
pub fn assert_open(client: &mut Client) {
    block_on(client.noop()).unwrap();
}

/// Returns the code of a refusal, and its phase.
#[track_caller]
pub fn refusal(error: &Error) -> (postino::Phase, u16) {
    match error {
        Error::Refused { phase, reply } => (*phase, reply.code()),
        other => panic!("no refusal: {other:?}"),
    }
}
