//! A request as people write it, in a test file or on a command line.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::policy::document::OneOrMore;
use crate::written::{Entries, Spanned, WrittenTime};

/// A request as written. Every field may be left to another layer: a row's `set` lies over the request that it uses.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Request")]
pub struct RequestWritten {
    /// The workload: one SPIFFE ID.
    pub(super) from: Option<Spanned<String>>,
    /// The upstream, by its name in the catalogue.
    pub(super) to: Option<Spanned<String>>,
    /// `host:port` or a URL, where the upstream has several origins. Default: its first.
    pub(super) origin: Option<Spanned<String>>,
    /// The method.
    pub(super) method: Option<Spanned<String>>,
    /// The path as it is sent, with its escapes; a query may follow.
    pub(super) path: Option<Spanned<String>>,
    /// Header fields; a list is a field that appears more than once.
    pub(super) headers: Option<Entries<Spanned<OneOrMore>>>,
    /// Query parameters, as they are meant: what needs an escape gets one.
    pub(super) query: Option<Entries<Spanned<OneOrMore>>>,
    /// What `content-length` says.
    pub(super) body_size: Option<Spanned<u64>>,
    /// A CONNECT to an upstream that is not intercepted.
    pub(super) tunnel: Option<Spanned<bool>>,
    /// The other end of the connection, for `source.ip` and `source.uid`.
    pub(super) source: Option<PeerWritten>,
    /// A lease that the workload holds.
    pub(super) lease: Option<LeaseWritten>,
    /// When it is asked.
    pub(super) at: Option<WrittenTime>,
}

/// A lease that was opened for the workload just before it asks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HeldLease")]
pub(super) struct LeaseWritten {
    /// Its kind, as rules name it.
    pub(super) kind: Spanned<String>,
    /// How often it may be used. Default: as often as its time allows.
    pub(super) uses: Option<Spanned<u32>>,
    /// What conditions read as `lease.attrs`.
    #[serde(default)]
    pub(super) attributes: Entries<Spanned<String>>,
}

/// The other end of a connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Source")]
pub(super) struct PeerWritten {
    /// Its address. Default: loopback.
    pub(super) ip: Option<Spanned<String>>,
    /// The user that owns its socket.
    pub(super) uid: Option<Spanned<u32>>,
}

impl PeerWritten {
    pub(super) fn address(&self) -> Option<Result<IpAddr, &Spanned<String>>> {
        self.ip.as_ref().map(|ip| ip.value.parse().map_err(|_| ip))
    }
}
