//! Mechanisms that send an OAuth token: OAUTHBEARER (RFC 7628) and its predecessor XOAUTH2 (Google and Microsoft).

use super::{Answer, Mechanism, escape};

pub(super) struct Bearer {
    name: &'static str,
    message: Vec<u8>,
    /// Response to a challenge that describes a failure.
    concede: &'static [u8],
}

impl Bearer {
    /// Creates OAUTHBEARER. `server` is the host and port of the connection, if known.
    pub fn oauthbearer(user: &str, token: &str, server: Option<(&str, u16)>) -> Bearer {
        let server = server.map(|(host, port)| format!("host={host}\x01port={port}\x01")).unwrap_or_default();
        let rest = format!(",\x01{server}auth=Bearer {token}\x01\x01");
        Bearer {
            name: "OAUTHBEARER",
            message: [b"n,a=", &*escape(user.as_bytes()), rest.as_bytes()].concat(),
            concede: b"\x01", // RFC 7628 §3.2.3
        }
    }

    pub fn xoauth2(user: &str, token: &str) -> Bearer {
        Bearer {
            name: "XOAUTH2",
            message: format!("user={user}\x01auth=Bearer {token}\x01\x01").into(),
            concede: b"",
        }
    }
}

impl Mechanism for Bearer {
    fn name(&self) -> &str {
        self.name
    }

    fn initial(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.message))
    }

    fn answer(&mut self, challenge: &[u8]) -> Answer {
        let details = String::from_utf8_lossy(challenge).into_owned();
        Answer::AcceptFailure { response: self.concede.into(), details }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

    use super::*;

    const TOKEN: &str = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==";

    #[test]
    fn rfc_7628_failed_smtp_exchange_is_reproduced() {
        let server = Some(("server.example.com", 587));
        let mut bearer = Bearer::oauthbearer("user@example.com", TOKEN, server);
        assert_eq!(
            BASE64.encode(bearer.initial().unwrap()),
            "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9NTg3AWF1dGg9QmVhcmVyIHZGOWRmdDRx\
             bVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
        );
        let challenge = "eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIiwic2NoZW1lcyI6ImJlYXJlciIsInNjb3BlIjoiaHR0cHM6Ly9tYWlsLmV4\
                         YW1wbGUuY29tLyJ9";
        let Answer::AcceptFailure { response, details } = bearer.answer(&BASE64.decode(challenge).unwrap())
        else {
            panic!("not conceded")
        };
        assert_eq!(BASE64.encode(response), "AQ==");
        assert_eq!(
            details,
            r#"{"status":"invalid_token","schemes":"bearer","scope":"https://mail.example.com/"}"#
        );
    }

    #[test]
    fn rfc_7628_user_names_are_escaped() {
        let message = Bearer::oauthbearer("a=b,c", "t", None).initial().unwrap();
        assert_eq!(message, b"n,a=a=3Db=2Cc,\x01auth=Bearer t\x01\x01");
    }

    #[test]
    fn xoauth2_matches_the_example_published_by_google() {
        let message = Bearer::xoauth2("someuser@example.com", TOKEN).initial().unwrap();
        assert_eq!(
            BASE64.encode(message),
            "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB2RjlkZnQ0cW1UYzJOdmIzUmxja0JoYkhSaGRtbHpkR0V1WTI5dENn\
             PT0BAQ=="
        );
        let Answer::AcceptFailure { response, .. } = Bearer::xoauth2("u", "t").answer(b"{}") else {
            panic!("not conceded")
        };
        assert_eq!(response, b"");
    }
}
