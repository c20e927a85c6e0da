//! The index against the plain scan of all rules, on generated sets and requests: every decision must be the same, in both registers.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use proptest::prelude::*;

use super::rule::Rule;
use super::testing::{Ask, BILLING, ask, compiled, lease, set, with_head};
use super::{Bounds, Denied, Effect, PolicySet, RuleRef};
use crate::catalogue::Stage;
use crate::live::{Live, Whose};

/// How many sets are generated; each meets twenty requests. `EXEAT_DIFFERENTIAL_SETS=50000` makes a million pairs of them:
/// `EXEAT_DIFFERENTIAL_SETS=50000 cargo test --release --lib policy::differential::the_index`.
fn sets() -> u32 {
    scaled("EXEAT_DIFFERENTIAL_SETS", 200)
}

/// A number of cases that the environment may raise.
pub(super) fn scaled(variable: &str, usual: u32) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "a test that is scaled from outside")]
    let text = std::env::var(variable).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn pick(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(words)
}

const IDS: &[&str] = &[
    "spiffe://prod.example/ns/billing/sa/billing-app",
    "spiffe://prod.example/ns/billing/sa/b",
    "spiffe://prod.example/ns/ci/sa/b",
    "spiffe://prod.example/ns/billing",
    "spiffe://other.example/ns/billing/sa/b",
];
const FROM: &[&str] = &[
    "\"**\"",
    "billing",
    "\"spiffe://prod.example/**\"",
    "\"spiffe://prod.example/ns/billing/**\"",
    "\"spiffe://prod.example/ns/*/sa/b\"",
    "\"spiffe://prod.example/ns/billing/sa/*\"",
    "\"spiffe://prod.example/ns/ci/sa/b\"",
];
const PATHS: &[&str] = &["/", "/**", "/a", "/a/", "/a/**", "/a/*", "/*/b", "/*/*", "/a/b", "/a/b/**", "/*/**", "/b/*/a", "/b%2Fa"];
const REQUESTS: &[&str] =
    &["/", "/a", "/a/", "/a/b", "/a/c", "/c/b", "/b/x/a", "/b//a", "/a/%62", "/a/../b", "/b%2Fa", "/a;x/b", "/b/%2e%2e/a/b", "/a/b/c/d"];

fn rule() -> impl Strategy<Value = String> {
    let selector = (
        proptest::sample::subsequence(FROM, 1..=2),
        pick(&["[stripe]", "[ledger]", "[stripe, trial]", "[\"*\"]"]),
        pick(&["[GET]", "[GET, POST]", "[\"*\"]", "[PURGE]"]),
        proptest::sample::subsequence(PATHS, 1..=3),
    );
    let rest = (
        pick(&["allow", "allow", "allow", "deny", "require"]),
        pick(&["", "", ", mode: shadow"]),
        pick(&[
            "",
            "",
            "",
            "request.port == 443",
            "request.headers['x'] == '1'",
            "'y' in request.headers",
            "request.path.startsWith('/a')",
        ]),
        pick(&["", "", ", not_before: 2026-11-24", ", not_before: 2026-11-20"]),
        pick(&["", ", windows: [{ days: mon-fri, from: \"06:00\", to: \"18:00\", tz: UTC }]"]),
    );
    (selector, rest).prop_map(|((from, to, methods, paths), (effect, mode, when, begins, windows))| {
        let mut text = format!("effect: {effect}{mode}{begins}, from: [{}], to: {to}", from.join(", "));
        if effect != "deny" || paths.len() != 3 {
            let paths: Vec<_> = paths.iter().map(|path| format!("\"{path}\"")).collect();
            write!(text, ", methods: {methods}, paths: [{}]", paths.join(", ")).unwrap();
        }
        match (effect, when) {
            ("require", "") => text.push_str(", when: \"request.port == 443\""),
            (_, "") => {}
            (_, when) => write!(text, ", when: \"{when}\"").unwrap(),
        }
        match effect {
            // One grant for all: ambiguity is another test's matter.
            "allow" => write!(text, ", grant: none{windows}").unwrap(),
            "deny" if mode.is_empty() && paths.len() == 2 => text.push_str(", floor: true"),
            _ => {}
        }
        text
    })
}

fn request() -> impl Strategy<Value = Ask> {
    let head = (pick(&["stripe", "ledger", "trial"]), pick(&["GET", "POST", "PURGE", "PUT"]), pick(REQUESTS), pick(IDS));
    let rest = (
        pick(&["", "1", "2", "11"]),
        any::<bool>(),
        pick(&["2026-11-23T12:00:00Z", "2026-11-22T12:00:00Z", "2026-11-24T20:00:00Z"]),
        any::<bool>(),
    );
    (head, rest).prop_map(|((upstream, method, path, id), (x, y, time, observed))| {
        let mut asked = ask(upstream, &format!("{method} {path}")).by(id).at(time);
        for value in x.split("").filter(|value| !value.is_empty()) {
            asked = asked.header("x", value);
        }
        if y {
            asked = asked.header("y", "1");
        }
        if !observed {
            Arc::make_mut(&mut asked.upstream).stage = Stage::Enforce;
        }
        asked
    })
}

fn short(outcome: &Result<RuleRef, Denied>) -> (String, Option<String>) {
    match outcome {
        Ok(rule) => ("allow".to_owned(), Some(rule.id.to_string())),
        Err(denied) => (denied.code.name().to_owned(), denied.rule.as_ref().map(|rule| rule.id.to_string())),
    }
}

fn agree(set: &PolicySet, asked: &Ask) {
    agree_with(set, asked, &Live::default());
}

fn agree_with(set: &PolicySet, asked: &Ask, live: &Live) {
    // The scan looks, the decision charges.
    let scanned = asked.explain_with(set, live);
    let decision = asked.decide_with(set, live);
    let context = || format!("{} {} by {} at {}\n{scanned}", asked.parts.method, asked.parts.uri, asked.workload.id, asked.upstream.name);
    if scanned.observed.is_some() {
        let floor = decision.outcome.as_ref().err().and_then(|denied| denied.rule.as_ref()).map(|rule| &rule.id);
        assert_eq!(floor, scanned.floor.as_ref().map(|rule| &rule.id), "{}", context());
        assert_eq!(short(&decision.would_be.unwrap().outcome), short(&scanned.would_be), "{}", context());
        return;
    }
    let outcome = decision.outcome.map(|permit| permit.rule().unwrap().clone());
    assert_eq!(short(&outcome), short(&scanned.outcome), "{}", context());
    if let Some(would_be) = decision.would_be {
        assert_eq!(short(&would_be.outcome), short(&scanned.would_be), "{}", context());
    } else {
        assert_eq!(short(&scanned.outcome), short(&scanned.would_be), "{}", context());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: sets(), max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_decides_as_a_plain_scan_does(rules in proptest::collection::vec(rule(), 1..12), requests in proptest::collection::vec(request(), 20)) {
        let rules = rules.iter().enumerate().map(|(at, rule)| format!("  - {{ id: r{at}, {rule} }}\n")).collect::<Vec<_>>().concat();
        let set = set(&rules);
        for asked in &requests {
            agree(&set, asked);
        }
    }

    #[test]
    fn turning_the_rules_round_changes_no_decision(rules in proptest::collection::vec(rule(), 1..12), requests in proptest::collection::vec(request(), 10)) {
        let lines: Vec<String> = rules.iter().enumerate().map(|(at, rule)| format!("  - {{ id: r{at}, {rule} }}\n")).collect();
        let turned: String = lines.iter().rev().cloned().collect();
        let (one, other) = (set(&lines.concat()), set(&turned));
        for asked in &requests {
            prop_assert_eq!(asked.line(&one), asked.line(&other));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: sets().div_ceil(5), max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two teams, two directories: the order of files, of rules and of directories changes no decision.
    #[test]
    fn the_order_of_files_and_rules_changes_no_decision(
        (rules, turns) in proptest::collection::vec(rule(), 2..12).prop_flat_map(|rules| {
            let places: Vec<usize> = (0..rules.len()).collect();
            (Just(rules), proptest::collection::vec(Just(places).prop_shuffle(), 3))
        }),
        requests in proptest::collection::vec(request(), 10),
    ) {
        let lines: Vec<String> = rules.iter().enumerate().map(|(at, rule)| format!("  - {{ id: r{at}, {rule} }}\n")).collect();
        // which team a rule belongs to is part of it; where it stands is not
        let team = |of: usize, order: &[usize]| -> String { order.iter().filter(|at| **at % 3 == of).map(|at| lines[*at].as_str()).collect() };
        let file = |of: usize, order: &[usize]| {
            let (name, rules) = (["billing", "shop", "ops"][of], team(of, order));
            let text = with_head(&rules).replacen("name: billing", &format!("name: {name}"), 1);
            if rules.is_empty() { text.replacen("rules:", "rules: []", 1) } else { text }
        };
        let names = ["teams/a.yaml", "teams/b.yaml", "floor/a.yaml"];
        let usual: Vec<usize> = (0..lines.len()).collect();
        let set_of = |order: &[usize], files: &[usize]| {
            let texts: Vec<String> = files.iter().map(|of| file(*of, order)).collect();
            let files: Vec<(&str, &str, Bounds)> = files.iter().zip(&texts).map(|(of, text)| (names[*of], text.as_str(), Bounds::All)).collect();
            compiled(&files).unwrap_or_else(|errors| panic!("{errors:?}")).0
        };
        let first = set_of(&usual, &[0, 1, 2]);
        for (turn, files) in turns.iter().zip([[2, 1, 0], [1, 2, 0], [0, 2, 1]]) {
            let other = set_of(turn, &files);
            for asked in &requests {
                prop_assert_eq!(asked.line(&first), asked.line(&other));
            }
        }
    }
}

/// Steps 7 and 8, written down plainly: what the leases of one workload and the counters of one day hold.
#[derive(Default)]
struct Plainly {
    /// Uses left, by kind; `None` where they are not counted.
    leases: HashMap<&'static str, Option<u32>>,
    of_rule: HashMap<Arc<str>, u32>,
    counted: HashMap<(Arc<str>, Option<String>), u32>,
}

impl Plainly {
    fn settle(&mut self, rule: &Rule, who: &str) -> &'static str {
        if let Some(terms) = &rule.lease {
            let Some(left) = self.leases.get(&*terms.kind).filter(|_| who == BILLING) else { return "lease_missing" };
            let used = self.of_rule.get(&rule.name.id).copied().unwrap_or_default();
            if *left == Some(0) || terms.max_uses.is_some_and(|most| used >= most) {
                return "lease_spent";
            }
        }
        if let Some(terms) = &rule.limits {
            let whose = (terms.whose == Whose::Workload).then(|| who.to_owned());
            let counted = self.counted.entry((Arc::clone(&rule.name.id), whose)).or_default();
            let most = [terms.rate.map(|rate| rate.burst), terms.quota.map(|quota| quota.count)].into_iter().flatten().min().unwrap();
            if *counted >= most {
                return "limited";
            }
            *counted += 1;
        }
        if let Some(terms) = &rule.lease {
            if let Some(Some(left)) = self.leases.get_mut(&*terms.kind) {
                *left -= 1;
            }
            if terms.max_uses.is_some() {
                *self.of_rule.entry(Arc::clone(&rule.name.id)).or_default() += 1;
            }
        }
        "allow"
    }
}

/// What an allow rule may want beside its grant.
const TERMS: &[&str] = &[
    "",
    ", lease: { kind: a, max_ttl: 20m }",
    ", lease: { kind: b, max_ttl: 1h, max_uses: 2 }",
    ", lease: { kind: none, max_ttl: 1h }",
    ", limits: { quota: 2/day }",
    ", limits: { rate: 1/hour, burst: 3, per: rule }",
    ", lease: { kind: a, max_ttl: 20m }, limits: { quota: 4/day, rate: 1/hour, burst: 2 }",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: sets(), max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn leases_and_limits_are_settled_as_plainly_said(
        rules in proptest::collection::vec((rule(), pick(TERMS)), 1..8),
        requests in proptest::collection::vec(request(), 40),
    ) {
        let line = |(at, (rule, terms)): (usize, &(String, &str))| {
            let terms = if rule.contains("effect: allow") { *terms } else { "" };
            format!("  - {{ id: r{at}, {rule}{terms} }}\n")
        };
        let text = with_head(&rules.iter().enumerate().map(line).collect::<Vec<_>>().concat());
        // Two rules that tie and differ are no set.
        let Ok((set, _)) = compiled(&[("billing.yaml", &text, Bounds::All)]) else { return Ok(()) };
        let live = Live::default();
        lease(&live, "a", Some(3));
        lease(&live, "b", None);
        let mut plainly = Plainly { leases: HashMap::from([("a", Some(3)), ("b", None)]), ..Plainly::default() };
        for asked in requests.iter().map(|asked| asked.clone().at(super::testing::NOW)) {
            let first = asked.explain(&set);
            if first.observed.is_some() {
                agree_with(&set, &asked, &live);
                continue;
            }
            // Without any lease and count, steps 1 to 6 alone choose the rule.
            let (said, id) = short(&first.outcome);
            let rule = id.and_then(|id| set.rules.iter().find(|rule| *rule.name.id == *id)).filter(|rule| rule.effect == Effect::Allow);
            let expected = rule.map_or(said, |rule| plainly.settle(rule, asked.workload.id.as_str()).to_owned());
            let scanned = asked.explain_with(&set, &live);
            let decision = asked.decide_with(&set, &live);
            let outcome = decision.outcome.map(|permit| permit.rule().unwrap().clone());
            prop_assert_eq!(&short(&outcome).0, &expected, "{}", scanned);
            prop_assert_eq!(short(&scanned.outcome), short(&outcome), "{}", scanned);
        }
    }
}

/// How quickly: see `load-tests/policy.rs`.
#[test]
fn hostile_files_are_refused() {
    for (what, text) in super::hostile::files("stripe") {
        assert!(compiled(&[("a.yaml", &text, Bounds::All)]).is_err(), "{what} was loaded");
    }
}
