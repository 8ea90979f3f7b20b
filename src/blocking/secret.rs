//! Passwords and OAuth tokens from a callback.

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
use crate::{Error, Phase, config::Login};

type Cause = Box<dyn StdError + Send + Sync>;
type Ask = dyn FnMut() -> Result<String, Cause> + Send;

/// The callback of the caller. Clones share it.
#[derive(Clone)]
pub(super) struct Secrets {
    ask: Arc<Mutex<Ask>>,
    /// Returns the error that reports a failure of the function.
    failed: fn(Cause) -> Error,
}

impl Secrets {
    /// Calls the function. It cannot be interrupted, so it runs on a thread that is abandoned at the limit. That thread
    /// may still hold the lock; the next caller waits for the lock, up to its own limit.
    pub fn ask(&self, until: Instant, stop_handle: &StopHandle) -> Result<String, Error> {
        let function = Arc::clone(&self.ask);
        let ask = move || {
            let mut ask = function.lock().unwrap_or_else(PoisonError::into_inner);
            if Instant::now() >= until {
                return Err("the function was busy until the time limit".into()); // nobody waits any more
            }
            ask()
        };
        match aside("postino secret", until, stop_handle, ask) {
            Ok(secret) => secret.map_err(self.failed),
            Err(GivenUp::Late) => Err(Error::Timeout(Phase::Auth)),
            Err(GivenUp::Stopped) => Err(Error::Stopped(Phase::Auth)),
            Err(GivenUp::NoThread(source)) => Err((self.failed)(source.into())),
        }
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
    /// The function runs on its own thread. If it takes longer than the [`command_timeout`](Builder::command_timeout)
    /// or the [`deadline`](Builder::deadline) allows, the login fails with [`Error::Timeout`], and the function's
    /// result is discarded. If the function fails, the login fails with [`Error::Password`]. Clones of the builder
    /// share the function and call it one at a time. The password is sent unchanged, so remove any line ending first.
    ///
    /// To get the password from [pass](https://www.passwordstore.org), which prints it on the first line:
    ///
    /// ```no_run
    /// # fn example(server: postino::Builder) -> postino::Builder {
    /// server.credentials_with("alice", || {
    ///     let output = std::process::Command::new("pass").args(["show", "mail/alice"]).output()?;
    ///     Ok(String::from_utf8(output.stdout)?.lines().next().ok_or("pass has no such entry")?.to_owned())
    /// })
    /// # }
    /// ```
    ///
    /// To get the password from a keyring, with `Entry::get_password` from the `keyring` crate:
    ///
    /// ```no_run
    /// # struct Entry;
    /// # impl Entry {
    /// #     fn new(_: &str, _: &str) -> Result<Entry, std::fmt::Error> { Ok(Entry) }
    /// #     fn get_password(&self) -> Result<String, std::fmt::Error> { Ok(String::new()) }
    /// # }
    /// # fn example(server: postino::Builder) -> postino::Builder {
    /// server.credentials_with("alice", || Ok(Entry::new("mail.example.org", "alice")?.get_password()?))
    /// # }
    /// ```
    ///
    /// To get the password from a netrc file with the line `machine mail.example.org login alice password secret`:
    ///
    /// ```no_run
    /// # fn example(server: postino::Builder) -> postino::Builder {
    /// server.credentials_with("alice", || {
    ///     let netrc = std::fs::read_to_string("/home/alice/.netrc")?;
    ///     let line = netrc.lines().find(|line| line.starts_with("machine mail.example.org login alice "));
    ///     Ok(line.and_then(|line| line.split_once(" password ")).ok_or("not in .netrc")?.1.trim().to_owned())
    /// })
    /// # }
    /// ```
    pub fn credentials_with(
        self,
        user: impl AsRef<[u8]>,
        ask: impl FnMut() -> Result<String, Box<dyn StdError + Send + Sync>> + Send + 'static,
    ) -> Builder {
        let failed = |source| Error::Password { source };
        let login = Login::PasswordLater(user.as_ref().into());
        self.secret_from(login, Secrets { ask: Arc::new(Mutex::new(ask)), failed })
    }

    /// Logs in after connecting, with an OAuth access token obtained from `ask`. Uses OAUTHBEARER, or XOAUTH2 if the
    /// server does not offer OAUTHBEARER. `ask` is called just before each login, and once more if the server refuses
    /// the token; the second token is used only if it differs. Defaults to no login.
    ///
    /// The function runs on its own thread. If it takes longer than the [`command_timeout`](Builder::command_timeout)
    /// or the [`deadline`](Builder::deadline) allows, the login fails with [`Error::Timeout`], and the function's
    /// result is discarded. If the function fails, the login fails with [`Error::Token`]. Clones of the builder share
    /// the function and call it one at a time. The repository's example `token_command` runs a program that prints the
    /// token.
    pub fn oauth_token_with(
        self,
        user: impl Into<String>,
        ask: impl FnMut() -> Result<String, Box<dyn StdError + Send + Sync>> + Send + 'static,
    ) -> Builder {
        let failed = |source| Error::Token { source };
        self.secret_from(Login::TokenLater(user.into()), Secrets { ask: Arc::new(Mutex::new(ask)), failed })
    }
}
