//! `Leases`: all leases of one moment, and which of them a request goes by.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::lease::{Lease, LeaseTerms, MaxUses, Missing};
use crate::clock::Timestamp;
use crate::identity::SpiffeId;

/// The lease that a caller names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// None: exeat finds it.
    No,
    /// This one and no other.
    Id(&'a str),
    /// More than one, or no text: no lease is meant for certain.
    Unclear,
}

/// All leases of one moment.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    by_id: FxHashMap<Arc<str>, Arc<Lease>>,
    by_workload: FxHashMap<SpiffeId, Vec<Arc<Lease>>>,
}

/// What a request must show to go by a lease.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Who asks.
    pub workload: &'a SpiffeId,
    /// The uid of its process, where the transport proves it.
    pub uid: Option<u32>,
    /// The uid of its Kubernetes pod, where its identity proves one.
    pub pod: Option<&'a str>,
    /// The lease that it names.
    pub named: Named<'a>,
    /// When.
    pub now: Timestamp,
}

impl Leases {
    /// None is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// How many are held, ended ones too.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// How many are live.
    #[must_use]
    pub fn live(&self, now: Timestamp) -> usize {
        self.by_id.values().filter(|lease| lease.is_live(now)).count()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Lease>> {
        self.by_id.get(id)
    }

    /// All, by their ends and names.
    #[must_use]
    pub fn all(&self) -> Vec<&Arc<Lease>> {
        let mut all: Vec<_> = self.by_id.values().collect();
        all.sort_by(|a, b| (a.until, &a.id).cmp(&(b.until, &b.id)));
        all
    }

    /// All of one workload.
    pub fn of(&self, workload: &SpiffeId) -> impl Iterator<Item = &Arc<Lease>> {
        self.by_workload.get(workload).into_iter().flatten()
    }

    /// Adds one, or puts it in the place of its former version.
    pub(super) fn put(&mut self, lease: Lease) {
        self.remove(&Arc::clone(&lease.id));
        let lease = Arc::new(lease);
        self.by_workload.entry(lease.workload.clone()).or_default().push(Arc::clone(&lease));
        self.by_id.insert(Arc::clone(&lease.id), lease);
    }

    pub(super) fn remove(&mut self, id: &str) {
        let Some(lease) = self.by_id.remove(id) else { return };
        if let Some(own) = self.by_workload.get_mut(&lease.workload) {
            own.retain(|known| known.id != lease.id);
            if own.is_empty() {
                self.by_workload.remove(&lease.workload);
            }
        }
    }

    /// The lease that a request goes by under a rule: the one that it names and no other; else, of the rule's kind and for this caller, the
    /// live one with uses left that ends soonest (of two that end together, the one whose name comes first).
    ///
    /// # Errors
    /// Why there is none, and the lease that it is about.
    pub fn choose(&self, claim: &Claim<'_>, terms: &LeaseTerms, rule: &str) -> Result<&Arc<Lease>, (Missing, Option<&Arc<Lease>>)> {
        let max = terms.max_uses.map(|most| MaxUses { rule, most });
        let fits = |lease: &Lease| lease.kind == terms.kind && terms.are_bound(lease) && claim.fits(lease);
        let judge = |lease: &Lease| {
            if lease.ended.is_some() || lease.until_under(terms.max_ttl) <= claim.now {
                Standing::Ended
            } else if lease.uses_left_under(max) == Some(0) {
                Standing::Spent
            } else {
                Standing::Usable
            }
        };
        let mine = self.mine(claim).filter(|lease| fits(lease));
        let best = mine.map(|lease| (judge(lease), lease.until_under(terms.max_ttl), lease)).min_by(|a, b| {
            // Of those that are over, the last one tells most.
            let by_end = if a.0 == Standing::Ended { b.1.cmp(&a.1) } else { a.1.cmp(&b.1) };
            a.0.cmp(&b.0).then(by_end).then_with(|| a.2.id.cmp(&b.2.id))
        });
        match best {
            None => Err((Missing::None, None)),
            Some((Standing::Usable, _, lease)) => Ok(lease),
            Some((Standing::Spent, _, lease)) => Err((Missing::Spent, Some(lease))),
            Some((Standing::Ended, _, lease)) => Err((Missing::Ended, Some(lease))),
        }
    }

    /// The lease that conditions see where the rule names no kind: the one that is named, else the live one of the caller that ends
    /// soonest.
    #[must_use]
    pub fn soonest(&self, claim: &Claim<'_>) -> Option<&Arc<Lease>> {
        let live = self.mine(claim).filter(|lease| claim.fits(lease) && lease.is_live(claim.now));
        live.min_by(|a, b| (a.until, &a.id).cmp(&(b.until, &b.id)))
    }

    fn mine(&self, claim: &Claim<'_>) -> impl Iterator<Item = &Arc<Lease>> {
        let (named, own) = match claim.named {
            Named::Id(id) => (self.by_id.get(id), None),
            Named::No => (None, self.by_workload.get(claim.workload)),
            Named::Unclear => (None, None),
        };
        named.into_iter().chain(own.into_iter().flatten())
    }
}

impl Claim<'_> {
    /// Whether the lease is this caller's.
    fn fits(&self, lease: &Lease) -> bool {
        lease.workload == *self.workload
            && lease.uid.is_none_or(|uid| self.uid == Some(uid))
            && lease.pod_uid.as_deref().is_none_or(|uid| self.pod == Some(uid))
    }
}

impl LeaseTerms {
    /// Whether the lease is bound to all that the rule wants it bound to.
    fn are_bound(&self, lease: &Lease) -> bool {
        (!self.uid || lease.uid.is_some()) && (!self.pod || lease.pod_uid.is_some())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Usable,
    Spent,
    Ended,
}
