//! Telemetry from the outside: what a collector receives, what Prometheus reads.

#![expect(clippy::wildcard_enum_match_arm, reason = "protobuf's values")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;

use super::*;
use crate::audit::samples::{CANARY, allowed, observed, refused};
use crate::audit::{Circumstances, GrantChange, Ledger, Options, StdoutSink};
use crate::clock::{Clock as _, SystemClock};
use crate::refusal::Code;

const LONG: Duration = Duration::from_secs(20);

/// A collector behind the seam: keeps requests, answers as told.
#[derive(Clone, Default)]
struct Collected {
    requests: Arc<Mutex<Vec<Request<Bytes>>>>,
    down: Arc<std::sync::atomic::AtomicBool>,
}

impl Collected {
    fn post(&self) -> Post {
        let this = self.clone();
        Arc::new(move |request| {
            let this = this.clone();
            Box::pin(async move {
                if this.down.load(std::sync::atomic::Ordering::Acquire) {
                    return Err("connection refused".to_owned());
                }
                this.requests.lock().unwrap().push(request);
                Ok(Response::new(Bytes::new()))
            })
        })
    }

    fn messages(&self) -> Vec<ExportTraceServiceRequest> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|request| ExportTraceServiceRequest::decode(request.body().clone()).unwrap()).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let scopes = self.messages().into_iter().flat_map(|message| message.resource_spans).flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

fn settings(endpoint: &str) -> Settings {
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue"), ("OTEL_BSP_SCHEDULE_DELAY", "5")];
    Settings::from_environment(&variables.map(|(key, value)| (key.to_owned(), value.to_owned())).into()).unwrap()
}

fn attributes(span: &Span) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        Value::ArrayValue(array) => {
            array.values.into_iter().map(|value| format!("{:?};", value.value.unwrap())).collect::<Vec<_>>().concat()
        }
        other => panic!("{other:?}"),
    };
    span.attributes.iter().map(|pair| (pair.key.clone(), text(pair.value.clone().unwrap().value.unwrap()))).collect()
}

#[test]
fn a_collector_gets_the_tree_of_a_passage() {
    let collected = Collected::default();
    let exporter = Exporter::start(&settings("http://collector:4318"), collected.post()).unwrap().unwrap();
    let mut recorder = exporter.spans().recorder();
    let mut passage = allowed(0xabc);
    passage.cached = false;
    recorder.record(&Circumstances::of(&passage));
    recorder.record(&Circumstances::of(&refused(2, Code::Denied)));
    let mut unsampled = allowed(3);
    unsampled.trace.sampled = false;
    recorder.record(&Circumstances::of(&unsampled));
    let spans = exporter.spans().clone();
    assert!(exporter.stop(LONG));
    assert_eq!((spans.counts().exported, spans.counts().dropped, spans.counts().queued), (5, 0, 0));

    {
        let requests = collected.requests.lock().unwrap();
        assert_eq!(requests[0].uri(), "http://collector:4318/v1/traces");
        assert_eq!(requests[0].headers()["content-type"], "application/x-protobuf");
        assert_eq!(requests[0].headers()["x-tenant"], "blue");
    }
    let message = collected.messages().remove(0);
    let resource = message.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(resource.attributes[0].key, "service.name");
    assert_eq!(message.resource_spans[0].scope_spans[0].scope.as_ref().unwrap().name, "exeat");
    assert_eq!(message.resource_spans[0].scope_spans[0].schema_url, "https://opentelemetry.io/schemas/1.42.0");

    let found = collected.spans();
    let [server, client, connect, obtain, denied] = &found[..] else { panic!("{} spans", found.len()) };
    assert_eq!((server.kind(), client.kind(), connect.kind()), (SpanKind::Server, SpanKind::Client, SpanKind::Internal));
    assert_eq!((server.parent_span_id.as_slice(), server.flags), ([0xc3; 8].as_slice(), 0x301));
    assert_eq!((&client.parent_span_id, client.flags), (&server.span_id, 0x101));
    assert_eq!((&connect.parent_span_id, &obtain.parent_span_id), (&client.span_id, &server.span_id));
    assert_eq!((connect.name.as_str(), obtain.name.as_str(), server.name.as_str()), ("connect", "obtain credential", "POST"));
    assert!(found.iter().all(|span| span.trace_id == [0xa1; 16]));
    assert_eq!(server.start_time_unix_nano, 1_794_000_000_001_234_000);
    assert_eq!(server.end_time_unix_nano - server.start_time_unix_nano, 2_500_000);
    assert_eq!(client.start_time_unix_nano - server.start_time_unix_nano, 320_000);
    assert!(server.status.is_none());

    let (server, client, denied_attributes) = (attributes(server), attributes(client), attributes(denied));
    for (key, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/v1/entries"),
        ("url.scheme", "https"),
        ("server.address", "ledger.internal.example"),
        ("server.port", "8443"),
        ("client.address", "127.0.0.1"),
        ("http.response.status_code", "201"),
        ("exeat.request.id", "00000000000000000000000000000abc"),
        ("exeat.identity.id", "spiffe://prod.example/ns/billing/sa/app"),
        ("exeat.decision", "allow"),
        ("exeat.policy.rule", "billing/read-entries"),
        ("exeat.policy.revision", "7"),
        ("exeat.credential.stripped", "StringValue(\"bearer\");"),
        ("exeat.credential.issued.scope", "StringValue(\"entries:read\");"),
        ("exeat.credential.issued.cache", "miss"),
        ("exeat.credential.issued.ttl_s", "60"),
    ] {
        assert_eq!(server.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(client["url.full"], "https://ledger.internal.example:8443/v1/entries");
    assert_eq!((client["network.protocol.version"].as_str(), client["service.peer.name"].as_str()), ("2", "ledger"));
    assert_eq!((denied_attributes["error.type"].as_str(), denied_attributes["exeat.decision"].as_str()), ("exeat.denied", "deny"));
    assert!(denied.status.is_none(), "a 403 is no error of a server span");
    let bytes = collected.requests.lock().unwrap()[0].body().clone();
    assert!(memchr::memmem::find(&bytes, CANARY.as_bytes()).is_none(), "no secret in any span");
}

#[test]
fn failures_are_errors_and_retries_are_numbered() {
    let collected = Collected::default();
    let exporter = Exporter::start(&settings("http://collector:4318"), collected.post()).unwrap().unwrap();
    let mut passage = allowed(1);
    passage.method = http::Method::from_bytes(b"PROPFIND").unwrap();
    passage.status = Some(StatusCode::BAD_GATEWAY);
    passage.attempts[0].status = Some(StatusCode::UNAUTHORIZED);
    let mut second = passage.attempts[0].clone();
    (second.status, second.error, second.reused) = (None, Some("reset"), true);
    passage.attempts.push(second);
    exporter.spans().recorder().record(&Circumstances::of(&passage));
    assert!(exporter.stop(LONG));
    let spans = collected.spans();
    let [server, first, _connect, second] = &spans[..] else { panic!("{} spans", spans.len()) };
    assert!([server, first, second].iter().all(|span| span.status.as_ref().unwrap().code == 2 && span.name == "HTTP"));
    let (server, first, second) = (attributes(server), attributes(first), attributes(second));
    assert_eq!((server["http.request.method"].as_str(), server["http.request.method_original"].as_str()), ("_OTHER", "PROPFIND"));
    assert_eq!((server["error.type"].as_str(), first["error.type"].as_str(), second["error.type"].as_str()), ("502", "401", "reset"));
    assert_eq!((first.get("http.request.resend_count"), second["http.request.resend_count"].as_str()), (None, "1"));
}

#[test]
fn a_collector_that_is_down_costs_counters_and_a_full_queue_drops() {
    let collected = Collected::default();
    collected.down.store(true, std::sync::atomic::Ordering::Release);
    let mut settings = settings("http://collector:4318");
    settings.delay = Duration::from_mins(1);
    settings.queue = 6;
    let exporter = Exporter::start(&settings, collected.post()).unwrap().unwrap();
    let mut recorder = exporter.spans().recorder();
    for id in 0..4 {
        recorder.record(&Circumstances::of(&allowed(id)));
    }
    let spans = exporter.spans().clone();
    assert_eq!((spans.counts().queued, spans.counts().dropped), (6, 4));
    assert!(exporter.stop(LONG));
    let counts = spans.counts();
    assert_eq!((counts.exported, counts.dropped, counts.failures, counts.queued), (0, 10, 1, 0));
}

#[test]
fn nothing_is_started_without_a_collector() {
    let off = Settings::from_environment(&BTreeMap::new()).unwrap();
    assert!(Exporter::start(&off, Collected::default().post()).unwrap().is_none());
}

/// One gRPC call over h2: gives the message, answers with `status` in the trailers.
async fn serve_grpc(listener: tokio::net::TcpListener, status: &'static str) -> (http::request::Parts, Bytes) {
    let (socket, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(socket).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    let driver = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let (parts, mut body) = request.into_parts();
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        message.extend_from_slice(&data);
    }
    let answer = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(answer, false).unwrap();
    stream.send_data(Bytes::from_static(&[0, 0, 0, 0, 0]), false).unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static(status));
    stream.send_trailers(trailers).unwrap();
    drop((stream, body));
    driver.await.unwrap();
    (parts, Bytes::from(message))
}

#[test]
fn grpc_carries_the_same_message_and_believes_the_trailers() {
    for (status, exported) in [("0", 3), ("7", 0)] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let mut settings = settings("http://unused:4318");
        settings.export_to(&format!("http://{}", listener.local_addr().unwrap()), Some(Protocol::Grpc)).unwrap();
        let exporter = Exporter::start(&settings, Collected::default().post()).unwrap().unwrap();
        exporter.spans().recorder().record(&Circumstances::of(&allowed(9)));
        let server = std::thread::spawn(move || runtime.block_on(serve_grpc(listener, status)));
        let spans = exporter.spans().clone();
        assert!(exporter.stop(LONG));
        let (parts, framed) = server.join().unwrap();
        assert_eq!(parts.uri.path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
        assert_eq!(parts.headers["x-tenant"], "blue");
        let message = ExportTraceServiceRequest::decode(framed.slice(5..)).unwrap();
        assert_eq!(message.resource_spans[0].scope_spans[0].spans.len(), 3);
        assert_eq!(spans.counts().exported, exported);
    }
}

/// Series of an exposition, after checking its form line by line.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"));
    let mut series = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let plain = name.split('{').next().unwrap();
        assert!(plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
        assert_eq!(name.contains('{'), name.ends_with('}'), "{line}");
        assert!(series.insert(name.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
    }
    series
}

#[test]
fn metrics_tell_what_passed() {
    let metrics = Metrics::new();
    let mut observer = Observer::new(metrics.clone(), None);
    for access in [allowed(1), allowed(2), refused(3, Code::Denied), observed(4)] {
        observer.observe(&Circumstances::of(&access));
    }
    let mut unknown = refused(5, Code::Unlisted);
    (unknown.upstream, unknown.workload) = (None, None);
    observer.observe(&Circumstances::of(&unknown));
    metrics.connection_opened();
    metrics.edge(&"egress".into(), 3);
    metrics.grant(&"ledger-jwt".into(), GrantChange::Refreshed);
    metrics.reloaded(4, 1_794_000_000);
    metrics.reload_failed();
    let ledger = Ledger::start(Box::new(StdoutSink::default()), |_| {}, Arc::new(SystemClock), Options::default()).unwrap();
    metrics.watch(&ledger, None);
    let series = parse(&metrics.text());
    for (name, value) in [
        (r#"exeat_requests_total{listener="egress",upstream="ledger",decision="allow",code=""}"#, 2.0),
        (r#"exeat_requests_total{listener="egress",upstream="ledger",decision="deny",code="denied"}"#, 1.0),
        (r#"exeat_requests_total{listener="egress",upstream="ledger",decision="shadow_deny",code=""}"#, 1.0),
        (r#"exeat_requests_total{listener="egress",upstream="none",decision="deny",code="unlisted"}"#, 1.0),
        (r#"exeat_credentials_found_total{upstream="ledger",kind="bearer",kept="false"}"#, 4.0),
        (
            r#"http_server_request_duration_seconds_count{upstream="ledger",http_request_method="POST",http_response_status_code="201"}"#,
            3.0,
        ),
        (
            r#"http_client_request_duration_seconds_count{upstream="ledger",http_request_method="POST",http_response_status_code="201",error_type=""}"#,
            3.0,
        ),
        (r#"exeat_edge_refusals_total{listener="egress"}"#, 3.0),
        (r#"exeat_grants_total{credential="ledger-jwt",change="refreshed"}"#, 1.0),
        ("exeat_config_last_reload_successful", 0.0),
        ("exeat_config_last_reload_success_timestamp_seconds", 1_794_000_000.0),
        ("exeat_config_revision", 4.0),
        ("exeat_connections", 1.0),
        ("exeat_audit_available", 1.0),
        ("exeat_audit_limit", 8192.0),
    ] {
        assert_eq!(series.get(name), Some(&value), "{name}");
    }
    let edges = metrics.edges();
    assert_eq!(edges.len(), 1);
    assert_eq!(
        (&*edges[0].workload, &*edges[0].upstream, edges[0].counts()),
        ("spiffe://prod.example/ns/billing/sa/app", "ledger", (4, 1))
    );
    assert!(!metrics.text().contains("spiffe://"), "who asks is not shown to whoever reaches the status server");
    assert!(
        series["process_resident_memory_bytes"] > 0.0 && series["process_open_fds"] > 0.0 && series["process_start_time_seconds"] > 1e9
    );
    assert!(ledger.stop(LONG));
}

#[test]
fn the_graph_is_bounded() {
    let metrics = Metrics::new();
    let mut observer = Observer::new(metrics.clone(), None);
    for nth in 0..1_200 {
        let mut access = allowed(nth);
        let id = crate::identity::SpiffeId::parse(&format!("spiffe://prod.example/w/{nth}")).unwrap();
        access.workload = Some(Arc::new(crate::identity::Workload { id, attestation: crate::identity::Attestation::Fixed }));
        observer.observe(&Circumstances::of(&access));
    }
    let edges = metrics.edges();
    assert_eq!(edges.len(), 1_001);
    assert_eq!(edges.iter().find(|edge| &*edge.workload == "other").unwrap().counts().0, 200);
}

#[test]
fn passages_of_the_same_circumstances_keep_what_is_their_own() {
    let live = crate::live::Live::default();
    let opened = |kind: &str| {
        let opening = crate::live::Opening {
            workload: "spiffe://prod.example/ns/billing/sa/app".to_owned(),
            kind: kind.to_owned(),
            ttl: Duration::from_mins(20),
            ..crate::live::Opening::default()
        };
        let lease = live.leases().open_lease(opening, &[], "uid 0", SystemClock.now()).unwrap();
        crate::policy::Leased { until: lease.until, uses_left: None, lease }
    };
    let collected = Collected::default();
    let exporter = Exporter::start(&settings("http://collector:4318"), collected.post()).unwrap().unwrap();
    let mut recorder = exporter.spans().recorder();
    let mut passage = allowed(1);
    for lease in [Some(opened("ticket")), Some(opened("batch")), None] {
        passage.lease = lease;
        recorder.record(&Circumstances::of(&passage));
    }
    assert!(exporter.stop(LONG));
    let server = |span: &&Span| span.kind() == SpanKind::Server;
    let kinds: Vec<_> = collected.spans().iter().filter(server).map(|span| attributes(span).remove("exeat.lease.kind")).collect();
    assert_eq!(kinds, [Some("ticket".to_owned()), Some("batch".to_owned()), None]);
}
