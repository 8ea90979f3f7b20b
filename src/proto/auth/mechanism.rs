//! The interface of a mechanism (RFC 4422 §3): its initial response, its answers to challenges, and its final check of
//! the server.

/// An AUTH mechanism. The library does the rest: base64, long lines, cancellation, and masking of secrets.
///
/// Each value is used for a single login. To log in with a custom mechanism, pass it to
/// [`Builder::auth_mechanism`](crate::Builder::auth_mechanism) or
/// [`Client::auth_mechanism`](crate::Client::auth_mechanism). Every login uses a new clone of it. The
/// [module documentation](crate::auth#custom-mechanisms) has an example.
pub trait Mechanism: Send + Sync {
    /// Returns the name of the mechanism, as it appears in AUTH and in the server's EHLO reply: up to 20 upper-case
    /// letters, digits, `-` and `_`.
    fn name(&self) -> &str;

    /// Returns the initial response, or `None` if the server speaks first. If the response would make the AUTH line too
    /// long, it is sent as the answer to the first challenge instead (RFC 4954 §4). Defaults to `None`.
    fn initial(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// Answers a challenge, which has already been decoded from base64.
    fn answer(&mut self, challenge: &[u8]) -> Answer;

    /// Checks whether to trust the server when it accepts the login. `text` is the text of its 235 reply. By default,
    /// the server is trusted.
    ///
    /// # Errors
    ///
    /// The reason why the server is not trusted. The login then fails, and the connection is closed.
    fn finish(&mut self, _text: &str) -> Result<(), String> {
        Ok(())
    }

    /// Returns whether the content of a challenge matters. If it does, a challenge that is not valid base64 ends the
    /// exchange. Otherwise, such a challenge counts as empty. Defaults to true.
    fn reads_challenges(&self) -> bool {
        true
    }

    /// Returns secrets to be masked in logs and errors if the server repeats them, verbatim or in base64. They need not
    /// include the mechanism's responses, which are always masked as a whole. Defaults to no secrets.
    fn secrets(&self) -> Vec<&[u8]> {
        Vec::new()
    }
}

/// A [`Mechanism`]'s answer to a challenge.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Sends this response.
    Respond(Vec<u8>),
    /// Acknowledges a challenge that reports a failure. The response is sent, and the server then refuses the login.
    AcceptFailure {
        /// The response.
        response: Vec<u8>,
        /// The explanation. It becomes the `details` of [`Error::Auth`](crate::Error::Auth).
        details: String,
    },
    /// Cancels the mechanism for this reason. The next mechanism, if any, is then tried.
    Cancel(String),
    /// Rejects the server as an impostor for this reason. No other mechanism is tried, and the connection is closed.
    RejectServer(String),
}

/// Responses are not shown, as they may contain secrets.
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
