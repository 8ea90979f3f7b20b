//! Attachments: bytes, files, readers, other messages.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use super::{Message, bytes::Bytes};

/// An attached file, or an image shown in the HTML text.
///
/// ```
/// use postino::message::{Attachment, Message};
///
/// let message = Message::builder()
///     .from("alice@example.org")
///     .to("bob@example.net")
///     .text("See the table.\n")
///     .attach(Attachment::bytes("table.csv", "a,b\r\n1,2\r\n").content_type("text/csv; charset=utf-8"))
///     .build()?;
/// # let _ = message;
/// # Ok::<(), postino::Error>(())
/// ```
pub struct Attachment {
    pub(super) content: Content,
    pub(super) content_type: Option<String>,
    pub(super) file_name: Option<String>,
    pub(super) content_id: Option<String>,
    pub(super) is_inline: bool,
}

pub(super) enum Content {
    Bytes(Bytes<'static>),
    Path(PathBuf),
    Reader(Box<dyn Read + Send>),
    Message(Message),
}

impl Attachment {
    fn new(content: Content) -> Attachment {
        Attachment { content, content_type: None, file_name: None, content_id: None, is_inline: false }
    }

    /// Attaches bytes (a `Vec<u8>`, a `String`, a `&'static str` or similar) under a file name. The bytes arrive
    /// unchanged, including line endings, unless the content type is [`message/…`](Attachment::content_type).
    pub fn bytes(
        file_name: impl Into<String>,
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
    ) -> Attachment {
        Attachment::new(Content::Bytes(Bytes::new(bytes))).file_name(file_name)
    }

    /// Attaches a file under its own name. The file is opened each time the message is sent, and is read and encoded
    /// piece by piece, in constant memory.
    pub fn path(path: impl AsRef<Path>) -> Attachment {
        let path = path.as_ref();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        Attachment { file_name: name, ..Attachment::new(Content::Path(path.to_owned())) }
    }

    /// Attaches the content of a reader under a file name. The reader is read once, to its end, while the message is
    /// sent.
    ///
    /// Until the first octet is read, the message can be sent again. [`Raw::reader`](super::Raw::reader) explains when
    /// the reader is consumed, and which restrictions apply to such a message. Clones of a message share the reader.
    ///
    /// The blocking client cannot interrupt a read: a reader that hangs blocks the send.
    pub fn reader(file_name: impl Into<String>, reader: impl Read + Send + 'static) -> Attachment {
        Attachment::new(Content::Reader(Box::new(reader))).file_name(file_name)
    }

    /// Attaches another message as a `message/rfc822` part (RFC 2046 §5.2.1). Non-ASCII domains in its fields become
    /// A-labels (with the `idna` feature). Building the outer message fails if an address in those fields is still not
    /// ASCII, or if messages are nested more than 50 levels deep. Many servers and programs support even fewer levels.
    #[must_use]
    pub fn message(message: Message) -> Attachment {
        Attachment::new(Content::Message(message))
    }

    /// Sets the media type, such as `text/csv; charset=utf-8`. By default, it is guessed from the extension of the file
    /// name, or is `application/octet-stream` if the extension is unknown. `charset=utf-8` is added to a guessed text
    /// type if the content is UTF-8. Bytes are checked in full. For a file, only the first 64 KiB are checked, when the
    /// message is sent. Readers and FIFOs are not inspected.
    ///
    /// A `message/…` part other than `message/global` must not be encoded (RFC 2046 §5.2.1). It must be given as bytes,
    /// without a NUL or a line of over 998 octets; otherwise, building the message fails. Its line endings become CRLF.
    /// If it is not ASCII, sending to a server without 8BITMIME fails before MAIL with
    /// [`Error::Unsupported`](crate::Error::Unsupported). `multipart/…` is refused. Parameters must be written as
    /// `; name=value`, where the value is a token or a quoted string.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Attachment {
        self.content_type = Some(content_type.into());
        self
    }

    /// Sets the file name. Defaults to the one the attachment was created with.
    #[must_use]
    pub fn file_name(mut self, name: impl Into<String>) -> Attachment {
        self.file_name = Some(name.into());
        self
    }

    /// Embeds the attachment in the HTML text, which refers to it with `<img src="cid:…">` (RFC 2392). The id must be
    /// printable ASCII without spaces, double quotes or backslashes; enclosing angle brackets are removed.
    #[must_use]
    pub fn content_id(mut self, id: impl Into<String>) -> Attachment {
        self.content_id = Some(id.into());
        self.inline()
    }

    /// Asks mail programs to display the attachment inline (RFC 2183). By default, the disposition is `attachment`.
    #[must_use]
    pub fn inline(mut self) -> Attachment {
        self.is_inline = true;
        self
    }

    /// Returns the number of nesting levels that the attachment adds to the message it is attached to.
    pub(super) fn levels(&self) -> usize {
        match &self.content {
            Content::Message(message) => message.levels() + 1,
            _ => 0,
        }
    }

    /// Returns the media type, given or guessed.
    pub(super) fn media_type(&self) -> &str {
        let name = self.file_name.as_deref().unwrap_or_default();
        match &self.content_type {
            Some(content_type) => content_type,
            None if matches!(self.content, Content::Message(_)) => "message/rfc822",
            None => guess(name),
        }
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.content {
            Content::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Content::Path(path) => path.display().to_string(),
            Content::Reader(_) => "a reader".to_owned(),
            Content::Message(_) => "a message".to_owned(),
        };
        f.debug_struct("Attachment")
            .field("content", &kind)
            .field("content_type", &self.media_type())
            .field("file_name", &self.file_name)
            .field("content_id", &self.content_id)
            .finish()
    }
}

/// Guesses the media type from the extension of a file name, for commonly attached types. `eml` is not one of them,
/// because such a part must not be encoded.
fn guess(name: &str) -> &'static str {
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    match &end.to_ascii_lowercase()[..] {
        "txt" | "log" => "text/plain",
        "csv" => "text/csv",
        "htm" | "html" => "text/html",
        "ics" => "text/calendar",
        "md" => "text/markdown",
        "vcf" => "text/vcard",
        "gif" => "image/gif",
        "jpeg" | "jpg" => "image/jpeg",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        "tif" | "tiff" => "image/tiff",
        "webp" => "image/webp",
        "m4a" => "audio/mp4",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "wav" => "audio/wav",
        "mov" => "video/quicktime",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "gz" => "application/gzip",
        "json" => "application/json",
        "pdf" => "application/pdf",
        "rtf" => "application/rtf",
        "tar" => "application/x-tar",
        "xml" => "application/xml",
        "zip" => "application/zip",
        "doc" => "application/msword",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "odp" => "application/vnd.oasis.opendocument.presentation",
        "ods" => "application/vnd.oasis.opendocument.spreadsheet",
        "odt" => "application/vnd.oasis.opendocument.text",
        "ppt" => "application/vnd.ms-powerpoint",
        "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "xls" => "application/vnd.ms-excel",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_media_type_is_guessed_from_the_extension_unless_it_is_set() {
        assert_eq!(Attachment::path("/tmp/Report.PDF").media_type(), "application/pdf");
        assert_eq!(Attachment::bytes("pdf", "").media_type(), "application/octet-stream");
        assert_eq!(Attachment::bytes("a.eml", "").media_type(), "application/octet-stream");
        assert_eq!(Attachment::bytes("a.pdf", "").content_type("text/x").media_type(), "text/x");
    }

    #[test]
    fn common_attachments_have_a_media_type() {
        for (start, endings) in [
            ("text/", "txt log csv htm html ics md vcf"),
            ("image/", "gif jpeg jpg png svg tif tiff webp"),
            ("audio/", "m4a mp3 ogg wav"),
            ("video/", "mov mp4 webm"),
            ("application/", "gz json pdf rtf tar xml zip doc docx odp ods odt ppt pptx xls xlsx"),
        ] {
            for end in endings.split(' ') {
                let guessed = guess(&format!("a.{end}"));
                assert!(guessed.starts_with(start) && !guessed.ends_with("octet-stream"), "{end}: {guessed}");
            }
        }
    }

    #[test]
    fn a_path_provides_the_file_name_unless_one_is_set() {
        assert_eq!(Attachment::path("/tmp/a.pdf").file_name.as_deref(), Some("a.pdf"));
        assert_eq!(Attachment::path("/tmp/a.pdf").file_name("b.pdf").file_name.as_deref(), Some("b.pdf"));
        assert_eq!(Attachment::path("/tmp/..").file_name, None);
    }

    #[test]
    fn debug_shows_no_content() {
        let shown = format!("{:?}", Attachment::bytes("a.txt", "secret"));
        assert!(shown.contains("6 bytes") && shown.contains("a.txt") && !shown.contains("secret"));
    }
}
