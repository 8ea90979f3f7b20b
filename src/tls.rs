//! TLS by native-tls: settings, one connector for all clones of them, the handshake. Without the feature
//! `native-tls` the same names stand for what cannot be.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

#[cfg(feature = "async")]
pub(crate) use self::library::Paused;
pub(crate) use self::library::{Connector, Handshake, TlsStream, end_point};
use crate::Error;

/// What to trust, and which name to verify.
#[derive(Clone, Default)]
pub(crate) struct TlsSettings {
    /// Certificates in PEM, to trust as well.
    roots: Vec<Arc<[u8]>>,
    name: Option<String>,
    /// Built when it is first needed, and then shared: each costs some 50 ms of reading the system's certificates.
    connector: Arc<OnceLock<Connector>>,
}

impl TlsSettings {
    pub fn add_root(&mut self, pem: &[u8]) {
        self.roots.push(pem.into());
        self.connector = Arc::default();
    }

    pub fn set_name(&mut self, name: String) {
        self.name = Some(name);
    }

    /// The name to verify, if it is not the host's.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// # Errors
    ///
    /// [`Error::Config`] if this build has no TLS.
    pub fn available() -> Result<(), Error> {
        library::available()
    }

    /// # Errors
    ///
    /// [`Error::Config`] if a certificate is none.
    pub fn check(&self) -> Result<(), Error> {
        self.roots.iter().try_for_each(|pem| library::check_root(pem))
    }

    /// The connector, if it was needed before.
    pub fn built(&self) -> Option<Connector> {
        self.connector.get().cloned()
    }

    /// # Errors
    ///
    /// [`Error::Tls`] if the library does not like the settings, [`Error::Config`] if there is no library.
    pub fn connector(&self) -> Result<Connector, Error> {
        if let Some(connector) = self.built() {
            return Ok(connector);
        }
        let connector = Connector::new(&self.roots)?;
        Ok(self.connector.get_or_init(|| connector).clone())
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings").field("roots", &self.roots.len()).field("name", &self.name).finish()
    }
}

#[cfg(feature = "native-tls")]
#[cfg_attr(not(feature = "async"), allow(dead_code))] // the blocking world never goes on with a paused handshake
mod library {
    use std::{
        io::{self, Read, Write},
        sync::Arc,
    };

    pub(crate) use native_tls::TlsStream;
    use native_tls::{Certificate, HandshakeError, MidHandshakeTlsStream};

    use crate::{Error, Phase};

    #[derive(Clone)]
    pub(crate) struct Connector(native_tls::TlsConnector);

    /// How far a handshake got.
    pub(crate) enum Handshake<S> {
        Done(TlsStream<S>),
        /// The transport would have had to wait.
        Paused(Paused<S>),
        Failed(Error),
    }

    /// A handshake on its way.
    pub(crate) struct Paused<S>(MidHandshakeTlsStream<S>);

    impl<S: Read + Write> Paused<S> {
        pub fn get_mut(&mut self) -> &mut S {
            self.0.get_mut()
        }

        pub fn resume(self, name: &str) -> Handshake<S> {
            Handshake::from(name, self.0.handshake())
        }
    }

    impl Connector {
        pub fn new(roots: &[Arc<[u8]>]) -> Result<Connector, Error> {
            let mut builder = native_tls::TlsConnector::builder();
            for pem in roots {
                for certificate in Certificate::stack_from_pem(pem).map_err(tls)? {
                    builder.add_root_certificate(certificate);
                }
            }
            builder.build().map(Connector).map_err(tls)
        }

        pub fn connect<S: Read + Write>(&self, name: &str, stream: S) -> Handshake<S> {
            Handshake::from(name, self.0.connect(name, stream))
        }
    }

    impl<S: Read + Write> Handshake<S> {
        fn from(name: &str, result: Result<TlsStream<S>, HandshakeError<S>>) -> Handshake<S> {
            match result {
                Ok(stream) => Handshake::Done(stream),
                Err(HandshakeError::WouldBlock(paused)) => Handshake::Paused(Paused(paused)),
                // native-tls tells an untrusted certificate from other failures by its text only.
                Err(HandshakeError::Failure(e)) if e.to_string().contains("certificate verify failed") => {
                    Handshake::Failed(Error::Certificate { name: name.to_owned(), source: e.into() })
                }
                Err(HandshakeError::Failure(e)) => Handshake::Failed(tls(e)),
            }
        }
    }

    /// The hash of the server's certificate (tls-server-end-point, RFC 5929 §4); `None` where there is none, such as
    /// for a certificate signed with Ed25519.
    pub(crate) fn end_point<S: Read + Write>(stream: &TlsStream<S>) -> Option<Vec<u8>> {
        stream.tls_server_end_point().ok().flatten()
    }

    fn tls(e: native_tls::Error) -> Error {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
        while let Some(error) = cause {
            if let Some(lost) = error.downcast_ref::<io::Error>() {
                return Error::io(Phase::Tls, io::Error::new(lost.kind(), lost.to_string()));
            }
            cause = error.source();
        }
        match e.to_string() {
            text if text.to_ascii_lowercase().contains("unexpected eof") => Error::Closed(Phase::Tls),
            text if text.contains("wrong version number") => Error::Tls {
                source: format!("the server speaks no TLS here (a port for STARTTLS or plain text?): {text}")
                    .into(),
            },
            _ => Error::Tls { source: e.into() },
        }
    }

    pub(super) fn available() -> Result<(), Error> {
        Ok(())
    }

    pub(super) fn check_root(pem: &[u8]) -> Result<(), Error> {
        match Certificate::stack_from_pem(pem) {
            Ok(certificates) if !certificates.is_empty() => Ok(()),
            Ok(_) => Err(Error::Config("there is no PEM certificate in the CA that was given".into())),
            Err(e) => Err(Error::Config(format!("the CA that was given is no PEM certificate: {e}").into())),
        }
    }
}

#[cfg(not(feature = "native-tls"))]
#[allow(dead_code)] // the same shape as with the library
mod library {
    use std::{
        convert::Infallible,
        io::{self, Read, Write},
        marker::PhantomData,
        sync::Arc,
    };

    use crate::Error;

    #[derive(Clone)]
    pub(crate) struct Connector(Infallible);

    #[derive(Debug)]
    pub(crate) struct TlsStream<S>(Infallible, PhantomData<S>);

    pub(crate) enum Handshake<S> {
        Done(TlsStream<S>),
        Paused(Paused<S>),
        Failed(Error),
    }

    pub(crate) struct Paused<S>(Infallible, PhantomData<S>);

    impl<S> Paused<S> {
        pub fn get_mut(&mut self) -> &mut S {
            match self.0 {}
        }

        pub fn resume(self, _: &str) -> Handshake<S> {
            match self.0 {}
        }
    }

    impl Connector {
        pub fn new(_: &[Arc<[u8]>]) -> Result<Connector, Error> {
            Err(none())
        }

        pub fn connect<S>(&self, _: &str, _: S) -> Handshake<S> {
            match self.0 {}
        }
    }

    impl<S> TlsStream<S> {
        pub fn get_mut(&mut self) -> &mut S {
            match self.0 {}
        }

        pub fn shutdown(&mut self) -> io::Result<()> {
            match self.0 {}
        }
    }

    impl<S> Read for TlsStream<S> {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            match self.0 {}
        }
    }

    impl<S> Write for TlsStream<S> {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            match self.0 {}
        }

        fn flush(&mut self) -> io::Result<()> {
            match self.0 {}
        }
    }

    pub(crate) fn end_point<S>(stream: &TlsStream<S>) -> Option<Vec<u8>> {
        match stream.0 {}
    }

    fn none() -> Error {
        Error::Config("TLS was asked for, and postino was built without its feature `native-tls`".into())
    }

    pub(super) fn available() -> Result<(), Error> {
        Err(none())
    }

    pub(super) fn check_root(_: &[u8]) -> Result<(), Error> {
        Err(none())
    }
}
