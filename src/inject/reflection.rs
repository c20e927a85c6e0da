//! The way back: an upstream that echoes what it was sent must not hand the credential to the workload in a header or trailer.

use std::borrow::Cow;

use http::HeaderValue;
use memchr::memmem;

use super::placement::encode;
use crate::catalogue::Placement;
use crate::credentials::Credential;

/// What stands in its place.
const REDACTED: &[u8] = b"[exeat:redacted]";
/// A shorter material would be found in harmless values.
const SHORTEST: usize = 8;

/// The value of a response header or trailer without the credential in it; `None` where it does not hold it.
#[must_use]
pub fn redacted(credential: &Credential, value: &HeaderValue) -> Option<HeaderValue> {
    let material = credential.material.expose();
    if material.len() < SHORTEST || value.len() < material.len() {
        return None;
    }
    let mut clean = Cow::Borrowed(value.as_bytes());
    remove(material, &mut clean);
    match &credential.terms.profile.placement {
        Placement::Bearer | Placement::Header(_) => {}
        Placement::Basic { .. } => {
            let pair = credential.rendered.as_ref().and_then(|rendered| rendered.as_bytes().strip_prefix(b"Basic "));
            remove(pair.unwrap_or_default(), &mut clean);
        }
        Placement::Query(_) => {
            let mut escaped = zeroize::Zeroizing::new(String::with_capacity(material.len() * 3));
            encode(material, &mut escaped);
            remove(escaped.as_bytes(), &mut clean);
        }
    }
    match clean {
        Cow::Borrowed(_) => None,
        Cow::Owned(clean) => Some(HeaderValue::from_bytes(&clean).unwrap_or_else(|_| HeaderValue::from_static("[exeat:redacted]"))),
    }
}

fn remove(secret: &[u8], value: &mut Cow<'_, [u8]>) {
    if secret.is_empty() || memmem::find(value, secret).is_none() {
        return;
    }
    let mut clean = Vec::with_capacity(value.len());
    let mut from = 0;
    for at in memmem::find_iter(value, secret) {
        clean.extend_from_slice(value.get(from..at).unwrap_or_default());
        clean.extend_from_slice(REDACTED);
        from = at + secret.len();
    }
    clean.extend_from_slice(value.get(from..).unwrap_or_default());
    *value = Cow::Owned(clean);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::catalogue::Profile;
    use crate::clock::Timestamp;
    use crate::credentials::GrantId;
    use crate::policy::GrantTerms;
    use crate::secret::{FingerprintKey, Secret};

    fn credential(placement: Placement, material: &'static str, rendered: Option<&'static str>) -> Credential {
        let profile = Profile { name: "c".into(), kind: "secret", audience: None, scopes: None, ttl: Duration::from_mins(1), placement };
        let material = Secret::new(material);
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

    #[test]
    fn an_echo_is_redacted_in_each_form() {
        let basic = credential(Placement::Basic { user: "u".into() }, "canary-key", Some("Basic dTpjYW5hcnkta2V5"));
        let query = credential(Placement::Query("k".into()), "canary/key", None);
        let bearer = credential(Placement::Bearer, "canary-token", Some("Bearer canary-token"));
        for (credential, value, expected) in [
            (&bearer, "a=canary-token; b=Bearer canary-token", "a=[exeat:redacted]; b=Bearer [exeat:redacted]"),
            (&basic, "got Basic dTpjYW5hcnkta2V5", "got Basic [exeat:redacted]"),
            (&basic, "canary-key", "[exeat:redacted]"),
            (&query, "https://x/?k=canary%2Fkey&b", "https://x/?k=[exeat:redacted]&b"),
        ] {
            assert_eq!(redacted(credential, &HeaderValue::from_static(value)).unwrap(), expected);
        }
        assert_eq!(redacted(&bearer, &HeaderValue::from_static("text/html; charset=utf-8")), None);
        let short = credential(Placement::Bearer, "abc", Some("Bearer abc"));
        assert_eq!(redacted(&short, &HeaderValue::from_static("abcdef")), None);
    }
}
