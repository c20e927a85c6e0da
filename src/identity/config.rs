//! An identity as written, and the [`IdentitySource`] that it means.

use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::client_cert::{ClientCert, ClientCertConfig};
use super::fixed::Fixed;
use super::kubernetes::{Issuers, Kubernetes, KubernetesConfig, KubernetesSpec};
use super::spiffe_id::SpiffeId;
use super::unix_peer::{UnixPeer, UnixPeerConfig};
use super::workload::IdentitySource;
use crate::written::{Report, Spanned};

/// One identity as written: exactly one kind.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Every connection of the listener is this workload.
    fixed: Option<FixedConfig>,
    /// The kernel names the process at the other end.
    unix_peer: Option<UnixPeerConfig>,
    #[schemars(skip)]
    spiffe: Option<Spanned<IgnoredAny>>,
    /// The caller shows an X.509-SVID to a TLS listener.
    client_cert: Option<ClientCertConfig>,
    /// A service account proves itself with a token of its cluster.
    kubernetes: Option<KubernetesConfig>,
}

/// A workload by configuration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FixedConfig {
    /// Its SPIFFE ID, within the trust domain.
    id: Spanned<String>,
}

/// An identity in meaning form.
#[derive(Clone)]
pub struct Identity {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// `fixed`, `unix_peer`, `kubernetes`, `client_cert`.
    pub kind: &'static str,
    /// Makes every connection of a listener one workload, so it stands alone in a listener's list.
    pub alone: bool,
    /// What a connection over TCP cannot prove of it, beyond the uid: for `check`.
    pub beyond_tcp: BeyondTcp,
    /// Takes a proof in `Proxy-Authorization`, which only `forward` listeners can be sent.
    pub presented: bool,
    judge: Judge,
}

/// Who judges the caller: some can be made at once, others need what outlives a configuration.
#[derive(Clone)]
enum Judge {
    Ready(Arc<dyn IdentitySource>),
    Kubernetes(Arc<KubernetesSpec>),
}

/// What an identity needs to know of the rest of the file while it is judged.
pub struct Around<'a> {
    /// The trust domain, where it is one.
    pub trust_domain: Option<&'a str>,
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
    /// Who judges the caller.
    #[must_use]
    pub fn source(&self, issuers: &Issuers) -> Arc<dyn IdentitySource> {
        match &self.judge {
            Judge::Ready(source) => Arc::clone(source),
            Judge::Kubernetes(spec) => Arc::new(Kubernetes::new(Arc::clone(&self.name), spec, issuers)),
        }
    }
}

impl IdentityConfig {
    /// Judges it; mistakes go to the report.
    pub fn build(self, name: &Spanned<String>, around: &mut Around<'_>, report: &mut Report) -> Option<Identity> {
        for (kind, written) in [("spiffe", &self.spiffe)] {
            if let Some(written) = written {
                let hint = "`exeat version --json` lists what a binary knows";
                report.error_hint(written.at, format!("this binary does not know the identity kind `{kind}`"), hint);
                return None;
            }
        }
        let shared: Arc<str> = name.value.as_str().into();
        let identity = |kind, judge| {
            let name = Arc::clone(&shared);
            Identity { name, kind, alone: false, beyond_tcp: BeyondTcp::Nothing, presented: false, judge }
        };
        match (self.fixed, self.unix_peer, self.kubernetes, self.client_cert) {
            (Some(fixed), None, None, None) => {
                let id = workload_id(&fixed.id, around.trust_domain, report)?;
                let source = Arc::new(Fixed::new(Arc::clone(&shared), id));
                Some(Identity { alone: true, ..identity("fixed", Judge::Ready(source)) })
            }
            (None, Some(unix), None, None) => {
                let workloads = unix.build(around.trust_domain, report)?;
                let needs = workloads.iter().filter(|(claim, _)| claim.needs_process()).count();
                let beyond_tcp = match needs {
                    0 => BeyondTcp::Nothing,
                    _ if needs < workloads.len() => BeyondTcp::Some,
                    _ => BeyondTcp::All,
                };
                let source = Arc::new(UnixPeer::new(Arc::clone(&shared), workloads));
                Some(Identity { beyond_tcp, ..identity("unix_peer", Judge::Ready(source)) })
            }
            (None, None, Some(kubernetes), None) => {
                let spec = Arc::new(kubernetes.build(around, report)?);
                let presented = spec.is_presented();
                Some(Identity { alone: !presented, presented, ..identity("kubernetes", Judge::Kubernetes(spec)) })
            }
            (None, None, None, Some(certificate)) => {
                let source = Arc::new(ClientCert::new(Arc::clone(&shared), certificate.build(around, report)?));
                Some(identity("client_cert", Judge::Ready(source)))
            }
            (None, None, None, None) => {
                report.error_hint(
                    name.at,
                    format!("identity `{}` names no kind", name.value),
                    "write `fixed: { id }`, `unix_peer: { workloads }`, `kubernetes: { issuer, audience }` or `client_cert: { trust: { file } }`",
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
