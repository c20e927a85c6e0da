//! `DialError`: why there is no answer from the upstream.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::hop::{Facts, Hop};
use crate::address::AddressError;
use crate::refusal::{Code, Refusal};

/// The upstream, its origin, and the address that was dialled: so that every message names the thing and the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The origin.
    pub origin: Box<str>,
    /// The address, once known.
    pub address: Option<SocketAddr>,
}

impl Place {
    #[expect(clippy::unnecessary_box_returns, reason = "each error holds it boxed: errors travel in every result")]
    pub(super) fn new(hop: &Hop<'_>, facts: &Facts) -> Box<Self> {
        let origin = hop.destination.to_string().into();
        Box::new(Self { upstream: Arc::clone(&hop.upstream.name), origin, address: facts.address })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upstream `{}` ({}", self.upstream, self.origin)?;
        match self.address {
            Some(address) => write!(f, " at {address})"),
            None => f.write_str(")"),
        }
    }
}

/// Why there is no answer. Holds nothing of the request or of the response.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name gave no address that may be dialled.
    #[error("upstream `{upstream}`: {why}")]
    Address {
        /// The upstream's name.
        upstream: Arc<str>,
        /// What the resolver or the guard said.
        why: AddressError,
    },
    /// No TCP connection.
    #[error("{place} cannot be reached: {why}; check that it listens there and that the network lets exeat through")]
    Connect {
        /// Where.
        place: Box<Place>,
        /// The system's words.
        why: String,
    },
    /// The peer did not prove its name.
    #[error("{place} did not prove to be `{name}`: {why}; check its certificate, and `tls.roots` of the upstream")]
    Untrusted {
        /// Where.
        place: Box<Place>,
        /// The name to prove.
        name: Box<str>,
        /// The verifier's words.
        why: String,
    },
    /// The handshake broke off.
    #[error("{place} broke off the TLS handshake: {why}; check that it speaks TLS on this port")]
    Handshake {
        /// Where.
        place: Box<Place>,
        /// The system's words.
        why: String,
    },
    /// A deadline passed.
    #[error("{place}: {what} took longer than {after:?}")]
    Slow {
        /// Where.
        place: Box<Place>,
        /// What was waited for.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The connection ended before a response head came.
    #[error("{place} closed the connection before it answered: {why}")]
    Reset {
        /// Where.
        place: Box<Place>,
        /// The engine's words.
        why: String,
        /// The connection had served before: the upstream may have closed it as idle while the request was on its way.
        reused: bool,
        /// The upstream vouched that it did not process the request (RFC 9113 section 8.7).
        unprocessed: bool,
    },
    /// What came is not HTTP as it should be.
    #[error("{place} does not speak HTTP as expected: {why}")]
    Protocol {
        /// Where.
        place: Box<Place>,
        /// What was wrong.
        why: String,
    },
    /// The caller's request body broke off.
    #[error("the request body for {place} ended early: {why}")]
    RequestBody {
        /// Where it was going.
        place: Box<Place>,
        /// The engine's words.
        why: String,
    },
    /// This worker holds as many upstream connections as it may.
    #[error("{place} was not dialled: this worker already holds {most} {what}, which is its limit")]
    Full {
        /// Where it was going.
        place: Box<Place>,
        /// Of what there are too many.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// The upstream is told to speak HTTP/2 alone, which cannot carry the upgrade.
    #[error("{0} speaks HTTP/2 only (`protocol: h2`), which carries no upgrade; allow HTTP/1.1 there")]
    NoUpgrade(Box<Place>),
    /// A further attempt was not allowed any more.
    #[error("a further attempt was refused: {}", .0.detail)]
    NotAgain(Refusal),
}

impl DialError {
    /// Stable word for records and spans.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Address { why, .. } => why.word(),
            Self::Connect { .. } => "connect",
            Self::Untrusted { .. } | Self::Handshake { .. } => "tls",
            Self::Slow { .. } => "timeout",
            Self::Reset { .. } => "reset",
            Self::Protocol { .. } | Self::NoUpgrade(_) => "protocol",
            Self::RequestBody { .. } => "body",
            Self::Full { .. } => "overloaded",
            Self::NotAgain(_) => "refused",
        }
    }

    /// The refusal with its internal line.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::Address { upstream, why } => {
                let refusal = why.refusal();
                let detail = format!("upstream `{upstream}`: {}", refusal.detail);
                return Refusal { detail: detail.into(), ..refusal };
            }
            Self::NotAgain(refusal) => return refusal.clone(),
            Self::Connect { .. } | Self::Handshake { .. } | Self::Reset { .. } | Self::Protocol { .. } => Code::UpstreamUnreachable,
            Self::Untrusted { .. } => Code::UpstreamUntrusted,
            Self::Slow { .. } => Code::UpstreamTimeout,
            Self::RequestBody { .. } => Code::Malformed,
            Self::Full { .. } => Code::Overloaded,
            Self::NoUpgrade(_) => Code::Unsupported,
        };
        Refusal::new(code, self.to_string())
    }

    /// Whether a request may be sent once more on the caller's own account, `idempotent` or not (RFC 9110 section 9.2.2, RFC 9113
    /// section 8.7): the upstream said that it did not process it, or a connection that had served before ended without an answer, as
    /// happens when the upstream closes it as idle just then.
    #[must_use]
    pub const fn may_resend(&self, idempotent: bool) -> bool {
        match self {
            Self::Reset { reused, unprocessed, .. } => *unprocessed || (*reused && idempotent),
            Self::Address { .. }
            | Self::Connect { .. }
            | Self::Untrusted { .. }
            | Self::Handshake { .. }
            | Self::Slow { .. }
            | Self::Protocol { .. }
            | Self::RequestBody { .. }
            | Self::Full { .. }
            | Self::NoUpgrade(_)
            | Self::NotAgain(_) => false,
        }
    }
}
