//! Circumstances: what one passage has in common with others: who came through which listener and asked how, where to, by which rule, with
//! which grant, findings, outcome and status. Most of a record and of a span says only that, so both are made once for all passages of the same circumstances.
//!
//! They are compared by address and number, and what has an address is held as long as the entry lives, so that nothing else can take
//! it. Credentials are held by the name of their grant: nothing secret outlives its use here.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::hash::{Hash as _, Hasher as _};
use std::ops::Deref;
use std::sync::Arc;

use http::Version;
use rustc_hash::{FxHashMap, FxHasher};
use smallvec::SmallVec;

use super::access::Access;
use crate::catalogue::Upstream;
use crate::identity::Workload;
use crate::policy::RuleRef;

/// Most circumstances that are kept; a full cache begins anew.
const MOST: usize = 512;

type Words = SmallVec<[u64; 32]>;

/// A finished passage, and what of it is compared.
#[derive(Debug)]
pub struct Circumstances<'a> {
    access: &'a Access,
    words: Words,
    hash: u64,
}

impl<'a> Circumstances<'a> {
    /// Of one passage.
    #[must_use]
    pub fn of(access: &'a Access) -> Self {
        // Filled in place: it is too large to be moved for nothing.
        let mut this = Self { access, words: Words::new(), hash: 0 };
        tell(access, &mut this.words);
        let mut hasher = FxHasher::default();
        this.words.hash(&mut hasher);
        this.hash = hasher.finish();
        this
    }
}

impl Deref for Circumstances<'_> {
    type Target = Access;

    fn deref(&self) -> &Access {
        self.access
    }
}

/// A value for each of the circumstances met lately. The hash only finds them; the words tell them apart.
pub struct PerCircumstances<T>(FxHashMap<u64, Entry<T>>);

struct Entry<T> {
    words: Words,
    value: T,
    _alive: Alive,
}

/// Held so that no other value can take an address that stands among the words.
struct Alive {
    _names: SmallVec<[Arc<str>; 6]>,
    _workload: Option<Arc<Workload>>,
    _upstream: Option<Arc<Upstream>>,
    _rule: Option<RuleRef>,
}

impl<T> Default for PerCircumstances<T> {
    fn default() -> Self {
        Self(FxHashMap::default())
    }
}

impl<T> PerCircumstances<T> {
    /// The value of this passage's circumstances, made when they are met for the first time. Not among them, so nothing that `make` may
    /// look at: ids, times, the caller's address, path, `detail`, `would_be`, `lease`, bytes, attempts, trailers, `reflected`, `grpc` and
    /// `tunnel`.
    pub fn of(&mut self, passage: &Circumstances<'_>, make: impl FnOnce() -> T) -> &mut T {
        let entry = |value| Entry { words: passage.words.clone(), value, _alive: Alive::of(passage) };
        if self.0.len() >= MOST && !self.0.contains_key(&passage.hash) {
            self.0.clear();
        }
        match self.0.entry(passage.hash) {
            Occupied(found) => {
                let found = found.into_mut();
                if found.words != passage.words {
                    *found = entry(make());
                }
                &mut found.value
            }
            Vacant(free) => &mut free.insert(entry(make())).value,
        }
    }
}

impl Alive {
    fn of(access: &Access) -> Self {
        let mut names: SmallVec<_> = [Arc::clone(&access.listener), Arc::clone(&access.policy)].into_iter().collect();
        names.extend(access.credential.as_ref().map(|credential| Arc::clone(&credential.grant.0)));
        names.extend(access.findings.iter().map(|finding| Arc::clone(&finding.place)));
        Self { _names: names, _workload: access.workload.clone(), _upstream: access.upstream.clone(), _rule: access.rule.clone() }
    }
}

fn tell(access: &Access, words: &mut Words) {
    fn shared<T: ?Sized>(value: &Arc<T>) -> u64 {
        Arc::as_ptr(value).cast::<()>() as usize as u64
    }
    fn given<T: ?Sized>(value: Option<&Arc<T>>) -> u64 {
        value.map_or(0, shared)
    }
    // Words of the house: equal ones have one address and one length.
    let word = |word: &'static str| (word.as_ptr() as usize as u64).rotate_left(8) ^ word.len() as u64;
    let (rule, status) = (access.rule.as_ref(), access.status.map_or(0, |status| u64::from(status.as_u16())));
    words.extend([
        shared(&access.listener),
        shared(&access.policy),
        given(access.workload.as_ref()),
        given(access.upstream.as_ref()),
        given(access.credential.as_ref().map(|credential| &credential.grant.0)),
        given(rule.map(|rule| &rule.id)),
        given(rule.map(|rule| &rule.place)),
        given(rule.map(|rule| &rule.owner)),
        access.revision,
        word(access.decision()),
        word(access.outcome.name()),
        access.outcome.code().map_or(0, |code| word(code.name())),
        access.mode as u64 | u64::from(access.observed) << 8 | u64::from(access.cached) << 9 | version(access.version) << 16 | status << 32,
        access.findings.len() as u64,
    ]);
    for finding in &access.findings {
        let kind = finding.kind as u64 | u64::from(finding.kept) << 8;
        words.extend([shared(&finding.place), kind, u64::from_le_bytes(finding.fingerprint.bytes())]);
    }
    if let Some(to) = &access.destination {
        words.push(u64::from(to.port) | (to.scheme as u64) << 16);
        text(words, to.host.as_str());
    }
    text(words, access.method.as_str());
}

fn text(words: &mut Words, text: &str) {
    let (whole, rest) = text.as_bytes().as_chunks::<8>();
    words.extend(whole.iter().map(|bytes| u64::from_le_bytes(*bytes)));
    words.push(rest.iter().fold(rest.len() as u64, |sum, byte| sum << 8 | u64::from(*byte)));
}

fn version(version: Version) -> u64 {
    match version {
        Version::HTTP_10 => 10,
        Version::HTTP_2 => 20,
        _ => 11,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::access::{Access, Outcome};
    use super::super::samples::{allowed, observed, refused};
    use super::*;
    use crate::refusal::Code;

    fn words(access: &Access) -> Words {
        Circumstances::of(access).words
    }

    /// The next passage of the same workload: the same values, other ids, times and results.
    fn next(of: &Access) -> Access {
        let mut next = allowed(of.id + 1);
        next.listener = Arc::clone(&of.listener);
        next.policy = Arc::clone(&of.policy);
        (next.workload, next.upstream, next.credential, next.rule) =
            (of.workload.clone(), of.upstream.clone(), of.credential.clone(), of.rule.clone());
        (next.findings, next.destination) = (of.findings.clone(), of.destination.clone());
        (next.took, next.response_bytes) = (std::time::Duration::ZERO, 7);
        next
    }

    #[test]
    fn like_passages_share_and_every_difference_tells() {
        let first = allowed(1);
        assert_eq!(words(&first), words(&next(&first)));
        let changes: [fn(&mut Access); 18] = [
            |access| access.listener = "egress".into(),
            |access| access.policy = "5f2c9a01".into(),
            |access| access.workload = None,
            |access| access.upstream = allowed(1).upstream,
            |access| access.credential = allowed(1).credential,
            |access| access.rule = allowed(1).rule,
            |access| access.revision += 1,
            |access| access.outcome = Outcome::Aborted,
            |access| access.outcome = Outcome::Refused(Code::Denied),
            |access| access.observed = true,
            |access| access.cached = false,
            |access| access.findings[0].kept = true,
            |access| access.findings.clear(),
            |access| access.destination.as_mut().unwrap().port += 1,
            |access| access.version = Version::HTTP_2,
            |access| access.status = None,
            |access| access.method = http::Method::DELETE,
            |access| access.method = "VERSION-CONTROL".parse().unwrap(),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut other = next(&first);
            change(&mut other);
            assert_ne!(words(&first), words(&other), "change {at}");
        }
    }

    #[test]
    fn values_are_made_once_and_bounded() {
        let mut kept = PerCircumstances::default();
        let (mut made, first) = (0, allowed(1));
        for access in [&first, &next(&first), &refused(2, Code::Denied), &observed(3), &next(&first)] {
            kept.of(&Circumstances::of(access), || made += 1);
        }
        assert_eq!(made, 3);
        for id in 0..2 * MOST {
            kept.of(&Circumstances::of(&allowed(id as u128)), || ());
            assert!(kept.0.len() <= MOST);
        }
    }
}
