//! What rules mean, as tables of requests and decisions.

use super::Bounds;
use super::testing::{Ask, BILLING, ask, compiled, line, set, with_head};

fn check(rules: &str, table: &[(Ask, &str)]) {
    let set = set(rules);
    for (ask, expected) in table {
        assert_eq!(ask.line(&set), *expected, "{} {} by {}", ask.parts.method, ask.parts.uri, ask.workload.id);
    }
}

#[test]
fn the_most_specific_allow_gives_the_grant() {
    check(
        r#"
  - { id: all, effect: allow, methods: ["*"], paths: ["/**"], grant: none }
  - { id: charges, effect: allow, methods: [GET, POST], paths: [/v1/charges, "/v1/charges/*"], grant: stripe-restricted }
  - { id: reading, effect: allow, methods: [GET], paths: ["/v1/**"], grant: stripe-readonly }
  - { id: keyed, effect: allow, methods: [GET, POST], paths: [/v1/charges], when: "'idempotency-key' in request.headers", grant: stripe-readonly }
"#,
        &[
            (ask("stripe", "POST /v1/charges"), "allow charges stripe-restricted"),
            (ask("stripe", "POST /v1/charges").header("idempotency-key", "1"), "allow keyed stripe-readonly"),
            (ask("stripe", "GET /v1/charges/7"), "allow charges stripe-restricted"),
            (ask("stripe", "GET /v1/refunds"), "allow reading stripe-readonly"),
            (ask("stripe", "DELETE /v1/refunds"), "allow all bare"),
            (ask("ledger", "GET /v1/charges"), "no_rule -"),
            (ask("stripe", "GET /v1/charges").by("spiffe://prod.example/ns/billing/sa/other"), "no_rule -"),
            (ask("stripe", "GET /v1/charges").by("spiffe://other.example/ns/billing/sa/billing-app"), "no_rule -"),
        ],
    );
}

#[test]
fn deny_overrides_and_require_comes_next() {
    check(
        r#"
  - { id: all, effect: allow, methods: ["*"], paths: ["/**"], grant: none }
  - { id: no-keys, effect: deny, paths: ["/v1/api_keys/**"] }
  - { id: ticket, effect: require, methods: [DELETE], paths: ["/**"], when: "request.headers['x-ticket'].startsWith('CHG-')" }
"#,
        &[
            (ask("stripe", "GET /v1/api_keys"), "denied no-keys"),
            (ask("stripe", "DELETE /v1/api_keys/1").header("x-ticket", "CHG-1"), "denied no-keys"),
            (ask("stripe", "DELETE /v1/x"), "requirement ticket"),
            (ask("stripe", "DELETE /v1/x").header("x-ticket", "none"), "requirement ticket"),
            (ask("stripe", "DELETE /v1/x").header("x-ticket", "CHG-1").header("x-ticket", "CHG-2"), "requirement ticket"),
            (ask("stripe", "DELETE /v1/x").header("x-ticket", "CHG-1"), "allow all bare"),
        ],
    );
}

#[test]
fn an_error_denies_but_never_allows() {
    check(
        r"
  - { id: small, effect: allow, methods: [POST], paths: [/small], when: request.body_size < 100, grant: none }
  - { id: open, effect: allow, methods: [POST], paths: [/open], grant: none }
  - { id: large, effect: deny, paths: [/open], when: request.body_size >= 100 }
",
        &[
            (ask("stripe", "POST /small").header("content-length", "5"), "allow small bare"),
            (ask("stripe", "POST /small"), "no_rule -"),
            (ask("stripe", "POST /open").header("content-length", "5"), "allow open bare"),
            (ask("stripe", "POST /open").header("content-length", "500"), "denied large"),
            (ask("stripe", "POST /open"), "denied large"),
        ],
    );
}

#[test]
fn every_reading_of_a_path_must_be_judged_alike() {
    check(
        r#"
  - { id: public, effect: allow, methods: [GET], paths: ["/public/**"], grant: none }
  - { id: files, effect: allow, methods: [GET], paths: ["/files/**"], grant: none }
  - { id: secret, effect: deny, paths: ["/public/secret/**"] }
  - { id: project, effect: allow, methods: [GET], paths: ["/projects/*/issues", "/projects/*/*/issues"], grant: none }
"#,
        &[
            (ask("stripe", "GET /public/a%20b/"), "allow public bare"),
            (ask("stripe", "GET /public//x"), "allow public bare"),
            (ask("stripe", "GET /public/%73ecret"), "denied secret"),
            (ask("stripe", "GET /public/..;/public/secret"), "denied secret"),
            (ask("stripe", "GET /files/..%2fpublic/x"), "ambiguous_path -"),
            (ask("stripe", "GET /public/../elsewhere"), "ambiguous_path -"),
            (ask("stripe", "GET /projects/group%2Fname/issues"), "allow project bare"),
            (ask("stripe", "GET /elsewhere/%2e%2e/nothing"), "no_rule -"),
        ],
    );
}

#[test]
fn rules_have_dates_and_windows() {
    check(
        r#"
  - { id: soon, effect: allow, methods: [GET], paths: [/soon], not_before: 2026-12-01, expires: 2026-12-02, grant: none }
  - { id: office, effect: allow, methods: [GET], paths: [/office], grant: none, windows: [{ days: mon-fri, from: "06:00", to: "22:00", tz: Europe/Berlin }] }
"#,
        &[
            (ask("stripe", "GET /soon"), "no_rule -"),
            (ask("stripe", "GET /soon").at("2026-12-01T00:00:00Z"), "allow soon bare"),
            (ask("stripe", "GET /soon").at("2026-12-02T00:00:00Z"), "no_rule -"),
            (ask("stripe", "GET /office"), "allow office bare"),
            (ask("stripe", "GET /office").at("2026-11-23T21:00:00Z"), "no_rule -"),
            (ask("stripe", "GET /office").at("2026-11-22T12:00:00Z"), "no_rule -"),
        ],
    );
}

/// A decision knows no other moment than the one it is given: after a jump it is what it would have been, and then again.
#[test]
fn a_clock_that_jumps_a_day_is_believed_and_nothing_of_it_stays() {
    let set = set(r#"
  - { id: office, effect: allow, methods: [GET], paths: [/office], grant: none, windows: [{ days: mon, from: "06:00", to: "22:00", tz: UTC }] }
  - { id: today, effect: allow, methods: [GET], paths: [/today], not_before: 2026-11-23, expires: 2026-11-24, grant: none }
  - { id: since, effect: deny, paths: ["/**"], not_before: 2026-11-24T18:00:00Z }
"#);
    let (monday, sunday, tuesday) = ("2026-11-23T12:00:00Z", "2026-11-22T12:00:00Z", "2026-11-24T12:00:00Z");
    let live = crate::live::Live::default();
    for (at, office, today) in [
        (monday, "allow office bare", "allow today bare"),
        (sunday, "no_rule -", "no_rule -"),
        (monday, "allow office bare", "allow today bare"),
        (tuesday, "no_rule -", "no_rule -"),
        (monday, "allow office bare", "allow today bare"),
        ("2026-11-24T18:00:00Z", "denied since", "denied since"),
        (monday, "allow office bare", "allow today bare"),
    ] {
        for (path, expected) in [("GET /office", office), ("GET /today", today)] {
            let decision = ask("stripe", path).at(at).decide_with(&set, &live);
            assert_eq!(line(&decision), expected, "{path} at {at}");
            // What is let in by a wrong clock is looked at by the right one, against an end that does not move.
            let until = decision.outcome.ok().and_then(|permit| permit.until());
            assert!(until.is_none_or(|until| until <= "2026-11-24T00:00:00Z".parse().unwrap()), "{path} at {at}: {until:?}");
        }
    }
}

#[test]
fn a_permit_ends_with_its_rule_or_its_window() {
    let set = set(r#"
  - { id: office, effect: allow, methods: [GET], paths: [/office], grant: none, windows: [{ from: "06:00", to: "22:00", tz: UTC }] }
  - { id: last, effect: allow, methods: [GET], paths: [/last], expires: 2026-11-23T13:00:00Z, grant: none, windows: [{ from: "06:00", to: "22:00", tz: UTC }] }
"#);
    let until = |line: &str| ask("stripe", line).decide(&set).outcome.unwrap().until().unwrap().to_string();
    assert_eq!(until("GET /office"), "2026-11-23T22:00:00Z");
    assert_eq!(until("GET /last"), "2026-11-23T13:00:00Z");
}

#[test]
fn shadow_rules_only_show_what_would_be() {
    check(
        r#"
  - { id: all, effect: allow, methods: ["*"], paths: ["/**"], grant: none }
  - { id: narrow, effect: deny, mode: shadow, paths: ["/v1/**"] }
  - { id: wide, effect: allow, mode: shadow, to: [ledger], methods: [GET], paths: ["/**"], grant: jwt-ledger }
  - { id: tried, effect: allow, mode: shadow, methods: ["*"], paths: ["/**"], grant: stripe-readonly }
"#,
        &[
            (ask("stripe", "GET /v1/x"), "allow all bare ~! denied narrow"),
            (ask("ledger", "GET /x"), "no_rule - ~! allow wide"),
            (ask("ledger", "POST /x"), "no_rule -"),
            (ask("stripe", "GET /x"), "allow all bare ~! allow tried"),
        ],
    );
}

#[test]
fn an_observed_upstream_passes_but_for_floors() {
    check(
        r"
  - { id: entries, effect: allow, to: [trial], methods: [GET], paths: [/entries], grant: jwt-ledger }
  - { id: plain, effect: deny, to: [trial], paths: [/plain] }
  - { id: floor, effect: deny, floor: true, to: [trial], paths: [/floor] }
",
        &[
            (ask("trial", "GET /entries"), "allow - as-is ~= allow entries"),
            (ask("trial", "GET /other"), "allow - as-is ~! no_rule -"),
            (ask("trial", "GET /plain"), "allow - as-is ~! denied plain"),
            (ask("trial", "GET /floor"), "denied floor ~= denied floor"),
            (ask("trial", "GET /entries").at("2026-12-01T00:00:00Z"), "allow entries jwt-ledger"),
            (ask("trial", "GET /other").at("2026-12-01T00:00:00Z"), "no_rule -"),
        ],
    );
}

#[test]
fn tunnels_are_judged_by_host_alone() {
    check(
        r#"
  - { id: tunnel, effect: allow, to: [vendor], tunnel: true }
  - { id: plain, effect: allow, to: [vendor, stripe], methods: ["*"], paths: ["/**"], grant: none }
"#,
        &[
            (ask("vendor", "CONNECT vendor.example:443"), "allow tunnel bare"),
            (ask("vendor", "GET /x"), "allow plain bare"),
            (ask("stripe", "CONNECT api.payments.example:443"), "no_rule -"),
        ],
    );
    check(
        r#"
  - { id: tunnel, effect: allow, to: [vendor], tunnel: true }
  - { id: no-admin, effect: deny, to: [vendor], when: "request.path.startsWith('/admin')" }
"#,
        &[(ask("vendor", "CONNECT vendor.example:443"), "denied no-admin")],
    );
}

#[test]
fn patterns_of_identities_and_upstreams() {
    let other = "spiffe://prod.example/ns/other/sa/app";
    check(
        r#"
  - { id: everyone, effect: allow, from: ["spiffe://prod.example/**"], methods: [GET], paths: ["/**"], grant: none }
  - { id: namespace, effect: allow, from: ["spiffe://prod.example/ns/billing/sa/*"], methods: [GET], paths: ["/**"], grant: stripe-readonly }
  - { id: only-me, effect: allow, methods: [GET], paths: ["/**"], grant: stripe-restricted }
  - { id: no-delete, effect: deny, from: ["**"], to: ["*"], methods: [DELETE] }
"#,
        &[
            (ask("stripe", "GET /x"), "allow only-me stripe-restricted"),
            (ask("stripe", "GET /x").by("spiffe://prod.example/ns/billing/sa/b"), "allow namespace stripe-readonly"),
            (ask("stripe", "GET /x").by(other), "allow everyone bare"),
            (ask("stripe", "GET /x").by("spiffe://foreign.example/a"), "no_rule -"),
            (ask("ledger", "DELETE /x").by("spiffe://foreign.example/a"), "denied no-delete"),
        ],
    );
}

#[test]
fn a_grant_narrows_the_credential() {
    let set = set(r#"
  - { id: read, effect: allow, to: [ledger], methods: [GET], paths: ["/**"], grant: { credential: jwt-ledger, scope: entries:read, ttl: 60s } }
  - { id: write, effect: allow, to: [ledger], methods: [POST], paths: ["/**"], grant: jwt-ledger }
"#);
    let terms = |line: &str| match ask("ledger", line).decide(&set).outcome.unwrap().plan() {
        super::Plan::Swap(terms) => format!("{:?} {}", terms.scopes.as_ref().unwrap(), terms.ttl.as_secs()),
        super::Plan::AsIs | super::Plan::Bare => panic!("no credential"),
    };
    assert_eq!(terms("GET /x"), r#"["entries:read"] 60"#);
    assert_eq!(terms("POST /x"), r#"["entries:read", "entries:write"] 300"#);
}

#[test]
fn names_are_shared_within_a_directory_and_equal_grants_are_one() {
    let names = with_head("  - { id: a, effect: allow, methods: [GET], paths: [/a], grant: stripe-readonly }\n");
    let uses = "exeat: policy/v1\nname: other\ndefaults: { owner: o, reason: r, expires: 2027-01-01, from: billing, to: stripe }\nrules:\n  - { id: b, effect: allow, methods: GET, paths: /b, grant: stripe-readonly }\n";
    let (set, _) = compiled(&[("p/a.yaml", &names, Bounds::All), ("p/b.yaml", uses, Bounds::All)]).unwrap();
    assert_eq!(ask("stripe", "GET /b").line(&set), "allow b stripe-readonly");
    let plan = |line: &str| match ask("stripe", line).decide(&set).outcome.unwrap().plan() {
        super::Plan::Swap(terms) => std::sync::Arc::as_ptr(terms),
        super::Plan::AsIs | super::Plan::Bare => panic!("no credential"),
    };
    assert_eq!(plan("GET /a"), plan("GET /b"));
    assert!(compiled(&[("p/a.yaml", &names, Bounds::All), ("q/b.yaml", uses, Bounds::All)]).is_err());
}

#[test]
fn the_order_of_files_and_rules_changes_nothing() {
    let rule = |id: &str, rest: &str| format!("  - {{ id: {id}, {rest} }}\n");
    let rules = [
        rule("z", "effect: allow, methods: [GET], paths: [\"/**\"], grant: none"),
        rule("a", "effect: allow, methods: [GET, POST], paths: [\"/**\"], grant: none"),
        rule("d2", "effect: deny, paths: [\"/x/**\"]"),
        rule("d1", "effect: deny, paths: [\"/x/**\"]"),
        rule("r", "effect: require, methods: [POST], paths: [\"/**\"], when: request.port == 1"),
    ];
    let texts = [rules.concat(), rules.iter().rev().cloned().collect::<String>()].map(|rules| with_head(&rules));
    let sets = texts.map(|text| compiled(&[("billing.yaml", &text, Bounds::All)]).unwrap().0);
    for line in ["GET /", "GET /x", "POST /y", "PUT /"] {
        let asked = ask("stripe", line);
        assert_eq!(asked.line(&sets[0]), asked.line(&sets[1]), "{line}");
    }
    let first = with_head(&rules[0]);
    let second = with_head(&rules[2]).replace("name: billing\n", "name: other\n");
    let files = [("a.yaml", first.as_str(), Bounds::All), ("b.yaml", second.as_str(), Bounds::All)];
    let turned = [files[1].clone(), files[0].clone()];
    let (one, other) = (compiled(&files).unwrap().0, compiled(&turned).unwrap().0);
    assert_eq!(one.revision(), other.revision());
    assert_eq!(ask("stripe", "GET /x").line(&one), ask("stripe", "GET /x").line(&other));
}

#[test]
fn a_rule_about_every_upstream_does_not_reach_what_is_not_listed() {
    let set = set(r#"
  - { id: all, effect: allow, to: ["*"], methods: [GET], paths: ["/**"], grant: none }
  - { id: no-delete, effect: deny, to: ["*"], methods: [DELETE] }
"#);
    for (line, expected) in [("GET /", "no_rule -"), ("DELETE /", "denied no-delete")] {
        let mut asked = ask("stripe", line);
        std::sync::Arc::make_mut(&mut asked.upstream).index = crate::catalogue::UpstreamIndex(6);
        assert_eq!(asked.line(&set), expected);
        assert_eq!(asked.explain(&set).outcome.is_err(), expected != "allow");
    }
}

#[test]
fn an_empty_set_allows_nothing() {
    let set = super::PolicySet::default();
    assert!(set.is_empty());
    assert_eq!(ask("stripe", "GET /").line(&set), "no_rule -");
    assert_eq!(line(&ask("trial", "GET /").decide(&set)), "allow - as-is ~! no_rule -");
}

#[test]
fn an_explanation_names_every_candidate_and_the_nearest() {
    let set = set(r#"
  - { id: create, effect: allow, methods: [POST], paths: [/v1/charges], when: "request.headers['x-env'] == 'prod'", grant: stripe-restricted }
  - { id: read, effect: allow, methods: [GET], paths: ["/v1/charges/**"], grant: stripe-readonly }
  - { id: elsewhere, effect: allow, to: [ledger], methods: [POST], paths: [/v1/charges], grant: none }
"#);
    insta::assert_snapshot!(ask("stripe", "POST /v1/charges").header("x-env", "test").explain(&set), @r#"
decision   deny (no_rule)
  allow billing/create at billing.yaml:8:11 (PAY-812), path /v1/charges
      condition: `request.headers['x-env'] == 'prod'` is false
  allow billing/read at billing.yaml:9:11 (PAY-812), path /v1/charges
      method: it is for GET
  nearest: allow billing/create at billing.yaml:8:11 (PAY-812), path /v1/charges
      condition: `request.headers['x-env'] == 'prod'` is false
"#);
    insta::assert_snapshot!(ask("stripe", "GET /v1/charges/1").explain(&set), @r#"
decision   allow, by billing/read at billing.yaml:9:11 (owner team-billing@example.com)
* allow billing/read at billing.yaml:9:11 (PAY-812), path /v1/charges/1
  allow billing/create at billing.yaml:8:11 (PAY-812), path /v1/charges/1
      method: it is for POST
      path: it is for /v1/charges
      condition: `request.headers['x-env'] == 'prod'` has no value: an attribute that it reads is absent
"#);
    insta::assert_snapshot!(ask("trial", "GET /v1").explain(&set), @r#"
decision   deny (no_rule)
stage      observe until 2026-12-01T00:00:00Z: passed as it came, this is what would be
  nearest: allow billing/read at billing.yaml:9:11 (PAY-812), path /v1
      upstream: it is for stripe
      path: it is for /v1/charges/**
"#);
    insta::assert_snapshot!(set.certificate(), @r#"
worst case of any request: 9 nodes, 2 postings, 1 conditions (about 1 us), at upstream `stripe`
"#);
    assert_eq!(ask("stripe", "GET /v1/charges/1").by(BILLING).explain(&set).outcome.unwrap().place.as_ref(), "billing.yaml:9:11");
}

#[test]
fn what_is_revoked_is_refused_whatever_the_rules_say() {
    use crate::live::{Block, Live};
    let set = set(r#"
  - { id: all, effect: allow, methods: ["*"], paths: ["/**"], grant: none }
  - { id: charges, effect: allow, methods: [POST], paths: [/v1/charges], grant: stripe-restricted }
  - { id: entries, effect: allow, to: [trial], methods: [GET], paths: [/entries], grant: jwt-ledger }
"#);
    let line = |target: &str, asked: &Ask| {
        let live = Live::default();
        let block = Block::new(target.parse().unwrap(), "drill", "uid 0", super::testing::now());
        live.change(|blocks| blocks.add(block));
        line(&asked.decide_with(&set, &live))
    };
    let charge = ask("stripe", "POST /v1/charges");
    for (target, expected) in [
        ("everything", "revoked -"),
        ("upstream stripe", "revoked -"),
        ("upstream ledger", "allow charges stripe-restricted"),
        (&*format!("workload {BILLING}"), "revoked -"),
        ("credential stripe-restricted", "revoked charges"),
        ("credential stripe-readonly", "allow charges stripe-restricted"),
        // The broader rule does not take its place.
        ("rule billing/charges", "revoked charges"),
        ("rule billing/all", "allow charges stripe-restricted"),
    ] {
        assert_eq!(line(target, &charge), expected, "{target}");
    }
    // An observed upstream passes with what the application sent, but not what is revoked.
    assert_eq!(line("upstream trial", &ask("trial", "GET /entries")), "revoked -");
}

/// A table of requests, one after the other, against the same leases and counters.
fn in_turn(set: &super::PolicySet, live: &crate::live::Live, table: &[(Ask, &str)]) {
    for (turn, (asked, expected)) in table.iter().enumerate() {
        assert_eq!(line(&asked.decide_with(set, live)), *expected, "turn {turn}: {} {}", asked.parts.method, asked.parts.uri);
    }
}

#[test]
fn a_rule_with_a_lease_needs_one_and_no_broader_rule_takes_its_place() {
    use super::testing::lease;
    let set = set(r#"
  - { id: all, effect: allow, methods: ["*"], paths: ["/**"], grant: none }
  - { id: push, effect: allow, methods: [POST], paths: [/push], grant: stripe-restricted, lease: { kind: release, max_ttl: 10m } }
"#);
    let live = crate::live::Live::default();
    let push = ask("stripe", "POST /push");
    in_turn(&set, &live, &[(push.clone(), "lease_missing push"), (ask("stripe", "GET /push"), "allow all bare")]);
    lease(&live, "case", None);
    assert_eq!(line(&push.decide_with(&set, &live)), "lease_missing push", "of another kind");
    let id = lease(&live, "release", Some(2));
    let permit = push.decide_with(&set, &live).outcome.unwrap();
    let leased = permit.lease().unwrap();
    assert_eq!((&leased.lease.id, leased.uses_left), (&id, Some(1)));
    assert_eq!(permit.until().unwrap().to_string(), "2026-11-23T12:10:00Z", "the rule's max_ttl comes before the lease's end");
    assert_eq!(permit.touched().lease, Some(&*id));
    in_turn(
        &set,
        &live,
        &[
            (push.clone().by("spiffe://prod.example/ns/billing/sa/other"), "no_rule -"),
            (push.clone().at("2026-11-23T12:10:00Z"), "lease_ended push"),
            (push.clone(), "allow push stripe-restricted"),
            (push.clone(), "lease_spent push"),
            (ask("stripe", "GET /x"), "allow all bare"),
        ],
    );
    lease(&live, "release", None);
    assert_eq!(line(&push.clone().header("exeat-lease", &id).decide_with(&set, &live)), "lease_spent push", "a named one and no other");
    assert_eq!(line(&push.decide_with(&set, &live)), "allow push stripe-restricted");
    assert_eq!(line(&push.clone().header("exeat-lease", "none").decide_with(&set, &live)), "lease_missing push");
    assert_eq!(line(&push.clone().header("exeat-lease", &id).header("exeat-lease", &id).decide_with(&set, &live)), "lease_missing push");
}

#[test]
fn a_lease_counts_for_sixty_four_rules_and_the_others_wait_in_vain() {
    use std::fmt::Write as _;

    use super::testing::lease;
    let mut rules = String::new();
    for rule in 0..66 {
        let counted = "lease: { kind: many, max_ttl: 10m, max_uses: 2 }";
        writeln!(rules, "  - {{ id: r{rule}, effect: allow, methods: [POST], paths: [/r/{rule}], grant: none, {counted} }}").unwrap();
    }
    let (set, live) = (set(&rules), crate::live::Live::default());
    lease(&live, "many", None);
    let asked = |rule: u32| ask("stripe", &format!("POST /r/{rule}")).decide_with(&set, &live);
    for rule in 0..64 {
        assert_eq!(line(&asked(rule)), format!("allow r{rule} bare"));
    }
    for rule in 64..66 {
        let decision = asked(rule);
        assert!(decision.outcome.is_err() && decision.unreserved.is_some(), "{}", line(&decision));
    }
    assert_eq!(line(&asked(0)), "allow r0 bare", "those that are counted go on");
    assert_eq!(line(&asked(0)), "lease_spent r0");
}

#[test]
fn a_live_passage_is_judged_again_without_paying() {
    use super::testing::lease;
    let set = set(r#"
  - { id: push, effect: allow, methods: [POST], paths: [/push], grant: none, when: "lease.active && lease.uses_left > 0", lease: { kind: release, max_ttl: 1h }, limits: { quota: 1/day } }
"#);
    let live = crate::live::Live::default();
    let id = lease(&live, "release", Some(1));
    let push = ask("stripe", "POST /push");
    in_turn(&set, &live, &[(push.clone(), "allow push bare"), (push.clone(), "no_rule -")]);
    let again = |held: Option<&str>| {
        push.with(|request, stripped| set.still_allows(request, stripped, &live, push.now, held).map_err(|denied| denied.code.name()))
    };
    assert!((0..3).all(|_| again(Some(&id)).is_ok()), "spent uses end nothing that is under way");
    assert_eq!(again(None).err(), Some("no_rule"), "as a new request its condition is not true");
    live.end_lease(&id, "uid 0", push.now).unwrap();
    assert_eq!(again(Some(&id)).err(), Some("no_rule"), "the condition asks for an active lease, and it has ended");
}

#[test]
fn limits_refuse_and_tell_when_to_come_back() {
    use super::testing::lease;
    let set = set(r#"
  - { id: all, effect: allow, methods: ["*"], paths: ["/**"], grant: none }
  - { id: charge, effect: allow, methods: [POST], paths: [/charge], grant: none, limits: { rate: 2/minute, burst: 2 } }
  - { id: refund, effect: allow, methods: [POST], paths: [/refund], grant: none, lease: { kind: case, max_ttl: 20m }, limits: { quota: 2/hour, per: rule } }
  - { id: wide, effect: allow, from: ["spiffe://prod.example/ns/billing/**"], methods: [PUT], paths: [/wide], grant: none, limits: { quota: 2/hour, per: rule } }
"#);
    let live = crate::live::Live::default();
    let charge = ask("stripe", "POST /charge");
    in_turn(
        &set,
        &live,
        &[
            (charge.clone(), "allow charge bare"),
            (charge.clone(), "allow charge bare"),
            (charge.clone(), "limited charge"),
            (charge.clone().at("2026-11-23T12:00:30Z"), "allow charge bare"),
            (charge.clone().at("2026-11-23T12:00:30Z"), "limited charge"),
            (ask("stripe", "PUT /charge"), "allow all bare"),
        ],
    );
    let denied = charge.decide_with(&set, &live).outcome.unwrap_err();
    let refusal = denied.refusal();
    assert_eq!(refusal.retry_after, Some(std::time::Duration::from_mins(1)), "two tokens were used at 12:00 and one at 12:00:30");
    insta::assert_snapshot!(refusal.detail, @r#"
rule billing/charge at billing.yaml:9:11 (owner team-billing@example.com): its rate is reached (2/minute, burst 2 per workload); another request can succeed in 60s
"#);
    let id = lease(&live, "case", Some(9));
    let refund = ask("stripe", "POST /refund");
    in_turn(&set, &live, &[(refund.clone(), "allow refund bare"), (refund.clone(), "allow refund bare"), (refund, "limited refund")]);
    assert_eq!(live.leases().leases().get(&id).unwrap().uses_left(), Some(7), "what a limit refuses costs no use");
    let by = |name: &str| ask("stripe", "PUT /wide").by(&format!("spiffe://prod.example/ns/billing/sa/{name}"));
    in_turn(&set, &live, &[(by("a"), "allow wide bare"), (by("b"), "allow wide bare"), (by("c"), "limited wide")]);
}

#[test]
fn conditions_read_the_lease_that_the_request_goes_by() {
    use super::testing::lease_with;
    let set = set(r#"
  - { id: any, effect: require, methods: ["*"], paths: ["/**"], when: "lease.active" }
  - { id: tag, effect: allow, methods: [POST], paths: [/tag], grant: none, when: "lease.attrs['tag'].matches('^v[0-9]+$')", lease: { kind: release, max_ttl: 20m } }
  - { id: small, effect: allow, methods: [POST], paths: [/small], grant: none, when: "lease.task_kind == 'case'" }
"#);
    let live = crate::live::Live::default();
    let (tag, small) = (ask("stripe", "POST /tag"), ask("stripe", "POST /small"));
    in_turn(&set, &live, &[(tag.clone(), "requirement any"), (small.clone(), "requirement any")]);
    lease_with(&live, "case", None, &[]);
    in_turn(&set, &live, &[(tag.clone(), "no_rule -"), (small.clone(), "allow small bare")]);
    let bad = lease_with(&live, "release", Some(1), &[("tag", "latest")]);
    let good = lease_with(&live, "release", Some(1), &[("tag", "v1")]);
    let under = |id: &str| tag.clone().header("exeat-lease", id);
    in_turn(&set, &live, &[(under(&bad), "no_rule -"), (under(&good), "allow tag bare"), (under(&good), "requirement any")]);
    let two = lease_with(&live, "release", Some(2), &[("tag", "v2")]);
    in_turn(&set, &live, &[(under(&two), "allow tag bare"), (under(&two), "allow tag bare"), (under(&two), "requirement any")]);
}

#[test]
fn twins_count_apart() {
    use super::testing::lease;
    let set = set(r#"
  - { id: all, effect: allow, methods: ["*"], paths: ["/**"], grant: none }
  - { id: tried, effect: allow, mode: shadow, methods: [POST], paths: [/x], grant: none, lease: { kind: case, max_ttl: 20m }, limits: { quota: 2/day } }
  - { id: seen, effect: allow, to: [trial], methods: [GET], paths: [/seen], grant: none, limits: { quota: 1/day } }
"#);
    let live = crate::live::Live::default();
    let tried = ask("stripe", "POST /x");
    in_turn(&set, &live, &[(tried.clone(), "allow all bare ~! lease_missing tried")]);
    let id = lease(&live, "case", Some(3));
    in_turn(
        &set,
        &live,
        &[
            (tried.clone(), "allow all bare ~= allow tried"),
            (tried.clone(), "allow all bare ~= allow tried"),
            (tried.clone(), "allow all bare ~! limited tried"),
            (tried.at("2026-11-24T00:00:00Z"), "allow all bare ~! lease_ended tried"),
        ],
    );
    assert_eq!(live.leases().leases().get(&id).unwrap().uses_left(), Some(3), "no real use was taken");
    let seen = ask("trial", "GET /seen");
    in_turn(&set, &live, &[(seen.clone(), "allow - as-is ~= allow seen"), (seen.clone(), "allow - as-is ~! limited seen")]);
    // The day on which it is enforced begins with its own count.
    in_turn(
        &set,
        &live,
        &[(seen.clone().at("2026-12-01T00:00:00Z"), "allow seen bare"), (seen.at("2026-12-01T00:00:00Z"), "limited seen")],
    );
}

#[test]
fn a_revoked_lease_is_refused_and_costs_nothing() {
    use super::testing::lease;
    use crate::live::{Block, Live};
    let set = set(r"
  - { id: push, effect: allow, methods: [POST], paths: [/push], grant: none, lease: { kind: release, max_ttl: 20m }, limits: { quota: 1/day } }
");
    let live = Live::default();
    let id = lease(&live, "release", Some(1));
    let block = Block::new(format!("lease {id}").parse().unwrap(), "drill", "uid 0", super::testing::now());
    live.change(|blocks| blocks.add(block));
    let push = ask("stripe", "POST /push");
    in_turn(&set, &live, &[(push.clone(), "revoked push"), (push.clone(), "revoked push")]);
    live.change(|blocks| blocks.remove(&format!("lease {id}").parse().unwrap()).is_some());
    in_turn(&set, &live, &[(push.clone(), "allow push bare"), (push, "lease_spent push")]);
}

#[test]
fn an_explanation_shows_lease_and_limits_and_charges_nothing() {
    use super::testing::lease_with;
    let set = set(r"
  - { id: push, effect: allow, methods: [POST], paths: [/push], grant: none, lease: { kind: release, max_ttl: 20m }, limits: { quota: 1/day } }
");
    let live = crate::live::Live::default();
    let push = ask("stripe", "POST /push");
    let told = |live: &crate::live::Live| {
        let text = push.explain_with(&set, live).to_string();
        let ids: Vec<String> = live.leases().leases().all().iter().map(|lease| lease.id.to_string()).collect();
        ids.iter().fold(text, |text, id| text.replace(id, "release-ID"))
    };
    insta::assert_snapshot!(told(&live), @r#"
decision   deny (lease_missing), by billing/push at billing.yaml:8:11 (owner team-billing@example.com)
because    it wants a lease of kind `release` for this caller: `exeat lease open --workload spiffe://prod.example/ns/billing/sa/billing-app --kind release --ttl 20m` opens one
* allow billing/push at billing.yaml:8:11 (PAY-812), path /push
"#);
    lease_with(&live, "release", Some(2), &[]);
    insta::assert_snapshot!(told(&live), @r#"
decision   allow, by billing/push at billing.yaml:8:11 (owner team-billing@example.com)
lease      release-ID until 2026-11-23T12:20:00Z, 2 uses left
* allow billing/push at billing.yaml:8:11 (PAY-812), path /push
"#);
    assert_eq!(told(&live), told(&live));
    in_turn(&set, &live, &[(push.clone(), "allow push bare")]);
    insta::assert_snapshot!(told(&live), @r#"
decision   deny (limited), by billing/push at billing.yaml:8:11 (owner team-billing@example.com)
because    its quota is reached (1/day per workload); another request can succeed in 43200s
* allow billing/push at billing.yaml:8:11 (PAY-812), path /push
"#);
    insta::assert_snapshot!(set.certificate(), @r#"
worst case of any request: 8 nodes, 1 postings, 0 conditions (about 2 us), at upstream `stripe`, with a lease and limits
"#);
}

#[test]
fn an_observed_upstream_rehearses_what_its_rules_would_grant() {
    let set = set(
        "  - { id: entries, effect: allow, to: [trial], methods: [GET], paths: [/entries], grant: jwt-ledger }\n  - { id: bare, effect: allow, to: [trial], methods: [GET], paths: [/bare], grant: none }\n",
    );
    let rehearsal = |line: &str| {
        let permit = ask("trial", line).decide(&set).outcome.unwrap();
        assert_eq!(permit.plan(), &super::Plan::AsIs, "what passes is what came");
        permit.rehearsal().map(|terms| terms.profile.name.to_string())
    };
    assert_eq!(rehearsal("GET /entries").as_deref(), Some("jwt-ledger"));
    assert_eq!(rehearsal("GET /bare"), None, "nothing would be put on");
    assert_eq!(rehearsal("GET /other"), None, "it would be refused");
    let enforced = ask("ledger", "GET /entries").at("2026-12-01T00:00:00Z").decide(&set);
    assert!(enforced.outcome.is_err());
}

#[test]
fn a_share_of_an_observed_upstream_is_enforced() {
    let set = set("  - { id: entries, effect: allow, to: [trial], methods: [GET], paths: [/entries], grant: jwt-ledger }\n");
    let line = |share: u8, line: &str| Ask { share, ..ask("trial", line) }.line(&set);
    assert_eq!(line(9, "GET /entries"), "allow entries jwt-ledger");
    assert_eq!(line(9, "GET /other"), "no_rule -");
    assert_eq!(line(10, "GET /entries"), "allow - as-is ~= allow entries");
    assert_eq!(line(10, "GET /other"), "allow - as-is ~! no_rule -");
    let mut shares = [0_u32; 100];
    for at in 0..100_000_u128 {
        shares[usize::from(super::share_of(&(at * 0x9e37_79b9_7f4a_7c15_f39c).to_be_bytes()))] += 1;
    }
    assert!(shares.iter().all(|count| (700..1_300).contains(count)), "{shares:?}");
    assert_eq!(super::share_of(&[0xa1; 16]), super::share_of(&[0xa1; 16]));
}
