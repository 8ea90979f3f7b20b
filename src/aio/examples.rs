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
