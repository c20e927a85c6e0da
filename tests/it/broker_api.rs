//! Stories: one exeat for many workloads of a host. Each process is who the agent says that it is, shows its own SVID and nobody else's,
//! and nothing of it outlives it.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::harness::broker_api::{BrokerApi, Fault, Unknown, WHO};
use crate::harness::exeat::{Capture, DOMAIN, Exeat, policy_head};
use crate::harness::spiffe::{self, TrustDomain, WorkloadApi};
use crate::harness::wire::request;
use crate::harness::{House, Upstream, Wire, jwt, root, skipped, until};

const LIFE: Duration = Duration::from_hours(1);
const LEDGER: &str = "spiffe://it.test/ns/it/sa/ledger";

fn id(who: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/it/sa/{who}")
}

/// The other half of every story: a program of its own, which asks what it is told to.
///
/// `get HOST PATH COUNT` says how it went and how many different first words the answers had; `stream HOST` says `open`, and `cut` or
/// `whole` when it is over.
#[test]
fn a_workload_asks() {
    let Some(socket) = std::env::var_os("EXEAT_IT_SOCKET") else { return };
    let open = || Wire::unix(Path::new(&socket)).within(Duration::from_mins(5));
    let mut wire = open();
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["get", host, path, count] => {
                let count: usize = count.parse().expect("a number");
                let (mut words, mut last, mut failed) = (HashSet::new(), String::new(), None);
                for at in 0..count {
                    // New connections among the old ones, so that connections interleave as well as requests.
                    if at % 50 == 49 || failed.is_some() {
                        wire = open();
                    }
                    wire.send(&request("GET", &format!("{path}/{at}"), host, &[("authorization", "Bearer of-the-app")], b""));
                    // What is under way when an identity is withdrawn is cut off without an answer.
                    let Ok(answer) = wire.try_answer("GET") else {
                        failed = Some("cut".to_owned());
                        break;
                    };
                    last = answer.text().replace('\n', " ");
                    failed = (answer.status != 200).then(|| format!("{} {}", answer.status, answer.refusal().unwrap_or("-")));
                    if failed.is_some() {
                        break;
                    }
                    words.insert(last.split(' ').next().unwrap_or_default().to_owned());
                }
                match failed {
                    Some(failed) => {
                        println!("~ failed {failed} {last}");
                        wire = open();
                    }
                    None => println!("~ done {} {last}", words.len()),
                }
            }
            ["stream", host] => {
                let mut stream = open();
                stream.send(format!("GET /sse/1000 HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
                let head = stream.open_answer().expect("a head");
                println!("~ {}", if head.status == 200 { "open" } else { "refused" });
                let whole = loop {
                    match stream.part(&head.fields) {
                        Ok(Some(_)) => {}
                        Ok(None) => break true,
                        Err(_) => break false,
                    }
                };
                println!("~ {}", if whole { "whole" } else { "cut" });
            }
            other => panic!("what is {other:?}?"),
        }
    }
}

/// A workload that runs; it ends when dropped.
pub struct Workload {
    child: Child,
    orders: ChildStdin,
    words: BufReader<ChildStdout>,
}

impl Workload {
    /// This test program, attested as `who`.
    pub fn start(exeat: &Exeat, who: &str) -> Self {
        Self::of(&std::env::current_exe().expect("this program"), exeat, who)
    }

    /// A copy of this test program.
    pub fn of(program: &Path, exeat: &Exeat, who: &str) -> Self {
        let mut command = Command::new(program);
        command.args(["--exact", "broker_api::a_workload_asks", "--nocapture"]);
        command.env("EXEAT_IT_SOCKET", exeat.socket_path("sock"));
        Self::spawn(command, who)
    }

    fn spawn(mut command: Command, who: &str) -> Self {
        let mut child = command.env(WHO, who).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let (orders, words) = (child.stdin.take().expect("piped"), BufReader::new(child.stdout.take().expect("piped")));
        Self { child, orders, words }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to do something.
    pub fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("it listens");
    }

    /// Its next word.
    pub fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.words.read_line(&mut line).expect("read") > 0, "the workload ended");
            if let Some((_, word)) = line.trim_end().split_once("~ ") {
                return word.to_owned();
            }
        }
    }

    pub fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.hear()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A host of `it.test`: its agent with both APIs, and exeat registered as a broker.
struct Scene {
    domain: Arc<TrustDomain>,
    own: WorkloadApi,
    agent: BrokerApi,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::TempDir::with_prefix("exeat-broker-").expect("a directory");
        let domain = Arc::new(TrustDomain::new(DOMAIN));
        let own = WorkloadApi::start(dir.path(), &domain);
        own.give(&[(&domain.svid("ns/it/sa/exeat", LIFE), "")]);
        let agent = BrokerApi::start(dir.path(), &domain);
        Self { domain, own, agent, _dir: dir }
    }

    /// An upstream that demands certificates of the trust domain, and says which it saw.
    fn mesh_upstream(&self) -> Upstream {
        Upstream::https_by(TrustDomain::server(&self.domain.svid("ns/it/sa/ledger", LIFE), &[&self.domain], &["h2", "http/1.1"]))
    }

    fn house(&self, up: &Upstream) -> House {
        let upstream = format!(
            "{{ owner: team@example.com, origins: [\"{}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, tls: {{ client_certificate: svid, spiffe_id: \"{LEDGER}\" }} }}",
            up.origin()
        );
        House::new()
            .identity(
                "host",
                &format!(
                    "{{ broker_api: {{ socket: \"{}\", workload_api: {{ socket: \"{}\" }} }} }}",
                    self.agent.endpoint(),
                    self.own.endpoint()
                ),
            )
            .socket("sock", Capture::Route("up"), "host")
            .raw_upstream("up", &upstream)
            .policy("base.yaml", &policy("none"))
    }
}

/// One and two may do everything at `up`.
fn policy(grant: &str) -> String {
    policy_head("base")
        .replace("from: [app]", "from: [one, two]")
        .replace("rules:", &format!("  one: {{ spiffe: \"{}\" }}\n  two: {{ spiffe: \"{}\" }}\nrules:", id("one"), id("two")))
        + &format!("  - {{ id: all, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], grant: {grant} }}\n")
}

#[test]
fn each_process_shows_its_own_svid_and_ten_thousand_requests_are_never_mixed_up() {
    let scene = Scene::new();
    let up = scene.mesh_upstream();
    let mut certificates = [vec![scene.agent.register("one")], vec![scene.agent.register("two")]];
    let exeat = scene.house(&up).start();
    let names = ["one", "two"];
    let mut workloads = names.map(|who| Workload::start(&exeat, who));
    for (workload, who) in workloads.iter_mut().zip(names) {
        workload.tell(&format!("get up /{who} 5000"));
    }
    // Both are given other certificates in the middle of it.
    for turn in 1..4 {
        until("some of the requests", || (up.count() > turn * 2_000).then_some(()));
        for (who, known) in names.iter().zip(&mut certificates) {
            known.push(scene.agent.register(who));
        }
    }
    for workload in &mut workloads {
        let word = crate::spire::patiently("the requests", || Some(workload.hear()));
        assert!(word.starts_with("done"), "{word}");
    }
    let (seen, connections) = (up.seen(), up.connections());
    assert_eq!(seen.len(), 10_000);
    let (mut turns, mut last, mut shown) = (0, 0, [HashSet::new(), HashSet::new()]);
    for one in &seen {
        let at = names.iter().position(|who| one.target.starts_with(&format!("/{who}/"))).expect("one of two");
        let certificate = connections[one.connection].client.as_ref().expect("a certificate");
        assert!(certificates[at].contains(certificate), "{} was shown another's certificate", one.target);
        assert!(!one.text().contains("of-the-app"));
        shown[at].insert(certificate.clone());
        turns += usize::from(at != last);
        last = at;
    }
    assert!(turns > 500, "the two took turns {turns} times");
    assert!(shown.iter().all(|shown| shown.len() > 1), "each showed what it was given later");
    for (who, workload) in names.iter().zip(&workloads) {
        assert_eq!(scene.agent.calls_about(workload.pid()), 1, "one stream for all connections of {who}");
        let record = exeat.record(who, |record| record["workload"]["id"] == id(who));
        assert_eq!(
            (record["workload"]["attestation"].as_str(), record["workload"]["pid"].as_u64()),
            (Some("broker_api"), Some(workload.pid().into()))
        );
        assert!(record["attempts"][0]["certificate_sha256"].as_str().is_some_and(|text| text.len() == 64), "{record}");
    }
    let own = scene.own.served().x509.svids[0].x509_svid.clone();
    assert!(scene.agent.served().calls.iter().all(|call| call.secured && call.broker == own), "asked by exeat itself, with the header");
    assert!(exeat.metrics().contains("exeat_identity_processes{identity=\"host\"} 2"), "{}", exeat.metrics());
    println!("requests: {}, turns: {turns}, certificates: {} and {}", seen.len(), shown[0].len(), shown[1].len());
    drop(workloads);
    until("both processes to be let go of", || (exeat.metric(&["exeat_identity_processes", "host"]) < 0.5).then_some(()));
}

#[test]
fn each_process_has_a_jwt_svid_of_its_own() {
    let scene = Scene::new();
    let up = Upstream::http();
    scene.agent.register("one");
    scene.agent.register("two");
    let plain = format!(
        "{{ owner: team@example.com, origins: [\"{}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, credentials: [own] }}",
        up.origin()
    );
    let exeat = scene
        .house(&scene.mesh_upstream())
        .raw_upstream("plain", &plain)
        .listener_for("fixed", Capture::Route("plain"), "app")
        .socket("plain", Capture::Route("plain"), "host")
        .credential("own", "{ jwt_svid: { audience: \"https://up.audience.test\" } }")
        .policy(
            "plain.yaml",
            &policy("own")
                .replace("name: base", "name: plain")
                .replace("to: [up]", "to: [plain]")
                .replace("from: [one, two]", "from: [one, two, app]"),
        )
        .start();
    for who in ["one", "two"] {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "broker_api::a_workload_asks", "--nocapture"]).env("EXEAT_IT_SOCKET", exeat.socket_path("plain"));
        let mut workload = Workload::spawn(command, who);
        until("the JWT keys to be there", || workload.ask(&format!("get plain /{who} 20")).starts_with("done").then_some(()));
        let tokens: HashSet<String> =
            up.matching(&format!("/{who}/")).iter().map(|seen| seen.bearer().expect("a token").to_owned()).collect();
        assert_eq!(tokens.len(), 1, "one token serves all");
        let claims: Value = jwt::claims(tokens.iter().next().expect("one"));
        assert_eq!((claims["sub"].as_str(), &claims["aud"]), (Some(id(who).as_str()), &serde_json::json!(["https://up.audience.test"])));
        assert!(tokens.iter().all(|token| !exeat.audit_text().contains(token) && !exeat.output().contains(token)));
    }
    exeat.ask("fixed", "GET", "/fixed", "localhost", &[]).must_refuse(503, "credential_unavailable");
}

#[test]
fn what_the_agent_takes_back_ends_for_that_workload_alone() {
    let scene = Scene::new();
    let up = scene.mesh_upstream();
    let exeat = scene.house(&up).start();
    let mut other = Workload::start(&exeat, "two");
    for unknown in [Unknown::Denied, Unknown::Empty, Unknown::NotFound] {
        scene.agent.register("one");
        scene.agent.register("two");
        let mut workload = Workload::start(&exeat, "one");
        assert!(workload.ask("get up /before 1").starts_with("done"));
        assert!(other.ask("get up /other 1").starts_with("done"));
        assert_eq!(workload.ask("stream up"), "open");
        let began = Instant::now();
        scene.agent.change(|served| {
            served.unknown = unknown;
            drop(served.entries.remove("one"));
        });
        assert_eq!(workload.hear(), "cut", "{unknown:?}");
        println!("{unknown:?}: the live stream ended after {:?}", began.elapsed());
        let word = workload.ask("get up /after 1");
        assert!(word.starts_with("failed 403 unauthenticated"), "{unknown:?}: {word}");
        assert!(other.ask("get up /other 1").starts_with("done"), "{unknown:?}: the other goes on");
    }
    assert!(up.matching("/after").is_empty());
    let told = |event: &str| exeat.audit().iter().filter(|record| record["event"] == event && record["id"] == id("one")).count();
    until("each change to be in the audit", || (told("identity_updated") == 3 && told("identity_withdrawn") == 3).then_some(()));
}

#[test]
fn a_process_that_the_agent_does_not_know_is_unauthenticated_until_it_is_registered() {
    let scene = Scene::new();
    let up = scene.mesh_upstream();
    let exeat = scene.house(&up).start();
    let mut workload = Workload::start(&exeat, "one");
    let word = workload.ask("get up /early 1");
    assert!(word.starts_with("failed 403 unauthenticated"), "{word}");
    let record = exeat.record("the refusal", |record| record["code"] == "unauthenticated");
    let detail = record["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("no identity issued") && detail.contains("register it"), "{record}");
    // The agent says no and is asked again; a stream that stays open is told of it.
    scene.agent.register("one");
    until("the registration to be known", || workload.ask("get up /late 1").starts_with("done").then_some(()));
    assert!(up.matching("/early").is_empty());
    // InvalidArgument is not asked again.
    scene.agent.change(|served| served.fault = Fault::Status(3));
    let mut odd = Workload::start(&exeat, "two");
    assert!(odd.ask("get up /odd 1").starts_with("failed 403 unauthenticated"));
    assert!(odd.ask("get up /odd 20").starts_with("failed 403 unauthenticated"));
    assert_eq!(scene.agent.calls_about(odd.pid()), 1);
    // Over TCP there is no process to ask about, and the configuration says so.
    let check = |house: House| {
        let config = house.write();
        let output = crate::harness::exeat::command(&["check", "-c", &config.display().to_string()]).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    let (right, text) = check(scene.house(&up));
    assert!(right && text.contains("the SPIFFE Broker API is experimental"), "{text}");
    let (right, text) = check(scene.house(&up).listener_for("tcp", Capture::Route("up"), "host"));
    assert!(!right && text.contains("TCP tells no process"), "{text}");
}

#[test]
fn an_agent_that_is_gone_is_outlived_by_what_it_said_and_knows_nobody_new() {
    let mut scene = Scene::new();
    let up = scene.mesh_upstream();
    let first = scene.agent.register("one");
    scene.agent.register("two");
    let exeat = scene.house(&up).start();
    let mut known = Workload::start(&exeat, "one");
    assert!(known.ask("get up /known 1").starts_with("done"));
    scene.agent.kill();
    assert!(known.ask("get up /gone 200").starts_with("done"));
    let mut new = Workload::start(&exeat, "two");
    let word = new.ask("get up /new 1");
    assert!(word.starts_with("failed 503 not_ready"), "{word}");
    let ready = until("readyz to warn", || Some(exeat.status("/readyz")).filter(|ready| ready.text().contains("broker.sock")));
    assert_eq!(ready.status, 200, "{}", ready.text());
    scene.agent.listen();
    until("the new one to be known", || new.ask("get up /new 1").starts_with("done").then_some(()));
    let second = scene.agent.register("one");
    let shown = |certificate: &[u8]| {
        let seen = up.matching("/rotated").pop().expect("a request");
        up.connections()[seen.connection].client.as_deref() == Some(certificate)
    };
    until("the rotation after the restart", || {
        assert!(known.ask("get up /rotated 1").starts_with("done"));
        shown(&second).then_some(())
    });
    assert_ne!(first, second);
    until("the warning to go", || (!exeat.status("/readyz").text().contains("broker.sock")).then_some(()));
    // Streams that break are no withdrawal either, nor is an agent that says nothing.
    scene.agent.change(|served| served.fault = Fault::Disconnect);
    assert!(known.ask("get up /broken 50").starts_with("done"));
    scene.agent.change(|served| served.fault = Fault::Hang);
    let began = Instant::now();
    let mut silent = Workload::start(&exeat, "two");
    let word = silent.ask("get up /silent 1");
    assert!(word.starts_with("failed 503 not_ready"), "{word}");
    println!("an agent that says nothing: refused after {:?}", began.elapsed());
    assert!(known.ask("get up /hanging 50").starts_with("done"));
}

#[test]
fn exeat_asks_only_who_proves_to_be_the_agent_and_only_as_itself() {
    let scene = Scene::new();
    let up = scene.mesh_upstream();
    scene.agent.register("one");
    let foreign = TrustDomain::new("other.test");
    let agent = "spire/agent/join_token/it";
    scene.agent.pretend(&scene.domain, "ns/it/sa/impostor", &scene.domain);
    let exeat = scene.house(&up).start();
    let mut workload = Workload::start(&exeat, "one");
    let wrong: [(&str, &TrustDomain, &str, &TrustDomain); 4] = [
        ("another workload", &scene.domain, "ns/it/sa/impostor", &scene.domain),
        ("what agents are beneath", &scene.domain, "spire/agent", &scene.domain),
        ("an agent of another trust domain", &foreign, agent, &scene.domain),
        ("an agent that takes other brokers", &scene.domain, agent, &foreign),
    ];
    for (what, domain, path, brokers) in wrong {
        scene.agent.pretend(domain, path, brokers);
        let before = scene.agent.served().strangers;
        until(&format!("a handshake with {what}"), || {
            (scene.agent.served().strangers > before).then_some(()).or_else(|| {
                let word = workload.ask("get up /wrong 1");
                assert!(word.starts_with("failed 503 not_ready"), "{what}: {word}");
                None
            })
        });
    }
    assert!(scene.agent.served().calls.is_empty(), "nobody was asked about anybody");
    scene.agent.pretend(&scene.domain, agent, &scene.domain);
    until("the agent to be asked", || workload.ask("get up /right 1").starts_with("done").then_some(()));
    // Without an identity of its own exeat is no broker: what it was told as one holds no longer.
    assert_eq!(workload.ask("stream up"), "open");
    scene.own.change(|served| served.fault = spiffe::Fault::Denied);
    assert_eq!(workload.hear(), "cut");
    let word = workload.ask("get up /withdrawn 1");
    assert!(word.starts_with("failed 403 unauthenticated"), "{word}");
    assert!(up.matching("/wrong").is_empty() && up.matching("/withdrawn").is_empty());
}

/// Asks, and opens a stream; then hands both connections to its child, and ends.
const HEIR: &str = r#"
import os, socket, sys
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect(os.environ["EXEAT_IT_SOCKET"])
    return s
def get(s, path):
    s.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: up\r\n\r\n")
def say(word):
    print("~ " + word, flush=True)
a, b = connect(), connect()
get(a, b"/own")
head = a.recv(65536)
say(head.split(b"\r\n")[0].decode())
get(b, b"/sse/1000")
say(b.recv(65536).split(b"\r\n")[0].decode())
sys.stdin.readline()
if os.fork():
    os._exit(0)
while True:
    try:
        if not b.recv(65536):
            break
    except OSError:
        break
say("the stream is over")
a.setblocking(True)
get(a, b"/inherited")
say(a.recv(65536).split(b"\r\n")[0].decode())
"#;

fn python(exeat: &Exeat, script: &str, who: &str) -> Option<Workload> {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        skipped("python3 not present");
        return None;
    }
    let mut command = Command::new("python3");
    command.args(["-c", script]).env("EXEAT_IT_SOCKET", exeat.socket_path("sock"));
    Some(Workload::spawn(command, who))
}

#[test]
fn nothing_of_a_process_outlives_it() {
    let scene = Scene::new();
    let up = scene.mesh_upstream();
    scene.agent.register("one");
    let exeat = scene.house(&up).start();
    let Some(mut workload) = python(&exeat, HEIR, "one") else { return };
    assert_eq!((workload.hear().as_str(), workload.hear().as_str()), ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"));
    let began = Instant::now();
    workload.tell("go");
    workload.child.wait().expect("it ended");
    assert_eq!(workload.hear(), "the stream is over");
    println!("the stream of a process that ended was over after {:?}", began.elapsed());
    assert_eq!(workload.hear(), "HTTP/1.1 403 Forbidden");
    let refused = exeat.record("the heir", |record| record["path"] == "/inherited");
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("has ended")), "{refused}");
    assert!(up.matching("/inherited").is_empty());
}

/// Asks, and while the answer takes its time hands the connection to its child, and ends.
const BORROWER: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["EXEAT_IT_SOCKET"])
s.sendall(b"GET /borrowed HTTP/1.1\r\nHost: up\r\n\r\n")
sys.stdin.readline()
if os.fork():
    os._exit(0)
print("~ held", flush=True)
print("~ " + s.recv(65536).split(b"\r\n")[0].decode(), flush=True)
"#;

#[test]
fn a_number_that_is_given_again_while_the_agent_thinks_borrows_no_identity() {
    if !root() {
        return skipped("giving a number again needs root");
    }
    let scene = Scene::new();
    let up = scene.mesh_upstream();
    scene.agent.register("two");
    scene.agent.change(|served| served.fault = Fault::Hang);
    let exeat = scene.house(&up).start();
    // Nobody at all, until it has the number of workload two.
    let Some(mut borrower) = python(&exeat, BORROWER, "nobody") else { return };
    let pid = borrower.pid();
    until("the agent to be asked", || (scene.agent.calls_about(pid) > 0).then_some(()));
    kill(exeat.pid(), Signal::SIGSTOP).expect("stopped");
    borrower.tell("go");
    borrower.child.wait().expect("the process that connected is gone");
    assert_eq!(borrower.hear(), "held");
    let victim = (0..400).find_map(|_| {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).ok()?;
        let mut child = Command::new("cat").env(WHO, "two").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process");
        if child.id() == pid {
            return Some(child);
        }
        let _ended = (child.kill(), child.wait());
        None
    });
    // The agent looks at the number now, and answers with the identity of whoever has it.
    scene.agent.change(|served| served.fault = Fault::None);
    kill(exeat.pid(), Signal::SIGCONT).expect("continued");
    let Some(mut victim) = victim else { return skipped("the number was not given again") };
    assert_eq!(borrower.hear(), "HTTP/1.1 403 Forbidden");
    let refused = exeat.record("the borrower", |record| record["path"] == "/borrowed");
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("has ended")), "{refused}");
    assert!(up.seen().is_empty() && exeat.audit().iter().all(|record| record["workload"]["id"] != id("two")));
    let _ended = (victim.kill(), victim.wait());
    // The rightful owner of that identity is known by it.
    let mut two = Workload::start(&exeat, "two");
    until("workload two", || two.ask("get up /two 1").starts_with("done").then_some(()));
}
