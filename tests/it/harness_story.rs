//! Story: the harness itself does what the other stories rely on.

use crate::harness::wire::request;
use crate::harness::{Upstream, Wire, h1, h2, pki, run, skipped};

#[test]
fn an_upstream_remembers_what_reached_it() {
    let upstream = Upstream::http();
    let mut wire = Wire::tcp(upstream.port);
    let answer = wire.ask("POST", "/a?b=c", "localhost", &[("X-One", "1")], b"body");
    assert_eq!((answer.status, &answer.json()["body_len"]), (200, &serde_json::json!(4)));
    wire.send(b"POST /chunked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n");
    assert_eq!(wire.answer("POST").status, 200);
    let seen = upstream.wait_for("/chunked");
    assert_eq!((seen.body.as_slice(), seen.trailers.get("x-t")), (&b"abc"[..], Some("1")));
    let connection = &upstream.connections()[0];
    assert_eq!(connection.wire, connection.plain.len() as u64);
    assert_eq!(h1::requests(&connection.plain).expect("strict").0.len(), 2);
    let mut wire = Wire::tcp(upstream.port);
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(wire.answer("GET").status, 400);
}

#[test]
fn answers_come_in_both_protocols_and_step_by_step() {
    let upstream = Upstream::http();
    let mut wire = Wire::tcp(upstream.port);
    wire.send(&request("GET", "/sse/2", "localhost", &[], b""));
    let head = wire.open_answer().expect("a head");
    for at in 0..2 {
        assert_eq!(wire.part(&head.fields).expect("read"), Some(format!("data: {at}\n\n").into_bytes()));
        upstream.step(1);
    }
    assert_eq!(wire.part(&head.fields).expect("read"), None);
    run(async {
        let mut client = h2::Client::start(h2::plain(upstream.port).await).await.expect("h2");
        let answer = client.ask(h2::request("POST", "http", "localhost", "/it.Echo/Say", &[]), b"hello", None).await.expect("answered");
        assert_eq!((answer.text().as_str(), answer.trailers.get("grpc-status")), ("hello", Some("0")));
    });
}

#[test]
fn tls_upstreams_are_trusted_by_their_authority_alone() {
    let upstream = Upstream::https();
    let mut wire = Wire::tcp(upstream.port).tls("localhost", &pki::authority().pem, &["http/1.1"]).expect("trusted");
    assert_eq!(wire.ask("GET", "/", "localhost", &[], b"").status, 200);
    assert_eq!(upstream.connections()[0].sni.as_deref(), Some("localhost"));
    assert!(Wire::tcp(upstream.port).tls("localhost", &pki::stranger().pem, &["http/1.1"]).is_err());
    run(async {
        let outcome = h2::raw(
            h2::plain(Upstream::http().port).await,
            &h2::frame(1, 5, 1, b"\xff\xff\xff"),
            std::time::Duration::from_secs(5),
            |outcome| outcome.goaway.is_some(),
        )
        .await;
        assert!(outcome.goaway.is_some() || outcome.closed);
    });
}

#[test]
fn a_story_that_is_not_told_is_seen_in_the_log() {
    if std::env::var_os("EXEAT_IT_SKIPS").is_some() {
        return skipped("a peer not present");
    }
    // This very test again, as a run of all tests runs it: what a test that passes prints is kept back.
    let mut again = std::process::Command::new(std::env::current_exe().expect("this program"));
    let name = "harness_story::a_story_that_is_not_told_is_seen_in_the_log";
    let output = again.args(["--exact", name]).env("EXEAT_IT_SKIPS", "1").output().expect("it runs");
    let (log, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && log.contains("1 passed"), "{log}");
    assert_eq!(errors, "skipped: a peer not present\n", "{log}");
}
