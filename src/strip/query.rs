//! The query of a target. Pairs that hold a credential go; the bytes of all others, and their order, stay.

use std::borrow::Cow;

use super::finding::Kind;
use super::names::{QueryClass, classify_query, fold};
use super::scan::Scan;
use super::shape;

/// Shorter values of a name like `sig` are no signatures.
const SIGNATURE: usize = 16;

/// Path and query without the query's credentials, and without `?` where nothing of it is left; `None` where all stays as it is.
pub(super) fn strip(path: &str, query: &str, scan: &mut Scan<'_>) -> Option<String> {
    let mut target: Option<String> = None;
    let mut begin = 0;
    for pair in query.as_bytes().split(|byte| *byte == b'&') {
        let pair = query.get(begin..begin + pair.len()).unwrap_or_default();
        // Some servers part pairs at `;` too. What stands in one part of those cannot be told from the rest, so all of it goes.
        let parts = pair.as_bytes().split(|byte| *byte == b';');
        let goes = parts.fold(false, |goes, part| goes | (!part.is_empty() && credential(part, query.as_bytes(), scan)));
        match (&mut target, goes) {
            (None, false) | (Some(_), true) => {}
            (Some(left), false) if left.len() == path.len() && pair.is_empty() => {}
            // The first that goes: what was before stays as written, but for the joint.
            (None, true) => {
                let before = query.get(..begin).unwrap_or_default();
                let before = before.strip_suffix('&').unwrap_or(before);
                let mut left = String::with_capacity(path.len() + 1 + query.len());
                left.push_str(path);
                if !before.is_empty() {
                    left.push('?');
                    left.push_str(before);
                }
                target = Some(left);
            }
            (Some(left), false) => {
                left.push(if left.len() > path.len() { '&' } else { '?' });
                left.push_str(pair);
            }
        }
        begin += pair.len() + 1;
    }
    target
}

/// Whether a pair goes.
fn credential(pair: &[u8], query: &[u8], scan: &mut Scan<'_>) -> bool {
    let (name, value) = match pair.iter().position(|byte| *byte == b'=').and_then(|at| pair.split_at_checked(at)) {
        Some((name, value)) => (name, value.get(1..).unwrap_or_default()),
        None => (&b""[..], pair),
    };
    let (name, value) = (percent_decoded(name), percent_decoded(value));
    let folded = fold(&name);
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
