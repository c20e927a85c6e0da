//! `Observer`: what the ledger's writer shows every finished passage to. Counts it and writes its spans, off the workers; handles are
//! kept, so that a passage costs look-ups by short names and no label set.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use rustc_hash::FxHashMap;

use super::metrics::{Edge, Metrics, PAIRS, Words};
use super::spans::{Recorder, method};
use crate::audit::{Access, Outcome};

/// One per writer thread.
pub struct Observer {
    metrics: Metrics,
    recorder: Option<Recorder>,
    upstreams: FxHashMap<Arc<str>, PerUpstream>,
    pairs: usize,
}

type Answer = (&'static str, u16, &'static str);

struct PerUpstream {
    requests: FxHashMap<(Arc<str>, &'static str, &'static str), Counter>,
    server: FxHashMap<Answer, Histogram>,
    client: FxHashMap<Answer, Histogram>,
    found: FxHashMap<(&'static str, bool), Counter>,
    edges: FxHashMap<Arc<str>, Edge>,
    request_bytes: Counter,
    response_bytes: Counter,
}

impl Observer {
    /// Without a recorder it only counts.
    #[must_use]
    pub fn new(metrics: Metrics, recorder: Option<Recorder>) -> Self {
        Self { metrics, recorder, upstreams: FxHashMap::default(), pairs: 0 }
    }

    /// One finished passage.
    pub fn observe(&mut self, access: &Access) {
        if let Some(recorder) = &mut self.recorder {
            recorder.record(access);
        }
        self.count(access);
    }

    fn count(&mut self, access: &Access) {
        let name = access.upstream.as_ref().map_or("none", |upstream| &*upstream.name);
        if !self.upstreams.contains_key(name) {
            let name: Arc<str> = name.into();
            self.upstreams.insert(Arc::clone(&name), PerUpstream::new(&self.metrics, &name));
        }
        let Some(upstream) = self.upstreams.get_mut(name) else { return };
        let code = access.outcome.code().map_or(if access.outcome == Outcome::Aborted { "aborted" } else { "" }, |code| code.name());
        let (metrics, method) = (&self.metrics, method(&access.method).0);
        upstream.request(metrics, name, access, code);
        let status = access.status.map_or(0, |status| status.as_u16());
        upstream.answered(metrics, name, (method, status, ""), access.took, false);
        for attempt in &access.attempts {
            let status = attempt.status.map_or(0, |status| status.as_u16());
            let took = attempt.ended.saturating_sub(attempt.began);
            upstream.answered(metrics, name, (method, status, attempt.error.unwrap_or_default()), took, true);
        }
        upstream.request_bytes.inc_by(access.request_bytes);
        upstream.response_bytes.inc_by(access.response_bytes);
        for finding in &access.findings {
            let labels = || vec![label("upstream", name), ("kind", finding.kind.name().into()), ("kept", finding.kept.to_string().into())];
            let found = upstream.found.entry((finding.kind.name(), finding.kept));
            found.or_insert_with(|| metrics.series().found.get_or_create_owned(&labels())).inc();
        }
        if access.upstream.is_some()
            && let Some(workload) = &access.workload
        {
            let failed = access.outcome != Outcome::Allowed || access.status.is_none_or(|status| status.is_server_error());
            upstream.linked(metrics, name, workload.id.as_str(), failed, &mut self.pairs);
        }
    }
}

fn label(key: &'static str, value: &str) -> (&'static str, Arc<str>) {
    (key, value.into())
}

impl PerUpstream {
    fn new(metrics: &Metrics, name: &Arc<str>) -> Self {
        let labels = vec![("upstream", Arc::clone(name))];
        Self {
            requests: FxHashMap::default(),
            server: FxHashMap::default(),
            client: FxHashMap::default(),
            found: FxHashMap::default(),
            edges: FxHashMap::default(),
            request_bytes: metrics.series().request_bytes.get_or_create_owned(&labels),
            response_bytes: metrics.series().response_bytes.get_or_create_owned(&labels),
        }
    }

    fn request(&mut self, metrics: &Metrics, name: &str, access: &Access, code: &'static str) {
        let decision = access.decision();
        let labels = || {
            let listener = ("listener", Arc::clone(&access.listener));
            vec![listener, label("upstream", name), label("decision", decision), label("code", code)]
        };
        let counter = self.requests.entry((Arc::clone(&access.listener), decision, code));
        counter.or_insert_with(|| metrics.series().requests.get_or_create_owned(&labels())).inc();
    }

    fn answered(&mut self, metrics: &Metrics, name: &str, answer: Answer, took: Duration, client: bool) {
        let (method, status, error) = answer;
        let labels = || -> Words {
            let status = if status == 0 { String::new() } else { status.to_string() };
            let mut labels =
                vec![label("upstream", name), label("http_request_method", method), ("http_response_status_code", status.into())];
            if client {
                labels.push(label("error_type", error));
            }
            labels
        };
        let (kept, family) =
            if client { (&mut self.client, &metrics.series().client) } else { (&mut self.server, &metrics.series().server) };
        kept.entry(answer).or_insert_with(|| family.get_or_create_owned(&labels())).observe(took.as_secs_f64());
    }

    /// Who talks to whom. Workloads beyond the bound share one name.
    fn linked(&mut self, metrics: &Metrics, upstream: &str, workload: &str, failed: bool, pairs: &mut usize) {
        let workload = if self.edges.contains_key(workload) || *pairs < PAIRS { workload } else { "other" };
        if !self.edges.contains_key(workload) {
            self.edges.insert(workload.into(), metrics.edge_between(workload, upstream));
            *pairs += 1;
        }
        if let Some(edge) = self.edges.get(workload) {
            edge.all.inc();
            if failed {
                edge.failed.inc();
            }
        }
    }
}
