//! `Secret`: the only home of credential bytes.
//!
//! Enters: bytes that must never be seen. Leaves: [`Secret::expose`] for the few rooms that put a credential on a wire
//! (fenced by `tests/architecture.rs`), and a keyed [`Fingerprint`] for everybody else. It has no `Debug`, `Display`, `Clone`,
//! `Serialize` or `PartialEq`, and is zeroed when dropped.
//!
//! ```compile_fail
//! let s = exeat::secret::Secret::new(b"k".to_vec());
//! format!("{s:?}");
//! ```
//! ```compile_fail
//! let s = exeat::secret::Secret::new(b"k".to_vec());
//! let t = s.clone();
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::{constant_time, rand};
use zeroize::Zeroizing;

/// Credential bytes: zeroed on drop, compared in constant time, never printable.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; the caller's buffer must not be a copy that lives on.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes themselves. Fenced: only rooms that write a credential to a wire or sign with it may call this.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Equality in constant time for equal lengths.
    #[must_use]
    pub fn same_as(&self, other: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&self.0, other).is_ok()
    }

    /// What stands for this secret in records.
    #[must_use]
    pub fn fingerprint(&self, key: &FingerprintKey) -> Fingerprint {
        key.fingerprint(&self.0)
    }
}

/// Key of the fingerprints: without it a fingerprint of a short key cannot be brute-forced. One per installation, kept in `state`.
pub struct FingerprintKey {
    bytes: Zeroizing<[u8; 32]>,
    number: u64,
}

impl FingerprintKey {
    /// From 32 random bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Self { bytes: Zeroizing::new(*bytes), number: MADE.fetch_add(1, Ordering::Relaxed) }
    }

    /// Tells the keys of this process apart, and says nothing of them: for those who keep what they made with one.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// A key that lives as long as this process.
    #[must_use]
    pub fn ephemeral() -> Self {
        let mut bytes = [0; 32];
        random(&mut bytes);
        Self::new(&bytes)
    }

    /// The whole keyed BLAKE3 of the value, for those who must not take one value for another.
    #[must_use]
    pub fn digest(&self, value: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.bytes, value).as_bytes()
    }

    /// Truncated keyed BLAKE3 of the value (a PRF by construction). Three findings a request are usual, and HMAC-SHA256 made a sixth of
    /// what such a request costs.
    #[must_use]
    pub fn fingerprint(&self, value: &[u8]) -> Fingerprint {
        let tag = blake3::keyed_hash(&self.bytes, value);
        let mut short = [0; 8];
        for (to, from) in short.iter_mut().zip(tag.as_bytes()) {
            *to = *from;
        }
        Fingerprint(short)
    }
}

/// 64 bits that stand for a secret: the same secret gives the same fingerprint under one key, and nothing leads back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The 64 bits, for those who write the hex themselves.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Fills a buffer from the operating system's generator: the one source of randomness in the house.
///
/// # Panics
/// If the operating system has no randomness to give: nothing safe can follow.
#[expect(clippy::expect_used, reason = "a process without randomness must not mint credentials")]
pub fn random(buffer: &mut [u8]) {
    rand::fill(buffer).expect("the operating system gives randomness");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_depend_on_key_and_value() {
        let (a, b) = (FingerprintKey::new(&[1; 32]), FingerprintKey::new(&[2; 32]));
        let secret = Secret::new(b"sk-live-1".to_vec());
        assert_eq!(secret.fingerprint(&a), a.fingerprint(b"sk-live-1"));
        assert_ne!(secret.fingerprint(&a), secret.fingerprint(&b));
        assert_ne!(a.fingerprint(b"sk-live-1"), a.fingerprint(b"sk-live-2"));
        assert_eq!(a.fingerprint(b"x").to_string().len(), 16);
    }

    #[test]
    fn equality_is_by_content() {
        let secret = Secret::new(b"one".to_vec());
        assert!(secret.same_as(b"one"));
        assert!(!secret.same_as(b"two"));
        assert!(!secret.same_as(b"one "));
    }
}
