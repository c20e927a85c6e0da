//! An identity as written, and the [`IdentitySource`] that it means.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::fixed::Fixed;
use super::pod::PodSettings;
use super::spiffe_id::SpiffeId;
use super::unix_peer::UnixPeer;
use super::workload::IdentitySource;
use super::workload_api::Endpoint;
use crate::written::{Items, Place, Report, Spanned};

/// What an identity needs to know of its surroundings while it is judged.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// The trust domain, where it is written right.
    pub trust_domain: Option<&'a str>,
    /// `SPIFFE_ENDPOINT_SOCKET`, where it is set.
    pub endpoint_socket: Option<&'a str>,
}

/// One identity as written: exactly one kind.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Every connection of the listener is this workload.
    fixed: Option<FixedConfig>,
    /// The kernel names the uid at the other end.
    unix_peer: Option<UnixPeerConfig>,
    /// The pod's own identity, from the SPIFFE Workload API: whoever connects to the listener is this pod.
    spiffe: Option<Spanned<SpiffeConfig>>,
    #[schemars(skip)]
    client_cert: Option<Spanned<IgnoredAny>>,
    #[schemars(skip)]
    kubernetes: Option<Spanned<IgnoredAny>>,
}

/// A workload by configuration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FixedConfig {
    /// Its SPIFFE ID, within the trust domain.
    id: Spanned<String>,
}

/// The pod's own identity.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SpiffeConfig {
    /// The Workload API: `unix:///PATH` or `tcp://IP:PORT`. Default: `SPIFFE_ENDPOINT_SOCKET` of the environment.
    socket: Option<Spanned<String>>,
    /// Which of several SVIDs: the one that the server gives this hint. Default: the first.
    hint: Option<Spanned<String>>,
}

/// Workloads by uid.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnixPeerConfig {
    /// A uid that is not listed is rejected.
    workloads: Spanned<Items<UnixWorkload>>,
}

/// One uid and who it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnixWorkload {
    /// The uid that the kernel names.
    uid: Spanned<u32>,
    /// Its SPIFFE ID, within the trust domain.
    id: Spanned<String>,
}

/// An identity in meaning form.
#[derive(Clone)]
pub struct Identity {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// `fixed`, `unix_peer`, `spiffe`.
    pub kind: &'static str,
    /// Makes every connection of a listener one workload, so it stands alone in a listener's list.
    pub alone: bool,
    /// Who judges the connection.
    pub source: Source,
}

/// Who judges a connection.
#[derive(Clone)]
pub enum Source {
    /// The configuration says all that it needs.
    Ready(Arc<dyn IdentitySource>),
    /// It lives on news of the Workload API, across reloads.
    Pod(PodSettings),
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl IdentityConfig {
    /// Whether it comes from the Workload API.
    #[must_use]
    pub const fn is_spiffe(&self) -> bool {
        self.spiffe.is_some()
    }

    /// Judges it; mistakes go to the report.
    pub fn build(self, name: &Spanned<String>, around: &Around<'_>, report: &mut Report) -> Option<Identity> {
        let trust_domain = around.trust_domain;
        for (kind, written) in [("client_cert", &self.client_cert), ("kubernetes", &self.kubernetes)] {
            if let Some(written) = written {
                let hint = "this binary knows `fixed`, `unix_peer` and `spiffe`; `exeat version --json` lists what a binary knows";
                report.error_hint(written.at, format!("this binary does not know the identity kind `{kind}`"), hint);
                return None;
            }
        }
        let shared: Arc<str> = name.value.as_str().into();
        match (self.fixed, self.unix_peer, self.spiffe) {
            (Some(fixed), None, None) => {
                let id = workload_id(&fixed.id, trust_domain, report)?;
                Some(Identity {
                    name: Arc::clone(&shared),
                    kind: "fixed",
                    alone: true,
                    source: Source::Ready(Arc::new(Fixed::new(shared, id))),
                })
            }
            (None, Some(unix), None) => {
                let workloads = unix.build(trust_domain, report)?;
                let source = Arc::new(UnixPeer::new(Arc::clone(&shared), workloads));
                Some(Identity { name: shared, kind: "unix_peer", alone: false, source: Source::Ready(source) })
            }
            (None, None, Some(spiffe)) => {
                let settings = spiffe.value.build(spiffe.at, around, report)?;
                Some(Identity { name: shared, kind: "spiffe", alone: true, source: Source::Pod(settings) })
            }
            (None, None, None) => {
                report.error_hint(
                    name.at,
                    format!("identity `{}` names no kind", name.value),
                    "write `fixed: { id }`, `unix_peer: { workloads }` or `spiffe: { socket }`",
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

impl SpiffeConfig {
    fn build(self, written: Place, around: &Around<'_>, report: &mut Report) -> Option<PodSettings> {
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

impl UnixPeerConfig {
    fn build(self, trust_domain: Option<&str>, report: &mut Report) -> Option<Vec<(u32, SpiffeId)>> {
        if self.workloads.is_empty() {
            report.error_hint(self.workloads.at, "an identity without workloads rejects everybody", "list at least one `{ uid, id }`");
            return None;
        }
        let mut built: Vec<(u32, SpiffeId)> = Vec::new();
        let mut whole = true;
        for workload in self.workloads.value {
            let id = workload_id(&workload.id, trust_domain, report);
            let uid = workload.uid.value;
            if built.iter().any(|(known, _)| *known == uid) {
                report.error_hint(workload.uid.at, format!("uid {uid} is listed twice"), "a uid is one workload");
                whole = false;
            }
            match id {
                Some(id) => built.push((uid, id)),
                None => whole = false,
            }
        }
        whole.then_some(built)
    }
}

/// A SPIFFE ID within the trust domain.
fn workload_id(written: &Spanned<String>, trust_domain: Option<&str>, report: &mut Report) -> Option<SpiffeId> {
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
