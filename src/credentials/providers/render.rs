//! The header value of a credential, built once per issue: no request pays for it, and no bad byte reaches a request.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::catalogue::{Placement, Profile};
use crate::credentials::IssueError;
use crate::secret::Secret;

/// The complete value for header placements, marked sensitive; `None` for a query.
///
/// # Errors
/// `Refused`: material that cannot stand in a header (RFC 9110 section 5.5), or a user name that Basic cannot carry (RFC 7617 section 2).
pub(in crate::credentials) fn render(profile: &Profile, material: &Secret) -> Result<Option<HeaderValue>, IssueError> {
    let refused = |why: &str| IssueError::Refused { credential: Arc::clone(&profile.name), why: why.into() };
    let bytes = material.expose();
    let prefixed = |prefix: &[u8]| {
        // Of the final size at once: a buffer that grows leaves copies of the secret behind.
        let mut value = Zeroizing::new(Vec::with_capacity(prefix.len() + bytes.len()));
        value.extend_from_slice(prefix);
        value.extend_from_slice(bytes);
        value
    };
    let value = match &profile.placement {
        Placement::Query(_) => return Ok(None),
        Placement::Basic { user } => {
            basic(user, bytes).ok_or_else(|| refused("a Basic user name holds no colon and no control character"))?
        }
        Placement::Bearer if bytes.iter().all(u8::is_ascii_graphic) => prefixed(b"Bearer "),
        Placement::Bearer => return Err(refused("a bearer token holds visible ASCII characters only; check its source")),
        Placement::Header(_) if fits_header(bytes) => prefixed(b""),
        Placement::Header(_) => {
            return Err(refused(
                "a header value holds printable ASCII characters and neither begins nor ends with a space; check its source",
            ));
        }
    };
    let mut value = HeaderValue::from_bytes(&value).map_err(|_| refused("it cannot stand in a header; check its source"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn fits_header(bytes: &[u8]) -> bool {
    let space = |byte: Option<&u8>| byte == Some(&b' ');
    bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) && !space(bytes.first()) && !space(bytes.last())
}

fn basic(user: &str, secret: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if user.bytes().any(|byte| byte == b':' || byte.is_ascii_control()) || secret.iter().any(u8::is_ascii_control) {
        return None;
    }
    let mut pair = Zeroizing::new(Vec::with_capacity(user.len() + 1 + secret.len()));
    pair.extend_from_slice(user.as_bytes());
    pair.push(b':');
    pair.extend_from_slice(secret);
    let encoded = Zeroizing::new(STANDARD.encode(&*pair));
    let mut value = Zeroizing::new(Vec::with_capacity("Basic ".len() + encoded.len()));
    value.extend_from_slice(b"Basic ");
    value.extend_from_slice(encoded.as_bytes());
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(placement: Placement, material: &[u8]) -> Result<Option<HeaderValue>, IssueError> {
        let profile =
            Profile { name: "c".into(), kind: "secret", audience: None, scopes: None, ttl: std::time::Duration::from_mins(1), placement };
        render(&profile, &Secret::new(material))
    }

    #[test]
    fn each_placement_has_its_form_and_is_sensitive() {
        let basic = Placement::Basic { user: "Aladdin".into() };
        // RFC 7617 section 2.
        for (placement, material, expected) in [
            (Placement::Bearer, "tok", "Bearer tok"),
            (basic, "open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            (Placement::Header(http::HeaderName::from_static("x-api-key")), "Token a b", "Token a b"),
        ] {
            let value = rendered(placement, material.as_bytes()).unwrap().unwrap();
            assert_eq!(value, expected);
            assert!(value.is_sensitive());
        }
        assert_eq!(rendered(Placement::Query("key".into()), b"a b").unwrap(), None);
    }

    #[test]
    fn what_cannot_stand_there_is_refused_without_being_shown() {
        let header = Placement::Header(http::HeaderName::from_static("x-api-key"));
        for (placement, material) in [
            (Placement::Bearer, "canary\r\nx: y"),
            (Placement::Bearer, "canary two"),
            (header.clone(), "canary\n"),
            (header.clone(), " canary"),
            (header, "can\u{e4}ry"),
            (Placement::Basic { user: "a:b".into() }, "canary"),
            (Placement::Basic { user: "a".into() }, "canary\n"),
        ] {
            let error = rendered(placement, material.as_bytes()).unwrap_err();
            assert!(matches!(error, IssueError::Refused { .. }) && !error.to_string().contains("canary"), "{error}");
        }
    }
}
