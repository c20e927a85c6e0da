//! Questions to policy, made from records.

use std::sync::Arc;

use http::Request;
use rustc_hash::FxHashMap;

use crate::action::Action;
use crate::audit::Recorded;
use crate::capture::{Destination, Peer, Scheme, parse_authority};
use crate::catalogue::{Catalogue, StripOptions, Upstream};
use crate::identity::{Attestation, SpiffeId, Workload};
use crate::policy::AccessRequest;
use crate::secret::FingerprintKey;
use crate::strip::{self, Stripped};

/// Why a record cannot be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unasked {
    /// It was refused before anybody was proven.
    #[error("no workload was proven")]
    NoWorkload,
    /// It went to a destination outside of the catalogue.
    #[error("its destination was not in the catalogue")]
    Unlisted,
    /// Its upstream is no longer in the catalogue.
    #[error("its upstream is not in this configuration")]
    UnknownUpstream,
    /// Method, path, origin or peer are none.
    #[error("the record does not tell enough of the request")]
    Unreadable,
}

/// Makes questions from records. One for all lines: it remembers workloads.
pub struct Questions<'a> {
    catalogue: &'a Catalogue,
    workloads: FxHashMap<Box<str>, Option<Arc<Workload>>>,
    rules: strip::Rules,
    key: FingerprintKey,
}

impl<'a> Questions<'a> {
    /// For records of upstreams in this catalogue. `None` would mean that no rules of `strip` are not rules.
    #[must_use]
    pub fn new(catalogue: &'a Catalogue) -> Option<Self> {
        let rules = strip::Rules::new(&StripOptions::default()).ok()?;
        Some(Self { catalogue, workloads: FxHashMap::default(), rules, key: FingerprintKey::new(&[0; 32]) })
    }

    /// Puts the question of one record.
    ///
    /// # Errors
    /// [`Unasked`].
    pub fn with<T>(&mut self, record: &Recorded, ask: impl FnOnce(&AccessRequest<'_>, &Stripped) -> T) -> Result<T, Unasked> {
        let workload = self.workload(record.workload.as_deref().ok_or(Unasked::NoWorkload)?)?;
        let upstream = self.upstream(record)?;
        let destination = destination(record, upstream).ok_or(Unasked::Unreadable)?;
        let peer = peer(record).ok_or(Unasked::Unreadable)?;
        let target = if record.tunnel { format!("{}:{}", bracketed(&destination), destination.port) } else { record.path.to_string() };
        let request = Request::builder().method(&*record.method).uri(target).body(()).map_err(|_| Unasked::Unreadable)?;
        let (parts, ()) = request.into_parts();
        let action = Action::read(&parts).map_err(|_| Unasked::Unreadable)?;
        let stripped = strip::examine(&parts, &self.rules, &self.key);
        let request = AccessRequest {
            workload: &workload,
            upstream,
            destination: &destination,
            action: &action,
            parts: &parts,
            peer: &peer,
            tunnel: record.tunnel,
            share: 99,
        };
        Ok(ask(&request, &stripped))
    }

    /// The catalogue's entry of a record.
    ///
    /// # Errors
    /// There is none.
    pub fn upstream(&self, record: &Recorded) -> Result<&'a Arc<Upstream>, Unasked> {
        let name = record.upstream.as_deref().ok_or(Unasked::Unlisted)?;
        self.catalogue.by_name(name).ok_or(if name == "unlisted" { Unasked::Unlisted } else { Unasked::UnknownUpstream })
    }

    fn workload(&mut self, id: &str) -> Result<Arc<Workload>, Unasked> {
        if let Some(known) = self.workloads.get(id) {
            return known.clone().ok_or(Unasked::NoWorkload);
        }
        // Rules look at the name alone: how it was proven changes no decision.
        let parsed = SpiffeId::parse(id).ok().map(|id| Arc::new(Workload { id, attestation: Attestation::Fixed }));
        self.workloads.insert(id.into(), parsed.clone());
        parsed.ok_or(Unasked::NoWorkload)
    }
}

fn destination(record: &Recorded, upstream: &Upstream) -> Option<Destination> {
    let Some(text) = record.destination.as_deref() else { return upstream.origins.first()?.destination() };
    let (scheme, authority) = text.split_once("://")?;
    let scheme = match scheme {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return None,
    };
    let (host, port) = parse_authority(authority).ok()?;
    Some(Destination { scheme, host, port: port.unwrap_or(scheme.default_port()) })
}

fn bracketed(destination: &Destination) -> String {
    let host = destination.host.as_str();
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

const fn peer(record: &Recorded) -> Option<Peer> {
    match (record.peer.address, record.peer.uid) {
        (Some(address), uid) => Some(Peer::Tcp { address, uid }),
        (None, Some(uid)) => Some(Peer::Unix { uid, gid: 0, pid: None }),
        (None, None) => None,
    }
}
