//! One parameter of a raw query, without allocating (application/x-www-form-urlencoded, URL standard section 5.1).

/// What a query holds under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup<'a> {
    Absent,
    /// Its raw value.
    Once(&'a str),
    /// More than once: servers differ in which one they take.
    Repeated,
    /// Servers that take `;` for a separator read it differently.
    Disputed,
}

/// Finds a parameter by its decoded name.
pub(super) fn find<'a>(query: Option<&'a str>, key: &str) -> Lookup<'a> {
    let Some(query) = query else { return Lookup::Absent };
    let found = among(query.split('&'), key);
    if query.contains(';') && among(query.split(['&', ';']), key) != found {
        return Lookup::Disputed;
    }
    found
}

fn among<'a>(pairs: impl Iterator<Item = &'a str>, key: &str) -> Lookup<'a> {
    let mut found = Lookup::Absent;
    for pair in pairs {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !decoded(name).eq(key.bytes()) || pair.is_empty() {
            continue;
        }
        if found != Lookup::Absent {
            return Lookup::Repeated;
        }
        found = Lookup::Once(value);
    }
    found
}

/// Whether decoding changes it.
pub(super) fn is_encoded(raw: &str) -> bool {
    raw.bytes().any(|byte| matches!(byte, b'%' | b'+'))
}

/// `+` is a space; an incomplete escape stands for itself.
pub(super) fn decoded(raw: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = raw.as_bytes();
    std::iter::from_fn(move || {
        let (&byte, after) = rest.split_first()?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        if byte == b'%'
            && let [high, low, after @ ..] = after
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            rest = after;
            return Some(high << 4 | low);
        }
        rest = after;
        Some(if byte == b'+' { b' ' } else { byte })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_by_its_decoded_name() {
        for (query, expected) in [
            ("k=1", Lookup::Once("1")),
            ("a=0&k=%31", Lookup::Once("%31")),
            ("%6b=1", Lookup::Once("1")),
            ("k", Lookup::Once("")),
            ("k=a=b", Lookup::Once("a=b")),
            ("kk=1", Lookup::Absent),
            ("", Lookup::Absent),
            ("k=1&k=1", Lookup::Repeated),
            ("k=1&%6B=2", Lookup::Repeated),
            ("a=1;k=2", Lookup::Disputed),
            ("k=1;k=2", Lookup::Disputed),
            ("k=1&a=1;b=2", Lookup::Once("1")),
        ] {
            assert_eq!(find(Some(query), "k"), expected, "{query}");
        }
        assert_eq!(find(None, "k"), Lookup::Absent);
    }

    #[test]
    fn decoding() {
        let text = |raw: &str| String::from_utf8(decoded(raw).collect()).unwrap();
        assert_eq!(text("a+b%2Fc%zz%4"), "a b/c%zz%4");
    }
}
