//! Callers that are slow, silent, many or gone: they cost what they hold and nothing when they have left.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::baseline::{Baseline, good_requests_go_on};
use super::house;
use crate::harness::exeat::{Capture, allow_all};
use crate::harness::wire::request;
use crate::harness::{House, Upstream, h2, run, until};

fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).expect("connects")
}

#[test]
fn a_thousand_aborts_leave_nothing_behind() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let host = up.authority();
    assert_eq!(exeat.ask("mesh", "GET", "/warm", &host, &[]).status, 200);
    let before = Baseline::of(&exeat);
    good_requests_go_on(&exeat, &host, "a thousand aborts", || {
        let mut held: Vec<TcpStream> = (0..1000).map(|_| connect(exeat.port("mesh"))).collect();
        for (at, stream) in held.iter_mut().enumerate() {
            let bytes = match at % 4 {
                0 => b"GET /ha".to_vec(),
                1 => request("GET", "/hang", &host, &[], b""),
                2 => request("GET", "/stream/50000000", &host, &[], b""),
                _ => format!("POST /hang HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\nbegun").into_bytes(),
            };
            stream.write_all(&bytes).expect("sent");
        }
        until("half a thousand passages", || (exeat.metric(&["exeat_passages "]) >= 400.0).then_some(()));
        // Half with a reset, since what came is unread, half with an end.
        drop(held);
    });
    before.again(&exeat, 140, 64 << 10);
    let records = until("their records", || {
        let broken = exeat.audit().iter().filter(|record| record["kind"] == "access" && record["outcome"] != "allowed").count();
        (broken >= 400).then_some(broken)
    });
    println!("{records} passages that broke off, each with its record");
}

#[test]
fn slow_heads_and_bodies_hold_a_place_and_no_more() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let host = up.authority();
    let before = Baseline::of(&exeat);
    good_requests_go_on(&exeat, &host, "300 slow callers", || {
        let mut heads: Vec<TcpStream> = (0..150).map(|_| connect(exeat.port("mesh"))).collect();
        let mut bodies: Vec<TcpStream> = (0..150).map(|_| connect(exeat.port("mesh"))).collect();
        for stream in &mut bodies {
            stream.write_all(format!("POST /drip HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\n").as_bytes()).expect("sent");
        }
        for stream in &mut heads {
            stream.write_all(b"GET /drip HTTP/1.1\r\nX: ").expect("sent");
        }
        // A byte now and then, in time for any deadline between bytes, until each connection has been ended.
        let began = Instant::now();
        while heads.len() + bodies.len() > 0 {
            assert!(began.elapsed() < Duration::from_secs(15), "{} heads and {} bodies still drip", heads.len(), bodies.len());
            let alive = |stream: &mut TcpStream| {
                stream.set_nonblocking(true).expect("set");
                let ended = matches!(stream.read(&mut [0; 512]), Ok(0)) || stream.write_all(b"x").is_err();
                !ended
            };
            heads.retain_mut(alive);
            bodies.retain_mut(alive);
            std::thread::park_timeout(Duration::from_millis(50));
        }
    });
    before.again(&exeat, 140, 32 << 10);
    let edge = exeat.record("a head that dripped", |record| record["kind"] == "edge");
    assert!(edge["reason"].as_str().or(edge["detail"].as_str()).is_some_and(|why| why.contains("not complete in time")), "{edge}");
    assert!(up.matching("/drip").iter().all(|seen| !seen.complete), "half a body never looks whole");
}

#[test]
fn who_reads_nothing_holds_what_one_connection_may_hold() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let host = up.authority();
    assert_eq!(exeat.ask("mesh", "GET", "/warm", &host, &[]).status, 200);
    let before = Baseline::of(&exeat);
    let peak = good_requests_go_on(&exeat, &host, "callers that do not read", || {
        // HTTP/1.1: nothing of fifty big answers is read.
        let mut held: Vec<TcpStream> = (0..50).map(|_| connect(exeat.port("mesh"))).collect();
        for stream in &mut held {
            stream.write_all(&request("GET", "/stream/50000000", &host, &[], b"")).expect("sent");
        }
        // HTTP/2: a hundred streams of one connection, no window for any.
        run(async {
            let mut client = h2::Client::start(h2::plain(exeat.port("mesh")).await).await.expect("h2");
            let mut open = Vec::new();
            for _ in 0..100 {
                let ask = h2::request("GET", "http", &host, "/stream/50000000", &[]);
                let (response, _) = client.open(ask, true).await.expect("opened");
                open.push(response.await.expect("a head"));
            }
            exeat.memory("VmRSS")
        })
    });
    // 50 connections and 100 streams: a few buffers each, and no 7.5 GB.
    assert!(peak < before.memory + (96 << 10), "it held {peak} KiB");
    before.again(&exeat, 160, 96 << 10);
}

#[test]
fn a_side_that_is_closed_in_halves_hears_the_rest() {
    let (up, shut) = (Upstream::http(), Upstream::http());
    let blind = format!(
        "{{ owner: t@example.com, origins: [\"{}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, intercept: false }}",
        shut.origin().replace("http:", "https:")
    );
    let policy = allow_all(&["up"]) + "  - { id: tunnel, effect: allow, to: [shut], tunnel: true, grant: none }\n";
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .listener("egress", Capture::Forward)
        .upstream("up", &up)
        .raw_upstream("shut", &blind)
        .policy("base.yaml", &policy)
        .start();
    let before = Baseline::of(&exeat);
    // A caller inside a tunnel that says all it has to say, then listens. (What is inside is the tests' own affair: plaintext HTTP.)
    let mut stream = connect(exeat.port("egress"));
    let authority = shut.authority();
    stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).expect("sent");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("a head");
    assert_eq!(&head, b"HTTP/1.1 200");
    stream.write_all(&request("GET", "/length/3000000", &authority, &[("connection", "close")], b"")).expect("sent");
    stream.shutdown(Shutdown::Write).expect("shut");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the rest");
    assert!(rest.len() > 3_000_000, "{} bytes came of three million", rest.len());
    // An upstream that closes its side: the answer without a length ends with it, whole.
    up.file("raw:until-close", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end");
    let answer = exeat.ask("mesh", "GET", "/raw/until-close", &up.authority(), &[]);
    assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "until the end", true));
    // A caller that is gone by half before its answer: either is fine, and nothing stays.
    let mut stream = connect(exeat.port("mesh"));
    stream.write_all(&request("GET", "/wait", &up.authority(), &[], b"")).expect("sent");
    up.wait_for("/wait");
    stream.shutdown(Shutdown::Write).expect("shut");
    up.step(1);
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an end");
    drop(stream);
    before.again(&exeat, 30, 32 << 10);
}

#[test]
fn slow_askers_keep_no_probe_and_no_operator_out() {
    let up = Upstream::http();
    let exeat = house(&up).admin().start();
    let status = exeat.house.status_port();
    let mut held: Vec<TcpStream> = Vec::new();
    for at in 0..200 {
        let mut stream = connect(status);
        match at % 3 {
            0 => {}
            1 => stream.write_all(b"GET /livez HTTP/1.1\r\nX: ").expect("sent"),
            // Asks and asks and reads nothing: the answers fill the kernel's buffers and stay.
            _ => {
                stream.set_nonblocking(true).expect("set");
                let ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
                let _as_far_as_it_goes = stream.write(&ask);
            }
        }
        held.push(stream);
    }
    let mut silent: Vec<std::os::unix::net::UnixStream> = Vec::new();
    for _ in 0..100 {
        silent.push(std::os::unix::net::UnixStream::connect(exeat.house.path().join("admin.sock")).expect("connects"));
    }
    for _ in 0..5 {
        let began = Instant::now();
        assert_eq!(exeat.status("/livez").status, 200);
        assert_eq!(exeat.admin("GET", "/v1/status", &serde_json::Value::Null).status, 200);
        assert!(began.elapsed() < Duration::from_secs(5), "a probe and a question took {:?}", began.elapsed());
    }
    drop((held, silent));
}
