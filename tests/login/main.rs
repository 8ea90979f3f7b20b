//! Logins against a server that plays a transcript, in both worlds.

mod double;
#[path = "../support/journal.rs"]
mod journal;
mod parrot;
#[cfg(feature = "native-tls")]
#[path = "../support/tls.rs"]
#[allow(dead_code)] // the dialogues use more of it
mod tls;

#[path = "."]
mod blocking {
    use ::maybe_async::must_be_sync as maybe_async;
    use postino::{Builder, Client, Pool};

    fn block_on<T>(value: T) -> T {
        value
    }

    /// Logs in with what this function gives.
    fn token_from(
        builder: Builder,
        mut ask: impl FnMut() -> Result<String, &'static str> + Send + 'static,
    ) -> Builder {
        builder.oauth_token_with("u", move || Ok(ask()?))
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

    #[test]
    fn a_callback_that_does_not_come_back_is_waited_for_until_the_deadline() {
        let double = crate::double::Double::start(&crate::double::hello("XOAUTH2"));
        let builder = Client::builder("127.0.0.1").port(double.port());
        let builder = builder.deadline(std::time::Duration::from_millis(200));
        let builder = builder.oauth_token_with("u", std::future::pending);
        let error = block_on(builder.connect()).unwrap_err();
        assert!(matches!(error, postino::Error::Timeout(postino::Phase::Auth)), "{error:?}");
        double.finish();
    }

    #[path = "cases.rs"]
    #[allow(clippy::duplicate_mod)] // written once, compiled twice: that is the point
    mod cases;

    #[path = "secrets.rs"]
    #[allow(clippy::duplicate_mod)]
    mod secrets;
}
