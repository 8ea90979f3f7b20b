//! Counts what happens to messages and connections, without reading the log.
//!
//! ```text
//! cargo run --features testing --example metrics
//! ```
//!
//! Sends three messages through a pool to the testing server, which refuses one of the recipients, and prints the
//! counters in the text format of Prometheus. A program that uses the crate `metrics` calls its macros instead.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use postino::{Client, Event, Message, Pool, testing::Server};

/// The number of events of each kind, and the time that they took.
#[derive(Default)]
struct Counters(Mutex<BTreeMap<&'static str, (u64, Duration)>>);

impl Counters {
    /// Called on the thread that sends, so it only counts.
    fn observe(&self, event: &Event<'_>) {
        // With the crate `metrics`:
        //     metrics::counter!("mail_events_total", "kind" => event.kind.name()).increment(1);
        //     metrics::histogram!("mail_seconds", "kind" => event.kind.name()).record(event.took);
        let mut counters = self.0.lock().unwrap();
        let (count, took) = counters.entry(event.kind.name()).or_default();
        *count += 1;
        *took += event.took;
    }

    fn print(&self) {
        for (kind, (count, took)) in self.0.lock().unwrap().iter() {
            println!("mail_events_total{{kind=\"{kind}\"}} {count}");
            println!("mail_seconds_sum{{kind=\"{kind}\"}} {:.6}", took.as_secs_f64());
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server =
        Server::builder().refuse_recipient("nobody@example.net", "550 5.1.1 no such user").start()?;
    let counters = Arc::new(Counters::default());
    let observer = Arc::clone(&counters);
    let builder = Client::from_url(&server.url())?.observer(move |event| observer.observe(event));
    let pool = Pool::builder(builder).build()?;
    for to in ["bob@example.net", "nobody@example.net", "carol@example.net"] {
        let message = Message::builder().from("alice@example.org").to(to).text("Hello!\n").build()?;
        if let Err(e) = pool.send(&message) {
            eprintln!("{e}");
        }
    }
    pool.close();
    counters.print();
    Ok(())
}
