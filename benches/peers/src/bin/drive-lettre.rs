//! Ways: `conn` (SmtpConnection), `pool`, `tokio` (the same, async), `new` and `tokio-new` (a connection for each
//! message).

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, SmtpTransport, Tokio1Executor, Transport,
    address::Envelope,
    transport::smtp::{
        PoolConfig,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{Certificate, SmtpConnection, Tls, TlsParameters},
        extension::ClientId,
    },
};
use peers::{Job, Security};

const LIMIT: Option<Duration> = Some(Duration::from_secs(60));

fn envelope(job: &Job) -> Envelope {
    Envelope::new(Some(job.sender.parse().unwrap()), vec![job.recipient.parse().unwrap()]).unwrap()
}

fn credentials(job: &Job) -> Option<Credentials> {
    job.login.clone().map(Credentials::from)
}

fn hello() -> ClientId {
    ClientId::Domain("localhost".into())
}

fn parameters(job: &Job) -> TlsParameters {
    let ca = Certificate::from_pem(&job.ca()).unwrap();
    TlsParameters::builder("localhost".into()).add_root_certificate(ca).build().unwrap()
}

fn tls(job: &Job) -> Tls {
    match job.security {
        Security::Plain => Tls::None,
        Security::Tls => Tls::Wrapper(parameters(job)),
        Security::StartTls => Tls::Required(parameters(job)),
    }
}

fn pool_of(job: &Job) -> PoolConfig {
    PoolConfig::new().max_size(if job.way.contains("new") { 0 } else { job.connections as u32 })
}

fn connection(job: &Job, tls: Option<&TlsParameters>, connection: usize) {
    let implicit = tls.filter(|_| job.security == Security::Tls);
    let (address, envelope) = ((job.host.as_str(), job.port), envelope(job));
    for visit in job.visits(connection) {
        let mut watch = job.start();
        let mut client = SmtpConnection::connect(address, LIMIT, &hello(), implicit, None).unwrap();
        if job.security == Security::StartTls {
            client.starttls(tls.unwrap(), &hello()).unwrap();
        }
        if let Some(credentials) = credentials(job) {
            client.auth(DEFAULT_MECHANISMS, &credentials).unwrap();
        }
        for n in 0..visit.messages {
            client.send(&envelope, job.message).unwrap();
            if n < visit.unmeasured {
                watch = job.start();
            }
        }
        watch.stop();
        client.quit().unwrap();
    }
}

fn main() {
    Job::from_args().run(|job| match job.way.as_str() {
        "conn" => {
            let tls = (job.security != Security::Plain).then(|| parameters(job));
            job.threads(|n| connection(job, tls.as_ref(), n));
        }
        "pool" | "new" => {
            let transport = SmtpTransport::builder_dangerous(&job.host).port(job.port).tls(tls(job));
            let transport = transport.hello_name(hello()).timeout(LIMIT).pool_config(pool_of(job));
            let transport = match credentials(job) {
                Some(credentials) => transport.credentials(credentials).build(),
                None => transport.build(),
            };
            job.threads(|connection| {
                let envelope = envelope(job);
                for visit in job.visits(connection) {
                    let mut watch = job.start();
                    for n in 0..visit.messages {
                        transport.send_raw(&envelope, job.message).unwrap();
                        if n < visit.unmeasured {
                            watch = job.start();
                        }
                    }
                    watch.stop();
                }
            });
        }
        "tokio" | "tokio-new" => {
            let tls = tls(job);
            job.tasks(move |job, connection| {
                // Clones share their pool, which is built inside the runtime.
                let transport = transport(&job, &tls);
                async move {
                    let envelope = envelope(&job);
                    for visit in job.visits(connection) {
                        let mut watch = job.start();
                        for n in 0..visit.messages {
                            transport.send_raw(&envelope, job.message).await.unwrap();
                            if n < visit.unmeasured {
                                watch = job.start();
                            }
                        }
                        watch.stop();
                    }
                }
            });
        }
        _ => panic!("no such way"),
    });
}

fn transport(job: &Job, tls: &Tls) -> AsyncSmtpTransport<Tokio1Executor> {
    static SHARED: std::sync::OnceLock<AsyncSmtpTransport<Tokio1Executor>> = std::sync::OnceLock::new();
    let build = || {
        let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&job.host).port(job.port);
        let transport =
            transport.tls(tls.clone()).hello_name(hello()).timeout(LIMIT).pool_config(pool_of(job));
        match credentials(job) {
            Some(credentials) => transport.credentials(credentials).build(),
            None => transport.build(),
        }
    };
    SHARED.get_or_init(build).clone()
}
