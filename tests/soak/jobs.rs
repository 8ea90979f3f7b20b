//! Distribution of the messages of one round, and the ways to send them.

use std::{ops::Range, sync::Mutex};

use crate::rules::dice::Dice;

/// How some messages are sent.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// `Pool::send`, one after the other.
    One,
    /// `Pool::send_all`.
    Batch,
    /// `Pool::client`, and `Client::send`.
    Client,
    /// `Pool::client`, and `Batch::push`.
    Pushed,
}

/// Hands out the messages of a range in pieces.
pub struct Jobs(Mutex<(Dice, Range<usize>)>);

impl Jobs {
    pub fn new(dice: Dice, messages: Range<usize>) -> Jobs {
        Jobs(Mutex::new((dice, messages)))
    }

    pub fn next(&self) -> Option<(Way, Range<usize>)> {
        let (dice, left) = &mut *self.0.lock().unwrap();
        if left.start == left.end {
            return None;
        }
        let way = *dice.of(&[Way::One, Way::One, Way::Batch, Way::Client, Way::Pushed]);
        let some = 1 + dice.below(30) as usize;
        let end = left.end.min(left.start + some);
        let messages = left.start..end;
        left.start = end;
        Some((way, messages))
    }
}
