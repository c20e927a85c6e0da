//! HTTP/2: heads that no well-behaved client can write, and floods that must cost little.

use std::time::{Duration, Instant};

use crate::harness::h2::{RawOutcome, block, frame, plain, raw};
use crate::harness::{BOUND, Seen, Upstream, run};

use super::house;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;
/// How HPACK writes `:status: 200`: the eighth field of its static table.
const STATUS_200: u8 = 0x88;

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

/// A request's fields with the four pseudo-headers first.
fn fields<'a>(method: &'a str, path: &'a str, authority: &'a str, more: &[(&'a str, &'a str)]) -> Fields<'a> {
    let mut fields: Fields<'a> =
        vec![(b":method", method.as_bytes()), (b":scheme", b"http"), (b":path", path.as_bytes()), (b":authority", authority.as_bytes())];
    fields.extend(more.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    fields
}

fn head(fields: &[(&[u8], &[u8])], end: bool) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, 1, &block(fields))
}

/// Cases that must never reach the upstream: each path is `/h/NAME`.
fn cases(host: &str) -> Vec<(String, Vec<u8>)> {
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>| cases.push((name.to_owned(), bytes));
    let path = |name: &str| format!("/h/{name}");
    let more = |name: &str, more: &[(&str, &str)]| head(&fields("GET", &path(name), host, more), true);
    add("upper-name", more("upper-name", &[("X-Upper", "v")]));
    add("connection", more("connection", &[("connection", "keep-alive")]));
    add("keep-alive", more("keep-alive", &[("keep-alive", "timeout=5")]));
    add("proxy-connection", more("proxy-connection", &[("proxy-connection", "keep-alive")]));
    add("transfer-encoding", more("transfer-encoding", &[("transfer-encoding", "chunked")]));
    add("upgrade", more("upgrade", &[("upgrade", "websocket")]));
    add("te-gzip", more("te-gzip", &[("te", "gzip")]));
    add("value-crlf", more("value-crlf", &[("x", "a\r\nx-injected: b")]));
    add("value-lf", more("value-lf", &[("x", "a\nb")]));
    add("value-cr", more("value-cr", &[("x", "a\rb")]));
    add("value-nul", more("value-nul", &[("x", "a\0b")]));
    add("name-space", more("name-space", &[("x y", "v")]));
    add("name-colon", more("name-colon", &[("x:y", "v")]));
    add("name-empty", more("name-empty", &[("", "v")]));
    add("name-crlf", more("name-crlf", &[("x\r\ny", "v")]));
    add("name-nul", more("name-nul", &[("x\0y", "v")]));
    add("pseudo-after", more("pseudo-after", &[("x", "v"), (":path", "/smuggled/x")]));
    add("pseudo-unknown", more("pseudo-unknown", &[(":unknown", "v")]));
    add("pseudo-status", more("pseudo-status", &[(":status", "200")]));
    add(
        "protocol",
        head(
            &[
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b":scheme", b"http"),
                (b":path", b"/h/protocol"),
                (b":authority", host.as_bytes()),
            ],
            false,
        ),
    );
    add("connect", head(&[(b":method", b"CONNECT"), (b":authority", host.as_bytes())], false));
    for (name, without) in [("no-method", b":method".as_slice()), ("no-scheme", b":scheme"), ("no-path", b":path")] {
        let target = path(name);
        let kept: Fields<'_> = fields("GET", &target, host, &[]).into_iter().filter(|(key, _)| *key != without).collect();
        add(name, head(&kept, true));
    }
    for (name, twice) in [
        ("two-methods", (":method", "DELETE")),
        ("two-paths", (":path", "/smuggled/x")),
        ("two-schemes", (":scheme", "https")),
        ("two-authorities", (":authority", "other.test")),
    ] {
        let target = path(name);
        let mut all = fields("GET", &target, host, &[]);
        all.insert(4, (twice.0.as_bytes(), twice.1.as_bytes()));
        add(name, head(&all, true));
    }
    for (name, target) in [
        ("path-empty", ""),
        ("path-no-slash", "h/path-no-slash"),
        ("path-absolute", "http://other.test/h/path-absolute"),
        ("path-space", "/h/path-space x"),
        ("path-crlf", "/h/path-crlf HTTP/1.1\r\nHost: x\r\n\r\nGET /smuggled/x"),
        ("path-lf", "/h/path-lf\nx"),
        ("path-nul", "/h/path-nul\0x"),
        ("path-star", "*"),
        ("path-fragment-alone", "#/h/path-fragment-alone"),
        ("path-dots", "/h/../smuggled/x"),
        ("path-coded-dots", "/h/%2e%2e/smuggled/x"),
        ("path-double-slash", "//smuggled/x"),
    ] {
        add(name, head(&fields("GET", target, host, &[]), true));
    }
    for (name, method) in [
        ("method-empty", ""),
        ("method-space", "GET /x"),
        ("method-crlf", "GET\r\nX: y"),
        ("method-trace", "TRACE"),
        ("method-lf", "GE\nT"),
    ] {
        add(name, head(&fields(method, &path(name), host, &[]), true));
    }
    for (name, authority) in [
        ("authority-empty", ""),
        ("authority-userinfo", "user@localhost"),
        ("authority-list", "localhost,other.test"),
        ("authority-path", "localhost/x"),
        ("authority-crlf", "localhost\r\nx: y"),
        ("authority-space", "local host"),
        ("authority-port", "localhost:99999"),
        ("authority-other", "other.test"),
    ] {
        add(name, head(&fields("GET", &path(name), authority, &[]), true));
    }
    add("host-differs", more("host-differs", &[("host", "other.test")]));
    add("host-twice", more("host-twice", &[("host", host), ("host", "other.test")]));
    add("no-authority-no-host", head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/h/no-authority-no-host")], true));
    add(
        "scheme-javascript",
        head(
            &[(b":method", b"GET"), (b":scheme", b"javascript"), (b":path", b"/h/scheme-javascript"), (b":authority", host.as_bytes())],
            true,
        ),
    );
    add(
        "scheme-crlf",
        head(&[(b":method", b"GET"), (b":scheme", b"http\r\nx"), (b":path", b"/h/scheme-crlf"), (b":authority", host.as_bytes())], true),
    );
    add("length-letters", more("length-letters", &[("content-length", "abc")]));
    add("length-twice", more("length-twice", &[("content-length", "0"), ("content-length", "5")]));
    add("length-without-data", more("length-without-data", &[("content-length", "5")]));
    add("stream-even", frame(HEADERS, END_HEADERS | END_STREAM, 2, &block(&fields("GET", "/h/stream-even", host, &[]))));
    add("stream-zero", frame(HEADERS, END_HEADERS | END_STREAM, 0, &block(&fields("GET", "/h/stream-zero", host, &[]))));
    add("hpack-garbage", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 40]));
    add("hpack-cut", frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields("GET", "/h/hpack-cut", host, &[]))[..20]));
    add(
        "padding-too-long",
        frame(
            HEADERS,
            END_HEADERS | END_STREAM | 8,
            1,
            &[&[255], block(&fields("GET", "/h/padding-too-long", host, &[])).as_slice()].concat(),
        ),
    );
    add("data-on-idle", frame(0, END_STREAM, 1, b"hello"));
    add("continuation-alone", frame(9, END_HEADERS, 1, &block(&fields("GET", "/h/continuation-alone", host, &[]))));
    add("settings-short", frame(4, 0, 0, b"abc"));
    add("ping-short", frame(6, 0, 0, b"abc"));
    add("window-zero", frame(8, 0, 0, &[0; 4]));
    add("frame-too-big", frame(HEADERS, END_HEADERS | END_STREAM, 1, &vec![0; 20_000]));
    add("push", frame(5, END_HEADERS, 1, &[0; 8]));
    let long = "v".repeat(12_000);
    let many: Vec<(String, &str)> = (0..8).map(|at| (format!("x-{at}"), long.as_str())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let target = path("list-96k");
    let whole = block(&fields("GET", &target, host, &many));
    let mut bytes = Vec::new();
    for (at, part) in whole.chunks(16_000).enumerate() {
        let last = (at + 1) * 16_000 >= whole.len();
        let flags = if last { END_HEADERS } else { 0 };
        bytes.extend(if at == 0 { frame(HEADERS, flags | END_STREAM, 1, part) } else { frame(9, flags, 1, part) });
    }
    add("list-96k", bytes);
    let count: Vec<(String, &str)> = (0..150).map(|at| (format!("x-{at}"), "v")).collect();
    let count: Vec<(&str, &str)> = count.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    add("fields-150", head(&fields("GET", "/h/fields-150", host, &count), true));
    cases
}

/// Bytes of DATA that do not add up to the length that the head said.
fn lengths(host: &str) -> Vec<(String, Vec<u8>)> {
    [("length-too-long", "3", "abcdef"), ("length-too-short", "9", "abc")]
        .into_iter()
        .map(|(name, length, body)| {
            let path = format!("/h/{name}");
            let mut bytes = head(&fields("POST", &path, host, &[("content-length", length)]), false);
            bytes.extend(frame(0, END_STREAM, 1, body.as_bytes()));
            (name.to_owned(), bytes)
        })
        .collect()
}

/// A request that is plain, written by the same hand as the hostile ones, and what must arrive of it, once.
struct Plain {
    name: &'static str,
    bytes: Vec<u8>,
    method: &'static str,
    target: String,
    body: &'static [u8],
}

/// The corpus would prove nothing if its encoder wrote what nobody takes.
fn plains(host: &str) -> Vec<Plain> {
    let mut plains = Vec::new();
    let mut add = |name, method, target: &str, body, bytes: Vec<u8>| {
        plains.push(Plain { name, bytes, method, target: target.to_owned(), body });
    };
    let data = |flags, body: &[u8]| frame(0, flags, 1, body);
    let path = |name: &str| format!("/h/{name}");
    let get = |target: &str| block(&fields("GET", target, host, &[("x", "v")]));
    let target = path("plain-get");
    add("plain-get", "GET", &target, b"", frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(&target)));
    let target = path("plain-query") + "?a=1&b=%2F";
    add("plain-query", "GET", &target, b"", frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(&target)));
    let target = path("plain-post");
    let head_of = |target: &str, more: &[(&str, &str)]| head(&fields("POST", target, host, more), false);
    add("plain-post", "POST", &target, b"hello", [head_of(&target, &[("content-length", "5")]), data(END_STREAM, b"hello")].concat());
    let target = path("plain-post-in-parts");
    let parts = [head_of(&target, &[]), data(0, b"hel"), data(0, b""), data(0, b"lo"), data(END_STREAM, b"")];
    add("plain-post-in-parts", "POST", &target, b"hello", parts.concat());
    // The shapes that hostile cases bend: padding, an old priority, a block in parts.
    let target = path("plain-padded");
    let padded = [&[4], get(&target).as_slice(), &[0; 4]].concat();
    add("plain-padded", "GET", &target, b"", frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &padded));
    let target = path("plain-priority");
    let weighed = [&[0, 0, 0, 0, 15], get(&target).as_slice()].concat();
    add("plain-priority", "GET", &target, b"", frame(HEADERS, END_HEADERS | END_STREAM | PRIORITY, 1, &weighed));
    let target = path("plain-continuation");
    let whole = get(&target);
    let (first, rest) = whole.split_at(20);
    let parts = [frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 1, rest)];
    add("plain-continuation", "GET", &target, b"", parts.concat());
    // A fragment is no part of a target (RFC 9113 section 8.3.1). The engine drops it before anybody sees it, so it can be neither refused
    // nor judged; what is judged, recorded and forwarded is one and the same target without it.
    for (name, query, fragment) in [
        ("fragment", "", "#/../../smuggled/x"),
        ("fragment-empty", "", "#"),
        ("fragment-in-query", "?a=1", "#?b=2"),
        ("fragment-twice", "", "#a#b"),
    ] {
        let target = path(name) + query;
        let bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(&format!("{target}{fragment}")));
        add(name, "GET", &target, b"", bytes);
    }
    plains
}

#[test]
fn hostile_streams_end_in_a_refusal_or_a_reset() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let host = up.authority();
    let (cases, lengths, plains) = (cases(&host), lengths(&host), plains(&host));
    let broken = |outcome: &RawOutcome| outcome.goaway.is_some() || !outcome.resets.is_empty();
    let ended = |outcome: &RawOutcome| broken(outcome) || outcome.blocks.iter().any(|(stream, _)| *stream > 0);
    let mut wrong = Vec::new();
    run(async {
        for (name, bytes) in cases.iter().chain(&lengths) {
            let began = Instant::now();
            let outcome = raw(plain(exeat.port("mesh")).await, bytes, Duration::from_secs(5), ended).await;
            if !ended(&outcome) && !outcome.closed {
                wrong.push(format!("{name}: nothing came back within {:?}: {:?}", began.elapsed(), outcome.frames));
            }
        }
        for Plain { name, bytes, .. } in &plains {
            let outcome = raw(plain(exeat.port("mesh")).await, bytes, BOUND, |outcome| outcome.ended.contains(&1) || broken(outcome)).await;
            if !outcome.blocks.iter().any(|(stream, block)| *stream == 1 && block.first() == Some(&STATUS_200)) {
                wrong.push(format!("{name}: is plain and was not answered with 200: {outcome:?}"));
            }
        }
    });
    for Plain { name, method, target, body, .. } in &plains {
        let path = format!("/h/{name}");
        let is_of = |seen: &Seen| seen.target.strip_prefix(&path).is_some_and(|rest| !rest.starts_with('-'));
        let arrived: Vec<Seen> = up.seen().into_iter().filter(is_of).collect();
        let [seen] = arrived.as_slice() else {
            wrong.push(format!("{name}: is plain and arrived {} times", arrived.len()));
            continue;
        };
        if (seen.method.as_str(), &seen.target, seen.body.as_slice(), seen.complete) != (*method, target, *body, true) {
            wrong.push(format!("{name}: arrived as {seen:?}"));
        }
        let fields = ["host", "authorization"].map(|field| seen.fields.all(field).count());
        if fields != [1, 1] || seen.fields.get("host") != Some(host.as_str()) {
            wrong.push(format!("{name}: arrived with {:?}", seen.fields));
        }
        exeat.record(name, |record| record["kind"] == "access" && record["path"] == path && record["outcome"] == "allowed");
    }
    for seen in up.seen().into_iter().filter(|seen| !plains.iter().any(|plain| plain.target == seen.target)) {
        // A body that turns out wrong may have been on its way; its head was good.
        if !lengths.iter().any(|(name, _)| seen.target == format!("/h/{name}")) {
            wrong.push(format!("{} {} arrived", seen.method, seen.target));
        } else if seen.complete {
            wrong.push(format!("{}: a body of another length than its head says came to its end", seen.target));
        }
    }
    for connection in up.connections() {
        if let Some(violation) = connection.violation.filter(|why| why != "cut head") {
            wrong.push(format!("{violation}: {:?}", String::from_utf8_lossy(&connection.plain)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len() + lengths.len() + plains.len(), wrong.join("\n"));
    assert_eq!(exeat.ask("mesh", "GET", "/alive", &host, &[]).status, 200);
}

#[test]
fn floods_are_cut_and_good_requests_go_on() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let host = up.authority();
    let good = block(&fields("GET", "/h/flood", &host, &[]));
    let rapid: Vec<u8> = (0..3_000_u32)
        .flat_map(|at| {
            [frame(HEADERS, END_HEADERS | END_STREAM, at * 2 + 1, &good), frame(3, 0, at * 2 + 1, &8_u32.to_be_bytes())].concat()
        })
        .collect();
    let mut continuation = frame(HEADERS, END_STREAM, 1, &good);
    for _ in 0..5_000 {
        continuation.extend(frame(9, 0, 1, &block(&[(b"x", b"y")])));
    }
    let mut empty = head(&fields("POST", "/h/flood", &host, &[]), false);
    for _ in 0..20_000 {
        empty.extend(frame(0, 0, 1, b""));
    }
    let settings: Vec<u8> = (0..20_000).flat_map(|_| frame(4, 0, 0, &[])).collect();
    let pings: Vec<u8> = (0..20_000).flat_map(|_| frame(6, 0, 0, &[0; 8])).collect();
    let resets: Vec<u8> = (0..2_000_u32)
        .flat_map(|at| [frame(HEADERS, END_HEADERS, at * 2 + 1, &good), frame(8, 0, at * 2 + 1, &0_u32.to_be_bytes())].concat())
        .collect();
    let streams: Vec<u8> = (0..500_u32).flat_map(|at| frame(HEADERS, END_HEADERS, at * 2 + 1, &good)).collect();
    // One field in the table, named thousands of times: a few bytes that mean megabytes.
    let mut bomb = vec![0x40, 1, b'x', 127, 0x81, 0x1e];
    bomb.extend(std::iter::repeat_n(b'v', 4000));
    bomb.extend(std::iter::repeat_n(0xbe, 10_000));
    let bomb: Vec<u8> =
        (0..50_u32).flat_map(|at| frame(HEADERS, END_HEADERS | END_STREAM, at * 2 + 1, &[good.as_slice(), &bomb].concat())).collect();
    let mut memory = Vec::new();
    for (name, bytes) in [
        ("rapid reset", rapid),
        ("continuation", continuation),
        ("empty data", empty),
        ("settings", settings),
        ("ping", pings),
        ("made you reset", resets),
        ("streams", streams),
        ("hpack bomb", bomb),
    ] {
        let before = resident(exeat.pid().as_raw());
        let flood = std::thread::spawn({
            let port = exeat.port("mesh");
            move || run(async { raw(plain(port).await, &bytes, Duration::from_secs(4), |outcome| outcome.goaway.is_some()).await })
        });
        let began = Instant::now();
        for at in 0..5 {
            assert_eq!(exeat.ask("mesh", "GET", &format!("/good/{at}"), &host, &[]).status, 200, "{name}");
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{name}: five good requests took {took:?}");
        flood.join().expect("flooded");
        memory.push((name, resident(exeat.pid().as_raw()).saturating_sub(before)));
    }
    for (name, grown) in memory {
        assert!(grown < 48 << 10, "{name} made exeat grow by {grown} KiB");
    }
}

/// Resident size in KiB.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok()).expect("VmRSS")
}
