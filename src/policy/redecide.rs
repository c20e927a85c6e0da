//! Deciding again about a request of which only the record is left.
//!
//! A record holds neither headers nor query nor the declared body size, so a condition that reads them has no value. The set is asked
//! twice: with everything unknown taken against the request, and in its favour. Where both answers are one, what is not known changes
//! nothing; else the decision cannot be repeated, and says on which rules it hangs. Leases and limits are not asked again: what a lease
//! held and what a counter had reached stands in no record, so a rule that wants them counts as if they were there.

use std::sync::Arc;

use super::condition::{Env, Failed};
use super::decision::{Denied, RuleRef};
use super::explain::Miss;
use super::going::Going;
use super::registers::Agreement;
use super::request::AccessRequest;
use super::set::PolicySet;
use crate::clock::Timestamp;
use crate::live::Leases;
use crate::refusal::Code;
use crate::strip::Stripped;

/// Which rules have a say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those in force.
    InForce,
    /// Shadow rules too, as if they were in force.
    WithShadow,
}

/// The decision hangs on what records do not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecided {
    /// A rule that matches but for its condition.
    pub rule: RuleRef,
    /// The condition as written.
    pub condition: Arc<str>,
}

type Outcome = Result<usize, (Code, Option<usize>)>;

impl PolicySet {
    /// What the rules say, whatever the upstream's stage. `request.parts` carries method and path alone.
    ///
    /// # Errors
    /// The conditions that it hangs on, where it cannot be told.
    pub fn redecide(
        &self,
        request: &AccessRequest<'_>,
        stripped: &Stripped,
        now: Timestamp,
        which: Which,
    ) -> Result<Result<RuleRef, Denied>, Vec<Undecided>> {
        let against = self.weigh_all(request, stripped, now, which, false);
        let in_favour = self.weigh_all(request, stripped, now, which, true);
        let readings = request.action.path.iter().count();
        let told = match (against, in_favour) {
            (one, other) if one == other => true,
            // Another rule would allow it: allowed all the same, if readings cannot come to differ.
            (Ok(_), Ok(_)) => readings == 1,
            (Err(_), Err(_)) => true,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        if told { Ok(self.name(against)) } else { Err(self.hanging(request, stripped, now, which)) }
    }

    fn weigh_all(&self, request: &AccessRequest<'_>, stripped: &Stripped, now: Timestamp, which: Which, in_favour: bool) -> Outcome {
        let (method, leases) = (self.methods.bit(request.action.method), Leases::default());
        let going = Going::new(request, &leases, now);
        let mut agreement = Agreement::default();
        for path in request.action.path.iter() {
            let found = self.judge(&Env::new(&going, stripped, path).recorded(in_favour), method);
            agreement.add(match which {
                Which::InForce => found.real,
                Which::WithShadow => found.would,
            });
        }
        agreement.outcome()
    }

    /// Rules that match but for a condition that has no value.
    fn hanging(&self, request: &AccessRequest<'_>, stripped: &Stripped, now: Timestamp, which: Which) -> Vec<Undecided> {
        let leases = Leases::default();
        let going = Going::new(request, &leases, now);
        let mut found: Vec<Undecided> = Vec::new();
        for path in request.action.path.iter() {
            let env = Env::new(&going, stripped, path).recorded(false);
            for rule in self.rules.iter().filter(|rule| which == Which::WithShadow || !rule.shadow) {
                let Some(condition) = rule.condition.and_then(|number| self.conditions.get(number as usize)) else { continue };
                let only_condition = self.misses(rule, &env).iter().all(|miss| matches!(miss, Miss::Condition(..)));
                if condition.holds(&env) == Err(Failed::Unrecorded) && only_condition && !found.iter().any(|one| one.rule == rule.name) {
                    found.push(Undecided { rule: rule.name.clone(), condition: Arc::clone(&condition.text) });
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::testing::{Ask, ask, set};
    use crate::policy::{Denied, Which};

    const RULES: &str = r#"
  - { id: read, effect: allow, methods: [GET], paths: ["/v1/charges/**"], grant: stripe-readonly }
  - { id: write, effect: allow, methods: [POST], paths: [/v1/charges], when: "'idempotency-key' in request.headers", grant: stripe-restricted }
  - { id: narrow, effect: allow, methods: [GET], paths: [/v1/charges/one], when: "request.headers['x-env'] == 'prod'", grant: stripe-restricted }
  - { id: dead, effect: allow, methods: [PUT], paths: [/v1/charges], when: "request.method == 'GET' && request.headers['x'] == 'y'", grant: none }
  - { id: never, effect: deny, methods: [GET], paths: [/v1/charges/two], when: "request.headers['x-env'] == 'test'" }
  - { id: tried, effect: allow, mode: shadow, methods: [DELETE], paths: ["/v1/charges/*"], grant: none }
"#;

    fn told(ask: &Ask, which: Which) -> String {
        let set = set(RULES);
        match ask.with(|request, stripped| set.redecide(request, stripped, ask.now, which)) {
            Ok(Ok(rule)) => format!("allow {}", rule.id),
            Ok(Err(Denied { code, .. })) => code.name().to_owned(),
            Err(hanging) => format!("? {}", hanging.iter().map(|one| &*one.rule.id).collect::<Vec<_>>().join(" ")),
        }
    }

    #[test]
    fn what_is_not_known_is_said_and_only_where_it_matters() {
        let decided = |line: &str| told(&ask("stripe", line), Which::InForce);
        assert_eq!(decided("GET /v1/charges/9"), "allow billing/read");
        assert_eq!(decided("POST /v1/charges"), "? billing/write");
        assert_eq!(decided("POST /v1/other"), "no_rule");
        assert_eq!(decided("GET /v1/charges/one"), "allow billing/read", "allowed by one or by the other");
        assert_eq!(decided("GET /v1/charges/two"), "? billing/never");
        assert_eq!(decided("PUT /v1/charges"), "no_rule", "the known half of its condition is false");
        assert_eq!(decided("DELETE /v1/charges/1"), "no_rule");
        assert_eq!(told(&ask("stripe", "DELETE /v1/charges/1"), Which::WithShadow), "allow billing/tried");
        assert_eq!(decided("GET /v1/charges/%6fne"), "? billing/narrow", "its readings could come to differ");
    }

    #[test]
    fn the_stage_of_the_upstream_changes_nothing() {
        assert_eq!(told(&ask("trial", "GET /anything"), Which::InForce), "no_rule");
    }
}
