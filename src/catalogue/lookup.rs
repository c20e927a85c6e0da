//! `Catalogue`: destination to upstream, exact before wildcard, one hash look-up each.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::upstream::{HostPattern, Upstream};
use crate::capture::{Destination, Host, Scheme};

type Place = (Scheme, u16);

/// All upstreams of one snapshot.
#[derive(Debug, Default)]
pub struct Catalogue {
    upstreams: Vec<Arc<Upstream>>,
    by_name: FxHashMap<Arc<str>, usize>,
    exact: FxHashMap<Host, Vec<(Place, usize)>>,
    under: FxHashMap<Box<str>, Vec<(Place, usize)>>,
}

/// Two upstreams claim one origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("upstreams `{first}` and `{second}` list the same origin")]
pub struct Overlap {
    /// The one that was there.
    pub first: Arc<str>,
    /// The one that came.
    pub second: Arc<str>,
}

impl Catalogue {
    /// Builds the index. The upstreams' `index` fields must be their positions.
    ///
    /// # Errors
    /// One origin in two upstreams.
    pub fn new(upstreams: Vec<Arc<Upstream>>) -> Result<Self, Overlap> {
        let mut built = Self::default();
        for (position, upstream) in upstreams.iter().enumerate() {
            built.by_name.insert(Arc::clone(&upstream.name), position);
            for origin in &upstream.origins {
                let place = (origin.scheme, origin.port);
                let slots = match &origin.host {
                    HostPattern::Exact(host) => built.exact.entry(host.clone()).or_default(),
                    HostPattern::OneLabelUnder(suffix) => built.under.entry(suffix.as_str().into()).or_default(),
                };
                if let Some((_, other)) = slots.iter().find(|(taken, _)| *taken == place)
                    && let Some(first) = upstreams.get(*other)
                {
                    return Err(Overlap { first: Arc::clone(&first.name), second: Arc::clone(&upstream.name) });
                }
                slots.push((place, position));
            }
        }
        built.upstreams = upstreams;
        Ok(built)
    }

    /// The upstream that lists this destination.
    #[must_use]
    pub fn find(&self, destination: &Destination) -> Option<&Arc<Upstream>> {
        self.at(&destination.host, |place| place == (destination.scheme, destination.port))
    }

    /// The upstream and scheme of a host and port whose scheme the request does not tell (origin-form requests): TLS first.
    #[must_use]
    pub fn find_any_scheme(&self, host: &Host, port: Option<u16>) -> Option<(&Arc<Upstream>, Destination)> {
        let (exact, under) = (self.exact.get(host), self.under(host));
        [Scheme::Https, Scheme::Http].into_iter().find_map(|scheme| {
            let port = port.unwrap_or_else(|| scheme.default_port());
            let wanted = |place: Place| place == (scheme, port);
            let found = self.hit(exact, wanted).or_else(|| self.hit(under, wanted))?;
            Some((found, Destination { scheme, host: host.clone(), port }))
        })
    }

    /// Whether any origin has this host, whatever its scheme and port.
    #[must_use]
    pub fn knows_host(&self, host: &Host) -> bool {
        self.at(host, |_| true).is_some()
    }

    fn at(&self, host: &Host, wanted: impl Fn(Place) -> bool) -> Option<&Arc<Upstream>> {
        self.hit(self.exact.get(host), &wanted).or_else(|| self.hit(self.under(host), wanted))
    }

    fn hit(&self, slots: Option<&Vec<(Place, usize)>>, wanted: impl Fn(Place) -> bool) -> Option<&Arc<Upstream>> {
        slots?.iter().find(|(place, _)| wanted(*place)).and_then(|(_, at)| self.upstreams.get(*at))
    }

    /// What is listed under `*.` and the host without its first label.
    fn under(&self, host: &Host) -> Option<&Vec<(Place, usize)>> {
        if self.under.is_empty() {
            return None;
        }
        let (label, suffix) = host.as_str().split_once('.')?;
        if label.is_empty() || host.ip().is_some() { None } else { self.under.get(suffix) }
    }

    /// By its name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.by_name.get(name).and_then(|at| self.upstreams.get(*at))
    }

    /// All, in the order of their index.
    #[must_use]
    pub fn all(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }
}
