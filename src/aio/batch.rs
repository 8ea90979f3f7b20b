//! A batch can be made a stream here.

use std::ops::DerefMut;

use smol::stream::{self, Stream};

use super::client::{Batch, Client};
use crate::{Delivery, Error, Mail};

impl<C: DerefMut<Target = Client>, M: Mail, I: Iterator<Item = M>> Batch<C, M, I> {
    /// The results as a stream.
    pub fn into_stream(self) -> impl Stream<Item = (usize, Result<Delivery, Error>)> {
        stream::unfold(self, |mut batch| async {
            let result = batch.next().await?;
            Some((result, batch))
        })
    }
}
