//! `Arrival`: what a connection proves about how and from whom traffic reached us. Taken once per connection, never from bytes
//! that the workload wrote, except the CONNECT target of a tunnel, which every request inside must agree with.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::destination::Destination;
use super::process::Process;
use super::proof::Proof;

/// How a listener takes traffic in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The listener is one upstream; any well-formed Host.
    Route,
    /// Origin-form; the upstream is found by Host.
    Host,
    /// Absolute-form and CONNECT (`HTTP_PROXY`, `HTTPS_PROXY`).
    Forward,
}

/// The other end of a connection, as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// TCP: the address, and for loopback the uid that owns the socket where the kernel told it.
    Tcp {
        /// The peer's address.
        address: SocketAddr,
        /// Owner of the peer's socket.
        uid: Option<u32>,
    },
    /// A unix socket's `SO_PEERCRED`.
    Unix {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Process, where the kernel tells it.
        pid: Option<i32>,
    },
}

/// One connection's proof, shared by all its requests.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The listener's name in the configuration.
    pub listener: Arc<str>,
    /// How that listener takes traffic in.
    pub mode: Mode,
    /// The upstream of a `route` listener.
    pub route: Option<Arc<str>>,
    /// Who is at the other end.
    pub peer: Peer,
    /// The process at the other end, or why it cannot be known. `None`: no identity of the listener asked when it connected.
    pub process: Option<Result<Arc<Process>, &'static str>>,
    /// The chain that the caller showed in the TLS handshake of its connection, leaf first; its key is proven, who it is is not judged.
    pub certificates: Option<Arc<[CertificateDer<'static>]>>,
    /// Inside a CONNECT tunnel: what the CONNECT presented to the proxy, where that was what proved the caller.
    pub proof: Option<Arc<Proof>>,
    /// Inside a CONNECT tunnel: its target, with the scheme that the first bytes showed.
    pub tunnel: Option<Destination>,
    /// The SNI of an intercepted TLS connection, canonical.
    pub sni: Option<super::destination::Host>,
}
