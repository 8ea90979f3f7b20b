//! Stands in for `secret` in a program without the `config` feature, which has no secrets.

use crate::{config::Config, failure::Failure};

#[derive(Clone)]
pub enum Secret {}

impl Secret {
    pub fn is_inline(&self) -> bool {
        match *self {}
    }

    pub fn is_command(&self) -> bool {
        match *self {}
    }

    pub fn reveal(&self, _config: &Config) -> Result<String, Failure> {
        match *self {}
    }
}
