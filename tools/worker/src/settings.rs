//! The settings of the program: a file in TOML, and the environment, which overrides it.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::Duration,
};

use postino::{Builder, Client};
use postino_worker::{Error, Lane, Settings};
use toml::de::{DeTable, DeValue};

/// The settings of the program.
pub struct Program {
    pub settings: Settings,
    /// How long SIGTERM waits for replies before connections are closed. Defaults to one minute.
    pub grace: Duration,
}

/// The keys of a lane.
#[derive(Default)]
struct LaneKeys {
    url: Option<String>,
    user: Option<String>,
    password: Option<String>,
    /// Whether the password is in the file itself.
    has_password: bool,
    connections: Option<f64>,
    window: Option<f64>,
    rate: Option<f64>,
    burst: Option<f64>,
    timeout: Option<Duration>,
    final_reply_timeout: Option<Duration>,
    chunking: bool,
}

/// Reads the settings from the file, if there is one, and the environment. `server` is the URL on the command line, if
/// any.
pub fn read(file: Option<PathBuf>, server: Option<String>) -> Result<Program, Error> {
    let named = file.or_else(|| env::var_os("POSTINO_WORKER_CONFIG").map(PathBuf::from));
    let file = named.clone().unwrap_or_else(|| PathBuf::from("/etc/postino-worker.toml"));
    let mut program = Program { settings: Settings::new("", Vec::new()), grace: Duration::from_secs(60) };
    let mut lanes = BTreeMap::new();
    match fs::read_to_string(&file) {
        Ok(text) => {
            let in_file = |e: String| Error::Config(format!("{}: {e}", file.display()));
            let has_secret = parse(&text, &mut program, &mut lanes).map_err(in_file)?;
            let mode = fs::metadata(&file).map_or(0, |metadata| metadata.permissions().mode());
            if has_secret && mode & 0o004 != 0 {
                return Err(in_file("it contains a password and is readable by everyone".to_owned()));
            }
        }
        Err(e) if named.is_some() || e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::Config(format!("{}: {e}", file.display())));
        }
        Err(_) => {}
    }
    environment(&mut program, &mut lanes, server).map_err(Error::Config)?;
    for (name, keys) in lanes {
        let lane = lane(&name, keys).map_err(|e| Error::Config(format!("lane {name}: {e}")))?;
        program.settings.lanes.push(lane);
    }
    Ok(program)
}

fn environment(
    program: &mut Program,
    lanes: &mut BTreeMap<String, LaneKeys>,
    server: Option<String>,
) -> Result<(), String> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let number = |name: &str| match variable(name) {
        Some(text) => text.parse().map(Some).map_err(|_| format!("{name}: not a number: {text}")),
        None => Ok(None),
    };
    if let Some(url) = variable("POSTINO_WORKER_DATABASE").or_else(|| variable("DATABASE_URL")) {
        program.settings.database = url;
    }
    if let Some(files) = variable("POSTINO_WORKER_FILES") {
        program.settings.files = Some(files.into());
    }
    if let Some(url) = server.or_else(|| variable("POSTINO_WORKER_URL")) {
        // The login in the file belongs to the server in the file.
        let lane = lanes.entry("default".to_owned()).or_default();
        (lane.url, lane.user, lane.password) = (Some(url), None, None);
    }
    let (connections, window) = (number("POSTINO_WORKER_CONNECTIONS")?, number("POSTINO_WORKER_WINDOW")?);
    for lane in lanes.values_mut() {
        lane.connections = connections.or(lane.connections);
        lane.window = window.or(lane.window);
    }
    Ok(())
}

/// Reads the text of a file. Returns whether it contains a secret.
fn parse(text: &str, program: &mut Program, lanes: &mut BTreeMap<String, LaneKeys>) -> Result<bool, String> {
    // Not `Display`, which shows the line: it may contain a password.
    let table = DeTable::parse(text).map_err(|e| {
        let before = text.get(..e.span().map_or(0, |span| span.start)).unwrap_or(text);
        format!("line {}: {}", 1 + before.matches('\n').count(), e.message())
    })?;
    let settings = &mut program.settings;
    for (key, value) in table.get_ref() {
        let (key, value) = (key.get_ref().as_ref(), value.get_ref());
        match key {
            "database" => settings.database = string(key, value)?,
            "files" => settings.files = Some(string(key, value)?.into()),
            "poll" => settings.poll = duration(key, value)?,
            "idle" => settings.idle = duration(key, value)?,
            "reap" => settings.reap = duration(key, value)?,
            "grace" => program.grace = duration(key, value)?,
            "retry" => {
                for (key, value) in entries(key, value)? {
                    match key {
                        "first" => settings.backoff.first = duration(key, value)?,
                        "max" => settings.backoff.max = duration(key, value)?,
                        "give_up_after" => settings.backoff.give_up_after = duration(key, value)?,
                        _ => return Err(format!("unknown key retry.{key}")),
                    }
                }
            }
            "lane" => {
                for (name, value) in entries(key, value)? {
                    let mut lane = LaneKeys::default();
                    for (key, value) in entries(name, value)? {
                        read_lane(&mut lane, key, value).map_err(|e| format!("lane.{name}: {e}"))?;
                    }
                    lanes.insert(name.to_owned(), lane);
                }
            }
            _ => return Err(format!("unknown key {key}")),
        }
    }
    let in_url = |url: &str| url.rsplit_once('@').is_some_and(|(user, _)| user.matches(':').count() > 1);
    let database = in_url(&settings.database) || settings.database.contains("password=");
    Ok(database || lanes.values().any(|lane| lane.has_password || lane.url.as_deref().is_some_and(in_url)))
}

fn read_lane(lane: &mut LaneKeys, key: &str, value: &DeValue<'_>) -> Result<(), String> {
    match key {
        "url" => lane.url = Some(string(key, value)?),
        "user" => lane.user = Some(string(key, value)?),
        "password" => (lane.password, lane.has_password) = (Some(string(key, value)?), true),
        "password_file" => {
            let path = string(key, value)?;
            let mut text = String::new();
            let file = File::open(&path).and_then(|file| file.take(65_536).read_to_string(&mut text));
            file.map_err(|e| format!("{path}: {e}"))?;
            lane.password = Some(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        "connections" => lane.connections = Some(number(key, value)?),
        "window" => lane.window = Some(number(key, value)?),
        "rate" => lane.rate = Some(number(key, value)?),
        "burst" => lane.burst = Some(number(key, value)?),
        "timeout" => lane.timeout = Some(duration(key, value)?),
        "final_reply_timeout" => lane.final_reply_timeout = Some(duration(key, value)?),
        "chunking" => {
            let DeValue::Boolean(chunking) = value else { return Err(format!("{key}: not true or false")) };
            lane.chunking = *chunking;
        }
        _ => return Err(format!("unknown key {key}")),
    }
    Ok(())
}

fn lane(name: &str, keys: LaneKeys) -> Result<Lane, String> {
    let url = keys.url.ok_or("url is missing")?;
    let mut server: Builder = Client::from_url(&url).map_err(|e| e.to_string())?;
    server = match (&keys.user, &keys.password) {
        (Some(user), Some(password)) => server.credentials(user, password),
        (None, None) => server,
        _ => return Err("user and password must be set together".to_owned()),
    };
    if let Some(limit) = keys.timeout {
        server = server.timeout(limit);
    }
    if let Some(limit) = keys.final_reply_timeout {
        server = server.final_reply_timeout(limit);
    }
    let whole = |key: &str, value: Option<f64>, default: usize, max: f64| match value {
        None => Ok(default),
        Some(value) if value.fract() == 0.0 && (1.0..=max).contains(&value) => Ok(value as usize),
        Some(value) => Err(format!("{key}: {value} is not a whole number from 1 to {max}")),
    };
    let positive = |key: &str, value: Option<f64>, min: f64| match value {
        Some(value) if !value.is_finite() || value < min => {
            Err(format!("{key}: {value} is not {min} or more"))
        }
        other => Ok(other),
    };
    let mut lane = Lane::new(name, server.chunking(keys.chunking));
    lane.connections = whole("connections", keys.connections, lane.connections, 1000.0)?;
    lane.window = whole("window", keys.window, lane.window, 1000.0)?;
    lane.rate = positive("rate", keys.rate, 0.0001)?;
    lane.burst = positive("burst", keys.burst, 1.0)?;
    Ok(lane)
}

fn entries<'t>(key: &str, value: &'t DeValue<'_>) -> Result<Vec<(&'t str, &'t DeValue<'t>)>, String> {
    let DeValue::Table(table) = value else { return Err(format!("{key}: not a table")) };
    Ok(table.iter().map(|(key, value)| (key.get_ref().as_ref(), value.get_ref())).collect())
}

fn string(key: &str, value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        _ => Err(format!("{key}: not a string")),
    }
}

fn number(key: &str, value: &DeValue<'_>) -> Result<f64, String> {
    let text = match value {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        _ => return Err(format!("{key}: not a number")),
    };
    text.parse().map_err(|_| format!("{key}: not a number: {text}"))
}

/// Reads a number of seconds, or a string with one of the units `ms`, `s`, `m`, `h` and `d`.
fn duration(key: &str, value: &DeValue<'_>) -> Result<Duration, String> {
    match value {
        DeValue::String(text) => parse_duration(text).ok_or_else(|| format!("{key}: not a duration: {text}")),
        _ => limited(number(key, value)?).ok_or_else(|| format!("{key}: not a duration, or too long")),
    }
}

/// Parses a number with one of the units `ms`, `s`, `m`, `h` and `d`, or a number of seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0), ("", 1.0)];
    let (number, unit) = units.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))?;
    limited(number.parse::<f64>().ok()? * unit)
}

/// Returns a duration of at most 1,000 years: longer ones overflow clocks, here and in PostgreSQL.
fn limited(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|time| time.as_secs() <= 1000 * 366 * 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(Program, BTreeMap<String, LaneKeys>, bool), String> {
        let mut program = Program { settings: Settings::new("", Vec::new()), grace: Duration::ZERO };
        let mut lanes = BTreeMap::new();
        let secret = parse(text, &mut program, &mut lanes)?;
        Ok((program, lanes, secret))
    }

    #[test]
    fn all_keys_are_read() {
        let text = "database = 'postgres:///mail'\nfiles = '/srv/mail'\npoll = '250ms'\nidle = 10\nreap = '1m'\n\
            grace = '2m'\n[retry]\nfirst = '30s'\nmax = '1h'\ngive_up_after = '2d'\n[lane.bulk]\nurl = 'smtp://localhost'\n\
            connections = 3\nwindow = 50\nrate = 2.5\nburst = 10\ntimeout = 20\nfinal_reply_timeout = '5m'\nchunking = true\n";
        let (program, mut lanes, secret) = parsed(text).unwrap();
        let settings = &program.settings;
        assert_eq!((settings.poll, settings.idle), (Duration::from_millis(250), Duration::from_secs(10)));
        assert_eq!(settings.backoff.give_up_after, Duration::from_secs(2 * 86_400));
        assert!(!secret);
        let lane = lane("bulk", lanes.remove("bulk").unwrap()).unwrap();
        assert_eq!((lane.connections, lane.window), (3, 50));
        assert_eq!((lane.rate, lane.burst), (Some(2.5), Some(10.0)));
    }

    #[test]
    fn unknown_keys_and_invalid_values_are_errors() {
        for text in [
            "a = 1",
            "poll = true",
            "[lane.x]\ncolour = 1",
            "[retry]\nlast = 1",
            "lane = 1",
            "poll = '1 week'",
            "poll = 1e19",
            "poll = '1000000d'",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
        for text in
            ["window = 0", "window = 1.5", "connections = -1", "rate = 0", "burst = 0.5", "user = 'x'"]
        {
            let (_, mut lanes, _) = parsed(&format!("[lane.x]\nurl = 'smtp://localhost'\n{text}\n")).unwrap();
            assert!(lane("x", lanes.remove("x").unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_does_not_show_the_text_of_the_file() {
        let why = parsed("\n[lane.x]\npassword = 'hunter2\n").err().unwrap();
        assert!(why.starts_with("line 3: ") && !why.contains("hunter2"), "{why}");
    }

    #[test]
    fn passwords_are_noticed() {
        for text in [
            "database = 'postgres://user:secret@db/mail'",
            "database = 'host=db password=secret'",
            "[lane.x]\nurl = 'smtps://user:secret@mail.example.org'",
            "[lane.x]\npassword = 'secret'",
        ] {
            assert!(parsed(text).unwrap().2, "{text}");
        }
        assert!(!parsed("database = 'postgres://user@db/mail'").unwrap().2);
        let (_, lanes, secret) = parsed("[lane.x]\npassword_file = '/dev/null'").unwrap();
        assert!(!secret && lanes["x"].password.is_some(), "the password is in another file");
    }
}
