//! Lints: what is loaded and still deserves a look. Each has a stable code.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::driver::World;
use super::rules::{NOBODY, RulePlace};
use crate::capture::Scheme;
use crate::catalogue::HostPattern;
use crate::clock::Timestamp;
use crate::policy::document::Effect;
use crate::policy::index::{Posting, ways};
use crate::policy::rule::{Methods, Rule, Targets};
use crate::policy::set::PolicySet;
use crate::written::Report;

/// Hours after which an end is too far away: 180 days.
const LONG: i64 = 180 * 24;

/// Hours after which a rehearsal is long: 30 days.
const LONG_SHADOW: i64 = 30 * 24;

pub(super) fn look(set: &PolicySet, world: &World<'_>, places: &[RulePlace], reports: &mut [Report]) {
    for (rule, place) in set.rules.iter().zip(places) {
        if let Some(report) = reports.get_mut(place.file) {
            let mut eye = Eye { set, world, rule, place, report };
            eye.dates();
            eye.rehearsal();
            eye.owner();
            eye.breadth();
            eye.grant();
            eye.tunnels();
            eye.condition();
            eye.covered();
        }
    }
}

struct Eye<'a, 'w> {
    set: &'a PolicySet,
    world: &'a World<'w>,
    rule: &'a Rule,
    place: &'a RulePlace,
    report: &'a mut Report,
}

impl Eye<'_, '_> {
    fn warn(&mut self, code: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.report.warning(code, self.place.at, message, hint);
    }

    fn warn_when(&mut self, code: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.report.warning(code, self.place.when.unwrap_or(self.place.at), message, hint);
    }

    /// Only a rule that says since when it rehearses can be told to have rehearsed long enough.
    fn rehearsal(&mut self) {
        let Some(began) = self.rule.not_before.filter(|_| self.rule.shadow) else { return };
        if hours(began, self.world.now) > LONG_SHADOW {
            let message = format!("rule `{}` has been a rehearsal since {began}, more than 30 days", self.rule.name.id);
            self.warn("long-shadow", message, "look at what it would have decided, then take `mode: shadow` away, or the rule");
        }
    }

    /// An expired allow is absent. It is no error: the mere passing of time must not stop other teams' changes from being loaded.
    fn dates(&mut self) {
        let Some(expires) = self.rule.expires else { return };
        let id = Arc::clone(&self.rule.name.id);
        if expires <= self.world.now {
            self.warn("expired", format!("rule `{id}` has expired: it allows nothing"), "remove it, or move `expires`");
        } else if hours(self.world.now, expires) > LONG {
            self.warn(
                "long-lived",
                format!("rule `{id}` ends in more than 180 days"),
                "access that is looked at twice a year is access that somebody still wants",
            );
        }
    }

    fn owner(&mut self) {
        if &*self.rule.name.owner == NOBODY {
            let message = format!("nobody answers for rule `{}`", self.rule.name.id);
            self.warn("no-owner", message, "write `owner`, here or in `defaults`");
        }
    }

    fn breadth(&mut self) {
        if self.rule.effect != Effect::Allow {
            return;
        }
        let id = Arc::clone(&self.rule.name.id);
        if self.rule.from.iter().any(|from| from.glob().is_everything()) && self.rule.to == Targets::All {
            self.warn("any-to-any", format!("rule `{id}` lets every workload reach every upstream"), "name workloads or upstreams");
        } else if let Some(from) = self.rule.from.iter().find(|from| from.is_whole_domain()) {
            self.warn("whole-domain", format!("rule `{id}` is for every workload of `{from}`"), "name namespaces or service accounts");
        }
        let everywhere = self.rule.paths.iter().any(|path| path.glob().is_everything());
        if everywhere && !self.rule.tunnel && Methods(WRITING).meets(self.rule.methods) {
            self.warn("broad-write", format!("rule `{id}` allows writing to every path"), "name the paths that it needs");
        }
    }

    fn grant(&mut self) {
        if self.rule.grant.is_none() {
            return;
        }
        let plain = self.world.catalogue.all().iter().find(|upstream| {
            self.rule.to.contains(upstream.index.0) && upstream.origins.iter().any(|origin| origin.scheme == Scheme::Http)
        });
        if let Some(upstream) = plain {
            let message = format!("rule `{}` sends a credential in plaintext to upstream `{}`", self.rule.name.id, upstream.name);
            self.warn("plaintext-grant", message, "give the upstream an https origin");
        }
        let bare = self.world.catalogue.all().iter().find(|upstream| {
            let is_address = |host: &HostPattern| matches!(host, HostPattern::Exact(host) if host.ip().is_some());
            self.rule.to.contains(upstream.index.0) && upstream.origins.iter().any(|origin| is_address(&origin.host))
        });
        if let Some(upstream) = bare {
            let message = format!("rule `{}` sends a credential to a bare address, upstream `{}`", self.rule.name.id, upstream.name);
            self.warn("bare-address", message, "give the upstream a name that its certificate proves: an address changes hands");
        }
    }

    fn tunnels(&mut self) {
        let id = Arc::clone(&self.rule.name.id);
        if self.rule.tunnel {
            self.warn(
                "not-stripped",
                format!("what passes the tunnel of rule `{id}` is neither stripped nor judged"),
                "intercept the upstream where its clients trust exeat's CA",
            );
        }
        let sees_all = self.rule.methods.is_all() && self.rule.paths.iter().any(|path| path.glob().is_everything());
        if self.rule.effect == Effect::Deny && !sees_all {
            let blind = self.world.catalogue.all().iter().find(|upstream| !upstream.intercept && self.rule.to.contains(upstream.index.0));
            if let Some(upstream) = blind {
                let message = format!("rule `{id}` cannot see into tunnels to upstream `{}`", upstream.name);
                self.warn("blind-deny", message, "a deny without `methods` and `paths` refuses the tunnel itself");
            }
        }
    }

    fn condition(&mut self) {
        let Some(condition) = self.rule.condition.and_then(|number| self.set.conditions.get(number as usize)) else { return };
        let notes = condition.notes.clone();
        for name in notes.unguarded {
            let effect = match self.rule.effect {
                Effect::Allow => "the rule does not match then",
                Effect::Deny | Effect::Require => "the request is refused then",
            };
            let guard = match name.split_once("['") {
                Some((map, key)) => format!("'{} in {map}", key.trim_end_matches(']')),
                None => format!("has({name})"),
            };
            self.warn_when(
                "unguarded",
                format!("`{name}` may be absent: {effect}"),
                format!("say so with `{guard} && ..` if that is meant"),
            );
        }
        if self.rule.effect != Effect::Deny {
            for name in notes.negative {
                let message = format!("the caller writes `{name}`: leaving it out satisfies this condition");
                self.warn_when("negative-header", message, "compare it with what it must be");
            }
        }
        for text in notes.unanchored {
            let message = format!("the regular expression `{text}` matches anywhere inside the text");
            self.warn_when("unanchored", message, "tie it to both ends, as in `^..$`");
        }
    }

    /// What never decides anything because another rule always comes first, and what reaches into another team's access.
    fn covered(&mut self) {
        if self.rule.effect != Effect::Allow || self.rule.shadow {
            return;
        }
        let (mut denied, mut repeated, mut foreign) = (None, None, None);
        for other in self.covering() {
            let same_grant = other.grant == self.rule.grant && other.tunnel == self.rule.tunnel;
            let lasting = other.windows.is_empty() && other.condition.is_none() && !other.shadow;
            let as_long =
                other.not_before <= self.rule.not_before && other.expires.is_none_or(|end| self.rule.expires.is_some_and(|own| own <= end));
            match other.effect {
                Effect::Deny if lasting && other.is_current(self.world.now) => {
                    denied.get_or_insert(other);
                }
                Effect::Allow if lasting && as_long && same_grant => {
                    repeated.get_or_insert(other);
                }
                Effect::Allow if other.name.owner != self.rule.name.owner && !other.shadow => {
                    foreign.get_or_insert(other);
                }
                Effect::Deny | Effect::Require | Effect::Allow => {}
            }
        }
        let (id, set) = (Arc::clone(&self.rule.name.id), |rule: &Rule| format!("`{}` ({})", rule.name.id, rule.name.place));
        if let Some(deny) = denied {
            self.warn("unreachable", format!("rule `{id}` never allows anything: {} denies all of it", set(deny)), "remove one of the two");
        } else if let Some(allow) = repeated {
            self.warn(
                "redundant",
                format!("rule `{id}` changes nothing: {} allows all of it on the same terms", set(allow)),
                "remove one of the two",
            );
        } else if let Some(allow) = foreign {
            let message =
                format!("rule {} of {} covers all that rule `{id}` of {} allows", set(allow), allow.name.owner, self.rule.name.owner);
            self.warn("foreign-cover", message, "let the two owners agree on who gives this access");
        }
    }

    /// Rules that match whenever this one does, found through the index.
    fn covering(&self) -> Vec<&Rule> {
        let mut candidates: Option<FxHashSet<u32>> = None;
        for way in ways(self.rule).take(256) {
            let mut found = FxHashSet::default();
            let path = self.set.index.paths.segments_of_pattern(way.path.glob());
            let mut note = |list: &[Posting]| found.extend(list.iter().map(|posting| posting.rule));
            self.set.index.each_including_root(way.from, way.upstream, &mut |root| self.set.index.paths.walk(root, &path, &mut note));
            candidates = Some(match candidates {
                None => found,
                Some(before) => before.intersection(&found).copied().collect(),
            });
        }
        let mut numbers: Vec<u32> = candidates.unwrap_or_default().into_iter().collect();
        numbers.sort_unstable();
        let rules = numbers.into_iter().filter_map(|number| self.set.rules.get(number as usize));
        rules.filter(|other| !std::ptr::eq(*other, self.rule) && self.is_covered_by(other)).collect()
    }

    fn is_covered_by(&self, other: &Rule) -> bool {
        other.methods.includes(self.rule.methods)
            && other.to.includes(&self.rule.to)
            && self.rule.from.iter().all(|from| other.from.iter().any(|wide| wide.includes(from)))
            && self.rule.paths.iter().all(|path| other.paths.iter().any(|wide| wide.includes(path)))
    }
}

/// POST, PUT, PATCH, DELETE: bits 2 to 5 of every method table.
const WRITING: u64 = 0b11_1100;

fn hours(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_hours()
}
