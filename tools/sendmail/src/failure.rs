//! An error of the program itself, with its exit code (`sysexits.h`).

use std::{fmt::Display, path::Path};

/// The configuration, or a file that it names, is invalid or must not be used.
pub const CONFIG: u8 = 78;
/// A command line that is invalid, or not allowed in set-group-ID mode.
pub const USAGE: u8 = 64;
/// Nothing was accepted, and it can be tried again.
pub const TEMPORARY: u8 = 75;

/// One line for standard error, and the exit code.
#[derive(Clone, Debug)]
pub struct Failure {
    pub code: u8,
    pub text: String,
}

impl Failure {
    pub fn new(code: u8, text: impl Display) -> Failure {
        Failure { code, text: text.to_string() }
    }

    pub fn config(text: impl Display) -> Failure {
        Failure::new(CONFIG, text)
    }

    /// An error in a file, at a line.
    pub fn at(file: &Path, line: usize, text: impl Display) -> Failure {
        Failure::config(format!("{}, line {line}: {text}", file.display()))
    }

    /// An error in a file as a whole.
    pub fn file(file: &Path, text: impl Display) -> Failure {
        Failure::config(format!("{}: {text}", file.display()))
    }
}
