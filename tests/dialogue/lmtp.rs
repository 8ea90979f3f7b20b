//! LMTP (RFC 2033): the end of a message has one reply for each accepted recipient.

use postino::{Error, Outcome};

use super::*;

const HELLO: &str = "S: 220 mail.example.org LMTP
    C: LHLO client.example.org
    S: 250-mail.example.org
    S: 250 PIPELINING\n";

/// A message for a, b and c, of whom b is refused; `then` follows its end.
fn message(then: &str) -> String {
    format!(
        "{HELLO}C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<a@example.org>
         C: RCPT TO:<b@example.org>
         C: RCPT TO:<c@example.org>
         C: DATA
         S: 250 ok
         S: 250 a
         S: 550 b
         S: 250 c
         S: 354 go on
         C: Hello
         C: .
         {then}"
    )
}

fn to_three() -> Raw<'static> {
    mail_to(&["a@example.org", "b@example.org", "c@example.org"])
}

fn lmtp(server: &Server) -> Client {
    block_on(builder(server).lmtp(true).connect()).unwrap()
}

/// The outcome for each recipient, as its first letter.
fn each(delivery: &Delivery) -> String {
    let letter = |outcome: Outcome| format!("{outcome:?}").remove(0);
    delivery.recipients().map(|recipient| letter(recipient.outcome())).collect()
}

// Threat 78.
#[test]
fn each_accepted_lmtp_recipient_has_its_own_final_reply() {
    let server = Server::playing(message("S: 250 for a\nS: 452 for c\nC: NOOP\nS: 250 ok"));
    let mut client = lmtp(&server);
    let delivery = deliver(&mut client, &to_three()).unwrap();
    assert_eq!(each(&delivery), "ARR");
    let codes: Vec<_> = delivery.recipients().map(|recipient| recipient.reply().unwrap().code()).collect();
    assert_eq!(codes, [250, 550, 452]);
    assert_open(&mut client);
}

// Threat 78.
#[test]
fn a_missing_reply_leaves_the_remaining_lmtp_recipients_in_doubt() {
    let server = Server::playing(message("S: 250 for a\n-- close"));
    let mut client = lmtp(&server);
    let delivery = deliver(&mut client, &to_three()).unwrap();
    assert_eq!(each(&delivery), "ARI");
    assert_eq!(delivery.retry_envelope(), None);
    assert_closed(&mut client);
}

/// Some servers send one refusal for all recipients of a message. Replies to an envelope sent with its end would be
/// taken for the missing ones, and refused mail for accepted mail.
// Threat 78.
#[test]
fn nothing_more_is_sent_before_the_last_lmtp_reply_to_a_message() {
    let one = "C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<a@example.org>
         C: RCPT TO:<c@example.org>
         C: DATA
         S: 250 ok
         S: 250 a
         S: 250 c
         S: 354 go on
         C: Hello
         C: .\n";
    let taken = "S: 250 for a\nS: 250 for c\n";
    let hello = HELLO.replace("250 PIPELINING", "250-CHUNKING\nS: 250 PIPELINING");
    let server = Server::playing(format!("{hello}{one}{taken}{one}{taken}{one}S: 451 for all\n-- silence"));
    let quick = builder(&server).lmtp(true).final_reply_timeout(std::time::Duration::from_millis(300));
    let mails = (0..4).map(|_| mail_to(&["a@example.org", "c@example.org"])).collect();
    let results = send_all(&mut block_on(quick.connect()).unwrap(), mails);
    let told = results.iter().map(|result| each(result.as_ref().unwrap_or_else(|e| e.delivery().unwrap())));
    assert_eq!(told.collect::<Vec<_>>(), ["AA", "AA", "RI"], "the last one stays in the iterator");
}

// Threat 78.
#[test]
fn silence_after_a_refusal_leaves_the_remaining_lmtp_recipients_in_doubt() {
    let server = Server::playing(message("S: 452 for a\n-- close"));
    let mut client = lmtp(&server);
    let error = send_error(&mut client, &to_three());
    assert_eq!(each(error.delivery().unwrap()), "RRI");
    assert!(error.in_doubt());
    assert_closed(&mut client);
}

// Threat 78.
#[test]
fn an_extra_lmtp_reply_changes_nothing_and_closes_the_connection() {
    let server = Server::playing(message("S: 250 for a\nS: 452 for c\nS: 250 for nobody"));
    let mut client = lmtp(&server);
    assert_eq!(each(&deliver(&mut client, &to_three()).unwrap()), "ARR");
    assert_closed(&mut client);
}

// Threat 78.
#[test]
fn an_unexpected_reply_leaves_the_remaining_lmtp_recipients_in_doubt() {
    let server = Server::playing(message("S: 250 for a\nS: 354 for c"));
    let mut client = lmtp(&server);
    assert_eq!(each(&deliver(&mut client, &to_three()).unwrap()), "ARI");
    assert_closed(&mut client);
}

#[test]
fn data_by_hand_over_lmtp_is_refused_for_more_than_one_recipient() {
    let rcpt = |name: &str, reply: &str| format!("C: RCPT TO:<{name}@example.org>\nS: {reply}\n");
    let begin =
        "S: 220 hi\nC: LHLO client.example.org\nS: 250 hi\nC: MAIL FROM:<alice@example.org>\nS: 250 ok\n";
    let server = Server::playing(
        [
            begin,
            &rcpt("nobody", "550 no"),
            &rcpt("bob", "250 ok"),
            "C: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 for bob\n",
            "C: MAIL FROM:<alice@example.org>\nS: 250 ok\n",
            &rcpt("bob", "250 ok"),
            &rcpt("carol", "251 ok"), // as a custom command
            "C: RSET\nS: 250 ok",
        ]
        .concat(),
    );
    let mut client = lmtp(&server);
    let refused = |client: &mut Client, count: &str| {
        let error = block_on(client.data("Hello")).unwrap_err();
        assert!(matches!(&error, Error::Config(what) if what.contains(count)), "{error:?}");
    };
    refused(&mut client, "there are 0");
    block_on(client.mail("alice@example.org", &[])).unwrap();
    block_on(client.rcpt("nobody@example.org", &[])).unwrap_err();
    refused(&mut client, "there are 0");
    block_on(client.rcpt("bob@example.org", &[])).unwrap();
    assert_eq!(block_on(client.data("Hello")).unwrap().text(), "for bob");
    block_on(client.mail("alice@example.org", &[])).unwrap();
    block_on(client.rcpt("bob@example.org", &[])).unwrap();
    block_on(client.command("RCPT TO:<carol@example.org>")).unwrap();
    refused(&mut client, "there are 2");
    for line in ["DATA", "bdat 5 LAST", "BURL imap://mail.example.org/x LAST"] {
        assert!(matches!(block_on(client.command(line)), Err(Error::Config(_))), "{line}");
    }
    block_on(client.rset()).unwrap();
}
