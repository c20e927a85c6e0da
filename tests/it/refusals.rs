//! Story: every refusal that can be provoked from outside says the same thing in all its parts, and no byte of it reaches an upstream.

use std::time::Duration;

use crate::harness::exeat::{Capture, allow_all, policy_head};
use crate::harness::wire::request;
use crate::harness::{House, Upstream, Wire, free_port, h2, root, run, skipped};

const RULES: &str = r#"  - { id: open, effect: allow, to: [up], methods: [GET, POST], paths: ["/open/**"], grant: up-jwt }
  - { id: shut, effect: deny, to: [up], methods: ["*"], paths: ["/open/shut/**"] }
  - { id: needed, effect: require, to: [up], methods: ["*"], paths: ["/open/needs/**"], when: "'x-ticket' in request.headers" }
  - { id: secret, effect: allow, to: [keyed], methods: [GET], paths: ["/**"], grant: vendor-key }
  - { id: closed, effect: allow, to: [closed], methods: ["*"], paths: ["/**"], grant: closed-jwt }
  - { id: untrusted, effect: allow, to: [untrusted], methods: ["*"], paths: ["/**"], grant: untrusted-jwt }
  - { id: slow, effect: allow, to: [slow], methods: ["*"], paths: ["/**"], grant: slow-jwt }
"#;

/// Method, target, Host, fields; status and code.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str);

#[test]
fn each_refusal_has_its_code_and_reaches_nobody() {
    let (up, keyed, untrusted) = (Upstream::http(), Upstream::http(), Upstream::untrusted());
    let closed = format!("http://localhost:{}", free_port());
    let house = House::new();
    let missing = house.path().join("vendor.key");
    std::fs::write(&missing, "vendor-secret").expect("written");
    let keyed_upstream = format!(
        "{{ owner: t@example.com, origins: [\"{}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, credentials: [vendor-key] }}",
        keyed.origin()
    );
    let exeat = house
        .listener("mesh", Capture::Host)
        .listener("egress", Capture::Forward)
        .upstream("up", &up)
        .raw_upstream("keyed", &keyed_upstream)
        .credential(
            "vendor-key",
            &format!("{{ secret: {{ value: \"${{file:{}}}\" }}, inject: {{ header: x-vendor }} }}", missing.display()),
        )
        .origin("closed", &[&closed], "")
        .upstream("untrusted", &untrusted)
        .upstream_with("slow", &up_slow(), "deadlines: { response_head: 300ms }")
        .policy("base.yaml", &(policy_head("base") + RULES))
        .start();
    let host = up.authority();
    let long = "x".repeat(70_000);
    let many: Vec<(String, String)> = (0..120).map(|at| (format!("x-field-{at}"), "v".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let plain: &[Case<'_>] = &[
        ("GET", "/elsewhere", &host, &[], 403, "no_rule"),
        ("DELETE", "/open/x", &host, &[], 403, "no_rule"),
        ("GET", "/open/shut/x", &host, &[], 403, "denied"),
        ("GET", "/open/needs/x", &host, &[], 403, "requirement"),
        ("GET", "/open/%2e%2e/open/shut/x", &host, &[], 403, "denied"),
        ("GET", "/open/..%2felsewhere", &host, &[], 400, "ambiguous_path"),
        ("GET", "/open/x", "nowhere.test", &[], 403, "unlisted"),
        ("GET", "/open/x", "localhost:1", &[], 403, "unlisted"),
        ("GET", "/open/x", "user@localhost", &[], 400, "malformed"),
        ("TRACE", "/open/x", &host, &[], 501, "unsupported"),
        ("TRACK", "/open/x", &host, &[], 501, "unsupported"),
        ("GET", "/open/x", &host, &[("content-length", "3"), ("transfer-encoding", "chunked")], 400, "malformed"),
        ("GET", "/open/x", &host, &[("x-long", &long)], 431, "head_too_large"),
        ("GET", "/open/x", &host, &many, 431, "head_too_large"),
        ("GET", &format!("http://{host}/open/x"), "other.test", &[], 421, "misdirected"),
    ];
    for (method, target, host, fields, status, code) in plain {
        let answer = exeat.ask("mesh", method, target, host, fields);
        let said = answer.refusal().map(str::to_owned);
        assert_eq!(
            said.as_deref(),
            Some(*code),
            "{method} {} Host: {host}: {} {:?}",
            &target[..target.len().min(80)],
            answer.status,
            answer.fields
        );
        answer.must_refuse(*status, code);
    }
    let forward: &[(&str, &str, &str, u16, &str)] = &[
        ("GET", "http://nowhere.test/", "nowhere.test", 403, "unlisted"),
        ("CONNECT", "nowhere.test:443", "nowhere.test:443", 403, "unlisted"),
        ("CONNECT", &host, "other.test:443", 421, "misdirected"),
    ];
    for (method, target, host, status, code) in forward {
        exeat.ask("egress", method, target, host, &[]).must_refuse(*status, code);
    }
    assert_eq!(up.wire_bytes(), 0, "not one byte of a refused request reaches the upstream");
    assert_eq!(up.connections().len(), 0, "nor a connection");

    exeat.ask("mesh", "GET", "/x", &closed["http://".len()..], &[]).must_refuse(502, "upstream_unreachable");
    exeat.ask("mesh", "GET", "/x", &untrusted.authority(), &[]).must_refuse(502, "upstream_untrusted");
    assert_eq!(untrusted.count(), 0, "no request passes a handshake that failed");

    // The vendor key goes where it belongs, until it is gone.
    assert_eq!(exeat.ask("mesh", "GET", "/first", &keyed.authority(), &[]).status, 200);
    assert_eq!(keyed.wait_for("/first").fields.get("x-vendor"), Some("vendor-secret"));

    // Every one of these left exactly one record with its code.
    let wanted = plain.iter().map(|case| case.5).chain(forward.iter().map(|case| case.4));
    for code in wanted {
        let record = exeat.record(code, |record| record["code"] == code);
        assert_eq!(record["outcome"], "refused", "{record}");
        assert!(record["detail"].as_str().is_some_and(|text| !text.is_empty()), "the record says why: {record}");
    }
}

/// An upstream whose `/hang` never answers.
fn up_slow() -> Upstream {
    Upstream::http()
}

#[test]
fn an_upstream_that_does_not_answer_is_a_timeout() {
    let slow = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream_with("slow", &slow, "deadlines: { response_head: 300ms }")
        .policy("base.yaml", &allow_all(&["slow"]))
        .start();
    exeat.ask("mesh", "GET", "/hang", &slow.authority(), &[]).must_refuse(504, "upstream_timeout");
    run(async {
        let mut client = h2::Client::start(h2::plain(exeat.port("mesh")).await).await.expect("h2");
        let answer = client.ask(h2::request("GET", "http", &slow.authority(), "/hang", &[]), b"", None).await.expect("answered");
        answer.must_refuse(504, "upstream_timeout");
    });
    let record = exeat.record("the timeout", |record| record["code"] == "upstream_timeout");
    assert_eq!(record["attempts"][0]["error"], "timeout", "{record}");
}

#[test]
fn a_secret_that_cannot_be_read_is_no_reason_to_pass_the_static_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = dir.path().join("empty.key");
    std::fs::write(&key, "\n").expect("written");
    for (place, status, code) in
        [("/nonexistent/vendor.key", 503, "credential_unavailable"), (&*key.display().to_string(), 502, "credential_refused")]
    {
        let up = Upstream::http();
        let exeat = House::new()
            .listener("mesh", Capture::Host)
            .raw_upstream(
                "up",
                &format!(
                    "{{ owner: t@example.com, origins: [\"{}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, credentials: [vendor] }}",
                    up.origin()
                ),
            )
            .credential("vendor", &format!("{{ secret: {{ value: \"${{file:{place}}}\" }}, inject: bearer }}"))
            .policy(
                "base.yaml",
                &(policy_head("base") + "  - { id: all, effect: allow, to: [up], methods: [\"*\"], paths: [\"/**\"], grant: vendor }\n"),
            )
            .start();
        exeat.ask("mesh", "GET", "/x", &up.authority(), &[("authorization", "Bearer static")]).must_refuse(status, code);
        assert_eq!(up.wire_bytes(), 0);
    }
}

#[test]
fn without_a_valid_policy_everything_is_refused_and_readyz_says_why() {
    let up = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", "exeat: policy/v1\nname: base\nrules:\n  - { id: x, efect: allow }\n")
        .spawn();
    let answer = crate::harness::until("readyz", || {
        std::net::TcpStream::connect(("127.0.0.1", exeat.port("mesh"))).ok()?;
        exeat.try_status("/readyz").filter(|answer| answer.status == 503)
    });
    assert!(answer.text().contains("base.yaml"), "readyz names the file: {}", answer.text());
    assert!(answer.text().contains("efect"), "and what is wrong with it: {}", answer.text());
    exeat.ask("mesh", "GET", "/x", &up.authority(), &[]).must_refuse(503, "not_ready");
    assert_eq!(exeat.status("/livez").status, 200);
    exeat.write_policy("base.yaml", &allow_all(&["up"]));
    exeat.reload();
    exeat.ready();
    assert_eq!(exeat.ask("mesh", "GET", "/x", &up.authority(), &[]).status, 200);
}

#[test]
fn a_uid_that_nobody_listed_is_unauthenticated() {
    let up = Upstream::http();
    let exeat = House::new()
        .identity("local", "{ unix_peer: { workloads: [{ uid: 61234, id: \"spiffe://it.test/ns/it/sa/app\" }] } }")
        .listener_for("mesh", Capture::Host, "local")
        .socket("sock", Capture::Host, "local")
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .start();
    exeat.ask("mesh", "GET", "/x", &up.authority(), &[]).must_refuse(403, "unauthenticated");
    Wire::unix(&exeat.socket_path("sock")).ask("GET", "/x", &up.authority(), &[], b"").must_refuse(403, "unauthenticated");
    let record = exeat.record("the stranger", |record| record["code"] == "unauthenticated");
    assert!(record.get("workload").is_none(), "{record}");
    assert_eq!(record["peer"]["uid"], u64::from(nix::unistd::geteuid().as_raw()), "the record names the uid: {record}");
    assert_eq!(up.wire_bytes(), 0);
}

#[test]
fn connections_above_the_limit_are_refused_and_the_rest_goes_on() {
    let up = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra("limits: { connections: 4 }")
        .start();
    let mut held: Vec<Wire> = (0..4).map(|_| exeat.wire("mesh")).collect();
    for wire in &mut held {
        assert_eq!(wire.ask("GET", "/held", &up.authority(), &[], b"").status, 200);
    }
    let before = up.wire_bytes();
    let mut extra = exeat.wire("mesh").within(Duration::from_secs(5));
    extra.send(&request("GET", "/too-many", &up.authority(), &[], b""));
    // Refused with words, or closed before the first byte: both are bounded.
    if let Ok(answer) = extra.try_answer("GET") {
        answer.must_refuse(503, "overloaded");
    }
    assert_eq!(up.wire_bytes(), before);
    assert_eq!(held[0].ask("GET", "/still", &up.authority(), &[], b"").status, 200);
    drop(held);
    crate::harness::until("room for a new connection", || {
        let mut wire = exeat.wire("mesh");
        wire.send(&request("GET", "/room", &up.authority(), &[], b""));
        wire.try_answer("GET").ok().filter(|answer| answer.status == 200)
    });
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _done = std::process::Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn no_access_without_a_record() {
    if !root() {
        return skipped("a full disk needs root to mount a small tmpfs");
    }
    let up = Upstream::http();
    let house = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"]));
    let small = house.path().join("small");
    std::fs::create_dir(&small).expect("a directory");
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&small).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return skipped("tmpfs cannot be mounted here");
    }
    let _unmount = Unmount(small.clone());
    let house = house.audit_at(&small.join("audit.jsonl"));
    let exeat = house.start();
    let refused = crate::harness::until("the disk to be full", || {
        let answer = exeat.ask("mesh", "GET", &format!("/{}", "x".repeat(900)), &up.authority(), &[]);
        (answer.status != 200).then_some(answer)
    });
    refused.must_refuse(503, "audit_unavailable");
    let before = up.wire_bytes();
    for _ in 0..5 {
        exeat.ask("mesh", "GET", "/x", &up.authority(), &[]).must_refuse(503, "audit_unavailable");
    }
    assert_eq!(up.wire_bytes(), before);
}
