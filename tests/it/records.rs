//! Story: every passage leaves one record in an unbroken chain, and one trace.

use std::collections::HashSet;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::exeat::{APP, Capture, allow_all, command, policy_head};
use crate::harness::otlp::{Collector, attribute};
use crate::harness::wire::request;
use crate::harness::{Exeat, House, Upstream, clients, h2, run, until};

/// Fails unless every line names the former's hash and the next number.
pub fn chain(records: &[Value]) {
    let mut former = "0".repeat(64);
    for (at, record) in records.iter().enumerate() {
        assert_eq!(record["seq"], at as u64, "{record}");
        assert_eq!(record["prev"], former.as_str(), "{record}");
        record["hash"].as_str().expect("a hash").clone_into(&mut former);
    }
}

fn accesses(exeat: &Exeat) -> Vec<Value> {
    exeat.audit().into_iter().filter(|record| record["kind"] == "access").collect()
}

#[test]
fn as_many_records_as_requests() {
    let up = Upstream::http();
    let policy = policy_head("base") + "  - { id: open, effect: allow, to: [up], methods: [GET], paths: [\"/open/**\"], grant: up-jwt }\n";
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &policy).start();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (port, host) = (exeat.port("mesh"), up.authority());
            std::thread::spawn(move || {
                let mut wire = crate::harness::Wire::tcp(port);
                for at in 0..100 {
                    let place = if at % 3 == 0 { "shut" } else { "open" };
                    wire.ask("GET", &format!("/{place}/{thread}/{at}"), &host, &[], b"");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("asked");
    }
    run(async {
        let mut client = h2::Client::start(h2::plain(exeat.port("mesh")).await).await.expect("h2");
        for at in 0..100 {
            client.ask(h2::request("GET", "http", &up.authority(), &format!("/open/h2/{at}"), &[]), b"", None).await.expect("answered");
        }
    });
    until("500 records", || (accesses(&exeat).len() >= 500).then_some(()));
    let records = accesses(&exeat);
    assert_eq!(records.len(), 500);
    let ids: HashSet<_> = records.iter().map(|record| record["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(ids.len(), 500, "each has an id of its own");
    let refused = records.iter().filter(|record| record["outcome"] == "refused").count();
    assert_eq!(refused, 4 * 34);
    for record in &records {
        assert_eq!(record["workload"]["id"], APP);
        assert_eq!(record["upstream"], "up");
        assert_eq!(record["revision"], records[0]["revision"]);
        if record["outcome"] == "allowed" {
            assert_eq!(record["rule"]["id"].as_str().map(|id| id.ends_with("open")), Some(true), "{record}");
            assert_eq!(record["credential"]["name"], "up-jwt", "{record}");
            assert_eq!(record["status"], 200);
        } else {
            assert_eq!((record["code"].as_str(), record["status"].as_u64()), (Some("no_rule"), Some(403)), "{record}");
            assert!(record.get("credential").is_none() && record.get("attempts").is_none(), "{record}");
        }
    }
    chain(&exeat.audit());
}

#[test]
fn a_refusals_request_id_leads_to_its_record() {
    let up = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &policy_head("base").replace("rules:\n", "rules: []\n"))
        .start();
    let answer = exeat.ask("mesh", "GET", "/x?token=static", &up.authority(), &[]);
    answer.must_refuse(403, "no_rule");
    let id = answer.json()["request_id"].as_str().expect("an id").replace('-', "");
    let record = exeat.record("that id", |record| record["id"] == id.as_str());
    assert_eq!(record["path"], "/x", "never the query: {record}");
    assert_eq!(record["findings"][0]["place"], "query:token", "{record}");
}

#[test]
fn after_a_kill_the_chain_goes_on_and_what_was_open_is_lost() {
    let up = Upstream::http();
    let mut exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"])).start();
    for at in 0..20 {
        exeat.ask("mesh", "GET", &format!("/before/{at}"), &up.authority(), &[]);
    }
    let mut wire = exeat.wire("mesh");
    wire.send(&request(
        "GET",
        "/ws",
        &up.authority(),
        &[
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ],
        b"",
    ));
    assert_eq!(wire.answer("GET").status, 101);
    let opened = exeat.record("the opened WebSocket", |record| record["kind"] == "opened");
    until("the records of before", || (accesses(&exeat).len() >= 20).then_some(()));
    exeat.signal(Signal::SIGKILL);
    exeat.wait();
    let before = exeat.audit().len();
    // A line that was cut in the middle of writing.
    let mut text = exeat.audit_text();
    text.push_str("{\"seq\":999,\"prev\":\"cut");
    std::fs::write(exeat.house.path().join("audit.jsonl"), text).expect("written");
    exeat.relaunch();
    let lost = exeat.record("what was lost", |record| record["kind"] == "lost");
    assert_eq!(lost["id"], opened["id"], "{lost}");
    assert_eq!(lost["opened"], opened["seq"], "{lost}");
    assert_eq!(exeat.ask("mesh", "GET", "/after", &up.authority(), &[]).status, 200);
    exeat.record("the request after", |record| record["path"] == "/after");
    let records = exeat.audit();
    assert!(records.len() > before);
    chain(&records);
    assert_eq!(records.iter().filter(|record| record["kind"] == "lost").count(), 1);
    verifies(&exeat, true);
    // One byte of one line, and it names the line.
    let text = exeat.audit_text().replacen("/before/7\"", "/before/8\"", 1);
    let forged = exeat.house.path().join("forged.jsonl");
    std::fs::write(&forged, text).expect("written");
    let output = clients::output(&mut command(&["audit", "verify", &forged.display().to_string()]));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Asks exeat itself whether the chain holds.
fn verifies(exeat: &Exeat, holds: bool) {
    let path = exeat.house.path().join("audit.jsonl").display().to_string();
    let state = exeat.house.path().join("state").display().to_string();
    let output = clients::output(&mut command(&["audit", "verify", &path, "--state", &state]));
    assert_eq!(output.status.success(), holds, "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_passage_is_one_trace_that_continues_the_callers() {
    let (up, collector) = (Upstream::http(), Collector::start());
    let policy = policy_head("base") + "  - { id: open, effect: allow, to: [up], methods: [GET], paths: [\"/open/**\"], grant: up-jwt }\n";
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &policy)
        .extra(&format!("telemetry: {{ otlp: {{ endpoint: \"{}\", protocol: http }} }}", collector.endpoint()))
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start();
    let trace = [0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c];
    let parent = "b7ad6b7169203331";
    // The caller's own sampling decision does not switch us off.
    let header = format!("00-0af7651916cd43dd8448eb211c80319c-{parent}-00");
    let answer = exeat.ask(
        "mesh",
        "GET",
        "/open/traced?key=secret-in-query",
        &up.authority(),
        &[("traceparent", &header), ("tracestate", "vendor=1")],
    );
    assert_eq!(answer.status, 200);
    let spans = collector.wait_for(&trace, 2);
    let kinds = |kind: i32| spans.iter().filter(|span| span.kind == kind).count();
    assert_eq!((kinds(2), kinds(3)), (1, 1), "one SERVER, one CLIENT; what took time has a child of its own: {spans:?}");
    let server = spans.iter().find(|span| span.kind == 2).expect("a SERVER span");
    let client = spans.iter().find(|span| span.kind == 3).expect("a CLIENT span");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&server.parent_span_id), parent);
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(attribute(server, "http.request.method").as_deref(), Some("GET"));
    assert_eq!(attribute(server, "http.response.status_code").as_deref(), Some("200"));
    assert_eq!(attribute(server, "url.path").as_deref(), Some("/open/traced"));
    assert_eq!(attribute(client, "server.address").as_deref(), Some("localhost"));
    assert_eq!(attribute(client, "server.port"), Some(up.port.to_string()));
    assert_eq!(attribute(server, "exeat.identity.id").as_deref(), Some(APP));
    // The upstream sees the CLIENT span as its parent, and the vendor's state.
    let seen = up.wait_for("/open/traced");
    assert_eq!(seen.fields.get("traceparent"), Some(format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", hex(&client.span_id)).as_str()));
    assert_eq!(seen.fields.get("tracestate"), Some("vendor=1"));
    // The audit line is of the same trace.
    let record = exeat.record("the traced request", |record| record["path"] == "/open/traced");
    assert_eq!((record["trace_id"].as_str(), record["parent_span_id"].as_str()), (Some("0af7651916cd43dd8448eb211c80319c"), Some(parent)));
    assert_eq!(record["span_id"], hex(&server.span_id).as_str());
    assert!(!String::from_utf8_lossy(&collector.bytes()).contains("secret-in-query"));

    // A refusal has no CLIENT span; a broken traceparent starts a trace of its own.
    let answer =
        exeat.ask("mesh", "GET", "/shut", &up.authority(), &[("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01")]);
    answer.must_refuse(403, "no_rule");
    let record = exeat.record("the refusal", |record| record["path"] == "/shut");
    assert!(record.get("parent_span_id").is_none(), "{record}");
    let fresh: Vec<u8> = (0..16)
        .map(|at| u8::from_str_radix(&record["trace_id"].as_str().expect("a trace")[at * 2..at * 2 + 2], 16).expect("hex"))
        .collect();
    let spans = collector.wait_for(&fresh, 1);
    let server = spans.iter().find(|span| span.kind == 2).expect("a SERVER span");
    assert!(spans.iter().all(|span| span.kind != 3), "nothing went out: {spans:?}");
    assert!(attribute(server, "error.type").is_some_and(|kind| kind.contains("no_rule")), "{server:?}");
}

#[test]
fn a_collector_that_is_down_costs_a_counter_and_no_request() {
    let up = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra(&format!("telemetry: {{ otlp: {{ endpoint: \"http://127.0.0.1:{}\", protocol: http }} }}", crate::harness::free_port()))
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .start();
    for at in 0..20 {
        assert_eq!(exeat.ask("mesh", "GET", &format!("/{at}"), &up.authority(), &[]).status, 200);
    }
    until("a counter of dropped spans", || (exeat.metric(&["exeat", "span", "total"]) > 0.0).then_some(()));
    assert_eq!(exeat.status("/readyz").status, 200);
}

#[test]
fn metrics_count_what_happened_and_name_nobody() {
    let up = Upstream::http();
    let policy = policy_head("base") + "  - { id: open, effect: allow, to: [up], methods: [GET], paths: [\"/open/**\"], grant: up-jwt }\n";
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &policy).start();
    for at in 0..7 {
        exeat.ask("mesh", "GET", &format!("/open/{at}"), &up.authority(), &[("x-api-key", "static")]);
    }
    for _ in 0..3 {
        exeat.ask("mesh", "GET", "/shut", &up.authority(), &[]);
    }
    until("ten counted passages", || (exeat.metric(&["request_duration_seconds_count", "server"]) >= 10.0).then_some(()));
    let metrics = exeat.metrics();
    for line in metrics.lines() {
        assert!(!line.contains("/open/") && !line.contains("spiffe://"), "a path or an identity in a metric: {line}");
    }
    assert!(metrics.contains("no_rule"), "refusals are counted by code:\n{metrics}");
    assert!(metrics.contains("# TYPE") && metrics.contains("# HELP"));
}
