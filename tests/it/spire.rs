//! Stories against SPIRE itself, built once by `tests/interop/build`, with an upstream on go-spiffe: another implementation on both sides.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::exeat::{APP, Capture, DOMAIN, policy_head};
use crate::harness::wire::request;
use crate::harness::{Exeat, House, Upstream, Wire, free_port, skipped};

const CALLER: &str = "spiffe://it.test/ns/it/sa/caller";
const LEDGER: &str = "spiffe://it.test/ns/it/sa/ledger";
/// Life of an SVID. SPIRE backdates by 10 s, so half of its life is over when it is born: the agent renews at each sync, once a second.
const LIFE: &str = "10";
const ROTATIONS: usize = 20;
const RATE: u64 = 500;
const CALLERS: u64 = 4;

/// Where `tests/interop/build` puts what it builds.
pub fn tool(name: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("EXEAT_INTEROP")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/exeat-interop")))?;
    Some(cache.join("bin").join(name)).filter(|path| path.is_file())
}

/// Waits for something that a process of SPIRE takes its time for.
pub fn patiently<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_mins(1), "waited a minute for {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

pub fn spawn(program: &Path, arguments: &[&str], log: &Path, environment: &[(&str, &str)]) -> Process {
    let log = fs::File::options().create(true).append(true).open(log).expect("a log");
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
    Process(command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("it starts"))
}

/// A server, an agent, and the entries of two workloads on this machine.
pub struct Spire {
    pub dir: tempfile::TempDir,
    server: PathBuf,
    agent: PathBuf,
    pub running: Option<Process>,
    _server: Process,
}

impl Spire {
    fn start(server: PathBuf, agent: PathBuf) -> Self {
        Self::with_broker(server, agent, None)
    }

    /// The same, whose agent takes this SPIFFE ID as a broker that may refer to processes.
    pub fn with_broker(server: PathBuf, agent: PathBuf, broker: Option<&str>) -> Self {
        let dir = tempfile::TempDir::with_prefix("exeat-spire-").expect("a directory");
        let (root, port) = (dir.path().display().to_string(), free_port());
        let config = format!(
            r#"server {{ bind_address = "127.0.0.1" bind_port = "{port}" socket_path = "{root}/server.sock" trust_domain = "{DOMAIN}" data_dir = "{root}" log_level = "WARN"
  experimental {{ cache_reload_interval = "1s" }} }}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{root}/datastore.sqlite3" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
        );
        fs::write(dir.path().join("server.conf"), config).expect("written");
        let broker = broker.map_or_else(String::new, |id| {
            fs::create_dir(dir.path().join("broker")).expect("a directory");
            format!(
                r#" broker {{ socket_path = "{root}/broker/api.sock" brokers = [ {{ id = "{id}" allowed_reference_types = [ {{ type_url = "type.googleapis.com/spiffe.broker.WorkloadPIDReference" }} ] }} ] }}"#
            )
        });
        let config = format!(
            r#"agent {{ data_dir = "{root}/agent" log_level = "WARN" server_address = "127.0.0.1" server_port = "{port}" socket_path = "{root}/public/agent.sock" trust_domain = "{DOMAIN}" insecure_bootstrap = true
  experimental {{ sync_interval = "1s"{broker} }} }}
plugins {{
  KeyManager "disk" {{ plugin_data {{ directory = "{root}/agent" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
}}
"#
        );
        // The agent wants the sockets of its two APIs in directories of their own.
        for name in ["agent", "public"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        fs::write(dir.path().join("agent.conf"), config).expect("written");
        let running = spawn(&server, &["run", "-config", &format!("{root}/server.conf")], &dir.path().join("server.log"), &[]);
        let mut spire = Self { dir, server, agent, running: None, _server: running };
        patiently("spire-server", || spire.ask(&["healthcheck"]).status.success().then_some(()));
        let token = spire.ask(&["token", "generate", "-spiffeID", "spiffe://it.test/host"]);
        let token = String::from_utf8_lossy(&token.stdout).trim().trim_start_matches("Token: ").to_owned();
        spire.attest(&["-joinToken", &token]);
        spire
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.path("public/agent.sock"))
    }

    pub fn ask(&self, words: &[&str]) -> Output {
        Command::new(&self.server).args(words).args(["-socketPath", &self.path("server.sock")]).output().expect("spire-server runs")
    }

    pub fn attest(&mut self, more: &[&str]) {
        let config = self.path("agent.conf");
        let mut words = vec!["run", "-config", &config];
        words.extend(more);
        self.running = Some(spawn(&self.agent, &words, &self.dir.path().join("agent.log"), &[]));
        let socket = self.path("public/agent.sock");
        patiently("spire-agent", || {
            let healthy = Command::new(&self.agent).args(["healthcheck", "-socketPath", &socket]).output().expect("spire-agent runs");
            healthy.status.success().then_some(())
        });
    }

    /// Registers a program of this host; the entry's id.
    pub fn register(&self, id: &str, program: &Path) -> String {
        let selector = format!("unix:path:{}", program.canonicalize().expect("it is there").display());
        let made = self.ask(&[
            "entry",
            "create",
            "-parentID",
            "spiffe://it.test/host",
            "-spiffeID",
            id,
            "-selector",
            &selector,
            "-x509SVIDTTL",
            LIFE,
        ]);
        let text = String::from_utf8_lossy(&made.stdout).into_owned();
        assert!(made.status.success(), "{text}{}", String::from_utf8_lossy(&made.stderr));
        let line = text.lines().find(|line| line.starts_with("Entry ID")).expect("an id");
        line.split(':').nth(1).expect("an id").trim().to_owned()
    }
}

impl Spire {
    /// An upstream on go-spiffe that takes this caller alone; its program must be registered.
    pub fn upstream(&self, program: &Path, port: u16, caller: &str) -> Process {
        let (log, endpoint) = (self.dir.path().join(format!("peer-{port}.log")), self.endpoint());
        patiently("the upstream's first SVID", || {
            let mut peer = spawn(program, &[&format!("127.0.0.1:{port}"), caller], &log, &[("SPIFFE_ENDPOINT_SOCKET", &endpoint)]);
            patiently("the upstream to listen or to end", || {
                let ended = peer.0.try_wait().expect("waits").is_some();
                let listens = std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
                (ended || listens).then_some(listens)
            })
            .then_some(peer)
        })
    }
}

/// Requests at a steady rate on connections of their own; what went wrong, and the serial numbers that the upstream saw.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    serials: Arc<Mutex<HashSet<String>>>,
    began: Instant,
    callers: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(port: u16) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            sent: Arc::default(),
            failed: Arc::default(),
            serials: Arc::default(),
            began: Instant::now(),
            callers: Vec::new(),
        };
        for _ in 0..CALLERS {
            let (stop, sent, failed, serials, began) =
                (Arc::clone(&load.stop), Arc::clone(&load.sent), Arc::clone(&load.failed), Arc::clone(&load.serials), load.began);
            load.callers.push(std::thread::spawn(move || {
                let mut wire = Wire::tcp(port).within(Duration::from_mins(5));
                let mut own = 0;
                while !stop.load(Ordering::Relaxed) {
                    // Paced by the clock and not by the answers: who falls behind catches up.
                    let due = began + Duration::from_nanos(own * CALLERS * 1_000_000_000 / RATE);
                    if let Some(early) = due.checked_duration_since(Instant::now()) {
                        std::thread::park_timeout(early);
                    }
                    own += 1;
                    let answer = wire.ask("GET", "/load", "localhost", &[], b"");
                    sent.fetch_add(1, Ordering::Relaxed);
                    let text = answer.text();
                    if answer.status == 200 {
                        let serial = text.split(' ').next().unwrap_or_default().to_owned();
                        serials.lock().expect("serials").insert(serial);
                    } else {
                        failed.lock().expect("failures").push(text);
                    }
                }
            }));
        }
        load
    }

    fn serials(&self) -> usize {
        self.serials.lock().expect("serials").len()
    }

    fn end(self) -> (u64, f64, Vec<String>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.into_iter().for_each(|caller| caller.join().expect("a caller"));
        let (sent, took) = (self.sent.load(Ordering::Relaxed), self.began.elapsed().as_secs_f64());
        let (failed, serials) = (self.failed.lock().expect("failures").clone(), self.serials.lock().expect("serials").len());
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        (sent, sent as f64 / took, failed, serials)
    }
}

/// A caller on go-spiffe: a program of its own, so that the agent tells it from others.
struct Caller {
    log: PathBuf,
    _process: Process,
}

impl Caller {
    /// Asks at the steady rate; the caller's own path must be registered.
    fn start(program: &Path, spire: &Spire, port: u16) -> Self {
        let (log, endpoint) = (spire.dir.path().join("caller.log"), spire.endpoint());
        let url = format!("https://127.0.0.1:{port}/called");
        let process = spawn(program, &["call", &url, APP, &RATE.to_string()], &log, &[("SPIFFE_ENDPOINT_SOCKET", &endpoint)]);
        Self { log, _process: process }
    }

    /// What it said last.
    fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().rfind(|line| line.contains("last=")).unwrap_or(&text).to_owned()
    }

    fn count(&self, what: &str) -> usize {
        let word = format!("{what}=");
        self.said().split(' ').find_map(|part| part.strip_prefix(&word)?.parse().ok()).unwrap_or(0)
    }
}

fn get(exeat: &Exeat, path: &str) -> crate::harness::Answer {
    exeat.ask("mesh", "GET", path, "localhost", &[])
}

#[test]
fn rotation_restart_and_withdrawal_against_spire_and_go_spiffe() {
    let (Some(server), Some(agent), Some(peer)) = (tool("spire-server"), tool("spire-agent"), tool("mesh-peer")) else {
        return skipped("spire not present");
    };
    let mut spire = Spire::start(server, agent);
    let entry = spire.register(APP, Path::new(env!("CARGO_BIN_EXE_exeat")));
    spire.register(LEDGER, &peer);
    let caller = spire.dir.path().join("mesh-caller");
    fs::copy(&peer, &caller).expect("copied");
    spire.register(CALLER, &caller);
    let port = free_port();
    let endpoint = spire.endpoint();
    let _peer = spire.upstream(&peer, port, APP);
    let policy = policy_head("base").replace("rules:", &format!("  caller: {{ spiffe: \"{CALLER}\" }}\nrules:"))
        + "  - { id: bare, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], grant: none }\n"
        + "  - { id: called, effect: allow, from: [caller], to: [inner], methods: [GET], paths: [\"/**\"], grant: none }\n";
    let inner = Upstream::http();
    let upstream = format!(
        "{{ owner: team@example.com, origins: [\"https://localhost:{port}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, tls: {{ client_certificate: svid, spiffe_id: \"{LEDGER}\" }} }}"
    );
    let exeat = House::new()
        .identity("pod", &format!("{{ spiffe: {{ socket: \"{endpoint}\" }} }}"))
        .listener_for("mesh", Capture::Route("up"), "pod")
        .identity("callers", &format!("{{ client_cert: {{ trust: {{ workload_api: {{ socket: \"{endpoint}\" }} }} }} }}"))
        .listener_with("door", Capture::Route("inner"), "callers", "tls: { svid: callers }")
        .upstream("inner", &inner)
        .raw_upstream("up", &upstream)
        .policy("base.yaml", &policy)
        .spawn();
    patiently("exeat to become ready", || {
        std::net::TcpStream::connect(("127.0.0.1", exeat.house.status_port())).ok()?;
        (exeat.status("/readyz").status == 200).then_some(())
    });
    assert_eq!(get(&exeat, "/first").status, 200);

    let load = Load::start(exeat.port("mesh"));
    let caller = Caller::start(&caller, &spire, exeat.port("door"));
    let rotated = || load.serials().min(caller.count("own")).min(caller.count("server"));
    patiently("the rotations", || (rotated() > ROTATIONS).then_some(()));
    // The agent dies in the middle of it, and comes back as the one that it was.
    drop(spire.running.take());
    spire.attest(&[]);
    let before = (load.serials(), caller.count("own"), caller.count("server"));
    patiently("a rotation by the agent that came back", || {
        let now = (load.serials(), caller.count("own"), caller.count("server"));
        (now.0 > before.0 + 2 && now.1 > before.1 + 2 && now.2 > before.2 + 2).then_some(())
    });
    let told_by_caller = caller.said();
    let (sent, rate, failed, serials) = load.end();
    println!(
        "spire: towards go-spiffe: {serials} certificates seen by the upstream, {sent} requests at {rate:.0}/s, {} failed",
        failed.len()
    );
    println!("spire: from go-spiffe: own is the caller's certificates, server is exeat's: {told_by_caller}");
    assert!(failed.is_empty(), "{failed:?}");
    let why = || exeat.audit().into_iter().find(|record| record["listener"] == "door" && record["code"] == "unauthenticated");
    assert_eq!(caller.count("failed"), 0, "{}\n{:?}", caller.said(), why());

    let deleted = spire.ask(&["entry", "delete", "-entryID", &entry]);
    assert!(deleted.status.success());
    let began = Instant::now();
    let mut last_good = began;
    let refused = patiently("the first refusal", || {
        let mut wire = exeat.wire("mesh");
        wire.send(&request("GET", "/deleted", "localhost", &[], b""));
        // The one that is under way when the news comes is cut off without an answer.
        let answer = wire.try_answer("GET").ok()?;
        if answer.status == 200 {
            last_good = Instant::now();
            return None;
        }
        Some(answer)
    });
    let (first_bad, at) = (Instant::now(), jiff::Timestamp::now());
    refused.must_refuse(403, "unauthenticated");
    (0..50).for_each(|_| get(&exeat, "/deleted").must_refuse(403, "unauthenticated"));
    patiently("the go-spiffe caller to be refused", || (caller.count("failed") > 0).then_some(()));
    // exeat's own log says when the Workload API told it.
    let log = exeat.output();
    let line = log.lines().find(|line| line.contains("the identity is withdrawn")).expect("the withdrawal is told");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let told: jiff::Timestamp = line["timestamp"].as_str().and_then(|time| time.parse().ok()).expect("a time");
    let after = at.duration_since(told);
    println!(
        "spire: entry deleted, first refusal {:?} after the deletion, {after:?} after the Workload API told exeat, {:?} after the last answer",
        first_bad - began,
        first_bad - last_good,
    );
    assert!(after < jiff::SignedDuration::from_secs(1), "{after:?}: {line}");
}
