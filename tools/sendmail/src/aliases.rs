//! Aliases of local recipients, in the format of `/etc/aliases`.

use std::{collections::HashMap, path::PathBuf};

use postino::Address;

use crate::{
    config::{Aliases as Setting, Config},
    failure::Failure,
    paths::Paths,
};

/// The name of the alias for local recipients without an alias.
const DEFAULT: &str = "default";

/// The aliases of one file.
#[derive(Default)]
pub struct Aliases {
    file: PathBuf,
    entries: HashMap<String, Entry>,
    /// The keys of `entries`, in the order of the file.
    names: Vec<String>,
}

/// The targets of an alias, and its line.
struct Entry {
    line: usize,
    targets: Vec<String>,
}

impl Aliases {
    /// Reads the file of the configuration. `/etc/aliases` does not have to exist.
    pub fn load(config: &Config, paths: &Paths) -> Result<Aliases, Failure> {
        let file = match &config.aliases {
            Setting::None => return Ok(Aliases::default()),
            Setting::File(file) => file.clone(),
            Setting::Default => {
                let file = paths.system("etc/aliases");
                if !file.exists() {
                    return Ok(Aliases::default());
                }
                file
            }
        };
        let text = String::from_utf8_lossy(&config.read(&file)?).into_owned();
        Aliases::parse(file, &text)
    }

    fn parse(file: PathBuf, text: &str) -> Result<Aliases, Failure> {
        let mut aliases = Aliases { file, ..Aliases::default() };
        for (line, text) in logical_lines(text) {
            let Some((name, targets)) = split_unquoted(&text, ':') else {
                return Err(aliases.error(line, "expected NAME: ADDRESS, ..."));
            };
            let name = unquoted(name).to_ascii_lowercase();
            let targets: Vec<_> = list(targets)
                .into_iter()
                .map(str::trim)
                .filter(|target| !target.is_empty())
                .map(str::to_owned)
                .collect();
            if name.is_empty() || targets.is_empty() {
                return Err(aliases.error(line, "expected NAME: ADDRESS, ..."));
            }
            aliases.names.push(name.clone());
            if let Some(first) = aliases.entries.insert(name.clone(), Entry { line, targets }) {
                return Err(aliases.error(line, &format!("{name} is already in line {}", first.line)));
            }
        }
        Ok(aliases)
    }

    fn error(&self, line: usize, why: &str) -> Failure {
        Failure::at(&self.file, line, why)
    }

    /// Returns what is reported about the file.
    pub fn summary(&self) -> String {
        if self.file.as_os_str().is_empty() {
            return "no aliases".to_owned();
        }
        let count = self.entries.len();
        let aliases = if count == 1 { "alias" } else { "aliases" };
        format!("{}: {count} {aliases}, read for each message", self.file.display())
    }

    /// Returns an error for each alias that mail cannot be sent to, in the order of the lines.
    pub fn errors(&self) -> Vec<Failure> {
        let mut errors = Vec::new();
        for name in &self.names {
            let Some(entry) = self.entries.get(name) else { continue };
            let mut way = vec![name.clone()];
            let mut targets = entry.targets.iter();
            let check = |target: &String| self.target(target, entry.line, &mut way, &mut Vec::new());
            errors.extend(targets.try_for_each(check).err());
        }
        errors
    }

    /// Replaces a local recipient by the addresses of its alias. Others are returned as they are.
    pub fn expand(&self, recipient: Address) -> Result<Vec<Address>, Failure> {
        let mut found = Vec::new();
        self.follow(recipient, &mut Vec::new(), &mut found)?;
        Ok(found)
    }

    fn follow(
        &self,
        recipient: Address,
        way: &mut Vec<String>,
        found: &mut Vec<Address>,
    ) -> Result<(), Failure> {
        let Some((name, entry)) = self.entry(&recipient) else {
            if !found.contains(&recipient) {
                found.push(recipient);
            }
            return Ok(());
        };
        // The default alias is used once: its addresses need no alias.
        if name == DEFAULT && way.iter().any(|before| before == DEFAULT) {
            if !found.contains(&recipient) {
                found.push(recipient);
            }
            return Ok(());
        }
        if way.contains(&name) {
            return Err(self.error(entry.line, &format!("alias loop: {} -> {name}", way.join(" -> "))));
        }
        way.push(name);
        for target in &entry.targets {
            self.target(target, entry.line, way, found)?;
        }
        way.pop();
        Ok(())
    }

    fn target(
        &self,
        target: &str,
        line: usize,
        way: &mut Vec<String>,
        found: &mut Vec<Address>,
    ) -> Result<(), Failure> {
        let plain = unquoted(target);
        if plain.starts_with(['|', '/', ':']) {
            return Err(self.error(line, "commands, files and :include: are not supported, only addresses"));
        }
        // A backslash ends the search for aliases.
        let (text, is_final) = target.strip_prefix('\\').map_or((target, false), |text| (text, true));
        let address = Address::new(text).map_err(|e| self.error(line, &e.to_string()))?;
        if !is_final {
            return self.follow(address, way, found);
        }
        if !found.contains(&address) {
            found.push(address);
        }
        Ok(())
    }

    /// Finds the alias of a local recipient.
    fn entry(&self, recipient: &Address) -> Option<(String, &Entry)> {
        if !is_local(recipient) {
            return None;
        }
        let name = unquoted(recipient.local_part()).to_ascii_lowercase();
        match self.entries.get(&name) {
            Some(entry) => Some((name, entry)),
            None => self.entries.get(DEFAULT).map(|entry| (DEFAULT.to_owned(), entry)),
        }
    }
}

/// Whether a recipient can have an alias: one without a domain, or at `localhost`.
pub fn is_local(recipient: &Address) -> bool {
    recipient.domain().is_none_or(|domain| domain.eq_ignore_ascii_case("localhost"))
}

/// Joins each line with its continuation lines, which begin with white space. Comments and empty lines are left out.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        match lines.last_mut() {
            Some((_, last)) if line.starts_with([' ', '\t']) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push((number + 1, line.trim().to_owned())),
        }
    }
    lines
}

/// Splits at the first occurrence of a character outside quotes.
fn split_unquoted(text: &str, at: char) -> Option<(&str, &str)> {
    let (mut quoted, mut escaped) = (false, false);
    for (position, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ if c == at && !quoted => return Some((&text[..position], &text[position + c.len_utf8()..])),
            _ => {}
        }
    }
    None
}

fn list(text: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let mut rest = text;
    while let Some((item, after)) = split_unquoted(rest, ',') {
        items.push(item);
        rest = after;
    }
    items.push(rest);
    items
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# comment
root: admin@example.org
Postmaster: root
team: a@example.org, b@example.org,
\t\"c d\"@example.org , root
me: \\me, other@example.org
a-loop: b-loop
b-loop: c-loop, x@example.org
c-loop: a-loop
self: self
prog: \"|/bin/program a, b\"
file: /var/mail/x
list: :include:/etc/list
bad: a@b@c
";

    fn expanded(text: &str, recipient: &str) -> Result<Vec<String>, String> {
        let aliases = Aliases::parse("/etc/aliases".into(), text).map_err(|failure| failure.text)?;
        let recipient = Address::new(recipient).map_err(|e| e.to_string())?;
        let found = aliases.expand(recipient).map_err(|failure| failure.text)?;
        Ok(found.iter().map(Address::to_string).collect())
    }

    #[test]
    fn aliases_are_followed() {
        for (recipient, expected) in [
            ("root", &["admin@example.org"][..]),
            ("ROOT@localhost", &["admin@example.org"]),
            ("postmaster", &["admin@example.org"]),
            ("root@example.org", &["root@example.org"]),
            ("nobody", &["nobody"]),
            ("me", &["me", "other@example.org"]),
            ("team", &["a@example.org", "b@example.org", "\"c d\"@example.org", "admin@example.org"]),
        ] {
            assert_eq!(expanded(FILE, recipient).unwrap(), expected, "{recipient}");
        }
    }

    #[test]
    fn the_default_alias_applies_to_local_recipients_without_an_alias() {
        for default in ["default: all@example.org", "default: all, all@example.org"] {
            let text = format!("{FILE}{default}\n");
            assert!(expanded(&text, "nobody").unwrap().contains(&"all@example.org".to_owned()));
            assert_eq!(expanded(&text, "root").unwrap(), ["admin@example.org"]);
            assert_eq!(expanded(&text, "x@example.net").unwrap(), ["x@example.net"]);
        }
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        for (recipient, why) in [
            ("a-loop", "/etc/aliases, line 7: alias loop: a-loop -> b-loop -> c-loop -> a-loop"),
            ("self", "/etc/aliases, line 10: alias loop: self -> self"),
            ("prog", "line 11: commands, files"),
            ("file", "line 12: commands, files"),
            ("list", "line 13: commands, files"),
            ("bad", "line 14: "),
        ] {
            let error = expanded(FILE, recipient).unwrap_err();
            assert!(error.contains(why), "{recipient}: {error}");
        }
        for (text, why) in [
            ("root admin\n", "line 1: expected NAME: ADDRESS"),
            ("\n\nroot:\n", "line 3: expected NAME: ADDRESS"),
            ("a: b@c\nA: d@e\n", "line 2: a is already in line 1"),
        ] {
            let error = expanded(text, "root").unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
