//! The message types of other crates, which can be sent like a [`Message`](super::Message).

mod email_format;
#[cfg(feature = "lettre-0_11")]
mod lettre;
#[cfg(feature = "mail-builder-2")]
mod mail_builder;
