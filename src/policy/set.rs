//! `PolicySet`: all rules of one snapshot, compiled to an index. `decide` is a pure function of its inputs.

use std::sync::Arc;

use super::certificate::Certificate;
use super::condition::{Condition, Env};
use super::decision::{Decision, Denied, RuleRef, WouldBe};
use super::document::Effect;
use super::index::{Index, Posting};
use super::permit::{GrantTerms, Permit, Plan};
use super::registers::{Agreement, Best, Registers};
use super::request::AccessRequest;
use super::rule::{MethodTable, Methods, Rule};
use super::window::open_until;
use crate::action::segments;
use crate::catalogue::Stage;
use crate::clock::Timestamp;
use crate::refusal::Code;
use crate::strip::Stripped;

/// All rules of one snapshot.
#[derive(Debug, Default)]
pub struct PolicySet {
    pub(super) rules: Vec<Rule>,
    pub(super) conditions: Vec<Condition>,
    pub(super) methods: MethodTable,
    pub(super) index: Index,
    /// How many upstreams the catalogue has. What is not in it (`unlisted`) is never allowed by a rule about every upstream: no rule
    /// could know whether its credential may be used there.
    pub(super) upstreams: u32,
    pub(super) certificate: Certificate,
    pub(super) revision: Arc<str>,
}

impl PolicySet {
    /// Decides one request. Neither panics, blocks nor allocates on the way to an allow.
    pub fn decide(&self, request: &AccessRequest<'_>, stripped: &Stripped, now: Timestamp) -> Decision {
        let method = self.methods.bit(request.action.method);
        let (mut real, mut would) = (Agreement::default(), Agreement::default());
        let (mut floor, mut shadow) = (Best::NONE, false);
        for path in request.action.path.iter() {
            let found = self.judge(&Env::new(request, stripped, path, now), method);
            real.add(found.real);
            would.add(found.would);
            floor = floor.min(found.floor);
            shadow |= found.shadow;
        }
        if let Some(until) = observed(request, now) {
            return self.observe(request, floor, would.outcome(), until);
        }
        let real = real.outcome();
        let would_be = shadow.then(|| {
            let would = would.outcome();
            WouldBe { changed: self.differ(real, would), outcome: self.name(would) }
        });
        let outcome = real.map(|rule| self.permit(request, rule, now)).map_err(|(code, rule)| self.denied(code, rule));
        Decision { outcome: outcome.and_then(|permit| permit.ok_or_else(|| self.denied(Code::NoRule, None))), would_be }
    }

    /// What the set is called in records: `sha256:` and 12 hex digits of its content.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The revision, shared.
    #[must_use]
    pub fn shared_revision(&self) -> Arc<str> {
        Arc::clone(&self.revision)
    }

    /// What the dearest request could cost.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// How many rules it holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether it holds no rule, so that nothing is allowed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many of its rules are shadows.
    #[must_use]
    pub fn shadows(&self) -> usize {
        self.rules.iter().filter(|rule| rule.shadow).count()
    }

    /// Its allow rules, shadows too.
    pub fn allows(&self) -> impl Iterator<Item = &RuleRef> {
        self.rules.iter().filter(|rule| rule.effect == Effect::Allow).map(|rule| &rule.name)
    }

    pub(super) fn is_listed(&self, request: &AccessRequest<'_>) -> bool {
        request.upstream.index.0 < self.upstreams
    }

    /// One walk for one reading.
    pub(super) fn judge(&self, env: &Env<'_>, method: Methods) -> Registers {
        let mut registers = Registers::default();
        let path = self.index.paths.segments(segments(env.path));
        self.index.each_root(&env.request.workload.id, env.request.upstream.index.0, &mut |root| {
            self.index.paths.walk(root, &path, &mut |list| {
                for posting in list {
                    if posting.methods & method.0 != 0 {
                        self.weigh(posting, env, &mut registers);
                    }
                }
            });
        });
        registers
    }

    /// Lets one posting into the registers, if it can still change them.
    fn weigh(&self, posting: &Posting, env: &Env<'_>, registers: &mut Registers) {
        let own = if posting.shadow { &registers.would } else { &registers.real };
        let settled = match posting.effect {
            Effect::Deny if posting.floor => registers.floor,
            Effect::Deny => own.deny,
            Effect::Require => own.require,
            Effect::Allow if posting.tunnel != env.request.tunnel || !self.is_listed(env.request) => return,
            Effect::Allow => own.allow,
        };
        if settled.beats(posting.rank) {
            return;
        }
        let Some(rule) = self.rules.get(posting.rule as usize) else { return };
        if !rule.is_current(env.now)
            || (!rule.windows.is_empty() && open_until(&rule.windows, env.now).is_none())
            || !self.applies(rule, env)
        {
            return;
        }
        let best = Best::new(posting.rank, posting.rule);
        registers.shadow |= posting.shadow;
        let Registers { real, would, floor, .. } = registers;
        let (real, would) = match posting.effect {
            Effect::Deny => (&mut real.deny, &mut would.deny),
            Effect::Require => (&mut real.require, &mut would.require),
            Effect::Allow => (&mut real.allow, &mut would.allow),
        };
        *would = best.min(*would);
        if !posting.shadow {
            *real = best.min(*real);
        }
        if posting.floor && !posting.shadow {
            *floor = best.min(*floor);
        }
    }

    /// Whether the condition lets the rule have its effect. An error never opens: an allow needs the truth, a deny only doubt.
    pub(super) fn applies(&self, rule: &Rule, env: &Env<'_>) -> bool {
        let value = match rule.condition {
            None => Ok(true),
            Some(number) => self.conditions.get(number as usize).map_or(Err(super::Failed::Absent), |condition| condition.holds(env)),
        };
        if env.favours(value) {
            return rule.effect == Effect::Allow;
        }
        match rule.effect {
            Effect::Allow => value == Ok(true),
            Effect::Deny => value != Ok(false),
            Effect::Require => value != Ok(true),
        }
    }

    fn observe(&self, request: &AccessRequest<'_>, floor: Best, would: Result<usize, (Code, Option<usize>)>, until: Timestamp) -> Decision {
        let denied = floor.is_some().then(|| self.denied(Code::Denied, floor.rule()));
        let would_be = Some(WouldBe { changed: would.is_err() != denied.is_some(), outcome: self.name(would) });
        let outcome = match denied {
            Some(denied) => Err(denied),
            None => Ok(Permit {
                workload: Arc::clone(request.workload),
                upstream: Arc::clone(request.upstream),
                plan: Plan::AsIs,
                rehearsal: self.rehearsal(request, would),
                rule: None,
                until: Some(until),
            }),
        };
        Decision { outcome, would_be }
    }

    /// What the would-be allow rule grants, where the observed upstream rehearses.
    fn rehearsal(&self, request: &AccessRequest<'_>, would: Result<usize, (Code, Option<usize>)>) -> Option<Arc<GrantTerms>> {
        let Stage::Observe { rehearse: true, .. } = request.upstream.stage else { return None };
        self.rules.get(would.ok()?)?.grant.clone()
    }

    fn permit(&self, request: &AccessRequest<'_>, rule: usize, now: Timestamp) -> Option<Permit> {
        let rule = self.rules.get(rule)?;
        // Only the rule that was chosen is asked when its window closes.
        let closes = if rule.windows.is_empty() { None } else { open_until(&rule.windows, now) };
        Some(Permit {
            workload: Arc::clone(request.workload),
            upstream: Arc::clone(request.upstream),
            plan: rule.grant.as_ref().map_or(Plan::Bare, |terms| Plan::Swap(Arc::clone(terms))),
            rehearsal: None,
            rule: Some(rule.name.clone()),
            until: [rule.expires, closes].into_iter().flatten().min(),
        })
    }

    fn denied(&self, code: Code, rule: Option<usize>) -> Denied {
        Denied { code, rule: rule.and_then(|rule| self.rules.get(rule)).map(|rule| rule.name.clone()) }
    }

    pub(super) fn name(&self, outcome: Result<usize, (Code, Option<usize>)>) -> Result<RuleRef, Denied> {
        let named = |rule: usize| self.rules.get(rule).map(|rule| rule.name.clone());
        match outcome {
            Ok(rule) => named(rule).ok_or_else(|| self.denied(Code::NoRule, None)),
            Err((code, rule)) => Err(self.denied(code, rule)),
        }
    }

    /// Whether two outcomes would treat the request differently.
    fn differ(&self, real: Result<usize, (Code, Option<usize>)>, would: Result<usize, (Code, Option<usize>)>) -> bool {
        let grant = |rule: usize| self.rules.get(rule).and_then(|rule| rule.grant.as_ref());
        match (real, would) {
            (Ok(real), Ok(would)) => grant(real) != grant(would),
            (Err((real, _)), Err((would, _))) => real != would,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => true,
        }
    }
}

/// The end of the observation that the upstream is in, if it is in one: after its end the rules hold.
pub(super) fn observed(request: &AccessRequest<'_>, now: Timestamp) -> Option<Timestamp> {
    match request.upstream.stage {
        Stage::Observe { until, enforce_percent, .. } if now < until && request.share >= enforce_percent => Some(until),
        Stage::Observe { .. } | Stage::Enforce => None,
    }
}
