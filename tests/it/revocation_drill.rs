//! The drill: streams of every kind live under load, everything is revoked, and the upstream's own record tells what came after.
//!
//! With every commit about a hundred streams, with bounds that a loaded machine keeps. The figures come from the release build on a calm
//! machine, so many streams and so many revocations: `cargo build --release` and then
//! `EXEAT_IT_BINARY=target/release/exeat EXEAT_DRILL=1000x100 cargo test --test it the_drill -- --nocapture`.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::exeat::{APP, Capture, allow_all, policy_head};
use crate::harness::wire::request;
use crate::harness::{Exeat, House, Upstream, h2};

/// How large, and how fast it must be.
struct Size {
    streams: usize,
    rounds: usize,
    acknowledged: Duration,
    ended: Duration,
}

impl Size {
    fn wanted() -> Self {
        let asked = std::env::var("EXEAT_DRILL").ok();
        match asked.as_deref().and_then(|text| text.split_once('x')).map(|(streams, rounds)| (streams.parse(), rounds.parse())) {
            Some((Ok(streams), Ok(rounds))) => {
                Self { streams, rounds, acknowledged: Duration::from_millis(10), ended: Duration::from_millis(100) }
            }
            Some(_) | None => Self { streams: 102, rounds: 3, acknowledged: Duration::from_secs(5), ended: Duration::from_secs(10) },
        }
    }
}

const KINDS: [&str; 6] = ["h2", "gRPC", "WebSocket", "SSE", "tunnel", "long poll"];
/// Streams on one HTTP/2 connection.
const SHARED: usize = 50;
/// Connections that ask as fast as they are answered.
const LOAD: usize = 4;

/// How one stream ended, seen by its caller.
#[derive(Debug, Clone, Copy)]
struct End {
    kind: &'static str,
    last_byte: Instant,
    over: Instant,
}

/// One request of the load: its number, when it was about to be written, and the answer's status.
type Asked = (usize, Instant, u16);

#[derive(Clone)]
struct Drill {
    mesh: u16,
    egress: u16,
    up: String,
    grpc: String,
    open: String,
}

impl Drill {
    /// Opens all streams of one round; each ends when its peer ends it.
    async fn open(&self, streams: usize, live: &Arc<AtomicUsize>) -> JoinSet<End> {
        let mut all = JoinSet::new();
        let mut shared: [Vec<h2::Client>; 2] = [Vec::new(), Vec::new()];
        for number in 0..streams {
            let (drill, live, kind) = (self.clone(), Arc::clone(live), number % KINDS.len());
            if let Some(clients) = shared.get_mut(kind) {
                if (number / KINDS.len()).is_multiple_of(SHARED) {
                    clients.push(h2::Client::start(h2::plain(self.mesh).await).await.expect("h2"));
                }
                let client = h2::Client(clients.last().expect("just made").0.clone());
                all.spawn(async move { drill.framed(kind, client, &live).await });
            } else {
                all.spawn(async move { drill.bytes(kind, &live).await });
            }
        }
        all
    }

    async fn framed(&self, kind: usize, mut client: h2::Client, live: &AtomicUsize) -> End {
        let (request, end) = if kind == 0 {
            (h2::request("GET", "http", &self.up, "/ticks/200", &[]), true)
        } else {
            let fields = [("content-type", "application/grpc"), ("te", "trailers")];
            (h2::request("POST", "http", &self.grpc, "/it.Echo/Say", &fields), false)
        };
        let (response, mut send) = client.open(request, end).await.expect("opened");
        if !end {
            h2::write(&mut send, bytes::Bytes::from_static(b"\0\0\0\0\x05hello"), false).await.expect("written");
        }
        let mut body = response.await.expect("a head").into_body();
        let (mut first, mut last_byte) = (true, Instant::now());
        while let Some(Ok(_)) = h2::next(&mut body).await {
            last_byte = Instant::now();
            if std::mem::take(&mut first) {
                live.fetch_add(1, Ordering::Relaxed);
            }
        }
        End { kind: KINDS[kind], last_byte, over: Instant::now() }
    }

    async fn bytes(&self, kind: usize, live: &AtomicUsize) -> End {
        let port = if KINDS[kind] == "tunnel" { self.egress } else { self.mesh };
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
        let mut last_byte = Instant::now();
        match KINDS[kind] {
            "WebSocket" => {
                let key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
                let fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), key];
                stream.write_all(&request("GET", "/ws", &self.up, &fields, b"")).await.expect("sent");
                read_to(&mut stream, b"\r\n\r\n").await.expect("switched");
                stream.write_all(b"\x81\x85\0\0\0\0hello").await.expect("a frame");
                read_to(&mut stream, b"hello").await.expect("echoed");
            }
            "tunnel" => {
                stream.write_all(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", self.open).as_bytes()).await.expect("sent");
                read_to(&mut stream, b"\r\n\r\n").await.expect("a tunnel");
                stream.write_all(&request("GET", "/ticks/200", &self.open, &[], b"")).await.expect("sent");
                read_to(&mut stream, b"tick").await.expect("an event");
            }
            "SSE" => {
                stream.write_all(&request("GET", "/ticks/200", &self.up, &[], b"")).await.expect("sent");
                read_to(&mut stream, b"tick").await.expect("an event");
            }
            _ => stream.write_all(&request("GET", "/hang", &self.up, &[], b"")).await.expect("sent"),
        }
        if KINDS[kind] != "long poll" {
            live.fetch_add(1, Ordering::Relaxed);
        }
        let mut read = [0; 4096];
        while let Ok(1..) = stream.read(&mut read).await {
            last_byte = Instant::now();
        }
        End { kind: KINDS[kind], last_byte, over: Instant::now() }
    }

    /// Asks without a pause on one connection; a connection that is closed is opened again.
    async fn load(&self, next: Arc<AtomicUsize>, asked: Arc<Mutex<Vec<Asked>>>, stop: Arc<AtomicBool>) {
        let mut stream = None;
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let about = Instant::now();
            let status = self.one(&mut stream, number).await.unwrap_or(0);
            if status == 0 {
                stream = None;
            }
            asked.lock().expect("asked").push((number, about, status));
        }
    }

    async fn one(&self, stream: &mut Option<TcpStream>, number: usize) -> io::Result<u16> {
        let stream = match stream {
            Some(stream) => stream,
            None => stream.insert(TcpStream::connect(("127.0.0.1", self.mesh)).await?),
        };
        stream.write_all(&request("GET", &format!("/status/200?n={number}."), &self.up, &[], b"")).await?;
        let head = read_to(stream, b"\r\n\r\n").await?;
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status = text.get(9..12).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let body = text.split("\r\n\r\n").nth(1).map_or(0, str::len);
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok()).unwrap_or(0);
        let mut rest = vec![0; length.saturating_sub(body)];
        stream.read_exact(&mut rest).await?;
        Ok(status)
    }
}

async fn read_to(stream: &mut TcpStream, mark: &[u8]) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    let mut part = [0; 4096];
    while !read.windows(mark.len()).any(|window| window == mark) {
        match stream.read(&mut part).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => read.extend_from_slice(&part[..count]),
        }
    }
    Ok(read)
}

/// Requests that reached an upstream and hold this text.
fn reached(up: &Upstream, text: &str) -> usize {
    up.state.lock().seen.iter().filter(|seen| seen.target.contains(text)).count()
}

fn at(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a few hundred")]
    let index = (times.len() as f64 * part).ceil() as usize;
    times[index.clamp(1, times.len()) - 1]
}

#[test]
fn the_drill() {
    let size = Size::wanted();
    let (up, grpc, open) = (Upstream::http(), Upstream::http(), Upstream::http());
    let tunnel = policy_head("open") + "  - { id: tunnel, effect: allow, to: [open], tunnel: true, grant: none }\n";
    let mut exeat = House::new()
        .listener("mesh", Capture::Host)
        .listener("egress", Capture::Forward)
        .upstream("up", &up)
        .upstream_with("grpc", &grpc, "protocol: h2")
        .raw_upstream(
            "open",
            &format!(
                "{{ owner: team@example.com, origins: [\"{}\"], intercept: false, reach: {{ networks: [127.0.0.0/8] }} }}",
                open.origin()
            ),
        )
        .policy("base.yaml", &allow_all(&["up", "grpc"]))
        .policy("open.yaml", &tunnel)
        // One worker: clients and upstreams of the drill live on the same two cores.
        .extra("limits: { audit_queue: 16384 }\nthreads: 1")
        .admin()
        .start();
    let drill = Drill {
        mesh: exeat.port("mesh"),
        egress: exeat.port("egress"),
        up: up.authority(),
        grpc: grpc.authority(),
        open: open.authority(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (next, asked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    for _ in 0..LOAD {
        let (drill, next, asked, stop) = (drill.clone(), Arc::clone(&next), Arc::clone(&asked), Arc::clone(&stop));
        runtime.spawn(async move { drill.load(next, asked, stop).await });
    }
    let (mut heard, mut told, mut ends, mut last, mut late) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), 0_usize);
    let mut slowest = (Duration::ZERO, "none");
    for round in 0..size.rounds {
        let target = if round % 2 == 0 { "everything".to_owned() } else { format!("workload {APP}") };
        let one = round_of(&exeat, &runtime, &drill, &up, size.streams, round, &target);
        let (admitted, lagged) = after(&up, &asked, one.acknowledged);
        assert_eq!(admitted, 0, "requests that were written after the acknowledgement reached the upstream");
        late += lagged;
        heard.push(one.heard);
        told.push(one.told);
        for end in &one.ends {
            ends.push(end.over.saturating_duration_since(one.acknowledged));
            last.push(end.last_byte.saturating_duration_since(one.acknowledged));
            slowest = slowest.max((end.over.saturating_duration_since(one.acknowledged), end.kind));
        }
        asked.lock().expect("asked").clear();
        if round + 1 < size.rounds {
            exeat.restore(&target);
        }
    }
    stop.store(true, Ordering::Relaxed);
    println!(
        "drill: {} streams, {} revocations under load: acknowledged in p50 {:?} p99 {:?} max {:?} (heard by the caller: p99 {:?}); last byte at most {:?}, last end p99 {:?} max {:?} after it; 0 admitted after it, {late} recorded by the upstream after it that were sent before",
        size.streams,
        size.rounds,
        at(&mut told, 0.5),
        at(&mut told, 0.99),
        at(&mut told, 1.0),
        at(&mut heard, 0.99),
        at(&mut last, 1.0),
        at(&mut ends, 0.99),
        at(&mut ends, 1.0),
    );
    assert!(at(&mut told, 0.99) <= size.acknowledged, "acknowledged within {:?}", size.acknowledged);
    assert!(slowest.0 <= size.ended, "a {} stream ended {:?} after the acknowledgement", slowest.1, slowest.0);
    exeat.signal(Signal::SIGKILL);
    exeat.wait();
    exeat.relaunch();
    exeat.ask("mesh", "GET", "/after-the-restart", &up.authority(), &[]).must_refuse(403, "revoked");
    assert_eq!(reached(&up, "/after-the-restart"), 0);
}

struct Round {
    /// When the caller had the acknowledgement.
    acknowledged: Instant,
    /// From asking to hearing.
    heard: Duration,
    /// From receipt to acknowledgement, by exeat's own word.
    told: Duration,
    ends: Vec<End>,
}

fn round_of(
    exeat: &Exeat,
    runtime: &tokio::runtime::Runtime,
    drill: &Drill,
    up: &Upstream,
    streams: usize,
    round: usize,
    target: &str,
) -> Round {
    let live = Arc::new(AtomicUsize::new(0));
    let polls = streams / KINDS.len() + usize::from(streams % KINDS.len() > 5);
    let mut opened = runtime.block_on(drill.open(streams, &live));
    let began = Instant::now();
    while live.load(Ordering::Relaxed) < streams - polls || reached(up, "/hang") < polls * (round + 1) {
        assert!(began.elapsed() < Duration::from_mins(1), "{} of {streams} streams live", live.load(Ordering::Relaxed));
        std::thread::park_timeout(Duration::from_millis(3));
    }
    let asking = Instant::now();
    let receipt = exeat.revoke(target);
    let acknowledged = Instant::now();
    let told = Duration::from_micros(receipt["took_us"].as_u64().expect("a number"));
    assert!(receipt["passages_ended"].as_u64() >= Some(streams as u64), "every stream was ended: {receipt}");
    assert_eq!(receipt["warnings"], serde_json::json!([]));
    let ends = runtime.block_on(async {
        let mut ends = Vec::new();
        let all = async {
            while let Some(end) = opened.join_next().await {
                ends.push(end.expect("its story"));
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), all).await.is_ok();
        assert!(in_time, "{} of {streams} streams ended", ends.len());
        ends
    });
    Round { acknowledged, heard: acknowledged - asking, told, ends }
}

/// Requests of the load that were written after the acknowledgement and reached the upstream; and those that the upstream read after it,
/// because they had lain in its socket.
fn after(up: &Upstream, asked: &Mutex<Vec<Asked>>, acknowledged: Instant) -> (usize, usize) {
    // Some are asked after it, so that there is something to count; refused, all of them.
    crate::harness::until("requests after the acknowledgement", || {
        let asked = asked.lock().expect("asked");
        let after = asked.iter().filter(|(_, about, status)| *about > acknowledged && *status != 0).collect::<Vec<_>>();
        assert!(after.iter().all(|(_, _, status)| *status == 403), "answered after the acknowledgement: {after:?}");
        (after.len() >= 20).then_some(())
    });
    let written: std::collections::HashSet<String> = asked
        .lock()
        .expect("asked")
        .iter()
        .filter(|(_, about, _)| *about > acknowledged)
        .map(|(number, ..)| format!("n={number}."))
        .collect();
    let inner = up.state.lock();
    let load = inner.seen.iter().filter(|seen| seen.target.starts_with("/status/200?"));
    let (mut admitted, mut lagged) = (0, 0);
    for seen in load.filter(|seen| seen.at > Some(acknowledged)) {
        let number = seen.target.rsplit('?').next().unwrap_or_default();
        if written.contains(number) {
            admitted += 1;
        } else {
            lagged += 1;
        }
    }
    (admitted, lagged)
}
