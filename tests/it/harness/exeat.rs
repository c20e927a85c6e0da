//! One exeat process with its files.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, Upstream, Wire, free_port, pki, until};

/// The trust domain of all stories.
pub const DOMAIN: &str = "it.test";
/// The workload of most stories.
pub const APP: &str = "spiffe://it.test/ns/it/sa/app";
/// The issuer of minted tokens.
pub const ISSUER: &str = "https://exeat.it.test";
/// How the minted token of an upstream names it.
pub fn audience(upstream: &str) -> String {
    format!("https://{upstream}.audience.test")
}

/// How a listener takes traffic in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture<'a> {
    Forward,
    Host,
    Route(&'a str),
}

struct Listener {
    name: String,
    address: String,
    capture: String,
    identity: String,
    more: String,
}

/// The files of an exeat that does not run yet.
pub struct House {
    dir: TempDir,
    listeners: Vec<Listener>,
    identities: Vec<(String, String)>,
    upstreams: Vec<(String, String)>,
    credentials: Vec<(String, String)>,
    policies: Vec<(String, String)>,
    extra: String,
    environment: Vec<(String, String)>,
    flags: Vec<String>,
    under: Vec<String>,
    audit: PathBuf,
    status: u16,
}

/// A day so many days from now, as policies and configurations write it.
pub fn in_days(days: i64) -> String {
    let then = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
    then.to_string().split('T').next().expect("a date").to_owned()
}

/// A policy file that lets the app do everything at these upstreams, each with its own token.
pub fn allow_all(upstreams: &[&str]) -> String {
    let mut text = policy_head("base");
    for upstream in upstreams {
        let _written = writeln!(
            text,
            "  - {{ id: all-{upstream}, effect: allow, to: [{upstream}], methods: [\"*\"], paths: [\"/**\"], grant: {upstream}-jwt }}"
        );
    }
    text
}

/// The head of a policy file, up to and including `rules:`.
pub fn policy_head(name: &str) -> String {
    format!(
        "exeat: policy/v1\nname: {name}\ndefaults: {{ owner: team@example.com, reason: IT-1, expires: {}T00:00:00Z, from: [app] }}\nidentities:\n  app: {{ spiffe: \"{APP}\" }}\nrules:\n",
        in_days(90)
    )
}

impl Default for House {
    fn default() -> Self {
        Self::new()
    }
}

impl House {
    /// An empty house with one fixed identity, `app`.
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("exeat-it-").expect("a directory");
        fs::create_dir(dir.path().join("policies")).expect("a directory");
        fs::write(dir.path().join("upstream-ca.pem"), &pki::authority().pem).expect("written");
        let audit = dir.path().join("audit.jsonl");
        let identities = vec![("app".to_owned(), format!("{{ fixed: {{ id: \"{APP}\" }} }}"))];
        Self {
            dir,
            listeners: Vec::new(),
            identities,
            upstreams: Vec::new(),
            credentials: Vec::new(),
            policies: Vec::new(),
            extra: String::new(),
            environment: Vec::new(),
            flags: Vec::new(),
            under: Vec::new(),
            audit,
            status: free_port(),
        }
    }

    /// A listener on a loopback port for the app.
    pub fn listener(self, name: &str, capture: Capture<'_>) -> Self {
        self.listener_for(name, capture, "app")
    }

    /// A listener on a loopback port for these identities.
    pub fn listener_for(mut self, name: &str, capture: Capture<'_>, identity: &str) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        self.push_listener(name, address, capture, identity);
        self
    }

    /// The same with more fields, as written.
    pub fn listener_with(self, name: &str, capture: Capture<'_>, identity: &str, more: &str) -> Self {
        let mut house = self.listener_for(name, capture, identity);
        if let Some(listener) = house.listeners.last_mut() {
            listener.more = format!(", {more}");
        }
        house
    }

    /// A listener on a unix socket for these identities.
    pub fn socket(mut self, name: &str, capture: Capture<'_>, identity: &str) -> Self {
        let path = self.dir.path().join(format!("{name}.sock"));
        self.push_listener(name, format!("unix://{}", path.display()), capture, identity);
        self
    }

    fn push_listener(&mut self, name: &str, address: String, capture: Capture<'_>, identity: &str) {
        let capture = match capture {
            Capture::Forward => "forward".to_owned(),
            Capture::Host => "host".to_owned(),
            Capture::Route(upstream) => format!("route, upstream: {upstream}"),
        };
        self.listeners.push(Listener { name: name.to_owned(), address, capture, identity: identity.to_owned(), more: String::new() });
    }

    /// One identity, its YAML value as written.
    pub fn identity(mut self, name: &str, yaml: &str) -> Self {
        self.identities.push((name.to_owned(), yaml.to_owned()));
        self
    }

    /// An upstream on loopback, enforced, with a token of its own (`NAME-jwt`).
    pub fn upstream(self, name: &str, upstream: &Upstream) -> Self {
        self.upstream_with(name, upstream, "")
    }

    /// The same with more fields, as written.
    pub fn upstream_with(self, name: &str, upstream: &Upstream, more: &str) -> Self {
        let origin = upstream.origin();
        self.origin(name, &[&origin], more)
    }

    /// An upstream at these origins with a token of its own.
    pub fn origin(self, name: &str, origins: &[&str], more: &str) -> Self {
        let reach = if more.contains("reach:") { "" } else { "reach: { networks: [127.0.0.0/8, \"::1/128\"] }, " };
        let tls =
            if origins.iter().any(|origin| origin.starts_with("https:")) { "tls: { roots: { file: upstream-ca.pem } }, " } else { "" };
        let jwt = format!("{name}-jwt");
        let yaml = format!(
            "{{ owner: team@example.com, origins: [{}], {reach}{tls}credentials: [{jwt}]{}{more} }}",
            origins.iter().map(|origin| format!("\"{origin}\"")).collect::<Vec<_>>().join(", "),
            if more.is_empty() { "" } else { ", " }
        );
        let credential = format!(
            "{{ local_jwt: {{ issuer: \"{ISSUER}\", audience: \"{}\", scopes: [read, write], ttl: 60s }}, inject: bearer }}",
            audience(name)
        );
        self.raw_upstream(name, &yaml).credential(&jwt, &credential)
    }

    /// An upstream as written.
    pub fn raw_upstream(mut self, name: &str, yaml: &str) -> Self {
        self.upstreams.push((name.to_owned(), yaml.to_owned()));
        self
    }

    /// A credential as written.
    pub fn credential(mut self, name: &str, yaml: &str) -> Self {
        self.credentials.push((name.to_owned(), yaml.to_owned()));
        self
    }

    /// A policy file.
    pub fn policy(mut self, file: &str, text: &str) -> Self {
        self.policies.push((file.to_owned(), text.to_owned()));
        self
    }

    /// More lines at the top level.
    pub fn extra(mut self, yaml: &str) -> Self {
        self.extra.push_str(yaml);
        self.extra.push('\n');
        self
    }

    /// An admin server on a unix socket.
    pub fn admin(self) -> Self {
        let line = format!("admin: {{ address: \"unix://{}\" }}", self.dir.path().join("admin.sock").display());
        self.extra(&line)
    }

    /// A variable of the process.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// More flags of `run`.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// Runs it under a program that becomes it in the end (`prlimit`, `unshare`): its words stand before exeat's.
    pub fn under(mut self, words: &[&str]) -> Self {
        self.under = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Keeps the audit file elsewhere.
    pub fn audit_at(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.audit);
        self
    }

    /// The status server's port.
    pub fn status_port(&self) -> u16 {
        self.status
    }

    /// A listener's port.
    pub fn listener_port(&self, listener: &str) -> u16 {
        let found = self.listeners.iter().find(|one| one.name == listener).expect("a listener of that name");
        found.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Where the files lie.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration as written.
    pub fn written(&self) -> String {
        let root = self.dir.path().display();
        let mut text = format!("exeat: config/v1\nstate: {root}/state\ntrust_domain: {DOMAIN}\n");
        let section = |name: &str, entries: Vec<(String, String)>| {
            if entries.is_empty() {
                String::new()
            } else {
                format!("{name}:\n{}", entries.iter().map(|(key, value)| format!("  {key}: {value}\n")).collect::<String>())
            }
        };
        let listeners = self
            .listeners
            .iter()
            .map(|one| {
                (
                    one.name.clone(),
                    format!("{{ address: \"{}\", capture: {}, identity: [{}]{} }}", one.address, one.capture, one.identity, one.more),
                )
            })
            .collect();
        text.push_str(&section("listeners", listeners));
        text.push_str(&section("identities", self.identities.clone()));
        text.push_str(&section("upstreams", self.upstreams.clone()));
        text.push_str(&section("credentials", self.credentials.clone()));
        let _written = write!(
            text,
            "policies: [{{ directory: policies, bounds: all, tests: require }}]\naudit: {{ file: \"{}\" }}\nstatus: {{ address: \"127.0.0.1:{}\" }}\n{}",
            self.audit.display(),
            self.status,
            self.extra
        );
        text
    }

    /// Writes the files and gives the configuration's path.
    pub fn write(&self) -> PathBuf {
        for (file, text) in &self.policies {
            fs::write(self.dir.path().join("policies").join(file), text).expect("written");
        }
        let config = self.dir.path().join("exeat.yaml");
        fs::write(&config, self.written()).expect("written");
        config
    }

    /// Starts the process and waits until it is ready.
    pub fn start(self) -> Exeat {
        let exeat = self.spawn();
        exeat.ready();
        exeat
    }

    /// Starts the process.
    pub fn spawn(self) -> Exeat {
        let config = self.write();
        let mut exeat = Exeat { house: self, config, child: None, output: Arc::default(), readers: Vec::new() };
        exeat.launch();
        exeat
    }
}

/// A running exeat; killed when dropped.
pub struct Exeat {
    pub house: House,
    pub config: PathBuf,
    child: Option<Child>,
    output: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

/// The binary under test with its arguments, in a clean environment. `EXEAT_IT_BINARY` names another one, such as a release build.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("EXEAT_IT_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_exeat").to_owned()));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

impl Exeat {
    fn launch(&mut self) {
        let config = self.config.display().to_string();
        let mut command = command(&["run", "-c", &config]);
        command.args(&self.house.flags);
        if let Some((program, words)) = self.house.under.split_first() {
            let mut around = Command::new(program);
            around.args(words).arg(command.get_program()).args(command.get_args());
            around.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/nonexistent").stdin(Stdio::null());
            command = around;
        }
        for (name, value) in &self.house.environment {
            command.env(name, value);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        for stream in [
            child.stdout.take().map(|out| Box::new(out) as Box<dyn std::io::Read + Send>),
            child.stderr.take().map(|err| Box::new(err) as _),
        ]
        .into_iter()
        .flatten()
        {
            let output = Arc::clone(&self.output);
            self.readers.push(std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    output.lock().expect("output").push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            }));
        }
        self.child = Some(child);
    }

    /// Starts it again with the same files, after it has ended.
    pub fn relaunch(&mut self) {
        self.relaunch_as_it_is();
        self.ready();
    }

    /// The same, whether it becomes ready or not.
    pub fn relaunch_as_it_is(&mut self) {
        assert!(self.exited().is_some(), "it still runs");
        self.launch();
    }

    /// Waits for /readyz to say 200.
    pub fn ready(&self) {
        until("exeat to become ready", || {
            assert!(self.running(), "exeat ended:\n{}\nconfig:\n{}", self.output(), self.house.written());
            self.try_status("/readyz").filter(|answer| answer.status == 200).map(|_| ())
        });
    }

    /// Whether the process is there.
    pub fn running(&self) -> bool {
        self.child
            .as_ref()
            .is_some_and(|child| fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|stat| !stat.contains(") Z ")))
    }

    /// Everything that it wrote to stdout and stderr.
    pub fn output(&self) -> String {
        self.output.lock().expect("output").clone()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.as_ref().expect("it was started").id()).expect("a pid"))
    }

    /// Open descriptors, as far as this user may count them.
    pub fn descriptors(&self) -> Option<usize> {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).ok().map(Iterator::count)
    }

    /// A figure of `/proc/PID/status` in KiB: `VmRSS` now, `VmHWM` at its most.
    pub fn memory(&self, figure: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok());
        line.unwrap_or_else(|| panic!("{figure} in:\n{status}"))
    }

    /// Processor time spent so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("its figures");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        // utime and stime, the 14th and 15th field of all, in hundredths
        let hundredths: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(hundredths * 10)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signalled");
    }

    /// Its exit status, once it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("waits")
    }

    /// Waits for its end, and for its last words.
    pub fn wait(&mut self) -> ExitStatus {
        let status = until("exeat to end", || self.exited());
        for reader in self.readers.drain(..) {
            reader.join().expect("read");
        }
        status
    }

    /// Where a listener listens.
    pub fn port(&self, listener: &str) -> u16 {
        self.house.listener_port(listener)
    }

    /// The socket of a listener.
    pub fn socket_path(&self, listener: &str) -> PathBuf {
        self.house.dir.path().join(format!("{listener}.sock"))
    }

    /// A connection to a listener.
    pub fn wire(&self, listener: &str) -> Wire {
        Wire::tcp(self.port(listener))
    }

    /// One question to the admin server.
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Answer {
        let mut wire = Wire::unix(&self.house.dir.path().join("admin.sock"));
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        wire.ask(method, path, "admin", &[("Connection", "close")], &body)
    }

    /// Revokes a target; the acknowledgement.
    pub fn revoke(&self, target: &str) -> Value {
        let answer = self.admin("POST", "/v1/revoke", &serde_json::json!({ "target": target, "reason": "drill" }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Lifts a revocation.
    pub fn restore(&self, target: &str) -> Value {
        let answer = self.admin("POST", "/v1/restore", &serde_json::json!({ "target": target }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// A subcommand about this exeat: its exit code, and what it wrote.
    pub fn cli(&self, arguments: &[&str]) -> (i32, String) {
        let config = self.config.display().to_string();
        let output = command(arguments).args(["-c", &config]).output().expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().expect("an exit code"), text)
    }

    /// The answer of the status server, once it listens.
    pub fn try_status(&self, path: &str) -> Option<Answer> {
        let stream = std::net::TcpStream::connect(("127.0.0.1", self.house.status)).ok()?;
        drop(stream);
        let mut wire = Wire::tcp(self.house.status);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes());
        wire.try_answer("GET").ok()
    }

    /// An answer of the status server.
    pub fn status(&self, path: &str) -> Answer {
        self.try_status(path).unwrap_or_else(|| panic!("no answer of the status server for {path}:\n{}", self.output()))
    }

    /// The keys that it serves.
    pub fn jwks(&self) -> String {
        let answer = self.status("/jwks");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// Its metrics.
    pub fn metrics(&self) -> String {
        self.status("/metrics").text()
    }

    /// The value of a metric's series that holds all these texts; 0 when there is none.
    pub fn metric(&self, parts: &[&str]) -> f64 {
        let metrics = self.metrics();
        metrics
            .lines()
            .filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// The certificate of its interception authority.
    pub fn ca(&self) -> String {
        let path = self.house.dir.path().join("state/ca.pem");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The audit file's lines so far. A last line without its end is not one yet.
    pub fn audit(&self) -> Vec<Value> {
        let text = self.audit_text();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// The audit file's bytes as text.
    pub fn audit_text(&self) -> String {
        let path = self.house.audit.clone();
        if path.is_dir() {
            let mut files: Vec<_> = fs::read_dir(&path).expect("readable").map(|entry| entry.expect("entry").path()).collect();
            files.sort();
            return files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
        }
        fs::read_to_string(&path).unwrap_or_default()
    }

    /// Waits for the audit record that this says yes to.
    pub fn record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("an audit record of {what}"), || self.audit().into_iter().find(|record| wanted(record)))
    }

    /// Writes a policy file in one step, as an editor does that renames.
    pub fn write_policy(&self, file: &str, text: &str) {
        let dir = self.house.dir.path().join("policies");
        let fresh = self.house.dir.path().join(format!("{file}.new"));
        fs::write(&fresh, text).expect("written");
        fs::rename(&fresh, dir.join(file)).expect("renamed");
    }

    /// Asks for a reload.
    pub fn reload(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// One plain request through a listener, on a connection of its own.
    pub fn ask(&self, listener: &str, method: &str, target: &str, host: &str, fields: &[(&str, &str)]) -> Answer {
        self.wire(listener).ask(method, target, host, fields, b"")
    }
}

impl Drop for Exeat {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _killed = child.kill();
            let _reaped = child.wait();
        }
        if std::thread::panicking() {
            let output = self.output();
            let tail: String =
                output.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().map(|line| format!("  | {line}\n")).collect();
            eprintln!("the last lines of exeat:\n{tail}");
        }
    }
}
