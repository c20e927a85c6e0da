//! `Pod`: exeat's own identity as the Workload API gives it now.

use std::sync::Arc;
use std::time::Duration;

use super::followed::{About, Followed, Heralds};
use super::jwt_svid::{self, JwtSvidFault};
use super::spiffe_id::SpiffeId;
use super::standing::Standing;
use super::svid::Bundles;
use super::workload::{Attestation, Caller, Identified, IdentitySource, Workload};
use super::workload_api::{Client, Endpoint, Fault};
use crate::clock::Timestamp;
use crate::secret::Secret;

/// A server that has said nothing at all by then is tried again.
const FIRST_WORD: Duration = Duration::from_secs(30);

/// Which identity of which Workload API.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodSettings {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Which of several SVIDs: the one with this hint; `None` is the first.
    pub hint: Option<Arc<str>>,
    /// The only trust domain whose workload exeat can be.
    pub trust_domain: Arc<str>,
}

/// exeat's own identity. It outlives reloads that do not change its settings.
#[derive(Debug)]
pub struct Pod {
    settings: PodSettings,
    followed: Followed,
}

impl Pod {
    pub(super) fn new(name: Arc<str>, settings: PodSettings, heralds: Heralds) -> Self {
        let about = About {
            name,
            place: settings.endpoint.to_string().into(),
            hint: settings.hint.clone(),
            trust_domain: Arc::clone(&settings.trust_domain),
            attestation: Attestation::Spiffe,
            first_word: FIRST_WORD,
            logged: true,
        };
        Self { settings, followed: Followed::new(about, heralds) }
    }

    /// One that nobody follows and nobody hears of.
    #[cfg(any(test, fuzzing))]
    pub(super) fn alone(name: Arc<str>, settings: PodSettings) -> Self {
        let heralds = Heralds { changed: tokio::sync::watch::Sender::new(0), turns: tokio::sync::mpsc::channel(1).0 };
        Self::new(name, settings, heralds)
    }

    /// The identity's name in the configuration.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.followed.about().name
    }

    /// Which identity of which Workload API.
    #[must_use]
    pub const fn settings(&self) -> &PodSettings {
        &self.settings
    }

    /// What holds now. Hold it for one attempt at most.
    #[must_use]
    pub fn standing(&self) -> Arc<Standing> {
        self.followed.standing()
    }

    /// How often certificate or bundles changed.
    #[must_use]
    pub fn updates(&self) -> u64 {
        self.followed.updates()
    }

    /// What is wrong now, for readiness; `None` when all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.followed.trouble()
    }

    pub(super) const fn followed(&self) -> &Followed {
        &self.followed
    }

    /// Whether exeat is this workload now.
    pub(super) fn is(&self, id: &SpiffeId) -> bool {
        self.followed.is(id)
    }

    /// A JWT-SVID of this very identity for one audience, verified as its receiver would.
    ///
    /// # Errors
    /// See [`JwtSvidFault`].
    pub(super) async fn jwt_svid(&self, audience: &str, now: Timestamp) -> Result<(Secret, Timestamp), JwtSvidFault> {
        let standing = self.standing();
        let id = standing.svid.as_ref().map(|svid| svid.workload.id.clone());
        let id = id.ok_or_else(|| JwtSvidFault::NoIdentity(self.followed.words()))?;
        let fault = |fault: Fault| JwtSvidFault::Api(fault.to_string());
        let client = Client::connect(&self.settings.endpoint).await.map_err(fault)?;
        let answer = client.jwt_svid(audience, id.as_str()).await.map_err(fault)?;
        jwt_svid::judge(answer, &id, audience, &standing.bundles, now)
    }

    /// Whom exeat trusts here. Without an identity of its own it has been told nothing that still holds.
    pub(super) fn trusted(&self) -> Result<Arc<Bundles>, Identified> {
        self.followed.trusted().ok_or_else(|| self.nobody())
    }

    /// The verdict on a caller while there is no identity: not yet, or no more.
    fn nobody(&self) -> Identified {
        let words = self.followed.words();
        if self.followed.was_met() { Identified::Rejected(words) } else { Identified::NotReady(words) }
    }
}

/// The identity of a listener whose every caller is exeat's own pod.
#[derive(Debug)]
pub struct PodIdentity {
    name: Arc<str>,
    pod: Arc<Pod>,
}

impl PodIdentity {
    /// Under the identity's name in the configuration.
    #[must_use]
    pub const fn new(name: Arc<str>, pod: Arc<Pod>) -> Self {
        Self { name, pod }
    }
}

impl IdentitySource for PodIdentity {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_of_one(&self) -> bool {
        true
    }

    fn identify(&self, _caller: &Caller<'_>) -> Identified {
        self.pod.followed.workload().map_or_else(|| self.pod.nobody(), Identified::Attested)
    }

    fn still_attests(&self, workload: &Workload, _now: Timestamp) -> bool {
        self.pod.is(&workload.id)
    }

    fn standing(&self, _workload: &Workload) -> Option<Arc<Standing>> {
        Some(self.pod.standing())
    }
}
