//! `Broker`: one per process, called by every worker. It finds, or has issued, the credential of a permit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::credential::{Credential, GrantId, IssueError};
use super::definition::{Definitions, Digest};
use super::event::{Cause, GrantEvent, Happening};
use super::rehearsal::{Rehearsal, Stages};
use super::slot::{Discard, Flight, Key, Landed, Next, Slot, Under, after};
use super::worker_cache::{self, Ask};
use super::{flight, rehearsal};
use crate::clock::{Clock, Timestamp};
use crate::identity::SpiffeId;
use crate::policy::{GrantTerms, Permit, Plan};
use crate::secret::FingerprintKey;

/// A worker asks the shared table again after this, so that a renewed credential reaches all workers soon.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Bounds of the broker.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most keys held; the least recently used go first.
    pub entries: usize,
    /// Longest wait for an issue.
    pub obtain: Duration,
    /// Most grant events that wait for the audit. When it is full, issuing waits: no grant without a record.
    pub events: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000, obtain: Duration::from_secs(5), events: 1_024 }
    }
}

/// One grant in use, as [`Broker::discard_where`] shows it.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// Its name.
    pub id: &'a GrantId,
    /// For whom.
    pub workload: &'a SpiffeId,
    /// For which upstream.
    pub upstream: &'a str,
    /// On which terms.
    pub terms: &'a GrantTerms,
    /// The lease that it was obtained under.
    pub lease: Option<&'a str>,
}

/// A grant that was taken out of use.
#[derive(Debug, Clone)]
pub struct Discarded {
    /// The credential, for whoever can have it revoked.
    pub credential: Arc<Credential>,
    /// For whom it was.
    pub workload: SpiffeId,
    /// For which upstream.
    pub upstream: Arc<str>,
    /// The definition that it was issued under.
    pub definition: Digest,
}

/// The one place where credentials are kept; see the room's door.
pub struct Broker(pub(super) Arc<Inner>);

pub(super) struct Inner {
    id: u64,
    /// Moves on each discard: what workers remember from before is void.
    epoch: AtomicU64,
    pub table: Mutex<FxHashMap<Key, Slot>>,
    pub stages: Stages,
    pub clock: Arc<dyn Clock>,
    pub household: Handle,
    pub fingerprints: Arc<FingerprintKey>,
    pub events: mpsc::Sender<GrantEvent>,
    lost_events: AtomicU64,
    pub limits: Limits,
}

impl Broker {
    /// A broker whose issues run on `household`, never on a worker. The receiver must be drained: issuing stops while it is full.
    #[must_use]
    pub fn new(
        clock: Arc<dyn Clock>,
        household: Handle,
        fingerprints: Arc<FingerprintKey>,
        limits: Limits,
    ) -> (Self, mpsc::Receiver<GrantEvent>) {
        static BROKERS: AtomicU64 = AtomicU64::new(1);
        let (events, receiver) = mpsc::channel(limits.events.max(1));
        let inner = Inner {
            id: BROKERS.fetch_add(1, Ordering::Relaxed),
            epoch: AtomicU64::new(1),
            table: Mutex::default(),
            stages: Stages::default(),
            clock,
            household,
            fingerprints,
            events,
            lost_events: AtomicU64::new(0),
            limits,
        };
        (Self(Arc::new(inner)), receiver)
    }

    /// The credential of a permit, where there is a good one: no wait, and no lock on the usual way. Renews behind it when that is due.
    #[must_use]
    pub fn cached(&self, permit: &Permit, definitions: &Definitions, now: Timestamp) -> Option<Arc<Credential>> {
        self.cached_for(ask(permit, definitions).ok()?, now)
    }

    /// The credential of a permit, issued if need be; all who wait for one key wait for one issue.
    ///
    /// # Errors
    /// [`IssueError`]; also after the deadline, and at once while a recent failure stands.
    pub async fn obtain(&self, permit: &Permit, definitions: &Definitions) -> Result<Arc<Credential>, IssueError> {
        self.obtain_for(ask(permit, definitions)?).await
    }

    /// An upstream answered 401 to this credential of this permit.
    pub fn discard(&self, permit: &Permit, definitions: &Definitions, used: &Credential, now: Timestamp) -> Discard {
        match ask(permit, definitions) {
            Ok(ask) => self.discard_for(ask, used, now),
            Err(_) => Discard::Superseded,
        }
    }

    /// A reload happened: what was issued under definitions that vanished or changed goes out of use. The number of grants discarded.
    #[expect(clippy::must_use_candidate, reason = "called for what it does; the count is for the log")]
    pub fn reloaded(&self, definitions: &Definitions) -> usize {
        let current = |key: &Key| definitions.get(&key.terms.profile.name).is_some_and(|definition| definition.digest == key.definition);
        self.0.stages.retain(current);
        self.0.sweep(Cause::Reload, |key, _| current(key)).len()
    }

    /// Takes every grant that `doomed` names out of use; issues under way for it end in vain. `doomed` must not call the broker. What
    /// was discarded.
    pub fn discard_where(&self, cause: Cause, doomed: impl Fn(Grant<'_>) -> bool) -> Vec<Discarded> {
        // The name of a grant that is still being issued is not known here: an empty one stands for it.
        let unknown = GrantId(Arc::from(""));
        self.0.sweep(cause, |key, slot| {
            let id = slot.held.as_ref().map_or(&unknown, |held| &held.credential.grant);
            !doomed(Grant { id, workload: &key.workload, upstream: &key.upstream.name, terms: &key.terms, lease: key.lease_id() })
        })
    }

    /// Rehearses what a permit would have put on, if it is time to: at most one at a time and one a second for an upstream, and seldom
    /// again what was had already. Costs a look at a table that nobody waits for; the issue itself runs beside all requests, its result is
    /// in no cache and is thrown away.
    pub fn rehearse(&self, permit: &Permit, definitions: &Definitions, now: Timestamp) {
        let Some(terms) = permit.rehearsal() else { return };
        let Some(definition) = definitions.get(&terms.profile.name) else { return };
        // Whatever lease the request would go by: a rehearsal shows whether the issuer gives it, and is thrown away.
        let ask = Ask { workload: permit.workload(), upstream: permit.upstream(), terms, definition, lease: None };
        rehearsal::rehearse(&self.0, ask, now);
    }

    /// How the rehearsals of an upstream went, by credential and workload.
    #[must_use]
    pub fn rehearsals(&self, upstream: &str) -> Vec<Rehearsal> {
        self.0.stages.report(upstream)
    }

    /// Keys held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.table().len()
    }

    /// Whether no key is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Discards whose event found the queue full (issues never do: they wait).
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.0.lost_events.load(Ordering::Relaxed)
    }

    pub(super) fn cached_for(&self, ask: Ask<'_>, now: Timestamp) -> Option<Arc<Credential>> {
        // Read before the table is: a discard in between leaves what we then remember under an epoch that is over.
        let epoch = self.0.epoch.load(Ordering::Acquire);
        if let Some(found) = worker_cache::find(self.0.id, epoch, ask, now) {
            return Some(found);
        }
        let key = key(ask);
        let mut table = self.0.table();
        let slot = table.get_mut(&key)?;
        let (credential, renew) = match slot.next(now) {
            Next::Serve(credential) => (credential, None),
            Next::ServeAndRenew(credential) => (credential, Some(flight::prepare(slot))),
            Next::Join(_) | Next::Fly | Next::Fail(_) => return None,
        };
        let held = slot.held.as_ref()?;
        // Between the time of renewal and its arrival the broker is asked once a second, not by each request.
        let quiet = held.quiet_until();
        let until = if now < quiet { quiet } else { after(now, LOOK_AGAIN).min(held.usable_until) };
        let life = held.usable_from()..until;
        drop(table);
        if let Some(flight) = renew {
            flight::start(&self.0, key, Arc::clone(ask.definition), flight);
        }
        worker_cache::remember(self.0.id, epoch, ask, &credential, life);
        Some(credential)
    }

    pub(super) async fn obtain_for(&self, ask: Ask<'_>) -> Result<Arc<Credential>, IssueError> {
        let now = self.0.clock.now();
        if let Some(found) = self.cached_for(ask, now) {
            return Ok(found);
        }
        let flight = {
            let key = key(ask);
            let mut table = self.0.table();
            if !table.contains_key(&key) {
                self.0.make_room(&mut table, now, &ask.terms.profile.name)?;
            }
            let slot = table.entry(key.clone()).or_insert_with(|| Slot::new(now));
            match slot.next(now) {
                Next::Serve(credential) | Next::ServeAndRenew(credential) => return Ok(credential),
                Next::Fail(error) => return Err(error),
                Next::Join(flight) => flight,
                Next::Fly => {
                    let flight = flight::prepare(slot);
                    drop(table);
                    flight::start(&self.0, key, Arc::clone(ask.definition), Arc::clone(&flight));
                    flight
                }
            }
        };
        wait_for(&flight, self.0.limits.obtain, &ask.terms.profile.name).await
    }

    pub(super) fn discard_for(&self, ask: Ask<'_>, used: &Credential, now: Timestamp) -> Discard {
        let key = key(ask);
        let mut table = self.0.table();
        let Some(slot) = table.get_mut(&key) else { return Discard::Superseded };
        let said = slot.rejected(used, now);
        if said == Discard::Discarded {
            self.0.next_epoch();
        }
        drop(table);
        if said == Discard::Discarded {
            self.0.tell(event(&key, now, used, Happening::Discarded { cause: Cause::Rejected }));
        }
        said
    }
}

impl Inner {
    pub(super) fn table(&self) -> MutexGuard<'_, FxHashMap<Key, Slot>> {
        // Every critical section leaves the table whole at each point where it could unwind.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Voids what workers remember. Called with the table locked, after the removal.
    pub(super) fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Tells an event that nobody can wait for; a full queue costs a counter.
    pub(super) fn tell(&self, event: GrantEvent) {
        if self.events.try_send(event).is_err() {
            self.lost_events.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sweep(&self, cause: Cause, keep: impl Fn(&Key, &Slot) -> bool) -> Vec<Discarded> {
        let now = self.clock.now();
        let mut gone = Vec::new();
        let mut table = self.table();
        table.retain(|key, slot| {
            if keep(key, slot) {
                return true;
            }
            if cause != Cause::Reload {
                slot.withdraw();
            }
            if let Some(held) = slot.held.take() {
                gone.push((key.clone(), held.credential));
            }
            false
        });
        self.next_epoch();
        drop(table);
        let told = gone.into_iter().map(|(key, credential)| {
            self.tell(event(&key, now, &credential, Happening::Discarded { cause }));
            Discarded { credential, workload: key.workload, upstream: Arc::clone(&key.upstream.name), definition: key.definition }
        });
        told.collect()
    }

    /// Makes room for one more key: what is over first, then a tenth of all by least recent use.
    fn make_room(&self, table: &mut FxHashMap<Key, Slot>, now: Timestamp, credential: &Arc<str>) -> Result<(), IssueError> {
        if table.len() < self.limits.entries {
            return Ok(());
        }
        table.retain(|_, slot| !slot.is_idle(now));
        let excess = table.len().saturating_sub(self.limits.entries - self.limits.entries.div_ceil(10).min(self.limits.entries));
        if excess > 0 {
            let mut ages: Vec<Timestamp> = table.values().filter(|slot| slot.flight.is_none()).map(|slot| slot.used).collect();
            let Some(last) = excess.min(ages.len()).checked_sub(1) else {
                let why = "as many credentials as may be held are being issued at this moment; retry later".into();
                return Err(IssueError::Unavailable { credential: Arc::clone(credential), why });
            };
            let (_, &mut oldest, _) = ages.select_nth_unstable(last);
            let mut left = last + 1;
            table.retain(|key, slot| {
                if left == 0 || slot.flight.is_some() || slot.used > oldest {
                    return true;
                }
                left -= 1;
                if let Some(held) = slot.held.take() {
                    self.tell(event(key, now, &held.credential, Happening::Discarded { cause: Cause::Evicted }));
                }
                false
            });
        }
        Ok(())
    }
}

/// What a permit asks for; nothing where its plan is not a swap.
fn ask<'a>(permit: &'a Permit, definitions: &'a Definitions) -> Result<Ask<'a>, IssueError> {
    let Plan::Swap(terms) = permit.plan() else {
        let why = "the permit asks for none".into();
        return Err(IssueError::Unavailable { credential: Arc::from("none"), why });
    };
    let Some(definition) = definitions.get(&terms.profile.name) else {
        let why = "the configuration that judged this request does not define it".into();
        return Err(IssueError::Unavailable { credential: Arc::clone(&terms.profile.name), why });
    };
    let lease = permit.lease().map(|leased| &leased.lease);
    Ok(Ask { workload: permit.workload(), upstream: permit.upstream(), terms, definition, lease })
}

pub(super) fn key(ask: Ask<'_>) -> Key {
    Key {
        workload: ask.workload.id.clone(),
        upstream: Arc::clone(ask.upstream),
        definition: ask.definition.digest,
        terms: Arc::clone(ask.terms),
        lease: ask.lease.map(|lease| Under { id: Arc::clone(&lease.id), until: lease.until }),
    }
}

/// The event of a grant that exists.
pub(super) fn event(key: &Key, time: Timestamp, credential: &Credential, what: Happening) -> GrantEvent {
    GrantEvent {
        time,
        grant: credential.grant.clone(),
        workload: key.workload.clone(),
        upstream: Arc::clone(&key.upstream.name),
        terms: Arc::clone(&key.terms),
        fingerprint: Some(credential.fingerprint),
        not_after: credential.not_after,
        what,
    }
}

async fn wait_for(flight: &Flight, deadline: Duration, credential: &Arc<str>) -> Landed {
    let mut outcome: watch::Receiver<Option<Landed>> = flight.outcome.subscribe();
    let unavailable = |why: &str| IssueError::Unavailable { credential: Arc::clone(credential), why: why.into() };
    match tokio::time::timeout(deadline, outcome.wait_for(Option::is_some)).await {
        Ok(Ok(landed)) => landed.clone().unwrap_or_else(|| Err(unavailable("its issue gave no answer"))),
        Ok(Err(_)) => Err(unavailable("its issue was interrupted; retry")),
        Err(_) => Err(unavailable("its issue took longer than the obtain deadline; retry later")),
    }
}

/// Puts a credential that came into its slot, if that still waits for it.
pub(super) fn land(inner: &Inner, key: &Key, flight: &Arc<Flight>, settle: impl FnOnce(&mut Slot)) {
    let mut table = inner.table();
    if let Some(slot) = table.get_mut(key)
        && slot.flight.as_ref().is_some_and(|current| Arc::ptr_eq(current, flight))
    {
        settle(slot);
    }
}
