//! An identity as written, and the [`IdentitySource`] that it means.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::fixed::Fixed;
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

/// An identity in meaning form.
#[derive(Clone)]
pub struct Identity {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// `fixed`, `unix_peer`.
    pub kind: &'static str,
    /// Makes every connection of a listener one workload, so it stands alone in a listener's list.
    pub alone: bool,
    /// What a connection over TCP cannot prove of it, beyond the uid: for `check`.
    pub beyond_tcp: BeyondTcp,
    /// Who judges the caller.
    pub source: Arc<dyn IdentitySource>,
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

impl IdentityConfig {
    /// Judges it; mistakes go to the report.
    pub fn build(self, name: &Spanned<String>, trust_domain: Option<&str>, report: &mut Report) -> Option<Identity> {
        for (kind, written) in [("spiffe", &self.spiffe), ("client_cert", &self.client_cert), ("kubernetes", &self.kubernetes)] {
            if let Some(written) = written {
                let hint = "this binary knows `fixed` and `unix_peer`; `exeat version --json` lists what a binary knows";
                report.error_hint(written.at, format!("this binary does not know the identity kind `{kind}`"), hint);
                return None;
            }
        }
        let shared: Arc<str> = name.value.as_str().into();
        match (self.fixed, self.unix_peer) {
            (Some(fixed), None) => {
                let id = workload_id(&fixed.id, trust_domain, report)?;
                let source = Arc::new(Fixed::new(Arc::clone(&shared), id));
                Some(Identity { name: shared, kind: "fixed", alone: true, beyond_tcp: BeyondTcp::Nothing, source })
            }
            (None, Some(unix)) => {
                let workloads = unix.build(trust_domain, report)?;
                let needs = workloads.iter().filter(|(claim, _)| claim.needs_process()).count();
                let beyond_tcp = match needs {
                    0 => BeyondTcp::Nothing,
                    _ if needs < workloads.len() => BeyondTcp::Some,
                    _ => BeyondTcp::All,
                };
                let source = Arc::new(UnixPeer::new(Arc::clone(&shared), workloads));
                Some(Identity { name: shared, kind: "unix_peer", alone: false, beyond_tcp, source })
            }
            (None, None) => {
                report.error_hint(
                    name.at,
                    format!("identity `{}` names no kind", name.value),
                    "write `fixed: { id }` or `unix_peer: { workloads }`",
                );
                None
            }
            (Some(_), Some(_)) => {
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
