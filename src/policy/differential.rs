//! The index against the plain scan of all rules, on generated sets and requests: every decision must be the same, in both registers.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::testing::{Ask, ask, compiled, set, with_head};
use super::{Bounds, Denied, PolicySet, RuleRef};
use crate::catalogue::Stage;

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
            std::sync::Arc::make_mut(&mut asked.upstream).stage = Stage::Enforce;
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
    let (decision, scanned) = (asked.decide(set), asked.explain(set));
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

#[test]
fn hostile_files_are_refused_quickly() {
    let many = |count: usize, text: &str| text.repeat(count);
    let head = "exeat: policy/v1\nname: a\nrules:\n";
    let condition = |text: &str| with_head(&format!("  - id: r\n    effect: deny\n    when: \"{text}\"\n"));
    let files = [
        format!("{head}  - {}", many(100_000, "[")),
        format!("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n{head}"),
        format!("{head}# {}\n", many(9 * 1024 * 1024, "x")),
        condition(&many(1000, "(")),
        condition(&format!("{}true{}", many(60, "("), many(60, ")"))),
        condition(&format!("request{} == 'a'", many(1000, ".a"))),
        condition(&format!("{}true", many(2000, "!"))),
        condition(&format!("true{}", many(300, " == true"))),
        condition(&many(100, "request.port == 1 ? true : ")),
        condition("request.path.matches('(([ab]{1,30}){1,30}){1,30}')"),
        condition("request.path.matches('[ab]*a[ab]{25}')"),
        condition(&many(300_000, "true && ")),
    ];
    for (at, text) in files.iter().enumerate() {
        let began = crate::clock::Clock::instant(&crate::clock::SystemClock);
        assert!(compiled(&[("a.yaml", text, Bounds::All)]).is_err(), "file {at} was loaded");
        let took = began.elapsed();
        assert!(took.as_secs() < 10, "file {at} took {took:?} in a debug build");
    }
}
