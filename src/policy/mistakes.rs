//! Every mistake that a policy file can hold, with the text that its author sees. The texts are part of the product: a change here is
//! a change of what people read.

use super::Bounds;
use super::testing::{compiled, with_head, within};
use crate::written::Diagnostic;

fn told(files: &[(&str, &str, Bounds)]) -> String {
    let shown = |all: &[Diagnostic]| all.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n\n");
    match compiled(files) {
        Ok((_, warnings)) => format!("loaded\n{}", shown(&warnings)),
        Err(errors) => shown(&errors),
    }
}

/// What the author of one file with these rules is told.
fn rules(rules: &str) -> String {
    told(&[("billing.yaml", &with_head(rules), Bounds::All)])
}

/// What the author of one sound rule is told, with one word of it changed.
fn rule(fields: &str) -> String {
    rules(&format!("  - {{ id: r, effect: allow, {fields} }}\n"))
}

/// What the author of a condition is told.
fn when(condition: &str) -> String {
    rules(&format!("  - id: r\n    effect: allow\n    methods: [GET]\n    paths: [/a]\n    grant: none\n    when: {condition}\n"))
}

#[test]
fn unknown_field() {
    insta::assert_snapshot!(rule("methods: [GET], path: [/a], grant: none"), @r#"
error[unknown-field]: unknown field `path`
 --> billing.yaml:7:45
  |
7 |   - { id: r, effect: allow, methods: [GET], path: [/a], grant: none }
  |                                             ^^^^
  |
  = help: did you mean `paths`?
"#);
}

#[test]
fn unknown_effect() {
    insta::assert_snapshot!(rules("  - { id: r, effect: permit, methods: [GET], paths: [/a] }\n"), @r#"
error[unknown-word]: unknown word `permit`
 --> billing.yaml:7:22
  |
7 |   - { id: r, effect: permit, methods: [GET], paths: [/a] }
  |                      ^^^^^^
  |
  = help: the words here are: deny, require, allow
"#);
}

#[test]
fn unknown_version() {
    insta::assert_snapshot!(told(&[("a.yaml", "exeat: policy/v2\nname: a\nrules: []\n", Bounds::All)]), @r#"
error[unknown-word]: unknown word `policy/v2`
 --> a.yaml:1:8
  |
1 | exeat: policy/v2
  |        ^^^^^^^^^
  |
  = help: did you mean `policy/v1`?
"#);
}

#[test]
fn a_test_under_a_policys_name() {
    insta::assert_snapshot!(told(&[("a.yaml", "exeat: policytest/v1\nat: 2026-11-23\ntable: []\n", Bounds::All)]), @r#"
error: this is a policy test
 --> a.yaml:1:8
  |
1 | exeat: policytest/v1
  |        ^^^^^^^^^^^^^
  |
  = help: name the file so that it ends in `.test.yaml`
"#);
}

#[test]
fn missing_name() {
    insta::assert_snapshot!(told(&[("a.yaml", "exeat: policy/v1\nrules: []\n", Bounds::All)]), @r#"
error[missing-field]: field `name` is missing
 --> a.yaml:1:1
  |
1 | exeat: policy/v1
  | ^^^^^
"#);
}

#[test]
fn unquoted_star() {
    insta::assert_snapshot!(rule("methods: [*], paths: [/a], grant: none"), @r#"
error: `*` begins a YAML alias, `&` an anchor
 --> billing.yaml:7:39
  |
7 |   - { id: r, effect: allow, methods: [*], paths: [/a], grant: none }
  |                                       ^
  |
  = help: quote a pattern that begins with `*`: "*"
"#);
}

#[test]
fn duplicate_field() {
    insta::assert_snapshot!(rules("  - id: r\n    id: s\n    effect: allow\n"), @r#"
error[duplicate-key]: `id` stands twice in this mapping
 --> billing.yaml:8:5
  |
8 |     id: s
  |     ^^
  |
  = help: keep one of the two
"#);
}

#[test]
fn stage_in_a_file() {
    insta::assert_snapshot!(told(&[("a.yaml", "exeat: policy/v1\nname: a\nstage: enforce\nrules: []\n", Bounds::All)]), @r#"
error: this field has no place in a policy file
 --> a.yaml:3:8
  |
3 | stage: enforce
  |        ^^^^^^^
  |
  = help: the stage belongs to the upstream, in the catalogue; `mode: shadow` rehearses a rule
"#);
}

#[test]
fn destinations_in_a_file() {
    insta::assert_snapshot!(told(&[("a.yaml", "exeat: policy/v1\nname: a\ndestinations: { x: { hosts: [a.example] } }\nrules: []\n", Bounds::All)]), @r#"
error: this field has no place in a policy file
 --> a.yaml:3:15
  |
3 | destinations: { x: { hosts: [a.example] } }
  |               ^
  |
  = help: hosts are written once, in the catalogue; `to` names its upstreams
"#);
}

#[test]
fn stage_on_a_rule() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a], grant: none, stage: shadow"), @r#"
error: a rule has no stage
 --> billing.yaml:7:78
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, stage: shadow }
  |                                                                              ^^^^^^
  |
  = help: the stage belongs to the upstream, in the catalogue; `mode: shadow` rehearses a rule
"#);
}

#[test]
fn lease() {
    let lease = |words: &str| rule(&format!("methods: [GET], paths: [/a], grant: none, lease: {words}"));
    insta::assert_snapshot!(lease("{ kind: release, max_ttl: 20m, max_uses: 3, bind: [identity, uid, pod_uid] }"), @r#"
loaded
"#);
    insta::assert_snapshot!(lease("{ kind: release }"), @r#"
loaded
warning[unbounded-lease]: rule `billing/r` takes a lease of any age, up to 24 h
 --> billing.yaml:7:11
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, lease: { kind: release } }
  |           ^
  |
  = help: write `max_ttl`, as in `lease: { kind: release, max_ttl: 20m }`
"#);
    insta::assert_snapshot!(lease("{ kind: \"a b\", max_ttl: 25h, max_uses: 0, bind: [pod_uid, session, uidd] }"), @r#"
error: `a b` is no kind of a lease
 --> billing.yaml:7:86
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, lease: { kind: "a b", max_ttl: 25h, max_uses: 0, bind: [pod_uid...
  |                                                                                      ^^^^^
  |
  = help: a kind has 1 to 64 of a-z, A-Z, 0-9, `.`, `-` and `_`

error: `25h` is out of bounds: at least 1s, at most 86400s
 --> billing.yaml:7:102
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, lease: { kind: "a b", max_ttl: 25h, max_uses: 0, bind: [pod_uid...
  |                                                                                                      ^^^
  |
  = help: everything is bounded; there is no way to write `unlimited`

error: `max_uses: 0` is out of bounds: at least 1, at most 1000000000
 --> billing.yaml:7:117
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, lease: { kind: "a b", max_ttl: 25h, max_uses: 0, bind: [pod_uid...
  |                                                                                                                     ^
  |
  = help: leave it out for as many as the lease itself has

error: no identity proves `session` yet: it comes with tool calls
 --> billing.yaml:7:136
  |
7 | ...e: { kind: "a b", max_ttl: 25h, max_uses: 0, bind: [pod_uid, session, uidd] } }
  |                                                                 ^^^^^^^
  |
  = help: remove it until then; a lease is always bound to the workload

error[unknown-name]: there is no binding `uidd`
 --> billing.yaml:7:145
  |
7 | ...nd: "a b", max_ttl: 25h, max_uses: 0, bind: [pod_uid, session, uidd] } }
  |                                                                   ^^^^
  |
  = help: did you mean `uid`?
"#);
    insta::assert_snapshot!(lease("{ max_ttl: 20m }"), @r#"
error[missing-field]: field `kind` is missing
 --> billing.yaml:7:78
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, lease: { max_ttl: 20m } }
  |                                                                              ^
"#);
    insta::assert_snapshot!(rules("  - { id: r, effect: require, methods: [GET], paths: [/a], when: \"request.port == 1\", lease: { kind: a, max_ttl: 1m } }\n"), @r#"
error: `lease` belongs to allow rules, this is a require
 --> billing.yaml:7:94
  |
7 |   - { id: r, effect: require, methods: [GET], paths: [/a], when: "request.port == 1", lease: { kind: a, max_ttl: 1m } }
  |                                                                                              ^
  |
  = help: write it on the allow rules; `when: lease.active` asks for a lease anywhere
"#);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of texts")]
fn limits() {
    let limits = |words: &str| rule(&format!("methods: [GET], paths: [/a], grant: none, limits: {words}"));
    insta::assert_snapshot!(limits("{ rate: 50/s, burst: 100, quota: 20/day, per: rule }"), @r#"
loaded
"#);
    insta::assert_snapshot!(limits("{}"), @r#"
error: `limits` limits nothing
 --> billing.yaml:7:79
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: {} }
  |                                                                               ^
  |
  = help: write a `rate`, a `quota`, or both
"#);
    insta::assert_snapshot!(limits("{ burst: 3, quota: 1/day }"), @r#"
error: a burst belongs to a rate
 --> billing.yaml:7:88
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { burst: 3, quota: 1/day } }
  |                                                                                        ^
  |
  = help: write `rate`, or remove `burst`
"#);
    insta::assert_snapshot!(limits("{ rate: 0/s, quota: 0/day }"), @r#"
error: a rate of 0 lets nothing through
 --> billing.yaml:7:87
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { rate: 0/s, quota: 0/day } }
  |                                                                                       ^^^
  |
  = help: write a deny, or remove the rule

error: a quota of 0 lets nothing through
 --> billing.yaml:7:99
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { rate: 0/s, quota: 0/day } }
  |                                                                                                   ^^^^^
  |
  = help: write a deny, or remove the rule
"#);
    insta::assert_snapshot!(limits("{ rate: 5/sec, quota: twenty }"), @r#"
error: `5/sec` is no rate
 --> billing.yaml:7:87
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { rate: 5/sec, quota: twenty } }
  |                                                                                       ^^^^^
  |
  = help: write a number and a time, as in `50/s`, `600/minute` or `1000/hour`

error: `twenty` is no quota
 --> billing.yaml:7:101
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { rate: 5/sec, quota: twenty } }
  |                                                                                                     ^^^^^^
  |
  = help: write a number and a window, as in `20/day`, `100/hour` or `10/minute`
"#);
    insta::assert_snapshot!(limits("{ rate: 5/day, quota: 5/s }"), @r#"
error: a rate is by second, minute or hour
 --> billing.yaml:7:87
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { rate: 5/day, quota: 5/s } }
  |                                                                                       ^^^^^
  |
  = help: write `quota: N/day`; a bucket that fills for a day is a quota that nobody can foresee

error: a quota is by minute, hour or day
 --> billing.yaml:7:101
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { rate: 5/day, quota: 5/s } }
  |                                                                                                     ^^^
  |
  = help: write `rate: N/s`
"#);
    insta::assert_snapshot!(limits("{ rate: 5000000/s, quota: 99999999999/day }"), @r#"
error: `5000000/s` is more than can be counted
 --> billing.yaml:7:87
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { rate: 5000000/s, quota: 99999999999/day } }
  |                                                                                       ^^^^^^^^^
  |
  = help: remove the limit, or lower it

error: `99999999999/day` is more than can be counted
 --> billing.yaml:7:105
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { rate: 5000000/s, quota: 99999999999/day } }
  |                                                                                                         ^^^^^^^^^^^^^^^
  |
  = help: remove the limit, or lower it
"#);
    insta::assert_snapshot!(limits("{ rate: 5/s, burst: 0 }"), @r#"
error: `burst: 0` is out of bounds: at least 1, at most 1000000
 --> billing.yaml:7:99
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { rate: 5/s, burst: 0 } }
  |                                                                                                   ^
  |
  = help: write how many may come at once
"#);
    insta::assert_snapshot!(limits("{ rate: 5/s, per: identity }"), @r#"
error[unknown-word]: unknown word `identity`
 --> billing.yaml:7:97
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { rate: 5/s, per: identity } }
  |                                                                                                 ^^^^^^^^
  |
  = help: the words here are: workload, rule
"#);
    insta::assert_snapshot!(rules("  - { id: r, effect: deny, limits: { rate: 5/s } }\n"), @r#"
error: `limits` belongs to allow rules, this is a deny
 --> billing.yaml:7:36
  |
7 |   - { id: r, effect: deny, limits: { rate: 5/s } }
  |                                    ^
  |
  = help: write it on the allow rules
"#);
}

#[test]
fn equal_rules_with_different_terms() {
    let two = |one: &str, other: &str| {
        rules(&format!(
            "  - {{ id: a, effect: allow, methods: [GET], paths: [/a], grant: none, {one} }}\n  - {{ id: b, effect: allow, methods: [GET], paths: [/a], grant: none, {other} }}\n"
        ))
    };
    insta::assert_snapshot!(two("lease: { kind: x, max_ttl: 1m }", "lease: { kind: x, max_ttl: 2m }"), @r#"
error: rules `billing/b` and `billing/a` (billing.yaml:7:11) match the same requests and want different leases
 --> billing.yaml:8:11
  |
8 |   - { id: b, effect: allow, methods: [GET], paths: [/a], grant: none, lease: { kind: x, max_ttl: 2m } }
  |           ^
  |
  = help: make one of them more specific, or let both grant the same
"#);
    insta::assert_snapshot!(two("limits: { rate: 5/s }", "limits: { rate: 6/s }"), @r#"
error: rules `billing/b` and `billing/a` (billing.yaml:7:11) match the same requests and have different limits
 --> billing.yaml:8:11
  |
8 |   - { id: b, effect: allow, methods: [GET], paths: [/a], grant: none, limits: { rate: 6/s } }
  |           ^
  |
  = help: make one of them more specific, or let both grant the same
"#);
}

#[test]
fn mcp() {
    insta::assert_snapshot!(rule("mcp: { methods: [tools/call] }, grant: none"), @r#"
error: this binary does not know `mcp`: tool calls come with a later version
 --> billing.yaml:7:34
  |
7 |   - { id: r, effect: allow, mcp: { methods: [tools/call] }, grant: none }
  |                                  ^
  |
  = help: remove the field until then
"#);
}

#[test]
fn bad_policy_name() {
    insta::assert_snapshot!(told(&[("a.yaml", "exeat: policy/v1\nname: my policy\nrules: []\n", Bounds::All)]), @r#"
error: `my policy` is no name for a policy
 --> a.yaml:2:7
  |
2 | name: my policy
  |       ^^^^^^^^^
  |
  = help: write letters, digits, `-`, `_` and `.`, 64 at most
"#);
}

#[test]
fn policy_twice() {
    insta::assert_snapshot!(told(&[("a.yaml", "exeat: policy/v1\nname: a\nrules: []\n", Bounds::All), ("b.yaml", "exeat: policy/v1\nname: a\nrules: []\n", Bounds::All)]), @r#"
error: another file holds a policy `a` already
 --> b.yaml:2:7
  |
2 | name: a
  |       ^
  |
  = help: give each policy a name of its own
"#);
}

#[test]
fn bad_id() {
    insta::assert_snapshot!(rules("  - { id: \"a/b\", effect: deny }\n"), @r#"
error: `a/b` is no id for a rule
 --> billing.yaml:7:11
  |
7 |   - { id: "a/b", effect: deny }
  |           ^^^^^
  |
  = help: write letters, digits, `-`, `_` and `.`, 64 at most
"#);
}

#[test]
fn id_twice() {
    insta::assert_snapshot!(rules("  - { id: r, effect: deny }\n  - { id: r, effect: deny }\n"), @r#"
error: another rule of this file has the id `r`
 --> billing.yaml:8:11
  |
8 |   - { id: r, effect: deny }
  |           ^
  |
  = help: give each rule an id of its own
"#);
}

#[test]
fn everything_missing() {
    insta::assert_snapshot!(told(&[("a.yaml", "exeat: policy/v1\nname: a\nrules: [{ id: r, effect: allow }]\n", Bounds::All)]), @r#"
error: allow rule `r` has no `from`
 --> a.yaml:3:15
  |
3 | rules: [{ id: r, effect: allow }]
  |               ^
  |
  = help: name workloads in `from`, here or in `defaults`

error: allow rule `r` has no `to`
 --> a.yaml:3:15
  |
3 | rules: [{ id: r, effect: allow }]
  |               ^
  |
  = help: name upstreams of the catalogue in `to`, here or in `defaults`

error: allow rule `r` has no `methods`
 --> a.yaml:3:15
  |
3 | rules: [{ id: r, effect: allow }]
  |               ^
  |
  = help: name them, as in `[GET, HEAD]`; `"*"` is every method

error: allow rule `r` has no `paths`
 --> a.yaml:3:15
  |
3 | rules: [{ id: r, effect: allow }]
  |               ^
  |
  = help: name them, as in `[/v1/charges, "/v1/charges/**"]`; `"/**"` is every path

error: allow rule `r` has no `grant`
 --> a.yaml:3:15
  |
3 | rules: [{ id: r, effect: allow }]
  |               ^
  |
  = help: name a credential of the upstream, or write `grant: none`: stripped, and nothing in its place

error: allow rule `r` has no `expires`
 --> a.yaml:3:15
  |
3 | rules: [{ id: r, effect: allow }]
  |               ^
  |
  = help: every allow ends: write a date, here or in `defaults`

error: allow rule `r` has no `owner`
 --> a.yaml:3:15
  |
3 | rules: [{ id: r, effect: allow }]
  |               ^
  |
  = help: name who answers for it, here or in `defaults`

error: allow rule `r` has no `reason`
 --> a.yaml:3:15
  |
3 | rules: [{ id: r, effect: allow }]
  |               ^
  |
  = help: write a ticket or a sentence, here or in `defaults`
"#);
}

#[test]
fn require_without_condition() {
    insta::assert_snapshot!(rules("  - { id: r, effect: require, methods: [GET], paths: [/a] }\n"), @r#"
error: require rule `r` has no `when`
 --> billing.yaml:7:11
  |
7 |   - { id: r, effect: require, methods: [GET], paths: [/a] }
  |           ^
  |
  = help: say what is required; a rule that always refuses is a deny
"#);
}

#[test]
fn unknown_identity() {
    insta::assert_snapshot!(rule("from: [biling], methods: [GET], paths: [/a], grant: none"), @r#"
error[unknown-name]: there is no identity `biling`
 --> billing.yaml:7:36
  |
7 |   - { id: r, effect: allow, from: [biling], methods: [GET], paths: [/a], grant: none }
  |                                    ^^^^^^
  |
  = help: did you mean `billing`?
"#);
}

#[test]
fn partial_identity() {
    insta::assert_snapshot!(rule("from: [\"spiffe://prod.example/ns/bill*\"], methods: [GET], paths: [/a], grant: none"), @r#"
error: `spiffe://prod.example/ns/bill*` is no identity: `*` stands for one whole segment, `**` for all that is left: neither is part of a name
 --> billing.yaml:7:36
  |
7 |   - { id: r, effect: allow, from: ["spiffe://prod.example/ns/bill*"], methods: [GET], paths: [/a], grant: none }
  |                                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write it as in `spiffe://prod.example/ns/billing/**`
"#);
}

#[test]
fn any_trust_domain() {
    insta::assert_snapshot!(rule("from: [\"spiffe://*/ns/billing\"], methods: [GET], paths: [/a], grant: none"), @r#"
error: `spiffe://*/ns/billing` is no identity: the trust domain of an identity pattern is written out: a-z, 0-9, `.`, `-` and `_`
 --> billing.yaml:7:36
  |
7 |   - { id: r, effect: allow, from: ["spiffe://*/ns/billing"], methods: [GET], paths: [/a], grant: none }
  |                                    ^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write it as in `spiffe://prod.example/ns/billing/**`
"#);
}

#[test]
fn disputed_identity() {
    insta::assert_snapshot!(told(&[
        ("p/a.yaml", "exeat: policy/v1\nname: a\nidentities: { x: { spiffe: \"spiffe://a/b\" } }\nrules: []\n", Bounds::All),
        ("p/b.yaml", "exeat: policy/v1\nname: b\nidentities: { x: { spiffe: \"spiffe://a/c\" } }\nrules: []\n", Bounds::All),
        ("p/c.yaml", "exeat: policy/v1\nname: c\nrules: [{ id: r, effect: deny, from: x, to: stripe }]\n", Bounds::All),
    ]), @r#"
error: the files of this directory mean different workloads by `x`
 --> p/c.yaml:3:38
  |
3 | rules: [{ id: r, effect: deny, from: x, to: stripe }]
  |                                      ^
  |
  = help: declare it in this file, or give the two different names
"#);
}

#[test]
fn bad_identity() {
    insta::assert_snapshot!(told(&[("a.yaml", "exeat: policy/v1\nname: a\nidentities:\n  x: { spiffe: \"https://a/b\" }\n  y: { k8s: { namespace: \"*\", service_account: a } }\nrules: []\n", Bounds::All)]), @r#"
error: `https://a/b` is no identity: an identity pattern begins with `spiffe://` (or is `**`: every identity)
 --> a.yaml:4:16
  |
4 |   x: { spiffe: "https://a/b" }
  |                ^^^^^^^^^^^^^
  |
  = help: write it as in `spiffe://prod.example/ns/billing/sa/app`

error: `*` is no Kubernetes name
 --> a.yaml:5:26
  |
5 |   y: { k8s: { namespace: "*", service_account: a } }
  |                          ^^^
  |
  = help: a pattern is written as a SPIFFE ID: `{ spiffe: "spiffe://.." }`
"#);
}

#[test]
fn unknown_upstream() {
    insta::assert_snapshot!(rule("to: [strip], methods: [GET], paths: [/a], grant: none"), @r#"
error[unknown-name]: there is no upstream `strip`
 --> billing.yaml:7:34
  |
7 |   - { id: r, effect: allow, to: [strip], methods: [GET], paths: [/a], grant: none }
  |                                  ^^^^^
  |
  = help: did you mean `stripe`?
"#);
}

#[test]
fn empty_list() {
    insta::assert_snapshot!(rule("to: [], methods: [GET], paths: [], grant: none"), @r#"
error: `to` is empty: the rule would never match
 --> billing.yaml:7:33
  |
7 |   - { id: r, effect: allow, to: [], methods: [GET], paths: [], grant: none }
  |                                 ^
  |
  = help: name something, or remove the rule

error: `paths` is empty: the rule would never match
 --> billing.yaml:7:60
  |
7 |   - { id: r, effect: allow, to: [], methods: [GET], paths: [], grant: none }
  |                                                            ^
  |
  = help: name something, or remove the rule
"#);
}

#[test]
fn lower_case_method() {
    insta::assert_snapshot!(rule("methods: [get], paths: [/a], grant: none"), @r#"
error: methods are in upper case: `get` would never match
 --> billing.yaml:7:39
  |
7 |   - { id: r, effect: allow, methods: [get], paths: [/a], grant: none }
  |                                       ^^^
  |
  = help: write `GET`
"#);
}

#[test]
fn not_a_method() {
    insta::assert_snapshot!(rule("methods: [\"GET,POST\"], paths: [/a], grant: none"), @r#"
error: `GET,POST` is no method
 --> billing.yaml:7:39
  |
7 |   - { id: r, effect: allow, methods: ["GET,POST"], paths: [/a], grant: none }
  |                                       ^^^^^^^^^^
  |
  = help: write it as in `[GET, POST]`
"#);
}

#[test]
fn relative_path() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [v1], grant: none"), @r#"
error: `v1` is no path pattern: a path pattern begins with `/`
 --> billing.yaml:7:53
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [v1], grant: none }
  |                                                     ^^
  |
  = help: write it as in `/v1/charges`, `/v1/*/refund`, `/v1/**`
"#);
}

#[test]
fn rest_inside() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [\"/a/**/b\"], grant: none"), @r#"
error: `/a/**/b` is no path pattern: `**` can only be the last segment
 --> billing.yaml:7:53
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: ["/a/**/b"], grant: none }
  |                                                     ^^^^^^^^^
  |
  = help: write it as in `/v1/charges`, `/v1/*/refund`, `/v1/**`
"#);
}

#[test]
fn partial_segment() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [\"/a/b*\"], grant: none"), @r#"
error: `/a/b*` is no path pattern: `*` stands for one whole segment, `**` for all that is left: neither is part of a name
 --> billing.yaml:7:53
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: ["/a/b*"], grant: none }
  |                                                     ^^^^^^^
  |
  = help: write it as in `/v1/charges`, `/v1/*/refund`, `/v1/**`
"#);
}

#[test]
fn query_in_a_path() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [\"/a?b=c\"], grant: none"), @r#"
error: `/a?b=c` is no path pattern: a path pattern has no empty or dot segments and none of `?`, `#`, `\`, `;`, blanks and control characters
 --> billing.yaml:7:53
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: ["/a?b=c"], grant: none }
  |                                                     ^^^^^^^^
  |
  = help: write it as in `/v1/charges`, `/v1/*/refund`, `/v1/**`
"#);
}

#[test]
fn outside_bounds() {
    insta::assert_snapshot!(told(&[("a.yaml", &with_head("  - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none }\n"), within(&["spiffe://prod.example/ns/ci/**"], &["ledger"]))]), @r#"
error: `spiffe://prod.example/ns/billing/sa/billing-app` is outside the bounds of this directory
 --> a.yaml:3:91
  |
3 | defaults: { owner: team-billing@example.com, reason: PAY-812, expires: 2027-03-01, from: [billing], to: [stripe] }
  |                                                                                           ^^^^^^^
  |
  = help: name workloads within the bounds, or ask whoever owns the configuration to widen `bounds`

error: upstream `stripe` is outside the bounds of this directory
 --> a.yaml:3:106
  |
3 | defaults: { owner: team-billing@example.com, reason: PAY-812, expires: 2027-03-01, from: [billing], to: [stripe] }
  |                                                                                                          ^^^^^^
  |
  = help: name upstreams within the bounds, or ask whoever owns the configuration to widen `bounds`
"#);
}

#[test]
fn everyone_outside_bounds() {
    insta::assert_snapshot!(told(&[("a.yaml", &with_head("  - { id: r, effect: deny, from: [\"**\"], to: [\"*\"] }\n"), within(&["spiffe://prod.example/**"], &["ledger"]))]), @r#"
error: `**` is outside the bounds of this directory
 --> a.yaml:7:35
  |
7 |   - { id: r, effect: deny, from: ["**"], to: ["*"] }
  |                                   ^^^^
  |
  = help: name workloads within the bounds, or ask whoever owns the configuration to widen `bounds`

error: `*` is outside the bounds of this directory
 --> a.yaml:7:47
  |
7 |   - { id: r, effect: deny, from: ["**"], to: ["*"] }
  |                                               ^^^
  |
  = help: name the upstreams in `to`
"#);
}

#[test]
fn floor_outside_bounds() {
    insta::assert_snapshot!(told(&[("a.yaml", &with_head("  - { id: r, effect: deny, floor: true }\n"), within(&["spiffe://prod.example/**"], &["stripe"]))]), @r#"
error: `floor` needs `bounds: all`
 --> a.yaml:7:35
  |
7 |   - { id: r, effect: deny, floor: true }
  |                                   ^^^^
  |
  = help: it refuses traffic that the upstream's owner only observes; ask whoever owns the configuration
"#);
}

#[test]
fn floor_on_an_allow() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a], grant: none, floor: true"), @r#"
error: `floor` belongs to deny rules
 --> billing.yaml:7:78
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, floor: true }
  |                                                                              ^^^^
  |
  = help: remove it
"#);
}

#[test]
fn shadow_floor() {
    insta::assert_snapshot!(rules("  - { id: r, effect: deny, mode: shadow, floor: true }\n"), @r#"
error: a shadow rule decides nothing, so it is no floor
 --> billing.yaml:7:49
  |
7 |   - { id: r, effect: deny, mode: shadow, floor: true }
  |                                                 ^^^^
  |
  = help: remove `floor` or `mode: shadow`
"#);
}

#[test]
fn no_grant() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a]"), @r#"
error: allow rule `r` has no `grant`
 --> billing.yaml:7:11
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a] }
  |           ^
  |
  = help: name a credential of the upstream, or write `grant: none`: stripped, and nothing in its place
"#);
}

#[test]
fn unknown_credential() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a], grant: stripe-restrictd"), @r#"
error[unknown-name]: there is no credential `stripe-restrictd`
 --> billing.yaml:7:65
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: stripe-restrictd }
  |                                                                 ^^^^^^^^^^^^^^^^
  |
  = help: did you mean `stripe-restricted`?
"#);
}

#[test]
fn unbound_credential() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a], grant: jwt-ledger"), @r#"
error: credential `jwt-ledger` may not be used at upstream `stripe`
 --> billing.yaml:7:65
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: jwt-ledger }
  |                                                                 ^^^^^^^^^^
  |
  = help: list it in the upstream's `credentials`, or name other upstreams in `to`
"#);
}

#[test]
fn unknown_scope() {
    insta::assert_snapshot!(rule("to: [ledger], methods: [GET], paths: [/a], grant: { credential: jwt-ledger, scope: entries:raed }"), @r#"
error[unknown-name]: there is no scope `entries:raed`
 --> billing.yaml:7:112
  |
7 |   - { id: r, effect: allow, to: [ledger], methods: [GET], paths: [/a], grant: { credential: jwt-ledger, scope: entries:raed } }
  |                                                                                                                ^^^^^^^^^^^^
  |
  = help: did you mean `entries:read`?
"#);
}

#[test]
fn no_scopes() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a], grant: { credential: stripe-readonly, scope: x }"), @r#"
error: credential `stripe-readonly` knows no scopes
 --> billing.yaml:7:103
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: { credential: stripe-readonly, scope: x } }
  |                                                                                                       ^
  |
  = help: remove `scope`
"#);
}

#[test]
fn longer_ttl() {
    insta::assert_snapshot!(rule("to: [ledger], methods: [GET], paths: [/a], grant: { credential: jwt-ledger, ttl: 1h }"), @r#"
error: `1h` is out of bounds: at least 1s, at most 300s
 --> billing.yaml:7:110
  |
7 |   - { id: r, effect: allow, to: [ledger], methods: [GET], paths: [/a], grant: { credential: jwt-ledger, ttl: 1h } }
  |                                                                                                              ^^
  |
  = help: everything is bounded; there is no way to write `unlimited`
"#);
}

#[test]
fn narrowed_none() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a], grant: { credential: none, ttl: 1s }"), @r#"
error: `none` has neither scope nor ttl
 --> billing.yaml:7:90
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: { credential: none, ttl: 1s } }
  |                                                                                          ^^
  |
  = help: write `grant: none`
"#);
}

#[test]
fn deny_with_grant() {
    insta::assert_snapshot!(rules("  - { id: r, effect: deny, grant: stripe-readonly }\n"), @r#"
error: a deny grants nothing
 --> billing.yaml:7:35
  |
7 |   - { id: r, effect: deny, grant: stripe-readonly }
  |                                   ^^^^^^^^^^^^^^^
  |
  = help: remove `grant`
"#);
}

#[test]
fn deny_that_expires() {
    insta::assert_snapshot!(rules("  - { id: r, effect: deny, expires: 2027-01-01 }\n"), @r#"
error: a deny does not expire: after its end it would let through
 --> billing.yaml:7:37
  |
7 |   - { id: r, effect: deny, expires: 2027-01-01 }
  |                                     ^^^^^^^^^^
  |
  = help: remove `expires`; take the rule out when it is no longer wanted
"#);
}

#[test]
fn deny_with_windows() {
    insta::assert_snapshot!(rules("  - { id: r, effect: deny, windows: [{ from: \"06:00\", to: \"22:00\", tz: UTC }] }\n"), @r#"
error: a deny has no windows: outside of them it would let through
 --> billing.yaml:7:46
  |
7 |   - { id: r, effect: deny, windows: [{ from: "06:00", to: "22:00", tz: UTC }] }
  |                                              ^^^^^^^
  |
  = help: write the windows on the allow rules
"#);
}

#[test]
fn bad_window() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a], grant: none, windows: [{ days: weekdays, from: 6am, to: \"25:00\", tz: Berlin }]"), @r#"
error: `weekdays` are no days
 --> billing.yaml:7:89
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, windows: [{ days: weekdays, from: 6am, to: "25:00", tz: Berlin ...
  |                                                                                         ^^^^^^^^
  |
  = help: write `mon-fri`, `sat,sun`, or leave `days` out for every day

error: `6am` is not a time of day
 --> billing.yaml:7:105
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, windows: [{ days: weekdays, from: 6am, to: "25:00", tz: Berlin ...
  |                                                                                                         ^^^
  |
  = help: write it quoted, as in "06:00"; "24:00" is the end of the day

error: `25:00` is not a time of day
 --> billing.yaml:7:114
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, windows: [{ days: weekdays, from: 6am, to: "25:00", tz: Berlin ...
  |                                                                                                                  ^^^^^^^
  |
  = help: write it quoted, as in "06:00"; "24:00" is the end of the day

error: there is no time zone `Berlin`
 --> billing.yaml:7:127
  |
7 | ...none, windows: [{ days: weekdays, from: 6am, to: "25:00", tz: Berlin }] }
  |                                                                  ^^^^^^
  |
  = help: write an IANA name such as `Europe/Berlin` or `UTC`
"#);
}

#[test]
fn bad_date() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a], grant: none, expires: next year"), @r#"
error: `next year` is not a point in time
 --> billing.yaml:7:80
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, expires: next year }
  |                                                                                ^^^^^^^^^
  |
  = help: write a date (2026-12-20) or an RFC 3339 time with its offset (2026-12-20T18:00:00Z)
"#);
}

#[test]
fn begins_after_its_end() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a], grant: none, not_before: 2027-01-02, expires: 2027-01-01"), @r#"
error: the rule begins after its end
 --> billing.yaml:7:83
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, not_before: 2027-01-02, expires: 2027-01-01 }
  |                                                                                   ^^^^^^^^^^
  |
  = help: swap `not_before` and `expires`
"#);
}

#[test]
fn tunnel_with_paths() {
    insta::assert_snapshot!(rule("to: [vendor], tunnel: true, paths: [/a]"), @r#"
error: a tunnel is judged by its host alone: its methods and paths cannot be seen
 --> billing.yaml:7:64
  |
7 |   - { id: r, effect: allow, to: [vendor], tunnel: true, paths: [/a] }
  |                                                                ^
  |
  = help: remove `methods` and `paths`, or `tunnel`
"#);
}

#[test]
fn tunnel_to_an_intercepted_upstream() {
    insta::assert_snapshot!(rule("to: [stripe], tunnel: true"), @r#"
error: upstream `stripe` is intercepted: a tunnel rule never matches there
 --> billing.yaml:7:34
  |
7 |   - { id: r, effect: allow, to: [stripe], tunnel: true }
  |                                  ^^^^^^
  |
  = help: write a rule with `methods` and `paths`; tunnels are for upstreams with `intercept: false`
"#);
}

#[test]
fn tunnel_with_a_grant() {
    insta::assert_snapshot!(rule("to: [ledger, vendor], tunnel: true, grant: jwt-ledger"), @r#"
error: upstream `ledger` is intercepted: a tunnel rule never matches there
 --> billing.yaml:7:34
  |
7 |   - { id: r, effect: allow, to: [ledger, vendor], tunnel: true, grant: jwt-ledger }
  |                                  ^^^^^^
  |
  = help: write a rule with `methods` and `paths`; tunnels are for upstreams with `intercept: false`

error: nothing can be put on inside a tunnel
 --> billing.yaml:7:72
  |
7 |   - { id: r, effect: allow, to: [ledger, vendor], tunnel: true, grant: jwt-ledger }
  |                                                                        ^^^^^^^^^^
  |
  = help: remove `grant`
"#);
}

#[test]
fn tunnel_to_everything() {
    insta::assert_snapshot!(rule("to: [\"*\"], tunnel: true"), @r#"
error: a tunnel rule names its upstreams
 --> billing.yaml:7:34
  |
7 |   - { id: r, effect: allow, to: ["*"], tunnel: true }
  |                                  ^^^
  |
  = help: name the upstreams in `to`
"#);
}

#[test]
fn deny_tunnel() {
    insta::assert_snapshot!(rules("  - { id: r, effect: deny, to: [vendor], tunnel: true }\n"), @r#"
error: `tunnel` belongs to allow rules, this is a deny
 --> billing.yaml:7:50
  |
7 |   - { id: r, effect: deny, to: [vendor], tunnel: true }
  |                                                  ^^^^
  |
  = help: a deny without `methods` and `paths` covers tunnels too
"#);
}

#[test]
fn ambiguous_grant() {
    insta::assert_snapshot!(rules("  - { id: a, effect: allow, methods: [GET], paths: [/a], grant: stripe-readonly }\n  - { id: b, effect: allow, methods: [GET, POST], paths: [/a], grant: none }\n"), @r#"
error: rules `billing/b` and `billing/a` (billing.yaml:7:11) match the same requests and grant different credentials
 --> billing.yaml:8:11
  |
8 |   - { id: b, effect: allow, methods: [GET, POST], paths: [/a], grant: none }
  |           ^
  |
  = help: make one of them more specific, or let both grant the same
"#);
}

#[test]
fn over_budget() {
    insta::assert_snapshot!(rules(&(0..140).map(|at| format!("  - {{ id: r{at}, effect: allow, methods: [GET], paths: [\"/**\"], when: \"request.headers['x'] == '{at}'\", grant: none }}\n")).collect::<Vec<_>>().concat()), @r#"
error: one request to upstream `stripe` could cost 140 conditions; 128 are the most: rules `billing/r0`, `billing/r1`, `billing/r2`, `billing/r3`, `billing/r4` and 135 more meet in it
 --> billing.yaml:7:11
  |
7 |   - { id: r0, effect: allow, methods: [GET], paths: ["/**"], when: "request.headers['x'] == '0'", grant: none }
  |           ^^
  |
  = help: give them identities, upstreams or paths of their own, or fold them into one rule
"#);
}

#[test]
fn several_at_once() {
    insta::assert_snapshot!(rules("  - { id: a, effect: allow, to: [strip], methods: [get], paths: [v1], when: request.hots == 'a', grant: x }\n  - { id: b, effect: deny, from: [nobody] }\n"), @r#"
error[unknown-name]: there is no upstream `strip`
 --> billing.yaml:7:34
  |
7 |   - { id: a, effect: allow, to: [strip], methods: [get], paths: [v1], when: request.hots == 'a', grant: x }
  |                                  ^^^^^
  |
  = help: did you mean `stripe`?

error: methods are in upper case: `get` would never match
 --> billing.yaml:7:52
  |
7 |   - { id: a, effect: allow, to: [strip], methods: [get], paths: [v1], when: request.hots == 'a', grant: x }
  |                                                    ^^^
  |
  = help: write `GET`

error: `v1` is no path pattern: a path pattern begins with `/`
 --> billing.yaml:7:66
  |
7 |   - { id: a, effect: allow, to: [strip], methods: [get], paths: [v1], when: request.hots == 'a', grant: x }
  |                                                                  ^^
  |
  = help: write it as in `/v1/charges`, `/v1/*/refund`, `/v1/**`

error: there is no attribute `request.hots`
 --> billing.yaml:7:77
  |
7 |   - { id: a, effect: allow, to: [strip], methods: [get], paths: [v1], when: request.hots == 'a', grant: x }
  |                                                                             ^^^^^^^^^^^^
  |
  = help: did you mean `request.host`?

error[unknown-name]: there is no credential `x`
 --> billing.yaml:7:105
  |
7 |   - { id: a, effect: allow, to: [strip], methods: [get], paths: [v1], when: request.hots == 'a', grant: x }
  |                                                                                                         ^
  |
  = help: known: jwt-ledger, none, stripe-readonly, stripe-restricted

error[unknown-name]: there is no identity `nobody`
 --> billing.yaml:8:35
  |
8 |   - { id: b, effect: deny, from: [nobody] }
  |                                   ^^^^^^
  |
  = help: known: billing
"#);
}

#[test]
fn unknown_attribute() {
    insta::assert_snapshot!(when("request.bdy_size < 100"), @r#"
error: there is no attribute `request.bdy_size`
  --> billing.yaml:12:11
   |
12 |     when: request.bdy_size < 100
   |           ^^^^^^^^^^^^^^^^
   |
   = help: did you mean `request.body_size`?
"#);
}

#[test]
fn no_attribute_at_all() {
    insta::assert_snapshot!(when("user.name == 'x'"), @"
    error: there is no attribute `user.name`
      --> billing.yaml:12:11
       |
    12 |     when: user.name == 'x'
       |           ^^^^^^^^^
       |
       = help: the attributes are source.spiffe_id, source.trust_domain, source.namespace, source.service_account, source.pod, source.uid, source.ip, request.host, request.port, request.upstream, request.scheme, request.method, request.path, request.headers, request.query, request.content_type, request.body_size, lease.active, lease.task_kind, lease.attrs, lease.uses_left, now
    ");
}

#[test]
fn attribute_is_a_group() {
    insta::assert_snapshot!(when("request == 'x'"), @r#"
error: `request` is not a value
  --> billing.yaml:12:11
   |
12 |     when: request == 'x'
   |           ^^^^^^^
   |
   = help: its attributes are request.host, request.port, request.upstream, request.scheme, request.method, request.path, request.headers, request.query, request.content_type, request.body_size
"#);
}

#[test]
fn attributes_of_a_lease() {
    insta::assert_snapshot!(when("lease.active"), @r#"
loaded
"#);
    insta::assert_snapshot!(when("lease.active && lease.task_kind == 'release' && lease.attrs['tag'] == 'v1' && lease.uses_left > 0"), @r#"
loaded
warning[unguarded]: `lease.attrs['tag']` may be absent: the rule does not match then
  --> billing.yaml:12:11
   |
12 |     when: lease.active && lease.task_kind == 'release' && lease.attrs['tag'] == 'v1' && lease.uses_left > 0
   |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: say so with `'tag' in lease.attrs && ..` if that is meant

warning[unguarded]: `lease.uses_left` may be absent: the rule does not match then
  --> billing.yaml:12:11
   |
12 |     when: lease.active && lease.task_kind == 'release' && lease.attrs['tag'] == 'v1' && lease.uses_left > 0
   |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: say so with `has(lease.uses_left) && ..` if that is meant
"#);
    insta::assert_snapshot!(when("lease.attrs['a b'] == 'x'"), @r#"
error: no lease has an attribute `a b`: it would never be found
  --> billing.yaml:12:23
   |
12 |     when: lease.attrs['a b'] == 'x'
   |                       ^^^^^
   |
   = help: names have 1 to 64 of a-z, A-Z, 0-9, `.`, `-` and `_`
"#);
    insta::assert_snapshot!(when("lease.kind == 'x'"), @r#"
error: there is no attribute `lease.kind`
  --> billing.yaml:12:11
   |
12 |     when: lease.kind == 'x'
   |           ^^^^^^^^^^
   |
   = help: the attributes are source.spiffe_id, source.trust_domain, source.namespace, source.service_account, source.pod, source.uid, source.ip, request.host, request.port, request.upstream, request.scheme, request.method, request.path, request.headers, request.query, request.content_type, request.body_size, lease.active, lease.task_kind, lease.attrs, lease.uses_left, now
"#);
}

#[test]
fn an_attribute_that_not_every_identity_proves() {
    insta::assert_snapshot!(when("source.pod == 'x'"), @"
    loaded
    warning[unguarded]: `source.pod` may be absent: the rule does not match then
      --> billing.yaml:12:11
       |
    12 |     when: source.pod == 'x'
       |           ^^^^^^^^^^^^^^^^^
       |
       = help: say so with `has(source.pod) && ..` if that is meant
    ");
}

#[test]
fn wrong_type() {
    insta::assert_snapshot!(when("request.body_size < 'ten'"), @r#"
error: int cannot be compared with string
  --> billing.yaml:12:31
   |
12 |     when: request.body_size < 'ten'
   |                               ^^^^^
   |
   = help: remove the quotes if a number is meant
"#);
}

#[test]
fn wrong_type_in_a_list() {
    insta::assert_snapshot!(when("request.host in [1, 2]"), @r#"
error: string is never in a list of ints
  --> billing.yaml:12:11
   |
12 |     when: request.host in [1, 2]
   |           ^^^^^^^^^^^^
   |
   = help: both sides of `in` must be of one type
"#);
}

#[test]
fn mixed_list() {
    insta::assert_snapshot!(when("request.host in ['a', 2]"), @r#"
error: the items of a list are of one type
  --> billing.yaml:12:27
   |
12 |     when: request.host in ['a', 2]
   |                           ^^^^^^^
   |
   = help: conditions know && || ! == != < <= > >= in ?: has() size() startsWith() endsWith() contains() matches() lowerAscii() exists() all() timestamp() duration() ip() cidr().containsIP()
"#);
}

#[test]
fn unknown_function() {
    insta::assert_snapshot!(when("request.path.startWith('/v1')"), @r#"
error: there is no function `startWith`
  --> billing.yaml:12:24
   |
12 |     when: request.path.startWith('/v1')
   |                        ^^^^^^^^^
   |
   = help: did you mean `startsWith`?
"#);
}

#[test]
fn unknown_global_function() {
    insta::assert_snapshot!(when("lower(request.path) == '/v1'"), @r#"
error: there is no function `lower`
  --> billing.yaml:12:11
   |
12 |     when: lower(request.path) == '/v1'
   |           ^^^^^
   |
   = help: the functions are size, startsWith, endsWith, contains, matches, lowerAscii, containsIP, cidr, ip, timestamp, duration, has, exists, all
"#);
}

#[test]
fn wrong_arguments() {
    insta::assert_snapshot!(when("request.path.startsWith('/v1', 1)"), @r#"
error: `startsWith` is not called in this way, with 2 arguments
  --> billing.yaml:12:24
   |
12 |     when: request.path.startsWith('/v1', 1)
   |                        ^^^^^^^^^^
   |
   = help: write `x.startsWith(..)` with one argument
"#);
}

#[test]
fn not_a_boolean() {
    insta::assert_snapshot!(when("request.body_size"), @r#"
error: the condition must be a boolean, found int
  --> billing.yaml:12:11
   |
12 |     when: request.body_size
   |           ^^^^^^^^^^^^^^^^^
   |
   = help: compare it with something, as in `request.port == 443`
"#);
}

#[test]
fn syntax_error() {
    insta::assert_snapshot!(when("request.host == 'a' and true"), @r#"
error: the condition is not valid CEL: mismatched input 'and'
  --> billing.yaml:12:31
   |
12 |     when: request.host == 'a' and true
   |                               ^
   |
   = help: text is quoted, `&&` and `||` join, `==` compares
"#);
}

#[test]
fn unfinished() {
    insta::assert_snapshot!(when("request.host =="), @r#"
error: the condition is not valid CEL: mismatched input the end
  --> billing.yaml:12:26
   |
12 |     when: request.host ==
   |                          ^
   |
   = help: text is quoted, `&&` and `||` join, `==` compares
"#);
}

#[test]
fn empty_condition() {
    insta::assert_snapshot!(when("\"\""), @r#"
error: the condition is empty (in ``)
  --> billing.yaml:12:11
   |
12 |     when: ""
   |           ^^
   |
   = help: remove `when`, or write a condition
"#);
}

#[test]
fn upper_case_header() {
    insta::assert_snapshot!(when("request.headers['X-Env'] == 'prod'"), @r#"
error: header names are in lower case here: `X-Env` would never be found
  --> billing.yaml:12:27
   |
12 |     when: request.headers['X-Env'] == 'prod'
   |                           ^^^^^^^
   |
   = help: write `x-env`
"#);
}

#[test]
fn no_header_name() {
    insta::assert_snapshot!(when("request.headers['x env'] == 'prod'"), @r#"
error: `x env` is not a header name
  --> billing.yaml:12:27
   |
12 |     when: request.headers['x env'] == 'prod'
   |                           ^^^^^^^
   |
   = help: write it as in `request.headers['idempotency-key']`
"#);
}

#[test]
fn computed_key() {
    insta::assert_snapshot!(when("request.headers[request.host] == 'a'"), @r#"
error: the key must be a literal string
  --> billing.yaml:12:27
   |
12 |     when: request.headers[request.host] == 'a'
   |                           ^^^^^^^^^^^^
   |
   = help: conditions know && || ! == != < <= > >= in ?: has() size() startsWith() endsWith() contains() matches() lowerAscii() exists() all() timestamp() duration() ip() cidr().containsIP()
"#);
}

#[test]
fn bad_regex() {
    insta::assert_snapshot!(when("request.path.matches('^(a')"), @r#"
error: the regular expression is not valid: unclosed group
  --> billing.yaml:12:32
   |
12 |     when: request.path.matches('^(a')
   |                                ^^^^^
   |
   = help: `startsWith`, `endsWith`, `contains` and `in` often say the same
"#);
}

#[test]
fn huge_regex() {
    insta::assert_snapshot!(when("request.path.matches('[0-9]{500}{500}')"), @r#"
error: the regular expression is too large: its automaton has more than 128 KiB
  --> billing.yaml:12:32
   |
12 |     when: request.path.matches('[0-9]{500}{500}')
   |                                ^^^^^^^^^^^^^^^^^
   |
   = help: `startsWith`, `endsWith`, `contains` and `in` often say the same
"#);
}

#[test]
fn computed_regex() {
    insta::assert_snapshot!(when("request.path.matches(request.host)"), @r#"
error: the regular expression must be a literal
  --> billing.yaml:12:32
   |
12 |     when: request.path.matches(request.host)
   |                                ^^^^^^^^^^^^
   |
   = help: it is compiled once, when the policy is loaded
"#);
}

#[test]
fn arithmetic() {
    insta::assert_snapshot!(when("request.port + 1 == 444"), @r#"
error: the only arithmetic is on `now`: `now - duration('1h')`, `now - timestamp('2026-12-01T00:00:00Z')`
  --> billing.yaml:12:11
   |
12 |     when: request.port + 1 == 444
   |           ^^^^^^^^^^^^^^^^
   |
   = help: conditions know && || ! == != < <= > >= in ?: has() size() startsWith() endsWith() contains() matches() lowerAscii() exists() all() timestamp() duration() ip() cidr().containsIP()
"#);
}

#[test]
fn fraction() {
    insta::assert_snapshot!(when("request.port < 1.5"), @r#"
error: numbers with a fraction are not part of conditions
  --> billing.yaml:12:26
   |
12 |     when: request.port < 1.5
   |                          ^^^
   |
   = help: conditions know && || ! == != < <= > >= in ?: has() size() startsWith() endsWith() contains() matches() lowerAscii() exists() all() timestamp() duration() ip() cidr().containsIP()
"#);
}

#[test]
fn null_value() {
    insta::assert_snapshot!(when("request.host == null"), @r#"
error: `null` is not part of conditions: `has()` tells whether something is there
  --> billing.yaml:12:27
   |
12 |     when: request.host == null
   |                           ^^^^
   |
   = help: conditions know && || ! == != < <= > >= in ?: has() size() startsWith() endsWith() contains() matches() lowerAscii() exists() all() timestamp() duration() ip() cidr().containsIP()
"#);
}

#[test]
fn other_macros() {
    insta::assert_snapshot!(when("\"['a'].map(x, x) == ['a']\""), @r#"
error: of the macros only `has`, `exists` and `all` are part of conditions
  --> billing.yaml:12:12
   |
12 |     when: "['a'].map(x, x) == ['a']"
   |            ^^^^^^^^^^
   |
   = help: conditions know && || ! == != < <= > >= in ?: has() size() startsWith() endsWith() contains() matches() lowerAscii() exists() all() timestamp() duration() ip() cidr().containsIP()

error: a list stands only to the right of `in`, or before `.exists()` and `.all()`
  --> billing.yaml:12:31
   |
12 |     when: "['a'].map(x, x) == ['a']"
   |                               ^^^^
   |
   = help: conditions know && || ! == != < <= > >= in ?: has() size() startsWith() endsWith() contains() matches() lowerAscii() exists() all() timestamp() duration() ip() cidr().containsIP()
"#);
}

#[test]
fn nested_loops() {
    insta::assert_snapshot!(when("\"['a'].exists(x, ['b'].all(y, x == y))\""), @r#"
error: `exists` and `all` do not nest
  --> billing.yaml:12:28
   |
12 |     when: "['a'].exists(x, ['b'].all(y, x == y))"
   |                            ^^^^^^^^^^
   |
   = help: conditions know && || ! == != < <= > >= in ?: has() size() startsWith() endsWith() contains() matches() lowerAscii() exists() all() timestamp() duration() ip() cidr().containsIP()
"#);
}

#[test]
fn loop_over_an_attribute() {
    insta::assert_snapshot!(when("request.headers.exists(x, x == 'a')"), @r#"
error: `exists` and `all` go over a literal list, as in `['a', 'b'].exists(x, ..)`
  --> billing.yaml:12:11
   |
12 |     when: request.headers.exists(x, x == 'a')
   |           ^^^^^^^^^^^^^^^
   |
   = help: conditions know && || ! == != < <= > >= in ?: has() size() startsWith() endsWith() contains() matches() lowerAscii() exists() all() timestamp() duration() ip() cidr().containsIP()
"#);
}

#[test]
fn bad_network() {
    insta::assert_snapshot!(when("cidr('10.0.0.0/33').containsIP(source.ip)"), @r#"
error: expected a network such as '10.0.0.0/8', as a literal string
  --> billing.yaml:12:16
   |
12 |     when: cidr('10.0.0.0/33').containsIP(source.ip)
   |                ^^^^^^^^^^^^^
   |
   = help: it is read once, when the policy is loaded
"#);
}

#[test]
fn bad_time() {
    insta::assert_snapshot!(when("now < timestamp('tomorrow')"), @r#"
error: expected an RFC 3339 time such as '2026-12-01T00:00:00Z', as a literal string
  --> billing.yaml:12:27
   |
12 |     when: now < timestamp('tomorrow')
   |                           ^^^^^^^^^^
   |
   = help: it is read once, when the policy is loaded
"#);
}

#[test]
fn bad_duration() {
    insta::assert_snapshot!(when("now - timestamp('2026-11-01T00:00:00Z') < duration('1 day')"), @r#"
error: expected a duration such as '1h30m', as a literal string
  --> billing.yaml:12:62
   |
12 |     when: now - timestamp('2026-11-01T00:00:00Z') < duration('1 day')
   |                                                              ^^^^^^^
   |
   = help: it is read once, when the policy is loaded
"#);
}

#[test]
fn always_true() {
    insta::assert_snapshot!(when("1 == 1"), @r#"
error: the condition is always true
  --> billing.yaml:12:11
   |
12 |     when: 1 == 1
   |           ^^^^^^
   |
   = help: conditions are for what differs from request to request: correct it or remove it
"#);
}

#[test]
fn contradiction() {
    insta::assert_snapshot!(when("request.port == 443 && request.port > 500"), @r#"
error: the condition contradicts itself: it is never true
  --> billing.yaml:12:11
   |
12 |     when: request.port == 443 && request.port > 500
   |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: conditions are for what differs from request to request: correct it or remove it
"#);
}

#[test]
fn contradiction_in_words() {
    insta::assert_snapshot!(when("request.host == 'a' && request.host in ['b', 'c']"), @r#"
error: the condition contradicts itself: it is never true
  --> billing.yaml:12:11
   |
12 |     when: request.host == 'a' && request.host in ['b', 'c']
   |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: conditions are for what differs from request to request: correct it or remove it
"#);
}

#[test]
fn too_many_steps() {
    insta::assert_snapshot!(when(&format!("\"[{}].exists(x, {})\"", (0..60).map(|at| format!("'{at}'")).collect::<Vec<_>>().join(","), (0..10).map(|at| format!("x == request.headers['h{at}']")).collect::<Vec<_>>().join(" || "))), @r#"
error: the condition takes up to 2461 steps; 1024 are the most
  --> billing.yaml:12:12
   |
12 |     when: "['0','1','2','3','4','5','6','7','8','9','10','11','12','13','14','15','16','17','18','19','20','21','22','23','24','25',...
   |            ^
   |
   = help: shorten its lists, or split the rule
"#);
}

#[test]
fn block_condition() {
    insta::assert_snapshot!(rules("  - id: r\n    effect: allow\n    methods: [GET]\n    paths: [/a]\n    grant: none\n    when: |\n      request.port == 443\n      && request.hots == 'a'\n"), @r#"
error: there is no attribute `request.hots`
  --> billing.yaml:14:10
   |
14 |       && request.hots == 'a'
   |          ^^^^^^^^^^^^
   |
   = help: did you mean `request.host`?
"#);
}

#[test]
fn folded_condition() {
    insta::assert_snapshot!(rules("  - id: r\n    effect: allow\n    methods: [GET]\n    paths: [/a]\n    grant: none\n    when: >-\n      request.port == 443\n      && request.hots == 'a'\n"), @r#"
error: there is no attribute `request.hots` (in `request.port == 443 && request.hots == 'a'`)
  --> billing.yaml:13:7
   |
13 |       request.port == 443
   |       ^^^^^^^^^^^^^^^^^^^
   |
   = help: did you mean `request.host`?
"#);
}

#[test]
fn expired() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a], grant: none, expires: 2026-11-01"), @r#"
loaded
warning[expired]: rule `billing/r` has expired: it allows nothing
 --> billing.yaml:7:11
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, expires: 2026-11-01 }
  |           ^
  |
  = help: remove it, or move `expires`
"#);
}

#[test]
fn long_lived() {
    insta::assert_snapshot!(rule("methods: [GET], paths: [/a], grant: none, expires: 2027-11-01"), @r#"
loaded
warning[long-lived]: rule `billing/r` ends in more than 180 days
 --> billing.yaml:7:11
  |
7 |   - { id: r, effect: allow, methods: [GET], paths: [/a], grant: none, expires: 2027-11-01 }
  |           ^
  |
  = help: access that is looked at twice a year is access that somebody still wants
"#);
}

#[test]
fn nobody_owns_it() {
    insta::assert_snapshot!(told(&[("a.yaml", "exeat: policy/v1\nname: a\nrules: [{ id: r, effect: deny, from: \"**\", to: stripe }]\n", Bounds::All)]), @r#"
loaded
warning[no-owner]: nobody answers for rule `a/r`
 --> a.yaml:3:15
  |
3 | rules: [{ id: r, effect: deny, from: "**", to: stripe }]
  |               ^
  |
  = help: write `owner`, here or in `defaults`
"#);
}

#[test]
fn any_to_any() {
    insta::assert_snapshot!(rule("from: [\"**\"], to: [\"*\"], methods: [GET], paths: [/a], grant: none"), @r#"
loaded
warning[any-to-any]: rule `billing/r` lets every workload reach every upstream
 --> billing.yaml:7:11
  |
7 |   - { id: r, effect: allow, from: ["**"], to: ["*"], methods: [GET], paths: [/a], grant: none }
  |           ^
  |
  = help: name workloads or upstreams
"#);
}

#[test]
fn whole_domain() {
    insta::assert_snapshot!(rule("from: [\"spiffe://prod.example/**\"], methods: [GET], paths: [/a], grant: none"), @r#"
loaded
warning[whole-domain]: rule `billing/r` is for every workload of `spiffe://prod.example/**`
 --> billing.yaml:7:11
  |
7 |   - { id: r, effect: allow, from: ["spiffe://prod.example/**"], methods: [GET], paths: [/a], grant: none }
  |           ^
  |
  = help: name namespaces or service accounts
"#);
}

#[test]
fn broad_write() {
    insta::assert_snapshot!(rule("methods: [\"*\"], paths: [\"/**\"], grant: none"), @r#"
loaded
warning[broad-write]: rule `billing/r` allows writing to every path
 --> billing.yaml:7:11
  |
7 |   - { id: r, effect: allow, methods: ["*"], paths: ["/**"], grant: none }
  |           ^
  |
  = help: name the paths that it needs
"#);
}

#[test]
fn plaintext_grant() {
    insta::assert_snapshot!(rule("to: [legacy], methods: [GET], paths: [/a], grant: jwt-ledger"), @r#"
loaded
warning[plaintext-grant]: rule `billing/r` sends a credential in plaintext to upstream `legacy`
 --> billing.yaml:7:11
  |
7 |   - { id: r, effect: allow, to: [legacy], methods: [GET], paths: [/a], grant: jwt-ledger }
  |           ^
  |
  = help: give the upstream an https origin
"#);
}

#[test]
fn not_stripped() {
    insta::assert_snapshot!(rule("to: [vendor], tunnel: true"), @r#"
loaded
warning[not-stripped]: what passes the tunnel of rule `billing/r` is neither stripped nor judged
 --> billing.yaml:7:11
  |
7 |   - { id: r, effect: allow, to: [vendor], tunnel: true }
  |           ^
  |
  = help: intercept the upstream where its clients trust exeat's CA
"#);
}

#[test]
fn blind_deny() {
    insta::assert_snapshot!(rules("  - { id: r, effect: deny, to: [vendor], paths: [/admin] }\n"), @r#"
loaded
warning[blind-deny]: rule `billing/r` cannot see into tunnels to upstream `vendor`
 --> billing.yaml:7:11
  |
7 |   - { id: r, effect: deny, to: [vendor], paths: [/admin] }
  |           ^
  |
  = help: a deny without `methods` and `paths` refuses the tunnel itself
"#);
}

#[test]
fn unreachable() {
    insta::assert_snapshot!(rules("  - { id: a, effect: allow, methods: [GET], paths: [/a/b], grant: none }\n  - { id: d, effect: deny, paths: [\"/a/**\"] }\n"), @r#"
loaded
warning[unreachable]: rule `billing/a` never allows anything: `billing/d` (billing.yaml:8:11) denies all of it
 --> billing.yaml:7:11
  |
7 |   - { id: a, effect: allow, methods: [GET], paths: [/a/b], grant: none }
  |           ^
  |
  = help: remove one of the two
"#);
}

#[test]
fn redundant() {
    insta::assert_snapshot!(rules("  - { id: a, effect: allow, methods: [GET], paths: [/a/b], grant: none }\n  - { id: b, effect: allow, methods: [GET], paths: [\"/a/**\"], grant: none }\n"), @r#"
loaded
warning[redundant]: rule `billing/a` changes nothing: `billing/b` (billing.yaml:8:11) allows all of it on the same terms
 --> billing.yaml:7:11
  |
7 |   - { id: a, effect: allow, methods: [GET], paths: [/a/b], grant: none }
  |           ^
  |
  = help: remove one of the two
"#);
}

#[test]
fn foreign_cover() {
    insta::assert_snapshot!(rules("  - { id: a, effect: allow, methods: [GET], paths: [/a/b], grant: none }\n  - { id: b, effect: allow, owner: other@example.com, methods: [GET], paths: [\"/a/**\"], grant: stripe-readonly }\n"), @r#"
loaded
warning[foreign-cover]: rule `billing/b` (billing.yaml:8:11) of other@example.com covers all that rule `billing/a` of team-billing@example.com allows
 --> billing.yaml:7:11
  |
7 |   - { id: a, effect: allow, methods: [GET], paths: [/a/b], grant: none }
  |           ^
  |
  = help: let the two owners agree on who gives this access
"#);
}

#[test]
fn unguarded() {
    insta::assert_snapshot!(when("request.headers['x-env'] == 'prod'"), @r#"
loaded
warning[unguarded]: `request.headers['x-env']` may be absent: the rule does not match then
  --> billing.yaml:12:11
   |
12 |     when: request.headers['x-env'] == 'prod'
   |           ^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: say so with `'x-env' in request.headers && ..` if that is meant
"#);
}

#[test]
fn negative_header() {
    insta::assert_snapshot!(when("\"!('x-internal' in request.headers)\""), @r#"
loaded
warning[negative-header]: the caller writes `request.headers['x-internal']`: leaving it out satisfies this condition
  --> billing.yaml:12:11
   |
12 |     when: "!('x-internal' in request.headers)"
   |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: compare it with what it must be
"#);
}

#[test]
fn unanchored() {
    insta::assert_snapshot!(when("request.path.matches('v[0-9]+')"), @r#"
loaded
warning[unanchored]: the regular expression `v[0-9]+` matches anywhere inside the text
  --> billing.yaml:12:11
   |
12 |     when: request.path.matches('v[0-9]+')
   |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: tie it to both ends, as in `^..$`
"#);
}

#[test]
fn long_shadow() {
    insta::assert_snapshot!(rule("mode: shadow, not_before: 2026-10-01, methods: [GET], paths: [/a], grant: none"), @r#"
    loaded
    warning[long-shadow]: rule `billing/r` has been a rehearsal since 2026-10-01T00:00:00Z, more than 30 days
     --> billing.yaml:7:11
      |
    7 |   - { id: r, effect: allow, mode: shadow, not_before: 2026-10-01, methods: [GET], paths: [/a], grant: none }
      |           ^
      |
      = help: look at what it would have decided, then take `mode: shadow` away, or the rule
"#);
}

#[test]
fn bare_address() {
    insta::assert_snapshot!(rule("to: [bare], methods: [GET], paths: [/a], grant: jwt-ledger"), @r#"
    loaded
    warning[bare-address]: rule `billing/r` sends a credential to a bare address, upstream `bare`
     --> billing.yaml:7:11
      |
    7 |   - { id: r, effect: allow, to: [bare], methods: [GET], paths: [/a], grant: jwt-ledger }
      |           ^
      |
      = help: give the upstream a name that its certificate proves: an address changes hands
"#);
}

#[test]
fn unused_identity_and_owner() {
    insta::assert_snapshot!(told(&[("a.yaml", "exeat: policy/v1\nname: a\ndefaults: { owner: x@example.com, reason: R }\nidentities:\n  x: { spiffe: \"spiffe://prod.example/x\" }\nrules:\n  - { id: r, effect: deny, owner: y@example.com, from: [\"**\"], to: [\"*\"] }\n", Bounds::All)]), @r#"
    loaded
    warning[unused-owner]: owner `x@example.com` answers for nothing: every rule names an owner of its own
     --> a.yaml:3:20
      |
    3 | defaults: { owner: x@example.com, reason: R }
      |                    ^^^^^^^^^^^^^
      |
      = help: take it out of `defaults`, or out of the rules that it is meant for

    warning[unused-identity]: no rule of this directory uses identity `x`
     --> a.yaml:5:3
      |
    5 |   x: { spiffe: "spiffe://prod.example/x" }
      |   ^
      |
      = help: name it in `from`, or take it away
"#);
}

#[test]
fn condition_against_selector() {
    insta::assert_snapshot!(rules("  - { id: a, effect: allow, methods: [GET], paths: [/a], grant: none, when: request.method == 'POST' }
  - { id: b, effect: allow, methods: [GET], paths: [/b], grant: none, when: \"request.path in ['/a', '/c']\" }
  - { id: c, effect: allow, methods: [GET], paths: [/c], grant: none, when: request.upstream == 'ledger' }
  - { id: d, effect: allow, methods: [GET], paths: [/d], grant: none, when: source.spiffe_id == 'spiffe://prod.example/x' }
  - { id: e, effect: allow, methods: [GET], paths: [/e], grant: none, when: \"request.path in ['/e', '/c']\" }
"), @r#"
    loaded
    warning[contradicts-selector]: the condition of rule `billing/a` wants `request.method` to be `POST`, which its `methods` does not select
     --> billing.yaml:7:77
      |
    7 |   - { id: a, effect: allow, methods: [GET], paths: [/a], grant: none, when: request.method == 'POST' }
      |                                                                             ^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: correct one of the two: the condition is never true

    warning[contradicts-selector]: the condition of rule `billing/b` wants `request.path` to be `/a` or `/c`, which its `paths` does not select
     --> billing.yaml:8:77
      |
    8 |   - { id: b, effect: allow, methods: [GET], paths: [/b], grant: none, when: "request.path in ['/a', '/c']" }
      |                                                                             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: correct one of the two: the condition is never true

    warning[contradicts-selector]: the condition of rule `billing/c` wants `request.upstream` to be `ledger`, which its `to` does not select
     --> billing.yaml:9:77
      |
    9 |   - { id: c, effect: allow, methods: [GET], paths: [/c], grant: none, when: request.upstream == 'ledger' }
      |                                                                             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: correct one of the two: the condition is never true

    warning[contradicts-selector]: the condition of rule `billing/d` wants `source.spiffe_id` to be `spiffe://prod.example/x`, which its `from` does not select
      --> billing.yaml:10:77
       |
    10 |   - { id: d, effect: allow, methods: [GET], paths: [/d], grant: none, when: source.spiffe_id == 'spiffe://prod.example/x' }
       |                                                                             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: correct one of the two: the condition is never true
"#);
}

#[test]
fn condition_that_a_tunnel_hides() {
    insta::assert_snapshot!(rules("  - { id: a, effect: allow, to: [vendor], tunnel: true, when: \"request.headers['x'] == '1'\" }\n"), @r#"
    error: rule `billing/a` is for tunnels, and nobody sees `request.headers` inside of one
     --> billing.yaml:7:63
      |
    7 |   - { id: a, effect: allow, to: [vendor], tunnel: true, when: "request.headers['x'] == '1'" }
      |                                                               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: a tunnel is judged by workload, host, port and time alone
"#);
    insta::assert_snapshot!(rules("  - { id: b, effect: deny, to: [vendor, stripe], when: \"request.headers['x'] == '1'\" }\n"), @r#"
    loaded
    warning[unguarded]: `request.headers['x']` may be absent: the request is refused then
     --> billing.yaml:7:56
      |
    7 |   - { id: b, effect: deny, to: [vendor, stripe], when: "request.headers['x'] == '1'" }
      |                                                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: say so with `'x' in request.headers && ..` if that is meant

    warning[hidden-in-tunnel]: rule `billing/b` reads `request.headers`, which a tunnel to upstream `vendor` hides: it refuses every tunnel
     --> billing.yaml:7:56
      |
    7 |   - { id: b, effect: deny, to: [vendor, stripe], when: "request.headers['x'] == '1'" }
      |                                                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: name the upstreams that are intercepted in `to`, if that is not meant
"#);
}

#[test]
fn contradiction_by_presence_and_time() {
    insta::assert_snapshot!(when("\"!('x' in request.headers) && request.headers['x'] == 'a'\""), @r#"
    error: the condition contradicts itself: it is never true
      --> billing.yaml:12:11
       |
    12 |     when: "!('x' in request.headers) && request.headers['x'] == 'a'"
       |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: conditions are for what differs from request to request: correct it or remove it
"#);
    insta::assert_snapshot!(when("now < timestamp('2026-01-01T00:00:00Z') && now > timestamp('2026-06-01T00:00:00Z')"), @r#"
    error: the condition contradicts itself: it is never true
      --> billing.yaml:12:11
       |
    12 |     when: now < timestamp('2026-01-01T00:00:00Z') && now > timestamp('2026-06-01T00:00:00Z')
       |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: conditions are for what differs from request to request: correct it or remove it
"#);
}

/// A lint without its text here could change its words unseen.
#[test]
fn every_lint_is_shown_here() {
    let shown = include_str!("mistakes.rs");
    let mut seen = 0;
    for source in [include_str!("compile/lints.rs"), include_str!("compile/contradictions.rs"), include_str!("compile/unused.rs")] {
        for call in ["warn(", "warn_when(", ".warning("] {
            for after in source.split(call).skip(1) {
                if let Some(code) = after.trim_start().strip_prefix('"').and_then(|after| after.split('"').next()) {
                    assert!(shown.contains(&format!("warning[{code}]")), "no test shows the text of lint `{code}`");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 20, "{seen}");
}
