//! Ways: `conn`, `new` (a connection for each message).

use async_smtp::{Envelope, SendableEmail, SmtpClient, SmtpTransport};
use peers::{Job, RECIPIENT, SENDER, Security};
use tokio::{
    io::{AsyncBufRead, AsyncWrite, BufStream},
    net::TcpStream,
};
use tokio_native_tls::TlsConnector;

fn connector(job: &Job) -> TlsConnector {
    let ca = native_tls::Certificate::from_pem(&job.ca()).unwrap();
    native_tls::TlsConnector::builder().add_root_certificate(ca).build().unwrap().into()
}

async fn send<S: AsyncBufRead + AsyncWrite + Unpin>(client: SmtpClient, stream: S, job: &Job, count: usize) {
    let mut transport = SmtpTransport::new(client, stream).await.unwrap();
    for _ in 0..count {
        let (from, to) = (SENDER.parse().unwrap(), RECIPIENT.parse().unwrap());
        let envelope = Envelope::new(Some(from), vec![to]).unwrap();
        transport.send(SendableEmail::new(envelope, job.message)).await.unwrap();
    }
    transport.quit().await.unwrap();
}

async fn work(job: Job, connection: usize) {
    let count = job.share(connection);
    let (connections, each) = if job.way == "new" { (count, 1) } else { (1, count) };
    let connector = (job.security != Security::Plain).then(|| connector(&job));
    for _ in 0..connections {
        let stream = TcpStream::connect((job.host.as_str(), job.port)).await.unwrap();
        match (&connector, job.security) {
            (Some(connector), Security::Tls) => {
                let stream = connector.connect("localhost", stream).await.unwrap();
                send(SmtpClient::new(), BufStream::new(stream), &job, each).await;
            }
            (Some(connector), _) => {
                let transport = SmtpTransport::new(SmtpClient::new(), BufStream::new(stream)).await.unwrap();
                let stream = transport.starttls().await.unwrap().into_inner();
                let stream = connector.connect("localhost", stream).await.unwrap();
                send(SmtpClient::new().without_greeting(), BufStream::new(stream), &job, each).await;
            }
            (None, _) => send(SmtpClient::new(), BufStream::new(stream), &job, each).await,
        }
    }
}

fn main() {
    Job::from_args().run(|job| job.tasks(work));
}
