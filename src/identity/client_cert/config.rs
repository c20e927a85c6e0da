//! `client_cert` as written.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::identity::config::{Around, WorkloadApiConfig};
use crate::identity::pod::PodSettings;
use crate::identity::svid::{Bundle, Bundles};
use crate::tls::parse_certificates;
use crate::written::{Report, Spanned};

/// A workload by the X.509-SVID that it shows to a TLS listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::identity) struct ClientCertConfig {
    /// Who vouches for the workloads.
    trust: Spanned<TrustConfig>,
}

/// Where the bundles come from: one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TrustConfig {
    /// The trust domain's certificates in PEM, or its SPIFFE bundle in JSON. Read with the configuration: a change is in force from the
    /// next request on.
    file: Option<Spanned<PathBuf>>,
    /// The bundles of the trust domain and of all that it federates with, as the Workload API gives them to exeat: what it says is in
    /// force from the next request on. exeat needs a registration of its own there.
    workload_api: Option<Spanned<WorkloadApiConfig>>,
}

/// Who vouches, in meaning form.
pub(in crate::identity) enum Trust {
    /// These, until the next reload.
    Given(Arc<Bundles>),
    /// Whoever the Workload API names.
    Followed(PodSettings),
}

impl ClientCertConfig {
    pub(in crate::identity) fn build(self, around: &mut Around<'_>, report: &mut Report) -> Option<Trust> {
        match (self.trust.value.file, self.trust.value.workload_api) {
            (Some(file), None) => given(&file, around, report).map(Trust::Given),
            (None, Some(api)) => api.value.build(api.at, around, report).map(Trust::Followed),
            (None, None) | (Some(_), Some(_)) => {
                let hint = "write `workload_api: { socket }`, or `file: PATH` for a bundle that is kept by hand";
                report.error_hint(self.trust.at, "the bundles come from a file or from the Workload API: from one of the two", hint);
                None
            }
        }
    }
}

fn given(file: &Spanned<PathBuf>, around: &mut Around<'_>, report: &mut Report) -> Option<Arc<Bundles>> {
    let trust_domain = around.trust_domain?;
    match (around.read)(file).and_then(|content| bundle(trust_domain, &content)) {
        Ok(bundle) => Some(Arc::new(std::iter::once(bundle).collect())),
        Err(why) => {
            let hint = "`spire-server bundle show` prints it in PEM, with `-format spiffe` in JSON";
            report.error_hint(file.at, format!("the bundle of trust domain `{trust_domain}` cannot be used: {why}"), hint);
            None
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
