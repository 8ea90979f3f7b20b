//! Ways: `conn`, `new` (a connection for each message).

use async_smtp::{
    Envelope, SendableEmail, SmtpClient, SmtpTransport,
    authentication::{Credentials, Mechanism},
};
use peers::{Job, Security, Stopwatch, Visit};
use tokio::{
    io::{AsyncBufRead, AsyncWrite, BufStream},
    net::TcpStream,
};
use tokio_native_tls::TlsConnector;

fn connector(job: &Job) -> TlsConnector {
    let ca = native_tls::Certificate::from_pem(&job.ca()).unwrap();
    native_tls::TlsConnector::builder().add_root_certificate(ca).build().unwrap().into()
}

async fn send<S: AsyncBufRead + AsyncWrite + Unpin>(
    client: SmtpClient,
    stream: S,
    job: &Job,
    visit: &Visit,
    mut watch: Stopwatch,
) {
    let mut transport = SmtpTransport::new(client, stream).await.unwrap();
    if let Some((user, password)) = job.login.clone() {
        transport.try_login(&Credentials::new(user, password), &[Mechanism::Plain]).await.unwrap();
    }
    for n in 0..visit.messages {
        let (from, to) = (job.sender.parse().unwrap(), job.recipient.parse().unwrap());
        let envelope = Envelope::new(Some(from), vec![to]).unwrap();
        transport.send(SendableEmail::new(envelope, job.message)).await.unwrap();
        if n < visit.unmeasured {
            watch = job.start();
        }
    }
    watch.stop();
    transport.quit().await.unwrap();
}

async fn work(job: Job, connection: usize) {
    let connector = (job.security != Security::Plain).then(|| connector(&job));
    for visit in job.visits(connection) {
        let watch = job.start();
        let stream = TcpStream::connect((job.host.as_str(), job.port)).await.unwrap();
        match (&connector, job.security) {
            (Some(connector), Security::Tls) => {
                let stream = connector.connect("localhost", stream).await.unwrap();
                send(SmtpClient::new(), BufStream::new(stream), &job, &visit, watch).await;
            }
            (Some(connector), _) => {
                let transport = SmtpTransport::new(SmtpClient::new(), BufStream::new(stream)).await.unwrap();
                let stream = transport.starttls().await.unwrap().into_inner();
                let stream = connector.connect("localhost", stream).await.unwrap();
                let client = SmtpClient::new().without_greeting();
                send(client, BufStream::new(stream), &job, &visit, watch).await;
            }
            (None, _) => send(SmtpClient::new(), BufStream::new(stream), &job, &visit, watch).await,
        }
    }
}

fn main() {
    Job::from_args().run(|job| job.tasks(work));
}
