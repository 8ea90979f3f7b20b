//! (being written)
pub mod reply;
