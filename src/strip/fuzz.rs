//! A secret that was planted in any slot, among any other bytes, never leaves.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Uri};

use super::names::{Class, classify};
use super::{Rules, examine, percent_decoded, redact_path, trailers};
use crate::fuzz::Input;
use crate::secret::FingerprintKey;

const SECRET: &str = "eyJhbGciOiJFUzI1NiJ9.eyJjYW5hcnkiOiJjYW5hcnkifQ.canaryA1b2C3d4E5f6G7h8";

/// What was planted, as it stands in the head.
struct Planted {
    parts: Parts,
    written: Vec<u8>,
}

/// The slot, the target, then lines of a head: `name: value`.
pub fn strip(data: &[u8]) {
    let mut input = Input(data);
    let Some(Planted { parts, written }) = planted(&mut input) else { return };
    let (rules, key) = (Rules::default(), FingerprintKey::new(&[7; 32]));
    let stripped = examine(&parts, &rules, &key);
    let shown = format!("{:?}", stripped.findings());
    assert!(!shown.contains(SECRET), "{shown}");
    let mut after = parts.clone();
    stripped.edits().clone().apply(&mut after.headers);
    let target = stripped.edits().target().or(parts.uri.path_and_query()).cloned();
    after.uri = Uri::from(target.expect("a target that was parsed"));
    assert_eq!(after.uri.path(), parts.uri.path());
    for (name, value) in &after.headers {
        assert!(!holds(value.as_bytes(), &written), "{name}: {value:?} left");
    }
    let query = after.uri.query().unwrap_or_default().as_bytes();
    assert!(!holds(query, &written) && !holds(&percent_decoded(query), SECRET.as_bytes()), "{:?} left", after.uri);
    // A word that marks the next subprotocol as a token marks another one once that is gone.
    let again = examine(&after, &rules, &key);
    let left = again.findings().iter().find(|finding| &*finding.place != "subprotocol");
    assert!(left.is_none(), "still there: {left:?} in {after:?}");
    let (gone, _) = trailers(&parts.headers, &rules, &key);
    let mut behind = parts.headers.clone();
    gone.iter().for_each(|name| drop(behind.remove(name)));
    for (name, value) in &behind {
        assert!(!holds(value.as_bytes(), SECRET.as_bytes()), "{name} left as trailer");
    }
    let path = format!("{}/{SECRET}", parts.uri.path());
    assert!(!redact_path(&path).contains(SECRET), "{path}");
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

fn planted(input: &mut Input<'_>) -> Option<Planted> {
    let (slot, how) = (input.byte(), input.byte());
    let target = std::str::from_utf8(input.line()).ok()?;
    let mut parts = Request::new(()).into_parts().0;
    let mut written = SECRET.as_bytes().to_vec();
    let (before, behind) = (input.line(), input.line());
    let between = |separator: &[u8]| [before, separator, SECRET.as_bytes(), separator, behind].concat();
    let separator = [b' ', b',', b';', b'"', b'=', b'&', b'/', b':'][usize::from(how % 8)];
    let mut uri = format!("/{}", target.trim_start_matches('/'));
    let field: Option<(HeaderName, Vec<u8>)> = match slot % 7 {
        0 => Some((http::header::AUTHORIZATION, [before, b" ", SECRET.as_bytes()].concat())),
        1 => Some((http::header::COOKIE, between(b"; "))),
        2 => Some((http::header::SEC_WEBSOCKET_PROTOCOL, [before, b", bearer, ", SECRET.as_bytes(), b", ", behind].concat())),
        3 => {
            let name = HeaderName::from_bytes(input.line()).ok()?;
            // What the engine writes itself never leaves as it came.
            (classify(name.as_str().as_bytes()) != Class::Inert).then(|| (name, between(&[separator])))
        }
        4 => {
            written = if how & 1 == 1 { STANDARD.encode(SECRET) } else { STANDARD_NO_PAD.encode(SECRET) }.into_bytes();
            let value = [if how & 2 == 2 { &b"AAEC,"[..] } else { b"" }, &written, if how & 4 == 4 { b", AA==" } else { b"" }].concat();
            Some((HeaderName::from_static("x-any-bin"), value))
        }
        5 => {
            let name = ["access_token", "api_key", "x-amz-signature", "token", "client_secret", "sig", "password"][usize::from(how % 7)];
            query(&mut uri, name, before, behind, SECRET)?;
            None
        }
        _ => {
            let mut escaped = String::new();
            for (at, byte) in SECRET.bytes().enumerate() {
                if how >> (at % 8) & 1 == 1 { write!(escaped, "%{byte:02x}") } else { write!(escaped, "{}", char::from(byte)) }.ok()?;
            }
            written = escaped.clone().into_bytes();
            let name = std::str::from_utf8(input.line()).ok().filter(|name| !name.contains(['&', '#', '=']))?.to_owned();
            query(&mut uri, &name, before, behind, &escaped)?;
            None
        }
    };
    if let Some((name, value)) = field {
        parts.headers.append(name, HeaderValue::from_bytes(&value).ok()?);
    } else if slot % 7 < 5 {
        return None;
    }
    parts.uri = uri.parse().ok()?;
    while !input.is_empty() && parts.headers.len() < 64 {
        let line = input.line();
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            parts.headers.append(name, value);
        }
    }
    Some(Planted { parts, written })
}

/// The pair among others.
fn query(uri: &mut String, name: &str, before: &[u8], behind: &[u8], value: &str) -> Option<()> {
    let (before, behind) = (std::str::from_utf8(before).ok()?, std::str::from_utf8(behind).ok()?);
    if uri.contains('#') || before.contains('#') {
        return None;
    }
    let joint = if uri.contains('?') { '&' } else { '?' };
    write!(uri, "{joint}{before}&{name}={value}&{behind}").ok()
}
