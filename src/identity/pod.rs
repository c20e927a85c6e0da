//! `Pod`: exeat's own identity as the Workload API gives it now; `Pods`: all that the configuration names.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::spiffe_id::SpiffeId;
use super::standing::{HeldSvid, Standing};
use super::svid::{Bundles, JwtFault, JwtSvid};
use super::workload::{Caller, Identified, IdentitySource, Workload};
use super::workload_api::{Client, Endpoint, Fault};
use crate::clock::Timestamp;
use crate::secret::Secret;

/// Skew that is forgiven in a token that was asked for just now.
const LEEWAY: std::time::Duration = std::time::Duration::from_mins(1);

/// Most changes that wait for the audit.
const MOST_TURNS: usize = 1_024;

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
    name: Arc<str>,
    settings: PodSettings,
    standing: ArcSwap<Standing>,
    /// Why there is no SVID, or no connection; empty when all is well.
    trouble: Mutex<Box<str>>,
    /// There was one once.
    met: AtomicBool,
    updates: AtomicU64,
    changed: watch::Sender<u64>,
    turns: mpsc::Sender<Turn>,
}

/// What became of an identity: for the audit.
#[derive(Debug)]
pub struct Turn {
    /// The identity's name in the configuration.
    pub identity: Arc<str>,
    /// Who it was or is.
    pub id: SpiffeId,
    /// What holds from here on, or why nothing does.
    pub what: Result<Arc<Standing>, Box<str>>,
}

impl Pod {
    fn new(name: Arc<str>, settings: PodSettings, changed: watch::Sender<u64>, turns: mpsc::Sender<Turn>) -> Self {
        let waiting = format!("waiting for the first identity from {}", settings.endpoint);
        Self {
            name,
            settings,
            standing: ArcSwap::from_pointee(Standing::new(next_generation(), None, Arc::default())),
            trouble: Mutex::new(waiting.into()),
            met: AtomicBool::new(false),
            updates: AtomicU64::new(0),
            changed,
            turns,
        }
    }

    /// One that nobody follows and nobody hears of.
    #[cfg(any(test, fuzzing))]
    pub(super) fn alone(name: Arc<str>, settings: PodSettings) -> Self {
        Self::new(name, settings, watch::Sender::new(0), mpsc::channel(1).0)
    }

    /// The identity's name in the configuration.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Which identity of which Workload API.
    #[must_use]
    pub const fn settings(&self) -> &PodSettings {
        &self.settings
    }

    /// What holds now. Hold it for one attempt at most.
    #[must_use]
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// How often certificate or bundles changed.
    #[must_use]
    pub fn updates(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }

    /// What is wrong now, for readiness; `None` when all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        (!trouble.is_empty()).then(|| trouble.to_string())
    }

    /// A JWT-SVID of this very identity for one audience, verified as its receiver would.
    ///
    /// # Errors
    /// See [`PodFault`].
    pub async fn jwt_svid(&self, audience: &str, now: Timestamp) -> Result<(Secret, Timestamp), PodFault> {
        let standing = self.standing();
        let id = standing.svid.as_ref().map(|svid| svid.workload.id.clone()).ok_or_else(|| PodFault::NoIdentity(self.words()))?;
        let fault = |fault: Fault| PodFault::Api(fault.to_string());
        let client = Client::connect(&self.settings.endpoint).await.map_err(fault)?;
        let answer = client.jwt_svid(audience, id.as_str()).await.map_err(fault)?;
        let entry = answer.svids.into_iter().find(|entry| entry.spiffe_id == id.as_str()).ok_or(PodFault::Other)?;
        let token = entry.svid.into_bytes();
        let svid = JwtSvid::verify(&token, audience, &standing.bundles, now, LEEWAY)?;
        let token = Secret::new(token);
        if svid.id != id {
            return Err(PodFault::Other);
        }
        if svid.claims.get("aud").and_then(serde_json::Value::as_array).is_some_and(|all| all.len() > 1) {
            return Err(PodFault::MoreAudiences);
        }
        Ok((token, svid.expires))
    }

    /// Whom exeat trusts here. Without an identity of its own it has been told nothing that still holds.
    pub(super) fn trusted(&self) -> Result<Arc<Bundles>, Identified> {
        let standing = self.standing.load();
        if standing.svid.is_some() { Ok(Arc::clone(&standing.bundles)) } else { Err(self.nobody()) }
    }

    /// The verdict on a caller while there is no identity: not yet, or no more.
    fn nobody(&self) -> Identified {
        if self.met.load(Ordering::Acquire) { Identified::Rejected(self.words()) } else { Identified::NotReady(self.words()) }
    }

    fn words(&self) -> String {
        self.trouble().unwrap_or_else(|| format!("{} gives no identity", self.settings.endpoint))
    }

    /// The Workload API said something else than before.
    pub(super) fn publish(&self, svid: Option<HeldSvid>, bundles: Bundles, trouble: &str) {
        if svid.is_some() {
            self.met.store(true, Ordering::Release);
        }
        let next = Arc::new(Standing::new(next_generation(), svid, self.shared(bundles)));
        let former = self.standing.swap(Arc::clone(&next));
        self.updates.fetch_add(1, Ordering::Relaxed);
        let who = |standing: &Standing| standing.svid.as_ref().map(|svid| svid.workload.id.clone());
        if let Some(id) = who(&next).or_else(|| who(&former)) {
            let what = if next.svid.is_some() { Ok(next) } else { Err(trouble.into()) };
            let turn = Turn { identity: Arc::clone(&self.name), id, what };
            if self.turns.try_send(turn).is_err() {
                tracing::error!(identity = %self.name, "a change of the identity is not in the audit: too many at once");
            }
        }
        self.say(trouble);
    }

    /// The same bundles stay the same value: what was judged by them holds.
    fn shared(&self, bundles: Bundles) -> Arc<Bundles> {
        let former = &self.standing.load().bundles;
        if **former == bundles { Arc::clone(former) } else { Arc::new(bundles) }
    }

    /// JWT keys changed, and nothing else: connections stay what they are.
    pub(super) fn publish_keys(&self, bundles: Bundles) {
        let former = self.standing();
        self.standing.store(Arc::new(Standing::new(former.generation, former.svid.clone(), Arc::new(bundles))));
        self.updates.fetch_add(1, Ordering::Relaxed);
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// There is no identity any more.
    pub(super) fn withdraw(&self, why: &str) {
        if self.standing.load().svid.is_some() {
            tracing::warn!(identity = %self.name, "the identity is withdrawn: {why}");
            self.publish(None, self.standing().bundles.jwt_only(), why);
        } else {
            self.say(why);
        }
    }

    /// How it stands with the Workload API; empty when well.
    pub(super) fn say(&self, trouble: &str) {
        let mut held = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if **held != *trouble && !trouble.is_empty() {
            tracing::warn!(identity = %self.name, "{trouble}");
        }
        *held = trouble.into();
        drop(held);
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Unique in the process, so that a connection of one Workload API is never taken for one of another.
fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Why there is no JWT-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PodFault {
    /// exeat has no identity now.
    #[error("there is no identity now: {0}")]
    NoIdentity(String),
    /// The Workload API did not give one.
    #[error("{0}")]
    Api(String),
    /// The Workload API gave another workload's.
    #[error("the Workload API gave a token of another identity")]
    Other,
    /// One audience was asked for.
    #[error("the Workload API gave a token of more than the one audience that was asked for")]
    MoreAudiences,
    /// The token would be refused by whoever receives it.
    #[error(transparent)]
    Token(#[from] JwtFault),
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

    fn identify(&self, _caller: &Caller<'_>) -> Identified {
        match &self.pod.standing.load().svid {
            Some(svid) => Identified::Attested(Arc::clone(&svid.workload)),
            None => self.pod.nobody(),
        }
    }

    fn still_attests(&self, workload: &Workload, _now: Timestamp) -> bool {
        self.pod.standing.load().svid.as_ref().is_some_and(|svid| svid.workload.id == workload.id)
    }

    fn standing(&self) -> Option<Arc<Standing>> {
        Some(self.pod.standing())
    }
}

/// Starts to follow the Workload API of a pod; what it gives stops that.
type Start = Box<dyn Fn(Arc<Pod>) -> tokio::task::AbortHandle + Send + Sync>;

/// All pods that the configuration names: one for each settings, however often they are written.
pub struct Pods {
    start: Start,
    known: Mutex<Vec<(Arc<Pod>, tokio::task::AbortHandle)>>,
    changed: watch::Sender<u64>,
    turns: mpsc::Sender<Turn>,
}

impl Pods {
    /// None yet, and what will become of them. `start` lets a task follow a new one.
    #[must_use]
    pub fn new(start: impl Fn(Arc<Pod>) -> tokio::task::AbortHandle + Send + Sync + 'static) -> (Self, mpsc::Receiver<Turn>) {
        let (turns, told) = mpsc::channel(MOST_TURNS);
        (Self { start: Box::new(start), known: Mutex::default(), changed: watch::Sender::new(0), turns }, told)
    }

    /// The pod of these settings, followed from now on; the one that is there, if it is.
    #[must_use]
    pub fn pod(&self, name: &Arc<str>, settings: &PodSettings) -> Arc<Pod> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((pod, _)) = known.iter().find(|(pod, _)| pod.settings == *settings) {
            return Arc::clone(pod);
        }
        let pod = Arc::new(Pod::new(Arc::clone(name), settings.clone(), self.changed.clone(), self.turns.clone()));
        let task = (self.start)(Arc::clone(&pod));
        known.push((Arc::clone(&pod), task));
        pod
    }

    /// Lets go of all pods that the configuration no longer names.
    pub fn keep(&self, named: &[PodSettings]) {
        let mut gone = false;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|(pod, task)| {
            let kept = named.contains(&pod.settings);
            if !kept {
                task.abort();
                gone = true;
            }
            kept
        });
        if gone {
            self.changed.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// The pod that is this workload now.
    #[must_use]
    pub fn of(&self, id: &SpiffeId) -> Option<Arc<Pod>> {
        let is = |pod: &Pod| pod.standing.load().svid.as_ref().is_some_and(|svid| svid.workload.id == *id);
        self.all().into_iter().find(|pod| is(pod))
    }

    /// All.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Pod>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(pod, _)| Arc::clone(pod)).collect()
    }

    /// Hears of every change of any of them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
