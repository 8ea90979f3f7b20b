//! Examples for the documentation of the types in `client/`, which cannot contain any: they would be the same for both
//! clients.

macro_rules! example {
    (Client) => {
        r##"
# Example

```no_run
# async fn example() -> Result<(), postino::Error> {
use postino::{Envelope, Raw, aio};

let mut client = aio::Client::builder("mail.example.org").credentials("alice", "secret").connect().await?;
let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
let mail = Raw::bytes(envelope, "Subject: Hi\n\nHello, Bob!\n");
let delivery = client.send(&mail).await?;
println!("accepted as {:?}", delivery.queue_id());
client.quit().await?;
# Ok(())
# }
```
"##
    };
    (Builder) => {
        r##"
# Example

```no_run
# async fn example() -> Result<(), postino::Error> {
use std::time::Duration;

use postino::{Security, aio};

let builder = aio::Client::builder("mail.example.org")
    .security(Security::StartTls)
    .credentials("alice", "secret")
    .timeout(Duration::from_secs(30))
    .deadline(Duration::from_secs(300));
let mut client = builder.connect().await?;
client.quit().await?;
# Ok(())
# }
```
"##
    };
    (Batch) => {
        r##"
# Example

```no_run
# async fn example() -> Result<(), postino::Error> {
use postino::{Envelope, Raw, aio};

let mail = |to: &str| {
    Ok(Raw::bytes(Envelope::new("alice@example.org", [to])?, "Subject: Hi\n\nHello!\n"))
};
let mails = ["bob@example.net", "carol@example.net"].into_iter().map(mail);
let mails = mails.collect::<Result<Vec<_>, postino::Error>>()?;

let mut client = aio::Client::builder("mail.example.org").connect().await?;
let mut batch = client.send_all(mails);
while let Some((index, result)) = batch.next().await {
    match result {
        Ok(delivery) => println!("{index}: {:?}", delivery.queue_id()),
        Err(e) => eprintln!("{index}: {e}"),
    }
}
drop(batch);
client.quit().await?;
# Ok(())
# }
```
"##
    };
    (Pool) => {
        r##"
# Example

```no_run
# async fn example() -> Result<(), postino::Error> {
use postino::{Envelope, Raw, aio};

let server = aio::Client::builder("mail.example.org").credentials("alice", "secret");
let pool = aio::Pool::builder(server).max_connections(4).max_rate(10.0).build()?;
// Clones share the connections: each thread or task can have its own.
let clone = pool.clone();
let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
clone.send(&Raw::bytes(envelope, "Subject: Hi\n\nHello, Bob!\n")).await?;
pool.close().await;
# Ok(())
# }
```
"##
    };
    (Retrying) => {
        r##"
# Example

```no_run
# async fn example() -> Result<(), postino::Error> {
use postino::{Envelope, Raw, RetryPolicy, aio::{Client, Mailer, Retrying}};

let server = Client::builder("mail.example.org").credentials("alice", "secret");
let mut mailer = Retrying::new(server, RetryPolicy::default().attempts(4))
    .before_wait(|wait| eprintln!("trying again in {:?}: {}", wait.duration, wait.reason));
let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
mailer.send(&Raw::bytes(envelope, "Subject: Hi\n\nHello, Bob!\n")).await?;
# Ok(())
# }
```
"##
    };
    (Failover) => {
        r##"
# Example

```no_run
# async fn example() -> Result<(), postino::Error> {
use postino::{Envelope, Raw, aio::{Client, Mailer, Failover}};

let mut mailer = Failover::new(["mx1.example.org", "mx2.example.org"].map(|host| -> Box<dyn Mailer> {
    Box::new(Client::builder(host).credentials("alice", "secret"))
}));
let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
mailer.send(&Raw::bytes(envelope, "Subject: Hi\n\nHello, Bob!\n")).await?;
# Ok(())
# }
```
"##
    };
    (verify) => {
        r##"
```no_run
# async fn example() -> Result<(), postino::Error> {
use postino::aio;

let report = aio::Client::builder("mail.example.org").credentials("alice", "secret").verify().await?;
println!("{report}");
let end = report.tls.and_then(|tls| tls.certificate).and_then(|certificate| certificate.not_after);
# let _ = end;
# Ok(())
# }
```
"##
    };
    (observer) => {
        r##"
```no_run
# async fn example(mail: &dyn postino::Mail) -> Result<(), postino::Error> {
use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};

use postino::{EventKind, aio};

let accepted = Arc::new(AtomicUsize::new(0));
let counter = Arc::clone(&accepted);
let server = aio::Client::builder("mail.example.org").observer(move |event| {
    if let EventKind::Accepted { delivery, .. } = event.kind {
        counter.fetch_add(1, Ordering::Relaxed);
        println!("#{} {delivery} ({:?})", event.connection.unwrap_or(0), event.took);
    }
});
server.send(mail).await?;
# Ok(())
# }
```

To pass each event on to the `tracing` crate:

```no_run
# mod tracing {
#     macro_rules! nothing { ($($any:tt)*) => { () } }
#     pub(crate) use {nothing as info, nothing as warn};
# }
# fn example(server: postino::aio::Builder) -> postino::aio::Builder {
use postino::EventKind;

server.observer(|event| {
    let (connection, took, name) = (event.connection, event.took, event.kind.name());
    match event.kind {
        EventKind::Refused { error, .. } | EventKind::InDoubt { error, .. } => {
            tracing::warn!(target: "mail", connection, ?took, %error, "{name}");
        }
        _ => tracing::info!(target: "mail", connection, ?took, "{name}"),
    }
#   let _ = (connection, took, name);
})
# }
```
"##
    };
    (interrupted) => {
        r##"
```no_run
# async fn example(client: &mut postino::aio::Client, mail: &dyn postino::Mail) {
use std::time::Duration;

use smol::{Timer, future::or};

let late = async {
    Timer::after(Duration::from_secs(30)).await;
    None
};
// When it is late, the future of `send` is dropped.
let result = or(async { Some(client.send(mail).await) }, late).await;
match result.or_else(|| client.interrupted()) {
    Some(Ok(delivery)) => println!("{delivery}"),
    Some(Err(e)) if e.in_doubt() => println!("it may have arrived: do not simply send it again ({e})"),
    Some(Err(e)) => println!("not sent: {e}"),
    None => println!("nothing was begun"),
}
# }
```
"##
    };
    (provider) => {
        r##"
```
use postino::aio;

let server = aio::Client::provider("Fastmail")?.credentials("alice@fastmail.com", "app password");
# let _ = server;
# Ok::<(), postino::Error>(())
```
"##
    };
    (auth) => {
        r##"
# Example

```no_run
# async fn example(mut client: postino::aio::Client) -> Result<(), postino::Error> {
use postino::auth::Credentials;

client.auth("PLAIN", &Credentials::new("alice", "secret")?).await?;
# Ok(())
# }
```
"##
    };
}
