//! Passwords and OAuth tokens from an asynchronous callback.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{client::Builder, stop::StopHandle, stream::Alarm};
use crate::{Error, Phase, config::Login};

type Cause = Box<dyn StdError + Send + Sync>;
type Secret = Pin<Box<dyn Future<Output = Result<String, Cause>> + Send>>;
type Ask = dyn FnMut() -> Secret + Send;

/// The callback of the caller. Clones share it.
#[derive(Clone)]
pub(super) struct Secrets {
    ask: Arc<Mutex<Ask>>,
    /// Returns the error that reports a failure of the function.
    failed: fn(Cause) -> Error,
}

impl Secrets {
    fn new<F>(mut ask: impl FnMut() -> F + Send + 'static, failed: fn(Cause) -> Error) -> Secrets
    where
        F: Future<Output = Result<String, Cause>> + Send + 'static,
    {
        Secrets { ask: Arc::new(Mutex::new(move || Box::pin(ask()) as Secret)), failed }
    }

    /// Calls the function, and waits for its future up to the limit.
    pub async fn ask(&self, until: Instant, _: &StopHandle) -> Result<String, Error> {
        let secret = {
            let mut ask = self.ask.lock().unwrap_or_else(PoisonError::into_inner);
            ask()
        };
        let secret = Alarm::default().within(until, async { Ok(secret.await) }).await;
        secret.map_err(|_| Error::Timeout(Phase::Auth))?.map_err(self.failed)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

impl Builder {
    /// Logs in after connecting, with a password obtained from `ask`, in the same way as
    /// [`credentials`](Builder::credentials) does. `ask` is called just before each login, and once more if the server
    /// refuses the password with a 5yz reply (other than 504 and 534); the second password is used only if it differs.
    /// Defaults to no login.
    ///
    /// If the returned future takes longer than the [`command_timeout`](Builder::command_timeout) or the
    /// [`deadline`](Builder::deadline) allows, it is dropped, and the login fails with [`Error::Timeout`]. If it fails,
    /// so does the login, with [`Error::Password`]. The password is sent unchanged, so remove any line ending first.
    ///
    /// The password can come from the password manager [pass](https://www.passwordstore.org), which prints it on the
    /// first line:
    ///
    /// ```no_run
    /// # fn example(server: postino::aio::Builder) -> postino::aio::Builder {
    /// server.credentials_with("alice", || async {
    ///     let output = smol::process::Command::new("pass").args(["show", "mail/alice"]).output().await?;
    ///     Ok(String::from_utf8(output.stdout)?.lines().next().ok_or("pass has no such entry")?.to_owned())
    /// })
    /// # }
    /// ```
    ///
    /// A function that may block, such as one that reads a keyring or a netrc file
    /// ([examples](crate::Builder::credentials_with)), must be run on a separate thread:
    ///
    /// ```no_run
    /// # fn password_from_keyring() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # fn example(server: postino::aio::Builder) -> postino::aio::Builder {
    /// server.credentials_with("alice", || async { Ok(smol::unblock(password_from_keyring).await?) })
    /// # }
    /// ```
    pub fn credentials_with<F>(
        self,
        user: impl AsRef<[u8]>,
        ask: impl FnMut() -> F + Send + 'static,
    ) -> Builder
    where
        F: Future<Output = Result<String, Box<dyn StdError + Send + Sync>>> + Send + 'static,
    {
        let login = Login::PasswordLater(user.as_ref().into());
        self.secret_from(login, Secrets::new(ask, |source| Error::Password { source }))
    }

    /// Logs in after connecting, with an OAuth access token from the future that `ask` returns. Uses OAUTHBEARER, or
    /// XOAUTH2 if the server does not offer OAUTHBEARER. `ask` is called just before each login, and once more if the
    /// server refuses the token; the second token is used only if it differs. Defaults to no login.
    ///
    /// If the returned future takes longer than the [`command_timeout`](Builder::command_timeout) or the
    /// [`deadline`](Builder::deadline) allows, it is dropped, and the login fails with [`Error::Timeout`]. If it fails,
    /// so does the login, with [`Error::Token`].
    pub fn oauth_token_with<F>(
        self,
        user: impl Into<String>,
        ask: impl FnMut() -> F + Send + 'static,
    ) -> Builder
    where
        F: Future<Output = Result<String, Box<dyn StdError + Send + Sync>>> + Send + 'static,
    {
        self.secret_from(Login::TokenLater(user.into()), Secrets::new(ask, |source| Error::Token { source }))
    }
}
