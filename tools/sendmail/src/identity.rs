//! Who sends the message, and from which machine.

use rustix::{process::getuid, system::uname};

use crate::paths::{Paths, read_text};

/// The calling user.
pub struct User {
    pub name: String,
    /// The name of the person, from the user database. It can be empty.
    pub full_name: String,
}

impl User {
    /// Finds the calling user in `/etc/passwd`. Several names can have one number; `$LOGNAME` chooses among them.
    pub fn calling(paths: &Paths) -> User {
        let number = getuid().as_raw();
        let text = read_text(&paths.system("etc/passwd")).unwrap_or_default();
        let logname = std::env::var("LOGNAME").unwrap_or_default();
        find(&text, number, &logname)
            .unwrap_or_else(|| User { name: format!("uid{number}"), full_name: String::new() })
    }
}

fn find(passwd: &str, number: u32, logname: &str) -> Option<User> {
    let mut users = passwd.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, uid, _, gecos, ..] = fields[..] else { return None };
        (uid.parse() == Ok(number)).then(|| User { name: name.to_owned(), full_name: full_name(gecos, name) })
    });
    let first = users.next()?;
    if first.name == logname {
        return Some(first);
    }
    Some(users.find(|user| user.name == logname).unwrap_or(first))
}

/// Reads the first part of a GECOS field, in which `&` is the capitalized login name.
fn full_name(gecos: &str, login: &str) -> String {
    let name = gecos.split(',').next().unwrap_or_default();
    if !name.contains('&') {
        return name.trim().to_owned();
    }
    let mut letters = login.chars();
    let capitalized: String =
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    name.replace('&', &capitalized).trim().to_owned()
}

/// Returns the domain for addresses without one: that of `/etc/mailname`, else the full name of the host, else its
/// short name, else `localhost`.
pub fn default_domain(paths: &Paths) -> String {
    let mailname = read_text(&paths.system("etc/mailname")).unwrap_or_default();
    let mailname = mailname.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    if let Some(domain) = mailname.filter(|domain| is_domain(domain)) {
        return domain.to_owned();
    }
    let uname = uname();
    let node = uname.nodename().to_string_lossy();
    if !is_domain(&node) {
        return "localhost".to_owned();
    }
    if node.contains('.') {
        return node.into_owned();
    }
    let hosts = read_text(&paths.system("etc/hosts")).unwrap_or_default();
    canonical(&hosts, &node).unwrap_or_else(|| node.into_owned())
}

fn is_domain(text: &str) -> bool {
    postino::Address::new(&format!("x@{text}")).is_ok()
}

/// Finds the full name of a host in `/etc/hosts`.
fn canonical(hosts: &str, node: &str) -> Option<String> {
    hosts.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let names: Vec<_> = line.split_ascii_whitespace().skip(1).collect();
        if !names.iter().any(|name| name.eq_ignore_ascii_case(node)) {
            return None;
        }
        let full = names.into_iter().find(|name| name.contains('.') && !name.starts_with("localhost."));
        full.filter(|name| is_domain(name)).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_user_id() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0:The & Other,room 1,555:/root:/bin/sh\nbad\n\
            bob:x:7:7::/:/bin/sh\n";
        let found = |number, logname| find(passwd, number, logname).map(|user| (user.name, user.full_name));
        assert_eq!(found(0, ""), Some(("root".into(), "root".into())));
        assert_eq!(found(0, "toor"), Some(("toor".into(), "The Toor Other".into())));
        assert_eq!(
            found(0, "bob"),
            Some(("root".into(), "root".into())),
            "a number is not forged by a variable"
        );
        assert_eq!(found(7, "root"), Some(("bob".into(), String::new())));
        assert_eq!(found(8, "bob"), None);
    }

    #[test]
    fn the_full_name_of_a_host_is_read_from_the_hosts_file() {
        let hosts = "127.0.0.1 localhost localhost.localdomain\n::1 router # router.example.org\n\
            127.0.1.1 router.example.org router\n10.0.0.1 other.example.org other\n";
        assert_eq!(canonical(hosts, "ROUTER").as_deref(), Some("router.example.org"));
        assert_eq!(canonical(hosts, "localhost"), None);
        assert_eq!(canonical(hosts, "nobody"), None);
    }
}
