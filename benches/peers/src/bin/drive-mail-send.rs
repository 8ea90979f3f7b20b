//! Ways: `conn`, `new` (a connection for each message). It accepts any certificate, so its TLS does less work.

use mail_send::{SmtpClient, SmtpClientBuilder, smtp::message::Message};
use peers::{Job, Security, Stopwatch, Visit};
use tokio::io::{AsyncRead, AsyncWrite};

async fn work(job: Job, connection: usize) {
    let builder = SmtpClientBuilder::new(job.host.clone(), job.port).unwrap();
    let builder =
        builder.allow_invalid_certs().helo_host("localhost").implicit_tls(job.security == Security::Tls);
    let builder = match &job.login {
        Some((user, password)) => builder.credentials((user.clone(), password.clone())),
        None => builder,
    };
    for visit in job.visits(connection) {
        let watch = job.start();
        match job.security {
            Security::Plain => send(builder.connect_plain().await.unwrap(), &job, &visit, watch).await,
            _ => send(builder.connect().await.unwrap(), &job, &visit, watch).await,
        }
    }
}

async fn send<T: AsyncRead + AsyncWrite + Unpin>(
    mut client: SmtpClient<T>,
    job: &Job,
    visit: &Visit,
    mut watch: Stopwatch,
) {
    for n in 0..visit.messages {
        let message = Message::new(job.sender.as_str(), [job.recipient.as_str()], job.message);
        client.send(message).await.unwrap();
        if n < visit.unmeasured {
            watch = job.start();
        }
    }
    watch.stop();
    client.quit().await.unwrap();
}

fn main() {
    Job::from_args().run(|job| job.tasks(work));
}
