//! A credential definition as written, and the [`CredentialSpec`] that it means.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::secret_source::{SecretReference, SecretSource};
use crate::catalogue::{InjectConfig, JWT_SVID, Placement, Profile, Upstream};
use crate::written::{Report, Spanned, WrittenDuration};

/// Longest life of a credential.
pub(super) const TTL_CEILING: Duration = Duration::from_mins(15);
/// Life of a minted token where nothing is written.
const TTL_DEFAULT: Duration = Duration::from_mins(1);

/// One credential definition as written: exactly one kind, and where it is put.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialConfig {
    /// A JWT that exeat signs itself (RFC 9068).
    local_jwt: Option<LocalJwtConfig>,
    /// A key of the vendor's that exeat holds so that the workload does not.
    secret: Option<SecretConfig>,
    /// The JWT-SVID of the caller's pod, from the SPIFFE Workload API.
    jwt_svid: Option<JwtSvidConfig>,
    /// Where it is put. Default for `local_jwt` and `jwt_svid`: bearer.
    inject: Option<InjectConfig>,
}

/// A key of the vendor's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SecretConfig {
    /// Where it is kept. It is read again when it changes.
    value: SecretReference,
}

/// The JWT-SVID of the caller's pod.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JwtSvidConfig {
    /// The one `aud`: how the upstream names itself.
    audience: Spanned<String>,
}

/// A JWT that exeat signs itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LocalJwtConfig {
    /// The `iss` claim: the https URL under which `status` serves the keys.
    issuer: Spanned<String>,
    /// The `aud` claim. Default: the origin of the one upstream that uses this credential.
    audience: Option<Spanned<String>>,
    /// Everything that a grant may ask for (RFC 6749, section 3.3).
    #[serde(default)]
    scopes: Vec<Spanned<String>>,
    /// Life of one token, 15 minutes at most. Default 60s.
    ttl: Option<WrittenDuration>,
    /// Signature algorithm. Default ES256.
    #[serde(default)]
    alg: SigningAlgorithm,
    /// PEM file with the private key. Default: generated and kept in `state`.
    key: Option<Spanned<String>>,
}

/// Signature algorithm of minted tokens (RFC 7518).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, JsonSchema)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    ES256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, for upstreams that cannot verify ES256.
    RS256,
}

/// One credential definition in meaning form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialSpec {
    /// What policy and injection need to know.
    pub profile: Arc<Profile>,
    /// What issues it.
    pub kind: CredentialKind,
}

/// What issues a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialKind {
    /// exeat signs a JWT itself.
    LocalJwt(LocalJwt),
    /// The Workload API issues it to the pod.
    JwtSvid,
    /// A long-lived key of the vendor's.
    Secret {
        /// Where it is kept.
        source: SecretSource,
    },
}

/// The terms of a JWT that exeat signs itself; audience, scopes and ttl stand in the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalJwt {
    /// `iss`.
    pub issuer: Arc<str>,
    /// Signature algorithm.
    pub algorithm: SigningAlgorithm,
    /// PEM file with the private key; `None` means generated and kept in `state`.
    pub key: Option<PathBuf>,
}

impl CredentialConfig {
    /// Whether it is the pod's own JWT-SVID.
    pub(super) const fn is_jwt_svid(&self) -> bool {
        self.jwt_svid.is_some()
    }

    /// Judges it; mistakes and warnings go to the report. `users` are the upstreams that list it, where all upstreams are
    /// right.
    pub(super) fn build(
        self,
        name: &Spanned<String>,
        base: &Path,
        users: Option<&[&Upstream]>,
        report: &mut Report,
    ) -> Option<CredentialSpec> {
        let placement = match (&self.inject, &self.secret) {
            (Some(inject), _) => inject.build(report),
            (None, None) => Some(Placement::Bearer),
            (None, Some(_)) => {
                let hint = "write `inject: bearer`, `{ header: NAME }`, `{ basic: { user: NAME } }` or `{ query: NAME }`";
                report.error_hint(name.at, format!("credential `{}` does not say where the secret is put", name.value), hint);
                None
            }
        };
        match (self.local_jwt, self.secret, self.jwt_svid) {
            (Some(jwt), None, None) => jwt.build(name, base, placement, users, report),
            (None, Some(secret), None) => secret_spec(&secret.value, name, base, placement?, report),
            (None, None, Some(svid)) => svid.build(name, placement?, report),
            (None, None, None) => {
                report.error_hint(
                    name.at,
                    format!("credential `{}` names no kind", name.value),
                    "write `local_jwt: { issuer, .. }`, `jwt_svid: { audience }` or `secret: { value: \"${env:NAME}\" }`",
                );
                None
            }
            _ => {
                report.error_hint(name.at, format!("credential `{}` names two kinds", name.value), "make two credentials of it");
                None
            }
        }
    }
}

fn secret_spec(
    secret: &SecretReference,
    name: &Spanned<String>,
    base: &Path,
    placement: Placement,
    report: &mut Report,
) -> Option<CredentialSpec> {
    let source = secret.build(base, report)?;
    let message =
        format!("credential `{}` is a long-lived secret: whoever steals it from the upstream or from exeat can use it", name.value);
    report.warning("long-lived", secret.at(), message, "prefer a kind that issues short-lived credentials where the upstream takes one");
    let profile = Profile { name: name.value.as_str().into(), kind: "secret", audience: None, scopes: None, ttl: TTL_CEILING, placement };
    Some(CredentialSpec { profile: Arc::new(profile), kind: CredentialKind::Secret { source } })
}

impl JwtSvidConfig {
    fn build(self, name: &Spanned<String>, placement: Placement, report: &mut Report) -> Option<CredentialSpec> {
        if self.audience.is_empty() || self.audience.chars().any(char::is_control) {
            report.error(self.audience.at, "the audience is empty or holds control characters");
            return None;
        }
        let profile = Profile {
            name: name.value.as_str().into(),
            kind: JWT_SVID,
            audience: Some(self.audience.value.as_str().into()),
            scopes: None,
            ttl: TTL_CEILING,
            placement,
        };
        Some(CredentialSpec { profile: Arc::new(profile), kind: CredentialKind::JwtSvid })
    }
}

impl LocalJwtConfig {
    fn build(
        self,
        name: &Spanned<String>,
        base: &Path,
        placement: Option<Placement>,
        users: Option<&[&Upstream]>,
        report: &mut Report,
    ) -> Option<CredentialSpec> {
        let issuer = self.issuer(report);
        let audience = self.audience(name, users, report);
        let scopes = self.scopes(report);
        let ttl = match &self.ttl {
            None => Some(TTL_DEFAULT),
            Some(written) => written.build(report, Duration::from_secs(1), TTL_CEILING),
        };
        let profile = Profile {
            name: name.value.as_str().into(),
            kind: "local_jwt",
            audience: Some(audience?),
            scopes: Some(scopes?),
            ttl: ttl?,
            placement: placement?,
        };
        let key = self.key.as_ref().map(|path| base.join(&path.value));
        Some(CredentialSpec {
            profile: Arc::new(profile),
            kind: CredentialKind::LocalJwt(LocalJwt { issuer: issuer?, algorithm: self.alg, key }),
        })
    }

    /// An https URL without query and fragment (RFC 8414, section 2); http on loopback, for development.
    fn issuer(&self, report: &mut Report) -> Option<Arc<str>> {
        let text = self.issuer.value.as_str();
        let uri = text.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some() && uri.query().is_none() && !text.contains(['#', '@']));
        let loopback =
            |host: &str| host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match uri {
            Some(uri) if uri.scheme_str() == Some("https") => Some(text.into()),
            Some(uri) if uri.scheme_str() == Some("http") && uri.host().is_some_and(loopback) => Some(text.into()),
            Some(_) | None => {
                let hint = "an https URL without query, such as https://exeat.prod.example; http only on loopback";
                report.error_hint(self.issuer.at, format!("`{text}` cannot be an issuer"), hint);
                None
            }
        }
    }

    fn audience(&self, name: &Spanned<String>, users: Option<&[&Upstream]>, report: &mut Report) -> Option<Arc<str>> {
        if let Some(written) = &self.audience {
            if written.is_empty() || written.chars().any(char::is_control) {
                report.error(written.at, "the audience is empty or holds control characters");
                return None;
            }
            return Some(written.value.as_str().into());
        }
        // upstreams with mistakes of their own may be the ones that would tell it
        let users = users?;
        if let [only] = users
            && let [origin] = only.origins.as_slice()
            && let Some(destination) = origin.destination()
        {
            return Some(destination.to_string().into());
        }
        let hint = "write `audience:`; it is only told from an upstream where exactly one, with one exact origin, lists this credential";
        report.error_hint(name.at, format!("credential `{}` has no audience", name.value), hint);
        None
    }

    fn scopes(&self, report: &mut Report) -> Option<Arc<[Arc<str>]>> {
        let mut built: Vec<Arc<str>> = Vec::new();
        for written in &self.scopes {
            if written.is_empty() || !written.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) {
                let hint = "printable ASCII without space, quote and backslash (RFC 6749, section 3.3); one list entry for each scope";
                report.error_hint(written.at, format!("`{}` is not a scope", written.value), hint);
                return None;
            }
            built.push(written.value.as_str().into());
        }
        built.sort_unstable();
        built.dedup();
        Some(built.into())
    }
}
