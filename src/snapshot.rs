//! `Snapshot`: everything hot-reloadable as one immutable value with a revision, behind one `ArcSwap`.
//!
//! A request loads it once and is judged by it to the end, so no request sees halves of two configurations.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use rustls::ServerConfig;

use crate::catalogue::{Catalogue, Upstream};
use crate::credentials::Definitions;
use crate::identity::IdentitySource;
use crate::policy::PolicySet;
use crate::strip;

/// Everything hot-reloadable of one revision.
pub struct Snapshot {
    /// Counts up from 1 with every reload that was taken; 0 is the empty snapshot before the first.
    pub revision: u64,
    /// Which upstreams exist.
    pub catalogue: Catalogue,
    /// What `strip` removes and keeps, by upstream index.
    pub strip: Vec<strip::Rules>,
    /// Who may prove to be whom, by listener.
    pub identities: FxHashMap<Arc<str>, Arc<[Arc<dyn IdentitySource>]>>,
    /// What listeners with TLS show and ask, by listener.
    pub tls: FxHashMap<Arc<str>, Arc<ServerConfig>>,
    /// The rules.
    pub policies: PolicySet,
    /// What issues credentials, by name.
    pub definitions: Definitions,
    /// Stands for destinations outside the catalogue while `unlisted: observe` holds.
    pub unlisted: Option<Arc<Upstream>>,
    /// `Some`: nothing can be judged, and why (for the record and readyz).
    pub not_ready: Option<Arc<str>>,
}

impl Snapshot {
    /// Before the first good configuration: refuses everything.
    #[must_use]
    pub fn empty(why: &str) -> Self {
        Self {
            revision: 0,
            catalogue: Catalogue::default(),
            strip: Vec::new(),
            identities: FxHashMap::default(),
            tls: FxHashMap::default(),
            policies: PolicySet::default(),
            definitions: Definitions::default(),
            unlisted: None,
            not_ready: Some(why.into()),
        }
    }

    /// The rules of `strip` at an upstream of this snapshot.
    #[must_use]
    pub fn strip_rules(&self, upstream: &Upstream) -> Option<&strip::Rules> {
        self.strip.get(upstream.index.0 as usize)
    }

    /// Whether all callers of all listeners are one workload.
    #[must_use]
    pub fn is_of_one(&self) -> bool {
        let sources = || self.identities.values().flat_map(|sources| sources.iter());
        let first = sources().next().map(|source| source.name());
        first.is_some() && sources().all(|source| source.is_of_one() && Some(source.name()) == first)
    }
}

/// The one place that a reload changes.
pub struct Current(ArcSwap<Snapshot>);

impl Current {
    /// Starts with this one.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    /// The snapshot of now; hold it for one request.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// From the next request on, this one.
    pub fn publish(&self, next: Snapshot) {
        self.0.store(Arc::new(next));
    }
}
