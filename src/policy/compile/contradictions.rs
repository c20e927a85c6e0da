//! Contradictions between a rule's condition and what the rule selects: each is right by itself, together they never meet.

use super::rules::RulePlace;
use crate::catalogue::Catalogue;
use crate::identity::SpiffeId;
use crate::policy::condition::{Condition, Selected};
use crate::policy::document::Effect;
use crate::policy::rule::{Rule, Targets};
use crate::policy::set::PolicySet;
use crate::written::Report;

pub(super) fn look(set: &PolicySet, catalogue: &Catalogue, places: &[RulePlace], reports: &mut [Report]) {
    for (rule, place) in set.rules.iter().zip(places) {
        let condition = rule.condition.and_then(|number| set.conditions.get(number as usize));
        let (Some(condition), Some(report)) = (condition, reports.get_mut(place.file)) else { continue };
        let at = place.when.unwrap_or(place.at);
        if let Some((field, value)) = outside(set, rule, condition) {
            let message = format!("the condition of rule `{}` wants {value}, which its `{field}` does not select", rule.name.id);
            report.warning("contradicts-selector", at, message, "correct one of the two: the condition is never true");
        }
        let Some(hidden) = condition.reads_inside() else { continue };
        if rule.tunnel {
            let message = format!("rule `{}` is for tunnels, and nobody sees `{hidden}` inside of one", rule.name.id);
            report.error_hint(at, message, "a tunnel is judged by workload, host, port and time alone");
        } else if rule.effect != Effect::Allow
            && let Some(upstream) = tunnelled(rule, catalogue)
        {
            let message =
                format!("rule `{}` reads `{hidden}`, which a tunnel to upstream `{upstream}` hides: it refuses every tunnel", rule.name.id);
            report.warning("hidden-in-tunnel", at, message, "name the upstreams that are intercepted in `to`, if that is not meant");
        }
    }
}

/// The part of the selector that no wanted value fits, and the values.
fn outside(set: &PolicySet, rule: &Rule, condition: &Condition) -> Option<(&'static str, String)> {
    let method = |name: &str| http::Method::from_bytes(name.as_bytes()).is_ok_and(|method| rule.methods.meets(set.methods.bit(&method)));
    let upstream = |name: &str| match &rule.to {
        Targets::All => true,
        Targets::Named(named) => named.iter().any(|(_, known)| **known == *name),
    };
    let path = |path: &str| rule.paths.iter().any(|pattern| pattern.matches(path));
    let workload = |id: &str| SpiffeId::parse(id).is_ok_and(|id| rule.from.iter().any(|from| from.matches(&id)));
    condition.facts.selected().find_map(|(what, values)| {
        let (field, name, fits): (_, _, &dyn Fn(&str) -> bool) = match what {
            Selected::Method => ("methods", "request.method", &method),
            Selected::Upstream => ("to", "request.upstream", &upstream),
            Selected::Path => ("paths", "request.path", &path),
            Selected::Workload => ("from", "source.spiffe_id", &workload),
        };
        let all = values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(" or ");
        (!values.iter().any(|value| fits(value))).then(|| (field, format!("`{name}` to be {all}")))
    })
}

/// The first named upstream that is not intercepted. A rule about every upstream means it so.
fn tunnelled<'a>(rule: &Rule, catalogue: &'a Catalogue) -> Option<&'a str> {
    let Targets::Named(_) = rule.to else { return None };
    catalogue.all().iter().find(|upstream| !upstream.intercept && rule.to.contains(upstream.index.0)).map(|upstream| &*upstream.name)
}
