//! The crate's error type.

use std::fmt;

/// The error type of this crate.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// PostgreSQL refused a statement, or the connection to it was lost.
    Database(diesel::result::Error),
    /// Could not connect to PostgreSQL.
    Connection(diesel::ConnectionError),
    /// The schema in the database is missing, or of another version than this program needs.
    Schema(String),
    /// Invalid configuration.
    Config(String),
    /// A mail cannot be queued, because of an invalid address or option, or because its content cannot be read. Also an
    /// invalid server URL.
    Mail(postino::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Database(source) => write!(f, "database: {source}"),
            Error::Connection(source) => write!(f, "could not connect to the database: {source}"),
            Error::Schema(what) | Error::Config(what) => f.write_str(what),
            Error::Mail(source) => write!(f, "{source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Database(source) => Some(source),
            Error::Connection(source) => Some(source),
            Error::Mail(source) => Some(source),
            Error::Schema(_) | Error::Config(_) => None,
        }
    }
}

impl From<diesel::result::Error> for Error {
    fn from(source: diesel::result::Error) -> Error {
        Error::Database(source)
    }
}

impl From<diesel::ConnectionError> for Error {
    fn from(source: diesel::ConnectionError) -> Error {
        Error::Connection(source)
    }
}

impl From<postino::Error> for Error {
    fn from(source: postino::Error) -> Error {
        Error::Mail(source)
    }
}
