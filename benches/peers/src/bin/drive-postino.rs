//! Ways: `batch`, `chunk` (a batch with BDAT), `send` (one by one), `new` (a connection for each message), `file` (a
//! batch that streams the file); each also with `async-` before it.

use peers::{Job, RECIPIENT, SENDER, Security};
use postino::{Delivery, Envelope, Error, Raw};

fn mail(job: &Job) -> Raw<'static> {
    let envelope = Envelope::new(SENDER, [RECIPIENT]).unwrap();
    match job.way.contains("file") {
        true => Raw::path(envelope, job.path.clone()),
        false => Raw::bytes(envelope, job.message),
    }
}

fn is_accepted(result: Result<Delivery, Error>) {
    drop(result.unwrap());
}

/// The two worlds have the same names.
macro_rules! builder {
    ($client:ty, $job:expr) => {{
        let job = $job;
        let builder =
            <$client>::builder(&job.host).port(job.port).hello_name("localhost").tls_name("localhost");
        let builder = builder.chunking(job.way.contains("chunk"));
        match job.security {
            Security::Plain => builder.security(postino::Security::Plaintext),
            Security::Tls => builder.security(postino::Security::Implicit).ca_certificate(job.ca()),
            Security::StartTls => builder.security(postino::Security::StartTls).ca_certificate(job.ca()),
        }
    }};
}

fn blocking(job: &Job) {
    let (builder, mail) = (builder!(postino::Client, job), mail(job));
    job.threads(|connection| {
        let count = job.share(connection);
        if job.way == "new" {
            (0..count).for_each(|_| is_accepted(builder.send(&mail)));
            return;
        }
        let mut client = builder.connect().unwrap();
        match job.way.as_str() {
            "send" => (0..count).for_each(|_| is_accepted(client.send(&mail))),
            _ => client.send_all((0..count).map(|_| &mail)).for_each(|(_, result)| is_accepted(result)),
        }
        client.quit().unwrap();
    });
}

async fn awaited(job: Job, builder: postino::aio::Builder, connection: usize) {
    let (mail, count) = (mail(&job), job.share(connection));
    if job.way == "async-new" {
        for _ in 0..count {
            is_accepted(builder.send(&mail).await);
        }
        return;
    }
    let mut client = builder.connect().await.unwrap();
    if job.way == "async-send" {
        for _ in 0..count {
            is_accepted(client.send(&mail).await);
        }
    } else {
        let mut batch = client.send_all((0..count).map(|_| &mail));
        while let Some((_, result)) = batch.next().await {
            is_accepted(result);
        }
    }
    client.quit().await.unwrap();
}

fn main() {
    Job::from_args().run(|job| match job.way.starts_with("async-") {
        false => blocking(job),
        true => {
            let builder = builder!(postino::aio::Client, job);
            let one = |n| awaited(job.clone(), builder.clone(), n);
            if job.connections == 1 {
                return smol::block_on(one(0));
            }
            let tasks: Vec<_> = (0..job.connections).map(|n| smol::spawn(one(n))).collect();
            smol::block_on(async {
                for task in tasks {
                    task.await;
                }
            });
        }
    });
}
