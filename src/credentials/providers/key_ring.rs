//! `KeyRing`: the signing keys of one issuer, rotated so that no verifier with a cached JWKS ever meets a key that it does not know.
//!
//! A new key is published before its first use for twice as long as a JWKS may be cached, and an old one stays published after its
//! last use for as long as a token that it signed can live. Only the first key of an issuer is used at once: nobody has a JWKS of
//! that issuer yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::credentials::Digest;
use crate::jose::{self, Algorithm, JoseError, PublicKey, SigningKey};
use crate::secret::Secret;
use crate::state::{State, StateError};

/// First line of a stored ring.
const FORM: &str = "exeat-keys/v1";
const STORED: &str = "jwt-keys-";

/// Why a ring is not usable.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Its keys cannot be kept.
    #[error("the signing keys of {issuer} cannot be kept: {source}")]
    State {
        /// Of which issuer.
        issuer: Arc<str>,
        /// Why.
        source: StateError,
    },
    /// A key cannot be made, read or used.
    #[error("a signing key of {issuer} fails: {source}")]
    Key {
        /// Of which issuer.
        issuer: Arc<str>,
        /// Why.
        source: JoseError,
    },
}

/// The times of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// How long one key signs.
    pub rotate_every: Duration,
    /// How long a key is published before it signs: twice the time for which a verifier may cache the JWKS.
    pub publish_ahead: Duration,
    /// How long a key is published after it last signed: the longest life of a token, and skew.
    pub keep_after: Duration,
}

impl Default for Rhythm {
    /// 30 days; 10 min ahead (the JWKS is served with `max-age=300`); 15 min (the ceiling of a ttl) and 5 min of skew behind.
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self { rotate_every: minutes(30 * 24 * 60), publish_ahead: minutes(10), keep_after: minutes(20) }
    }
}

#[derive(Clone)]
struct Entry {
    key: Arc<SigningKey>,
    /// `None`: a key of the operator's, not ours to keep.
    pkcs8: Option<Arc<Secret>>,
    signs_from: Timestamp,
}

/// The signing keys of one issuer and algorithm.
pub struct KeyRing {
    issuer: Arc<str>,
    algorithm: Algorithm,
    rhythm: Rhythm,
    store: Option<(Arc<State>, String)>,
    /// By `signs_from`; the last that has begun signs. Replaced as a whole, after it is durable.
    entries: RwLock<Arc<[Entry]>>,
    published: Vec<PublicKey>,
    /// One at a time tends: two would each make the next key, and one of them would be lost after it was published.
    tending: Mutex<()>,
}

impl KeyRing {
    /// The ring that `state` keeps for an issuer, with a first key where it keeps none. Each key is tested.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn open(state: &Arc<State>, issuer: Arc<str>, algorithm: Algorithm, rhythm: Rhythm, now: Timestamp) -> Result<Self, RingError> {
        let name = stored_name(&issuer, algorithm);
        let kept = state.read_secret(&name).map_err(|source| RingError::State { issuer: Arc::clone(&issuer), source })?;
        let entries = match kept {
            Some(text) => {
                parse(&name, algorithm, text.expose()).map_err(|source| RingError::State { issuer: Arc::clone(&issuer), source })?
            }
            None => Vec::new(),
        };
        let ring = Self {
            issuer,
            algorithm,
            rhythm,
            store: Some((Arc::clone(state), name)),
            entries: RwLock::new(entries.into()),
            published: Vec::new(),
            tending: Mutex::new(()),
        };
        ring.tend(now)?;
        for entry in ring.entries().iter() {
            entry.key.self_test(now).map_err(|source| ring.key_error(source))?;
        }
        Ok(ring)
    }

    /// A ring of one key of the operator's, which signs at once: `also` are public halves to publish with it. The operator rotates by
    /// giving another key in a reload (see [`KeyRings::place`]).
    ///
    /// # Errors
    /// The key does not sign what others verify.
    pub fn fixed(issuer: Arc<str>, key: SigningKey, also: Vec<PublicKey>, now: Timestamp) -> Result<Self, RingError> {
        key.self_test(now).map_err(|source| RingError::Key { issuer: Arc::clone(&issuer), source })?;
        let algorithm = key.public().algorithm();
        let entry = Entry { key: Arc::new(key), pkcs8: None, signs_from: now };
        Ok(Self {
            issuer,
            algorithm,
            rhythm: Rhythm::default(),
            store: None,
            entries: RwLock::new(Arc::from([entry])),
            published: also,
            tending: Mutex::new(()),
        })
    }

    /// Whose keys they are.
    #[must_use]
    pub const fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    /// Their algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key that signs now.
    #[must_use]
    pub fn signer(&self, now: Timestamp) -> Option<Arc<SigningKey>> {
        let entries = self.entries();
        // A clock that went back before the oldest key's time: the oldest is the one that verifiers know.
        entries.iter().rev().find(|entry| entry.signs_from <= now).or_else(|| entries.first()).map(|entry| Arc::clone(&entry.key))
    }

    /// Every key that a verifier may meet now or soon.
    #[must_use]
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.entries().iter().map(|entry| entry.key.public().clone()).chain(self.published.iter().cloned()).collect()
    }

    /// Does what is due: makes and publishes the next key, drops the ones that nobody can need. To be called every minute or so, off
    /// the workers. Whether the published set changed.
    ///
    /// # Errors
    /// See [`RingError`]; the ring is as before then, and signs on.
    pub fn tend(&self, now: Timestamp) -> Result<bool, RingError> {
        let _tending = self.tending.lock().unwrap_or_else(PoisonError::into_inner);
        let former = self.entries();
        let mut entries: Vec<Entry> = former.to_vec();
        match entries.last() {
            // The operator's keys: only they know of a next one.
            _ if self.store.is_none() => {}
            None => entries.push(self.new_entry(now)?),
            Some(last) => {
                let ends = after(last.signs_from, self.rhythm.rotate_every);
                let next_from = ends.max(after(now, self.rhythm.publish_ahead));
                if after(now, self.rhythm.publish_ahead) >= ends {
                    entries.push(self.new_entry(next_from)?);
                }
            }
        }
        // A key signed last when its successor began.
        let over: Vec<bool> = entries.windows(2).map(|pair| ended(pair, self.rhythm.keep_after, now)).chain([false]).collect();
        let mut over = over.into_iter();
        entries.retain(|_| !over.next().unwrap_or(false));
        let same = entries.len() == former.len() && entries.iter().zip(former.iter()).all(|(a, b)| a.key.public() == b.key.public());
        if same {
            return Ok(false);
        }
        // Durable before it is published or used: after a crash the same keys come back.
        if let Some((state, name)) = &self.store {
            state.write_secret(name, &format(&entries)).map_err(|source| RingError::State { issuer: Arc::clone(&self.issuer), source })?;
        }
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = entries.into();
        Ok(true)
    }

    fn new_entry(&self, signs_from: Timestamp) -> Result<Entry, RingError> {
        let (key, pkcs8) = SigningKey::generate(self.algorithm).map_err(|source| self.key_error(source))?;
        Ok(Entry { key: Arc::new(key), pkcs8: Some(Arc::new(pkcs8)), signs_from })
    }

    fn entries(&self) -> Arc<[Entry]> {
        Arc::clone(&self.entries.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn key_error(&self, source: JoseError) -> RingError {
        RingError::Key { issuer: Arc::clone(&self.issuer), source }
    }
}

fn ended(pair: &[Entry], keep_after: Duration, now: Timestamp) -> bool {
    matches!(pair, [_, successor] if after(successor.signs_from, keep_after) <= now)
}

fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// One file per issuer and algorithm; an issuer's URL is no file name.
fn stored_name(issuer: &str, algorithm: Algorithm) -> String {
    format!("{STORED}{:?}-{}", Digest::of(&[issuer.as_bytes()]), algorithm.name().to_ascii_lowercase())
}

/// `exeat-keys/v1`, then a line per key: when it begins to sign, and its PKCS#8 in base64.
fn format(entries: &[Entry]) -> Secret {
    let mut text = Zeroizing::new(String::with_capacity(64 + entries.len() * 4096));
    text.push_str(FORM);
    text.push('\n');
    for entry in entries {
        if let Some(pkcs8) = &entry.pkcs8 {
            text.push_str(&entry.signs_from.to_string());
            text.push(' ');
            STANDARD.encode_string(pkcs8.expose(), &mut text);
            text.push('\n');
        }
    }
    Secret::new(text.as_bytes())
}

fn parse(name: &str, algorithm: Algorithm, text: &[u8]) -> Result<Vec<Entry>, StateError> {
    let damaged = |why| StateError::Damaged { entry: name.to_owned(), why };
    let text = std::str::from_utf8(text).map_err(|_| damaged("it is no text"))?;
    let mut lines = text.lines();
    if lines.next() != Some(FORM) {
        return Err(damaged("it does not begin with exeat-keys/v1"));
    }
    let mut entries = Vec::new();
    for line in lines {
        let (signs_from, pkcs8) = line.split_once(' ').ok_or_else(|| damaged("a line is no time and key"))?;
        let signs_from = signs_from.parse().map_err(|_| damaged("a line begins with no time"))?;
        let pkcs8 = Secret::new(STANDARD.decode(pkcs8).map_err(|_| damaged("a key is no base64"))?);
        let key = SigningKey::from_pkcs8(algorithm, &pkcs8).map_err(|_| damaged("a key is not of its kind"))?;
        entries.push(Entry { key: Arc::new(key), pkcs8: Some(Arc::new(pkcs8)), signs_from });
    }
    entries.sort_by_key(|entry| entry.signs_from);
    Ok(entries)
}

type Rings = BTreeMap<(Arc<str>, Algorithm), Arc<KeyRing>>;

/// All rings of the process. It outlives reloads, so that a reload rotates nothing and unpublishes nothing.
pub struct KeyRings {
    state: Arc<State>,
    rhythm: Rhythm,
    rings: Mutex<Rings>,
}

impl KeyRings {
    /// With the keys that `state` keeps.
    #[must_use]
    pub const fn new(state: Arc<State>, rhythm: Rhythm) -> Self {
        Self { state, rhythm, rings: Mutex::new(BTreeMap::new()) }
    }

    /// The ring of an issuer, opened on first use.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn ring(&self, issuer: &Arc<str>, algorithm: Algorithm, now: Timestamp) -> Result<Arc<KeyRing>, RingError> {
        let mut rings = self.rings();
        if let Some(ring) = rings.get(&(Arc::clone(issuer), algorithm)) {
            return Ok(Arc::clone(ring));
        }
        let ring = Arc::new(KeyRing::open(&self.state, Arc::clone(issuer), algorithm, self.rhythm, now)?);
        rings.insert((Arc::clone(issuer), algorithm), Arc::clone(&ring));
        Ok(ring)
    }

    /// Puts a ring of the operator's key in the place of the issuer's. Where another key signs for that issuer already, this is a
    /// rotation: the new key is published now and signs after [`Rhythm::publish_ahead`], the former signs until then and stays published
    /// for [`Rhythm::keep_after`]. To end a key at once, restart.
    pub fn place(&self, ring: KeyRing) -> Arc<KeyRing> {
        let mut rings = self.rings();
        let place = (Arc::clone(&ring.issuer), ring.algorithm);
        let new = ring.entries();
        if let (Some(former), Some(next)) = (rings.get(&place), new.first()) {
            if former.entries().last().is_some_and(|last| last.key.public() == next.key.public()) {
                return Arc::clone(former);
            }
            let now = next.signs_from;
            let next = Entry { signs_from: after(now, self.rhythm.publish_ahead), ..next.clone() };
            let signed = former.entries();
            let signed = signed.iter().filter(|entry| entry.signs_from <= now).cloned();
            *ring.entries.write().unwrap_or_else(PoisonError::into_inner) = signed.chain([next]).collect();
        }
        let ring = Arc::new(ring);
        rings.insert(place, Arc::clone(&ring));
        ring
    }

    /// Tends every ring; one that fails does not keep the others from it. Whether the published set changed, and what failed.
    pub fn tend(&self, now: Timestamp) -> (bool, Vec<RingError>) {
        let rings: Vec<Arc<KeyRing>> = self.rings().values().map(Arc::clone).collect();
        let (mut changed, mut failed) = (false, Vec::new());
        for ring in rings {
            match ring.tend(now) {
                Ok(this) => changed |= this,
                Err(error) => failed.push(error),
            }
        }
        (changed, failed)
    }

    /// The issuers, sorted.
    #[must_use]
    pub fn issuers(&self) -> Vec<Arc<str>> {
        let mut issuers: Vec<Arc<str>> = self.rings().keys().map(|(issuer, _)| Arc::clone(issuer)).collect();
        issuers.dedup();
        issuers
    }

    /// The JWK Set of all issuers (RFC 7517), for `/jwks`; to be served with `max-age=300` at most.
    #[must_use]
    pub fn jwks(&self) -> Vec<u8> {
        let keys: Vec<PublicKey> = self.rings().values().flat_map(|ring| ring.public_keys()).collect();
        jose::jwks(&keys)
    }

    /// The discovery document of an issuer, for `/.well-known/openid-configuration` (`OpenID` Connect Discovery 1.0 section 3, as far as a
    /// verifier of JWTs reads it); `None` for an issuer that has no ring here.
    #[must_use]
    pub fn discovery(&self, issuer: &str) -> Option<Vec<u8>> {
        let algorithms: Vec<&str> =
            self.rings().keys().filter(|(known, _)| &**known == issuer).map(|(_, algorithm)| algorithm.name()).collect();
        if algorithms.is_empty() {
            return None;
        }
        let document = json!({
            "issuer": issuer,
            "jwks_uri": format!("{}/jwks", issuer.trim_end_matches('/')),
            "response_types_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        });
        Some(document.to_string().into_bytes())
    }

    /// The JWK Set of every ring that a state keeps, for `exeat jwks` beside a running process.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn jwks_kept(state: &State) -> Result<Vec<u8>, StateError> {
        let mut keys = Vec::new();
        for name in state.names(STORED)? {
            let algorithm = if name.ends_with("-rs256") { Algorithm::Rs256 } else { Algorithm::Es256 };
            if let Some(text) = state.read_secret(&name)? {
                keys.extend(parse(&name, algorithm, text.expose())?.into_iter().map(|entry| entry.key.public().clone()));
            }
        }
        Ok(jose::jwks(&keys))
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::jose::{Expected, verify};

    const ISSUER: &str = "https://exeat.example";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn open(state: &Arc<State>, rhythm: Rhythm, now: Timestamp) -> KeyRing {
        KeyRing::open(state, ISSUER.into(), Algorithm::Es256, rhythm, now).unwrap()
    }

    #[test]
    fn keys_survive_a_restart_and_the_first_signs_at_once() {
        let state = Arc::new(State::ephemeral());
        let first = open(&state, Rhythm::default(), at(0));
        let kid = Arc::clone(first.signer(at(0)).unwrap().public().kid());
        let again = open(&state, Rhythm::default(), at(1_000));
        assert_eq!(again.signer(at(1_000)).unwrap().public().kid(), &kid);
        assert_eq!(again.signer(at(-5_000)).unwrap().public().kid(), &kid, "also when the clock went back");
        let listed: serde_json::Value = serde_json::from_slice(&KeyRings::jwks_kept(&state).unwrap()).unwrap();
        assert_eq!(listed["keys"][0]["kid"], *kid);
    }

    /// A verifier that caches the JWKS for 5 min and tokens that live 15: over many rotations nothing is rejected.
    #[test]
    fn a_caching_verifier_rejects_nothing_over_many_rotations() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let rhythm = Rhythm { rotate_every: minutes(60), ..Rhythm::default() };
        let state = Arc::new(State::ephemeral());
        let mut ring = open(&state, rhythm, at(0));
        let (mut cached, mut cached_at) = (ring.public_keys(), 0);
        let mut alive: VecDeque<(i64, Secret)> = VecDeque::new();
        let mut signers = std::collections::BTreeSet::new();
        for second in (0..8 * 3600).step_by(60) {
            let now = at(second);
            ring.tend(now).unwrap();
            if second % 7_200 == 3_660 {
                ring = open(&state, rhythm, now);
            }
            let key = ring.signer(now).unwrap();
            signers.insert(Arc::clone(key.public().kid()));
            let claims = json!({ "iss": ISSUER, "aud": "a", "iat": now.as_second(), "exp": now.as_second() + 900 });
            alive.push_back((second + 900, key.sign("at+jwt", &claims).unwrap()));
            if second >= cached_at + 300 {
                (cached, cached_at) = (ring.public_keys(), second);
            }
            let expected = Expected { typ: "at+jwt", issuer: ISSUER, audience: "a", leeway: Duration::ZERO };
            verify(alive.back().unwrap().1.expose(), &cached, &expected, now).unwrap();
            verify(alive.front().unwrap().1.expose(), &cached, &expected, now).unwrap();
            if alive.front().is_some_and(|(end, _)| *end <= second + 60) {
                alive.pop_front();
            }
            assert!(ring.public_keys().len() <= 3);
        }
        assert!(signers.len() >= 7, "{}", signers.len());
    }

    /// Whenever the clock jumps, what signs by it is published, before and after what is due by it; and no key signs for longer than its time
    /// and the jump.
    #[test]
    fn a_clock_that_jumps_a_day_signs_with_a_published_key_always() {
        const DAY: i64 = 24 * 3600;
        const ROTATION: i64 = 30 * DAY;
        for jump in [-DAY, DAY] {
            // Before a rotation, while the next key is published ahead, after it has begun, and when the former is gone.
            for before in [ROTATION - 3600, ROTATION - 300, ROTATION + 300, ROTATION + 3600] {
                let state = Arc::new(State::ephemeral());
                let ring = open(&state, Rhythm::default(), at(0));
                for second in [ROTATION - 3600, ROTATION - 600, before] {
                    ring.tend(at(second.min(before))).unwrap();
                }
                let claims = |second: i64| json!({ "iss": ISSUER, "aud": "a", "iat": second, "exp": at(second).as_second() + 900 });
                let expected = Expected { typ: "at+jwt", issuer: ISSUER, audience: "a", leeway: Duration::ZERO };
                let mut signers = Vec::new();
                for second in [before, before + jump, before] {
                    let signer = ring.signer(at(second)).unwrap();
                    let token = signer.sign("at+jwt", &claims(second)).unwrap();
                    verify(token.expose(), &ring.public_keys(), &expected, at(second)).unwrap();
                    ring.tend(at(second)).unwrap();
                    verify(token.expose(), &ring.public_keys(), &expected, at(second)).unwrap();
                    signers.push(signer.public().clone());
                }
                assert!((1..=2).contains(&ring.public_keys().len()), "{jump} {before}");
                // When the clock is right again, so is the rhythm: a rotation later another key signs, and one is published.
                for minute in (before..before + ROTATION + DAY + 7200).step_by(60) {
                    ring.tend(at(minute)).unwrap();
                }
                let later = ring.signer(at(before + ROTATION + DAY + 7200)).unwrap();
                assert!(!signers.contains(later.public()), "{jump} {before}");
                assert_eq!(ring.public_keys().len(), 1, "{jump} {before}");
                let again = open(&state, Rhythm::default(), at(before));
                assert_eq!(again.public_keys(), ring.public_keys(), "and a restart knows the same");
            }
        }
    }

    #[test]
    fn a_key_that_cannot_be_kept_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(dir.path(), Duration::ZERO).unwrap());
        let ring = open(&state, Rhythm::default(), at(0));
        let before = ring.public_keys();
        state.release();
        assert!(matches!(ring.tend(at(40 * 24 * 3600)), Err(RingError::State { .. })));
        assert_eq!(ring.public_keys(), before);
        assert!(ring.signer(at(40 * 24 * 3600)).is_some());
    }

    #[test]
    fn damaged_rings_are_refused_with_their_name() {
        for text in [
            "",
            "exeat-keys/v9\n",
            "exeat-keys/v1\nx\n",
            "exeat-keys/v1\n2026-01-01T00:00:00Z !!\n",
            "exeat-keys/v1\n2026-01-01T00:00:00Z AAAA\n",
        ] {
            let state = Arc::new(State::ephemeral());
            state.write(&stored_name(ISSUER, Algorithm::Es256), text.as_bytes()).unwrap();
            let error = KeyRing::open(&state, ISSUER.into(), Algorithm::Es256, Rhythm::default(), at(0)).err().unwrap();
            assert!(error.to_string().contains("jwt-keys-"), "{error}");
        }
    }

    #[test]
    fn an_operators_new_key_is_published_before_it_signs_and_the_former_after() {
        let rings = KeyRings::new(Arc::new(State::ephemeral()), Rhythm::default());
        let fixed = |pkcs8: &Secret, second| {
            KeyRing::fixed(ISSUER.into(), SigningKey::from_pkcs8(Algorithm::Es256, pkcs8).unwrap(), Vec::new(), at(second)).unwrap()
        };
        let [(one, first), (two, second)] = [(), ()].map(|()| SigningKey::generate(Algorithm::Es256).unwrap());
        let signs = |ring: &KeyRing, at| ring.signer(at).unwrap().public().clone();
        let ring = rings.place(fixed(&first, 0));
        assert_eq!(signs(&ring, at(0)), *one.public(), "the first signs at once");
        assert!(Arc::ptr_eq(&ring, &rings.place(fixed(&first, 100))), "a reload with the same key changes nothing");
        let ring = rings.place(fixed(&second, 1_000));
        assert_eq!(ring.public_keys(), [one.public().clone(), two.public().clone()]);
        assert_eq!((signs(&ring, at(1_599)), signs(&ring, at(1_600))), (one.public().clone(), two.public().clone()));
        assert!(!rings.tend(at(1_600 + 1_199)).0);
        assert!(rings.tend(at(1_600 + 1_200)).0);
        assert_eq!(ring.public_keys(), [two.public().clone()]);
    }

    #[test]
    fn rings_publish_jwks_and_discovery_for_each_issuer() {
        let rings = KeyRings::new(Arc::new(State::ephemeral()), Rhythm::default());
        let issuer: Arc<str> = ISSUER.into();
        let one = rings.ring(&issuer, Algorithm::Es256, at(0)).unwrap();
        assert!(Arc::ptr_eq(&one, &rings.ring(&issuer, Algorithm::Es256, at(1)).unwrap()));
        rings.ring(&issuer, Algorithm::Rs256, at(0)).unwrap();
        let (key, _) = SigningKey::generate(Algorithm::Es256).unwrap();
        let also = vec![SigningKey::generate(Algorithm::Es256).unwrap().0.public().clone()];
        rings.place(KeyRing::fixed("https://other.example".into(), key, also, at(0)).unwrap());
        assert_eq!(rings.issuers(), [issuer, "https://other.example".into()]);
        let jwks: serde_json::Value = serde_json::from_slice(&rings.jwks()).unwrap();
        assert_eq!(jwks["keys"].as_array().unwrap().len(), 4);
        assert!(!jwks.to_string().contains("\"d\""), "no private part");
        let document: serde_json::Value = serde_json::from_slice(&rings.discovery(ISSUER).unwrap()).unwrap();
        assert_eq!((&document["issuer"], &document["jwks_uri"]), (&json!(ISSUER), &json!("https://exeat.example/jwks")));
        assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256", "RS256"]));
        assert_eq!(rings.discovery("https://unknown"), None);
        let (changed, failed) = rings.tend(at(31 * 24 * 3600));
        assert!(changed && failed.is_empty());
    }
}
