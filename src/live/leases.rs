//! `LeaseBook`: the leases of this process, kept in the state: opened, renewed and ended there before anybody is told so.
//!
//! An opening or a renewal is written first and holds then; an end holds at once, is written, and only then acknowledged. Uses are
//! written ahead in chunks by the household ([`LeaseBook::tend`]), so the request path touches memory only; a request that finds uses left
//! and none reserved waits for the next write ([`LeaseBook::reserved`]).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::lease::{Counter, End, Lease, LeaseError, Opening, RuleUses, Taken};
use super::register::Leases;
use crate::clock::Timestamp;
use crate::identity::SpiffeId;
use crate::state::{State, StateError};

/// The entry of the state.
const ENTRY: &str = "leases";
/// Live leases of one process.
const MOST: usize = 4_096;
/// Live leases of one workload: what a decision may have to look through.
const MOST_OF_ONE: usize = 64;
/// Leases that are over are shown so long, and so many of one workload.
const REMEMBERED: Duration = Duration::from_hours(24);
const REMEMBERED_OF_ONE: usize = 16;
/// Rules with `max_uses` that one lease can serve.
const MOST_RULES: usize = 64;
/// Wishes that wait for the household.
const MOST_WANTS: usize = 4_096;
/// Room for them is made here, not by the request that has one.
const WANTS_AT_ONCE: usize = 64;

/// Uses that should be reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Of this lease.
    pub lease: Arc<str>,
    /// Of this rule under it, and its `max_uses`.
    pub rule: Option<(Arc<str>, u32)>,
}

/// What happened to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// It was opened.
    Opened,
    /// Its time was prolonged.
    Renewed,
    /// Somebody ended it, or its time was over.
    Ended,
}

impl Change {
    /// The word in records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Renewed => "renewed",
            Self::Ended => "ended",
        }
    }
}

/// The leases of this process.
pub struct LeaseBook {
    leases: ArcSwap<Leases>,
    state: Arc<State>,
    /// One change at a time; holds a digest of what was last written.
    changing: Mutex<Option<blake3::Hash>>,
    wants: Mutex<Vec<Want>>,
    wanted: Notify,
    written: watch::Sender<u64>,
    changed: Notify,
}

impl Default for LeaseBook {
    /// Memory only.
    fn default() -> Self {
        Self::with(Leases::default(), Arc::new(State::ephemeral()))
    }
}

impl LeaseBook {
    fn with(leases: Leases, state: Arc<State>) -> Self {
        Self {
            leases: ArcSwap::from_pointee(leases),
            state,
            changing: Mutex::default(),
            wants: Mutex::new(Vec::with_capacity(WANTS_AT_ONCE)),
            wanted: Notify::new(),
            written: watch::Sender::new(0),
            changed: Notify::new(),
        }
    }

    /// What the state remembers: ended stays ended, and what was reserved counts as used.
    ///
    /// # Errors
    /// The state cannot be read or written, or the entry is damaged.
    pub fn open(state: Arc<State>, now: Timestamp) -> Result<Self, StateError> {
        let mut leases = Leases::default();
        if let Some(bytes) = state.read(ENTRY)? {
            let damaged = |why| StateError::Damaged { entry: ENTRY.to_owned(), why };
            let kept: Kept = serde_json::from_slice(&bytes).map_err(|_| damaged("it is no list of leases of this version"))?;
            for lease in kept.leases {
                leases.put(lease.read().ok_or_else(|| damaged("a lease in it is not well-formed"))?);
            }
        }
        let book = Self::with(leases, state);
        if !book.leases().is_empty() {
            let mut last = hold(&book.changing);
            let mut next = Leases::clone(&book.leases());
            expire(&mut next, now);
            book.write(&next, &mut last, now)?;
            book.leases.store(Arc::new(next));
        }
        Ok(book)
    }

    /// All leases; takes no lock.
    #[must_use]
    pub fn leases(&self) -> Guard<Arc<Leases>> {
        self.leases.load()
    }

    /// Opens a lease; it holds and is durable when this returns. `rules` are those with `max_uses` that it can serve now: their first
    /// uses are reserved with it.
    ///
    /// # Errors
    /// What is wrong with the opening, a bound, or the state.
    pub fn open_lease(&self, opening: Opening, rules: &[(Arc<str>, u32)], by: &str, now: Timestamp) -> Result<Arc<Lease>, LeaseError> {
        let mut lease = Lease::open(opening, by, now)?;
        let uses = |(rule, most): &(Arc<str>, u32)| RuleUses { rule: Arc::clone(rule), most: *most, counter: Arc::default() };
        lease.rules = rules.iter().take(MOST_RULES).map(uses).collect();
        let mut last = hold(&self.changing);
        let mut next = Leases::clone(&self.leases());
        if next.of(&lease.workload).filter(|known| known.is_live(now)).count() >= MOST_OF_ONE {
            return Err(LeaseError::TooManyOfOne);
        }
        if next.live(now) >= MOST {
            return Err(LeaseError::TooMany);
        }
        self.settle_new(&mut next, lease, &mut last, now, "the lease is not opened")
    }

    /// Prolongs a live lease: it ends this long from now.
    ///
    /// # Errors
    /// It is not here, has ended, or would live longer than 24 h since its opening; or the state.
    pub fn renew_lease(&self, id: &str, ttl: Duration, now: Timestamp) -> Result<Arc<Lease>, LeaseError> {
        let mut last = hold(&self.changing);
        let mut next = Leases::clone(&self.leases());
        let renewed = next.get(id).ok_or_else(|| LeaseError::Unknown(shown(id)))?.renewed(ttl, now)?;
        self.settle_new(&mut next, renewed, &mut last, now, "the lease is not renewed")
    }

    fn settle_new(
        &self,
        next: &mut Leases,
        lease: Lease,
        last: &mut Option<blake3::Hash>,
        now: Timestamp,
        done: &'static str,
    ) -> Result<Arc<Lease>, LeaseError> {
        let id = Arc::clone(&lease.id);
        next.put(lease);
        forget(next, now);
        self.write(next, last, now).map_err(|error| LeaseError::NotDurable { done, why: error.to_string() })?;
        let lease = next.get(&id).map(Arc::clone).ok_or_else(|| LeaseError::Unknown(shown(&id)))?;
        self.publish(next.clone());
        Ok(lease)
    }

    /// Ends a lease. It holds at once; `told` is called then; it is durable when this returns. One that has ended stays as it is.
    ///
    /// # Errors
    /// It is not here; or the state, and then the end holds until a restart.
    pub fn end_lease(&self, id: &str, by: &str, now: Timestamp, told: impl FnOnce()) -> Result<Arc<Lease>, LeaseError> {
        let mut last = hold(&self.changing);
        let mut next = Leases::clone(&self.leases());
        let lease = Arc::clone(next.get(id).ok_or_else(|| LeaseError::Unknown(shown(id)))?);
        if lease.ended.is_none() {
            let at = now.min(lease.until.max(lease.opened));
            next.put(Lease { ended: Some(End { at, by: by.into() }), ..Lease::clone(&lease) });
            forget(&mut next, now);
            self.publish(next.clone());
            told();
        }
        let ended = next.get(id).map_or(lease, Arc::clone);
        let done = "the lease has ended here, but a restart would bring it back";
        self.write(&next, &mut last, now).map_err(|error| LeaseError::NotDurable { done, why: error.to_string() })?;
        Ok(ended)
    }

    /// Ends those whose time is over, and tells which they were. They need no write to stay over: their time is written.
    #[must_use]
    pub fn expire(&self, now: Timestamp) -> Vec<Arc<Lease>> {
        let one = hold(&self.changing);
        let mut next = Leases::clone(&self.leases());
        let over = expire(&mut next, now);
        if !over.is_empty() {
            forget(&mut next, now);
            self.publish(next);
        }
        drop(one);
        over
    }

    /// When the next live lease is over.
    #[must_use]
    pub fn next_end(&self) -> Option<Timestamp> {
        self.leases().all().iter().filter(|lease| lease.ended.is_none()).map(|lease| lease.until).min()
    }

    /// Waits for any change of the leases.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Asks the household to reserve more; takes no part in the request's time.
    pub fn want(&self, want: Want) {
        let mut wants = hold(&self.wants);
        if wants.len() < MOST_WANTS && !wants.contains(&want) {
            wants.push(want);
        }
        drop(wants);
        self.wanted.notify_one();
    }

    /// Asks for more and waits until the household has written; bounded by the caller.
    pub async fn reserved(&self, want: Want) {
        let mut written = self.written.subscribe();
        self.want(want.clone());
        while self.leases().get(&want.lease).is_some_and(|lease| !is_reserved(lease, &want)) {
            if written.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until somebody wants uses reserved.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Reserves what is wanted: one write for all of it. Blocks on the file.
    ///
    /// # Errors
    /// Of the state; nothing is reserved then.
    pub fn tend(&self, now: Timestamp) -> Result<(), StateError> {
        let wants = std::mem::replace(&mut *hold(&self.wants), Vec::with_capacity(WANTS_AT_ONCE));
        let mut last = hold(&self.changing);
        let mut next = Leases::clone(&self.leases());
        for want in wants {
            let (Some(lease), Some((rule, most))) = (next.get(&want.lease), want.rule) else { continue };
            let mut lease = Lease::clone(lease);
            let full = lease.rules.len() >= MOST_RULES;
            match lease.rules.iter_mut().find(|uses| uses.rule == rule) {
                Some(uses) => uses.most = most,
                None if full => continue,
                None => lease.rules.push(RuleUses { rule, most, counter: Arc::default() }),
            }
            next.put(lease);
        }
        let written = self.write(&next, &mut last, now);
        if written.is_ok() {
            self.leases.store(Arc::new(next));
        }
        drop(last);
        self.written.send_modify(|number| *number += 1);
        written
    }

    /// Writes the exact numbers of uses at a clean stop, into a state opened anew: the book's own may have been handed over. Nothing is
    /// written when a successor has written since.
    ///
    /// # Errors
    /// Of the state.
    pub fn settle(&self, state: &State) -> Result<(), StateError> {
        let last = hold(&self.changing);
        let leases = self.leases();
        let ours = |bytes: &[u8]| Some(blake3::hash(bytes)) == *last;
        if last.is_none() || !state.read(ENTRY)?.is_some_and(|bytes| ours(&bytes)) {
            return Ok(());
        }
        let exact = Kept::of(&leases, |counter, _| counter.used());
        state.write(ENTRY, &exact.bytes())
    }

    /// Writes the leases and, with them, more uses wherever a reserve runs low. What was written is reserved from here on.
    fn write(&self, next: &Leases, last: &mut Option<blake3::Hash>, now: Timestamp) -> Result<(), StateError> {
        let mut raised: Vec<(Arc<Counter>, u32)> = Vec::new();
        let live: Vec<Arc<str>> = next.all().into_iter().filter(|lease| lease.is_live(now)).map(|lease| Arc::clone(&lease.id)).collect();
        let mut reserve = |counter: &Arc<Counter>, most: Option<u32>| {
            let held = counter.reserved.load(Ordering::Acquire);
            match most {
                Some(most) if counter.is_low(most) => {
                    let next = counter.next_reserve(most);
                    raised.push((Arc::clone(counter), next));
                    next
                }
                Some(_) | None => held,
            }
        };
        let kept =
            Kept { leases: next.all().into_iter().map(|lease| KeptLease::of(lease, live.contains(&lease.id), &mut reserve)).collect() };
        let bytes = kept.bytes();
        self.state.write(ENTRY, &bytes)?;
        *last = Some(blake3::hash(&bytes));
        for (counter, reserved) in raised {
            counter.reserved.fetch_max(reserved, Ordering::AcqRel);
        }
        Ok(())
    }

    fn publish(&self, next: Leases) {
        self.leases.store(Arc::new(next));
        self.changed.notify_one();
    }
}

fn is_reserved(lease: &Lease, want: &Want) -> bool {
    let max = want.rule.as_ref().map(|(rule, most)| super::lease::MaxUses { rule, most: *most });
    lease.look(max) != Taken::Unreserved
}

fn expire(leases: &mut Leases, now: Timestamp) -> Vec<Arc<Lease>> {
    let over: Vec<Arc<Lease>> =
        leases.all().into_iter().filter(|lease| lease.ended.is_none() && lease.until <= now).map(Arc::clone).collect();
    for lease in &over {
        leases.put(Lease { ended: Some(End { at: lease.until, by: "its time".into() }), ..Lease::clone(lease) });
    }
    over
}

/// Forgets those that are over for long, and of each workload all but the last few.
fn forget(leases: &mut Leases, now: Timestamp) {
    let mut over: Vec<(Timestamp, Arc<str>, SpiffeId)> = leases
        .all()
        .into_iter()
        .filter_map(|lease| Some((lease.ended.as_ref()?.at, Arc::clone(&lease.id), lease.workload.clone())))
        .collect();
    over.sort_by(|a, b| b.cmp(a));
    let mut kept: BTreeMap<SpiffeId, usize> = BTreeMap::new();
    let mut total = 0;
    for (at, id, workload) in over {
        let of_one = kept.entry(workload).or_default();
        *of_one += 1;
        total += 1;
        let old = now.duration_since(at).unsigned_abs() > REMEMBERED;
        if old || *of_one > REMEMBERED_OF_ONE || total > MOST {
            leases.remove(&id);
        }
    }
}

/// An id as it is shown in a message: short and plain.
fn shown(id: &str) -> String {
    id.chars().filter(char::is_ascii_graphic).take(100).collect()
}

/// A poisoned lock guards plain values that are whole at every point where a panic could strike.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The entry of the state.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    leases: Vec<KeptLease>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptLease {
    id: String,
    kind: String,
    workload: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_uid: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    attributes: BTreeMap<String, String>,
    reason: String,
    by: String,
    opened: Timestamp,
    until: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<KeptEnd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uses: Option<u32>,
    /// Used or reserved.
    taken: u32,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    rules: Vec<KeptUses>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptEnd {
    at: Timestamp,
    by: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptUses {
    rule: String,
    most: u32,
    taken: u32,
}

impl Kept {
    fn of(leases: &Leases, mut taken: impl FnMut(&Arc<Counter>, Option<u32>) -> u32) -> Self {
        Self { leases: leases.all().into_iter().map(|lease| KeptLease::of(lease, true, &mut taken)).collect() }
    }

    fn bytes(&self) -> Vec<u8> {
        // Plain values with text keys: nothing that JSON cannot say.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}

impl KeptLease {
    /// `live`: its counters may still be raised.
    fn of(lease: &Lease, live: bool, taken: &mut impl FnMut(&Arc<Counter>, Option<u32>) -> u32) -> Self {
        let most = |most: u32| live.then_some(most);
        Self {
            id: lease.id.to_string(),
            kind: lease.kind.to_string(),
            workload: lease.workload.to_string(),
            uid: lease.uid,
            pod_uid: lease.pod_uid.as_ref().map(ToString::to_string),
            attributes: BTreeMap::clone(&lease.attributes),
            reason: lease.reason.to_string(),
            by: lease.by.to_string(),
            opened: lease.opened,
            until: lease.until,
            ended: lease.ended.as_ref().map(|end| KeptEnd { at: end.at, by: end.by.to_string() }),
            uses: lease.uses,
            taken: taken(&lease.total, lease.uses.and_then(most)),
            rules: lease
                .rules
                .iter()
                .map(|uses| KeptUses { rule: uses.rule.to_string(), most: uses.most, taken: taken(&uses.counter, most(uses.most)) })
                .collect(),
        }
    }

    fn read(self) -> Option<Lease> {
        let counter = |taken: u32| Arc::new(Counter::starting_at(taken));
        Some(Lease {
            workload: SpiffeId::parse(&self.workload).ok()?,
            id: self.id.into(),
            kind: self.kind.into(),
            uid: self.uid,
            pod_uid: self.pod_uid.map(Into::into),
            attributes: Arc::new(self.attributes),
            reason: self.reason.into(),
            by: self.by.into(),
            opened: self.opened,
            until: self.until,
            ended: self.ended.map(|end| End { at: end.at, by: end.by.into() }),
            uses: self.uses,
            total: counter(self.taken),
            rules: self
                .rules
                .into_iter()
                .map(|uses| RuleUses { rule: uses.rule.into(), most: uses.most, counter: counter(uses.taken) })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::register::{Claim, Named};
    use crate::live::{LeaseTerms, MaxUses, Missing};

    const APP: &str = "spiffe://prod.example/ns/ci/sa/app";

    fn noon() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn opening(kind: &str, minutes: u64, uses: Option<u32>) -> Opening {
        Opening { workload: APP.into(), kind: kind.into(), ttl: Duration::from_mins(minutes), uses, ..Opening::default() }
    }

    fn opened(book: &LeaseBook, kind: &str, minutes: u64, uses: Option<u32>) -> Arc<Lease> {
        book.open_lease(opening(kind, minutes, uses), &[], "uid 0", noon()).unwrap()
    }

    fn terms(kind: &str) -> LeaseTerms {
        LeaseTerms { kind: kind.into(), max_ttl: None, max_uses: None, uid: false, pod: false }
    }

    fn chosen(book: &LeaseBook, terms: &LeaseTerms, named: Named<'_>, now: Timestamp) -> Result<Arc<str>, Missing> {
        let id = SpiffeId::parse(APP).unwrap();
        let claim = Claim { workload: &id, uid: Some(7), pod: None, named, now };
        book.leases().choose(&claim, terms, "ci/push").map(|lease| Arc::clone(&lease.id)).map_err(|(why, _)| why)
    }

    fn take_all(book: &LeaseBook, id: &str, max: Option<MaxUses<'_>>) -> u32 {
        let mut taken = 0;
        loop {
            let lease = Arc::clone(book.leases().get(id).unwrap());
            match lease.take(max) {
                Taken::Left(_) => taken += 1,
                Taken::Spent => return taken,
                Taken::Unreserved => {
                    book.want(Want { lease: id.into(), rule: max.map(|max| (max.rule.into(), max.most)) });
                    book.tend(noon()).unwrap();
                }
            }
        }
    }

    fn directory() -> (tempfile::TempDir, Arc<State>) {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state"), Duration::ZERO).unwrap();
        (dir, Arc::new(state))
    }

    /// The process is gone without a word.
    fn killed(state: &Arc<State>, dir: &tempfile::TempDir) -> Arc<State> {
        state.release();
        Arc::new(State::open(&dir.path().join("state"), Duration::ZERO).unwrap())
    }

    #[test]
    fn the_one_that_ends_soonest_is_used_first_and_a_named_one_alone() {
        let book = LeaseBook::default();
        let (late, soon, other) =
            (opened(&book, "release", 30, Some(1)), opened(&book, "release", 10, Some(1)), opened(&book, "case", 5, None));
        let pick = |named| chosen(&book, &terms("release"), named, noon());
        assert_eq!(pick(Named::No), Ok(Arc::clone(&soon.id)));
        assert_eq!(pick(Named::Id(&late.id)), Ok(Arc::clone(&late.id)));
        assert_eq!(pick(Named::Id(&other.id)), Err(Missing::None), "of another kind");
        assert_eq!(pick(Named::Id("release-0")), Err(Missing::None));
        assert_eq!(pick(Named::Unclear), Err(Missing::None));
        assert_eq!(take_all(&book, &soon.id, None), 1);
        assert_eq!(pick(Named::No), Ok(Arc::clone(&late.id)), "the spent one is passed over");
        assert_eq!(pick(Named::Id(&soon.id)), Err(Missing::Spent), "but not when it is named");
        assert_eq!(take_all(&book, &late.id, None), 1);
        assert_eq!(pick(Named::No), Err(Missing::Spent));
        let half = LeaseTerms { max_ttl: Some(Duration::from_mins(5)), ..terms("release") };
        assert_eq!(chosen(&book, &half, Named::No, noon() + Duration::from_mins(5)), Err(Missing::Ended), "the rule's max_ttl");
        for lease in [&late, &soon] {
            book.end_lease(&lease.id, "uid 0", noon(), || ()).unwrap();
        }
        assert_eq!(pick(Named::No), Err(Missing::Ended));
        assert_eq!(chosen(&book, &terms("none"), Named::No, noon()), Err(Missing::None));
    }

    #[test]
    fn a_lease_of_a_process_is_of_no_use_to_another() {
        let book = LeaseBook::default();
        let id = SpiffeId::parse(APP).unwrap();
        let bound = Opening { uid: Some(7), ..opening("release", 10, None) };
        book.open_lease(bound, &[], "uid 0", noon()).unwrap();
        opened(&book, "case", 10, None);
        let pick = |terms: &LeaseTerms, uid| {
            let claim = Claim { workload: &id, uid, pod: None, named: Named::No, now: noon() };
            book.leases().choose(&claim, terms, "a/b").is_ok()
        };
        let by_uid = |kind| LeaseTerms { uid: true, ..terms(kind) };
        assert!(pick(&by_uid("release"), Some(7)) && pick(&terms("release"), Some(7)));
        assert!(!pick(&terms("release"), Some(8)) && !pick(&terms("release"), None));
        assert!(!pick(&by_uid("case"), Some(7)), "a rule that wants the binding does not take a lease without it");
    }

    #[test]
    fn a_lease_of_a_pod_is_of_no_use_to_another() {
        const POD: &str = "6b2f7a0e-8d1c-4c57-9a51-0d2f7c3b9e11";
        let (dir, state) = directory();
        let book = LeaseBook::open(Arc::clone(&state), noon()).unwrap();
        let id = SpiffeId::parse(APP).unwrap();
        book.open_lease(Opening { pod_uid: Some(POD.into()), ..opening("release", 10, None) }, &[], "uid 0", noon()).unwrap();
        opened(&book, "case", 10, None);
        let pick = |book: &LeaseBook, terms: &LeaseTerms, pod| {
            let claim = Claim { workload: &id, uid: None, pod, named: Named::No, now: noon() };
            book.leases().choose(&claim, terms, "a/b").is_ok()
        };
        let by_pod = |kind| LeaseTerms { pod: true, ..terms(kind) };
        assert!(pick(&book, &by_pod("release"), Some(POD)) && pick(&book, &terms("release"), Some(POD)));
        assert!(!pick(&book, &terms("release"), Some("0b2f7a0e-8d1c-4c57-9a51-0d2f7c3b9e11")) && !pick(&book, &terms("release"), None));
        assert!(!pick(&book, &by_pod("case"), Some(POD)), "a rule that wants the binding does not take a lease without it");
        drop(book);
        let again = LeaseBook::open(Arc::clone(&state), noon()).unwrap();
        assert!(pick(&again, &by_pod("release"), Some(POD)) && !pick(&again, &by_pod("release"), None), "it outlives a restart");
        drop(dir);
    }

    #[test]
    fn what_ended_stays_ended_and_what_was_used_stays_used_after_a_crash() {
        let (dir, state) = directory();
        let book = LeaseBook::open(Arc::clone(&state), noon()).unwrap();
        let (ended, spent, half) = (opened(&book, "a", 10, None), opened(&book, "b", 10, Some(3)), opened(&book, "c", 10, Some(80)));
        book.end_lease(&ended.id, "uid 0", noon(), || ()).unwrap();
        assert_eq!(take_all(&book, &spent.id, None), 3);
        (0..5).for_each(|_| assert!(matches!(half.take(None), Taken::Left(_))));
        let state = killed(&state, &dir);
        let book = LeaseBook::open(Arc::clone(&state), noon()).unwrap();
        let pick = |kind: &str| chosen(&book, &terms(kind), Named::No, noon());
        assert_eq!((pick("a"), pick("b")), (Err(Missing::Ended), Err(Missing::Spent)));
        assert_eq!(pick("c"), Ok(Arc::clone(&half.id)));
        let left = take_all(&book, &half.id, None);
        assert!((80 - 5 - 2 * 10..=80 - 5).contains(&left), "{left}: no use comes back, and no more than the reserve is lost");
        assert_eq!(book.leases().get(&ended.id).unwrap().ended.as_ref().unwrap().by.as_ref(), "uid 0");
    }

    #[test]
    fn a_clean_stop_writes_the_exact_number() {
        let (dir, state) = directory();
        let book = LeaseBook::open(Arc::clone(&state), noon()).unwrap();
        let lease = opened(&book, "a", 10, Some(80));
        (0..5).for_each(|_| assert!(matches!(lease.take(None), Taken::Left(_))));
        let state = killed(&state, &dir);
        book.settle(&state).unwrap();
        let next = LeaseBook::open(Arc::clone(&state), noon()).unwrap();
        assert_eq!(next.leases().get(&lease.id).unwrap().uses_left(), Some(75));
        // A successor has written since: the old process has nothing to say any more.
        assert!(matches!(lease.take(None), Taken::Left(_)));
        book.settle(&state).unwrap();
        let third = LeaseBook::open(Arc::clone(&state), noon()).unwrap();
        assert!(third.leases().get(&lease.id).unwrap().uses_left() <= Some(75 - 10));
    }

    #[test]
    fn a_rule_has_uses_of_its_own_under_a_lease() {
        let book = LeaseBook::default();
        let lease = opened(&book, "release", 10, Some(5));
        let create = MaxUses { rule: "ci/create", most: 1 };
        assert_eq!(lease.look(Some(create)), Taken::Unreserved, "a rule that was not there when it was opened");
        assert_eq!(take_all(&book, &lease.id, Some(create)), 1);
        let lease = Arc::clone(book.leases().get(&lease.id).unwrap());
        assert_eq!((lease.uses_left(), lease.uses_left_under(Some(create))), (Some(4), Some(0)));
        assert_eq!(take_all(&book, &lease.id, Some(MaxUses { rule: "ci/push", most: 9 })), 4, "the lease's own bound stands");
    }

    #[test]
    fn parallel_takers_never_take_more_than_there_are() {
        let book = LeaseBook::default();
        let lease = opened(&book, "a", 10, Some(1_000));
        let sum: u32 = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4).map(|_| scope.spawn(|| take_all(&book, &lease.id, None))).collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        assert_eq!(sum, 1_000);
    }

    #[test]
    fn a_lease_is_renewed_up_to_a_day_and_is_over_at_its_time() {
        let book = LeaseBook::default();
        let lease = opened(&book, "a", 10, None);
        let later = noon() + Duration::from_mins(9);
        assert_eq!(book.renew_lease(&lease.id, Duration::from_hours(1), later).unwrap().until, later + Duration::from_hours(1));
        assert_eq!(book.renew_lease(&lease.id, Duration::from_hours(24), later).map(drop), Err(LeaseError::Ttl));
        assert!(book.expire(later).is_empty());
        let end = book.next_end().unwrap();
        assert_eq!(book.expire(end).len(), 1);
        assert_eq!(book.next_end(), None);
        assert!(
            matches!(book.renew_lease(&lease.id, Duration::from_mins(1), later), Err(LeaseError::Ended(_))),
            "not even if the clock falls back"
        );
        assert_eq!(chosen(&book, &terms("a"), Named::No, later), Err(Missing::Ended));
    }

    /// What is judged by the clock is wrong as long as the clock is, and no longer by more than that.
    #[test]
    fn a_clock_that_jumps_a_day_prolongs_no_lease_by_more_and_brings_none_back() {
        const DAY: Duration = Duration::from_hours(24);
        let book = LeaseBook::default();
        let pick = |kind: &str, now| chosen(&book, &terms(kind), Named::No, now).is_ok();
        let lease = opened(&book, "back", 10, Some(2));
        // A day back: it lives on, a day longer at most, with no use more than it had.
        let before = noon() - DAY;
        assert!(pick("back", before) && book.expire(before).is_empty());
        assert_eq!(take_all(&book, &lease.id, None), 2);
        assert!(!pick("back", before), "what is spent stays spent");
        assert!(!pick("back", lease.until) && book.leases().get(&lease.id).unwrap().until == lease.until);
        assert_eq!(book.renew_lease(&lease.id, DAY, before).unwrap().until, noon(), "renewed by the clock that is");
        // Opened by a clock that is a day ahead: when that is put right it has its own time and the jump, and ends as any other.
        let ahead = book.open_lease(opening("ahead", 10, None), &[], "uid 0", noon() + DAY).unwrap();
        assert!(pick("ahead", noon() + DAY) && pick("ahead", noon()));
        assert_eq!(ahead.until, noon() + DAY + Duration::from_mins(10));
        let rule = LeaseTerms { max_ttl: Some(Duration::from_mins(5)), ..terms("ahead") };
        assert_eq!(chosen(&book, &rule, Named::No, ahead.opened + Duration::from_mins(5)), Err(Missing::Ended));
        book.end_lease(&ahead.id, "uid 0", noon(), || ()).unwrap();
        // A day forward: what is over there is over for good, and others are opened when the clock is right again.
        let forward = opened(&book, "forward", 10, None);
        assert!(book.expire(noon() + DAY).iter().any(|lease| lease.id == forward.id));
        assert!(!pick("forward", noon()) && !pick("ahead", noon()));
        opened(&book, "forward", 10, None);
        assert!(pick("forward", noon()));
        assert_eq!(book.next_end(), Some(noon() + Duration::from_mins(10)));
    }

    #[test]
    fn everything_is_bounded() {
        let book = LeaseBook::default();
        for _ in 0..64 {
            opened(&book, "a", 10, None);
        }
        assert!(matches!(book.open_lease(opening("a", 10, None), &[], "uid 0", noon()), Err(LeaseError::TooManyOfOne)));
        for lease in book.leases().all() {
            book.end_lease(&lease.id, "uid 0", noon(), || ()).unwrap();
        }
        assert_eq!(book.leases().len(), 16, "the last few that are over are remembered");
        let mut wrong = vec![opening("", 10, None), opening("a", 25 * 60, None), opening("a", 0, None), opening("a", 10, Some(0))];
        wrong.push(Opening { workload: "app".into(), ..opening("a", 10, None) });
        wrong.push(Opening { attributes: BTreeMap::from([("a b".into(), String::new())]), ..opening("a", 10, None) });
        wrong.push(Opening { attributes: BTreeMap::from([("a".into(), "x".repeat(257))]), ..opening("a", 10, None) });
        wrong.push(Opening { attributes: (0..17).map(|at| (format!("a{at}"), String::new())).collect(), ..opening("a", 10, None) });
        wrong.push(Opening { reason: "two\nlines".into(), ..opening("a", 10, None) });
        wrong.push(Opening { pod_uid: Some("app-0".into()), ..opening("a", 10, None) });
        for opening in wrong {
            assert!(book.open_lease(opening.clone(), &[], "uid 0", noon()).is_err(), "{opening:?}");
        }
        assert!(matches!(book.end_lease("a\u{1b}[2J", "uid 0", noon(), || ()), Err(LeaseError::Unknown(id)) if id == "a[2J"));
    }

    #[test]
    fn a_damaged_entry_is_said_and_not_passed_over() {
        let (_dir, state) = directory();
        for text in ["{", "{\"leases\":[{}]}", "[]"] {
            state.write(ENTRY, text.as_bytes()).unwrap();
            assert!(matches!(LeaseBook::open(Arc::clone(&state), noon()), Err(StateError::Damaged { .. })), "{text}");
        }
    }
}
