//! The trait for everything that can send a message.

use std::sync::Arc;

use super::{
    Builder, Client, Pool,
    mailers::{Failover, Retrying},
};
use crate::{
    Delivery, Error, FolderMailer, Mail, MemoryMailer, ProgramMailer,
    transports::{copied, natural_body, portable_body},
};

/// Something that sends messages: a [`Client`], a [`Builder`] or a [`Pool`], a mailer that wraps others ([`Retrying`],
/// [`Failover`]), a mailer without a connection ([`MemoryMailer`], [`FolderMailer`], [`ProgramMailer`]), or your own
/// type.
///
/// An application takes a `&mut dyn Mailer`, and its tests pass a different mailer:
///
/// ```no_run
/// use postino::{Client, Error, Mailer, Message};
///
/// fn welcome(mailer: &mut dyn Mailer, user: &str) -> Result<(), Error> {
///     let message = Message::builder().from("shop@example.org").to_one(user).text("Welcome!\n").build()?;
///     mailer.send(&message)?.require_all()?;
///     Ok(())
/// }
///
/// welcome(&mut Client::from_url("smtp://mail.example.org")?, "bob@example.net")?;
/// # Ok::<(), Error>(())
/// ```
pub trait Mailer: Send {
    /// Sends a message to all of its recipients. Returns `Ok` if it was accepted for at least one of them.
    /// Implementations must return a delivery with exactly the recipients of the mail, in the same order.
    ///
    /// # Errors
    ///
    /// [`Error::retry`] says whether to send the message again. An error with a [`delivery`](Error::delivery) has the
    /// outcome for each recipient.
    fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error>;
}

/// Connects again before sending if the connection is closed. Fails with `NotConnected` instead if the caller made the
/// connection (`connect_over`) or changed it with a call such as `login` or `starttls`.
impl Mailer for Client {
    fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        self.send_reconnected(mail)
    }
}

/// Sends each message over its own connection.
impl Mailer for Builder {
    fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        Builder::send(self, mail)
    }
}

impl Mailer for Pool {
    fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        Pool::send(self, mail)
    }
}

impl<M: Mailer> Mailer for Retrying<M> {
    fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        self.attempt(mail)
    }
}

impl Mailer for Failover {
    fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        self.attempt(mail)
    }
}

impl Mailer for MemoryMailer {
    fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        self.keep(copied(mail.envelope()?, natural_body(mail)?)?)
    }
}

impl Mailer for FolderMailer {
    fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        self.store(copied(mail.envelope()?, portable_body(mail)?)?)
    }
}

impl Mailer for ProgramMailer {
    fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        let (envelope, arguments) = self.arguments(mail.envelope()?)?;
        let waiting = Arc::new(());
        self.run(arguments, copied(envelope, portable_body(mail)?)?, &Arc::downgrade(&waiting))
    }
}

impl<M: Mailer + ?Sized> Mailer for &mut M {
    fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        (**self).send(mail)
    }
}

impl<M: Mailer + ?Sized> Mailer for Box<M> {
    fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        (**self).send(mail)
    }
}
