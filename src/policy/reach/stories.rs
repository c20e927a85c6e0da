//! Who can, what can, and what a change changes, in the words that operators read.

use super::{Area, Side, diff, who_and_what};
use crate::identity::SpiffeId;
use crate::policy::PolicySet;
use crate::policy::testing::{BILLING, catalogue, now, set};

const RULES: &str = "  - { id: create, effect: allow, from: [billing, \"spiffe://prod.example/ns/shop/**\"], methods: [POST], paths: [/v1/charges], when: \"request.body_size < 100\", grant: stripe-restricted }
  - { id: read, effect: allow, methods: [GET, HEAD], paths: [\"/v1/**\"], grant: stripe-readonly, not_before: 2026-12-01 }
  - { id: gone, effect: allow, methods: [PUT], paths: [\"/**\"], grant: none, expires: 2026-11-01 }
  - { id: trial, effect: allow, mode: shadow, methods: [PUT], paths: [\"/**\"], grant: none }
  - { id: keys, effect: deny, from: [\"**\"], paths: [\"/v1/api_keys/**\"] }
  - { id: sa, effect: deny, from: [\"spiffe://prod.example/ns/shop/sa/*\"], methods: [POST], paths: [\"/**\"] }
  - { id: lent, effect: require, from: [\"**\"], methods: [POST], paths: [\"/**\"], when: \"'x' in request.headers\" }
";

fn reach(rules: &str, area: &Area) -> String {
    let found = who_and_what(&set(rules), &catalogue(), area, now());
    serde_json::to_string_pretty(&found).unwrap()
}

#[test]
fn who_can_names_conditions_and_what_denies_take() {
    let catalogue = catalogue();
    let stripe = catalogue.by_name("stripe").unwrap().index;
    insta::assert_snapshot!(reach(RULES, &Area::request(stripe, &http::Method::POST, "/v1/charges")), @r#"
    [
      {
        "upstream": "stripe",
        "tunnel": false,
        "who": [
          "spiffe://prod.example/ns/billing/sa/billing-app",
          "spiffe://prod.example/ns/shop/**"
        ],
        "methods": "POST",
        "paths": [
          "/v1/charges"
        ],
        "rule": "billing/create",
        "at": "billing.yaml:7:11",
        "grant": "stripe-restricted",
        "when": [
          "when request.body_size < 100"
        ],
        "until": "2027-03-01T00:00:00Z",
        "only": [
          "'x' in request.headers (billing/lent at billing.yaml:13:11)"
        ],
        "except": [
          "POST /v1/charges by spiffe://prod.example/ns/shop/sa/* (billing/sa at billing.yaml:12:11)"
        ]
      }
    ]
"#);
    assert_eq!(reach(RULES, &Area::request(stripe, &http::Method::GET, "/v1/api_keys/1")), "[]", "a deny covers it");
    assert_eq!(reach(RULES, &Area::request(stripe, &http::Method::PUT, "/x")), "[]", "expired and shadow rules let nobody through");
}

#[test]
fn what_can_names_everything_of_one_workload() {
    insta::assert_snapshot!(reach(RULES, &Area::workload(&SpiffeId::parse(BILLING).unwrap())), @r#"
    [
      {
        "upstream": "stripe",
        "tunnel": false,
        "who": [
          "spiffe://prod.example/ns/billing/sa/billing-app"
        ],
        "methods": "POST",
        "paths": [
          "/v1/charges"
        ],
        "rule": "billing/create",
        "at": "billing.yaml:7:11",
        "grant": "stripe-restricted",
        "when": [
          "when request.body_size < 100"
        ],
        "until": "2027-03-01T00:00:00Z",
        "only": [
          "'x' in request.headers (billing/lent at billing.yaml:13:11)"
        ],
        "except": []
      },
      {
        "upstream": "stripe",
        "tunnel": false,
        "who": [
          "spiffe://prod.example/ns/billing/sa/billing-app"
        ],
        "methods": "GET, HEAD",
        "paths": [
          "/v1/**"
        ],
        "rule": "billing/read",
        "at": "billing.yaml:8:11",
        "grant": "stripe-readonly",
        "when": [
          "from 2026-12-01T00:00:00Z on"
        ],
        "until": "2027-03-01T00:00:00Z",
        "only": [],
        "except": [
          "GET, HEAD /v1/api_keys/** by spiffe://prod.example/ns/billing/sa/billing-app (billing/keys at billing.yaml:11:11)"
        ]
      }
    ]
"#);
    assert_eq!(reach(RULES, &Area::workload(&SpiffeId::parse("spiffe://prod.example/ns/ci/sa/x").unwrap())), "[]");
}

fn change(before: &str, after: &str) -> String {
    let (before, after, catalogue) = (set(before), set(after), catalogue());
    let side = |set| -> Side<'_> {
        let set: &PolicySet = set;
        Side { set, catalogue: &catalogue }
    };
    let changes = diff(side(&before), side(&after), now());
    changes.iter().map(|change| format!("{}{change}", if change.kind.widens() { '+' } else { '-' })).collect::<Vec<_>>().join("\n")
}

#[test]
fn nothing_changes_when_words_change() {
    let one = "  - { id: a, effect: allow, methods: [GET, POST], paths: [/a, /b], grant: none }\n";
    let two = "  - { id: b, effect: allow, methods: [POST, GET], paths: [/a], grant: none }\n  - { id: c, effect: allow, methods: [POST], paths: [/b], grant: none }\n  - { id: d, effect: allow, methods: [GET], paths: [/b], grant: none }\n";
    assert_eq!(change(one, two), "");
    assert_eq!(change(RULES, RULES), "");
}

#[test]
fn what_is_gained_and_lost_is_told_in_sentences() {
    let one = "  - { id: a, effect: allow, methods: [GET], paths: [\"/v1/charges/*\"], grant: none }\n";
    let two = "  - { id: a, effect: allow, from: [billing, \"spiffe://prod.example/ns/ci/sa/b\"], methods: [GET, POST], paths: [\"/v1/**\"], grant: none }\n  - { id: no, effect: deny, from: [\"**\"], paths: [/v1/charges/secret] }\n";
    insta::assert_snapshot!(change(one, two), @r#"
    +1 identity gains GET on stripe /v1/charges/
    +2 identities gain GET, POST on stripe /v1
    +2 identities gain GET, POST on stripe /v1/*
    +2 identities gain GET, POST on stripe /v1/*/*/*/**
    +1 identity gains GET, POST on stripe /v1/charges/{not secret}
    +2 identities gain GET, POST on stripe /v1/{not charges}/*
    +1 identity gains POST on stripe /v1/charges/{not secret}
    -1 identity loses GET on stripe /v1/charges/secret
"#);
    insta::assert_snapshot!(change(two, one), @r#"
    +1 identity gains GET on stripe /v1/charges/secret
    -1 identity loses GET on stripe /v1/charges/
    -2 identities lose GET, POST on stripe /v1
    -2 identities lose GET, POST on stripe /v1/*
    -2 identities lose GET, POST on stripe /v1/*/*/*/**
    -1 identity loses GET, POST on stripe /v1/charges/{not secret}
    -2 identities lose GET, POST on stripe /v1/{not charges}/*
    -1 identity loses POST on stripe /v1/charges/{not secret}
"#);
}

#[test]
fn conditions_grants_ends_and_requirements_are_compared() {
    let rule = |rest: &str| format!("  - {{ id: a, effect: allow, methods: [GET], paths: [/a], {rest} }}\n");
    let plain = rule("grant: stripe-readonly");
    insta::assert_snapshot!([
        change(&plain, &rule("grant: stripe-readonly, when: \"request.port == 443\"")),
        change(&rule("grant: stripe-readonly, when: \"request.port == 443\""), &plain),
        change(&rule("grant: stripe-readonly, when: \"request.port == 443\""), &rule("grant: stripe-readonly, when: \"request.port < 443\"")),
        change(&plain, &rule("grant: stripe-restricted")),
        change(&plain, &rule("grant: stripe-readonly, expires: 2027-06-01")),
        change(&plain, &rule("grant: stripe-readonly, expires: 2026-12-01")),
        change(&plain, &format!("{plain}  - {{ id: r, effect: require, methods: [GET], paths: [\"/**\"], when: \"'x' in request.headers\" }}\n")),
        change(&plain, &format!("{plain}  - {{ id: d, effect: deny, methods: [GET], paths: [\"/**\"], when: \"'x' in request.headers\" }}\n")),
    ]
    .join("\n--\n"), @r#"
    -1 identity may do less: GET on stripe /a, before always, now when request.port == 443
    --
    +1 identity may do more: GET on stripe /a, before when request.port == 443, now always
    --
    +1 identity may do more: GET on stripe /a, before when request.port == 443, now when request.port < 443
    -1 identity may do less: GET on stripe /a, before when request.port == 443, now when request.port < 443
    --
    +1 identity does GET on stripe /a with stripe-restricted for 300s in place of stripe-readonly for 300s
    --
    +1 identity keeps GET on stripe /a until 2027-06-01T00:00:00Z, before until 2027-03-01T00:00:00Z
    --
    -1 identity loses GET on stripe /a at 2026-12-01T00:00:00Z, before at 2027-03-01T00:00:00Z
    --
    -1 identity may do less: GET on stripe /a, before always, now only when 'x' in request.headers
    --
    -1 identity may do less: GET on stripe /a, before always, now unless 'x' in request.headers
"#);
}

#[test]
fn a_shadow_rule_that_is_enforced_is_a_gain() {
    let rule = |rest: &str| format!("  - {{ id: a, effect: allow, methods: [GET], paths: [/a], grant: none{rest} }}\n");
    assert_eq!(change(&rule(", mode: shadow"), &rule("")), "+1 identity gains GET on stripe /a");
}
