//! Story: a head that could be read in two ways is refused, or arrives in one way only.
//!
//! The oracle. Every byte that any upstream connection carried must parse, strictly (`harness::h1`), as requests: one Host that is the
//! catalogue's, origin form, no framing conflict, no bare line feed, no nominated header. Each of these requests must be one that a case
//! meant to send, at most once, with exactly the target that the case wrote. A case that must be refused has no request at all there. And
//! whatever the proxy answers is an answer of the upstream or carries `exeat-refusal`; silence ends in a close.

mod baseline;
mod callers;
mod h1;
mod h2;
mod upstreams;

use std::collections::{BTreeMap, HashSet};
use std::io::{Read as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::exeat::{Capture, policy_head};
use crate::harness::{Exeat, House, Upstream, Wire};

/// What may become of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// No part of it may reach an upstream.
    Refused,
    /// It may be refused, or arrive in exactly one meaning.
    Unambiguous,
    /// It is plain, and must arrive: the corpus would prove nothing if everything were refused.
    Arrives,
}

/// One case: bytes for one connection. `{H}` is the authority of the upstream, `{T}` the case's own target.
struct Case {
    name: String,
    bytes: Vec<u8>,
    fate: Fate,
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            out.extend_from_slice(to.as_bytes());
            at += from.len();
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

fn house(up: &Upstream) -> House {
    let rules = "  - { id: all, effect: allow, to: [up], methods: [\"*\"], paths: [\"/**\"], grant: up-jwt }\n  - { id: never, effect: deny, to: [up], methods: [\"*\"], paths: [\"/smuggled/**\"] }\n";
    House::new()
        .listener("mesh", Capture::Host)
        .listener("egress", Capture::Forward)
        .listener("door", Capture::Route("up"))
        .upstream("up", up)
        .policy("base.yaml", &(policy_head("base") + rules))
        .extra("limits: { head_time: 700ms, keep_alive: 700ms, body_grace: 700ms }")
}

/// Sends one case and reads what comes back until the end; says what was wrong.
fn send(exeat: &Exeat, listener: &str, bytes: &[u8]) -> Result<(), String> {
    let mut wire: Wire = exeat.wire(listener).within(Duration::from_secs(15));
    wire.send(bytes);
    let back = wire.until_end().map_err(|error| format!("the connection was not closed in time: {error}"))?;
    let text = String::from_utf8_lossy(&back).into_owned();
    let starts = text.match_indices("HTTP/1.1 ").map(|(at, word)| &text[at + word.len()..]);
    for head in starts.filter(|rest| rest.bytes().take(3).all(|byte| byte.is_ascii_digit())) {
        let head = head.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
        let by_upstream = head.starts_with("200") || head.starts_with("100");
        if !by_upstream && !head.contains("exeat-refusal: ") {
            return Err(format!("an answer that is neither the upstream's nor a refusal: {head}"));
        }
        if head.contains("x-upstream-violation") {
            return Err("the upstream's strict reader refused what came".to_owned());
        }
    }
    Ok(())
}

#[test]
fn hostile_heads_end_in_a_refusal_or_arrive_in_one_meaning() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let cases = h1::cases();
    assert!(cases.len() >= 200, "{} cases", cases.len());
    let names: HashSet<_> = cases.iter().map(|case| case.name.clone()).collect();
    assert_eq!(names.len(), cases.len(), "names are unique");
    let next = AtomicUsize::new(0);
    let wrong: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let bytes = replaced(&replaced(&case.bytes, "{H}", &up.authority()), "{T}", &format!("/h/{}", case.name));
                    let listener = if case.name.starts_with("forward-") {
                        "egress"
                    } else if case.name.starts_with("route-") {
                        "door"
                    } else {
                        "mesh"
                    };
                    if let Err(why) = send(&exeat, listener, &bytes) {
                        wrong.lock().expect("list").push(format!("{}: {why}", case.name));
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().expect("list");
    let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
    for connection in up.connections() {
        if let Some(violation) = connection.violation {
            wrong.push(format!("an upstream connection broke the grammar: {violation}: {:?}", String::from_utf8_lossy(&connection.plain)));
            continue;
        }
        match crate::harness::h1::requests(&connection.plain) {
            Err(violation) => wrong.push(format!(
                "an upstream connection is not requests alone: {violation}: {:?}",
                String::from_utf8_lossy(&connection.plain)
            )),
            Ok((requests, _)) => {
                for request in requests {
                    let path = request.target.split(['?', ';']).next().unwrap_or_default().to_owned();
                    let name = match path.split_once("/h/") {
                        Some((_, rest)) => rest.split('/').next().unwrap_or_default().to_owned(),
                        None if path == "/" => "forward-no-path".to_owned(),
                        None => path,
                    };
                    if request.fields.get("host") != Some(up.authority().as_str()) {
                        wrong.push(format!("{name}: arrived with Host {:?}", request.fields.get("host")));
                    }
                    if request.fields.all("authorization").count() != 1 {
                        wrong.push(format!("{name}: arrived with {} Authorization fields", request.fields.all("authorization").count()));
                    }
                    *arrived.entry(name).or_default() += 1;
                }
            }
        }
    }
    for (name, count) in &arrived {
        match cases.iter().find(|case| case.name == *name) {
            None => wrong.push(format!("a request arrived that no case meant: {name}")),
            Some(case) if case.fate == Fate::Refused => {
                wrong.push(format!("{name}: arrived, and must be refused: {:?}", String::from_utf8_lossy(&case.bytes)));
            }
            Some(_) if *count > 1 => wrong.push(format!("{name}: arrived {count} times")),
            Some(_) => {}
        }
    }
    for case in cases.iter().filter(|case| case.fate == Fate::Arrives && !arrived.contains_key(&case.name)) {
        wrong.push(format!("{}: is plain and did not arrive", case.name));
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    // It lives, and serves as before.
    assert_eq!(exeat.ask("mesh", "GET", "/alive", &up.authority(), &[]).status, 200);
    println!("{} hostile heads, {} of them arrived in one meaning", cases.len(), arrived.len());
}

#[test]
fn a_head_that_never_ends_is_ended() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let began = std::time::Instant::now();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", exeat.port("mesh"))).expect("connects");
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {}\r\n", up.authority()).as_bytes()).expect("sent");
    let mut writer = stream.try_clone().expect("a second handle");
    let dripping = std::thread::spawn(move || {
        // A byte now and then, always in time for a deadline between bytes: only one over the whole head ends this.
        while writer.write_all(b"x").is_ok() && began.elapsed() < Duration::from_secs(15) {
            std::thread::park_timeout(Duration::from_millis(100));
        }
    });
    let mut rest = Vec::new();
    let _until_closed = stream.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(10), "it dripped for {:?}", began.elapsed());
    dripping.join().expect("dripped");
    assert_eq!(up.wire_bytes(), 0);
}

#[test]
fn a_body_that_stalls_is_ended() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let began = std::time::Instant::now();
    let mut wire = exeat.wire("mesh").within(Duration::from_secs(15));
    wire.send(format!("POST /stalled HTTP/1.1\r\nHost: {}\r\nContent-Length: 100000\r\n\r\nbegin", up.authority()).as_bytes());
    wire.until_end().expect("the connection ends");
    assert!(began.elapsed() < Duration::from_secs(12), "it was held for {:?}", began.elapsed());
    let record = exeat.record("the stalled request", |record| record["kind"] == "access" && record["path"] == "/stalled");
    assert_ne!(record["outcome"], "allowed", "{record}");
    assert!(up.matching("/stalled").iter().all(|seen| !seen.complete), "half a body never looks whole");
}

#[test]
fn inside_a_tunnel_heads_are_no_less_strictly_read() {
    let up = Upstream::https_with(&["http/1.1"]);
    let exeat = house(&up).start();
    let ca = exeat.ca();
    let cases: Vec<Case> = h1::cases();
    let chosen =
        cases.iter().filter(|case| case.fate == Fate::Refused && !case.name.starts_with("forward-") && !case.name.starts_with("route-"));
    // One of each family is enough: the reader is the same, the way to it is not.
    let mut families = HashSet::new();
    let chosen: Vec<&Case> = chosen.filter(|case| families.insert(case.name.split('-').next().unwrap_or_default().to_owned())).collect();
    assert!(chosen.len() > 12, "{} families", chosen.len());
    for case in chosen {
        let bytes = replaced(&replaced(&case.bytes, "{H}", &up.authority()), "{T}", &format!("/h/{}", case.name));
        let tunnel = exeat.wire("egress").connect(&up.authority());
        let mut wire = tunnel.tls("localhost", &ca, &["http/1.1"]).expect("TLS").within(Duration::from_secs(15));
        wire.send(&bytes);
        if let Ok(answer) = wire.try_answer("GET") {
            assert!(answer.refusal().is_some(), "{}: {answer:?}", case.name);
        }
        drop(wire.until_end());
    }
    assert_eq!(up.count(), 0, "{:?}", up.seen());
}
