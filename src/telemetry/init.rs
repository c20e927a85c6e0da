//! `Settings`: where spans go and which are kept, from the `OTEL_*` variables (whose values the caller has read) and the configuration.
//!
//! Honoured: `OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER` (`otlp`, `none`), `OTEL_EXPORTER_OTLP_{ENDPOINT, PROTOCOL, HEADERS, TIMEOUT,
//! CERTIFICATE, CLIENT_CERTIFICATE, CLIENT_KEY}` and their `_TRACES_` forms, which win, `OTEL_TRACES_SAMPLER` and `_ARG`,
//! `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_{SCHEDULE_DELAY, MAX_QUEUE_SIZE, MAX_EXPORT_BATCH_SIZE}`. Without an endpoint
//! no span is made. The protocol is gRPC for port 4317 and HTTP otherwise, unless a variable says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::context::{Bound, Sampler};
use crate::secret::Secret;

/// How spans travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC (`grpc`).
    Grpc,
    /// OTLP over HTTP with protobuf bodies (`http/protobuf`).
    Http,
}

/// A collector.
#[derive(Debug, Clone)]
pub struct Collector {
    /// HTTP: the full URL of the traces signal. gRPC: the origin.
    pub endpoint: Uri,
    /// How spans travel there.
    pub protocol: Protocol,
    /// Sent with every request, all marked sensitive.
    pub headers: HeaderMap,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// PEM roots instead of the system's.
    pub roots: Option<PathBuf>,
    /// PEM certificate chain and key that exeat shows.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What telemetry is told once, at the start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where spans go; `None`: nowhere.
    pub collector: Option<Collector>,
    /// Which passages give spans.
    pub sampler: Sampler,
    /// Resource attributes, `service.name` first.
    pub resource: Vec<(String, String)>,
    /// Longest wait of a span for its batch.
    pub delay: Duration,
    /// Spans that may wait; more are dropped and counted.
    pub queue: usize,
    /// Spans of one request.
    pub batch: usize,
}

/// A variable or setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {why}")]
pub struct SettingsError {
    /// The variable, or the setting.
    pub name: String,
    /// What is wrong and what is expected; never the value of a header.
    pub why: String,
}

fn wrong(name: &str, why: impl Into<String>) -> SettingsError {
    SettingsError { name: name.to_owned(), why: why.into() }
}

struct Variables<'a>(&'a BTreeMap<String, String>);

impl<'a> Variables<'a> {
    /// An empty variable counts as absent (OpenTelemetry specification, environment variables).
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The `_TRACES_` form wins.
    fn otlp(&self, name: &str) -> Option<(String, &'a str)> {
        [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")]
            .into_iter()
            .find_map(|full| self.get(&full).map(|value| (full, value)))
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, SettingsError> {
        self.get(name).map_or(Ok(default), |text| text.parse().map_err(|_| wrong(name, "expected a whole number")))
    }
}

impl Settings {
    /// Reads the `OTEL_*` variables.
    ///
    /// # Errors
    /// The first one that cannot be used.
    pub fn from_environment(variables: &BTreeMap<String, String>) -> Result<Self, SettingsError> {
        let variables = Variables(variables);
        let bounded = |value: u64, most: usize| usize::try_from(value).unwrap_or(most).clamp(1, most);
        let settings = Self {
            collector: collector(&variables)?,
            sampler: sampler(&variables)?,
            resource: resource(&variables)?,
            delay: Duration::from_millis(variables.number("OTEL_BSP_SCHEDULE_DELAY", 1_000)?.clamp(1, 60_000)),
            queue: bounded(variables.number("OTEL_BSP_MAX_QUEUE_SIZE", 4_096)?, 65_536),
            batch: bounded(variables.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?, 4_096),
        };
        Ok(settings)
    }

    /// The collector of the configuration, which wins over the variables; headers, time-out and TLS of the variables stay.
    ///
    /// # Errors
    /// The endpoint is no `http` or `https` URL.
    pub fn export_to(&mut self, endpoint: &str, protocol: Option<Protocol>) -> Result<(), SettingsError> {
        let (endpoint, protocol) = place("telemetry.otlp.endpoint", endpoint, protocol, false)?;
        let former = self.collector.take();
        let collector = former.unwrap_or_else(|| Collector::at(endpoint.clone(), protocol));
        self.collector = Some(Collector { endpoint, protocol, ..collector });
        Ok(())
    }

    /// A header for the collector.
    ///
    /// # Errors
    /// The value has bytes that a header cannot carry.
    pub fn header(&mut self, name: HeaderName, value: &Secret) -> Result<(), SettingsError> {
        let mut sent = HeaderValue::from_bytes(value.expose())
            .map_err(|_| wrong(&format!("telemetry.otlp.headers.{name}"), "the value has bytes that a header cannot carry"))?;
        sent.set_sensitive(true);
        if let Some(collector) = &mut self.collector {
            collector.headers.insert(name, sent);
        }
        Ok(())
    }

    /// One more resource attribute; an attribute of that name that is already there wins.
    pub fn describe(&mut self, key: &str, value: &str) {
        if self.resource.iter().all(|(there, _)| there != key) {
            self.resource.push((key.to_owned(), value.to_owned()));
        }
    }
}

impl Collector {
    fn at(endpoint: Uri, protocol: Protocol) -> Self {
        Self { endpoint, protocol, headers: HeaderMap::new(), timeout: Duration::from_secs(10), roots: None, identity: None }
    }
}

/// The URL of the signal and the protocol; `whole`: the URL already names the signal's path.
fn place(name: &str, text: &str, protocol: Option<Protocol>, whole: bool) -> Result<(Uri, Protocol), SettingsError> {
    let base: Uri = text.parse().map_err(|_| wrong(name, "expected a URL such as http://127.0.0.1:4318"))?;
    if !matches!(base.scheme_str(), Some("http" | "https")) || base.host().is_none_or(str::is_empty) {
        return Err(wrong(name, "expected a URL with http or https and a host, such as http://127.0.0.1:4318"));
    }
    if base.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong(name, "user information does not belong into a URL: use a header"));
    }
    let protocol = protocol.unwrap_or(if base.port_u16() == Some(4317) { Protocol::Grpc } else { Protocol::Http });
    if protocol == Protocol::Grpc || whole {
        return Ok((base, protocol));
    }
    let path = format!("{}/v1/traces", base.path().trim_end_matches('/'));
    let mut parts = base.into_parts();
    parts.path_and_query = Some(path.parse().map_err(|_| wrong(name, "its path cannot be extended by /v1/traces"))?);
    Ok((Uri::from_parts(parts).map_err(|_| wrong(name, "its path cannot be extended by /v1/traces"))?, protocol))
}

fn collector(variables: &Variables<'_>) -> Result<Option<Collector>, SettingsError> {
    if variables.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    match variables.get("OTEL_TRACES_EXPORTER") {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(_) => return Err(wrong("OTEL_TRACES_EXPORTER", "this binary knows otlp and none")),
    }
    let Some((name, endpoint)) = variables.otlp("ENDPOINT") else { return Ok(None) };
    let protocol = match variables.otlp("PROTOCOL") {
        None => None,
        Some((_, "grpc")) => Some(Protocol::Grpc),
        Some((_, "http/protobuf")) => Some(Protocol::Http),
        Some((name, _)) => return Err(wrong(&name, "this binary knows grpc and http/protobuf")),
    };
    let (endpoint, protocol) = place(&name, endpoint, protocol, name.contains("_TRACES_"))?;
    let mut collector = Collector::at(endpoint, protocol);
    if let Some((name, text)) = variables.otlp("HEADERS") {
        for (key, value) in pairs(&name, text)? {
            let key = HeaderName::from_bytes(key.as_bytes()).map_err(|_| wrong(&name, format!("`{key}` is no header name")))?;
            let mut value = HeaderValue::from_str(&value).map_err(|_| wrong(&name, format!("the value of `{key}` is no header value")))?;
            value.set_sensitive(true);
            collector.headers.insert(key, value);
        }
    }
    if let Some((name, text)) = variables.otlp("TIMEOUT") {
        let wait = text.parse().map_err(|_| wrong(&name, "expected milliseconds"))?;
        collector.timeout = Duration::from_millis(wait);
    }
    collector.roots = variables.otlp("CERTIFICATE").map(|(_, path)| PathBuf::from(path));
    collector.identity = match (variables.otlp("CLIENT_CERTIFICATE"), variables.otlp("CLIENT_KEY")) {
        (Some((_, certificate)), Some((_, key))) => Some((certificate.into(), key.into())),
        (None, None) => None,
        (Some((name, _)), None) | (None, Some((name, _))) => {
            return Err(wrong(&name, "certificate and key are given together or not at all"));
        }
    };
    Ok(Some(collector))
}

fn sampler(variables: &Variables<'_>) -> Result<Sampler, SettingsError> {
    const ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
    let ratio = || {
        let part = variables.get(ARG).map_or(Ok(1.0), str::parse::<f64>).map_err(|_| wrong(ARG, "expected a number from 0 to 1"))?;
        if (0.0..=1.0).contains(&part) { Ok(Bound::of(part)) } else { Err(wrong(ARG, "expected a number from 0 to 1")) }
    };
    match variables.get("OTEL_TRACES_SAMPLER") {
        None | Some("always_on") => Ok(Sampler::AlwaysOn),
        Some("always_off") => Ok(Sampler::AlwaysOff),
        Some("traceidratio") => Ok(Sampler::Ratio(ratio()?)),
        Some("parentbased_always_on") => Ok(Sampler::Parent(Bound::of(1.0))),
        Some("parentbased_always_off") => Ok(Sampler::Parent(Bound::of(0.0))),
        Some("parentbased_traceidratio") => Ok(Sampler::Parent(ratio()?)),
        Some(_) => Err(wrong(
            "OTEL_TRACES_SAMPLER",
            "this binary knows always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off and parentbased_traceidratio",
        )),
    }
}

fn resource(variables: &Variables<'_>) -> Result<Vec<(String, String)>, SettingsError> {
    const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let mut attributes = match variables.get(NAME) {
        None => Vec::new(),
        Some(text) => pairs(NAME, text)?,
    };
    let written = attributes.iter().find(|(key, _)| key == "service.name").map(|(_, value)| value.clone());
    attributes.retain(|(key, _)| key != "service.name");
    let name = variables.get("OTEL_SERVICE_NAME").map(str::to_owned).or(written).unwrap_or_else(|| "exeat".to_owned());
    attributes.insert(0, ("service.name".to_owned(), name));
    attributes.push(("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    Ok(attributes)
}

/// `key=value,key=value` with percent-encoded values (W3C Baggage form).
fn pairs(name: &str, text: &str) -> Result<Vec<(String, String)>, SettingsError> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').ok_or_else(|| wrong(name, "expected key=value pairs, separated by commas"))?;
        let value = percent_decoded(value.trim()).ok_or_else(|| wrong(name, format!("the value of `{}` is not UTF-8", key.trim())))?;
        Ok((key.trim().to_owned(), value))
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escape =
            tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok()).filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
        match escape.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            Some(_) | None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::from_environment(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn nothing_said_means_no_exporter_and_every_trace() {
        let settings = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap();
        assert!(settings.collector.is_none());
        assert_eq!((settings.sampler, settings.queue), (Sampler::AlwaysOn, 4_096));
        assert_eq!(settings.resource[0], ("service.name".to_owned(), "exeat".to_owned()));
    }

    #[test]
    fn endpoints_and_protocols() {
        for (variables, endpoint, protocol) in [
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")], "http://c:4318/v1/traces", Protocol::Http),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/base/")], "https://c/base/v1/traces", Protocol::Http),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")], "http://c:4317/", Protocol::Grpc),
            (
                vec![("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/x"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://d")],
                "http://c/x",
                Protocol::Http,
            ),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "http://c:1/", Protocol::Grpc),
        ] {
            let collector = read(&variables).unwrap().collector.unwrap();
            assert_eq!((collector.endpoint.to_string().as_str(), collector.protocol), (endpoint, protocol));
        }
        for variables in [vec![("OTEL_SDK_DISABLED", "true")], vec![("OTEL_TRACES_EXPORTER", "none")]] {
            let all = [variables, vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")]].concat();
            assert!(read(&all).unwrap().collector.is_none());
        }
    }

    #[test]
    fn headers_are_sensitive_and_mistakes_do_not_show_them() {
        let settings = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20canary, x-scope = a%2Cb"),
        ]);
        let collector = settings.unwrap().collector.unwrap();
        assert_eq!(collector.headers["authorization"], "Bearer canary");
        assert_eq!(collector.headers["x-scope"], "a,b");
        assert!(!format!("{collector:?}").contains("canary"));
        let error = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=canary%00")]).unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[test]
    fn the_configuration_wins_and_keeps_headers() {
        let mut settings = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=b")]).unwrap();
        settings.export_to("http://d:4317", None).unwrap();
        settings.header(HeaderName::from_static("x-key"), &Secret::new(b"canary".to_vec())).unwrap();
        let collector = settings.collector.unwrap();
        assert_eq!((collector.endpoint.host(), collector.protocol), (Some("d"), Protocol::Grpc));
        assert!(collector.headers["x-key"].is_sensitive() && collector.headers.contains_key("a"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (name, value) in [
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
            ("OTEL_RESOURCE_ATTRIBUTES", "novalue"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:p@c"),
        ] {
            assert_eq!(read(&[(name, value)]).unwrap_err().name, name);
        }
        let ratio = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        assert_eq!(read(&ratio).unwrap_err().name, "OTEL_TRACES_SAMPLER_ARG");
    }
}
