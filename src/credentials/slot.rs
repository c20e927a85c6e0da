//! `Slot`: what the broker holds of one key, as a state machine without locks, tasks or I/O: told the time, it says what to do.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::credential::{Credential, IssueError};
use super::definition::Digest;
use super::provider::SourceMark;
use crate::catalogue::{JWT_SVID, Upstream};
use crate::clock::Timestamp;
use crate::identity::SpiffeId;
use crate::policy::GrantTerms;

/// Nothing is put on a request within this of its end: it must still be valid when it arrives. A fifth of shorter lives.
const SKEW: Duration = Duration::from_secs(5);
/// Failures are kept this long at first, then twice as long each time.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// A source that can change is looked at this often while its credential is in use.
const SOURCE_CHECK: Duration = Duration::from_secs(5);
/// A credential younger than this was not refused because it was old.
const YOUNG: Duration = Duration::from_secs(5);
/// At most one forced refresh in this time: an upstream that answers 401 to everything must not drive the issuer.
const FORCED_APART: Duration = Duration::from_secs(30);

/// Everything that shapes a credential, compared in full: two keys that differ never share one.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub workload: SpiffeId,
    pub upstream: Arc<Upstream>,
    pub definition: Digest,
    pub terms: Arc<GrantTerms>,
    /// The lease that it is obtained under.
    pub lease: Option<Under>,
}

/// A lease by its name: one that is renewed stays the same lease.
#[derive(Debug, Clone)]
pub(super) struct Under {
    pub id: Arc<str>,
    /// When it ends, as whoever asked knew it.
    pub until: Timestamp,
}

impl Key {
    pub(super) fn lease_id(&self) -> Option<&str> {
        self.lease.as_ref().map(|lease| &*lease.id)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.workload == other.workload
            && self.definition == other.definition
            && self.terms == other.terms
            && self.lease_id() == other.lease_id()
            // The name alone would let a reload move it to other origins with the credentials of the former.
            && self.upstream.name == other.upstream.name
            && self.upstream.origins == other.upstream.origins
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.workload.hash(state);
        self.upstream.name.hash(state);
        self.definition.hash(state);
        self.terms.scopes.hash(state);
        self.terms.ttl.hash(state);
        self.lease_id().hash(state);
    }
}

/// A moment after another; the end of time instead of an overflow.
pub(super) fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// A credential with the times that follow from its life.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub credential: Arc<Credential>,
    /// Never used at or after this.
    pub usable_until: Timestamp,
    /// Renewed in the background from here on.
    pub refresh_at: Timestamp,
    /// Where its source can change: the mark, and when to look next.
    pub source: Option<(SourceMark, Timestamp)>,
}

impl Held {
    /// `None` where no usable life is left. `ends` is the end of the lease that it is obtained under. `jitter` is 0 to 255: instances and
    /// keys must not renew in step.
    pub(super) fn new(credential: Arc<Credential>, source: Option<SourceMark>, ends: Option<Timestamp>, jitter: u8) -> Option<Self> {
        let issued = credential.issued;
        let by_terms = after(issued, credential.terms.ttl);
        let ends = [credential.not_after, ends].into_iter().flatten().fold(by_terms, Timestamp::min);
        let life = Duration::try_from(ends.duration_since(issued)).ok().filter(|life| !life.is_zero())?;
        let usable_until = after(issued, life.saturating_sub(SKEW.min(life / 5)));
        // 50 to 80 % of life; a JWT-SVID by its half, since its agent gives the same one until then.
        let from = if credential.terms.profile.kind == JWT_SVID { life / 5 } else { life / 2 };
        let refresh_at = after(issued, from + life * 3 / 10 * u32::from(jitter) / 256);
        let source = source.map(|mark| (mark, after(issued, SOURCE_CHECK)));
        Some(Self { credential, usable_until, refresh_at, source })
    }

    /// Whether it is served now. Before its issue, by more than clocks may differ, means that the clock was set back: its life can no longer
    /// be told, and a verifier whose clock is right does not take it.
    pub(super) fn is_usable(&self, now: Timestamp) -> bool {
        self.usable_from() <= now && now < self.usable_until
    }

    /// The earliest time at which it is served.
    pub(super) fn usable_from(&self) -> Timestamp {
        self.credential.issued.checked_sub(SKEW).unwrap_or(Timestamp::MIN)
    }

    /// When something other than serving it is due.
    pub(super) fn quiet_until(&self) -> Timestamp {
        let check = self.source.map_or(Timestamp::MAX, |(_, at)| at);
        self.usable_until.min(self.refresh_at).min(check)
    }
}

/// A failed issue, remembered briefly.
#[derive(Debug, Clone)]
struct Failure {
    error: IssueError,
    until: Timestamp,
    in_a_row: u32,
}

impl Failure {
    /// Whether nobody asks again yet. One that lasts longer than any does was noted before the clock was set back.
    fn holds(&self, now: Timestamp) -> bool {
        now < self.until && self.until <= after(now, BACKOFF_MOST)
    }
}

/// How an issue under way ends.
pub(super) type Landed = Result<Arc<Credential>, IssueError>;

/// One issue under way; all who need it wait for the same one.
#[derive(Debug)]
pub(super) struct Flight {
    pub outcome: watch::Sender<Option<Landed>>,
    /// What it is made for was revoked meanwhile: its result serves nobody.
    pub withdrawn: AtomicBool,
}

/// What to do for a request.
#[derive(Debug)]
pub(super) enum Next {
    /// Serve this.
    Serve(Arc<Credential>),
    /// Serve this, and start a flight behind it.
    ServeAndRenew(Arc<Credential>),
    /// Wait for the flight under way.
    Join(Arc<Flight>),
    /// Start a flight and wait for it.
    Fly,
    /// The issuer failed just now.
    Fail(IssueError),
}

/// What became of a credential that an upstream refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// It is out of use; the next request gets a new one.
    Discarded,
    /// A newer one was already there.
    Superseded,
    /// It was issued less than 5 s ago: the reason lies elsewhere.
    TooYoung,
    /// A refresh was forced less than 30 s ago.
    TooSoon,
}

impl Discard {
    /// Whether another attempt would carry another credential.
    #[must_use]
    pub const fn retry_helps(self) -> bool {
        matches!(self, Self::Discarded | Self::Superseded)
    }
}

/// What the broker holds of one key.
#[derive(Debug)]
pub(super) struct Slot {
    pub held: Option<Held>,
    pub flight: Option<Arc<Flight>>,
    failure: Option<Failure>,
    forced: Option<Timestamp>,
    pub used: Timestamp,
}

impl Slot {
    pub(super) const fn new(now: Timestamp) -> Self {
        Self { held: None, flight: None, failure: None, forced: None, used: now }
    }

    /// What to do for a request now.
    pub(super) fn next(&mut self, now: Timestamp) -> Next {
        self.used = now;
        let failing = self.failure.as_ref().filter(|failure| failure.holds(now));
        if let Some(held) = self.held.as_ref().filter(|held| held.is_usable(now)) {
            let due = now >= held.quiet_until() && self.flight.is_none() && failing.is_none();
            let credential = Arc::clone(&held.credential);
            return if due { Next::ServeAndRenew(credential) } else { Next::Serve(credential) };
        }
        match (&self.flight, failing) {
            (Some(flight), _) => Next::Join(Arc::clone(flight)),
            (None, Some(failure)) => Next::Fail(failure.error.clone()),
            (None, None) => Next::Fly,
        }
    }

    /// Whether only the source is to be looked at: the mark it must still have.
    pub(super) fn only_source_due(&self, now: Timestamp) -> Option<SourceMark> {
        let held = self.held.as_ref().filter(|held| now < held.refresh_at && held.is_usable(now))?;
        held.source.filter(|(_, at)| now >= *at).map(|(mark, _)| mark)
    }

    /// The source is as it was: the flight ends, if what is held can still be served.
    pub(super) fn source_unchanged(&mut self, now: Timestamp) -> bool {
        let Some(held) = self.held.as_mut().filter(|held| held.is_usable(now)) else { return false };
        if let Some((_, at)) = &mut held.source {
            *at = after(now, SOURCE_CHECK);
        }
        self.flight = None;
        true
    }

    /// A new credential came.
    pub(super) fn renewed(&mut self, held: Held) {
        self.flight = None;
        self.failure = None;
        self.held = Some(held);
    }

    /// None came: the time until which nobody asks again.
    pub(super) fn failed(&mut self, error: IssueError, now: Timestamp) -> Timestamp {
        self.flight = None;
        let in_a_row = self.failure.as_ref().map_or(0, |failure| failure.in_a_row.saturating_add(1));
        let wait = BACKOFF_FIRST.saturating_mul(1 << in_a_row.min(10)).min(BACKOFF_MOST);
        let until = after(now, wait);
        self.failure = Some(Failure { error, until, in_a_row });
        until
    }

    /// An upstream answered 401 to `used`.
    pub(super) fn rejected(&mut self, used: &Credential, now: Timestamp) -> Discard {
        let Some(held) = &self.held else { return Discard::Superseded };
        if held.credential.grant != used.grant {
            return Discard::Superseded;
        }
        if now < after(held.credential.issued, YOUNG) {
            return Discard::TooYoung;
        }
        if self.forced.is_some_and(|at| at <= now && now < after(at, FORCED_APART)) {
            return Discard::TooSoon;
        }
        self.forced = Some(now);
        self.held = None;
        Discard::Discarded
    }

    /// Its flight can serve nobody any more.
    pub(super) fn withdraw(&self) {
        if let Some(flight) = &self.flight {
            flight.withdrawn.store(true, Ordering::Release);
        }
    }

    /// Nothing in it is worth keeping.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        self.flight.is_none()
            && self.held.as_ref().is_none_or(|held| !held.is_usable(now))
            && self.failure.as_ref().is_none_or(|failure| !failure.holds(now))
            && self.forced.is_none_or(|at| now >= after(at, FORCED_APART))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Placement, Profile};
    use crate::credentials::GrantId;
    use crate::secret::{FingerprintKey, Secret};

    #[test]
    fn a_jwt_svid_is_renewed_by_half_of_its_life() {
        let issued = Timestamp::from_second(1_800_000_000).unwrap();
        let life = Duration::from_mins(5);
        for (kind, latest) in [(JWT_SVID, life / 2), ("local_jwt", life * 8 / 10)] {
            let ttl = Duration::from_mins(15);
            let profile = Profile { name: "own".into(), kind, audience: None, scopes: None, ttl, placement: Placement::Bearer };
            let material = Secret::new("token");
            let credential = Arc::new(Credential {
                grant: GrantId("g".into()),
                terms: Arc::new(GrantTerms { profile: Arc::new(profile), scopes: None, ttl }),
                fingerprint: material.fingerprint(&FingerprintKey::ephemeral()),
                material,
                rendered: None,
                issued,
                not_after: Some(after(issued, life)),
            });
            for jitter in [0, 128, 255] {
                let held = Held::new(Arc::clone(&credential), None, None, jitter).unwrap();
                assert!(held.refresh_at > issued && held.refresh_at <= after(issued, latest), "{kind} {jitter}: {}", held.refresh_at);
            }
        }
    }
}
