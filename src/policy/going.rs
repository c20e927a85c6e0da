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
    now: Timestamp,
    /// It was let through before by this lease: what it has used up is not held against it.
    held: Option<&'a str>,
}

impl<'a> Going<'a> {
    /// A request that is judged for the first time.
    pub(super) const fn new(request: &'a AccessRequest<'a>, leases: &'a Leases, now: Timestamp) -> Self {
        Self { request, leases, now, held: None }
    }

    /// A passage under way that went by this lease.
    pub(super) const fn again(self, held: Option<&'a str>) -> Self {
        Self { held, ..self }
    }

    pub(super) const fn request(&self) -> &'a AccessRequest<'a> {
        self.request
    }

    pub(super) const fn now(&self) -> Timestamp {
        self.now
    }

    /// What the request says of leases: read only when a rule wants one.
    fn claim(&self) -> Claim<'a> {
        let uid = match self.request.peer {
            Peer::Tcp { uid, .. } => *uid,
            Peer::Unix { uid, .. } => Some(*uid),
        };
        let workload = self.request.workload;
        Claim { workload: &workload.id, uid, pod: workload.attestation.pod(), named: self.named(), now: self.now }
    }

    fn named(&self) -> Named<'a> {
        if let Some(id) = self.held {
            return Named::Id(id);
        }
        let mut all = self.request.parts.headers.iter().filter(|(name, _)| *name == LEASE_HEADER).map(|(_, value)| value);
        match (all.next().map(|value| value.to_str()), all.next()) {
            (None, _) => Named::No,
            (Some(Ok(id)), None) => Named::Id(id),
            (Some(_), _) => Named::Unclear,
        }
    }

    /// The lease for a rule that wants one; `None` for one that does not.
    pub(super) fn under(&self, rule: &Rule) -> Option<Found<'a>> {
        let terms = rule.lease.as_ref()?;
        Some(match self.leases.choose(&self.claim(), terms, &rule.name.id) {
            Err((Missing::Spent, Some(lease))) if self.held.is_some() => Ok(lease),
            found => found,
        })
    }

    /// The lease that a rule's condition reads: the one that the rule goes by, also when it is spent; of a rule without `lease`, the live
    /// one that ends soonest.
    pub(super) fn seen_by(&self, rule: &Rule) -> Option<&'a Lease> {
        match self.under(rule) {
            None => self.leases.soonest(&self.claim()).map(AsRef::as_ref),
            Some(Ok(lease) | Err((Missing::Spent, Some(lease)))) => Some(lease),
            Some(Err(_)) => None,
        }
    }

    /// Uses left, if they are counted. Whoever was let through had one.
    pub(super) fn uses_left(&self, lease: &Lease) -> Option<u32> {
        lease.uses_left().map(|left| if self.held.is_some() { left.max(1) } else { left })
    }
}
