//! The hit path: what one worker thread has already been given, found by address and checked against the broker's epoch. It takes no
//! lock and shares no cache line that is written to but the credential's own count.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::credential::Credential;
use super::definition::Definition;
use crate::catalogue::Upstream;
use crate::clock::Timestamp;
use crate::identity::Workload;
use crate::live::Lease;
use crate::policy::GrantTerms;

/// Most entries of one worker; a full cache is emptied and fills again from the broker.
const MOST: usize = 1_024;

/// What a request asks for, as the request holds it.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub workload: &'a Arc<Workload>,
    pub upstream: &'a Arc<Upstream>,
    pub terms: &'a Arc<GrantTerms>,
    pub definition: &'a Arc<Definition>,
    pub lease: Option<&'a Arc<Lease>>,
}

type Address = [usize; 5];

impl Ask<'_> {
    fn address(&self) -> Address {
        let thin = |pointer: *const ()| pointer as usize;
        [
            thin(Arc::as_ptr(self.workload).cast()),
            thin(Arc::as_ptr(self.upstream).cast()),
            thin(Arc::as_ptr(self.terms).cast()),
            thin(Arc::as_ptr(self.definition).cast()),
            self.lease.map_or(0, |lease| thin(Arc::as_ptr(lease).cast())),
        ]
    }
}

type Alive = ((Arc<Workload>, Arc<Upstream>), (Arc<GrantTerms>, Arc<Definition>), Option<Arc<Lease>>);

struct Entry {
    credential: Arc<Credential>,
    /// Within these it is served without asking the broker: a clock that was set back is outside as well.
    life: Range<Timestamp>,
    /// Held so that no other value can take an address that stands in the key.
    _alive: Alive,
}

struct WorkerCache {
    broker: u64,
    epoch: u64,
    entries: FxHashMap<Address, Entry>,
}

thread_local! {
    static CACHE: RefCell<WorkerCache> =
        const { RefCell::new(WorkerCache { broker: 0, epoch: 0, entries: FxHashMap::with_hasher(rustc_hash::FxBuildHasher) }) };
}

/// What this thread was given under this epoch of this broker and may still use.
pub(super) fn find(broker: u64, epoch: u64, ask: Ask<'_>, now: Timestamp) -> Option<Arc<Credential>> {
    CACHE.with_borrow_mut(|cache| {
        if cache.epoch != epoch || cache.broker != broker {
            // Everything goes, also what is still good: it is refound at the broker, and nothing discarded stays in memory.
            cache.entries.clear();
            (cache.broker, cache.epoch) = (broker, epoch);
            return None;
        }
        let entry = cache.entries.get(&ask.address())?;
        entry.life.contains(&now).then(|| Arc::clone(&entry.credential))
    })
}

/// Remembers what the broker gave under `epoch`, which was read before the broker was asked.
pub(super) fn remember(broker: u64, epoch: u64, ask: Ask<'_>, credential: &Arc<Credential>, life: Range<Timestamp>) {
    CACHE.with_borrow_mut(|cache| {
        if cache.epoch != epoch || cache.broker != broker {
            return;
        }
        if cache.entries.len() >= MOST {
            cache.entries.clear();
        }
        let alive = (
            (Arc::clone(ask.workload), Arc::clone(ask.upstream)),
            (Arc::clone(ask.terms), Arc::clone(ask.definition)),
            ask.lease.map(Arc::clone),
        );
        cache.entries.insert(ask.address(), Entry { credential: Arc::clone(credential), life, _alive: alive });
    });
}
