//! The index: identity pattern and upstream name a tree of paths; a posting is one way in which a rule matches.
//!
//! A request meets the trees of every pattern that its identity matches, once for its upstream and once for rules about every upstream.
//! Ranks order all postings, the most specific first, so that a walk keeps the lowest and skips what cannot win.

use std::cmp::Ordering;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::document::Effect;
use super::pattern::{IdentityPattern, PathPattern, identity_segments};
use super::rule::Rule;
use super::trie::{Root, Trie};
use crate::identity::SpiffeId;

/// Most postings of one set: about 40 MiB.
pub(super) const MOST_POSTINGS: usize = 1_000_000;

/// One way in which a rule matches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posting {
    pub(super) methods: u64,
    /// Position in the order of precedence.
    pub(super) rank: u32,
    pub(super) rule: u32,
    pub(super) effect: Effect,
    pub(super) shadow: bool,
    pub(super) floor: bool,
    pub(super) tunnel: bool,
}

/// All postings, by identity, upstream and path.
#[derive(Debug)]
pub(super) struct Index {
    exact: FxHashMap<Arc<str>, u32>,
    patterns: Trie<u32>,
    root: Root,
    pub(super) roots: FxHashMap<(u32, Option<u32>), Root>,
    pub(super) paths: Trie<Posting>,
    /// The patterns by their numbers.
    pub(super) identities: Vec<IdentityPattern>,
}

impl Default for Index {
    fn default() -> Self {
        let mut patterns = Trie::default();
        let root = patterns.root();
        Self { exact: FxHashMap::default(), patterns, root, roots: FxHashMap::default(), paths: Trie::default(), identities: Vec::new() }
    }
}

/// One way in which a rule matches, before it is placed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'r> {
    pub(super) rule: &'r Rule,
    pub(super) from: &'r IdentityPattern,
    pub(super) upstream: Option<u32>,
    pub(super) path: &'r PathPattern,
}

impl Way<'_> {
    /// The order of precedence. It rests on what the rules say and on their names, never on the order of files or rules. Among ways that
    /// match one request two are equal only where they belong to one rule.
    pub(super) fn precedence(&self, other: &Self) -> Ordering {
        let order = self.from.glob().specificity().cmp(other.from.glob().specificity());
        order
            .then_with(|| self.upstream.is_none().cmp(&other.upstream.is_none()))
            .then_with(|| self.path.glob().specificity().cmp(other.path.glob().specificity()))
            .then_with(|| self.rule.methods.is_all().cmp(&other.rule.methods.is_all()))
            .then_with(|| self.rule.condition.is_none().cmp(&other.rule.condition.is_none()))
            .then_with(|| other.rule.shadow.cmp(&self.rule.shadow))
            .then_with(|| self.rule.name.id.cmp(&other.rule.name.id))
    }
}

/// Every way in which a rule matches.
pub(super) fn ways(rule: &Rule) -> impl Iterator<Item = Way<'_>> {
    rule.from.iter().flat_map(move |from| {
        rule.to.keys().flat_map(move |upstream| rule.paths.iter().map(move |path| Way { rule, from, upstream, path }))
    })
}

impl Index {
    /// Places all rules. There are at most [`MOST_POSTINGS`] ways; the caller has counted them.
    pub(super) fn build(rules: &[Rule]) -> Self {
        let mut placed: Vec<(u32, Way<'_>)> =
            (0u32..).zip(rules).flat_map(|(number, rule)| ways(rule).map(move |way| (number, way))).collect();
        placed.sort_by(|(_, a), (_, b)| a.precedence(b));
        let mut index = Self::default();
        let mut numbers = FxHashMap::default();
        for (rank, (number, way)) in (0u32..).zip(&placed) {
            let pattern = *numbers.entry(way.from.clone()).or_insert_with(|| index.intern(way.from));
            let root = *index.roots.entry((pattern, way.upstream)).or_insert_with(|| index.paths.root());
            let posting = Posting {
                methods: way.rule.methods.0,
                rank,
                rule: *number,
                effect: way.rule.effect,
                shadow: way.rule.shadow,
                floor: way.rule.floor,
                tunnel: way.rule.tunnel,
            };
            if let Some(list) = index.paths.list(root, way.path.glob()) {
                list.push(posting);
            }
        }
        // Denies first: they end the matter. Within an effect the lists are in the order of rank already.
        for list in index.paths.lists_mut() {
            list.sort_by_key(|posting| (posting.effect, posting.rank));
            list.shrink_to_fit();
        }
        index
    }

    fn intern(&mut self, pattern: &IdentityPattern) -> u32 {
        let number = u32::try_from(self.identities.len()).unwrap_or(u32::MAX);
        self.identities.push(pattern.clone());
        if pattern.glob().is_exact() {
            self.exact.insert(pattern.to_string().into(), number);
        } else if let Some(list) = self.patterns.list(self.root, pattern.glob()) {
            list.push(number);
        }
        number
    }

    /// Visits the trees that a workload's request to an upstream meets.
    pub(super) fn each_root(&self, id: &SpiffeId, upstream: u32, visit: &mut impl FnMut(Root)) {
        let mut both = |pattern: u32| {
            for key in [Some(upstream), None] {
                if let Some(root) = self.roots.get(&(pattern, key)) {
                    visit(*root);
                }
            }
        };
        if let Some(pattern) = self.exact.get(id.as_str()) {
            both(*pattern);
        }
        if self.exact.len() == self.identities.len() {
            return;
        }
        let segments = self.patterns.segments(identity_segments(id));
        self.patterns.walk(self.root, &segments, &mut |list| list.iter().copied().for_each(&mut both));
    }

    /// Visits the trees of every pattern that includes this one, for one key.
    pub(super) fn each_including_root(&self, pattern: &IdentityPattern, upstream: Option<u32>, visit: &mut impl FnMut(Root)) {
        let mut both = |pattern: u32| {
            let own = upstream.is_some().then_some(upstream);
            for key in own.into_iter().chain([None]) {
                if let Some(root) = self.roots.get(&(pattern, key)) {
                    visit(*root);
                }
            }
        };
        if pattern.glob().is_exact()
            && let Some(number) = self.exact.get(pattern.to_string().as_str())
        {
            both(*number);
        }
        let segments = self.patterns.segments_of_pattern(pattern.glob());
        self.patterns.walk(self.root, &segments, &mut |list| list.iter().copied().for_each(&mut both));
    }
}
