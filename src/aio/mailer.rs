//! The trait for everything that can send a message.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use smol::unblock;

use super::{
    Builder, Client, Pool,
    body::open,
    mailers::{Failover, Retrying},
};
use crate::{
    Delivery, Envelope, Error, FolderMailer, Mail, MemoryMailer, ProgramMailer,
    message::{Body, Content},
    time::later,
    transports::{self, Copied, natural_body, portable_body, source_error},
};

/// The future returned by [`Mailer::send`].
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<Delivery, Error>> + Send + 'a>>;

/// Something that sends messages: a [`Client`], a [`Builder`] or a [`Pool`], a mailer that wraps others ([`Retrying`],
/// [`Failover`]), a mailer without a connection ([`MemoryMailer`], [`FolderMailer`], [`ProgramMailer`]), or your own
/// type.
///
/// The future is boxed, so that the trait can be used as a trait object: an application takes a `&mut dyn Mailer`, and
/// its tests pass a different mailer.
///
/// ```no_run
/// use postino::{Error, Message, aio::{Client, Mailer}};
///
/// async fn welcome(mailer: &mut dyn Mailer, user: &str) -> Result<(), Error> {
///     let message = Message::builder().from("shop@example.org").to_one(user).text("Welcome!\n").build()?;
///     mailer.send(&message).await?.require_all()?;
///     Ok(())
/// }
///
/// # async fn example() -> Result<(), Error> {
/// welcome(&mut Client::from_url("smtp://mail.example.org")?, "bob@example.net").await
/// # }
/// ```
///
/// Unit tests can pass a [`MemoryMailer`]. Like [`FolderMailer`] and [`ProgramMailer`], it also implements the blocking
/// [`Mailer`](crate::Mailer). In the async client, those two do their work on threads that are allowed to block.
///
/// ```
/// # smol::block_on(async {
/// use postino::{Envelope, MemoryMailer, Raw, aio::Mailer};
///
/// let mut mailer = MemoryMailer::new();
/// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
/// mailer.send(&Raw::bytes(envelope, "Subject: Hi\n\nHello, Bob!\n")).await?;
/// assert_eq!(mailer.sent()[0].envelope().recipients(), ["bob@example.net"]);
/// # Ok::<(), postino::Error>(())
/// # }).unwrap();
/// ```
pub trait Mailer: Send {
    /// Sends a message to all of its recipients. Returns `Ok` if it was accepted for at least one of them.
    /// Implementations must return a delivery with exactly the recipients of the mail, in the same order.
    ///
    /// # Errors
    ///
    /// [`Error::retry`] says whether to send the message again. An error with a [`delivery`](Error::delivery) has the
    /// outcome for each recipient.
    fn send<'a>(&'a mut self, mail: &'a dyn Mail) -> Sending<'a>;
}

/// Connects again before sending if the connection is closed. Fails with `NotConnected` instead if the caller made the
/// connection (`connect_over`) or changed it with a call such as `login` or `starttls`.
impl Mailer for Client {
    fn send<'a>(&'a mut self, mail: &'a dyn Mail) -> Sending<'a> {
        Box::pin(self.send_reconnected(mail))
    }
}

/// Sends each message over its own connection.
impl Mailer for Builder {
    fn send<'a>(&'a mut self, mail: &'a dyn Mail) -> Sending<'a> {
        Box::pin(Builder::send(self, mail))
    }
}

impl Mailer for Pool {
    fn send<'a>(&'a mut self, mail: &'a dyn Mail) -> Sending<'a> {
        Box::pin(Pool::send(self, mail))
    }
}

impl<M: Mailer> Mailer for Retrying<M> {
    fn send<'a>(&'a mut self, mail: &'a dyn Mail) -> Sending<'a> {
        Box::pin(self.attempt(mail))
    }
}

impl Mailer for Failover {
    fn send<'a>(&'a mut self, mail: &'a dyn Mail) -> Sending<'a> {
        Box::pin(self.attempt(mail))
    }
}

impl Mailer for MemoryMailer {
    fn send<'a>(&'a mut self, mail: &'a dyn Mail) -> Sending<'a> {
        Box::pin(async { self.keep(copied(mail.envelope()?, natural_body(mail)?).await?) })
    }
}

/// Files are read and written on threads that are allowed to block. The message may be written even if the future is
/// dropped.
impl Mailer for FolderMailer {
    fn send<'a>(&'a mut self, mail: &'a dyn Mail) -> Sending<'a> {
        Box::pin(async {
            let mail = copied(mail.envelope()?, portable_body(mail)?).await?;
            let mailer = self.clone();
            unblock(move || mailer.store(mail)).await
        })
    }
}

/// A thread that is allowed to block runs the program and waits for it. If the future is dropped, the program is
/// killed.
impl Mailer for ProgramMailer {
    fn send<'a>(&'a mut self, mail: &'a dyn Mail) -> Sending<'a> {
        Box::pin(async {
            let (envelope, arguments) = self.arguments(mail.envelope()?)?;
            let mail = copied(envelope, portable_body(mail)?).await?;
            let (mailer, waiting) = (self.clone(), Arc::new(()));
            let waiter = Arc::downgrade(&waiting);
            unblock(move || mailer.run(arguments, mail, &waiter)).await
        })
    }
}

/// Reads the content of a mail to its end. Reads that may block are done on another thread.
async fn copied(envelope: Envelope, body: Body<'_>) -> Result<Copied, Error> {
    let body = open(body, later(Instant::now(), Duration::MAX)).await.map_err(source_error)?;
    if matches!(body.content, Content::Bytes(_)) {
        return transports::copied(envelope, body);
    }
    match body.into_once() {
        Some(body) => unblock(move || transports::copied(envelope, body)).await,
        None => Err(Error::Internal("the content to read is borrowed")),
    }
}

impl<M: Mailer + ?Sized> Mailer for &mut M {
    fn send<'a>(&'a mut self, mail: &'a dyn Mail) -> Sending<'a> {
        (**self).send(mail)
    }
}

impl<M: Mailer + ?Sized> Mailer for Box<M> {
    fn send<'a>(&'a mut self, mail: &'a dyn Mail) -> Sending<'a> {
        (**self).send(mail)
    }
}
