//! The head of an upstream that means harm: what the workload is given holds no credential, and nothing that is exeat's or the connection's.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::respond::{clean, clean_trailers, is_final};
use crate::catalogue::{Placement, Profile};
use crate::clock::Timestamp;
use crate::credentials::{Credential, GrantId};
use crate::dial::fuzz::answered;
use crate::fuzz::Input;
use crate::policy::GrantTerms;
use crate::secret::{FingerprintKey, Secret};

/// As a key of a vendor's looks, with what a query has to escape.
const SECRET: &str = "sk-live/canary+7f3a";
const OF_THE_CONNECTION: [&str; 8] =
    ["connection", "te", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection", "http2-settings", "proxy-authenticate"];

/// How the credential was put on, then the bytes of an HTTP/1 answer in which each `$` is the credential as it was put on.
pub fn answer(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let (credential, written) = credential(how);
    let mut bytes = Vec::new();
    for byte in input.0 {
        match byte {
            b'$' => bytes.extend_from_slice(&written),
            byte => bytes.push(*byte),
        }
    }
    let upgrade = how & 4 == 4;
    let Some(parts) = answered(&bytes, upgrade) else { return };
    assert!(is_final(parts.status) || (upgrade && parts.status == StatusCode::SWITCHING_PROTOCOLS), "{}", parts.status);
    let framed = parts.headers.contains_key("transfer-encoding");
    assert!(!(framed && parts.headers.contains_key("content-length")), "the next reader could frame by the other one");
    let lengths: Vec<_> = parts.headers.get_all("content-length").iter().map(HeaderValue::as_bytes).collect();
    assert!(lengths.iter().all(|length| *length == lengths[0] && length.iter().all(u8::is_ascii_digit)), "{lengths:?}");
    head(&credential, &written, &parts.headers, upgrade && parts.status == StatusCode::SWITCHING_PROTOCOLS);
    trailers(&credential, &written, &parts.headers);
}

fn head(credential: &Credential, written: &[u8], before: &HeaderMap, upgrade: bool) {
    let removed = [HeaderName::from_static("server")];
    let mut after = before.clone();
    let reflected = clean(&mut after, Some(credential), upgrade, &removed);
    for name in after.keys() {
        let kept = upgrade && matches!(name.as_str(), "connection" | "upgrade");
        assert!(kept || !OF_THE_CONNECTION.contains(&name.as_str()), "{name}");
        assert!(!name.as_str().starts_with("exeat-") && *name != removed[0], "{name}");
    }
    unharmed(written, before, &after, reflected);
    let mut again = after.clone();
    assert!(!clean(&mut again, Some(credential), upgrade, &removed) && again == after, "not clean at once: {after:?}");
    let mut without = before.clone();
    assert!(!clean(&mut without, None, upgrade, &removed), "without a credential nothing comes back");
}

fn trailers(credential: &Credential, written: &[u8], before: &HeaderMap) {
    let mut after = before.clone();
    let reflected = clean_trailers(&mut after, Some(credential));
    assert!(after.keys().all(|name| !name.as_str().starts_with("exeat-")));
    unharmed(written, before, &after, reflected);
}

/// The credential is in no value; a value that did not hold it is as it was.
fn unharmed(written: &[u8], before: &HeaderMap, after: &HeaderMap, reflected: bool) {
    let holds = |value: &HeaderValue, part: &[u8]| memchr::memmem::find(value.as_bytes(), part).is_some();
    for (name, value) in after {
        assert!(!holds(value, SECRET.as_bytes()) && !holds(value, written), "{name}: {value:?}");
        let ours = matches!(name.as_str(), "connection" | "upgrade");
        assert!(
            ours || holds(value, b"[exeat:redacted]") || before.get_all(name).iter().any(|known| known == value),
            "{name}: {value:?} was made here"
        );
    }
    assert!(reflected || !before.iter().any(|(name, value)| after.contains_key(name) && holds(value, SECRET.as_bytes())));
}

/// A credential, and how it stands in a request.
fn credential(how: u8) -> (Credential, Vec<u8>) {
    let (placement, written, rendered) = match how % 4 {
        0 => (Placement::Bearer, SECRET.to_owned(), Some(format!("Bearer {SECRET}"))),
        1 => (Placement::Header(HeaderName::from_static("x-api-key")), SECRET.to_owned(), Some(SECRET.to_owned())),
        2 => {
            let pair = STANDARD.encode(format!("user:{SECRET}"));
            (Placement::Basic { user: "user".into() }, pair.clone(), Some(format!("Basic {pair}")))
        }
        _ => (Placement::Query("key".into()), SECRET.replace('/', "%2F").replace('+', "%2B"), None),
    };
    let profile = Profile { name: "c".into(), kind: "secret", audience: None, scopes: None, ttl: Duration::from_mins(1), placement };
    let material = Secret::new(SECRET);
    let credential = Credential {
        grant: GrantId("g".into()),
        terms: Arc::new(GrantTerms { profile: Arc::new(profile), scopes: None, ttl: Duration::from_mins(1) }),
        fingerprint: material.fingerprint(&FingerprintKey::new(&[1; 32])),
        material,
        rendered: rendered.map(|text| HeaderValue::try_from(text).unwrap()),
        issued: Timestamp::UNIX_EPOCH,
        not_after: None,
    };
    (credential, written.into_bytes())
}
