//! Which path segments look like the name of one thing among many (an id) and not like a word of the interface.

/// Whether a segment looks like an id: digits, a date, UUID, ULID, hex, base64url, or a prefix with one of them.
pub(super) fn is_id(segment: &str) -> bool {
    is_number(segment) || is_uuid(segment) || is_ulid(segment) || is_hex(segment) || is_random(segment) || is_prefixed(segment)
}

/// A path as it is grouped for people: ids as `*`.
pub(super) fn pattern(path: &str) -> String {
    path.split('/')
        .map(|segment| if is_id(segment) || segment == super::learn::REDACTED { "*" } else { segment })
        .collect::<Vec<_>>()
        .join("/")
}

fn digits(text: &str) -> usize {
    text.bytes().filter(u8::is_ascii_digit).count()
}

/// `42`, `2026-11-23`.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.split('-').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// RFC 9562: 8-4-4-4-12 hex digits.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// 26 letters of Crockford's base32.
fn is_ulid(text: &str) -> bool {
    text.len() == 26
        && digits(text) > 0
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() && !matches!(byte.to_ascii_lowercase(), b'i' | b'l' | b'o' | b'u'))
}

/// Eight hex digits and more; without a single decimal digit it may be a word.
fn is_hex(text: &str) -> bool {
    text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) && (digits(text) > 0 || text.len() >= 16)
}

/// Base64url of 12 bytes and more. Names of methods in mixed case rarely hold two digits.
fn is_random(text: &str) -> bool {
    text.len() >= 16
        && digits(text) >= 2
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'='))
}

/// `ch_3MtwBw`, `order-1234`: a word, a separator, and what only ids end in.
fn is_prefixed(text: &str) -> bool {
    let Some((prefix, rest)) = text.rsplit_once(['_', '-', ':', '.']) else { return false };
    let word = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'-'));
    let number = rest.len() >= 3 && rest.bytes().all(|byte| byte.is_ascii_digit());
    let mixed = rest.len() >= 6 && digits(rest) > 0 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
    word && (number || mixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_words() {
        for id in [
            "42",
            "2026-11-23",
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "deadbeef01",
            "9f86d081884c7d65",
            "aB3dE5gH7jK9mN1p",
            "ch_3MtwBwLk",
            "order-1234",
            "cus_Nffrfe4",
        ] {
            assert!(is_id(id), "{id}");
        }
        for word in [
            "",
            "v1",
            "charges",
            "customer-notifications",
            "getUserAccountInfoV2",
            "deadbeef",
            "oauth2",
            "page-2",
            "log.txt",
            "s3",
            "-",
            "a-b",
        ] {
            assert!(!is_id(word), "{word}");
        }
        assert_eq!(pattern("/v1/charges/ch_3MtwBwLk/refund"), "/v1/charges/*/refund");
        assert_eq!(pattern("/hooks/[redacted]"), "/hooks/*");
    }
}
