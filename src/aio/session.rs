//! A session that ends with QUIT. It is written once for each client, because the closure types differ.

use super::{Builder, Client};
use crate::Error;

impl Builder {
    /// Connects, calls `work` with the client, and then sends QUIT, whatever `work` returns. Returns the result of
    /// `work`. QUIT is not sent over a connection that can no longer be used. A failure of QUIT is not reported,
    /// because it does not affect the messages.
    ///
    /// If the future is dropped, or `work` panics, the connection is closed without QUIT.
    ///
    /// ```no_run
    /// use postino::{Error, aio::Client};
    ///
    /// # async fn example(mails: Vec<postino::Raw<'static>>) -> Result<(), Error> {
    /// let builder = Client::builder("mail.example.org");
    /// let sent = builder.session(async |client| {
    ///     let mut sent = 0;
    ///     for mail in &mails {
    ///         client.send(mail).await?;
    ///         sent += 1;
    ///     }
    ///     Ok::<_, Error>(sent)
    /// });
    /// println!("{} messages were sent", sent.await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The same as for [`connect`](Builder::connect), and the errors of `work`.
    pub async fn session<T, E: From<Error>>(
        &self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut client = self.connect().await?;
        let result = work(&mut client).await;
        let _its_failure_changes_nothing = client.quit().await;
        result
    }
}
