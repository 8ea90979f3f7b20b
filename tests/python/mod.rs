//! What is composed, read by Python's `email`: random messages go to `check_composed.py`, with what is in them.
//!
//! Where there is no `python3` it is skipped, which is said on stderr, unless `POSTINO_INTEROP_REQUIRED` names `python`: then
//! it is a failure.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, Write},
    path::PathBuf,
    process::Command,
};

use proptest::{collection::vec, option, prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::{builder, check, content, eight_bit_bytes, value, with_crlf};
use postino::{
    Message,
    message::{Attachment, header_length},
};

const MESSAGES: usize = 300;

/// What goes into a message.
#[derive(Debug, Clone)]
struct Parts {
    subject: String,
    names: Vec<String>,
    text: Option<Vec<u8>>,
    html: Option<String>,
    image: Option<Vec<u8>>,
    files: Vec<(String, Vec<u8>)>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let files = vec((value(), content()), 0..3);
    (value(), vec(value(), 0..4), option::of(content()), option::of(".{0,200}"), option::of(content()), files)
        .prop_map(|(subject, names, text, html, image, files)| Parts {
            subject,
            names,
            text,
            html,
            image,
            files,
        })
}

impl Parts {
    fn message(&self) -> Message {
        let mut builder = builder().subject(&self.subject[..]);
        for (i, name) in self.names.iter().enumerate() {
            builder = builder.to((&name[..], format!("number-{i}@example.org")));
        }
        if let Some(text) = &self.text {
            builder = builder.text(String::from_utf8_lossy(text));
        }
        if let Some(html) = &self.html {
            builder = builder.html(&html[..]);
            if let Some(image) = &self.image {
                builder = builder.inline("image", "image/png", image.clone());
            }
        }
        for (name, bytes) in &self.files {
            let attachment = Attachment::bytes(&name[..], bytes.clone());
            builder = builder.attach(attachment.content_type("text/x-any"));
        }
        builder.build().unwrap()
    }

    /// What Python has to find. A text that is the whole message ends with a line end, which base64 does without.
    fn manifest(&self, sent: &[u8]) -> String {
        let header = &sent[..header_length(sent).unwrap()];
        let is_base64 = String::from_utf8_lossy(header).contains("\r\nContent-Transfer-Encoding: base64\r\n");
        let text = |text: &str, is_alone: bool| {
            let text = with_crlf(text);
            let has_end = text.is_empty() || text.ends_with('\n') || !is_alone || is_base64;
            (text + if has_end { "" } else { "\r\n" }).into_bytes()
        };
        let mut lines = String::new();
        let mut line = |word: &str, values: &[&[u8]]| {
            lines.push_str(word);
            for value in values {
                lines.push(' ');
                value.iter().for_each(|byte| write!(lines, "{byte:02x}").unwrap());
            }
            lines.push('\n');
        };
        if !self.subject.trim_matches(' ').is_empty() {
            line("subject", &[self.subject.as_bytes()]);
        }
        line("to", &[b"", b"bob@example.net"]);
        for (i, name) in self.names.iter().enumerate() {
            line("to", &[name.as_bytes(), format!("number-{i}@example.org").as_bytes()]);
        }
        let parts = [self.html.is_some(), !self.files.is_empty()].iter().filter(|there| **there).count();
        if self.text.is_some() || parts == 0 {
            let plain = String::from_utf8_lossy(self.text.as_deref().unwrap_or_default());
            line("part", &[b"text/plain", b"", &text(&plain, parts == 0)]);
        }
        if let Some(html) = &self.html {
            let is_alone = parts == 1 && self.text.is_none() && self.image.is_none();
            line("part", &[b"text/html", b"", &text(html, is_alone)]);
            if let Some(image) = &self.image {
                line("part", &[b"image/png", b"", image]);
            }
        }
        for (name, bytes) in &self.files {
            line("part", &[b"text/x-any", name.as_bytes(), bytes]);
        }
        lines
    }
}

fn has_python() -> bool {
    let has = Command::new("python3").arg("--version").output().is_ok_and(|said| said.status.success());
    if !has {
        let required = env::var("POSTINO_INTEROP_REQUIRED").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "python"), "there is no python3");
        let _ = writeln!(io::stderr(), "SKIPPED: there is no python3");
    }
    has
}

#[test]
fn python_reads_what_was_composed() {
    if !has_python() {
        return;
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("composed-{}", std::process::id()));
    drop(fs::remove_dir_all(&folder)); // an earlier process with this number may have left it
    fs::create_dir_all(&folder).unwrap();
    let mut runner = TestRunner::default();
    for number in 0..MESSAGES {
        let parts = parts().new_tree(&mut runner).unwrap().current();
        let message = parts.message();
        let forms = [("7bit", check(&message).into_bytes()), ("8bit", eight_bit_bytes(&message))];
        for (form, sent) in forms {
            fs::write(folder.join(format!("{number}-{form}.txt")), parts.manifest(&sent)).unwrap();
            fs::write(folder.join(format!("{number}-{form}.eml")), sent).unwrap();
        }
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/check_composed.py");
    let said = Command::new("python3").arg(script).arg(&folder).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    // What differs stays, to be looked at.
    assert!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    assert!(text.contains(&format!("{} messages, 0 differences", 2 * MESSAGES)), "{text}");
    fs::remove_dir_all(&folder).unwrap();
}
