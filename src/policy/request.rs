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
}
