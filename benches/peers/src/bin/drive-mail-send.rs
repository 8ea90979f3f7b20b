//! Ways: `conn`, `new` (a connection for each message). It accepts any certificate, because it cannot be given a CA, so its
//! TLS does less work.

use mail_send::{SmtpClientBuilder, smtp::message::Message};
use peers::{Job, RECIPIENT, SENDER, Security};

async fn work(job: Job, connection: usize) {
    let count = job.share(connection);
    let (connections, each) = if job.way == "new" { (count, 1) } else { (1, count) };
    let builder = SmtpClientBuilder::new(job.host.clone(), job.port).unwrap();
    let builder =
        builder.allow_invalid_certs().helo_host("localhost").implicit_tls(job.security == Security::Tls);
    let message = || Message::new(SENDER, [RECIPIENT], job.message);
    for _ in 0..connections {
        if job.security == Security::Plain {
            let mut client = builder.connect_plain().await.unwrap();
            for _ in 0..each {
                client.send(message()).await.unwrap();
            }
            client.quit().await.unwrap();
        } else {
            let mut client = builder.connect().await.unwrap();
            for _ in 0..each {
                client.send(message()).await.unwrap();
            }
            client.quit().await.unwrap();
        }
    }
}

fn main() {
    Job::from_args().run(|job| job.tasks(work));
}
