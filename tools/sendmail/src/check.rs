//! `--check` and `--print-config`: what the program would do.

use std::{fmt::Write, time::Duration};

use postino::{Address, ServerReport};

use crate::{
    accounts::{Account, Login, Server, Trouble, has_login, has_proxy_login},
    config::{Aliases, Config, Log},
    failure::Failure,
    message::Local,
    queue::Queue,
    secret::Secret,
};

const MASK: &str = "********";

/// Describes the aliases and the spool, and returns what is wrong with them.
pub fn describe_local(config: &Config, local: &Local) -> (String, Vec<Failure>) {
    let (mut text, mut failures) = (String::new(), Vec::new());
    match &local.aliases {
        Ok(aliases) => {
            add(&mut text, "aliases", &aliases.summary());
            failures.extend(aliases.errors());
            // An error is among those of the aliases.
            if let Ok(found) =
                Address::new("root").map_err(Trouble::Smtp).and_then(|root| local.recipients(root))
            {
                let found: Vec<_> = found.iter().map(Address::as_str).collect();
                add(&mut text, "mail to root", &found.join(", "));
            }
        }
        Err(failure) => failures.push(failure.clone()),
    }
    match Queue::open(config).and_then(|spool| spool.map(|spool| spool.summary()).transpose()) {
        Ok(spool) => add(&mut text, "spool", &spool.unwrap_or_else(|| "none".to_owned())),
        Err(failure) => failures.push(failure),
    }
    (text.trim_end().to_owned(), failures)
}

/// Describes a server to which a login has succeeded.
pub fn describe(server: &Server, report: &ServerReport) -> String {
    let mut text = format!("server: {}\n", server.relay());
    if let Some(proxy) = &server.proxy {
        add(&mut text, "proxy", &masked_proxy(proxy));
    }
    if let Some(address) = report.peer {
        add(&mut text, "connected to", &address.to_string());
    }
    if let Some(greeting) = &report.greeting {
        add(&mut text, "greeting", &greeting.to_string());
    }
    let tls = if report.tls.is_some() { "yes, and the certificate is valid" } else { "no" };
    add(&mut text, "TLS", tls);
    add(&mut text, "capabilities", &report.capabilities.to_string());
    let login = match &server.login {
        Login::Password(user, _) => format!("accepted for {user}"),
        Login::Token(user, _) => format!("token accepted for {user}"),
        Login::External => "accepted by certificate".to_owned(),
        Login::None if has_login(&server.url) => "accepted".to_owned(),
        Login::None => "none configured".to_owned(),
    };
    add(&mut text, "login", &login);
    text
}

fn add(text: &mut String, name: &str, value: &str) {
    let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _infallible = writeln!(text, "{name}: {value}");
}

/// Writes the configuration as TOML, with all secrets masked, and the values that apply without it as comments.
pub fn print_config(config: &Config, local: &Local) -> String {
    let mut text = format!("# {}\n", config.origin());
    let mut line = |line: String| text += &(line + "\n");
    match &config.domain {
        Some(domain) => line(format!("domain = {}", quoted(domain))),
        None => line(format!("# domain = {}", quoted(&local.domain))),
    }
    match &config.aliases {
        Aliases::Default => line("# aliases = \"/etc/aliases\"".to_owned()),
        Aliases::None => line("aliases = \"\"".to_owned()),
        Aliases::File(file) => line(format!("aliases = {}", quoted(&file.to_string_lossy()))),
    }
    match &config.log {
        Log::Syslog => line("log = \"syslog\"".to_owned()),
        Log::None => line("log = \"none\"".to_owned()),
        Log::File(file) => line(format!("log = {}", quoted(&file.to_string_lossy()))),
    }
    if let Some(name) = &config.default_account {
        line(format!("default-account = {}", quoted(name)));
    }
    for entry in spool(config) {
        line(entry);
    }
    for entry in account(&config.base) {
        line(entry);
    }
    for entry in &config.accounts {
        line(format!("\n[account.{}]", quoted(&entry.name)));
        for entry in account(entry) {
            line(entry);
        }
    }
    if !config.rewrite.is_empty() {
        line("\n[rewrite]".to_owned());
        for (from, to) in &config.rewrite {
            line(format!("{} = {}", quoted(from), quoted(to)));
        }
    }
    text
}

fn spool(config: &Config) -> Vec<String> {
    let spool = &config.spool;
    let mut lines = Vec::new();
    if let Some(folder) = &spool.folder {
        lines.push(format!("spool = {}", quoted(&folder.to_string_lossy())));
    }
    lines.extend(spool.max_messages.map(|count| format!("spool-max-messages = {count}")));
    lines.extend(spool.max_bytes.map(|count| format!("spool-max-bytes = {count}")));
    if !spool.retry.is_empty() {
        let waits: Vec<_> = spool.retry.iter().map(|wait| seconds(*wait)).collect();
        lines.push(format!("retry = [{}]", waits.join(", ")));
    }
    lines.extend(spool.give_up_after.map(|limit| format!("give-up-after = {}", seconds(limit))));
    lines
}

fn account(account: &Account) -> Vec<String> {
    let mut lines = Vec::new();
    let mut text = |key: &str, value: Option<&str>| {
        lines.extend(value.map(|value| format!("{key} = {}", quoted(value))));
    };
    text("url", account.url.as_deref().map(masked).as_deref());
    text("user", account.user.as_deref());
    for (name, secret) in [("password", &account.password), ("token", &account.token)] {
        match secret {
            None => {}
            Some(Secret::Inline(_)) => text(name, Some(MASK)),
            Some(Secret::File(file)) => text(&format!("{name}-file"), Some(&file.to_string_lossy())),
            // Its arguments can be secret.
            Some(Secret::Command(_)) => text(&format!("{name}-command"), Some(MASK)),
        }
    }
    text("auth", account.auth.as_deref());
    text("proxy", account.proxy.as_deref().map(masked_proxy).as_deref());
    for (key, file) in [
        ("ca-file", &account.ca_file),
        ("client-certificate", &account.certificate),
        ("client-key", &account.key),
    ] {
        text(key, file.as_ref().map(|file| file.to_string_lossy()).as_deref());
    }
    text("from", account.from.as_deref());
    text("hello-name", account.hello_name.as_deref());
    if !account.senders.is_empty() {
        let senders: Vec<_> = account.senders.iter().map(|sender| quoted(sender)).collect();
        lines.push(format!("senders = [{}]", senders.join(", ")));
    }
    lines.extend(account.system_cas.map(|are_trusted| format!("system-cas = {are_trusted}")));
    lines.extend(account.timeout.map(|limit| format!("timeout = {}", seconds(limit))));
    lines.extend(account.deadline.map(|limit| format!("deadline = {}", seconds(limit))));
    lines
}

/// Masks the passwords of a URL: its own, and that of a proxy in its parameters.
fn masked(url: &str) -> String {
    let (server, parameters) = match url.split_once('?') {
        Some((server, _)) if has_proxy_login(url) => (server, format!("?{MASK}")),
        Some((server, parameters)) => (server, format!("?{parameters}")),
        None => (url, String::new()),
    };
    if !has_login(server) {
        return format!("{server}{parameters}");
    }
    let user = server.split_once("//").and_then(|(scheme, rest)| Some((scheme, rest.split_once(':')?.0)));
    let host = server.rsplit_once('@').map_or("", |(_, host)| host);
    match user {
        Some((scheme, user)) => format!("{scheme}//{user}:{MASK}@{host}{parameters}"),
        None => MASK.to_owned(),
    }
}

/// Masks the user and the password of a proxy's URL.
fn masked_proxy(url: &str) -> String {
    match (url.find("//"), url.rfind('@')) {
        (Some(start), Some(end)) if start < end => format!("{}{MASK}{}", &url[..start + 2], &url[end..]),
        (_, Some(_)) => MASK.to_owned(),
        _ => url.to_owned(),
    }
}

fn seconds(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => duration.as_secs().to_string(),
        nanos => format!("{}.{nanos:09}", duration.as_secs()),
    }
}

/// A basic string of TOML.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
