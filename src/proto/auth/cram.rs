//! CRAM-MD5 (RFC 2195): the password is not sent, and each answer is valid for only one challenge. MD5 is broken for
//! other purposes but sufficient for this one. SCRAM is better.

use std::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};

use super::{Answer, Mechanism};

/// Maximum length of a challenge that is answered, in octets. Real challenges are message ids.
const MAX_CHALLENGE: usize = 1024;

pub(super) struct Cram {
    user: Vec<u8>,
    password: Vec<u8>,
    /// HMAC of the challenge, in hexadecimal. Empty until the challenge has arrived.
    digest: String,
}

impl Cram {
    pub fn new(user: &[u8], password: &[u8]) -> Cram {
        Cram { user: user.into(), password: password.into(), digest: String::new() }
    }
}

impl Mechanism for Cram {
    fn name(&self) -> &str {
        "CRAM-MD5"
    }

    fn answer(&mut self, challenge: &[u8]) -> Answer {
        if !self.digest.is_empty() {
            return Answer::Cancel("unexpected challenge".to_owned());
        }
        if challenge.is_empty() || challenge.len() > MAX_CHALLENGE {
            return Answer::Cancel(format!(
                "the challenge has {} octets (1 to {MAX_CHALLENGE} are allowed)",
                challenge.len()
            ));
        }
        let mut mac =
            Hmac::<md5::Md5>::new_from_slice(&self.password).expect("HMAC takes keys of any length");
        mac.update(challenge);
        for octet in mac.finalize().into_bytes() {
            write!(self.digest, "{octet:02x}").expect("a String accepts all writes");
        }
        Answer::Respond([&*self.user, b" ", self.digest.as_bytes()].concat())
    }

    fn secrets(&self) -> Vec<&[u8]> {
        vec![self.digest.as_bytes()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_2195_example_challenge_gets_the_expected_digest() {
        let mut cram = Cram::new(b"tim", b"tanstaaftanstaaf");
        let answer = cram.answer(b"<1896.697170952@postoffice.reston.mci.net>");
        assert_eq!(answer, Answer::Respond(b"tim b913a602c7eda7a495b4e6e7334d3890".into()));
        assert!(matches!(cram.answer(b"<again>"), Answer::Cancel(_)));
    }

    // Behaviour 69.
    #[test]
    fn non_utf_8_credentials_are_hashed_unchanged() {
        let mut cram = Cram::new(b"\xca\xc7", b"\xcb\xb5");
        let Answer::Respond(answer) = cram.answer(b"<x>") else { panic!("no answer") };
        assert!(answer.starts_with(b"\xca\xc7 ") && answer.len() == 3 + 32);
    }

    // Threat 69.
    #[test]
    fn empty_and_oversized_cram_md5_challenges_are_cancelled() {
        for challenge in [&b""[..], &[b'x'; MAX_CHALLENGE + 1]] {
            assert!(matches!(Cram::new(b"u", b"p").answer(challenge), Answer::Cancel(_)));
        }
    }

    #[test]
    fn the_digest_is_treated_as_a_secret() {
        let mut cram = Cram::new(b"user", b"secret");
        assert!(
            matches!(cram.answer(&[b'x'; MAX_CHALLENGE]), Answer::Respond(_)),
            "the longest challenge allowed"
        );
        assert_eq!(cram.secrets(), [cram.digest.as_bytes()]);
        assert_eq!(cram.digest.len(), 32);
        assert!(matches!(Cram::new(b"u", b"p").answer(&[b'x'; MAX_CHALLENGE + 1]), Answer::Cancel(_)));
    }
}
