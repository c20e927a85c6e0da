//! `Shares`: how many passages of each workload live, so that one cannot have all the audit slots.
//!
//! Every request is counted, and no worker waits for another's count: each has one of its own for each workload, which it alone writes.
//! They are added up only where slots are scarce.

use std::cell::RefCell;
use std::rc;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustc_hash::FxHashMap;

use crate::identity::SpiffeId;

/// Of all workers.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<FxHashMap<SpiffeId, Vec<Weak<AtomicUsize>>>>);

impl Shares {
    /// Passages of this workload that live.
    pub(super) fn live(&self, id: &SpiffeId) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(id).into_iter().flatten().filter_map(Weak::upgrade).map(|count| count.load(Relaxed)).sum()
    }

    fn join(&self, id: &SpiffeId) -> Arc<AtomicUsize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == all.capacity() {
            all.retain(|_, counts| counts.iter().any(|count| count.strong_count() > 0));
        }
        let counts = all.entry(id.clone()).or_default();
        counts.retain(|count| count.strong_count() > 0);
        let count = Arc::new(AtomicUsize::new(0));
        counts.push(Arc::downgrade(&count));
        count
    }
}

/// Of one worker: of each workload that has a connection.
#[derive(Debug, Default)]
pub(super) struct OwnShares(RefCell<FxHashMap<SpiffeId, rc::Weak<Share>>>);

impl OwnShares {
    /// This workload's on this worker.
    pub(super) fn of(&self, id: &SpiffeId, shares: &Shares) -> Rc<Share> {
        let mut own = self.0.borrow_mut();
        if let Some(share) = own.get(id).and_then(rc::Weak::upgrade) {
            return share;
        }
        if own.len() == own.capacity() {
            own.retain(|_, share| share.strong_count() > 0);
        }
        let share = Rc::new(Share { id: id.clone(), live: shares.join(id) });
        own.insert(id.clone(), Rc::downgrade(&share));
        share
    }
}

/// Passages of one workload that live on one worker.
#[derive(Debug)]
pub(super) struct Share {
    id: SpiffeId,
    live: Arc<AtomicUsize>,
}

impl Share {
    pub(super) const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// One more. No other thread writes: a load and a store do, where an addition that others may race with would cost more.
    pub(super) fn begins(&self) {
        self.live.store(self.live.load(Relaxed) + 1, Relaxed);
    }

    /// One less.
    pub(super) fn ends(&self) {
        self.live.store(self.live.load(Relaxed).saturating_sub(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://prod.example/ns/x/sa/{number}")).unwrap()
    }

    #[test]
    fn what_lives_on_all_workers_is_added_up_for_each_workload() {
        let (shares, one, two) = (Shares::default(), OwnShares::default(), OwnShares::default());
        let (here, there, other) = (one.of(&id(1), &shares), two.of(&id(1), &shares), one.of(&id(2), &shares));
        for share in [&here, &there, &there, &other] {
            share.begins();
        }
        assert!(Rc::ptr_eq(&here, &one.of(&id(1), &shares)));
        assert_eq!((shares.live(&id(1)), shares.live(&id(2)), shares.live(&id(3))), (3, 1, 0));
        there.ends();
        drop(here);
        assert_eq!(shares.live(&id(1)), 1, "a worker that has none of its connections has none of its passages");
    }

    #[test]
    fn workloads_that_are_gone_are_forgotten() {
        let (shares, own) = (Shares::default(), OwnShares::default());
        for number in 0..10_000 {
            own.of(&id(number), &shares).begins();
            own.of(&id(0), &shares).begins();
        }
        assert!(shares.0.lock().unwrap().len() < 100 && own.0.borrow().len() < 100);
        assert!(shares.0.lock().unwrap().values().all(|counts| counts.len() <= 1));
    }
}
