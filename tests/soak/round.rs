//! The pool of a round. Compiled for both clients.

use postino::JoinPolicy;

use super::{Builder, Client, Pool, run};
use crate::{Book, CONNECTIONS, Jobs, LIMIT, Plan};

fn builder(plan: &Plan, port: u16) -> Builder {
    let builder = Client::builder("127.0.0.1")
        .port(port)
        .hello_name("soak.example.org")
        .lmtp(plan.rules.lmtp)
        .chunking(plan.chunking)
        .pipelining(plan.pipelining)
        .join_envelopes(if plan.joining { JoinPolicy::Always } else { JoinPolicy::Never })
        .all_or_nothing(plan.all_or_nothing)
        .timeout(LIMIT)
        .final_reply_timeout(LIMIT);
    if plan.deadline { builder.deadline(2 * LIMIT) } else { builder }
}

/// Sends all messages, and closes the pool.
pub fn send(plan: &Plan, port: u16, jobs: &Jobs, book: &Book) {
    let pool = Pool::builder(builder(plan, port)).max_connections(CONNECTIONS);
    let pool = match plan.max_messages {
        Some(most) => pool.max_messages(most),
        None => pool,
    };
    run(&pool.build().unwrap(), jobs, book);
}
