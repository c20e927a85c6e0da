//! The paths of one group of requests, and the fewest patterns that say no more than they must.
//!
//! A `*` is only put where at least eight different ids were seen, none of them more than a twentieth of what passed there, and ids are
//! most of what was seen there. Everything else stays literal. `**` needs the asker's word, and paths of different depth below a `*`.

use std::collections::BTreeMap;

use super::shape::is_id;
use super::tally::Tally;
use crate::action::segments;
use crate::clock::Timestamp;
use crate::policy::is_path_literal;

/// Different ids that make a `*`.
const LEAST_IDS: usize = 8;
/// One in this many requests is the most that one id may have.
const RARE: u64 = 20;
/// Values of a `*` that are named.
const EXAMPLES: usize = 3;

/// One segment as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Literal(Box<str>),
    /// Not recorded, or nothing that a pattern could name.
    Unsayable,
}

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Literal(Box<str>),
    /// `*`, with what was seen in its place.
    Any {
        values: usize,
        examples: Vec<Box<str>>,
    },
    /// A last `**`.
    Rest,
}

/// What ended at one place.
#[derive(Debug, Clone, Default)]
struct End {
    tally: Tally,
    /// How many of them were answered with 4xx.
    failed: u64,
}

/// Paths below one place.
#[derive(Debug, Clone, Default)]
pub(super) struct Trie {
    end: Option<End>,
    below: BTreeMap<Seen, Self>,
}

/// A pattern and its evidence.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    pub(super) parts: Vec<Part>,
    pub(super) tally: Tally,
    /// Different paths that it stands for.
    pub(super) paths: u64,
}

impl Trie {
    /// Adds one reading of a path; how many places are new.
    pub(super) fn add(&mut self, reading: &str, hidden: &str, time: Timestamp, trace: &str, failed: bool) -> usize {
        let (mut at, mut fresh) = (self, 0);
        for segment in segments(reading) {
            let sayable = segment.is_empty() || (segment != hidden && is_path_literal(segment));
            let seen = if sayable { Seen::Literal(segment.into()) } else { Seen::Unsayable };
            at = at.below.entry(seen).or_insert_with(|| {
                fresh += 1;
                Self::default()
            });
        }
        let end = at.end.get_or_insert_default();
        end.tally.add(time, trace);
        end.failed += u64::from(failed);
        fresh
    }

    /// Takes out the paths that only ever were answered with 4xx: scans and typing errors teach nothing.
    pub(super) fn take_failed(&mut self) -> Vec<(String, Tally)> {
        let mut taken = Vec::new();
        self.take("", &mut taken);
        taken
    }

    fn take(&mut self, prefix: &str, taken: &mut Vec<(String, Tally)>) {
        if let Some(end) = self.end.take_if(|end| end.failed == end.tally.count) {
            taken.push((prefix.to_owned(), end.tally));
        }
        for (seen, below) in &mut self.below {
            below.take(&format!("{prefix}/{}", seen.text()), taken);
        }
        self.below.retain(|_, below| below.end.is_some() || !below.below.is_empty());
    }

    fn count(&self) -> u64 {
        self.end.as_ref().map_or(0, |end| end.tally.count) + self.below.values().map(Self::count).sum::<u64>()
    }

    /// The patterns of everything in it, none of which another one includes.
    pub(super) fn patterns(&self, rest: bool) -> Vec<Pattern> {
        let mut all = self.derive(rest);
        // What includes more comes first, so that one pass finds what it swallows.
        all.sort_by(|a, b| wideness(b).cmp(&wideness(a)).then_with(|| a.parts.cmp(&b.parts)));
        let mut kept: Vec<Pattern> = Vec::new();
        for pattern in all {
            match kept.iter_mut().find(|wider| includes(&wider.parts, &pattern.parts)) {
                Some(wider) => {
                    wider.tally.merge(&pattern.tally);
                    wider.paths += pattern.paths;
                }
                None => kept.push(pattern),
            }
        }
        kept.sort_by(|a, b| a.parts.cmp(&b.parts));
        kept
    }

    fn derive(&self, rest: bool) -> Vec<Pattern> {
        let mut all = Vec::new();
        if let Some(end) = &self.end {
            all.push(Pattern { parts: Vec::new(), tally: end.tally.clone(), paths: 1 });
        }
        let folded = self.folded();
        let mut any = Self::default();
        let mut examples = Vec::new();
        for (seen, below) in &self.below {
            if folded.contains(&seen) {
                any.merge(below);
                examples.extend(seen.literal().filter(|_| examples.len() < EXAMPLES));
            } else {
                let part = Part::Literal(seen.text().into());
                all.extend(below.derive(rest).into_iter().map(|pattern| pattern.under(part.clone())));
            }
        }
        if !folded.is_empty() {
            let part = Part::Any { values: folded.len(), examples };
            let mut inside = any.derive(rest);
            if rest && inside.iter().any(|pattern| pattern.parts.len() != inside.first().map_or(0, |first| first.parts.len())) {
                inside = vec![whole(&inside)];
            }
            all.extend(inside.into_iter().map(|pattern| pattern.under(part.clone())));
        }
        all
    }

    /// The children that `*` stands for.
    fn folded(&self) -> Vec<&Seen> {
        let total = self.count();
        let rare = |below: &Self| below.count().saturating_mul(RARE) <= total;
        let ids: Vec<&Seen> = self
            .below
            .iter()
            .filter(|(seen, below)| seen.literal().is_some_and(|text| is_id(&text)) && rare(below))
            .map(|(seen, _)| seen)
            .collect();
        let enough = ids.len() >= LEAST_IDS && ids.len() * 2 > self.below.len();
        let unsayable = self.below.keys().filter(|seen| matches!(seen, Seen::Unsayable));
        if enough { ids.into_iter().chain(unsayable).collect() } else { unsayable.collect() }
    }

    fn merge(&mut self, other: &Self) {
        if let Some(end) = &other.end {
            let own = self.end.get_or_insert_default();
            own.tally.merge(&end.tally);
            own.failed += end.failed;
        }
        for (seen, below) in &other.below {
            self.below.entry(seen.clone()).or_default().merge(below);
        }
    }
}

/// `**` in the place of all these.
fn whole(inside: &[Pattern]) -> Pattern {
    let mut all = Pattern { parts: vec![Part::Rest], tally: Tally::default(), paths: 0 };
    for pattern in inside {
        all.tally.merge(&pattern.tally);
        all.paths += pattern.paths;
    }
    all
}

impl Seen {
    fn literal(&self) -> Option<Box<str>> {
        match self {
            Self::Literal(text) => Some(text.clone()),
            Self::Unsayable => None,
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Literal(text) => text,
            Self::Unsayable => "*",
        }
    }
}

impl Pattern {
    fn under(mut self, part: Part) -> Self {
        if let Part::Any { values, .. } = &part {
            self.paths = self.paths.max(u64::try_from(*values).unwrap_or(u64::MAX));
        }
        self.parts.insert(0, part);
        self
    }

    /// As a policy file writes it.
    pub(super) fn text(&self) -> String {
        let part = |part: &Part| match part {
            Part::Literal(text) => text.to_string(),
            Part::Any { .. } => "*".to_owned(),
            Part::Rest => "**".to_owned(),
        };
        format!("/{}", self.parts.iter().map(part).collect::<Vec<_>>().join("/"))
    }

    /// Whether it allows what was never seen.
    pub(super) fn is_wide(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Literal(_)))
    }
}

/// How much of it is not literal.
fn wideness(pattern: &Pattern) -> (usize, usize) {
    let count = |wanted: fn(&Part) -> bool| pattern.parts.iter().filter(|part| wanted(part)).count();
    (count(|part| matches!(part, Part::Rest)), count(|part| matches!(part, Part::Any { .. })))
}

/// Whether everything that `narrow` matches is matched by `wide`.
fn includes(wide: &[Part], narrow: &[Part]) -> bool {
    match (wide.split_first(), narrow.split_first()) {
        (Some((Part::Rest, _)), _) | (None, None) => true,
        (Some((Part::Any { .. }, wide)), Some((part, narrow))) => {
            let one = match part {
                Part::Literal(text) => !text.is_empty(),
                Part::Any { .. } => true,
                Part::Rest => false,
            };
            one && includes(wide, narrow)
        }
        (Some((Part::Literal(wanted), wide)), Some((Part::Literal(text), narrow))) => wanted == text && includes(wide, narrow),
        (None, Some(_)) | (Some(_), None) | (Some((Part::Literal(_), _)), Some((Part::Any { .. } | Part::Rest, _))) => false,
    }
}

/// Whether a path (as the trie writes it) is matched by one of these.
pub(super) fn covers(patterns: &[Pattern], path: &str) -> bool {
    let parts: Vec<Part> = segments(path).map(|segment| Part::Literal(segment.into())).collect();
    patterns.iter().any(|pattern| includes(&pattern.parts, &parts))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trie(paths: &[(&str, u64)]) -> Trie {
        let mut trie = Trie::default();
        for (path, times) in paths {
            for _ in 0..*times {
                trie.add(path, "[redacted]", Timestamp::UNIX_EPOCH, "t", false);
            }
        }
        trie
    }

    fn texts(trie: &Trie, rest: bool) -> Vec<String> {
        trie.patterns(rest).iter().map(|pattern| format!("{} {}/{}", pattern.text(), pattern.tally.count, pattern.paths)).collect()
    }

    fn numbered(prefix: &str, suffix: &str, count: u32, times: u64) -> Vec<(String, u64)> {
        (0..count).map(|at| (format!("{prefix}{}{suffix}", 1000 + at), times)).collect()
    }

    fn of(lists: &[Vec<(String, u64)>]) -> Trie {
        let flat: Vec<(&str, u64)> = lists.iter().flatten().map(|(path, times)| (path.as_str(), *times)).collect();
        trie(&flat)
    }

    #[test]
    fn a_star_needs_many_rare_ids_and_words_stay() {
        assert_eq!(texts(&of(&[numbered("/v1/charges/", "", 30, 1)]), false), ["/v1/charges/* 30/30"]);
        assert_eq!(texts(&of(&[numbered("/v1/", "", 7, 1)]), false).len(), 7, "too few");
        let words: Vec<(String, u64)> = (0..30).map(|at| (format!("/v1/{}", "w".repeat(at + 1)), 1)).collect();
        assert_eq!(texts(&of(&[words]), false).len(), 30, "no ids");
        let common = of(&[numbered("/v1/", "", 8, 10)]);
        assert_eq!(texts(&common, false).len(), 8, "each has an eighth of the traffic");
        let mixed = of(&[numbered("/users/", "", 40, 1), numbered("/users/", "/keys", 40, 1), vec![("/users/me".to_owned(), 30)]]);
        assert_eq!(texts(&mixed, false), ["/users/* 70/41", "/users/*/keys 40/40"], "what `*` matches anyway is not written twice");
        let beside = of(&[numbered("/users/", "/keys", 40, 1), vec![("/users/me".to_owned(), 3)]]);
        assert_eq!(texts(&beside, false), ["/users/me 3/1", "/users/*/keys 40/40"]);
    }

    #[test]
    fn more_words_than_ids_keep_everything_literal() {
        let words: Vec<(String, u64)> = (0..40).map(|at| (format!("/v1/{}", "w".repeat(at + 1)), 1)).collect();
        assert_eq!(texts(&of(&[words, numbered("/v1/", "", 20, 1)]), false).len(), 60);
    }

    #[test]
    fn rest_needs_the_word_of_the_asker_and_different_depths() {
        let deep = of(&[numbered("/files/", "/a", 30, 1), numbered("/files/", "/a/b/c", 30, 1)]);
        assert_eq!(texts(&deep, false), ["/files/*/a 30/30", "/files/*/a/b/c 30/30"]);
        assert_eq!(texts(&deep, true), ["/files/*/** 60/30"]);
        assert_eq!(texts(&of(&[numbered("/files/", "/a", 30, 1)]), true), ["/files/*/a 30/30"]);
    }

    #[test]
    fn what_cannot_be_named_is_a_star() {
        assert_eq!(texts(&trie(&[("/hooks/[redacted]/send", 2), ("/a b", 1)]), false), ["/hooks/*/send 2/1", "/* 1/1"]);
        assert_eq!(texts(&trie(&[("/", 2), ("/a/", 1)]), false), ["/ 2/1", "/a/ 1/1"]);
    }

    #[test]
    fn what_only_failed_is_taken_out() {
        let mut trie = trie(&[("/v1/charges", 2)]);
        for path in ["/.env", "/v1/charges", "/v1/chargse"] {
            trie.add(path, "", Timestamp::UNIX_EPOCH, "t", true);
        }
        let failed: Vec<String> = trie.take_failed().into_iter().map(|(path, _)| path).collect();
        assert_eq!(failed, ["/.env", "/v1/chargse"]);
        assert_eq!(texts(&trie, false), ["/v1/charges 3/1"]);
    }

    proptest! {
        #[test]
        fn every_path_that_was_seen_is_covered(paths in proptest::collection::vec("(/[a-c]{1,2}|/[0-9]{1,5}){1,4}/?", 1..120), rest: bool) {
            let flat: Vec<(&str, u64)> = paths.iter().map(|path| (path.as_str(), 1)).collect();
            let trie = trie(&flat);
            let patterns = trie.patterns(rest);
            for path in &paths {
                prop_assert!(covers(&patterns, path), "{path} {:?}", texts(&trie, rest));
            }
            prop_assert_eq!(patterns.iter().map(|pattern| pattern.tally.count).sum::<u64>(), paths.len() as u64);
            prop_assert!(rest || patterns.iter().all(|pattern| !pattern.text().contains("**")));
        }
    }
}
