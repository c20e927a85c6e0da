//! `Leasing`: opens, renews and ends leases while requests are under way, and looks after their time and their uses.
//!
//! An end holds at once: the next judgement and the next attempt see it, the workers end its passages, what was obtained under it goes out
//! of use and its issuers are asked to take it back; acknowledged when all of that is done and written. A lease whose time is over ends in
//! the same way, by the household's own clock. Only uses are written behind the requests that need them.

use std::sync::Arc;
use std::time::Duration;

use super::recall::{self, Recalled};
use super::revoke::Surroundings;
use crate::audit::Event;
use crate::credentials::Cause;
use crate::live::{Change, Lease, LeaseError, Opening};

/// A worker that has not ended its passages by then is told of: something blocks its thread.
const SETTLE: Duration = Duration::from_secs(1);
/// The clock is looked at this often, whatever it said before: it may have been set.
const LOOK: Duration = Duration::from_secs(1);
/// After a write that failed.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// One per process; see the module.
pub struct Leasing(Surroundings);

/// A lease that was ended, acknowledged.
#[derive(Debug, Clone)]
pub struct EndedLease {
    /// As it is now.
    pub lease: Arc<Lease>,
    /// What became of what was obtained under it.
    pub grants: Recalled,
    /// What the operator should know beside it.
    pub warnings: Vec<String>,
    /// From the receipt of the question to here.
    pub took: Duration,
}

impl Leasing {
    /// Looks after the leases of these surroundings.
    #[must_use]
    pub fn new(around: Surroundings) -> Self {
        let leasing = Self(around);
        leasing.count();
        leasing
    }

    /// All that are held, by their ends.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Lease>> {
        self.0.live.leases().leases().all().into_iter().map(Arc::clone).collect()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Lease>> {
        self.0.live.leases().leases().get(id).map(Arc::clone)
    }

    /// Whether it is live now.
    #[must_use]
    pub fn is_live(&self, lease: &Lease) -> bool {
        lease.is_live(self.0.clock.now())
    }

    /// Opens one; durable when this returns.
    ///
    /// # Errors
    /// What is wrong with it, a bound, or the state.
    pub async fn open(&self, opening: Opening, by: Arc<str>) -> Result<Arc<Lease>, LeaseError> {
        let rules = self.0.snapshots.load().policies.counted_under(&opening.kind);
        let (live, now, opener) = (Arc::clone(&self.0.live), self.0.clock.now(), Arc::clone(&by));
        let lease = blocking(move || live.leases().open_lease(opening, &rules, &opener, now)).await?;
        self.record(Change::Opened, &lease, by);
        Ok(lease)
    }

    /// Prolongs a live one; durable when this returns.
    ///
    /// # Errors
    /// It is not here or over, a bound, or the state.
    pub async fn renew(&self, id: String, ttl: Duration, by: Arc<str>) -> Result<Arc<Lease>, LeaseError> {
        let (live, now) = (Arc::clone(&self.0.live), self.0.clock.now());
        let lease = blocking(move || live.leases().renew_lease(&id, ttl, now)).await?;
        self.record(Change::Renewed, &lease, by);
        Ok(lease)
    }

    /// Ends one: refused at once, its passages ended and the end durable when this returns.
    ///
    /// # Errors
    /// It is not here; or the state, and then the end holds until a restart.
    pub async fn end(&self, id: String, by: Arc<str>) -> Result<EndedLease, LeaseError> {
        let began = self.0.clock.instant();
        let before = self.get(&id);
        let (live, now, who, name) = (Arc::clone(&self.0.live), self.0.clock.now(), Arc::clone(&by), id.clone());
        let ended = blocking(move || live.end_lease(&name, &who, now)).await;
        // Also when it could not be written: here it has ended.
        let news = before.as_ref().is_some_and(|before| before.ended.is_none());
        let (grants, warnings) = match self.get(&id).filter(|_| news) {
            Some(lease) => {
                let told = self.take_away(std::slice::from_ref(&lease)).await;
                self.record(Change::Ended, &lease, by);
                told
            }
            None => (Recalled::default(), Vec::new()),
        };
        let took = self.0.clock.instant().saturating_duration_since(began);
        ended.map(|lease| EndedLease { lease, grants, warnings, took })
    }

    /// What was obtained under these leases goes, and the workers are waited for.
    async fn take_away(&self, over: &[Arc<Lease>]) -> (Recalled, Vec<String>) {
        let number = self.0.live.number();
        let discarded = self.0.broker.discard_where(Cause::Lease, |grant| over.iter().any(|lease| grant.lease == Some(&*lease.id)));
        let grants = recall::recall(discarded, &self.0.snapshots.load(), &self.0.ledger, &self.0.metrics);
        let settled = tokio::time::timeout(SETTLE, self.0.live.settled(number)).await;
        let late = "a worker has not ended its passages within 1 s; see the log, and restart exeat if that goes on".to_owned();
        (grants, settled.is_err().then_some(late).into_iter().collect())
    }

    fn record(&self, change: Change, lease: &Arc<Lease>, by: Arc<str>) {
        tracing::info!(lease = %lease.id, workload = %lease.workload, until = %lease.until, %by, "lease {}", change.name());
        self.0.metrics.lease(change);
        let reason = Arc::clone(&lease.reason);
        self.0.ledger.event(Event::Lease { change, lease: Arc::clone(lease), by, reason });
        self.count();
    }

    fn count(&self) {
        self.0.metrics.leases(self.0.live.leases().leases().live(self.0.clock.now()));
    }

    /// Ends leases in time and writes uses ahead; runs as long as the process does.
    pub async fn supervise(self: Arc<Self>) {
        let leases = self.0.live.leases();
        loop {
            let now = self.0.clock.now();
            let next = leases.next_end().map_or(LOOK, |end| Duration::try_from(end.duration_since(now)).unwrap_or_default().min(LOOK));
            tokio::select! {
                () = tokio::time::sleep(next) => self.expire().await,
                () = leases.changed() => {}
                () = leases.wanted() => self.tend().await,
            }
        }
    }

    async fn expire(&self) {
        let over = self.0.live.expire_leases(self.0.clock.now());
        if over.is_empty() {
            return;
        }
        for warning in self.take_away(&over).await.1 {
            tracing::error!("{warning}");
        }
        for lease in &over {
            let lease = self.get(&lease.id).unwrap_or_else(|| Arc::clone(lease));
            self.record(Change::Ended, &lease, "its time".into());
        }
        // That they are over holds without it; with it, also when the clock is set back.
        self.tend().await;
    }

    async fn tend(&self) {
        let (live, now) = (Arc::clone(&self.0.live), self.0.clock.now());
        let written = tokio::task::spawn_blocking(move || live.leases().tend(now)).await;
        let wrong = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = &wrong {
            tracing::error!(%error, "uses of leases cannot be written down: requests that need them are refused");
            tokio::time::sleep(TRY_AGAIN).await;
        }
        let told = |error: String| format!("uses of leases cannot be written down, requests that need them are refused: {error}");
        (self.0.warn)("leases_durable", wrong.map(told));
    }
}

/// Files are written beside the household's only thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, LeaseError> + Send + 'static) -> Result<T, LeaseError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(LeaseError::NotDurable { done: "the change was interrupted", why: error.to_string() }),
    }
}
