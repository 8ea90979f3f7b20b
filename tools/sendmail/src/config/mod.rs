//! The configuration file: which file is read, and whether it may be used.
//!
//! Exactly one file is used: the one given by `-C`, else the user's, else the system's. Merging the user's with the
//! system's could send the password of one to the server of the other.

#[cfg(feature = "config")]
mod reader;
#[cfg(not(feature = "config"))]
#[path = "without_reader.rs"]
mod reader;

use std::{
    fs::{File, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    accounts::Account,
    failure::Failure,
    paths::{Paths, read_small},
    privilege::{self, Lent},
};

/// The settings of one configuration file, or the defaults.
#[derive(Default)]
pub struct Config {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The group that reads the files named in the configuration: in set-group-ID mode, if it is the system's.
    pub lent: Option<Lent>,
    /// The name of the account that is used if no other was chosen.
    pub default_account: Option<String>,
    /// The keys of an account at the top level, which are also the defaults of the other accounts.
    pub base: Account,
    pub accounts: Vec<Account>,
    /// The domain of addresses without one. An empty text leaves them as they are.
    pub domain: Option<String>,
    pub aliases: Aliases,
    /// Senders and their replacements.
    pub rewrite: Vec<(String, String)>,
    pub log: Log,
    pub spool: Spool,
}

/// The key `aliases`.
#[derive(Default, PartialEq, Eq)]
pub enum Aliases {
    /// `/etc/aliases`, if it exists.
    #[default]
    Default,
    /// An empty text: no aliases.
    None,
    File(PathBuf),
}

/// The key `log`.
#[derive(Default, PartialEq, Eq)]
pub enum Log {
    #[default]
    Syslog,
    None,
    File(PathBuf),
}

/// The keys of the spool, which keeps messages that cannot be sent now.
#[derive(Default)]
pub struct Spool {
    /// The folder. `None` is off.
    pub folder: Option<PathBuf>,
    pub max_messages: Option<u64>,
    /// Maximum size of all messages together, in octets.
    pub max_bytes: Option<u64>,
    /// The waits before each retry. The last one is repeated.
    pub retry: Vec<Duration>,
    pub give_up_after: Option<Duration>,
}

impl Config {
    /// Reads the configuration. `given` is the file of `-C`. If the server is given in another way (`has_server`), a
    /// configuration of the system that the caller may not read is skipped.
    pub fn load(
        paths: &Paths,
        lent: Option<Lent>,
        given: Option<&str>,
        has_server: bool,
    ) -> Result<Config, Failure> {
        if let Some(given) = given {
            let file = Path::new(given);
            let opened = File::open(file).map_err(|e| Failure::file(file, e))?;
            return reader::read(file, &opened, paths, &Source::User(lent));
        }
        if let Some(file) = paths.user_config() {
            match File::open(&file) {
                Ok(opened) => return reader::read(&file, &opened, paths, &Source::User(lent)),
                // `$HOME` can belong to another user, whose configuration does not apply.
                Err(e) if is_absent(&e) || e.kind() == ErrorKind::PermissionDenied => {}
                Err(e) => return Err(Failure::file(&file, e)),
            }
        }
        let file = paths.system_config();
        match privilege::with(lent, || File::open(&file))? {
            Ok(opened) => reader::read(&file, &opened, paths, &Source::System(lent)),
            Err(e) if is_absent(&e) || has_server && e.kind() == ErrorKind::PermissionDenied => {
                Ok(Config::default())
            }
            Err(e) => Err(Failure::file(&file, e)),
        }
    }

    /// Returns where the settings come from, for messages.
    pub fn origin(&self) -> String {
        self.file
            .as_ref()
            .map_or_else(|| "no configuration file".to_owned(), |file| file.display().to_string())
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Whose configuration it is, and the group of set-group-ID mode.
enum Source {
    User(Option<Lent>),
    System(Option<Lent>),
}

fn check_secrecy(file: &Path, meta: &Metadata) -> Result<(), Failure> {
    if meta.mode() & 0o004 == 0 {
        return Ok(());
    }
    Err(Failure::file(file, "it contains a password and can be read by everyone (fix: chmod o-r)"))
}

impl Config {
    fn all_accounts(&self) -> impl Iterator<Item = &Account> {
        std::iter::once(&self.base).chain(&self.accounts)
    }

    /// Reads a file that the configuration names.
    pub fn read(&self, file: &Path) -> Result<Vec<u8>, Failure> {
        let opened = privilege::with(self.lent, || File::open(file))?;
        opened.and_then(|opened| read_small(&opened)).map_err(|e| Failure::file(file, e))
    }

    /// Reads the first line of a file with a password or a token.
    pub fn read_secret(&self, file: &Path) -> Result<String, Failure> {
        let opened = privilege::with(self.lent, || File::open(file))?.map_err(|e| Failure::file(file, e))?;
        check_secrecy(file, &opened.metadata().map_err(|e| Failure::file(file, e))?)?;
        let octets = read_small(&opened).map_err(|e| Failure::file(file, e))?;
        first_line(octets).map_err(|why| Failure::file(file, why))
    }

    /// Gives up the group for the rest of the process, unless the spool needs it. While it is kept, it is suspended.
    pub fn give_up_group(&mut self, lent: Option<Lent>) -> Result<(), Failure> {
        match lent {
            Some(lent) if self.spool.folder.is_none() => {
                self.lent = None;
                lent.give_up()
            }
            _ => Ok(()),
        }
    }
}

/// Returns the first line of the text that contains a secret.
pub fn first_line(octets: Vec<u8>) -> Result<String, &'static str> {
    let text = String::from_utf8(octets).map_err(|_| "not UTF-8")?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err("the first line is empty"),
    }
}
