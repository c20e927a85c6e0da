//! `broker_api` as written.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::identity::config::{Around, WorkloadApiConfig};
use crate::identity::pod::PodSettings;
use crate::identity::svid::Expected;
use crate::identity::workload_api::Endpoint;
use crate::written::{Place, Report, Spanned};

/// Callers by what the agent says of their process, each with its own SVID. Experimental, as the Broker API itself. Unix sockets alone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::identity) struct BrokerApiConfig {
    /// The agent's Broker API: `unix:///PATH`. Default: `SPIFFE_BROKER_SOCKET` of the environment.
    socket: Option<Spanned<String>>,
    /// The Workload API that gives exeat its own SVID: with it exeat proves to the agent that it is a broker.
    workload_api: Spanned<WorkloadApiConfig>,
    /// Whom the agent must prove to be: a SPIFFE ID, or `PATH/**` for all beneath it. Default `spiffe://TRUST_DOMAIN/spire/agent/**`.
    agent: Option<Spanned<String>>,
    /// Which of several SVIDs of a caller: the one that the agent gives this hint. Default: the first.
    hint: Option<Spanned<String>>,
}

/// Which Broker API, and who exeat is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BrokerApiSettings {
    /// Path of its socket.
    pub socket: Arc<str>,
    /// Whom the agent must prove to be.
    pub agent: Expected,
    /// Which of several SVIDs of a caller.
    pub hint: Option<Arc<str>>,
    /// What gives exeat the SVID that it shows to the agent. Callers are of the same trust domain.
    pub own: PodSettings,
}

impl BrokerApiConfig {
    pub(in crate::identity) fn build(self, written: Place, around: &Around<'_>, report: &mut Report) -> Option<BrokerApiSettings> {
        report.warning(
            "experimental",
            written,
            "the SPIFFE Broker API is experimental: a later exeat or agent may change it without notice",
            "read what it proves in docs/identity.md, and have another identity ready",
        );
        let own = self.workload_api.value.build(self.workload_api.at, around, report);
        let (socket, at) = socket(self.socket.as_ref(), written, around, report)?;
        let own = own?;
        if own.endpoint == Endpoint::Unix(Arc::clone(&socket)) {
            report.error_hint(
                at,
                "the Broker API and the Workload API have a socket each",
                "name the agent's `experimental { broker { socket_path } }`",
            );
            return None;
        }
        let agent = match self.agent {
            None => Expected::parse(&format!("spiffe://{}/spire/agent/**", own.trust_domain)).ok()?,
            Some(agent) => match Expected::parse(&agent) {
                Ok(expected) => expected,
                Err(error) => {
                    let message = format!("`{}` names no agent: {error}", agent.value);
                    report.error_hint(agent.at, message, "spiffe://TRUST_DOMAIN/spire/agent/** for any agent of SPIRE's, or one SPIFFE ID");
                    return None;
                }
            },
        };
        if let Some(hint) = self.hint.as_ref().filter(|hint| hint.is_empty() || hint.len() > 1024) {
            report.error_hint(hint.at, "a hint has 1 to 1024 bytes", "leave it out for the first identity that the agent gives");
            return None;
        }
        Some(BrokerApiSettings { socket, agent, hint: self.hint.map(|hint| hint.value.into()), own })
    }
}

/// Where the agent is asked, and where that stands. On this host alone: elsewhere a process's number is another's.
fn socket(written: Option<&Spanned<String>>, at: Place, around: &Around<'_>, report: &mut Report) -> Option<(Arc<str>, Place)> {
    let (text, at) = match (written, around.broker_socket) {
        (Some(socket), _) => (socket.value.as_str(), socket.at),
        (None, Some(variable)) => (variable, at),
        (None, None) => {
            let hint = "write `socket: \"unix:///PATH\"`, or set SPIFFE_BROKER_SOCKET for exeat";
            report.error_hint(at, "the identity does not say where the Broker API is", hint);
            return None;
        }
    };
    let hint = "unix:///run/spire/broker/api.sock";
    match Endpoint::parse(text) {
        Ok(Endpoint::Unix(path)) => Some((path, at)),
        Ok(Endpoint::Tcp(_)) => {
            report.error_hint(
                at,
                "the number of a process means something on its own host alone, so the Broker API is asked over a unix socket",
                hint,
            );
            None
        }
        Err(error) => {
            report.error_hint(at, format!("`{text}` is no Broker API endpoint: {error}"), hint);
            None
        }
    }
}
