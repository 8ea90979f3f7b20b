//! The body of a composed message: pieces that are encoded as they are read.

use std::{
    collections::VecDeque,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use super::{
    READ_ALREADY,
    bytes::Bytes,
    encoding::{self, BASE64_LINE, BLOCK, Encoding, FILE_BLOCK, Quoted},
    single_use::{self, Claim, SingleUse},
    source::{self, MAX_FILL_TIME},
};

/// A piece of a message, not encoded yet. Pieces are shared, so that a stream need not borrow the message.
pub(super) enum Piece {
    /// Headers and boundaries, sent unencoded. The second form, if any, is used where 8-bit text is allowed.
    Text(String, Option<String>),
    /// The header of a part whose content is a text file. If that file is UTF-8, the second form is used, which
    /// declares that charset.
    TextFile { path: PathBuf, plain: String, utf8: String },
    Bytes {
        bytes: Bytes<'static>,
        encoding: Encoding,
        /// Length after encoding, in octets.
        length: u64,
        /// Sent unencoded where 8-bit text is allowed.
        eight_bit: bool,
    },
    /// A file, sent as base64.
    Path(PathBuf),
    /// A reader, sent as base64.
    Reader(SingleUse),
}

impl Piece {
    /// Creates a piece of text that is sent unencoded.
    pub fn text(text: impl Into<String>) -> Arc<Piece> {
        Arc::new(Piece::Text(text.into(), None))
    }

    /// Returns the bytes, if they may be sent unencoded.
    pub fn plain(&self) -> Option<&[u8]> {
        match self {
            Piece::Text(text, _) => Some(text.as_bytes()),
            Piece::Bytes { bytes, encoding: Encoding::SevenBit, .. }
            | Piece::Bytes { bytes, eight_bit: true, .. } => Some(bytes),
            _ => None,
        }
    }

    /// Returns whether the body of a message may end with this piece. Base64 has no final line ending.
    pub fn ends_line(&self, eight_bit: bool) -> bool {
        let bytes = self.bytes(eight_bit);
        match self.encoding(eight_bit) {
            Encoding::SevenBit => bytes.is_empty() || bytes.ends_with(b"\r\n"),
            Encoding::QuotedPrintable => bytes.ends_with(b"\r\n"),
            Encoding::Base64 => false,
        }
    }

    /// Returns how the piece is encoded.
    fn encoding(&self, eight_bit: bool) -> Encoding {
        match self {
            Piece::Text(..) => Encoding::SevenBit,
            Piece::Bytes { eight_bit: true, .. } if eight_bit => Encoding::SevenBit,
            Piece::Bytes { encoding, .. } => *encoding,
            Piece::TextFile { .. } | Piece::Path(_) | Piece::Reader(_) => Encoding::Base64,
        }
    }

    /// Returns the bytes before encoding; empty if they are not in memory.
    fn bytes(&self, eight_bit: bool) -> &[u8] {
        match self {
            Piece::Text(_, Some(text)) if eight_bit => text.as_bytes(),
            Piece::Text(text, _) => text.as_bytes(),
            Piece::Bytes { bytes, .. } => bytes,
            Piece::TextFile { .. } | Piece::Path(_) | Piece::Reader(_) => &[],
        }
    }

    /// Returns the encoded length in octets, if the piece is in memory.
    pub fn length(&self, eight_bit: bool) -> Option<u64> {
        match self {
            Piece::Bytes { length, .. } if self.encoding(eight_bit) != Encoding::SevenBit => Some(*length),
            Piece::Text(..) | Piece::Bytes { .. } => Some(self.bytes(eight_bit).len() as u64),
            Piece::TextFile { .. } | Piece::Path(_) | Piece::Reader(_) => None,
        }
    }
}

/// Claims the readers among the pieces, in order. Returns `None` if one of them cannot be claimed; the other claims are
/// then released.
pub(super) fn claim_readers(pieces: &[Arc<Piece>]) -> Option<(Vec<Claim>, Vec<single_use::Reader>)> {
    let readers = pieces.iter().filter_map(|piece| match &**piece {
        Piece::Reader(reader) => Some(reader.claim()),
        _ => None,
    });
    readers.collect()
}

/// A message that is being read. Only a block or two are in memory, whatever its size.
pub(super) struct Stream {
    pieces: VecDeque<Open>,
    /// 8-bit text is sent unencoded.
    eight_bit: bool,
    /// Encoded octets; those from `at` on have not been returned yet.
    out: Vec<u8>,
    at: usize,
    /// A source failed, so no later octets may be returned.
    failed: bool,
}

enum Open {
    /// A piece that is sent unencoded, and the number of octets returned so far.
    Plain(Arc<Piece>, usize),
    Quoted(Arc<Piece>, Quoted),
    Base64(Source, bool),
}

enum Source {
    Bytes(Arc<Piece>, usize),
    Reader(Blocks),
}

/// A source that is read block by block.
struct Blocks {
    /// `None` after its end, so that content appended to a file later is not read.
    reader: Option<Box<dyn Read + Send>>,
    block: Vec<u8>,
    /// Size of a full block, in octets.
    size: usize,
    /// Number of octets in the block, and how many of them have been returned.
    filled: usize,
    used: usize,
}

impl Stream {
    /// Opens all the pieces, which may take time. The readers among them must have been [claimed](claim_readers). Also
    /// returns the size in octets, if it is known.
    pub fn open(
        pieces: &[Arc<Piece>],
        readers: Vec<single_use::Reader>,
        eight_bit: bool,
    ) -> io::Result<(Stream, Option<u64>)> {
        let mut readers = readers.into_iter();
        let mut size = Some(0_u64);
        let mut opened = VecDeque::new();
        for piece in pieces {
            let (open, length) = Open::new(piece, &mut readers, eight_bit)?;
            opened.push_back(open);
            size = size.zip(length).map(|(size, length)| size.saturating_add(length));
        }
        Ok((Stream { pieces: opened, eight_bit, out: Vec::new(), at: 0, failed: false }, size))
    }

    /// Copies octets that are available at once, and returns their number, which may be 0.
    fn take(&mut self, buf: &mut [u8]) -> usize {
        let (ready, at) = match self.pieces.front_mut() {
            // `out` was returned in full before this piece became the first.
            Some(Open::Plain(piece, at)) => (piece.bytes(self.eight_bit), at),
            _ => (&self.out[..], &mut self.at),
        };
        let length = buf.len().min(ready.len() - *at);
        buf[..length].copy_from_slice(&ready[*at..*at + length]);
        *at += length;
        length
    }
}

impl Open {
    fn new(
        piece: &Arc<Piece>,
        readers: &mut impl Iterator<Item = single_use::Reader>,
        eight_bit: bool,
    ) -> io::Result<(Open, Option<u64>)> {
        Ok(match &**piece {
            Piece::TextFile { path, plain, utf8 } => {
                let text = if source::is_utf8_file(path) { utf8 } else { plain };
                (Open::Plain(Piece::text(text), 0), Some(text.len() as u64))
            }
            Piece::Text(..) | Piece::Bytes { .. } => {
                let (length, piece) = (piece.length(eight_bit), piece.clone());
                match piece.encoding(eight_bit) {
                    Encoding::SevenBit => (Open::Plain(piece, 0), length),
                    Encoding::QuotedPrintable => (Open::Quoted(piece, Quoted::default()), length),
                    Encoding::Base64 => (Open::Base64(Source::Bytes(piece, 0), true), length),
                }
            }
            Piece::Path(path) => {
                let (reader, length) = source::open_whole(path)?;
                let length = length.map(encoding::base64_length);
                (Open::Base64(Source::Reader(Blocks::new(reader, FILE_BLOCK)), true), length)
            }
            Piece::Reader(_) => match readers.next() {
                Some(reader) => {
                    let reader: Box<dyn Read + Send> = Box::new(reader);
                    (Open::Base64(Source::Reader(Blocks::new(reader, BLOCK)), true), None)
                }
                None => return Err(io::Error::other(READ_ALREADY)), // cannot happen: all readers were claimed
            },
        })
    }

    /// Appends the next encoded block to `out`; returns false at the end.
    fn encode(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        match self {
            Open::Plain(..) => Ok(false),
            Open::Quoted(piece, quoted) => Ok(quoted.push(piece.bytes(false), out)),
            Open::Base64(source, is_first) => {
                let block = source.next()?;
                encoding::push_base64(block, *is_first, out);
                *is_first = false;
                Ok(!block.is_empty())
            }
        }
    }

    /// Returns whether the next read may have to wait.
    fn may_wait(&self) -> bool {
        matches!(self, Open::Base64(Source::Reader(Blocks { reader: Some(_), .. }), _))
    }
}

impl Source {
    /// Returns the next block: whole lines of base64, except at the end.
    fn next(&mut self) -> io::Result<&[u8]> {
        match self {
            Source::Bytes(piece, at) => {
                let rest = &piece.bytes(false)[*at..];
                let block = &rest[..rest.len().min(BLOCK)];
                *at += block.len();
                Ok(block)
            }
            Source::Reader(blocks) => blocks.next(),
        }
    }
}

impl Blocks {
    fn new(reader: Box<dyn Read + Send>, size: usize) -> Blocks {
        Blocks { reader: Some(reader), block: Vec::new(), size, filled: 0, used: 0 }
    }

    fn next(&mut self) -> io::Result<&[u8]> {
        self.block.copy_within(self.used..self.filled, 0);
        (self.filled, self.used) = (self.filled - self.used, 0);
        if let Some(mut reader) = self.reader.take() {
            self.block.resize(self.size, 0);
            let ended = self.fill(&mut *reader);
            if !matches!(ended, Ok(true)) {
                self.reader = Some(reader);
            }
            ended?;
        }
        self.used = match self.reader {
            Some(_) => self.filled - self.filled % BASE64_LINE,
            None => self.filled,
        };
        Ok(&self.block[..self.used])
    }

    /// Reads until the block is full. Returns true at the end of the input. If the reader is slow, returns early once
    /// there is a line of base64.
    fn fill(&mut self, reader: &mut dyn Read) -> io::Result<bool> {
        let began = Instant::now();
        while self.filled < self.size {
            match reader.read(&mut self.block[self.filled..]) {
                Ok(0) => return Ok(true),
                Ok(n) => self.filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.filled >= BASE64_LINE => {
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
            if self.filled >= BASE64_LINE && self.filled < self.size && began.elapsed() >= MAX_FILL_TIME {
                return Ok(false);
            }
        }
        Ok(false)
    }
}

impl Read for Stream {
    /// Fills `buf` from memory as far as possible. Reads from a file or reader only while `buf` is still empty.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        loop {
            length += self.take(&mut buf[length..]);
            if length == buf.len() {
                return Ok(length);
            }
            if self.failed {
                return Err(io::Error::other("an earlier read of the message failed"));
            }
            let Some(piece) = self.pieces.front_mut() else { return Ok(length) };
            if length > 0 && piece.may_wait() {
                return Ok(length);
            }
            self.out.clear();
            self.at = 0;
            match piece.encode(&mut self.out) {
                Ok(true) => {}
                Ok(false) => drop(self.pieces.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => {
                    self.failed = true; // this call has not filled any of `buf`: see above
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write, slice};

    use super::{super::unique_id::unique_id, *};

    /// Returns a stream and its size. The claims on its readers are leaked, so that the readers stay readable.
    fn open(pieces: Vec<Piece>) -> (Stream, Option<u64>) {
        let pieces: Vec<_> = pieces.into_iter().map(Arc::new).collect();
        let (claims, readers) = claim_readers(&pieces).unwrap();
        std::mem::forget(claims);
        Stream::open(&pieces, readers, false).unwrap()
    }

    fn bytes(bytes: &'static [u8], encoding: Encoding, length: u64) -> Piece {
        Piece::Bytes { bytes: Bytes::new(bytes), encoding, length, eight_bit: false }
    }

    fn reader(reader: impl Read + Send + 'static) -> Piece {
        Piece::Reader(SingleUse::new(reader))
    }

    /// Reads everything in pieces of unusual sizes.
    fn read_all(stream: &mut Stream) -> io::Result<String> {
        let mut out = Vec::new();
        for size in [1, 7, 100, 40_000].iter().cycle() {
            let mut buf = vec![0; *size];
            match stream.read(&mut buf)? {
                0 => break,
                n => out.extend_from_slice(&buf[..n]),
            }
        }
        Ok(String::from_utf8(out).unwrap())
    }

    /// Returns one octet at a time, is interrupted now and then, and can be set to fail at the end.
    struct Slow {
        left: usize,
        fails: bool,
    }

    impl Read for Slow {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            match self.left {
                0 if self.fails => return Err(io::Error::other("the disk is gone")),
                0 => return Ok(0),
                left if left % 1000 == 0 => {
                    self.left -= 1;
                    return Err(io::ErrorKind::Interrupted.into());
                }
                _ => self.left -= 1,
            }
            buf[0] = b'x';
            Ok(1)
        }
    }

    #[test]
    fn pieces_are_read_in_order() {
        let quoted = bytes(b"a=b", Encoding::QuotedPrintable, 5);
        let base64 = bytes(b"abc", Encoding::Base64, 4);
        let text = || Arc::into_inner(Piece::text("\r\n--\r\n")).unwrap();
        let (mut stream, size) = open(vec![text(), quoted, text(), base64, text()]);
        assert_eq!(read_all(&mut stream).unwrap(), "\r\n--\r\na=3Db\r\n--\r\nYWJj\r\n--\r\n");
        assert_eq!(size, Some(27));
    }

    #[test]
    fn sizes_saturate_at_64_bits() {
        let part = || bytes(b"a", Encoding::Base64, u64::MAX - 1);
        assert_eq!(open(vec![part(), part()]).1, Some(u64::MAX));
        assert_eq!(encoding::base64_length(u64::MAX), u64::MAX);
    }

    #[test]
    fn eight_bit_text_is_unencoded_only_with_8bitmime() {
        let header = || Piece::Text("7bit\r\n".to_owned(), Some("8bit\r\n".to_owned()));
        let text = |eight_bit| {
            let bytes = Bytes::new("ü=\r\n");
            Piece::Bytes { bytes, encoding: Encoding::QuotedPrintable, length: 11, eight_bit }
        };
        let pieces = [header(), text(true), text(false)].map(Arc::new);
        for (eight_bit, expected) in
            [(false, "7bit\r\n=C3=BC=3D\r\n=C3=BC=3D\r\n"), (true, "8bit\r\nü=\r\n=C3=BC=3D\r\n")]
        {
            let (mut stream, size) = Stream::open(&pieces, Vec::new(), eight_bit).unwrap();
            assert_eq!(size, Some(expected.len() as u64));
            assert_eq!(read_all(&mut stream).unwrap(), expected);
        }
    }

    #[test]
    fn a_piece_that_may_be_sent_unencoded_is_plain() {
        let piece =
            |encoding, eight_bit| Piece::Bytes { bytes: Bytes::new("ab"), encoding, length: 2, eight_bit };
        assert_eq!(Piece::text("ab").plain(), Some(&b"ab"[..]));
        assert_eq!(piece(Encoding::SevenBit, false).plain(), Some(&b"ab"[..]));
        assert_eq!(piece(Encoding::Base64, true).plain(), Some(&b"ab"[..]));
        assert_eq!(piece(Encoding::Base64, false).plain(), None);
        assert_eq!(reader(&b"ab"[..]).plain(), None);
    }

    #[test]
    fn a_read_returns_what_is_in_memory_without_waiting_for_more() {
        let text = || Arc::into_inner(Piece::text("x".repeat(100))).unwrap();
        let (mut stream, _) = open(vec![text(), text(), reader(&b"abc"[..]), text()]);
        let mut buf = [0; 1000];
        assert_eq!(stream.read(&mut buf).unwrap(), 200);
        assert_eq!(stream.read(&mut buf).unwrap(), 104);
        assert_eq!(stream.read(&mut buf).unwrap(), 0);
    }

    #[test]
    fn a_reader_may_return_one_octet_at_a_time() {
        let (mut stream, size) = open(vec![reader(Slow { left: 100_000, fails: false })]);
        let (mut expected, bytes) = (Vec::new(), [b'x'; 99_900]);
        encoding::push_base64(&bytes, true, &mut expected);
        assert_eq!(read_all(&mut stream).unwrap().into_bytes(), expected);
        assert_eq!(size, None);
    }

    #[test]
    fn a_failed_stream_keeps_failing() {
        let (mut stream, _) = open(vec![reader(Slow { left: 100_000, fails: true }), reader(&b"more"[..])]);
        assert_eq!(read_all(&mut stream).unwrap_err().to_string(), "the disk is gone");
        assert!(stream.read(&mut [0; 10]).is_err());
        assert!(stream.read(&mut [0; 10]).is_err());
    }

    #[test]
    fn a_reader_is_not_read_again_after_its_end() {
        struct Grows(usize);
        impl Read for Grows {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                buf[0] = b'x';
                Ok(self.0 % 2)
            }
        }
        assert_eq!(read_all(&mut open(vec![reader(Grows(0))]).0).unwrap(), "eA==");
    }

    #[test]
    fn a_path_is_opened_for_each_stream_and_its_length_is_known() {
        let path = std::env::temp_dir().join(format!("postino-{}", unique_id()));
        File::create(&path).unwrap().write_all(&[7; 1000]).unwrap();
        let piece = Arc::new(Piece::Path(path.clone()));
        for _ in 0..2 {
            let (mut stream, size) = Stream::open(slice::from_ref(&piece), Vec::new(), false).unwrap();
            assert_eq!(read_all(&mut stream).unwrap().len() as u64, size.unwrap());
        }
        std::fs::remove_file(&path).unwrap();
        assert!(Stream::open(&[piece], Vec::new(), false).is_err());
    }

    #[test]
    fn the_charset_of_a_text_file_is_detected_when_it_is_opened() {
        let path = std::env::temp_dir().join(format!("postino-{}", unique_id()));
        let piece =
            || Piece::TextFile { path: path.clone(), plain: "plain".to_owned(), utf8: "utf8".to_owned() };
        let long = |end: &str| "x".repeat(source::INSPECTED as usize - 1) + end;
        for (content, expected) in [
            ("Grüße".as_bytes(), "utf8"),
            (b"", "plain"),
            (b"Hello", "plain"),
            (b"Gr\xfc\xdfe", "plain"),
            (long("ü").as_bytes(), "utf8"),
            (long("x").as_bytes(), "plain"),
            (&[long("x").as_bytes(), b"\xff"].concat(), "utf8"),
        ] {
            std::fs::write(&path, content).unwrap();
            let (mut stream, size) = open(vec![piece()]);
            assert_eq!(read_all(&mut stream).unwrap(), expected);
            assert_eq!(size, Some(expected.len() as u64));
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read_all(&mut open(vec![piece()]).0).unwrap(), "plain");
    }

    #[test]
    fn a_growing_file_is_sent_at_its_initial_size_and_a_shrinking_one_fails() {
        let path = std::env::temp_dir().join(format!("postino-{}", unique_id()));
        let open_file = || open(vec![Piece::Path(path.clone())]);
        std::fs::write(&path, [7; 100_000]).unwrap();
        let ((mut grows, size), (mut shrinks, _)) = (open_file(), open_file());
        std::fs::write(&path, [7; 200_000]).unwrap();
        assert_eq!(Some(read_all(&mut grows).unwrap().len() as u64), size);
        std::fs::write(&path, [7; 50_000]).unwrap();
        assert_eq!(read_all(&mut shrinks).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        std::fs::remove_file(&path).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_claims_to_be_empty_has_no_known_size() {
        let (mut stream, size) = open(vec![Piece::Path("/proc/self/status".into())]);
        assert!(size.is_none() && !read_all(&mut stream).unwrap().is_empty());
    }

    #[test]
    fn either_all_readers_are_claimed_or_none() {
        let pieces = [Arc::new(reader(&b"x"[..])), Piece::text("a"), Arc::new(reader(&b"y"[..]))];
        let (claims, readers) = claim_readers(&pieces).unwrap();
        assert_eq!((claims.len(), readers.len()), (2, 2));
        drop(claims);
        let last = claim_readers(&pieces[2..]).unwrap();
        assert!(claim_readers(&pieces).is_none());
        drop(last);
        assert!(claim_readers(&pieces).is_some(), "the claim on the first reader was not released");
    }
}
