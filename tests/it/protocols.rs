//! Story: what the caller and the upstream say to each other arrives as it was said, in every pair of protocols.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use crate::harness::exeat::{Capture, allow_all, policy_head};
use crate::harness::wire::request;
use crate::harness::{Exeat, House, Upstream, Wire, h2, pki, run, until};

struct Street {
    exeat: Exeat,
    plain: Upstream,
    cleartext2: Upstream,
    tls: Upstream,
    tls1: Upstream,
}

fn street() -> Street {
    let (plain, cleartext2, tls, tls1) = (Upstream::http(), Upstream::http(), Upstream::https(), Upstream::https_with(&["http/1.1"]));
    let exeat = House::new()
        .listener("egress", Capture::Forward)
        .listener("mesh", Capture::Host)
        .upstream("plain", &plain)
        .upstream_with("cleartext2", &cleartext2, "protocol: h2")
        .upstream("tls", &tls)
        .upstream_with("tls1", &tls1, "protocol: h1")
        .policy("base.yaml", &allow_all(&["plain", "cleartext2", "tls", "tls1"]))
        .start();
    Street { exeat, plain, cleartext2, tls, tls1 }
}

impl Street {
    fn upstreams(&self) -> [(&'static str, &Upstream, &'static str); 4] {
        [
            ("plain", &self.plain, "HTTP/1.1"),
            ("cleartext2", &self.cleartext2, "HTTP/2"),
            ("tls", &self.tls, "HTTP/2"),
            ("tls1", &self.tls1, "HTTP/1.1"),
        ]
    }

    async fn h2(&self) -> h2::Client {
        h2::Client::start(h2::plain(self.exeat.port("mesh")).await).await.expect("h2 with prior knowledge")
    }
}

#[test]
fn requests_and_bodies_cross_every_pair_of_versions() {
    let street = street();
    let body: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    for (name, upstream, version) in street.upstreams() {
        let answer = street.exeat.wire("mesh").ask("POST", "/from1?q=%2F&b=a+b", &upstream.authority(), &[("x-kept", "as is")], &body);
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let seen = upstream.wait_for("/from1");
        assert_eq!(seen.version, version, "{name}");
        assert_eq!(seen.target, "/from1?q=%2F&b=a+b", "{name}");
        assert_eq!(seen.body, body, "{name}");
        assert_eq!(seen.fields.get("x-kept"), Some("as is"), "{name}");
        assert!(seen.bearer().is_some(), "{name}: {}", seen.text());
        run(async {
            let mut client = street.h2().await;
            let asked = h2::request(
                "POST",
                if name.starts_with("tls") { "https" } else { "http" },
                &upstream.authority(),
                "/from2?q=%2F",
                &[("x-kept", "as is")],
            );
            let answer = client.ask(asked, &body, None).await.expect("answered");
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        });
        let seen = upstream.wait_for("/from2");
        assert_eq!(seen.version, version, "{name}");
        assert_eq!(seen.body, body, "{name}");
        assert_eq!(seen.authority, upstream.authority(), "{name}");
    }
}

#[test]
fn interception_offers_http2_only_where_the_upstream_can_carry_it() {
    let street = street();
    let ca = street.exeat.ca();
    for (upstream, agreed) in [(&street.tls, "h2"), (&street.tls1, "http/1.1")] {
        // Until it has spoken to an upstream that may speak either, exeat offers what both surely carry.
        let mut wire = street.exeat.wire("egress").connect(&upstream.authority()).tls("localhost", &ca, &["h2", "http/1.1"]).expect("TLS");
        assert_eq!(wire.alpn().as_deref(), Some("http/1.1"));
        assert_eq!(wire.ask("GET", "/first", &upstream.authority(), &[], b"").status, 200);
        let wire = street.exeat.wire("egress").connect(&upstream.authority()).tls("localhost", &ca, &["h2", "http/1.1"]).expect("TLS");
        assert_eq!(wire.alpn().as_deref(), Some(agreed));
        let mut wire = street.exeat.wire("egress").connect(&upstream.authority()).tls("localhost", &ca, &["http/1.1"]).expect("TLS");
        assert_eq!(wire.ask("GET", "/intercepted", &upstream.authority(), &[], b"").status, 200);
        assert!(upstream.wait_for("/intercepted").bearer().is_some());
    }
    run(async {
        let io = h2::tunnelled(street.exeat.port("egress"), &street.tls.authority(), "localhost", &ca).await.expect("h2 inside the tunnel");
        let mut client = h2::Client::start(io).await.expect("h2");
        let answer =
            client.ask(h2::request("GET", "https", &street.tls.authority(), "/intercepted2", &[]), b"", None).await.expect("answered");
        assert_eq!(answer.status, 200, "{}", answer.text());
    });
    assert_eq!(street.tls.wait_for("/intercepted2").version, "HTTP/2");
}

#[test]
fn plaintext_inside_a_tunnel_is_a_request_like_any_other() {
    let street = street();
    let mut wire = street.exeat.wire("egress").connect(&street.plain.authority());
    for at in 0..3 {
        assert_eq!(
            wire.ask("GET", &format!("/in-tunnel/{at}"), &street.plain.authority(), &[("authorization", "Bearer static")], b"").status,
            200
        );
        let seen = street.plain.wait_for(&format!("/in-tunnel/{at}"));
        assert!(!seen.text().contains("Bearer static"), "{}", seen.text());
    }
    let absolute = format!("http://{}/absolute", street.plain.authority());
    assert_eq!(street.exeat.ask("egress", "GET", &absolute, &street.plain.authority(), &[]).status, 200);
    assert_eq!(street.plain.wait_for("/absolute").target, "/absolute");
}

#[test]
fn grpc_streams_both_ways_and_ends_with_its_trailers() {
    let street = street();
    for (scheme, upstream) in [("http", &street.cleartext2), ("https", &street.tls)] {
        run(async {
            let mut client = street.h2().await;
            let asked = h2::request(
                "POST",
                scheme,
                &upstream.authority(),
                "/it.Echo/Chat",
                &[("content-type", "application/grpc"), ("te", "trailers"), ("x-api-key", "static-metadata")],
            );
            let (response, mut send) = client.open(asked, false).await.expect("opened");
            h2::write(&mut send, Bytes::from_static(b"\0\0\0\0\x03one"), false).await.expect("sent");
            let (head, mut body) = response.await.expect("the head comes before the request ends").into_parts();
            assert_eq!(head.headers["content-type"], "application/grpc");
            assert_eq!(h2::next(&mut body).await.expect("a message").expect("data"), &b"\0\0\0\0\x03one"[..]);
            h2::write(&mut send, Bytes::from_static(b"\0\0\0\0\x03two"), false).await.expect("sent");
            assert_eq!(h2::next(&mut body).await.expect("a message").expect("data"), &b"\0\0\0\0\x03two"[..]);
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", "abc".parse().expect("value"));
            trailers.insert("x-api-key", "static-trailer".parse().expect("value"));
            send.send_trailers(trailers).expect("sent");
            while let Some(part) = h2::next(&mut body).await {
                part.expect("data");
            }
            let trailers = body.trailers().await.expect("trailers").expect("there are some");
            assert_eq!(trailers["grpc-status"], "0");
            assert_eq!(trailers["grpc-message"], "fine");
        });
        let seen = upstream.wait_for("/it.Echo/Chat");
        assert_eq!(seen.fields.get("te"), Some("trailers"));
        assert!(!seen.text().contains("static-"), "{}", seen.text());
        assert_eq!(seen.trailers.get("x-checksum"), Some("abc"), "request trailers that are no credential pass between h2 legs");
    }
}

#[test]
fn a_refusal_speaks_grpc_to_grpc() {
    let upstream = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream_with("up", &upstream, "protocol: h2")
        .policy(
            "base.yaml",
            &(policy_head("base") + "  - { id: one, effect: allow, to: [up], methods: [GET], paths: [/only], grant: up-jwt }\n"),
        )
        .start();
    run(async {
        let mut client = h2::Client::start(h2::plain(exeat.port("mesh")).await).await.expect("h2");
        let asked =
            h2::request("POST", "http", &upstream.authority(), "/it.Echo/Say", &[("content-type", "application/grpc"), ("te", "trailers")]);
        let answer = client.ask(asked, b"\0\0\0\0\x01a", None).await.expect("answered");
        assert_eq!((answer.status, answer.fields.get("grpc-status"), answer.refusal()), (200, Some("7"), Some("no_rule")), "{answer:?}");
        assert_eq!(answer.fields.get("content-type"), Some("application/grpc"));
        assert!(answer.fields.get("grpc-message").is_some_and(|message| !message.is_empty()), "{answer:?}");
        assert!(answer.body.is_empty());
    });
    assert_eq!(upstream.wire_bytes(), 0);
}

/// A text frame from a client.
fn frame(text: &str) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).expect("short")];
    frame.extend_from_slice(&mask);
    frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn upgrade(wire: &mut Wire, target: &str, host: &str, more: &[(&str, &str)]) -> crate::harness::Answer {
    let mut fields = vec![
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    fields.extend_from_slice(more);
    wire.ask("GET", target, host, &fields, b"")
}

#[test]
fn websockets_pass_and_their_head_is_stripped_like_any_head() {
    let street = street();
    for (name, upstream, _) in street.upstreams() {
        if name == "cleartext2" {
            continue;
        }
        let mut wire = street.exeat.wire("mesh");
        let answer = upgrade(
            &mut wire,
            "/ws",
            &upstream.authority(),
            &[("authorization", "Bearer static"), ("sec-websocket-protocol", "chat, bearer.static-token")],
        );
        assert_eq!(answer.status, 101, "{name}: {:?} {}", answer.fields, answer.text());
        assert_eq!(answer.fields.get("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        for text in ["hello", "again"] {
            wire.send(&frame(text));
            let echoed = wire.take(2 + text.len()).expect("echoed");
            assert_eq!(&echoed[2..], text.as_bytes(), "{name}");
        }
        let seen = upstream.wait_for("/ws");
        assert!(!seen.text().contains("static"), "{name}: {}", seen.text());
        assert!(seen.bearer().is_some(), "{name}");
    }
    let record = street.exeat.record("an opened WebSocket", |record| record["kind"] == "opened" && record["path"] == "/ws");
    assert_eq!(record["upstream"], "plain");
}

#[test]
fn bytes_behind_an_upgrade_never_pass_unjudged() {
    let upstream = Upstream::http();
    let policy = policy_head("base")
        + "  - { id: all, effect: allow, to: [up], methods: [\"*\"], paths: [\"/**\"], grant: up-jwt }\n  - { id: never, effect: deny, to: [up], methods: [\"*\"], paths: [\"/secret/**\"] }\n";
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &upstream).policy("base.yaml", &policy).start();
    let head = format!(
        "GET /plain-answer HTTP/1.1\r\nHost: {0}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET /secret/keys HTTP/1.1\r\nHost: {0}\r\n\r\n",
        upstream.authority()
    );
    let mut wire = exeat.wire("mesh").within(Duration::from_secs(5));
    wire.send(head.as_bytes());
    let first = wire.answer("GET");
    assert_eq!(first.status, 200, "an upstream may decline to switch: {}", first.text());
    if let Ok(second) = wire.try_answer("GET") {
        second.must_refuse(403, "denied");
    }
    assert!(upstream.matching("/secret").is_empty());
    let bytes: Vec<u8> = upstream.connections().iter().flat_map(|connection| connection.plain.clone()).collect();
    assert!(!String::from_utf8_lossy(&bytes).contains("/secret"));
}

#[test]
fn events_arrive_one_by_one() {
    let street = street();
    for (name, upstream, _) in street.upstreams() {
        let mut wire = street.exeat.wire("mesh");
        wire.send(&request("GET", "/sse/3", &upstream.authority(), &[("accept", "text/event-stream")], b""));
        let answer = wire.open_answer().expect("a head");
        assert_eq!((answer.status, answer.fields.get("content-type")), (200, Some("text/event-stream")), "{name}");
        for at in 0..3 {
            let part = wire.part(&answer.fields).expect("an event").expect("not the end");
            assert_eq!(String::from_utf8_lossy(&part), format!("data: {at}\n\n"), "{name}: the event came before the next was let go");
            upstream.step(1);
        }
        assert_eq!(wire.part(&answer.fields).expect("the end"), None, "{name}");
        run(async {
            let mut client = street.h2().await;
            let scheme = if name.starts_with("tls") { "https" } else { "http" };
            let (response, _send) =
                client.open(h2::request("GET", scheme, &upstream.authority(), "/sse/2", &[]), true).await.expect("opened");
            let mut body = response.await.expect("a head").into_body();
            for at in 0..2 {
                assert_eq!(h2::next(&mut body).await.expect("an event").expect("data"), format!("data: {at}\n\n").as_bytes(), "{name}");
                upstream.step(1);
            }
            assert!(h2::next(&mut body).await.is_none_or(|part| part.expect("the end").is_empty()));
        });
    }
}

#[test]
fn a_client_that_waits_for_100_gets_it_and_a_refused_one_does_not() {
    let street = street();
    let host = street.plain.authority();
    let mut wire = street.exeat.wire("mesh");
    wire.send(format!("PUT /expect HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").as_bytes());
    let (status, _) = wire.try_head().expect("an interim answer before the body");
    assert_eq!(status, 100);
    wire.send(b"hello");
    assert_eq!(wire.answer("PUT").status, 200);
    assert_eq!(street.plain.wait_for("/expect").body, b"hello");
    let mut wire = street.exeat.wire("mesh");
    wire.send(b"PUT /expect HTTP/1.1\r\nHost: nowhere.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = wire.answer("PUT");
    assert!(answer.interim.is_empty(), "{:?}", answer.interim);
    answer.must_refuse(403, "unlisted");
}

#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    let street = street();
    for (name, upstream, version) in street.upstreams() {
        let mut wire = street.exeat.wire("mesh");
        wire.send(
            format!("POST /early/413 HTTP/1.1\r\nHost: {}\r\nContent-Length: 100000000\r\n\r\nbegin", upstream.authority()).as_bytes(),
        );
        let answer = wire.answer("POST");
        assert_eq!((answer.status, answer.text().as_str()), (413, "early"), "{name}");
        // An HTTP/1.1 upstream says that it takes no more, and the caller hears it.
        assert_eq!(answer.fields.get("connection"), (version == "HTTP/1.1").then_some("close"), "{name}");
        // What is left of the body must not become a request.
        wire.send(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n");
        drop(wire);
        run(async {
            let mut client = street.h2().await;
            let scheme = if name.starts_with("tls") { "https" } else { "http" };
            let (response, mut send) =
                client.open(h2::request("POST", scheme, &upstream.authority(), "/early/413", &[]), false).await.expect("opened");
            h2::write(&mut send, Bytes::from_static(b"begin"), false).await.expect("sent");
            assert_eq!(response.await.expect("answered while sending").status(), 413, "{name}");
        });
        assert!(upstream.matching("/smuggled").is_empty());
    }
}

#[test]
fn an_upload_goes_on_behind_its_answer() {
    let street = street();
    let rest = vec![b'r'; 400_000];
    for (name, upstream, version) in street.upstreams() {
        let host = upstream.authority();
        let mut wire = street.exeat.wire("mesh");
        wire.send(format!("POST /first/{name} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\nbegin", rest.len() + 5).as_bytes());
        let answer = wire.answer("POST");
        assert_eq!((answer.status, answer.text().as_str()), (200, "first"), "{name}");
        wire.send(&rest);
        let path = format!("/first/{name}");
        let whole = |path: &str| until("the whole body", || upstream.matching(path).into_iter().find(|seen| seen.complete));
        let seen = whole(&path);
        assert_eq!((seen.version, seen.body_len), (version, rest.len() as u64 + 5), "{name}");
        // Neither connection is lost: the caller's goes on, and so does the upstream's.
        assert_eq!(wire.ask("GET", &format!("/after/{name}"), &host, &[], b"").status, 200, "{name}");
        assert_eq!(upstream.wait_for(&format!("/after/{name}")).connection, seen.connection, "{name}");
        let record = street.exeat.record("the upload", |record| record["kind"] == "access" && record["path"] == path.as_str());
        assert_eq!((&record["outcome"], record["request_bytes"].as_u64()), (&"allowed".into(), Some(rest.len() as u64 + 5)), "{record}");
        run(async {
            let mut client = street.h2().await;
            let scheme = if name.starts_with("tls") { "https" } else { "http" };
            let path = format!("/first/h2/{name}");
            let (response, mut send) = client.open(h2::request("POST", scheme, &host, &path, &[]), false).await.expect("opened");
            h2::write(&mut send, Bytes::from_static(b"begin"), false).await.expect("sent");
            assert_eq!(h2::whole(response).await.expect("answered while sending").text(), "first", "{name}");
            h2::write(&mut send, rest.clone().into(), true).await.expect("sent");
            let after = client.ask(h2::request("GET", scheme, &host, "/after/h2", &[]), b"", None).await.expect("answered");
            assert_eq!(after.status, 200, "{name}");
        });
        assert_eq!(whole(&format!("/first/h2/{name}")).body_len, rest.len() as u64 + 5, "{name}");
        // A caller that wants no more from its connection has what it sends taken all the same.
        let mut last = street.exeat.wire("mesh");
        let head = format!(
            "POST /first/last/{name} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\r\nbegin",
            rest.len() + 5
        );
        last.send(head.as_bytes());
        assert_eq!(last.answer("POST").text(), "first", "{name}");
        last.send(&rest);
        assert_eq!(whole(&format!("/first/last/{name}")).body_len, rest.len() as u64 + 5, "{name}");
        last.until_end().expect("the connection ends");
    }
}

#[test]
fn an_upload_that_stops_behind_its_answer_is_let_go() {
    let up = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .admin()
        .extra("limits: { body_grace: 1s }")
        .start();
    let begin = |target: &str| {
        let mut wire = exeat.wire("mesh");
        wire.send(format!("POST {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: 500000\r\n\r\nbegin", up.authority()).as_bytes());
        assert_eq!(wire.answer("POST").text(), "first", "{target}");
        wire
    };
    let ended = |target: &str| exeat.record("its record", |record| record["kind"] == "access" && record["path"] == target);
    // Its caller says nothing more: the answer was given, the connection ends.
    let mut silent = begin("/first/silent");
    silent.until_end().expect("the connection ends");
    assert_eq!(ended("/first/silent")["outcome"], "allowed");
    // Its caller goes.
    drop(begin("/first/gone"));
    assert_eq!(ended("/first/gone")["outcome"], "allowed");
    // It is revoked: not a byte more goes out, and the record says why.
    let (mut revoked, rest) = (begin("/first/revoked"), vec![b'x'; 100_000]);
    exeat.revoke("upstream up");
    let before = up.wire_bytes();
    drop(revoked.try_send(&rest));
    let record = ended("/first/revoked");
    assert_eq!(record["outcome"], "aborted", "{record}");
    assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("revoked")), "{record}");
    assert_eq!(up.wire_bytes(), before);
    assert!(up.seen().iter().all(|seen| !seen.complete), "half a body never looks whole");
    until("no passage", || (exeat.metric(&["exeat_passages "]) == 0.0).then_some(()));
}

/// An HTTP/2 upstream that answers every request at once, with `first`, and lets nobody send it a byte of a body. What came of each body.
fn stingy(told: &Arc<Mutex<Vec<(String, String)>>>) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("an address").port();
    listener.set_nonblocking(true).expect("set");
    let told = Arc::clone(told);
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("taken over");
            while let Ok((stream, _)) = listener.accept().await {
                let told = Arc::clone(&told);
                tokio::spawn(async move {
                    let mut builder = ::h2::server::Builder::new();
                    let mut server = builder.initial_window_size(0).handshake::<_, Bytes>(stream).await.expect("HTTP/2");
                    while let Some(Ok((request, mut respond))) = server.accept().await {
                        let told = Arc::clone(&told);
                        tokio::spawn(async move {
                            let mut send = respond.send_response(http::Response::new(()), false).expect("sent");
                            send.send_data(Bytes::from_static(b"first"), true).expect("sent");
                            let (path, mut body) = (request.uri().path().to_owned(), request.into_body());
                            let came = match body.data().await {
                                None => "nothing".to_owned(),
                                Some(Ok(data)) => format!("{} bytes", data.len()),
                                Some(Err(error)) => format!("{:?}", error.reason()),
                            };
                            told.lock().expect("told").push((path, came));
                        });
                    }
                });
            }
        });
    });
    port
}

#[test]
fn an_upstream_that_takes_nothing_holds_nothing_behind_its_answer() {
    let told = Arc::default();
    let port = stingy(&told);
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .origin("stingy", &[&format!("http://127.0.0.1:{port}")], "protocol: h2")
        .policy("base.yaml", &allow_all(&["stingy"]))
        .admin()
        // One worker, so that every request goes over the connection whose settings are known.
        .extra("threads: 1\nlimits: { body_grace: 1s }")
        .start();
    let host = format!("127.0.0.1:{port}");
    let came = |path: &str| {
        until(&format!("what came of {path}"), || {
            let told = told.lock().expect("told");
            told.iter().find(|(told, _)| told == path).map(|(_, came)| came.clone())
        })
    };
    let outcome = |path: &str| exeat.record("its record", |record| record["kind"] == "access" && record["path"] == path)["outcome"].clone();
    // A whole body that nobody takes: the connection serves on, one such passage rests behind it, and is given up.
    let mut wire = exeat.wire("mesh");
    // By then exeat knows how little the upstream takes.
    assert_eq!(wire.ask("GET", "/before", &host, &[], b"").status, 200);
    for at in 0..20 {
        assert_eq!(wire.ask("POST", &format!("/whole/{at}"), &host, &[], b"x").text(), "first", "{at}");
    }
    assert!(exeat.metric(&["exeat_passages "]) <= 1.0, "{}", exeat.metrics());
    for at in 0..20 {
        assert_eq!(came(&format!("/whole/{at}")), "Some(CANCEL)", "{at}");
        assert_eq!(outcome(&format!("/whole/{at}")), "allowed", "{at}");
    }
    assert_eq!(wire.ask("GET", "/after", &host, &[], b"").status, 200);
    // One of which more is to come: its caller's connection does not outlast it.
    let mut wire = exeat.wire("mesh");
    wire.send(format!("POST /part HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5000000\r\n\r\n{}", "x".repeat(300_000)).as_bytes());
    assert_eq!(wire.answer("POST").text(), "first");
    wire.until_end().expect("the connection ends");
    assert_eq!((came("/part").as_str(), outcome("/part")), ("Some(CANCEL)", "allowed".into()));
    // Revoked, it is reset at once.
    let mut wire = exeat.wire("mesh");
    assert_eq!(wire.ask("POST", "/revoked", &host, &[], b"x").text(), "first");
    exeat.revoke("upstream stingy");
    assert_eq!((came("/revoked").as_str(), outcome("/revoked")), ("Some(CANCEL)", "aborted".into()));
    until("no passage", || (exeat.metric(&["exeat_passages "]) == 0.0).then_some(()));
    assert_eq!(exeat.ask("mesh", "GET", "/x", &host, &[]).refusal(), Some("revoked"));
}

#[test]
fn a_connection_is_idle_once_the_upload_behind_its_answer_has_ended() {
    let up = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra("limits: { keep_alive: 700ms }")
        .start();
    let mut wire = exeat.wire("mesh");
    wire.send(format!("POST /first HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n", up.authority()).as_bytes());
    assert_eq!(wire.answer("POST").text(), "first");
    wire.send(b"0\r\n\r\n");
    wire.until_end().expect("it is closed like any idle connection");
    assert_eq!(exeat.record("the upload", |record| record["kind"] == "access")["outcome"], "allowed");
    assert!(up.wait_for("/first").complete || until("its end", || up.matching("/first").pop().filter(|seen| seen.complete)).complete);
}

#[test]
fn answers_without_a_body_have_none() {
    let street = street();
    for (name, upstream, _) in street.upstreams() {
        let mut wire = street.exeat.wire("mesh");
        for (method, target, status) in
            [("HEAD", "/length/1234", 200), ("GET", "/status/204", 204), ("GET", "/status/304", 304), ("HEAD", "/status/404", 404)]
        {
            let answer = wire.ask(method, target, &upstream.authority(), &[], b"");
            assert_eq!((answer.status, answer.body.len()), (status, 0), "{name} {method} {target}");
            if target == "/length/1234" {
                assert_eq!(answer.fields.get("content-length"), Some("1234"), "{name}: HEAD says what GET would");
            }
            if status == 204 {
                assert!(!answer.fields.has("content-length") && !answer.fields.has("transfer-encoding"), "{name}: {:?}", answer.fields);
            }
        }
        // The connection is still in step.
        assert_eq!(wire.ask("GET", "/after", &upstream.authority(), &[], b"").json()["target"], "/after", "{name}");
    }
}

#[test]
fn chunks_and_trailers_keep_their_meaning() {
    let street = street();
    for (name, upstream, version) in street.upstreams() {
        let mut wire = street.exeat.wire("mesh");
        wire.send(
            format!("POST /chunked HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nTrailer: x-api-key, x-sum\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Api-Key: static-trailer\r\nX-Sum: 1\r\n\r\n", upstream.authority()).as_bytes(),
        );
        let answer = wire.answer("POST");
        // Chunk extensions have no meaning for anybody: they may be dropped or refused, never passed on.
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let seen = upstream.wait_for("/chunked");
        assert_eq!(seen.body, b"hello world", "{name}");
        assert!(seen.trailers.0.is_empty(), "{name}: HTTP/1 request trailers are dropped: {:?}", seen.trailers);
        let answer = wire.ask("GET", "/stream/200000", &upstream.authority(), &[], b"");
        assert_eq!((answer.body.len(), answer.complete), (200_000, true), "{name}");
        let answer = wire.ask("GET", "/trailers", &upstream.authority(), &[("te", "trailers"), ("connection", "te")], b"");
        assert_eq!(answer.text(), "with trailers", "{name} ({version})");
        run(async {
            let answer = street
                .h2()
                .await
                .ask(
                    h2::request(
                        "GET",
                        if name.starts_with("tls") { "https" } else { "http" },
                        &upstream.authority(),
                        "/trailers",
                        &[("te", "trailers")],
                    ),
                    b"",
                    None,
                )
                .await
                .expect("answered");
            assert_eq!((answer.text().as_str(), answer.trailers.get("x-sum")), ("with trailers", Some("42")), "{name}");
        });
    }
    let record = street.exeat.record("dropped trailers", |record| record["path"] == "/chunked");
    assert_eq!(record["dropped_trailers"], 2, "{record}");
}

/// Highest resident size of a process, in KiB.
fn peak(exeat: &Exeat) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", exeat.pid())).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn big_bodies_flow_through_without_being_held() {
    let street = street();
    let big: u64 = 64 << 20;
    street.exeat.ask("mesh", "GET", "/warm", &street.plain.authority(), &[]);
    let before = peak(&street.exeat);
    let mut wire = street.exeat.wire("mesh");
    wire.send(format!("POST /big-up HTTP/1.1\r\nHost: {}\r\nContent-Length: {big}\r\n\r\n", street.plain.authority()).as_bytes());
    let block = vec![b'u'; 1 << 20];
    for _ in 0..64 {
        wire.try_send(&block).expect("taken");
    }
    assert_eq!(wire.answer("POST").json()["body_len"], big);
    wire.send(&request("GET", &format!("/length/{big}"), &street.plain.authority(), &[], b""));
    let answer = wire.open_answer().expect("a head");
    let mut got = 0;
    while got < big {
        got += wire.part(&answer.fields).expect("data").expect("not the end").len() as u64;
    }
    let grown = peak(&street.exeat) - before;
    assert!(grown < 16 << 10, "64 MiB up and down made exeat grow by {grown} KiB");
}

#[test]
fn what_an_upstream_cut_short_never_looks_whole() {
    let street = street();
    for (name, upstream, _) in street.upstreams() {
        let mut wire = street.exeat.wire("mesh");
        wire.send(&request("GET", "/half", &upstream.authority(), &[], b""));
        let whole = wire.try_answer("GET").is_ok_and(|answer| answer.complete && answer.status == 200);
        assert!(!whole, "{name}: half an answer looked whole");
        run(async {
            let asked = h2::request("GET", if name.starts_with("tls") { "https" } else { "http" }, &upstream.authority(), "/half", &[]);
            let answer = street.h2().await.ask(asked, b"", None).await;
            assert!(!answer.is_ok_and(|answer| answer.status == 200), "{name}: half an answer looked whole on h2");
        });
    }
    let record = street.exeat.record("the cut answer", |record| record["path"] == "/half");
    assert_eq!(record["outcome"], "aborted", "{record}");
}

#[test]
fn a_request_that_reached_an_upstream_is_not_sent_twice() {
    let street = street();
    for (name, upstream, _) in street.upstreams() {
        // A pooled connection first, so that a retry would be tempting.
        assert_eq!(street.exeat.ask("mesh", "GET", "/warm", &upstream.authority(), &[]).status, 200);
        let answer = street.exeat.wire("mesh").ask("POST", "/reset/once", &upstream.authority(), &[], b"charge");
        answer.must_refuse(502, "upstream_unreachable");
        assert_eq!(upstream.matching("/reset/once").len(), 1, "{name}");
    }
}

#[test]
fn garbage_from_an_upstream_becomes_a_refusal_or_a_plain_answer() {
    let street = street();
    let up = &street.plain;
    let cases: &[(&str, &[u8], bool)] = &[
        // name, bytes, whether a plain answer is possible at all
        ("nothing", b"", false),
        ("noise", b"\x16\x03\x01\x00\x00 noise\r\n\r\n", false),
        ("status-letters", b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n", false),
        ("two-lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", false),
        ("negative-length", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", false),
        ("nul-in-value", b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n", false),
        ("length-and-chunked", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET", true),
        ("bad-chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", false),
        ("unasked-101", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", false),
        ("extra-bytes", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", true),
        ("http-1.0", b"HTTP/1.0 200 OK\r\n\r\nuntil the end", true),
        ("folded", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", true),
    ];
    for (name, bytes, plain) in cases {
        up.file(&format!("raw:{name}"), *bytes);
        let mut wire = street.exeat.wire("mesh");
        let first = {
            wire.send(&request("GET", &format!("/raw/{name}"), &up.authority(), &[], b""));
            wire.try_answer("GET")
        };
        let Ok(first) = first else { continue };
        if first.status == 200 && first.complete {
            assert!(*plain, "{name}: {first:?}");
            assert!(!first.text().contains("evil"), "{name}");
        } else if first.complete {
            first.must_refuse(502, "upstream_unreachable");
        }
        // Whatever came, the next request on this connection gets its own answer or a closed door.
        wire.send(&request("GET", "/mine", &up.authority(), &[], b""));
        if let Ok(second) = wire.try_answer("GET") {
            assert_eq!(second.json()["target"], "/mine", "{name}: another answer came instead");
        }
    }
}

#[test]
fn pipelined_requests_are_each_judged_and_answered_in_order() {
    let upstream = Upstream::http();
    let policy = policy_head("base") + "  - { id: open, effect: allow, to: [up], methods: [GET], paths: [\"/open/**\"], grant: up-jwt }\n";
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &upstream).policy("base.yaml", &policy).start();
    let mut wire = exeat.wire("mesh");
    let mut all = Vec::new();
    for target in ["/open/1", "/shut/2", "/open/3"] {
        all.extend(request("GET", target, &upstream.authority(), &[], b""));
    }
    wire.send(&all);
    assert_eq!(wire.answer("GET").json()["target"], "/open/1");
    wire.answer("GET").must_refuse(403, "no_rule");
    assert_eq!(wire.answer("GET").json()["target"], "/open/3");
    assert!(upstream.matching("/shut").is_empty());
}

#[test]
fn a_hint_before_the_answer_does_not_disturb_it() {
    let street = street();
    for (name, upstream, _) in street.upstreams() {
        let answer = street.exeat.ask("mesh", "GET", "/info", &upstream.authority(), &[]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "after a hint"), "{name}: {answer:?}");
    }
}

#[test]
fn connections_to_an_upstream_are_used_again() {
    let street = street();
    for (name, upstream, _) in street.upstreams() {
        let mut wire = street.exeat.wire("mesh");
        for at in 0..20 {
            assert_eq!(wire.ask("GET", &format!("/again/{at}"), &upstream.authority(), &[], b"").status, 200);
        }
        let used = until("connections", || {
            Some(upstream.connections().iter().filter(|connection| !connection.plain.is_empty()).count()).filter(|count| *count > 0)
        });
        assert!(used <= 2, "{name}: 20 requests took {used} connections");
    }
}

#[test]
fn a_tunnel_that_is_not_intercepted_is_judged_by_its_host_and_recorded() {
    let (open, shut) = (Upstream::https(), Upstream::https());
    let closed_to_us = |upstream: &Upstream| {
        let origin = upstream.origin();
        format!("{{ owner: t@example.com, origins: [\"{origin}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, intercept: false }}")
    };
    let policy = policy_head("base") + "  - { id: tunnel, effect: allow, to: [open], tunnel: true, grant: none }\n";
    let exeat = House::new()
        .listener("egress", Capture::Forward)
        .raw_upstream("open", &closed_to_us(&open))
        .raw_upstream("shut", &closed_to_us(&shut))
        .policy("base.yaml", &policy)
        .start();
    // End to end: the upstream's own certificate, and the bytes that the application sent.
    let mut wire = exeat
        .wire("egress")
        .connect(&open.authority())
        .tls("localhost", &pki::authority().pem, &["http/1.1"])
        .expect("the upstream's own TLS");
    assert_eq!(wire.ask("GET", "/own", &open.authority(), &[("authorization", "Bearer app-own")], b"").status, 200);
    assert_eq!(open.wait_for("/own").bearer(), Some("app-own"));
    exeat.record("the open tunnel", |record| record["kind"] == "opened" && record["upstream"] == "open" && record["tunnel"] == true);
    drop(wire);
    let record = exeat.record("the ended tunnel", |record| record["kind"] == "access" && record["upstream"] == "open");
    assert_eq!((record["method"].as_str(), record["outcome"].as_str()), (Some("CONNECT"), Some("allowed")), "{record}");
    assert!(record["request_bytes"].as_u64() > Some(100) && record["response_bytes"].as_u64() > Some(100), "{record}");
    exeat.wire("egress").try_connect(&shut.authority()).must_refuse(403, "no_rule");
    assert_eq!(shut.wire_bytes(), 0);
}

#[test]
fn crumbs_of_a_cookie_become_one_towards_http_1() {
    let up = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream_with("up", &up, "strip: { keep: [\"cookie:theme\", \"cookie:lang\"] }")
        .policy("base.yaml", &allow_all(&["up"]))
        .start();
    run(async {
        let mut client = h2::Client::start(h2::plain(exeat.port("mesh")).await).await.expect("h2");
        let crumbs = [("cookie", "theme=dark"), ("cookie", "session=static"), ("cookie", "lang=de")];
        let answer = client.ask(h2::request("GET", "http", &up.authority(), "/crumbs", &crumbs), b"", None).await.expect("answered");
        assert_eq!(answer.status, 200, "{}", answer.text());
    });
    let seen = up.wait_for("/crumbs");
    assert_eq!(seen.fields.all("cookie").collect::<Vec<_>>(), [b"theme=dark; lang=de"], "{}", seen.text());
}
