//! HTTP/1.1 as the standard has it and not one byte looser: the oracle of what reached an upstream, and the reader of answers.

use std::fmt;

/// One head, request or response.
#[derive(Debug, Clone, Default)]
pub struct Fields(pub Vec<(String, Vec<u8>)>);

impl Fields {
    /// All values of a name, any case.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let name = name.to_owned();
        self.0.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(&name)).map(|(_, value)| value.as_slice())
    }

    /// The first value as text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether the name is there.
    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }
}

/// What breaks the grammar, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn broken<T>(why: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(why.into()))
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunked.
    Chunked,
}

/// A request head that has exactly one meaning.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// Method token.
    pub method: String,
    /// Target as written.
    pub target: String,
    /// Fields in order.
    pub fields: Fields,
    /// Body framing.
    pub framing: Framing,
}

pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn lines(head: &[u8]) -> Result<Vec<&[u8]>, Violation> {
    let Some(inner) = head.strip_suffix(b"\r\n\r\n") else { return broken("the head does not end with an empty line") };
    let mut lines = Vec::new();
    let mut rest = inner;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    for line in &lines {
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return broken("bare CR, bare LF or NUL");
        }
    }
    Ok(lines)
}

fn fields(lines: &[&[u8]]) -> Result<Fields, Violation> {
    let mut fields = Vec::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return broken("a field line without a colon") };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !is_token(name) {
            return broken(format!("field name {:?} is not a token", String::from_utf8_lossy(name)));
        }
        if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
            return broken("control character in a field value");
        }
        let value = value.trim_ascii();
        fields.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
    }
    Ok(Fields(fields))
}

fn well_formed_host(host: &str) -> bool {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                ("v6", port.strip_prefix(':').or(port.is_empty().then_some("1")))
            }
            _ => return false,
        }
    } else {
        match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("1")),
        }
    };
    let port_ok = port.is_some_and(|port| {
        !port.is_empty()
            && port.len() <= 5
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    port_ok && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// Reads one request head (with its empty line) and refuses all that could be read in two ways.
pub fn request_head(head: &[u8]) -> Result<RequestHead, Violation> {
    let lines = lines(head)?;
    let parts: Vec<&[u8]> = lines[0].split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts.as_slice() else { return broken("the request line has not exactly three parts") };
    if !is_token(method) {
        return broken("the method is not a token");
    }
    if *version != b"HTTP/1.1" {
        return broken(format!("version {:?}", String::from_utf8_lossy(version)));
    }
    if !target.iter().all(|byte| (0x21..0x7f).contains(byte)) || target.contains(&b'#') {
        return broken("the target holds a byte that no target may hold");
    }
    let origin_form = target.first() == Some(&b'/');
    let asterisk = *method == b"OPTIONS" && *target == b"*";
    if !origin_form && !asterisk {
        return broken("the target is not in origin form");
    }
    let fields = fields(&lines[1..])?;
    let hosts: Vec<_> = fields.all("host").collect();
    let [host] = hosts.as_slice() else { return broken(format!("{} Host fields", hosts.len())) };
    if !std::str::from_utf8(host).is_ok_and(well_formed_host) {
        return broken(format!("Host {:?}", String::from_utf8_lossy(host)));
    }
    for token in fields.all("connection").flat_map(|value| value.split(|byte| *byte == b',')) {
        let token = token.trim_ascii().to_ascii_lowercase();
        if !matches!(token.as_slice(), b"close" | b"keep-alive" | b"upgrade" | b"te") {
            return broken(format!("Connection nominates {:?}", String::from_utf8_lossy(&token)));
        }
    }
    for gone in ["keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate"] {
        if fields.has(gone) {
            return broken(format!("{gone} is for one hop"));
        }
    }
    let framing = framing(&fields)?;
    Ok(RequestHead {
        method: String::from_utf8_lossy(method).into_owned(),
        target: String::from_utf8_lossy(target).into_owned(),
        fields,
        framing,
    })
}

fn framing(fields: &Fields) -> Result<Framing, Violation> {
    let lengths: Vec<_> = fields.all("content-length").collect();
    let codings: Vec<_> = fields.all("transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::None),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => std::str::from_utf8(length)
            .ok()
            .and_then(|text| text.parse().ok())
            .map(Framing::Length)
            .ok_or_else(|| Violation("Content-Length overflows".into())),
        _ => broken(format!("framing: {} Content-Length, {} Transfer-Encoding", lengths.len(), codings.len())),
    }
}

/// The end of a head in a buffer: the position after its empty line.
pub fn head_end(buffer: &[u8]) -> Option<usize> {
    buffer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The status line and the fields of a response head.
pub fn response_head(head: &[u8]) -> Result<(u16, Fields), Violation> {
    let lines = lines(head)?;
    let line = String::from_utf8_lossy(lines[0]).into_owned();
    let Some(rest) = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 ")) else {
        return broken(format!("status line {line:?}"));
    };
    let Some(Ok(status)) = rest.get(..3).map(str::parse) else { return broken(format!("status line {line:?}")) };
    Ok((status, fields(&lines[1..])?))
}

/// A chunk-size line: hexadecimal digits and nothing else.
pub fn chunk_size(line: &[u8]) -> Result<u64, Violation> {
    let text = std::str::from_utf8(line).map_err(|_| Violation("chunk size".into()))?;
    if text.is_empty() || text.len() > 15 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return broken(format!("chunk size {text:?}"));
    }
    u64::from_str_radix(text, 16).map_err(|_| Violation("chunk size".into()))
}

/// Reads a whole connection's bytes as requests. All of it must be requests: leftovers are a violation, unless the last body was cut
/// short, which is said by `true`.
pub fn requests(mut bytes: &[u8]) -> Result<(Vec<RequestHead>, bool), Violation> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let Some(end) = head_end(bytes) else { return broken(format!("{} bytes that are no request", bytes.len())) };
        let head = request_head(&bytes[..end])?;
        bytes = &bytes[end..];
        let framing = head.framing;
        let upgrade = head.fields.has("upgrade");
        found.push(head);
        if upgrade {
            return Ok((found, false));
        }
        match framing {
            Framing::None => {}
            Framing::Length(length) => {
                let length = usize::try_from(length).map_err(|_| Violation("length".into()))?;
                let Some(rest) = bytes.get(length..) else { return Ok((found, true)) };
                bytes = rest;
            }
            Framing::Chunked => match chunked(bytes)? {
                Some(rest) => bytes = rest,
                None => return Ok((found, true)),
            },
        }
    }
    Ok((found, false))
}

fn chunked(mut bytes: &[u8]) -> Result<Option<&[u8]>, Violation> {
    loop {
        let Some(at) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let size = usize::try_from(chunk_size(&bytes[..at])?).map_err(|_| Violation("chunk size".into()))?;
        bytes = &bytes[at + 2..];
        if size == 0 {
            let Some(end) = (if bytes.starts_with(b"\r\n") { Some(2) } else { head_end(bytes) }) else { return Ok(None) };
            return Ok(Some(&bytes[end..]));
        }
        let Some(after) = bytes.get(size..) else { return Ok(None) };
        if after.len() < 2 {
            return Ok(None);
        }
        let Some(rest) = after.strip_prefix(b"\r\n") else { return broken("a chunk does not end where it says") };
        bytes = rest;
    }
}

#[test]
fn the_oracle_is_strict() {
    let good =
        b"GET / HTTP/1.1\r\nHost: a.test:1\r\n\r\nPOST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(requests(good).expect("plain").0.len(), 2);
    for bad in [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-api-key\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    ] {
        assert!(requests(bad.as_bytes()).is_err(), "{bad:?} was taken");
    }
}
