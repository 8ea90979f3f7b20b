//! Mechanisms that send their credentials without hashing them: PLAIN, LOGIN, EXTERNAL and ANONYMOUS.

use super::{Answer, Mechanism};

/// PLAIN (RFC 4616), EXTERNAL (RFC 4422 appendix A) and ANONYMOUS (RFC 4505): one response and nothing else.
pub(super) struct Once {
    name: &'static str,
    message: Vec<u8>,
}

impl Once {
    pub fn plain(user: &[u8], password: &[u8]) -> Once {
        Once { name: "PLAIN", message: [b"\0", user, b"\0", password].concat() }
    }

    /// Creates EXTERNAL. An empty identity means that of the client's credentials, usually a certificate.
    pub fn external(authorization: &str) -> Once {
        Once { name: "EXTERNAL", message: authorization.into() }
    }

    pub fn anonymous(trace: &str) -> Once {
        Once { name: "ANONYMOUS", message: trace.into() }
    }
}

impl Mechanism for Once {
    fn name(&self) -> &str {
        self.name
    }

    fn initial(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.message))
    }

    fn answer(&mut self, _: &[u8]) -> Answer {
        Answer::Cancel("unexpected challenge".to_owned())
    }
}

/// LOGIN: never standardised, but supported everywhere. It sends the user name and then the password.
///
/// The order of the challenges determines what they ask for, not their text: in practice prompts are translated,
/// decorated, empty or not even base64. There is no initial response, because many servers refuse it.
pub(super) struct Login {
    user: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
}

impl Login {
    pub fn new(user: &[u8], password: &[u8]) -> Login {
        Login { user: Some(user.into()), password: Some(password.into()) }
    }
}

impl Mechanism for Login {
    fn name(&self) -> &str {
        "LOGIN"
    }

    fn answer(&mut self, _: &[u8]) -> Answer {
        match self.user.take().or_else(|| self.password.take()) {
            Some(answer) => Answer::Respond(answer),
            None => Answer::Cancel("unexpected challenge".to_owned()),
        }
    }

    fn reads_challenges(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4616_example_message_is_reproduced() {
        assert_eq!(Once::plain(b"tim", b"tanstaaftanstaaf").initial().unwrap(), b"\0tim\0tanstaaftanstaaf");
    }

    #[test]
    fn login_sends_user_then_password_whatever_the_prompts_say() {
        let mut login = Login::new(b"u", b"");
        assert_eq!(login.initial(), None);
        assert_eq!(login.answer(b"Password:"), Answer::Respond(b"u".into()));
        assert_eq!(login.answer(b""), Answer::Respond(b"".into()));
        assert!(matches!(login.answer(b"Username:"), Answer::Cancel(_)));
    }
}
