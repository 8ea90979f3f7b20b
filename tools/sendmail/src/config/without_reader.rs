//! Stands in for `reader` in a program without the `config` feature. A file is an error: its settings are not silently
//! ignored.

use std::{fs::File, path::Path};

use super::{Config, Source};
use crate::{failure::Failure, paths::Paths};

pub(super) fn read(file: &Path, _: &File, _: &Paths, _: &Source) -> Result<Config, Failure> {
    Err(Failure::file(file, "this program was built without configuration files (feature config)"))
}
