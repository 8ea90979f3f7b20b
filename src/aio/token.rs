//! OAuth tokens from an asynchronous callback.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{client::Builder, stop::StopHandle, stream::Alarm};
use crate::{Error, Phase};

type Token = Result<String, Box<dyn StdError + Send + Sync>>;
type Ask = dyn FnMut() -> Pin<Box<dyn Future<Output = Token> + Send>> + Send;

/// Clones share the function.
#[derive(Clone)]
pub(super) struct Tokens(Arc<Mutex<Ask>>);

impl Tokens {
    /// Calls the function, and waits up to the limit.
    pub async fn ask(&self, until: Instant, _: &StopHandle) -> Result<String, Error> {
        let token = {
            let mut ask = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            ask()
        };
        let token = Alarm::default().within(until, async { Ok(token.await) }).await;
        token.map_err(|_| Error::Timeout(Phase::Auth))?.map_err(|source| Error::Token { source })
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
    /// If the returned future takes longer than the [`command_timeout`](Builder::command_timeout) or the
    /// [`deadline`](Builder::deadline) allows, it is dropped, and the login fails with [`Error::Timeout`].
    pub fn oauth_token_with<F>(
        self,
        user: impl Into<String>,
        mut ask: impl FnMut() -> F + Send + 'static,
    ) -> Builder
    where
        F: Future<Output = Result<String, Box<dyn StdError + Send + Sync>>> + Send + 'static,
    {
        self.token_from(
            user.into(),
            Tokens(Arc::new(Mutex::new(move || {
                Box::pin(ask()) as Pin<Box<dyn Future<Output = Token> + Send>>
            }))),
        )
    }
}
