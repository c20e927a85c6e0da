//! Joins what is remembered: the ledger, whose writer shows each finished passage to spans and metrics, and the exporter that carries spans.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::start::Failed;
use crate::admin::{Health, Status};
use crate::audit::{AuditSink, Circumstances, FileOptions, FileSink, Ledger, Options, StdoutSink};
use crate::clock::Clock;
use crate::config::{self, Audit, Config, OtlpProtocol};
use crate::credentials::providers::KeyRings;
use crate::evidence::Observations;
use crate::outcall::{Outcall, Terms};
use crate::state::State;
use crate::telemetry::context::{Bound, Sampler};
use crate::telemetry::{Exporter, Metrics, Observer, Post, Protocol, Settings, SettingsError};
use crate::tls::{Trust, parse_certificates};

/// Spans have this long to leave at the end.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// The way of spans out of the process.
pub(super) struct Spans {
    sampler: Sampler,
    exporter: Mutex<Option<Exporter>>,
}

impl Spans {
    /// Settings from `OTEL_*` and the configuration, which wins; the exporter where a collector is named.
    ///
    /// # Errors
    /// Exit code 78: a variable, a header or a certificate that cannot be used.
    pub(super) fn start(config: &Config, outcall: Arc<Outcall>) -> Result<Self, Failed> {
        let settings = settings(config)?;
        // An export may be sent twice: a collector drops what it has seen, and a lost batch is worse.
        let terms = Terms { trust: trust(&settings)?, deadline: Duration::from_secs(10), repeatable: true };
        let post: Post = Arc::new(move |request| {
            let (outcall, terms) = (Arc::clone(&outcall), terms.clone());
            Box::pin(async move { outcall.call(request, &terms).await.map_err(|error| error.to_string()) })
        });
        let exporter = Exporter::start(&settings, post).map_err(|error| wrong(&error))?;
        Ok(Self { sampler: settings.sampler, exporter: Mutex::new(exporter) })
    }

    pub(super) const fn sampler(&self) -> Sampler {
        self.sampler
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(Option<&crate::telemetry::Spans>) -> T) -> T {
        look(self.exporter.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Exporter::spans))
    }

    /// Sends what waits.
    pub(super) fn stop(&self) {
        let exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        if exporter.is_some_and(|exporter| !exporter.stop(LAST_SPANS)) {
            tracing::warn!("the last spans could not be exported before the end");
        }
    }
}

/// Who vouches for a collector that is reached over HTTP; gRPC takes its certificates itself.
fn trust(settings: &Settings) -> Result<Trust, Failed> {
    let Some(collector) = settings.collector.as_ref().filter(|collector| collector.protocol == Protocol::Http) else {
        return Ok(Trust::System);
    };
    if collector.identity.is_some() {
        return Err(Failed::config("telemetry: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE needs `protocol: grpc`".into()));
    }
    let Some(path) = &collector.roots else { return Ok(Trust::System) };
    let failed = |why: String| Failed::config(format!("telemetry: OTEL_EXPORTER_OTLP_CERTIFICATE {}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let certificates = parse_certificates(&pem).map_err(|error| failed(error.to_string()))?;
    Ok(Trust::Certificates(certificates.into()))
}

fn wrong(error: &SettingsError) -> Failed {
    Failed::config(format!("telemetry: {error}"))
}

fn settings(config: &Config) -> Result<Settings, Failed> {
    let mut settings = Settings::from_environment(&config::otel_environment()).map_err(|error| wrong(&error))?;
    settings.queue = config.limits.span_queue;
    settings.describe("service.version", env!("CARGO_PKG_VERSION"));
    if let Some(otlp) = &config.telemetry.otlp {
        let protocol = match otlp.protocol {
            OtlpProtocol::Grpc => Protocol::Grpc,
            OtlpProtocol::Http => Protocol::Http,
        };
        settings.export_to(&otlp.endpoint, Some(protocol)).map_err(|error| wrong(&error))?;
        for (name, source) in &otlp.headers {
            let value = source.read().map_err(|error| Failed::config(format!("telemetry.otlp.headers.{name}: {error}")))?;
            settings.header(name.clone(), &value).map_err(|error| wrong(&error))?;
        }
    }
    match config.telemetry.sampler {
        None => {}
        Some(config::Sampler::AlwaysOn) => settings.sampler = Sampler::AlwaysOn,
        Some(config::Sampler::AlwaysOff) => settings.sampler = Sampler::AlwaysOff,
        Some(config::Sampler::Ratio(part)) => settings.sampler = Sampler::Ratio(Bound::of(part)),
    }
    Ok(settings)
}

/// Opens the sink and starts the ledger.
///
/// # Errors
/// Exit code 78: no access without a record, so nothing starts without a place for records.
pub(super) fn ledger(
    config: &Config,
    state: &State,
    spans: &Spans,
    metrics: &Metrics,
    observations: &Arc<Observations>,
    clock: &Arc<dyn Clock>,
) -> Result<Ledger, Failed> {
    let failed = |error: crate::audit::SinkError| Failed::config(format!("audit: {error}"));
    let sink: Box<dyn AuditSink> = match &config.audit {
        Audit::File(path) => Box::new(FileSink::open(path, FileOptions::default()).map_err(failed)?),
        Audit::Stdout => Box::new(StdoutSink::default()),
    };
    let seal = state.fingerprint_key().map_err(|error| Failed::config(error.to_string()))?;
    let options = Options { outstanding: config.limits.audit_queue, seal: Some(seal), instance: instance().into() };
    let mut observer = Observer::new(metrics.clone(), spans.with(|spans| spans.map(crate::telemetry::Spans::recorder)));
    let observations = Arc::clone(observations);
    let observe = move |passage: &Circumstances<'_>| {
        observer.observe(passage);
        observations.note(passage);
    };
    let ledger = Ledger::start(sink, observe, Arc::clone(clock), options).map_err(failed)?;
    spans.with(|spans| metrics.watch(&ledger, spans));
    Ok(ledger)
}

/// The host's name, which is the pod's name in a pod.
fn instance() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "exeat".to_owned())
}

/// What the status server shows.
pub(super) fn status(health: &Arc<Health>, metrics: &Metrics, rings: &Arc<KeyRings>) -> Status {
    let (exposed, health_of) = (metrics.clone(), Arc::clone(health));
    let (keys, issuers) = (Arc::clone(rings), Arc::clone(rings));
    Status {
        health: Arc::clone(health),
        metrics: Arc::new(move || {
            exposed.ready(health_of.is_ready());
            exposed.text()
        }),
        jwks: Arc::new(move || keys.jwks()),
        // With several issuers there is no one document: each is asked for at its own host.
        discovery: Arc::new(move || match issuers.issuers().as_slice() {
            [issuer] => issuers.discovery(issuer).unwrap_or_default(),
            _ => Vec::new(),
        }),
    }
}
