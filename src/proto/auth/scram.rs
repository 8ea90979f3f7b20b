//! SCRAM (RFC 5802, 7677): the password is not sent. The client proves that it knows the password, and the server
//! proves that it has the password's hash.
//!
//! ```text
//! First ─r=,s=,i=─▶ Proved ─v= in a challenge─▶ Verified ─235─▶ in
//!                      └────── 235 with v= ──────────────────▶ in
//! ```
//!
//! Names and passwords are used as they are: SASLprep (RFC 4013) is not applied. It would not change ASCII. Other text
//! must be UTF-8 and normalised in the same way as on the server.

use std::ops::RangeInclusive;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use pbkdf2::pbkdf2_hmac;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{Answer, MIN_SCRAM_ITERATIONS, Mechanism, escape};
use crate::Error;

/// Number of random octets in the client's nonce.
const NONCE: usize = 18;

#[derive(Clone, Copy)]
pub(super) enum Hash {
    Sha1,
    Sha256,
}

/// How the channel binding is used (RFC 5802 §6).
#[derive(Clone)]
pub(super) enum Binding {
    /// No channel binding is available, or it is not used: `n`.
    None,
    /// A channel binding is available, but the server offers no mechanism that uses it: `y`. If the server does offer
    /// one, somebody has tampered with its list of mechanisms.
    NotOffered,
    /// The hash of the server's certificate: `p=tls-server-end-point` (RFC 5929 §4).
    EndPoint(Vec<u8>),
    /// Keying material of the connection: `p=tls-exporter` (RFC 9266 §2).
    Exporter(Vec<u8>),
}

pub(super) struct Scram {
    name: &'static str,
    hash: Hash,
    password: Vec<u8>,
    iterations: RangeInclusive<u32>,
    /// The GS2 header followed by the channel-binding data: the value of `c=`, before base64.
    binding: Vec<u8>,
    nonce: String,
    /// The client's first message, without the header.
    first: Vec<u8>,
    header: &'static str,
    proof: String,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    First,
    /// The proof was sent. The server has to answer with this signature.
    Proved(Vec<u8>),
    Verified,
}

impl Scram {
    /// Creates the mechanism with a random nonce.
    ///
    /// # Errors
    ///
    /// [`Error::Auth`] if the system provides no random numbers.
    pub fn new(
        name: &'static str,
        hash: Hash,
        user: &[u8],
        password: &[u8],
        binding: Binding,
        max_iterations: u32,
    ) -> Result<Scram, Error> {
        let mut random = [0; NONCE];
        getrandom::fill(&mut random).map_err(|e| Error::Auth {
            what: format!("could not get random numbers for the login: {e}").into(),
            details: None,
            reply: None,
        })?;
        let iterations = MIN_SCRAM_ITERATIONS..=max_iterations;
        Ok(Scram::with_nonce(name, hash, user, password, binding, iterations, BASE64.encode(random)))
    }

    fn with_nonce(
        name: &'static str,
        hash: Hash,
        user: &[u8],
        password: &[u8],
        binding: Binding,
        iterations: RangeInclusive<u32>,
        nonce: String,
    ) -> Scram {
        let (header, data) = match binding {
            Binding::None => ("n,,", Vec::new()),
            Binding::NotOffered => ("y,,", Vec::new()),
            Binding::EndPoint(data) => ("p=tls-server-end-point,,", data),
            Binding::Exporter(data) => ("p=tls-exporter,,", data),
        };
        Scram {
            name,
            hash,
            password: password.into(),
            iterations,
            binding: [header.as_bytes(), &data].concat(),
            first: [b"n=", &*escape(user), b",r=", nonce.as_bytes()].concat(),
            nonce,
            header,
            proof: String::new(),
            state: State::First,
        }
    }

    /// Reads the server's first message (RFC 5802 §7): `r=`, `s=` and `i=` in this order, and optional extensions.
    /// Nothing is hashed until the whole message has been checked.
    fn prove(&mut self, server_first: &[u8]) -> Result<Vec<u8>, String> {
        let text =
            std::str::from_utf8(server_first).map_err(|_| "the server's first message is not UTF-8")?;
        let mut parts = text.split(',');
        let mut part = |key: &str| {
            let part = parts.next().unwrap_or_default();
            part.strip_prefix(key).ok_or_else(|| {
                if part.starts_with("m=") {
                    return "the server requires an unknown SCRAM extension".to_owned(); // RFC 5802 §5.1: `m=`
                }
                format!("the server's first message lacks {key}")
            })
        };
        let (nonce, salt, iterations) = (part("r=")?, part("s=")?, part("i=")?);
        let extended = nonce.strip_prefix(&self.nonce).is_some_and(|more| !more.is_empty());
        if !extended || !nonce.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("the server did not extend the nonce".to_owned());
        }
        let salt = BASE64
            .decode(salt)
            .ok()
            .filter(|salt| !salt.is_empty())
            .ok_or("the server's salt is not valid base64")?;
        let digits = iterations.bytes().all(|b| b.is_ascii_digit());
        let iterations = iterations.parse().ok().filter(|i| digits && self.iterations.contains(i));
        let Some(iterations) = iterations else {
            let (least, most) = (self.iterations.start(), self.iterations.end());
            return Err(format!(
                "the server demands an iteration count that is not between {least} and {most}"
            ));
        };

        let last = format!("c={},r={nonce}", BASE64.encode(&self.binding));
        let message = [&*self.first, b",", server_first, b",", last.as_bytes()].concat();
        let hash = self.hash;
        let salted = hash.salted(&self.password, &salt, iterations);
        let client_key = hash.mac(&salted, b"Client Key");
        let signature = hash.mac(&hash.of(&client_key), &message);
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, sign)| key ^ sign).collect();
        self.proof = BASE64.encode(proof);
        self.state = State::Proved(hash.mac(&hash.mac(&salted, b"Server Key"), &message));
        Ok(format!("{last},p={}", self.proof).into_bytes())
    }

    /// Checks the server's last message (RFC 5802 §7).
    fn verify(&mut self, server_final: &[u8], due: &[u8]) -> Answer {
        if let Some(error) = server_final.strip_prefix(b"e=") {
            return Answer::Cancel(format!("the server reported {}", error.escape_ascii()));
        }
        let signature = server_final.strip_prefix(b"v=").unwrap_or_default();
        let signature = signature.split(|b| *b == b',').next().unwrap_or_default(); // extensions may follow
        match BASE64.decode(signature) {
            Ok(signature) if signature == due => {
                self.state = State::Verified;
                Answer::Respond(Vec::new())
            }
            _ => Answer::RejectServer("the server's signature is wrong".to_owned()),
        }
    }
}

impl Mechanism for Scram {
    fn name(&self) -> &str {
        self.name
    }

    fn initial(&mut self) -> Option<Vec<u8>> {
        Some([self.header.as_bytes(), &self.first].concat())
    }

    fn answer(&mut self, challenge: &[u8]) -> Answer {
        match std::mem::replace(&mut self.state, State::First) {
            State::First if self.proof.is_empty() => match self.prove(challenge) {
                Ok(answer) => Answer::Respond(answer),
                Err(why) => Answer::Cancel(why),
            },
            State::Proved(due) => self.verify(challenge, &due),
            State::First | State::Verified => Answer::Cancel("unexpected challenge".to_owned()),
        }
    }

    /// Finds the signature in the text of the 235 reply, where some servers put it.
    fn finish(&mut self, text: &str) -> Result<(), String> {
        if let State::Proved(due) = &self.state {
            let due = due.clone();
            let said = text.split_ascii_whitespace().filter_map(|word| BASE64.decode(word).ok());
            for word in said.filter(|word| word.starts_with(b"v=")) {
                drop(self.verify(&word, &due)); // the result is in `self.state`
            }
        }
        match self.state {
            State::Verified => Ok(()),
            _ => Err("the server did not prove that it knows the password".to_owned()),
        }
    }

    fn secrets(&self) -> Vec<&[u8]> {
        vec![self.proof.as_bytes()]
    }
}

impl Hash {
    fn of(self, octets: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha1 => Sha1::digest(octets).to_vec(),
            Hash::Sha256 => Sha256::digest(octets).to_vec(),
        }
    }

    fn mac(self, key: &[u8], octets: &[u8]) -> Vec<u8> {
        const ANY: &str = "HMAC takes keys of any length";
        match self {
            Hash::Sha1 => Hmac::<Sha1>::new_from_slice(key)
                .expect(ANY)
                .chain_update(octets)
                .finalize()
                .into_bytes()
                .to_vec(),
            Hash::Sha256 => Hmac::<Sha256>::new_from_slice(key)
                .expect(ANY)
                .chain_update(octets)
                .finalize()
                .into_bytes()
                .to_vec(),
        }
    }

    /// `Hi` (RFC 5802 §2.2), which is PBKDF2 for one block.
    fn salted(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        let mut salted = self.of(b""); // as long as a hash
        match self {
            Hash::Sha1 => pbkdf2_hmac::<Sha1>(password, salt, iterations, &mut salted),
            Hash::Sha256 => pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut salted),
        }
        salted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a mechanism with a known nonce, before its first message.
    fn scram(name: &'static str, nonce: &str, binding: Binding) -> Scram {
        let hash = if name == "SCRAM-SHA-1" { Hash::Sha1 } else { Hash::Sha256 };
        let iterations = MIN_SCRAM_ITERATIONS..=100_000;
        Scram::with_nonce(name, hash, b"user", b"pencil", binding, iterations, nonce.to_owned())
    }

    fn rfc_7677() -> Scram {
        scram("SCRAM-SHA-256", "rOprNGfwEbeRWgbNEkqO", Binding::None)
    }

    const SERVER_FIRST: &[u8] =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn proved() -> Scram {
        let mut scram = rfc_7677();
        assert!(matches!(scram.answer(SERVER_FIRST), Answer::Respond(_)));
        scram
    }

    #[test]
    fn rfc_5802_example_exchange_is_reproduced() {
        let mut scram = scram("SCRAM-SHA-1", "fyko+d2lbbFgONRv9qkxdawL", Binding::None);
        assert_eq!(scram.initial().unwrap(), b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL");
        let first = b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096";
        let last = "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=";
        assert!(scram.answer(first) == Answer::Respond(last.into()));
        assert!(scram.answer(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=") == Answer::Respond(Vec::new()));
        assert_eq!(scram.finish("2.7.0 ok"), Ok(()));
        assert_eq!(scram.secrets(), [b"v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="]);
        assert!(matches!(scram.answer(first), Answer::Cancel(_)), "the exchange is over");
        assert!(matches!(scram.answer(first), Answer::Cancel(_)), "the exchange stays over");
    }

    #[test]
    fn rfc_7677_example_exchange_is_reproduced() {
        let mut scram = rfc_7677();
        assert_eq!(scram.initial().unwrap(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert!(scram.answer(SERVER_FIRST) == Answer::Respond(last.into()));
        assert!(scram.answer(SERVER_FINAL) == Answer::Respond(Vec::new()));
        assert_eq!(scram.finish(""), Ok(()));
    }

    // Threat 67.
    #[test]
    fn the_server_signature_may_follow_the_235_code() {
        let text = |v: &[u8]| format!("2.7.0 {} welcome", BASE64.encode(v));
        assert_eq!(proved().finish(&text(SERVER_FINAL)), Ok(()));
        assert!(proved().finish(&text(b"v=AAAA")).is_err());
        assert!(proved().finish("2.7.0 welcome").is_err(), "no signature");
        assert!(rfc_7677().finish(&text(SERVER_FINAL)).is_err(), "no proof was sent");
    }

    // Threat 67.
    #[test]
    fn a_wrong_server_signature_is_rejected() {
        for wrong in ["v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "v=", "", "v=?", "x=1", "m=1"] {
            let mut scram = proved();
            assert!(matches!(scram.answer(wrong.as_bytes()), Answer::RejectServer(_)), "{wrong}");
            assert!(scram.finish("2.7.0 ok").is_err());
        }
        let mut scram = proved();
        assert!(matches!(scram.answer(b"e=invalid-proof"), Answer::Cancel(_)));
        assert!(scram.finish("2.7.0 ok").is_err());
    }

    // Threats 67 and 68.
    #[test]
    fn the_server_first_message_is_validated_before_hashing() {
        for (first, why) in [
            ("r=rOprNGfwEbeRWgbNEkqO,s=W22Z,i=4096", "nonce"),
            ("r=another,s=W22Z,i=4096", "nonce"),
            ("r=rOprNGfwEbeRWgbNEkqO\u{1},s=W22Z,i=4096", "nonce"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096", "salt"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=?,i=4096", "salt"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=1", "4096"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=0", "4096"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=4095", "4096"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=100001", "100000"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=2147483647", "100000"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=99999999999999", "100000"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=+5000", "4096"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=", "4096"),
            ("r=rOprNGfwEbeRWgbNEkqOx,s=W22Z", "i="),
            ("r=rOprNGfwEbeRWgbNEkqOx,i=4096,s=W22Z", "s="),
            ("m=1,r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=4096", "extension"),
            ("", "r="),
            ("e=other-error", "r="),
        ] {
            let mut scram = rfc_7677();
            let answer = scram.answer(first.as_bytes());
            assert!(matches!(&answer, Answer::Cancel(text) if text.contains(why)), "{first}: {answer:?}");
            assert!(scram.proof.is_empty() && scram.state == State::First, "{first}: it was hashed");
        }
        assert!(matches!(rfc_7677().answer(b"\xff"), Answer::Cancel(_)));
    }

    #[test]
    fn unknown_trailing_scram_extensions_are_ignored() {
        let mut scram = rfc_7677();
        let first = [SERVER_FIRST, b",x=unknown"].concat();
        assert!(matches!(scram.answer(&first), Answer::Respond(_)));
    }

    #[test]
    fn the_channel_binding_is_in_the_first_and_the_final_message() {
        for (binding, header, c) in [
            (Binding::NotOffered, "y,,", "c=eSws,"),
            (
                Binding::EndPoint(vec![1, 2]),
                "p=tls-server-end-point,,",
                "c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsAQI=,",
            ),
            (Binding::Exporter(vec![1, 2]), "p=tls-exporter,,", "c=cD10bHMtZXhwb3J0ZXIsLAEC,"),
        ] {
            let mut scram = scram("SCRAM-SHA-256-PLUS", "rOprNGfwEbeRWgbNEkqO", binding);
            assert!(scram.initial().unwrap().starts_with(format!("{header}n=user,r=").as_bytes()));
            let Answer::Respond(last) = scram.answer(SERVER_FIRST) else { panic!("no answer") };
            assert!(last.starts_with(c.as_bytes()), "{}", last.escape_ascii());
        }
    }

    #[test]
    fn each_login_uses_a_new_nonce() {
        let new = || Scram::new("SCRAM-SHA-1", Hash::Sha1, b"a=b,c", b"p", Binding::None, 100_000).unwrap();
        let (one, other) = (new().initial().unwrap(), new().initial().unwrap());
        assert!(one.starts_with(b"n,,n=a=3Db=2Cc,r=") && one.len() == 17 + NONCE / 3 * 4);
        assert_ne!(one, other);
    }
}
