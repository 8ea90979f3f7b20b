//! What a mechanism is (RFC 4422 §3): what it says first, what it makes of a challenge, whether it believes the end.

/// A way to log in. The dialogue does the rest: base64, long lines, cancelling, what must not be shown.
///
/// A value is one login's: it is used up. One of the caller's own goes to
/// [`Builder::auth_mechanism`](crate::Builder::auth_mechanism), and every login begins with a clone of it.
///
/// ```
/// use postino::{Client, proto::{Answer, Mechanism}};
///
/// /// Says a ticket, and nothing else.
/// #[derive(Clone)]
/// struct Ticket(String);
///
/// impl Mechanism for Ticket {
///     fn name(&self) -> &str {
///         "X-TICKET"
///     }
///     fn initial(&mut self) -> Option<Vec<u8>> {
///         Some(self.0.clone().into_bytes())
///     }
///     fn answer(&mut self, _challenge: &[u8]) -> Answer {
///         Answer::Cancel("a ticket is all there is".to_owned())
///     }
///     fn secrets(&self) -> Vec<&[u8]> {
///         vec![self.0.as_bytes()]
///     }
/// }
///
/// let builder = Client::builder("mail.example.org").auth_mechanism(Ticket("secret".to_owned()));
/// ```
pub trait Mechanism: Send + Sync {
    /// Its name, as AUTH and the server's EHLO have it: up to 20 upper-case letters, digits, `-` and `_`.
    fn name(&self) -> &str;

    /// What to say with AUTH; `None` if the server speaks first. Where it makes the line too long, it answers the
    /// first challenge instead (RFC 4954 §4).
    fn initial(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// What to make of a challenge, decoded.
    fn answer(&mut self, challenge: &[u8]) -> Answer;

    /// The server lets us in, with these words behind its 235. Whoever wants proof that it is the right server says
    /// so here.
    ///
    /// # Errors
    ///
    /// Why that is not to be believed. The login has failed then, and the connection is closed.
    fn finish(&mut self, _text: &str) -> Result<(), String> {
        Ok(())
    }

    /// Whether the text of a challenge means anything. Defaults to true; one that is no base64 ends the mechanism
    /// then. Otherwise it is taken for empty.
    fn reads_challenges(&self) -> bool {
        true
    }

    /// What no log and no error may show if the server repeats it, as it is or in base64. Whole answers are masked
    /// anyway. Defaults to nothing more.
    fn secrets(&self) -> Vec<&[u8]> {
        Vec::new()
    }
}

/// What a [`Mechanism`] makes of a challenge.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// This is said.
    Respond(Vec<u8>),
    /// The challenge tells why the login fails: this is said, and the refusal follows. The reason becomes the
    /// `details` of [`Error::Auth`](crate::Error::Auth).
    AcceptFailure {
        /// What is said.
        say: Vec<u8>,
        /// What the challenge told.
        details: String,
    },
    /// It cannot go on, for this reason: the server is told so, and the next mechanism is tried.
    Cancel(String),
    /// The server is not the one that it should be, for this reason: nothing more is tried, the connection is closed.
    RejectServer(String),
}

/// Without what is said.
impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Respond(_) => f.write_str("Respond(***)"),
            Answer::AcceptFailure { .. } => f.write_str("AcceptFailure(***)"),
            Answer::Cancel(why) => f.debug_tuple("Cancel").field(why).finish(),
            Answer::RejectServer(why) => f.debug_tuple("RejectServer").field(why).finish(),
        }
    }
}
