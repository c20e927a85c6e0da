//! Audit and telemetry as written, and what they mean.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use super::secret_source::{SecretReference, SecretSource};
use crate::written::{Entries, Report, Spanned};

/// Where audit records go, as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AuditConfig {
    /// A file that is appended to.
    File(Spanned<String>),
    /// Standard output, one JSON line for each record.
    Stdout,
}

/// Where audit records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audit {
    /// A file that is appended to; full or gone means that requests are refused.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

impl AuditConfig {
    pub(super) fn build(&self, base: &Path, report: &mut Report) -> Option<Audit> {
        match self {
            Self::Stdout => Some(Audit::Stdout),
            Self::File(path) if path.is_empty() => {
                report.error_hint(path.at, "the audit file has no name", "write `audit: { file: /var/lib/exeat/audit }`");
                None
            }
            Self::File(path) => Some(Audit::File(base.join(&path.value))),
        }
    }
}

/// Telemetry as written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TelemetryConfig {
    /// Where spans go. Default: `OTEL_EXPORTER_OTLP_ENDPOINT`, else nowhere.
    otlp: Option<OtlpConfig>,
    /// Which passages are traced: `always_on` (default), `always_off` or `{ ratio: 0.1 }`.
    sampler: Option<SamplerConfig>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OtlpConfig {
    /// The collector: `http://127.0.0.1:4318` (http) or `http://127.0.0.1:4317` (grpc).
    endpoint: Spanned<String>,
    /// Default: `grpc` on port 4317, else `http` (protobuf).
    protocol: Option<OtlpProtocol>,
    /// Headers for the collector; their values are references to secrets.
    #[serde(default)]
    headers: Entries<SecretReference>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum SamplerConfig {
    /// Every passage.
    AlwaysOn,
    /// None; traceparent is still continued.
    AlwaysOff,
    /// This part of all traces, from 0 to 1.
    Ratio(Spanned<f64>),
}

/// How spans travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, protobuf.
    Http,
}

/// Which passages are traced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampler {
    /// Every passage.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// This part of all traces, by trace id.
    Ratio(f64),
}

/// Telemetry in meaning form.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// Where spans go; `None` leaves it to the `OTEL_*` variables.
    pub otlp: Option<Otlp>,
    /// Which passages are traced; `None` leaves it to `OTEL_TRACES_SAMPLER`, else every one.
    pub sampler: Option<Sampler>,
}

/// The collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otlp {
    /// Its URL, without the signal's path.
    pub endpoint: Arc<str>,
    /// How spans travel.
    pub protocol: OtlpProtocol,
    /// Headers for it; the values are read when the exporter starts.
    pub headers: Vec<(HeaderName, SecretSource)>,
}

impl TelemetryConfig {
    pub(super) fn build(self, base: &Path, report: &mut Report) -> Option<Telemetry> {
        let otlp = match self.otlp {
            None => None,
            Some(otlp) => Some(otlp.build(base, report)?),
        };
        let sampler = match self.sampler {
            None => None,
            Some(SamplerConfig::AlwaysOn) => Some(Sampler::AlwaysOn),
            Some(SamplerConfig::AlwaysOff) => Some(Sampler::AlwaysOff),
            Some(SamplerConfig::Ratio(ratio)) if (0.0..=1.0).contains(&ratio.value) => Some(Sampler::Ratio(ratio.value)),
            Some(SamplerConfig::Ratio(ratio)) => {
                report.error(ratio.at, format!("`{}` is not a part of all traces: 0 is none, 1 is all", ratio.value));
                return None;
            }
        };
        Some(Telemetry { otlp, sampler })
    }
}

impl OtlpConfig {
    fn build(self, base: &Path, report: &mut Report) -> Option<Otlp> {
        let uri = self.endpoint.parse::<http::Uri>().ok();
        let uri =
            uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && !self.endpoint.contains('@'));
        let Some(uri) = uri else {
            let hint = "write http://HOST:4318 (http) or http://HOST:4317 (grpc)";
            report.error_hidden(self.endpoint.at, "the endpoint of `otlp` is not a URL of a collector", hint);
            return None;
        };
        let by_port = if uri.port_u16() == Some(4317) { OtlpProtocol::Grpc } else { OtlpProtocol::Http };
        let mut headers = Vec::new();
        for (name, value) in self.headers {
            let header = HeaderName::from_bytes(name.as_bytes());
            if header.is_err() {
                report.error(name.at, format!("`{}` is not a header name", name.value));
            }
            if let (Ok(header), Some(source)) = (header, value.build(base, report)) {
                headers.push((header, source));
            }
        }
        Some(Otlp { endpoint: self.endpoint.value.as_str().into(), protocol: self.protocol.unwrap_or(by_port), headers })
    }
}

/// Where the environment says that an agent's API is: `SPIFFE_ENDPOINT_SOCKET` (SPIFFE Workload Endpoint, section 4), or
/// `SPIFFE_BROKER_SOCKET` (SPIFFE Broker Endpoint, section 4).
pub(super) fn socket(variable: &str) -> Option<String> {
    let named = |(name, value): (std::ffi::OsString, std::ffi::OsString)| (name == variable).then_some(value);
    std::env::vars_os().find_map(named)?.into_string().ok().filter(|socket| !socket.is_empty())
}

/// The `OTEL_*` variables of this process, sorted: telemetry honours them where the file says nothing, and may not read the environment.
#[must_use]
pub fn otel_environment() -> std::collections::BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).filter(|(name, _)| name.starts_with("OTEL_")).collect()
}
