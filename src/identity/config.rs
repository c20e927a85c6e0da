//! An identity as written, and the [`IdentitySource`] that it means.

use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::broker_api::{BrokerApiConfig, BrokerApiSettings};
use super::client_cert::{ClientCert, ClientCertConfig, Trust};
use super::fixed::Fixed;
use super::kubernetes::{KubernetesConfig, KubernetesSpec};
use super::pod::PodSettings;
use super::spiffe_id::SpiffeId;
use super::unix_peer::{UnixPeer, UnixPeerConfig};
use super::workload::IdentitySource;
use super::workload_api::Endpoint;
use crate::written::{Place, Report, Spanned};

/// One identity as written: exactly one kind.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Every connection of the listener is this workload.
    fixed: Option<FixedConfig>,
    /// The kernel names the process at the other end.
    unix_peer: Option<UnixPeerConfig>,
    /// A service account proves itself with a token of its cluster.
    kubernetes: Option<KubernetesConfig>,
    /// The caller shows an X.509-SVID to a TLS listener.
    client_cert: Option<ClientCertConfig>,
    /// The pod's own identity, from the SPIFFE Workload API: whoever connects to the listener is this pod.
    spiffe: Option<Spanned<WorkloadApiConfig>>,
    /// Each caller is what the SPIFFE Broker API says of its process, with its own SVID: one exeat for many workloads of a host.
    broker_api: Option<Spanned<BrokerApiConfig>>,
}

/// A workload by configuration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FixedConfig {
    /// Its SPIFFE ID, within the trust domain.
    id: Spanned<String>,
}

/// One identity of a Workload API: exeat's own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkloadApiConfig {
    /// The Workload API: `unix:///PATH` or `tcp://IP:PORT`. Default: `SPIFFE_ENDPOINT_SOCKET` of the environment.
    socket: Option<Spanned<String>>,
    /// Which of several SVIDs: the one that the server gives this hint. Default: the first.
    hint: Option<Spanned<String>>,
}

/// An identity in meaning form.
#[derive(Clone)]
pub struct Identity {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// `fixed`, `unix_peer`, `kubernetes`, `client_cert`, `spiffe`, `broker_api`.
    pub kind: &'static str,
    /// Makes every connection of a listener one workload, so it stands alone in a listener's list.
    pub alone: bool,
    /// What a connection over TCP cannot prove of it, beyond the uid: for `check`.
    pub beyond_tcp: BeyondTcp,
    /// Takes a proof in `Proxy-Authorization`, which only `forward` listeners can be sent.
    pub presented: bool,
    /// Who judges the caller.
    pub source: Source,
}

/// Who judges the caller: some can be made at once, others need what outlives a configuration.
#[derive(Clone)]
pub enum Source {
    /// The configuration says all that it needs.
    Ready(Arc<dyn IdentitySource>),
    /// It needs the keys of a cluster, which are kept over reloads.
    Kubernetes(Arc<KubernetesSpec>),
    /// It lives on news of the Workload API, across reloads.
    Pod(PodSettings),
    /// Callers show a certificate; whom to trust is news of the Workload API, across reloads.
    Trust(PodSettings),
    /// It lives on news of the Broker API, across reloads.
    Broker(BrokerApiSettings),
}

/// What an identity needs to know of the rest of the file while it is judged.
pub struct Around<'a> {
    /// The trust domain, where it is one.
    pub trust_domain: Option<&'a str>,
    /// `SPIFFE_ENDPOINT_SOCKET`, where it is set.
    pub endpoint_socket: Option<&'a str>,
    /// `SPIFFE_BROKER_SOCKET`, where it is set.
    pub broker_socket: Option<&'a str>,
    /// What relative paths are relative to.
    pub base: &'a Path,
    /// Reads a file named in the configuration, relative to it; the error says what went wrong.
    pub read: &'a mut dyn FnMut(&Path) -> Result<Vec<u8>, String>,
}

/// What an identity needs that only a unix socket can prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeyondTcp {
    /// Nothing.
    Nothing,
    /// Some of its workloads: those can never be proven over TCP.
    Some,
    /// Each of its workloads: over TCP it rejects everybody.
    All,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Identity {
    /// The Workload API that it lives on, where it does: what exeat itself is there can be shown by a listener.
    #[must_use]
    pub const fn workload_api(&self) -> Option<&PodSettings> {
        match &self.source {
            Source::Pod(settings) | Source::Trust(settings) => Some(settings),
            Source::Broker(settings) => Some(&settings.own),
            Source::Ready(_) | Source::Kubernetes(_) => None,
        }
    }
}

impl Identity {
    /// Whether callers come with an SVID that may be shown to upstreams.
    #[must_use]
    pub const fn brings_svid(&self) -> bool {
        matches!(self.source, Source::Pod(_) | Source::Broker(_))
    }
}

impl IdentityConfig {
    /// Whether it brings SVIDs that may be shown to upstreams: exeat's own, or each caller's.
    #[must_use]
    pub const fn brings_svid(&self) -> bool {
        self.spiffe.is_some() || self.broker_api.is_some()
    }

    /// Judges it; mistakes go to the report.
    pub fn build(self, name: &Spanned<String>, around: &mut Around<'_>, report: &mut Report) -> Option<Identity> {
        let shared: Arc<str> = name.value.as_str().into();
        let identity = |kind, source| {
            let name = Arc::clone(&shared);
            Identity { name, kind, alone: false, beyond_tcp: BeyondTcp::Nothing, presented: false, source }
        };
        match (self.fixed, self.unix_peer, self.kubernetes, self.client_cert, self.spiffe, self.broker_api) {
            (Some(fixed), None, None, None, None, None) => {
                let id = workload_id(&fixed.id, around.trust_domain, report)?;
                let source = Arc::new(Fixed::new(Arc::clone(&shared), id));
                Some(Identity { alone: true, ..identity("fixed", Source::Ready(source)) })
            }
            (None, Some(unix), None, None, None, None) => {
                let workloads = unix.build(around.trust_domain, report)?;
                let needs = workloads.iter().filter(|(claim, _)| claim.needs_process()).count();
                let beyond_tcp = match needs {
                    0 => BeyondTcp::Nothing,
                    _ if needs < workloads.len() => BeyondTcp::Some,
                    _ => BeyondTcp::All,
                };
                let source = Arc::new(UnixPeer::new(Arc::clone(&shared), workloads));
                Some(Identity { beyond_tcp, ..identity("unix_peer", Source::Ready(source)) })
            }
            (None, None, Some(kubernetes), None, None, None) => {
                let spec = Arc::new(kubernetes.build(around, report)?);
                let presented = spec.is_presented();
                Some(Identity { alone: !presented, presented, ..identity("kubernetes", Source::Kubernetes(spec)) })
            }
            (None, None, None, Some(certificate), None, None) => {
                let source = match certificate.build(around, report)? {
                    Trust::Given(bundles) => Source::Ready(Arc::new(ClientCert::new(Arc::clone(&shared), bundles))),
                    Trust::Followed(settings) => Source::Trust(settings),
                };
                Some(identity("client_cert", source))
            }
            (None, None, None, None, Some(spiffe), None) => {
                let settings = spiffe.value.build(spiffe.at, around, report)?;
                Some(Identity { alone: true, ..identity("spiffe", Source::Pod(settings)) })
            }
            (None, None, None, None, None, Some(broker)) => {
                let settings = broker.value.build(broker.at, around, report)?;
                Some(Identity { beyond_tcp: BeyondTcp::All, ..identity("broker_api", Source::Broker(settings)) })
            }
            (None, None, None, None, None, None) => {
                report.error_hint(
                    name.at,
                    format!("identity `{}` names no kind", name.value),
                    "write `fixed: { id }`, `unix_peer: { workloads }`, `kubernetes: { issuer, audience }`, `client_cert: { trust: { workload_api } }`, `spiffe: { socket }` or `broker_api: { socket, workload_api }`",
                );
                None
            }
            _ => {
                report.error_hint(name.at, format!("identity `{}` names two kinds", name.value), "make two identities of it");
                None
            }
        }
    }
}

impl WorkloadApiConfig {
    pub(super) fn build(self, written: Place, around: &Around<'_>, report: &mut Report) -> Option<PodSettings> {
        let (text, at) = match (&self.socket, around.endpoint_socket) {
            (Some(socket), _) => (socket.value.as_str(), socket.at),
            (None, Some(variable)) => (variable, written),
            (None, None) => {
                let hint = "write `socket: \"unix:///PATH\"`, or set SPIFFE_ENDPOINT_SOCKET for exeat";
                report.error_hint(written, "the identity does not say where the Workload API is", hint);
                return None;
            }
        };
        let endpoint = match Endpoint::parse(text) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                let hint = "unix:///run/spire/agent/public/api.sock, or tcp://127.0.0.1:8081";
                report.error_hint(at, format!("`{text}` is no Workload API endpoint: {error}"), hint);
                return None;
            }
        };
        if let Some(hint) = self.hint.as_ref().filter(|hint| hint.is_empty() || hint.len() > 1024) {
            report.error_hint(hint.at, "a hint has 1 to 1024 bytes", "leave it out for the first identity that the server gives");
            return None;
        }
        let hint = self.hint.map(|hint| hint.value.into());
        Some(PodSettings { endpoint, hint, trust_domain: around.trust_domain?.into() })
    }
}

/// A SPIFFE ID within the trust domain.
pub(super) fn workload_id(written: &Spanned<String>, trust_domain: Option<&str>, report: &mut Report) -> Option<SpiffeId> {
    match SpiffeId::parse(written) {
        Ok(id) if trust_domain.is_some_and(|domain| domain != id.trust_domain()) => {
            let message = format!("`{id}` is not in the trust domain `{}`", trust_domain.unwrap_or_default());
            report.error_hint(written.at, message, "exeat speaks for workloads of its own trust domain only");
            None
        }
        Ok(id) => Some(id),
        Err(error) => {
            report.error_hint(
                written.at,
                format!("`{}` is not a SPIFFE ID: {error}", written.value),
                "spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT",
            );
            None
        }
    }
}
