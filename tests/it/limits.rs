//! Story: what is limited is limited for each workload apart, over reloads, and exactly.

use crate::harness::exeat::{APP, Capture, allow_all, command, policy_head};
use crate::harness::wire::request;
use crate::harness::{Exeat, House, Upstream, Wire, clients, h2, run, until};
use crate::leases::parallel;

const OTHER: &str = "spiffe://it.test/ns/it/sa/other";

fn rules(limits: &str) -> String {
    policy_head("base").replace("from: [app]", &format!("from: [app, \"{OTHER}\"]"))
        + &format!(
            "  - {{ id: few, effect: allow, to: [up], methods: [GET, POST], paths: [\"/few/**\"], grant: up-jwt, limits: {limits} }}\n"
        )
}

fn start(up: &Upstream, limits: &str) -> Exeat {
    House::new()
        .identity("other", &format!("{{ fixed: {{ id: \"{OTHER}\" }} }}"))
        .listener("mesh", Capture::Host)
        .listener_for("second", Capture::Host, "other")
        .upstream("up", up)
        .policy("base.yaml", &rules(limits))
        .extra("threads: 2")
        .start()
}

#[test]
fn a_limit_is_told_with_the_time_to_come_back() {
    let up = Upstream::http();
    let exeat = start(&up, "{ quota: 2/day }");
    let ask = |listener: &str| exeat.ask(listener, "GET", "/few/x", &up.authority(), &[]);
    assert_eq!((ask("mesh").status, ask("mesh").status), (200, 200));
    let refused = ask("mesh");
    refused.must_refuse(429, "limited");
    let wait: i64 = refused.fields.get("retry-after").expect("Retry-After").parse().expect("whole seconds");
    let second = jiff::Timestamp::now().as_second().rem_euclid(86_400);
    assert!((86_400 - second - 60..=86_400 - second + 60).contains(&wait), "{wait} s to midnight in UTC, it is {second}");
    assert_eq!(refused.json()["retry_after"].as_i64(), Some(wait));
    assert_eq!(refused.json()["retry"], true);
    assert!(!refused.text().contains("2/day"), "policy's internals stay inside");
    assert_eq!(up.count(), 2, "not a byte of the third");
    assert_eq!((ask("second").status, ask("second").status, ask("second").status), (200, 200, 429), "each workload has its own");
    let record = exeat.record("the refusal", |record| record["code"] == "limited");
    let detail = record["detail"].as_str().expect("why");
    assert!(detail.contains("base/few") && detail.contains("2/day per workload"), "{detail}");
    run(async {
        let mut client = h2::Client::start(h2::plain(exeat.port("mesh")).await).await.expect("h2");
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = client.ask(h2::request("POST", "http", &up.authority(), "/few/Call", &fields), b"", None).await.expect("answered");
        let field = |name: &str| answer.fields.get(name).unwrap_or_default();
        assert_eq!((answer.status, field("grpc-status")), (200, "8"));
        assert!(field("grpc-retry-pushback-ms").parse::<i64>().expect("a time") > (wait - 60) * 1000);
    });
}

#[test]
fn a_counter_survives_a_reload_and_a_changed_limit_begins_anew() {
    let up = Upstream::http();
    let exeat = start(&up, "{ quota: 2/day, per: rule }");
    let ask = |listener: &str| exeat.ask(listener, "GET", "/few/x", &up.authority(), &[]).status;
    assert_eq!((ask("mesh"), ask("second"), ask("mesh")), (200, 200, 429), "one counter for all");
    let reload = |text: &str| {
        let policy = || exeat.audit().iter().rev().find(|record| record["event"] == "reload" || record["event"] == "start").cloned();
        let policy = || policy().map(|record| record["policy"].clone());
        let before = policy();
        exeat.write_policy("base.yaml", text);
        exeat.reload();
        until("the reload", || (policy() != before).then_some(()));
    };
    reload(&(rules("{ quota: 2/day, per: rule }") + "  - { id: never, effect: deny, to: [up], paths: [/never] }\n"));
    assert_eq!((ask("mesh"), ask("second")), (429, 429), "a reload gives nothing back");
    reload(&rules("{ quota: 3/day, per: rule }"));
    assert_eq!((ask("mesh"), ask("mesh"), ask("second"), ask("second")), (200, 200, 200, 429));
}

#[test]
fn two_workers_let_through_exactly_the_limit() {
    let up = Upstream::http();
    let exeat = start(&up, "{ rate: 1/hour, burst: 130 }");
    assert_eq!(parallel(&exeat, &up, "/few/x", "limited"), 130);
    assert_eq!(up.count(), 130);
}

#[test]
fn the_checker_says_what_a_limit_costs() {
    let up = Upstream::http();
    let exeat = start(&up, "{ rate: 5/s, burst: 10, quota: 20/day }");
    let config = exeat.config.display().to_string();
    let output = clients::output(&mut command(&["check", "-c", &config]));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("with limits"), "{said}");
    assert_ne!(APP, OTHER);
}

/// Requests that wait for their answer hold what their records need, and one workload may hold half of it.
#[test]
fn one_workload_leaves_the_others_the_slots_of_their_records() {
    const HALF: usize = 20;
    let up = Upstream::http();
    let policy = policy_head("base").replace("from: [app]", &format!("from: [app, \"{OTHER}\"]"))
        + "  - { id: all, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], grant: up-jwt }\n";
    let exeat = House::new()
        .identity("other", &format!("{{ fixed: {{ id: \"{OTHER}\" }} }}"))
        .listener("mesh", Capture::Host)
        .listener_for("second", Capture::Host, "other")
        .upstream("up", &up)
        .policy("base.yaml", &policy)
        .extra(&format!("limits: {{ audit_queue: {} }}\nthreads: 2", 2 * HALF))
        .start();
    let send = |listener: &str, target: &str| {
        let mut wire = exeat.wire(listener);
        wire.send(&request("GET", target, &up.authority(), &[], b""));
        wire
    };
    let mut held: Vec<Wire> = Vec::new();
    for at in 0..HALF {
        let target = format!("/wait/{at}");
        held.push(send("mesh", &target));
        until("the request to reach the upstream", || (up.count() > at).then_some(()));
    }
    for _ in 0..HALF / 2 {
        send("mesh", "/wait/more").answer("GET").must_refuse(503, "overloaded");
    }
    for _ in 0..HALF / 2 {
        assert_eq!(exeat.ask("second", "GET", "/x", &up.authority(), &[]).status, 200, "the others have their half");
    }
    let detail = exeat.record("the refusal", |record| record["code"] == "overloaded")["detail"].clone();
    assert!(detail.as_str().is_some_and(|detail| detail.contains("limits.audit_queue")), "{detail}");
    up.step(HALF);
    for wire in &mut held {
        assert_eq!(wire.answer("GET").status, 200, "what was let through ends as it would have");
    }
    until("the slots to be free", || (exeat.metric(&["exeat_audit_outstanding "]) < 1.0).then_some(()));
    assert_eq!(exeat.ask("mesh", "GET", "/x", &up.authority(), &[]).status, 200);
}

/// Where there is nobody else, nothing is kept for others.
#[test]
fn the_only_workload_has_all_the_slots() {
    const ALL: usize = 20;
    let up = Upstream::http();
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .listener("egress", Capture::Forward)
        .upstream("up", &up)
        .policy("base.yaml", &allow_all(&["up"]))
        .extra(&format!("limits: {{ audit_queue: {ALL} }}\nthreads: 2"))
        .start();
    let mut held: Vec<Wire> = Vec::new();
    for at in 0..ALL {
        let mut wire = exeat.wire("mesh");
        wire.send(&request("GET", &format!("/wait/{at}"), &up.authority(), &[], b""));
        held.push(wire);
        until("the request to reach the upstream", || (up.count() > at).then_some(()));
    }
    exeat.ask("mesh", "GET", "/x", &up.authority(), &[]).must_refuse(503, "audit_unavailable");
    up.step(ALL);
    for wire in &mut held {
        assert_eq!(wire.answer("GET").status, 200);
    }
}
