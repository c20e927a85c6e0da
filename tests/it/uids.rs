//! Story: two uids on one host, one upstream, ten thousand requests in turn: every token carries its own subject.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::harness::exeat::{Capture, DOMAIN, allow_all, policy_head};
use crate::harness::{House, Upstream, Wire, jwt, root, skipped, until};

const UIDS: [u32; 2] = [61_001, 61_002];

/// Who a uid is.
fn id(uid: u32) -> String {
    format!("spiffe://{DOMAIN}/ns/it/sa/user-{uid}")
}

/// The other half of the story, run as another user: asks, and ends with an error if any answer is not 200.
#[test]
fn a_user_asks() {
    let Ok(task) = std::env::var("EXEAT_IT_ASK") else { return };
    let parts: Vec<&str> = task.split(' ').collect();
    let [transport, place, host, uid, count] = parts.as_slice() else { panic!("a task has five parts") };
    let count: usize = count.parse().expect("a number");
    let open = || if *transport == "unix" { Wire::unix(&PathBuf::from(place)) } else { Wire::tcp(place.parse().expect("a port")) };
    let mut wire = open();
    for at in 0..count {
        // New connections among the old ones, so that connections interleave as well as requests.
        if at % 100 == 99 {
            wire = open();
        }
        let answer = wire.ask("GET", &format!("/{transport}/{uid}/{at}"), host, &[("authorization", "Bearer of-the-other-user")], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn ten_thousand_requests_of_two_users_are_never_mixed_up() {
    if !root() {
        return skipped("two users need root");
    }
    let up = Upstream::http();
    let workloads = UIDS.map(|uid| format!("{{ uid: {uid}, id: \"{}\" }}", id(uid))).join(", ");
    let policy = policy_head("base")
        .replace("from: [app]", "from: [one, two]")
        .replace("rules:", &format!("  one: {{ spiffe: \"{}\" }}\n  two: {{ spiffe: \"{}\" }}\nrules:", id(UIDS[0]), id(UIDS[1])))
        + "  - { id: all, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], grant: up-jwt }\n";
    let exeat = House::new()
        .identity("local", &format!("{{ unix_peer: {{ workloads: [{workloads}] }} }}"))
        .listener_for("mesh", Capture::Host, "local")
        .socket("sock", Capture::Route("up"), "local")
        .upstream("up", &up)
        .policy("base.yaml", &policy)
        .start();
    std::fs::set_permissions(exeat.house.path(), std::fs::Permissions::from_mode(0o755)).expect("opened");
    // Other users must be able to run this very program.
    let program = exeat.house.path().join("asker");
    std::fs::copy(std::env::current_exe().expect("this program"), &program).expect("copied");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("opened");
    let socket = exeat.socket_path("sock").display().to_string();
    let port = exeat.port("mesh").to_string();
    for (transport, place, count) in [("unix", &socket, 4_000), ("tcp", &port, 1_000)] {
        let children: Vec<_> = UIDS
            .iter()
            .map(|uid| {
                Command::new(&program)
                    .args(["--exact", "uids::a_user_asks", "--nocapture"])
                    .env("EXEAT_IT_ASK", format!("{transport} {place} {} {uid} {count}", up.authority()))
                    .uid(*uid)
                    .gid(*uid)
                    .current_dir("/")
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("another user")
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().expect("ended");
            assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
    }
    let seen = up.seen();
    assert_eq!(seen.len(), 10_000);
    let mut turns = 0;
    let mut last = String::new();
    for one in &seen {
        let uid = one.target.split('/').nth(2).expect("a uid").to_owned();
        let claims = jwt::claims(one.bearer().expect("a token"));
        assert_eq!(claims["sub"], id(uid.parse().expect("a uid")), "{}", one.target);
        assert!(!one.text().contains("of-the-other-user"));
        turns += usize::from(uid != last);
        last = uid;
    }
    assert!(turns > 500, "the two took turns {turns} times");
    let keys = exeat.jwks();
    for uid in UIDS {
        let one = seen.iter().rev().find(|one| one.target.contains(&uid.to_string())).expect("one of each");
        let claims = jwt::verify(one.bearer().expect("a token"), &keys, &crate::harness::exeat::audience("up")).expect("a good token");
        assert_eq!(claims["sub"], id(uid));
    }
    // The audit tells the same story.
    until("10,000 records", || (exeat.audit_text().matches("\"kind\":\"access\"").count() >= 10_000).then_some(()));
    for record in exeat.audit().into_iter().filter(|record| record["kind"] == "access") {
        let uid: u32 = record["path"].as_str().expect("a path").split('/').nth(2).expect("a uid").parse().expect("a number");
        assert_eq!(
            (record["workload"]["id"].as_str(), record["peer"]["uid"].as_u64()),
            (Some(id(uid).as_str()), Some(u64::from(uid))),
            "{record}"
        );
    }
}

/// Sends a whole request and one byte more, and is gone.
const GONE: &str = r#"
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"GET /gone HTTP/1.1\r\nHost: " + sys.argv[2].encode() + b"\r\n\r\n.")
s.close()
"#;

/// The kernel names root as the owner of what nobody owns any more.
#[test]
fn who_is_gone_before_he_is_looked_at_is_not_root() {
    if !root() {
        return skipped("another user needs root");
    }
    let up = Upstream::http();
    let exeat = House::new()
        .identity("local", &format!("{{ unix_peer: {{ workloads: [{{ uid: 0, id: \"spiffe://{DOMAIN}/ns/it/sa/app\" }}] }} }}"))
        .listener_for("mesh", Capture::Host, "local")
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .start();
    exeat.signal(Signal::SIGSTOP);
    let port = exeat.port("mesh").to_string();
    let gone = Command::new("python3").args(["-c", GONE, &port, &up.authority()]).uid(UIDS[0]).gid(UIDS[0]).current_dir("/").status();
    exeat.signal(Signal::SIGCONT);
    match gone {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(_) => return skipped("python3 not present"),
    }
    let refused = exeat.record("who is gone", |record| record["path"] == "/gone");
    assert_eq!(refused["code"], "unauthenticated", "{refused}");
    assert!(refused["peer"].get("uid").is_none(), "{refused}");
    assert!(up.seen().is_empty());
    assert_eq!(exeat.ask("mesh", "GET", "/here", &up.authority(), &[]).status, 200, "root itself is known");
}
