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
use super::testing::{Ask, ask, compiled, line, with_head};
use super::{Bounds, Plan, PolicySet};
use crate::config::fuzz::told;
use crate::live::Leases;
use crate::written::Diagnostic;

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
