//! `Workload`: a proven caller.

use std::pin::Pin;
use std::sync::Arc;

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use super::broker_api::Referred;
use super::client_cert::Certificate;
use super::kubernetes::ServiceAccount;
use super::spiffe_id::SpiffeId;
use super::standing::Standing;
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
    /// A Kubernetes cluster signed a token for this service account, and the caller presented it or has it mounted.
    Kubernetes(Arc<ServiceAccount>),
    /// The caller showed an X.509-SVID in the TLS handshake, and proved that its key is its own.
    ClientCert(Arc<Certificate>),
    /// The Workload API gives exeat this identity: exeat and the workload are one pod.
    Spiffe,
    /// The agent attested the process at the other end, which exeat referred to by its number, and gave exeat that workload's own SVID.
    BrokerApi(Arc<Referred>),
}

impl Attestation {
    /// The word in records: the identity's kind in the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::UnixPeer(_) => "unix_peer",
            Self::Kubernetes(_) => "kubernetes",
            Self::ClientCert(_) => "client_cert",
            Self::Spiffe => "spiffe",
            Self::BrokerApi(_) => "broker_api",
        }
    }

    /// The uid of the Kubernetes pod, where that was proven: `source.pod` of conditions.
    #[must_use]
    pub fn pod(&self) -> Option<&str> {
        match self {
            Self::Fixed | Self::ClientCert(_) | Self::Spiffe => None,
            Self::UnixPeer(claim) => claim.pod.as_deref(),
            Self::Kubernetes(account) => account.pod.as_ref().map(|pod| &*pod.uid),
            Self::BrokerApi(process) => process.pod.as_deref(),
        }
    }

    /// Whether it was proven by what the caller presented in `Proxy-Authorization`, rather than by its connection.
    #[must_use]
    pub fn is_presented(&self) -> bool {
        match self {
            Self::Fixed | Self::UnixPeer(_) | Self::ClientCert(_) | Self::Spiffe | Self::BrokerApi(_) => false,
            Self::Kubernetes(account) => account.presented,
        }
    }

    /// Whether the agent gave exeat this very workload's own SVID: it may be shown to an upstream, for this workload alone.
    #[must_use]
    pub const fn brings_svid(&self) -> bool {
        match self {
            Self::Spiffe | Self::BrokerApi(_) => true,
            Self::Fixed | Self::UnixPeer(_) | Self::Kubernetes(_) | Self::ClientCert(_) => false,
        }
    }

    /// When the proof ends; a request is not sent after that.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        match self {
            // what an agent takes back is asked of the source
            Self::Fixed | Self::UnixPeer(_) | Self::Spiffe | Self::BrokerApi(_) => None,
            Self::Kubernetes(account) => Some(account.expires),
            Self::ClientCert(certificate) => Some(certificate.expires),
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
    /// The verdict lacks something that is on its way: [`IdentitySource::settle`] waits for it, then ask once more.
    Unsettled,
    /// exeat cannot judge yet; the caller may be right. For the record.
    NotReady(String),
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
    /// Whether it takes a proof in `Proxy-Authorization`, so that a refusal asks for one (RFC 9110 section 11.7.1).
    fn challenges(&self) -> bool {
        false
    }
    /// Whether it attests one workload and no other.
    fn is_of_one(&self) -> bool {
        false
    }
    /// What it says of a certificate chain, leaf first, while the handshake is under way. `None`: it takes no certificates.
    fn admits(&self, _chain: &[CertificateDer<'_>], _now: Timestamp) -> Option<Result<(), String>> {
        None
    }
    /// Waits, within a bound, for what the last verdict on this caller lacked.
    fn settle<'a>(&'a self, _caller: &Caller<'a>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
    /// Judges the caller.
    fn identify(&self, caller: &Caller<'_>) -> Identified;

    /// Whether a workload that it attested is still who it was, as far as that can be told without its caller: asked before each attempt,
    /// beside what the attestation says of its end.
    fn still_attests(&self, _workload: &Workload, _now: Timestamp) -> bool {
        true
    }

    /// What exeat may prove in the place of a workload that this source attested: exeat's own SVID, where both are one pod, or the
    /// workload's, where the agent gave it. `None` for every source that brings no SVID.
    fn standing(&self, _workload: &Workload) -> Option<Arc<Standing>> {
        None
    }
}
