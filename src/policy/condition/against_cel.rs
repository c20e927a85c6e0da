//! The evaluator against the interpreter of the `cel` crate, on generated conditions and requests: the same value, or an error in both.
//! The interpreter knows neither our regular expressions nor our times; those have tables of their own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cel::{Context, Program, Value};
use proptest::prelude::*;

use super::{Env, Failed, parse_all};
use crate::live::{Lease, LeaseBook, Leases, Opening};
use crate::policy::going::Going;
use crate::policy::testing::{Ask, BILLING, ask, now};

/// How many conditions are generated: `EXEAT_CEL_CASES=1000000 cargo test --release --lib against_cel::both` raises it.
fn cases() -> u32 {
    crate::policy::differential::scaled("EXEAT_CEL_CASES", 2000)
}

fn pick(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::sample::select(words).prop_map(str::to_owned)
}

fn text(item: bool) -> impl Strategy<Value = String> {
    let words: &'static [&'static str] = if item {
        &["v", "'a'", "request.path", "request.headers['x']"]
    } else {
        &[
            "'a'",
            "'b'",
            "''",
            "'/a'",
            "request.path",
            "request.host",
            "request.method",
            "request.headers['x']",
            "request.headers['y']",
            "request.headers.x",
            "request.query['q']",
            "request.query['r']",
            "source.namespace",
            "lease.task_kind",
            "lease.attrs['tag']",
            "lease.attrs.none",
            "'\u{e9}'",
        ]
    };
    pick(words).prop_recursive(1, 4, 3, move |inner| {
        (pick(&["request.port == 443", "'x' in request.headers", "request.query['q'] == 'a'"]), inner.clone(), inner)
            .prop_map(|(test, yes, no)| format!("({test} ? {yes} : {no})"))
    })
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        pick(&["0", "3", "443", "-1", "request.port", "request.body_size", "lease.uses_left"]),
        text(false).prop_map(|text| format!("size({text})"))
    ]
}

fn leaf(item: bool) -> impl Strategy<Value = String> {
    let order = || pick(&["==", "!=", "<", "<=", ">", ">="]);
    prop_oneof![
        (text(item), order(), text(item)).prop_map(|(left, order, right)| format!("{left} {order} {right}")),
        (number(), order(), number()).prop_map(|(left, order, right)| format!("{left} {order} {right}")),
        (text(item), pick(&["startsWith", "endsWith", "contains"]), text(item))
            .prop_map(|(whole, name, part)| format!("{whole}.{name}({part})")),
        (text(item), pick(&["['a', 'b', '/a']", "['']"])).prop_map(|(text, list)| format!("{text} in {list}")),
        (number(), pick(&["[1, 443, 3]", "[0]"])).prop_map(|(number, list)| format!("{number} in {list}")),
        pick(&[
            "'x' in request.headers",
            "'q' in request.query",
            "has(request.headers.y)",
            "has(source.namespace)",
            "has(request.body_size)",
            "lease.active",
            "has(lease.active)",
            "has(lease.task_kind)",
            "has(lease.uses_left)",
            "'tag' in lease.attrs",
            "has(lease.attrs.none)",
            "true",
            "false"
        ]),
    ]
}

fn condition() -> impl Strategy<Value = String> {
    let quantified = (pick(&["exists", "all"]), pick(&["['a', 'b']", "['/a', 'a', '1']"]), leaf(true))
        .prop_map(|(name, list, body)| format!("{list}.{name}(v, {body})"));
    prop_oneof![4 => leaf(false), 1 => quantified].prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} && {right})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} || {right})")),
            inner.clone().prop_map(|inner| format!("!({inner})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("(({left}) == ({right}))")),
            (inner.clone(), inner.clone(), inner).prop_map(|(test, yes, no)| format!("({test} ? {yes} : {no})")),
        ]
    })
}

fn request() -> impl Strategy<Value = Ask> {
    let target = pick(&["GET /a", "POST /a/b?q=a", "GET /?q=b%2Fc&r=1", "PUT /x?q=+a&q=b", "GET /?q"]);
    (target, pick(&["", "a", "b", "/a"]), any::<bool>(), pick(&["", "3", "443", "x"]), any::<bool>()).prop_map(
        |(line, x, y, size, namespace)| {
            let mut asked = ask("stripe", &line);
            if !x.is_empty() {
                asked = asked.header("x", &x);
            }
            if y {
                asked = asked.header("y", "1").header("y", "2");
            }
            if !size.is_empty() {
                asked = asked.header("content-length", &size);
            }
            if namespace { asked } else { asked.by("spiffe://prod.example/a") }
        },
    )
}

/// A lease of kind `a` with an attribute, with so many uses.
fn lease() -> impl Strategy<Value = Option<Arc<Lease>>> {
    let uses = proptest::sample::select(&[None, Some(1), Some(3), Some(443)][..]);
    proptest::option::of((uses, pick(&["a", "/a", ""]))).prop_map(|lease| {
        lease.map(|(uses, tag)| {
            let opening = Opening {
                workload: BILLING.to_owned(),
                kind: "a".to_owned(),
                ttl: Duration::from_mins(20),
                uses,
                attributes: BTreeMap::from([("tag".to_owned(), tag)]),
                ..Opening::default()
            };
            LeaseBook::default().open_lease(opening, &[], "uid 0", now()).unwrap()
        })
    })
}

/// The request as the interpreter sees it. A repeated header or key is there and has no value, which a map cannot say: the conditions
/// that read one are left out.
fn context<'v>(asked: &Ask, lease: Option<&Lease>) -> Context<'static, 'v> {
    let text = |text: &str| Value::from(text);
    let mut headers: HashMap<String, Value> = HashMap::new();
    for name in asked.parts.headers.keys() {
        headers.insert(name.as_str().to_owned(), text(asked.parts.headers[name].to_str().unwrap()));
    }
    let mut query: HashMap<String, Value> = HashMap::new();
    for pair in asked.parts.uri.query().into_iter().flat_map(|query| query.split('&')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = String::from_utf8(super::query::decoded(value).collect()).unwrap();
        query.insert(key.to_owned(), text(&decoded));
    }
    let mut request: HashMap<String, Value> = HashMap::from([
        ("path".to_owned(), text(asked.parts.uri.path())),
        ("host".to_owned(), text(asked.destination.host.as_str())),
        ("method".to_owned(), text(asked.parts.method.as_str())),
        ("port".to_owned(), Value::Int(443)),
        ("headers".to_owned(), Value::from(headers)),
        ("query".to_owned(), Value::from(query)),
    ]);
    if let Some(size) = asked.parts.headers.get("content-length").and_then(|size| size.to_str().ok()?.parse().ok()) {
        request.insert("body_size".to_owned(), Value::Int(size));
    }
    let mut source: HashMap<String, Value> = HashMap::new();
    if let Some(namespace) = asked.workload.id.namespace() {
        source.insert("namespace".to_owned(), text(namespace));
    }
    let mut gone: HashMap<String, Value> = HashMap::from([("active".to_owned(), Value::Bool(lease.is_some()))]);
    let attributes = lease.into_iter().flat_map(|lease| lease.attributes.iter().map(|(name, value)| (name.clone(), text(value))));
    gone.insert("attrs".to_owned(), Value::from(attributes.collect::<HashMap<String, Value>>()));
    if let Some(lease) = lease {
        gone.insert("task_kind".to_owned(), text(&lease.kind));
        if let Some(left) = lease.uses_left() {
            gone.insert("uses_left".to_owned(), Value::Int(left.into()));
        }
    }
    let mut context = Context::default();
    context.add_variable_from_value("lease", Value::from(gone));
    context.add_variable_from_value("request", Value::from(request));
    context.add_variable_from_value("source", Value::from(source));
    context
}

fn ours(condition: &str, asked: &Ask) -> Result<bool, Failed> {
    ours_under(condition, asked, None)
}

fn ours_under(condition: &str, asked: &Ask, lease: Option<&Lease>) -> Result<bool, Failed> {
    let mut parsed = parse_all(&[Arc::from(condition)]);
    let condition = parsed.pop().unwrap().unwrap_or_else(|problems| panic!("{condition}: {problems:?}"));
    let leases = Leases::default();
    asked.with(|request, stripped| {
        let going = Going::new(request, &leases, asked.now);
        condition.holds(&Env::new(&going, stripped, asked.parts.uri.path()).seeing(lease))
    })
}

fn reads_what_a_map_cannot_say(condition: &str, asked: &Ask) -> bool {
    let repeated_query =
        asked.parts.uri.query().is_some_and(|query| query.matches("q=").count() > 1) && condition.contains("request.query");
    let repeated_header = asked.parts.headers.get_all("y").iter().count() > 1 && condition.contains("request.headers['y']");
    let odd_size =
        asked.parts.headers.get("content-length").is_some_and(|size| size == "x") && condition.contains("has(request.body_size)");
    repeated_query || repeated_header || odd_size
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_global_rejects: cases().saturating_add(1024), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_say_the_same(condition in condition(), asked in request(), lease in lease()) {
        let lease = lease.as_deref();
        prop_assume!(!reads_what_a_map_cannot_say(&condition, &asked));
        let theirs = match Program::compile(&condition).unwrap().execute(&context(&asked, lease)) {
            Ok(Value::Bool(value)) => Some(value),
            Ok(other) => panic!("{condition}: {other:?}"),
            Err(_) => None,
        };
        prop_assert_eq!(ours_under(&condition, &asked, lease).ok(), theirs, "{}", condition);
    }
}

#[test]
fn what_the_interpreter_does_not_know() {
    let asked = ask("stripe", "GET /v1/x?k=A%42&t=1%2000;n=2")
        .header("x", "v1.20")
        .header("twice", "1")
        .header("twice", "1")
        .header("content-type", "Application/JSON; charset=utf-8");
    for (condition, expected) in [
        ("request.headers['x'].matches('^v[0-9]+[.][0-9]+$')", Ok(true)),
        ("request.path.matches('/v\\\\d/')", Ok(true)),
        ("request.headers['none'].matches('x')", Err(Failed::Absent)),
        ("request.headers['twice'] == '1'", Err(Failed::Repeated)),
        ("'twice' in request.headers", Ok(true)),
        ("request.headers['twice'] == '1' && request.port == 1", Ok(false)),
        ("request.headers['twice'] == '1' || request.port == 443", Ok(true)),
        ("request.query['k'] == 'AB'", Ok(true)),
        ("request.query['k'].lowerAscii() == 'ab'", Ok(true)),
        ("request.query['n'] == '2'", Err(Failed::Repeated)),
        ("'n' in request.query", Err(Failed::Repeated)),
        ("request.content_type == 'application/json'", Ok(true)),
        ("request.content_type.startsWith('application/')", Ok(true)),
        ("source.trust_domain == 'prod.example'", Ok(true)),
        ("source.service_account == 'billing-app'", Ok(true)),
        ("source.uid == 1001", Ok(true)),
        ("request.upstream == 'stripe' && request.scheme == 'https'", Ok(true)),
        ("cidr('10.0.0.0/8').containsIP(source.ip)", Ok(true)),
        ("cidr('192.168.0.0/16').containsIP(source.ip)", Ok(false)),
        ("source.ip == ip('10.1.2.3')", Ok(true)),
        ("now > timestamp('2026-11-23T11:59:59Z')", Ok(true)),
        ("now - duration('1h') < timestamp('2026-11-23T11:00:00Z')", Ok(false)),
        ("now - timestamp('2026-11-23T00:00:00Z') == duration('12h')", Ok(true)),
        ("timestamp('2026-11-24T00:00:00Z') - now > duration('13h')", Ok(false)),
        ("request.body_size < 10", Err(Failed::Absent)),
        ("size(request.path) == 5", Ok(true)),
        ("request.path.size() == 5", Ok(true)),
    ] {
        assert_eq!(ours(condition, &asked), expected, "{condition}");
    }
}

#[test]
fn a_value_that_is_too_long_to_decode_is_an_error() {
    let long = format!("GET /?k={}", "%41".repeat(1025));
    assert_eq!(ours("request.query['k'] == 'x'", &ask("stripe", &long)), Err(Failed::TooLong));
    let plain = format!("GET /?k={}", "A".repeat(4000));
    assert_eq!(ours("size(request.query['k']) == 4000", &ask("stripe", &plain)), Ok(true));
}

#[test]
fn a_tunnel_hides_what_is_inside() {
    let asked = ask("vendor", "CONNECT vendor.example:443").header("x", "1");
    for condition in
        ["request.path == '/'", "request.headers['x'] == '1'", "'x' in request.headers", "'k' in request.query", "request.body_size < 1"]
    {
        assert_eq!(ours(condition, &asked), Err(Failed::Hidden), "{condition}");
    }
    assert_eq!(ours("request.host == 'vendor.example' && request.method == 'CONNECT'", &asked), Ok(true));
}
