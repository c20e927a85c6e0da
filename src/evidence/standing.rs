//! What the running process has seen of its observed upstreams: counted where records are written, shown in the status.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::audit::{Access, shown};

/// Upstreams, and reasons for one upstream, that are told apart.
const MOST: usize = 1_000;

/// Would-be decisions since the start, by upstream.
#[derive(Debug, Default)]
pub struct Observations(Mutex<BTreeMap<Box<str>, Seen>>);

#[derive(Debug, Default)]
struct Seen {
    allowed: u64,
    denied: u64,
    /// By code and rule.
    reasons: BTreeMap<(&'static str, Option<Box<str>>), u64>,
}

impl Observations {
    /// Takes notice of a finished passage. Called by the ledger's writer, never by a worker.
    pub fn note(&self, access: &Access) {
        let (true, Some(upstream), Some(would)) = (access.observed, &access.upstream, &access.would_be) else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST && !all.contains_key(&*upstream.name) {
            return;
        }
        let seen = all.entry((*upstream.name).into()).or_default();
        match &would.outcome {
            Ok(_) => seen.allowed += 1,
            Err(denied) => {
                seen.denied += 1;
                let reason = (denied.code.name(), denied.rule.as_ref().map(|rule| Box::from(&*rule.id)));
                if seen.reasons.len() < MOST || seen.reasons.contains_key(&reason) {
                    *seen.reasons.entry(reason).or_default() += 1;
                }
            }
        }
    }

    /// Of one upstream: `{allowed, denied, reasons: [{code, rule, count}]}`, the most frequent reasons first; null when nothing was seen.
    #[must_use]
    pub fn of(&self, upstream: &str) -> Value {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seen) = all.get(upstream) else { return Value::Null };
        let mut reasons: Vec<_> = seen.reasons.iter().collect();
        reasons.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        let reason = |((code, rule), count): (&(&'static str, Option<Box<str>>), &u64)| json!({ "code": code, "rule": rule.as_deref().map(shown), "count": count });
        json!({ "allowed": seen.allowed, "denied": seen.denied, "reasons": reasons.into_iter().map(reason).take(10).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::samples::{allowed, observed};

    #[test]
    fn only_what_was_observed_counts() {
        let observations = Observations::default();
        observations.note(&allowed(1));
        assert_eq!(observations.of("ledger"), Value::Null);
        observations.note(&observed(2));
        observations.note(&observed(3));
        let told = observations.of("ledger");
        assert_eq!((&told["allowed"], &told["denied"], &told["reasons"][0]["code"]), (&0.into(), &2.into(), &"no_rule".into()));
        assert_eq!(told["reasons"][0]["count"], 2);
    }
}
