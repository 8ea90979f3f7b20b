//! Runs `postino::proto` without a socket, against a server that is a list of replies.
//!
//! ```text
//! cargo run --example transcript
//! ```
//!
//! It sends two messages over one connection; the end of the first leaves together with the envelope of the second. Each
//! blank line in the output is a round trip. A custom transport needs the same loop, `carry`, with its own `write` and `read`.

use std::{borrow::Cow, vec};

use postino::{
    Capabilities, Envelope, Error,
    proto::{
        Dialogue, Hello, Inbox, Joining, MailParameters, Options, Outbox, Simple, Survey, Transaction,
        Transactions, Upgrade, Want,
    },
};

/// The server's replies, flight by flight.
const SERVER: [&str; 5] = [
    "220 mail.example.org ESMTP\r\n",
    "250-mail.example.org\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 10240000\r\n",
    "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n550 5.1.1 No such user\r\n354 Go ahead\r\n",
    "250 2.0.0 Ok: queued as A1\r\n250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 Go ahead\r\n",
    "250 2.0.0 Ok: queued as A2\r\n",
];
const GOODBYE: &str = "221 2.0.0 Bye\r\n";

fn main() -> Result<(), Error> {
    let flights = SERVER.into_iter().chain([GOODBYE]).map(str::as_bytes).collect::<Vec<_>>();
    let mut wire = Wire { inbox: Inbox::default(), out: Outbox::default(), server: flights.into_iter() };

    let mut hello = Hello::new("client.example.org", Upgrade::Never, false)?;
    wire.finish(&mut hello)?;
    let (_, _, capabilities) = hello.into_parts();

    let mails = [
        (
            "Subject: One\r\n\r\nThe first.\r\n",
            Envelope::new("alice@example.org", ["bob@x.example", "eve@x.example"])?,
        ),
        ("Subject: Two\r\n\r\nThe second.\r\n", Envelope::new("alice@example.org", ["carol@x.example"])?),
    ];
    send(&mut wire, &capabilities, &mails)?;

    let mut quit = Simple::quit();
    wire.finish(&mut quit)?;
    quit.into_result()?;
    assert_eq!(wire.server.next(), None, "a reply was not read");
    Ok(())
}

/// Sends all messages, and prints the result of each.
fn send(wire: &mut Wire, capabilities: &Capabilities, mails: &[(&str, Envelope)]) -> Result<(), Error> {
    let pipelining = capabilities.offers("PIPELINING");
    let options = Options::default().pipelining(pipelining).joining(Joining::Untried);
    let mut talk = Transactions::new(options, false);
    // Messages that the server cannot take are found before anything is sent.
    let letters = mails.iter().map(|(content, envelope)| transaction(capabilities, envelope, content));
    let mut waiting = letters.collect::<Result<Vec<_>, _>>()?.into_iter();
    // The rest of the content of each message. It may be passed in any number of pieces.
    let mut contents: Vec<&str> = mails.iter().map(|(content, _)| *content).collect();

    let mut lost = false;
    loop {
        let step = match wire.carry(&mut talk) {
            Ok(Want::Message) => {
                match waiting.next() {
                    Some(letter) => talk.message(letter),
                    None => talk.no_more(),
                }
                Ok(())
            }
            Ok(Want::Body(number)) => {
                let piece = std::mem::take(&mut contents[number]);
                talk.body(piece.as_bytes(), &mut wire.out) // an empty piece is the end
            }
            Ok(Want::Result) => Ok(()),
            Ok(_) => break,
            Err(e) => Err(e),
        };
        if let Err(e) = step {
            // Messages under way are not sent or in doubt, depending on how much of the stream may have left.
            talk.lose(wire.out.octets_offered(), e);
            lost = true;
        }
        while let Some(result) = talk.next_result() {
            match result {
                Ok(delivery) => {
                    println!("   -> accepted as {}", delivery.queue_id().unwrap_or("(no name)"));
                    delivery.refused().for_each(|refused| println!("      except for {}", refused.address()));
                }
                Err(e) => println!("   -> {e}"),
            }
        }
        if lost {
            return Err(Error::NotConnected);
        }
    }
    Ok(())
}

/// Chooses the parameters of MAIL by what the server offers and what the message contains.
fn transaction(
    capabilities: &Capabilities,
    envelope: &Envelope,
    content: &str,
) -> Result<Transaction, Error> {
    let survey = Survey::of(content.as_bytes());
    if survey.nul || survey.eight_bit && !capabilities.offers("8BITMIME") {
        return Err(Error::Unsupported("8BITMIME, and the message is not ASCII"));
    }
    let parameters = MailParameters::default()
        .size(capabilities.offers("SIZE").then_some(survey.octets))
        .eight_bit(survey.eight_bit);
    Ok(Transaction::new(envelope.clone(), parameters))
}

/// Takes the place of a connection.
struct Wire {
    inbox: Inbox,
    out: Outbox,
    server: vec::IntoIter<&'static [u8]>,
}

impl Wire {
    /// Carries a dialogue that needs only replies.
    fn finish(&mut self, talk: &mut dyn Dialogue) -> Result<(), Error> {
        match self.carry(talk)? {
            Want::Nothing => Ok(()),
            want => unreachable!("a dialogue of replies wants {want:?}"),
        }
    }

    /// Carries a dialogue until it wants something other than reading and writing. After an error the connection must be
    /// closed.
    fn carry(&mut self, talk: &mut dyn Dialogue) -> Result<Want, Error> {
        loop {
            self.hear(talk)?;
            let want = talk.fill(&mut self.out);
            // For a log: secrets are masked, and content is only counted. It must be drained before the write.
            self.out.drain_log(|_| {});
            match want {
                Want::Write => self.write(),
                // After a Probe, silence would be an answer, too: see `Transactions::on_silence`. This server always answers.
                Want::Reply | Want::Probe => {
                    self.write();
                    self.read(talk)?;
                }
                want => return Ok(want),
            }
        }
    }

    fn hear(&mut self, talk: &mut dyn Dialogue) -> Result<(), Error> {
        loop {
            let phase = talk.phase();
            let wrong = |what| Error::Protocol { phase, what: Cow::Borrowed(what) };
            let Some(reply) = self.inbox.next_reply().map_err(wrong)? else { return Ok(()) };
            for line in String::from_utf8_lossy(talk.keep(reply).raw()).lines() {
                println!("S: {line}");
            }
            if self.out.due() == 0 {
                return Err(talk.on_early(reply));
            }
            self.out.reply_arrived();
            talk.on_reply(reply, &self.out)?;
            if reply.closes(phase) {
                return Err(Error::Refused { phase, reply: talk.keep(reply) });
            }
        }
    }

    /// Writes everything that is offered at once. A socket may accept only a part of it.
    fn write(&mut self) {
        let bytes = self.out.offer();
        for line in String::from_utf8_lossy(bytes).lines() {
            println!("C: {line}");
        }
        let n = bytes.len();
        self.out.written(n);
    }

    /// Reads the server's next flight.
    fn read(&mut self, talk: &dyn Dialogue) -> Result<(), Error> {
        println!();
        let bytes = self.server.next().ok_or(Error::Closed(talk.phase()))?;
        self.inbox.room()[..bytes.len()].copy_from_slice(bytes);
        self.inbox.arrived(bytes.len());
        Ok(())
    }
}
