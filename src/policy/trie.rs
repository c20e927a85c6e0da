//! `Trie`: patterns by segments. One trie holds many roots that share interned segment names, so a request's segments are hashed once.
//!
//! A walk visits every list of every pattern that matches; how much that can be at most, for any input, is [`Trie::bound`].

use rustc_hash::FxHashMap;

use super::pattern::{Glob, Segment};
use crate::action::MAX_SEGMENTS;

const NONE: u32 = u32::MAX;
/// The empty segment, which `*` does not match.
const EMPTY: u32 = 0;
/// A segment that no pattern names.
const UNKNOWN: u32 = u32::MAX;

/// The root of one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root(u32);

#[derive(Debug)]
struct Node<P> {
    star: u32,
    has_literals: bool,
    /// Patterns that end here.
    here: Vec<P>,
    /// Patterns that end in `**` here.
    rest: Vec<P>,
}

impl<P> Default for Node<P> {
    fn default() -> Self {
        Self { star: NONE, has_literals: false, here: Vec::new(), rest: Vec::new() }
    }
}

/// A forest of patterns.
#[derive(Debug)]
pub(super) struct Trie<P> {
    names: FxHashMap<Box<str>, u32>,
    longest: usize,
    children: FxHashMap<u64, u32>,
    nodes: Vec<Node<P>>,
}

impl<P> Default for Trie<P> {
    fn default() -> Self {
        Self { names: FxHashMap::from_iter([("".into(), EMPTY)]), longest: 0, children: FxHashMap::default(), nodes: Vec::new() }
    }
}

/// A text's segments, interned, without allocating. One more than any pattern has is enough: what is longer is matched by `**` alone.
#[derive(Debug)]
pub(super) struct Segments {
    ids: [u32; MAX_SEGMENTS + 1],
    len: usize,
    /// Stands for all that is beneath as well: what ends here does not include it.
    open: bool,
}

impl Segments {
    fn ids(&self) -> &[u32] {
        self.ids.get(..self.len).unwrap_or_default()
    }
}

/// What a walk may cost at most, or what one list adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Nodes visited.
    pub nodes: u64,
    /// Rules looked at.
    pub postings: u64,
    /// Conditions evaluated.
    pub conditions: u64,
}

impl Cost {
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            nodes: self.nodes.saturating_add(other.nodes),
            postings: self.postings.saturating_add(other.postings),
            conditions: self.conditions.saturating_add(other.conditions),
        }
    }

    /// The larger of each figure: an upper bound of either.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            nodes: self.nodes.max(other.nodes),
            postings: self.postings.max(other.postings),
            conditions: self.conditions.max(other.conditions),
        }
    }
}

impl<P> Trie<P> {
    /// A new tree.
    pub(super) fn root(&mut self) -> Root {
        self.nodes.push(Node::default());
        Root(self.last())
    }

    fn last(&self) -> u32 {
        u32::try_from(self.nodes.len().saturating_sub(1)).unwrap_or(NONE)
    }

    /// The list of a pattern, to add to.
    pub(super) fn list(&mut self, root: Root, pattern: &Glob) -> Option<&mut Vec<P>> {
        let mut at = root.0;
        for segment in pattern.segments() {
            let next = match segment {
                Segment::Star => self.nodes.get(at as usize)?.star,
                Segment::Literal(name) => {
                    let key = (u64::from(at) << 32) | u64::from(self.name(name));
                    self.children.get(&key).copied().unwrap_or(NONE)
                }
            };
            at = if next == NONE { self.grow(at, segment)? } else { next };
        }
        let node = self.nodes.get_mut(at as usize)?;
        Some(if pattern.rest() { &mut node.rest } else { &mut node.here })
    }

    fn name(&mut self, text: &str) -> u32 {
        if let Some(known) = self.names.get(text) {
            return *known;
        }
        let id = u32::try_from(self.names.len()).unwrap_or(UNKNOWN);
        self.longest = self.longest.max(text.len());
        self.names.insert(text.into(), id);
        id
    }

    fn grow(&mut self, at: u32, segment: &Segment) -> Option<u32> {
        let new = self.root().0;
        match segment {
            Segment::Star => self.nodes.get_mut(at as usize)?.star = new,
            Segment::Literal(name) => {
                let key = (u64::from(at) << 32) | u64::from(self.name(name));
                self.children.insert(key, new);
                self.nodes.get_mut(at as usize)?.has_literals = true;
            }
        }
        Some(new)
    }

    /// Every list, to sort.
    pub(super) fn lists_mut(&mut self) -> impl Iterator<Item = &mut Vec<P>> {
        self.nodes.iter_mut().flat_map(|node| [&mut node.here, &mut node.rest])
    }

    /// Every list.
    pub(super) fn lists(&self) -> impl Iterator<Item = &Vec<P>> {
        self.nodes.iter().flat_map(|node| [&node.here, &node.rest])
    }

    /// Interns what a request asks for.
    #[expect(single_use_lifetimes, reason = "an anonymous lifetime is not stable in this place")]
    pub(super) fn segments<'t>(&self, parts: impl Iterator<Item = &'t str>) -> Segments {
        let mut found = Segments { ids: [UNKNOWN; MAX_SEGMENTS + 1], len: 0, open: false };
        for (slot, part) in found.ids.iter_mut().zip(parts) {
            // A segment longer than any name is not hashed: its length is the caller's.
            *slot = if part.len() > self.longest { UNKNOWN } else { self.names.get(part).copied().unwrap_or(UNKNOWN) };
            found.len += 1;
        }
        found
    }

    /// A pattern in place of a text: a walk over it visits exactly the patterns that include it.
    pub(super) fn segments_of_pattern(&self, pattern: &Glob) -> Segments {
        let mut found = Segments { ids: [UNKNOWN; MAX_SEGMENTS + 1], len: 0, open: pattern.rest() };
        for (slot, segment) in found.ids.iter_mut().zip(pattern.segments()) {
            *slot = match segment {
                Segment::Literal(name) => self.names.get(name).copied().unwrap_or(UNKNOWN),
                Segment::Star => UNKNOWN,
            };
            found.len += 1;
        }
        found
    }

    /// Visits the lists of every pattern that matches.
    pub(super) fn walk<'t>(&'t self, root: Root, segments: &Segments, visit: &mut impl FnMut(&'t [P])) {
        self.step(root.0, segments.ids(), segments.open, visit);
    }

    fn step<'t>(&'t self, at: u32, segments: &[u32], open: bool, visit: &mut impl FnMut(&'t [P])) {
        let Some(node) = self.nodes.get(at as usize) else { return };
        if !node.rest.is_empty() {
            visit(&node.rest);
        }
        let Some((&segment, after)) = segments.split_first() else {
            if !open && !node.here.is_empty() {
                visit(&node.here);
            }
            return;
        };
        if node.has_literals
            && segment != UNKNOWN
            && let Some(child) = self.children.get(&((u64::from(at) << 32) | u64::from(segment)))
        {
            self.step(*child, after, open, visit);
        }
        if node.star != NONE && segment != EMPTY {
            self.step(node.star, after, open, visit);
        }
    }

    /// How many nodes a walk visits.
    pub(super) fn visited(&self, root: Root, segments: &Segments) -> u64 {
        self.count(root.0, segments.ids())
    }

    fn count(&self, at: u32, segments: &[u32]) -> u64 {
        let Some(node) = self.nodes.get(at as usize) else { return 0 };
        let Some((&segment, after)) = segments.split_first() else { return 1 };
        let literal = if node.has_literals && segment != UNKNOWN {
            self.children.get(&((u64::from(at) << 32) | u64::from(segment))).map_or(0, |child| self.count(*child, after))
        } else {
            0
        };
        let star = if node.star != NONE && segment != EMPTY { self.count(node.star, after) } else { 0 };
        1 + literal + star
    }

    /// What any walk from this root costs at most: per node its own, the dearest literal child and the star child.
    pub(super) fn bounds(&self, weigh: &dyn Fn(&P) -> Cost) -> Bounds {
        let mut dearest = vec![Cost::default(); self.nodes.len()];
        let mut totals = vec![Cost::default(); self.nodes.len()];
        let mut parents = vec![(NONE, false); self.nodes.len()];
        #[expect(clippy::iter_over_hash_type, reason = "each child has one parent, so the order does not matter")]
        for (key, child) in &self.children {
            if let Some(slot) = parents.get_mut(*child as usize) {
                *slot = (u32::try_from(key >> 32).unwrap_or(NONE), true);
            }
        }
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(slot) = parents.get_mut(node.star as usize) {
                *slot = (u32::try_from(at).unwrap_or(NONE), false);
            }
        }
        // A child is always younger than its parent, so one pass backwards sees children first.
        for (at, node) in self.nodes.iter().enumerate().rev() {
            let sum = |list: &[P]| list.iter().map(weigh).fold(Cost::default(), Cost::plus);
            let star = totals.get(node.star as usize).copied().unwrap_or_default();
            let below = dearest.get(at).copied().unwrap_or_default().plus(star);
            let own = Cost { nodes: 1, ..sum(&node.rest) };
            let total = own.plus(below.or(sum(&node.here)));
            if let Some(slot) = totals.get_mut(at) {
                *slot = total;
            }
            if let Some((parent, true)) = parents.get(at)
                && let Some(slot) = dearest.get_mut(*parent as usize)
            {
                *slot = slot.or(total);
            }
        }
        Bounds(totals)
    }

    /// The lists on the walk that `figure` makes dearest, as the bound sees it.
    pub(super) fn dearest<'t>(&'t self, root: Root, bounds: &Bounds, figure: fn(Cost) -> u64, visit: &mut impl FnMut(&'t [P])) {
        let mut open = vec![root.0];
        while let Some(at) = open.pop() {
            let Some(node) = self.nodes.get(at as usize) else { continue };
            visit(&node.rest);
            visit(&node.here);
            let total = |node: u32| bounds.0.get(node as usize).copied().map_or(0, figure);
            let mut literals: Vec<u32> =
                self.children.iter().filter(|(key, _)| *key >> 32 == u64::from(at)).map(|(_, child)| *child).collect();
            literals.sort_unstable();
            let literal = literals.into_iter().max_by_key(|child| total(*child));
            let star = (node.star != NONE).then_some(node.star);
            open.extend(literal.into_iter().chain(star));
        }
    }
}

/// The bound of every node.
#[derive(Debug)]
pub(super) struct Bounds(Vec<Cost>);

impl Bounds {
    /// Of one tree.
    pub(super) fn of(&self, root: Root) -> Cost {
        self.0.get(root.0 as usize).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::pattern::PathPattern;
    use super::*;
    use crate::action::segments;

    fn trie(patterns: &[&str]) -> (Trie<usize>, Root) {
        let mut trie = Trie::default();
        let root = trie.root();
        for (at, text) in patterns.iter().enumerate() {
            trie.list(root, PathPattern::parse(text).unwrap().glob()).unwrap().push(at);
        }
        (trie, root)
    }

    fn found(trie: &Trie<usize>, root: Root, segments: &Segments) -> Vec<usize> {
        let mut found = Vec::new();
        trie.walk(root, segments, &mut |list| found.extend_from_slice(list));
        found.sort_unstable();
        found
    }

    const PATTERNS: &[&str] = &["/", "/**", "/a", "/a/**", "/a/*", "/*/b", "/*/*", "/a/b", "/a/b/**", "/a/", "/*/**", "/x/*/y"];

    #[test]
    fn a_walk_finds_what_the_patterns_say() {
        let (trie, root) = trie(PATTERNS);
        for path in ["", "*", "/", "/a", "/a/", "/a/b", "/a/c", "/c/b", "/x/1/y", "/x//y", "/a/b/c/d", "/\u{e9}"] {
            let expected: Vec<_> =
                PATTERNS.iter().enumerate().filter(|(_, text)| PathPattern::parse(text).unwrap().matches(path)).map(|(at, _)| at).collect();
            assert_eq!(found(&trie, root, &trie.segments(segments(path))), expected, "{path}");
        }
    }

    #[test]
    fn a_walk_over_a_pattern_finds_what_includes_it() {
        let (trie, root) = trie(PATTERNS);
        for text in PATTERNS.iter().chain(&["/a/*/c", "/q", "/q/**"]) {
            let pattern = PathPattern::parse(text).unwrap();
            let expected: Vec<_> = PATTERNS
                .iter()
                .enumerate()
                .filter(|(_, text)| PathPattern::parse(text).unwrap().includes(&pattern))
                .map(|(at, _)| at)
                .collect();
            assert_eq!(found(&trie, root, &trie.segments_of_pattern(pattern.glob())), expected, "{text}");
        }
    }

    #[test]
    fn no_walk_costs_more_than_the_bound() {
        let (trie, root) = trie(PATTERNS);
        let bound = trie.bounds(&|_| Cost { postings: 1, ..Cost::default() }).of(root);
        for path in ["/", "/a/b", "/a/b/c", "/x/1/y", "/a/"] {
            assert!(found(&trie, root, &trie.segments(segments(path))).len() as u64 <= bound.postings, "{path}");
        }
        assert!(bound.postings < PATTERNS.len() as u64, "the bound is no mere sum: {bound:?}");
    }
}
