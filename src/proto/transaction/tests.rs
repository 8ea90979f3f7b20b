use super::*;
use crate::Outcome;

fn letter(recipients: usize) -> Transaction {
    let to = (0..recipients).map(|i| format!("{i}@example.net"));
    let envelope = Envelope::new("a@example.org", to.collect::<Vec<_>>()).unwrap();
    Transaction::new(envelope, MailParameters::default())
}

/// Some transactions, and their outbox.
struct Talk {
    all: Transactions,
    out: Outbox,
}

impl Talk {
    fn new(options: Options) -> Talk {
        Talk { all: Transactions::new(options, false), out: Outbox::default() }
    }

    /// Hands over a message for this number of recipients.
    fn message(&mut self, recipients: usize) {
        self.all.message(letter(recipients));
    }

    /// Returns the first words of what is sent now, and what is wanted next.
    fn says(&mut self) -> (String, Want) {
        let want = self.all.fill(&mut self.out);
        let said = String::from_utf8(self.out.offer().to_vec()).unwrap();
        self.out.written(said.len());
        let words = said.lines().filter_map(|line| line.split(' ').next());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        (words.join(" "), want)
    }

    fn hears(&mut self, reply: &str) -> Result<(), Error> {
        let reply = Reply::parse(format!("{reply}\r\n").as_bytes()).unwrap();
        self.out.reply_arrived();
        self.all.on_reply(reply.borrow(), &self.out)
    }

    /// For each reply, sends what can be sent, and then passes the reply.
    fn play(&mut self, replies: &[&str]) {
        for reply in replies {
            self.says();
            self.hears(reply).unwrap();
        }
    }

    /// Passes a piece of the content, or an empty piece to end it.
    fn content(&mut self, piece: &str) {
        self.all.body(piece.as_bytes(), &mut self.out).unwrap();
    }

    fn outcome(&mut self) -> Outcome {
        match self.all.next_result().unwrap() {
            Ok(delivery) => delivery.outcome(),
            Err(Error::Transaction { delivery, .. }) => delivery.outcome(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

const PIPELINING: Options = Options {
    pipelining: true,
    chunking: false,
    joining: Joining::Works,
    all_or_nothing: false,
    farewell: false,
    lmtp: false,
};

/// Returns what may be sent again of a message for three recipients, sent alone, that got these replies.
fn again(options: Options, open: bool, replies: &[&str]) -> Option<Again> {
    let mut talk = Talk { all: Transactions::new(options, open), out: Outbox::default() };
    talk.message(3);
    talk.all.no_more();
    for reply in replies {
        if let Want::Body(_) = talk.says().1 {
            talk.content("Hello");
            talk.content("");
            talk.says();
        }
        talk.hears(reply).unwrap();
    }
    talk.says();
    match talk.all.next_result().unwrap() {
        Ok(mut delivery) => delivery.take_again(),
        Err(Error::Transaction { mut delivery, .. }) => delivery.take_again(),
        Err(error) => panic!("{error:?}"),
    }
}

fn one_by_one(recipients: &[usize], command: usize) -> Option<Again> {
    Some(Again::OneByOne { recipients: recipients.to_vec(), command })
}

#[test]
fn trailing_recipients_refused_with_452_go_in_another_transaction() {
    let rest = |rcpt: [&str; 3], end: &str| {
        let replies = [&["250"][..], &rcpt, &["354", end]].concat();
        again(PIPELINING, false, &replies)
    };
    let full = "452 4.5.3 too many";
    assert_eq!(rest(["250", full, full], "250"), Some(Again::Rest(vec![1, 2])));
    assert_eq!(rest(["550 no", "250", "452 too many"], "250"), Some(Again::Rest(vec![2])));
    assert_eq!(rest(["250", full, "452 4.2.2 full"], "250"), Some(Again::Rest(vec![1])));
    assert_eq!(rest(["250", "452 4.2.2 full", full], "250"), Some(Again::Rest(vec![2])));
    assert_eq!(rest(["250", full, "250"], "250"), None, "a later one was accepted");
    assert_eq!(rest(["250", full, "550 no"], "250"), None, "a later one was refused for another reason");
    assert_eq!(rest(["250", "452 4.2.2 full", "452 4.3.1 disk"], "250"), None);
    assert_eq!(rest(["250", full, full], "451 no"), None, "nobody got it");
    let all = Options { all_or_nothing: true, ..PIPELINING };
    assert_eq!(again(all, false, &["250", "250", full, full]), None);
}

#[test]
fn only_a_452_to_rcpt_means_too_many_lmtp_recipients() {
    let lmtp = Options { lmtp: true, ..PIPELINING };
    let full = "452 4.5.3 too many";
    let replies = ["250", "250", "250", "250", "354", "250", full, full];
    assert_eq!(again(lmtp, false, &replies), None);
    let replies = ["250", "250", "250", full, "354", "250", full];
    assert_eq!(again(lmtp, false, &replies), Some(Again::Rest(vec![2])));
}

#[test]
fn commands_misread_when_pipelined_may_be_resent_one_by_one() {
    let odd = "503 5.5.1 what?";
    let alone = |open, replies: &[&str]| again(PIPELINING, open, replies);
    assert_eq!(alone(false, &["250", odd, odd, odd, odd]), one_by_one(&[0, 1, 2], 2));
    assert_eq!(alone(false, &["250", "250", odd, odd, "500 what"]), one_by_one(&[0, 1, 2], 3));
    assert_eq!(alone(false, &["250", "250", "250", "250", "503 no"]), one_by_one(&[0, 1, 2], 5), "DATA");
    assert_eq!(alone(true, &["250", odd, odd, odd, odd, odd]), one_by_one(&[0, 1, 2], 1), "MAIL behind RSET");
    assert_eq!(alone(false, &["250", "250", odd, "550 no", "354", "250"]), one_by_one(&[1], 2));
    assert_eq!(alone(false, &["250", odd, "550 no", odd, odd]), one_by_one(&[0, 2], 2));
    // These refusals may be about the sender, a recipient, or the message.
    assert_eq!(alone(false, &[odd, odd, odd, odd, odd]), None, "nothing came before it");
    assert_eq!(alone(false, &["550 no", odd, odd, odd, odd]), None);
    assert_eq!(alone(false, &["250", "550 no", odd, odd, odd]), None);
    assert_eq!(alone(false, &["250", "250", odd, odd, "451 later"]), None);
    for (reply, expected) in [
        ("501 what?", true),
        ("501 5.5.2 what?", true),
        ("501 5.1.3 bad address", false),
        ("502 5.5.1 what?", true),
        ("504 no", false),
    ] {
        let found = alone(false, &["250", reply, reply, reply, "503 no"]);
        assert_eq!(found, one_by_one(&[0, 1, 2], 2).filter(|_| expected), "{reply}");
    }
    // With one command at a time, no command is sent together with others.
    let lock_step = Options { pipelining: false, joining: Joining::Off, ..PIPELINING };
    assert_eq!(again(lock_step, false, &["250", odd, odd, odd]), None);
}

#[test]
fn a_command_accepted_only_when_sent_alone_disables_pipelining() {
    for (reply, pipelines) in [("250", false), ("503 no", true)] {
        let mut talk = Talk::new(PIPELINING);
        talk.all.message(letter(1).one_by_one(Some(2)));
        talk.message(1);
        talk.all.no_more();
        assert_eq!(talk.says().0, "MAIL");
        talk.hears("250").unwrap();
        assert_eq!(talk.says().0, "RCPT");
        talk.hears(reply).unwrap();
        assert_eq!((talk.all.pipelines(), talk.all.joining() != Joining::Off), (pipelines, pipelines));
    }
}

#[test]
fn unanswered_messages_may_go_elsewhere_unless_they_are_in_doubt() {
    let chunking = Options { chunking: true, ..PIPELINING };
    let mut talk = Talk::new(chunking);
    for content in ["one", "two"] {
        at_hand(&mut talk, content);
    }
    talk.message(1); // its content is still to come
    talk.all.no_more();
    talk.says();
    talk.play(&["250", "250", "250"]);
    assert_eq!(talk.outcome(), Outcome::Accepted);
    talk.all.lose(talk.out.octets_offered(), Error::Closed(Phase::Reset));
    let mut next = || match talk.all.next_result().unwrap() {
        Err(Error::Transaction { mut delivery, .. }) => (delivery.outcome(), delivery.take_again()),
        other => panic!("{other:?}"),
    };
    assert_eq!(next(), (Outcome::InDoubt, None));
    assert_eq!(next(), (Outcome::NotSent, Some(Again::Elsewhere)));
    assert_eq!(again(PIPELINING, false, &["452 no", "503", "503", "503", "503"]), Some(Again::Elsewhere));
    assert_eq!(again(PIPELINING, false, &["451 no", "503", "503", "503", "503"]), None);
}

#[test]
fn refusing_half_of_very_many_lmtp_recipients_is_fast() {
    // Inserting each reply into a sorted list would take minutes.
    const MANY: usize = 200_000;
    let mut talk = Talk::new(Options { lmtp: true, ..PIPELINING });
    talk.message(MANY);
    talk.all.no_more();
    let mut given = 0;
    loop {
        match talk.says().1 {
            Want::Body(_) => {
                talk.content("Hello");
                talk.content("");
            }
            Want::Reply => {
                while talk.out.due() > 0 {
                    let refused =
                        given > MANY + 1 && given % 3 == 0 || (1..=MANY).contains(&given) && given % 2 == 1;
                    talk.hears(if refused {
                        "550"
                    } else if given == MANY + 1 {
                        "354"
                    } else {
                        "250"
                    })
                    .unwrap();
                    given += 1;
                }
            }
            _ => break,
        }
    }
    let delivery = talk.all.next_result().unwrap().unwrap();
    let outcomes: Vec<_> = delivery.recipients().map(|recipient| recipient.outcome()).collect();
    let expected = (0..MANY).map(|number| {
        let at_end = MANY + 2 + number / 2;
        let taken = number % 2 == 1 && at_end % 3 != 0;
        if taken { Outcome::Accepted } else { Outcome::Refused }
    });
    assert!(outcomes.into_iter().eq(expected));
}

#[test]
fn a_reply_that_is_not_due_is_an_error() {
    let mut talk = Talk::new(PIPELINING);
    assert!(talk.hears("250").is_err());
    talk.message(1);
    assert!(talk.hears("250").is_err(), "nothing was sent yet");
}

#[test]
fn each_reply_has_its_phase() {
    let phases = |options, replies: &[&str]| {
        let mut talk = Talk { all: Transactions::new(options, true), out: Outbox::default() };
        let mut phases = Vec::new();
        talk.message(1);
        for reply in replies {
            talk.says();
            phases.push(talk.all.phase());
            talk.hears(reply).unwrap();
        }
        talk.says();
        phases.push(talk.all.phase());
        talk.content("Hello");
        talk.content("");
        phases.push(talk.all.phase());
        phases
    };
    let envelope = [Phase::Reset, Phase::Mail, Phase::Recipient];
    assert_eq!(
        phases(Options::default(), &["250", "250", "250", "354"]),
        [&envelope[..], &[Phase::Data, Phase::Body, Phase::End]].concat()
    );
    assert_eq!(
        phases(Options { chunking: true, ..Options::default() }, &["250", "250", "250"]),
        [&envelope[..], &[Phase::Body, Phase::End]].concat()
    );
}

#[test]
fn content_goes_in_chunks_only_if_a_recipient_was_accepted() {
    for (reply, want) in [("250", Want::Body(0)), ("550", Want::Result)] {
        let mut talk = Talk::new(Options { chunking: true, ..Options::default() });
        talk.message(1);
        talk.play(&["250", reply]);
        assert_eq!(talk.says(), (String::new(), want));
    }
}

#[test]
fn the_reply_to_a_chunk_belongs_to_the_body_phase() {
    let mut talk = Talk::new(Options { chunking: true, ..Options::default() });
    talk.message(1);
    talk.play(&["250", "250"]);
    talk.says();
    talk.content(&"x".repeat(CHUNK));
    talk.content("more");
    assert_eq!(talk.says().1, Want::Write);
    assert_eq!((talk.says().1, talk.all.phase()), (Want::Reply, Phase::Body));
    talk.hears("250").unwrap();
    assert_eq!((talk.says().1, talk.all.phase()), (Want::Body(0), Phase::Body));
}

#[test]
fn an_lmtp_message_refused_for_all_at_the_end_fails_in_the_end_phase() {
    let mut talk = Talk::new(Options { lmtp: true, ..Options::default() });
    talk.message(1);
    talk.play(&["250", "250", "354"]);
    talk.content("");
    talk.play(&["550 no"]);
    let result = talk.all.next_result().unwrap();
    let Err(Error::Transaction { source, .. }) = result else { panic!("{result:?}") };
    assert!(matches!(*source, Error::Refused { phase: Phase::End, .. }), "{source:?}");
}

#[test]
fn a_message_counts_as_said_once_its_end_is_queued() {
    let mut talk = Talk::new(Options::default());
    talk.message(1);
    talk.play(&["250", "250", "354"]);
    talk.content("Hello");
    assert!(!talk.all.is_said(0));
    talk.content("");
    assert!(talk.all.is_said(0) && !talk.all.is_said(1));
}

#[test]
fn a_message_is_in_doubt_from_the_first_octet_of_its_last_line() {
    for (octets, outcome) in [(0, Outcome::NotSent), (1, Outcome::InDoubt)] {
        let mut talk = Talk::new(Options::default());
        talk.message(1);
        talk.play(&["250", "250", "354"]);
        talk.content("Hello");
        talk.content("");
        let dot = talk.out.end() - b".\r\n".len() as u64;
        talk.all.lose(dot + octets, Error::Closed(Phase::End));
        assert_eq!(talk.outcome(), outcome);
    }
}

#[test]
fn lost_messages_are_counted() {
    let mut talk = Talk::new(Options::default());
    talk.message(1);
    talk.says();
    talk.all.lose(0, Error::Closed(Phase::Mail));
    assert_eq!(talk.outcome(), Outcome::NotSent);
    talk.out = Outbox::default();
    talk.message(1);
    talk.play(&["250", "250", "354"]);
    assert_eq!(talk.says().1, Want::Body(1));
}

#[test]
fn the_next_message_is_wanted_before_the_content_of_this_one() {
    let mut talk = Talk::new(PIPELINING);
    talk.message(1);
    talk.play(&["250", "250", "354"]);
    assert_eq!(talk.says().1, Want::Message);
    talk.all.no_more();
    assert_eq!(talk.says().1, Want::Body(0));
}

#[test]
fn a_deferred_message_is_wanted_once_everything_is_written() {
    let mut talk = Talk::new(PIPELINING);
    assert!(talk.all.has_said_all(&talk.out));
    talk.message(1);
    assert!(!talk.all.has_said_all(&talk.out));
    talk.play(&["250", "250", "354"]);
    assert_eq!(talk.says().1, Want::Message);
    talk.all.later();
    assert_eq!(talk.says().1, Want::Body(0));
    talk.content("Hello");
    talk.content("");
    assert!(!talk.all.has_said_all(&talk.out));
    assert_eq!(talk.says(), ("Hello .".to_owned(), Want::Write));
    assert!(talk.all.has_said_all(&talk.out));
    assert_eq!(talk.says().1, Want::Message);
    talk.message(1);
    assert_eq!(talk.says(), ("MAIL RCPT DATA".to_owned(), Want::Reply));
    // The next message is requested early again.
    talk.play(&["250"]);
    assert_eq!(talk.outcome(), Outcome::Accepted);
    talk.play(&["250", "250", "354"]);
    assert_eq!(talk.says().1, Want::Message);
    talk.all.later();
    talk.says();
    talk.content("");
    talk.says();
    talk.all.no_more();
    assert_eq!(talk.says().1, Want::Reply);
}

#[test]
fn no_transaction_is_open_after_an_accepted_last_chunk() {
    let mut talk = Talk::new(Options { chunking: true, ..Options::default() });
    talk.message(1);
    talk.message(1);
    talk.play(&["250", "250"]);
    talk.says();
    talk.content("");
    talk.play(&["250"]);
    assert_eq!(talk.outcome(), Outcome::Accepted);
    assert_eq!(talk.says().0, "MAIL");
}

#[test]
fn a_joined_envelope_of_any_length_is_unheard_until_its_first_reply() {
    let mut talk = Talk::new(PIPELINING);
    talk.message(1);
    talk.play(&["250", "250", "354"]);
    assert_eq!(talk.says().1, Want::Message);
    talk.message(2 * WINDOW);
    talk.all.no_more();
    talk.content("");
    talk.play(&["250"]);
    assert_eq!(talk.outcome(), Outcome::Accepted);
    talk.says();
    assert!(talk.all.is_unheard());
    talk.hears("250").unwrap();
    assert!(!talk.all.is_unheard());
}

#[test]
fn a_sender_accepted_after_a_refused_rset_starts_a_new_transaction() {
    let mut talk = Talk::new(Options { chunking: true, ..PIPELINING });
    talk.all.message(letter(1).ahead(true));
    assert_eq!(talk.says(), ("MAIL RCPT".to_owned(), Want::Message));
    talk.all.message(letter(1).ahead(true));
    talk.says();
    talk.content("");
    assert_eq!(talk.says(), ("BDAT RSET MAIL RCPT".to_owned(), Want::Message));
    talk.all.no_more();
    talk.play(&["250", "250", "250"]);
    assert_eq!(talk.outcome(), Outcome::Accepted);
    talk.play(&["503 not now"]);
    talk.content("");
    talk.play(&["250", "550"]);
    assert!(matches!(talk.hears("250"), Err(Error::Protocol { .. })));
}

#[test]
fn the_reply_to_the_end_of_a_message_is_not_truncated() {
    let mut talk = Talk::new(Options::default());
    talk.message(1);
    talk.play(&["250", "250", "354"]);
    talk.content("");
    talk.all.flights[0].recipients.budget = 0;
    let reply = format!("250 {}", "x".repeat(1000));
    talk.play(&[&reply]);
    let delivery = talk.all.next_result().unwrap().unwrap();
    assert_eq!(delivery.reply().map(Reply::to_string), Some(reply));
}

#[test]
fn a_421_to_the_dot_of_a_message_without_recipients_is_an_error() {
    let mut talk = Talk::new(PIPELINING);
    talk.message(1);
    talk.all.no_more();
    talk.play(&["250", "550", "354"]);
    assert_eq!(talk.says().0, ".");
    assert!(matches!(talk.hears("421 bye"), Err(Error::Refused { phase: Phase::End, .. })));
}

#[test]
fn an_unsolicited_refusal_without_recipients_is_a_protocol_error() {
    let mut talk = Talk::new(PIPELINING);
    talk.message(1);
    talk.all.no_more();
    talk.play(&["250", "550", "354"]);
    let reply = Reply::parse(b"451 no\r\n").unwrap();
    assert!(matches!(talk.all.on_early(reply.borrow()), Error::Protocol { phase: Phase::Body, .. }));
}

#[test]
fn a_final_rset_is_in_the_reset_phase() {
    let mut talk = Talk { all: Transactions::new(PIPELINING, true), out: Outbox::default() };
    talk.all.no_more();
    assert_eq!((talk.says().0, talk.all.phase()), ("RSET".to_owned(), Phase::Reset));
}

#[test]
fn a_reply_sent_during_the_content_is_a_refusal() {
    for (code, outcome) in [(451, Outcome::Refused), (421, Outcome::NotSent)] {
        let mut talk = Talk::new(Options::default());
        talk.message(1);
        talk.play(&["250", "250", "354"]);
        talk.content("Hello");
        talk.says();
        let reply = Reply::parse(format!("{code} no\r\n").as_bytes()).unwrap();
        let error = talk.all.on_early(reply.borrow());
        assert!(matches!(error, Error::Refused { phase: Phase::Body, .. }), "{error:?}");
        talk.all.lose(talk.out.octets_offered(), error);
        assert_eq!(talk.outcome(), outcome);
    }
}

#[test]
fn silence_is_not_excused_once_a_second_envelope_is_out() {
    let mut talk = Talk::new(PIPELINING);
    talk.message(1);
    talk.play(&["250", "250", "354"]);
    assert_eq!(talk.says().1, Want::Message);
    talk.message(1);
    talk.content("");
    talk.play(&["250"]);
    assert_eq!(talk.outcome(), Outcome::Accepted);
    talk.play(&["250", "550", "354"]);
    assert_eq!(talk.says(), (".".to_owned(), Want::Message));
    talk.message(1);
    assert_eq!(talk.says().0, "MAIL RCPT DATA");
    assert!(!talk.all.on_silence(), "the next envelope has been sent, too");
}

fn at_hand(talk: &mut Talk, content: &str) {
    talk.all.message_with(letter(1).ahead(true), Survey::of(content.as_bytes())).unwrap();
}

#[test]
fn content_supplied_with_a_message_is_not_requested_again_on_a_retry() {
    let mut talk = Talk::new(Options { chunking: true, ..PIPELINING });
    at_hand(&mut talk, "one");
    assert_eq!(talk.says(), ("MAIL RCPT".to_owned(), Want::Message));
    at_hand(&mut talk, "two");
    assert_eq!(talk.says(), ("BDAT one RSET MAIL RCPT".to_owned(), Want::Message));
    talk.play(&["250", "250", "250"]);
    assert_eq!(talk.outcome(), Outcome::Accepted);
    // The second envelope is answered while the dialogue waits for the next message.
    (0..3).for_each(|_| talk.hears("503 not now").unwrap());
    talk.all.no_more();
    assert_eq!(talk.says(), ("RSET MAIL RCPT BDAT two".to_owned(), Want::Reply));
}

#[test]
fn debug_shows_no_content() {
    let mut talk = Talk::new(PIPELINING);
    at_hand(&mut talk, "Hello");
    assert!(!format!("{:?}", talk.all).contains("72, 101"));
}

#[test]
fn content_of_a_lost_message_does_not_leak_into_the_next() {
    let mut talk = Talk::new(Options { chunking: true, ..Options::default() });
    talk.message(1);
    talk.play(&["250", "250"]);
    talk.says();
    talk.content("lost");
    talk.all.lose(talk.out.octets_offered(), Error::Closed(Phase::Body));
    assert_eq!(talk.outcome(), Outcome::NotSent);
    talk.out = Outbox::default();
    talk.message(1);
    talk.play(&["250", "250"]);
    talk.says();
    talk.content("Hello");
    talk.content("");
    assert_eq!(talk.says().0, "BDAT Hello");
}

#[test]
fn only_a_limited_number_of_content_buffers_is_kept() {
    let mut talk = Talk::new(Options { chunking: true, ..PIPELINING });
    (0..100).for_each(|_| at_hand(&mut talk, "Hello"));
    talk.all.no_more();
    talk.says();
    assert_eq!(talk.all.spare.len(), MAX_SPARE);
}
