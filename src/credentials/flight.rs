//! A flight: one issue under way on the household's runtime. It ends in its slot and with all who wait, whatever happens to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::broker::{Inner, event, land};
use super::credential::{Credential, GrantId, IssueError};
use super::definition::Definition;
use super::event::{Cause, GrantEvent, Happening};
use super::provider::{IssueRequest, Recall, SourceMark};
use super::providers::render;
use super::slot::{Flight, Held, Key, Landed, Slot};
use crate::clock::Timestamp;
use crate::secret::random;

/// Marks a slot as being issued for. Called with the table locked.
pub(super) fn prepare(slot: &mut Slot) -> Arc<Flight> {
    let flight = Arc::new(Flight { outcome: watch::Sender::new(None), withdrawn: AtomicBool::new(false) });
    slot.flight = Some(Arc::clone(&flight));
    flight
}

/// Starts it; whoever asked may go away, the issue goes on for the others.
pub(super) fn start(inner: &Arc<Inner>, key: Key, definition: Arc<Definition>, flight: Arc<Flight>) {
    let household = inner.household.clone();
    let journey = Journey { inner: Arc::clone(inner), key, definition, flight, landed: false };
    drop(household.spawn(journey.fly()));
}

/// Issues for nobody: the whole way of an issue but its landing. What came is dropped, and so wiped, before this returns.
pub(super) async fn rehearse(inner: &Arc<Inner>, key: Key, definition: Arc<Definition>) -> Result<Duration, IssueError> {
    let flight = Arc::new(Flight { outcome: watch::Sender::new(None), withdrawn: AtomicBool::new(false) });
    let journey = Journey { inner: Arc::clone(inner), key, definition, flight, landed: true };
    let (grant, began) = (new_grant(), inner.clock.instant());
    let issued = match tokio::time::timeout(inner.limits.obtain, journey.issue(grant.clone())).await {
        Ok(issued) => issued,
        Err(_) => Err(journey.unavailable("its issuer did not answer within the obtain deadline; check that it is reachable")),
    };
    let (now, took) = (inner.clock.now(), inner.clock.instant().saturating_duration_since(began));
    match issued {
        Ok((held, record)) => {
            record.send(event(&journey.key, now, &held.credential, Happening::Rehearsed { took }));
            Ok(took)
        }
        Err(error) => {
            let what = Happening::RehearseFailed { error: error.clone() };
            inner.tell(GrantEvent { what, ..failure(&journey.key, now, &grant, error.clone(), now) });
            Err(error)
        }
    }
}

struct Journey {
    inner: Arc<Inner>,
    key: Key,
    definition: Arc<Definition>,
    flight: Arc<Flight>,
    landed: bool,
}

impl Journey {
    async fn fly(mut self) {
        if let Some(mark) = self.mark_to_check() {
            let same = tokio::time::timeout(self.inner.limits.obtain, self.definition.provider.source()).await == Ok(Some(mark));
            if same && self.keep_as_it_is() {
                return;
            }
        }
        let grant = new_grant();
        let began = self.inner.clock.instant();
        let deadline = self.inner.limits.obtain;
        let issued = match tokio::time::timeout(deadline, self.issue(grant.clone())).await {
            Ok(issued) => issued,
            Err(_) => Err(self.unavailable("its issuer did not answer within the obtain deadline; check that it is reachable")),
        };
        let took = self.inner.clock.instant().saturating_duration_since(began);
        match issued {
            Ok((held, record)) => {
                let recall = Recall {
                    credential: Arc::clone(&held.credential),
                    workload: self.key.workload.clone(),
                    upstream: Arc::clone(&self.key.upstream.name),
                };
                let (flight, provider) = (Arc::clone(&self.flight), Arc::clone(&self.definition.provider));
                self.succeed(held, record, took);
                // Revoked while it was being issued: whoever revoked it could not name it yet.
                if flight.withdrawn.load(Ordering::Acquire) && provider.revokes() {
                    drop(tokio::time::timeout(deadline, provider.revoke(recall)).await);
                }
            }
            Err(error) => self.fail(&grant, error),
        }
    }

    /// The mark that the source must still have, when nothing but that is due.
    fn mark_to_check(&self) -> Option<SourceMark> {
        let now = self.inner.clock.now();
        self.inner.table().get(&self.key)?.only_source_due(now)
    }

    /// The source did not change: nothing to issue, unless the credential ran out meanwhile and somebody waits.
    fn keep_as_it_is(&mut self) -> bool {
        let now = self.inner.clock.now();
        land(&self.inner, &self.key, &self.flight, |slot| self.landed = slot.source_unchanged(now));
        self.landed
    }

    /// Issues; the place of the record is taken first: no grant without a record.
    async fn issue(&self, grant: GrantId) -> Result<(Held, mpsc::OwnedPermit<GrantEvent>), IssueError> {
        let events = self.inner.events.clone();
        let record = events.reserve_owned().await.map_err(|_| self.unavailable("grants cannot be recorded; check the audit"))?;
        let issued_at = self.inner.clock.now();
        let terms = Arc::clone(&self.key.terms);
        if terms.profile != self.definition.profile {
            return Err(self.refused("policy and configuration differ in its definition; reload both"));
        }
        let request = IssueRequest {
            grant: grant.clone(),
            workload: self.key.workload.clone(),
            upstream: Arc::clone(&self.key.upstream.name),
            terms: Arc::clone(&terms),
            now: issued_at,
            ends: self.key.lease.as_ref().map(|lease| lease.until),
        };
        let ends = request.ends;
        let issued = self.definition.provider.issue(request).await?;
        if issued.material.is_empty() {
            return Err(self.refused("its issuer gave an empty one"));
        }
        let rendered = render(&terms.profile, &issued.material)?;
        let credential = Credential {
            grant,
            fingerprint: issued.material.fingerprint(&self.inner.fingerprints),
            terms,
            material: issued.material,
            rendered,
            issued: issued_at,
            not_after: issued.not_after,
        };
        let mut jitter = [0];
        random(&mut jitter);
        let held = Held::new(Arc::new(credential), issued.source, ends, u8::from_ne_bytes(jitter))
            .filter(|held| held.is_usable(self.inner.clock.now()))
            .ok_or_else(|| match ends {
                Some(_) => self.unavailable("the lease ends before it could be used"),
                None => self.refused("its issuer gave one that has already expired; compare the clocks"),
            })?;
        Ok((held, record))
    }

    fn succeed(mut self, held: Held, record: mpsc::OwnedPermit<GrantEvent>, took: Duration) {
        let credential = Arc::clone(&held.credential);
        let now = self.inner.clock.now();
        let mut former = None;
        land(&self.inner, &self.key, &self.flight, |slot| {
            // Workers serve the former one for up to a second more; a source that changed must not wait even for that.
            if slot.held.as_ref().is_some_and(|old| old.source.map(|(mark, _)| mark) != held.source.map(|(mark, _)| mark)) {
                self.inner.next_epoch();
            }
            former = slot.held.take().map(|old| old.credential.grant.clone());
            slot.renewed(held);
        });
        let what = match former {
            Some(former) => Happening::Refreshed { former, took },
            None => Happening::Issued { took },
        };
        record.send(event(&self.key, now, &credential, what));
        if self.flight.withdrawn.load(Ordering::Acquire) {
            self.inner.tell(event(&self.key, now, &credential, Happening::Discarded { cause: Cause::Revoked }));
        }
        self.tell_waiters(Ok(credential));
    }

    fn fail(mut self, grant: &GrantId, error: IssueError) {
        let now = self.inner.clock.now();
        let mut retry_at = now;
        land(&self.inner, &self.key, &self.flight, |slot| retry_at = slot.failed(error.clone(), now));
        self.inner.tell(failure(&self.key, now, grant, error.clone(), retry_at));
        self.tell_waiters(Err(error));
    }

    fn tell_waiters(&mut self, landed: Landed) {
        self.landed = true;
        let withdrawn = self.flight.withdrawn.load(Ordering::Acquire);
        let landed = if withdrawn { Err(self.unavailable("it was revoked while it was being issued")) } else { landed };
        self.flight.outcome.send_replace(Some(landed));
    }

    fn unavailable(&self, why: &str) -> IssueError {
        IssueError::Unavailable { credential: Arc::clone(&self.key.terms.profile.name), why: why.into() }
    }

    fn refused(&self, why: &str) -> IssueError {
        IssueError::Refused { credential: Arc::clone(&self.key.terms.profile.name), why: why.into() }
    }
}

impl Drop for Journey {
    /// A provider that panicked or a runtime that ends must not leave a slot that waits for ever.
    fn drop(&mut self) {
        if !self.landed {
            let error = self.unavailable("its issue was interrupted; retry");
            let now = self.inner.clock.now();
            land(&self.inner, &self.key, &self.flight, |slot| {
                slot.failed(error.clone(), now);
            });
            self.flight.outcome.send_replace(Some(Err(error)));
        }
    }
}

fn failure(key: &Key, time: Timestamp, grant: &GrantId, error: IssueError, retry_at: Timestamp) -> GrantEvent {
    GrantEvent {
        time,
        grant: grant.clone(),
        workload: key.workload.clone(),
        upstream: Arc::clone(&key.upstream.name),
        terms: Arc::clone(&key.terms),
        fingerprint: None,
        not_after: None,
        what: Happening::Failed { error, retry_at },
    }
}

/// 128 random bits in hex: unique, and fit for `jti`, session names and file names alike.
fn new_grant() -> GrantId {
    let mut bytes = [0; 16];
    random(&mut bytes);
    GrantId(format!("{:032x}", u128::from_be_bytes(bytes)).into())
}
