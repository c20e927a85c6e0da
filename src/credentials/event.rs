//! `GrantEvent`: what happened to a grant, for the audit.

use std::sync::Arc;
use std::time::Duration;

use super::credential::{GrantId, IssueError};
use crate::clock::Timestamp;
use crate::identity::SpiffeId;
use crate::policy::GrantTerms;
use crate::secret::Fingerprint;

/// Why a grant was taken out of use before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The upstream answered 401 to it.
    Rejected,
    /// A reload removed or changed its definition.
    Reload,
    /// Somebody revoked it, or what it hangs on.
    Revoked,
    /// The lease that it was obtained under is over.
    Lease,
    /// Room was needed: the least recently used go first.
    Evicted,
}

impl Cause {
    /// The word in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Reload => "reload",
            Self::Revoked => "revoked",
            Self::Lease => "lease_ended",
            Self::Evicted => "evicted",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// A first issue.
    Issued {
        /// How long the issuer took.
        took: Duration,
    },
    /// A new issue in the place of a former one.
    Refreshed {
        /// The former grant.
        former: GrantId,
        /// How long the issuer took.
        took: Duration,
    },
    /// Taken out of use.
    Discarded {
        /// Why.
        cause: Cause,
    },
    /// Issued beside a request of an observed upstream, and thrown away.
    Rehearsed {
        /// How long the issuer took.
        took: Duration,
    },
    /// Could not have been had, had the upstream been enforced.
    RehearseFailed {
        /// Why.
        error: IssueError,
    },
    /// Not issued.
    Failed {
        /// Why.
        error: IssueError,
        /// Nobody asks the issuer again before.
        retry_at: Timestamp,
    },
}

impl Happening {
    /// The word in records.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Issued { .. } => "grant_issued",
            Self::Refreshed { .. } => "grant_refreshed",
            Self::Discarded { .. } => "grant_discarded",
            Self::Rehearsed { .. } => "rehearsed",
            Self::RehearseFailed { .. } => "rehearse_failed",
            Self::Failed { .. } => "grant_failed",
        }
    }
}

/// One event of one grant.
#[derive(Debug, Clone)]
pub struct GrantEvent {
    /// When.
    pub time: Timestamp,
    /// The grant; of a failed issue, the one that would have been.
    pub grant: GrantId,
    /// For whom.
    pub workload: SpiffeId,
    /// For which upstream.
    pub upstream: Arc<str>,
    /// On which terms.
    pub terms: Arc<GrantTerms>,
    /// Of the credential; `None` of a failed issue.
    pub fingerprint: Option<Fingerprint>,
    /// The credential's end by its own word.
    pub not_after: Option<Timestamp>,
    /// What happened.
    pub what: Happening,
}
