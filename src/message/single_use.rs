//! Readers that can be read only once, and the claims on them.
//!
//! A body made from such a reader holds a [`Claim`] on it, so that no other body can be made from it. The reader itself
//! stays in place until its first octet is needed. If the body is dropped before that, its claim is released, and the
//! message can be sent again. That also works if another thread still has the [`Reader`], such as when a future was
//! dropped while a body was being opened.

use std::{
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A source that can be read only once.
pub(super) struct SingleUse(Arc<Mutex<State>>);

struct State {
    reader: Option<Box<dyn Read + Send>>,
    /// The number of the current claim, if there is one.
    claimed: Option<u64>,
    /// Total number of claims, so that no number is reused.
    claims: u64,
}

/// Keeps others from reading the source until it is dropped.
#[must_use = "dropping it gives the source back"]
pub(crate) struct Claim {
    source: Arc<Mutex<State>>,
    number: u64,
}

/// Reads a claimed source. Its [`Claim`] must live until the first octet is read.
pub(super) struct Reader {
    source: Arc<Mutex<State>>,
    number: u64,
    /// The reader, taken when the first octet is needed.
    taken: Option<Box<dyn Read + Send>>,
}

fn lock(source: &Mutex<State>) -> MutexGuard<'_, State> {
    source.lock().unwrap_or_else(PoisonError::into_inner) // nothing panics while it is locked
}

impl SingleUse {
    pub fn new(reader: impl Read + Send + 'static) -> SingleUse {
        SingleUse(Arc::new(Mutex::new(State { reader: Some(Box::new(reader)), claimed: None, claims: 0 })))
    }

    /// Claims the source. Returns `None` if it was already read, or if there is another claim on it.
    pub fn claim(&self) -> Option<(Claim, Reader)> {
        let mut state = lock(&self.0);
        if state.reader.is_none() || state.claimed.is_some() {
            return None;
        }
        state.claims += 1;
        let number = state.claims;
        state.claimed = Some(number);
        let reader = Reader { source: self.0.clone(), number, taken: None };
        Some((Claim { source: self.0.clone(), number }, reader))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = lock(&self.source);
        if state.claimed == Some(self.number) {
            state.claimed = None;
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.taken.is_none() {
            let mut state = lock(&self.source);
            if state.claimed == Some(self.number) {
                self.taken = state.reader.take();
            }
        }
        match &mut self.taken {
            Some(reader) => reader.read(buf),
            None => Err(io::Error::other("the claim on the reader was released")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut reader: Reader) -> io::Result<String> {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn a_source_has_one_claim_at_a_time() {
        let source = SingleUse::new(&b"abc"[..]);
        let claimed = source.claim().unwrap();
        assert!(source.claim().is_none());
        drop(claimed);
        let (_claim, reader) = source.claim().unwrap();
        assert_eq!(read(reader).unwrap(), "abc");
    }

    #[test]
    fn a_source_that_was_read_cannot_be_claimed_again() {
        let source = SingleUse::new(&b"abc"[..]);
        let (claim, mut reader) = source.claim().unwrap();
        assert_eq!(reader.read(&mut [0]).unwrap(), 1);
        drop((claim, reader));
        assert!(source.claim().is_none());
    }

    #[test]
    fn a_reader_whose_claim_was_released_fails() {
        let source = SingleUse::new(&b"abc"[..]);
        let (claim, late) = source.claim().unwrap();
        drop(claim);
        let (claim, reader) = source.claim().unwrap();
        assert!(read(late).is_err());
        assert_eq!(read(reader).unwrap(), "abc");
        drop(claim);
    }
}
