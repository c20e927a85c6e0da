//! Story: access for one task: opened, used, ended, over.

use std::process::Output;
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::exeat::{APP, Capture, command, in_days, policy_head};
use crate::harness::jwt;
use crate::harness::wire::request;
use crate::harness::{Exeat, House, Upstream, Wire, clients, until};

/// `/task/**` under a lease of kind `release`, `/once` as well and once under each, `/free/**` without.
fn rules() -> String {
    policy_head("base")
        + "  - { id: task, effect: allow, to: [up], methods: [GET], paths: [\"/task/**\", \"/sse/**\"], grant: up-jwt, lease: { kind: release, max_ttl: 20m } }\n\
           \x20 - { id: once, effect: allow, to: [up], methods: [GET], paths: [/once], grant: up-jwt, lease: { kind: release, max_ttl: 20m, max_uses: 1 } }\n\
           \x20 - { id: free, effect: allow, to: [up], methods: [GET], paths: [\"/free/**\"], grant: up-jwt }\n"
}

fn house(up: &Upstream) -> House {
    let house = House::new().listener("mesh", Capture::Host).upstream("up", up).policy("base.yaml", &rules());
    let socket = house.path().join("admin.sock");
    house.extra(&format!("admin: {{ address: \"unix://{}\" }}\nthreads: 2", socket.display()))
}

/// `exeat lease ..` against this exeat.
pub fn lease(exeat: &Exeat, words: &[&str]) -> Output {
    let admin = format!("unix://{}", exeat.house.path().join("admin.sock").display());
    let mut all = vec!["lease"];
    all.extend(words);
    all.extend(["--admin", &admin]);
    clients::output(&mut command(&all))
}

fn told(output: &Output) -> Value {
    assert!(output.status.success(), "{} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a JSON document")
}

/// Opens one; its name.
fn open(exeat: &Exeat, more: &[&str]) -> String {
    let mut words = vec!["open", "--workload", APP, "--kind", "release", "--json"];
    if !more.contains(&"--ttl") {
        words.extend(["--ttl", "20m"]);
    }
    words.extend(more);
    told(&lease(exeat, &words))["id"].as_str().expect("an id").to_owned()
}

fn left(exeat: &Exeat, id: &str) -> Value {
    told(&lease(exeat, &["show", id, "--json"]))["uses_left"].clone()
}

#[test]
fn the_very_next_request_after_the_end_is_refused() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let mut wire = exeat.wire("mesh");
    let mut ask = |target: &str| wire.ask("GET", target, &up.authority(), &[], b"");
    ask("/task/early").must_refuse(403, "lease_missing");
    let id = open(&exeat, &["--uses", "9", "--reason", "REL-77", "--attribute", "tag=v1"]);
    assert_eq!(ask("/task/1").status, 200);
    assert_eq!(ask("/free/1").status, 200);
    let under = up.wait_for("/task/1").bearer().expect("a token").to_owned();
    let free = up.wait_for("/free/1").bearer().expect("a token").to_owned();
    assert_ne!(under, free, "what was obtained under the lease serves nothing else");
    let shown = told(&lease(&exeat, &["show", &id, "--json"]));
    assert_eq!((shown["uses_left"].as_u64(), shown["live"].as_bool(), shown["reason"].as_str()), (Some(8), Some(true), Some("REL-77")));
    let ended = told(&lease(&exeat, &["end", &id, "--json"]));
    ask("/task/2").must_refuse(403, "lease_ended");
    assert_eq!(ended["grants"]["discarded"], 1, "{ended}");
    assert_eq!(ask("/free/2").status, 200);
    assert_eq!(up.wait_for("/free/2").bearer(), Some(free.as_str()), "the others' credentials stay");

    let allowed = exeat.record("the request under the lease", |record| record["path"] == "/task/1");
    assert_eq!(
        (&allowed["lease"]["id"], &allowed["lease"]["kind"], &allowed["lease"]["uses_left"]),
        (&Value::from(id.as_str()), &"release".into(), &8.into())
    );
    let refused = exeat.record("the one after the end", |record| record["path"] == "/task/2");
    assert_eq!((refused["code"].as_str(), refused["lease"]["id"].as_str()), (Some("lease_ended"), Some(id.as_str())), "{refused}");
    assert!(exeat.record("the one without", |record| record["path"] == "/free/1").get("lease").is_none());
    let opened = exeat.record("the opening", |record| record["event"] == "lease_opened");
    assert_eq!(
        (opened["lease"].as_str(), opened["workload"].as_str(), opened["detail"].as_str()),
        (Some(id.as_str()), Some(APP), Some("REL-77"))
    );
    assert!(opened["by"].as_str().expect("who").starts_with("uid "), "{opened}");
    exeat.record("the end", |record| record["event"] == "lease_ended" && record["lease"] == id.as_str());
    exeat.record("the discard", |record| record["event"] == "grant_discarded" && record["detail"] == "lease_ended");
    assert_eq!(exeat.metric(&["exeat_lease_changes_total", "ended"]).to_string(), "1");
    assert_eq!(exeat.metric(&["exeat_leases "]).to_string(), "0");
}

#[test]
fn a_stream_ends_with_its_lease() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let stream = || {
        let mut wire = exeat.wire("mesh");
        wire.send(&request("GET", "/sse/9", &up.authority(), &[], b""));
        let head = wire.open_answer().expect("a head");
        assert_eq!(wire.part(&head.fields).expect("an event"), Some(b"data: 0\n\n".to_vec()));
        (wire, head)
    };
    // By command: when it is acknowledged, the stream has ended.
    let id = open(&exeat, &[]);
    let (mut wire, head) = stream();
    told(&lease(&exeat, &["end", &id, "--json"]));
    assert!(!matches!(wire.part(&head.fields), Ok(Some(_) | None)), "a cut stream looks cut");
    let ended = |at: usize| {
        until("the record of the cut stream", || {
            let all = exeat.audit();
            let cut: Vec<_> = all.iter().filter(|record| record["kind"] == "access" && record["path"] == "/sse/9").collect();
            cut.get(at).map(|record| (record["outcome"].clone(), record["detail"].clone()))
        })
    };
    assert_eq!(ended(0), ("aborted".into(), "ended: the lease that it went by is over".into()));
    // By time, without a word from anybody; and nothing that was obtained under it outlives it.
    let id = open(&exeat, &["--ttl", "3s"]);
    let until_when: jiff::Timestamp =
        told(&lease(&exeat, &["show", &id, "--json"]))["until"].as_str().expect("an end").parse().expect("a time");
    let (mut wire, head) = stream();
    let token = jwt::claims(up.matching("/sse/9").last().expect("seen").bearer().expect("a token"));
    assert!(token["exp"].as_i64().expect("an expiry") <= until_when.as_second(), "{token}");
    assert!(!matches!(wire.part(&head.fields), Ok(Some(_) | None)), "it ended with the lease");
    assert_eq!(ended(1), ("aborted".into(), "ended: the lease that it went by is over".into()));
    exeat.ask("mesh", "GET", "/task/late", &up.authority(), &[]).must_refuse(403, "lease_ended");
    let over = exeat.record("the end by time", |record| record["event"] == "lease_ended" && record["lease"] == id.as_str());
    assert_eq!(over["by"], "its time");
}

#[test]
fn spent_uses_end_nothing_and_a_renewal_prolongs_what_runs() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let id = open(&exeat, &["--uses", "1", "--ttl", "4s"]);
    let mut wire = exeat.wire("mesh");
    wire.send(&request("GET", "/sse/3", &up.authority(), &[], b""));
    let head = wire.open_answer().expect("a head");
    wire.part(&head.fields).expect("an event");
    exeat.ask("mesh", "GET", "/task/more", &up.authority(), &[]).must_refuse(403, "lease_spent");
    let before = told(&lease(&exeat, &["show", &id, "--json"]))["until"].as_str().expect("an end").to_owned();
    let renewed = told(&lease(&exeat, &["renew", &id, "--ttl", "20m", "--json"]));
    assert!(renewed["until"].as_str() > Some(before.as_str()));
    // A reload judges it again: it has paid.
    exeat.write_policy("base.yaml", &(rules() + "  - { id: other, effect: deny, to: [up], paths: [/never] }\n"));
    exeat.reload();
    until("the reload", || exeat.audit().iter().any(|record| record["event"] == "reload").then_some(()));
    let end: jiff::Timestamp = before.parse().expect("a time");
    until("the former end to pass", || (jiff::Timestamp::now() > end + std::time::Duration::from_secs(1)).then_some(()));
    for _ in 0..2 {
        up.step(1);
        assert!(matches!(wire.part(&head.fields), Ok(Some(_))), "it goes on");
    }
    let longer = lease(&exeat, &["renew", &id, "--ttl", "25h"]);
    assert_eq!(longer.status.code(), Some(1), "24 h since its opening are the most");
}

#[test]
fn what_ended_stays_ended_and_what_was_spent_stays_spent() {
    let up = Upstream::http();
    let mut exeat = house(&up).start();
    let named = |exeat: &Exeat, id: &str, target: &str| exeat.ask("mesh", "GET", target, &up.authority(), &[("exeat-lease", id)]);
    let (ended, spent, half) = (open(&exeat, &[]), open(&exeat, &["--uses", "2"]), open(&exeat, &["--uses", "80"]));
    told(&lease(&exeat, &["end", &ended, "--json"]));
    for _ in 0..2 {
        assert_eq!(named(&exeat, &spent, "/task/x").status, 200);
    }
    assert_eq!(named(&exeat, &half, "/once").status, 200);
    assert_eq!(named(&exeat, &half, "/task/x").status, 200);
    exeat.signal(Signal::SIGKILL);
    exeat.wait();
    exeat.relaunch();
    named(&exeat, &ended, "/task/x").must_refuse(403, "lease_ended");
    named(&exeat, &spent, "/task/x").must_refuse(403, "lease_spent");
    named(&exeat, &half, "/once").must_refuse(403, "lease_spent");
    assert_eq!(named(&exeat, &half, "/task/x").status, 200);
    let after = left(&exeat, &half).as_u64().expect("a number");
    assert!((80 - 3 - 2 * 10..=80 - 3).contains(&after), "{after}: none came back, and no more than the reserve was lost");
    // A clean stop loses none.
    exeat.signal(Signal::SIGTERM);
    exeat.wait();
    exeat.relaunch();
    assert_eq!(left(&exeat, &half), after);
}

#[test]
fn the_named_lease_and_no_other_and_its_name_stays_here() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let (first, second) = (open(&exeat, &["--uses", "1"]), open(&exeat, &["--uses", "5", "--ttl", "30m"]));
    let ask = |fields: &[(&str, &str)]| exeat.ask("mesh", "GET", "/task/x", &up.authority(), fields);
    assert_eq!(ask(&[("exeat-lease", &second)]).status, 200);
    assert_eq!((left(&exeat, &first), left(&exeat, &second)), (1.into(), 4.into()));
    assert_eq!(ask(&[]).status, 200, "unnamed, the one that ends soonest");
    assert_eq!((left(&exeat, &first), left(&exeat, &second)), (0.into(), 4.into()));
    ask(&[("exeat-lease", &first)]).must_refuse(403, "lease_spent");
    ask(&[("exeat-lease", "release-none")]).must_refuse(403, "lease_missing");
    ask(&[("exeat-lease", &second), ("exeat-lease", &first)]).must_refuse(403, "lease_missing");
    assert_eq!(ask(&[]).status, 200, "with uses left elsewhere nobody is turned away");
    for seen in up.seen() {
        assert!(!seen.fields.has("exeat-lease"), "{:?}", seen.fields);
    }
    // A lease of another workload is none.
    let foreign =
        told(&lease(&exeat, &["open", "--workload", "spiffe://it.test/ns/it/sa/other", "--kind", "release", "--ttl", "20m", "--json"]));
    ask(&[("exeat-lease", foreign["id"].as_str().expect("an id"))]).must_refuse(403, "lease_missing");
    for (wrong, word) in [
        (&["open", "--workload", "app", "--kind", "release", "--ttl", "20m"][..], "spiffe://"),
        (&["open", "--workload", APP, "--kind", "release", "--ttl", "25h"], "24 h"),
        (&["open", "--workload", APP, "--kind", "release", "--ttl", "soon"], "20m"),
        (&["end", "release-none"], "lease list"),
    ] {
        let output = lease(&exeat, wrong);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(word), "{wrong:?}: {said}");
    }
    let list = lease(&exeat, &["list"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains(&second));
}

#[test]
fn two_workers_take_no_more_uses_than_there_are() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let id = open(&exeat, &["--uses", "150"]);
    let passed = parallel(&exeat, &up, "/task/x", "lease_spent");
    assert_eq!(passed, 150);
    assert_eq!(left(&exeat, &id), 0);
}

/// Eight connections, fifty requests each; how many came through. The others were refused with this code.
pub fn parallel(exeat: &Exeat, up: &Upstream, target: &str, code: &str) -> usize {
    let together = Arc::new(std::sync::Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (port, host, target, code, together) =
                (exeat.port("mesh"), up.authority(), target.to_owned(), code.to_owned(), Arc::clone(&together));
            std::thread::spawn(move || {
                let mut wire = Wire::tcp(port).within(std::time::Duration::from_mins(1));
                together.wait();
                (0..50)
                    .filter(|_| {
                        let answer = wire.ask("GET", &target, &host, &[], b"");
                        assert!(answer.status == 200 || answer.refusal() == Some(&code), "{} {}", answer.status, answer.text());
                        answer.status == 200
                    })
                    .count()
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("asked")).sum()
}

#[test]
fn a_revoked_lease_is_blocked_until_it_is_restored() {
    let up = Upstream::http();
    let exeat = house(&up).start();
    let id = open(&exeat, &["--uses", "5"]);
    let ask = || exeat.ask("mesh", "GET", "/task/x", &up.authority(), &[]);
    assert_eq!(ask().status, 200);
    let admin = format!("unix://{}", exeat.house.path().join("admin.sock").display());
    for (verb, expected) in [("revoke", 403), ("restore", 200)] {
        let output = clients::output(&mut command(&[verb, "lease", &id, "--reason", "drill", "--admin", &admin]));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(ask().status, expected, "after {verb}");
    }
    assert_eq!(left(&exeat, &id), 3, "what was refused cost nothing");
}

#[test]
fn an_observed_upstream_shows_what_would_be_and_takes_nothing() {
    let up = Upstream::http();
    let house = House::new()
        .listener("mesh", Capture::Host)
        .upstream_with("up", &up, &format!("stage: {{ observe: {{ until: {} }} }}", in_days(7)))
        .policy("base.yaml", &rules());
    let socket = house.path().join("admin.sock");
    let exeat = house.extra(&format!("admin: {{ address: \"unix://{}\" }}", socket.display())).start();
    let ask = |target: &str| {
        assert_eq!(exeat.ask("mesh", "GET", target, &up.authority(), &[("exeat-lease", "release-none")]).status, 200);
        exeat.record(target, |record| record["kind"] == "access" && record["path"] == target)["would_be"].clone()
    };
    let would = ask("/task/1");
    assert_eq!((would["code"].as_str(), would["changed"].as_bool()), (Some("lease_missing"), Some(true)), "{would}");
    assert!(!format!("{:?}", up.wait_for("/task/1").fields).to_ascii_lowercase().contains("exeat-lease"));
    let id = open(&exeat, &["--uses", "1"]);
    let named = |target: &str| {
        assert_eq!(exeat.ask("mesh", "GET", target, &up.authority(), &[("exeat-lease", &id)]).status, 200);
        exeat.record(target, |record| record["kind"] == "access" && record["path"] == target)["would_be"].clone()
    };
    assert_eq!(named("/task/2")["outcome"], "allowed");
    assert_eq!(named("/task/3")["code"], "lease_spent");
    assert_eq!(left(&exeat, &id), 1, "twins count apart");
}
