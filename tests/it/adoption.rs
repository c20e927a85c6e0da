//! Story: observe, rehearse, suggest, promote, as `docs/adoption.md` tells it; and while an upstream is only observed, nobody on either side
//! can tell.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::harness::exeat::{Capture, allow_all, command, in_days, policy_head};
use crate::harness::{BOUND, Exeat, House, Upstream, clients, until};

/// What one connection sends, and what the two ends see of it.
#[derive(Debug, PartialEq, Eq)]
struct Ends {
    /// What the upstream read, without the trace's two fields.
    upstream: String,
    /// What the client read.
    client: String,
}

/// Requests in exactly these bytes: static keys in several slots, odd paths, a body, chunks.
fn requests(host: &str) -> Vec<Vec<u8>> {
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n").into_bytes();
    let mut chunked = head("POST /chunks", "Transfer-Encoding: chunked\r\nAuthorization: Basic c3RhdGljOmtleQ==\r\n");
    chunked.extend_from_slice(b"5\r\nhello\r\n0\r\n\r\n");
    let mut body = head("POST /v1/charges?api_key=sk_static", "Content-Length: 4\r\nX-Api-Key: sk-static-1\r\nX-Odd:  two  words \r\n");
    body.extend_from_slice(b"body");
    vec![
        head("GET /v1/entries", "Authorization: Bearer sk-static-canary\r\nCookie: session=static; a=b\r\nX-Twice: 1\r\nX-Twice: 2\r\n"),
        head("GET /a%2Fb//c?x=1&x=2", "Accept: */*\r\nUser-Agent: legacy/1\r\n"),
        body,
        chunked,
        head("GET /denied", "Authorization: Bearer sk-static-canary\r\n"),
        head("GET /status/503", ""),
    ]
}

fn read_all(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    stream.set_read_timeout(Some(BOUND)).expect("set");
    stream.write_all(bytes).expect("sent");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an answer to its end");
    String::from_utf8_lossy(&all).into_owned()
}

/// What stands between this text and the next quote, masked: the upstream tells the client what reached it.
fn masked(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + before + "MASKED" + part.find('"').map_or("", |end| &part[end..]))
}

fn without_trace(text: &str) -> String {
    let traced = |line: &str| ["traceparent:", "tracestate:"].iter().any(|name| line.to_ascii_lowercase().starts_with(name));
    text.split_inclusive('\n').filter(|line| !traced(line)).collect()
}

/// What both ends see of every request, each on a connection of its own.
fn ends(stage: &str, policies: &[(&str, &str)]) -> (Vec<Ends>, Exeat) {
    let up = Upstream::http();
    let mut house = House::new().listener("mesh", Capture::Host).upstream_with("up", &up, stage);
    for (file, text) in policies {
        house = house.policy(file, text);
    }
    let exeat = house.start();
    let (mut seen, mut read) = (Vec::new(), Vec::new());
    for (at, bytes) in requests(&up.authority()).into_iter().enumerate() {
        let client = read_all(exeat.port("mesh"), &bytes);
        until("the request upstream", || (up.count() > at).then_some(()));
        let arrived: Vec<Vec<u8>> = up.connections().into_iter().map(|one| one.plain).collect();
        read.resize(arrived.len(), 0);
        let fresh: Vec<u8> = arrived.iter().zip(&read).flat_map(|(plain, before)| plain[*before..].to_vec()).collect();
        read = arrived.iter().map(Vec::len).collect();
        let port = up.port.to_string();
        let plain = |text: &str| text.replace(&port, "PORT");
        seen.push(Ends {
            upstream: plain(&without_trace(&String::from_utf8_lossy(&fresh))),
            client: masked(&plain(&client), "\"traceparent\",\""),
        });
    }
    (seen, exeat)
}

fn observe(more: &str) -> String {
    format!("stage: {{ observe: {{ until: {}{more} }} }}", in_days(20))
}

#[test]
fn observing_rehearsing_and_shadow_rules_change_no_byte_on_either_side() {
    let none = ("base.yaml", policy_head("base").replace("rules:\n", "rules: []\n"));
    let deny = "  - { id: never, effect: deny, to: [up], paths: [/denied] }\n";
    let rules = ("base.yaml", allow_all(&["up"]) + deny);
    let shadows = ("base.yaml", (allow_all(&["up"]) + deny).replace("effect:", "mode: shadow, effect:"));
    let (plain, _) = ends(&observe(""), &[(none.0, &none.1)]);
    assert!(plain[0].upstream.contains("sk-static-canary") && plain[2].upstream.contains("api_key=sk_static"), "{plain:#?}");
    let (observed, exeat) = ends(&observe(""), &[(rules.0, &rules.1)]);
    assert_eq!(plain, observed);
    exeat.record("a would-be refusal", |record| record["path"] == "/denied" && record["decision"] == "shadow_deny");
    let (rehearsed, exeat) = ends(&observe(", rehearse: true"), &[(rules.0, &rules.1)]);
    assert_eq!(plain, rehearsed);
    let event = exeat.record("a rehearsal", |record| record["event"] == "rehearsed");
    assert_eq!((event["credential"].as_str(), event["upstream"].as_str()), (Some("up-jwt"), Some("up")), "{event}");
    assert!(exeat.audit().iter().all(|record| record.get("credential").is_none_or(Value::is_string)), "nothing was put on");
    assert!(exeat.metric(&["exeat_grants_total", "rehearsed"]) >= 1.0, "{}", exeat.metrics());
    let (shadowed, _) = ends(&observe(", rehearse: true"), &[(shadows.0, &shadows.1)]);
    assert_eq!(plain, shadowed);
    // Enforced, shadow rules do not change a byte either: the same rules beside it, as shadows that would deny all.
    let enforced = ("base.yaml", allow_all(&["up"]));
    let deny_all = ("shadow.yaml", policy_head("shadow") + "  - { id: never, effect: deny, mode: shadow, to: [up] }\n");
    let mask = |ends: Vec<Ends>| {
        let masked = |text: &str| {
            text.split_inclusive('\n')
                .filter(|line| !["authorization: bearer ey", "via: "].iter().any(|own| line.to_ascii_lowercase().starts_with(own)))
                .collect::<String>()
        };
        ends.into_iter()
            .map(|ends| Ends {
                upstream: masked(&ends.upstream),
                client: self::masked(&self::masked(&ends.client, "\"authorization\",\"Bearer ey"), "\"via\",\"1.1 "),
            })
            .collect::<Vec<_>>()
    };
    let (without, _) = ends("stage: enforce", &[(enforced.0, &enforced.1)]);
    let (with, _) = ends("stage: enforce", &[(enforced.0, &enforced.1), (deny_all.0, &deny_all.1)]);
    assert_eq!(mask(without), mask(with));
}

struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

fn exeat(arguments: &[&str]) -> Done {
    let output = clients::output(&mut command(arguments));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Done { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn passages(exeat: &Exeat) -> usize {
    exeat.audit().iter().filter(|record| record["kind"] == "access").count()
}

#[test]
fn from_observing_to_enforcing_and_back() {
    let up = Upstream::http();
    let admin = "admin: { address: \"unix://ADMIN\" }";
    let house = House::new().listener("mesh", Capture::Host).upstream_with("up", &up, &observe(", rehearse: true"));
    let socket = house.path().join("admin.sock").display().to_string();
    let mut running =
        house.policy("base.yaml", &policy_head("base").replace("rules:\n", "rules: []\n")).extra(&admin.replace("ADMIN", &socket)).start();
    let config = running.config.display().to_string();
    let log = running.house.path().join("audit.jsonl").display().to_string();
    let promote = |more: &[&str]| exeat(&[&["policy", "promote", "up", "-c", &config], more].concat());

    // Before anything came there is no case.
    let done = promote(&["--to", "enforce"]);
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains("nothing was observed"), "{}", done.err);

    for at in 0..40 {
        assert_eq!(
            running.ask("mesh", "GET", &format!("/v1/entries/{}", 1000 + at), &up.authority(), &[("x-api-key", "sk-static")]).status,
            200
        );
        assert_eq!(running.ask("mesh", "POST", "/v1/entries", &up.authority(), &[]).status, 200);
    }
    until("the records", || (passages(&running) >= 80).then_some(()));

    // Two days of traffic are no week; who knows that says so.
    let suggest = ["policy", "suggest", "-c", &config, "--audit", &log];
    let done = exeat(&suggest);
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("--short-window") && done.err.contains("of the 7 days"), "{}", done.err);
    let done = exeat(&[&suggest[..], &["--short-window", "--owner", "team@example.com"]].concat());
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.err.contains("80 of 80 requests are allowed by the suggestion"), "{}", done.err);
    assert!(done.out.contains("\"/v1/entries/*\" # 40, 40 different"), "{}", done.out);

    // As a shadow it changes nothing, and `replay` tells what it would do.
    let candidate = running.house.path().join("candidate");
    std::fs::create_dir(&candidate).expect("a directory");
    std::fs::write(candidate.join("suggested.yaml"), &done.out).expect("written");
    let directory = candidate.display().to_string();
    let replay = |more: &[&str]| exeat(&[&["policy", "replay", "-c", &config, &log, "--candidate", &directory], more].concat());
    let told = replay(&["--shadow", "--json"]);
    let told: Value = serde_json::from_str(&told.out).unwrap_or_else(|error| panic!("{error}: {}{}", told.out, told.err));
    assert_eq!((told["decided"].as_u64(), told["allow_to_deny"].as_u64(), told["deny_to_allow"].as_u64()), (Some(80), Some(0), Some(80)));

    // It is not promoted while something would be refused; each kind has its id.
    let done = promote(&["--to", "enforce", "--json"]);
    assert_eq!(done.code, Some(1), "{}{}", done.out, done.err);
    let case: Value = serde_json::from_str(&done.out).expect("a document");
    let kinds = case["would_deny"].as_array().expect("a list");
    assert_eq!(kinds.len(), 2, "{case:#}");
    assert!(case["against"].to_string().contains("no credential was rehearsed"), "{case:#}");

    // Signed: the suggestion without its shadows, in the policy directory.
    running.write_policy("suggested.yaml", &done_signed(&candidate.join("suggested.yaml")));
    until("the rules to hold", || {
        running.ask("mesh", "POST", "/v1/entries", &up.authority(), &[]);
        running.audit().into_iter().find(|record| record["would_be"]["outcome"] == "allowed")
    });
    running.record("a rehearsal", |record| record["event"] == "rehearsed");
    let status = exeat(&["status", "-c", &config]);
    assert!(status.out.contains("would-be   up") && status.out.contains("the swap would work"), "{}", status.out);

    // A share first: what is enforced carries the minted token, what is observed still the static key.
    let before = std::fs::read_to_string(&running.config).expect("readable");
    let dry = promote(&["--to", "enforce", "--percent", "40", "--dry-run"]);
    assert_eq!(dry.code, Some(0), "{}{}", dry.out, dry.err);
    assert_eq!(std::fs::read_to_string(&running.config).expect("readable"), before, "a dry run changes nothing");
    assert!(dry.out.contains('+') && dry.out.contains("enforce_percent: 40"), "{}", dry.out);
    assert_eq!(promote(&["--to", "enforce", "--percent", "40"]).code, Some(0));
    let ask = |running: &Exeat| {
        let answer = running.ask("mesh", "GET", "/v1/entries/1001", &up.authority(), &[("authorization", "Bearer sk-static")]);
        assert_eq!(answer.status, 200);
        up.seen().last().expect("a request").bearer().expect("a token").starts_with("ey")
    };
    until("both kinds of request", || {
        let minted = (0..50).filter(|_| ask(&running)).count();
        (minted > 5 && minted < 45).then_some(())
    });
    running.record("an enforced one", |record| record["stage"] == "enforce" && record["credential"]["name"] == "up-jwt");

    // Then all of it, and back in one command.
    let done = promote(&["--to", "enforce"]);
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    assert!(std::fs::read_to_string(&running.config).expect("readable").contains("stage: enforce"));
    until("the stage to hold", || (0..30).all(|_| ask(&running)).then_some(()));
    running.ask("mesh", "DELETE", "/v1/entries/1001", &up.authority(), &[]).must_refuse(403, "no_rule");
    assert_eq!(promote(&["--to", "enforce"]).code, Some(64), "it is enforced already");
    assert_eq!(promote(&["--to", "observe", "--until", &in_days(5)]).code, Some(0));
    until("the way back", || (!ask(&running)).then_some(()));
    assert_eq!(promote(&["--to", "observe"]).code, Some(64), "an observation has an end");

    // The DELETE that was refused is an objection now, and may be meant.
    let done = promote(&["--to", "enforce", "--json"]);
    assert_eq!(done.code, Some(1), "{}", done.out);
    let case: Value = serde_json::from_str(&done.out).expect("a document");
    let id = case["would_deny"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(promote(&["--to", "enforce", "--acknowledge", &id, "--dry-run"]).code, Some(0));

    // What no record names.
    let done = exeat(&["policy", "suggest", "--unused", "-c", &config, "--audit", &log, "--json"]);
    let told: Value = serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {}{}", done.out, done.err));
    assert_eq!(told["unused"].as_array().map(Vec::len), Some(0), "{told}");
    running.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(running.wait().success());
    let verified = exeat(&["audit", "verify", &log]);
    assert_eq!(verified.code, Some(0), "{}", verified.err);
}

/// What a person does who has read it.
fn done_signed(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).expect("readable").replace("    mode: shadow\n", "").replace("  mode: shadow\n", "")
}

#[test]
fn a_credential_that_cannot_be_had_is_known_before_anything_is_enforced() {
    let up = Upstream::http();
    let house = House::new().listener("mesh", Capture::Host);
    let missing = house.path().join("vendor.key");
    std::fs::write(&missing, "sk-live-vendor-key-0123456789").expect("written");
    let house = house
        .raw_upstream(
            "up",
            &format!(
                "{{ owner: team@example.com, origins: [\"{}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, credentials: [vendor], {} }}",
                up.origin(),
                observe(", rehearse: true")
            ),
        )
        .credential("vendor", &format!("{{ secret: {{ value: \"${{file:{}}}\" }}, inject: {{ header: x-api-key }} }}", missing.display()))
        .policy(
            "base.yaml",
            &(policy_head("base") + "  - { id: all, effect: allow, to: [up], methods: [\"*\"], paths: [\"/**\"], grant: vendor }\n"),
        );
    let running = house.start();
    std::fs::remove_file(&missing).expect("removed");
    let config = running.config.display().to_string();
    until("a failed rehearsal", || {
        assert_eq!(running.ask("mesh", "GET", "/v1/entries", &up.authority(), &[("x-api-key", "sk-static")]).status, 200);
        running.audit().into_iter().find(|record| record["event"] == "rehearse_failed")
    });
    assert!(up.seen().iter().all(|seen| seen.fields.get("x-api-key") == Some("sk-static")), "what came is what went");
    let done = exeat(&["policy", "promote", "up", "--to", "enforce", "-c", &config]);
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains("credential `vendor`") && done.err.contains("could not be had"), "{}", done.err);
    assert!(!running.audit_text().contains("sk-live-vendor-key"));
}
