//! Bytes of any type, borrowed or owned, which are never copied.

use std::ops::Deref;

/// Bytes of any type, either owned or borrowed for `'b`.
pub(super) struct Bytes<'b>(Box<dyn AsRef<[u8]> + Send + Sync + 'b>);

impl<'b> Bytes<'b> {
    pub fn new(bytes: impl AsRef<[u8]> + Send + Sync + 'b) -> Bytes<'b> {
        Bytes(Box::new(bytes))
    }
}

impl Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}
