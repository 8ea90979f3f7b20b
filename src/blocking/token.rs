//! OAuth tokens from a callback.

use std::{
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{
    aside::{GivenUp, aside},
    client::Builder,
    stop::StopHandle,
};
use crate::{Error, Phase};

type Ask = dyn FnMut() -> Result<String, Box<dyn StdError + Send + Sync>> + Send;

/// Clones share the function.
#[derive(Clone)]
pub(super) struct Tokens(Arc<Mutex<Ask>>);

impl Tokens {
    /// Calls the function. It cannot be interrupted, so it runs on a thread that is abandoned at the limit. The thread
    /// may still hold the lock then; the next caller waits for it, up to its own limit.
    pub fn ask(&self, until: Instant, stop_handle: &StopHandle) -> Result<String, Error> {
        let function = Arc::clone(&self.0);
        let ask = move || {
            let mut ask = function.lock().unwrap_or_else(PoisonError::into_inner);
            ask()
        };
        match aside("postino token", until, stop_handle, ask) {
            Ok(token) => token.map_err(|source| Error::Token { source }),
            Err(GivenUp::Late) => Err(Error::Timeout(Phase::Auth)),
            Err(GivenUp::Stopped) => Err(Error::Stopped(Phase::Auth)),
            Err(GivenUp::NoThread(source)) => Err(Error::Token { source: source.into() }),
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Builder {
    /// Logs in after connecting, with an OAuth access token obtained from `ask`. Uses OAUTHBEARER, or XOAUTH2 if the
    /// server does not offer OAUTHBEARER. `ask` is called just before each login, and once more if the server refuses
    /// the token; the second token is used only if it differs. Defaults to no login.
    ///
    /// The function runs on its own thread. If it takes longer than the [`command_timeout`](Builder::command_timeout)
    /// or the [`deadline`](Builder::deadline) allows, the login fails with [`Error::Timeout`], and the function's
    /// result is discarded. Clones of the builder share the function and call it one at a time.
    pub fn oauth_token_with(
        self,
        user: impl Into<String>,
        ask: impl FnMut() -> Result<String, Box<dyn StdError + Send + Sync>> + Send + 'static,
    ) -> Builder {
        self.token_from(user.into(), Tokens(Arc::new(Mutex::new(ask))))
    }
}
