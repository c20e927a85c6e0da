//! Steps 7 and 8: the lease and the limits of the rule that was chosen. What they refuse never falls through to a broader rule.
//!
//! The use of a lease is taken last: what a limit refuses costs none. Between looking and taking another request may have been faster; then
//! the request is judged anew, and a limit that it has paid is not charged twice.

use std::sync::Arc;

use super::decision::{Denied, RuleRef};
use super::going::{Found, Going};
use super::permit::Leased;
use super::rule::Rule;
use crate::live::{Blocks, Lease, Live, MaxUses, Missing, Register, Taken, Touched, Want};
use crate::refusal::Code;

/// What became of an allow.
#[derive(Debug)]
pub(super) enum Settled {
    /// It stands, on this lease if the rule wants one.
    Stands(Option<Leased>),
    /// It is refused.
    Refused(Denied),
    /// Uses are left and the next ones are not reserved yet.
    Unreserved(Want),
    /// Another request was faster: judge again.
    Raced,
}

/// How an allow is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    /// It is used.
    Take,
    /// Only asked about.
    Look,
    /// A passage under way, judged again: it has paid.
    Paid,
}

/// One allow to be settled.
#[derive(Clone, Copy)]
pub(super) struct Settling<'a> {
    pub(super) rule: &'a Rule,
    pub(super) going: &'a Going<'a>,
    /// What the request goes by under the rule, if that wants a lease.
    pub(super) lease: Option<Found<'a>>,
    pub(super) live: &'a Live,
    pub(super) charge: Charge,
}

impl Rule {
    /// The rule's own bound under one lease.
    fn max_uses(&self) -> Option<MaxUses<'_>> {
        let most = self.lease.as_ref()?.max_uses?;
        Some(MaxUses { rule: &self.name.id, most })
    }
}

impl<'a> Settling<'a> {
    /// In the register that counts. `paid` says whether an earlier try charged the limits of this rule.
    pub(super) fn real(&self, blocks: &Blocks, paid: &mut bool) -> Settled {
        let lease = match self.lease() {
            Ok(lease) => lease,
            Err(denied) => return Settled::Refused(denied),
        };
        // No broader rule takes the place of a revoked one: who revoked it meant the access. Nothing is charged for it.
        if let Some(block) = blocks.on(&self.touched(lease)) {
            let denied = Denied { block: Some(Arc::clone(block)), ..self.denied(Code::Revoked) };
            return Settled::Refused(denied);
        }
        let max = self.rule.max_uses();
        if self.charge == Charge::Take
            && let Some(lease) = lease
            && lease.look(max) == Taken::Unreserved
        {
            return Settled::Unreserved(self.want(lease));
        }
        if !*paid && let Err(denied) = self.limits(Register::Real) {
            return Settled::Refused(denied);
        }
        *paid = self.charge == Charge::Take;
        match (lease, self.charge) {
            (None, _) => Settled::Stands(None),
            (Some(lease), Charge::Look | Charge::Paid) => Settled::Stands(Some(self.leased(lease, lease.uses_left_under(max)))),
            (Some(lease), Charge::Take) => match lease.take(max) {
                Taken::Left(left) => {
                    if lease.runs_low(max) {
                        self.live.leases().want(self.want(lease));
                    }
                    Settled::Stands(Some(self.leased(lease, left)))
                }
                Taken::Spent | Taken::Unreserved => Settled::Raced,
            },
        }
    }

    /// In the twin register: nothing real is touched.
    pub(super) fn would_be(&self) -> Result<(), Denied> {
        let lease = self.lease()?;
        self.limits(Register::WouldBe)?;
        let max = self.rule.max_uses();
        match (lease, self.charge) {
            (Some(lease), Charge::Take) if !lease.would_take(max) => Err(self.without(Missing::Spent, Some(lease))),
            (Some(lease), Charge::Look) if !lease.would_look(max) => Err(self.without(Missing::Spent, Some(lease))),
            (Some(_) | None, _) => Ok(()),
        }
    }

    fn lease(&self) -> Result<Option<&'a Arc<Lease>>, Denied> {
        self.lease.transpose().map_err(|(why, lease)| self.without(why, lease))
    }

    fn limits(&self, register: Register) -> Result<(), Denied> {
        let Some(terms) = &self.rule.limits else { return Ok(()) };
        let (id, workload, now) = (&self.rule.name.id, &self.going.request().workload.id, self.going.now());
        let reached = match self.charge {
            Charge::Take => self.live.limits().charge(terms, id, workload, register, now),
            Charge::Look => self.live.limits().look(terms, id, workload, register, now),
            Charge::Paid => Ok(()),
        };
        reached.map_err(|reached| {
            let why = format!("its {} is reached ({terms}); another request can succeed in {:?}", reached.what.name(), reached.wait);
            Denied { wait: Some(reached.wait), why: Some(why.into()), ..self.denied(Code::Limited) }
        })
    }

    fn touched(&self, lease: Option<&'a Arc<Lease>>) -> Touched<'a> {
        let request = self.going.request();
        Touched {
            workload: &request.workload.id,
            upstream: &request.upstream.name,
            credential: self.rule.grant.as_ref().map(|terms| &*terms.profile.name),
            rule: Some(&self.rule.name.id),
            lease: lease.map(|lease| &*lease.id),
            grant: None,
        }
    }

    fn leased(&self, lease: &Arc<Lease>, uses_left: Option<u32>) -> Leased {
        let max_ttl = self.rule.lease.as_ref().and_then(|terms| terms.max_ttl);
        Leased { until: lease.until_under(max_ttl), lease: Arc::clone(lease), uses_left }
    }

    fn want(&self, lease: &Lease) -> Want {
        let rule = self.rule.max_uses().map(|max| (Arc::clone(&self.rule.name.id), max.most));
        Want { lease: Arc::clone(&lease.id), rule }
    }

    fn without(&self, missing: Missing, lease: Option<&Arc<Lease>>) -> Denied {
        let kind = self.rule.lease.as_ref().map_or("", |terms| &*terms.kind);
        let workload = &self.going.request().workload.id;
        let open = format!("`exeat lease open --workload {workload} --kind {kind} --ttl 20m` opens one");
        let (code, why) = match (missing, lease) {
            (Missing::Ended, Some(lease)) => (Code::LeaseEnded, format!("lease {} is over: {open}", lease.id)),
            (Missing::Spent, Some(lease)) => (Code::LeaseSpent, format!("lease {} has no uses left: {open}", lease.id)),
            (Missing::None | Missing::Ended | Missing::Spent, _) => {
                (Code::LeaseMissing, format!("it wants a lease of kind `{kind}` for this caller: {open}"))
            }
        };
        Denied { lease: lease.map(Arc::clone), why: Some(why.into()), ..self.denied(code) }
    }

    fn denied(&self, code: Code) -> Denied {
        Denied::by(code, Some(RuleRef::clone(&self.rule.name)))
    }
}
