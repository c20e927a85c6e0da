//! Story: exeat stops without breaking what is under way, and says with its exit code why it ended.

use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};

use crate::harness::exeat::{Capture, allow_all, command};
use crate::harness::otlp::Collector;
use crate::harness::wire::request;
use crate::harness::{BOUND, House, Upstream, Wire, clients, h2, run, until};
use crate::records::chain;

#[test]
fn what_is_under_way_ends_in_peace() {
    let up = Upstream::http();
    let mut exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra("drain: { delay: 500ms, deadline: 15s }")
        .start();
    let mut idle = exeat.wire("mesh");
    assert_eq!(idle.ask("GET", "/idle", &up.authority(), &[], b"").status, 200);
    let mut stream = exeat.wire("mesh");
    stream.send(&request("GET", "/sse/3", &up.authority(), &[], b""));
    let head = stream.open_answer().expect("a head");
    assert_eq!(stream.part(&head.fields).expect("an event"), Some(b"data: 0\n\n".to_vec()));
    exeat.signal(Signal::SIGTERM);
    until("readyz to say that it drains", || {
        std::net::TcpStream::connect(("127.0.0.1", exeat.house.status_port()))
            .ok()
            .and_then(|_| Some(exeat.status("/readyz").status).filter(|status| *status == 503))
    });
    // New connections are still taken during the delay: whoever has not heard yet is not sent away.
    let late = std::net::TcpStream::connect(("127.0.0.1", exeat.port("mesh")));
    assert!(late.is_ok(), "the listener closed before the delay was over");
    until("the listener to close", || std::net::TcpStream::connect(("127.0.0.1", exeat.port("mesh"))).is_err().then_some(()));
    assert!(exeat.exited().is_none(), "it ended with a stream under way");
    for at in 1..3 {
        up.step(1);
        assert_eq!(stream.part(&head.fields).expect("an event"), Some(format!("data: {at}\n\n").into_bytes()));
    }
    up.step(1);
    assert_eq!(stream.part(&head.fields).expect("the end"), None);
    assert_eq!(exeat.wait().code(), Some(0), "{}", exeat.output());
    let records = exeat.audit();
    assert!(
        records.iter().any(|record| record["path"] == "/sse/3" && record["kind"] == "access" && record["outcome"] == "allowed"),
        "the stream has its record"
    );
    assert!(records.iter().any(|record| record["event"] == "stop"), "the stop is recorded");
}

#[test]
fn what_ended_before_the_end_is_recorded_and_exported_before_it() {
    let (up, collector) = (Upstream::http(), Collector::start());
    let host = up.authority();
    let mut exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra("drain: { delay: 200ms, deadline: 15s }")
        .extra(&format!("telemetry: {{ otlp: {{ endpoint: \"{}\", protocol: http }} }}", collector.endpoint()))
        // Nothing leaves by itself: what the collector has in the end, the end itself has sent.
        .env("OTEL_BSP_SCHEDULE_DELAY", "60000")
        .start();
    let mut wire = exeat.wire("mesh");
    for at in 0..20 {
        assert_eq!(wire.ask("GET", &format!("/before/{at}"), &host, &[], b"").status, 200);
    }
    exeat.ask("mesh", "GET", "/x", "nobody.test", &[]).must_refuse(403, "unlisted");
    // Under way: an event stream over either version, and half an upload.
    let mut stream = exeat.wire("mesh");
    stream.send(&request("GET", "/sse/1?h1", &host, &[], b""));
    let head = stream.open_answer().expect("a head");
    assert_eq!(stream.part(&head.fields).expect("an event"), Some(b"data: 0\n\n".to_vec()));
    let (opened, is_open) = std::sync::mpsc::channel();
    let over_h2 = std::thread::spawn({
        let (port, host) = (exeat.port("mesh"), host.clone());
        move || {
            run(async {
                let mut client = h2::Client::start(h2::plain(port).await).await.expect("h2");
                let (response, _) = client.open(h2::request("GET", "http", &host, "/sse/1?h2", &[]), true).await.expect("opened");
                let mut body = response.await.expect("a head").into_body();
                let mut told = Vec::new();
                while let Some(part) = h2::next(&mut body).await {
                    told.extend(part.expect("a part"));
                    opened.send(()).expect("the test waits");
                }
                String::from_utf8_lossy(&told).into_owned()
            })
        }
    });
    is_open.recv_timeout(BOUND).expect("an event over HTTP/2");
    let mut upload = exeat.wire("mesh");
    upload.send(format!("POST /upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\nhalf ").as_bytes());
    until("all three to be under way", || (exeat.metric(&["exeat_passages "]) >= 3.0).then_some(()));
    assert!(collector.spans().is_empty(), "spans were exported before");

    exeat.signal(Signal::SIGTERM);
    until("the listener to close", || std::net::TcpStream::connect(("127.0.0.1", exeat.port("mesh"))).is_err().then_some(()));
    assert!(exeat.exited().is_none(), "it ended with requests under way");
    up.step(2);
    assert_eq!(stream.part(&head.fields).expect("the end"), None);
    assert_eq!(over_h2.join().expect("read to its end"), "data: 0\n\n");
    upload.send(b"whole");
    let answer = upload.answer("POST");
    assert_eq!((answer.status, &answer.json()["body_len"]), (200, &json!(10)), "{}", answer.text());
    assert_eq!(exeat.wait().code(), Some(0), "{}", exeat.output());

    let records = exeat.audit();
    chain(&records);
    assert!(records.iter().any(|record| record["event"] == "stop"), "the stop is recorded");
    let [log, state] = ["audit.jsonl", "state"].map(|name| exeat.house.path().join(name).display().to_string());
    let told = clients::succeed(&mut command(&["audit", "verify", &log, "--state", &state]));
    assert!(told.contains(": 24 passages, 0 lost,") && told.trim_end().ends_with(", sealed"), "{told}");
    let accesses: Vec<_> = records.iter().filter(|record| record["kind"] == "access").collect();
    assert_eq!(accesses.len(), 24, "{}", exeat.audit_text());
    for path in ["/sse/1", "/upload"] {
        let ended = accesses.iter().filter(|record| record["path"] == path && record["outcome"] == "allowed").count();
        assert_eq!(ended, if path == "/sse/1" { 2 } else { 1 }, "{path}");
    }
    // A span for each record and each attempt, and no other of these kinds.
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let exported = |kind: SpanKind| {
        let spans = collector.spans().into_iter().filter(|span| span.kind == kind as i32);
        let mut ids: Vec<_> = spans.map(|span| (hex(&span.trace_id), hex(&span.span_id))).collect();
        ids.sort_unstable();
        ids
    };
    let ids = |trace: &Value, spans: &[&Value]| {
        let text = |value: &Value| value.as_str().expect("an id").to_owned();
        spans.iter().map(|span| (text(trace), text(&span["span_id"]))).collect::<Vec<_>>()
    };
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for record in accesses {
        servers.extend(ids(&record["trace_id"], &[record]));
        let attempts: Vec<&Value> = record["attempts"].as_array().into_iter().flatten().collect();
        clients.extend(ids(&record["trace_id"], &attempts));
    }
    servers.sort_unstable();
    clients.sort_unstable();
    assert_eq!(clients.len(), 23, "the refused one tried nobody");
    assert_eq!(exported(SpanKind::Server), servers);
    assert_eq!(exported(SpanKind::Client), clients);
}

#[test]
fn the_deadline_ends_what_does_not_end_itself() {
    let up = Upstream::http();
    let mut exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra("drain: { delay: 1ms, deadline: 1s }")
        .start();
    let mut stream = exeat.wire("mesh");
    stream.send(&request("GET", "/sse/3", &up.authority(), &[], b""));
    let head = stream.open_answer().expect("a head");
    stream.part(&head.fields).expect("an event");
    exeat.signal(Signal::SIGTERM);
    assert_eq!(exeat.wait().code(), Some(0), "{}", exeat.output());
    assert!(!matches!(stream.part(&head.fields), Ok(None)), "a cut stream looks cut");
    assert!(
        exeat.audit().iter().any(|record| record["path"] == "/sse/3" && record["kind"] == "access" && record["outcome"] == "aborted"),
        "{:?}",
        exeat.audit_text()
    );
}

#[test]
fn a_second_signal_stops_at_once() {
    let up = Upstream::http();
    let mut exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra("drain: { delay: 1m, deadline: 2m }")
        .start();
    let mut stream = exeat.wire("mesh");
    stream.send(&request("GET", "/sse/3", &up.authority(), &[], b""));
    stream.open_answer().expect("a head");
    exeat.signal(Signal::SIGTERM);
    until("readyz to say that it drains", || Some(exeat.status("/readyz").status).filter(|status| *status == 503));
    exeat.signal(Signal::SIGTERM);
    exeat.wait();
}

#[test]
fn exit_codes_tell_why() {
    let code = |arguments: &[&str]| {
        let output = clients::output(&mut command(arguments));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout))
    };
    assert_eq!(code(&["no-such-command"]).0, Some(64), "usage");
    assert_eq!(code(&["run", "--no-such-flag"]).0, Some(64), "usage");
    assert_eq!(code(&["run", "-c", "/nonexistent/exeat.yaml"]).0, Some(78), "configuration");
    let up = Upstream::http();
    let wrong = House::new().listener("mesh", Capture::Host).upstream("up", &up).extra("unlistet: refuse");
    let path = wrong.write().display().to_string();
    let (status, said) = code(&["run", "-c", &path]);
    assert_eq!(status, Some(78), "{said}");
    assert!(said.contains("unlistet") && said.contains("exeat.yaml"), "it names field and file: {said}");
    let (status, said) = code(&["check", "-c", &path]);
    assert_eq!(status, Some(1), "check found errors: {said}");

    let first = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"]));
    let taken = std::net::TcpListener::bind(("127.0.0.1", first.listener_port("mesh"))).expect("the port");
    let mut exeat = first.spawn();
    assert_eq!(exeat.wait().code(), Some(1), "a taken port: {}", exeat.output());
    assert!(exeat.output().contains(&taken.local_addr().expect("bound").port().to_string()), "it names the port: {}", exeat.output());
}

#[test]
fn a_state_that_cannot_be_used_is_a_configuration_error() {
    let up = Upstream::http();
    let house = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"]));
    std::fs::write(house.path().join("state"), "a file is no directory").expect("written");
    let mut exeat = house.spawn();
    assert_eq!(exeat.wait().code(), Some(78), "{}", exeat.output());
    // Two exeats never share one state: the second waits for a hand-over that does not come, and the first goes on.
    let first = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"])).start();
    let mut second = command(&["run", "-c", &first.config.display().to_string()])
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("started");
    for _ in 0..50 {
        assert_eq!(first.ask("mesh", "GET", "/still", &up.authority(), &[]).status, 200);
    }
    second.kill().expect("killed");
    second.wait().expect("reaped");
    let pid = u64::try_from(first.pid().as_raw()).expect("a pid");
    let starts = first.audit().iter().filter(|record| record["event"] == "start").count();
    assert_eq!(starts, 1, "the second wrote nothing beside {pid}");
}

#[test]
fn an_idle_connection_is_told_to_close() {
    let up = Upstream::http();
    let mut exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra("drain: { delay: 1ms, deadline: 20s }")
        .start();
    let mut idle: Wire = exeat.wire("mesh");
    assert_eq!(idle.ask("GET", "/idle", &up.authority(), &[], b"").status, 200);
    exeat.signal(Signal::SIGTERM);
    assert_eq!(exeat.wait().code(), Some(0));
    assert!(idle.until_end().expect("closed").is_empty());
}
