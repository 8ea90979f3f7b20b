//! The common parts of the drivers of both clients.

use postino::{Delivery, Envelope, Error, Raw};

use crate::Job;

pub fn mail(job: &Job) -> Raw<'static> {
    let envelope = Envelope::new(job.sender.as_str(), [job.recipient.as_str()]).unwrap();
    match job.way == "file" {
        true => Raw::path(envelope, job.path.clone()),
        false => Raw::bytes(envelope, job.message),
    }
}

pub fn is_accepted(result: Result<Delivery, Error>) {
    drop(result.unwrap());
}

/// The two clients have the same names.
#[macro_export]
macro_rules! builder {
    ($client:ty, $job:expr) => {{
        let job = $job;
        let builder =
            <$client>::builder(&job.host).port(job.port).hello_name("localhost").tls_name("localhost");
        let builder = builder.chunking(job.way == "chunk");
        let builder = match &job.login {
            Some((user, password)) => builder.credentials(user, password),
            None => builder,
        };
        match job.security {
            $crate::Security::Plain => builder.security(postino::Security::Plaintext),
            $crate::Security::Tls => builder.security(postino::Security::Implicit).ca_certificate(job.ca()),
            $crate::Security::StartTls => {
                builder.security(postino::Security::StartTls).ca_certificate(job.ca())
            }
        }
    }};
}
