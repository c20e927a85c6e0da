//! Story: the machine runs out of something, or something that exeat asks does not answer. What can go on goes on, the rest is refused with
//! its code, and when the fault is over nothing has to be restarted.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::exeat::{Capture, allow_all};
use crate::harness::wire::request;
use crate::harness::{Exeat, House, Upstream, Wire, root, skipped, until};
use crate::records::chain;

fn house(up: &Upstream) -> House {
    House::new().listener("mesh", Capture::Host).upstream("up", up).policy("base.yaml", &allow_all(&["up"]))
}

/// Whether a program can be run like this here.
fn can(program: &str, words: &[&str]) -> bool {
    let output = std::process::Command::new(program).args(words).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn without_descriptors_connections_are_refused_probes_answered_and_nothing_spins() {
    if !can("prlimit", &["--nofile=64:64", "true"]) {
        return skipped("prlimit not present");
    }
    let up = Upstream::http();
    let exeat = house(&up).under(&["prlimit", "--nofile=128:128"]).start();
    assert!(exeat.output().contains("raise that limit"), "the operator is told: {}", exeat.output());
    let host = up.authority();
    assert_eq!(exeat.ask("mesh", "GET", "/before", &host, &[]).status, 200);
    let before = exeat.descriptors();
    // Each holds a place on both sides, as far as there are places.
    let mut held = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(("127.0.0.1", exeat.port("mesh"))).expect("connects");
        let _refused_at_once = stream.write_all(&request("GET", "/hang", &host, &[], b""));
        held.push(stream);
    }
    until("edge records of those that found no place", || {
        let refused = exeat.audit().iter().filter(|record| record["kind"] == "edge" && record["code"] == "overloaded").count();
        (refused >= 200).then_some(())
    });
    let (cpu, began) = (exeat.cpu(), Instant::now());
    for _ in 0..20 {
        assert_eq!(exeat.status("/readyz").status, 200, "a probe has its descriptor");
    }
    let (spent, passed) = (exeat.cpu().saturating_sub(cpu), began.elapsed());
    assert!(spent < Duration::from_millis(300) + passed / 2, "{spent:?} of processor time in {passed:?}: it spins");
    drop(held);
    until("room again", || {
        let mut wire = Wire::tcp(exeat.port("mesh"));
        wire.send(&request("GET", "/after", &host, &[("connection", "close")], b""));
        wire.try_answer("GET").ok().filter(|answer| answer.status == 200)
    });
    if let Some(before) = before {
        until("the descriptors to be given back", || exeat.descriptors().filter(|now| *now <= before + 40));
    }
    assert!(!exeat.output().contains("cannot accept"), "{}", exeat.output());
}

/// A control group with a limit of memory, removed when dropped.
struct Group(std::path::PathBuf);

impl Group {
    fn new(exeat: &Exeat, bytes: u64) -> Option<Self> {
        let pid = exeat.pid().to_string();
        for (base, limit) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
            let group = std::path::Path::new(base).join(format!("exeat-it-{pid}"));
            if std::fs::create_dir(&group).is_err() {
                continue;
            }
            let group = Self(group);
            let limited = std::fs::write(group.0.join(limit), bytes.to_string()).is_ok();
            if limited && std::fs::write(group.0.join("cgroup.procs"), &pid).is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..500 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_memory_limit_is_not_reached_by_what_callers_send() {
    let up = Upstream::http();
    // Before it runs: what it holds so far is not counted for the group.
    let mut exeat = house(&up).extra("limits: { body_grace: 1m, head_time: 30s }").start();
    let Some(group) = Group::new(&exeat, 384 << 20) else { return skipped("no control group of memory can be made here") };
    let host = up.authority();
    let mut held = Vec::new();
    // 600 heads of nearly the greatest size, 400 big answers that nobody reads, 200 bodies that nobody takes.
    let big = format!("GET /big HTTP/1.1\r\nHost: {host}\r\nX: {}", "v".repeat(60 << 10)).into_bytes();
    let body =
        [format!("POST /hang HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000000\r\n\r\n").into_bytes(), vec![b'x'; 1 << 20]].concat();
    for at in 0..1200 {
        let mut stream = TcpStream::connect(("127.0.0.1", exeat.port("mesh"))).expect("connects");
        stream.set_nonblocking(true).expect("set");
        let answer = request("GET", "/stream/100000000", &host, &[], b"");
        let bytes = match at % 6 {
            0..3 => &big,
            3..5 => &answer,
            _ => &body,
        };
        let _as_far_as_it_goes = stream.write(bytes);
        held.push(stream);
    }
    until("all of it to stand", || (exeat.metric(&["exeat_connections "]) >= 1200.0).then_some(()));
    for at in 0..20 {
        assert_eq!(exeat.ask("mesh", "GET", &format!("/good/{at}"), &host, &[("connection", "close")]).status, 200);
    }
    println!("1,200 connections: {} KiB resident", exeat.memory("VmRSS"));
    drop(held);
    assert!(exeat.exited().is_none(), "it was killed");
    until("all of it to be gone", || (exeat.metric(&["exeat_connections "]) < 2.0).then_some(()));
    assert_eq!(exeat.ask("mesh", "GET", "/after", &host, &[]).status, 200);
    drop(exeat);
    drop(group);
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        can("umount", &["-l", &self.0.display().to_string()]);
    }
}

#[test]
fn when_the_disk_has_room_again_records_are_kept_again() {
    if !root() {
        return skipped("a full disk needs root to mount a small tmpfs");
    }
    let up = Upstream::http();
    let house = house(&up);
    let small = house.path().join("small");
    std::fs::create_dir(&small).expect("a directory");
    let place = small.display().to_string();
    if !can("mount", &["-t", "tmpfs", "-o", "size=48k", "tmpfs", &place]) {
        return skipped("tmpfs cannot be mounted here");
    }
    let _unmount = Mounted(small.clone());
    let exeat = house.audit_at(&small.join("audit.jsonl")).start();
    let ask = |path: &str| exeat.ask("mesh", "GET", path, &up.authority(), &[]);
    until("the disk to be full", || (ask(&format!("/{}", "x".repeat(900))).refusal() == Some("audit_unavailable")).then_some(()));
    until("readyz to say so", || (exeat.status("/readyz").status == 503).then_some(()));
    assert!(can("mount", &["-o", "remount,size=8m", &place]), "the disk becomes bigger");
    until("records again", || (ask("/again").status == 200).then_some(()));
    until("readiness", || (exeat.status("/readyz").status == 200).then_some(()));
    exeat.record("what was refused meanwhile", |record| record["kind"] == "gap" && record["refused"].as_u64() > Some(0));
    exeat.record("the request after", |record| record["path"] == "/again" && record["kind"] == "access");
    chain(&exeat.audit());
}

#[test]
fn a_collector_that_never_answers_costs_a_counter_and_no_request() {
    let up = Upstream::http();
    let deaf = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = deaf.local_addr().expect("bound").port();
    let accepting = std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in deaf.incoming() {
            let Ok(stream) = stream else { continue };
            if held.len() >= 64 || stream.peer_addr().is_err() {
                return;
            }
            held.push(stream);
        }
    });
    drop(accepting);
    let mut exeat = house(&up)
        .extra(&format!("telemetry: {{ otlp: {{ endpoint: \"http://127.0.0.1:{port}\", protocol: http }} }}\nlimits: {{ span_queue: 64 }}\ndrain: {{ delay: 0s, deadline: 2s }}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .start();
    let mut wire = exeat.wire("mesh");
    let before = exeat.memory("VmRSS");
    for at in 0..1000 {
        assert_eq!(wire.ask("GET", &format!("/{at}"), &up.authority(), &[], b"").status, 200);
    }
    until("dropped spans to be counted", || (exeat.metric(&["exeat_spans_dropped_total"]) > 0.0).then_some(()));
    let now = exeat.memory("VmRSS");
    assert!(now < before + (32 << 10), "it holds {now} KiB, {before} before");
    assert_eq!(exeat.status("/readyz").status, 200);
    let began = Instant::now();
    exeat.signal(Signal::SIGTERM);
    assert_eq!(exeat.wait().code(), Some(0), "{}", exeat.output());
    assert!(began.elapsed() < Duration::from_secs(10), "its end waited {:?} for the collector", began.elapsed());
}

#[test]
fn names_that_nobody_answers_for_hold_up_nothing_else() {
    if !root() || !can("unshare", &["-m", "true"]) {
        return skipped("a resolver of one's own needs root and unshare");
    }
    let Ok(silent) = UdpSocket::bind("127.53.53.53:53") else { return skipped("port 53 of 127.53.53.53 is taken") };
    let up = Upstream::http();
    let house = house(&up)
        .raw_upstream(
            "hangs",
            "{ owner: t@example.com, origins: [\"http://*.hangs.test:81\"], reach: { networks: [127.0.0.0/8] }, credentials: [up-jwt] }",
        )
        .policy("hangs.yaml", &allow_all(&["hangs"]).replace("name: base", "name: hangs").replace("hangs-jwt", "up-jwt"))
        .extra("limits: { connect: 2s }");
    let resolv = house.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 127.53.53.53\noptions timeout:5 attempts:2\n").expect("written");
    let mount = format!("mount --bind {} /etc/resolv.conf && exec \"$0\" \"$@\"", resolv.display());
    let exeat = house.under(&["unshare", "-m", "sh", "-c", &mount]).start();
    // Forty names that hang, before any other was asked for.
    let asking: Vec<Wire> = (0..40)
        .map(|at| {
            let mut wire = exeat.wire("mesh");
            wire.send(&request("GET", "/x", &format!("n{at}.hangs.test:81"), &[], b""));
            wire
        })
        .collect();
    let mut question = [0; 512];
    silent.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    assert!(silent.recv(&mut question).is_ok(), "the resolver was asked");
    let began = Instant::now();
    assert_eq!(exeat.ask("mesh", "GET", "/good", &up.authority(), &[]).status, 200);
    assert!(began.elapsed() < Duration::from_secs(1), "another name waited {:?}", began.elapsed());
    for mut wire in asking {
        let answer = wire.answer("GET");
        assert!(matches!(answer.refusal(), Some("upstream_unreachable" | "upstream_timeout")), "{answer:?}");
    }
    assert_eq!(exeat.status("/readyz").status, 200);
}
