//! A guide: short pages on common tasks, with examples that compile.
//!
//! | page | topics |
//! |---|---|
//! | [`first_mail`] | a complete program, and what its output means |
//! | [`tls_and_login`] | encryption, certificates, passwords, and checking a server |
//! | [`providers`] | the settings of well-known mail services |
//! | [`oauth`] | tokens for Gmail and Microsoft 365 |
//! | [`messages`] | composing and signing messages, sending existing ones, per-message options |
//! | [`errors_and_retrying`] | what may have happened to a message, and how to retry without duplicates |
//! | [`many_messages`] | batches, pools, and a queue for several machines |
//! | [`deadlines`] | time limits, and why a timeout around a send can duplicate mail |
//! | `testing_your_code` | tests without network access, and a test server with fault injection (feature `testing`) |
//! | [`logging_and_metrics`] | logging the dialogue, events, counters and durations |
//! | [`small_and_static_builds`] | the cost of each feature, and how to build small and static programs |
//! | [`proxies`] | SOCKS5, HTTP CONNECT, tunnels |
//! | `serialization` | addresses, envelopes, results and settings in JSON and other formats (feature `serde`) |
//! | [`newsletter`] | sending a newsletter without gaps or duplicates after a crash |
//! | [`how_it_compares`] | features and measurements, compared with other libraries |
//! | [`renamed`] | old and new names, for users of development versions |
//!
//! Coming from another library? These pages list the counterparts of that library's names: [`coming_from_lettre`],
//! [`coming_from_nodemailer`], [`coming_from_smtplib`], [`coming_from_aiosmtplib`].

// Each page is a file next to this one, and exists only in the documentation. The links in it are resolved here.
#[allow(unused_imports)]
use crate::*;

macro_rules! pages {
    ($($page:ident)*) => {
        $(#[doc = include_str!(concat!(stringify!($page), ".md"))] pub mod $page {})*
    };
}

pages! {
    first_mail
    tls_and_login
    providers
    oauth
    messages
    errors_and_retrying
    many_messages
    deadlines
    logging_and_metrics
    small_and_static_builds
    proxies
    newsletter
    how_it_compares
    coming_from_lettre
    coming_from_nodemailer
    coming_from_smtplib
    coming_from_aiosmtplib
    renamed
}

// The examples on this page need both clients and the test server.
#[cfg(any(all(not(doctest), feature = "testing"), all(doctest, feature = "async", feature = "testing-tls")))]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
#[doc = include_str!("testing_your_code.md")]
pub mod testing_your_code {}

#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
#[doc = include_str!("serialization.md")]
pub mod serialization {}
