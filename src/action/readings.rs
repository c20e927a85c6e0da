//! Readings: the ways in which servers may understand one path.
//!
//! Servers differ in what they do to a path before they serve it: some decode once, some twice, some leave `%2F` alone, some merge
//! slashes, cut `;parameters`, take `\` for `/`, remove dot segments. A rule that looks at one form only can be walked around (CVE-2021-31920,
//! CVE-2021-39156). So every combination of these habits that makes a difference to this path is a reading, and policy must judge
//! them all alike. What is forwarded are the caller's bytes.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::refusal::{Code, Refusal};

/// Longest path in bytes.
const MAX_BYTES: usize = 8 * 1024;
/// Most segments of any reading.
pub const MAX_SEGMENTS: usize = 32;
/// Most readings. Real paths have up to four (an escape and a trailing slash); what has more is built to be misread.
const MAX_READINGS: usize = 8;

/// All readings of a path; a plain path has exactly one, borrowed. The first is always the path as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readings<'a> {
    written: &'a str,
    others: Vec<String>,
}

impl<'a> Readings<'a> {
    /// Reads a path (without query).
    ///
    /// # Errors
    /// `malformed` for what has no bounded set of readings: empty, longer than 8 KiB, more than 32 segments, an incomplete escape,
    /// `%00` or another control character, a fragment, dot segments above the root, or more than eight readings.
    pub fn of(path: &'a str) -> Result<Self, Refusal> {
        let (habits, slashes) = Habits::that_matter_to(path)?;
        let others = if habits.any() { habits.read(path)? } else { Vec::new() };
        // As many segments as slashes.
        let many = |reading: &str| reading.starts_with('/') && reading.bytes().filter(|byte| *byte == b'/').count() > MAX_SEGMENTS;
        if (path.starts_with('/') && slashes > MAX_SEGMENTS) || others.iter().any(|reading| many(reading)) {
            return Err(malformed("the path has more than 32 segments"));
        }
        Ok(Self { written: path, others })
    }

    /// The one reading of a request that has no path (CONNECT): empty, without segments.
    #[must_use]
    pub const fn none() -> Self {
        Self { written: "", others: Vec::new() }
    }

    /// The path as written.
    #[must_use]
    pub const fn as_written(&self) -> &'a str {
        self.written
    }

    /// All of them, the path as written first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.written).chain(self.others.iter().map(String::as_str))
    }
}

/// The segments of a path: what stands between slashes. `/` has one, empty; a trailing slash makes one more, empty; what does not
/// begin with a slash (`*`, nothing) has none.
pub fn segments(path: &str) -> impl Iterator<Item = &str> + Clone {
    let mut rest = path.strip_prefix('/');
    std::iter::from_fn(move || {
        let text = rest?;
        // A plain search: segments are shorter than what a vector search needs to pay.
        let end = text.as_bytes().iter().position(|byte| *byte == b'/');
        let (segment, after) =
            end.and_then(|end| text.split_at_checked(end)).map_or((text, None), |(segment, after)| (segment, Some(after)));
        rest = after.and_then(|after| after.strip_prefix('/'));
        Some(segment)
    })
}

const fn malformed(why: &'static str) -> Refusal {
    Refusal { code: Code::Malformed, detail: Cow::Borrowed(why), retry_after: None, challenge: false }
}

/// Which habits of servers would change this path.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent of each other: servers have any of them, in every combination")]
struct Habits {
    escapes: bool,
    backslash: bool,
    parameters: bool,
    /// Several slashes become one.
    slashes: bool,
    dots: bool,
    /// A slash at the end means nothing.
    trailing: bool,
}

const REFUSED: u8 = 1;
const ESCAPE: u8 = 1 << 1;
const BACKSLASH: u8 = 1 << 2;
const PARAMETER: u8 = 1 << 3;
const SLASH: u8 = 1 << 4;
const DOT: u8 = 1 << 5;

/// What each byte of a path may mean.
#[expect(clippy::indexing_slicing, reason = "evaluated when compiled: an index out of bounds would not compile")]
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        classes[byte as usize] = match byte {
            0..=0x1f | 0x7f | b'#' => REFUSED,
            b'%' => ESCAPE,
            b'\\' => BACKSLASH,
            b';' => PARAMETER,
            b'/' => SLASH,
            b'.' => DOT,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

impl Habits {
    /// One pass over the bytes; all that a plain path costs. Tells how many slashes there are, too.
    fn that_matter_to(path: &str) -> Result<(Self, usize), Refusal> {
        if path.is_empty() {
            return Err(malformed("the path is empty"));
        }
        if path.len() > MAX_BYTES {
            return Err(malformed("the path is longer than 8 KiB"));
        }
        let (mut seen, mut behind_slash, mut slashes, mut before) = (0, 0, 0, 0);
        for byte in path.bytes() {
            let class = CLASSES.get(usize::from(byte)).copied().unwrap_or(REFUSED);
            seen |= class;
            slashes += usize::from(class == SLASH);
            behind_slash |= if before == SLASH { class } else { 0 };
            before = class;
        }
        if seen & REFUSED != 0 {
            return Err(malformed("the path holds a control character or a fragment"));
        }
        let habits = Self {
            escapes: seen & ESCAPE != 0,
            backslash: seen & BACKSLASH != 0,
            parameters: seen & PARAMETER != 0,
            slashes: behind_slash & SLASH != 0,
            dots: behind_slash & DOT != 0,
            trailing: before == SLASH && path.len() > 1,
        };
        Ok((habits, slashes))
    }

    const fn any(self) -> bool {
        self.escapes || self.backslash || self.parameters || self.slashes || self.dots || self.trailing
    }

    /// What each level of decoding shows, under each combination of habits, other than the path as written.
    fn read(self, path: &str) -> Result<Vec<String>, Refusal> {
        let mut others: Vec<String> = Vec::new();
        let mut levels: SmallVec<[Cow<'_, [u8]>; 4]> = SmallVec::new();
        levels.push(Cow::Borrowed(path.as_bytes()));
        if self.escapes {
            // Some servers decode everything but the slashes; some decode once, some twice. Only the first escapes are the caller's:
            // what looks like an incomplete escape after one decoding (`100%25`) is text.
            let kept = decode(path.as_bytes(), Decoding { keep_slashes: true, strict: true })?;
            let once = decode(path.as_bytes(), Decoding { keep_slashes: false, strict: true })?;
            let twice = decode(&once, Decoding { keep_slashes: false, strict: false })?;
            levels.extend([kept, once, twice].map(Cow::Owned));
        }
        for level in &levels {
            let text = String::from_utf8_lossy(level);
            for combination in Self::that_matter_to_decoded(&text).combinations() {
                let reading = combination.apply(&text)?;
                if reading == path || others.contains(&reading) {
                    continue;
                }
                if others.len() + 1 == MAX_READINGS {
                    return Err(malformed("the path can be read in more than eight ways"));
                }
                others.push(reading);
            }
        }
        Ok(others)
    }

    fn that_matter_to_decoded(text: &str) -> Self {
        // A habit may lay bare what another one looks for (`..;x`, `a\..`, `a/.`), so these look for the loosest form.
        let backslash = text.contains('\\');
        let parameters = text.contains(';');
        let dots = text.split(['/', '\\']).any(|segment| matches!(segment.split(';').next(), Some("." | "..")));
        let slashes = backslash || parameters || text.contains("//");
        let trailing = backslash || parameters || dots || (text.len() > 1 && text.ends_with('/'));
        Self { escapes: false, backslash, parameters, slashes, dots, trailing }
    }

    /// Every subset of the habits found.
    fn combinations(self) -> impl Iterator<Item = Self> {
        let choices = |on: bool| if on { &[false, true][..] } else { &[false][..] };
        choices(self.backslash).iter().flat_map(move |&backslash| {
            choices(self.parameters).iter().flat_map(move |&parameters| {
                choices(self.slashes).iter().flat_map(move |&slashes| {
                    choices(self.dots).iter().flat_map(move |&dots| {
                        let whole = Self { escapes: false, backslash, parameters, slashes, dots, trailing: false };
                        choices(self.trailing).iter().map(move |&trailing| Self { trailing, ..whole })
                    })
                })
            })
        })
    }

    /// What a server with these habits takes the text for.
    fn apply(self, text: &str) -> Result<String, Refusal> {
        let mut text = Cow::Borrowed(text);
        if self.backslash {
            text = Cow::Owned(text.replace('\\', "/"));
        }
        let Some(inside) = text.strip_prefix('/') else { return Ok(text.into_owned()) };
        let mut kept: SmallVec<[&str; 16]> = SmallVec::new();
        let mut parts = inside.split('/').peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            let part = if self.parameters { part.split(';').next().unwrap_or_default() } else { part };
            match part {
                "" if self.slashes && !last => {}
                "." if self.dots => {}
                ".." if self.dots => {
                    if kept.pop().is_none() {
                        return Err(malformed("the path climbs above its root"));
                    }
                }
                part => kept.push(part),
            }
            // A path that ends in dots is a folder's.
            if last && self.dots && matches!(part, "." | "..") {
                kept.push("");
            }
        }
        if self.trailing && kept.len() > 1 && kept.last().is_some_and(|last| last.is_empty()) {
            kept.pop();
        }
        Ok(format!("/{}", kept.join("/")))
    }
}

#[derive(Debug, Clone, Copy)]
struct Decoding {
    /// `%2F` and `%5C` stay as they are.
    keep_slashes: bool,
    /// An incomplete escape is an error.
    strict: bool,
}

/// Decodes every escape once.
fn decode(text: &[u8], how: Decoding) -> Result<Vec<u8>, Refusal> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let value = match after {
            [high, low, ..] => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match value {
            None if how.strict => return Err(malformed("the path holds an incomplete percent escape")),
            None => decoded.push(byte),
            Some(0..=0x1f | 0x7f) => return Err(malformed("the path holds an escaped control character")),
            Some(b'/' | b'\\') if how.keep_slashes => decoded.push(byte),
            Some(value) => {
                decoded.push(value);
                rest = after.get(2..).unwrap_or_default();
            }
        }
    }
    Ok(decoded)
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn readings(path: &str) -> Vec<String> {
        Readings::of(path).unwrap_or_else(|refusal| panic!("{path}: {}", refusal.detail)).iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_plain_path_has_one_reading_and_is_not_copied() {
        for path in ["/", "/v1/charges", "/a.b/c..d/...e", "/a:b@c,d=e&f", "*", "/\u{e9}"] {
            let read = Readings::of(path).unwrap();
            assert_eq!(read.iter().collect::<Vec<_>>(), [path]);
            assert_eq!(read.others.capacity(), 0, "{path}");
        }
    }

    #[test]
    fn odd_paths_have_every_reading_of_a_server() {
        for (path, expected) in [
            ("/a/", &["/a/", "/a"][..]),
            ("/a//b", &["/a//b", "/a/b"]),
            // nginx serves `/a/`, a router that ignores one slash at the end `/a//b`.
            ("/a//", &["/a//", "/a/", "/a"]),
            ("/a//b/", &["/a//b/", "/a//b", "/a/b/", "/a/b"]),
            ("/a/../b", &["/a/../b", "/b"]),
            ("/a/.", &["/a/.", "/a/", "/a"]),
            ("/p/g%2Fx/i", &["/p/g%2Fx/i", "/p/g/x/i"]),
            ("/%61dmin", &["/%61dmin", "/admin"]),
            ("/a%252Fb", &["/a%252Fb", "/a%2Fb", "/a/b"]),
            ("/100%25", &["/100%25", "/100%"]),
            ("/a;v=1/b", &["/a;v=1/b", "/a/b"]),
            // The backslash is part of a parameter, or parts the path.
            ("/a/;b\\c", &["/a/;b\\c", "/a/", "/a", "/a/;b/c", "/a//c", "/a/c"]),
            ("/x\\y", &["/x\\y", "/x/y"]),
            ("/public/..;/admin", &["/public/..;/admin", "/public/../admin", "/admin"]),
            ("/caf%E9", &["/caf%E9", "/caf\u{fffd}"]),
        ] {
            assert_eq!(readings(path), expected, "{path}");
        }
    }

    #[test]
    fn habits_of_different_servers_are_not_mixed_into_one_reading() {
        // A server that removes dot segments before it decodes, and one that decodes but leaves `%2F` alone, see the admin area.
        for (path, seen) in [
            ("/public/../admin/%252e%252e/public/x", "/admin/%2e%2e/public/x"),
            ("/public/%2e%2e/admin%2F..%2F..%2Fpublic", "/admin%2F..%2F..%2Fpublic"),
            ("/public/../admin/..\\..\\public/x", "/admin/..\\..\\public/x"),
        ] {
            match Readings::of(path) {
                Ok(all) => assert!(all.iter().any(|reading| reading == seen), "{path}: {all:?}"),
                Err(refusal) => assert_eq!(refusal.code, Code::Malformed, "{path}"),
            }
        }
    }

    #[test]
    fn what_has_no_bounded_set_of_readings_is_malformed() {
        let deep = "/a".repeat(33);
        let long = format!("/{}", "a".repeat(8 * 1024));
        let hidden_depth = format!("/{}", "a%2F".repeat(33));
        for path in [
            "",
            "/%",
            "/%2",
            "/%zz",
            "/%u002f",
            "/a%00",
            "/a%2500",
            "/a%0a",
            "/a\u{7f}",
            "/a#b",
            "/..",
            "/a/../../b",
            "/%2e%2e/x",
            "/a;b\\..\\c//d%252e/",
            &deep,
            &long,
            &hidden_depth,
        ] {
            assert_eq!(Readings::of(path).unwrap_err().code, Code::Malformed, "{path}");
        }
    }

    #[test]
    fn segments_are_what_stands_between_slashes() {
        for (path, expected) in [("", &[][..]), ("*", &[]), ("/", &[""]), ("/a", &["a"]), ("/a/", &["a", ""]), ("/a//b", &["a", "", "b"])] {
            assert_eq!(segments(path).collect::<Vec<_>>(), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_begins_with_the_path_as_written(path in "/?([a-c./%;\\\\25eEfF\u{e9}]|%2[eEfF5]|%5[cC]|%252e){0,40}") {
            if let Ok(read) = Readings::of(&path) {
                prop_assert_eq!(read.as_written(), path.as_str());
                let all: Vec<&str> = read.iter().collect();
                prop_assert!(all.len() <= MAX_READINGS);
                let distinct: std::collections::BTreeSet<_> = all.iter().collect();
                prop_assert_eq!(distinct.len(), all.len());
                // Every server's last word is there: decode twice, fold everything.
                let folded_again = all.iter().all(|reading| Readings::of(reading).is_ok() || reading.contains('%') || reading.contains('?') || reading.contains('#'));
                prop_assert!(folded_again, "{:?}", all);
            }
        }

        #[test]
        fn plain_paths_are_borrowed(path in "(/[a-z0-9_-]{1,8}){1,10}") {
            let read = Readings::of(&path).unwrap();
            prop_assert_eq!(read.iter().count(), 1);
        }
    }
}
