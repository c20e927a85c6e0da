//! Ten days of traffic, written by the real ledger: what is suggested lets all of it through again, and nothing beside it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use rustc_hash::FxHashMap;

use super::replay::allows;
use super::{Case, Draft, Kind, Lessons, Questions, Replay, Terms, Verified};
use crate::audit::samples::allowed;
use crate::audit::{Access, Entry, FileOptions, FileSink, Ledger, Line, Options, Outcome, Reader, Recorded};
use crate::catalogue::Catalogue;
use crate::clock::{ManualClock, SystemClock, Timestamp};
use crate::config::{self, Loaded};
use crate::identity::{Attestation, SpiffeId, Workload};
use crate::policy::{Bounds, Denied, PolicyFile, PolicySet, WouldBe, compile};
use crate::refusal::Code;
use crate::written::{Diagnostic, Source};

const REQUESTS: u32 = 24_000;
const START: &str = "2026-11-10T06:00:00Z";
const NOW: &str = "2026-11-21T00:00:00Z";

const NOTHING: &str = "exeat: policy/v1\nname: p\nrules: []\n";

const CONFIG: &str = r#"
exeat: config/v1
state: ephemeral
trust_domain: prod.example
listeners:
  mesh: { address: "127.0.0.1:15002", capture: host, identity: [app] }
identities:
  app: { fixed: { id: "spiffe://prod.example/ns/billing/sa/app" } }
upstreams:
  ledger:
    owner: team-ledger@example.com
    origins: ["https://ledger.internal.example:8443"]
    credentials: [ledger-jwt, ledger-admin]
  stripe:
    owner: team-billing@example.com
    origins: ["https://api.payments.example"]
    credentials: [stripe-jwt]
credentials:
  ledger-jwt: { local_jwt: { issuer: "https://exeat.prod.example", audience: "https://ledger", scopes: [a], ttl: 60s }, inject: bearer }
  ledger-admin: { local_jwt: { issuer: "https://exeat.prod.example", audience: "https://ledger", scopes: [b], ttl: 60s }, inject: bearer }
  stripe-jwt: { local_jwt: { issuer: "https://exeat.prod.example", audience: "https://stripe", scopes: [c], ttl: 60s }, inject: bearer }
policies: []
audit: stdout
"#;

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn rendered(mistakes: &[Diagnostic]) -> String {
    mistakes.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n")
}

fn loaded(dir: &Path) -> Loaded {
    let path = dir.join("exeat.yaml");
    std::fs::write(&path, CONFIG).unwrap();
    config::load(&path, &ManualClock::new(now())).unwrap_or_else(|mistakes| panic!("{}", rendered(&mistakes)))
}

fn compiled(loaded: &Loaded, text: &str) -> PolicySet {
    let profiles: FxHashMap<_, _> = loaded.profiles.iter().map(|profile| (Arc::clone(&profile.name), Arc::clone(profile))).collect();
    let file = PolicyFile { source: Source::new("suggested.yaml", text), bounds: Bounds::All };
    match compile(&[file], &loaded.catalogue, &profiles, "prod.example", now()) {
        Ok((set, _)) => set,
        Err(mistakes) => panic!("{}\n{text}", rendered(&mistakes)),
    }
}

/// A sequence that is the same each time and looks like none.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn request(at: u32, dice: &mut Dice, catalogue: &Catalogue) -> Access {
    let number = dice.roll(100_000);
    let charge = format!("ch_{:06}A{}", dice.roll(100_000), dice.roll(10));
    let (who, upstream, method, path, status) = match dice.roll(100) {
        0..20 => ("app", "ledger", Method::GET, "/v1/entries".to_owned(), 200),
        20..45 => ("app", "ledger", Method::GET, format!("/v1/entries/{number}"), if dice.roll(9) == 0 { 404 } else { 200 }),
        45..55 => ("app", "ledger", Method::POST, "/v1/entries".to_owned(), 201),
        55..62 => ("app", "ledger", Method::GET, format!("/v1/accounts/{number:08x}-0000-4000-8000-000000000000/balance"), 200),
        62..72 => ("reports", "ledger", Method::GET, format!("/v1/entries/{number}"), 200),
        72..74 => ("reports", "ledger", Method::HEAD, format!("/v1/entries/{number}"), 200),
        74..76 => ("reports", "ledger", Method::GET, "/v1/files/a%2Fb".to_owned(), 200),
        76..84 => ("app", "stripe", Method::POST, "/v1/charges".to_owned(), 500),
        84..90 => ("app", "stripe", Method::POST, format!("/v1/charges/{charge}/refund"), 200),
        90..96 => ("app", "stripe", Method::GET, format!("/v1/charges/{charge}"), 200),
        96 => ("app", "stripe", Method::GET, "/hooks/[redacted]".to_owned(), 200),
        97 => ("app", "ledger", Method::GET, "/.env".to_owned(), 404),
        98 => ("app", "ledger", Method::GET, "/a//b".to_owned(), 200),
        _ => ("app", "ledger", Method::DELETE, "/v1/entries/1".to_owned(), 403),
    };
    let start: Timestamp = START.parse().unwrap();
    let time = start + jiff::SignedDuration::from_millis(i64::from(at) * 36_000);
    let id = SpiffeId::parse(&format!("spiffe://prod.example/ns/billing/sa/{who}")).unwrap();
    let sample = allowed(u128::from(at));
    let denied = method == Method::DELETE;
    Access {
        time,
        trace: crate::audit::TraceIds { trace: u128::from(at + 1).to_be_bytes(), ..sample.trace },
        workload: Some(Arc::new(Workload { id, attestation: Attestation::Fixed })),
        upstream: catalogue.by_name(upstream).cloned(),
        destination: catalogue.by_name(upstream).and_then(|upstream| upstream.origins[0].destination()),
        method,
        path: path.into(),
        status: StatusCode::from_u16(status).ok(),
        outcome: if denied { Outcome::Refused(Code::NoRule) } else { Outcome::Allowed },
        rule: None,
        observed: !denied,
        would_be: (!denied).then_some(WouldBe {
            outcome: Err(Denied { code: Code::NoRule, rule: None, block: None, lease: None, wait: None, why: None }),
            changed: true,
        }),
        credential: None,
        ..sample
    }
}

fn write(path: &Path, records: impl IntoIterator<Item = Access>) {
    let sink = FileSink::open(path, FileOptions { segment: 4 << 20, ..FileOptions::default() }).unwrap();
    let ledger = Ledger::start(Box::new(sink), |_| {}, Arc::new(SystemClock), Options::default()).unwrap();
    for access in records {
        let slot = loop {
            match ledger.reserve() {
                Ok(slot) => break slot,
                Err(_) => std::thread::park_timeout(Duration::from_millis(1)),
            }
        };
        slot.close(Box::new(access));
    }
    assert!(ledger.stop(Duration::from_mins(1)));
}

fn records(path: &Path) -> Vec<(Timestamp, Recorded)> {
    let access = |line: Line| match line.entry {
        Entry::Access(access) => Some((line.time, *access)),
        Entry::Event(_) | Entry::Other => None,
    };
    Reader::open(path, None).unwrap().map(Result::unwrap).filter_map(access).collect()
}

fn terms() -> Terms {
    Terms { name: "suggested".into(), owner: None, rest: false, now: now() }
}

#[test]
fn what_is_suggested_lets_all_of_it_through_and_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = loaded(dir.path());
    let (log, mut dice) = (dir.path().join("audit"), Dice(7));
    write(&log, (0..REQUESTS).map(|at| request(at, &mut dice, &loaded.catalogue)));
    let records = records(&log);
    assert_eq!(records.len(), REQUESTS as usize);

    let mut questions = Questions::new(&loaded.catalogue).unwrap();
    let mut lessons = Lessons::default();
    for (time, record) in &records {
        lessons.add(&questions, *time, record).unwrap();
    }
    assert_eq!(lessons.days(), 11);
    let draft = Draft::new(lessons, &loaded.catalogue, terms());
    let text = draft.text(None);
    let set = compiled(&loaded, &text);
    assert!(set.allows().count() == set.shadows(), "every rule is a shadow");

    let mut verified = Verified::default();
    for (time, record) in &records {
        verified.add(&mut questions, &set, &draft, *time, record);
    }
    assert!(verified.learnt > 20_000, "{}", verified.learnt);
    assert!(verified.is_whole(), "{}", draft.report(&verified));
    assert!(verified.opened.is_empty(), "{:?}", verified.opened);

    // The same, as `exeat policy replay` says it.
    let mut replay = Replay::default();
    for (time, record) in records.iter().filter(|(_, record)| record.status == Some(200)) {
        replay.add(&mut questions, &set, crate::policy::Which::WithShadow, *time, record);
    }
    assert_eq!(replay.count(Kind::Lost), 0, "{:?}", replay.changes);
    assert_eq!((replay.count(Kind::Gained) > 15_000, replay.count(Kind::Undecided) > 0), (true, false));

    // Whatever is changed of a request makes it another one: path, method, workload.
    let mut mutants = 0;
    for (time, record) in records.iter().filter(|(_, record)| record.decision.as_ref() != "deny").step_by(3) {
        let other = |change: fn(&mut Recorded)| {
            let mut other = record.clone();
            change(&mut other);
            other
        };
        for mutant in [
            other(|record| record.path = format!("{}/more/more", record.path).into()),
            other(|record| {
                record.path = record.path.replacen("/v1", "/v2", 1).replacen("/hooks", "/hook", 1).replacen("/a", "/b", 1).into();
            }),
            other(|record| record.path = format!("/../..{}", record.path).into()),
            other(|record| record.method = "PATCH".into()),
            other(|record| record.method = "DELETE".into()),
            other(|record| record.workload = Some("spiffe://prod.example/ns/billing/sa/other".into())),
            other(|record| record.upstream = Some(if record.upstream.as_deref() == Some("stripe") { "ledger" } else { "stripe" }.into())),
        ] {
            mutants += 1;
            assert!(!allows(&mut questions, &set, *time, &mutant), "{mutant:?}\n{text}");
        }
    }
    assert!(mutants > 50_000, "{mutants}");
}

#[test]
fn a_suggestion_reads_like_something_that_a_person_could_sign() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = loaded(dir.path());
    let (log, mut dice) = (dir.path().join("audit"), Dice(7));
    write(&log, (0..3_000).map(|at| Access { time: at_day(at), ..request(at, &mut dice, &loaded.catalogue) }));
    let records = records(&log);
    let told = || {
        let mut questions = Questions::new(&loaded.catalogue).unwrap();
        let mut lessons = Lessons::default();
        for (time, record) in &records {
            lessons.add(&questions, *time, record).unwrap();
        }
        let draft = Draft::new(lessons, &loaded.catalogue, terms());
        let set = compiled(&loaded, &draft.text(None));
        let mut verified = Verified::default();
        for (time, record) in &records {
            verified.add(&mut questions, &set, &draft, *time, record);
        }
        (draft.text(Some(&verified)), draft.report(&verified))
    };
    let (text, report) = told();
    assert_eq!(text, told().0, "the order is always the same");
    insta::assert_snapshot!(text, @r#"
# Suggested from traffic: 2931 requests, 2026-11-09T08:00:00Z to 2026-11-18T12:59:00Z, 10 days.
# Replayed: 2899 of 2899 requests are allowed by these rules.
# Every rule is a shadow: it changes nothing before somebody has read it, narrowed it and taken `mode: shadow` out.
exeat: policy/v1
name: "suggested"
defaults:
  reason: "learnt from traffic of 2026-11-09 to 2026-11-18; not yet signed"
  expires: 2027-02-19
  mode: shadow
identities:
  app: { spiffe: "spiffe://prod.example/ns/billing/sa/app" }
  reports: { spiffe: "spiffe://prod.example/ns/billing/sa/reports" }
rules:
  # 1558 requests, 2026-11-09T08:07:00Z to 2026-11-18T12:57:00Z; traces 00000000000000000000000000000008 00000000000000000000000000000009 0000000000000000000000000000000d
  # all of it every day from 08:00 to 13:00 UTC; a window could say so
  - id: app-ledger-get
    effect: allow
    mode: shadow
    owner: "team-ledger@example.com"
    from: [app]
    to: [ledger]
    methods: [GET]
    paths:
      - "/v1/accounts/*/balance" # 231, 231 different, as 0000007c-0000-4000-8000-000000000000
      - "/v1/entries" # 604
      - "/v1/entries/*" # 619, 617 different, as 10017
    grant: ledger-jwt # or: ledger-admin
  # 305 requests, 2026-11-09T08:04:00Z to 2026-11-18T12:48:00Z; traces 00000000000000000000000000000005 00000000000000000000000000000007 0000000000000000000000000000000a
  # all of it every day from 08:00 to 13:00 UTC; a window could say so
  - id: app-ledger-post
    effect: allow
    mode: shadow
    owner: "team-ledger@example.com"
    from: [app]
    to: [ledger]
    methods: [POST]
    paths:
      - "/v1/entries" # 305
    grant: ledger-jwt # or: ledger-admin
  # 208 requests, 2026-11-09T08:40:00Z to 2026-11-18T12:17:00Z; traces 00000000000000000000000000000029 00000000000000000000000000000059 00000000000000000000000000000068
  # all of it every day from 08:00 to 13:00 UTC; a window could say so
  - id: app-stripe-get
    effect: allow
    mode: shadow
    owner: "team-billing@example.com"
    from: [app]
    to: [stripe]
    methods: [GET]
    paths:
      - "/hooks/*" # 38; a value in it is not recorded, or cannot be written
      - "/v1/charges/*" # 170, 170 different, as ch_000031A5
    grant: stripe-jwt
  # 396 requests, 2026-11-09T08:10:00Z to 2026-11-18T12:59:00Z; traces 0000000000000000000000000000000b 00000000000000000000000000000016 00000000000000000000000000000018
  # all of it every day from 08:00 to 13:00 UTC; a window could say so
  - id: app-stripe-post
    effect: allow
    mode: shadow
    owner: "team-billing@example.com"
    from: [app]
    to: [stripe]
    methods: [POST]
    paths:
      - "/v1/charges" # 235
      - "/v1/charges/*/refund" # 161, 161 different, as ch_000667A0
    grant: stripe-jwt
  # 401 requests, 2026-11-09T08:01:00Z to 2026-11-18T12:53:00Z; traces 00000000000000000000000000000002 00000000000000000000000000000003 00000000000000000000000000000004
  # all of it every day from 08:00 to 13:00 UTC; a window could say so
  - id: reports-ledger-get
    effect: allow
    mode: shadow
    owner: "team-ledger@example.com"
    from: [reports]
    to: [ledger]
    methods: [GET]
    paths:
      - "/v1/entries/*" # 336, 336 different, as 10859
      - "/v1/files/a/b" # 65
      - "/v1/files/a%2Fb" # 65
    grant: ledger-jwt # or: ledger-admin
  # 63 requests, 2026-11-09T08:00:00Z to 2026-11-18T12:09:00Z; traces 00000000000000000000000000000001 0000000000000000000000000000009a 000000000000000000000000000000bc
  # all of it every day from 08:00 to 13:00 UTC; a window could say so
  - id: reports-ledger-head
    effect: allow
    mode: shadow
    owner: "team-ledger@example.com"
    from: [reports]
    to: [ledger]
    methods: [HEAD]
    paths:
      - "/v1/entries/*" # 63, 63 different, as 10106
    grant: ledger-jwt # or: ledger-admin
# Not suggested:
#   GET ledger /a//b: 26 requests, 2026-11-09T08:05:00Z to 2026-11-18T12:58:00Z (no pattern but `**` matches its path: it holds `//` or another empty segment)
#   GET ledger /.env: 32 requests, 2026-11-09T08:38:00Z to 2026-11-18T11:12:00Z (only answered with 4xx: a scan, a typing error, or gone)
#   DELETE ledger /v1/entries/*: 43 requests, 2026-11-09T08:20:00Z to 2026-11-18T12:33:00Z (refused in this window)
"#);
    insta::assert_snapshot!(report, @r#"
learnt     2931 requests, 2026-11-09T08:00:00Z to 2026-11-18T12:59:00Z, 10 days, 6 rules
replay     2899 of 2899 requests are allowed by the suggestion
excess     what it would allow and nobody has asked for yet
  app-ledger-get /v1/accounts/*/balance: 231 different paths seen; `*` was seen with 231 values, and is any value
  app-ledger-get /v1/entries/*: 617 different paths seen; `*` was seen with 617 values, and is any value
  app-stripe-get /hooks/*: 1 different paths seen; `*` stands for 1 that cannot be written, and is any value
  app-stripe-get /v1/charges/*: 170 different paths seen; `*` was seen with 170 values, and is any value
  app-stripe-post /v1/charges/*/refund: 161 different paths seen; `*` was seen with 161 values, and is any value
  reports-ledger-get /v1/entries/*: 336 different paths seen; `*` was seen with 336 values, and is any value
  reports-ledger-head /v1/entries/*: 63 different paths seen; `*` was seen with 63 values, and is any value
apart      not learnt from
  GET ledger /a//b: 26 requests, 2026-11-09T08:05:00Z to 2026-11-18T12:58:00Z (no pattern but `**` matches its path: it holds `//` or another empty segment)
  GET ledger /.env: 32 requests, 2026-11-09T08:38:00Z to 2026-11-18T11:12:00Z (only answered with 4xx: a scan, a typing error, or gone)
  DELETE ledger /v1/entries/*: 43 requests, 2026-11-09T08:20:00Z to 2026-11-18T12:33:00Z (refused in this window)
"#);
}

/// Three thousand requests on ten days, at office hours.
fn at_day(at: u32) -> Timestamp {
    let start: Timestamp = "2026-11-09T08:00:00Z".parse().unwrap();
    start + jiff::SignedDuration::from_hours(24 * i64::from(at / 300)) + jiff::SignedDuration::from_secs(i64::from(at % 300) * 60)
}

#[test]
fn a_case_names_what_would_be_refused_until_it_is_mended_or_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = loaded(dir.path());
    let (log, mut dice) = (dir.path().join("audit"), Dice(7));
    write(&log, (0..2_000).map(|at| request(at, &mut dice, &loaded.catalogue)));
    let mut questions = Questions::new(&loaded.catalogue).unwrap();
    let mut judged = |rules: &str| {
        let set = compiled(&loaded, rules);
        let mut case = Case::new("stripe");
        Reader::open(&log, None).unwrap().map(Result::unwrap).for_each(|line| case.add(&mut questions, &set, &line));
        case
    };
    let case = judged(NOTHING);
    let none = std::collections::BTreeSet::new();
    assert_eq!(case.objections.len(), 4, "{:?}", case.objections);
    assert_eq!(case.against(&none, None).len(), 1);
    assert_eq!(case.against(&none, Some(&["stripe-jwt".into()])).len(), 2, "rehearse is on and nothing was rehearsed");
    assert!(case.objections.keys().all(|id| id.len() == 8));
    let again = judged(NOTHING);
    assert_eq!(case.objections, again.objections, "ids are stable");
    assert!(case.against(&case.objections.keys().cloned().collect(), None).is_empty());
    let mended = judged(
        "exeat: policy/v1\nname: p\ndefaults: { owner: o@example.com, reason: r, expires: 2027-01-01 }\nrules:\n  - { id: all, effect: allow, from: [\"spiffe://prod.example/ns/billing/sa/app\"], to: [stripe], methods: [GET, POST], paths: [\"/v1/**\"], grant: stripe-jwt }\n",
    );
    assert_eq!((mended.objections.len(), mended.mended > 100), (1, true), "{:?}", mended.objections);
    let empty = Case::new("ledgr");
    assert!(empty.against(&none, None)[0].starts_with("nothing was observed"));
}
