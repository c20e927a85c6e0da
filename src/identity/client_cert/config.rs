//! `client_cert` as written.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::identity::config::Around;
use crate::identity::svid::{Bundle, Bundles};
use crate::tls::parse_certificates;
use crate::written::{Report, Spanned};

/// A workload by the X.509-SVID that it shows to a TLS listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::identity) struct ClientCertConfig {
    /// Who vouches for the workloads of the trust domain.
    trust: TrustConfig,
}

/// The trust domain's bundle.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TrustConfig {
    /// Certificates in PEM, or a SPIFFE bundle in JSON. Read with the configuration: a change is in force from the next request on.
    file: Spanned<PathBuf>,
}

impl ClientCertConfig {
    pub(in crate::identity) fn build(self, around: &mut Around<'_>, report: &mut Report) -> Option<Arc<Bundles>> {
        let trust_domain = around.trust_domain?;
        let file = self.trust.file;
        match (around.read)(&file).and_then(|content| bundle(trust_domain, &content)) {
            Ok(bundle) => Some(Arc::new(std::iter::once(bundle).collect())),
            Err(why) => {
                let hint = "`spire-server bundle show` prints it in PEM, with `-format spiffe` in JSON";
                report.error_hint(file.at, format!("the bundle of trust domain `{trust_domain}` cannot be used: {why}"), hint);
                None
            }
        }
    }
}

fn bundle(trust_domain: &str, content: &[u8]) -> Result<Bundle, String> {
    let bundle = if content.trim_ascii_start().starts_with(b"{") {
        Bundle::parse(trust_domain, content)
    } else {
        let certificates = parse_certificates(content).map_err(|error| error.to_string())?;
        Bundle::from_der_list(trust_domain, &certificates.concat())
    };
    let bundle = bundle.map_err(|error| error.to_string())?;
    if bundle.x509_authorities().len() == 0 { Err("it has no X.509 authority".to_owned()) } else { Ok(bundle) }
}
