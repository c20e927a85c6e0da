//! `Permit`: the proof that policy let one request through. Only this room can make one.

use std::sync::Arc;
use std::time::Duration;

use super::decision::RuleRef;
use crate::catalogue::{Profile, Upstream};
use crate::clock::Timestamp;
use crate::identity::Workload;
use crate::live::{Lease, Live, Touched};
use crate::refusal::{Code, Refusal};

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

/// The lease that a request goes by.
#[derive(Debug, Clone)]
pub struct Leased {
    /// Which.
    pub lease: Arc<Lease>,
    /// When it is over for the rule that let the request through.
    pub until: Timestamp,
    /// Uses left after this one, if they are counted.
    pub uses_left: Option<u32>,
}

impl Leased {
    /// For the record of a request that was refused because of this lease.
    #[must_use]
    pub fn refused(lease: &Arc<Lease>) -> Self {
        Self { until: lease.until, uses_left: lease.uses_left(), lease: Arc::clone(lease) }
    }
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
    /// Of the rule: its end, its window's, and how old a lease it takes.
    pub(super) until: Option<Timestamp>,
    pub(super) lease: Option<Leased>,
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

    /// What a block may stand against.
    #[must_use]
    pub fn touched(&self) -> Touched<'_> {
        Touched {
            workload: &self.workload.id,
            upstream: &self.upstream.name,
            credential: match &self.plan {
                Plan::Swap(terms) => Some(&terms.profile.name),
                Plan::AsIs | Plan::Bare => None,
            },
            rule: self.rule.as_ref().map(|rule| &*rule.id),
            lease: self.lease.as_ref().map(|leased| &*leased.lease.id),
            grant: None,
        }
    }

    /// The lease that it goes by.
    #[must_use]
    pub const fn lease(&self) -> Option<&Leased> {
        self.lease.as_ref()
    }

    /// When the rule expires, its window ends or the lease is over, as it is now: a live passage ends then.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        [self.until, self.lease.as_ref().map(|leased| leased.until)].into_iter().flatten().min()
    }

    /// The same without the end of the lease itself, which a renewal moves and [`Permit::lease_stands`] knows.
    #[must_use]
    pub const fn until_by_rule(&self) -> Option<Timestamp> {
        self.until
    }

    /// Whether the lease that it goes by still is, in its version of now.
    ///
    /// # Errors
    /// `lease_ended`.
    pub fn lease_stands(&self, live: &Live, now: Timestamp) -> Result<(), Refusal> {
        let Some(leased) = &self.lease else { return Ok(()) };
        if live.leases().leases().get(&leased.lease.id).is_some_and(|lease| lease.is_live(now)) {
            return Ok(());
        }
        Err(Refusal::new(Code::LeaseEnded, format!("lease {} ended while this request was under way", leased.lease.id)))
    }
}
