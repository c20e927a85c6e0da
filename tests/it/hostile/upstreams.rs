//! Upstreams that answer with floods, garbage, resets or nothing, in both protocols: the caller is told soon, never sees half an answer as
//! a whole one, and neither memory nor the requests to other upstreams suffer.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::baseline::{Baseline, good_requests_go_on};
use crate::harness::exeat::{Capture, allow_all};
use crate::harness::h2::{block, frame};
use crate::harness::{Exeat, House, Upstream, Wire, h1};

/// Most that one connection writes: what a flood is without an end.
const FLOOD: usize = 256 << 20;

type Behaviour = fn(&mut TcpStream);

/// A server that does one thing to every connection.
struct Rude {
    port: u16,
    over: Arc<AtomicBool>,
}

impl Rude {
    fn start(behave: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                std::thread::spawn(move || {
                    let limit = Some(Duration::from_secs(20));
                    stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)).expect("set");
                    behave(&mut stream);
                });
            }
        });
        Self { port, over }
    }
}

impl Drop for Rude {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Reads until a request's head is whole.
fn head(stream: &mut TcpStream) {
    let (mut seen, mut part) = (Vec::new(), [0; 4096]);
    while h1::head_end(&seen).is_none() {
        match stream.read(&mut part) {
            Ok(read) if read > 0 => seen.extend_from_slice(&part[..read]),
            Ok(_) | Err(_) => return,
        }
    }
}

/// Writes the same until the other side has had enough, up to 16 MiB in a second: a flood takes exeat's time, not the test's
/// own, and a build without optimisation reads no faster.
fn flood(stream: &mut TcpStream, bytes: &[u8]) {
    let much = bytes.repeat((64 << 10) / bytes.len() + 1);
    let mut written = 0;
    while written < FLOOD && stream.write_all(&much).is_ok() {
        written += much.len();
        std::thread::park_timeout(Duration::from_millis(4));
    }
}

fn drip(stream: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes.iter().cycle().take(500) {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Waits for the other side to go.
fn silent(stream: &mut TcpStream) {
    let mut part = [0; 4096];
    while stream.read(&mut part).is_ok_and(|read| read > 0) {}
}

/// Keeps the connection and reads nothing of it.
fn deaf(stream: &mut TcpStream) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(15) && stream.take_error().is_ok_and(|error| error.is_none()) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// Closes with a reset.
fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("set");
}

const HTTP1: &[(&str, Behaviour)] = &[
    ("head", |stream| {
        head(stream);
        let _begun = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        flood(stream, format!("X-Filler: {}\r\n", "v".repeat(1000)).as_bytes());
    }),
    ("hints", |stream| {
        head(stream);
        flood(stream, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    }),
    ("drip", |stream| {
        head(stream);
        drip(stream, b"HTTP/1.1 200 OK\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy");
    }),
    ("extension", |stream| {
        head(stream);
        let _begun = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;");
        flood(stream, b"xxxxxxxxxxxxxxxx");
    }),
    ("trailers", |stream| {
        head(stream);
        let _begun = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
        flood(stream, b"X-Filler: vvvvvvvvvvvvvvvvvvvvvv\r\n");
    }),
    ("garbage", |stream| {
        head(stream);
        flood(stream, &[0, 255, 13, 10, 1, 13]);
    }),
    ("hangup", |_| {}),
    ("reset", |stream| reset(stream)),
    ("half-head", |stream| {
        head(stream);
        let _begun = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le");
        reset(stream);
    }),
    ("half-body", |stream| {
        head(stream);
        let _begun = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this");
        reset(stream);
    }),
    ("half-chunk", |stream| {
        head(stream);
        let _begun = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nonly this");
    }),
    ("silence", silent),
    ("deaf", deaf),
];

/// Says the server's half of the preface, reads the client's up to its first request.
fn greet(stream: &mut TcpStream, settings: &[u8]) {
    let _said = stream.write_all(&frame(4, 0, 0, settings));
    let mut preface = [0; 24];
    if stream.read_exact(&mut preface).is_err() {
        return;
    }
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if stream.read_exact(&mut payload).is_err() || head[3] == 1 {
            return;
        }
    }
}

/// A response head for the first stream.
fn answer(flags: u8) -> Vec<u8> {
    frame(1, flags, 1, &block(&[(b":status", b"200")]))
}

const HTTP2: &[(&str, Behaviour)] = &[
    ("h2-settings", |stream| {
        greet(stream, &[]);
        flood(stream, &frame(4, 0, 0, &[]));
    }),
    ("h2-pings", |stream| {
        greet(stream, &[]);
        flood(stream, &frame(6, 0, 0, &[0; 8]));
    }),
    ("h2-continuation", |stream| {
        greet(stream, &[]);
        let _begun = stream.write_all(&answer(0));
        flood(stream, &frame(9, 0, 1, &block(&[(b"x", b"y")])));
    }),
    ("h2-bomb", |stream| {
        greet(stream, &[]);
        let mut bomb = block(&[(b":status", b"200")]);
        bomb.extend([0x40, 1, b'x', 127, 0x81, 0x1e]);
        bomb.extend(std::iter::repeat_n(b'v', 4000));
        bomb.extend(std::iter::repeat_n(0xbe, 12_000));
        let _sent = stream.write_all(&frame(1, 4, 1, &bomb[..16_000]));
        silent(stream);
    }),
    ("h2-empty", |stream| {
        greet(stream, &[]);
        let _begun = stream.write_all(&answer(4));
        flood(stream, &frame(0, 0, 1, &[]));
    }),
    ("h2-reset", |stream| {
        greet(stream, &[]);
        let _said = stream.write_all(&frame(3, 0, 1, &11_u32.to_be_bytes()));
        silent(stream);
    }),
    ("h2-goaway", |stream| {
        greet(stream, &[]);
        let _said = stream.write_all(&frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]));
        silent(stream);
    }),
    ("h2-window", |stream| {
        greet(stream, &[]);
        flood(stream, &frame(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes()));
    }),
    ("h2-no-window", |stream| {
        greet(stream, &[0, 4, 0, 0, 0, 0]);
        silent(stream);
    }),
    ("h2-push", |stream| {
        greet(stream, &[]);
        let _said = stream.write_all(&frame(5, 4, 1, &[0, 0, 0, 2, 0x82]));
        silent(stream);
    }),
    ("h2-nothing", silent),
    ("h2-garbage", |stream| flood(stream, &[255, 255, 255, 7, 7, 7])),
    ("h2-half", |stream| {
        greet(stream, &[]);
        let _begun = stream.write_all(&[answer(4), frame(0, 0, 1, b"only this")].concat());
        reset(stream);
    }),
    ("h2-deaf", |stream| {
        let _said = stream.write_all(&frame(4, 0, 0, &[]));
        deaf(stream);
    }),
];

/// Asks a rude upstream; a body of 40 MB goes along with `POST`. What was wrong with what came back.
fn ask(exeat: &Exeat, name: &str, host: &str, method: &str) -> Option<String> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", exeat.port("mesh"))).expect("connects");
    stream.set_write_timeout(Some(Duration::from_secs(15))).expect("set");
    let mut wire = Wire::of(stream.try_clone().expect("a second handle")).within(Duration::from_secs(15));
    let told = std::thread::scope(|scope| {
        scope.spawn(move || {
            let length = if method == "POST" { 40 << 20 } else { 0 };
            let head = format!("{method} /rude HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
            let mut going = stream.write_all(head.as_bytes()).is_ok();
            let (part, mut sent) = (vec![b'x'; 64 << 10], 0);
            while going && sent < length {
                going = stream.write_all(&part).is_ok();
                sent += part.len();
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        let told = wire.try_answer(method);
        wire.shut();
        told
    });
    let took = began.elapsed();
    if took > Duration::from_secs(14) {
        return Some(format!("{name} {method}: it took {took:?}"));
    }
    match told {
        // A connection that is cut tells enough.
        Err(_) => None,
        Ok(answer) if answer.refusal().is_some() && (502..=504).contains(&answer.status) => None,
        Ok(answer) if answer.status == 200 && !answer.complete => None,
        Ok(answer) => Some(format!("{name} {method}: {answer:?}")),
    }
}

#[test]
fn no_upstream_floods_or_starves_what_is_beside_it() {
    let up = Upstream::http();
    let rude: Vec<(&str, Rude)> = HTTP1.iter().chain(HTTP2).map(|(name, behave)| (*name, Rude::start(*behave))).collect();
    let mut house = House::new().listener("mesh", Capture::Host).upstream("up", &up);
    let mut names = vec!["up"];
    for (name, server) in &rude {
        let protocol = if name.starts_with("h2-") { "protocol: h2" } else { "protocol: h1" };
        house = house.origin(name, &[&format!("http://127.0.0.1:{}", server.port)], protocol);
        names.push(name);
    }
    let exeat = house
        .policy("base.yaml", &allow_all(&names))
        .extra("limits: { response_head: 2s, stream_idle: 3s, connect: 2s, tls: 2s, body_grace: 1s }")
        .start();
    assert_eq!(exeat.ask("mesh", "GET", "/warm", &up.authority(), &[]).status, 200);
    let before = Baseline::of(&exeat);
    let cpu = exeat.cpu();
    let wrong = good_requests_go_on(&exeat, &up.authority(), "rude upstreams", || {
        std::thread::scope(|scope| {
            let asking: Vec<_> = rude
                .iter()
                .flat_map(|(name, server)| ["GET", "POST"].map(|method| (name, server.port, method)))
                .map(|(name, port, method)| {
                    let exeat = &exeat;
                    scope.spawn(move || ask(exeat, name, &format!("127.0.0.1:{port}"), method))
                })
                .collect();
            asking.into_iter().filter_map(|asked| asked.join().expect("asked")).collect::<Vec<_>>()
        })
    });
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 2 * rude.len(), wrong.join("\n"));
    let most = exeat.memory("VmHWM");
    assert!(most < before.memory + (128 << 10), "54 rude answers made it hold {most} KiB at most, {} before", before.memory);
    println!(
        "{} rude upstreams: at most {} KiB more, {:?} of processor time",
        rude.len(),
        most - before.memory,
        exeat.cpu().saturating_sub(cpu)
    );
    drop(rude);
    before.again(&exeat, 40, 96 << 10);
    let records = exeat.audit().iter().filter(|record| record["kind"] == "access" && record["path"] == "/rude").count();
    assert_eq!(records, 2 * (HTTP1.len() + HTTP2.len()), "each has its record");
}
