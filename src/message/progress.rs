//! How far a sending is: whom to tell, and what.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use super::{Body, Callback, Mail, ServerSupport};
use crate::{Envelope, Error};

/// A mail that tells a callback how far its sending is. Made by [`Mail::on_progress`] too.
///
/// It is told how many octets of the message the socket has taken, and how many there are, if that is known: not for
/// readers whose size nobody told. Octets are counted as the mail has them, before line ends become CRLF and dots are doubled;
/// what is under way in the system's buffers counts as taken. It is called each time that something has left, mostly every
/// 64 KiB, the last time when all has; an empty message says nothing. A mail that is sent again counts anew.
///
/// The callback runs between two writes, in both worlds on the thread that sends: it must not block, and while it runs
/// nothing is sent.
///
/// ```no_run
/// use postino::{Client, Mail, Message, message::Attachment};
///
/// # let mut client = Client::builder("mail.example.org").connect()?;
/// let message = Message::builder()
///     .from("alice@example.org")
///     .to("bob@example.net")
///     .attach(Attachment::path("film.mp4"))
///     .build()?;
/// client.send(&message.on_progress(|sent, total| match total {
///     Some(total) => println!("{} %", sent * 100 / total),
///     None => println!("{sent} octets"),
/// }))?;
/// # Ok::<(), postino::Error>(())
/// ```
#[must_use = "it does nothing until it is sent"]
pub struct Progress<'m, F> {
    mail: &'m dyn Mail,
    callback: Mutex<F>,
}

impl<'m, F: FnMut(u64, Option<u64>) + Send> Progress<'m, F> {
    /// Any mail, and who is told.
    pub fn new(mail: &'m dyn Mail, callback: F) -> Progress<'m, F> {
        Progress { mail, callback: Mutex::new(callback) }
    }

    fn tell<'p>(&'p self, body: Body<'p>) -> Body<'p> {
        // One that has panicked is called again only by who goes on all the same.
        body.on_progress(|sent, total| {
            (self.callback.lock().unwrap_or_else(PoisonError::into_inner))(sent, total);
        })
    }
}

impl<F: FnMut(u64, Option<u64>) + Send> Mail for Progress<'_, F> {
    fn envelope(&self) -> Result<Envelope, Error> {
        self.mail.envelope()
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        Ok(self.tell(self.mail.body()?))
    }

    fn body_for(&self, offer: ServerSupport) -> Result<Body<'_>, Error> {
        Ok(self.tell(self.mail.body_for(offer)?))
    }
}

impl<F> fmt::Debug for Progress<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

/// Reckons from what has left the outbox how much of a mail that was.
pub(crate) struct Meter<'m> {
    callback: Option<Callback<'m>>,
    total: Option<u64>,
    /// Where in the connection's stream the content begins.
    start: Option<u64>,
    /// So much was handed to the outbox,
    handed: u64,
    /// and of so much the callback knows that it has left.
    told: u64,
}

impl<'m> Meter<'m> {
    pub(super) fn new(callback: Option<Callback<'m>>, total: Option<u64>) -> Meter<'m> {
        Meter { callback, total, start: None, handed: 0, told: 0 }
    }

    /// Content comes next, at this place in the stream, unless some came before.
    pub fn begin(&mut self, at: u64) {
        self.start.get_or_insert(at);
    }

    pub fn hand_out(&mut self, octets: usize) {
        self.handed += octets as u64;
    }

    /// So much of the stream has left.
    pub fn gone(&mut self, gone: u64) {
        let (Some(callback), Some(start)) = (&mut self.callback, self.start) else { return };
        // In the stream are doubled dots too, and the final one.
        let sent = gone.saturating_sub(start).min(self.handed);
        if sent > self.told {
            self.told = sent;
            callback(sent, self.total.map(|total| total.max(sent)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(total: Option<u64>, steps: impl FnOnce(&mut Meter<'_>)) -> Vec<(u64, Option<u64>)> {
        let mut told = Vec::new();
        steps(&mut Meter::new(Some(Box::new(|sent, total| told.push((sent, total)))), total));
        told
    }

    #[test]
    fn what_has_left_is_told_once_and_never_more_than_there_is() {
        let seen = told(Some(150), |meter| {
            meter.gone(70); // MAIL
            meter.begin(70);
            meter.hand_out(100);
            meter.gone(70);
            meter.gone(120);
            meter.gone(120);
            meter.begin(172);
            meter.hand_out(50);
            meter.gone(172); // two dots were doubled
            meter.gone(227);
        });
        assert_eq!(seen, [50, 102, 150].map(|sent| (sent, Some(150))));
    }

    #[test]
    fn a_total_that_was_too_small_grows() {
        let count = |meter: &mut Meter<'_>| {
            meter.begin(0);
            meter.hand_out(10);
            meter.gone(10);
        };
        assert_eq!(told(Some(5), count), [(10, Some(10))]);
        assert_eq!(told(None, count), [(10, None)]);
    }
}
