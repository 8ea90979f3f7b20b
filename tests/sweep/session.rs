//! A whole session, from the greeting to QUIT, which notes its results; compiled for each client.

use postino::{Error, JoinPolicy, Mail};

use super::{
    Builder, Client, dress, maybe_async,
    sweep::{Kind, Letter, Notes, Wire},
};

/// Returns the builder for a server of this kind.
pub fn builder(kind: Kind) -> Builder {
    Client::builder("mail.example.org")
        .hello_name("client.example.org")
        .lmtp(kind.lmtp)
        .credentials("user", "secret")
        .danger_plaintext_credentials(true) // there is no TLS on this wire
        .security(postino::Security::Plaintext)
        .pipelining(kind.pipelining)
        .join_envelopes(if kind.joining { JoinPolicy::Always } else { JoinPolicy::Never })
        .chunking(kind.chunking)
}

/// Continues to the end, whatever fails; false if there was no connection. The client stays with the caller, who may
/// drop the future.
#[maybe_async]
pub async fn run(
    builder: &Builder,
    wire: &Wire,
    octets: usize,
    client: &mut Option<Client>,
    notes: &mut Notes,
) -> bool {
    match builder.connect_over(dress(wire.clone())).await {
        Ok(connected) => *client = Some(connected),
        Err(error) => {
            notes.step("connect", &Err::<(), Error>(error), wire);
            return false;
        }
    }
    notes.step("connect", &Ok(()), wire);
    let Some(client) = client else { return false }; // it was set above
    let noop = client.noop().await;
    notes.reply("NOOP", &noop, wire);
    let line = format!("{}\r\n", "x".repeat(900));
    let text = format!(".a line that begins with a dot\r\n{}", line.repeat(octets / line.len()));
    let letters = [
        Letter::new("one", &["bob@example.org"], &text),
        Letter::new("two", &["bob@example.org"], "refuse it"),
        Letter::new("three", &["bob@example.org", "nobody@example.org", "carol@example.org"], "Hello"),
        Letter::new("four", &["nobody@example.org"], "Hello"),
        Letter::new("five", &["bob@example.org"], "Hello"),
    ];
    for letter in &letters {
        notes.begin(letter);
        let result = client.send(&letter.mail()).await;
        notes.delivery(letter, &result, wire);
    }
    let reset = client.rset().await;
    notes.reply("RSET", &reset, wire);
    let own = client.command("XYZZY").await;
    notes.reply("XYZZY", &own, wire);
    by_hand(client, wire, notes).await;
    batch(client, wire, notes).await;
    let noop = client.noop().await;
    notes.reply("NOOP", &noop, wire);
    client.quit().await.unwrap();
    true
}

#[maybe_async]
async fn by_hand(client: &mut Client, wire: &Wire, notes: &mut Notes) {
    let letter = Letter::new("by hand", &["bob@example.org"], "Hello");
    let mail = client.mail("alice@example.org", &[]).await;
    notes.reply("MAIL", &mail, wire);
    let rcpt = client.rcpt("bob@example.org", &[]).await;
    notes.reply("RCPT", &rcpt, wire);
    notes.begin(&letter);
    let data = client.data(letter.content.clone()).await;
    notes.data(&letter, &data, wire);
}

/// The messages of the batch.
pub fn crowd() -> Vec<Letter> {
    vec![
        Letter::new("six", &["bob@example.org"], "Hello"),
        Letter::new("seven", &["bob@example.org", "full@example.org"], "Hello"),
        Letter::new("eight", &["bob@example.org"], "refuse it"),
        Letter::new("nine", &["nobody@example.org"], "Hello"),
        Letter::new("ten", &["bob@example.org", "nobody@example.org"], "Hello"),
        Letter::new("eleven", &["carol@example.org"], "Hello"),
    ]
}

#[maybe_async]
async fn batch(client: &mut Client, wire: &Wire, notes: &mut Notes) {
    let letters = crowd();
    letters.iter().for_each(|letter| notes.begin(letter));
    let mails = letters.iter().enumerate().map(|(number, letter)| match number % 2 {
        0 => Box::new(letter.mail()) as Box<dyn Mail>,
        _ => Box::new(letter.watched()),
    });
    let mut mails = mails;
    let mut batch = client.send_all(mails.by_ref());
    let mut next = 0;
    while let Some((number, result)) = batch.next().await {
        assert_eq!(number, next);
        notes.delivery(&letters[number], &result, wire);
        next += 1;
    }
    let lost = batch.is_lost();
    drop(batch);
    assert_eq!(next + mails.len(), letters.len(), "each message has a result, or was not taken");
    assert!(lost || mails.len() == 0);
    letters[next..].iter().for_each(|letter| notes.not_sent(letter));
}
