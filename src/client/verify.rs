//! Checks whether a server can be used, without sending a message.

use super::{builder::Builder, maybe_async, origin::Maker, session::Client};
use crate::{
    Error, ServerReport, TlsFacts,
    tls::{CertificateFacts, TlsStream},
};

impl Client {
    /// Returns the name of the mechanism with which the client has logged in on this connection, such as `PLAIN`;
    /// `None` if it has not logged in.
    #[must_use]
    pub fn login_mechanism(&self) -> Option<&str> {
        self.history.login.mechanism.as_deref()
    }

    /// Returns what is known about the server: its greeting, its capabilities, details of the TLS session and its
    /// certificate, and the login mechanism. If you only want to check a server, use
    /// [`Builder::verify`](super::Builder::verify), which returns the same report.
    #[must_use]
    pub fn report(&self) -> ServerReport {
        let tls = self.link.stream.tls().map(|tls| TlsFacts {
            version: tls.version(),
            cipher_suite: tls.cipher_suite(),
            certificate: TlsStream::peer_certificate(tls)
                .map(|der| CertificateFacts::read(&der, |octets| tls.sha256(octets))),
        });
        ServerReport {
            server: self.settings().server.to_string(),
            peer: self.peer_addr(),
            greeting: self.known.greeting.clone(),
            capabilities: self.known.capabilities.clone(),
            tls,
            login_mechanism: self.login_mechanism().map(str::to_owned),
        }
    }
}

#[maybe_async]
impl Builder {
    /// Checks whether the server can be used, without sending a message: connects, secures the connection, logs in if
    /// there are credentials, and sends NOOP and QUIT. Returns a report of what was found. The
    /// [`deadline`](Builder::deadline) covers everything except QUIT, whose reply is not awaited.
    ///
    /// Success does not mean that the server will accept a particular sender or recipient.
    #[doc = example!(verify)]
    ///
    /// # Errors
    ///
    /// The same as for [`connect`](Builder::connect) and [`Client::noop`].
    pub async fn verify(&self) -> Result<ServerReport, Error> {
        let mut call = self.begin();
        let mut client = self.client(Maker::Client)?;
        client.open(&mut call).await?;
        client.ping(&mut call).await?;
        let report = client.report();
        client.quit_without_waiting();
        Ok(report)
    }
}
