//! The message that is being sent, with what is needed to report its result if the future that sends it is dropped.

use crate::{Delivery, Envelope, Error, proto::Transactions, split::Parts};

#[derive(Default)]
pub(super) struct Sending {
    /// The envelope of the whole message; `None` if no message is being sent.
    envelope: Option<Envelope>,
    /// The results so far, if the message takes several transactions.
    pub parts: Option<Parts>,
    /// The transaction that is under way.
    pub talk: Option<Transactions>,
    /// The result of that transaction, if it is known already.
    pub result: Option<Result<Delivery, Error>>,
}

impl Sending {
    pub fn begin(&mut self, envelope: Envelope) {
        *self = Sending { envelope: Some(envelope), ..Sending::default() };
    }

    /// Forgets the message, because its result is reported elsewhere.
    pub fn forget(&mut self) {
        if self.envelope.is_some() {
            *self = Sending::default();
        }
    }

    /// Returns the result of the message whose future was dropped, if there is one. `offered` is [how many
    /// octets](crate::proto::Outbox::octets_offered) may have been sent over the connection.
    pub fn abandon(&mut self, offered: u64) -> Option<Result<Delivery, Error>> {
        let envelope = self.envelope.take()?;
        let Sending { parts, talk, result, .. } = std::mem::take(self);
        let result = result.or_else(|| {
            let mut talk = talk?;
            talk.lose(offered, Error::NotConnected);
            talk.next_result()
        });
        Some(match (parts, result) {
            (None, None) => Err(Error::Transaction {
                delivery: Box::new(Delivery::not_sent(envelope)),
                source: Box::new(Error::NotConnected),
            }),
            (None, Some(result)) => result,
            (Some(mut parts), None) => {
                parts.fail(Error::NotConnected);
                parts.finish()
            }
            (Some(mut parts), Some(result)) => {
                parts.settle(result, None);
                parts.finish()
            }
        })
    }
}
