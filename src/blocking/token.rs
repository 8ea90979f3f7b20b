//! Where tokens come from: a function of the caller's.

use std::{
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::client::Builder;
use crate::Error;

type Ask = dyn FnMut() -> Result<String, Box<dyn StdError + Send + Sync>> + Send;

/// Clones share the function.
#[derive(Clone)]
pub(super) struct Tokens(Arc<Mutex<Ask>>);

impl Tokens {
    /// How long the function takes is its own affair: nothing can interrupt it here.
    pub fn ask(&self, _deadline: Option<Instant>) -> Result<String, Error> {
        let mut ask = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ask().map_err(|source| Error::Token { source })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Builder {
    /// Logs in after connecting with an OAuth access token that this function gives, by OAUTHBEARER or else XOAUTH2.
    /// It is asked just before each login, and once more if the server refuses the token. Nothing ends its wait but
    /// itself, and clones of the builder ask one at a time. Defaults to no login.
    pub fn oauth_token_with(
        self,
        user: impl Into<String>,
        ask: impl FnMut() -> Result<String, Box<dyn StdError + Send + Sync>> + Send + 'static,
    ) -> Builder {
        self.token_from(user.into(), Tokens(Arc::new(Mutex::new(ask))))
    }
}
