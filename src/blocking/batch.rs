//! A batch is an iterator in the blocking client.

use std::ops::DerefMut;

use super::client::{Batch, Client};
use crate::{Delivery, Error, Mail};

impl<C: DerefMut<Target = Client>, M: Mail, I: Iterator<Item = M>> Iterator for Batch<C, M, I> {
    type Item = (usize, Result<Delivery, Error>);

    fn next(&mut self) -> Option<Self::Item> {
        Batch::next(self)
    }
}
