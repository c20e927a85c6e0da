//! Test files as their authors meet them: what passes, what fails and with which words, what is no test file.

use std::sync::Arc;

use super::{Ground, Outcome, Suite};
use crate::policy::testing::{catalogue, profiles, set};
use crate::written::{Diagnostic, Severity, Source};

const RULES: &str =
    "  - { id: create, effect: allow, methods: [POST], paths: [/v1/charges], when: \"'k' in request.headers\", grant: stripe-restricted }
  - { id: read, effect: allow, methods: [GET], paths: [\"/v1/charges/**\"], grant: stripe-readonly }
  - { id: keys, effect: deny, from: [\"**\"], to: [\"*\"], paths: [\"/v1/api_keys/**\"] }
  - { id: signed, effect: require, methods: [PUT], paths: [\"/**\"], when: \"request.headers['x'] == '1'\" }
  - { id: put, effect: allow, methods: [PUT], paths: [/v1/put], grant: none }
  - { id: night, effect: allow, methods: [PATCH], paths: [\"/**\"], grant: none, windows: [{ from: \"22:00\", to: \"06:00\", tz: UTC }] }
  - { id: tried, effect: allow, mode: shadow, methods: [DELETE], paths: [/v1/charges/*], grant: none }
  - { id: unseen, effect: allow, to: [vendor], tunnel: true }
";

const HEAD: &str = "exeat: policytest/v1
at: 2026-11-23T12:00:00Z
requests:
  charge: { from: \"spiffe://prod.example/ns/billing/sa/billing-app\", to: stripe, method: POST, path: /v1/charges, headers: { k: a } }
";

fn run(rules: &str, text: &str) -> Result<Outcome, Vec<Diagnostic>> {
    let (set, catalogue) = (set(rules), catalogue());
    let profiles: Vec<_> = profiles().into_values().collect();
    let ground = Ground { set: &set, catalogue: &catalogue, profiles: &profiles };
    Suite::read(&Source::new("billing.test.yaml", format!("{HEAD}{text}")), &ground).map(|suite| suite.run(&ground, "prod.example"))
}

fn told(text: &str) -> String {
    let outcome = run(RULES, text);
    let shown = |all: &[Diagnostic]| all.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n\n");
    match outcome {
        Ok(outcome) => shown(&outcome.diagnostics(Severity::Error)),
        Err(mistakes) => shown(&mistakes),
    }
}

#[test]
fn rows_that_hold_say_nothing_and_tell_which_rules_they_reached() {
    let outcome = run(
        RULES,
        "table:
  - { name: ok, use: charge, expect: allow, rule: billing/create, grant: stripe-restricted, would_be: allow }
  - { name: keyless, use: charge, set: { headers: {} }, expect: deny, code: no_rule }
  - { name: twice, use: charge, set: { headers: { k: [a, b] } }, expect: allow }
  - { name: small letters, use: charge, set: { method: post }, expect: deny, code: malformed }
  - { name: no path at all, use: charge, set: { path: \"v1 charges\" }, expect: deny, code: malformed }
  - { name: two readings, use: charge, set: { method: GET, path: \"/v1/charges/%2e%2e/x\" }, expect: deny, code: ambiguous_path }
  - { name: keys, use: charge, set: { path: /v1/api_keys }, expect: deny, code: denied, rule: billing/keys }
  - { name: unsigned, use: charge, set: { method: PUT, path: /v1/put }, expect: deny, code: requirement, rule: billing/signed }
  - { name: signed, use: charge, set: { method: PUT, path: /v1/put, headers: { x: \"1\" } }, expect: allow, grant: none }
  - { name: by day, use: charge, set: { method: PATCH }, expect: deny, code: no_rule }
  - { name: by night, use: charge, set: { method: PATCH }, at: 2026-11-23T23:00:00Z, expect: allow, rule: billing/night }
  - { name: by night too, use: charge, set: { method: PATCH, at: 2026-11-23T23:00:00Z }, expect: allow }
  - { name: tried out, use: charge, set: { method: DELETE, path: /v1/charges/1 }, expect: deny, code: no_rule, would_be: allow }
  - { name: a tunnel, use: charge, set: { to: vendor, tunnel: true }, expect: allow, rule: billing/unseen, grant: none }
",
    )
    .unwrap();
    let failures: Vec<String> = outcome.diagnostics(Severity::Error).iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    let reached: std::collections::BTreeSet<Arc<str>> = outcome.results.iter().flat_map(|result| result.reached.clone()).collect();
    let reached: Vec<&str> = reached.iter().map(|id| id.trim_start_matches("billing/")).collect();
    assert_eq!(reached, ["create", "keys", "night", "put", "signed", "tried", "unseen"]);
}

#[test]
fn a_row_can_hold_a_lease() {
    const LEASED: &str = "  - { id: push, effect: allow, methods: [POST], paths: [/push], grant: none, lease: { kind: release, max_ttl: 20m, max_uses: 2 }, when: \"lease.attrs['tag'] == 'v1'\" }
";
    let rows = "table:
  - { name: held, use: charge, set: { path: /push, lease: { kind: release, uses: 1, attributes: { tag: v1 } } }, expect: allow, rule: billing/push }
  - { name: none, use: charge, set: { path: /push }, expect: deny }
  - { name: another task, use: charge, set: { path: /push, lease: { kind: case, attributes: { tag: v1 } } }, expect: deny }
  - { name: another tag, use: charge, set: { path: /push, lease: { kind: release, attributes: { tag: v2 } } }, expect: deny, code: no_rule }
";
    let failures: Vec<String> = run(LEASED, rows).unwrap().diagnostics(Severity::Error).iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    let wrong = run(LEASED, "table:\n  - { name: x, use: charge, set: { lease: { kind: \"a kind\" } }, expect: deny }\n").unwrap_err();
    assert!(wrong[0].render().contains("a kind"), "{}", wrong[0].render());
}

#[test]
fn a_row_that_fails_shows_the_predicate() {
    insta::assert_snapshot!(told("table:
  - { name: keyless, use: charge, set: { headers: {} }, expect: allow, rule: billing/create }
  - { name: by day, use: charge, set: { method: PATCH }, expect: allow }
  - { name: free, use: charge, expect: deny, code: denied }
  - { name: other grant, use: charge, expect: allow, grant: stripe-readonly }
  - { name: keys, use: charge, set: { path: /v1/api_keys }, expect: allow, rule: billing/create }
  - { name: NUL, use: charge, set: { path: /%00 }, expect: allow }
  - { name: tried out, use: charge, set: { method: DELETE, path: /v1/charges/1 }, expect: allow, rule: billing/tried }
"), @r#"
    error[policy-test]: test `keyless` fails: expected allow by billing/create, got deny (no_rule)
     --> billing.test.yaml:6:13
      |
    6 |   - { name: keyless, use: charge, set: { headers: {} }, expect: allow, rule: billing/create }
      |             ^^^^^^^
      |
      = help: allow billing/create at billing.yaml:7:11: condition: `'k' in request.headers` is false

    error[policy-test]: test `by day` fails: expected allow, got deny (no_rule)
     --> billing.test.yaml:7:13
      |
    7 |   - { name: by day, use: charge, set: { method: PATCH }, expect: allow }
      |             ^^^^^^
      |
      = help: nearest is allow billing/create at billing.yaml:7:11: method: it is for POST

    error[policy-test]: test `free` fails: expected deny (denied), got allow by billing/create with stripe-restricted
     --> billing.test.yaml:8:13
      |
    8 |   - { name: free, use: charge, expect: deny, code: denied }
      |             ^^^^
      |
      = help: allow billing/create at billing.yaml:7:11 decides: `'k' in request.headers`

    error[policy-test]: test `other grant` fails: expected allow with stripe-readonly, got allow by billing/create with stripe-restricted
     --> billing.test.yaml:9:13
      |
    9 |   - { name: other grant, use: charge, expect: allow, grant: stripe-readonly }
      |             ^^^^^^^^^^^
      |
      = help: allow billing/create at billing.yaml:7:11 decides: `'k' in request.headers`

    error[policy-test]: test `keys` fails: expected allow by billing/create, got deny (denied) by billing/keys
      --> billing.test.yaml:10:13
       |
    10 |   - { name: keys, use: charge, set: { path: /v1/api_keys }, expect: allow, rule: billing/create }
       |             ^^^^
       |
       = help: allow billing/create at billing.yaml:7:11: path: it is for /v1/charges
               deny billing/keys at billing.yaml:9:11 decides

    error[policy-test]: test `NUL` fails: expected allow, got deny (malformed)
      --> billing.test.yaml:11:13
       |
    11 |   - { name: NUL, use: charge, set: { path: /%00 }, expect: allow }
       |             ^^^
       |
       = help: refused before policy is asked: the path holds an escaped control character

    error[policy-test]: test `tried out` fails: expected allow by billing/tried, got deny (no_rule)
      --> billing.test.yaml:12:13
       |
    12 |   - { name: tried out, use: charge, set: { method: DELETE, path: /v1/charges/1 }, expect: allow, rule: billing/tried }
       |             ^^^^^^^^^
       |
       = help: allow billing/tried, a shadow rule at billing.yaml:13:11: it matches, and does not decide
"#);
}

#[test]
fn invariants_that_hold_say_nothing() {
    let text = "invariants:
  - { never: { from: \"spiffe://prod.example/ns/agents/**\", to: [stripe, ledger, vendor, legacy] } }
  - { never: { path: \"/v1/api_keys/*\", to: stripe } }
  - { never: { to: ledger } }
  - { only: [billing/create, billing/read, billing/put, billing/night], may: { to: stripe } }
";
    assert_eq!(run(RULES, text).unwrap().diagnostics(Severity::Error).iter().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn an_invariant_that_fails_names_the_rule_and_a_request() {
    insta::assert_snapshot!(told("invariants:
  - { name: nobody pays, never: { to: stripe, method: POST } }
  - { only: [billing/create], may: { to: stripe } }
  - { name: the vendor is closed, never: { to: vendor } }
  - { name: trial is closed, never: { to: trial, from: \"spiffe://prod.example/ns/ci/**\", method: GET } }
"), @r#"
    error[policy-test]: test `nobody pays` fails: expected nobody, got 1 way
     --> billing.test.yaml:6:13
      |
    6 |   - { name: nobody pays, never: { to: stripe, method: POST } }
      |             ^^^^^^^^^^^
      |
      = help: billing/create at billing.yaml:7:11 allows spiffe://prod.example/ns/billing/sa/billing-app POST on stripe /v1/charges, conditionally: when 'k' in request.headers

    error[policy-test]: test `invariant at line 7` fails: expected only billing/create, got 3 other ways
     --> billing.test.yaml:7:13
      |
    7 |   - { only: [billing/create], may: { to: stripe } }
      |             ^
      |
      = help: billing/read at billing.yaml:8:11 allows spiffe://prod.example/ns/billing/sa/billing-app GET on stripe /v1/charges
              billing/put at billing.yaml:11:11 allows spiffe://prod.example/ns/billing/sa/billing-app PUT on stripe /v1/put
              billing/night at billing.yaml:12:11 allows spiffe://prod.example/ns/billing/sa/billing-app PATCH on stripe /x, conditionally: in the window every day 22:00-06:00 UTC

    error[policy-test]: test `the vendor is closed` fails: expected nobody, got 1 way
     --> billing.test.yaml:8:13
      |
    8 |   - { name: the vendor is closed, never: { to: vendor } }
      |             ^^^^^^^^^^^^^^^^^^^^
      |
      = help: billing/unseen at billing.yaml:14:11 allows spiffe://prod.example/ns/billing/sa/billing-app a tunnel to vendor

    error[policy-test]: test `trial is closed` fails: expected nobody, got 1 way
     --> billing.test.yaml:9:13
      |
    9 |   - { name: trial is closed, never: { to: trial, from: "spiffe://prod.example/ns/ci/**", method: GET } }
      |             ^^^^^^^^^^^^^^^
      |
      = help: upstream trial is observed until 2026-12-01T00:00:00Z: spiffe://prod.example/ns/ci GET on trial / passes as it came
"#);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one file with every mistake, and what its author reads")]
fn mistakes_of_a_test_file() {
    insta::assert_snapshot!(told("table:
  - { name: a, use: chrge, expect: allow }
  - { name: b, use: charge, expect: maybe }
  - { name: c, use: charge, expect: deny, code: denid, rule: billing/creat }
  - { name: d, set: { to: stripe }, expect: deny }
  - { name: e, use: charge, set: { to: strip, from: \"spiffe://prod.example/**\" }, expect: deny }
  - { name: f, use: charge, set: { origin: evil.example }, expect: deny }
invariants:
  - { only: [billing/create] }
  - { never: { from: agents, to: strip, method: get, path: v1 } }
"), @r#"
    error[unknown-name]: there is no request `chrge`
     --> billing.test.yaml:6:21
      |
    6 |   - { name: a, use: chrge, expect: allow }
      |                     ^^^^^
      |
      = help: did you mean `charge`?

    error[unknown-word]: unknown word `maybe`
     --> billing.test.yaml:7:37
      |
    7 |   - { name: b, use: charge, expect: maybe }
      |                                     ^^^^^
      |
      = help: the words here are: allow, deny

    error[unknown-name]: there is no code `denid`
     --> billing.test.yaml:8:49
      |
    8 |   - { name: c, use: charge, expect: deny, code: denid, rule: billing/creat }
      |                                                 ^^^^^
      |
      = help: did you mean `denied`?

    error: the request has no `from`
     --> billing.test.yaml:9:13
      |
    9 |   - { name: d, set: { to: stripe }, expect: deny }
      |             ^
      |
      = help: name one workload, as in `spiffe://prod.example/ns/billing/sa/app`

    error: the request has no `method`
     --> billing.test.yaml:9:13
      |
    9 |   - { name: d, set: { to: stripe }, expect: deny }
      |             ^
      |
      = help: as in `method: POST`

    error: the request has no `path`
     --> billing.test.yaml:9:13
      |
    9 |   - { name: d, set: { to: stripe }, expect: deny }
      |             ^
      |
      = help: as in `path: /v1/charges`

    error[unknown-name]: there is no upstream `strip`
      --> billing.test.yaml:10:40
       |
    10 |   - { name: e, use: charge, set: { to: strip, from: "spiffe://prod.example/**" }, expect: deny }
       |                                        ^^^^^
       |
       = help: did you mean `stripe`?

    error: `spiffe://prod.example/**` is no workload: path segments must be of a-z, A-Z, 0-9, `.`, `-` and `_`, not empty, not `.` or `..`, without a trailing slash
      --> billing.test.yaml:10:53
       |
    10 |   - { name: e, use: charge, set: { to: strip, from: "spiffe://prod.example/**" }, expect: deny }
       |                                                     ^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: a request comes from one workload, no pattern

    error: `evil.example` is no origin of upstream `stripe`
      --> billing.test.yaml:11:44
       |
    11 |   - { name: f, use: charge, set: { origin: evil.example }, expect: deny }
       |                                            ^^^^^^^^^^^^
       |
       = help: write `host:port` or a URL without path, as the catalogue lists it

    error: an invariant is `never: AREA`, or `only: [RULES]` and `may: AREA`
      --> billing.test.yaml:13:13
       |
    13 |   - { only: [billing/create] }
       |             ^
       |
       = help: write one of the two

    error: `agents` is no identity: an identity pattern begins with `spiffe://` (or is `**`: every identity)
      --> billing.test.yaml:14:22
       |
    14 |   - { never: { from: agents, to: strip, method: get, path: v1 } }
       |                      ^^^^^^

    error[unknown-name]: there is no upstream `strip`
      --> billing.test.yaml:14:34
       |
    14 |   - { never: { from: agents, to: strip, method: get, path: v1 } }
       |                                  ^^^^^
       |
       = help: did you mean `stripe`?

    error: `get` is no method: they are in upper case
      --> billing.test.yaml:14:49
       |
    14 |   - { never: { from: agents, to: strip, method: get, path: v1 } }
       |                                                 ^^^

    error: `v1` is no path pattern: a path pattern begins with `/`
      --> billing.test.yaml:14:60
       |
    14 |   - { never: { from: agents, to: strip, method: get, path: v1 } }
       |                                                            ^^
"#);
}

#[test]
fn a_policy_under_a_tests_name_is_told_loudly() {
    let (set, catalogue) = (set(RULES), catalogue());
    let ground = Ground { set: &set, catalogue: &catalogue, profiles: &[] };
    let mistakes = Suite::read(&Source::new("a.test.yaml", "exeat: policy/v1\nname: a\nrules: []\n"), &ground).unwrap_err();
    insta::assert_snapshot!(mistakes[0].render(), @r#"
    error: this is a policy file, and its name says that it is a test: its rules are not loaded
     --> a.test.yaml:1:8
      |
    1 | exeat: policy/v1
      |        ^^^^^^^^^
      |
      = help: name the file so that it does not end in `.test.yaml`
    "#);
}

#[test]
fn a_deny_takes_exactly_its_part() {
    let rules = "  - { id: wide, effect: allow, from: [\"spiffe://prod.example/**\"], methods: [\"*\"], paths: [\"/**\"], grant: none }
  - { id: agents, effect: deny, from: [\"spiffe://prod.example/ns/agents/**\"], to: [\"*\"] }
  - { id: writes, effect: deny, from: [\"**\"], methods: [POST, PUT, PATCH, DELETE], paths: [\"/admin/**\"] }
";
    let held = |text: &str| {
        let outcome = run(rules, &format!("invariants:\n  - {{ never: {{ to: stripe, {text} }} }}\n")).unwrap();
        outcome.results[0].failure.as_ref().map(|failure| failure.why[0].clone())
    };
    assert_eq!(held("from: \"spiffe://prod.example/ns/agents/sa/*\""), None);
    assert_eq!(held("from: \"spiffe://other.example/**\""), None);
    assert_eq!(held("method: [POST, DELETE], path: /admin/*"), None);
    let why = held("method: [POST, GET], path: \"/admin/**\"").unwrap();
    assert!(why.ends_with("allows spiffe://prod.example/x GET on stripe /admin"), "{why}");
    let why = held("from: \"spiffe://prod.example/ns/*/sa/*\"").unwrap();
    assert!(why.contains("allows spiffe://prod.example/ns/x/sa/x"), "{why}");
}
