//! Where each placement puts a credential.

use http::header::{AUTHORIZATION, HeaderName};
use http::request::Parts;
use http::uri::PathAndQuery;

use crate::catalogue::Placement;
use crate::credentials::Credential;
use crate::edits::Edits;
use crate::policy::{GrantTerms, Permit, Plan};
use crate::refusal::{Code, Refusal};
use crate::strip::percent_decoded;

/// The edits that put `credential` where its profile says. They go behind `stripped`, whose target they build upon.
///
/// # Errors
/// `internal`: the credential is not of the permit's terms, or cannot stand where its profile says.
pub fn edits(permit: &Permit, credential: &Credential, parts: &Parts, stripped: &Edits) -> Result<Edits, Refusal> {
    let Plan::Swap(terms) = permit.plan() else {
        return Err(Refusal::new(Code::Internal, "the permit asks for no credential, and one was to be injected"));
    };
    place(terms, credential, parts, stripped)
}

fn place(terms: &GrantTerms, credential: &Credential, parts: &Parts, stripped: &Edits) -> Result<Edits, Refusal> {
    if *credential.terms != *terms {
        return Err(Refusal::new(Code::Internal, "the credential to be injected is not of the permit's terms"));
    }
    let mut edits = Edits::default();
    match &terms.profile.placement {
        Placement::Bearer | Placement::Basic { .. } => set(&mut edits, AUTHORIZATION, credential)?,
        Placement::Header(name) => set(&mut edits, name.clone(), credential)?,
        Placement::Query(key) => {
            let base = stripped.target().or_else(|| parts.uri.path_and_query());
            edits.retarget(with_query(base, key, credential.material.expose())?);
        }
    }
    Ok(edits)
}

fn set(edits: &mut Edits, name: HeaderName, credential: &Credential) -> Result<(), Refusal> {
    let mut value =
        credential.rendered.clone().ok_or_else(|| Refusal::new(Code::Internal, "the credential was not rendered for a header"))?;
    value.set_sensitive(true);
    edits.set(name, value);
    Ok(())
}

/// The target with `key=secret` at its end. A pair of that name goes first, in whatever escaping; all other bytes stay.
fn with_query(base: Option<&PathAndQuery>, key: &str, secret: &[u8]) -> Result<PathAndQuery, Refusal> {
    let (path, query) = base.map_or(("/", None), |base| (base.path(), base.query()));
    let mut target = String::with_capacity(path.len() + query.map_or(0, str::len) + 3 * (key.len() + secret.len()) + 4);
    target.push_str(path);
    let mut joint = '?';
    let others = query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !is_named(pair, key));
    for pair in others {
        target.push(joint);
        target.push_str(pair);
        joint = '&';
    }
    target.push(joint);
    encode(key.as_bytes(), &mut target);
    target.push('=');
    encode(secret, &mut target);
    PathAndQuery::try_from(target).map_err(|_| Refusal::new(Code::Internal, "the target with the injected query is not a target"))
}

fn is_named(pair: &str, key: &str) -> bool {
    let name = pair.split_once('=').map_or(pair, |(name, _)| name);
    *percent_decoded(name.as_bytes()) == *key.as_bytes()
}

/// Everything but RFC 3986 section 2.3's unreserved characters is escaped.
pub(super) fn encode(bytes: &[u8], target: &mut String) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            target.push(char::from(*byte));
        } else {
            target.push('%');
            target.extend([byte >> 4, byte & 15].map(|half| HEX.get(usize::from(half)).copied().unwrap_or('0')));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue, Request};

    use super::*;
    use crate::catalogue::Profile;
    use crate::clock::Timestamp;
    use crate::credentials::GrantId;
    use crate::secret::{FingerprintKey, Secret};

    fn credential(placement: Placement, rendered: Option<&'static str>) -> Credential {
        let profile = Profile { name: "c".into(), kind: "secret", audience: None, scopes: None, ttl: Duration::from_mins(1), placement };
        let material = Secret::new("k&y=1");
        Credential {
            grant: GrantId("g".into()),
            terms: Arc::new(GrantTerms { profile: Arc::new(profile), scopes: None, ttl: Duration::from_mins(1) }),
            fingerprint: material.fingerprint(&FingerprintKey::new(&[1; 32])),
            material,
            rendered: rendered.map(HeaderValue::from_static),
            issued: Timestamp::UNIX_EPOCH,
            not_after: None,
        }
    }

    fn parts(target: &str) -> Parts {
        Request::get(target).body(()).unwrap().into_parts().0
    }

    #[test]
    fn headers_are_set_once_and_sensitive() {
        for (placement, name) in [
            (Placement::Bearer, "authorization"),
            (Placement::Basic { user: "u".into() }, "authorization"),
            (Placement::Header(HeaderName::from_static("x-api-key")), "x-api-key"),
        ] {
            let credential = credential(placement, Some("value"));
            let edits = place(&credential.terms, &credential, &parts("/"), &Edits::default()).unwrap();
            let mut headers = HeaderMap::new();
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("old"));
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("older"));
            edits.clone().apply(&mut headers);
            edits.apply(&mut headers);
            assert_eq!(headers.get_all(name).iter().collect::<Vec<_>>(), ["value"]);
            assert!(headers[name].is_sensitive());
        }
    }

    #[test]
    fn a_query_key_is_replaced_and_the_rest_kept() {
        let credential = credential(Placement::Query("api key".into()), None);
        for (target, expected) in [
            ("/p", "/p?api%20key=k%26y%3D1"),
            ("/a%2Fb//c?x=1&&y=%20", "/a%2Fb//c?x=1&&y=%20&api%20key=k%26y%3D1"),
            ("/p?api%20key=old&z=2", "/p?z=2&api%20key=k%26y%3D1"),
            ("/p?a=1&%61pi%20key=old", "/p?a=1&api%20key=k%26y%3D1"),
            ("/p?", "/p?&api%20key=k%26y%3D1"),
        ] {
            let edits = place(&credential.terms, &credential, &parts(target), &Edits::default()).unwrap();
            assert_eq!(edits.target().unwrap(), expected, "{target}");
            assert!(!format!("{edits:?}").contains("k%26y"));
        }
    }

    #[test]
    fn injection_builds_on_what_strip_left() {
        let credential = credential(Placement::Query("key".into()), None);
        let mut stripped = Edits::default();
        stripped.retarget(PathAndQuery::from_static("/p?b=2"));
        let parts = parts("/p?token=canary&b=2");
        let both = place(&credential.terms, &credential, &parts, &stripped).unwrap().after(&stripped);
        assert_eq!(both.target().unwrap(), "/p?b=2&key=k%26y%3D1");
    }

    #[test]
    fn a_credential_of_other_terms_is_refused() {
        let credential = credential(Placement::Bearer, Some("value"));
        let other = GrantTerms { profile: Arc::clone(&credential.terms.profile), scopes: None, ttl: Duration::from_secs(30) };
        assert_eq!(place(&other, &credential, &parts("/"), &Edits::default()).unwrap_err().code, Code::Internal);
    }
}
