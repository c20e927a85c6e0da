//! `Permit`: the proof that policy let one request through. Only this room can make one.

use std::sync::Arc;
use std::time::Duration;

use super::decision::RuleRef;
use crate::catalogue::{Profile, Upstream};
use crate::clock::Timestamp;
use crate::identity::Workload;

/// What a rule's `grant` asks the broker for: the profile, narrowed.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct GrantTerms {
    /// The credential definition.
    pub profile: Arc<Profile>,
    /// The scopes of this grant, sorted: a subset of the profile's; `None` where the kind knows none.
    pub scopes: Option<Arc<[Arc<str>]>>,
    /// At most the profile's.
    pub ttl: Duration,
}

/// What is to be done with a permitted request: the only place that knows of stages and shadows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Pass with what the application sent (upstream stage `observe`): nothing is stripped, nothing is injected.
    AsIs,
    /// Stripped, and nothing in its place (`grant: none`, tunnels).
    Bare,
    /// Stripped, and the credential of these terms in its place.
    Swap(Arc<GrantTerms>),
}

/// Proof that policy let one request through, and on which terms.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    pub(super) workload: Arc<Workload>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) plan: Plan,
    pub(super) rehearsal: Option<Arc<GrantTerms>>,
    pub(super) rule: Option<RuleRef>,
    pub(super) until: Option<Timestamp>,
}

impl Permit {
    /// Who may.
    #[must_use]
    pub const fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    /// Where.
    #[must_use]
    pub const fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// What to do.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What would be put on if the upstream were enforced, to be obtained beside the request and thrown away; only where the upstream
    /// rehearses, and its plan is then [`Plan::AsIs`].
    #[must_use]
    pub const fn rehearsal(&self) -> Option<&Arc<GrantTerms>> {
        self.rehearsal.as_ref()
    }

    /// The rule that allowed it; `None` when the stage did.
    #[must_use]
    pub const fn rule(&self) -> Option<&RuleRef> {
        self.rule.as_ref()
    }

    /// When the rule expires or its window ends: a live passage ends then.
    #[must_use]
    pub const fn until(&self) -> Option<Timestamp> {
        self.until
    }
}
