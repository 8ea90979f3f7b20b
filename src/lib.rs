//! (being written)
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(unix))]
compile_error!("postino works on Unix systems so far");

mod blocking;

#[cfg(feature = "async")]
#[cfg_attr(docsrs, doc(cfg(feature = "async")))]
pub mod aio;

mod address;
mod config;
mod delivery;
mod error;
pub mod message;
pub mod proto;
mod tls;

#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;

pub use self::{
    address::{Address, Envelope},
    blocking::{Builder, Client},
    config::Security,
    delivery::{Delivery, Outcome, Recipient},
    error::{Error, Phase},
    message::{Mail, Raw},
    proto::{
        Capabilities,
        reply::{EnhancedCode, Reply},
    },
};

/// Sends one message over a connection of its own.
///
/// # Errors
///
/// Those of [`Client::from_url`] and [`Builder::send`].
pub fn send(url: &str, mail: &dyn Mail) -> Result<Delivery, Error> {
    Client::from_url(url)?.send(mail)
}
