//! Accounts of the configuration: which one is used, and how it logs in.

use std::{path::PathBuf, time::Duration};

use postino::{Address, Error};

use crate::{
    config::Config,
    failure::{CONFIG, Failure, USAGE},
    options::{Options, read},
    privilege::Lent,
    secret::Secret,
};

/// Whether the program can use TLS. A program without it does not contain what only TLS needs.
pub const HAS_TLS: bool = cfg!(any(feature = "native-tls", feature = "rustls"));

/// A server, its login, and the senders that it is used for.
#[derive(Clone, Default)]
pub struct Account {
    /// Empty for the account at the top level.
    pub name: String,
    pub url: Option<String>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub token: Option<Secret>,
    pub auth: Option<String>,
    /// The URL of a proxy.
    pub proxy: Option<String>,
    pub ca_file: Option<PathBuf>,
    /// Whether the system's certificate authorities are trusted. Unset means that they are.
    pub system_cas: Option<bool>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// The envelope sender, if the caller gives none.
    pub from: Option<String>,
    /// The envelope senders that choose this account: `user@example.org` or `@example.org`.
    pub senders: Vec<String>,
    pub hello_name: Option<String>,
    pub timeout: Option<Duration>,
    pub deadline: Option<Duration>,
}

impl Account {
    /// Returns the account's name for messages.
    pub fn title(&self) -> String {
        if self.name.is_empty() { "top level".to_owned() } else { format!("account {}", self.name) }
    }

    /// Whether the file itself contains a password.
    pub fn contains_secret(&self) -> bool {
        let mut secrets = [&self.password, &self.token].into_iter().flatten();
        let mut urls = [&self.url, &self.proxy].into_iter().flatten();
        secrets.any(Secret::is_inline) || urls.any(|url| has_login(url) || has_proxy_login(url))
    }

    pub fn has_command(&self) -> bool {
        [&self.password, &self.token].into_iter().flatten().any(Secret::is_command)
    }

    /// Finds keys that contradict each other.
    pub fn check(&self) -> Result<(), &'static str> {
        let has_secret = self.password.is_some() || self.token.is_some();
        match self {
            Account { password: Some(_), token: Some(_), .. } => Err("it has a password and a token"),
            Account { user: None, .. } if has_secret => Err("a password or a token needs a user"),
            Account { user: Some(_), .. } if !has_secret => Err("user needs a password or a token"),
            Account { user: Some(_), url: Some(url), .. } if has_login(url) => {
                Err("both the URL and user log in")
            }
            Account { url: None, user: Some(_), name, .. } if !name.is_empty() => {
                Err("a login belongs to a server: url is missing")
            }
            Account { certificate: None, key: Some(_), .. } => Err("client-key needs client-certificate"),
            _ => Ok(()),
        }
    }

    /// Fills in the keys of the top level. Those that belong to a server are inherited only together with its URL, so
    /// that no server gets the password of another.
    fn inheriting(&self, base: &Account) -> Account {
        let server = if self.url.is_some() { self } else { base };
        Account {
            name: self.name.clone(),
            url: server.url.clone(),
            user: server.user.clone(),
            password: server.password.clone(),
            token: server.token.clone(),
            auth: self.auth.clone().or_else(|| server.auth.clone()),
            proxy: self.proxy.clone().or_else(|| base.proxy.clone()),
            ca_file: self.ca_file.clone().or_else(|| base.ca_file.clone()),
            system_cas: self.system_cas.or(base.system_cas),
            certificate: server.certificate.clone(),
            key: server.key.clone(),
            from: self.from.clone().or_else(|| base.from.clone()),
            senders: self.senders.clone(),
            hello_name: self.hello_name.clone().or_else(|| base.hello_name.clone()),
            timeout: self.timeout.or(base.timeout),
            deadline: self.deadline.or(base.deadline),
        }
    }

    /// Whether an envelope sender chooses this account.
    fn is_for(&self, sender: &str) -> bool {
        let names = self.senders.iter().chain(&self.from);
        names.into_iter().any(|pattern| match pattern.strip_prefix('@') {
            Some(domain) => {
                sender.rsplit_once('@').is_some_and(|(_, domain_of)| domain_of.eq_ignore_ascii_case(domain))
            }
            None => sender.eq_ignore_ascii_case(pattern),
        })
    }
}

/// Whether a URL contains a user and a password, apart from those of its parameters.
pub fn has_login(url: &str) -> bool {
    let server = url.split_once('?').map_or(url, |(server, _)| server);
    server.contains('@') && !server.contains("+unix:")
}

/// Whether the parameters of a URL name a proxy with a user and a password. They are percent-encoded.
pub fn has_proxy_login(url: &str) -> bool {
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    parameters.contains('@') || parameters.contains("%40")
}

impl Config {
    /// Chooses the account: by its name, else by the sender, else the default one.
    pub fn choose(&self, name: Option<&str>, sender: Option<&Address>) -> Result<Account, Failure> {
        let unknown = |name| Failure::new(USAGE, format!("no account {name} in {}", self.origin()));
        // Known when compiling, so that a program without configuration files does not contain the rest.
        if cfg!(not(feature = "config")) {
            return name.map_or_else(|| Ok(Account::default()), |name| Err(unknown(name)));
        }
        let named = |name: &str| self.accounts.iter().find(|account| account.name == name);
        if let Some(name) = name {
            return Ok(named(name).ok_or_else(|| unknown(name))?.inheriting(&self.base));
        }
        let by_sender =
            sender.and_then(|sender| self.accounts.iter().find(|account| account.is_for(sender.as_str())));
        let default = || self.default_account.as_deref().and_then(named);
        match by_sender.or_else(default) {
            Some(account) => Ok(account.inheriting(&self.base)),
            None if self.base.url.is_some() || self.accounts.is_empty() => Ok(self.base.clone()),
            None => match &*self.accounts {
                [only] => Ok(only.inheriting(&self.base)),
                _ => {
                    let sender = sender.map_or("", Address::as_str);
                    let why = format!(
                        "no account for the sender <{sender}>, and none is the default (key default-account)"
                    );
                    Err(Failure::config(format!("{}: {why}", self.origin())))
                }
            },
        }
    }
}

/// How to log in.
pub enum Login {
    None,
    Password(String, String),
    Token(String, String),
    External,
}

/// A certificate and its key, in PEM.
pub struct ClientCertificate {
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
}

/// Certificates of authorities, and the file that contains them.
pub struct CaFile {
    pub certificates: Vec<u8>,
    path: PathBuf,
    /// The exit code if it is invalid.
    code: u8,
}

/// The settings of the connection, from the command line, the environment and the account.
pub struct Server {
    pub url: String,
    pub login: Login,
    pub auth: Option<String>,
    pub proxy: Option<String>,
    pub ca: Option<CaFile>,
    /// Only the authorities in `ca` are trusted.
    pub has_no_system_cas: bool,
    pub client_certificate: Option<ClientCertificate>,
    pub hello_name: Option<String>,
    pub timeout: Option<Duration>,
    pub deadline: Option<Duration>,
}

/// The settings could not be determined. Errors of the configuration have another exit code than errors of the command
/// line.
pub enum Trouble {
    Config(Failure),
    Smtp(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Smtp(error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Config(failure)
    }
}

impl Server {
    /// Determines the settings. The command line comes before the environment, and that before the account. A URL from
    /// the command line or the environment replaces the account's server with its login, so that its password is never
    /// sent to another server.
    ///
    /// Afterwards the group of set-group-ID mode is no longer needed, except for the spool. It is given up before a
    /// command runs.
    pub fn new(
        options: &Options,
        config: &mut Config,
        account: &Account,
        lent: Option<Lent>,
    ) -> Result<Server, Trouble> {
        let given = options.server()?;
        let account = if given.is_some() {
            &Account {
                hello_name: account.hello_name.clone(),
                timeout: account.timeout,
                deadline: account.deadline,
                ..Account::default()
            }
        } else {
            account
        };
        let url = given.or_else(|| account.url.clone()).unwrap_or_else(|| "smtp://localhost".to_owned());
        let auth = options.auth.clone().or_else(|| account.auth.clone());
        let ca = certificate(options.cafile.as_ref(), account.ca_file.as_ref(), config)?;
        let has_no_system_cas = options.no_system_cas || account.system_cas == Some(false);
        if has_no_system_cas && ca.is_none() {
            if !HAS_TLS {
                return Err(without_tls());
            }
            let (code, name) = if options.no_system_cas {
                (USAGE, "--no-system-cas")
            } else {
                (CONFIG, "system-cas = false")
            };
            let why = "needs a file with certificate authorities (key ca-file, option --cafile)";
            return Err(Failure::new(code, format!("{name} {why}")).into());
        }
        let client_certificate = client_certificate(options, account, config)?;
        if account.has_command() {
            config.give_up_group(lent)?;
        }
        let login = login(options, account, auth.as_deref(), config)?;
        config.give_up_group(lent)?;
        if auth.is_some() && matches!(login, Login::None) && !has_login(&url) {
            let why = "--auth needs a user and a password in the URL or in the configuration, or --user";
            return Err(Error::Config(why.into()).into());
        }
        Ok(Server {
            url,
            login,
            auth,
            proxy: account.proxy.clone(),
            ca,
            has_no_system_cas,
            client_certificate,
            hello_name: options.name.clone().or_else(|| account.hello_name.clone()),
            timeout: options.timeout.or(account.timeout),
            deadline: options.deadline.or(account.deadline),
        })
    }

    /// Returns the server of the URL without user and password.
    pub fn relay(&self) -> &str {
        relay(&self.url)
    }

    /// Adds the name of the file to an error about its certificates: the library knows only their content.
    pub fn trouble(&self, error: Error) -> Trouble {
        match (&self.ca, error) {
            (Some(ca), Error::Config(text)) if HAS_TLS && text.starts_with("the CA ") => {
                Failure::new(ca.code, format!("{}: {text}", ca.path.display())).into()
            }
            (_, error) => error.into(),
        }
    }
}

/// Returns the server of a URL without its scheme, user, password and parameters.
pub fn relay(url: &str) -> &str {
    let rest = url.split_once(':').map_or(url, |(_, rest)| rest);
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    if !has_login(url) {
        return rest.strip_prefix("//").unwrap_or(rest).trim_end_matches('/');
    }
    rest.rsplit_once('@').map_or("", |(_, server)| server).trim_end_matches('/')
}

/// The login of the command line, else that of the account.
fn login(
    options: &Options,
    account: &Account,
    auth: Option<&str>,
    config: &Config,
) -> Result<Login, Trouble> {
    if let Some(user) = &options.user {
        return Ok(Login::Token(user.clone(), options.token()?));
    }
    if auth == Some("EXTERNAL") {
        return Ok(Login::External);
    }
    let Some(user) = &account.user else { return Ok(Login::None) };
    match (&account.password, &account.token) {
        (Some(password), _) => Ok(Login::Password(user.clone(), password.reveal(config)?)),
        (None, Some(token)) => Ok(Login::Token(user.clone(), token.reveal(config)?)),
        (None, None) => {
            Err(Failure::new(CONFIG, format!("{}: user without a password", account.title())).into())
        }
    }
}

fn certificate(
    option: Option<&String>,
    key: Option<&PathBuf>,
    config: &Config,
) -> Result<Option<CaFile>, Trouble> {
    Ok(match (option, key) {
        (None, None) => None,
        _ if !HAS_TLS => return Err(without_tls()),
        (Some(path), _) => Some(CaFile { certificates: read(path)?, path: path.into(), code: USAGE }),
        (None, Some(path)) => {
            Some(CaFile { certificates: config.read(path)?, path: path.clone(), code: CONFIG })
        }
    })
}

fn client_certificate(
    options: &Options,
    account: &Account,
    config: &Config,
) -> Result<Option<ClientCertificate>, Trouble> {
    if !HAS_TLS {
        let is_given = options.cert.is_some() || account.certificate.is_some();
        return if is_given { Err(without_tls()) } else { Ok(None) };
    }
    if let Some(path) = &options.cert {
        let (chain, key) = (read(path)?, read(options.key.as_ref().unwrap_or(path))?);
        return Ok(Some(ClientCertificate { chain, key }));
    }
    let Some(path) = &account.certificate else { return Ok(None) };
    let key = config.read(account.key.as_ref().unwrap_or(path))?;
    Ok(Some(ClientCertificate { chain: config.read(path)?, key }))
}

fn without_tls() -> Trouble {
    Error::Config("this program was built without TLS (features native-tls, rustls)".into()).into()
}

#[cfg(all(test, feature = "config"))]
mod tests {
    use super::*;

    #[test]
    fn the_relay_taken_from_a_url_contains_no_login() {
        for (url, expected) in [
            ("smtp://u:p@mail.example.org:587?tls=required", "mail.example.org:587"),
            ("smtp://u%40x:p@a@h/", "h"),
            ("smtps://[::1]:465/", "[::1]:465"),
            ("lmtp+unix:/run/a@b", "/run/a@b"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(relay(url), expected, "{url}");
        }
    }

    fn account(name: &str, url: Option<&str>, senders: &[&str]) -> Account {
        let senders = senders.iter().map(|sender| (*sender).to_owned()).collect();
        Account { name: name.into(), url: url.map(str::to_owned), senders, ..Account::default() }
    }

    fn chosen(config: &Config, name: Option<&str>, sender: &str) -> String {
        let sender = Address::new(sender).ok();
        config.choose(name, sender.as_ref()).map_or_else(|failure| failure.text, |account| account.name)
    }

    #[test]
    fn accounts_are_chosen_by_name_then_by_sender() {
        let accounts = vec![
            account("work", Some("smtp://w"), &["@work.example", "Boss@Example.org"]),
            account("home", Some("smtp://h"), &["me@work.example", "me@home.example"]),
        ];
        let mut config = Config { accounts, ..Config::default() };
        assert_eq!(chosen(&config, Some("home"), "a@work.example"), "home");
        assert_eq!(chosen(&config, None, "a@WORK.example"), "work");
        assert_eq!(chosen(&config, None, "me@work.example"), "work", "the first one that fits");
        assert_eq!(chosen(&config, None, "boss@example.org"), "work");
        assert_eq!(chosen(&config, None, "me@home.example"), "home");
        assert!(chosen(&config, None, "x@elsewhere").contains("no account for the sender <x@elsewhere>"));
        assert!(chosen(&config, Some("other"), "").contains("no account other in no configuration file"));
        config.default_account = Some("home".into());
        assert_eq!(chosen(&config, None, "x@elsewhere"), "home");
        config.default_account = None;
        config.base = account("", Some("smtp://b"), &[]);
        assert_eq!(chosen(&config, None, "x@elsewhere"), "");
    }

    #[test]
    fn no_account_inherits_the_login_of_another_server() {
        let base = Account {
            user: Some("u".into()),
            password: Some(Secret::Inline("p".into())),
            timeout: Some(Duration::from_secs(5)),
            ..account("", Some("smtp://b"), &[])
        };
        let config = Config {
            accounts: vec![account("own", Some("smtp://o"), &[]), account("same", None, &[])],
            base,
            ..Config::default()
        };
        let own = config.choose(Some("own"), None).unwrap_or_default();
        assert!(own.user.is_none() && own.password.is_none() && own.timeout.is_some());
        let same = config.choose(Some("same"), None).unwrap_or_default();
        assert!(same.user.is_some() && same.password.is_some());
        assert_eq!(same.url.as_deref(), Some("smtp://b"));
    }
}
