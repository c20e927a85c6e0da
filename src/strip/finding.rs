//! `Finding`: a static credential met on the way, without the credential.

use std::cell::RefCell;
use std::hash::Hasher as _;
use std::sync::Arc;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use super::shape;
use crate::secret::{Fingerprint, FingerprintKey, random};

/// Longest name in a place, in bytes.
const NAME: usize = 64;
/// Places that one worker keeps; a full set begins anew.
const PLACES: usize = 512;
/// Credentials that one worker knows again.
const KNOWN: usize = 256;
/// How many of them share a place: those of one head must not push each other out by the chance of their hashes.
const SET: usize = 4;

/// What a found credential looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `Authorization: Bearer` with an opaque value.
    Bearer,
    /// A compact JWS.
    Jwt,
    /// `Basic`.
    Basic,
    /// `Digest`.
    Digest,
    /// An AWS signature or access key.
    Aws,
    /// A key under a known or suspicious name, or with a vendor's shape.
    ApiKey,
    /// A session or other cookie.
    Cookie,
    /// A password in the userinfo of a target.
    Password,
    /// Anything else in a slot that is always emptied.
    Other,
}

impl Kind {
    /// The word in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Jwt => "jwt",
            Self::Basic => "basic",
            Self::Digest => "digest",
            Self::Aws => "aws",
            Self::ApiKey => "api_key",
            Self::Cookie => "cookie",
            Self::Password => "password",
            Self::Other => "other",
        }
    }
}

/// Where it stood: slot and name, as in `header:authorization`, `query:api_key`, `cookie:session`, `userinfo`, `subprotocol`, `trailer:x-api-key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it looks like.
    pub kind: Kind,
    /// Slot and name; a name that the workload chose freely is cut at 64 bytes.
    pub place: Arc<str>,
    /// Stands for the value.
    pub fingerprint: Fingerprint,
    /// Left in place because the upstream's `strip.keep` says so.
    pub kept: bool,
}

/// The findings of one head; one with more than these has rarely been seen.
pub type Findings = SmallVec<[Finding; 3]>;

/// A slot and what stands in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    pub(super) slot: &'static str,
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
}

impl Held<'_> {
    /// Whether this is the slot's place, written in full.
    fn is_at(&self, place: &str) -> bool {
        match place.strip_prefix(self.slot).map(str::as_bytes) {
            Some([]) => self.name.is_empty(),
            Some([b':', name @ ..]) => name == self.name,
            Some(_) | None => false,
        }
    }
}

/// Credentials that were met before: a workload sends the same key with each request, and to look into it, name and fingerprint it anew is
/// most of what stripping it costs. What is known again is gone already, by its slot's name; only how it is recorded is remembered. It is
/// known by a hash (keyed at random for this thread) and not kept; the worst that two of one hash could do is to be recorded as one.
struct Met {
    seed: SharedSeed,
    known: Vec<Set>,
}

#[derive(Default)]
struct Set {
    known: [Option<Known>; SET],
    /// Where the next one is kept: the oldest makes room.
    turn: usize,
}

struct Known {
    hash: u64,
    kind: Kind,
    place: Arc<str>,
    fingerprint: Fingerprint,
}

impl Met {
    fn new() -> Self {
        let mut seed = [0; 8];
        random(&mut seed);
        Self { seed: SharedSeed::from_u64(u64::from_ne_bytes(seed)), known: Vec::new() }
    }

    fn hash(&self, key: &FingerprintKey, value: &[u8], told: Option<Kind>) -> u64 {
        let mut hasher = FoldHasher::with_seed(key.number() << 8 | told.map_or(0, |kind| kind as u64 + 1), &self.seed);
        hasher.write(value);
        hasher.finish()
    }

    fn meet<'v>(
        &mut self,
        key: &FingerprintKey,
        held: &Held<'v>,
        told: Option<Kind>,
        look: impl FnOnce(&'v [u8]) -> (Kind, &'v [u8]),
    ) -> (Kind, Arc<str>, Fingerprint) {
        let hash = self.hash(key, held.value, told);
        if self.known.is_empty() {
            self.known.resize_with(KNOWN / SET, Set::default);
        }
        let at = usize::try_from(hash % (KNOWN / SET) as u64).unwrap_or(0);
        let mut set = self.known.get_mut(at);
        let mut met = set.iter().flat_map(|set| set.known.iter().flatten());
        if let Some(known) = met.find(|known| known.hash == hash && held.is_at(&known.place)) {
            return (known.kind, Arc::clone(&known.place), known.fingerprint);
        }
        let (kind, secret) = look(held.value);
        let (place, fingerprint) = (place(held.slot, held.name), key.fingerprint(secret));
        if let Some(set) = &mut set
            && let Some(oldest) = set.known.get_mut(set.turn)
        {
            *oldest = Some(Known { hash, kind, place: Arc::clone(&place), fingerprint });
            set.turn = (set.turn + 1) % SET;
        }
        (kind, place, fingerprint)
    }
}

/// The finding of what a slot holds. Its kind is `told`, or follows from slot, name and value: `look` tells it then, and which part of the
/// value the secret is.
pub(super) fn finding<'v>(
    key: &FingerprintKey,
    held: &Held<'v>,
    kept: bool,
    told: Option<Kind>,
    look: impl FnOnce(&'v [u8]) -> (Kind, &'v [u8]),
) -> Finding {
    thread_local! {
        static MET: RefCell<Met> = RefCell::new(Met::new());
    }
    let (kind, place, fingerprint) = MET.with_borrow_mut(|met| met.meet(key, held, told, look));
    Finding { kind, place, fingerprint, kept }
}

/// The place of a finding: `slot` alone, or `slot:name`. A name that itself looks like a credential, or is no plain text, is not shown.
/// Workers keep the places that they have named, so that a usual finding allocates nothing.
fn place(slot: &'static str, name: &[u8]) -> Arc<str> {
    thread_local! {
        static PLACES_NAMED: RefCell<FxHashSet<Arc<str>>> = RefCell::default();
    }
    let mut text = SmallVec::<[u8; 96]>::from_slice(slot.as_bytes());
    if !name.is_empty() {
        text.push(b':');
        if shape::find(name).is_some() {
            text.extend_from_slice(b"[redacted]");
        } else if name.len() <= NAME && name.iter().all(u8::is_ascii_graphic) {
            text.extend_from_slice(name);
        } else {
            text.extend(name.iter().take(NAME).map(|byte| if byte.is_ascii_graphic() { *byte } else { b'?' }));
        }
    }
    let text = std::str::from_utf8(&text).unwrap_or(slot);
    PLACES_NAMED.with_borrow_mut(|places| {
        if let Some(known) = places.get(text) {
            return Arc::clone(known);
        }
        if places.len() >= PLACES {
            places.clear();
        }
        let named: Arc<str> = text.into();
        places.insert(Arc::clone(&named));
        named
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(key: &FingerprintKey, slot: &'static str, name: &[u8], value: &[u8], kind: Kind) -> Finding {
        finding(key, &Held { slot, name, value }, false, Some(kind), |value| (kind, value))
    }

    #[test]
    fn what_was_met_before_is_recorded_as_it_was_and_nothing_else_is() {
        let (key, other) = (FingerprintKey::new(&[1; 32]), FingerprintKey::new(&[2; 32]));
        let first = told(&key, "header", b"x-api-key", b"k-1", Kind::ApiKey);
        assert_eq!((&*first.place, first.kind, first.fingerprint), ("header:x-api-key", Kind::ApiKey, key.fingerprint(b"k-1")));
        let again = told(&key, "header", b"x-api-key", b"k-1", Kind::ApiKey);
        assert!(Arc::ptr_eq(&again.place, &first.place) && again == first);
        assert_eq!(told(&other, "header", b"x-api-key", b"k-1", Kind::ApiKey).fingerprint, other.fingerprint(b"k-1"));
        for (slot, name, value, kind, place) in [
            ("query", &b"x-api-key"[..], &b"k-1"[..], Kind::ApiKey, "query:x-api-key"),
            ("header", b"x-api-key2", b"k-1", Kind::ApiKey, "header:x-api-key2"),
            ("header", b"x-api-key", b"k-2", Kind::ApiKey, "header:x-api-key"),
            ("header", b"x-api-key", b"k-1", Kind::Other, "header:x-api-key"),
            ("header", b"1x-api-key", b"k-", Kind::ApiKey, "header:1x-api-key"),
            ("userinfo", b"", b"k-1", Kind::Password, "userinfo"),
        ] {
            let found = told(&key, slot, name, value, kind);
            assert_eq!((&*found.place, found.kind, found.fingerprint), (place, kind, key.fingerprint(value)));
        }
    }

    #[test]
    fn what_is_looked_into_is_looked_into_once() {
        let key = FingerprintKey::new(&[1; 32]);
        let held = Held { slot: "header", name: b"authorization", value: b"Bearer k-1" };
        for looks in [1, 0] {
            let mut looked = 0;
            let found = finding(&key, &held, false, None, |value| {
                looked += 1;
                (Kind::Bearer, value.get(7..).unwrap())
            });
            assert_eq!((found.kind, found.fingerprint, looked), (Kind::Bearer, key.fingerprint(b"k-1"), looks));
        }
    }

    /// Four of one head, of which two hold the same key: whatever their hashes, none is looked into twice.
    #[test]
    fn those_of_one_head_do_not_push_each_other_out() {
        let key = FingerprintKey::new(&[1; 32]);
        for number in 0..1000 {
            let values = [0, 1, 2, 2].map(|slot| format!("k-{number}-{slot}"));
            let names = [&b"x-api-key"[..], b"x-auth-token", b"x-token", b"x-secret"];
            let mut looked = 0;
            for _ in 0..3 {
                for (name, value) in names.iter().zip(&values) {
                    let held = Held { slot: "header", name, value: value.as_bytes() };
                    finding(&key, &held, false, None, |value| {
                        looked += 1;
                        (Kind::ApiKey, value)
                    });
                }
            }
            assert_eq!(looked, 4, "of head {number}");
        }
    }

    #[test]
    fn more_than_are_known_are_recorded_all_the_same() {
        let key = FingerprintKey::new(&[1; 32]);
        for number in (0..2 * KNOWN).chain(0..2 * KNOWN) {
            let value = number.to_string();
            let found = told(&key, "query", b"token", value.as_bytes(), Kind::ApiKey);
            assert_eq!(found.fingerprint, key.fingerprint(value.as_bytes()));
        }
    }
}
