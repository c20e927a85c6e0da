//! `Scan`: follows the raw bytes of an HTTP/1 connection for what the parser forgives or forgets.
//!
//! hyper (through httparse) takes a bare LF for a line end, merges equal Content-Lengths, drops a Content-Length beside a
//! Transfer-Encoding, and `http::Uri` drops a fragment. A head or a chunk with any of these is malformed here. The scan finds line
//! ends with `memchr`, so a head costs a few hundred instructions, and steps over body bytes by their count. It also tells when a
//! head began and whether one is incomplete, which is all that the connection's deadlines need.
//!
//! It never repairs: one fault marks the connection for good, and every later request on it is refused. Should scan and parser ever
//! disagree about where a head ends, the number of heads disagrees and the connection is refused as well.

use memchr::memchr;

const BARE_LF: &str = "a line ends with LF alone";

/// Where in the byte stream the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the first byte of a head.
    Between,
    /// Behind empty lines that came instead of a head.
    Blank,
    /// In the request line.
    RequestLine,
    /// In the header section.
    Fields,
    /// In a body that has this many bytes left.
    Counted(u64),
    /// In the line with a chunk's size.
    ChunkSize,
    /// In a chunk's data, with this many bytes left.
    ChunkData(u64),
    /// At the CR behind a chunk's data.
    ChunkCr,
    /// At the LF behind that.
    ChunkLf,
    /// In the trailer section.
    Trailers,
    /// Not HTTP/1: a tunnel, an upgraded stream, HTTP/2.
    Opaque,
}

/// What the bytes of one connection have shown so far.
#[derive(Debug)]
pub(super) struct Scan {
    at: At,
    /// The unfinished line, without what came before it; only its first bytes are kept.
    line: Line,
    heads: u32,
    fault: Option<&'static str>,
    framing: Framing,
    connect: bool,
}

/// How much of a line is looked at, whether it comes whole or in pieces: a name and a short value.
const LOOKED_AT: usize = 48;

/// The beginning of a line and its last byte.
#[derive(Debug)]
struct Line {
    start: [u8; LOOKED_AT],
    kept: usize,
    length: usize,
    last: u8,
}

/// What the fields of the current head said about its body.
#[derive(Debug, Clone, Copy, Default)]
struct Framing {
    length: Option<u64>,
    lengths: u8,
    chunked: bool,
}

impl Line {
    const fn empty() -> Self {
        Self { start: [0; LOOKED_AT], kept: 0, length: 0, last: 0 }
    }

    fn clear(&mut self) {
        self.kept = 0;
        self.length = 0;
        self.last = 0;
    }

    fn add(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.last = *last;
        }
        if let Some(room) = self.start.get_mut(self.kept..) {
            let taken = room.len().min(bytes.len());
            for (to, from) in room.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.kept += taken;
        }
        self.length = self.length.saturating_add(bytes.len());
    }

    /// Without its CR, if that was kept.
    fn kept(&self) -> &[u8] {
        let end = if self.kept == self.length { self.kept.saturating_sub(1) } else { self.kept };
        self.start.get(..end).unwrap_or_default()
    }
}

impl Scan {
    /// At the beginning of an HTTP/1 connection.
    pub(super) const fn new() -> Self {
        let framing = Framing { length: None, lengths: 0, chunked: false };
        Self { at: At::Between, line: Line::empty(), heads: 0, fault: None, framing, connect: false }
    }

    /// How many heads were complete.
    pub(super) const fn heads(&self) -> u32 {
        self.heads
    }

    /// What was wrong, if anything was.
    pub(super) const fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// A head has begun and has not ended.
    pub(super) const fn in_head(&self) -> bool {
        matches!(self.at, At::Blank | At::RequestLine | At::Fields)
    }

    /// No request is being received.
    pub(super) const fn between(&self) -> bool {
        matches!(self.at, At::Between)
    }

    /// Follows the next bytes.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.fault.is_none() {
            bytes = match self.at {
                At::Opaque => return,
                At::Between | At::Blank => self.begin(bytes),
                At::RequestLine | At::Fields | At::ChunkSize | At::Trailers => self.lines(bytes),
                At::Counted(left) => {
                    let (rest, left) = skip(bytes, left);
                    self.at = if left == 0 { At::Between } else { At::Counted(left) };
                    rest
                }
                At::ChunkData(left) => {
                    let (rest, left) = skip(bytes, left);
                    self.at = if left == 0 { At::ChunkCr } else { At::ChunkData(left) };
                    rest
                }
                At::ChunkCr => self.chunk_end(bytes, b'\r', At::ChunkLf),
                At::ChunkLf => self.chunk_end(bytes, b'\n', At::ChunkSize),
            };
        }
    }

    /// Empty lines before a request line are skipped (RFC 9112 section 2.2), but not without end.
    fn begin<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let rest = bytes.get(blank..).unwrap_or_default();
        self.at = At::Blank;
        if !rest.is_empty() {
            self.at = At::RequestLine;
            self.framing = Framing::default();
            self.connect = false;
            self.line.clear();
        }
        rest
    }

    /// The two bytes behind a chunk's data.
    fn chunk_end<'a>(&mut self, bytes: &'a [u8], expected: u8, next: At) -> &'a [u8] {
        if bytes.first() == Some(&expected) {
            self.at = next;
        } else {
            self.fault = Some("a chunk does not end where its size says");
        }
        bytes.get(1..).unwrap_or_default()
    }

    /// One line or a part of one.
    fn lines<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (line, rest, ended) = match memchr(b'\n', bytes) {
            Some(end) => (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default(), true),
            None => (bytes, &[][..], false),
        };
        if self.at == At::RequestLine && memchr(b'#', line).is_some() {
            self.fault = Some("the request target holds a fragment");
        }
        if ended && self.line.length == 0 {
            // The whole line lies in this buffer: no copy.
            match line.split_last() {
                Some((b'\r', content)) => self.line_ended(content.get(..LOOKED_AT).unwrap_or(content), content.len() > LOOKED_AT),
                Some(_) | None => self.fault = Some(BARE_LF),
            }
            return rest;
        }
        self.line.add(line);
        if ended {
            let line = std::mem::replace(&mut self.line, Line::empty());
            if line.last == b'\r' {
                self.line_ended(line.kept(), line.length > LOOKED_AT + 1);
            } else {
                self.fault = Some(BARE_LF);
            }
        }
        rest
    }

    /// What is looked at of a complete line, without CRLF, and whether that is not all of it.
    fn line_ended(&mut self, line: &[u8], cut: bool) {
        match self.at {
            At::RequestLine => {
                self.connect = line.starts_with(b"CONNECT ");
                self.at = At::Fields;
            }
            At::Fields if line.is_empty() => self.head_ended(),
            At::Fields => self.field(line, cut),
            At::ChunkSize => match chunk_size(line, cut) {
                Some(0) => self.at = At::Trailers,
                Some(size) => self.at = At::ChunkData(size),
                None => self.fault = Some("a chunk size is not hexadecimal"),
            },
            At::Trailers if line.is_empty() => self.at = At::Between,
            At::Trailers | At::Between | At::Blank | At::Counted(_) | At::ChunkData(_) | At::ChunkCr | At::ChunkLf | At::Opaque => {}
        }
    }

    fn field(&mut self, line: &[u8], cut: bool) {
        // Of a length that goes on where nobody looks, a part is another length.
        if cut && (value_of(line, b"content-length").is_some() || value_of(line, b"transfer-encoding").is_some()) {
            self.fault = Some("a field that frames the body is too long");
            return;
        }
        match line.first() {
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length") {
                    self.framing.lengths = self.framing.lengths.saturating_add(1);
                    self.framing.length = parse_decimal(value);
                    if self.framing.lengths > 1 {
                        self.fault = Some("Content-Length is repeated");
                    } else if self.framing.length.is_none() {
                        self.fault = Some("Content-Length is not a number");
                    }
                }
            }
            Some(b't' | b'T') => {
                if let Some(value) = value_of(line, b"transfer-encoding") {
                    if self.framing.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        self.fault = Some("Transfer-Encoding is not exactly `chunked`");
                    }
                    self.framing.chunked = true;
                }
            }
            Some(b' ' | b'\t') => self.fault = Some("a header line is folded"),
            Some(_) | None => {}
        }
        if self.framing.chunked && self.framing.lengths > 0 {
            self.fault = Some("Content-Length and Transfer-Encoding together");
        }
    }

    fn head_ended(&mut self) {
        self.heads = self.heads.wrapping_add(1);
        self.at = match self.framing {
            Framing { chunked: true, .. } => At::ChunkSize,
            Framing { length: Some(length), .. } if length > 0 => At::Counted(length),
            // What follows a CONNECT is the tunnel's, never a second request.
            Framing { .. } if self.connect => At::Opaque,
            Framing { .. } => At::Between,
        };
    }
}

/// Skips up to `left` bytes.
fn skip(bytes: &[u8], left: u64) -> (&[u8], u64) {
    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    let eaten = u64::try_from(here).unwrap_or(u64::MAX);
    (bytes.get(here..).unwrap_or_default(), left.saturating_sub(eaten))
}

/// The trimmed value of a field with that (lower-case) name.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    head.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn parse_decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}

/// RFC 9112 section 7.1: hexadecimal digits, then an extension that is ignored.
fn chunk_size(line: &[u8], cut: bool) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits == 0 || digits > 15 {
        return None;
    }
    let (size, rest) = line.split_at_checked(digits)?;
    let rest = rest.trim_ascii_start();
    if !((rest.is_empty() && !cut) || rest.first() == Some(&b';')) {
        return None;
    }
    size.iter().try_fold(0_u64, |sum, digit| char::from(*digit).to_digit(16).map(|digit| sum * 16 + u64::from(digit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same bytes whole, in two parts at every place, and one by one: the same verdict.
    fn scanned(bytes: &str) -> (u32, Option<&'static str>) {
        let run = |parts: &[&[u8]]| {
            let mut scan = Scan::new();
            for part in parts {
                scan.follow(part);
            }
            (scan.heads(), scan.fault())
        };
        let bytes = bytes.as_bytes();
        let whole = run(&[bytes]);
        for cut in 0..bytes.len() {
            assert_eq!(run(&[&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(run(&single), whole, "byte by byte");
        whole
    }

    #[test]
    fn heads_and_bodies_are_followed() {
        assert_eq!(scanned("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), (1, None));
        assert_eq!(scanned("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"), (2, None));
        assert_eq!(scanned("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n\n\n\n\n\nGET / HTTP/1.1\r\n\r\n"), (2, None));
        let long = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;{}z\r\nabc\r\n0\r\n\r\n", "x".repeat(60));
        assert_eq!(scanned(&long), (1, None));
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n\n\n\n\r\nA\r\n0123456789\r\n0\r\nt: v\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        assert_eq!(scanned(chunked), (2, None));
        assert_eq!(scanned("CONNECT a:443 HTTP/1.1\r\n\r\n\u{16}\n\n\n"), (1, None));
    }

    #[test]
    fn what_a_parser_forgives_is_a_fault() {
        for (bytes, heads) in [
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", 0),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", 0),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", 0),
            ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", 0),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\nx", 0),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 0),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 0),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 0),
            ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 0),
            ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 0),
            // What is beyond the bytes that are kept of a line in pieces would be another length.
            ("POST / HTTP/1.1\r\nContent-Length:                               12345\r\n\r\nx", 0),
            ("POST / HTTP/1.1\r\nTransfer-Encoding:                           chunked\r\n\r\n0\r\n\r\n", 0),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n", 1),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n", 1),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\n\n", 1),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", 1),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3                                                  z\r\n", 1),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nt: v\n\r\n", 1),
        ] {
            let (seen, fault) = scanned(bytes);
            assert!(fault.is_some(), "{bytes:?}");
            assert_eq!(seen, heads, "{bytes:?}");
        }
    }

    #[test]
    fn an_incomplete_head_is_known() {
        let mut scan = Scan::new();
        assert!(scan.between());
        scan.follow(b"\r\n");
        assert!(scan.in_head() && !scan.between(), "empty lines are under the deadline of a head");
        scan.follow(b"GET / HT");
        assert!(scan.in_head() && !scan.between());
        scan.follow(b"TP/1.1\r\n\r\n");
        assert!(scan.between() && !scan.in_head());
        scan.follow(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nab");
        assert!(!scan.between() && !scan.in_head());
    }
}
