//! Redaction: what an application put into a path may be a credential, and a path is recorded.

use std::borrow::Cow;

/// Stands for a segment.
const REPLACED: &str = "[redacted]";

/// Beginnings that vendors give their keys; the rest of the segment follows directly.
const PREFIXES: [&str; 22] = [
    "sk-",
    "sk_live_",
    "sk_test_",
    "rk_live_",
    "pk_live_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "AKIA",
    "ASIA",
    "AIza",
    "SG.",
    "npm_",
    "hf_",
    "dop_v1_",
];

/// A path as it may be recorded: segments that look like credentials are replaced. Plain paths are borrowed.
#[must_use]
pub fn path(path: &str) -> Cow<'_, str> {
    if !path.split('/').any(is_credential) {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    for (at, segment) in path.split('/').enumerate() {
        if at > 0 {
            out.push('/');
        }
        out.push_str(if is_credential(segment) { REPLACED } else { segment });
    }
    Cow::Owned(out)
}

/// A vendor's prefix with 12 more bytes, a compact JWS, Telegram's `bot<id>:<key>`, or 24 bytes and more that mix upper case, lower
/// case and digits as random keys do. Hex digests and UUIDs stay: they name things.
fn is_credential(segment: &str) -> bool {
    if segment.len() < 15 {
        return false;
    }
    if PREFIXES.iter().any(|prefix| segment.strip_prefix(prefix).is_some_and(|rest| rest.len() >= 12)) {
        return true;
    }
    if segment.starts_with("eyJ") && segment.matches('.').count() == 2 {
        return true;
    }
    if segment
        .strip_prefix("bot")
        .and_then(|rest| rest.split_once([':', '%']))
        .is_some_and(|(id, key)| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) && key.len() >= 20)
    {
        return true;
    }
    let count = |class: fn(&u8) -> bool| segment.bytes().filter(class).count();
    segment.len() >= 24
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=+~".contains(&byte))
        && count(u8::is_ascii_uppercase) >= 4
        && count(u8::is_ascii_lowercase) >= 4
        && count(u8::is_ascii_digit) >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_paths_are_replaced_and_names_stay() {
        for (written, recorded) in [
            ("/v1/keys/sk_live_51H8abcdEFGHijkl/x", "/v1/keys/[redacted]/x"),
            ("/bot123456789:AAF3kd9fQwErTyUiOpAsDfGhJkL/sendMessage", "/[redacted]/sendMessage"),
            ("/services/T0000/B0000/aB3dE5fG7hI9jK1lM3nO5pQ7", "/services/T0000/B0000/[redacted]"),
            ("/t/eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl", "/t/[redacted]"),
        ] {
            assert_eq!(path(written), recorded);
        }
        for plain in [
            "/",
            "/v1/entries/550e8400-e29b-41d4-a716-446655440000",
            "/repo/commit/0af7651916cd43dd8448eb211c80319c0af76519",
            "/grpc.health.v1.Health/Check",
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            "/sk-/short",
            "/api/v4/projects/group%2Fproject/repository/files/src%2Fmain.rs",
        ] {
            assert!(matches!(path(plain), Cow::Borrowed(_)), "{plain}");
        }
    }
}
