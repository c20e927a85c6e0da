//! `Followed`: what an agent says of one workload, kept as it was said last.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::spiffe_id::SpiffeId;
use super::standing::{HeldSvid, Standing};
use super::svid::Bundles;
use super::workload::{Attestation, Workload};
use crate::clock::Timestamp;

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

/// Who hears of changes.
#[derive(Debug, Clone)]
pub(super) struct Heralds {
    /// Counts up with every change of anybody.
    pub(super) changed: watch::Sender<u64>,
    /// For the audit.
    pub(super) turns: mpsc::Sender<Turn>,
}

impl Heralds {
    pub(super) fn tell(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Of whom the agent speaks, and where it is.
#[derive(Debug)]
pub(super) struct About {
    /// The identity's name in the configuration.
    pub(super) name: Arc<str>,
    /// The agent's endpoint, for words.
    pub(super) place: Arc<str>,
    /// Which of several SVIDs: the one with this hint; `None` is the first.
    pub(super) hint: Option<Arc<str>>,
    /// The only trust domain whose workload it can be.
    pub(super) trust_domain: Arc<str>,
    /// How whoever has the SVID is proven.
    pub(super) attestation: Attestation,
    /// An agent that has said nothing at all by then is tried again.
    pub(super) first_word: Duration,
    /// Its changes stand in the operator's log. Those of callers, who come and go as they like, stand in the audit alone.
    pub(super) logged: bool,
}

/// What an agent says of one workload. Each message is the whole state.
#[derive(Debug)]
pub(super) struct Followed {
    about: About,
    standing: ArcSwap<Standing>,
    /// Why there is no SVID, or no connection; empty when all is well.
    trouble: Mutex<Box<str>>,
    /// There was one once.
    met: AtomicBool,
    /// The agent's last word is that there is none.
    denied: AtomicBool,
    /// The agent gave an answer, or failed to.
    heard: watch::Sender<bool>,
    updates: AtomicU64,
    heralds: Heralds,
}

impl Followed {
    pub(super) fn new(about: About, heralds: Heralds) -> Self {
        let waiting = format!("waiting for the first identity from {}", about.place);
        Self {
            about,
            standing: ArcSwap::from_pointee(Standing::new(next_generation(), None, Arc::default())),
            trouble: Mutex::new(waiting.into()),
            met: AtomicBool::new(false),
            denied: AtomicBool::new(false),
            heard: watch::Sender::new(false),
            updates: AtomicU64::new(0),
            heralds,
        }
    }

    pub(super) const fn about(&self) -> &About {
        &self.about
    }

    /// What holds now. Hold it for one attempt at most.
    pub(super) fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// Who the workload is now.
    pub(super) fn workload(&self) -> Option<Arc<Workload>> {
        self.standing.load().svid.as_ref().map(|svid| Arc::clone(&svid.workload))
    }

    /// Whether it is this workload now.
    pub(super) fn is(&self, id: &SpiffeId) -> bool {
        self.standing.load().svid.as_ref().is_some_and(|svid| svid.workload.id == *id)
    }

    /// Whom to trust; nobody without an SVID: then nothing that was told still holds.
    pub(super) fn trusted(&self) -> Option<Arc<Bundles>> {
        let standing = self.standing.load();
        standing.svid.is_some().then(|| Arc::clone(&standing.bundles))
    }

    /// How often certificate or bundles changed.
    pub(super) fn updates(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }

    /// Whether there was an SVID once.
    pub(super) fn was_met(&self) -> bool {
        self.met.load(Ordering::Acquire)
    }

    /// Whether the agent's last word is that there is no SVID.
    pub(super) fn is_denied(&self) -> bool {
        self.denied.load(Ordering::Acquire)
    }

    /// Whether the agent gave an answer, or failed to.
    pub(super) fn is_heard(&self) -> bool {
        *self.heard.borrow()
    }

    /// Waits for that.
    pub(super) async fn heard(&self) {
        let mut heard = self.heard.subscribe();
        // An error would mean that its sender is gone, which lives as long as this does.
        drop(heard.wait_for(|heard| *heard).await);
    }

    /// What is wrong now; `None` when all is well.
    pub(super) fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        (!trouble.is_empty()).then(|| trouble.to_string())
    }

    /// Why there is no SVID.
    pub(super) fn words(&self) -> String {
        self.trouble().unwrap_or_else(|| format!("{} gives no identity", self.about.place))
    }

    /// The agent said something else than before.
    pub(super) fn publish(&self, svid: Option<HeldSvid>, bundles: Bundles, trouble: &str) {
        if svid.is_some() {
            self.met.store(true, Ordering::Release);
            self.denied.store(false, Ordering::Release);
        }
        let next = Arc::new(Standing::new(next_generation(), svid, self.shared(bundles)));
        let former = self.standing.swap(Arc::clone(&next));
        self.updates.fetch_add(1, Ordering::Relaxed);
        let who = |standing: &Standing| standing.svid.as_ref().map(|svid| svid.workload.id.clone());
        if let Some(id) = who(&next).or_else(|| who(&former)) {
            let what = if next.svid.is_some() { Ok(next) } else { Err(trouble.into()) };
            let turn = Turn { identity: Arc::clone(&self.about.name), id, what };
            if self.heralds.turns.try_send(turn).is_err() {
                tracing::error!(identity = %self.about.name, "a change of the identity is not in the audit: too many at once");
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
        self.heralds.tell();
    }

    /// The agent says that there is no SVID any more.
    pub(super) fn withdraw(&self, why: &str) {
        self.denied.store(true, Ordering::Release);
        self.lose(why);
    }

    /// Lets go of a certificate at its end: nothing that has expired proves anybody.
    pub(super) fn expire(&self, now: Timestamp) {
        let end = self.standing.load().svid.as_ref().map(|svid| svid.not_after);
        if end.is_some_and(|end| end <= now) {
            self.lose(&format!("its certificate has expired, and {} has given no other", self.about.place));
        }
    }

    fn lose(&self, why: &str) {
        if self.standing.load().svid.is_some() {
            if self.about.logged {
                tracing::warn!(identity = %self.about.name, "the identity is withdrawn: {why}");
            }
            self.publish(None, self.standing().bundles.jwt_only(), why);
        } else {
            self.say(why);
        }
    }

    /// How it stands with the agent; empty when well.
    pub(super) fn say(&self, trouble: &str) {
        let mut held = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if **held != *trouble && !trouble.is_empty() && self.about.logged {
            tracing::warn!(identity = %self.about.name, "{trouble}");
        }
        *held = trouble.into();
        drop(held);
        self.heard.send_if_modified(|heard| !std::mem::replace(heard, true));
        self.heralds.tell();
    }
}

/// Unique in the process, so that a connection of one workload is never taken for one of another.
fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
