//! Stands in for the reader in a program without the feature `config`. A file is an error: its settings are not silently ignored.

use std::path::Path;

use super::Config;
use crate::{failure::Failure, paths::Paths};

pub(super) fn read(file: &Path, _text: &str, _paths: &Paths, _hides_text: bool) -> Result<Config, Failure> {
    Err(Failure::file(file, "this program was built without configuration files (feature config)"))
}
