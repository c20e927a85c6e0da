//! Story: change is all or nothing, and nobody notices it but by what is now allowed.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;

use crate::harness::exeat::{Capture, allow_all, policy_head};
use crate::harness::{House, Upstream, Wire, until};

/// Two halves that are never allowed together: a request that saw half of each set would be allowed or refused twice.
fn half(open: &str) -> String {
    policy_head("base")
        + &format!(
            "  - {{ id: half-{open}, effect: allow, to: [up], methods: [GET], paths: [\"/{open}/**\", \"/both/**\"], grant: up-jwt }}\n"
        )
}

#[test]
fn two_hundred_reloads_break_no_request_and_mix_no_revisions() {
    let up = Upstream::http();
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &half("even")).start();
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..3)
        .map(|worker| {
            let (port, host, stop, asked) = (exeat.port("mesh"), up.authority(), Arc::clone(&stop), Arc::clone(&asked));
            std::thread::spawn(move || {
                let mut wire = Wire::tcp(port).within(std::time::Duration::from_mins(2));
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    at += 1;
                    let side = ["even", "odd", "both"][at % 3];
                    let answer = wire.ask("GET", &format!("/{side}/{worker}/{at}"), &host, &[], b"");
                    match (side, answer.status) {
                        (_, 200) => {}
                        ("even" | "odd", 403) => assert_eq!(answer.refusal(), Some("no_rule")),
                        (_, status) => panic!("{side}: {status} {}", answer.text()),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut probes = 0;
    for turn in 1..=200 {
        exeat.write_policy("base.yaml", &half(if turn % 2 == 0 { "even" } else { "odd" }));
        exeat.reload();
        let wanted = if turn % 2 == 0 { "even" } else { "odd" };
        let mut wire = exeat.wire("mesh");
        until("the reload to hold", || {
            probes += 1;
            (wire.ask("GET", &format!("/{wanted}/probe"), &up.authority(), &[], b"").status == 200).then_some(())
        });
        assert!(workers.iter().all(|worker| !worker.is_finished()), "a request failed at reload {turn}");
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().expect("no request failed");
    }
    assert!(asked.load(Ordering::Relaxed) > 400, "requests flowed");
    // Each request has one record, and so one revision that judged it. Records are written behind their answers.
    let all = probes + asked.load(Ordering::Relaxed);
    let is_access = |record: &Value| record["kind"] == "access";
    let newest = |records: &[Value], access: bool| {
        records.iter().filter(|record| is_access(record) == access).filter_map(|record| record["revision"].as_u64()).max()
    };
    let records = until("a record of each request, and of the revision that judged it", || {
        let records = exeat.audit();
        let asked = records.iter().filter(|record| is_access(record)).count() as u64;
        (asked >= all && newest(&records, false) >= newest(&records, true)).then_some(records)
    });
    let (accesses, events): (Vec<_>, Vec<_>) = records.iter().partition(|record| is_access(record));
    assert_eq!(accesses.len() as u64, all);
    // Each edit is taken over once. The file and the signal tell of it both, and a reload that finds nothing new is a revision as well.
    let mut taken: Vec<(u64, &str)> = Vec::new();
    for event in events.iter().filter(|record| record["event"] == "start" || record["event"] == "reload") {
        taken.push((event["revision"].as_u64().expect("a revision"), event["policy"].as_str().expect("a policy")));
    }
    assert!(taken.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "revisions go up by one: {taken:?}");
    assert_eq!(taken.windows(2).filter(|pair| pair[0].1 != pair[1].1).count(), 200, "{taken:?}");
    // One revision is one policy, and one revision gives one answer to one question.
    let mut policies: BTreeMap<u64, String> = BTreeMap::new();
    let mut answers: BTreeMap<(u64, String), String> = BTreeMap::new();
    for record in accesses {
        let revision = record["revision"].as_u64().expect("a revision");
        let policy = record["policy"].as_str().expect("a policy").to_owned();
        assert!(taken.contains(&(revision, &policy)), "judged by what was never taken over: {record}");
        assert_eq!(*policies.entry(revision).or_insert_with(|| policy.clone()), policy, "{record}");
        let side = record["path"].as_str().expect("a path").split('/').nth(1).expect("a side").to_owned();
        let outcome = record["outcome"].as_str().expect("an outcome").to_owned();
        assert_eq!(*answers.entry((revision, side)).or_insert_with(|| outcome.clone()), outcome, "{record}");
    }
    assert!(policies.len() >= 200, "{} revisions judged requests", policies.len());
    for revision in policies.keys() {
        let told = |side: &str| answers.get(&(*revision, side.to_owned())).map(String::as_str);
        assert!(!(told("even") == Some("allowed") && told("odd") == Some("allowed")), "revision {revision} is half of each");
    }
}

#[test]
fn a_broken_file_changes_nothing_and_everybody_can_see_it() {
    let up = Upstream::http();
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"])).start();
    let ask = || exeat.ask("mesh", "GET", "/x", &up.authority(), &[]).status;
    assert_eq!(ask(), 200);
    let broken = [
        "exeat: policy/v1\nname: [\n",
        "exeat: policy/v1\nname: base\nrules:\n  - { id: x, effect: allow, to: [nobody] }\n",
        &(policy_head("base")
            + "  - { id: gone, effect: deny, to: [up], methods: [\"*\"], paths: [\"/**\"] }\n  - { id: gone, effect: deny, to: [up] }\n"),
        &(policy_head("base")
            + "  - { id: cond, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], when: \"request.bdy_size < 3\", grant: up-jwt }\n"),
    ];
    for (at, text) in broken.iter().enumerate() {
        exeat.write_policy("base.yaml", text);
        exeat.reload();
        until("the failure in the audit", || {
            (exeat.audit().iter().filter(|record| record["event"] == "reload_failed").count() > at).then_some(())
        });
        assert_eq!(ask(), 200, "{text}");
        let ready = exeat.status("/readyz");
        assert!(ready.text().contains("base.yaml"), "readyz names the broken file: {} {}", ready.status, ready.text());
        assert_eq!(exeat.metric(&["exeat_config_last_reload_successful"]).to_string(), "0", "{}", exeat.metrics());
    }
    exeat.write_policy(
        "base.yaml",
        &(policy_head("base") + "  - { id: other, effect: allow, to: [up], methods: [GET], paths: [/y], grant: up-jwt }\n"),
    );
    exeat.reload();
    until("the repaired file to hold", || (ask() == 403).then_some(()));
    assert_eq!(exeat.metric(&["exeat_config_last_reload_successful"]).to_string(), "1");
    let ready = exeat.status("/readyz");
    assert_eq!(ready.status, 200);
    assert!(!ready.text().contains("base.yaml:"), "the trouble is over: {}", ready.text());
}

#[test]
fn a_changed_file_is_seen_without_a_signal() {
    let up = Upstream::http();
    let exeat = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"])).start();
    assert_eq!(exeat.ask("mesh", "DELETE", "/x", &up.authority(), &[]).status, 200);
    exeat.write_policy("base.yaml", &half("even"));
    until("the change to hold", || (exeat.ask("mesh", "DELETE", "/x", &up.authority(), &[]).status == 403).then_some(()));
    // A second file of another team, and its end.
    let second = policy_head("second").replace("base", "second")
        + "  - { id: extra, effect: allow, to: [up], methods: [DELETE], paths: [/x], grant: up-jwt }\n";
    exeat.write_policy("second.yaml", &second);
    until("the new file to hold", || (exeat.ask("mesh", "DELETE", "/x", &up.authority(), &[]).status == 200).then_some(()));
    fs::remove_file(exeat.house.path().join("policies/second.yaml")).expect("removed");
    until("its end to hold", || (exeat.ask("mesh", "DELETE", "/x", &up.authority(), &[]).status == 403).then_some(()));
}

#[test]
fn a_configmap_is_swapped_by_its_link() {
    let up = Upstream::http();
    let house = House::new().listener("mesh", Capture::Host).upstream("up", &up);
    // As the kubelet writes it: files link into ..data, which links to a directory with a time in its name.
    let dir = house.path().join("policies");
    for (name, text) in [("..2026_01", allow_all(&["up"])), ("..2026_02", half("even"))] {
        fs::create_dir(dir.join(name)).expect("made");
        fs::write(dir.join(name).join("base.yaml"), text).expect("written");
    }
    std::os::unix::fs::symlink("..2026_01", dir.join("..data")).expect("linked");
    std::os::unix::fs::symlink("..data/base.yaml", dir.join("base.yaml")).expect("linked");
    let exeat = house.start();
    assert_eq!(exeat.ask("mesh", "DELETE", "/x", &up.authority(), &[]).status, 200);
    std::os::unix::fs::symlink("..2026_02", dir.join("..data_tmp")).expect("linked");
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("swapped");
    until("the swap to hold", || (exeat.ask("mesh", "DELETE", "/x", &up.authority(), &[]).status == 403).then_some(()));
    assert_eq!(exeat.ask("mesh", "GET", "/even/x", &up.authority(), &[]).status, 200);
}

#[test]
fn the_configuration_reloads_too_and_what_cannot_is_said() {
    let (one, two) = (Upstream::http(), Upstream::http());
    let exeat = House::new().listener("mesh", Capture::Host).upstream("one", &one).policy("base.yaml", &allow_all(&["one"])).start();
    exeat.ask("mesh", "GET", "/x", &two.authority(), &[]).must_refuse(403, "unlisted");
    let text = fs::read_to_string(&exeat.config).expect("read");
    let with_two = text.replace("\nupstreams:\n", &format!("\nupstreams:\n  two: {{ owner: t@example.com, origins: [\"{}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, credentials: [one-jwt] }}\n", two.origin()));
    fs::write(&exeat.config, &with_two).expect("written");
    exeat.reload();
    until("the new upstream", || (exeat.ask("mesh", "GET", "/x", &two.authority(), &[]).refusal() == Some("no_rule")).then_some(()));
    // A listener cannot come by reload: it is said, not ignored.
    let port = crate::harness::free_port();
    fs::write(
        &exeat.config,
        with_two.replace(
            "\nlisteners:\n",
            &format!("\nlisteners:\n  late: {{ address: \"127.0.0.1:{port}\", capture: host, identity: [app] }}\n"),
        ),
    )
    .expect("written");
    exeat.reload();
    until("the word `restart`", || exeat.output().contains("restart").then_some(()));
    assert_eq!(exeat.ask("mesh", "GET", "/x", &one.authority(), &[]).status, 200);
}

#[test]
fn a_required_policy_test_that_fails_keeps_the_former_rules() {
    let up = Upstream::http();
    let rule = |method: &str| {
        policy_head("base") + &format!("  - {{ id: get, effect: allow, to: [up], methods: [{method}], paths: [\"/**\"], grant: up-jwt }}\n")
    };
    let test = "exeat: policytest/v1\nat: 2026-11-23T10:00:00Z\ntable:\n  - name: reading works\n    set: { from: \"APP\", to: up, method: GET, path: /x }\n    expect: allow\n    rule: base/get\n";
    let test = test.replace("APP", crate::harness::exeat::APP);
    let exeat = House::new()
        .listener("mesh", Capture::Host)
        .upstream("up", &up)
        .policy("base.yaml", &rule("GET"))
        .policy("base.test.yaml", &test)
        .start();
    let ask = || exeat.ask("mesh", "GET", "/x", &up.authority(), &[]).status;
    assert_eq!(ask(), 200);
    let failures = || exeat.audit().iter().filter(|record| record["event"] == "reload_failed").count();
    exeat.write_policy("base.yaml", &rule("POST"));
    exeat.reload();
    until("the failing test in the audit", || (failures() > 0).then_some(()));
    assert_eq!(ask(), 200, "the former rules hold");
    let ready = exeat.status("/readyz").text();
    assert!(
        ready.contains("base.test.yaml:4:11") && ready.contains("reading works") && ready.contains("method: it is for POST"),
        "{ready}"
    );
    assert!(exeat.output().contains("test `reading works` fails"), "{}", exeat.output());
    exeat.write_policy("base.test.yaml", &test.replace("GET", "POST"));
    exeat.reload();
    until("the new rules to hold", || (ask() == 403).then_some(()));
    until("the failure to be forgotten", || (!exeat.status("/readyz").text().contains("reading works")).then_some(()));
}

#[test]
fn a_required_policy_test_that_fails_at_the_start_lets_nothing_through() {
    let up = Upstream::http();
    let test = format!(
        "exeat: policytest/v1\nat: 2026-11-23T10:00:00Z\ninvariants:\n  - {{ name: nobody reads, never: {{ from: \"{}\", to: up }} }}\n",
        crate::harness::exeat::APP
    );
    let house = House::new().listener("mesh", Capture::Host).upstream("up", &up).policy("base.yaml", &allow_all(&["up"]));
    let exeat = house.policy("base.test.yaml", &test).spawn();
    let ready = until("the status server", || exeat.try_status("/readyz"));
    let answer = exeat.ask("mesh", "GET", "/x", &up.authority(), &[]);
    assert_eq!((answer.status, answer.refusal()), (503, Some("not_ready")));
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("nobody reads"), "{}", ready.text());
}
