//! Story: no secret in any output. Canaries are planted in every slot of a request, in every stage, and looked for everywhere.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::exeat::{APP, Capture, allow_all, in_days, policy_head};
use crate::harness::otlp::Collector;
use crate::harness::{Answer, Exeat, House, Upstream, h2, root, run, skipped, until};

/// Planted values share this part.
const MARK: &str = "Zk7CanaryQ9";

/// One value for each slot, so that a find says where it came from.
fn canary(slot: &str) -> String {
    format!("{MARK}x{slot}x8f3kd02mvn5tyw")
}

/// Everything that exeat writes or serves.
fn outputs(exeat: &Exeat, collector: &Collector) -> Vec<(String, String)> {
    let mut outputs = vec![
        ("stdout and stderr".to_owned(), exeat.output()),
        ("audit".to_owned(), exeat.audit_text()),
        ("spans".to_owned(), String::from_utf8_lossy(&collector.bytes()).into_owned()),
    ];
    for path in [
        "/metrics",
        "/readyz",
        "/readyz?verbose",
        "/livez",
        "/jwks",
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
        "/",
    ] {
        outputs.push((format!("status {path}"), exeat.status(path).text()));
    }
    let mut directories = vec![exeat.house.path().join("state")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
            } else {
                outputs.push((
                    entry.path().display().to_string(),
                    String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default()).into_owned(),
                ));
            }
        }
    }
    outputs.extend(admin(exeat));
    outputs
}

/// All that the admin server shows, and what it says to whoever asks for something else.
fn admin(exeat: &Exeat) -> Vec<(String, String)> {
    let get = |path: &str| exeat.admin("GET", path, &Value::Null);
    let odd = ["/", "/v1/anything", "/v1/reload"].map(|path| (path.to_owned(), get(path)));
    // Its refusals name every route, so that one which comes later is read here as well.
    let help = odd[1].1.json()["next_step"].as_str().expect("the routes").to_owned();
    let routes = help.split(", ").filter_map(|route| route.rsplit_once("GET ")).map(|(_, path)| path);
    let lease = get("/v1/leases").json()["leases"][0]["id"].as_str().expect("a lease is open").to_owned();
    let shown: Vec<(String, Answer)> = routes.map(|path| (path.to_owned(), get(&path.replace("{id}", &lease)))).collect();
    for path in ["/v1/status", "/v1/edges", "/v1/leases", "/v1/leases/{id}", "/v1/revocations"] {
        assert!(shown.iter().any(|(known, _)| known == path), "{path} is no route: {help}");
    }
    for (path, answer) in &shown {
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let body = answer.json();
        let empty = body.as_object().is_none_or(|members| members.values().all(|value| value.as_array().is_some_and(Vec::is_empty)));
        assert!(!empty, "{path} shows nothing: {body}");
    }
    for (path, answer) in &odd {
        assert!(matches!(answer.status, 404 | 405), "{path}: {}", answer.status);
    }
    shown.into_iter().chain(odd).map(|(path, answer)| (format!("admin {path}"), answer.text())).collect()
}

fn must_not_hold(outputs: &[(String, String)], secret: &str, name: &str) {
    for (place, text) in outputs {
        let found = text.find(secret).map(|at| {
            text[..at].lines().last().unwrap_or_default().chars().rev().take(200).collect::<String>().chars().rev().collect::<String>()
        });
        assert!(found.is_none(), "{name} is in {place}, after: {}", found.unwrap_or_default());
    }
}

/// Every slot in which programs put credentials.
fn slots() -> Vec<(&'static str, String)> {
    vec![
        ("authorization", format!("Bearer {}", canary("authorization"))),
        ("proxy-authorization", format!("Basic {}", canary("proxyauth"))),
        ("cookie", format!("session={}; theme=dark", canary("cookie"))),
        ("x-api-key", canary("apikey")),
        ("X_Api_Key", canary("underscore")),
        ("x-auth-token", canary("authtoken")),
        ("x-amz-security-token", canary("amz")),
        ("private-token", canary("gitlab")),
        ("x-goog-api-key", canary("goog")),
        ("authorization2", canary("second")),
        ("x-secret", canary("secret")),
        ("x-vault-token", canary("vault")),
        ("x-custom", format!("ghp_{}aaaaaaaaaaaa", canary("shape"))),
        ("sec-websocket-protocol", format!("chat, bearer.{}", canary("subprotocol"))),
    ]
}

#[test]
fn no_planted_secret_is_in_any_output() {
    let (plain, tls, watched, rehearsed) = (Upstream::http(), Upstream::https(), Upstream::http(), Upstream::http());
    let collector = Collector::start();
    let mut house = House::new();
    let vendor = canary("vendor");
    let key = house.path().join("vendor.key");
    fs::write(&key, &vendor).expect("written");
    house =
        house.credential("vendor", &format!("{{ secret: {{ value: \"${{file:{}}}\" }}, inject: {{ header: x-vendor }} }}", key.display()));
    let vendor_upstream = Upstream::http();
    let observe = |more: &str| format!("stage: {{ observe: {{ until: {}{more} }} }}", in_days(20));
    let exeat = house
        .listener("mesh", Capture::Host)
        .listener("egress", Capture::Forward)
        .listener("door", Capture::Route("plain"))
        .upstream("plain", &plain)
        .upstream("tls", &tls)
        .upstream_with("watched", &watched, &observe(""))
        .upstream_with("rehearsed", &rehearsed, &observe(", rehearse: true"))
        .raw_upstream("vendored", &format!("{{ owner: t@example.com, origins: [\"{}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, credentials: [vendor] }}", vendor_upstream.origin()))
        .policy(
            "base.yaml",
            &(allow_all(&["plain", "tls", "watched", "rehearsed"])
                + "  - { id: vendored, effect: allow, to: [vendored], methods: [\"*\"], paths: [\"/**\"], grant: vendor }\n  - { id: shut, effect: deny, to: [plain, tls, watched, rehearsed], methods: [\"*\"], paths: [\"/shut/**\"] }\n"),
        )
        .extra(&format!("telemetry: {{ otlp: {{ endpoint: \"{}\", protocol: http }} }}", collector.endpoint()))
        .admin()
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .env("RUST_LOG", "trace")
        .flags(&["-vvv"])
        .start();
    let slots = slots();
    let fields: Vec<(&str, &str)> = slots.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let query = format!("?api_key={}&access_token={}&x=1&X-Amz-Signature={}", canary("query"), canary("accesstoken"), canary("presigned"));
    let body = format!("{{\"password\":\"{}\"}}", canary("body"));
    let ca = exeat.ca();
    let mut refusals = Vec::new();
    for (name, upstream) in
        [("plain", &plain), ("tls", &tls), ("watched", &watched), ("rehearsed", &rehearsed), ("vendored", &vendor_upstream)]
    {
        let host = upstream.authority();
        for target in [format!("/open/{name}{query}"), format!("/shut/{name}{query}"), format!("/answer-fields{query}")] {
            refusals.push(exeat.wire("mesh").ask("POST", &target, &host, &fields, body.as_bytes()));
            if name == "tls" {
                let mut wire = exeat.wire("egress").connect(&host).tls("localhost", &ca, &["http/1.1"]).expect("TLS");
                refusals.push(wire.ask("POST", &target, &host, &fields, body.as_bytes()));
            } else {
                refusals.push(exeat.wire("egress").ask("POST", &format!("http://{host}{target}"), &host, &fields, body.as_bytes()));
            }
            run(async {
                let mut client = h2::Client::start(h2::plain(exeat.port("mesh")).await).await.expect("h2");
                let lower: Vec<(String, &str)> = fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), *value)).collect();
                let lower: Vec<(&str, &str)> = lower.iter().map(|(name, value)| (name.as_str(), *value)).collect();
                let scheme = if name == "tls" { "https" } else { "http" };
                let mut trailers = http::HeaderMap::new();
                trailers.insert("x-api-key", canary("trailer").parse().expect("value"));
                if let Ok(answer) = client.ask(h2::request("POST", scheme, &host, &target, &lower), body.as_bytes(), Some(trailers)).await {
                    refusals.push(answer);
                }
            });
        }
    }
    // Heads that are refused before anybody reads them well.
    for bytes in [
        format!("GET /{0} HTTP/1.1\r\nHost: user:{0}@localhost\r\nAuthorization: Bearer {0}\r\n\r\n", canary("malformed")),
        format!("GET http://user:{0}@{1}/x HTTP/1.1\r\nHost: {1}\r\n\r\n", canary("userinfo"), plain.authority()),
        format!("{0} / HTTP/1.1\r\nHost: x\r\n{0}\r\n\r\n", canary("line")),
        format!("GET / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n folded\r\n\r\n", plain.authority(), canary("folded")),
        format!("\x16\x03\x01{}", canary("noise")),
        format!("CONNECT user:{}@{} HTTP/1.1\r\n\r\n", canary("connect"), plain.authority()),
    ] {
        for listener in ["mesh", "egress", "door"] {
            let mut wire = exeat.wire(listener).within(std::time::Duration::from_secs(2));
            wire.send(bytes.as_bytes());
            wire.finish();
            if let Ok(answer) = wire.try_answer("GET") {
                refusals.push(answer);
            }
        }
    }
    // A path that holds a credential where paths have names.
    exeat.ask("mesh", "GET", &format!("/bot{}:ghp_{}aaaaaaaaaaaaaaaaaaaa/send", 12_345_678, canary("path")), &plain.authority(), &[]);
    let denied = refusals.iter().filter(|answer| answer.refusal() == Some("denied")).count();
    assert!(denied >= 6, "the denied requests were refused: {denied}");
    until("the last record", || {
        exeat.audit().iter().any(|record| record["path"].as_str().is_some_and(|path| path.contains("send"))).then_some(())
    });
    until("spans", || (collector.spans().len() > 30).then_some(()));
    exeat.write_policy("base.yaml", "exeat: policy/v1\nname: [\n");
    exeat.reload();
    until("a failed reload", || exeat.audit().iter().any(|record| record["event"] == "reload_failed").then_some(()));

    exeat.record("a rehearsal", |record| record["event"] == "rehearsed");
    // So that nothing that the admin server shows is empty.
    let lease = json!({ "workload": APP, "kind": "task", "ttl": "20m", "attributes": {} });
    let opened = exeat.admin("POST", "/v1/leases", &lease);
    assert_eq!(opened.status, 201, "{}", opened.text());
    exeat.revoke("upstream vendored");

    let mut outputs = outputs(&exeat, &collector);
    assert!(outputs.iter().any(|(place, text)| place == "audit" && text.contains("\"findings\"")), "findings were recorded");
    for answer in &refusals {
        if answer.refusal().is_some() {
            outputs.push(("a refusal".to_owned(), format!("{:?} {}", answer.fields, answer.text())));
        }
    }
    must_not_hold(&outputs, MARK, "a planted secret");
    // What exeat itself put on is as secret as what it removed.
    for seen in plain.seen().iter().chain(&tls.seen()) {
        let token = seen.bearer().expect("a minted token");
        must_not_hold(&outputs, token, "a minted token");
        must_not_hold(&outputs, token.rsplit('.').next().expect("a signature"), "a token's signature");
    }
    // And in stage enforce no upstream got any of the application's own, but the body's, which is the application's word.
    for upstream in [&plain, &tls, &vendor_upstream] {
        assert!(upstream.count() > 0);
        for seen in upstream.seen() {
            // A path names the resource and is never changed; what stands in it is kept out of every record, not out of the request.
            let text = seen.text().replace(&vendor, "").replace(&canary("path"), "");
            assert!(!text.contains(MARK), "a static credential reached an upstream: {text}");
        }
    }
    // In stage observe it got what it got before exeat was there, rehearsed or not.
    for (upstream, target) in [(&watched, "/open/watched"), (&rehearsed, "/open/rehearsed")] {
        let seen = upstream.wait_for(target);
        assert!(seen.text().contains(&canary("authorization")) && seen.text().contains(&canary("query")), "{}", seen.text());
    }
    // Floor or not, a rule that denies is only recorded here.
    let record = exeat.record("a would-be denial", |record| {
        record["stage"] == "observe" && record["path"].as_str().is_some_and(|path| path.starts_with("/shut"))
    });
    assert_eq!(record["outcome"], "allowed", "{record}");
    assert_eq!(record["would_be"]["code"], "denied", "{record}");
}

#[test]
fn observe_passes_what_the_application_sent() {
    let up = Upstream::http();
    let floor = policy_head("base")
        + "  - { id: floor, effect: deny, floor: true, from: [\"**\"], to: [up], methods: [\"*\"], paths: [\"/never/**\"] }\n";
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream_with("up", &up, &format!("stage: {{ observe: {{ until: {} }} }}", in_days(20)))
        .policy("base.yaml", &floor)
        .start();
    let answer = exeat.wire("mesh").ask(
        "POST",
        "/as-is?api_key=k&a=%2F%2f",
        &up.authority(),
        &[("authorization", "Bearer app-own"), ("cookie", "a=b"), ("x-odd", "  two words ")],
        b"body",
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = up.wait_for("/as-is");
    assert_eq!(seen.target, "/as-is?api_key=k&a=%2F%2f");
    assert_eq!((seen.fields.get("authorization"), seen.fields.get("cookie")), (Some("Bearer app-own"), Some("a=b")));
    assert_eq!(seen.body, b"body");
    let record = exeat.record("the observed request", |record| record["path"] == "/as-is");
    assert_eq!((record["stage"].as_str(), record["would_be"]["code"].as_str()), (Some("observe"), Some("no_rule")), "{record}");
    exeat.ask("mesh", "GET", "/never/x", &up.authority(), &[]).must_refuse(403, "denied");
}

#[test]
fn keys_lie_where_only_exeat_reads_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let up = Upstream::https();
    let exeat = House::new().listener("egress", Capture::Forward).upstream("up", &up).policy("base.yaml", &allow_all(&["up"])).start();
    let mut wire = exeat.wire("egress").connect(&up.authority()).tls("localhost", &exeat.ca(), &["http/1.1"]).expect("TLS");
    assert_eq!(wire.ask("GET", "/x", &up.authority(), &[], b"").status, 200);
    let state = exeat.house.path().join("state");
    assert_eq!(fs::metadata(&state).expect("there").permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&state).expect("readable").flatten() {
        let mode = entry.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
    }
}

#[test]
fn who_runs_as_the_same_user_cannot_read_its_memory_and_no_core_is_left() {
    // To the superuser's rights nothing is closed: exeat and whoever looks do without them here.
    let without: &[&str] = if root() { &["setpriv", "--bounding-set=-all"] } else { &[] };
    let run = |words: &[&str]| {
        let words = [without, words].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let able = run(&["true"]).status().is_ok_and(|status| status.success());
    let up = Upstream::http();
    let mut house = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"]));
    if able && !without.is_empty() {
        house = house.under(without);
    }
    let exeat = house.start();
    let pid = u32::try_from(exeat.pid().as_raw()).expect("a pid");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the limit");
    // The soft and the hard one: it cannot be raised again.
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    if !able {
        return skipped("setpriv not present, or not allowed");
    }
    let opens = |pid: u32, what: &str| {
        let output = run(&["sh", "-c", ": < \"$0\"", &format!("/proc/{pid}/{what}")]).output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // A program that does not close itself can be looked at in this way.
    let mut other = run(&["sleep", "60"]).spawn().expect("another program");
    until("the other program", || {
        fs::read_to_string(format!("/proc/{}/comm", other.id())).is_ok_and(|name| name == "sleep\n").then_some(())
    });
    let looked = ["environ", "maps"].map(|what| opens(other.id(), what));
    let _ended = (other.kill(), other.wait());
    assert!(looked.iter().all(|(opened, _)| *opened), "{looked:?}");
    for what in ["environ", "maps", "mem"] {
        let (opened, why) = opens(pid, what);
        assert!(!opened && why.contains("ermission denied"), "/proc/{pid}/{what} was opened: {opened}; {why}");
    }
}
