//! Story: two workloads on one host behind one exeat, told apart by user, control group and program, each in a network namespace of its
//! own. Neither ever has the other's identity, nor does a process that waits until a pid is given again.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::harness::exeat::{Capture, DOMAIN, Exeat, policy_head};
use crate::harness::{House, Upstream, jwt, root, skipped, until};

const UIDS: [u32; 2] = [61_011, 61_012];

/// Control groups that can be made here, and where `/proc/PID/cgroup` shows them.
struct Groups {
    made: Vec<PathBuf>,
}

impl Groups {
    fn make(names: &[String]) -> Option<Self> {
        let hierarchy = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"]
            .into_iter()
            .map(Path::new)
            .find(|path| path.join("cgroup.procs").exists())?;
        let mut groups = Self { made: Vec::new() };
        for name in names {
            let path = hierarchy.join(name);
            fs::create_dir(&path).ok()?;
            groups.made.push(path);
        }
        Some(groups)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.made {
            // Empty as soon as its last process is reaped.
            until("a control group to be empty", || fs::remove_dir(group).is_ok().then_some(()));
        }
    }
}

fn id(at: usize) -> String {
    format!("spiffe://{DOMAIN}/ns/it/sa/process-{at}")
}

/// A shell that enters a group and becomes a user's program in a network namespace without any network.
fn in_group(group: &Path, uid: u32, program: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    let script = r#"echo $$ > "$1/cgroup.procs" && shift && exec unshare --net --setgid "$1" --setuid "$@""#;
    command.args(["-c", script, "sh"]).arg(group).arg(uid.to_string()).arg(program).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

struct Scene {
    up: Upstream,
    exeat: Exeat,
    groups: Groups,
    program: PathBuf,
}

fn scene(names: &[String; 2]) -> Option<Scene> {
    let groups = Groups::make(names)?;
    let up = Upstream::http();
    let house = House::new();
    // Other users must be able to run this very program.
    fs::set_permissions(house.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    let program = house.path().join("asker");
    fs::copy(std::env::current_exe().expect("this program"), &program).expect("copied");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("opened");
    let digest = {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &fs::read(&program).expect("read"));
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let workloads: Vec<String> = (0..2)
        .map(|at| {
            // one proves the content of its program, the other that it is the file of that path
            let content = if at == 0 { format!(", sha256: \"{digest}\"") } else { String::new() };
            let program = program.display();
            format!("{{ uid: {}, cgroup: \"/{}\", executable: \"{program}\"{content}, id: \"{}\" }}", UIDS[at], names[at], id(at))
        })
        .collect();
    let policy = policy_head("base")
        .replace("from: [app]", "from: [one, two]")
        .replace("rules:", &format!("  one: {{ spiffe: \"{}\" }}\n  two: {{ spiffe: \"{}\" }}\nrules:", id(0), id(1)))
        + "  - { id: all, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], grant: up-jwt }\n";
    let exeat = house
        .identity("local", &format!("{{ unix_peer: {{ workloads: [{}] }} }}", workloads.join(", ")))
        .socket("sock", Capture::Route("up"), "local")
        .upstream("up", &up)
        .policy("base.yaml", &policy)
        .start();
    Some(Scene { up, exeat, groups, program })
}

impl Scene {
    fn ask(&self, group: usize, uid: u32, count: usize) -> Child {
        let socket = self.exeat.socket_path("sock").display().to_string();
        in_group(&self.groups.made[group], uid, &self.program)
            .args(["--exact", "uids::a_user_asks", "--nocapture"])
            .env("EXEAT_IT_ASK", format!("unix {socket} {} {uid} {count}", self.up.authority()))
            .spawn()
            .expect("a process")
    }
}

fn can(name: &str) -> Option<Scene> {
    if !root() {
        skipped("two users and control groups need root");
        return None;
    }
    let net = Command::new("unshare").args(["--net", "true"]).status();
    if !net.is_ok_and(|status| status.success()) {
        skipped("network namespaces cannot be made here");
        return None;
    }
    let own = std::process::id();
    let scene = scene(&[format!("exeat-it-{name}-{own}-one"), format!("exeat-it-{name}-{own}-two")]);
    if scene.is_none() {
        skipped("control groups cannot be made here");
    }
    scene
}

#[test]
fn ten_thousand_requests_of_two_processes_are_never_mixed_up() {
    let Some(scene) = can("mix") else { return };
    let children: Vec<_> = (0..2).map(|at| scene.ask(at, UIDS[at], 5_000)).collect();
    for child in children {
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    let seen = scene.up.seen();
    assert_eq!(seen.len(), 10_000);
    let (mut turns, mut last) = (0, 0);
    for one in &seen {
        let uid: u32 = one.target.split('/').nth(2).and_then(|uid| uid.parse().ok()).expect("a uid");
        let at = UIDS.iter().position(|known| *known == uid).expect("one of two");
        assert_eq!(jwt::claims(one.bearer().expect("a token"))["sub"], id(at), "{}", one.target);
        turns += usize::from(uid != last);
        last = uid;
    }
    assert!(turns > 500, "the two took turns {turns} times");
    let record = scene.exeat.record("one", |record| record["workload"]["id"] == id(0));
    assert_eq!(record["workload"]["executable"], scene.program.display().to_string());
    assert_eq!(record["workload"]["sha256"].as_str().map(str::len), Some(64));
    assert!(record["workload"]["cgroup"].as_str().is_some_and(|group| group.ends_with("-one")), "{record}");

    // The right user in the other's group, and the other way round: neither is anybody.
    for (group, uid) in [(1, UIDS[0]), (0, UIDS[1])] {
        let output = scene.ask(group, uid, 1).wait_with_output().expect("ended");
        assert!(!output.status.success(), "user {uid} in group {group} was let through");
    }
    let refused = scene.exeat.record("another group", |record| record["code"] == "unauthenticated");
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("is in another control group")), "{refused}");
    assert_eq!(scene.up.seen().len(), 10_000, "nothing of them reached the upstream");
}

/// Another half of the story: a program that is there and does nothing.
#[test]
fn a_process_waits() {
    if std::env::var_os("EXEAT_IT_WAIT").is_some() {
        let _ended = std::io::stdin().read_line(&mut String::new());
    }
}

/// Connects while exeat is stopped, hands the connection to its child, and is gone when exeat looks.
const BORROWER: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
if os.fork():
    os._exit(0)
print("held", flush=True)
sys.stdin.readline()
s.sendall(b"GET /borrowed HTTP/1.1\r\nHost: up\r\n\r\n")
print(s.recv(65536).split(b"\r\n")[0].decode(), flush=True)
"#;

#[test]
fn a_pid_that_is_given_again_borrows_no_identity() {
    let Some(scene) = can("pid") else { return };
    let stopped = scene.exeat.pid();
    scene.exeat.signal(Signal::SIGSTOP);
    let spawned = Command::new("python3")
        .args(["-c", BORROWER])
        .arg(scene.exeat.socket_path("sock"))
        .uid(UIDS[0])
        .gid(UIDS[0])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut borrower) = spawned else {
        nix::sys::signal::kill(stopped, Signal::SIGCONT).expect("continued");
        return skipped("python3 not present");
    };
    let (pid, mut orders) = (borrower.id(), borrower.stdin.take().expect("piped"));
    let mut words = BufReader::new(borrower.stdout.take().expect("piped"));
    let mut word = String::new();
    words.read_line(&mut word).expect("held");
    borrower.wait().expect("the process that connected is gone");
    // Workload one itself gets the number: the right user, group and program.
    let victim = (0..400).find_map(|_| {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).ok()?;
        let mut child = in_group(&scene.groups.made[0], UIDS[0], &scene.program)
            .args(["--exact", "processes::a_process_waits"])
            .env("EXEAT_IT_WAIT", "1")
            .stdin(Stdio::piped())
            .spawn()
            .expect("a process");
        if child.id() == pid {
            let link = format!("/proc/{pid}/exe");
            until("the program of workload one", || fs::read_link(&link).is_ok_and(|path| path == scene.program).then_some(()));
            return Some(child);
        }
        let _ended = (child.kill(), child.wait());
        None
    });
    nix::sys::signal::kill(stopped, Signal::SIGCONT).expect("continued");
    let Some(mut victim) = victim else { return skipped("the number was not given again") };
    orders.write_all(b"go\n").expect("told");
    let mut answer = String::new();
    words.read_line(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let refused = scene.exeat.record("the borrower", |record| record["path"] == "/borrowed");
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("has ended")), "{refused}");
    assert!(scene.up.seen().is_empty());
    let _ended = (victim.kill(), victim.wait());
}
