//! Any answer to EHLO: what is read of it, and what a greeting makes of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postino::{
    Capabilities, Error,
    proto::{Auth, AuthOptions, Credentials, Dialogue, Hello, Inbox, Outbox, Upgrade, Want},
};
use postino_fuzz::{feed, has, is_safe_to_show};

fuzz_target!(|input: &[u8]| {
    let Some((flags, text)) = input.split_first() else { return };
    // Each line of the input is a line of the reply.
    let mut bytes = b"250-mail.example.org\r\n".to_vec();
    for line in text.split(|b| *b == b'\n') {
        bytes.extend_from_slice(b"250-");
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"250 OK\r\n");
    let Some(capabilities) = parse(&bytes) else { return };
    let lines = bytes.split(|b| *b == b'\n').count() - 1; // nothing is behind the last
    assert!(capabilities.iter().count() < lines, "the first line is no keyword");
    check(&capabilities);
    greet(*flags, &bytes, &capabilities);
});

/// None if a limit keeps it from being a reply.
fn parse(mut bytes: &[u8]) -> Option<Capabilities> {
    let mut inbox = Inbox::default();
    while !bytes.is_empty() {
        bytes = &bytes[feed(&mut inbox, bytes, usize::MAX)..];
        if let Some(reply) = inbox.next_reply().ok()? {
            return Some(Capabilities::parse(reply));
        }
    }
    None
}

fn check(capabilities: &Capabilities) {
    assert!(capabilities.offers("ok"), "the last line is one of them");
    for (keyword, parameters) in capabilities.iter() {
        assert!(!keyword.is_empty() && !keyword.contains([' ', '\t', '\n']));
        assert!(!keyword.bytes().any(|b| b.is_ascii_lowercase()));
        assert_eq!(parameters.trim(), parameters);
        assert!(capabilities.offers(keyword) && capabilities.offers(&keyword.to_ascii_lowercase()));
    }
    assert_ne!(capabilities.size_limit(), Some(0));
    for name in ["RCPTMAX", "MAILMAX", "RCPTDOMAINMAX"] {
        assert_ne!(capabilities.limit(name), Some(0));
    }
    let mechanisms: Vec<String> = capabilities.auth_mechanisms().collect();
    for (number, name) in mechanisms.iter().enumerate() {
        assert!(!mechanisms[..number].contains(name), "each once");
        assert!(!name.contains(|c: char| c.is_ascii_whitespace()) && !name.is_empty());
    }
    if let Err(error) = Auth::new(
        Credentials::new("user", "pa55-w0rd").expect("they are good"),
        AuthOptions::default(),
        capabilities,
    ) {
        assert!(is_safe_to_show(&error.to_string()), "{error}");
    }
}

/// The whole of a greeting, over TLS or not.
fn greet(flags: u8, ehlo: &[u8], capabilities: &Capabilities) {
    let upgrade = [Upgrade::Never, Upgrade::IfOffered, Upgrade::Required][usize::from(flags % 3)];
    let hello = Hello::new("client.example.org", upgrade, flags & 0x80 != 0).expect("it is a name");
    let mut hello = hello.lmtp(flags & 0x40 != 0);
    let mut says = vec![b"220 hi\r\n".as_slice(), ehlo, b"220 go\r\n", ehlo].into_iter();
    let (mut inbox, mut out, mut wire, mut secured) =
        (Inbox::default(), Outbox::default(), Vec::new(), false);
    let result: Result<(), Error> = loop {
        match hello.fill(&mut out) {
            Want::Nothing => break Ok(()),
            Want::StartTls => {
                assert!(inbox.is_empty() && capabilities.offers("STARTTLS"));
                hello.on_tls();
                secured = true;
            }
            Want::Reply => {
                let n = out.offer().len();
                wire.extend_from_slice(out.offer());
                out.written(n);
                let mut bytes = says.next().expect("no more than four replies are asked for");
                let step = loop {
                    bytes = &bytes[feed(&mut inbox, bytes, usize::MAX)..];
                    if let Some(reply) = inbox.next_reply().expect("it was a reply before") {
                        out.reply_arrived();
                        break hello.on_reply(reply, &out);
                    }
                };
                if let Err(error) = step {
                    break Err(error);
                }
            }
            want => panic!("nobody can give it {want:?}"),
        }
    };
    match (result, upgrade) {
        (Ok(()), Upgrade::Never) => assert!(!secured && !has(&wire, b"STARTTLS")),
        (Ok(()), Upgrade::IfOffered) => assert_eq!(secured, capabilities.offers("STARTTLS")),
        (Ok(()), _) => assert!(secured, "TLS was required"),
        (Err(error), _) => {
            assert!(matches!(error, Error::TlsRequired) && upgrade == Upgrade::Required, "{error}");
            assert!(!capabilities.offers("STARTTLS"));
            return;
        }
    }
    assert_eq!(hello.into_parts().2, *capabilities);
}
