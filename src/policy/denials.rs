//! Every code with which policy refuses, with the texts that operators meet: the line of the record and the explanation.

use super::testing::{Ask, ask, set};
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

/// Whoever teaches policy another code shows its texts here.
#[test]
fn every_code_of_policy_is_shown_here() {
    let shown = include_str!("denials.rs");
    let source = [include_str!("set.rs"), include_str!("registers.rs")].concat();
    for code in Code::ALL {
        if source.contains(&format!("Code::{code:?}")) {
            assert!(shown.contains(&format!("    {}: ", code.name())), "no test shows the texts of `{}`", code.name());
        }
    }
}
