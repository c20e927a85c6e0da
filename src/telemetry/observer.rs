//! `Observer`: what the ledger's writer shows every finished passage to. Counts it and writes its spans, off the workers; the handles of
//! all series that follow from a passage's circumstances are kept together, so that a passage costs no label set.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
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

/// What an attempt's series has besides: its status, and why it failed.
type Answer = (Option<StatusCode>, &'static str);

/// The series of one kind of passages.
struct Handles {
    upstream: Arc<str>,
    requests: Counter,
    request_bytes: Counter,
    response_bytes: Counter,
    found: SmallVec<[Counter; 4]>,
    edge: Option<Edge>,
    server: Histogram,
    /// One or two: attempts at one upstream end alike.
    client: SmallVec<[(Answer, Histogram); 1]>,
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
        handles.requests.inc();
        handles.server.observe(access.took.as_secs_f64());
        for attempt in &access.attempts {
            let answer = (attempt.status, attempt.error.unwrap_or_default());
            handles.attempted(metrics, access, answer, attempt.ended.saturating_sub(attempt.began));
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
            server: series.server.get_or_create_owned(&answered(&upstream, access, access.status)),
            client: SmallVec::new(),
            upstream,
        }
    }

    fn attempted(&mut self, metrics: &Metrics, access: &Access, answer: Answer, took: Duration) {
        let took = took.as_secs_f64();
        if let Some((_, times)) = self.client.iter().find(|(known, _)| *known == answer) {
            return times.observe(took);
        }
        let mut labels = answered(&self.upstream, access, answer.0);
        labels.push(label("error_type", answer.1));
        let times = metrics.series().client.get_or_create_owned(&labels);
        times.observe(took);
        self.client.push((answer, times));
    }
}

/// Labels of how long something took.
fn answered(upstream: &Arc<str>, access: &Access, status: Option<StatusCode>) -> Words {
    let status = status.as_ref().map_or("", StatusCode::as_str);
    vec![
        ("upstream", Arc::clone(upstream)),
        label("http_request_method", method(&access.method).0),
        label("http_response_status_code", status),
    ]
}
