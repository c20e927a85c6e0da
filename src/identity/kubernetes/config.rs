//! `kubernetes` as written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Uri;
use schemars::JsonSchema;
use serde::Deserialize;

use super::issuer::{Issuers, KeySource, KeysFrom, parse_keys};
use super::source::Kubernetes;
use super::token::Demands;
use crate::identity::IdentitySource;
use crate::identity::config::Around;
use crate::jose::ForeignKey;
use crate::tls::{Trust, parse_certificates};
use crate::written::{Report, Spanned};

/// A service account by its projected token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::identity) struct KubernetesConfig {
    /// Exact `iss` of the cluster's tokens.
    issuer: Spanned<String>,
    /// `aud` that a token must have: one of exeat's own, never the API server's.
    audience: Spanned<String>,
    /// Where the issuer's keys are. Default: where its discovery document says.
    #[serde(default)]
    keys: KeysConfig,
    /// The workload's own token, mounted beside exeat: whoever connects is that pod. Default: each request presents one.
    token_file: Option<Spanned<PathBuf>>,
    /// Whether a token must be bound to a pod. Default true.
    bound_to_pod: Option<bool>,
    /// The node that the token's pod must run on.
    node: Option<Spanned<String>>,
}

/// Where an issuer's keys are: `file`, or `url`, or neither.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeysConfig {
    /// A JWK Set; read with the configuration.
    file: Option<Spanned<PathBuf>>,
    /// The JWK Set's address, such as <https://kubernetes.default.svc/openid/v1/jwks>.
    url: Option<Spanned<String>>,
    /// PEM file of the certificates that vouch for the server. Default: the operating system's.
    roots: Option<Spanned<PathBuf>>,
    /// A token that exeat shows to the issuer, sent to its own origin alone.
    token_file: Option<PathBuf>,
}

/// `kubernetes` in meaning form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSpec {
    pub(super) trust_domain: Arc<str>,
    pub(super) demands: Demands,
    pub(super) keys: KeySource,
    pub(super) token_file: Option<PathBuf>,
}

impl KubernetesSpec {
    /// Who judges its callers, under the identity's name in the configuration.
    #[must_use]
    pub fn source(&self, name: &Arc<str>, issuers: &Issuers) -> Arc<dyn IdentitySource> {
        Arc::new(Kubernetes::new(Arc::clone(name), self, issuers))
    }

    /// Whether each request presents its token.
    pub(in crate::identity) const fn is_presented(&self) -> bool {
        self.token_file.is_none()
    }
}

impl KubernetesConfig {
    pub(in crate::identity) fn build(self, around: &mut Around<'_>, report: &mut Report) -> Option<KubernetesSpec> {
        // with keys of its own an issuer is a name; without, it is where they are found
        let discovered = self.keys.file.is_none() && self.keys.url.is_none();
        let issuer = if discovered || self.issuer.is_empty() {
            address(&self.issuer, "an issuer", report)
        } else {
            Some(self.issuer.value.as_str().into())
        };
        if self.audience.is_empty() {
            report.error_hint(
                self.audience.at,
                "an empty audience is everybody's",
                "write the `audience` of the pods' serviceAccountToken projection",
            );
        }
        if self.issuer.value == self.audience.value {
            let hint = "give the projection an audience of exeat's own";
            report.error_hint(
                self.audience.at,
                "tokens for the API server are not taken: whoever holds one could act on the cluster",
                hint,
            );
        }
        let keys = self.keys.build(around, report);
        let node = self.node.as_ref().map(|node| Arc::<str>::from(node.as_str()));
        let (from, trust, token_file) = keys?;
        let issuer = issuer.filter(|_| !self.audience.is_empty() && self.issuer.value != self.audience.value)?;
        Some(KubernetesSpec {
            trust_domain: around.trust_domain?.into(),
            demands: Demands {
                issuer: Arc::clone(&issuer),
                audience: self.audience.value.as_str().into(),
                pod: self.bound_to_pod.unwrap_or(true),
                node,
            },
            keys: KeySource { issuer, from, trust, token_file },
            token_file: self.token_file.map(|path| around.base.join(path.value)),
        })
    }
}

impl KeysConfig {
    fn build(self, around: &mut Around<'_>, report: &mut Report) -> Option<(KeysFrom, Trust, Option<PathBuf>)> {
        let from = match (&self.file, &self.url) {
            (Some(file), Some(_)) => {
                report.error_hint(file.at, "keys come from a file or from a URL, not from both", "take one away");
                None
            }
            (Some(file), None) => key_file(file, around, report).map(KeysFrom::File),
            (None, Some(url)) => address(url, "the address of a JWK Set", report).map(KeysFrom::Url),
            (None, None) => Some(KeysFrom::Discovery),
        };
        let trust = match &self.roots {
            None => Some(Trust::System),
            Some(file) => match (around.read)(file).and_then(|pem| parse_certificates(&pem).map_err(|error| error.to_string())) {
                Ok(roots) => Some(Trust::Certificates(roots.into())),
                Err(why) => {
                    report.error_hint(
                        file.at,
                        format!("the roots cannot be used: {why}"),
                        "in a pod: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
                    );
                    None
                }
            },
        };
        Some((from?, trust?, self.token_file.map(|path| around.base.join(path))))
    }
}

fn key_file(file: &Spanned<PathBuf>, around: &mut Around<'_>, report: &mut Report) -> Option<Arc<[ForeignKey]>> {
    let read = (around.read)(Path::new(&file.value)).and_then(|set| parse_keys(&set));
    let why = match read {
        Ok(keys) if !keys.is_empty() => return Some(keys.into()),
        Ok(_) => "it lists no key that verifies a token".to_owned(),
        Err(why) => why,
    };
    report.error_hint(file.at, format!("the JWK Set cannot be used: {why}"), "`kubectl get --raw /openid/v1/jwks` prints it");
    None
}

/// An https URL; plain http on loopback only.
fn address(written: &Spanned<String>, what: &str, report: &mut Report) -> Option<Arc<str>> {
    let uri = written.parse::<Uri>().ok().filter(|uri| uri.authority().is_some_and(|authority| !authority.as_str().contains('@')));
    let loopback = |uri: &Uri| {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    match uri {
        Some(uri) if uri.scheme_str() == Some("https") || (uri.scheme_str() == Some("http") && loopback(&uri)) => {
            Some(written.value.as_str().into())
        }
        Some(_) | None => {
            report.error_hint(written.at, format!("`{}` is not {what}", written.value), "write https://HOST[:PORT][/PATH]");
            None
        }
    }
}
