//! A session over a wire in memory, for tests that try something at each of its points.
#![allow(dead_code, unused_imports)] // each of the two tests uses a part

mod notes;
#[path = "../support/rules/mod.rs"]
mod rules;
mod server;
mod wire;

pub use self::{
    notes::{Letter, Notes},
    server::{CHUNKED, JOINED, KINDS, Kind, Server},
    wire::{Op, What, Wire},
};
