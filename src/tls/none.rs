//! No TLS: types without values in place of those of a TLS library, so that nothing else needs a `cfg`.
#![allow(dead_code)] // the same shape as with the library

use std::{
    convert::Infallible,
    io::{self, Read, Write},
    marker::PhantomData,
};

use super::{Flaw, Options};
use crate::Error;

pub(super) type Certificate = Infallible;

#[derive(Clone)]
pub(crate) struct Connector(Infallible);

#[derive(Clone)]
pub(super) struct Identity(Infallible);

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
    pub(super) fn new(_: &Options, _: &[Certificate]) -> Result<Connector, Flaw> {
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

pub(crate) fn peer_certificate<S>(stream: &TlsStream<S>) -> Option<Vec<u8>> {
    match stream.0 {}
}

const NONE: &str = "TLS is required, but postino was built without its feature `native-tls`";

pub(super) fn available() -> Result<(), Error> {
    Err(Error::Config(NONE.into()))
}

pub(super) fn roots(_: &[u8]) -> Result<Vec<Certificate>, Flaw> {
    Err(NONE.into())
}
