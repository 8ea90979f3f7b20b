//! The async client (feature `async`), built on smol, with the same names and behaviour as the blocking client.
//!
//! ```no_run
//! # fn main() -> Result<(), postino::Error> {
//! use postino::{Envelope, Raw, aio};
//!
//! let envelope = Envelope::new("alice@example.org", ["bob@example.org"])?;
//! let mail = Raw::bytes(envelope, "Subject: Hi\n\nHello, Bob!\n");
//! smol::block_on(async {
//!     let mut client = aio::Client::builder("mail.example.org").connect().await?;
//!     let delivery = client.send(&mail).await?;
//!     assert_eq!(delivery.refused().count(), 0);
//!     client.quit().await
//! })
//! # }
//! ```
//!
//! **Do not put `tokio::time::timeout` around a send and retry when it fires.** Dropping the future of a send does not
//! undo the send: the server may have accepted the message, and the retry then duplicates it. Set
//! [`Builder::deadline`] instead (or [`Client::next_call_deadline`] for one call). If the deadline expires before the
//! transaction begins, no part of the message was sent. If it expires later, the error has the outcome for each
//! recipient, such as [in doubt](crate::Error::in_doubt). See [Cancellation](#cancellation).
//!
//! The futures of this module are `Send` and work with any executor. With an executor other than smol's, smol's reactor
//! runs on a separate thread.
//!
//! [`Builder::deadline`] limits each call (such as [`Client::send`] or [`Pool::send`]) as a whole. The limits of
//! individual waits, such as [`Builder::timeout`], still apply. The guide explains [how to limit the time of a
//! send](crate::guide::deadlines).
//!
//! # Many messages
//!
//! ```no_run
//! # use postino::{Raw, aio};
//! # async fn send(mails: Vec<Raw<'static>>) -> Result<(), postino::Error> {
//! let mut client = aio::Client::builder("mail.example.org").connect().await?;
//! let mut batch = client.send_all(mails);
//! while let Some((number, result)) = batch.next().await {
//!     match result {
//!         Ok(delivery) => println!("{number}: {:?}", delivery.queue_id()),
//!         Err(e) => eprintln!("{number}: {e}"),
//!     }
//! }
//! drop(batch);
//! client.quit().await
//! # }
//! ```
//!
//! [`Batch::into_stream`] turns a batch into a `Stream`. To send from many tasks, use a [`Pool`].
//!
//! # Differences from the blocking client
//!
//! There is no [`StopHandle`](crate::StopHandle): drop the future instead. Callbacks for passwords and tokens, as in
//! [`Builder::credentials_with`], return futures. [`Builder::connect_over`] takes any stream that implements
//! `AsyncRead` and `AsyncWrite`. Files and content readers may block, so they are opened and read on separate threads.
//!
//! # Cancellation
//!
//! If a future is dropped before it completes, its connection can no longer be used: every further call fails with
//! [`Error::NotConnected`] until [`Client::reconnect`] is called ([`Mailer::send`] reconnects automatically). This is
//! because a command may have been sent only in part, or its reply could be mistaken for the reply to the next command.
//! A timeout, a `select!` or a cancelled request can drop a future at any time; the message of that future may have
//! been delivered nevertheless.
//!
//! | how a send is limited | what happens if it takes too long |
//! |---|---|
//! | [`Builder::deadline`], [`Client::next_call_deadline`] | it returns an error with the outcome for each recipient; [`Error::retry`] returns `MayDuplicate` if the message is in doubt |
//! | `timeout(limit, client.send(&mail))` | the future is dropped; [`Client::interrupted`] then returns the result, as far as it is known without the server |
//! | `timeout(limit, pool.send(&mail))`, `timeout(limit, builder.send(&mail))` | the future is dropped together with its connection; only the [`observer`](Builder::observer) gets the result |
//! | the send runs in a task that is not cancelled, and the timeout is around its handle | the send continues, and its result is available later |
//!
//! Retry a message only if its result is known, and only for the recipients of
//! [`retry_envelope`](crate::Delivery::retry_envelope):
//!
//! ```no_run
//! # async fn example(server: postino::aio::Builder, mail: &dyn postino::Mail) -> Result<(), postino::Error> {
//! use std::time::Duration;
//!
//! use postino::Retry;
//!
//! if let Err(error) = server.deadline(Duration::from_secs(30)).send(mail).await {
//!     match error.retry() {
//!         Retry::Now | Retry::Later => println!("sending it again cannot duplicate it: {error}"),
//!         Retry::MayDuplicate => println!("it may have arrived already: {error}"),
//!         _ => println!("give up: {error}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Batch::next`] is an exception: if its future is dropped, `next` can be called again, and the batch still returns
//! the result of each message. Content from a reader is consumed only when it is read. If a future is dropped before
//! the content is read, its message can be sent again.

use ::maybe_async::must_be_async as maybe_async;

use crate::Delivery;
use crate::{Error, Mail};

#[macro_use]
mod examples;

#[path = "../client/mod.rs"]
#[allow(clippy::duplicate_mod)] // written once, compiled twice on purpose
mod client;

#[path = "../mailers/mod.rs"]
#[allow(clippy::duplicate_mod)]
mod mailers;

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[path = "../tls_connector.rs"]
#[allow(clippy::duplicate_mod)]
mod tls_connector;

mod batch;
mod bell;
mod body;
mod mailer;
mod resolve;
mod secret;
mod session;
mod stop;
mod stream;

pub use client::{Batch, Builder, Client, Pool, PoolBuilder, Pooled};
pub use mailer::{Mailer, Sending};
pub use mailers::{Failover, Retrying};

/// Sends one message over its own connection; see [`postino::send`](crate::send).
///
/// # Errors
///
/// The same as for [`Client::from_url`] and [`Builder::send`].
pub async fn send(url: &str, mail: &dyn Mail) -> Result<Delivery, Error> {
    Client::from_url(url)?.send(mail).await
}

/// Lets other tasks of the executor run.
use smol::future::yield_now as breathe;

#[cfg(test)]
use smol::block_on;
