//! The work of each thread or task. Compiled for both clients.

use postino::Error;

use super::{Pool, maybe_async};
use crate::{
    book::Book,
    jobs::{Jobs, Way},
    mail::mail,
};

/// Sends until nothing is left to send.
#[maybe_async]
pub async fn work(pool: &Pool, jobs: &Jobs, book: &Book) {
    while let Some((way, messages)) = jobs.next() {
        let first = messages.start;
        match way {
            Way::One => {
                for message in messages {
                    book.enter(message, &pool.send(&mail(message)).await);
                }
            }
            Way::Batch => match pool.send_all(messages.clone().map(mail)).await {
                Ok(mut batch) => {
                    let mut left = messages;
                    while let Some((n, result)) = batch.next().await {
                        assert_eq!(Some(first + n), left.next());
                        book.enter(first + n, &result);
                    }
                    assert!(left.is_empty() || batch.is_lost());
                    book.enter_none(left, &Error::NotConnected);
                }
                Err(e) => book.enter_none(messages, &e),
            },
            Way::Client => match pool.client().await {
                Ok(mut client) => {
                    for message in messages {
                        book.enter(message, &client.send(&mail(message)).await);
                    }
                }
                Err(e) => book.enter_none(messages, &e),
            },
            Way::Pushed => match pool.client().await {
                Ok(mut client) => {
                    let mut batch = client.batch();
                    for message in messages {
                        batch.push(mail(message));
                        if message % 3 == 0 {
                            let (n, result) = batch.next().await.expect("one was pushed");
                            book.enter(first + n, &result);
                        }
                    }
                    for (n, result) in batch.finish().await {
                        book.enter(first + n, &result);
                    }
                }
                Err(e) => book.enter_none(messages, &e),
            },
        }
    }
}
