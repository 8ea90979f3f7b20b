//! (being written)
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
mod delivery;
mod error;
pub mod message;
pub mod proto;

#[cfg(feature = "testing")]
pub mod testing;

pub use address::{Address, Envelope};
pub use delivery::{Delivery, Outcome, Recipient};
pub use error::{Error, Phase};
pub use message::{Mail, Raw};
pub use proto::reply::{EnhancedCode, Reply};
