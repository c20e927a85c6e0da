//! Values that are credentials by their shape, whatever they are called: compact JWS, vendors' prefixes, `Bearer ..`, user information in a
//! URL. One pass over the bytes; only where a word begins with a first letter of the table is anything compared.

use super::finding::Kind;

/// Nothing shorter is a credential by shape, in bytes.
const SHORTEST: usize = 18;

/// A vendor's prefix, and how long the whole word is at least.
struct Prefix(&'static [u8], usize);

/// Closed table, sorted; sources: the vendors' own documentation of their key formats.
#[rustfmt::skip]
const PREFIXES: &[Prefix] = &[
    Prefix(b"AIza", 35), Prefix(b"ATATT3", 24), Prefix(b"ATCTT3", 24), Prefix(b"GOCSPX-", 24), Prefix(b"NRAK-", 24), Prefix(b"PMAK-", 24),
    Prefix(b"SG.", 40), Prefix(b"dapi", 36), Prefix(b"dckr_pat_", 20), Prefix(b"doo_v1_", 24), Prefix(b"dop_v1_", 24),
    Prefix(b"dor_v1_", 24), Prefix(b"dp.pt.", 24), Prefix(b"dp.st.", 24), Prefix(b"figd_", 24), Prefix(b"gho_", 20), Prefix(b"ghp_", 20),
    Prefix(b"ghr_", 20), Prefix(b"ghs_", 20), Prefix(b"ghu_", 20), Prefix(b"github_pat_", 24), Prefix(b"glcbt-", 18),
    Prefix(b"gldt-", 18), Prefix(b"glpat-", 18), Prefix(b"glptt-", 18), Prefix(b"glrt-", 18), Prefix(b"glsoat-", 18), Prefix(b"gsk_", 24),
    Prefix(b"hf_", 24), Prefix(b"hvb.", 20), Prefix(b"hvr.", 20), Prefix(b"hvs.", 20), Prefix(b"key-", 36), Prefix(b"lin_api_", 24),
    Prefix(b"npm_", 24), Prefix(b"ntn_", 24), Prefix(b"nuget_", 24), Prefix(b"pplx-", 24), Prefix(b"pul-", 40), Prefix(b"pypi-", 24),
    Prefix(b"r8_", 24), Prefix(b"rk_live_", 20), Prefix(b"rk_test_", 20), Prefix(b"rubygems_", 24), Prefix(b"rzp_live_", 20),
    Prefix(b"shpat_", 20), Prefix(b"shpca_", 20), Prefix(b"shppa_", 20), Prefix(b"shpss_", 20), Prefix(b"sk-", 20),
    Prefix(b"sk_live_", 20), Prefix(b"sk_test_", 20), Prefix(b"sntrys_", 24), Prefix(b"sntryu_", 24), Prefix(b"sq0atp-", 24),
    Prefix(b"sq0csp-", 24), Prefix(b"v4.local.", 40), Prefix(b"v4.public.", 40), Prefix(b"whsec_", 20), Prefix(b"xai-", 24),
    Prefix(b"xapp-", 18), Prefix(b"xkeysib-", 24), Prefix(b"xoxa-", 18), Prefix(b"xoxb-", 18), Prefix(b"xoxe-", 18), Prefix(b"xoxe.", 18),
    Prefix(b"xoxp-", 18), Prefix(b"xoxr-", 18), Prefix(b"xoxs-", 18), Prefix(b"ya29.", 20),
];

/// The first three bytes of each prefix as a number: what the table is sorted and searched by.
#[expect(clippy::indexing_slicing, reason = "evaluated when compiled: what fails here does not compile")]
const FIRSTS: [u32; PREFIXES.len()] = {
    let mut firsts = [0; PREFIXES.len()];
    let mut at = 0;
    while at < PREFIXES.len() {
        firsts[at] = first(PREFIXES[at].0[0], PREFIXES[at].0[1], PREFIXES[at].0[2]);
        assert!(at == 0 || firsts[at - 1] <= firsts[at], "the table is sorted");
        at += 1;
    }
    firsts
};

const fn first(first: u8, second: u8, third: u8) -> u32 {
    u32::from_be_bytes([0, first, second, third])
}

const SEPARATOR: u8 = 0;
const LETTER: u8 = 1;
const JOINER: u8 = 2;

/// What each byte is to a word.
#[expect(clippy::indexing_slicing, reason = "evaluated when compiled: an index out of bounds would not compile")]
const BYTES: [u8; 256] = {
    let mut table = [SEPARATOR; 256];
    let mut byte = 0_u8;
    loop {
        if byte.is_ascii_alphanumeric() {
            table[byte as usize] = LETTER;
        } else if matches!(byte, b'-' | b'_' | b'.') {
            table[byte as usize] = JOINER;
        }
        if byte == u8::MAX {
            break;
        }
        byte += 1;
    }
    table
};

/// The beginnings of three bytes that any shape has, as a set of hashes: almost no word of a usual value is compared with the table.
#[expect(clippy::indexing_slicing, reason = "evaluated when compiled: an index out of bounds would not compile")]
const BEGINNINGS: [u64; 16] = {
    let mut set = [0; 16];
    let mut at = 0;
    while at < PREFIXES.len() {
        if let [first, second, third, ..] = PREFIXES[at].0 {
            let hash = beginning(*first, *second, *third);
            set[hash / 64] |= 1 << (hash % 64);
        }
        at += 1;
    }
    let others: [[u8; 3]; 5] = [*b"eyJ", *b"AKI", *b"ASI", *b"ABI", *b"ACC"];
    let mut at = 0;
    while at < others.len() {
        let [first, second, third] = others[at];
        let hash = beginning(first, second, third);
        set[hash / 64] |= 1 << (hash % 64);
        at += 1;
    }
    set
};

const fn beginning(first: u8, second: u8, third: u8) -> usize {
    (first as usize + second as usize * 37 + third as usize * 167) % 1024
}

fn class(byte: u8) -> u8 {
    BYTES.get(usize::from(byte)).copied().unwrap_or(SEPARATOR)
}

fn may_begin(first: u8, second: u8, third: u8) -> bool {
    let hash = beginning(first, second, third);
    BEGINNINGS.get(hash / 64).is_some_and(|bits| bits >> (hash % 64) & 1 == 1)
}

/// The first credential in a value: its kind and its bytes.
#[inline]
pub(super) fn find(value: &[u8]) -> Option<(Kind, &[u8])> {
    if matches!(value.first(), Some(b'b' | b'B'))
        && let Some(found) = scheme(value)
    {
        return Some(found);
    }
    if value.len() < SHORTEST { None } else { find_in_words(value) }
}

fn find_in_words(value: &[u8]) -> Option<(Kind, &[u8])> {
    let mut before = SEPARATOR;
    // What is shorter than any shape cannot begin one: the last bytes are not looked at.
    for (at, window) in value.windows(SHORTEST).enumerate() {
        let [first, second, third, ..] = window else { break };
        let class = class(*first);
        if class == LETTER
            && before != LETTER
            && may_begin(*first, *second, *third)
            && let Some(found) = value.get(at..).and_then(at_word)
        {
            return Some(found);
        }
        before = class;
    }
    if holds(value, b'@') { userinfo(value) } else { None }
}

/// Whether a byte is among at least 16, by a few vector instructions: most values are too short for a search that sets itself up first.
fn holds(value: &[u8], wanted: u8) -> bool {
    let whole = value.as_chunks::<16>().0.iter().chain(value.last_chunk());
    whole.fold(0, |found, bytes| bytes.iter().fold(found, |found, byte| found | u8::from(*byte == wanted))) > 0
}

/// `Bearer ..` and `Basic ..` under a name of any kind.
fn scheme(value: &[u8]) -> Option<(Kind, &[u8])> {
    let (word, rest) = value.split_at_checked(value.iter().position(|byte| *byte == b' ')?)?;
    let rest = rest.trim_ascii();
    let kind = if word.eq_ignore_ascii_case(b"bearer") {
        Kind::Bearer
    } else if word.eq_ignore_ascii_case(b"basic") {
        Kind::Basic
    } else {
        return None;
    };
    (rest.len() >= 8 && !rest.contains(&b' ')).then_some((kind, rest))
}

/// A credential that begins here. Kept out of the loop, which nearly never comes here.
#[cold]
fn at_word(rest: &[u8]) -> Option<(Kind, &[u8])> {
    let run = rest.iter().position(|byte| class(*byte) == SEPARATOR).unwrap_or(rest.len());
    let run = rest.get(..run).filter(|run| run.len() >= SHORTEST)?;
    if is_jwt(run) {
        return Some((Kind::Jwt, run));
    }
    if is_aws_key(run) {
        return Some((Kind::Aws, run));
    }
    let [one, two, three] = *run.first_chunk()?;
    let first = first(one, two, three);
    let begin = FIRSTS.partition_point(|key| *key < first);
    let mut alike = PREFIXES.iter().zip(&FIRSTS).skip(begin).take_while(|(_, key)| **key == first);
    let known = alike.find(|(prefix, _)| run.len() >= prefix.1 && run.starts_with(prefix.0))?.0;
    // Words of a language have no digits; keys nearly always do.
    let body = run.get(known.0.len()..)?;
    let digits = body.iter().any(u8::is_ascii_digit);
    (digits && (known.0 != b"dapi" || body.iter().all(u8::is_ascii_hexdigit))).then_some((Kind::ApiKey, run))
}

/// Three parts (JWE: five) of base64url, of which the first begins as a JSON object does.
fn is_jwt(run: &[u8]) -> bool {
    if !run.starts_with(b"eyJ") {
        return false;
    }
    let mut parts = run.split(|byte| *byte == b'.');
    let long = |part: Option<&[u8]>, least: usize| part.is_some_and(|part| part.len() >= least);
    long(parts.next(), 10) && long(parts.next(), 2) && parts.next().is_some()
}

/// An access key id: four letters of its kind, sixteen of base32.
fn is_aws_key(run: &[u8]) -> bool {
    let word = run.split(|byte| matches!(byte, b'-' | b'_' | b'.')).next().unwrap_or_default();
    word.len() == 20
        && matches!(word.get(..4), Some(b"AKIA" | b"ASIA" | b"ABIA" | b"ACCA"))
        && word.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

/// `scheme://user:password@host`.
fn userinfo(value: &[u8]) -> Option<(Kind, &[u8])> {
    let mut from = 0;
    for at in memchr::memchr_iter(b'@', value) {
        // Neither a name nor a password holds an `@` of its own.
        let before = value.get(from..at)?;
        from = at + 1;
        let user = memchr::memmem::rfind(before, b"://").and_then(|begin| before.get(begin + 3..));
        if let Some(user) = user.filter(|user| user.contains(&b':') && !user.contains(&b'/') && !user.contains(&b' ')) {
            return Some((Kind::Password, user));
        }
    }
    None
}

/// Whether a value looks like a random key: for names that have other uses too. A long run of letters and digits mixed, no UUID.
pub(super) fn looks_random(value: &[u8]) -> bool {
    if find(value).is_some() {
        return true;
    }
    value.len() >= 20
        && value.split(|byte| !byte.is_ascii_alphanumeric()).any(|run| {
            let digits = run.iter().filter(|byte| byte.is_ascii_digit()).count();
            run.len() >= 16 && digits >= 2 && run.len() - digits >= 4
        })
}

/// Whether a path segment looks like a credential, for records: as above, and both cases in it, so that hexadecimal ids stay readable.
pub(super) fn looks_secret_in_path(segment: &[u8]) -> bool {
    if find(segment).is_some() {
        return true;
    }
    segment.len() >= 24
        && segment.split(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_')).any(|run| {
            let has = |test: fn(&u8) -> bool| run.iter().any(test);
            run.len() >= 24 && has(u8::is_ascii_digit) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_have_shapes() {
        for (value, kind) in [
            ("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", Kind::Jwt),
            ("token=eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", Kind::Jwt),
            ("sk-proj-abcdefghij0123456789", Kind::ApiKey),
            ("x sk-ant-api03-abcdefghij0123456789", Kind::ApiKey),
            ("sk_live_abcdefghij0123456789", Kind::ApiKey),
            ("(ghp_abcdefghij0123456789abcdefghij)", Kind::ApiKey),
            ("github_pat_11ABCDEFG0abcdefghijkl", Kind::ApiKey),
            ("glpat-abcdefghij0123456789", Kind::ApiKey),
            ("xoxb-123456789012-abcdefghij", Kind::ApiKey),
            ("AKIAIOSFODNN7EXAMPLE", Kind::Aws),
            ("id=ASIAIOSFODNN7EXAMPLE;", Kind::Aws),
            ("AIzaSyA0123456789abcdefghijklmnopqrstuv", Kind::ApiKey),
            ("ya29.a0AfH6SMBabcdefghij", Kind::ApiKey),
            ("hvs.CAESIJabcdefghij0123", Kind::ApiKey),
            ("npm_abcdefghij0123456789abcdefghij012345", Kind::ApiKey),
            ("Bearer opaque-token", Kind::Bearer),
            ("basic dXNlcjpwYXNz", Kind::Basic),
            ("https://user:secret@host/path", Kind::Password),
        ] {
            assert_eq!(find(value.as_bytes()).map(|(kind, _)| kind), Some(kind), "{value}");
        }
    }

    #[test]
    fn harmless_values_have_none() {
        for value in [
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
            "aws-sdk-rust/1.3.3 os/linux lang/rust/1.95.0",
            "\"33a64df551425fcc55e4d42a148795d9f25f89d4\"",
            "550e8400-e29b-41d4-a716-446655440000",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "sk-SK,sk;q=0.9,cs;q=0.8,en-US;q=0.7",
            "eyJjdXJzb3IiOiJhYmMiLCJsaW1pdCI6MTB9",
            "mailto:someone@example.com, other@example.com",
            "https://example.com/a@b:c",
            "Wed, 21 Oct 2026 07:28:00 GMT",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "dapper-applications-in-the-wild-are-harmless",
            "basic-auth-documentation is here",
        ] {
            assert_eq!(find(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn random_keys_are_told_from_words() {
        for value in ["AIzaSyA0123456789abcdefghijklmnopqrstuv", "0123456789abcdef0123456789abcdef", "a8Fk3Lm9Qz7Xc2Vb5Nn1"] {
            assert!(looks_random(value.as_bytes()), "{value}");
        }
        for value in [
            "photos/2024/summer/beach.jpg",
            "Photos-2024-Summer-Collection",
            "550e8400-e29b-41d4-a716-446655440000",
            "user:42",
            "20260101T000000Z-report",
        ] {
            assert!(!looks_random(value.as_bytes()), "{value}");
        }
    }
}
