//! `Workload`: a proven caller.

use std::sync::Arc;

use super::spiffe_id::SpiffeId;
use super::standing::Standing;
use crate::capture::Peer;

/// How an identity was proven; goes into records and policy (`source.*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attestation {
    /// The listener belongs to one workload by configuration.
    Fixed,
    /// The kernel named the peer's uid, and the configuration gives that uid an identity.
    UnixPeer {
        /// The uid that the kernel named.
        uid: u32,
    },
    /// The Workload API gives exeat this identity: exeat and the workload are one pod.
    Spiffe,
}

impl Attestation {
    /// The word in records: `fixed`, `unix_peer`, `spiffe`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::UnixPeer { .. } => "unix_peer",
            Self::Spiffe => "spiffe",
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
    /// Nobody can be proven yet: the source itself still waits for its first word.
    NotReady(String),
    /// A proof was there (or had to be) and does not hold: nobody else is asked. For the record; never a secret.
    Rejected(String),
}

/// A way to prove who is asking. One connection's proof is taken once; a source must not block.
pub trait IdentitySource: Send + Sync {
    /// The identity's name in the configuration.
    fn name(&self) -> &str;
    /// Judges the other end of a connection.
    fn identify(&self, peer: &Peer) -> Identified;

    /// Whether a workload that this source attested is still proven, for what can be withdrawn between two requests: asked before each
    /// attempt, so cheap.
    fn still_proves(&self, _workload: &Workload) -> bool {
        true
    }

    /// What exeat itself may prove in the place of the workload that this source attests: its own SVID, where both are one pod. `None`
    /// for every source whose workload is somebody else.
    fn standing(&self) -> Option<Arc<Standing>> {
        None
    }
}
