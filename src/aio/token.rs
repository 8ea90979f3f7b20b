//! Where tokens come from: an `async` function of the caller's.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{client::Builder, stream::Alarm};
use crate::{Error, Phase};

type Token = Result<String, Box<dyn StdError + Send + Sync>>;
type Ask = dyn FnMut() -> Pin<Box<dyn Future<Output = Token> + Send>> + Send;

/// Clones share the function.
#[derive(Clone)]
pub(super) struct Tokens(Arc<Mutex<Ask>>);

impl Tokens {
    /// Waits up to the deadline, if there is one.
    pub async fn ask(&self, deadline: Option<Instant>) -> Result<String, Error> {
        let token = {
            let mut ask = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            ask()
        };
        let token = match deadline {
            Some(deadline) => {
                let token = Alarm::default().within(deadline, async { Ok(token.await) }).await;
                token.map_err(|_| Error::Timeout(Phase::Auth))?
            }
            None => token.await,
        };
        token.map_err(|source| Error::Token { source })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Builder {
    /// Logs in after connecting with an OAuth access token that this function gives, by OAUTHBEARER or else XOAUTH2.
    /// It is asked just before each login, and once more if the server refuses the token. The
    /// [`deadline`](Builder::deadline) is the limit of its wait. Defaults to no login.
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
