//! The query of a target. Pairs that hold a credential go; the bytes of all others, and their order, stay.

use std::borrow::Cow;

use super::finding::Kind;
use super::names::{QueryClass, classify_query, fold};
use super::scan::Scan;
use super::shape;

/// Shorter values of a name like `sig` are no signatures.
const SIGNATURE: usize = 16;

/// The query without its credentials (empty: nothing is left); `None` where it stays as it is.
pub(super) fn strip(query: &str, scan: &mut Scan<'_>) -> Option<String> {
    let query = query.as_bytes();
    let mut left: Option<Vec<u8>> = None;
    let mut begin = 0;
    for pair in query.split(|byte| *byte == b'&') {
        let goes = !pair.is_empty() && credential(pair, query, scan);
        match (&mut left, goes) {
            (None, false) | (Some(_), true) => {}
            // The first that goes: what was before stays as written, but for the joint.
            (None, true) => {
                let before = query.get(..begin).unwrap_or_default();
                left = Some(before.strip_suffix(b"&").unwrap_or(before).to_vec());
            }
            (Some(left), false) => {
                if !left.is_empty() {
                    left.push(b'&');
                }
                left.extend_from_slice(pair);
            }
        }
        begin += pair.len() + 1;
    }
    // Cut at `&` only, so it is text as before; if it were not, nothing of it would be left.
    left.map(|left| String::from_utf8(left).unwrap_or_default())
}

/// Whether a pair goes.
fn credential(pair: &[u8], query: &[u8], scan: &mut Scan<'_>) -> bool {
    let (name, value) = match pair.iter().position(|byte| *byte == b'=').and_then(|at| pair.split_at_checked(at)) {
        Some((name, value)) => (name, value.get(1..).unwrap_or_default()),
        None => (&b""[..], pair),
    };
    let (name, value) = (percent_decoded(name), percent_decoded(value));
    let folded = folded(&name);
    let kind = match classify_query(&folded) {
        QueryClass::Credential(kind) if !value.is_empty() => Some(kind),
        QueryClass::IfSecret if shape::looks_random(&value) => Some(Kind::ApiKey),
        QueryClass::IfLong if value.len() >= SIGNATURE => Some(Kind::Other),
        QueryClass::Presigning => Some(Kind::Aws),
        QueryClass::Presigned if is_presigned(query) => {
            // Dates and algorithm prove nothing, but half a signature is refused by the upstream; they go without a finding.
            return !scan.rules.keeps_query(&folded);
        }
        QueryClass::Credential(_) | QueryClass::IfSecret | QueryClass::IfLong | QueryClass::Presigned | QueryClass::Plain => {
            scan.rules.adds_query(&folded).then_some(Kind::Other)
        }
    };
    let shaped = shape::find(&value).or_else(|| shape::find(&name));
    let Some((kind, secret)) = shaped.or_else(|| kind.map(|kind| (kind, &*value))) else { return false };
    let kept = scan.rules.keeps_query(&folded);
    scan.found(kind, "query", &name, secret, kept)
}

fn is_presigned(query: &[u8]) -> bool {
    query.split(|byte| *byte == b'&').any(|pair| {
        let name = percent_decoded(pair.split(|byte| *byte == b'=').next().unwrap_or_default());
        classify_query(&fold(&name)) == QueryClass::Presigning
    })
}

/// The form in which keys are compared; most are written in it.
fn folded(name: &[u8]) -> Cow<'_, [u8]> {
    if name.iter().any(|byte| *byte == b'_' || byte.is_ascii_uppercase()) { Cow::Owned(fold(name).to_vec()) } else { Cow::Borrowed(name) }
}

/// Percent-decoded once, as the upstream will; a malformed escape stays as written.
pub(crate) fn percent_decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        let escaped = match (first, after) {
            (b'%', [high, low, beyond @ ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| (high << 4 | low, beyond)),
            _ => None,
        };
        match escaped {
            Some((byte, beyond)) => {
                decoded.push(byte);
                rest = beyond;
            }
            None => decoded.push(*first),
        }
    }
    Cow::Owned(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
