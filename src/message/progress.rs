//! Reports how much of a message has been sent.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use super::{Body, Mail, ServerSupport, body::Callback};
use crate::{Envelope, Error};

/// A message that reports its progress to a callback while it is sent. Created by [`Mail::on_progress`].
///
/// The callback gets the number of octets that the socket has accepted, and the total, which is unknown for a reader
/// without a [size](Body::with_size). The octets are those of the message before line endings become CRLF and dots
/// are doubled. Octets in the system's buffers count as sent. The callback is called about every 64 KiB and once more
/// at the end, but never for an empty message. When a message is sent again, the count restarts at 0.
///
/// The callback runs on the sending thread between two writes, in both clients. It must not block, because nothing is
/// sent while it runs.
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
pub struct Progress<M, F> {
    mail: M,
    callback: Mutex<F>,
}

impl<M: Mail, F: FnMut(u64, Option<u64>) + Send> Progress<M, F> {
    pub(super) fn new(mail: M, callback: F) -> Progress<M, F> {
        Progress { mail, callback: Mutex::new(callback) }
    }

    fn watch<'p>(&'p self, body: Body<'p>) -> Body<'p> {
        // A callback that panicked poisons the lock. If the caller continues anyway, the callback is called again.
        body.on_progress(|sent, total| {
            (self.callback.lock().unwrap_or_else(PoisonError::into_inner))(sent, total);
        })
    }
}

impl<M: Mail, F: FnMut(u64, Option<u64>) + Send> Mail for Progress<M, F> {
    fn envelope(&self) -> Result<Envelope, Error> {
        self.mail.envelope()
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        Ok(self.watch(self.mail.body()?))
    }

    fn body_for(&self, offer: ServerSupport) -> Result<Body<'_>, Error> {
        Ok(self.watch(self.mail.body_for(offer)?))
    }
}

impl<M, F> fmt::Debug for Progress<M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

/// Computes how much of a mail was sent from the number of octets that have left the outbox.
pub(crate) struct Meter<'m> {
    callback: Option<Callback<'m>>,
    total: Option<u64>,
    /// Position in the connection's stream at which the content begins.
    start: Option<u64>,
    /// Number of octets of the mail that were passed to the outbox.
    handed: u64,
    /// Number of octets that the callback was last called with.
    reported: u64,
}

impl<'m> Meter<'m> {
    pub(super) fn new(callback: Option<Callback<'m>>, total: Option<u64>) -> Meter<'m> {
        Meter { callback, total, start: None, handed: 0, reported: 0 }
    }

    /// Records that the content begins at this position in the stream, unless it began before.
    pub fn begin(&mut self, at: u64) {
        self.start.get_or_insert(at);
    }

    pub fn hand_out(&mut self, octets: usize) {
        self.handed += octets as u64;
    }

    /// Records that this many octets of the stream were sent.
    pub fn sent(&mut self, octets: u64) {
        let (Some(callback), Some(start)) = (&mut self.callback, self.start) else { return };
        // The stream also contains doubled dots and the final dot.
        let sent = octets.saturating_sub(start).min(self.handed);
        if sent > self.reported {
            self.reported = sent;
            callback(sent, self.total.map(|total| total.max(sent)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(total: Option<u64>, steps: impl FnOnce(&mut Meter<'_>)) -> Vec<(u64, Option<u64>)> {
        let mut reports = Vec::new();
        steps(&mut Meter::new(Some(Box::new(|sent, total| reports.push((sent, total)))), total));
        reports
    }

    #[test]
    fn sent_octets_are_reported_once_and_never_exceed_the_total() {
        let seen = reports(Some(150), |meter| {
            meter.sent(70); // MAIL
            meter.begin(70);
            meter.hand_out(100);
            meter.sent(70);
            meter.sent(120);
            meter.sent(120);
            meter.begin(172);
            meter.hand_out(50);
            meter.sent(172); // two dots were doubled
            meter.sent(227);
        });
        assert_eq!(seen, [50, 102, 150].map(|sent| (sent, Some(150))));
    }

    #[test]
    fn a_total_that_is_too_small_grows() {
        let count = |meter: &mut Meter<'_>| {
            meter.begin(0);
            meter.hand_out(10);
            meter.sent(10);
        };
        assert_eq!(reports(Some(5), count), [(10, Some(10))]);
        assert_eq!(reports(None, count), [(10, None)]);
    }
}
