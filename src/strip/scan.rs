//! `Scan`: one examination under way: the findings so far, and what an upstream's rules say of each.

use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};

use super::finding::{Findings, Held, Kind, finding};
use super::harmless;
use super::names::{Class, QueryClass, classify, classify_query, exact, fold};
use super::rules::Rules;
use super::shape;
use crate::secret::FingerprintKey;

/// Most findings of one head that are recorded; what is beyond is removed all the same.
const MOST: usize = 64;

pub(super) struct Scan<'a> {
    pub(super) rules: &'a Rules,
    pub(super) key: &'a FingerprintKey,
    pub(super) findings: Findings,
}

/// What becomes of one header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing found, or kept by rule.
    Stays,
    /// Removed.
    Goes,
    /// A list whose elements are judged one by one.
    List(Class),
}

impl<'a> Scan<'a> {
    pub(super) fn new(rules: &'a Rules, key: &'a FingerprintKey) -> Self {
        Self { rules, key, findings: Findings::new() }
    }

    /// Writes down a finding. Whether it goes.
    pub(super) fn found(&mut self, kind: Kind, slot: &'static str, name: &[u8], value: &[u8], kept: bool) -> bool {
        if self.findings.len() < MOST {
            self.findings.push(finding(self.key, &Held { slot, name, value }, kept, Some(kind), |value| (kind, value)));
        }
        !kept
    }

    /// Judges one header or trailer field.
    pub(super) fn field(&mut self, slot: &'static str, name: &[u8], value: &[u8]) -> Verdict {
        match exact(name) {
            Some(Class::Plain) | None => self.unsaid(&Held { slot, name, value }),
            Some(class) => self.said(class, &Held { slot, name, value }),
        }
    }

    /// A field whose name may say nothing: most were here before, and had nothing.
    fn unsaid(&mut self, held: &Held<'_>) -> Verdict {
        let mark = harmless::mark(held.name, held.value);
        if harmless::knows(mark) && !self.rules.adds_header(held.name) {
            return Verdict::Stays;
        }
        let class = classify(held.name);
        if !matches!(class, Class::Plain | Class::Unknown) {
            return self.said(class, held);
        }
        let Some((kind, secret)) = self.by_value(held.name, held.value) else {
            harmless::learn(mark);
            return Verdict::Stays;
        };
        let kept = self.rules.keeps_header(held.name);
        if self.found(kind, held.slot, held.name, secret, kept) { Verdict::Goes } else { Verdict::Stays }
    }

    /// A field whose name says what its value is.
    fn said(&mut self, class: Class, held: &Held<'_>) -> Verdict {
        match class {
            Class::Inert | Class::Plain | Class::Unknown => Verdict::Stays,
            Class::Cookie | Class::Subprotocols | Class::Baggage => Verdict::List(class),
            Class::Authorization => self.by_name(held, authorization),
            Class::Credential(kind) => self.by_name(held, |value| shape::find(value).unwrap_or((kind, value))),
        }
    }

    /// A field whose name says all.
    fn by_name<'v>(&mut self, held: &Held<'v>, look: impl FnOnce(&'v [u8]) -> (Kind, &'v [u8])) -> Verdict {
        let kept = self.rules.keeps_header(held.name);
        if self.findings.len() < MOST {
            self.findings.push(finding(self.key, held, kept, None, look));
        }
        if kept { Verdict::Stays } else { Verdict::Goes }
    }

    /// A field whose name says nothing.
    fn by_value<'v>(&mut self, name: &[u8], value: &'v [u8]) -> Option<(Kind, &'v [u8])> {
        if let Some(found) = shape::find(value) {
            return Some(found);
        }
        if self.rules.adds_header(name) {
            return Some((Kind::Other, value));
        }
        // gRPC sends such metadata in base64 (PROTOCOL-HTTP2, "Custom-Metadata").
        if name.ends_with(b"-bin") && decoded_bin(value).any(|value| shape::find(&value).is_some()) {
            return Some((Kind::Other, value));
        }
        if name == b"referer" && query_names_credential(value) {
            return Some((Kind::ApiKey, value));
        }
        None
    }
}

/// The kind of an `Authorization` value, and the part of it that stays the same while the key does.
pub(super) fn authorization(value: &[u8]) -> (Kind, &[u8]) {
    let value = value.trim_ascii();
    let (scheme, rest) = match value.iter().position(|byte| *byte == b' ').and_then(|at| value.split_at_checked(at)) {
        Some((scheme, rest)) => (scheme, rest.trim_ascii()),
        None => (&b""[..], value),
    };
    let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());
    if is("basic") {
        return (Kind::Basic, rest);
    }
    if is("digest") {
        return (Kind::Digest, parameter(rest, b"username=").unwrap_or(rest));
    }
    if scheme.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"aws4")) {
        // The signature changes with each request; the access key id is the credential's name.
        return (Kind::Aws, parameter(rest, b"Credential=").unwrap_or(rest));
    }
    if is("aws") {
        return (Kind::Aws, rest.split(|byte| *byte == b':').next().unwrap_or(rest));
    }
    if let Some((kind, found)) = shape::find(rest) {
        return (kind, found);
    }
    if is("bearer") {
        (Kind::Bearer, rest)
    } else if is("token") || is("apikey") || is("api-key") || is("key") {
        (Kind::ApiKey, rest)
    } else {
        (Kind::Other, rest)
    }
}

/// The value of a parameter up to a quote, slash, comma or space.
fn parameter<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let at = memchr::memmem::find(text, name)? + name.len();
    let value = text.get(at..)?;
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    value.split(|byte| matches!(byte, b'"' | b'/' | b',' | b' ')).next().filter(|value| !value.is_empty())
}

/// What a lenient decoder makes of base64: padding or none, and bits left over at the end.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The values of a `-bin` field, of which several stand in one with commas between; decoded as far as 8 KiB go. What cannot be decoded is
/// empty.
fn decoded_bin(field: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let looked_at = field.get(..8 * 1024).unwrap_or(field);
    looked_at.split(|byte| *byte == b',').map(|value| {
        let value = value.trim_ascii();
        // A value that was cut ends in the middle of a group.
        let whole = LENIENT.decode(value).ok();
        whole.or_else(|| LENIENT.decode(value.get(..value.len() / 4 * 4)?).ok()).unwrap_or_default()
    })
}

/// Whether a URL's query names a credential: a page that was opened with a key in its address sends that on as `Referer`.
fn query_names_credential(url: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b'?', url) else { return false };
    url.get(at + 1..).unwrap_or_default().split(|byte| *byte == b'&').any(|pair| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        matches!(classify_query(&fold(name)), QueryClass::Credential(_) | QueryClass::Presigning)
    })
}
