//! `Decision`: what policy says of one request, with its reasons as ids; texts are built only when they are written down.

use std::sync::Arc;
use std::time::Duration;

use super::permit::Permit;
use crate::live::{Block, Lease, Want};
use crate::refusal::{Code, Refusal};

/// A rule, as records name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRef {
    /// `file-name-in-policy/rule-id`, as in `billing/create-charge`.
    pub id: Arc<str>,
    /// `billing.yaml:14:5`.
    pub place: Arc<str>,
    /// Who answers for it.
    pub owner: Arc<str>,
}

/// Why a request is refused by policy.
#[derive(Debug, Clone)]
#[must_use]
pub struct Denied {
    /// `denied`, `requirement`, `no_rule`, `ambiguous_path`, `revoked`, `lease_missing`, `lease_ended`, `lease_spent`, `limited`; `overloaded`
    /// where uses of a lease could not be reserved in time.
    pub code: Code,
    /// The rule that did it, where one did; of a revoked access the rule that would have allowed it.
    pub rule: Option<RuleRef>,
    /// What revoked it.
    pub block: Option<Arc<Block>>,
    /// The lease that it is about.
    pub lease: Option<Arc<Lease>>,
    /// When a limit lets another request through.
    pub wait: Option<Duration>,
    /// More than the code says, for the record.
    pub why: Option<Arc<str>>,
}

impl Denied {
    /// By a rule, or by none.
    pub(super) const fn by(code: Code, rule: Option<RuleRef>) -> Self {
        Self { code, rule, block: None, lease: None, wait: None, why: None }
    }

    /// The refusal with its internal line.
    pub fn refusal(&self) -> Refusal {
        if let Some(block) = &self.block {
            return revoked(block);
        }
        let why = self.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let refusal = match &self.rule {
            Some(rule) => Refusal::new(self.code, format!("rule {} at {} (owner {}){why}", rule.id, rule.place, rule.owner)),
            None if self.code == Code::AmbiguousPath => {
                Refusal::new(self.code, "the readings of the path are judged differently; `exeat policy explain` shows each")
            }
            None => Refusal::new(self.code, "no rule matches; `exeat policy explain` shows the nearest"),
        };
        match self.wait {
            Some(wait) => refusal.retry_after(wait),
            None => refusal,
        }
    }
}

/// The refusal of an access that a block stands against.
pub fn revoked(block: &Block) -> Refusal {
    let Block { target, reason, by, since, .. } = block;
    Refusal::new(Code::Revoked, format!("{target} was revoked at {since} by {by} ({reason}); `exeat restore {target}` lifts it"))
}

/// What would have happened if shadow rules (and the stage `enforce`) were in force.
#[derive(Debug, Clone)]
pub struct WouldBe {
    /// `Ok`: it would be allowed, by this rule.
    pub outcome: Result<RuleRef, Denied>,
    /// Differs from what was done.
    pub changed: bool,
}

/// One answer of policy.
#[derive(Debug)]
#[must_use]
pub struct Decision {
    /// What is done.
    pub outcome: Result<Permit, Denied>,
    /// What would be done; `None` when no shadow rule and no stage `observe` had a say.
    pub would_be: Option<WouldBe>,
    /// The lease has uses left and none of them is reserved: the same question can be asked again once they are.
    pub unreserved: Option<Want>,
}
