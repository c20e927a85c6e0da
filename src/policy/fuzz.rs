//! Policy files and conditions of somebody who means harm.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::collections::HashMap;
use std::sync::Arc;

use cel::{Context, Program, Value};

use super::condition::{Env, parse_all};
use super::going::Going;
use super::testing::{Ask, ask, catalogue, compiled, line, profiles, set, with_head};
use super::{Bounds, Ground, Plan, PolicySet, Suite};
use crate::config::fuzz::told;
use crate::live::Leases;
use crate::written::{Diagnostic, Severity, Source};

/// What is asked of every set.
fn questions() -> Vec<Ask> {
    let mut all: Vec<Ask> = ["GET /", "GET /v1/charges", "POST /v1/charges?q=a", "GET /a/../v1/x", "GET /a%2Fb/", "DELETE /v1//x"]
        .map(|line| ask("stripe", line))
        .into();
    all.push(ask("ledger", "POST /v1/entries").header("x", "1").header("content-length", "3"));
    all.push(ask("vendor", "CONNECT vendor.example:443"));
    all.push(ask("stripe", "GET /v1/charges").by("spiffe://prod.example/ns/ci/sa/b"));
    all
}

fn files<'a>(whole: &'a str, others: &[&'a str]) -> Vec<(&'a str, &'a str, Bounds)> {
    let names = ["fuzz.yaml", "other.yaml", "last.yaml"];
    std::iter::once(whole).chain(others.iter().copied()).zip(names).map(|(text, name)| (name, text, Bounds::All)).collect()
}

const DENY: &str = "exeat: policy/v1\nname: zz-nothing\nrules:\n  - id: nothing\n    effect: deny\n    owner: a@example.com\n    reason: none\n    from: [\"**\"]\n    to: [\"*\"]\n";

/// A policy file, or its rules alone where it does not begin with `exeat`.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let whole = if text.starts_with("exeat") { text.to_owned() } else { with_head(text) };
    let (set, warnings) = match compiled(&files(&whole, &[])) {
        Ok(sound) => sound,
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "refused without a reason");
            return told(&whole, &mistakes);
        }
    };
    told(&whole, &warnings);
    let denies_alone = !whole.contains("allow");
    let closed = compiled(&files(&whole, &[DENY]));
    let moved = compiled(&[("other.yaml", DENY, Bounds::All), ("fuzz.yaml", &whole, Bounds::All)]);
    for asked in questions() {
        let decision = asked.decide(&set);
        assert_eq!(line(&decision), asked.line(&set), "decided differently each time");
        let explained = asked.explain(&set);
        match &decision.outcome {
            Ok(permit) => {
                assert!(!denies_alone, "allowed by nothing");
                assert_eq!(permit.rule().map(|rule| &rule.id), explained.outcome.as_ref().ok().map(|rule| &rule.id));
                // Never a credential that the upstream is not bound to.
                if let Plan::Swap(terms) = permit.plan() {
                    assert!(asked.upstream.credentials.contains(&terms.profile.name), "{}", terms.profile.name);
                }
            }
            Err(denied) => assert_eq!(Some(denied.code), explained.outcome.as_ref().err().map(|explained| explained.code), "{whole}"),
        }
        if let (Ok((closed, _)), Ok((moved, _))) = (&closed, &moved) {
            assert!(asked.decide(closed).outcome.is_err(), "a deny of everything lets something through");
            assert_eq!(asked.line(closed), asked.line(moved), "the order of files changes a decision");
        }
    }
    same_revision(&set, &whole);
}

fn same_revision(set: &PolicySet, whole: &str) {
    let again = compiled(&files(whole, &[]))
        .map(|(again, _)| again.revision().to_owned())
        .map_err(|all| all.iter().map(Diagnostic::render).collect::<Vec<_>>());
    assert_eq!(again.as_deref(), Ok(set.revision()));
}

/// A condition: bounded, and where both know what it says, what any other CEL implementation says.
pub fn condition(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let text: Arc<str> = text.into();
    let condition = match parse_all(&[Arc::clone(&text)]).pop().expect("one for each") {
        Ok(condition) => condition,
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            let length = text.chars().count().max(1);
            return assert!(problems.iter().all(|problem| problem.offset <= length), "{problems:?} of {length}");
        }
    };
    assert!(condition.weight() <= 32, "more than 1,024 steps");
    assert!(text.len() <= 2048);
    let leases = Leases::default();
    // The interpreter knows neither our regular expressions nor our times, and runs on texts of others only where ours is bounded.
    let theirs = Program::compile(&text).ok();
    for asked in questions() {
        let ours = asked.with(|request, stripped| {
            let going = Going::new(request, &leases, asked.now);
            let hold = || condition.holds(&Env::new(&going, stripped, asked.parts.uri.path()));
            let first = hold();
            assert_eq!(first, hold(), "another value each time");
            first
        });
        let Some(theirs) = theirs.as_ref().filter(|_| !asked.tunnel).and_then(|program| program.execute(&context(&asked)).ok()) else {
            continue;
        };
        if let Ok(ours) = ours {
            assert_eq!(Value::Bool(ours), theirs, "{text}");
        }
    }
}

fn map(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> HashMap<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A request as the interpreter sees it.
fn context<'v>(asked: &Ask) -> Context<'static, 'v> {
    let text = |text: &str| Value::from(text);
    let headers: HashMap<String, Value> =
        asked.parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value.to_str().unwrap()))).collect();
    let pairs = asked.parts.uri.query().into_iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split_once('='));
    let query: HashMap<String, Value> = pairs.map(|(name, value)| (name.to_owned(), text(value))).collect();
    let mut request = map([
        ("path", text(asked.parts.uri.path())),
        ("host", text(asked.destination.host.as_str())),
        ("method", text(asked.parts.method.as_str())),
        ("port", Value::Int(asked.destination.port.into())),
        ("upstream", text(&asked.upstream.name)),
        ("scheme", text(asked.destination.scheme.as_str())),
        ("headers", Value::from(headers)),
        ("query", Value::from(query)),
    ]);
    if let Some(size) = asked.parts.headers.get("content-length").and_then(|size| size.to_str().ok()?.parse().ok()) {
        request.insert("body_size".to_owned(), Value::Int(size));
    }
    let id = &asked.workload.id;
    // An address is none to the interpreter, which is asked whether there is one and no more.
    let (uid, ip) = (Value::Int(1001), text("10.1.2.3"));
    let mut source = map([("spiffe_id", text(id.as_str())), ("trust_domain", text(id.trust_domain())), ("uid", uid), ("ip", ip)]);
    source.extend(id.namespace().map(|name| ("namespace".to_owned(), text(name))));
    source.extend(id.service_account().map(|name| ("service_account".to_owned(), text(name))));
    let lease = map([("active", Value::Bool(false)), ("attrs", Value::from(HashMap::<String, Value>::new()))]);
    let mut context = Context::default();
    for (name, value) in [("request", request), ("source", source), ("lease", lease)] {
        context.add_variable_from_value(name, Value::from(value));
    }
    context
}

const RULES: &str =
    "  - { id: create, effect: allow, methods: [POST], paths: [/v1/charges], when: \"'k' in request.headers\", grant: stripe-restricted }
  - { id: read, effect: allow, methods: [GET], paths: [\"/v1/charges/**\"], grant: stripe-readonly }
  - { id: keys, effect: deny, from: [\"**\"], to: [\"*\"], paths: [\"/v1/api_keys/**\"] }
  - { id: push, effect: allow, methods: [POST], paths: [/push], grant: none, lease: { kind: release, max_ttl: 20m, max_uses: 2 } }
  - { id: night, effect: allow, methods: [PATCH], paths: [\"/**\"], grant: none, windows: [{ from: \"22:00\", to: \"06:00\", tz: UTC }] }
  - { id: tried, effect: allow, mode: shadow, methods: [DELETE], paths: [/v1/charges/*], grant: none }
  - { id: unseen, effect: allow, to: [vendor], tunnel: true }
";
const TEST_HEAD: &str = "exeat: policytest/v1\nat: 2026-11-23T12:00:00Z\nrequests:\n  charge: { from: \"spiffe://prod.example/ns/billing/sa/billing-app\", to: stripe, method: POST, path: /v1/charges, headers: { k: a } }\n";

/// A policy test file, or its rows alone where it does not begin with `exeat`: read and run alike each time, every mistake in its place,
/// and no row holds together with its contrary.
pub fn policy_test(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let whole = if text.starts_with("exeat") { text.to_owned() } else { format!("{TEST_HEAD}{text}") };
    let (rules, catalogue, profiles) = (set(RULES), catalogue(), profiles().into_values().collect::<Vec<_>>());
    let ground = Ground { set: &rules, catalogue: &catalogue, profiles: &profiles };
    let run = |text: &str| {
        let source = Source::new("fuzz.test.yaml", text);
        Suite::read(&source, &ground).map(|suite| suite.run(&ground, "prod.example"))
    };
    let shown = |all: &[Diagnostic]| all.iter().map(Diagnostic::render).collect::<Vec<_>>();
    match (run(&whole), run(&whole)) {
        (Ok(first), Ok(second)) => {
            told(&whole, &first.diagnostics(Severity::Error));
            assert_eq!(
                shown(&first.diagnostics(Severity::Error)),
                shown(&second.diagnostics(Severity::Error)),
                "run differently each time"
            );
            let known: Vec<&str> = rules.rules.iter().map(|rule| &*rule.name.id).collect();
            for result in &first.results {
                assert!(result.reached.iter().all(|rule| known.contains(&&**rule)), "{:?}", result.reached);
            }
            contrary(&whole, first.results.len() - first.failed(), run);
        }
        (Err(first), Err(second)) => {
            assert!(!first.is_empty(), "refused without a reason");
            told(&whole, &first);
            assert_eq!(shown(&first), shown(&second), "read differently each time");
        }
        _ => panic!("read differently each time: {whole}"),
    }
}

/// The same rows with what they expect turned round. Only where nothing else than rows is changed by that.
fn contrary(whole: &str, held: usize, run: impl Fn(&str) -> Result<super::Outcome, Vec<Diagnostic>>) {
    let plain = !["would_be", "invariants", "code:", "rule:", "grant:"].iter().any(|word| whole.contains(word));
    let turned =
        whole.replace("expect: allow", "expect: \0").replace("expect: deny", "expect: allow").replace("expect: \0", "expect: deny");
    let words = whole.matches("expect: allow").count() + whole.matches("expect: deny").count();
    if let Ok(outcome) = run(&turned)
        && plain
        && words == outcome.results.len()
    {
        assert_eq!(outcome.failed(), held, "a row holds together with its contrary: {whole}");
    }
}
