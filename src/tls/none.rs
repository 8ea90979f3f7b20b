//! Takes the place of a TLS library that is not compiled: types without values, so that no other code needs a `cfg`.
#![allow(dead_code)] // the same shape as with the library

use std::{
    convert::Infallible,
    io::{self, Read, Write},
    marker::PhantomData,
};

use super::{Flaw, Options, TlsVersion, pin};

pub(super) const AVAILABLE: bool = false;
pub(super) const PINS: bool = false;

pub(super) type Certificate = Infallible;

#[derive(Clone)]
pub(crate) struct Connector(Infallible);

#[derive(Clone)]
pub(super) struct Identity(Infallible);

#[derive(Debug)]
pub(crate) struct TlsStream<S>(Infallible, PhantomData<S>);

type Handshake<S> = super::Handshake<TlsStream<S>, Paused<S>>;

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
    pub(super) fn new(_: &Options, _: &[Certificate], _: Option<&Identity>) -> Result<Connector, Flaw> {
        Err(NONE.into())
    }

    pub fn connect<S>(&self, _: &str, _: S) -> Handshake<S> {
        match self.0 {}
    }
}

impl Identity {
    pub fn pem(_: &[u8], _: &[u8]) -> Result<Identity, Flaw> {
        Err(NONE.into())
    }

    pub fn pkcs12(_: &[u8], _: &str) -> Result<Identity, Flaw> {
        Err(NONE.into())
    }
}

impl<S> TlsStream<S> {
    pub fn get_mut(&mut self) -> &mut S {
        match self.0 {}
    }

    pub fn shutdown(&mut self) -> io::Result<()> {
        match self.0 {}
    }

    pub fn end_point(&self) -> Option<Vec<u8>> {
        match self.0 {}
    }

    pub fn exporter(&self) -> Option<Vec<u8>> {
        match self.0 {}
    }

    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        match self.0 {}
    }

    pub fn sha256(&self, _: &[u8]) -> Option<pin::Hash> {
        match self.0 {}
    }

    pub fn version(&self) -> Option<TlsVersion> {
        match self.0 {}
    }

    pub fn cipher_suite(&self) -> Option<String> {
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

/// Never shown, because the settings are checked first.
const NONE: &str = "the TLS library is not part of this build";

pub(super) fn roots(_: &[u8]) -> Result<Vec<Certificate>, Flaw> {
    Err(NONE.into())
}
