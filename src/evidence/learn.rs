//! Learning: what passed, by workload, upstream and method; and apart from it, what nobody should learn from.

use std::collections::{BTreeMap, BTreeSet};

use super::question::Questions;
use super::replay::passed;
use super::shape;
use super::tally::Tally;
use super::trie::{Pattern, Trie};
use crate::action::{Readings, segments};
use crate::audit::{Recorded, shown};
use crate::clock::Timestamp;
use crate::policy::IdentityPattern;

/// What stands in a record for a path segment that looked like a credential.
pub(super) const REDACTED: &str = "[redacted]";
/// Places in all tries together; more is no interface of a service but its data.
const MOST_PLACES: usize = 1_000_000;
/// Things of one kind that are listed apart.
const MOST_APART: usize = 1_000;

/// The recorded traffic has more different paths than anybody could judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the records hold more than {MOST_PLACES} different path segments; narrow it with --workload or --upstream, or take a shorter --since"
)]
pub struct Full;

/// Whose traffic counts.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// These workloads; all when empty.
    pub workloads: Vec<IdentityPattern>,
    /// These upstreams; all when empty.
    pub upstreams: Vec<Box<str>>,
}

impl Scope {
    /// Whether a record is of it.
    #[must_use]
    pub fn holds(&self, record: &Recorded) -> bool {
        let upstream = record.upstream.as_deref().unwrap_or_default();
        let workload = record.workload.as_deref().and_then(|id| crate::identity::SpiffeId::parse(id).ok());
        (self.upstreams.is_empty() || self.upstreams.iter().any(|wanted| **wanted == *upstream))
            && (self.workloads.is_empty() || workload.is_some_and(|id| self.workloads.iter().any(|wanted| wanted.matches(&id))))
    }
}

/// Requests that one rule may come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Whose {
    pub(super) workload: Box<str>,
    pub(super) upstream: Box<str>,
    pub(super) tunnel: bool,
    pub(super) method: Box<str>,
}

/// What was seen of them.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) tally: Tally,
    trie: Trie,
    /// Credentials that were put on.
    pub(super) credentials: BTreeMap<Box<str>, u64>,
    pub(super) pace: Pace,
}

/// Everything that was learnt from a window of traffic.
#[derive(Debug, Default)]
pub struct Lessons {
    pub(super) groups: BTreeMap<Whose, Group>,
    /// All requests that were learnt from.
    pub seen: Tally,
    /// What is not learnt from, by what and why.
    pub(super) apart: BTreeMap<(Box<str>, Box<str>), Tally>,
    places: usize,
}

impl Lessons {
    /// Learns from one record.
    ///
    /// # Errors
    /// [`Full`].
    pub fn add(&mut self, questions: &Questions<'_>, time: Timestamp, record: &Recorded) -> Result<(), Full> {
        if let Err(why) = self.lesson(questions, time, record)? {
            let method = if record.tunnel { "CONNECT" } else { &record.method };
            let path = if record.tunnel { String::new() } else { shape::pattern(&record.path) };
            let to = record.upstream.as_deref().or(record.destination.as_deref()).unwrap_or("-");
            self.set_apart(&format!("{method} {to} {path}"), why, time, record);
        }
        Ok(())
    }

    /// Why it is none, where it is none.
    fn lesson(&mut self, questions: &Questions<'_>, time: Timestamp, record: &Recorded) -> Result<Result<(), &'static str>, Full> {
        if !passed(record) {
            return Ok(Err(if record.decision.as_ref() == "deny" {
                "refused in this window"
            } else {
                "failed before the upstream answered"
            }));
        }
        let Some(workload) = record.workload.clone() else { return Ok(Err("no workload was proven")) };
        let Ok(upstream) = questions.upstream(record) else { return Ok(Err("not in the catalogue: list it under `upstreams` first")) };
        if record.tunnel == upstream.intercept {
            return Ok(Err("`intercept` of the upstream has changed since"));
        }
        let whose = Whose { workload, upstream: (*upstream.name).into(), tunnel: record.tunnel, method: record.method.clone() };
        let failed = record.status.is_some_and(|status| (400..500).contains(&status));
        if !record.tunnel {
            let Ok(readings) = Readings::of(&record.path) else { return Ok(Err("its path has no reading")) };
            if readings.iter().any(|reading| !is_sayable(reading)) {
                return Ok(Err("no pattern but `**` matches its path: it holds `//` or another empty segment"));
            }
            self.places += usize::from(!self.groups.contains_key(&whose));
            let group = self.groups.entry(whose.clone()).or_default();
            for reading in readings.iter() {
                self.places += group.trie.add(reading, REDACTED, time, &record.trace_id, failed);
            }
        }
        if self.places > MOST_PLACES {
            return Err(Full);
        }
        self.places += usize::from(!self.groups.contains_key(&whose));
        let group = self.groups.entry(whose).or_default();
        group.tally.add(time, &record.trace_id);
        group.pace.add(time);
        if let Some(credential) = &record.credential {
            *group.credentials.entry(credential.name.clone()).or_default() += 1;
        }
        self.seen.add(time, &record.trace_id);
        Ok(Ok(()))
    }

    fn set_apart(&mut self, what: &str, why: &str, time: Timestamp, record: &Recorded) {
        let key = (Box::from(why), shown(what).into_owned().into_boxed_str());
        if self.apart.len() < MOST_APART || self.apart.contains_key(&key) {
            self.apart.entry(key).or_default().add(time, &record.trace_id);
        }
    }

    /// UTC days from the first to the last request, both counted.
    #[must_use]
    pub fn days(&self) -> i64 {
        let day = |time: Timestamp| time.as_second().div_euclid(86_400);
        self.seen.first.zip(self.seen.last).map_or(0, |(first, last)| day(last) - day(first) + 1)
    }

    /// The patterns of each group, and the paths that only failed and that no pattern covers.
    pub(super) fn finish(mut self, rest: bool) -> Finished {
        let mut groups = Vec::new();
        for (whose, mut group) in std::mem::take(&mut self.groups) {
            let failed = group.trie.take_failed();
            let patterns = group.trie.patterns(rest);
            let mut also = BTreeSet::new();
            for (path, tally) in failed {
                if super::trie::covers(&patterns, &path) {
                    // An id that is gone is what a `*` is for; a word that it lets through is not.
                    if !patterns.iter().any(|pattern| pattern.text() == shape::pattern(&path)) {
                        also.insert(shown(&path).into_owned());
                    }
                } else if self.apart.len() < MOST_APART {
                    let what = shown(&format!("{} {} {path}", whose.method, whose.upstream)).into_owned().into_boxed_str();
                    self.apart.entry(("only answered with 4xx: a scan, a typing error, or gone".into(), what)).or_default().merge(&tally);
                }
            }
            if whose.tunnel || !patterns.is_empty() {
                groups.push((whose, Learnt { tally: group.tally, patterns, credentials: group.credentials, pace: group.pace, also }));
            }
        }
        Finished { groups, apart: self.apart }
    }
}

/// What a rule is written from.
#[derive(Debug)]
pub(super) struct Learnt {
    pub(super) tally: Tally,
    pub(super) patterns: Vec<Pattern>,
    pub(super) credentials: BTreeMap<Box<str>, u64>,
    pub(super) pace: Pace,
    /// Paths that only failed, and that a wildcard lets through all the same.
    pub(super) also: BTreeSet<String>,
}

/// All of it.
pub(super) struct Finished {
    pub(super) groups: Vec<(Whose, Learnt)>,
    pub(super) apart: BTreeMap<(Box<str>, Box<str>), Tally>,
}

/// Whether a record is answered by 4xx or for another reason is none that a suggestion must let through.
pub(super) fn is_sayable(reading: &str) -> bool {
    let count = segments(reading).count();
    segments(reading).enumerate().all(|(at, segment)| !segment.is_empty() || at + 1 == count) && reading.starts_with('/')
}

/// How many requests came in one second, and when in the week. Lines come nearly in order, so a second that is over is counted as it is.
#[derive(Debug, Default)]
pub(super) struct Pace {
    second: i64,
    now: u32,
    /// How many seconds had so many requests.
    seconds: BTreeMap<u32, u64>,
    hours: u32,
    days: u8,
}

impl Pace {
    fn add(&mut self, time: Timestamp) {
        let second = time.as_second();
        if second > self.second {
            self.close();
            self.second = second;
        }
        self.now = self.now.saturating_add(1);
        let hour = second.div_euclid(3_600).rem_euclid(24);
        let day = second.div_euclid(86_400).rem_euclid(7);
        self.hours |= 1 << hour;
        self.days |= 1 << day;
    }

    fn close(&mut self) {
        let now = std::mem::take(&mut self.now);
        if now > 0 {
            *self.seconds.entry(now).or_default() += 1;
        }
    }

    /// Requests in a second, all but the busiest thousandth of the seconds in which there were any.
    pub(super) fn usual_peak(&self) -> u32 {
        let mut seconds = self.seconds.clone();
        if self.now > 0 {
            *seconds.entry(self.now).or_default() += 1;
        }
        let all: u64 = seconds.values().sum();
        let mut above = all / 1_000;
        for (requests, times) in seconds.iter().rev() {
            if *times > above {
                return *requests;
            }
            above -= times;
        }
        0
    }

    /// Whether nothing came on Saturdays and Sundays (UTC).
    pub(super) const fn only_weekdays(&self) -> bool {
        // The epoch was a Thursday: days 2 and 3 are Saturday and Sunday.
        self.days & 0b000_1100 == 0 && self.days != 0
    }

    /// First and last hour (UTC) of the day, where at most half of the hours saw a request.
    pub(super) fn hours(&self) -> Option<(u32, u32)> {
        let (first, last) = (self.hours.trailing_zeros(), 31_u32.checked_sub(self.hours.leading_zeros())?);
        (last - first < 12).then_some((first, last + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_told() {
        let mut pace = Pace::default();
        let monday_noon: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        for second in 0..2_000 {
            for _ in 0..=(second % 3) {
                pace.add(monday_noon + jiff::SignedDuration::from_secs(second));
            }
        }
        (0..500).for_each(|_| pace.add(monday_noon + jiff::SignedDuration::from_secs(3_000)));
        assert_eq!(pace.usual_peak(), 3, "one odd second is no pace");
        assert!(pace.only_weekdays());
        assert_eq!(pace.hours(), Some((12, 13)));
        pace.add("2026-11-22T23:00:00Z".parse().unwrap());
        assert!(!pace.only_weekdays());
        pace.add("2026-11-22T03:00:00Z".parse().unwrap());
        assert_eq!(pace.hours(), None);
    }

    #[test]
    fn paths_that_no_pattern_names_are_known() {
        for path in ["/", "/a", "/a/"] {
            assert!(is_sayable(path), "{path}");
        }
        for path in ["//", "/a//b", "*", ""] {
            assert!(!is_sayable(path), "{path}");
        }
    }
}
