//! `Limiter`: how often, kept in a table of fixed size that all workers share without a lock on the usual way.
//!
//! A rate is a token bucket, kept as the one number of GCRA (the time at which the bucket will be full again, in nanoseconds); a quota is
//! the number of a fixed UTC window and what was counted in it. Either is one atomic word, so every charge is exact, however many workers
//! charge at once. A counter is found by a keyed hash of the rule, its own terms and the workload: it outlives reloads, another limit
//! begins anew, and nobody can aim at another's counter. (Two that share a 64-bit hash would share a counter: stricter, never wider.)
//!
//! The table never grows and never forgets what still counts: a counter gives its place away only when it says nothing any more (the
//! bucket is full again, the window is over). One workload has one counter of one limit, however many requests it sends; when so many
//! workloads have counters that a new one finds no place, the new one is refused and the others' counters stand.
//!
//! A wall clock that jumps back leaves a rate shut for a second and one interval at most, and a quota no longer than one window; a jump of
//! more than a window begins the quota anew.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::identity::SpiffeId;

/// Counters that may be in use at a time: 256 KiB. A power of two.
const PLACES: usize = 16_384;
/// Places in which one counter may stand.
const PROBES: usize = 64;
/// A place that is changing hands.
const CLAIMED: u64 = u64::MAX;
/// Bits of a word that say what is counted; the rest is the number.
const TAG: u32 = 62;
const NUMBER: u64 = (1 << TAG) - 1;
/// How far workers' readings of the clock may lie apart before it counts as a jump.
const SLACK: u64 = 1_000_000_000;
/// Tries against others who charge the same counter; each lost try is a charge of theirs.
const TRIES: usize = 4_096;

/// A length of time by which something is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Per {
    /// A second.
    Second,
    /// 60 s.
    Minute,
    /// 3,600 s.
    Hour,
    /// 86,400 s; a day of UTC.
    Day,
}

impl Per {
    const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// The word in files and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whose {
    /// Each workload's by themselves.
    Workload,
    /// All that the rule lets through.
    Rule,
}

/// A token bucket: `count` come back in each `per`, at most `burst` lie in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// In which time.
    pub per: Per,
    /// At least 1.
    pub burst: u32,
}

/// At most `count` in each fixed window of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    /// At least 1.
    pub count: u32,
    /// A minute, an hour or a day.
    pub per: Per,
}

/// The limits of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimitTerms {
    /// How fast.
    pub rate: Option<Rate>,
    /// How much in a window.
    pub quota: Option<Quota>,
    /// Counted for whom.
    pub whose: Whose,
}

impl fmt::Display for LimitTerms {
    /// `50/s, burst 100, 20/day per rule`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Rate { count, per, burst }) = self.rate {
            write!(f, "{count}/{}, burst {burst}{}", per.name(), if self.quota.is_some() { ", " } else { "" })?;
        }
        if let Some(Quota { count, per }) = self.quota {
            write!(f, "{count}/{}", per.name())?;
        }
        f.write_str(match self.whose {
            Whose::Workload => " per workload",
            Whose::Rule => " per rule",
        })
    }
}

/// What is counted apart: what happens, and what would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Register {
    /// Rules in force.
    Real,
    /// Shadow rules and observed upstreams: twins that touch nothing real.
    WouldBe,
}

/// A limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Which.
    pub what: Bound,
    /// When another request can succeed.
    pub wait: Duration,
}

/// Which bound was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The rate.
    Rate,
    /// The quota.
    Quota,
    /// No place for another counter.
    Places,
}

impl Bound {
    /// The word for the record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Quota => "quota",
            Self::Places => "number of counters",
        }
    }
}

/// One counter's place. Key 0: never used.
struct Place {
    key: AtomicU64,
    word: AtomicU64,
}

/// The counters of all limits. One per process.
pub struct Limiter {
    places: Box<[Place]>,
    seed: RandomState,
    /// Held while a place changes hands: once for a counter, not for a request.
    claiming: Mutex<()>,
}

impl Default for Limiter {
    fn default() -> Self {
        Self::with_places(PLACES)
    }
}

/// One limit as it is counted.
#[derive(Clone, Copy, Hash)]
enum Meter {
    Rate(Rate),
    Quota(Quota),
}

/// What a charge does to a word.
enum Step {
    /// It is charged: the word becomes this.
    Charge(u64),
    /// The clock jumped back: the word becomes this, then it is looked at again.
    Rebase(u64),
    /// It is reached.
    Wait(Duration),
}

impl Limiter {
    fn with_places(places: usize) -> Self {
        let places = (0..places.next_power_of_two()).map(|_| Place { key: AtomicU64::new(0), word: AtomicU64::new(0) }).collect();
        Self { places, seed: RandomState::new(), claiming: Mutex::new(()) }
    }

    /// Charges one passage to the limits of a rule. The rate first: what the quota refuses may cost a token, never the other way round.
    ///
    /// # Errors
    /// What is reached, and how long to wait.
    pub fn charge(&self, terms: &LimitTerms, rule: &str, workload: &SpiffeId, register: Register, now: Timestamp) -> Result<(), Reached> {
        self.each(terms, rule, workload, register, |meter, key| self.charge_one(meter, key, now))
    }

    /// What a charge would say now; charges nothing and takes no place.
    ///
    /// # Errors
    /// As [`Limiter::charge`].
    pub fn look(&self, terms: &LimitTerms, rule: &str, workload: &SpiffeId, register: Register, now: Timestamp) -> Result<(), Reached> {
        self.each(terms, rule, workload, register, |meter, key| {
            let word = self.find(key).map_or_else(|| meter.fresh(), |place| place.word.load(Ordering::Acquire));
            let word = if word >> TAG == meter.tag() { word } else { meter.fresh() };
            let mut step = meter.step(word, now);
            if let Step::Rebase(word) = step {
                step = meter.step(word, now);
            }
            match step {
                Step::Charge(_) | Step::Rebase(_) => Ok(()),
                Step::Wait(wait) => Err(Reached { what: meter.bound(), wait }),
            }
        })
    }

    /// Counters in use now.
    #[must_use]
    pub fn counters(&self, now: Timestamp) -> usize {
        let counts = |place: &&Place| place.key.load(Ordering::Relaxed) != 0 && !says_nothing(place.word.load(Ordering::Relaxed), now);
        self.places.iter().filter(counts).count()
    }

    fn each(
        &self,
        terms: &LimitTerms,
        rule: &str,
        workload: &SpiffeId,
        register: Register,
        ask: impl Fn(Meter, u64) -> Result<(), Reached>,
    ) -> Result<(), Reached> {
        let whose = (terms.whose == Whose::Workload).then_some(workload);
        [terms.rate.map(Meter::Rate), terms.quota.map(Meter::Quota)].into_iter().flatten().try_for_each(|meter| {
            // 0 stands for a place that was never used.
            let key = self.seed.hash_one((register, meter, rule, whose)).max(1);
            ask(meter, key)
        })
    }

    fn charge_one(&self, meter: Meter, key: u64, now: Timestamp) -> Result<(), Reached> {
        let full = Reached { what: Bound::Places, wait: Duration::from_secs(1) };
        for _ in 0..TRIES {
            let found = self.find(key);
            let Some(place) = found.or_else(|| self.claim(key, meter, now)) else { return Err(full) };
            let word = place.word.load(Ordering::Acquire);
            if word >> TAG != meter.tag() || word == CLAIMED {
                // The place is changing hands: whoever does it holds the lock.
                drop(self.claiming.lock().unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            let (next, charged) = match meter.step(word, now) {
                Step::Charge(next) => (next, true),
                Step::Rebase(next) => (next, false),
                Step::Wait(wait) => return Err(Reached { what: meter.bound(), wait }),
            };
            let swapped = place.word.compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire).is_ok();
            // A place that went to another counter in between does not have our charge: it is made again where it belongs.
            if swapped && charged && place.key.load(Ordering::Acquire) == key {
                return Ok(());
            }
        }
        Err(full)
    }

    fn path(&self, key: u64) -> impl Iterator<Item = &Place> {
        let mask = self.places.len().saturating_sub(1);
        let first = usize::try_from(key & u64::from(u32::MAX)).unwrap_or(0);
        (0..PROBES.min(self.places.len())).filter_map(move |step| self.places.get(first.wrapping_add(step) & mask))
    }

    /// A place once used is never unused again, so the way to a counter ends at the first that never was.
    fn find(&self, key: u64) -> Option<&Place> {
        for place in self.path(key) {
            match place.key.load(Ordering::Acquire) {
                0 => return None,
                found if found == key => return Some(place),
                _ => {}
            }
        }
        None
    }

    fn claim(&self, key: u64, meter: Meter, now: Timestamp) -> Option<&Place> {
        let _one = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = self.find(key) {
            return Some(place);
        }
        for place in self.path(key) {
            if place.key.load(Ordering::Acquire) == 0 {
                place.word.store(meter.fresh(), Ordering::Release);
                place.key.store(key, Ordering::Release);
                return Some(place);
            }
            let word = place.word.load(Ordering::Acquire);
            if says_nothing(word, now) && place.word.compare_exchange(word, CLAIMED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                place.key.store(key, Ordering::Release);
                place.word.store(meter.fresh(), Ordering::Release);
                return Some(place);
            }
        }
        None
    }
}

/// Whether forgetting this word changes nothing.
fn says_nothing(word: u64, now: Timestamp) -> bool {
    let number = word & NUMBER;
    let window = |seconds: u64| number >> 32 < seconds_of(now) / seconds;
    match word >> TAG {
        _ if word == CLAIMED => false,
        0 => number < nanoseconds(now),
        1 => window(60),
        2 => window(3_600),
        _ => window(86_400),
    }
}

impl Meter {
    const fn bound(self) -> Bound {
        match self {
            Self::Rate(_) => Bound::Rate,
            Self::Quota(_) => Bound::Quota,
        }
    }

    const fn tag(self) -> u64 {
        match self {
            Self::Rate(_) => 0,
            Self::Quota(Quota { per: Per::Second | Per::Minute, .. }) => 1,
            Self::Quota(Quota { per: Per::Hour, .. }) => 2,
            Self::Quota(Quota { per: Per::Day, .. }) => 3,
        }
    }

    /// A full bucket, a window long ago.
    const fn fresh(self) -> u64 {
        self.tag() << TAG
    }

    fn step(self, word: u64, now: Timestamp) -> Step {
        let number = word & NUMBER;
        match self {
            Self::Rate(rate) => rate.step(number, nanoseconds(now)),
            Self::Quota(quota) => match quota.step(number, now) {
                Ok(number) => Step::Charge(self.fresh() | number),
                Err(wait) => Step::Wait(wait),
            },
        }
    }
}

impl Rate {
    /// GCRA: `full` is when the bucket is full again. Rounded up, so that never more than the rate comes through.
    fn step(self, full: u64, now: u64) -> Step {
        let interval = (self.per.seconds() * 1_000_000_000).div_ceil(u64::from(self.count.max(1)));
        let depth = interval.saturating_mul(u64::from(self.burst.max(1)));
        let latest = now.saturating_add(depth);
        if full > latest.saturating_add(interval).saturating_add(SLACK) {
            return Step::Rebase(latest.min(NUMBER));
        }
        let next = full.max(now).saturating_add(interval);
        if next > latest { Step::Wait(Duration::from_nanos(next - latest)) } else { Step::Charge(next.min(NUMBER)) }
    }
}

impl Quota {
    /// `number` is a window's number and what was counted in it. A window that has not begun is one that the clock fell back from.
    fn step(self, number: u64, now: Timestamp) -> Result<u64, Duration> {
        let length = if self.per == Per::Second { 60 } else { self.per.seconds() };
        let current = (seconds_of(now) / length) & ((1 << 30) - 1);
        let (window, counted) = (number >> 32, number & u64::from(u32::MAX));
        if window != current && window != current + 1 {
            return Ok(current << 32 | 1);
        }
        if counted < u64::from(self.count) {
            return Ok(number + 1);
        }
        Err(Duration::from_secs((window + 1) * length).saturating_sub(Duration::from_nanos(nanoseconds(now))))
    }
}

/// Since 1970; before it is 1970.
fn nanoseconds(now: Timestamp) -> u64 {
    u64::try_from(now.as_nanosecond()).unwrap_or(0).min(NUMBER)
}

fn seconds_of(now: Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn noon() -> Timestamp {
        at("2026-11-23T12:00:00Z")
    }

    fn id(number: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://prod.example/w{number}")).unwrap()
    }

    fn rate(count: u32, per: Per, burst: u32) -> LimitTerms {
        LimitTerms { rate: Some(Rate { count, per, burst }), quota: None, whose: Whose::Workload }
    }

    fn quota(count: u32, per: Per) -> LimitTerms {
        LimitTerms { rate: None, quota: Some(Quota { count, per }), whose: Whose::Workload }
    }

    /// How many of so many at one moment come through.
    fn through(limiter: &Limiter, terms: &LimitTerms, who: usize, now: Timestamp, asked: usize) -> usize {
        (0..asked).filter(|_| limiter.charge(terms, "a/b", &id(who), Register::Real, now).is_ok()).count()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let limiter = Limiter::default();
        let terms = rate(50, Per::Second, 100);
        assert_eq!(through(&limiter, &terms, 0, noon(), 1_000), 100);
        let reached = limiter.charge(&terms, "a/b", &id(0), Register::Real, noon()).unwrap_err();
        assert_eq!((reached.what, reached.wait), (Bound::Rate, Duration::from_millis(20)));
        assert_eq!(through(&limiter, &terms, 0, noon() + Duration::from_millis(100), 1_000), 5);
        assert_eq!(through(&limiter, &terms, 1, noon(), 1_000), 100, "another workload has a bucket of its own");
        assert_eq!(through(&limiter, &terms, 0, noon() + Duration::from_mins(1), 1_000), 100, "no more than the burst is saved up");
    }

    #[test]
    fn a_quota_begins_anew_with_its_window() {
        let limiter = Limiter::default();
        let terms = quota(20, Per::Day);
        let late = at("2026-11-23T23:59:30.5Z");
        assert_eq!(through(&limiter, &terms, 0, late, 100), 20);
        let reached = limiter.look(&terms, "a/b", &id(0), Register::Real, late).unwrap_err();
        assert_eq!((reached.what, reached.wait), (Bound::Quota, Duration::from_millis(29_500)));
        assert_eq!(through(&limiter, &terms, 0, at("2026-11-24T00:00:00Z"), 100), 20);
    }

    #[test]
    fn what_is_counted_apart_is_apart() {
        let limiter = Limiter::default();
        let terms = quota(3, Per::Hour);
        let charge =
            |terms: &LimitTerms, rule: &str, who: usize, register: Register| limiter.charge(terms, rule, &id(who), register, noon());
        (0..3).for_each(|_| charge(&terms, "a/b", 0, Register::Real).unwrap());
        assert!(charge(&terms, "a/b", 0, Register::Real).is_err());
        charge(&terms, "a/b", 0, Register::WouldBe).unwrap();
        charge(&terms, "a/c", 0, Register::Real).unwrap();
        charge(&terms, "a/b", 1, Register::Real).unwrap();
        charge(&quota(4, Per::Hour), "a/b", 0, Register::Real).unwrap();
        let all = LimitTerms { whose: Whose::Rule, ..terms };
        (0..3).for_each(|who| charge(&all, "a/b", who, Register::Real).unwrap());
        assert!(charge(&all, "a/b", 9, Register::Real).is_err(), "the rule's own counter is everybody's");
    }

    #[test]
    fn a_look_charges_nothing() {
        let limiter = Limiter::default();
        let terms = rate(1, Per::Minute, 1);
        (0..5).for_each(|_| limiter.look(&terms, "a/b", &id(0), Register::Real, noon()).unwrap());
        assert_eq!(limiter.counters(noon()), 0);
        limiter.charge(&terms, "a/b", &id(0), Register::Real, noon()).unwrap();
        assert!(limiter.look(&terms, "a/b", &id(0), Register::Real, noon()).is_err());
        assert_eq!(limiter.counters(noon()), 1);
    }

    #[test]
    fn a_clock_that_jumps_back_neither_opens_nor_shuts_for_long() {
        let limiter = Limiter::default();
        let terms = rate(10, Per::Second, 10);
        assert_eq!(through(&limiter, &terms, 0, noon(), 100), 10);
        let before = noon() - Duration::from_hours(48);
        assert_eq!(through(&limiter, &terms, 0, before, 100), 0, "not opened");
        assert_eq!(through(&limiter, &terms, 0, before + Duration::from_millis(1_200), 100), 10, "not shut for long");
        let day = quota(5, Per::Day);
        assert_eq!(through(&limiter, &day, 0, at("2026-11-24T00:00:01Z"), 100), 5);
        assert_eq!(through(&limiter, &day, 0, at("2026-11-23T23:59:59Z"), 100), 0, "a step over midnight does not open");
        assert_eq!(through(&limiter, &day, 0, at("2026-11-21T00:00:00Z"), 100), 5, "a leap of days begins anew");
    }

    #[test]
    fn a_clock_that_jumps_forward_and_back_gives_one_burst_and_no_window_twice() {
        const DAY: Duration = Duration::from_hours(24);
        let limiter = Limiter::default();
        let terms = rate(10, Per::Second, 10);
        assert_eq!(through(&limiter, &terms, 0, noon(), 100), 10);
        assert_eq!(through(&limiter, &terms, 0, noon() + DAY, 100), 10, "the bucket of the next day is full");
        assert_eq!(through(&limiter, &terms, 0, noon(), 100), 0, "and nothing of this day's comes back");
        assert_eq!(through(&limiter, &terms, 0, noon() + Duration::from_millis(1_200), 100), 10, "the rate goes on at once");
        let day = quota(5, Per::Day);
        assert_eq!(through(&limiter, &day, 0, noon(), 3), 3);
        assert_eq!(through(&limiter, &day, 0, noon() + DAY, 100), 5);
        assert_eq!(through(&limiter, &day, 0, noon(), 100), 0, "the next day's are spent, and this day's were lent to it");
        assert_eq!(through(&limiter, &day, 0, noon() + DAY, 100), 0, "no window is counted twice");
        assert_eq!(through(&limiter, &day, 0, noon() + 2 * DAY, 100), 5, "the first window that the clock had not seen is whole");
        let hour = quota(5, Per::Hour);
        assert_eq!(through(&limiter, &hour, 0, noon() + DAY, 100), 5);
        assert_eq!(through(&limiter, &hour, 0, noon(), 100), 5, "windows of an hour have nothing to do with a day ago");
        assert_eq!(through(&limiter, &hour, 0, noon(), 100), 0);
    }

    #[test]
    fn a_full_table_refuses_the_new_and_keeps_the_old() {
        let limiter = Limiter::with_places(64);
        let terms = quota(2, Per::Hour);
        assert_eq!(through(&limiter, &terms, 0, noon(), 2), 2);
        let flood = (1..1_000).filter(|who| through(&limiter, &terms, *who, noon(), 1) == 1).count();
        assert_eq!(flood, 63);
        let full = limiter.charge(&terms, "a/b", &id(2_000), Register::Real, noon()).unwrap_err();
        assert_eq!(full.what, Bound::Places);
        assert_eq!(through(&limiter, &terms, 0, noon(), 5), 0, "the flood did not wash the spent counter away");
        assert_eq!(limiter.counters(noon()), 64);
        let later = noon() + Duration::from_hours(1);
        assert_eq!(through(&limiter, &terms, 2_000, later, 5), 2, "what is over gives its place away");
        assert_eq!(limiter.counters(later), 1);
    }

    #[test]
    fn parallel_workers_never_pass_more_than_the_limit() {
        for (terms, expected) in [(quota(5_000, Per::Day), 5_000), (rate(1, Per::Hour, 3_000), 3_000)] {
            let (limiter, passed) = (Limiter::with_places(64), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| passed.fetch_add(through(&limiter, &terms, 0, noon(), 2_000), Ordering::Relaxed));
                }
            });
            assert_eq!(passed.into_inner(), expected);
        }
    }

    #[test]
    fn places_that_change_hands_lose_no_charge() {
        // Four workers at one time, on a table in which every place is wanted by two; three hours later all that was counted says nothing.
        let limiter = Limiter::with_places(4);
        let terms = rate(1, Per::Hour, 2);
        let (most, together) = (AtomicUsize::new(0), std::sync::Barrier::new(4));
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (limiter, most, together) = (&limiter, &most, &together);
                scope.spawn(move || {
                    for round in 0..300_usize {
                        together.wait();
                        let now = noon() + Duration::from_hours(3 * round as u64);
                        most.fetch_max(through(limiter, &terms, worker + 4 * (round % 2), now, 5), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 2);
    }

    proptest! {
        /// In no stretch of time comes more through than the burst and what flows in.
        #[test]
        fn no_stretch_of_time_passes_more_than_the_bucket(steps in proptest::collection::vec(0_u64..400, 1..200), count in 1_u32..20, burst in 1_u32..10) {
            let limiter = Limiter::with_places(64);
            let terms = rate(count, Per::Second, burst);
            let (mut now, mut passed) = (noon(), Vec::new());
            for step in steps {
                now += Duration::from_millis(step);
                if limiter.charge(&terms, "a/b", &id(0), Register::Real, now).is_ok() {
                    passed.push(now);
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let millis = u64::try_from(to.duration_since(*from).as_millis()).unwrap();
                    let most = u64::from(burst) + millis * u64::from(count) / 1_000;
                    prop_assert!((last - first + 1) as u64 <= most, "{} in {millis} ms", last - first + 1);
                }
            }
        }
    }
}
