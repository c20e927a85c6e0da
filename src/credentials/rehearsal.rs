//! Rehearsals: whether the credentials of an observed upstream could be had, found out beside its traffic.
//!
//! Nobody waits for one: a request that finds the table busy, the upstream just rehearsed or this credential known goes on. What is
//! issued is dropped at once and stands in no cache. Providers that can revoke are not there yet: what they issued ends by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::broker::{Inner, key};
use super::credential::IssueError;
use super::flight;
use super::slot::{Key, after};
use super::worker_cache::Ask;
use crate::clock::Timestamp;
use crate::identity::SpiffeId;

/// For one upstream at most one in this time.
const APART: Duration = Duration::from_secs(1);
/// What was had once is tried again after this.
const AGAIN: Duration = Duration::from_mins(1);
/// What could not be had is tried again after this.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Pairs of workload and terms that are remembered for one upstream; the longest known goes first.
const MOST: usize = 256;

/// How the rehearsals of one credential for one workload at one upstream went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsal {
    /// The definition.
    pub credential: Arc<str>,
    /// For whom.
    pub workload: SpiffeId,
    /// The scopes that were asked for, and given.
    pub scopes: Option<Arc<[Arc<str>]>>,
    /// Obtained and thrown away.
    pub obtained: u64,
    /// Not obtained.
    pub failed: u64,
    /// When the last one ended.
    pub last: Timestamp,
    /// Why the last one failed, if it did.
    pub failure: Option<Arc<str>>,
}

/// All upstreams that rehearse.
#[derive(Debug, Default)]
pub(super) struct Stages(Mutex<FxHashMap<Arc<str>, Stage>>);

#[derive(Debug, Default)]
struct Stage {
    busy: bool,
    /// Nothing is rehearsed before.
    due: Option<Timestamp>,
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    key: Key,
    due: Timestamp,
    obtained: u64,
    failed: u64,
    last: Timestamp,
    failure: Option<Arc<str>>,
}

impl Stages {
    fn all(&self) -> MutexGuard<'_, FxHashMap<Arc<str>, Stage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of the one rehearsal that may run now.
    fn begin(&self, ask: Ask<'_>, now: Timestamp) -> bool {
        let mut all = match self.0.try_lock() {
            Ok(all) => all,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let stage = match all.get_mut(&*ask.upstream.name) {
            Some(stage) => stage,
            None => all.entry(Arc::clone(&ask.upstream.name)).or_default(),
        };
        let same = |known: &Known| {
            known.key.workload == ask.workload.id && known.key.definition == ask.definition.digest && known.key.terms == *ask.terms
        };
        if stage.busy || stage.due.is_some_and(|due| now < due) || stage.known.iter().any(|known| now < known.due && same(known)) {
            return false;
        }
        stage.busy = true;
        stage.due = Some(after(now, APART));
        true
    }

    fn end(&self, key: Key, now: Timestamp, outcome: Result<Duration, IssueError>) {
        let mut all = self.all();
        let stage = all.entry(Arc::clone(&key.upstream.name)).or_default();
        stage.busy = false;
        let at = stage.known.iter().position(|known| known.key == key).unwrap_or_else(|| {
            if stage.known.len() >= MOST {
                stage.known.remove(0);
            }
            stage.known.push(Known { key, due: now, obtained: 0, failed: 0, last: now, failure: None });
            stage.known.len() - 1
        });
        let Some(known) = stage.known.get_mut(at) else { return };
        known.last = now;
        known.due = after(now, if outcome.is_ok() { AGAIN } else { AFTER_FAILURE });
        match outcome {
            Ok(_) => {
                known.obtained += 1;
                known.failure = None;
            }
            Err(error) => {
                known.failed += 1;
                known.failure = Some(error.to_string().into());
            }
        }
    }

    fn release(&self, upstream: &str) {
        if let Some(stage) = self.all().get_mut(upstream) {
            stage.busy = false;
        }
    }

    /// What was rehearsed under a definition that changed says nothing any more.
    pub(super) fn retain(&self, current: impl Fn(&Key) -> bool) {
        #[expect(clippy::iter_over_hash_type, reason = "each is judged by itself")]
        for stage in self.all().values_mut() {
            stage.known.retain(|known| current(&known.key));
        }
    }

    pub(super) fn report(&self, upstream: &str) -> Vec<Rehearsal> {
        let all = self.all();
        let known = all.get(upstream).map(|stage| stage.known.as_slice()).unwrap_or_default();
        let mut told: Vec<Rehearsal> = known
            .iter()
            .map(|known| Rehearsal {
                credential: Arc::clone(&known.key.terms.profile.name),
                workload: known.key.workload.clone(),
                scopes: known.key.terms.scopes.clone(),
                obtained: known.obtained,
                failed: known.failed,
                last: known.last,
                failure: known.failure.clone(),
            })
            .collect();
        told.sort_by(|a, b| (&a.credential, a.workload.as_str()).cmp(&(&b.credential, b.workload.as_str())));
        told
    }
}

/// Gives the place back, also when the issue was thrown away with its runtime or its provider panicked.
struct Place {
    inner: Arc<Inner>,
    upstream: Arc<str>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.stages.release(&self.upstream);
    }
}

/// Starts one, if it is time to.
pub(super) fn rehearse(inner: &Arc<Inner>, ask: Ask<'_>, now: Timestamp) {
    if !inner.stages.begin(ask, now) {
        return;
    }
    let place = Place { inner: Arc::clone(inner), upstream: Arc::clone(&ask.upstream.name) };
    let (key, definition) = (key(ask), Arc::clone(ask.definition));
    drop(inner.household.spawn(async move {
        let outcome = flight::rehearse(&place.inner, key.clone(), definition).await;
        place.inner.stages.end(key, place.inner.clock.now(), outcome);
    }));
}
