//! `Invariant`: what must hold of every request, looked up in the rules, not tried by example.

use std::sync::Arc;

use super::document::{AreaWritten, InvariantWritten};
use super::ground::Ground;
use super::outcome::{Failure, TestResult};
use super::suite::known_rule;
use crate::catalogue::Stage;
use crate::clock::Timestamp;
use crate::policy::document::{Effect, OneOrMore};
use crate::policy::pattern::{IdentityPattern, PathPattern};
use crate::policy::reach::{Region, Shape, Spot, firm, spots, terms, without};
use crate::policy::rule::Rule;
use crate::written::{Place, Report, Source, Spanned};

/// Most violations that are told of one invariant.
const MOST: usize = 5;

/// What must hold of every request of an area.
#[derive(Debug)]
pub(super) struct Invariant {
    name: Box<str>,
    place: Place,
    at: Timestamp,
    /// Regions, at these places.
    area: Vec<Region>,
    spots: Vec<Spot>,
    /// The rules that may let through; none for `never`.
    only: Vec<Arc<str>>,
}

impl Invariant {
    pub(super) fn read(written: &InvariantWritten, ground: &Ground<'_>, at: Timestamp, report: &mut Report) -> Option<Self> {
        let (area, only, place) = match (&written.never, &written.only, &written.may) {
            (Some(never), None, None) => (never, None, never.at),
            (None, Some(only), Some(may)) => (may, Some(only), only.at),
            (Some(_), _, _) | (None, Some(_) | None, None) | (None, None, Some(_)) => {
                let place = [written.never.as_ref().map(|word| word.at), written.only.as_ref().map(|word| word.at)];
                let place = place.into_iter().flatten().next().or_else(|| written.may.as_ref().map(|word| word.at));
                let place = place.or_else(|| written.name.as_ref().map(|name| name.at)).unwrap_or(Place::START);
                report.error_hint(place, "an invariant is `never: AREA`, or `only: [RULES]` and `may: AREA`", "write one of the two");
                return None;
            }
        };
        let names = only.into_iter().flat_map(OneOrMore::each).map(|name| known_rule(name.value, name.at, ground, report));
        let only = names.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>();
        let (area, spots) = read_area(&area.value, ground, report)?;
        let place = written.name.as_ref().map_or(place, |name| name.at);
        let name = written.name.as_ref().map_or_else(|| format!("invariant at line {}", place.line), |name| name.value.clone());
        Some(Self { name: name.into(), place, at, area, spots, only: only? })
    }

    pub(super) fn look(&self, ground: &Ground<'_>, trust_domain: &str, source: &Source) -> TestResult {
        let mut violations = Vec::new();
        for spot in &self.spots {
            violations.extend(self.observed(ground, *spot, trust_domain));
            let denies: Vec<Region> =
                ground.set.rules.iter().filter(|rule| firm(rule, self.at)).flat_map(|rule| rule.regions(*spot)).collect();
            let alive = |rule: &&Rule| rule.effect == Effect::Allow && !rule.shadow && rule.expires.is_none_or(|end| self.at < end);
            for rule in ground.set.rules.iter().filter(alive).filter(|rule| !self.only.contains(&rule.name.id)) {
                violations.extend(self.violation(ground, rule, *spot, &denies, trust_domain));
            }
        }
        let failure = (!violations.is_empty()).then(|| Failure {
            expected: if self.only.is_empty() { "nobody".to_owned() } else { format!("only {}", self.only.join(", ")) },
            got: match (violations.len(), self.only.is_empty()) {
                (1, true) => "1 way".to_owned(),
                (1, false) => "1 other way".to_owned(),
                (more, true) => format!("{more} ways"),
                (more, false) => format!("{more} other ways"),
            },
            why: violations.into_iter().take(MOST).collect(),
        });
        TestResult { name: self.name.to_string(), source: source.clone(), place: self.place, reached: [].into(), failure }
    }

    /// What is left of an area by a rule, with one request that shows it.
    fn violation(&self, ground: &Ground<'_>, rule: &Rule, spot: Spot, denies: &[Region], trust_domain: &str) -> Option<String> {
        let own = rule.regions(spot);
        let meets = own.iter().flat_map(|region| self.area.iter().filter_map(|area| area.meet(region)));
        let left = without(meets.collect(), denies.iter());
        let shown = witness(left.first()?, spot, ground, trust_domain);
        let terms = terms(ground.set, rule, self.at);
        let terms = if terms.is_empty() {
            String::new()
        } else {
            format!(", conditionally: {}", terms.into_iter().collect::<Vec<_>>().join(" and "))
        };
        Some(format!("{} at {} allows {shown}{terms}", rule.name.id, rule.name.place))
    }

    /// At an upstream that is only observed everything passes that no floor denies.
    fn observed(&self, ground: &Ground<'_>, spot: Spot, trust_domain: &str) -> Option<String> {
        let upstream = ground.catalogue.all().get(spot.upstream as usize)?;
        let Stage::Observe { until, .. } = upstream.stage else { return None };
        if until <= self.at {
            return None;
        }
        let floors: Vec<Region> =
            ground.set.rules.iter().filter(|rule| rule.floor && firm(rule, self.at)).flat_map(|rule| rule.regions(spot)).collect();
        let left = without(self.area.clone(), floors.iter());
        let shown = witness(left.first()?, spot, ground, trust_domain);
        Some(format!("upstream {} is observed until {until}: {shown} passes as it came", upstream.name))
    }
}

fn witness(region: &Region, spot: Spot, ground: &Ground<'_>, trust_domain: &str) -> String {
    let upstream = ground.catalogue.all().get(spot.upstream as usize).map(|upstream| &*upstream.name).unwrap_or_default();
    let who = region.from.witness(trust_domain);
    if spot.tunnel {
        return format!("{who} a tunnel to {upstream}");
    }
    let methods = region.methods(&ground.set.methods);
    let method = match methods.split(", ").next() {
        Some("*") | None => "GET",
        Some(first) if first.starts_with("every") => "PROPFIND",
        Some(first) => first,
    };
    format!("{who} {method} on {upstream} {}", region.path.witness(trust_domain))
}

/// Regions and places of an area; what is left out is everything.
fn read_area(area: &AreaWritten, ground: &Ground<'_>, report: &mut Report) -> Option<(Vec<Region>, Vec<Spot>)> {
    let each = |written: &Option<Spanned<OneOrMore>>| {
        written.iter().flat_map(OneOrMore::each).map(|text| Spanned::new(text.value.to_owned(), text.at)).collect::<Vec<_>>()
    };
    let mut from = Vec::new();
    for text in each(&area.from) {
        match IdentityPattern::parse(&text.value) {
            Ok(pattern) => from.push(Shape::identity(&pattern)),
            Err(error) => report.error(text.at, format!("`{}` is no identity: {error}", text.value)),
        }
    }
    if area.from.is_none() {
        from.extend(IdentityPattern::parse("**").ok().as_ref().map(Shape::identity));
    }
    let mut paths = Vec::new();
    for text in each(&area.path) {
        match PathPattern::parse(&text.value) {
            Ok(pattern) => paths.push(Shape::path(&pattern)),
            Err(error) => report.error(text.at, format!("`{}` is no path pattern: {error}", text.value)),
        }
    }
    if area.path.is_none() {
        paths.push(Shape::path(&PathPattern::all()));
    }
    let mut methods = if area.method.is_none() { u64::MAX } else { 0 };
    for text in each(&area.method) {
        match http::Method::from_bytes(text.value.as_bytes()) {
            _ if text.value == "*" => methods = u64::MAX,
            // a method that no rule names is one of those that only `*` means
            Ok(method) if text.value.to_ascii_uppercase() == text.value => methods |= ground.set.methods.bit(&method).0,
            Ok(_) | Err(_) => report.error(text.at, format!("`{}` is no method: they are in upper case", text.value)),
        }
    }
    let mut upstreams = Vec::new();
    let mut every = area.to.is_none();
    for text in each(&area.to) {
        match ground.catalogue.by_name(&text.value) {
            _ if text.value == "*" => every = true,
            Some(upstream) => upstreams.push(upstream.index.0),
            None => {
                let known: Vec<&str> = ground.catalogue.all().iter().map(|upstream| &*upstream.name).collect();
                report.unknown_name(text.at, "upstream", &text.value, &known);
            }
        }
    }
    let spots = spots(ground.catalogue).into_iter().filter(|spot| every || upstreams.contains(&spot.upstream)).collect();
    let regions =
        from.iter().flat_map(|from| paths.iter().map(|path| Region { from: from.clone(), methods, path: path.clone() })).collect();
    (!report.failed()).then_some((regions, spots))
}
