//! Headers that are lists: cookies, WebSocket subprotocols, baggage. Elements are judged one by one; those that stay keep their bytes.

use http::HeaderValue;
use http::header::{GetAll, HeaderMap, HeaderName};

use super::finding::Kind;
use super::names::{Class, QueryClass, SUBPROTOCOL_MARKERS, SUBPROTOCOL_PREFIXES, classify_query, fold, suspicious};
use super::scan::Scan;
use super::shape;
use crate::edits::Edits;

/// Registered and well-known subprotocols that may follow a word like `bearer` without being the token.
const PLAIN_SUBPROTOCOLS: &[&[u8]] = &[
    b"graphql-ws",
    b"graphql-transport-ws",
    b"mqtt",
    b"mqttv3.1",
    b"v10.stomp",
    b"v11.stomp",
    b"v12.stomp",
    b"wamp",
    b"wamp.2.json",
    b"wamp.2.msgpack",
    b"soap",
    b"xmpp",
    b"sip",
    b"json",
    b"binary",
    b"base64",
    b"chat",
    b"superchat",
    b"realtime",
    b"channel.k8s.io",
    b"v4.channel.k8s.io",
    b"v5.channel.k8s.io",
    b"base64.channel.k8s.io",
    b"base64.binary.k8s.io",
    b"binary.k8s.io",
    b"portforward.k8s.io",
    b"actioncable-v1-json",
    b"actioncable-unsupported",
    b"ocpp1.6",
    b"ocpp2.0",
    b"ocpp2.0.1",
    b"ocpp2.1",
    b"tty",
];

/// The lists that a head has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    cookies: bool,
    subprotocols: bool,
    baggage: bool,
}

impl Seen {
    pub(super) fn note(&mut self, class: Class) {
        match class {
            Class::Cookie => self.cookies = true,
            Class::Subprotocols => self.subprotocols = true,
            Class::Baggage => self.baggage = true,
            Class::Inert | Class::Plain | Class::Authorization | Class::Credential(_) | Class::Unknown => {}
        }
    }

    /// Judges every list that was seen, over all fields of its name.
    pub(super) fn strip(self, headers: &HeaderMap, scan: &mut Scan<'_>, edits: &mut Edits) {
        if self.cookies {
            cookies(headers, scan, edits);
        }
        if self.subprotocols {
            subprotocols(headers, scan, edits);
        }
        if self.baggage {
            baggage(headers, scan, edits);
        }
    }
}

/// A workload's cookie jar is a session that somebody logged in to: every crumb goes unless the upstream keeps its name.
fn cookies(headers: &HeaderMap, scan: &mut Scan<'_>, edits: &mut Edits) {
    let name = http::header::COOKIE;
    let all = scan.rules.keeps_header(name.as_str().as_bytes());
    let stays = |scan: &mut Scan<'_>, crumb: &[u8]| {
        let (name, value) = halves(crumb);
        let kept = all || scan.rules.keeps_cookie(name);
        !scan.found(Kind::Cookie, "cookie", name, value, kept)
    };
    filter(name, headers, b';', scan, edits, stays);
}

fn subprotocols(headers: &HeaderMap, scan: &mut Scan<'_>, edits: &mut Edits) {
    let name = http::header::SEC_WEBSOCKET_PROTOCOL;
    let kept = scan.rules.keeps_header(name.as_str().as_bytes());
    let mut after_marker = false;
    let stays = |scan: &mut Scan<'_>, element: &[u8]| {
        let folded = element.to_ascii_lowercase();
        let is_marker = SUBPROTOCOL_MARKERS.contains(&&*folded);
        let behind = std::mem::replace(&mut after_marker, is_marker);
        let secret = if let Some(rest) = SUBPROTOCOL_PREFIXES.iter().find_map(|prefix| folded.strip_prefix(*prefix)) {
            element.get(element.len() - rest.len()..).filter(|rest| !rest.is_empty())
        } else if behind && !is_marker && !PLAIN_SUBPROTOCOLS.contains(&&*folded) {
            Some(element)
        } else {
            shape::find(element).map(|(_, secret)| secret)
        };
        match secret {
            Some(secret) => {
                let kind = shape::find(secret).map_or(Kind::Bearer, |(kind, _)| kind);
                !scan.found(kind, "subprotocol", b"", secret, kept)
            }
            None => true,
        }
    };
    filter(name, headers, b',', scan, edits, stays);
}

/// Baggage is data that travels on to every further service (W3C Baggage section 5): a credential has no place in it.
fn baggage(headers: &HeaderMap, scan: &mut Scan<'_>, edits: &mut Edits) {
    let name = HeaderName::from_static("baggage");
    let kept = scan.rules.keeps_header(b"baggage");
    let stays = |scan: &mut Scan<'_>, member: &[u8]| {
        let (key, value) = halves(member);
        let folded = fold(key);
        let named = suspicious(&folded) || matches!(classify_query(&folded), QueryClass::Credential(_));
        match shape::find(member) {
            Some((kind, secret)) => !scan.found(kind, "baggage", key, secret, kept),
            None if named => !scan.found(Kind::ApiKey, "baggage", key, value, kept),
            None => true,
        }
    };
    filter(name, headers, b',', scan, edits, stays);
}

/// Name and value; an element without `=` is all value.
fn halves(element: &[u8]) -> (&[u8], &[u8]) {
    match element.iter().position(|byte| *byte == b'=').and_then(|at| element.split_at_checked(at)) {
        Some((name, value)) => (name.trim_ascii(), value.get(1..).unwrap_or_default()),
        None => (b"", element),
    }
}

/// Judges every element of every field of a name; where one goes, the others are written anew as one field (RFC 9110 section 5.3, and
/// RFC 6265 section 5.4 for cookies, which HTTP/2 sends in crumbs).
fn filter(
    name: HeaderName,
    headers: &HeaderMap,
    separator: u8,
    scan: &mut Scan<'_>,
    edits: &mut Edits,
    mut stays: impl FnMut(&mut Scan<'_>, &[u8]) -> bool,
) {
    let fields: GetAll<'_, HeaderValue> = headers.get_all(&name);
    let (mut left, mut gone) = (Vec::new(), false);
    for field in fields {
        for element in field.as_bytes().split(|byte| *byte == separator).map(<[u8]>::trim_ascii).filter(|element| !element.is_empty()) {
            if stays(scan, element) {
                if !left.is_empty() {
                    left.extend_from_slice(&[separator, b' ']);
                }
                left.extend_from_slice(element);
            } else {
                gone = true;
            }
        }
    }
    if !gone {
        return;
    }
    match HeaderValue::from_bytes(&left) {
        Ok(value) if !left.is_empty() => edits.set(name, value),
        Ok(_) | Err(_) => edits.remove(name),
    }
}
