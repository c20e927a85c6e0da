//! Every code with which policy refuses, with the texts that operators meet: the line of the record and the explanation.

use super::testing::{Ask, ask, lease, now, set};
use crate::live::{Block, Live};
use crate::refusal::Code;

const RULES: &str = "  - { id: read, effect: allow, methods: [GET], paths: [\"/v1/*\"], grant: stripe-readonly }
  - { id: late, effect: allow, methods: [PUT], paths: [/v1/a], grant: none, not_before: 2026-12-01, windows: [{ days: sat, from: \"06:00\", to: \"07:00\", tz: UTC }] }
  - { id: gone, effect: allow, methods: [PATCH], paths: [/v1/a], grant: none, expires: 2026-11-01 }
  - { id: keys, effect: deny, paths: [/v1/keys], from: [\"**\"] }
  - { id: signed, effect: require, methods: [GET], paths: [/v1/signed], when: \"request.headers['x'] == '1'\" }
";

fn told(asked: &Ask) -> String {
    let set = set(RULES);
    let denied = asked.decide(&set).outcome.unwrap_err();
    format!("{}: {}\n\n{}", denied.code.name(), denied.refusal().detail, asked.explain(&set))
}

#[test]
fn denied() {
    insta::assert_snapshot!(told(&ask("stripe", "GET /v1/keys")), @r#"
    denied: rule billing/keys at billing.yaml:10:11 (owner team-billing@example.com)

    decision   deny (denied), by billing/keys at billing.yaml:10:11 (owner team-billing@example.com)
    * allow billing/read at billing.yaml:7:11 (PAY-812), path /v1/keys
    * deny billing/keys at billing.yaml:10:11 (PAY-812), path /v1/keys
      require billing/signed at billing.yaml:11:11 (PAY-812), path /v1/keys
          path: it is for /v1/signed
      allow billing/gone at billing.yaml:9:11 (PAY-812), path /v1/keys
          method: it is for PATCH
          path: it is for /v1/a
          it expired at 2026-11-01T00:00:00Z
      allow billing/late at billing.yaml:8:11 (PAY-812), path /v1/keys
          method: it is for PUT
          path: it is for /v1/a
          it begins at 2026-12-01T00:00:00Z
          window: it holds sat 06:00-07:00 UTC
"#);
}

#[test]
fn requirement() {
    insta::assert_snapshot!(told(&ask("stripe", "GET /v1/signed")), @r#"
    requirement: rule billing/signed at billing.yaml:11:11 (owner team-billing@example.com)

    decision   deny (requirement), by billing/signed at billing.yaml:11:11 (owner team-billing@example.com)
    * allow billing/read at billing.yaml:7:11 (PAY-812), path /v1/signed
    * require billing/signed at billing.yaml:11:11 (PAY-812), path /v1/signed
          not met: condition: `request.headers['x'] == '1'` has no value: an attribute that it reads is absent
      deny billing/keys at billing.yaml:10:11 (PAY-812), path /v1/signed
          path: it is for /v1/keys
      allow billing/gone at billing.yaml:9:11 (PAY-812), path /v1/signed
          method: it is for PATCH
          path: it is for /v1/a
          it expired at 2026-11-01T00:00:00Z
      allow billing/late at billing.yaml:8:11 (PAY-812), path /v1/signed
          method: it is for PUT
          path: it is for /v1/a
          it begins at 2026-12-01T00:00:00Z
          window: it holds sat 06:00-07:00 UTC
"#);
}

#[test]
fn no_rule() {
    insta::assert_snapshot!(told(&ask("stripe", "PUT /v1/a")), @r#"
    no_rule: no rule matches; `exeat policy explain` shows the nearest

    decision   deny (no_rule)
      allow billing/read at billing.yaml:7:11 (PAY-812), path /v1/a
          method: it is for GET
      deny billing/keys at billing.yaml:10:11 (PAY-812), path /v1/a
          path: it is for /v1/keys
      allow billing/late at billing.yaml:8:11 (PAY-812), path /v1/a
          it begins at 2026-12-01T00:00:00Z
          window: it holds sat 06:00-07:00 UTC
      allow billing/gone at billing.yaml:9:11 (PAY-812), path /v1/a
          method: it is for PATCH
          it expired at 2026-11-01T00:00:00Z
      require billing/signed at billing.yaml:11:11 (PAY-812), path /v1/a
          method: it is for GET
          path: it is for /v1/signed
      nearest: allow billing/read at billing.yaml:7:11 (PAY-812), path /v1/a
          method: it is for GET
"#);
    insta::assert_snapshot!(told(&ask("stripe", "PATCH /v1/a")), @r#"
    no_rule: no rule matches; `exeat policy explain` shows the nearest

    decision   deny (no_rule)
      allow billing/read at billing.yaml:7:11 (PAY-812), path /v1/a
          method: it is for GET
      allow billing/gone at billing.yaml:9:11 (PAY-812), path /v1/a
          it expired at 2026-11-01T00:00:00Z
      deny billing/keys at billing.yaml:10:11 (PAY-812), path /v1/a
          path: it is for /v1/keys
      require billing/signed at billing.yaml:11:11 (PAY-812), path /v1/a
          method: it is for GET
          path: it is for /v1/signed
      allow billing/late at billing.yaml:8:11 (PAY-812), path /v1/a
          method: it is for PUT
          it begins at 2026-12-01T00:00:00Z
          window: it holds sat 06:00-07:00 UTC
      nearest: allow billing/read at billing.yaml:7:11 (PAY-812), path /v1/a
          method: it is for GET
"#);
    insta::assert_snapshot!(told(&ask("stripe", "GET /v1/a").by("spiffe://prod.example/ns/ci/sa/b")), @r#"
    no_rule: no rule matches; `exeat policy explain` shows the nearest

    decision   deny (no_rule)
      deny billing/keys at billing.yaml:10:11 (PAY-812), path /v1/a
          path: it is for /v1/keys
      nearest: allow billing/read at billing.yaml:7:11 (PAY-812), path /v1/a
          identity: it is for spiffe://prod.example/ns/billing/sa/billing-app
"#);
}

#[test]
fn ambiguous_path() {
    insta::assert_snapshot!(told(&ask("stripe", "GET /v1/a%2Fb")), @r#"
    ambiguous_path: the readings of the path are judged differently; `exeat policy explain` shows each

    decision   deny (ambiguous_path)
    * allow billing/read at billing.yaml:7:11 (PAY-812), path /v1/a%2Fb
      deny billing/keys at billing.yaml:10:11 (PAY-812), path /v1/a%2Fb
          path: it is for /v1/keys
      require billing/signed at billing.yaml:11:11 (PAY-812), path /v1/a%2Fb
          path: it is for /v1/signed
      allow billing/read at billing.yaml:7:11 (PAY-812), path /v1/a/b
          path: it is for /v1/*
      deny billing/keys at billing.yaml:10:11 (PAY-812), path /v1/a/b
          path: it is for /v1/keys
      require billing/signed at billing.yaml:11:11 (PAY-812), path /v1/a/b
          path: it is for /v1/signed
      allow billing/gone at billing.yaml:9:11 (PAY-812), path /v1/a%2Fb
          method: it is for PATCH
          path: it is for /v1/a
          it expired at 2026-11-01T00:00:00Z
      allow billing/gone at billing.yaml:9:11 (PAY-812), path /v1/a/b
          method: it is for PATCH
          path: it is for /v1/a
          it expired at 2026-11-01T00:00:00Z
      allow billing/late at billing.yaml:8:11 (PAY-812), path /v1/a%2Fb
          method: it is for PUT
          path: it is for /v1/a
          it begins at 2026-12-01T00:00:00Z
          window: it holds sat 06:00-07:00 UTC
      allow billing/late at billing.yaml:8:11 (PAY-812), path /v1/a/b
          method: it is for PUT
          path: it is for /v1/a
          it begins at 2026-12-01T00:00:00Z
          window: it holds sat 06:00-07:00 UTC
"#);
}

/// What is revoked, leased and counted: the line of the record alone, since the explanation is that of the rule that allows.
#[test]
fn steps_seven_and_eight() {
    const TERMS: &str =
        "  - { id: leased, effect: allow, methods: [PUT], paths: [/v1/leased], grant: none, lease: { kind: release, max_ttl: 20m } }
  - { id: once, effect: allow, methods: [PUT], paths: [/v1/once], grant: none, lease: { kind: once, max_ttl: 20m } }
  - { id: counted, effect: allow, methods: [PUT], paths: [/v1/counted], grant: none, lease: { kind: counted, max_ttl: 20m, max_uses: 9 } }
  - { id: few, effect: allow, methods: [PUT], paths: [/v1/few], grant: none, limits: { quota: 1/day } }
";
    let (set, live) = (set(TERMS), Live::default());
    let told = |asked: &Ask| {
        let denied = asked.decide_with(&set, &live).outcome.unwrap_err();
        format!("{}: {}", denied.code.name(), denied.refusal().detail)
    };
    insta::assert_snapshot!(told(&ask("stripe", "PUT /v1/leased")), @r"
    lease_missing: rule billing/leased at billing.yaml:7:11 (owner team-billing@example.com): it wants a lease of kind `release` for this caller: `exeat lease open --workload spiffe://prod.example/ns/billing/sa/billing-app --kind release --ttl 20m` opens one
    ");
    let once = lease(&live, "once", Some(1));
    let pay = |asked: Ask| asked.decide_with(&set, &live).outcome.map(drop).unwrap();
    pay(ask("stripe", "PUT /v1/once"));
    insta::assert_snapshot!(told(&ask("stripe", "PUT /v1/once")).replace(&*once, "ID"), @r"
    lease_spent: rule billing/once at billing.yaml:8:11 (owner team-billing@example.com): lease ID has no uses left: `exeat lease open --workload spiffe://prod.example/ns/billing/sa/billing-app --kind once --ttl 20m` opens one
    ");
    let named = ask("stripe", "PUT /v1/once").header("exeat-lease", &once).at("2026-11-23T13:00:00Z");
    insta::assert_snapshot!(told(&named).replace(&*once, "ID"), @r"
    lease_ended: rule billing/once at billing.yaml:8:11 (owner team-billing@example.com): lease ID is over: `exeat lease open --workload spiffe://prod.example/ns/billing/sa/billing-app --kind once --ttl 20m` opens one
    ");
    pay(ask("stripe", "PUT /v1/few"));
    insta::assert_snapshot!(told(&ask("stripe", "PUT /v1/few")), @r"
    limited: rule billing/few at billing.yaml:10:11 (owner team-billing@example.com): its quota is reached (1/day per workload); another request can succeed in 43200s
    ");
    // Nobody writes down here that this rule may use the lease.
    lease(&live, "counted", None);
    let counted = ask("stripe", "PUT /v1/counted");
    let denied = counted.with(|request, stripped| set.decide(request, stripped, &live, now())).outcome.unwrap_err();
    insta::assert_snapshot!(format!("{}: {}", denied.code.name(), denied.refusal().detail), @r"
    overloaded: rule billing/counted at billing.yaml:9:11 (owner team-billing@example.com): the next uses of its lease were not written down in time; `exeat status` shows whether the state can be
    ");
    live.change(|blocks| blocks.add(Block::new("upstream stripe".parse().unwrap(), "INC-9", "uid 0", now())));
    insta::assert_snapshot!(told(&ask("stripe", "PUT /v1/few")), @r"
    revoked: upstream stripe was revoked at 2026-11-23T12:00:00Z by uid 0 (INC-9); `exeat restore upstream stripe` lifts it
    ");
}

/// Whoever teaches policy another code shows its texts here.
#[test]
fn every_code_of_policy_is_shown_here() {
    let shown = include_str!("denials.rs");
    let source = [include_str!("set.rs"), include_str!("registers.rs"), include_str!("settle.rs")].concat();
    for code in Code::ALL {
        if source.contains(&format!("Code::{code:?}")) {
            assert!(shown.contains(&format!("    {}: ", code.name())), "no test shows the texts of `{}`", code.name());
        }
    }
}
