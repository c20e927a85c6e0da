//! Metrics in the `OpenMetrics` text format. Every label set is bounded: names of the catalogue, listeners and credentials, and stable
//! words. No path, no workload, no address is a label: whoever reaches the status server may read them. Who talks to whom is counted
//! beside them ([`Edge`]) and shown by the admin server alone.
//!
//! | series | labels |
//! |---|---|
//! | `exeat_requests_total` | `listener`, `upstream`, `decision`, `code` |
//! | `http_server_request_duration_seconds` | `upstream`, `http_request_method`, `http_response_status_code` |
//! | `http_client_request_duration_seconds` | the same, and `error_type` |
//! | `exeat_request_bytes_total`, `exeat_response_bytes_total` | `upstream` |
//! | `exeat_credentials_found_total` | `upstream`, `kind`, `kept` |
//! | `exeat_grants_total` | `credential`, `change` |
//! | `exeat_edge_refusals_total` | `listener` |
//! | `exeat_config_last_reload_successful`, `.._success_timestamp_seconds`, `exeat_config_revision` | |
//! | `exeat_identity_expiry_timestamp_seconds`, `exeat_identity_updates`, `exeat_identity_processes` | `identity` |
//! | `exeat_connections`, `exeat_passages`, `exeat_revocations`, `exeat_leases` | |
//! | `exeat_lease_changes_total` | `change` |
//! | `exeat_passages_ended_total` | `cause` |
//! | `exeat_audit_*`, `exeat_spans_*`, `exeat_ready` | |
//! | `exeat_build_info`, `process_*` | |

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::process::Process;
use super::spans::Spans;
use crate::audit::{GrantChange, Ledger};
use crate::live::Change;

/// Buckets of OpenTelemetry's `http.*.request.duration`, in seconds.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Pairs of workload and upstream that are counted apart; further workloads count as `other`.
const PAIRS: usize = 1_000;

pub(super) type Words = Vec<(&'static str, Arc<str>)>;
type Times = Family<Words, Histogram, fn() -> Histogram>;

fn times() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Upstream and workload.
type Pair = (Arc<str>, Arc<str>);

/// Passages, and those among them that were refused or failed.
#[derive(Debug, Clone, Default)]
struct Passed(Counter, Counter);

/// One line of the service graph: what passed between one workload and one upstream.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The workload's SPIFFE ID; `other` beyond the bound.
    pub workload: Arc<str>,
    /// The upstream's name.
    pub upstream: Arc<str>,
    counters: Passed,
}

impl Edge {
    /// One more passage.
    pub(super) fn passed(&self, failed: bool) {
        self.counters.0.inc();
        if failed {
            self.counters.1.inc();
        }
    }

    /// Passages, and those among them that were refused or failed.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.counters.0.get(), self.counters.1.get())
    }
}

/// Handle to all series; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Series>);

pub(super) struct Series {
    registry: Mutex<Registry>,
    pub(super) requests: Family<Words, Counter>,
    pub(super) server: Times,
    pub(super) client: Times,
    pub(super) request_bytes: Family<Words, Counter>,
    pub(super) response_bytes: Family<Words, Counter>,
    pub(super) found: Family<Words, Counter>,
    /// By upstream and workload.
    edges: Mutex<BTreeMap<Pair, Passed>>,
    grants: Family<Words, Counter>,
    edge: Family<Words, Counter>,
    reload_ok: Gauge,
    reload_time: Gauge<f64, AtomicU64>,
    revision: Gauge,
    connections: Gauge,
    passages: Gauge,
    ended: Family<Words, Counter>,
    revocations: Gauge,
    leases: Gauge,
    lease_changes: Family<Words, Counter>,
    ready: Gauge,
    identity_end: Family<Words, Gauge<f64, AtomicU64>>,
    identity_updates: Family<Words, Gauge>,
    identity_processes: Family<Words, Gauge>,
}

impl Series {
    /// The registered series and the registry that shows them.
    fn new() -> Self {
        let mut registry = Registry::default();
        let series = Self {
            requests: Family::default(),
            server: Family::new_with_constructor(times),
            client: Family::new_with_constructor(times),
            request_bytes: Family::default(),
            response_bytes: Family::default(),
            found: Family::default(),
            edges: Mutex::default(),
            grants: Family::default(),
            edge: Family::default(),
            reload_ok: Gauge::default(),
            reload_time: Gauge::default(),
            revision: Gauge::default(),
            connections: Gauge::default(),
            passages: Gauge::default(),
            ended: Family::default(),
            revocations: Gauge::default(),
            leases: Gauge::default(),
            lease_changes: Family::default(),
            ready: Gauge::default(),
            identity_end: Family::default(),
            identity_updates: Family::default(),
            identity_processes: Family::default(),
            registry: Mutex::default(),
        };
        let r = &mut registry;
        r.register("exeat_requests", "Passages by what was decided", series.requests.clone());
        r.register("http_server_request_duration_seconds", "Whole life of a passage", series.server.clone());
        r.register("http_client_request_duration_seconds", "One attempt at the upstream", series.client.clone());
        r.register("exeat_request_bytes", "Body bytes from callers", series.request_bytes.clone());
        r.register("exeat_response_bytes", "Body bytes to callers", series.response_bytes.clone());
        r.register("exeat_credentials_found", "Static credentials met on the way", series.found.clone());
        r.register("exeat_grants", "Changes of grants", series.grants.clone());
        r.register("exeat_edge_refusals", "Bytes refused before they were a request", series.edge.clone());
        r.register("exeat_config_last_reload_successful", "1 when the last reload was taken", series.reload_ok.clone());
        r.register("exeat_config_last_reload_success_timestamp_seconds", "When a configuration was last taken", series.reload_time.clone());
        r.register("exeat_config_revision", "Snapshot revision that judges requests", series.revision.clone());
        r.register("exeat_connections", "Open connections of workloads", series.connections.clone());
        r.register("exeat_passages", "Passages under way", series.passages.clone());
        r.register("exeat_passages_ended", "Passages ended from outside, by cause", series.ended.clone());
        r.register("exeat_revocations", "Revocations in force", series.revocations.clone());
        r.register("exeat_leases", "Live leases", series.leases.clone());
        r.register("exeat_lease_changes", "Leases opened, renewed and ended", series.lease_changes.clone());
        r.register("exeat_ready", "1 when requests are judged", series.ready.clone());
        let end = "When the certificate of an identity ends; 0 when it has none";
        r.register("exeat_identity_expiry_timestamp_seconds", end, series.identity_end.clone());
        r.register("exeat_identity_updates", "Changes of certificate, keys or bundles since the start", series.identity_updates.clone());
        r.register("exeat_identity_processes", "Processes that the Broker API is asked about", series.identity_processes.clone());
        let build: Words = vec![("version", env!("CARGO_PKG_VERSION").into())];
        r.register("exeat_build", "This binary", Info::new(build));
        r.register_collector(Box::new(Process));
        *series.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        series
    }
}

impl Metrics {
    /// Registers every series.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Series::new()))
    }

    pub(super) fn series(&self) -> &Series {
        &self.0
    }

    /// Shows the ledger's and the exporter's own counters with the others.
    pub fn watch(&self, ledger: &Ledger, spans: Option<&Spans>) {
        let records = Box::new(Records { ledger: ledger.clone(), spans: spans.cloned() });
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner).register_collector(records);
    }

    /// A connection was accepted.
    pub fn connection_opened(&self) {
        self.0.connections.inc();
    }

    /// A connection ended.
    pub fn connection_closed(&self) {
        self.0.connections.dec();
    }

    /// A passage began.
    pub fn passage_began(&self) {
        self.0.passages.inc();
    }

    /// A passage ended.
    pub fn passage_ended(&self) {
        self.0.passages.dec();
    }

    /// A passage was ended from outside.
    pub fn passage_ended_by(&self, cause: &'static str) {
        self.0.ended.get_or_create(&vec![("cause", cause.into())]).inc();
    }

    /// So many leases are live.
    pub fn leases(&self, live: usize) {
        self.0.leases.set(i64::try_from(live).unwrap_or(i64::MAX));
    }

    /// A lease was opened, renewed or ended.
    pub fn lease(&self, change: Change) {
        self.0.lease_changes.get_or_create(&vec![("change", change.name().into())]).inc();
    }

    /// Revocations in force.
    pub fn revocations(&self, in_force: usize) {
        self.0.revocations.set(i64::try_from(in_force).unwrap_or(i64::MAX));
    }

    /// Bytes that were no request, on a listener.
    pub fn edge(&self, listener: &Arc<str>, count: u32) {
        self.0.edge.get_or_create(&vec![("listener", Arc::clone(listener))]).inc_by(u64::from(count));
    }

    /// A grant changed.
    pub fn grant(&self, credential: &Arc<str>, change: GrantChange) {
        self.0.grants.get_or_create(&vec![("credential", Arc::clone(credential)), ("change", change.name().into())]).inc();
    }

    /// A configuration was taken, at this many seconds since 1970.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; seconds fit")]
    pub fn reloaded(&self, revision: u64, at: i64) {
        self.0.reload_ok.set(1);
        self.0.reload_time.set(at as f64);
        self.0.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
    }

    /// A configuration was refused; the old one judges on.
    pub fn reload_failed(&self) {
        self.0.reload_ok.set(0);
    }

    /// What is counted between a workload and an upstream. Workloads beyond the bound share one name.
    pub(super) fn edge_between(&self, workload: &Arc<str>, upstream: &Arc<str>) -> Edge {
        let mut edges = self.0.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut workload = Arc::clone(workload);
        if edges.len() >= PAIRS && !edges.contains_key(&(Arc::clone(upstream), Arc::clone(&workload))) {
            workload = "other".into();
        }
        let counters = edges.entry((Arc::clone(upstream), Arc::clone(&workload))).or_default().clone();
        Edge { workload, upstream: Arc::clone(upstream), counters }
    }

    /// Who talked to whom since the start, sorted by upstream and workload.
    #[must_use]
    pub fn edges(&self) -> Vec<Edge> {
        let edges = self.0.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let edge = |((upstream, workload), counters): (&Pair, &Passed)| Edge {
            workload: Arc::clone(workload),
            upstream: Arc::clone(upstream),
            counters: counters.clone(),
        };
        edges.iter().map(edge).collect()
    }

    /// How many processes an agent is asked about.
    pub fn processes(&self, name: &Arc<str>, count: usize) {
        let words: Words = vec![("identity", Arc::clone(name))];
        self.0.identity_processes.get_or_create(&words).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How an identity of the Workload API stands: its certificate's end in seconds since 1970, and how often it changed.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; seconds fit")]
    pub fn identity(&self, name: &Arc<str>, end: Option<i64>, updates: u64) {
        let words: Words = vec![("identity", Arc::clone(name))];
        self.0.identity_end.get_or_create(&words).set(end.unwrap_or_default() as f64);
        self.0.identity_updates.get_or_create(&words).set(i64::try_from(updates).unwrap_or(i64::MAX));
    }

    /// Whether requests are judged.
    pub fn ready(&self, ready: bool) {
        self.0.ready.set(i64::from(ready));
    }

    /// All series as `OpenMetrics` text (`application/openmetrics-text; version=1.0.0; charset=utf-8`).
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let registry = self.0.registry.lock().unwrap_or_else(PoisonError::into_inner);
        match encode(&mut text, &registry) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(target: "exeat::telemetry", "metrics cannot be shown: {error}");
                String::new()
            }
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The ledger's and the exporter's counters, read when somebody asks.
struct Records {
    ledger: Ledger,
    spans: Option<Spans>,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Records")
    }
}

pub(super) fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

pub(super) fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

impl Collector for Records {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; places are few")]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let standing = self.ledger.standing();
        let e = &mut encoder;
        gauge(e, "exeat_audit_available", "1 when records can be written", f64::from(u8::from(standing.available)))?;
        gauge(e, "exeat_audit_outstanding", "Audit slots in use", standing.outstanding as f64)?;
        gauge(e, "exeat_audit_limit", "Audit slots there are", standing.limit as f64)?;
        counter(e, "exeat_audit_lines", "Lines of the audit chain", standing.written)?;
        counter(e, "exeat_audit_refused", "Passages refused because no record could be kept", standing.refused)?;
        let Some(spans) = &self.spans else { return Ok(()) };
        let counts = spans.counts();
        gauge(e, "exeat_spans_queued", "Spans that wait for the exporter", counts.queued as f64)?;
        counter(e, "exeat_spans_exported", "Spans that the collector took", counts.exported)?;
        counter(e, "exeat_spans_dropped", "Spans that were lost", counts.dropped)?;
        counter(e, "exeat_spans_export_failures", "Export requests that failed", counts.failures)
    }
}
