//! A listener as written, and the [`Listener`] that it means.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::arrival::Mode;
use crate::written::{Place, Report, Spanned};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket. 107 bytes of path are the most that Linux takes.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only this host (and its network namespace) can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Parses `IP:PORT` or `unix:///path`; a mistake goes to the report.
    pub fn build(written: &Spanned<String>, report: &mut Report) -> Option<Self> {
        let text = written.value.as_str();
        if let Some(path) = text.strip_prefix("unix://") {
            return unix(path, written, report);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Self::Tcp(address));
        }
        let hint = if text.starts_with("localhost:") {
            "an address is never looked up: write 127.0.0.1 or [::1]"
        } else {
            "write IP:PORT (127.0.0.1:15001, [::1]:15001) or unix:///run/exeat/name.sock"
        };
        report.error_hint(written.at, format!("`{text}` is not an address to listen on"), hint);
        None
    }
}

fn unix(path: &str, written: &Spanned<String>, report: &mut Report) -> Option<ListenAddress> {
    if !path.starts_with('/') {
        report.error_hint(written.at, "the path of a unix socket is absolute", "write unix:///run/exeat/name.sock, with three slashes");
        return None;
    }
    if path.len() > 107 {
        report.error_hint(written.at, format!("the socket's path has {} bytes; Linux takes 107", path.len()), "choose a shorter directory");
        return None;
    }
    Some(ListenAddress::Unix(path.into()))
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// One listener as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// `IP:PORT` or `unix:///path`.
    address: Spanned<String>,
    /// `route`: this listener is one upstream. `host`: the upstream is found by Host. `forward`: `HTTP_PROXY` and `HTTPS_PROXY`.
    capture: Spanned<Mode>,
    /// The one upstream of a `route` listener.
    upstream: Option<Spanned<String>>,
    /// TLS towards the workloads. Callers show a certificate where an identity of the listener is `client_cert`.
    tls: Option<Spanned<ListenerTlsConfig>>,
    /// Names of the identities that are accepted here, asked in this order. At least one.
    identity: Spanned<Vec<Spanned<String>>>,
    /// Mode of a unix socket, octal. Default 0666: who may connect is for `identity` (and the socket's directory) to say.
    permissions: Option<Spanned<String>>,
}

/// What a TLS listener shows: a certificate with its key, or an SVID.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTlsConfig {
    /// PEM file of the certificate and those that signed it. A change is taken over without a restart.
    pub certificate: Option<Spanned<PathBuf>>,
    /// PEM file of its private key; read again with the certificate.
    pub key: Option<Spanned<PathBuf>>,
    /// exeat's own X.509-SVID, by the name of an identity that lives on the Workload API (`spiffe`, or `client_cert` with
    /// `trust: { workload_api }`). Each handshake shows the one of that moment.
    pub svid: Option<Spanned<String>>,
}

/// One listener in meaning form; identities are still names, resolved by whoever knows them.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: ListenAddress,
    /// How it takes traffic in.
    pub mode: Mode,
    /// What it shows, where it speaks TLS.
    pub tls: Option<Spanned<ListenerTlsConfig>>,
    /// The upstream of a `route` listener, with its place.
    pub upstream: Option<Spanned<String>>,
    /// Names of the identities, at least one.
    pub identities: Vec<Spanned<String>>,
    /// Mode of a unix socket.
    pub permissions: u32,
}

impl ListenerConfig {
    /// Where the address stands.
    #[must_use]
    pub const fn address_at(&self) -> Place {
        self.address.at
    }

    /// Judges it; mistakes and warnings go to the report.
    pub fn build(self, name: &Spanned<String>, report: &mut Report) -> Option<Listener> {
        let address = ListenAddress::build(&self.address, report);
        if let Some(address) = &address {
            self.warn_of_address(name, address, report);
        }
        let mode = self.capture.value;
        match (&self.upstream, mode) {
            (None, Mode::Route) => report.error_hint(
                self.capture.at,
                format!("listener `{}` captures by `route` and names no upstream", name.value),
                "add `upstream: NAME`, the one upstream that this listener is",
            ),
            (Some(upstream), Mode::Host | Mode::Forward) => {
                let hint = "remove it, or write `capture: route`";
                report.error_hint(upstream.at, "only a `route` listener names an upstream; others find it in the request", hint);
            }
            (Some(_), Mode::Route) | (None, Mode::Host | Mode::Forward) => {}
        }
        if self.identity.is_empty() {
            report.error_hint(
                self.identity.at,
                "a listener without an identity would let everybody out",
                "name at least one of `identities`",
            );
        }
        let permissions = self.permissions(address.as_ref(), report);
        Some(Listener {
            name: name.value.as_str().into(),
            address: address?,
            mode,
            tls: self.tls,
            upstream: self.upstream,
            identities: self.identity.value,
            permissions: permissions?,
        })
    }

    fn warn_of_address(&self, name: &Spanned<String>, address: &ListenAddress, report: &mut Report) {
        let ListenAddress::Tcp(tcp) = address else { return };
        if tcp.port() == 0 {
            let hint = "port 0 takes any free one: good for a test, unknown to the workload otherwise";
            report.warning("random-port", self.address.at, format!("listener `{}` has no port of its own", name.value), hint);
        }
        if !address.is_local() && self.tls.is_none() {
            let what = if tcp.ip().is_unspecified() { "every network of this host" } else { "the network" };
            let message = format!("listener `{}` can be reached from {what}", name.value);
            report.warning(
                "not-loopback",
                self.address.at,
                message,
                "traffic to exeat is plaintext: listen on 127.0.0.1, [::1] or a unix socket, or give it `tls`",
            );
        }
    }

    fn permissions(&self, address: Option<&ListenAddress>, report: &mut Report) -> Option<u32> {
        let Some(written) = &self.permissions else { return Some(0o666) };
        if let Some(ListenAddress::Tcp(_)) = address {
            report.error_hint(written.at, "only a unix socket has permissions", "remove the field");
            return None;
        }
        let mode = u32::from_str_radix(written.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o777);
        if mode.is_none() {
            report.error_hint(written.at, format!("`{}` is not a file mode", written.value), "write three octal digits, such as \"0660\"");
        }
        mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::written::Source;

    fn address(text: &str) -> Result<ListenAddress, String> {
        let mut report = Report::new(Source::new("t.yaml", text));
        let built = ListenAddress::build(&Spanned::new(text.to_owned(), Place::START), &mut report);
        built.ok_or_else(|| report.finish().0[0].to_string())
    }

    #[test]
    fn addresses_are_literal() {
        assert!(address("127.0.0.1:15001").unwrap().is_local());
        assert!(address("[::ffff:127.0.0.1]:1").unwrap().is_local());
        assert!(!address("0.0.0.0:80").unwrap().is_local());
        assert_eq!(address("unix:///run/a.sock").unwrap().to_string(), "unix:///run/a.sock");
        assert!(address("localhost:80").unwrap_err().contains("never looked up"));
        assert!(address("unix://run/a.sock").unwrap_err().contains("absolute"));
        assert!(address(&format!("unix:///{}", "a".repeat(107))).unwrap_err().contains("107"));
        assert!(address("127.0.0.1").unwrap_err().contains("not an address"));
    }
}
