//! `PolicySet`: all rules of one snapshot, compiled to an index. `decide` is a pure function of its inputs.

use std::sync::Arc;

use super::certificate::Certificate;
use super::condition::{Condition, Env};
use super::decision::{Decision, Denied, RuleRef, WouldBe};
use super::document::Effect;
use super::going::Going;
use super::index::{Index, Posting};
use super::permit::{GrantTerms, Leased, Permit, Plan};
use super::registers::{Agreement, Best, Registers};
use super::request::AccessRequest;
use super::rule::{MethodTable, Methods, Rule};
use super::settle::{Charge, Settled, Settling};
use super::window::open_until;
use crate::action::segments;
use crate::catalogue::Stage;
use crate::clock::Timestamp;
use crate::live::{Blocks, Lease, Live, Touched};
use crate::refusal::Code;
use crate::strip::Stripped;

/// Tries of one decision against other requests that use the same lease; each lost try is a use of theirs.
const TRIES: usize = 16;

/// The rule that allows, or the code and the rule that refuses.
type Outcome = Result<usize, (Code, Option<usize>)>;

/// One question with all that it is answered from.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) request: &'a AccessRequest<'a>,
    pub(super) stripped: &'a Stripped,
    pub(super) live: &'a Live,
    pub(super) now: Timestamp,
    /// The lease of a passage under way.
    pub(super) held: Option<&'a str>,
    pub(super) charge: Charge,
}

/// What the walks over all readings found.
struct Walked {
    real: Agreement,
    would: Agreement,
    floor: Best,
    shadow: bool,
}

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
    /// Decides one request. Neither panics, blocks nor allocates on the way to an allow. An allow is charged: it takes its use of a lease
    /// and its part of the limits.
    pub fn decide(&self, request: &AccessRequest<'_>, stripped: &Stripped, live: &Live, now: Timestamp) -> Decision {
        self.answer(&Question { request, stripped, live, now, held: None, charge: Charge::Take })
    }

    /// Whether a passage under way would still be let through, by the lease that it went by. Charges nothing.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn still_allows(
        &self,
        request: &AccessRequest<'_>,
        stripped: &Stripped,
        live: &Live,
        now: Timestamp,
        held: Option<&str>,
    ) -> Result<Permit, Denied> {
        self.answer(&Question { request, stripped, live, now, held, charge: Charge::Paid }).outcome
    }

    fn answer(&self, question: &Question<'_>) -> Decision {
        let Question { request, live, now, .. } = *question;
        let blocks = live.blocks();
        if let Some(block) = blocks.on(&touched(request)) {
            let denied = Denied { block: Some(Arc::clone(block)), ..Denied::by(Code::Revoked, None) };
            return Decision { outcome: Err(denied), would_be: None, unreserved: None };
        }
        let mut paid = None;
        for _ in 0..TRIES {
            let leases = live.leases().leases();
            let going = Going::new(request, &leases, now).again(question.held);
            let found = self.walk(question, &going);
            if let Some(until) = observed(request, now) {
                return self.observe(question, &going, &found, until);
            }
            let real = found.real.outcome();
            let settled = self.settle(question, &going, real, &blocks, &mut paid);
            if !matches!(settled, Settled::Raced) {
                return self.decided(question, &going, &found, settled);
            }
        }
        let why = Some("other requests took the uses of its lease, time and again".into());
        Decision { outcome: Err(Denied { why, ..Denied::by(Code::LeaseSpent, None) }), would_be: None, unreserved: None }
    }

    /// What all readings of the path agree on.
    fn walk(&self, question: &Question<'_>, going: &Going<'_>) -> Walked {
        let method = self.methods.bit(question.request.action.method);
        let mut walked = Walked { real: Agreement::default(), would: Agreement::default(), floor: Best::NONE, shadow: false };
        for path in question.request.action.path.iter() {
            let found = self.judge(&Env::new(going, question.stripped, path), method);
            walked.real.add(found.real);
            walked.would.add(found.would);
            walked.floor = walked.floor.min(found.floor);
            walked.shadow |= found.shadow;
        }
        walked
    }

    /// Steps 7 and 8 for the rule that was chosen.
    fn settle(&self, question: &Question<'_>, going: &Going<'_>, real: Outcome, blocks: &Blocks, paid: &mut Option<usize>) -> Settled {
        let rule = match real {
            Ok(rule) => rule,
            Err((code, rule)) => return Settled::Refused(self.denied(code, rule)),
        };
        let Some(settling) = self.settling(question, going, rule) else { return Settled::Refused(self.denied(Code::NoRule, None)) };
        // Another request may have spent the lease that the condition was true of: it must be true of the one that is charged.
        if let Some(Ok(lease)) = settling.lease
            && self.condition(settling.rule).is_some_and(|condition| condition.notes.lease)
        {
            let holds = |path| self.applies_with(settling.rule, &Env::new(going, question.stripped, path), Some(lease));
            if !question.request.action.path.iter().all(holds) {
                return Settled::Raced;
            }
        }
        let mut has_paid = *paid == Some(rule);
        let settled = settling.real(blocks, &mut has_paid);
        *paid = has_paid.then_some(rule).or(*paid);
        settled
    }

    pub(super) fn settling<'a>(&'a self, question: &Question<'a>, going: &'a Going<'a>, rule: usize) -> Option<Settling<'a>> {
        let rule = self.rules.get(rule)?;
        Some(Settling { rule, going, lease: going.under(rule), live: question.live, charge: question.charge })
    }

    fn decided(&self, question: &Question<'_>, going: &Going<'_>, found: &Walked, settled: Settled) -> Decision {
        let real = found.real.outcome();
        let (outcome, unreserved) = match (settled, real) {
            (Settled::Stands(lease), Ok(rule)) => {
                let permit = self.permit(question.request, rule, lease, question.now);
                (permit.ok_or_else(|| self.denied(Code::NoRule, None)), None)
            }
            (Settled::Refused(denied), _) => (Err(denied), None),
            (Settled::Unreserved(want), real) => {
                let why =
                    Some("the next uses of its lease were not written down in time; `exeat status` shows whether the state can be".into());
                (Err(Denied { why, ..self.denied(Code::Overloaded, real.ok()) }), Some(want))
            }
            (Settled::Stands(_) | Settled::Raced, _) => (Err(self.denied(Code::NoRule, None)), None),
        };
        let would_be = found.shadow.then(|| {
            let would = found.would.outcome();
            let named = match (would, &outcome) {
                // One rule decides in both registers: what is, would be.
                (Ok(would), Err(denied)) if real == Ok(would) => Err(denied.clone()),
                (Ok(would), _) if real != Ok(would) => self.would(question, going, would),
                (would, _) => self.name(would),
            };
            let would =
                would.ok().filter(|_| named.is_ok()).ok_or_else(|| named.as_ref().map_or_else(|denied| denied.code, |_| Code::NoRule));
            let real =
                real.ok().filter(|_| outcome.is_ok()).ok_or_else(|| outcome.as_ref().map_or_else(|denied| denied.code, |_| Code::NoRule));
            WouldBe { changed: self.differ(real, would), outcome: named }
        });
        Decision { outcome, would_be, unreserved }
    }

    /// Steps 7 and 8 in the twin register.
    pub(super) fn would(&self, question: &Question<'_>, going: &Going<'_>, rule: usize) -> Result<RuleRef, Denied> {
        let settling = self.settling(question, going, rule).ok_or_else(|| self.denied(Code::NoRule, None))?;
        settling.would_be().map(|()| settling.rule.name.clone())
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

    /// The rule of this name (`policy/rule`), and on which terms it grants a credential.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<Option<&Arc<GrantTerms>>> {
        self.rules.iter().find(|rule| *rule.name.id == *name).map(|rule| rule.grant.as_ref())
    }

    /// The names of its rules.
    pub fn rule_names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| &*rule.name.id)
    }

    /// The rules with a bound of their own on uses of one lease of this kind, and that bound.
    #[must_use]
    pub fn counted_under(&self, kind: &str) -> Vec<(Arc<str>, u32)> {
        let counted = |rule: &Rule| Some((Arc::clone(&rule.name.id), rule.lease.as_ref().filter(|terms| *terms.kind == *kind)?.max_uses?));
        self.rules.iter().filter(|rule| !rule.shadow).filter_map(counted).collect()
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
        let reads_lease = self.condition(rule).is_some_and(|condition| condition.notes.lease);
        self.applies_with(rule, env, if reads_lease { env.going.seen_by(rule) } else { None })
    }

    fn applies_with(&self, rule: &Rule, env: &Env<'_>, lease: Option<&Lease>) -> bool {
        let value = match rule.condition {
            None => Ok(true),
            Some(_) => self.condition(rule).map_or(Err(super::Failed::Absent), |condition| condition.holds(&env.seeing(lease))),
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

    pub(super) fn condition(&self, rule: &Rule) -> Option<&Condition> {
        self.conditions.get(rule.condition? as usize)
    }

    fn observe(&self, question: &Question<'_>, going: &Going<'_>, found: &Walked, until: Timestamp) -> Decision {
        let denied = found.floor.is_some().then(|| self.denied(Code::Denied, found.floor.rule()));
        let chosen = found.would.outcome();
        let would = match chosen {
            Ok(rule) => self.would(question, going, rule),
            refused => self.name(refused),
        };
        let rehearsal = if would.is_ok() { self.rehearsal(question.request, chosen) } else { None };
        let would_be = Some(WouldBe { changed: would.is_err() != denied.is_some(), outcome: would });
        let outcome = match denied {
            Some(denied) => Err(denied),
            None => Ok(Permit {
                workload: Arc::clone(question.request.workload),
                upstream: Arc::clone(question.request.upstream),
                plan: Plan::AsIs,
                rehearsal,
                rule: None,
                until: Some(until),
                lease: None,
            }),
        };
        Decision { outcome, would_be, unreserved: None }
    }

    /// What the would-be allow rule grants, where the observed upstream rehearses.
    fn rehearsal(&self, request: &AccessRequest<'_>, would: Result<usize, (Code, Option<usize>)>) -> Option<Arc<GrantTerms>> {
        let Stage::Observe { rehearse: true, .. } = request.upstream.stage else { return None };
        self.rules.get(would.ok()?)?.grant.clone()
    }

    fn permit(&self, request: &AccessRequest<'_>, rule: usize, lease: Option<Leased>, now: Timestamp) -> Option<Permit> {
        let rule = self.rules.get(rule)?;
        // Only the rule that was chosen is asked when its window closes.
        let closes = if rule.windows.is_empty() { None } else { open_until(&rule.windows, now) };
        let max_ttl = rule.lease.as_ref().and_then(|terms| terms.max_ttl);
        let oldest = lease.as_ref().zip(max_ttl).and_then(|(leased, most)| leased.lease.opened.checked_add(most).ok());
        Some(Permit {
            workload: Arc::clone(request.workload),
            upstream: Arc::clone(request.upstream),
            plan: rule.grant.as_ref().map_or(Plan::Bare, |terms| Plan::Swap(Arc::clone(terms))),
            rehearsal: None,
            rule: Some(rule.name.clone()),
            until: [rule.expires, closes, oldest].into_iter().flatten().min(),
            lease,
        })
    }

    fn denied(&self, code: Code, rule: Option<usize>) -> Denied {
        Denied::by(code, rule.and_then(|rule| self.rules.get(rule)).map(|rule| rule.name.clone()))
    }

    pub(super) fn name(&self, outcome: Outcome) -> Result<RuleRef, Denied> {
        let named = |rule: usize| self.rules.get(rule).map(|rule| rule.name.clone());
        match outcome {
            Ok(rule) => named(rule).ok_or_else(|| self.denied(Code::NoRule, None)),
            Err((code, rule)) => Err(self.denied(code, rule)),
        }
    }

    /// Whether two outcomes would treat the request differently.
    fn differ(&self, real: Result<usize, Code>, would: Result<usize, Code>) -> bool {
        let grant = |rule: usize| self.rules.get(rule).and_then(|rule| rule.grant.as_ref());
        match (real, would) {
            (Ok(real), Ok(would)) => grant(real) != grant(would),
            (Err(real), Err(would)) => real != would,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => true,
        }
    }
}

/// What is touched before any rule has spoken.
fn touched<'a>(request: &AccessRequest<'a>) -> Touched<'a> {
    Touched { workload: &request.workload.id, upstream: &request.upstream.name, credential: None, rule: None, lease: None, grant: None }
}

/// The end of the observation that the upstream is in, if it is in one: after its end the rules hold.
pub(super) fn observed(request: &AccessRequest<'_>, now: Timestamp) -> Option<Timestamp> {
    match request.upstream.stage {
        Stage::Observe { until, enforce_percent, .. } if now < until && request.share >= enforce_percent => Some(until),
        Stage::Observe { .. } | Stage::Enforce => None,
    }
}
