//! The content of a message that is about to be sent: bytes, or something to open and read.

#[cfg(feature = "dkim")]
use std::time::{Duration, Instant};
use std::{
    borrow::Cow,
    fmt,
    fs::{self, File},
    io::{self, Cursor, Read, Seek},
    mem,
    path::PathBuf,
};

#[cfg(feature = "dkim")]
use super::dkim;
use super::{Claim, Meter, file};
#[cfg(feature = "dkim")]
use crate::deadline::later;

/// A body that was opened: bytes at hand, or something to read them from.
///
/// Line ends may be CRLF, LF or CR: they go out as CRLF. Dots need no care.
pub struct Body<'m> {
    pub(crate) content: Content<'m>,
    pub(crate) size: Option<u64>,
    /// All of it is ASCII, without NUL, in lines that any server takes.
    pub(crate) seven_bit: bool,
    /// It has octets beyond ASCII, and goes only to a server that offers 8BITMIME.
    pub(crate) eight_bit: bool,
    /// It may go as it is, if the server takes that.
    pub(crate) binary: bool,
    /// Its headers need SMTPUTF8.
    pub(crate) utf8: bool,
    pub(super) progress: Option<Callback<'m>>,
    /// The sources among its content that can be read once. Dropping a body that was not read gives them back.
    pub(super) claims: Vec<Claim>,
    #[cfg(feature = "dkim")]
    pub(crate) unsigned: Option<Box<dkim::Unsigned<'m>>>,
}

/// Called with the octets sent and the total.
pub(super) type Callback<'m> = Box<dyn FnMut(u64, Option<u64>) + Send + 'm>;

pub(crate) enum Content<'m> {
    Bytes(Cow<'m, [u8]>),
    /// To be opened by who may wait for it.
    Unopened(Opener),
    Reader(Box<dyn Read + Send>),
}

/// Opens a body, which may take its time.
pub(crate) struct Opener {
    /// What is opened, for `Debug`.
    what: String,
    open: Box<dyn FnOnce() -> io::Result<Body<'static>> + Send>,
}

impl Opener {
    pub fn open(self) -> io::Result<Body<'static>> {
        (self.open)()?.open()
    }
}

impl<'m> Body<'m> {
    pub(crate) fn new(content: Content<'m>) -> Body<'m> {
        Body {
            content,
            size: None,
            seven_bit: false,
            eight_bit: false,
            binary: false,
            utf8: false,
            progress: None,
            claims: Vec::new(),
            #[cfg(feature = "dkim")]
            unsigned: None,
        }
    }

    /// Bytes, borrowed or owned. They are looked through before anything is sent: what the server cannot take is
    /// refused then.
    pub fn bytes(bytes: impl Into<Cow<'m, [u8]>>) -> Body<'m> {
        Body::new(Content::Bytes(bytes.into()))
    }

    /// A file, opened when it is sent. Its length is what the server is told as the size.
    ///
    /// A FIFO or a device will do, too: opening it waits for nobody, and a wait for its content keeps to the limits, as
    /// [`file`](Body::file) says. What the system does not let anybody limit, such as opening a file of a network file
    /// system whose server is gone, is noticed only when it is over in the blocking client.
    pub fn path(path: impl Into<PathBuf>) -> Body<'m> {
        let path = path.into();
        let what = path.display().to_string();
        let open = Box::new(move || Ok(Body::file(file::open(&path)?)));
        Body::new(Content::Unopened(Opener { what, open }))
    }

    /// What takes its time to open: that is done when it is sent, before anything is said to the server, and in the
    /// async world on a thread that may wait.
    ///
    /// ```
    /// # use std::{fs::File, io::Seek};
    /// # use postino::message::Body;
    /// let body = Body::deferred(|| {
    ///     let mut file = File::open("/var/spool/7.eml")?;
    ///     file.seek_relative(512)?;
    ///     Ok(Body::file(file))
    /// });
    /// # let _ = body;
    /// ```
    pub fn deferred(open: impl FnOnce() -> io::Result<Body<'static>> + Send + 'static) -> Body<'m> {
        Body::new(Content::Unopened(Opener { what: "deferred".to_owned(), open: Box::new(open) }))
    }

    /// A file, from where it stands. What is left of it is what the server is told as the size.
    ///
    /// It may be a pipe, standard input for instance: a wait for its content keeps to the limits, and while it lasts
    /// what has come leaves, and the server is heard.
    pub fn file(mut file: File) -> Body<'m> {
        let size = size_of_rest(&mut file);
        Body { size, ..Body::new(Content::Reader(file::reader(file))) }
    }

    /// Anything that can be read, up to its end. It is read while it is sent, a block at a time: an octet that may
    /// not go out is found only then, and ends the connection.
    ///
    /// A read that takes longer than [`block_timeout`](crate::Builder::block_timeout) is a timeout. In the blocking client
    /// nothing can interrupt a read: there it is noticed when the read returns.
    ///
    /// While a reader takes its time, what it has given so far leaves and the server is heard: in the async client within
    /// 100 ms, in the blocking client before the next read. A reader that can wait with a limit should do so for some 50 ms,
    /// and then fail with [`WouldBlock`](io::ErrorKind::WouldBlock): that means that there is nothing yet, and that it should
    /// be read again soon. All limits hold then in the blocking client, too.
    pub fn reader(reader: impl Read + Send + 'static) -> Body<'m> {
        Body::new(Content::Reader(Box::new(reader)))
    }

    /// Some of its content can be read once, by whoever has these claims.
    pub(crate) fn claiming(mut self, claims: Vec<Claim>) -> Body<'m> {
        self.claims = claims;
        self
    }

    /// Whether some of its content can be read only once, and another body cannot be had while this one lives.
    pub(crate) fn is_read_once(&self) -> bool {
        !self.claims.is_empty()
    }

    /// The server need not be told of 8-bit content.
    pub(crate) fn seven_bit(mut self) -> Body<'m> {
        self.seven_bit = true;
        self
    }

    /// Only a server that offers 8BITMIME takes it, which is checked before anything is sent.
    pub(crate) fn eight_bit(mut self) -> Body<'m> {
        self.eight_bit = true;
        self
    }

    /// It goes as it is to a server that offers BINARYMIME (RFC 3030 §3), if chunking is switched on: line ends and NULs
    /// included. Its parts say so then (`Content-Transfer-Encoding: binary`). To others it goes as any other does: what
    /// they cannot take is refused.
    #[must_use]
    pub fn binary(mut self) -> Body<'m> {
        self.binary = true;
        self
    }

    /// What must not be opened again to be read; only the callback is lost.
    pub(crate) fn into_once(self) -> Option<Body<'static>> {
        let Body { size, seven_bit, eight_bit, binary, utf8, claims, .. } = self;
        let content = match self.content {
            Content::Bytes(Cow::Borrowed(_)) => return None,
            Content::Bytes(Cow::Owned(bytes)) => Content::Bytes(Cow::Owned(bytes)),
            Content::Unopened(opener) => Content::Unopened(opener),
            Content::Reader(reader) => Content::Reader(reader),
        };
        Some(Body { size, seven_bit, eight_bit, binary, utf8, claims, ..Body::new(content) })
    }

    /// What it holds; nothing is left.
    #[cfg(feature = "dkim")]
    pub(crate) fn take_content(&mut self) -> Content<'m> {
        mem::replace(&mut self.content, Content::Bytes(Cow::Borrowed(b"")))
    }

    /// Whether it can be read at once: there is nothing to open, and nothing to sign.
    pub(crate) fn is_open(&self) -> bool {
        #[cfg(feature = "dkim")]
        if self.unsigned.is_some() {
            return false;
        }
        !matches!(self.content, Content::Unopened(_))
    }

    /// Whether somebody is told of its progress.
    pub(crate) fn is_watched(&self) -> bool {
        self.progress.is_some()
    }

    /// Its headers hold addresses in UTF-8 (RFC 6532): it goes only to a server that offers SMTPUTF8, which is told.
    /// Defaults to headers that do not; the addresses of the envelope are seen to without this.
    #[must_use]
    pub fn utf8_headers(mut self) -> Body<'m> {
        self.utf8 = true;
        self
    }

    /// Tells `callback` how far the sending is, behind those that are told already: see [`Progress`].
    #[must_use]
    pub fn on_progress(mut self, mut callback: impl FnMut(u64, Option<u64>) + Send + 'm) -> Body<'m> {
        self.progress = Some(match self.progress.take() {
            None => Box::new(callback),
            Some(mut first) => Box::new(move |sent, total| {
                first(sent, total);
                callback(sent, total);
            }),
        });
        self
    }

    /// What it holds, to be read from here on: for a [`Mail`] around another one. If it is to be signed, it is read
    /// through first. A read waits for as long as it takes; it never fails with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock).
    ///
    /// # Errors
    ///
    /// What the system says if it is a path, and cannot be opened; whatever keeps it from being signed.
    pub fn into_reader(self) -> io::Result<Box<dyn Read + Send + 'm>> {
        let body = self;
        #[cfg(feature = "dkim")]
        let body = crate::blocking::sign(body, later(Instant::now(), Duration::MAX))?;
        let reader: Box<dyn Read + Send + 'm> = match body.content {
            Content::Bytes(bytes) => Box::new(Cursor::new(bytes)),
            Content::Unopened(opener) => opener.open()?.into_reader()?,
            Content::Reader(reader) => Box::new(file::Patient(reader)),
        };
        Ok(if body.claims.is_empty() { reader } else { Box::new(Claimed { reader, _claims: body.claims }) })
    }

    /// How many octets there are, or are at least: line ends that become CRLF may add to them. The server is told, and
    /// a message that is larger than it takes is not offered (RFC 1870). Bytes need no telling.
    #[must_use]
    pub fn with_size(mut self, octets: u64) -> Body<'m> {
        self.size = Some(octets);
        self
    }

    /// What has to be opened, which may take its time. [`opened`](Body::opened) takes what comes of it.
    pub(crate) fn take_opener(&mut self) -> Option<Opener> {
        match mem::replace(&mut self.content, Content::Bytes(Cow::Borrowed(b""))) {
            Content::Unopened(opener) => Some(opener),
            content => {
                self.content = content;
                None
            }
        }
    }

    /// The same with what was opened.
    pub(crate) fn opened(mut self, opened: Body<'m>) -> Body<'m> {
        self.claims.extend(opened.claims);
        Body {
            content: opened.content,
            size: self.size.or(opened.size),
            seven_bit: self.seven_bit || opened.seven_bit,
            eight_bit: self.eight_bit || opened.eight_bit,
            binary: self.binary || opened.binary,
            utf8: self.utf8 || opened.utf8,
            progress: self.progress.or(opened.progress),
            claims: self.claims,
            #[cfg(feature = "dkim")]
            unsigned: self.unsigned.or(opened.unsigned),
        }
    }

    /// The same, opened, which may take its time.
    pub(crate) fn open(mut self) -> io::Result<Body<'m>> {
        match self.take_opener() {
            Some(opener) => Ok(self.opened(opener.open()?)),
            None => Ok(self),
        }
    }

    /// What it holds, who is told how much of it has left, and what has to live while it is read. It is
    /// [open](Body::open).
    pub(crate) fn into_parts(self) -> (Content<'m>, Meter<'m>, Vec<Claim>) {
        let total = match &self.content {
            Content::Bytes(bytes) => Some(bytes.len() as u64),
            Content::Unopened(_) | Content::Reader(_) => self.size,
        };
        (self.content, Meter::new(self.progress, total), self.claims)
    }
}

/// A reader of content that can be read once. The claims live as long as it does.
struct Claimed<'m> {
    reader: Box<dyn Read + Send + 'm>,
    _claims: Vec<Claim>,
}

impl Read for Claimed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buf)
    }
}

impl<'m> From<&'m [u8]> for Body<'m> {
    fn from(bytes: &'m [u8]) -> Body<'m> {
        Body::bytes(bytes)
    }
}

impl<'m, const N: usize> From<&'m [u8; N]> for Body<'m> {
    fn from(bytes: &'m [u8; N]) -> Body<'m> {
        Body::bytes(bytes.as_slice())
    }
}

impl<'m> From<&'m str> for Body<'m> {
    fn from(text: &'m str) -> Body<'m> {
        Body::bytes(text.as_bytes())
    }
}

impl From<Vec<u8>> for Body<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Body::bytes(bytes)
    }
}

impl From<String> for Body<'_> {
    fn from(text: String) -> Self {
        Body::bytes(text.into_bytes())
    }
}

/// What is left of a regular file; nothing is known of others, and of those that claim to be empty (`/proc`).
fn size_of_rest(file: &mut File) -> Option<u64> {
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let at = file.stream_position().ok()?;
    Some(meta.len().saturating_sub(at)).filter(|size| *size > 0)
}

impl fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.content {
            Content::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Content::Unopened(opener) => opener.what.clone(),
            Content::Reader(_) => "a reader".to_owned(),
        };
        f.debug_struct("Body").field("content", &kind).field("size", &self.size).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::stamp, *};

    fn flags(body: &Body<'_>) -> [bool; 4] {
        [body.seven_bit, body.eight_bit, body.binary, body.utf8]
    }

    fn flagged() -> Body<'static> {
        Body::bytes(b"x".to_vec()).with_size(7).seven_bit().eight_bit().binary().utf8_headers()
    }

    #[test]
    fn what_is_opened_once_keeps_what_was_said_of_it() {
        let once = flagged().into_once().unwrap();
        assert_eq!((flags(&once), once.size), ([true; 4], Some(7)));
    }

    #[test]
    fn what_was_said_before_it_was_opened_and_what_is_said_then_counts() {
        let plain = || Body::bytes(b"x");
        assert_eq!(flags(&flagged().opened(plain())), [true; 4]);
        assert_eq!(flags(&plain().opened(flagged())), [true; 4]);
        assert_eq!(flags(&plain().opened(plain())), [false; 4]);
    }

    #[test]
    fn a_path_has_to_be_opened_and_bytes_have_not() {
        assert!(flagged().is_open() && !Body::path("/no/such/file").is_open());
    }

    #[test]
    fn it_is_watched_if_somebody_is_told() {
        assert!(!flagged().is_watched() && flagged().on_progress(|_, _| {}).is_watched());
    }

    #[test]
    fn the_size_of_a_file_is_what_is_left_of_it() {
        let path = std::env::temp_dir().join(format!("postino-{}", stamp::unique()));
        let size = |text: &str, at| {
            fs::write(&path, text).unwrap();
            let mut file = File::open(&path).unwrap();
            file.seek(io::SeekFrom::Start(at)).unwrap();
            Body::file(file).size
        };
        let sizes = [size("", 0), size("abc", 0), size("abc", 2), size("abc", 3)];
        fs::remove_file(&path).unwrap();
        assert_eq!(sizes, [None, Some(3), Some(1), None]);
    }
}
