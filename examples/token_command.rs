//! Logs in with an OAuth access token that another program prints, and shows what the server offers. Sends no message.
//!
//! ```text
//! cargo run --example token_command -- smtps://smtp.gmail.com alice@gmail.com oauth2l fetch --scope \
//!     https://mail.google.com/
//! ```
//!
//! The first two arguments are the server and the user; the others are a program and its arguments. The program has to
//! print the token as its first line, and to refresh it when necessary. It runs just before each login, so that the
//! token is always fresh. If the server refuses the token, the program runs once more.

use std::{
    error::Error,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use postino::{Client, ServerReport};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, user, command @ ..] = arguments.as_slice() else {
        eprintln!("usage: token_command URL USER PROGRAM [ARGUMENT]...");
        return ExitCode::from(64);
    };
    match check(url, user, command.to_vec()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn check(url: &str, user: &str, command: Vec<String>) -> Result<ServerReport, postino::Error> {
    Client::from_url(url)?
        .oauth_token_with(user, move || token(&command))
        // The program may have to reach a token endpoint.
        .command_timeout(Duration::from_secs(90))
        .verify()
}

/// Runs the program, and returns the first line that it prints. No shell is involved.
fn token(command: &[String]) -> Result<String, Box<dyn Error + Send + Sync>> {
    let (program, arguments) = command.split_first().ok_or("no token program was given")?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("could not run {program}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{program} failed: {}", output.status).into());
    }
    let printed = String::from_utf8(output.stdout).map_err(|_| format!("{program} did not print text"))?;
    let token = printed.lines().next().unwrap_or_default().trim();
    if token.is_empty() {
        return Err(format!("{program} printed no token").into());
    }
    Ok(token.to_owned())
}
