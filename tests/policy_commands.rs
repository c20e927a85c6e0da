//! `exeat policy ..` as build servers call it: exit codes and the forms for programs.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs, reason = "a test reads files and fails loudly")]

use std::fs;
use std::process::Command;

const CONFIG: &str = r#"exeat: config/v1
state: ephemeral
trust_domain: prod.example
listeners: { egress: { address: 127.0.0.1:15001, capture: forward, identity: [pod] } }
identities: { pod: { fixed: { id: "spiffe://prod.example/ns/shop/sa/checkout" } } }
upstreams: { orders: { owner: team-orders@example.com, origins: ["https://orders.example"] } }
policies: [{ directory: policies, bounds: all }]
"#;

const RULES: &str = "exeat: policy/v1
name: shop
defaults: { owner: team@example.com, reason: SHOP-7, expires: 2027-03-01, from: [shop], to: [orders] }
identities: { shop: { spiffe: \"spiffe://prod.example/ns/shop/sa/checkout\" } }
rules:
  - { id: read, effect: allow, methods: [GET], paths: [\"/orders/**\"], grant: none }
  - { id: unseen, effect: allow, methods: [PUT], paths: [/x], grant: none }
";

const TESTS: &str = "exeat: policytest/v1
at: 2026-11-23T10:00:00Z
requests:
  read: { from: \"spiffe://prod.example/ns/shop/sa/checkout\", to: orders, method: GET, path: /orders/1 }
table:
  - { name: reading, use: read, expect: allow, rule: shop/read }
  - { name: 'writing <&\">', use: read, set: { method: POST }, expect: allow }
";

struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().expect("a directory"));
        desk.write("exeat.yaml", CONFIG).write("policies/shop.yaml", RULES).write("policies/shop.test.yaml", TESTS);
        desk
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, text).expect("written");
        self
    }

    /// Exit code, stdout, stderr.
    fn exeat(&self, line: &str) -> (i32, String, String) {
        let output =
            Command::new(env!("CARGO_BIN_EXE_exeat")).args(line.split(' ')).current_dir(self.0.path()).output().expect("exeat runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("it ended by itself"), text(output.stdout), text(output.stderr))
    }

    fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.exeat(line).1).expect("JSON")
    }
}

#[test]
fn a_failing_test_is_told_in_every_form() {
    let desk = Desk::new();
    let (code, text, _) = desk.exeat("policy test -c exeat.yaml --coverage");
    assert_eq!(code, 1);
    insta::assert_snapshot!(text, @r#"
    policies/shop.test.yaml
      ok    reading
      FAIL  writing <&"> (line 7)
            expected allow
            got      deny (no_rule)
            nearest is allow shop/read at policies/shop.yaml:6:11: method: it is for GET
    1 rules decide no row
      shop/unseen at policies/shop.yaml:7:11
    2 tests, 1 failed
"#);
    let json = desk.json("policy test -c exeat.yaml --format json --coverage");
    assert_eq!((json["tests"].as_u64(), json["failed"].as_u64()), (Some(2), Some(1)));
    assert_eq!(json["uncovered"][0]["rule"], "shop/unseen");
    assert_eq!((json["results"][1]["line"].as_u64(), json["results"][1]["ok"].as_bool()), (Some(7), Some(false)));
    let (code, junit, _) = desk.exeat("policy test -c exeat.yaml --format junit");
    assert_eq!(code, 1);
    insta::assert_snapshot!(junit, @r#"
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites name="exeat policy test" tests="2" failures="1">
      <testsuite name="policies/shop.test.yaml" tests="2" failures="1">
        <testcase classname="policies/shop.test.yaml" name="reading" line="6"/>
        <testcase classname="policies/shop.test.yaml" name="writing &lt;&amp;&quot;&gt;" line="7">
          <failure message="expected allow, got deny (no_rule)">nearest is allow shop/read at policies/shop.yaml:6:11: method: it is for GET</failure>
        </testcase>
      </testsuite>
    </testsuites>
"#);
    let (_, github, _) = desk.exeat("policy test -c exeat.yaml --format github");
    assert!(github.starts_with("::error file=policies/shop.test.yaml,line=7,col=13,"), "{github}");
}

#[test]
fn exit_codes_tell_failure_usage_and_configuration_apart() {
    let desk = Desk::new();
    let code = |line: &str| desk.exeat(line).0;
    assert_eq!(code("policy test -c exeat.yaml policies/none.test.yaml"), 78, "a file that is not there");
    assert_eq!(code("policy test -c absent.yaml"), 78);
    assert_eq!(code("policy tset -c exeat.yaml"), 64);
    assert_eq!(code("policy explain -c exeat.yaml --from nobody --to orders --method GET --path /"), 64);
    assert_eq!(code("policy who-can GET orders.example -c exeat.yaml"), 64);
    assert_eq!(code("policy what-can spiffe://prod.example/** -c exeat.yaml"), 64);
    assert_eq!(code("policy diff exeat.yaml"), 64);
    assert_eq!(code("policy what-can spiffe://prod.example/x -c exeat.yaml --at tomorrow"), 64);
    desk.write("policies/shop.test.yaml", &TESTS.replace("use: read, set", "use: raed, set"));
    let (code, _, told) = desk.exeat("policy test -c exeat.yaml");
    assert_eq!(code, 78);
    assert!(told.contains("did you mean `read`?"), "{told}");
    fs::remove_file(desk.0.path().join("policies/shop.test.yaml")).expect("removed");
    let (code, _, told) = desk.exeat("policy test -c exeat.yaml");
    assert!(code == 1 && told.contains("no policy test was found"), "{code} {told}");
}

#[test]
fn check_runs_the_tests_as_their_directory_wants_it() {
    let desk = Desk::new();
    let (code, text, _) = desk.exeat("check -c exeat.yaml");
    assert!(code == 0 && text.contains("warning[policy-test]: test `writing <&\">` fails"), "{code} {text}");
    desk.write("exeat.yaml", &CONFIG.replace("bounds: all }", "bounds: all, tests: require }"));
    let (code, text, _) = desk.exeat("check -c exeat.yaml");
    assert!(code == 1 && text.contains("error[policy-test]: test `writing <&\">` fails"), "{code} {text}");
    let sarif = desk.json("check -c exeat.yaml --format sarif");
    let found = sarif["runs"][0]["results"].as_array().expect("results").iter().find(|result| result["ruleId"] == "policy-test");
    assert_eq!(found.expect("the test")["level"], "error");
}

#[test]
fn a_gain_can_fail_a_build() {
    let desk = Desk::new();
    desk.write("next/shop.yaml", &RULES.replace("[GET]", "[GET, DELETE]"));
    desk.write("less/shop.yaml", &RULES.replace("/orders/**", "/orders/*"));
    desk.write("other.yaml", &CONFIG.replace("directory: policies", "directory: next"));
    let (code, text, _) = desk.exeat("policy diff exeat.yaml other.yaml --fail-on-gain --at 2026-11-23");
    assert!(code == 1 && text.starts_with("+ 1 identity gains DELETE on orders /orders/**\n"), "{code} {text}");
    assert_eq!(desk.exeat("policy diff exeat.yaml other.yaml --at 2026-11-23").0, 0);
    let (code, text, _) = desk.exeat("policy diff -c exeat.yaml policies less --fail-on-gain --at 2026-11-23");
    assert!(code == 0 && text.starts_with("- 1 identity loses GET on orders /orders"), "{code} {text}");
    assert_eq!(desk.exeat("policy diff exeat.yaml exeat.yaml --fail-on-gain").1, "nobody gains or loses anything\n");
    let json = desk.json("policy diff -c exeat.yaml --policies next --json --at 2026-11-23");
    assert_eq!((json["widened"].as_bool(), json["changes"][0]["kind"].as_str()), (Some(true), Some("gain")));
    let observed = CONFIG
        .replace("origins: [\"https://orders.example\"]", "origins: [\"https://orders.example\"], stage: { observe: { until: DATE } }");
    let today = exeat::clock::Clock::now(&exeat::clock::SystemClock).to_zoned(jiff::tz::TimeZone::UTC).date();
    let soon = today.checked_add(jiff::Span::new().days(10)).expect("a date").to_string();
    desk.write("observed.yaml", &observed.replace("DATE", &soon));
    let (code, text, _) = desk.exeat("policy diff exeat.yaml observed.yaml --fail-on-gain");
    assert!(code == 1 && text.contains("+ upstream orders is observed until"), "{code} {text}");
}

#[test]
fn who_can_speaks_of_every_reading_and_of_observed_upstreams() {
    let desk = Desk::new();
    let (_, text, _) = desk.exeat("policy who-can GET https://orders.example/orders/a%2Fb -c exeat.yaml --at 2026-11-23");
    assert!(text.contains("several readings") && text.contains("as /orders/a/b"), "{text}");
    let (code, _, told) = desk.exeat("policy who-can GET https://evil.example/ -c exeat.yaml");
    assert!(code == 64 && told.contains("is no origin of any upstream"), "{told}");
    let json = desk.json("policy what-can spiffe://prod.example/ns/shop/sa/checkout -c exeat.yaml --json --at 2026-11-23");
    assert_eq!((json["access"][0]["methods"].as_str(), json["access"][1]["paths"][0].as_str()), (Some("GET"), Some("/x")));
}
