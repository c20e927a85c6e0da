//! `Decision`: what policy says of one request, with its reasons as ids; texts are built only when they are written down.

use std::sync::Arc;

use super::permit::Permit;
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
    /// `denied`, `requirement`, `no_rule`, `ambiguous_path`.
    pub code: Code,
    /// The rule that did it, where one did.
    pub rule: Option<RuleRef>,
}

impl Denied {
    /// The refusal with its internal line.
    pub fn refusal(&self) -> Refusal {
        match &self.rule {
            Some(rule) => Refusal::new(self.code, format!("rule {} at {} (owner {})", rule.id, rule.place, rule.owner)),
            None if self.code == Code::AmbiguousPath => {
                Refusal::new(self.code, "the readings of the path are judged differently; `exeat policy explain` shows each")
            }
            None => Refusal::new(self.code, "no rule matches; `exeat policy explain` shows the nearest"),
        }
    }
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
}
