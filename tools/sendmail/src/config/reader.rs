//! Reads a configuration file: whether it may be used, and its keys.

use std::{
    fs::{File, Metadata},
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Aliases, Config, Log, Source, Spool, check_secrecy};
use crate::{
    accounts::Account,
    duration,
    failure::Failure,
    paths::{Paths, read_small},
    report,
    secret::Secret,
};

/// Reads an open file.
pub(super) fn read(file: &Path, opened: &File, paths: &Paths, source: &Source) -> Result<Config, Failure> {
    let meta = opened.metadata().map_err(|e| Failure::file(file, e))?;
    check_owner(file, &meta, matches!(source, Source::System(_)))?;
    let octets = read_small(opened).map_err(|e| Failure::file(file, e))?;
    let text = String::from_utf8(octets).map_err(|_| Failure::file(file, "not UTF-8"))?;
    let hides_text = matches!(source, Source::System(Some(_)));
    let mut config = Reader { file, text: &text, paths, hides_text }.config()?;
    if config.all_accounts().any(Account::contains_secret) {
        check_secrecy(file, &meta)?;
    }
    match source {
        Source::User(Some(_)) if config.all_accounts().any(Account::has_command) => {
            let why = "the program is set-group-ID and runs no commands of users (use password-file)";
            return Err(Failure::file(file, why));
        }
        Source::User(_) => {}
        Source::System(lent) => config.lent = *lent,
    }
    config.file = Some(file.to_owned());
    Ok(config)
}

/// A file that others can write could choose the server and the commands.
fn check_owner(file: &Path, meta: &Metadata, is_system: bool) -> Result<(), Failure> {
    let user = rustix::process::geteuid().as_raw();
    if !meta.is_file() {
        return Err(Failure::file(file, "not a regular file"));
    }
    if meta.mode() & 0o002 != 0 {
        return Err(Failure::file(file, "it can be written by everyone (fix: chmod o-w)"));
    }
    if !is_system && meta.uid() != user && meta.uid() != 0 {
        return Err(Failure::file(file, format!("it belongs to user {}, not to you", meta.uid())));
    }
    Ok(())
}

type Value<'t> = Spanned<DeValue<'t>>;

/// Reads the values of a file, and reports errors with their line.
struct Reader<'t> {
    file: &'t Path,
    text: &'t str,
    paths: &'t Paths,
    /// The user may not read the file, so no error may contain a part of it.
    hides_text: bool,
}

impl<'t> Reader<'t> {
    fn error(&self, span: &Range<usize>, why: impl ToString) -> Failure {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        let line = 1 + before.iter().filter(|octet| **octet == b'\n').count();
        Failure::at(self.file, line, why.to_string())
    }

    fn config(&self) -> Result<Config, Failure> {
        let table = DeTable::parse(self.text).map_err(|e| {
            let why = if self.hides_text { "invalid TOML" } else { e.message() };
            self.error(&e.span().unwrap_or_default(), why.replace('\n', ", "))
        })?;
        let mut config = Config::default();
        for (key, value) in table.get_ref() {
            match &**key.get_ref() {
                "account" => config.accounts = self.accounts(value)?,
                "default-account" => config.default_account = Some(self.string(value)?),
                "domain" => config.domain = Some(self.domain(value)?),
                "aliases" => config.aliases = self.aliases(value)?,
                "rewrite" => config.rewrite = self.rewrite(value)?,
                "log" => config.log = self.log(value)?,
                _ if self.spool(&mut config.spool, key.get_ref(), value)? => {}
                _ if self.account_key(&mut config.base, key.get_ref(), value)? => {}
                _ => return Err(self.unknown(key)),
            }
        }
        self.check_account(&config.base, &table.span())?;
        if let Some(name) = &config.default_account {
            if !config.accounts.iter().any(|account| account.name == *name) {
                let why = format!("default-account = \"{name}\": there is no such account");
                return Err(Failure::file(self.file, why));
            }
        }
        Ok(config)
    }

    fn unknown(&self, key: &Spanned<std::borrow::Cow<'_, str>>) -> Failure {
        let name = if self.hides_text { String::new() } else { format!(" \"{}\"", key.get_ref()) };
        self.error(&key.span(), format!("unknown key{name}"))
    }

    fn accounts(&self, value: &Value<'t>) -> Result<Vec<Account>, Failure> {
        let mut accounts = Vec::new();
        for (name, value) in self.table(value)? {
            let mut account = Account { name: name.get_ref().to_string(), ..Account::default() };
            for (key, value) in self.table(value)? {
                if !self.account_key(&mut account, key.get_ref(), value)? {
                    return Err(self.unknown(key));
                }
            }
            self.check_account(&account, &name.span())?;
            accounts.push(account);
        }
        Ok(accounts)
    }

    /// Reads a key of an account. Returns whether it is one.
    fn account_key(&self, account: &mut Account, key: &str, value: &Value<'t>) -> Result<bool, Failure> {
        match key {
            "url" => account.url = Some(self.url(value)?),
            "user" => account.user = Some(self.string(value)?),
            "password" => self.secret(&mut account.password, value, Secret::Inline(self.string(value)?))?,
            "password-file" => self.secret(&mut account.password, value, Secret::File(self.path(value)?))?,
            "password-command" => {
                self.secret(&mut account.password, value, Secret::Command(self.command(value)?))?;
            }
            "token-file" => self.secret(&mut account.token, value, Secret::File(self.path(value)?))?,
            "token-command" => {
                self.secret(&mut account.token, value, Secret::Command(self.command(value)?))?;
            }
            "auth" => account.auth = Some(self.string(value)?.to_ascii_uppercase()),
            "proxy" => account.proxy = Some(self.proxy(value)?),
            "ca-file" => account.ca_file = Some(self.path(value)?),
            "system-cas" => account.system_cas = Some(self.switch(value)?),
            "client-certificate" => account.certificate = Some(self.path(value)?),
            "client-key" => account.key = Some(self.path(value)?),
            "from" => account.from = Some(self.address(value)?),
            "senders" => account.senders = self.strings(value)?,
            "hello-name" => account.hello_name = Some(self.string(value)?),
            "timeout" => account.timeout = Some(self.duration(value)?),
            "deadline" => account.deadline = Some(self.duration(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn check_account(&self, account: &Account, span: &Range<usize>) -> Result<(), Failure> {
        account.check().map_err(|why| self.error(span, format!("{}: {why}", account.title())))
    }

    fn secret(&self, place: &mut Option<Secret>, value: &Value<'t>, secret: Secret) -> Result<(), Failure> {
        match place.replace(secret) {
            None => Ok(()),
            Some(_) => {
                Err(self.error(&value.span(), "the password or token is already given by another key"))
            }
        }
    }

    /// Reads a key of the spool. Returns whether it is one.
    fn spool(&self, spool: &mut Spool, key: &str, value: &Value<'t>) -> Result<bool, Failure> {
        match key {
            "spool" if value.get_ref().as_str() == Some("off") => spool.folder = None,
            "spool" => spool.folder = Some(self.path(value)?),
            "spool-max-messages" => spool.max_messages = Some(self.count(value)?),
            "spool-max-bytes" => spool.max_bytes = Some(self.count(value)?),
            "retry" => spool.retry = self.durations(value)?,
            "give-up-after" => spool.give_up_after = Some(self.duration(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn aliases(&self, value: &Value<'t>) -> Result<Aliases, Failure> {
        match value.get_ref().as_str() {
            Some("") => Ok(Aliases::None),
            _ => Ok(Aliases::File(self.path(value)?)),
        }
    }

    fn log(&self, value: &Value<'t>) -> Result<Log, Failure> {
        match value.get_ref().as_str() {
            Some("syslog") => Ok(Log::Syslog),
            Some("none") => Ok(Log::None),
            Some(path) if path.starts_with(['/', '~']) => Ok(Log::File(self.path(value)?)),
            _ => Err(self.error(&value.span(), "log is not \"syslog\", \"none\" or an absolute path")),
        }
    }

    fn rewrite(&self, value: &Value<'t>) -> Result<Vec<(String, String)>, Failure> {
        let mut rules = Vec::new();
        for (from, to) in self.table(value)? {
            let from = from.get_ref().to_ascii_lowercase();
            let target = self.string(to)?;
            let is_domain = target.strip_prefix('@').is_some_and(is_domain);
            if !is_domain && postino::Address::new(&target).map_or(true, |address| address.domain().is_none())
            {
                return Err(self.error(&to.span(), "neither an address nor @domain"));
            }
            rules.push((from, target));
        }
        Ok(rules)
    }

    fn url(&self, value: &Value<'t>) -> Result<String, Failure> {
        let url = self.string(value)?;
        match postino::Client::from_url(&url) {
            Ok(_) => Ok(url),
            Err(e) => Err(self.error(&value.span(), report::text(&e))),
        }
    }

    fn proxy(&self, value: &Value<'t>) -> Result<String, Failure> {
        let proxy = self.string(value)?;
        // As a parameter of a URL, it is checked without connecting. No error contains its password.
        let parameter = proxy.replace('%', "%25").replace('&', "%26").replace('#', "%23");
        match postino::Client::from_url(&format!("smtp://localhost?proxy={parameter}")) {
            Ok(_) => Ok(proxy),
            Err(e) => Err(self.error(&value.span(), e)),
        }
    }

    fn domain(&self, value: &Value<'t>) -> Result<String, Failure> {
        let domain = self.string(value)?;
        match &*domain {
            "" => Ok(domain),
            _ if is_domain(&domain) => Ok(domain),
            _ => Err(self.error(&value.span(), "not a domain")),
        }
    }

    fn address(&self, value: &Value<'t>) -> Result<String, Failure> {
        match postino::Address::new(&self.string(value)?) {
            Ok(address) => Ok(address.to_string()),
            Err(e) => Err(self.error(&value.span(), e)),
        }
    }

    fn path(&self, value: &Value<'t>) -> Result<PathBuf, Failure> {
        let path = self.paths.expand(&self.string(value)?);
        path.ok_or_else(|| self.error(&value.span(), "not an absolute path"))
    }

    /// Reads a program with its arguments. A text is a program without arguments: there is no shell.
    fn command(&self, value: &Value<'t>) -> Result<Vec<String>, Failure> {
        let words = self.strings(value)?;
        if words.first().is_none_or(String::is_empty) {
            return Err(self.error(&value.span(), "expected a list of a program and its arguments"));
        }
        if value.get_ref().is_str() && words[0].contains(char::is_whitespace) {
            let why = "write a list, such as [\"pass\", \"show\", \"mail\"]: there is no shell";
            return Err(self.error(&value.span(), why));
        }
        Ok(words)
    }

    fn table(&self, value: &'t Value<'t>) -> Result<&'t DeTable<'t>, Failure> {
        value.get_ref().as_table().ok_or_else(|| self.error(&value.span(), "expected a table"))
    }

    fn string(&self, value: &Value<'t>) -> Result<String, Failure> {
        let text =
            value.get_ref().as_str().ok_or_else(|| self.error(&value.span(), "expected a text in quotes"))?;
        if text.contains(char::is_control) {
            return Err(self.error(&value.span(), "the text contains a control character"));
        }
        Ok(text.to_owned())
    }

    fn strings(&self, value: &Value<'t>) -> Result<Vec<String>, Failure> {
        match value.get_ref().as_array() {
            Some(list) => list.iter().map(|value| self.string(value)).collect(),
            None => Ok(vec![self.string(value)?]),
        }
    }

    fn switch(&self, value: &Value<'t>) -> Result<bool, Failure> {
        value.get_ref().as_bool().ok_or_else(|| self.error(&value.span(), "expected true or false"))
    }

    fn count(&self, value: &Value<'t>) -> Result<u64, Failure> {
        let number = value.get_ref().as_integer().filter(|number| number.radix() == 10);
        let number = number.and_then(|number| number.as_str().parse().ok());
        number.ok_or_else(|| self.error(&value.span(), "expected a whole number"))
    }

    fn duration(&self, value: &Value<'t>) -> Result<Duration, Failure> {
        let duration = match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => duration::seconds(number.as_str()),
            DeValue::Float(number) => duration::seconds(number.as_str()),
            DeValue::String(text) => duration::with_unit(text),
            _ => None,
        };
        duration
            .ok_or_else(|| self.error(&value.span(), "expected seconds, or a text such as \"5m\" or \"2h\""))
    }

    fn durations(&self, value: &Value<'t>) -> Result<Vec<Duration>, Failure> {
        match value.get_ref().as_array() {
            Some(list) => list.iter().map(|value| self.duration(value)).collect(),
            None => Ok(vec![self.duration(value)?]),
        }
    }
}

fn is_domain(text: &str) -> bool {
    postino::Address::new(&format!("x@{text}")).is_ok()
}
