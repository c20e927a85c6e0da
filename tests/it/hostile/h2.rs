//! HTTP/2: heads that no well-behaved client can write, and floods that must cost little.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::h2::{Client, PREFACE, RawOutcome, block, frame, plain, raw, request};
use crate::harness::{BOUND, Seen, Upstream, run, until};

use super::baseline::Baseline;
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

/// A request with so many fields of 12,000 bytes, in as many frames as it takes.
fn list(host: &str, target: &str, id: u32, count: usize) -> Vec<u8> {
    let long = "v".repeat(12_000);
    let many: Vec<(String, &str)> = (0..count).map(|at| (format!("x-{at}"), long.as_str())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let whole = block(&fields("GET", target, host, &many));
    let mut bytes = Vec::new();
    for (at, part) in whole.chunks(16_000).enumerate() {
        let last = (at + 1) * 16_000 >= whole.len();
        let flags = if last { END_HEADERS } else { 0 };
        bytes.extend(if at == 0 { frame(HEADERS, flags | END_STREAM, id, part) } else { frame(CONTINUATION, flags, id, part) });
    }
    bytes
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
    add("list-96k", list(host, &path("list-96k"), 1, 8));
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

/// How a flood ends.
#[derive(Clone, Copy)]
enum End {
    /// GOAWAY with this code; before it, `RST_STREAM` with that one and no other.
    Cut(u32, Option<u32>),
    /// Each frame has its answer of this kind, so many in all: it costs the caller as much as exeat.
    Answered(u8, usize),
}

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;
/// How HPACK writes `:status: 431`: the name of the eighth field of its static table, and the value in three bytes of Huffman code.
const STATUS_431: [u8; 5] = [0x48, 0x83, 0x69, 0x90, 0xff];

/// The floods, each with its end.
fn floods(host: &str) -> Vec<(&'static str, Vec<u8>, End)> {
    let calm = End::Cut(ENHANCE_YOUR_CALM, None);
    let good = block(&fields("GET", "/hang/flood", host, &[]));
    let each = |count: u32, frames: &dyn Fn(u32) -> Vec<u8>| (0..count).flat_map(|at| frames(at * 2 + 1)).collect::<Vec<u8>>();
    let open = |id: u32| frame(HEADERS, END_HEADERS, id, &good);
    let whole = |id: u32, block: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, id, block);
    let window = |id: u32, more: u32| frame(8, 0, id, &more.to_be_bytes());
    let mut continuation = frame(HEADERS, END_STREAM, 1, &good);
    for _ in 0..5_000 {
        continuation.extend(frame(CONTINUATION, 0, 1, &block(&[(b"x", b"y")])));
    }
    let mut empty = head(&fields("POST", "/hang/flood", host, &[]), false);
    for _ in 0..20_000 {
        empty.extend(frame(0, 0, 1, b""));
    }
    // One field in the table, named thousands of times: a few bytes that mean megabytes.
    let mut bomb = vec![0x40, 1, b'x', 127, 0x81, 0x1e];
    bomb.extend(std::iter::repeat_n(b'v', 4000));
    bomb.extend(std::iter::repeat_n(0xbe, 10_000));
    let bomb = [good.as_slice(), &bomb].concat();
    let odd = block(&fields("GET", "/hang/flood", host, &[("connection", "close")]));
    vec![
        ("rapid reset", each(3_000, &|id| [whole(id, &good), frame(3, 0, id, &8_u32.to_be_bytes())].concat()), calm),
        ("continuation", continuation, calm),
        ("empty data", empty, calm),
        // exeat's own, the answer to the preface's, and one for each.
        ("settings", (0..20_000).flat_map(|_| frame(4, 0, 0, &[])).collect(), End::Answered(4, 20_002)),
        ("ping", (0..20_000).flat_map(|_| frame(6, 0, 0, &[0; 8])).collect(), End::Answered(6, 20_000)),
        ("window of zero", each(2_000, &|id| [open(id), window(id, 0)].concat()), End::Cut(PROTOCOL_ERROR, None)),
        // exeat is made to reset what it has taken up.
        (
            "made you reset",
            each(2_000, &|id| [open(id), window(id, 0x7fff_ffff)].concat()),
            End::Cut(ENHANCE_YOUR_CALM, Some(FLOW_CONTROL_ERROR)),
        ),
        ("broken heads", each(2_000, &|id| whole(id, &odd)), End::Cut(ENHANCE_YOUR_CALM, Some(PROTOCOL_ERROR))),
        ("streams", each(500, &open), End::Cut(ENHANCE_YOUR_CALM, Some(REFUSED_STREAM))),
        ("long lists", each(50, &|id| list(host, "/hang/flood", id, 7)), End::Answered(HEADERS, 50)),
        ("hpack bomb", each(50, &|id| whole(id, &bomb)), calm),
    ]
}

/// What a flood's outcome says against its end.
fn against(outcome: &RawOutcome, end: End) -> Option<String> {
    let (code, resets) = match end {
        End::Cut(code, resets) => (code, resets),
        End::Answered(kind, count) => {
            let answers = outcome.frames.iter().filter(|frame| frame.0 == kind).count();
            return (answers != count).then(|| format!("{answers} answers, and GOAWAY {:?}", outcome.goaway));
        }
    };
    if outcome.goaway != Some(code) {
        return Some(format!("GOAWAY {:?}, not {code}", outcome.goaway));
    }
    // Twenty in the life of a connection; the next one is its end, which may overtake them.
    let other = outcome.resets.iter().any(|(_, code)| Some(*code) != resets);
    (other || outcome.resets.len() > 20).then(|| format!("RST_STREAM {:?}", outcome.resets))
}

#[test]
fn streams_and_header_lists_of_http_2_are_bounded() {
    const MOST: u32 = 100;
    let up = Upstream::http();
    let exeat = house(&up).start();
    let host = up.authority();
    let good = block(&fields("POST", "/h/streams", &host, &[]));
    // None of them has ended, so all are open at once.
    let streams: Vec<u8> = (0..=MOST).flat_map(|at| frame(HEADERS, END_HEADERS, at * 2 + 1, &good)).collect();
    let outcome = run(async {
        let refused = |outcome: &RawOutcome| !outcome.resets.is_empty() || outcome.goaway.is_some();
        raw(plain(exeat.port("mesh")).await, &streams, Duration::from_secs(10), refused).await
    });
    assert_eq!((outcome.resets.as_slice(), outcome.goaway), (&[(MOST * 2 + 1, REFUSED_STREAM)][..], None));
    run(async {
        let mut client = Client::start(plain(exeat.port("mesh")).await).await.expect("h2");
        let long = "v".repeat(13_000);
        for (count, expected) in [(4, 200), (6, 431)] {
            let many: Vec<(String, &str)> = (0..count).map(|at| (format!("x-{at}"), long.as_str())).collect();
            let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            let answer = client.ask(request("GET", "http", &host, "/h/list", &many), b"", None).await.expect("answered");
            assert_eq!(answer.status, expected, "{count} fields of 13 KB");
        }
    });
}

#[test]
fn floods_are_cut_and_good_requests_go_on() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let host = up.authority();
    assert_eq!(exeat.ask("mesh", "GET", "/warm", &host, &[("connection", "close")]).status, 200);
    let baseline = Baseline::of(&exeat);
    let edge = |record: &Value| record["kind"] == "edge" && record["code"] == "malformed" && record["detail"] == "the frames break HTTP/2";
    let edges = || exeat.audit().iter().filter(|record| edge(record)).count();
    let (mut wrong, mut cut) = (Vec::new(), 0);
    for (name, bytes, end) in floods(&host) {
        let before = exeat.memory("VmRSS");
        let over = move |outcome: &RawOutcome| match end {
            End::Cut(..) => outcome.goaway.is_some(),
            End::Answered(kind, count) => {
                outcome.frames.len() >= count && outcome.frames.iter().filter(|frame| frame.0 == kind).count() >= count
            }
        };
        let flood = std::thread::spawn({
            let port = exeat.port("mesh");
            move || run(async { raw(plain(port).await, &bytes, BOUND, over).await })
        });
        let began = Instant::now();
        for at in 0..5 {
            assert_eq!(exeat.ask("mesh", "GET", &format!("/good/{at}"), &host, &[]).status, 200, "{name}");
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{name}: five good requests took {took:?}");
        let outcome = flood.join().expect("flooded");
        wrong.extend(against(&outcome, end).map(|why| format!("{name}: {why}")));
        if let End::Cut(..) = end {
            cut += 1;
            until("the connection that was cut in the audit", || (edges() == cut).then_some(()));
        }
        if name == "streams" {
            // The hundred before them are open.
            let refused: Vec<(u32, u32)> = (100..120).map(|at| (at * 2 + 1, REFUSED_STREAM)).collect();
            assert_eq!(outcome.resets, refused, "further streams are refused one by one");
        }
        let grown = exeat.memory("VmRSS").saturating_sub(before);
        assert!(grown < 48 << 10, "{name} made exeat grow by {grown} KiB");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    baseline.again(&exeat, 30, 48 << 10);
}

#[test]
fn a_list_of_fields_that_is_too_long_is_431_and_its_neighbours_are_served() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let host = up.authority();
    // 60,000 bytes and a little: good, since 64 KiB may be sent. 72,000: too much.
    let bytes = [list(&host, "/h/fits", 1, 5), list(&host, "/h/too-long", 3, 6), list(&host, "/h/fits-again", 5, 5)].concat();
    let outcome = run(async { raw(plain(exeat.port("mesh")).await, &bytes, BOUND, |outcome| outcome.blocks.len() == 3).await });
    let answer = |id: u32| outcome.blocks.iter().find(|(stream, _)| *stream == id).map(|(_, block)| block.as_slice());
    assert_eq!(answer(3), Some(STATUS_431.as_slice()), "{:?}", outcome.blocks);
    for id in [1, 5] {
        assert_eq!(answer(id).and_then(<[u8]>::first), Some(&STATUS_200), "stream {id}: {:?}", outcome.blocks);
    }
    assert_eq!(outcome.goaway, None);
    let mut arrived: Vec<String> = up.matching("/h/").into_iter().map(|seen| seen.target).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, ["/h/fits", "/h/fits-again"]);
}

#[test]
fn who_pings_and_reads_nothing_is_not_read_on_and_is_ended() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    assert_eq!(exeat.ask("mesh", "GET", "/warm", &up.authority(), &[("connection", "close")]).status, 200);
    let baseline = Baseline::of(&exeat);
    let mut stream = TcpStream::connect(("127.0.0.1", exeat.port("mesh"))).expect("connects");
    stream.set_write_timeout(Some(BOUND)).expect("set");
    stream.write_all(PREFACE).expect("sent");
    let pings = frame(6, 0, 0, &[0; 8]).repeat(4096);
    let mut sent = 0;
    // What is taken is what the kernel's buffers hold: an answer that cannot be written keeps exeat from reading on.
    let ended = loop {
        match stream.write(&pings[sent % pings.len()..]) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
        assert!(sent < 64 << 20, "{sent} bytes of pings were taken, and no answer was");
    };
    // Pings are no requests: they keep no connection open.
    let gone = matches!(ended.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    assert!(gone, "after {sent} bytes: {ended}");
    baseline.again(&exeat, 10, 8 << 10);
}
