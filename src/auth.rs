//! Login credentials, and the trait for custom login mechanisms.
//!
//! Most programs do not need this module: [`Builder::credentials`](crate::Builder::credentials) and similar setters log
//! in while connecting. The password can come [from a callback](crate::Builder::credentials_with).
//! [`Client::login`](crate::Client::login) logs in later. [`Client::auth`](crate::Client::auth) logs in with
//! [`Credentials`] and one mechanism, chosen by name.
//!
//! # How a mechanism is chosen
//!
//! A server lists its login mechanisms in its reply to EHLO (RFC 4954 §3). The client tries those that fit the
//! credentials, the strongest first:
//!
//! | credentials | mechanisms, in order of preference |
//! |---|---|
//! | [`Credentials::new`]: user and password | SCRAM-SHA-256-PLUS, SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5 (these four need the `sasl` feature), PLAIN, LOGIN |
//! | [`Credentials::token`]: user and OAuth token | OAUTHBEARER, XOAUTH2 |
//! | [`Credentials::external`]: a TLS certificate, for instance | EXTERNAL |
//! | [`Credentials::anonymous`] | ANONYMOUS |
//!
//! [`Builder::auth_mechanisms`](crate::Builder::auth_mechanisms) restricts the mechanisms or changes their order. If a
//! mechanism is refused, another may be tried: see [`Builder::credentials`](crate::Builder::credentials).
//!
//! Credentials are sent only over TLS or a [local](crate::Security) connection, unless
//! [`Builder::danger_plaintext_credentials`](crate::Builder::danger_plaintext_credentials) allows otherwise.
//!
//! # Custom mechanisms
//!
//! To use a mechanism that this crate does not provide, implement [`Mechanism`], and pass the mechanism to
//! [`Builder::auth_mechanism`](crate::Builder::auth_mechanism) or
//! [`Client::auth_mechanism`](crate::Client::auth_mechanism). The mechanism provides only its raw responses.
//! The client encodes them in base64, sends them, and masks them in logs and errors.
//!
//! ```
//! use postino::{
//!     Client,
//!     auth::{Answer, Mechanism},
//! };
//!
//! /// The server sends a number, and the client replies with a ticket and that number.
//! #[derive(Clone)]
//! struct Ticket(String);
//!
//! impl Mechanism for Ticket {
//!     fn name(&self) -> &str {
//!         "X-TICKET"
//!     }
//!
//!     // `initial` is not overridden, because the server speaks first.
//!
//!     fn answer(&mut self, challenge: &[u8]) -> Answer {
//!         match std::str::from_utf8(challenge).ok().and_then(|text| text.parse::<u32>().ok()) {
//!             Some(number) => Answer::Respond(format!("{} {number}", self.0).into_bytes()),
//!             None => Answer::Cancel("the challenge is not a number".to_owned()),
//!         }
//!     }
//!
//!     // Masked as well if the server repeats it alone.
//!     fn secrets(&self) -> Vec<&[u8]> {
//!         vec![self.0.as_bytes()]
//!     }
//! }
//!
//! # // A server that plays one dialogue, and checks what it gets.
//! # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let port = listener.local_addr()?.port();
//! # let server = std::thread::spawn(move || {
//! #     use std::io::{BufRead, BufReader, Write};
//! #     let (mut stream, _) = listener.accept().unwrap();
//! #     let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
//! #     stream.write_all(b"220 mail.example.org\r\n").unwrap();
//! #     for (command, reply) in [
//! #         ("EHLO ", "250-mail.example.org\r\n250 AUTH X-TICKET\r\n"),
//! #         ("AUTH X-TICKET", "334 NDI=\r\n"), // 42
//! #         ("c2VjcmV0IDQy", "235 welcome\r\n"), // secret 42
//! #         ("QUIT", "221 bye\r\n"),
//! #     ] {
//! #         let line = lines.next().unwrap().unwrap();
//! #         assert!(line.starts_with(command), "{line}");
//! #         stream.write_all(reply.as_bytes()).unwrap();
//! #     }
//! # });
//! let builder = Client::builder("127.0.0.1").auth_mechanism(Ticket("secret".to_owned()));
//! let mut client = builder.port(port).connect()?;
//! client.quit()?;
//! # server.join().expect("the client sends what the server expects");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use crate::proto::{Answer, Credentials, Mechanism};
