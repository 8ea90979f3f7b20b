//! What an error reports for a message must follow from the outcomes of its recipients.

use postino::{Error, Outcome, Recipient, Retry};

/// Whether what an error reports for a message agrees with what it reports for each recipient.
pub fn is_consistent(error: &Error) -> bool {
    let retry = error.retry();
    let again = matches!(retry, Retry::Now | Retry::Later);
    let Some(delivery) = error.delivery() else {
        return error.in_doubt() == (retry == Retry::MayDuplicate)
            && (!error.is_transient() || again)
            && (!error.is_permanent() || retry == Retry::Never);
    };
    let can_be_retried = |recipient: &Recipient<'_>| match recipient.outcome() {
        Outcome::NotSent => true,
        Outcome::Refused => !recipient.reply().unwrap().is_permanent(),
        _ => false,
    };
    let in_doubt = delivery.recipients().any(|recipient| recipient.outcome() == Outcome::InDoubt);
    let left: Vec<_> = delivery.recipients().filter(can_be_retried).map(|r| r.address().clone()).collect();
    let unsent = delivery.retry_envelope().map_or(Vec::new(), |envelope| envelope.recipients().to_vec());
    error.in_doubt() == in_doubt
        && (retry == Retry::MayDuplicate) == in_doubt
        && unsent == left
        && (in_doubt || again != left.is_empty())
        && error.is_transient() == again
        && error.is_permanent() == (retry == Retry::Never)
}
