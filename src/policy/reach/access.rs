//! `Access`: what one rule lets through, within a question: who can do this, what can this one do.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde::Serialize;

use super::cover::{Spot, firm, spots, terms};
use super::region::{Region, without};
use super::shape::Shape;
use crate::action::segments;
use crate::catalogue::{Catalogue, UpstreamIndex};
use crate::clock::Timestamp;
use crate::identity::SpiffeId;
use crate::policy::document::Effect;
use crate::policy::pattern::{IdentityPattern, PathPattern};
use crate::policy::rule::Rule;
use crate::policy::set::PolicySet;

/// What is asked about; a part that is left out is everything.
#[derive(Debug, Clone, Default)]
pub struct Area {
    upstream: Option<UpstreamIndex>,
    from: Option<Shape>,
    method: Option<Method>,
    path: Option<Shape>,
}

impl Area {
    /// One request, by whomever.
    #[must_use]
    pub fn request(upstream: UpstreamIndex, method: &Method, path: &str) -> Self {
        Self { upstream: Some(upstream), from: None, method: Some(method.clone()), path: Some(Shape::exactly(segments(path))) }
    }

    /// One workload, whatever it does.
    #[must_use]
    pub fn workload(id: &SpiffeId) -> Self {
        let pattern = IdentityPattern::parse(id.as_str()).ok();
        Self { from: pattern.as_ref().map(Shape::identity), ..Self::default() }
    }

    fn region(&self, set: &PolicySet) -> Region {
        let everyone = || IdentityPattern::parse("**").ok().as_ref().map(Shape::identity);
        Region {
            from: self.from.clone().or_else(everyone).unwrap_or_else(|| Shape::path(&PathPattern::all())),
            methods: self.method.as_ref().map_or(u64::MAX, |method| set.methods.bit(method).0),
            path: self.path.clone().unwrap_or_else(|| Shape::path(&PathPattern::all())),
        }
    }
}

/// What one rule lets through at one upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Access {
    /// The upstream.
    pub upstream: String,
    /// As bytes, unseen.
    pub tunnel: bool,
    /// Workloads, or patterns of them.
    pub who: Vec<String>,
    /// Methods.
    pub methods: String,
    /// Paths, or patterns of them.
    pub paths: Vec<String>,
    /// The rule.
    pub rule: String,
    /// Where it stands.
    pub at: String,
    /// The credential, or `none`.
    pub grant: String,
    /// Its condition, windows and beginning.
    pub when: BTreeSet<String>,
    /// When it ends.
    pub until: Option<Timestamp>,
    /// Requirements that meet it, each with its rule.
    pub only: BTreeSet<String>,
    /// Denies that take a part of it, each with its rule.
    pub except: BTreeSet<String>,
}

/// Everything that rules in force let through of an area, or will from a later date on. What a deny covers whole is not there.
#[must_use]
pub fn who_and_what(set: &PolicySet, catalogue: &Catalogue, area: &Area, at: Timestamp) -> Vec<Access> {
    let asked = area.region(set);
    let mut found = Vec::new();
    for spot in spots(catalogue).into_iter().filter(|spot| area.upstream.is_none_or(|upstream| upstream.0 == spot.upstream)) {
        let around = around(set, spot);
        for rule in set.rules.iter().filter(|rule| rule.effect == Effect::Allow && !rule.shadow && rule.expires.is_none_or(|end| at < end))
        {
            found.extend(of_rule(set, catalogue, rule, spot, &asked, &around, at));
        }
    }
    found
}

/// Denies and requires with what they match at a place.
type Around<'a> = Vec<(&'a Rule, Vec<Region>)>;

fn around(set: &PolicySet, spot: Spot) -> Around<'_> {
    let others = set.rules.iter().filter(|other| other.effect != Effect::Allow && !other.shadow);
    others.map(|other| (other, other.regions(spot))).filter(|(_, regions)| !regions.is_empty()).collect()
}

fn of_rule(
    set: &PolicySet,
    catalogue: &Catalogue,
    rule: &Rule,
    spot: Spot,
    asked: &Region,
    around: &Around<'_>,
    at: Timestamp,
) -> Vec<Access> {
    let regions: Vec<Region> = rule.regions(spot).into_iter().filter_map(|region| region.meet(asked)).collect();
    if regions.is_empty() {
        return Vec::new();
    }
    let denies: Vec<&Region> = around.iter().filter(|(other, _)| firm(other, at)).flat_map(|(_, regions)| regions).collect();
    let is_gone = |region: &Region| without(vec![region.clone()], denies.iter().copied()).is_empty();
    let left: Vec<Region> = regions.into_iter().filter(|region| !is_gone(region)).collect();
    // paths by who may take them, then who by equal paths: each line is a whole product
    let mut paths: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for region in &left {
        paths.entry(region.from.to_string()).or_default().insert(region.path.to_string());
    }
    let mut lines: BTreeMap<BTreeSet<String>, Vec<String>> = BTreeMap::new();
    for (from, paths) in paths {
        lines.entry(paths).or_default().push(from);
    }
    let upstream = catalogue.all().get(spot.upstream as usize).map(|upstream| upstream.name.to_string()).unwrap_or_default();
    lines
        .into_iter()
        .map(|(paths, who)| {
            let mine = |region: &&Region| who.contains(&region.from.to_string()) && paths.contains(&region.path.to_string());
            let (only, except) = restrictions(set, around, &left.iter().filter(mine).collect::<Vec<_>>(), at);
            Access {
                upstream: upstream.clone(),
                tunnel: spot.tunnel,
                methods: left.first().map(|region| region.methods(&set.methods)).unwrap_or_default(),
                paths: paths.into_iter().collect(),
                who,
                rule: rule.name.id.to_string(),
                at: rule.name.place.to_string(),
                grant: rule.grant.as_ref().map_or_else(|| "none".to_owned(), |terms| terms.profile.name.to_string()),
                when: terms(set, rule, at),
                until: rule.expires,
                only,
                except,
            }
        })
        .collect()
}

/// What requirements and denies say of regions.
fn restrictions(set: &PolicySet, around: &[(&Rule, Vec<Region>)], left: &[&Region], at: Timestamp) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut only, mut except) = (BTreeSet::new(), BTreeSet::new());
    for (other, regions) in around {
        let meets = regions.iter().flat_map(|region| left.iter().filter_map(|own| own.meet(region)));
        let covers = left.iter().all(|own| regions.iter().any(|region| region.includes(own)));
        for both in meets {
            let area = format!("{} {} by {}", both.methods(&set.methods), both.path, both.from);
            let begins = other.not_before.filter(|from| at < *from).map_or_else(String::new, |from| format!(", from {from} on"));
            let when = set.when(other).unwrap_or_default();
            let rule = format!("({} at {}{begins})", other.name.id, other.name.place);
            match (other.effect, covers, when) {
                (Effect::Require, true, when) => only.insert(format!("{when} {rule}")),
                (Effect::Require, false, when) => only.insert(format!("for {area}: {when} {rule}")),
                (_, true, "") => except.insert(format!("all of it {rule}")),
                (_, false, "") => except.insert(format!("{area} {rule}")),
                (_, true, when) => except.insert(format!("when {when} {rule}")),
                (_, false, when) => except.insert(format!("{area} when {when} {rule}")),
            };
        }
    }
    (only, except)
}
