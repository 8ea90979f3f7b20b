//! LIMITS (RFC 9422): split messages, and connections that are renewed.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use postino::{
    Error, JoinPolicy, Message, Raw,
    message::{Attachment, Body},
};

use super::*;

fn message(recipients: &[&str], text: &str) -> String {
    let mut script = "C: MAIL FROM:<alice@example.org>\n".to_owned();
    for recipient in recipients {
        script += &format!("C: RCPT TO:<{recipient}>\n");
    }
    script += "C: DATA\nS: 250 ok\n";
    script += &"S: 250 ok\n".repeat(recipients.len());
    script + &format!("S: 354 go on\nC: {text}\nC: .\nS: 250 taken {text}\n")
}

fn one(number: usize) -> String {
    message(&["bob@example.org"], &number.to_string())
}

const A: &str = "a@one.example";
const B: &str = "b@two.example";
const C: &str = "c@ONE.example";

// Threat 79.
#[test]
fn mailmax_renews_the_connection_between_single_messages() {
    let hello = "-- hello PIPELINING, LIMITS MAILMAX=2\n";
    let bye = "C: QUIT\nS: 221 bye\n";
    let server = Server::playing_each([
        format!("{hello}{}{}{bye}", one(1), one(2)),
        format!("{hello}{}{}{bye}", one(3), one(4)),
        format!("{hello}{}", one(5)),
    ]);
    let mut client = connect(&server);
    for number in 1..=5 {
        accept(&mut client, &numbered(number));
    }
}

#[test]
fn mailmax_renews_the_connection_of_a_batch() {
    let hello = "-- hello PIPELINING, CHUNKING, LIMITS MAILMAX=2\n";
    let joined = |first: usize| {
        let envelope = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n";
        let taken = "S: 250 ok\nS: 250 ok\nS: 354 go on\n";
        let second = first + 1;
        format!(
            "{envelope}{taken}C: {first}\nC: .\n{envelope}S: 250 taken\n{taken}C: {second}\nC: .\nS: 250 taken\n"
        )
    };
    let bye = "C: QUIT\nS: 221 bye\n";
    let server = Server::playing_each([
        format!("{hello}{}{bye}", joined(1)),
        format!("{hello}{}{bye}", joined(3)),
        format!("{hello}{}", one(5)),
    ]);
    assert_eq!(outcomes(&send_all(&mut connect(&server), (1..=5).map(numbered).collect())), "AAAAA");
}

#[test]
fn mailmax_counts_the_message_sent_again_over_a_renewed_connection() {
    let envelope = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n";
    let hello = "-- hello PIPELINING, CHUNKING, LIMITS MAILMAX=2\n";
    let server = Server::playing_each([
        format!(
            "{hello}{envelope}S: 250 ok\nS: 250 ok\nS: 354 go on\nC: 1\nC: .\n{envelope}S: 250 taken\n-- close"
        ),
        format!("{hello}{}{}C: QUIT\nS: 221 bye", one(2), one(3)),
        format!("{hello}{}", one(4)),
    ]);
    assert_eq!(outcomes(&send_all(&mut connect(&server), (1..=4).map(numbered).collect())), "AAAA");
}

// Threat 79.
#[test]
fn rcptmax_sends_a_message_in_parts() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, LIMITS RCPTMAX=2\n{}{}",
        message(&[A, B], "Hello"),
        message(&[C], "Hello")
    ));
    let delivery = deliver(&mut connect(&server), &mail_to(&[A, B, C])).unwrap();
    assert_eq!(delivery.recipients().count(), 3);
    assert!(delivery.recipients().all(|r| r.outcome() == Outcome::Accepted));
}

#[test]
fn rcptdomainmax_sends_a_part_for_each_domain() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, LIMITS RCPTDOMAINMAX=1\n{}{}",
        message(&[A, C], "Hello"),
        message(&[B], "Hello")
    ));
    let delivery = deliver(&mut connect(&server), &mail_to(&[A, B, C])).unwrap();
    let order: Vec<_> = delivery.recipients().map(|r| r.address().as_str().to_owned()).collect();
    assert_eq!(order, [A, B, C]);
}

#[test]
fn rcptmax_sends_the_parts_of_a_message_between_the_others_of_a_batch() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, LIMITS RCPTMAX=2\n{}{}{}{}",
        one(1),
        message(&[A, B], "Hello"),
        message(&[C], "Hello"),
        one(3)
    ));
    let mails = vec![numbered(1), mail_to(&[A, B, C]), numbered(3)];
    assert_eq!(outcomes(&send_all(&mut connect(&server), mails)), "AAA");
}

#[test]
fn a_refused_part_does_not_keep_the_others_from_being_sent() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, LIMITS RCPTMAX=1
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<{A}>
         C: DATA
         S: 250 ok
         S: 450 later
         S: 554 nobody
         C: RSET
         S: 250 ok
         {}",
        message(&[B], "Hello")
    ));
    let delivery = deliver(&mut connect(&server), &mail_to(&[A, B])).unwrap();
    let each: Vec<_> = delivery.recipients().map(|r| r.outcome()).collect();
    assert_eq!(each, [Outcome::Refused, Outcome::Accepted]);
    assert_eq!(delivery.retry_envelope().unwrap().recipients().len(), 1);
}

#[test]
fn a_connection_lost_between_parts_leaves_the_rest_unsent() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, LIMITS RCPTMAX=1\n{}C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<{B}>\nC: DATA\n-- close",
        message(&[A], "Hello")
    ));
    let mut client = connect(&server);
    let delivery = deliver(&mut client, &mail_to(&[A, B, C])).unwrap();
    let each: Vec<_> = delivery.recipients().map(|r| r.outcome()).collect();
    assert_eq!(each, [Outcome::Accepted, Outcome::NotSent, Outcome::NotSent]);
    assert_closed(&mut client);
}

#[test]
fn a_single_use_reader_is_not_sent_in_parts() {
    let server = Server::playing("-- hello PIPELINING, LIMITS RCPTMAX=1\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let mail = Raw::reader(envelope(&[A, B]), b"Hello\r\n".as_slice());
    assert!(matches!(send_error(&mut client, &mail), Error::Message(_)));
    let mail = Raw::reader(envelope(&[A, B]), b"Hello\r\n".as_slice());
    assert_eq!(outcomes(&send_all(&mut client, vec![mail])), "E");
    assert_open(&mut client);
}

#[test]
fn all_or_nothing_cannot_be_combined_with_parts() {
    let server = Server::playing("-- hello PIPELINING, LIMITS RCPTMAX=1\nC: NOOP\nS: 250 ok");
    let mut client = block_on(builder(&server).all_or_nothing(true).connect()).unwrap();
    assert!(matches!(send_error(&mut client, &mail_to(&[A, B])), Error::Unsupported(_)));
    assert_open(&mut client);
}

#[test]
fn mailmax_does_not_renew_a_connection_that_a_call_has_logged_in() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, AUTH PLAIN, LIMITS MAILMAX=1
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 235 welcome\n{}C: QUIT\nS: 221 bye",
        one(1)
    ));
    let mut client = connect(&server);
    block_on(client.login("user", "secret")).unwrap();
    accept(&mut client, &numbered(1));
    assert!(matches!(send_error(&mut client, &numbered(2)), Error::NotConnected));
    assert_closed(&mut client);
}

#[test]
fn mailmax_ends_a_user_supplied_connection() {
    let server =
        Server::playing(format!("-- hello PIPELINING, LIMITS MAILMAX=1\n{}C: QUIT\nS: 221 bye", one(1)));
    let mut client = block_on(builder(&server).connect_over(crate::tcp(connect::dial(&server)))).unwrap();
    accept(&mut client, &numbered(1));
    assert!(matches!(send_error(&mut client, &numbered(2)), Error::NotConnected));
    assert_closed(&mut client);
}

#[test]
fn extensions_offered_only_by_the_old_connection_are_not_used_on_the_new_one() {
    let server = Server::playing_each([
        format!("-- hello PIPELINING, SMTPUTF8, 8BITMIME, LIMITS MAILMAX=1\n{}C: QUIT\nS: 221 bye", one(1)),
        "-- hello PIPELINING".to_owned(),
    ]);
    let mut client = connect(&server);
    accept(&mut client, &numbered(1));
    let error = send_error(&mut client, &mail_to(&["b\u{fc}b@example.org"]));
    assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
}

#[test]
fn a_message_that_is_refused_in_every_part_is_refused() {
    let refused = |recipient: &str, code: &str| {
        format!(
            "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<{recipient}>\nC: DATA\n\
             S: 250 ok\nS: {code} no\nS: 554 nobody\nC: RSET\nS: 250 ok\n"
        )
    };
    let server = Server::playing(format!(
        "-- hello PIPELINING, LIMITS RCPTMAX=1\n{}{}C: NOOP\nS: 250 ok",
        refused(A, "550"),
        refused(B, "450")
    ));
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail_to(&[A, B]));
    assert_eq!(outcome(&error), Outcome::Refused);
    assert!(matches!(cause(&error), Error::Refused { reply, .. } if reply.code() == 550), "{error:?}");
    assert!(error.is_transient(), "one of them may have it later");
    assert_eq!(error.delivery().unwrap().retry_envelope().unwrap().recipients()[0].as_str(), B);
    assert_open(&mut client);
}

#[test]
fn a_connection_lost_in_the_first_part_leaves_all_recipients_unsent() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, LIMITS RCPTMAX=1\n\
         C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<{A}>\nC: DATA\n-- close"
    ));
    let error = send_error(&mut connect(&server), &mail_to(&[A, B]));
    assert_eq!(outcome(&error), Outcome::NotSent);
    assert!(matches!(cause(&error), Error::Closed(_) | Error::Io { .. }), "{error:?}");
    assert_eq!(error.delivery().unwrap().retry_envelope().unwrap().recipients().len(), 2);
}

#[test]
fn parts_without_a_connection_are_not_sent() {
    let server = Server::playing_each([
        format!(
            "-- hello PIPELINING, LIMITS RCPTMAX=1 MAILMAX=1\n{}C: QUIT\nS: 221 bye",
            message(&[A], "Hello")
        ),
        "S: 554 not now".to_owned(),
    ]);
    let delivery = deliver(&mut connect(&server), &mail_to(&[A, B, C])).unwrap();
    let each: Vec<_> = delivery.recipients().map(|r| r.outcome()).collect();
    assert_eq!(each, [Outcome::Accepted, Outcome::NotSent, Outcome::NotSent]);
}

#[test]
fn a_message_that_cannot_be_sent_is_not_begun_in_parts() {
    let server = Server::playing("-- hello PIPELINING, LIMITS RCPTMAX=1\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let error = send_error(&mut client, &Raw::bytes(envelope(&[A, B]), "Gr\u{fc}\u{df}e\r\n"));
    assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
    assert_open(&mut client);
}

#[test]
fn quit_leaves_only_with_the_last_part() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING, LIMITS RCPTMAX=1\n{}{}",
        message(&[A], "Hello"),
        message(&[B], "Hello").replace("C: .\n", "C: .\nC: QUIT\n")
    ));
    let builder = builder(&server).join_envelopes(JoinPolicy::Always);
    let delivery = block_on(builder.send(&mail_to(&[A, B]))).unwrap();
    assert!(delivery.recipients().all(|r| r.outcome() == Outcome::Accepted));
}

/// All recipients in one flight; the server accepts the first `taken` and answers the others with `refusal`.
fn in_part(recipients: &[&str], taken: usize, refusal: &str) -> String {
    let mut script = "C: MAIL FROM:<alice@example.org>\n".to_owned();
    recipients.iter().for_each(|recipient| script += &format!("C: RCPT TO:<{recipient}>\n"));
    script += "C: DATA\nS: 250 ok\n";
    script += &"S: 250 ok\n".repeat(taken);
    script += &format!("S: {refusal}\n").repeat(recipients.len() - taken);
    script + "S: 354 go on\nC: Hello\nC: .\nS: 250 taken\n"
}

// Threat 79.
#[test]
fn excess_recipients_get_the_message_in_further_transactions() {
    for refusal in ["452 4.5.3 too many", "452 too many"] {
        let server = Server::playing(format!(
            "-- hello PIPELINING\n{}{}{}C: NOOP\nS: 250 ok",
            in_part(&[A, B, C], 1, refusal),
            message(&[B], "Hello"),
            message(&[C], "Hello")
        ));
        let mut client = connect(&server);
        accept(&mut client, &mail_to(&[A, B, C]));
        assert_open(&mut client);
    }
}

#[test]
fn excess_recipients_in_a_batch_get_the_message_in_further_transactions() {
    let server = Server::playing(format!(
        "-- hello PIPELINING\n{}{}{}",
        in_part(&[A, B], 1, "452 4.5.3 too many"),
        message(&[B], "Hello"),
        one(2)
    ));
    let results = send_all(&mut connect(&server), vec![mail_to(&[A, B]), numbered(2)]);
    assert_eq!(outcomes(&results), "AA");
    let first = results[0].as_ref().unwrap();
    assert!(first.recipients().all(|recipient| recipient.outcome() == Outcome::Accepted), "{first:?}");
}

#[test]
fn quit_waits_until_excess_recipients_have_been_sent_to() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{}{}",
        in_part(&[A, B], 1, "452 4.5.3 too many"),
        message(&[B], "Hello").replace("C: .\n", "C: .\nC: QUIT\n")
    ));
    let builder = builder(&server).join_envelopes(JoinPolicy::Always);
    let delivery = block_on(builder.send(&mail_to(&[A, B]))).unwrap();
    assert!(delivery.recipients().all(|recipient| recipient.outcome() == Outcome::Accepted));
}

/// The outcome of each of the three recipients, and how many may be retried.
fn each_of_three(client: &mut Client, mail: &dyn Mail) -> (Vec<Outcome>, usize) {
    let delivery = deliver(client, mail).unwrap();
    let each = delivery.recipients().map(|recipient| recipient.outcome()).collect();
    (each, delivery.retry_envelope().map_or(0, |envelope| envelope.recipients().len()))
}

#[test]
fn a_full_mailbox_does_not_mean_too_many_recipients() {
    use Outcome::{Accepted, Refused};
    let full = "452 4.2.2 mailbox full";
    let server = Server::playing(format!("-- hello PIPELINING\n{}", in_part(&[A, B, C], 1, full)));
    assert_eq!(
        each_of_three(&mut connect(&server), &mail_to(&[A, B, C])),
        (vec![Accepted, Refused, Refused], 2)
    );
}

#[test]
fn a_452_before_an_accepted_recipient_applies_to_that_recipient_only() {
    let server = Server::playing(format!(
        "-- hello PIPELINING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<{A}>
         C: RCPT TO:<{B}>
         C: RCPT TO:<{C}>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 452 4.5.3 too many
         S: 250 ok
         S: 354 go on
         C: Hello
         C: .
         S: 250 taken",
    ));
    let each = each_of_three(&mut connect(&server), &mail_to(&[A, B, C]));
    assert_eq!(each, (vec![Outcome::Accepted, Outcome::Refused, Outcome::Accepted], 1));
}

#[test]
fn a_452_before_another_refusal_applies_to_its_own_recipient_only() {
    for refusal in ["550 5.1.1 nobody", "450 4.2.1 later", "451 later"] {
        let server = Server::playing(format!(
            "-- hello PIPELINING
             C: MAIL FROM:<alice@example.org>
             C: RCPT TO:<{A}>
             C: RCPT TO:<{B}>
             C: RCPT TO:<{C}>
             C: DATA
             S: 250 ok
             S: 250 ok
             S: 452 4.5.3 too many
             S: {refusal}
             S: 354 go on
             C: Hello
             C: .
             S: 250 taken",
        ));
        let (each, _) = each_of_three(&mut connect(&server), &mail_to(&[A, B, C]));
        assert_eq!(each, [Outcome::Accepted, Outcome::Refused, Outcome::Refused]);
    }
}

#[test]
fn a_further_transaction_that_accepts_no_recipient_is_the_last() {
    let server = Server::playing(format!(
        "-- hello PIPELINING\n{}C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<{B}>\nC: DATA
         S: 250 ok\nS: 452 4.5.3 too many\nS: 554 nobody\nC: RSET\nS: 250 ok",
        in_part(&[A, B, C], 1, "452 4.5.3 too many")
    ));
    let each = each_of_three(&mut connect(&server), &mail_to(&[A, B, C]));
    assert_eq!(each, (vec![Outcome::Accepted, Outcome::Refused, Outcome::Refused], 2));
}

#[test]
fn single_use_content_is_not_sent_in_a_further_transaction() {
    let reader = || Raw::reader(envelope(&[A, B, C]), b"Hello\r\n".as_slice());
    let script = format!("-- hello PIPELINING\n{}", in_part(&[A, B, C], 2, "452 4.5.3 too many"));
    let server = Server::playing(script.clone());
    let each = each_of_three(&mut connect(&server), &reader());
    assert_eq!(each, (vec![Outcome::Accepted, Outcome::Accepted, Outcome::Refused], 1));
    let server = Server::playing(script);
    let results = send_all(&mut connect(&server), vec![reader()]);
    assert_eq!(results[0].as_ref().unwrap().retry_envelope().unwrap().recipients().len(), 1);
}

#[test]
fn all_or_nothing_uses_no_further_transaction() {
    let server = Server::playing(format!(
        "-- hello PIPELINING\nC: MAIL FROM:<alice@example.org>\nC: RCPT TO:<{A}>\nC: RCPT TO:<{B}>
         S: 250 ok\nS: 250 ok\nS: 452 4.5.3 too many\nC: RSET\nS: 250 ok",
    ));
    let mut client = block_on(builder(&server).all_or_nothing(true).connect()).unwrap();
    let error = send_error(&mut client, &mail_to(&[A, B]));
    assert_eq!(error.delivery().unwrap().retry_envelope().unwrap().recipients().len(), 2);
}

#[test]
fn lmtp_can_have_too_many_recipients_only_at_rcpt() {
    let hello = "S: 220 hi\nC: LHLO client.example.org\nS: 250-hi\nS: 250 PIPELINING\n";
    let lmtp = |script: String| {
        let server = Server::playing(format!("{hello}{script}"));
        let mut client = block_on(builder(&server).lmtp(true).connect()).unwrap();
        each_of_three(&mut client, &mail_to(&[A, B, C])).0
    };
    let at_rcpt =
        in_part(&[A, B, C], 2, "452 4.5.3 too many").replace("S: 250 taken\n", "S: 250 a\nS: 250 b\n");
    let each = lmtp(format!("{at_rcpt}{}", message(&[C], "Hello")));
    assert_eq!(each, [Outcome::Accepted; 3]);
    let finals = "S: 250 a\nS: 452 4.5.3 too many\nS: 452 4.5.3 too many\n";
    let each = lmtp(in_part(&[A, B, C], 3, "").replace("S: 250 taken\n", finals));
    assert_eq!(each, [Outcome::Accepted, Outcome::Refused, Outcome::Refused]);
}

#[test]
fn splitting_very_many_recipients_ends_at_the_deadline() {
    let server = Server::playing("-- hello PIPELINING, LIMITS RCPTDOMAINMAX=1");
    let mut client = connect(&server);
    let to: Vec<String> = (0..10_000).map(|number| format!("u@{number}.example")).collect();
    let mail = Raw::bytes(Envelope::new("alice@example.org", to).unwrap(), b"Hello\r\n");
    client.next_call_deadline(std::time::Duration::ZERO);
    let error = send_error(&mut client, &mail);
    assert!(matches!(error, Error::Timeout(postino::Phase::Mail)), "before anything was said: {error:?}");
    assert_closed(&mut client);
}

#[test]
fn a_permanently_refused_part_does_not_keep_the_others_from_being_retried() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, LIMITS RCPTMAX=1
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<{A}>
         C: DATA
         S: 250 ok
         S: 550 no
         S: 554 nobody
         C: RSET
         S: 250 ok
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<{B}>
         C: DATA
         -- close"
    ));
    let error = send_error(&mut connect(&server), &mail_to(&[A, B]));
    let unsent = error.delivery().unwrap().retry_envelope().unwrap();
    assert_eq!((unsent.recipients()[0].as_str(), unsent.recipients().len()), (B, 1));
    assert_eq!(error.retry(), postino::Retry::Now);
    assert!(error.is_transient() && !error.is_permanent());
}

/// The addresses in memory of the replies of all recipients.
fn places(delivery: &Delivery) -> Vec<*const u8> {
    delivery.recipients().map(|recipient| recipient.reply().unwrap().raw().as_ptr()).collect()
}

#[test]
fn recipients_of_one_part_share_the_reply_to_it() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, LIMITS RCPTMAX=2\n{}{}",
        message(&[A, B], "Hello"),
        message(&[C], "Hello")
    ));
    let delivery = deliver(&mut connect(&server), &mail_to(&[A, B, C])).unwrap();
    let [first, second, third] = places(&delivery)[..] else { panic!() };
    assert!(first == second && second != third, "one for each part");
    assert_eq!(delivery.reply().unwrap().raw().as_ptr(), first);
    assert_eq!(places(&delivery.clone()), [first, second, third], "a copy shares them, too");

    let server = Server::playing("-- hello\nC: MAIL FROM:<alice@example.org>\nS: 550 no\nC: RSET\nS: 250 ok");
    let error = send_error(&mut connect(&server), &mail_to(&[A, B]));
    let places = places(error.delivery().unwrap());
    assert!(places.iter().all(|place| *place == cause(&error).reply().unwrap().raw().as_ptr()));
}

#[test]
fn single_use_content_is_neither_sent_in_parts_nor_consumed() {
    let attachment = || Attachment::reader("a", &b"data"[..]);
    let builder = || Message::builder().from("alice@example.org").to(format!("{A}, {B}")).text("Hello\n");
    let attached = || builder().attach(attachment()).build().unwrap();
    let watched = attached();
    let large = vec![0; 100_000];
    let mails: [Box<dyn Mail + '_>; 6] = [
        Box::new(Raw::reader(envelope(&[A, B]), &b"Hello\r\n"[..])),
        Box::new(attached()),
        Box::new(builder().attach(Attachment::message(attached())).build().unwrap()),
        Box::new(watched.on_progress(|_, _| {})),
        Box::new(Arc::new(Around(
            builder().attach(Attachment::bytes("b", large)).attach(attachment()).build().unwrap(),
        ))),
        Box::new(attached().resend(postino::message::Resent::by(A).to(format!("{A}, {B}"))).unwrap()),
    ];
    for mail in mails {
        let server = Server::playing("-- hello PIPELINING, LIMITS RCPTMAX=1\nC: NOOP\nS: 250 ok");
        let mut client = connect(&server);
        for _ in 0..2 {
            let error = send_error(&mut client, &*mail);
            assert!(matches!(error, Error::Message(_)), "{error:?}");
            assert!(error.to_string().contains("read only once"), "{error}");
            assert_eq!(outcomes(&send_all(&mut client, vec![&mail])), "E");
        }
        assert_open(&mut client);
        drop(client);
        // The message is sent to a server that accepts all of it at once.
        let server = Server::running(|peer| {
            peer.play("-- hello");
            (0..3).for_each(|_| {
                peer.line().unwrap();
                peer.play("S: 250 ok");
            });
            peer.play("C: DATA\nS: 354 go on\n-- body\nS: 250 ok");
        });
        accept(&mut connect(&server), &*mail);
    }
}

/// A mail that wraps another one, as user code may do.
struct Around<M>(M);

impl<M: Mail> Mail for Around<M> {
    fn envelope(&self) -> Result<Envelope, Error> {
        self.0.envelope()
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        self.0.body()
    }
}

/// A mail that counts how often its content was opened, and allows that any number of times.
struct Counted(Arc<AtomicUsize>);

impl Mail for Counted {
    fn envelope(&self) -> Result<Envelope, Error> {
        Ok(envelope(&[A, B]))
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        let opened = self.0.clone();
        Ok(Body::deferred(move || {
            opened.fetch_add(1, Relaxed);
            Ok(Body::reader(&b"Hello\r\n"[..]))
        }))
    }
}

#[test]
fn a_message_sent_in_parts_is_opened_only_once_for_each_part() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, LIMITS RCPTMAX=1\n{}{}",
        message(&[A], "Hello"),
        message(&[B], "Hello")
    ));
    let opened = Arc::new(AtomicUsize::new(0));
    accept(&mut connect(&server), &Counted(opened.clone()));
    assert_eq!(opened.load(Relaxed), 2, "once for each part");
}
