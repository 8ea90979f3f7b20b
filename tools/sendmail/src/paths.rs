//! The files of the system and of the user.

use std::{
    env,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Maximum size of a configuration or a file that it names, in octets.
const MAX_FILE: u64 = 1024 * 1024;

/// Where the files of the system are.
pub struct Paths {
    root: PathBuf,
    home: Option<PathBuf>,
}

impl Paths {
    /// Tests set `$POSTINO_ROOT`, the folder that contains `etc` and `dev`. In set-group-ID mode this variable does not
    /// exist: [`privilege::enter`](crate::privilege::enter) removes it.
    pub fn from_env() -> Paths {
        let root = env::var_os("POSTINO_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        Paths { root, home }
    }

    /// Returns the place of a file of the system, such as `etc/mailname`.
    pub fn system(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Returns the folder of the spool, if the configuration names no other.
    pub fn spool(&self) -> PathBuf {
        self.system("var/spool/postino")
    }

    pub fn system_config(&self) -> PathBuf {
        self.system("etc/postino.conf")
    }

    pub fn user_config(&self) -> Option<PathBuf> {
        Some(self.home.as_ref()?.join(".config/postino.conf"))
    }

    /// Returns the places of msmtp's configuration, in the order in which it looks for them.
    pub fn msmtprc(&self) -> Vec<PathBuf> {
        let home = |file: &str| Some(self.home.as_ref()?.join(file));
        let users = [".msmtprc", ".config/msmtp/config"].into_iter().filter_map(home);
        users.chain([self.system("etc/msmtprc")]).collect()
    }

    /// Returns a path of a configuration, with `~/` replaced by the user's home folder. `None` if it is relative.
    pub fn expand(&self, text: &str) -> Option<PathBuf> {
        match text.strip_prefix("~/") {
            Some(rest) => Some(self.home.as_ref()?.join(rest)),
            None => Some(PathBuf::from(text)).filter(|path| path.is_absolute()),
        }
    }
}

/// Reads the rest of a file that should be small.
pub fn read_small(file: &File) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > MAX_FILE {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(octets)
}

/// Reads a small text file of the system. Returns `None` if the file does not exist or cannot be read.
pub fn read_text(path: &Path) -> Option<String> {
    let octets = read_small(&File::open(path).ok()?).ok()?;
    Some(String::from_utf8_lossy(&octets).into_owned())
}
