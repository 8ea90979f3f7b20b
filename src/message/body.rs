//! The content of a message to be sent: bytes, or something to open and read.

use std::{
    borrow::Cow,
    fmt,
    fs::File,
    io::{self, Cursor, Read},
    mem,
    path::PathBuf,
};

#[cfg(feature = "dkim")]
use super::dkim;
use super::{Claim, Meter, source};

/// The content of a message to be sent: bytes, or something to read them from.
///
/// `Body::from` converts bytes and text, borrowed or owned, and an open [`File`], which is read while it is sent. Bytes
/// are checked before anything is sent: content that the server does not accept is an error at that point.
///
/// Line endings may be CRLF, LF or CR, and are sent as CRLF. Dots at the start of a line are escaped automatically.
pub struct Body<'m> {
    pub(crate) content: Content<'m>,
    pub(crate) size: Option<u64>,
    /// The content is all ASCII, without NUL, in lines that any server accepts.
    pub(crate) seven_bit: bool,
    /// The content has non-ASCII octets, and needs a server that offers 8BITMIME.
    pub(crate) eight_bit: bool,
    /// The content may be sent unchanged if the server offers BINARYMIME.
    pub(crate) binary: bool,
    /// The headers need SMTPUTF8.
    pub(crate) utf8: bool,
    pub(super) progress: Option<Callback<'m>>,
    /// Claims on sources that can be read only once. Dropping a body that was not read releases them.
    pub(super) claims: Vec<Claim>,
    #[cfg(feature = "dkim")]
    pub(crate) unsigned: Option<Box<dkim::Unsigned<'m>>>,
}

/// A callback that gets the octets sent and the total.
pub(super) type Callback<'m> = Box<dyn FnMut(u64, Option<u64>) + Send + 'm>;

pub(crate) enum Content<'m> {
    Bytes(Cow<'m, [u8]>),
    /// Has to be opened in a place where blocking is allowed.
    Unopened(Opener),
    Reader(Box<dyn Read + Send>),
}

/// Opens a body, which may take time.
pub(crate) struct Opener {
    /// The thing to open, for `Debug`.
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

    /// Creates a body from a file that is opened when the body is sent. The file's length is announced to the server.
    ///
    /// The path may be a FIFO or a device: opening it does not block, and timeouts apply while the client waits for
    /// content. This also holds for a [`File`] passed to `Body::from`. The blocking client cannot interrupt some system
    /// calls, such as opening a file on a network file system whose server is gone: it notices a timeout only after the
    /// call returns.
    pub fn path(path: impl Into<PathBuf>) -> Body<'m> {
        let path = path.into();
        let what = path.display().to_string();
        let open = Box::new(move || Ok(Body::from(source::open(&path)?)));
        Body::new(Content::Unopened(Opener { what, open }))
    }

    /// Creates a body from a function that opens it. The function is called when the body is sent, before the first
    /// command for the message. It may block: the async client calls it on a thread that is allowed to block.
    ///
    /// ```
    /// # use std::{fs::File, io::Seek};
    /// # use postino::message::Body;
    /// let body = Body::deferred(|| {
    ///     let mut file = File::open("/var/spool/7.eml")?;
    ///     file.seek_relative(512)?;
    ///     Ok(Body::from(file))
    /// });
    /// # let _ = body;
    /// ```
    pub fn deferred(open: impl FnOnce() -> io::Result<Body<'static>> + Send + 'static) -> Body<'m> {
        Body::new(Content::Unopened(Opener { what: "deferred".to_owned(), open: Box::new(open) }))
    }

    /// Creates a body from a reader, which is read to its end, block by block, while the message is sent. Content that
    /// the server does not accept is detected only then, and the connection is closed.
    ///
    /// A read that takes longer than [`block_timeout`](crate::Builder::block_timeout) counts as a timeout. The blocking
    /// client cannot interrupt a read, so it detects the timeout only when the read returns.
    ///
    /// If the reader is slow, the client sends the content returned so far and reads replies: the async client within
    /// 100 ms, the blocking client before the next read. A reader that can limit its waiting time should wait for about
    /// 50 ms, and then fail with [`WouldBlock`](io::ErrorKind::WouldBlock): it is read again soon afterwards. With such
    /// a reader, the blocking client also enforces all timeouts.
    pub fn reader(reader: impl Read + Send + 'static) -> Body<'m> {
        Body::new(Content::Reader(Box::new(reader)))
    }

    /// Attaches the claims on content that can be read only once.
    pub(crate) fn claiming(mut self, claims: Vec<Claim>) -> Body<'m> {
        self.claims = claims;
        self
    }

    /// Returns whether some content can be read only once, so that no other body can be opened while this one lives.
    pub(crate) fn is_read_once(&self) -> bool {
        !self.claims.is_empty()
    }

    /// Marks the content as needing no 8BITMIME.
    pub(crate) fn seven_bit(mut self) -> Body<'m> {
        self.seven_bit = true;
        self
    }

    /// Marks the content as needing 8BITMIME, which is checked before anything is sent.
    pub(crate) fn eight_bit(mut self) -> Body<'m> {
        self.eight_bit = true;
        self
    }

    /// Allows the body to be sent unchanged, with its line endings and NULs, to a server that offers BINARYMIME (RFC
    /// 3030 §3), if [`chunking`](crate::Builder::chunking) is on. The body's parts must be labelled
    /// `Content-Transfer-Encoding: binary`. To other servers, the body is sent like any other.
    #[must_use]
    pub fn binary(mut self) -> Body<'m> {
        self.binary = true;
        self
    }

    /// Returns the body with owned content, or `None` if the content is borrowed. Only the callback is lost.
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

    /// Takes the content and leaves an empty body.
    #[cfg(feature = "dkim")]
    pub(crate) fn take_content(&mut self) -> Content<'m> {
        mem::replace(&mut self.content, Content::Bytes(Cow::Borrowed(b"")))
    }

    /// Returns whether the body can be read at once: there is nothing to open or sign.
    pub(crate) fn is_open(&self) -> bool {
        #[cfg(feature = "dkim")]
        if self.unsigned.is_some() {
            return false;
        }
        !matches!(self.content, Content::Unopened(_))
    }

    /// Returns whether there is a progress callback.
    pub(crate) fn is_watched(&self) -> bool {
        self.progress.is_some()
    }

    /// Declares that the headers contain unencoded UTF-8 (RFC 6532), such as a non-ASCII address. The server must then
    /// offer SMTPUTF8. By default, the headers are assumed to contain none.
    /// Addresses in the envelope need no declaration.
    #[must_use]
    pub fn utf8_headers(mut self) -> Body<'m> {
        self.utf8 = true;
        self
    }

    /// Adds a progress callback, called after existing ones: see [`Progress`](super::Progress).
    pub(crate) fn on_progress(mut self, mut callback: impl FnMut(u64, Option<u64>) + Send + 'm) -> Body<'m> {
        self.progress = Some(match self.progress.take() {
            None => Box::new(callback),
            Some(mut first) => Box::new(move |sent, total| {
                first(sent, total);
                callback(sent, total);
            }),
        });
        self
    }

    /// Returns a reader for the content, for use in a [`Mail`](super::Mail) that wraps another. If the body has yet to
    /// be signed, it is first read to its end. Reads block for as long as necessary, and never fail with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock).
    ///
    /// # Errors
    ///
    /// The system's error if a path cannot be opened, or any signing error.
    pub fn into_reader(self) -> io::Result<Box<dyn Read + Send + 'm>> {
        let body = self;
        #[cfg(feature = "dkim")]
        let body = dkim::sign(body, || Ok(()))?;
        let reader: Box<dyn Read + Send + 'm> = match body.content {
            Content::Bytes(bytes) => Box::new(Cursor::new(bytes)),
            Content::Unopened(opener) => opener.open()?.into_reader()?,
            Content::Reader(reader) => Box::new(source::Patient(reader)),
        };
        if body.claims.is_empty() {
            return Ok(reader);
        }
        Ok(Box::new(Claimed { reader, _claims: body.claims }))
    }

    /// Sets the size of the content in octets, before line endings are converted to CRLF. The size is announced to the
    /// server, and a message that is larger than the server accepts is not sent (RFC 1870). There is no need to set the
    /// size of a body that was created from bytes.
    #[must_use]
    pub fn with_size(mut self, octets: u64) -> Body<'m> {
        self.size = Some(octets);
        self
    }

    /// Takes the opener, if there is one, which may take time to run. Pass its result to [`opened`](Body::opened).
    pub(crate) fn take_opener(&mut self) -> Option<Opener> {
        match mem::replace(&mut self.content, Content::Bytes(Cow::Borrowed(b""))) {
            Content::Unopened(opener) => Some(opener),
            content => {
                self.content = content;
                None
            }
        }
    }

    /// Replaces the content by that of an opened body.
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

    /// Opens the body, which may take time.
    pub(crate) fn open(mut self) -> io::Result<Body<'m>> {
        match self.take_opener() {
            Some(opener) => Ok(self.opened(opener.open()?)),
            None => Ok(self),
        }
    }

    /// Splits an [open](Body::open) body into its content, its progress meter, and the claims that must live while it
    /// is read.
    pub(crate) fn into_parts(self) -> (Content<'m>, Meter<'m>, Vec<Claim>) {
        let total = match &self.content {
            Content::Bytes(bytes) => Some(bytes.len() as u64),
            Content::Unopened(_) | Content::Reader(_) => self.size,
        };
        (self.content, Meter::new(self.progress, total), self.claims)
    }
}

/// A reader of content that can be read only once. The claims live as long as it does.
struct Claimed<'m> {
    reader: Box<dyn Read + Send + 'm>,
    _claims: Vec<Claim>,
}

impl Read for Claimed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buf)
    }
}

impl<'m> From<Cow<'m, [u8]>> for Body<'m> {
    fn from(bytes: Cow<'m, [u8]>) -> Body<'m> {
        Body::new(Content::Bytes(bytes))
    }
}

impl<'m> From<&'m [u8]> for Body<'m> {
    fn from(bytes: &'m [u8]) -> Body<'m> {
        Body::new(Content::Bytes(bytes.into()))
    }
}

impl<'m, const N: usize> From<&'m [u8; N]> for Body<'m> {
    fn from(bytes: &'m [u8; N]) -> Body<'m> {
        bytes.as_slice().into()
    }
}

impl<'m> From<&'m str> for Body<'m> {
    fn from(text: &'m str) -> Body<'m> {
        text.as_bytes().into()
    }
}

impl From<Vec<u8>> for Body<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Body::new(Content::Bytes(bytes.into()))
    }
}

impl From<String> for Body<'_> {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

/// Converts an open file, which is sent from its current position to its end. The remaining length is announced to the
/// server as the size.
///
/// The file may be a pipe, such as standard input. Timeouts apply while the client waits for content. Meanwhile,
/// content that has already arrived is sent, and replies are read.
impl From<File> for Body<'_> {
    fn from(mut file: File) -> Self {
        let size = source::size_of_rest(&mut file);
        Body { size, ..Body::new(Content::Reader(source::reader(file))) }
    }
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
    use std::{fs, io::Seek};

    use super::{super::unique_id::unique_id, *};

    fn flags(body: &Body<'_>) -> [bool; 4] {
        [body.seven_bit, body.eight_bit, body.binary, body.utf8]
    }

    fn flagged() -> Body<'static> {
        Body::from(b"x".to_vec()).with_size(7).seven_bit().eight_bit().binary().utf8_headers()
    }

    #[test]
    fn a_single_use_body_keeps_its_flags_and_size() {
        let once = flagged().into_once().unwrap();
        assert_eq!((flags(&once), once.size), ([true; 4], Some(7)));
    }

    #[test]
    fn opening_a_body_merges_the_flags_of_both() {
        let plain = || Body::from(b"x");
        assert_eq!(flags(&flagged().opened(plain())), [true; 4]);
        assert_eq!(flags(&plain().opened(flagged())), [true; 4]);
        assert_eq!(flags(&plain().opened(plain())), [false; 4]);
    }

    #[test]
    fn a_path_needs_opening_but_bytes_do_not() {
        assert!(flagged().is_open() && !Body::path("/no/such/file").is_open());
    }

    #[test]
    fn a_body_with_a_callback_is_watched() {
        assert!(!flagged().is_watched() && flagged().on_progress(|_, _| {}).is_watched());
    }

    #[test]
    fn the_size_of_a_file_counts_only_what_is_left_to_read() {
        let path = std::env::temp_dir().join(format!("postino-{}", unique_id()));
        let size = |text: &str, at| {
            fs::write(&path, text).unwrap();
            let mut file = File::open(&path).unwrap();
            file.seek(io::SeekFrom::Start(at)).unwrap();
            Body::from(file).size
        };
        let sizes = [size("", 0), size("abc", 0), size("abc", 2), size("abc", 3)];
        fs::remove_file(&path).unwrap();
        assert_eq!(sizes, [None, Some(3), Some(1), None]);
    }
}
