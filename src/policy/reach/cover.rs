//! What one rule covers at one place, and what restricts it there.

use std::collections::BTreeSet;

use super::region::Region;
use super::shape::Shape;
use crate::catalogue::Catalogue;
use crate::clock::Timestamp;
use crate::policy::decision::RuleRef;
use crate::policy::document::Effect;
use crate::policy::pattern::PathPattern;
use crate::policy::rule::Rule;
use crate::policy::set::PolicySet;

/// Where a request can go: to an upstream, seen or through a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::policy) struct Spot {
    pub(in crate::policy) upstream: u32,
    pub(in crate::policy) tunnel: bool,
}

/// Every place of a catalogue. What is not intercepted can be reached both ways: a listener may see the request itself.
pub(in crate::policy) fn spots(catalogue: &Catalogue) -> Vec<Spot> {
    let both = |intercept: bool| if intercept { &[false][..] } else { &[false, true] };
    catalogue
        .all()
        .iter()
        .flat_map(|upstream| both(upstream.intercept).iter().map(|tunnel| Spot { upstream: upstream.index.0, tunnel: *tunnel }))
        .collect()
}

impl Rule {
    /// The regions that it matches at a place, whatever its condition and dates.
    pub(in crate::policy) fn regions(&self, spot: Spot) -> Vec<Region> {
        if !self.to.contains(spot.upstream) || (self.effect == Effect::Allow && self.tunnel != spot.tunnel) {
            return Vec::new();
        }
        let all = [PathPattern::all()];
        // inside a tunnel there is no path: only what is about every path matches
        let paths = match spot.tunnel {
            false => self.paths.as_slice(),
            true if self.paths.iter().any(|path| path.matches("")) => &all,
            true => &[],
        };
        let region = |from: Shape, path: &PathPattern| Region { from, methods: self.methods.0, path: Shape::path(path) };
        self.from.iter().flat_map(|from| paths.iter().map(move |path| region(Shape::identity(from), path))).collect()
    }
}

impl PolicySet {
    /// The names of all rules, in the order of files and rules.
    pub fn names(&self) -> impl Iterator<Item = &RuleRef> {
        self.rules.iter().map(|rule| &rule.name)
    }

    /// A condition as written.
    pub(in crate::policy) fn when(&self, rule: &Rule) -> Option<&str> {
        rule.condition.and_then(|number| self.conditions.get(number as usize)).map(|condition| condition.text.trim())
    }
}

/// A deny that holds from now on for every request of its region.
pub(in crate::policy) fn firm(rule: &Rule, at: Timestamp) -> bool {
    rule.effect == Effect::Deny && !rule.shadow && rule.condition.is_none() && rule.is_current(at)
}

/// What restricts a rule beside its selector, each as a phrase.
pub(in crate::policy) fn terms(set: &PolicySet, rule: &Rule, at: Timestamp) -> BTreeSet<String> {
    let when = set.when(rule).map(|when| format!("when {when}"));
    let windows = rule.windows.iter().map(|window| window.text.to_string()).collect::<Vec<_>>().join(" or ");
    let windows = (!windows.is_empty()).then(|| format!("in the window {windows}"));
    let begins = rule.not_before.filter(|from| at < *from).map(|from| format!("from {from} on"));
    when.into_iter().chain(windows).chain(begins).collect()
}
