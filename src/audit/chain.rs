//! The chain: every line carries its number, the hash of the former line, and its own.
//!
//! `{"seq":N,"prev":"P", … ,"hash":"H"}` where `H` is BLAKE3 (256 bits, lower-case hex) over the bytes of the line before `,"hash"`, and
//! `P` is the `H` of line N-1 (64 zeros before the first). A line changed, removed, added or moved breaks it at that line. Who can write
//! the file can also write a new chain; what shows that are the keyed seals, and heads that left the machine with the operator's log.
//!
//! `access` lines begin with what they have in common with others, `{"kind":"access", … ,"seq":N,"prev":"P", …`: text and hash of that
//! beginning are kept (see `circumstances`), so that a passage like the last one costs only what is its own.

/// Bytes of a digest in hex.
pub(super) const HEX: usize = 64;

/// What the first line of a chain names as its former.
pub(super) const GENESIS: [u8; HEX] = [b'0'; HEX];

/// What stands before the number of a line that began with something else.
const SEQ: &[u8] = b",\"seq\":";
/// What stands before the digest at a line's end.
pub(super) const HASH_KEY: &[u8] = b",\"hash\":\"";
/// What stands behind it.
pub(super) const HASH_END: &[u8] = b"\"}";

/// Where the chain has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The number of the next line.
    pub(super) next: u64,
    /// The hash of the last one.
    pub(super) prev: [u8; HEX],
}

impl Head {
    /// Before the first line.
    pub(super) const START: Self = Self { next: 0, prev: GENESIS };

    /// Begins a line: its number and its former's hash.
    pub(super) fn begin(&self, line: &mut Vec<u8>) {
        self.link(line, b"{\"seq\":");
    }

    /// Goes on in a line that has already begun: its number and its former's hash.
    pub(super) fn go_on(&self, line: &mut Vec<u8>) {
        self.link(line, b",\"seq\":");
    }

    fn link(&self, line: &mut Vec<u8>, key: &[u8]) {
        line.extend_from_slice(key);
        line.extend_from_slice(itoa::Buffer::new().format(self.next).as_bytes());
        line.extend_from_slice(b",\"prev\":\"");
        line.extend_from_slice(&self.prev);
        line.push(b'"');
    }

    /// Ends the line that began at `from`, with its hash and a line feed, and moves on.
    pub(super) fn end(&mut self, line: &mut Vec<u8>, from: usize) {
        self.end_behind(blake3::Hasher::new(), line, from);
    }

    /// Ends a line of which `begun` has already seen what stands before `from`.
    pub(super) fn end_behind(&mut self, mut begun: blake3::Hasher, line: &mut Vec<u8>, from: usize) {
        let hash = shown(begun.update(line.get(from..).unwrap_or_default()).finalize());
        line.extend_from_slice(HASH_KEY);
        line.extend_from_slice(&hash);
        line.extend_from_slice(HASH_END);
        line.push(b'\n');
        self.next += 1;
        self.prev = hash;
    }
}

/// In hex.
fn shown(hash: blake3::Hash) -> [u8; HEX] {
    let mut text = [0; HEX];
    text.copy_from_slice(hash.as_bytes().map(super::json::hex_pair).as_flattened());
    text
}

/// A line taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link<'a> {
    /// Its number.
    pub(super) seq: u64,
    /// The hash of the former line, as it says.
    pub(super) prev: &'a [u8],
    /// Its own hash, as it says.
    pub(super) hash: &'a [u8],
    /// What the hash is over.
    pub(super) body: &'a [u8],
    /// What stands before `seq`: `{`, or the beginning of an `access` line.
    begin: &'a [u8],
    /// What follows `prev`.
    pub(super) rest: &'a [u8],
}

impl<'a> Link<'a> {
    /// Takes a line (without its line feed) apart; `None` when it has not the form of a link.
    pub(super) fn read(line: &'a [u8]) -> Option<Self> {
        let inner = line.strip_suffix(HASH_END)?;
        let (before, hash) = inner.split_at_checked(inner.len().checked_sub(HEX)?)?;
        let body = before.strip_suffix(HASH_KEY)?;
        // No text can hold the key: a quote inside one is escaped.
        let (begin, after) = match body.strip_prefix(b"{\"seq\":") {
            Some(after) => (&b"{"[..], after),
            None => body.split_at_checked(memchr::memmem::find(body, SEQ)?)?,
        };
        let after = after.strip_prefix(SEQ).unwrap_or(after);
        let digits = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, after) = after.split_at_checked(digits)?;
        let seq = std::str::from_utf8(number).ok()?.parse().ok()?;
        let (prev, rest) = after.strip_prefix(b",\"prev\":\"")?.split_at_checked(HEX)?;
        Some(Self { seq, prev, hash, body, begin, rest: rest.strip_prefix(b"\"")? })
    }

    /// Whether its own hash holds.
    pub(super) fn holds(&self) -> bool {
        shown(blake3::hash(self.body)) == self.hash
    }

    /// The `kind` of the record.
    pub(super) fn kind(&self) -> &'a [u8] {
        let begin = self.begin.strip_prefix(b"{\"kind\":\"");
        let Some(rest) = begin.or_else(|| self.rest.strip_prefix(b",\"kind\":\"")) else { return b"" };
        rest.split(|byte| *byte == b'"').next().unwrap_or_default()
    }

    /// The first text behind `prev` under a top-level key that our serializer never escapes (ids and words).
    pub(super) fn word(&self, key: &str) -> Option<&'a str> {
        let wanted = format!(",\"{key}\":\"");
        let at = memchr::memmem::find(self.rest, wanted.as_bytes())?;
        let value = self.rest.get(at + wanted.len()..)?;
        std::str::from_utf8(value.split(|byte| *byte == b'"').next()?).ok()
    }

    /// The chain behind this line.
    pub(super) fn head(&self) -> Option<Head> {
        Some(Head { next: self.seq.checked_add(1)?, prev: self.hash.try_into().ok()? })
    }
}
