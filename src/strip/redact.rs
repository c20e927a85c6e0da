//! Paths for records: segments that look like credentials are replaced. The path that is forwarded is never touched.

use std::borrow::Cow;

use super::query::percent_decoded;
use super::shape::looks_secret_in_path;

const REDACTED: &str = "[redacted]";
/// No shorter segment looks like a credential.
const SHORTEST: usize = 16;

/// The path with such segments replaced; borrowed where there is none.
#[must_use]
pub fn redact_path(path: &str) -> Cow<'_, str> {
    let secret = |segment: &[u8]| segment.len() >= SHORTEST && looks_secret_in_path(&percent_decoded(segment));
    if path.len() < SHORTEST || !path.as_bytes().split(|byte| *byte == b'/').any(secret) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(path.split('/').map(|segment| if secret(segment.as_bytes()) { REDACTED } else { segment }).collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_paths_are_not_shown() {
        for (path, shown) in [
            ("/v1/charges", "/v1/charges"),
            ("/bot123456789:AAHfiqksKZ8WbvsPOvqvB0aBcDeFgHiJkLm/sendMessage", "/[redacted]/sendMessage"),
            ("/services/T00000000/B00000000/aB3dE5gH7jK9mN1pQ3sT5vX7", "/services/T00000000/B00000000/[redacted]"),
            ("/t/eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", "/t/[redacted]"),
            ("/t/%65yJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", "/t/[redacted]"),
            ("/objects/550e8400-e29b-41d4-a716-446655440000", "/objects/550e8400-e29b-41d4-a716-446655440000"),
            (
                "/blobs/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "/blobs/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            ("/package.Service/LongMethodNameWithoutDigits", "/package.Service/LongMethodNameWithoutDigits"),
        ] {
            assert_eq!(redact_path(path), shown);
        }
        assert!(matches!(redact_path("/v1/some/longer/but/harmless/path"), Cow::Borrowed(_)));
    }
}
