//! A session that ends with QUIT. It is written once for each client, because the closure types differ.

use super::{Builder, Client};
use crate::Error;

impl Builder {
    /// Connects, calls `work` with the client, and then sends QUIT, whatever `work` returns. Returns the result of
    /// `work`. QUIT is not sent over a connection that can no longer be used. A failure of QUIT is not reported,
    /// because it does not affect the messages.
    ///
    /// If `work` panics, the connection is closed without QUIT.
    ///
    /// ```no_run
    /// use postino::{Client, Error};
    ///
    /// # let mails = Vec::<postino::Raw<'static>>::new();
    /// let sent = Client::builder("mail.example.org").session(|client| {
    ///     let mut sent = 0;
    ///     for mail in &mails {
    ///         client.send(mail)?;
    ///         sent += 1;
    ///     }
    ///     Ok::<_, Error>(sent)
    /// })?;
    /// # let _: usize = sent;
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as for [`connect`](Builder::connect), and the errors of `work`.
    pub fn session<T, E: From<Error>>(&self, work: impl FnOnce(&mut Client) -> Result<T, E>) -> Result<T, E> {
        let mut client = self.connect()?;
        let result = work(&mut client);
        let _its_failure_changes_nothing = client.quit();
        result
    }
}
