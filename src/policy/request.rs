//! `AccessRequest`: everything that a decision may depend on, borrowed from the request.

use http::request::Parts;

use crate::action::Action;
use crate::capture::{Destination, Peer};
use crate::catalogue::Upstream;
use crate::identity::Workload;

/// One question to policy.
#[derive(Debug, Clone, Copy)]
pub struct AccessRequest<'a> {
    /// Who asks.
    pub workload: &'a std::sync::Arc<Workload>,
    /// Where to.
    pub upstream: &'a std::sync::Arc<Upstream>,
    /// The exact destination (an upstream may have many).
    pub destination: &'a Destination,
    /// What.
    pub action: &'a Action<'a>,
    /// The head, for conditions on headers and query; read through [`Stripped`](crate::strip::Stripped).
    pub parts: &'a Parts,
    /// The other end of the connection, for `source.*`.
    pub peer: &'a Peer,
    /// A CONNECT to an upstream that is not intercepted: judged by host alone, by rules with `tunnel: true`.
    pub tunnel: bool,
    /// Where the request's trace falls, of a hundred: an upstream that is enforced in part enforces the lower ones. See [`share_of`].
    pub share: u8,
}

/// Where a trace falls, of a hundred: all requests of one trace are treated alike, on every exeat that they pass. The caller may choose
/// its trace id; an upstream that is enforced in part is observed otherwise, so it gains nothing that it does not have.
#[must_use]
pub fn share_of(trace: &[u8; 16]) -> u8 {
    // FNV-1a (64 bits): stable, and good enough to spread ids that are random already.
    let hash = trace.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    u8::try_from((hash >> 32) % 100).unwrap_or(0)
}
