//! `Workload`: a proven caller.

use std::sync::Arc;

use http::HeaderMap;

use super::spiffe_id::SpiffeId;
use super::unix_peer::UnixClaim;
use crate::capture::{Arrival, Asks, Peer};
use crate::clock::Timestamp;

/// How an identity was proven; goes into records and policy (`source.*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attestation {
    /// The listener belongs to one workload by configuration.
    Fixed,
    /// The kernel named the process at the other end, and the configuration gives what was proven of it an identity.
    UnixPeer(UnixClaim),
}

impl Attestation {
    /// The word in records: `fixed`, `unix_peer`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::UnixPeer(_) => "unix_peer",
        }
    }

    /// The uid of the Kubernetes pod, where that was proven: `source.pod` of conditions.
    #[must_use]
    pub fn pod(&self) -> Option<&str> {
        match self {
            Self::Fixed => None,
            Self::UnixPeer(claim) => claim.pod.as_deref(),
        }
    }
}

/// A proven caller: its SPIFFE ID and how we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Who.
    pub id: SpiffeId,
    /// How we know.
    pub attestation: Attestation,
}

/// What one source says of a connection.
#[derive(Debug, Clone)]
#[must_use]
pub enum Identified {
    /// Proven.
    Attested(Arc<Workload>),
    /// This transport cannot carry this source's proof: the next source may be asked.
    NotApplicable,
    /// A proof was there (or had to be) and does not hold: nobody else is asked. For the record; never a secret.
    Rejected(String),
}

/// What a source may look at: the connection's proof, and of the request's head nothing but the fields.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The connection's proof.
    pub arrival: &'a Arrival,
    /// The request's fields.
    pub headers: &'a HeaderMap,
    /// For what expires.
    pub now: Timestamp,
}

/// A way to prove who is asking. It is asked for every request; a connection's own proof was taken once, when it was accepted. A source
/// must not block.
pub trait IdentitySource: Send + Sync {
    /// The identity's name in the configuration.
    fn name(&self) -> &str;
    /// What it wants to know of a connection's other end before the first byte is read.
    fn asks(&self, _peer: &Peer) -> Asks {
        Asks::default()
    }
    /// Judges the caller.
    fn identify(&self, caller: &Caller<'_>) -> Identified;
}
