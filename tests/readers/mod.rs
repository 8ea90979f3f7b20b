//! Composed messages, read by three independent programs: mail-parser, Python's `email` (`check_composed.py`) and
//! Perl's Email::MIME (`check_composed.pl`). Each is given random messages, and what they contain.
//!
//! If an interpreter is missing, its test is skipped with a note on stderr; if `POSTINO_INTEROP_REQUIRED` names
//! `python` or `perl`, it fails instead.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, Write},
    path::PathBuf,
    process::Command,
};

use proptest::{collection::vec, option, prelude::*, strategy::ValueTree, test_runner::TestRunner};

use mail_parser::{MimeHeaders, PartType};

use super::{check, content, eight_bit_bytes, mailboxes, parse, value, with_crlf};
use postino::{
    Message,
    message::{Attachment, header_length},
};

const MESSAGES: usize = 300;

/// The parts of a message.
#[derive(Debug, Clone)]
struct Parts {
    author: String,
    subject: String,
    names: Vec<String>,
    text: Option<Vec<u8>>,
    html: Option<String>,
    image: Option<Vec<u8>>,
    files: Vec<(String, Vec<u8>)>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let files = vec((value(), content()), 0..3);
    let texts = (value(), value(), vec(value(), 0..4));
    (texts, option::of(content()), option::of(".{0,200}"), option::of(content()), files).prop_map(
        |((author, subject, names), text, html, image, files)| Parts {
            author,
            subject,
            names,
            text,
            html,
            image,
            files,
        },
    )
}

impl Parts {
    /// Whether the headers have no noncharacters, which Perl turns into U+FFFD.
    fn has_characters_only(&self) -> bool {
        let is_character = |c: char| {
            !matches!(u32::from(c) & 0xffff, 0xfffe | 0xffff) && !matches!(c, '\u{fdd0}'..='\u{fdef}')
        };
        let names = self.names.iter().chain(self.files.iter().map(|(name, _)| name));
        names.chain([&self.author, &self.subject]).all(|text| text.chars().all(is_character))
    }

    fn message(&self, kind: &str) -> Message {
        let mut builder = Message::builder()
            .from((&self.author[..], "alice@example.org"))
            .to("bob@example.net")
            .subject(&self.subject[..]);
        for (i, name) in self.names.iter().enumerate() {
            builder = builder.to((&name[..], format!("number-{i}@example.org")));
        }
        if let Some(text) = &self.text {
            builder = builder.text(String::from_utf8_lossy(text));
        }
        if let Some(html) = &self.html {
            builder = builder.html(&html[..]);
            if let Some(image) = &self.image {
                builder = builder.attach(
                    Attachment::bytes("", image.clone()).content_type("image/png").content_id("image"),
                );
            }
        }
        for (name, bytes) in &self.files {
            let attachment = Attachment::bytes(&name[..], bytes.clone());
            builder = builder.attach(attachment.content_type(kind));
        }
        builder.build().unwrap()
    }

    /// Lists what must be found. A text that is the whole message ends with a line ending, which base64 does not need.
    fn manifest(&self, kind: &str, sent: &[u8]) -> String {
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
        line("from", &[self.author.as_bytes(), b"alice@example.org"]);
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
            line("part", &[kind.as_bytes(), name.as_bytes(), bytes]);
        }
        lines
    }
}

/// Random messages in both forms, with what must be found in them. Attached files are of this kind.
fn messages(kind: &'static str) -> impl Iterator<Item = (String, Vec<u8>, String)> {
    let mut runner = TestRunner::default();
    (0..MESSAGES).flat_map(move |number| {
        let parts = parts().prop_filter("a noncharacter", Parts::has_characters_only);
        let parts = parts.new_tree(&mut runner).unwrap().current();
        let message = parts.message(kind);
        let forms = [("7bit", check(&message).into_bytes()), ("8bit", eight_bit_bytes(&message))];
        forms.map(|(form, sent)| {
            let manifest = parts.manifest(kind, &sent);
            (format!("{number}-{form}"), sent, manifest)
        })
    })
}

/// Whether an interpreter is installed that runs this.
fn has(name: &str, program: &str, args: &[&str]) -> bool {
    let has = Command::new(program).args(args).output().is_ok_and(|output| output.status.success());
    if !has {
        let required = env::var("POSTINO_INTEROP_REQUIRED").unwrap_or_default();
        let args = args.join(" ");
        assert!(!required.split(',').any(|other| other == name), "`{program} {args}` fails");
        let _ = writeln!(io::stderr(), "SKIPPED: `{program} {args}` fails");
    }
    has
}

/// Passes random messages to a script in this folder.
fn read_by(program: &str, script: &str) {
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("composed-{program}-{}", std::process::id()));
    drop(fs::remove_dir_all(&folder)); // an earlier process with this number may have left it
    fs::create_dir_all(&folder).unwrap();
    for (name, sent, manifest) in messages("text/x-any") {
        fs::write(folder.join(format!("{name}.txt")), manifest).unwrap();
        fs::write(folder.join(format!("{name}.eml")), sent).unwrap();
    }
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/readers").join(script);
    let output = Command::new(program).arg(script).arg(&folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // Messages that differ are kept for inspection.
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("{} messages, 0 differences", 2 * MESSAGES)), "{text}");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn python_reads_what_was_composed() {
    if has("python", "python3", &["--version"]) {
        read_by("python3", "check_composed.py");
    }
}

#[test]
fn perl_reads_what_was_composed() {
    if has("perl", "perl", &["-MEmail::MIME", "-MEmail::Address::XS", "-e1"]) {
        read_by("perl", "check_composed.pl");
    }
}

#[test]
fn mail_parser_reads_what_was_composed() {
    // The script decodes text, whose charset is not given here.
    for (name, sent, manifest) in messages("application/x-any") {
        let mut found = String::new();
        let mut line = |word: &str, values: &[&[u8]]| {
            found.push_str(word);
            for value in values {
                found.push(' ');
                value.iter().for_each(|byte| write!(found, "{byte:02x}").unwrap());
            }
            found.push('\n');
        };
        let message = parse(&sent);
        message.subject().into_iter().for_each(|subject| line("subject", &[subject.as_bytes()]));
        for (word, addresses) in [("from", message.from()), ("to", message.to())] {
            for (name, address) in mailboxes(addresses) {
                line(word, &[name.as_bytes(), address.as_bytes()]);
            }
        }
        for part in message.parts.iter().filter(|part| !matches!(part.body, PartType::Multipart(_))) {
            let kind = part.content_type().unwrap();
            let kind = format!("{}/{}", kind.ctype(), kind.subtype().unwrap());
            line(
                "part",
                &[kind.as_bytes(), part.attachment_name().unwrap_or_default().as_bytes(), part.contents()],
            );
        }
        assert_eq!(found, manifest, "{name}: {}", String::from_utf8_lossy(&sent));
    }
}
