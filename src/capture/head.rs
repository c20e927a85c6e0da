//! The strict head check: what of a request head may go on to be judged.
//!
//! It runs over `http::request::Parts`, so it holds for HTTP/1.0, HTTP/1.1 and HTTP/2 alike. What a parser loses before a head
//! becomes `Parts` (bare LF, equal Content-Lengths that were merged, a fragment) is seen by `proxy::scan` on the raw bytes.
//! Field values cannot hold NUL, CR, LF or DEL here: neither `httparse` nor `h2` lets them become a `HeaderValue`.

use http::header::HeaderValue;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Version};

use super::destination::is_authority;
use crate::refusal::{Code, Refusal};

/// Bounds of a request head (design section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of method, target, names and values, with four for each field's separators.
    pub bytes: usize,
    /// Number of fields; a repeated field counts each time.
    pub fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes: 64 * 1024, fields: 100 }
    }
}

/// Checks one head. What passes has one method, one target, one name and one framing, whoever reads it next.
///
/// # Errors
/// `malformed`, `head_too_large`, or `unsupported` for TRACE and TRACK (they echo credentials back) and CONNECT over HTTP/2.
pub fn check(parts: &Parts, limits: HeadLimits) -> Result<(), Refusal> {
    check_method(&parts.method, parts.version)?;
    check_target(parts)?;
    let fields = check_fields(parts, limits)?;
    check_framing(&fields, parts.version)?;
    check_authority(parts, &fields)
}

const fn malformed(detail: &'static str) -> Refusal {
    Refusal { code: Code::Malformed, detail: std::borrow::Cow::Borrowed(detail), retry_after: None, challenge: false }
}

/// RFC 9110 section 9.1: methods are case-sensitive tokens. One with small letters is refused, since lenient servers take `delete`
/// for `DELETE` and rules name the latter.
fn check_method(method: &Method, version: Version) -> Result<(), Refusal> {
    match *method {
        Method::TRACE => return Err(Refusal::new(Code::Unsupported, "TRACE sends a request's credentials back")),
        Method::CONNECT if version == Version::HTTP_2 => return Err(Refusal::new(Code::Unsupported, "CONNECT over HTTP/2")),
        Method::GET | Method::POST | Method::PUT | Method::DELETE | Method::HEAD | Method::PATCH | Method::OPTIONS | Method::CONNECT => {
            return Ok(());
        }
        _ => {}
    }
    let name = method.as_str();
    if name.eq_ignore_ascii_case("TRACK") {
        return Err(Refusal::new(Code::Unsupported, "TRACK sends a request's credentials back"));
    }
    let plain =
        name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'));
    if plain { Ok(()) } else { Err(malformed("the method is not a token of capital letters")) }
}

/// What may stand in a path and query: RFC 3986 without fragment, plus `[ ] { } | ^ \`, which deployed clients send and which go on unchanged.
const fn is_target_byte(byte: u8) -> bool {
    matches!(byte, 0x21..0x7f) && !matches!(byte, b'"' | b'<' | b'>' | b'`' | b'#')
}

/// Field names of letters, digits, `-`, `_` and `.`: the other token characters are read differently by CGI-like servers and proxies.
const fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')
}

const TARGET: u8 = 1;
const NAME: u8 = 2;

/// Where each byte may stand. Targets and names are most of what is checked of a head: one look-up a byte, without a branch.
#[expect(clippy::indexing_slicing, reason = "evaluated when compiled: an index out of bounds would not compile")]
const PLACES: [u8; 256] = {
    let mut places = [0; 256];
    let mut byte = 0_u8;
    loop {
        places[byte as usize] = if is_target_byte(byte) { TARGET } else { 0 } | if is_name_byte(byte) { NAME } else { 0 };
        if byte == u8::MAX {
            break;
        }
        byte += 1;
    }
    places
};

/// Whether every byte may stand there.
fn all(text: &[u8], place: u8) -> bool {
    text.iter().fold(place, |left, byte| left & PLACES.get(usize::from(*byte)).copied().unwrap_or(0)) == place
}

/// RFC 9112 section 3.2: origin-form, absolute-form, authority-form for CONNECT alone, `*` for OPTIONS alone.
fn check_target(parts: &Parts) -> Result<(), Refusal> {
    let uri = &parts.uri;
    if parts.method == Method::CONNECT {
        let authority_form = uri.scheme().is_none() && uri.path_and_query().is_none() && uri.authority().is_some();
        return if authority_form { Ok(()) } else { Err(malformed("a CONNECT target is host:port")) };
    }
    let Some(target) = uri.path_and_query() else { return Err(malformed("the request target has no path")) };
    // Without an authority the engine takes a head that says no `:path` at all (RFC 9113 section 8.3.1), and the URI writes out a slash.
    if parts.version == Version::HTTP_2 && uri.path().is_empty() {
        return Err(malformed("the request has no :path"));
    }
    let text = target.as_str();
    if text == "*" {
        return if parts.method == Method::OPTIONS { Ok(()) } else { Err(malformed("`*` is a target of OPTIONS alone")) };
    }
    if !text.starts_with(['/', '?']) {
        return Err(malformed("the path does not begin with a slash"));
    }
    // Text says `/` of an empty target, and the engine would write it to the upstream as it is: `GET  HTTP/1.1`. An HTTP/2 caller can send
    // one, since of a `:path` that is a fragment alone nothing is left.
    if text == "/" && *target != PathAndQuery::from_static("/") {
        return Err(malformed("the request target has no path"));
    }
    if !all(text.as_bytes(), TARGET) {
        return Err(malformed("the request target holds a byte that must be percent-encoded"));
    }
    Ok(())
}

/// What one walk over the fields has met of those that frame and address a message.
#[derive(Default)]
struct Fields<'a> {
    lengths: usize,
    length: Option<&'a HeaderValue>,
    codings: usize,
    coding: Option<&'a HeaderValue>,
    hosts: usize,
    host: Option<&'a HeaderValue>,
    /// A `TE` that is not `trailers`.
    odd_te: bool,
}

fn check_fields(parts: &Parts, limits: HeadLimits) -> Result<Fields<'_>, Refusal> {
    if parts.headers.len() > limits.fields {
        return Err(Refusal::new(
            Code::HeadTooLarge,
            format!("{} header fields, at most {} are taken", parts.headers.len(), limits.fields),
        ));
    }
    let uri = &parts.uri;
    let mut size = parts.method.as_str().len() + uri.path_and_query().map_or(0, |target| target.as_str().len());
    size += uri.authority().map_or(0, |authority| authority.as_str().len());
    let mut fields = Fields::default();
    for (name, value) in &parts.headers {
        let name = name.as_str();
        size += name.len() + value.len() + 4;
        match name.as_bytes() {
            b"host" => (fields.hosts, fields.host) = (fields.hosts + 1, Some(value)),
            b"content-length" => (fields.lengths, fields.length) = (fields.lengths + 1, Some(value)),
            b"transfer-encoding" => (fields.codings, fields.coding) = (fields.codings + 1, Some(value)),
            b"te" => fields.odd_te |= value.as_bytes() != b"trailers",
            name if !all(name, NAME) => {
                return Err(malformed("a header name holds more than letters, digits, `-`, `_` and `.`"));
            }
            _ => {}
        }
    }
    if size > limits.bytes {
        return Err(Refusal::new(Code::HeadTooLarge, format!("the head has {size} bytes, at most {} are taken", limits.bytes)));
    }
    Ok(fields)
}

/// RFC 9112 section 6: one reading of where the body ends.
fn check_framing(fields: &Fields<'_>, version: Version) -> Result<(), Refusal> {
    if fields.lengths > 1 {
        return Err(malformed("Content-Length is repeated"));
    }
    if fields.length.is_some_and(|value| !is_length(value.as_bytes())) {
        return Err(malformed("Content-Length is not a number"));
    }
    if let Some(coding) = fields.coding {
        if version != Version::HTTP_11 {
            return Err(malformed("Transfer-Encoding belongs to HTTP/1.1"));
        }
        if fields.lengths > 0 {
            return Err(malformed("Content-Length and Transfer-Encoding together"));
        }
        if fields.codings > 1 || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(malformed("Transfer-Encoding is not exactly `chunked`"));
        }
    }
    if version == Version::HTTP_2 && fields.odd_te {
        return Err(malformed("TE is not exactly `trailers` in HTTP/2"));
    }
    Ok(())
}

fn is_length(value: &[u8]) -> bool {
    !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit)
}

/// RFC 9112 section 3.2 and RFC 9113 section 8.3.1: exactly one name for the server. CONNECT names it in its target, so Host may be
/// missing there (Python's http.client sends none).
fn check_authority(parts: &Parts, fields: &Fields<'_>) -> Result<(), Refusal> {
    if fields.hosts > 1 {
        return Err(malformed("Host is repeated"));
    }
    match fields.host {
        Some(host) => match host.to_str() {
            Ok(text) if is_authority(text) => Ok(()),
            Ok(_) | Err(_) => Err(malformed("Host is not a host with an optional port")),
        },
        None if parts.version == Version::HTTP_2 && parts.uri.authority().is_some() => Ok(()),
        None if parts.method == Method::CONNECT => Ok(()),
        None => Err(malformed("Host is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, uri: &str, version: Version, fields: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().method(method).uri(uri).version(version);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn code(method: &str, uri: &str, version: Version, fields: &[(&str, &str)]) -> Option<Code> {
        check(&parts(method, uri, version, fields), HeadLimits::default()).err().map(|refusal| refusal.code)
    }

    #[test]
    fn ordinary_heads_pass() {
        let host = ("host", "a.example");
        for (method, uri, version, fields) in [
            ("GET", "/", Version::HTTP_11, &[host][..]),
            ("GET", "/a%2Fb//c;d=1?q={x}|[1]", Version::HTTP_11, &[host]),
            ("GET", "http://a.example", Version::HTTP_11, &[host]),
            ("POST", "/", Version::HTTP_11, &[host, ("content-length", "12")]),
            ("POST", "/", Version::HTTP_11, &[host, ("transfer-encoding", "Chunked")]),
            ("OPTIONS", "*", Version::HTTP_11, &[host]),
            ("MKCOL", "/", Version::HTTP_11, &[host]),
            ("VERSION-CONTROL", "/", Version::HTTP_11, &[host]),
            ("CONNECT", "a.example:443", Version::HTTP_10, &[]),
            ("GET", "https://a.example/x", Version::HTTP_2, &[("te", "trailers")]),
            ("GET", "/", Version::HTTP_10, &[host]),
            ("GET", "/", Version::HTTP_11, &[("host", "[::1]:8080"), ("x_api.key", "v")]),
        ] {
            assert_eq!(code(method, uri, version, fields), None, "{method} {uri} {fields:?}");
        }
    }

    #[test]
    fn odd_methods_and_targets_are_refused() {
        let host = ("host", "a.example");
        for (method, uri, expected) in [
            ("get", "/", Code::Malformed),
            ("Delete", "/", Code::Malformed),
            ("G!T", "/", Code::Malformed),
            ("TRACE", "/", Code::Unsupported),
            ("TRACK", "/", Code::Unsupported),
            ("track", "/", Code::Unsupported),
            ("GET", "*", Code::Malformed),
            ("GET", "a.example:443", Code::Malformed),
            ("CONNECT", "/", Code::Malformed),
            ("CONNECT", "http://a.example/", Code::Malformed),
            ("GET", "/a\"b", Code::Malformed),
        ] {
            assert_eq!(code(method, uri, Version::HTTP_11, &[host]), Some(expected), "{method} {uri}");
        }
        assert_eq!(code("CONNECT", "a.example:443", Version::HTTP_2, &[]), Some(Code::Unsupported));
        let mut without_a_path = parts("GET", "/", Version::HTTP_2, &[host]);
        without_a_path.uri = http::Uri::from_parts(http::uri::Parts::default()).unwrap();
        assert_eq!(check(&without_a_path, HeadLimits::default()).unwrap_err().code, Code::Malformed);
    }

    #[test]
    fn a_target_that_is_a_fragment_alone_is_no_target() {
        let of = |path: &str| {
            let mut parts = parts("GET", "https://a.example/", Version::HTTP_2, &[]);
            let mut uri = parts.uri.into_parts();
            uri.path_and_query = Some(PathAndQuery::try_from(path).unwrap());
            parts.uri = http::Uri::from_parts(uri).unwrap();
            check(&parts, HeadLimits::default()).err().map(|refusal| refusal.code)
        };
        assert_eq!((of("#x"), of("#")), (Some(Code::Malformed), Some(Code::Malformed)));
        assert_eq!((of("/#x"), of("/"), of("?q")), (None, None, None));
    }

    #[test]
    fn framing_has_one_reading() {
        let host = ("host", "a.example");
        for (version, fields) in [
            (Version::HTTP_11, &[host, ("content-length", "1"), ("content-length", "1")][..]),
            (Version::HTTP_11, &[host, ("content-length", "1"), ("transfer-encoding", "chunked")]),
            (Version::HTTP_11, &[host, ("content-length", "+1")]),
            (Version::HTTP_11, &[host, ("content-length", "1, 1")]),
            (Version::HTTP_11, &[host, ("content-length", "")]),
            (Version::HTTP_11, &[host, ("content-length", "18446744073709551616")]),
            (Version::HTTP_11, &[host, ("transfer-encoding", "gzip, chunked")]),
            (Version::HTTP_11, &[host, ("transfer-encoding", "chunked,")]),
            (Version::HTTP_11, &[host, ("transfer-encoding", "identity")]),
            (Version::HTTP_11, &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            (Version::HTTP_10, &[host, ("transfer-encoding", "chunked")]),
            (Version::HTTP_2, &[host, ("te", "gzip")]),
        ] {
            assert_eq!(code("POST", "/", version, fields), Some(Code::Malformed), "{fields:?}");
        }
    }

    #[test]
    fn there_is_one_well_formed_host() {
        for fields in [
            &[][..],
            &[("host", "a.example"), ("host", "a.example")],
            &[("host", "")],
            &[("host", "u@a.example")],
            &[("host", "a.example:0")],
            &[("host", "a.example:99999")],
            &[("host", "a.example, b.example")],
            &[("host", "a.example/x")],
            &[("host", "0x7f.1")],
        ] {
            assert_eq!(code("GET", "/", Version::HTTP_11, fields), Some(Code::Malformed), "{fields:?}");
        }
        assert_eq!(code("GET", "/", Version::HTTP_10, &[]), Some(Code::Malformed));
    }

    #[test]
    fn heads_are_bounded() {
        let many: Vec<_> = (0..101).map(|n| (format!("x-{n}"), "1")).collect();
        let many: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(code("GET", "/", Version::HTTP_11, &many), Some(Code::HeadTooLarge));
        let long = "v".repeat(70_000);
        assert_eq!(code("GET", "/", Version::HTTP_11, &[("host", "a"), ("x", &long)]), Some(Code::HeadTooLarge));
        assert_eq!(code("GET", "/", Version::HTTP_11, &[("host", "a"), ("x$y", "1")]), Some(Code::Malformed));
    }
}
