//! Logins against a scripted server, with both clients.
#![cfg(any(unix, not(feature = "sasl")))] // the server's side of SCRAM needs OpenSSL

mod parrot;
#[path = "../support/mod.rs"]
mod support;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

/// Returns the script of the greeting and of EHLO, offering these mechanisms.
fn hello(mechanisms: &str) -> String {
    format!("-- hello AUTH {mechanisms}\n")
}

fn b64(text: impl AsRef<[u8]>) -> String {
    BASE64.encode(text)
}

/// A builder for the server, with the EHLO name that scripts expect.
macro_rules! builder {
    ($client:ty, $server:expr) => {
        <$client>::builder("127.0.0.1").port($server.port()).hello_name("client.example.org")
    };
}
use builder;

#[path = "."]
mod blocking {
    use ::maybe_async::must_be_sync as maybe_async;
    use postino::{Builder, Client, Pool};

    use crate::support::Server;

    fn block_on<T>(value: T) -> T {
        value
    }

    /// Logs in with the token that this function returns.
    fn token_from(
        builder: Builder,
        mut ask: impl FnMut() -> Result<String, &'static str> + Send + 'static,
    ) -> Builder {
        builder.oauth_token_with("u", move || Ok(ask()?))
    }

    /// Logs in with the password that this function returns.
    fn password_from(
        builder: Builder,
        mut ask: impl FnMut() -> Result<String, &'static str> + Send + 'static,
    ) -> Builder {
        builder.credentials_with("u", move || Ok(ask()?))
    }

    /// Connects with a callback that does not return, and the limits of `set`. Returns the error.
    fn with_sleeping_callback(set: impl FnOnce(Builder) -> Builder, is_token: bool) -> postino::Error {
        let server = Server::playing(crate::hello("XOAUTH2 PLAIN"));
        let (wake, asleep) = std::sync::mpsc::channel::<()>();
        let builder = set(crate::builder!(Client, server));
        let ask = move || {
            let _woken = asleep.recv();
            Ok("too late".to_owned())
        };
        let builder =
            if is_token { builder.oauth_token_with("u", ask) } else { builder.credentials_with("u", ask) };
        let error = builder.connect().unwrap_err();
        server.finish();
        drop(wake);
        error
    }

    #[test]
    fn a_callback_that_does_not_return_is_subject_to_the_time_limits() {
        let limit = std::time::Duration::from_millis(200);
        for set in [|b: Builder, limit| b.command_timeout(limit), |b: Builder, limit| b.deadline(limit)] {
            for is_token in [true, false] {
                let error = with_sleeping_callback(|builder| set(builder, limit), is_token);
                assert!(matches!(error, postino::Error::Timeout(postino::Phase::Auth)), "{error:?}");
            }
        }
    }

    #[test]
    fn a_callback_that_does_not_return_does_not_delay_a_stop() {
        let stop_handle = postino::StopHandle::new();
        let stop = stop_handle.clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            stop.stop();
        });
        let error = with_sleeping_callback(|builder| builder.stop_handle(&stop_handle), false);
        assert!(matches!(error, postino::Error::Stopped(_)), "{error:?}");
        other.join().unwrap();
    }

    #[test]
    fn a_panic_in_a_callback_reaches_the_caller() {
        let server = Server::playing(crate::hello("XOAUTH2"));
        let builder = crate::builder!(Client, server);
        let builder = builder.oauth_token_with("u", || panic!("no token today"));
        let connect = std::panic::AssertUnwindSafe(|| builder.connect());
        let panic = std::panic::catch_unwind(connect).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"no token today"));
        server.finish();
    }

    #[path = "cases.rs"]
    mod cases;

    #[path = "secrets.rs"]
    mod secrets;
}

#[cfg(feature = "async")]
#[path = "."]
mod aio {
    use ::maybe_async::must_be_async as maybe_async;
    use postino::aio::{Builder, Client, Pool};
    use smol::block_on;

    use crate::support::Server;

    fn token_from(
        builder: Builder,
        mut ask: impl FnMut() -> Result<String, &'static str> + Send + 'static,
    ) -> Builder {
        builder.oauth_token_with("u", move || {
            let token = ask();
            async move {
                smol::future::yield_now().await;
                Ok(token?)
            }
        })
    }

    fn password_from(
        builder: Builder,
        mut ask: impl FnMut() -> Result<String, &'static str> + Send + 'static,
    ) -> Builder {
        builder.credentials_with("u", move || {
            let password = ask();
            async move {
                smol::future::yield_now().await;
                Ok(password?)
            }
        })
    }

    #[test]
    fn a_callback_that_does_not_return_is_subject_to_the_time_limits() {
        let limit = std::time::Duration::from_millis(200);
        for set in [|b: Builder, limit| b.command_timeout(limit), |b: Builder, limit| b.deadline(limit)] {
            for is_token in [true, false] {
                let server = Server::playing(crate::hello("XOAUTH2 PLAIN"));
                let builder = set(crate::builder!(Client, server), limit);
                let builder = if is_token {
                    builder.oauth_token_with("u", std::future::pending)
                } else {
                    builder.credentials_with("u", std::future::pending)
                };
                let error = block_on(builder.connect()).unwrap_err();
                assert!(matches!(error, postino::Error::Timeout(postino::Phase::Auth)), "{error:?}");
                server.finish();
            }
        }
    }

    #[path = "cases.rs"]
    #[allow(clippy::duplicate_mod)] // the same source, compiled for both clients
    mod cases;

    #[path = "secrets.rs"]
    #[allow(clippy::duplicate_mod)]
    mod secrets;
}
