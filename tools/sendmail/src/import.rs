//! `--import-msmtprc`: writes the configuration of msmtp as one of this program.

use std::{
    fmt::Write,
    fs::File,
    io::{self, IsTerminal},
    path::PathBuf,
};

use crate::{
    check::quoted,
    failure::Failure,
    options::Options,
    paths::{self, Paths},
};

/// Replaces passwords, and commands, which can contain some, in output that is not redirected.
const MASK: &str = "********";
const MASKED: &str = "# written only if the output is redirected";

/// Settings whose value is also what this program does.
const IMPLIED: &[(&str, &[&str])] = &[
    ("add_missing_date_header", &["on", ""]),
    ("add_missing_from_header", &["on", ""]),
    ("allow_from_override", &["on"]),
    ("auto_from", &["off", "on", ""]), // see `maildomain`
    ("remove_bcc_headers", &["on", ""]),
    ("set_date_header", &["auto", ""]),
    ("set_from_header", &["auto", ""]),
    ("set_msgid_header", &["auto", ""]),
    ("tls_certcheck", &["on", ""]),
    ("undisclosed_recipients", &["off"]),
];

/// The settings of an account, in order. Of a repeated one, the last value applies.
#[derive(Clone, Default)]
struct Settings(Vec<(String, String)>);

impl Settings {
    fn set(&mut self, key: &str, value: &str) {
        self.0.retain(|(known, _)| known != key);
        self.0.push((key.to_owned(), value.to_owned()));
    }

    /// Takes a setting, so that those that are left are not supported. Empty values are unset.
    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.remove(at).1).filter(|value| !value.is_empty())
    }

    fn take_switch(&mut self, key: &str, default: bool) -> bool {
        let at = self.0.iter().position(|(known, _)| known == key);
        at.map_or(default, |at| matches!(&*self.0.remove(at).1, "on" | ""))
    }
}

/// Converts the msmtprc that the options name, or that of the user or the system.
pub fn read(options: &Options) -> Result<String, Failure> {
    let paths = Paths::from_env();
    let places = match &options.msmtprc {
        Some(file) => vec![PathBuf::from(file)],
        None => paths.msmtprc(),
    };
    let found = places.iter().find(|file| file.exists()).or(places.last());
    let Some(file) = found else { return Err(Failure::config("$HOME is not set")) };
    let octets = File::open(file).and_then(|opened| paths::read_small(&opened));
    let octets = octets.map_err(|e| Failure::file(file, e))?;
    let converted = convert(&String::from_utf8_lossy(&octets), !io::stdout().is_terminal());
    converted.map_err(|e| Failure::config(format!("{}, {e}", file.display())))
}

/// Converts an msmtprc. Passwords are written only if `shows_secrets`.
fn convert(text: &str, shows_secrets: bool) -> Result<String, String> {
    let mut accounts = accounts(text)?;
    let mut global = String::from("# Converted from the configuration of msmtp.\n");
    let mut tables = String::new();
    if accounts.iter().any(|(name, _)| name == "default") {
        global.push_str("default-account = \"default\"\n");
    }
    // In msmtp, these belong to an account. Those of the default account apply, else those of the first.
    accounts.sort_by_key(|(name, _)| name != "default");
    let mut known = Vec::<(&str, String)>::new();
    for (name, settings) in &mut accounts {
        let mut found = Vec::new();
        let has_syslog = settings.take("syslog").is_some_and(|value| value != "off");
        found.extend(settings.take("logfile").filter(|_| !has_syslog).map(|file| ("log", file)));
        found.extend(settings.take("aliases").map(|file| ("aliases", file)));
        found.extend(settings.take("maildomain").map(|domain| ("domain", domain)));
        for (key, value) in found {
            match known.iter().find(|(other, _)| *other == key) {
                None => {
                    let _ = writeln!(global, "{key} = {}", quoted(&value));
                    known.push((key, value));
                }
                Some((_, first)) if *first == value => {}
                Some(_) => {
                    let _ = writeln!(
                        global,
                        "# account {name}: {key} = {} (not supported: one for all accounts)",
                        quoted(&value)
                    );
                }
            }
        }
        let _ = write!(tables, "\n[account.{}]\n{}", quoted(name), account(settings, shows_secrets));
    }
    Ok(global + &tables)
}

/// Reads the accounts, with what they inherit.
fn accounts(text: &str) -> Result<Vec<(String, Settings)>, String> {
    let mut defaults = Settings::default();
    let mut accounts: Vec<(String, Settings)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fail = |why: &str| Err(format!("line {}: {why}", number + 1));
        let (key, value) = line.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((line, ""));
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        match key {
            _ if line.chars().any(|c| c.is_control() && c != '\t') => return fail("control character"),
            // The nameless account stands for the defaults.
            "defaults" => accounts.push((String::new(), Settings::default())),
            "account" => {
                let (name, bases) = value.split_once(':').unwrap_or((value, ""));
                let mut settings = defaults.clone();
                for base in bases.split(',').map(str::trim).filter(|base| !base.is_empty()) {
                    let Some((_, base)) = accounts.iter().find(|(name, _)| name == base) else {
                        return fail("an account inherits from one that is not known");
                    };
                    base.0.iter().for_each(|(key, value)| settings.set(key, value));
                }
                accounts.push((name.trim().to_owned(), settings));
            }
            _ => match accounts.last_mut() {
                Some((name, settings)) if !name.is_empty() => settings.set(key, value),
                _ => defaults.set(key, value),
            },
        }
    }
    accounts.retain(|(name, _)| !name.is_empty());
    if accounts.is_empty() && !defaults.0.is_empty() {
        accounts.push(("default".to_owned(), defaults));
    }
    Ok(accounts)
}

/// Writes the keys of an account.
fn account(settings: &mut Settings, shows_secrets: bool) -> String {
    let mut out = String::new();
    let mut line = |text: String| out.extend([text.as_str(), "\n"]);
    let text = |key: &str, value: &str| format!("{key} = {}", quoted(value));
    line(url(settings));
    login(settings, shows_secrets, &mut line);
    match (settings.take("proxy_host"), settings.take("proxy_port")) {
        (Some(host), port) => {
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            line(text("proxy", &format!("socks5://{host}:{}", port.as_deref().unwrap_or("1080"))));
        }
        (None, Some(port)) => line(format!("# not supported: proxy_port {port}")),
        (None, None) => {}
    }
    match settings.take("tls_trust_file").as_deref() {
        None | Some("system" | "/etc/ssl/certs/ca-certificates.crt") => {}
        Some(file) => {
            line(text("ca-file", file));
            line("system-cas = false".to_owned());
        }
    }
    for (key, ours) in [("tls_cert_file", "client-certificate"), ("tls_key_file", "client-key")] {
        settings.take(key).into_iter().for_each(|file| line(text(ours, &file)));
    }
    match settings.take("from") {
        Some(from) if !from.contains(['%', '*', '?', '[']) => line(text("from", &from)),
        Some(from) => match from.strip_prefix("*@").or(from.strip_prefix("%U@")) {
            Some(domain) if !domain.contains(['%', '*', '?', '[']) => {
                line(format!("senders = [{}]", quoted(&format!("@{domain}"))));
            }
            _ => line(format!("# not supported: from {from}")),
        },
        None => {}
    }
    match settings.take("domain") {
        Some(name) if name.contains('%') => line(format!("# not supported: domain {name}")),
        Some(name) => line(text("hello-name", &name)),
        None => {}
    }
    match settings.take("timeout") {
        Some(seconds) if seconds.bytes().all(|b| b.is_ascii_digit()) => line(format!("timeout = {seconds}")),
        Some(other) => line(format!("# not supported: timeout {other}")),
        None => {}
    }
    for (key, value) in &settings.0 {
        let is_implied = |(known, values): &(&str, &[&str])| known == key && values.contains(&&**value);
        if !value.is_empty() && !IMPLIED.iter().any(is_implied) {
            let value = if key == "eval" && !shows_secrets { MASK } else { value };
            line(format!("# not supported: {key} {value}"));
        }
    }
    out
}

fn url(settings: &mut Settings) -> String {
    let (host, port, socket) = (settings.take("host"), settings.take("port"), settings.take("socket"));
    let is_lmtp = settings.take("protocol").as_deref() == Some("lmtp");
    let (has_tls, has_starttls) =
        (settings.take_switch("tls", false), settings.take_switch("tls_starttls", true));
    let scheme = if is_lmtp { "lmtp" } else { "smtp" };
    if let Some(path) = socket {
        return format!("url = {}", quoted(&format!("{scheme}+unix:{path}")));
    }
    let Some(host) = host else { return "# url = missing: there is no host".to_owned() };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let (scheme, default, parameter) = match (has_tls, has_starttls) {
        (true, false) if is_lmtp => return "# not supported: LMTP with TLS from the start".to_owned(),
        (true, false) => ("smtps", "465", ""),
        (true, true) => (scheme, "25", "?tls=required"),
        (false, _) => (scheme, "25", "?tls=none"),
    };
    format!(
        "url = {}",
        quoted(&format!("{scheme}://{host}:{}{parameter}", port.as_deref().unwrap_or(default)))
    )
}

fn login(settings: &mut Settings, shows_secrets: bool, line: &mut dyn FnMut(String)) {
    let auth =
        settings.0.iter().any(|(key, _)| key == "auth").then(|| settings.take("auth").unwrap_or_default());
    let (user, password) = (settings.take("user"), settings.take("password"));
    let command = settings.take("passwordeval");
    let Some(method) = auth.filter(|method| method != "off").map(|method| method.to_ascii_uppercase()) else {
        return;
    };
    let is_token = matches!(&*method, "OAUTHBEARER" | "XOAUTH2");
    match &*method {
        "ON" | "" => {}
        "PLAIN" | "LOGIN" | "SCRAM-SHA-1" | "SCRAM-SHA-256" | "CRAM-MD5" | "EXTERNAL" => {
            line(format!("auth = {}", quoted(&method)));
        }
        _ if is_token => line(format!("auth = {}", quoted(&method))),
        _ => line(format!("# not supported: auth {}", method.to_ascii_lowercase())),
    }
    let Some(user) = user.filter(|_| method != "EXTERNAL") else { return };
    let kind = if is_token { "token" } else { "password" };
    match (password, command) {
        (_, Some(command)) => {
            line(format!("user = {}", quoted(&user)));
            line(if shows_secrets {
                format!("{kind}-command = [\"sh\", \"-c\", {}]", quoted(&command))
            } else {
                format!("{kind}-command = \"{MASK}\" {MASKED}")
            });
        }
        (Some(password), None) if !is_token => {
            line(format!("user = {}", quoted(&user)));
            line(if shows_secrets {
                format!("password = {}", quoted(&password))
            } else {
                format!("password = \"{MASK}\" {MASKED}")
            });
        }
        _ => line(format!("# user = {} # add {kind}-command or {kind}-file", quoted(&user))),
    }
}
