//! Story: nothing waits for ever. Silence, age and idleness have bounds, and each end has its record.

use std::time::Duration;

use crate::harness::exeat::{Capture, allow_all, in_days};
use crate::harness::wire::request;
use crate::harness::{House, Upstream, h2, run, until};

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let up = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra("limits: { keep_alive: 300ms }")
        .start();
    let mut idle = exeat.wire("mesh").within(Duration::from_secs(20));
    let mut busy = exeat.wire("mesh").within(Duration::from_secs(20));
    assert_eq!(idle.ask("GET", "/idle", &up.authority(), &[], b"").status, 200);
    busy.send(&request("GET", "/wait", &up.authority(), &[], b""));
    assert!(idle.until_end().expect("closed within the time").is_empty(), "an idle connection is closed without a word");
    // As long as the other was idle, this one waited for its answer: that is not idleness.
    up.wait_for("/wait");
    up.step(1);
    assert_eq!(busy.answer("GET").status, 200);
}

#[test]
fn an_idle_connection_gives_its_memory_back_and_serves_again() {
    let up = Upstream::http();
    let mut exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra("drain: { delay: 1ms, deadline: 20s }")
        .start();
    let host = up.authority();
    let mut idle: Vec<_> = (0..500).map(|_| exeat.wire("mesh")).collect();
    for (at, wire) in idle.iter_mut().enumerate() {
        assert_eq!(wire.ask("GET", &format!("/first/{at}"), &host, &[], b"").status, 200);
    }
    let held = exeat.memory("VmRSS");
    until("their buffers to be given back", || (exeat.memory("VmRSS") + 500 * 4 < held).then_some(()));
    println!("500 idle connections: {held} KiB, at rest {} KiB", exeat.memory("VmRSS"));
    for (at, wire) in idle.iter_mut().enumerate() {
        let path = format!("/second/{at}");
        let mut wire = std::mem::replace(wire, exeat.wire("mesh")).within(Duration::from_secs(20));
        // In two parts, as one request of two, and with a fault: what comes after the rest is read as strictly as before it.
        let bytes = request("GET", &path, &host, &[], b"");
        match at % 3 {
            0 => {
                wire.send(&bytes[..9]);
                wire.send(&bytes[9..]);
            }
            1 => wire.send(&[bytes.as_slice(), &request("GET", "/third", &host, &[], b"")].concat()),
            _ => wire.send(format!("GET {path} HTTP/1.1\nHost: {host}\r\n\r\n").as_bytes()),
        }
        let answer = wire.answer("GET");
        match at % 3 {
            0 => assert_eq!(answer.status, 200),
            1 => assert_eq!((answer.status, wire.answer("GET").status), (200, 200)),
            _ => answer.must_refuse(400, "malformed"),
        }
    }
    let records = || exeat.audit().iter().filter(|record| record["kind"] == "access" && record["outcome"] == "allowed").count();
    until("a record of each request", || (records() == 500 + 167 + 2 * 167).then_some(()));
    let began = std::time::Instant::now();
    exeat.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(exeat.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "connections at rest do not hold up the end: {:?}", began.elapsed());
}

#[test]
fn a_connection_at_rest_is_closed_in_time() {
    let up = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra("limits: { keep_alive: 3s }")
        .start();
    let mut idle = exeat.wire("mesh").within(Duration::from_secs(20));
    assert_eq!(idle.ask("GET", "/idle", &up.authority(), &[], b"").status, 200);
    let began = std::time::Instant::now();
    assert!(idle.until_end().expect("closed within the time").is_empty());
    assert!(began.elapsed() > Duration::from_millis(2500), "closed after {:?}", began.elapsed());
}

#[test]
fn a_stream_that_falls_silent_is_ended_and_recorded() {
    let (up, shut) = (Upstream::http(), Upstream::https());
    let blind = format!(
        "{{ owner: t@example.com, origins: [\"{}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, intercept: false }}",
        shut.origin()
    );
    let policy = allow_all(&["up"]) + "  - { id: tunnel, effect: allow, to: [shut], tunnel: true, grant: none }\n";
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .listener("egress", Capture::Forward)
        .upstream("up", &up)
        .raw_upstream("shut", &blind)
        .policy("base.yaml", &policy)
        .extra("limits: { stream_idle: 400ms }")
        .start();
    let mut wire = exeat.wire("mesh").within(Duration::from_secs(20));
    wire.send(&request("GET", "/sse/9?h1", &up.authority(), &[], b""));
    let answer = wire.open_answer().expect("a head");
    assert!(wire.part(&answer.fields).expect("an event").is_some());
    assert!(!matches!(wire.part(&answer.fields), Ok(Some(_))), "the stream ends, and never as if it were whole");
    run(async {
        let mut client = h2::Client::start(h2::plain(exeat.port("mesh")).await).await.expect("h2");
        let (response, _send) = client.open(h2::request("GET", "http", &up.authority(), "/sse/9?h2", &[]), true).await.expect("opened");
        let mut body = response.await.expect("a head").into_body();
        h2::next(&mut body).await.expect("an event").expect("data");
        assert!(h2::next(&mut body).await.expect("an end").is_err(), "the stream is reset, not ended");
    });
    let mut tunnel = exeat.wire("egress").within(Duration::from_secs(20)).connect(&shut.authority());
    assert!(tunnel.until_end().expect("closed within the time").is_empty());
    until("three records of silence", || {
        let silent = |record: &&serde_json::Value| record["detail"].as_str().is_some_and(|detail| detail.contains("longer silent"));
        let records = exeat.audit();
        let ended: Vec<_> = records.iter().filter(|record| record["kind"] == "access").filter(silent).collect();
        (ended.len() == 3 && ended.iter().all(|record| record["outcome"] == "aborted")).then_some(())
    });
}

#[test]
fn what_lives_longer_than_ten_seconds_is_recorded_while_it_lives() {
    let up = Upstream::http();
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"])).start();
    let mut wire = exeat.wire("mesh").within(Duration::from_mins(1));
    wire.send(&request("GET", "/wait", &up.authority(), &[], b""));
    let opened = exeat.record("the opened line", |record| record["kind"] == "opened");
    assert_eq!((opened["path"].as_str(), opened["credential"]["name"].as_str()), (Some("/wait"), Some("up-jwt")), "{opened}");
    up.step(1);
    assert_eq!(wire.answer("GET").status, 200);
    let record = exeat.record("its end", |record| record["kind"] == "access");
    assert_eq!(record["id"], opened["id"]);
    assert!(record["durations"]["total"].as_u64() >= Some(10_000_000), "{record}");
}

#[test]
fn a_credential_that_was_refused_when_it_was_old_is_renewed_and_the_request_sent_once_more() {
    let up = Upstream::http();
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"])).start();
    let (mut tries, mut renewed) = (0, String::new());
    until("a 401 that is asked again", || {
        tries += 1;
        renewed = format!("/once401/{tries}");
        (exeat.ask("mesh", "GET", &renewed, &up.authority(), &[]).status == 200).then_some(())
    });
    assert!(tries > 1, "a young credential is not the reason for a 401");
    let tokens: Vec<String> = up.matching(&renewed).iter().filter_map(|seen| seen.bearer().map(str::to_owned)).collect();
    assert_eq!(tokens.len(), 2);
    assert_ne!(tokens[0], tokens[1], "the second try carries another credential");
    let record = exeat.record("two attempts", |record| record["path"] == renewed.as_str());
    assert_eq!(record["attempts"].as_array().map(Vec::len), Some(2), "{record}");
    // Not more than one in 30 s: an upstream that answers 401 to everything must not drive the issuer.
    assert_eq!(exeat.ask("mesh", "GET", "/once401/soon", &up.authority(), &[]).status, 401);
}

#[test]
fn observing_what_nobody_listed_does_not_open_the_inside() {
    let up = Upstream::http();
    let exeat = House::new()
        .listener("egress", Capture::Forward)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra(&format!("unlisted: {{ observe: {{ until: {} }} }}", in_days(7)))
        .start();
    let inside = Upstream::http();
    exeat.wire("egress").try_connect(&inside.authority()).must_refuse(403, "address_refused");
    exeat.ask("egress", "GET", &format!("{}/x", inside.origin()), &inside.authority(), &[]).must_refuse(403, "address_refused");
    assert_eq!((inside.wire_bytes(), inside.connections().len()), (0, 0));
    let record = exeat.record("the try", |record| record["code"] == "address_refused" && record["tunnel"] == true);
    assert_eq!(record["stage"], "observe", "{record}");
}
