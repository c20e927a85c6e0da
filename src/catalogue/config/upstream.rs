//! One upstream as written, and how it becomes an [`Upstream`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use schemars::JsonSchema;
use serde::Deserialize;

use super::origin::parse_origin;
use super::stage::StageConfig;
use crate::capture::{Host, Scheme};
use crate::catalogue::{Deadlines, Origin, Protocol, Roots, Stage, StripOptions, TlsProfile, Upstream, UpstreamIndex};
use crate::clock::Timestamp;
use crate::written::{Place, Report, Spanned, WrittenDuration, WrittenSize};

/// What an upstream needs to know of the rest of the file while it is judged.
pub struct Surroundings<'a> {
    /// For the ends of observations.
    pub now: Timestamp,
    /// Names of all credential definitions.
    pub credentials: &'a [&'a str],
    /// What holds where an upstream says nothing.
    pub deadlines: Deadlines,
    /// Reads a file named in the configuration, relative to it; the error says what went wrong.
    pub read: &'a mut dyn FnMut(&Path) -> Result<Vec<u8>, String>,
    /// Which upstream has which origin.
    pub claimed: HashMap<Origin, Arc<str>>,
}

/// One upstream as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Who answers for it: a person's or a team's address.
    owner: Spanned<String>,
    /// Where it is: `https://HOST[:PORT]`, `https://*.SUFFIX`, or `http://` for declared plaintext.
    origins: Spanned<Vec<Spanned<String>>>,
    /// Where its addresses may lie. Default: public unicast only.
    reach: Option<ReachConfig>,
    /// How its certificate is verified.
    #[serde(default)]
    tls: TlsConfig,
    /// The credential definitions that a grant may use here.
    #[serde(default)]
    credentials: Vec<Spanned<String>>,
    /// `enforce` (default) or `observe: { until }`.
    stage: Option<StageConfig>,
    /// HTTP versions of the upstream leg.
    #[serde(default)]
    protocol: Protocol,
    /// `false`: CONNECT to it is a tunnel that exeat cannot look into.
    intercept: Option<Spanned<bool>>,
    /// Exceptions and additions to what is stripped.
    #[serde(default)]
    strip: StripConfig,
    /// Response headers that are removed.
    #[serde(default)]
    response_remove: Vec<Spanned<String>>,
    /// Deadlines that differ from `limits`.
    #[serde(default)]
    deadlines: DeadlinesConfig,
    /// How much of a body is read before judging, where a rule needs it. Default 64KiB, at most 1MiB.
    body_limit: Option<WrittenSize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReachConfig {
    /// Networks in CIDR form.
    networks: Spanned<Vec<Spanned<String>>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TlsConfig {
    /// Who vouches: the operating system's store, or a PEM file.
    roots: Option<RootsConfig>,
    /// The name to verify instead of the origin's host.
    server_name: Option<Spanned<String>>,
    /// The SPIFFE ID that its certificate must prove, instead of a name, to the bundle of that trust domain.
    spiffe_id: Option<Spanned<String>>,
    /// `svid`: exeat shows the X.509-SVID of the caller's pod.
    client_certificate: Option<Spanned<ClientCertificateConfig>>,
}

/// What exeat shows of itself.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ClientCertificateConfig {
    /// The X.509-SVID of the caller's pod.
    Svid,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum RootsConfig {
    /// The operating system's store.
    System,
    /// A PEM file of certificates.
    File(Spanned<String>),
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StripConfig {
    /// Headers, `query:NAME` or `cookie:NAME` that stay although they look like credentials.
    #[serde(default)]
    keep: Vec<Spanned<String>>,
    /// Headers, `query:NAME` or `cookie:NAME` that are always removed.
    #[serde(default)]
    also: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeadlinesConfig {
    /// From dialling to an established TCP connection.
    connect: Option<WrittenDuration>,
    /// TLS handshake.
    tls: Option<WrittenDuration>,
    /// From the request's last byte to the response head.
    response_head: Option<WrittenDuration>,
    /// Longest silence of a stream in either direction.
    idle: Option<WrittenDuration>,
}

impl UpstreamConfig {
    /// The credential definitions that it lists, as written.
    pub fn credential_names(&self) -> impl Iterator<Item = &str> {
        self.credentials.iter().map(|name| name.value.as_str())
    }

    /// The SPIFFE ID that its certificate must prove, as written: identities are not known here.
    #[must_use]
    pub const fn spiffe_id(&self) -> Option<&Spanned<String>> {
        self.tls.spiffe_id.as_ref()
    }

    /// Where it asks for what only the Workload API gives.
    #[must_use]
    pub fn needs_svid(&self) -> Option<Place> {
        self.tls.client_certificate.as_ref().map(|written| written.at).or(self.tls.spiffe_id.as_ref().map(|written| written.at))
    }

    /// Judges it; mistakes and warnings go to the report.
    pub fn build(self, index: u32, name: &Spanned<String>, around: &mut Surroundings<'_>, report: &mut Report) -> Option<Upstream> {
        let shared: Arc<str> = name.value.as_str().into();
        if self.owner.trim().is_empty() {
            report.error_hint(
                self.owner.at,
                format!("upstream `{shared}` has an empty owner"),
                "name who answers for it: team@example.com",
            );
        }
        let origins = self.origins(&shared, around, report);
        let reach = self.reach.as_ref().map_or_else(|| Some(Vec::new()), |reach| reach.build(report));
        let credentials = self.credentials(around, report);
        self.warn_of_plaintext(&shared, origins.as_deref().unwrap_or_default(), report);
        let intercept = self.intercept(&shared, report);
        let stage = self.stage.as_ref().map_or(Some(Stage::Enforce), |stage| stage.build(around.now, report));
        let tls = self.tls.build(around, report);
        let strip = self.strip.build(report);
        let response_remove = header_names(&self.response_remove, report);
        let deadlines = self.deadlines.build(around.deadlines, report);
        let body_limit = match &self.body_limit {
            None => Some(64 << 10),
            Some(written) => written.build(report, 1, 1 << 20).and_then(|size| u32::try_from(size).ok()),
        };
        Some(Upstream {
            index: UpstreamIndex(index),
            name: shared,
            owner: self.owner.value.as_str().into(),
            origins: origins?,
            reach: reach?,
            tls: tls?,
            protocol: self.protocol,
            credentials: credentials?,
            stage: stage?,
            intercept,
            strip,
            response_remove,
            deadlines,
            body_limit: body_limit?,
        })
    }

    fn origins(&self, name: &Arc<str>, around: &mut Surroundings<'_>, report: &mut Report) -> Option<Vec<Origin>> {
        if self.origins.is_empty() {
            report.error_hint(self.origins.at, format!("upstream `{name}` has no origin"), "write where it is: [\"https://HOST\"]");
        }
        let mut built = Vec::new();
        for written in &self.origins.value {
            let origin = match parse_origin(written) {
                Ok(origin) => origin,
                // what stands before `@` is a password
                Err((message, hint)) if written.contains('@') => {
                    report.error_hidden(written.at, message, hint);
                    continue;
                }
                Err((message, hint)) => {
                    report.error_hint(written.at, message, hint);
                    continue;
                }
            };
            match around.claimed.insert(origin.clone(), Arc::clone(name)) {
                Some(other) if other == *name => {
                    report.error_hint(written.at, format!("`{}` is listed twice", written.value), "keep one of the two");
                }
                Some(other) => {
                    let message = format!("`{}` already belongs to upstream `{other}`", written.value);
                    report.error_hint(written.at, message, "an origin is one upstream: merge the two, or use other ports");
                }
                None => built.push(origin),
            }
        }
        (!built.is_empty() && built.len() == self.origins.len()).then_some(built)
    }

    fn credentials(&self, around: &Surroundings<'_>, report: &mut Report) -> Option<Vec<Arc<str>>> {
        let mut built: Vec<Arc<str>> = Vec::new();
        for written in &self.credentials {
            if !around.credentials.contains(&written.value.as_str()) {
                report.unknown_name(written.at, "credential", written, around.credentials);
            } else if built.iter().any(|known| **known == *written.value) {
                report.error_hint(written.at, format!("credential `{}` is listed twice", written.value), "keep one of the two");
            } else {
                built.push(written.value.as_str().into());
            }
        }
        (built.len() == self.credentials.len()).then_some(built)
    }

    fn warn_of_plaintext(&self, name: &str, origins: &[Origin], report: &mut Report) {
        let plain = origins.iter().any(|origin| origin.scheme == Scheme::Http);
        if plain && let Some(credential) = self.credentials.first() {
            let message = format!("upstream `{name}` has a plaintext origin: credentials can be read on the way to it");
            report.warning("plaintext-credentials", credential.at, message, "write https://, or take the credentials away");
        }
        if let Some(at) = self.needs_svid().filter(|_| plain) {
            report.error_hint(
                at,
                format!("upstream `{name}` has a plaintext origin, where nobody proves anything"),
                "write https:// for all of its origins",
            );
        }
        if plain
            && origins.iter().all(|origin| origin.scheme == Scheme::Http)
            && let Some(server_name) = &self.tls.server_name
        {
            report.error_hint(
                server_name.at,
                format!("upstream `{name}` has no https:// origin, so no name is verified"),
                "remove the field",
            );
        }
    }

    fn intercept(&self, name: &str, report: &mut Report) -> bool {
        let Some(Spanned { value: false, at }) = self.intercept else { return true };
        let message = format!("upstream `{name}` is not intercepted: what the application sends inside the tunnel is not stripped");
        report.warning("not-stripped", at, message, "remove the field where the application can trust exeat's CA");
        if let Some(at) = self.needs_svid() {
            let hint = "remove `tls`, or `intercept: false`";
            report.error_hint(at, format!("upstream `{name}` is not intercepted: the application itself speaks TLS with it"), hint);
        }
        if let Some(credential) = self.credentials.first() {
            let hint = "remove the credentials, or `intercept: false`";
            report.error_hint(
                credential.at,
                format!("upstream `{name}` is not intercepted: no credential can be put inside a tunnel"),
                hint,
            );
        }
        false
    }
}

/// The IPv4 network that a network of IPv4-mapped addresses (RFC 4291 section 2.5.5.2) stands for.
fn inside_mapped(network: Ipv6Net) -> Option<Ipv4Net> {
    let address = network.network().to_ipv4_mapped()?;
    Ipv4Net::new(address, network.prefix_len().checked_sub(96)?).ok()
}

impl ReachConfig {
    fn build(&self, report: &mut Report) -> Option<Vec<IpNet>> {
        if self.networks.is_empty() {
            report.error_hint(
                self.networks.at,
                "an empty list of networks reaches nothing",
                "remove `reach` for public addresses, or list networks",
            );
            return None;
        }
        let mut built = Vec::new();
        for written in &self.networks.value {
            match written.parse::<IpNet>() {
                Ok(IpNet::V6(network)) if let Some(v4) = inside_mapped(network) => report.error_hint(
                    written.at,
                    format!("`{}` holds no address: IPv4 inside IPv6 is judged as the IPv4 address that it is", written.value),
                    format!("did you mean `{v4}`?"),
                ),
                Ok(network) if network.trunc() == network => built.push(network),
                Ok(network) => {
                    let hint = format!("did you mean `{}`?", network.trunc());
                    report.error_hint(written.at, format!("`{}` has bits behind its prefix", written.value), hint);
                }
                Err(_) => report.error_hint(
                    written.at,
                    format!("`{}` is not a network", written.value),
                    "CIDR form: 10.0.0.0/8, 192.0.2.7/32, fd00::/8",
                ),
            }
        }
        (built.len() == self.networks.len()).then_some(built)
    }
}

impl TlsConfig {
    fn build(&self, around: &mut Surroundings<'_>, report: &mut Report) -> Option<TlsProfile> {
        if let Some(id) = self.spiffe_id.as_ref().filter(|_| self.roots.is_some() || self.server_name.is_some()) {
            let hint = "a SPIFFE ID is verified by the bundle of its trust domain, and no name is: keep one of the two";
            report.error_hint(id.at, "`spiffe_id` stands beside `roots` or `server_name`", hint);
        }
        let roots = match &self.roots {
            None | Some(RootsConfig::System) => Some(Roots::System),
            Some(RootsConfig::File(path)) => certificates(path, around, report).map(Roots::Certificates),
        };
        let server_name = match &self.server_name {
            None => None,
            Some(written) => match Host::parse(written) {
                Ok(host) => Some(host),
                Err(error) => {
                    report.error(written.at, format!("`{}` is not a name to verify: {error}", written.value));
                    return None;
                }
            },
        };
        Some(TlsProfile {
            roots: roots?,
            server_name,
            spiffe_id: self.spiffe_id.as_ref().map(|id| id.value.as_str().into()),
            client_certificate: self.client_certificate.is_some(),
        })
    }
}

fn certificates(path: &Spanned<String>, around: &mut Surroundings<'_>, report: &mut Report) -> Option<Arc<[Vec<u8>]>> {
    let pem = match (around.read)(Path::new(&path.value)) {
        Ok(pem) => pem,
        Err(error) => {
            report.error_hint(path.at, format!("the certificates cannot be read: {error}"), "paths are relative to this file");
            return None;
        }
    };
    let parsed: Result<Vec<Vec<u8>>, _> =
        CertificateDer::pem_slice_iter(&pem).map(|certificate| certificate.map(|der| der.as_ref().to_vec())).collect();
    match parsed {
        Ok(certificates) if certificates.is_empty() => {
            report.error_hint(path.at, format!("`{}` holds no certificate", path.value), "PEM blocks of CERTIFICATE, one after the other");
            None
        }
        Ok(certificates) => Some(certificates.into()),
        Err(_) => {
            report.error(path.at, format!("`{}` is not PEM: a block in it is broken", path.value));
            None
        }
    }
}

impl StripConfig {
    fn build(&self, report: &mut Report) -> StripOptions {
        for written in &self.keep {
            let message = format!("`{}` is kept: what the application sends there reaches the upstream", written.value);
            report.warning("kept", written.at, message, "take it away once the application no longer needs it");
        }
        let mut places = |list: &[Spanned<String>]| -> Vec<(String, Place)> {
            list.iter().filter_map(|written| Some((strip_place(written, report)?, written.at))).collect()
        };
        let (keep, also) = (places(&self.keep), places(&self.also));
        for (name, at) in &also {
            if keep.iter().any(|(kept, _)| kept == name) {
                report.error_hint(*at, format!("`{name}` is both kept and removed"), "decide for one of the two");
            }
        }
        let names = |list: Vec<(String, Place)>| list.into_iter().map(|(name, _)| name).collect();
        StripOptions { keep: names(keep), also: names(also) }
    }
}

/// `NAME`, `query:NAME`, `cookie:NAME`; header names in lower case.
fn strip_place(written: &Spanned<String>, report: &mut Report) -> Option<String> {
    let text = written.value.as_str();
    let named = text.strip_prefix("query:").or_else(|| text.strip_prefix("cookie:"));
    if let Some(name) = named {
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some(text.to_owned());
        }
    } else if let Ok(header) = HeaderName::from_bytes(text.as_bytes()) {
        return Some(header.as_str().to_owned());
    }
    report.error_hint(written.at, format!("`{text}` names no place in a request"), "write a header name, query:NAME or cookie:NAME");
    None
}

fn header_names(list: &[Spanned<String>], report: &mut Report) -> Vec<HeaderName> {
    let mut built = Vec::new();
    for written in list {
        match HeaderName::from_bytes(written.as_bytes()) {
            Ok(name) => built.push(name),
            Err(_) => report.error(written.at, format!("`{}` is not a header name", written.value)),
        }
    }
    built
}

impl DeadlinesConfig {
    fn build(&self, otherwise: Deadlines, report: &mut Report) -> Deadlines {
        let mut one = |written: &Option<WrittenDuration>, otherwise: Duration, most: Duration| {
            written.as_ref().map_or(Some(otherwise), |written| written.build(report, Duration::from_millis(1), most)).unwrap_or(otherwise)
        };
        let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
        Deadlines {
            connect: one(&self.connect, otherwise.connect, minute),
            tls: one(&self.tls, otherwise.tls, minute),
            response_head: one(&self.response_head, otherwise.response_head, hour),
            idle: one(&self.idle, otherwise.idle, 24 * hour),
        }
    }
}
