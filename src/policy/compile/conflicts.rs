//! Ambiguity: two allow rules of equal precedence that could match one request and grant different things.
//!
//! Equal precedence and a common request together mean the same identity pattern, the same upstream and the same path pattern, so both
//! stand in one list of the index.

use std::collections::BTreeSet;

use super::rules::RulePlace;
use crate::policy::condition::Facts;
use crate::policy::document::Effect;
use crate::policy::index::Posting;
use crate::policy::rule::Rule;
use crate::policy::set::PolicySet;
use crate::written::Report;

pub(super) fn find(set: &PolicySet, places: &[RulePlace], reports: &mut [Report]) {
    let mut pairs: BTreeSet<(usize, usize)> = BTreeSet::new();
    for list in set.index.paths.lists() {
        let allows: Vec<&Posting> = list.iter().filter(|posting| posting.effect == Effect::Allow).collect();
        for (at, first) in allows.iter().enumerate() {
            for second in allows.iter().skip(at + 1) {
                let pair = (first.rule.min(second.rule) as usize, first.rule.max(second.rule) as usize);
                if let (Some(one), Some(other)) = (set.rules.get(pair.0), set.rules.get(pair.1))
                    && ambiguous(set, one, other)
                {
                    pairs.insert(pair);
                }
            }
        }
    }
    for (first, second) in pairs {
        if let (Some(one), Some(other), Some(place)) = (set.rules.get(first), set.rules.get(second), places.get(second))
            && let Some(report) = reports.get_mut(place.file)
        {
            let message = format!(
                "rules `{}` and `{}` ({}) match the same requests and {}",
                other.name.id,
                one.name.id,
                one.name.place,
                differ(one, other).unwrap_or("differ")
            );
            report.error_hint(place.at, message, "make one of them more specific, or let both grant the same");
        }
    }
}

/// In what two rules differ that both let a request through.
fn differ(one: &Rule, other: &Rule) -> Option<&'static str> {
    if one.grant != other.grant {
        Some("grant different credentials")
    } else if one.lease != other.lease {
        Some("want different leases")
    } else if one.limits != other.limits {
        Some("have different limits")
    } else {
        None
    }
}

fn ambiguous(set: &PolicySet, one: &Rule, other: &Rule) -> bool {
    let facts = |rule: &Rule| rule.condition.and_then(|number| set.conditions.get(number as usize)).map(|condition| &condition.facts);
    let equal = one.methods.is_all() == other.methods.is_all()
        && one.condition.is_some() == other.condition.is_some()
        && one.shadow == other.shadow
        && one.tunnel == other.tunnel;
    let apart = match (facts(one), facts(other)) {
        (Some(one), Some(other)) => Facts::excludes(one, other),
        (None, _) | (_, None) => false,
    };
    equal && differ(one, other).is_some() && one.methods.meets(other.methods) && one.meets_in_time(other) && !apart
}
