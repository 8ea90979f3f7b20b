//! A batch can be turned into a stream in the async client.

use std::ops::DerefMut;

use smol::stream::{self, Stream};

use super::client::{Batch, Client};
use crate::{Delivery, Error, Mail};

impl<C: DerefMut<Target = Client>, M: Mail, I: Iterator<Item = M>> Batch<C, M, I> {
    /// Turns the batch into a stream of its results, each with its index.
    pub fn into_stream(self) -> impl Stream<Item = (usize, Result<Delivery, Error>)> {
        stream::unfold(self, |mut batch| async {
            let result = batch.next().await?;
            Some((result, batch))
        })
    }
}
