//! `Observer`: what the ledger's writer shows every finished passage to. Counts it and writes its spans, off the workers; the handles of
//! all series that follow from a passage's circumstances are kept together, so that a passage costs no label set.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::metrics::{Edge, Metrics, Words};
use super::spans::{Recorder, method};
use crate::audit::{Access, Circumstances, Outcome, PerCircumstances};
use crate::strip::Finding;

/// One per writer thread.
pub struct Observer {
    metrics: Metrics,
    recorder: Option<Recorder>,
    kept: PerCircumstances<Handles>,
}

/// Method, status (0: none) and error.
type Answer = (&'static str, u16, &'static str);

/// The series of one kind of passages.
struct Handles {
    upstream: Arc<str>,
    requests: Counter,
    request_bytes: Counter,
    response_bytes: Counter,
    found: SmallVec<[Counter; 4]>,
    edge: Option<Edge>,
    server: FxHashMap<Answer, Histogram>,
    client: FxHashMap<Answer, Histogram>,
}

impl Observer {
    /// Without a recorder it only counts.
    #[must_use]
    pub fn new(metrics: Metrics, recorder: Option<Recorder>) -> Self {
        Self { metrics, recorder, kept: PerCircumstances::default() }
    }

    /// One finished passage.
    pub fn observe(&mut self, access: &Circumstances<'_>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.record(access);
        }
        self.count(access);
    }

    fn count(&mut self, access: &Circumstances<'_>) {
        let Self { metrics, kept, .. } = self;
        let handles = kept.of(access, || Handles::of(metrics, access));
        let method = method(&access.method).0;
        handles.requests.inc();
        let status = access.status.map_or(0, |status| status.as_u16());
        handles.answered(metrics, (method, status, ""), access.took, false);
        for attempt in &access.attempts {
            let status = attempt.status.map_or(0, |status| status.as_u16());
            let took = attempt.ended.saturating_sub(attempt.began);
            handles.answered(metrics, (method, status, attempt.error.unwrap_or_default()), took, true);
        }
        handles.request_bytes.inc_by(access.request_bytes);
        handles.response_bytes.inc_by(access.response_bytes);
        for found in &handles.found {
            found.inc();
        }
        if let Some(edge) = &handles.edge {
            edge.passed(access.outcome != Outcome::Allowed || access.status.is_none_or(|status| status.is_server_error()));
        }
    }
}

fn label(key: &'static str, value: &str) -> (&'static str, Arc<str>) {
    (key, value.into())
}

impl Handles {
    fn of(metrics: &Metrics, access: &Access) -> Self {
        let series = metrics.series();
        let upstream = access.upstream.as_ref().map_or_else(|| "none".into(), |upstream| Arc::clone(&upstream.name));
        let code = access.outcome.code().map_or(if access.outcome == Outcome::Aborted { "aborted" } else { "" }, |code| code.name());
        let place = ("upstream", Arc::clone(&upstream));
        let asked =
            vec![("listener", Arc::clone(&access.listener)), place.clone(), label("decision", access.decision()), label("code", code)];
        let found = |finding: &Finding| {
            let kept = if finding.kept { "true" } else { "false" };
            series.found.get_or_create_owned(&vec![place.clone(), label("kind", finding.kind.name()), label("kept", kept)])
        };
        let workload = access.workload.as_ref().filter(|_| access.upstream.is_some());
        Self {
            requests: series.requests.get_or_create_owned(&asked),
            request_bytes: series.request_bytes.get_or_create_owned(&vec![place.clone()]),
            response_bytes: series.response_bytes.get_or_create_owned(&vec![place.clone()]),
            found: access.findings.iter().map(found).collect(),
            edge: workload.map(|workload| metrics.edge_between(&workload.id.shared(), &upstream)),
            server: FxHashMap::default(),
            client: FxHashMap::default(),
            upstream,
        }
    }

    fn answered(&mut self, metrics: &Metrics, answer: Answer, took: Duration, client: bool) {
        let (method, status, error) = answer;
        let upstream = &self.upstream;
        let labels = || -> Words {
            let status = if status == 0 { String::new() } else { status.to_string() };
            let mut labels = vec![
                ("upstream", Arc::clone(upstream)),
                label("http_request_method", method),
                ("http_response_status_code", status.into()),
            ];
            if client {
                labels.push(label("error_type", error));
            }
            labels
        };
        let (kept, family) =
            if client { (&mut self.client, &metrics.series().client) } else { (&mut self.server, &metrics.series().server) };
        kept.entry(answer).or_insert_with(|| family.get_or_create_owned(&labels())).observe(took.as_secs_f64());
    }
}
