//! The cost certificate: what the dearest request could make a decision cost, told at load. A set over the budget is not loaded.

use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::condition::Condition;
use super::index::{Index, Posting};
use super::rule::Rule;
use super::trie::{Bounds, Cost, Root, Trie};
use crate::catalogue::Catalogue;

/// The most that a decision may cost for one reading of a path: 10 to 25 us.
pub const BUDGET: Cost = Cost { nodes: 256, postings: 512, conditions: 128 };

/// What looking through a workload's leases weighs, in conditions.
const LEASES: u64 = 4;

/// The dearest request of a set, as an upper bound, for one reading of its path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Nodes, rules and conditions.
    pub cost: Cost,
    /// The upstream of that request.
    pub upstream: Option<Arc<str>>,
    /// A rule wants a lease: once in a decision it is looked for and charged.
    pub leases: bool,
    /// A rule has limits: once in a decision they are charged.
    pub limits: bool,
}

impl Certificate {
    /// About how long it takes: 30 ns a node, 3 ns a posting, 100 ns a condition, half a microsecond each for a lease and for limits.
    #[must_use]
    pub const fn nanoseconds(&self) -> u64 {
        self.cost
            .nodes
            .saturating_mul(30)
            .saturating_add(self.cost.postings.saturating_mul(3))
            .saturating_add(self.cost.conditions.saturating_mul(100))
            .saturating_add(if self.leases { 500 } else { 0 })
            .saturating_add(if self.limits { 500 } else { 0 })
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { nodes, postings, conditions } = self.cost;
        let microseconds = self.nanoseconds().div_ceil(1000);
        write!(f, "worst case of any request: {nodes} nodes, {postings} postings, {conditions} conditions (about {microseconds} us)")?;
        if let Some(upstream) = &self.upstream {
            write!(f, ", at upstream `{upstream}`")?;
        }
        match (self.leases, self.limits) {
            (true, true) => f.write_str(", with a lease and limits"),
            (true, false) => f.write_str(", with a lease"),
            (false, true) => f.write_str(", with limits"),
            (false, false) => Ok(()),
        }
    }
}

/// A figure over its budget, and the rules that together exceed it.
#[derive(Debug)]
pub(super) struct Excess {
    pub(super) what: &'static str,
    pub(super) count: u64,
    pub(super) budget: u64,
    pub(super) upstream: Option<Arc<str>>,
    /// Numbers of rules, sorted.
    pub(super) rules: Vec<u32>,
}

/// The patterns that share an upstream, as a trie, so that those which no identity matches together are not added up.
struct Meeting {
    patterns: Trie<u32>,
    root: Root,
    bounds: Bounds,
}

/// Works out the certificate; what exceeds the budget comes with the rules that cause it.
pub(super) fn certify(index: &Index, rules: &[Rule], conditions: &[Condition], catalogue: &Catalogue) -> (Certificate, Vec<Excess>) {
    let weight = |posting: &Posting| {
        let condition = rules.get(posting.rule as usize).and_then(|rule| conditions.get(rule.condition? as usize));
        // A condition that reads a lease looks through those of the workload: 80 at most.
        let lease = |condition: &Condition| if condition.notes.lease { LEASES } else { 0 };
        Cost { nodes: 0, postings: 1, conditions: condition.map_or(0, |condition| condition.weight() + lease(condition)) }
    };
    let paths = index.paths.bounds(&weight);
    let meetings = meetings(index, &paths);
    let of = |key: Option<u32>| meetings.get(&key).map(|meeting| meeting.bounds.of(meeting.root)).unwrap_or_default();
    let everywhere = of(None);
    let mut keys: Vec<Option<u32>> = meetings.keys().copied().collect();
    keys.sort_unstable();
    let name =
        |key: Option<u32>| key.and_then(|upstream| catalogue.all().get(upstream as usize)).map(|upstream| Arc::clone(&upstream.name));
    let (leases, limits) = (rules.iter().any(|rule| rule.lease.is_some()), rules.iter().any(|rule| rule.limits.is_some()));
    let mut certificate = Certificate { cost: everywhere, upstream: None, leases, limits };
    let mut excesses = Vec::new();
    for key in keys {
        let cost = if key.is_some() { of(key).plus(everywhere) } else { everywhere };
        if (cost.conditions, cost.postings, cost.nodes) > (certificate.cost.conditions, certificate.cost.postings, certificate.cost.nodes) {
            certificate.upstream = name(key);
        }
        certificate.cost = certificate.cost.or(cost);
    }
    for (what, figure) in FIGURES {
        let budget = figure(BUDGET);
        let worst = meetings.keys().copied().max_by_key(|key| (figure(of(*key)), *key)).flatten();
        let count = figure(of(worst).plus(if worst.is_some() { everywhere } else { Cost::default() }));
        if count > budget {
            let mut found = Vec::new();
            for key in if worst.is_some() { vec![worst, None] } else { vec![None] } {
                found.extend(meetings.get(&key).map(|meeting| meeting.culprits(index, &paths, key, figure)).unwrap_or_default());
            }
            found.sort_unstable();
            found.dedup();
            excesses.push(Excess { what, count, budget, upstream: name(worst), rules: found });
        }
    }
    (certificate, excesses)
}

/// The figures of a cost, each with its name.
type Figure = fn(Cost) -> u64;
const FIGURES: [(&str, Figure); 3] =
    [("nodes", |cost| cost.nodes), ("postings", |cost| cost.postings), ("conditions", |cost| cost.conditions)];

fn meetings(index: &Index, paths: &Bounds) -> FxHashMap<Option<u32>, Meeting> {
    let mut tries: FxHashMap<Option<u32>, (Trie<u32>, Root)> = FxHashMap::default();
    let mut keys: Vec<(u32, Option<u32>)> = index.roots.keys().copied().collect();
    keys.sort_unstable();
    for (pattern, key) in keys {
        let (trie, root) = tries.entry(key).or_insert_with(|| {
            let mut trie = Trie::default();
            let root = trie.root();
            (trie, root)
        });
        if let Some(list) = index.identities.get(pattern as usize).and_then(|identity| trie.list(*root, identity.glob())) {
            list.push(pattern);
        }
    }
    let weigh = |key: Option<u32>| move |pattern: &u32| index.roots.get(&(*pattern, key)).map(|root| paths.of(*root)).unwrap_or_default();
    tries.into_iter().map(|(key, (patterns, root))| (key, Meeting { bounds: patterns.bounds(&weigh(key)), patterns, root })).collect()
}

impl Meeting {
    fn culprits(&self, index: &Index, paths: &Bounds, key: Option<u32>, figure: Figure) -> Vec<u32> {
        let mut rules = Vec::new();
        self.patterns.dearest(self.root, &self.bounds, figure, &mut |patterns| {
            for root in patterns.iter().filter_map(|pattern| index.roots.get(&(*pattern, key))) {
                index.paths.dearest(*root, paths, figure, &mut |list| rules.extend(list.iter().map(|posting| posting.rule)));
            }
        });
        rules
    }
}
