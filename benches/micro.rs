//! Measures the parts that need no sockets: `cargo bench --bench micro`. For instruction counts, which vary little between
//! runs, use `benches/peers/run.py --only instructions`.

use divan::{Bencher, black_box, counter::BytesCount};
use postino::{
    Envelope, Outcome,
    proto::{
        Dialogue, Inbox, Joining, MailParameters, Options, Outbox, Survey, Transaction, Transactions, Want,
    },
};

fn main() {
    divan::main();
}

/// Repeats a line up to this number of octets.
fn lines(line: &[u8], octets: usize) -> Vec<u8> {
    line.repeat(octets / line.len())
}

const PLAIN: &[u8] = b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n";
const BARE: &[u8] = b"0123456789012345678901234567890123456789012345678901234567890123456789\n";
const DOTS: &[u8] = b".123456789012345678901234567890123456789012345678901234567890123456789\r\n";

#[divan::bench(args = [PLAIN, BARE, DOTS].map(|line| line.escape_ascii().to_string()))]
fn encoder(bencher: Bencher<'_, '_>, line: &str) {
    let line = [PLAIN, BARE, DOTS].into_iter().find(|known| known.escape_ascii().to_string() == line);
    let block = lines(line.unwrap_or(PLAIN), 64 * 1024);
    // A transaction that wants content, by DATA.
    let envelope = Envelope::new("a@example.org", ["b@example.net"]).expect("both are addresses");
    let parameters = MailParameters::default().eight_bit(true);
    let mut talk = Transactions::new(Options::default(), false);
    let (mut out, mut inbox) = (Outbox::default(), Inbox::default());
    talk.message(Transaction::new(envelope, parameters));
    while !matches!(talk.fill(&mut out), Want::Body(_)) {
        answer(&mut talk, &mut out, &mut inbox);
    }
    bencher.counter(BytesCount::new(block.len())).bench_local(|| {
        talk.body(black_box(&block), &mut out).expect("it is text");
        let octets = out.offer().len();
        out.written(octets);
        octets
    });
}

#[divan::bench(args = [1024, 64 * 1024])]
fn survey(bencher: Bencher<'_, '_>, octets: usize) {
    let text = lines(PLAIN, octets);
    bencher.counter(BytesCount::new(text.len())).bench_local(|| Survey::of(black_box(&text)));
}

/// Replies as they arrive after a window of BDAT.
#[divan::bench(args = [1, 3, 300])]
fn reply_parser(bencher: Bencher<'_, '_>, replies: usize) {
    let bytes = b"250 2.0.0 queued as 4bXyZ1\r\n".repeat(replies);
    let mut inbox = Inbox::default();
    bencher.counter(replies).bench_local(|| hear(&mut inbox, &bytes));
}

fn hear(inbox: &mut Inbox, mut bytes: &[u8]) -> usize {
    let mut heard = 0;
    while !bytes.is_empty() {
        let room = inbox.room();
        let n = room.len().min(bytes.len());
        room[..n].copy_from_slice(&bytes[..n]);
        inbox.arrived(n);
        bytes = &bytes[n..];
        while let Ok(Some(reply)) = inbox.next_reply() {
            heard += usize::from(black_box(reply).code() == 250);
        }
    }
    heard
}

/// A hundred messages of 1 KiB, with a server that accepts everything: dialogue, encoder and parser, without a network.
#[divan::bench(args = ["data", "chunking", "data at hand", "chunking at hand"])]
fn transactions(bencher: Bencher<'_, '_>, way: &str) {
    let envelope = Envelope::new("a@example.org", ["b@example.net"]).expect("both are addresses");
    let text = lines(PLAIN, 1024);
    let (chunking, at_hand) = (way.starts_with("chunking"), way.ends_with("at hand"));
    bencher.counter(100_usize).bench_local(|| converse(chunking, at_hand, &envelope, &text, 100));
}

fn converse(chunking: bool, at_hand: bool, envelope: &Envelope, text: &[u8], count: usize) -> usize {
    let options = Options::default().pipelining(true).chunking(chunking).joining(Joining::Works);
    let mut talk = Transactions::new(options, false);
    let (mut out, mut inbox) = (Outbox::default(), Inbox::default());
    let (mut posted, mut begun, mut accepted) = (0, None, 0);
    loop {
        match talk.fill(&mut out) {
            Want::Message if posted < count => {
                posted += 1;
                let transaction = Transaction::new(envelope.clone(), MailParameters::default()).ahead(true);
                if at_hand {
                    talk.message_with(transaction, Survey::of(text)).expect("it is plain text");
                } else {
                    talk.message(transaction);
                }
            }
            Want::Message => talk.no_more(),
            Want::Body(number) => {
                // All of the content, and then its end.
                let piece = if begun == Some(number) { &[] } else { text };
                begun = Some(number);
                talk.body(piece, &mut out).expect("it is plain text");
            }
            Want::Result => {
                let outcome = talk.next_result().map(|result| result.map(|delivery| delivery.outcome()));
                accepted += usize::from(matches!(outcome, Some(Ok(Outcome::Accepted))));
            }
            Want::Nothing => return accepted,
            _ => answer(&mut talk, &mut out, &mut inbox),
        }
    }
}

/// Answers everything in the outbox as a server would.
fn answer(talk: &mut Transactions, out: &mut Outbox, inbox: &mut Inbox) {
    let said = out.offer().len();
    out.written(said);
    while out.due() > 0 {
        // The phase tells what the next reply answers.
        let line: &[u8] = match talk.phase() {
            postino::Phase::Data => b"354 go\r\n",
            _ => b"250 2.0.0 ok\r\n",
        };
        inbox.room()[..line.len()].copy_from_slice(line);
        inbox.arrived(line.len());
        let reply = inbox.next_reply().expect("it is a reply").expect("it is complete");
        out.reply_arrived();
        talk.on_reply(reply, out).expect("it is the reply that is due");
    }
}
