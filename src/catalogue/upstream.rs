//! `Upstream`: one entry of the catalogue, in meaning form.

use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;

use crate::capture::{Destination, Host, Scheme};
use crate::clock::Timestamp;

/// Position in the catalogue of one snapshot: an index for per-upstream tables, never written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamIndex(pub u32);

/// A name of an origin: exact, or any single label below a suffix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host alone.
    Exact(Host),
    /// `*.SUFFIX`: exactly one label more than the suffix (kept without its leading dot).
    OneLabelUnder(Host),
}

/// `https://host:port` as the catalogue lists it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `Http` is declared plaintext.
    pub scheme: Scheme,
    /// Exact or wildcard.
    pub host: HostPattern,
    /// Always explicit.
    pub port: u16,
}

impl Origin {
    /// The one destination of an exact origin.
    #[must_use]
    pub fn destination(&self) -> Option<Destination> {
        match &self.host {
            HostPattern::Exact(host) => Some(Destination { scheme: self.scheme, host: host.clone(), port: self.port }),
            HostPattern::OneLabelUnder(_) => None,
        }
    }
}

/// What happens to this upstream's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Strip, decide, inject.
    Enforce,
    /// Traffic passes with what the application sent, would-be decisions are recorded; after `until` the stage is `Enforce`.
    Observe {
        /// 30 days ahead at most.
        until: Timestamp,
        /// The credential of the would-be allow rule is obtained now and then, and thrown away.
        rehearse: bool,
        /// Requests whose trace falls below this share of a hundred are treated as in `Enforce`.
        enforce_percent: u8,
    },
}

/// Which HTTP versions the upstream leg may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TLS: by ALPN. Plaintext: HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1 alone.
    H1,
    /// HTTP/2 alone; prior knowledge on a plaintext upstream.
    H2,
}

/// Exceptions and additions to what `strip` removes, per upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StripOptions {
    /// Header names (lower-case), or `query:NAME`, `cookie:NAME`, that stay although they look like credentials; each is a lint.
    pub keep: Vec<String>,
    /// More header names, `query:NAME`, `cookie:NAME` that are always removed.
    pub also: Vec<String>,
}

/// Who vouches for an upstream's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Roots {
    /// The operating system's store.
    System,
    /// A PEM file, read when the configuration is loaded; the certificates in DER.
    Certificates(Arc<[Vec<u8>]>),
}

/// How the upstream's TLS is verified. Verification cannot be turned off.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsProfile {
    /// Trust anchors.
    pub roots: Roots,
    /// The name to verify instead of the destination's host.
    pub server_name: Option<Host>,
    /// The SPIFFE ID to verify instead of a name, against the bundle of its trust domain.
    pub spiffe_id: Option<Arc<str>>,
    /// exeat shows its own X.509-SVID.
    pub client_certificate: bool,
}

impl TlsProfile {
    /// Whether a connection needs what the Workload API gives.
    #[must_use]
    pub const fn needs_svid(&self) -> bool {
        self.client_certificate || self.spiffe_id.is_some()
    }
}

/// Deadlines of one upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From dialling to an established TCP connection.
    pub connect: std::time::Duration,
    /// TLS handshake.
    pub tls: std::time::Duration,
    /// From the request's last byte to the response head.
    pub response_head: std::time::Duration,
    /// Longest silence of a stream in either direction.
    pub idle: std::time::Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = std::time::Duration::from_secs;
        Self { connect: seconds(5), tls: seconds(5), response_head: seconds(60), idle: seconds(3600) }
    }
}

/// One upstream: who owns it, where it is, and which credentials may be used there.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Its place in this catalogue.
    pub index: UpstreamIndex,
    /// Its name, in policies and records.
    pub name: Arc<str>,
    /// Who answers for it.
    pub owner: Arc<str>,
    /// Where it is.
    pub origins: Vec<Origin>,
    /// Networks that its addresses may lie in; empty means public unicast only.
    pub reach: Vec<IpNet>,
    /// How its TLS is verified.
    pub tls: TlsProfile,
    /// HTTP versions.
    pub protocol: Protocol,
    /// Names of the credential definitions that a grant may use here.
    pub credentials: Vec<Arc<str>>,
    /// Enforce or observe.
    pub stage: Stage,
    /// `false`: CONNECT to it is a tunnel, judged by host alone.
    pub intercept: bool,
    /// Exceptions and additions of `strip`.
    pub strip: StripOptions,
    /// Headers of the response that name it, none by default.
    pub response_remove: Vec<HeaderName>,
    /// Deadlines.
    pub deadlines: Deadlines,
    /// Bodies are read before judging up to this many bytes when a rule needs them.
    pub body_limit: u32,
}
