//! What a change of rules changes: who gains and who loses what, told from selectors; conditions are compared as texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;

use super::cover::{Spot, firm, spots, terms};
use super::region::{Region, without};
use crate::catalogue::{Catalogue, Stage};
use crate::clock::Timestamp;
use crate::policy::document::Effect;
use crate::policy::rule::{MethodTable, Methods, Rule};
use crate::policy::set::PolicySet;

/// One of two rule sets that are compared.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// Its rules.
    pub set: &'a PolicySet,
    /// Its upstreams.
    pub catalogue: &'a Catalogue,
}

/// In which way access changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It was not there.
    Gain,
    /// It was there under conditions that are gone or other ones.
    Loosened,
    /// It comes with another credential.
    Grant,
    /// An upstream is observed now, or longer: everything passes as it came.
    Observed,
    /// It lasts longer.
    Extended,
    /// It is there no more.
    Loss,
    /// It is bound to conditions that are new or other ones.
    Tightened,
    /// It ends sooner.
    Shortened,
    /// An upstream is observed no more.
    Enforced,
}

impl Kind {
    /// Whether somebody may be able to do more than before.
    #[must_use]
    pub const fn widens(self) -> bool {
        matches!(self, Self::Gain | Self::Loosened | Self::Grant | Self::Observed | Self::Extended)
    }
}

/// One thing that changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// In which way.
    pub kind: Kind,
    /// At which upstream.
    pub upstream: String,
    /// As bytes, unseen.
    pub tunnel: bool,
    /// Methods.
    pub methods: String,
    /// Paths.
    pub path: String,
    /// Workloads or patterns of them.
    pub who: BTreeSet<String>,
    /// Whether each of them is one workload.
    pub counted: bool,
    /// The rule, with its place, that gives the access or gave it.
    pub rule: String,
    /// What it was bound to, or what it came with.
    pub before: String,
    /// What it is bound to, or what it comes with.
    pub after: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = self.who.len() == 1;
        let who = match self.who.len() {
            1 if self.counted => "1 identity".to_owned(),
            count if self.counted => format!("{count} identities"),
            _ => format!("every identity of {}", self.who.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        let singular = one || !self.counted;
        let verb = |one: &'static str, many: &'static str| if singular { one } else { many };
        let way = if self.tunnel { "a tunnel to".to_owned() } else { format!("{} on", self.methods) };
        let place = if self.tunnel { self.upstream.clone() } else { format!("{} {}", self.upstream, self.path) };
        let under = |terms: &str| if terms.is_empty() { String::new() } else { format!(", {terms}") };
        match self.kind {
            Kind::Gain => write!(f, "{who} {} {way} {place}{}", verb("gains", "gain"), under(&self.after)),
            Kind::Loss => write!(f, "{who} {} {way} {place}{}", verb("loses", "lose"), under(&self.before)),
            Kind::Loosened | Kind::Tightened => {
                let word = if self.kind == Kind::Loosened { "may do more" } else { "may do less" };
                let text = |terms: &str| if terms.is_empty() { "always".to_owned() } else { terms.to_owned() };
                write!(f, "{who} {word}: {way} {place}, before {}, now {}", text(&self.before), text(&self.after))
            }
            Kind::Grant => write!(f, "{who} {} {way} {place} with {} in place of {}", verb("does", "do"), self.after, self.before),
            Kind::Extended => write!(f, "{who} {} {way} {place} until {}, before until {}", verb("keeps", "keep"), self.after, self.before),
            Kind::Shortened => write!(f, "{who} {} {way} {place} at {}, before at {}", verb("loses", "lose"), self.after, self.before),
            Kind::Observed => write!(f, "upstream {} is observed until {}: everything passes as it came", self.upstream, self.after),
            Kind::Enforced => write!(f, "upstream {} is enforced: what no rule allows passes no more", self.upstream),
        }
    }
}

/// A part of what one rule lets through, cut so that each thing beside it restricts it whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Part {
    region: Region,
    terms: BTreeSet<String>,
    until: Option<Timestamp>,
    grant: String,
}

impl Part {
    /// Whether it lets through whatever the other does of what both cover.
    fn is_as_wide(&self, other: &Self) -> bool {
        self.terms.is_subset(&other.terms)
    }

    fn words(&self) -> String {
        self.terms.iter().cloned().collect::<Vec<_>>().join(" and ")
    }
}

/// Everything at one place, with the rule of each part.
type Parts = FxHashMap<(Arc<str>, bool), Vec<(Part, String)>>;

/// What the second set changes, what widens first. The same in both directions, with gain and loss exchanged.
#[must_use]
pub fn diff(before: Side<'_>, after: Side<'_>, at: Timestamp) -> Vec<Change> {
    let mut table = MethodTable::default();
    let (old, new) = (parts(before, &mut table, at), parts(after, &mut table, at));
    let mut found = Found { changes: BTreeMap::new(), table };
    for ((one, other), forward) in [((&old, &new), true), ((&new, &old), false)] {
        let mut places: Vec<_> = other.keys().collect();
        places.sort();
        for place in places {
            let (had, have) =
                (one.get(place).map(Vec::as_slice).unwrap_or_default(), other.get(place).map(Vec::as_slice).unwrap_or_default());
            found.compare(place, had, have, forward);
        }
    }
    let mut changes: Vec<Change> = found.changes.into_values().collect();
    changes.extend(stages(before.catalogue, after.catalogue, at));
    changes.sort();
    changes
}

fn stages(before: &Catalogue, after: &Catalogue, at: Timestamp) -> Vec<Change> {
    let until = |stage: Stage| match stage {
        Stage::Observe { until, .. } if at < until => Some(until),
        Stage::Observe { .. } | Stage::Enforce => None,
    };
    let text = |until: Option<Timestamp>| until.map(|until| until.to_string()).unwrap_or_default();
    let mut found = Vec::new();
    for upstream in after.all() {
        let (was, is) = (before.by_name(&upstream.name).and_then(|former| until(former.stage)), until(upstream.stage));
        let kind = match (was, is) {
            (was, Some(is)) if was.is_none_or(|was| was < is) => Kind::Observed,
            (Some(_), None) => Kind::Enforced,
            (Some(_) | None, Some(_)) | (None, None) => continue,
        };
        found.push(Change {
            kind,
            upstream: upstream.name.to_string(),
            tunnel: false,
            methods: "*".to_owned(),
            path: "/**".to_owned(),
            who: BTreeSet::from(["**".to_owned()]),
            counted: false,
            rule: String::new(),
            before: text(was),
            after: text(is),
        });
    }
    found
}

/// What rules of one side let through, by place.
fn parts(side: Side<'_>, table: &mut MethodTable, at: Timestamp) -> Parts {
    let mut found = Parts::default();
    for spot in spots(side.catalogue) {
        let Some(upstream) = side.catalogue.all().get(spot.upstream as usize) else { continue };
        let mut common = |rule: &Rule| translated(rule, spot, side.set, table);
        let all: Vec<(&Rule, Vec<Region>)> =
            side.set.rules.iter().map(|rule| (rule, common(rule))).filter(|(_, regions)| !regions.is_empty()).collect();
        let alive = |rule: &Rule| rule.effect == Effect::Allow && !rule.shadow && rule.expires.is_none_or(|end| at < end);
        let beside: Vec<&(&Rule, Vec<Region>)> = all.iter().filter(|(rule, _)| rule.effect != Effect::Allow && !rule.shadow).collect();
        let list = found.entry((Arc::clone(&upstream.name), spot.tunnel)).or_default();
        for (rule, regions) in all.iter().filter(|(rule, _)| alive(rule)) {
            let whole = Part {
                region: match regions.first() {
                    Some(region) => region.clone(),
                    None => continue,
                },
                terms: terms(side.set, rule, at),
                until: rule.expires,
                grant: grant(rule),
            };
            let name = format!("{} at {}", rule.name.id, rule.name.place);
            for region in regions {
                let cut = cut(Part { region: region.clone(), ..whole.clone() }, &beside, side.set, at);
                list.extend(cut.into_iter().map(|part| (part, name.clone())));
            }
        }
    }
    found
}

/// A rule's regions with methods in the bits of the common table.
fn translated(rule: &Rule, spot: Spot, set: &PolicySet, table: &mut MethodTable) -> Vec<Region> {
    let methods = if rule.methods.is_all() {
        u64::MAX
    } else {
        let named = set.methods.names(rule.methods);
        let bits = named.into_iter().filter_map(|name| table.learn(&http::Method::from_bytes(name.as_bytes()).ok()?));
        bits.fold(0, |all, Methods(bit)| all | bit)
    };
    rule.regions(spot).into_iter().map(|region| Region { methods, ..region }).collect()
}

fn grant(rule: &Rule) -> String {
    let Some(terms) = &rule.grant else { return "none".to_owned() };
    let scopes = terms.scopes.as_ref().map_or_else(String::new, |scopes| format!(" ({})", scopes.join(" ")));
    format!("{}{scopes} for {}s", terms.profile.name, terms.ttl.as_secs())
}

/// Cuts a part by everything that denies or requires within it.
fn cut(whole: Part, beside: &[&(&Rule, Vec<Region>)], set: &PolicySet, at: Timestamp) -> Vec<Part> {
    let mut parts = vec![whole];
    for (other, regions) in beside {
        let condition = set.when(other).unwrap_or_default();
        let begins = other.not_before.filter(|from| at < *from).map_or_else(String::new, |from| format!("from {from} on "));
        let term = match other.effect {
            Effect::Require => format!("{begins}only when {condition}"),
            Effect::Deny if condition.is_empty() => format!("until {begins}denied"),
            Effect::Deny | Effect::Allow => format!("{begins}unless {condition}"),
        };
        for region in regions {
            let mut next = Vec::new();
            for part in parts {
                let Some(both) = part.region.meet(region) else {
                    next.push(part);
                    continue;
                };
                next.extend(part.region.minus(region).into_iter().map(|region| Part { region, ..part.clone() }));
                if !firm(other, at) {
                    let mut terms = part.terms.clone();
                    terms.insert(term.clone());
                    next.push(Part { region: both, terms, ..part });
                }
            }
            parts = next;
        }
    }
    parts
}

/// Changes by what they are about, so that workloads with the same change stand in one.
type Key = (Kind, String, bool, String, String, bool, String, String);

struct Found {
    changes: BTreeMap<Key, Change>,
    table: MethodTable,
}

impl Found {
    /// What `have` lets through and `had` does not. Backwards it is what is lost.
    fn compare(&mut self, place: &(Arc<str>, bool), had: &[(Part, String)], have: &[(Part, String)], forward: bool) {
        let same: FxHashSet<&Part> = had.iter().map(|(part, _)| part).collect();
        for (part, rule) in have.iter().filter(|(part, _)| !same.contains(part)) {
            let near: Vec<&(Part, String)> = had.iter().filter(|(other, _)| other.region.meet(&part.region).is_some()).collect();
            let not_by = |fits: &dyn Fn(&Part) -> bool| {
                without(
                    vec![part.region.clone()],
                    near.iter().map(|(other, _)| other).filter(|other| fits(other)).map(|other| &other.region),
                )
            };
            let kinds = if forward { [Kind::Gain, Kind::Loosened, Kind::Extended] } else { [Kind::Loss, Kind::Tightened, Kind::Shortened] };
            let lasts = |other: &Part| match (other.until, part.until) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(other), Some(own)) => own <= other,
            };
            let fresh = not_by(&|_| true);
            let bound = not_by(&|other| other.is_as_wide(part));
            let short = not_by(&|other| other.is_as_wide(part) && lasts(other));
            let other_grant = if forward { not_by(&|other| other.grant == part.grant) } else { Vec::new() };
            for (kind, left, known) in [
                (kinds[0], &fresh, &[][..]),
                (kinds[1], &bound, fresh.as_slice()),
                (kinds[2], &short, bound.as_slice()),
                (Kind::Grant, &other_grant, fresh.as_slice()),
            ] {
                for region in without(left.clone(), known.iter()) {
                    let former = near.iter().map(|(other, _)| other).find(|other| {
                        let fits = match kind {
                            Kind::Grant => other.grant != part.grant,
                            Kind::Extended | Kind::Shortened => other.is_as_wide(part),
                            Kind::Gain | Kind::Loosened | Kind::Observed | Kind::Loss | Kind::Tightened | Kind::Enforced => true,
                        };
                        fits && other.region.meet(&region).is_some()
                    });
                    self.note(kind, place, &region, (part, rule), former, forward);
                }
            }
        }
    }

    fn note(&mut self, kind: Kind, place: &(Arc<str>, bool), region: &Region, own: (&Part, &str), former: Option<&Part>, forward: bool) {
        let (part, rule) = own;
        let about = |part: &Part| match kind {
            Kind::Grant => part.grant.clone(),
            Kind::Extended | Kind::Shortened => part.until.map(|until| until.to_string()).unwrap_or_default(),
            Kind::Gain | Kind::Loosened | Kind::Observed | Kind::Loss | Kind::Tightened | Kind::Enforced => part.words(),
        };
        let (ours, theirs) = (about(part), former.map(about).unwrap_or_default());
        let (before, after) = if forward { (theirs, ours) } else { (ours, theirs) };
        let (methods, path, counted) = (region.methods(&self.table), region.path.to_string(), region.from.is_one());
        let (upstream, tunnel) = (place.0.to_string(), place.1);
        let key = (kind, upstream.clone(), tunnel, methods.clone(), path.clone(), counted, before.clone(), after.clone());
        let change = self.changes.entry(key).or_insert_with(|| Change {
            kind,
            upstream,
            tunnel,
            methods,
            path,
            who: BTreeSet::new(),
            counted,
            rule: rule.to_owned(),
            before,
            after,
        });
        change.who.insert(region.from.to_string());
    }
}
