//! `Hop`: where one request goes; `Facts`: what is learnt on the way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Version;

use crate::capture::Destination;
use crate::catalogue::Upstream;
use crate::identity::{Standing, Workload};

/// Where one request goes, and what its connection must be.
#[derive(Debug, Clone, Copy)]
pub struct Hop<'a> {
    /// The catalogue's entry: roots, reach, protocol, deadlines.
    pub upstream: &'a Arc<Upstream>,
    /// The one authority of the request, listed by that upstream.
    pub destination: &'a Destination,
    /// Of what authenticates connections (trust bundle, client certificate): a connection of another generation is not used. Changes of
    /// the upstream's own settings need no new generation, they are compared.
    pub generation: u64,
    /// The workload, only where the connection itself authenticates as it: such connections are never shared.
    pub workload: Option<&'a Arc<Workload>>,
    /// What the Workload API says, where the upstream's TLS needs it: exeat's certificate, and the bundles to judge the peer by.
    pub standing: Option<&'a Arc<Standing>>,
    /// The request asks for an upgrade: HTTP/1.1 is spoken whatever the upstream prefers, and a 101 is expected.
    pub upgrade: bool,
}

/// What is learnt of one attempt, filled in as it happens: also when it fails.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The address that was dialled.
    pub address: Option<SocketAddr>,
    /// HTTP version of the upstream leg.
    pub version: Version,
    /// When it began.
    pub began: Option<Instant>,
    /// When its answer was there, where the connection was kept then.
    pub ended: Option<Instant>,
    /// A pooled connection carried it.
    pub reused: bool,
    /// How long resolving, connecting and the TLS handshake took, where they happened.
    pub connect: Option<Duration>,
    /// Key exchange of the TLS handshake.
    pub key_exchange: Option<&'static str>,
    /// A byte of the request may have reached the upstream.
    pub sent: bool,
    /// Pooled connections that turned out dead before a byte was written.
    pub stale: u8,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            address: None,
            version: Version::HTTP_11,
            began: None,
            ended: None,
            reused: false,
            connect: None,
            key_exchange: None,
            sent: false,
            stale: 0,
        }
    }
}
