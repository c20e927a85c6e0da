//! `Going`: which lease a request goes by under a rule, and what conditions see of it.

use std::sync::Arc;

use super::request::AccessRequest;
use super::rule::Rule;
use crate::capture::Peer;
use crate::clock::Timestamp;
use crate::live::{Claim, LEASE_HEADER, Lease, Leases, Missing, Named};

/// A lease, or why there is none and the lease that it is about.
pub(super) type Found<'a> = Result<&'a Arc<Lease>, (Missing, Option<&'a Arc<Lease>>)>;

/// The leases of one moment, as one request can use them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Going<'a> {
    request: &'a AccessRequest<'a>,
    leases: &'a Leases,
    claim: Claim<'a>,
    /// It was let through before: what it has used up is not held against it.
    again: bool,
}

impl<'a> Going<'a> {
    /// A request that is judged for the first time.
    pub(super) fn new(request: &'a AccessRequest<'a>, leases: &'a Leases, now: Timestamp) -> Self {
        let uid = match request.peer {
            Peer::Tcp { uid, .. } => *uid,
            Peer::Unix { uid, .. } => Some(*uid),
        };
        let mut all = request.parts.headers.iter().filter(|(name, _)| *name == LEASE_HEADER).map(|(_, value)| value);
        let named = match (all.next().map(|value| value.to_str()), all.next()) {
            (None, _) => Named::No,
            (Some(Ok(id)), None) => Named::Id(id),
            (Some(_), _) => Named::Unclear,
        };
        let pod = request.workload.attestation.pod();
        Self { request, leases, claim: Claim { workload: &request.workload.id, uid, pod, named, now }, again: false }
    }

    /// A passage under way that went by this lease.
    pub(super) fn again(self, held: Option<&'a str>) -> Self {
        match held {
            Some(id) => Self { claim: Claim { named: Named::Id(id), ..self.claim }, again: true, ..self },
            None => self,
        }
    }

    pub(super) const fn request(&self) -> &'a AccessRequest<'a> {
        self.request
    }

    pub(super) const fn now(&self) -> Timestamp {
        self.claim.now
    }

    /// The lease for a rule that wants one; `None` for one that does not.
    pub(super) fn under(&self, rule: &Rule) -> Option<Found<'a>> {
        let terms = rule.lease.as_ref()?;
        Some(match self.leases.choose(&self.claim, terms, &rule.name.id) {
            Err((Missing::Spent, Some(lease))) if self.again => Ok(lease),
            found => found,
        })
    }

    /// The lease that a rule's condition reads: the one that the rule goes by, also when it is spent; of a rule without `lease`, the live
    /// one that ends soonest.
    pub(super) fn seen_by(&self, rule: &Rule) -> Option<&'a Lease> {
        match self.under(rule) {
            None => self.leases.soonest(&self.claim).map(AsRef::as_ref),
            Some(Ok(lease) | Err((Missing::Spent, Some(lease)))) => Some(lease),
            Some(Err(_)) => None,
        }
    }

    /// Uses left, if they are counted. Whoever was let through had one.
    pub(super) fn uses_left(&self, lease: &Lease) -> Option<u32> {
        lease.uses_left().map(|left| if self.again { left.max(1) } else { left })
    }
}
