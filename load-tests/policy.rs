//! What a decision costs: nanoseconds and allocations per decision, and the time to load, for sets of 10 to 10,000 rules; and how quickly
//! hostile files are refused.
//!
//! `cargo bench --bench policy` prints the tables and fails when a decision allocates, when 10,000 rules take a second to load or five
//! microseconds at the 99th percentile to decide, or when a hostile file is loaded or takes a second to refuse. Times depend on the
//! machine: what fails on a crowded one is run again on a calm one.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    missing_docs,
    reason = "a benchmark counts allocations and fails loudly"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use exeat::action::Action;
use exeat::capture::{Destination, Host, Peer, Scheme};
use exeat::catalogue::{
    Catalogue, Deadlines, HostPattern, Origin, Placement, Profile, Protocol, Roots, Stage, StripOptions, TlsProfile, Upstream,
    UpstreamIndex,
};
use exeat::clock::{Clock, SystemClock, Timestamp};
use exeat::identity::{Attestation, SpiffeId, Workload};
use exeat::live::{Live, Opening};
use exeat::policy::{AccessRequest, Bounds, PolicyFile, PolicySet, compile};
use exeat::secret::FingerprintKey;
use exeat::strip::{Rules, Stripped, examine};
use exeat::written::{Diagnostic, Source};
use http::request::Parts;
use rustc_hash::FxHashMap;

#[path = "../src/policy/hostile.rs"]
mod hostile;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what this thread allocates.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain cell of the thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.try_with(|count| count.set(count.get() + 1)).ok();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.try_with(|count| count.set(count.get() + 1)).ok();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const IDENTITIES: usize = 250;
const UPSTREAMS: usize = 500;
const CONDITIONS: usize = 500;

/// What must hold.
const LOAD: Duration = Duration::from_secs(1);
const DECISION: Duration = Duration::from_micros(5);

fn upstream(number: usize) -> Upstream {
    let host = Host::parse(&format!("s{number}.example")).unwrap();
    Upstream {
        index: UpstreamIndex(u32::try_from(number).unwrap()),
        name: format!("s{number}").into(),
        owner: "owner@example.com".into(),
        origins: vec![Origin { scheme: Scheme::Https, host: HostPattern::Exact(host), port: 443 }],
        reach: Vec::new(),
        tls: TlsProfile { roots: Roots::System, server_name: None, spiffe_id: None, client_certificate: false },
        protocol: Protocol::Auto,
        credentials: vec!["token".into()],
        stage: Stage::Enforce,
        intercept: true,
        strip: StripOptions::default(),
        response_remove: Vec::new(),
        deadlines: Deadlines::default(),
        body_limit: 65536,
    }
}

/// A mesh: many identities and upstreams, patterns among both, one rule in five with a condition, one in fifty a deny.
fn rules(count: usize, terms: &str) -> String {
    let mut text =
        String::from("exeat: policy/v1\nname: mesh\ndefaults: { owner: o@example.com, reason: bench, expires: 2027-03-01 }\nrules:\n");
    for rule in 0..count {
        let identity = rule * 7 % IDENTITIES;
        let from = match rule % 10 {
            0 => format!("spiffe://prod.example/ns/n{}/**", identity % 25),
            1 => format!("spiffe://prod.example/ns/*/sa/a{identity}"),
            _ => format!("spiffe://prod.example/ns/n{}/sa/a{identity}", identity % 25),
        };
        let path = match rule % 4 {
            0 => format!("/v1/r{}", rule % 97),
            1 => format!("/v1/r{}/*", rule % 97),
            2 => format!("/v1/*/items/r{rule}"),
            _ => format!("/v2/r{rule}/**"),
        };
        let condition = format!(", when: \"request.headers['x-env'] == 'e{}' && request.port == 443\"", rule / 5 % CONDITIONS);
        let (effect, rest) = if rule % 50 == 7 { ("deny", String::new()) } else { ("allow", format!(", grant: token{terms}")) };
        let when = if rule % 5 == 3 { condition } else { String::new() };
        let to = rule * 13 % UPSTREAMS;
        let selector = format!("from: \"{from}\", to: s{to}, methods: [GET, POST], paths: \"{path}\"");
        writeln!(text, "  - {{ id: r{rule}, effect: {effect}, {selector}{when}{rest} }}").unwrap();
    }
    text
}

fn profiles() -> FxHashMap<Arc<str>, Arc<Profile>> {
    let profile = Profile {
        name: "token".into(),
        kind: "local_jwt",
        audience: None,
        scopes: None,
        ttl: Duration::from_mins(1),
        placement: Placement::Bearer,
    };
    FxHashMap::from_iter([("token".into(), Arc::new(profile))])
}

struct Asked {
    workload: Arc<Workload>,
    upstream: Arc<Upstream>,
    destination: Destination,
    parts: Parts,
    stripped: Stripped,
}

/// Requests that meet the rules: twelve headers each, one in eight to nowhere.
fn requests(count: usize, catalogue: &Catalogue) -> Vec<Asked> {
    let key = FingerprintKey::new(&[0; 32]);
    let rules = Rules::new(&StripOptions::default()).unwrap();
    (0..1024)
        .map(|number| {
            let rule = number * 31 % count;
            let identity = rule * 7 % IDENTITIES;
            let id = format!("spiffe://prod.example/ns/n{}/sa/a{identity}", identity % 25);
            let upstream = Arc::clone(&catalogue.all()[rule * 13 % UPSTREAMS]);
            let path = match (number % 8, rule % 4) {
                (0, _) => "/nowhere/at/all".to_owned(),
                (_, 0) => format!("/v1/r{}", rule % 97),
                (_, 1) => format!("/v1/r{}/x", rule % 97),
                (_, 2) => format!("/v1/x/items/r{rule}"),
                _ => format!("/v2/r{rule}/a/b"),
            };
            let mut request = http::Request::builder().method("GET").uri(path).header("x-env", format!("e{}", rule / 5 % CONDITIONS));
            for header in 0..11 {
                request = request.header(format!("x-header-{header}"), "value");
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            Asked {
                workload: Arc::new(Workload { id: SpiffeId::parse(&id).unwrap(), attestation: Attestation::Fixed }),
                destination: upstream.origins[0].destination().unwrap(),
                upstream,
                stripped: examine(&parts, &rules, &key),
                parts,
            }
        })
        .collect()
}

/// Decides each request of mixed traffic by itself; the time of the clock's own reading is in it.
fn each(set: &PolicySet, requests: &[Asked], live: &Live, now: Timestamp, times: &mut Vec<Duration>) {
    for asked in requests.chunks(1) {
        times.push(run(set, asked, live, now).1);
    }
}

fn run(set: &PolicySet, requests: &[Asked], live: &Live, now: Timestamp) -> (usize, Duration, u64) {
    let peer = Peer::Tcp { address: "127.0.0.1:4711".parse().unwrap(), uid: None };
    let actions: smallvec::SmallVec<[_; 1]> = requests.iter().map(|asked| Action::read(&asked.parts).unwrap()).collect();
    let before = ALLOCATIONS.with(Cell::get);
    let began = SystemClock.instant();
    let mut allowed = 0;
    for (asked, action) in requests.iter().zip(&actions) {
        let request = AccessRequest {
            workload: &asked.workload,
            upstream: &asked.upstream,
            destination: &asked.destination,
            action,
            parts: &asked.parts,
            peer: &peer,
            tunnel: false,
            share: 99,
        };
        allowed += usize::from(black_box(set.decide(&request, &asked.stripped, live, now)).outcome.is_ok());
    }
    (allowed, began.elapsed(), ALLOCATIONS.with(Cell::get) - before)
}

/// A lease for each identity.
fn live(now: Timestamp) -> Live {
    let live = Live::default();
    for identity in 0..IDENTITIES {
        let opening = Opening {
            workload: format!("spiffe://prod.example/ns/n{}/sa/a{identity}", identity % 25),
            kind: "bench".to_owned(),
            ttl: Duration::from_hours(1),
            ..Opening::default()
        };
        live.leases().open_lease(opening, &[], "bench", now).unwrap();
    }
    live
}

fn main() {
    let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
    let catalogue = Catalogue::new((0..UPSTREAMS).map(upstream).map(Arc::new).collect()).unwrap();
    println!(
        "{:>7} {:>9} {:>10} {:>10} {:>10} {:>9} {:>8}  certificate",
        "rules", "load ms", "median ns", "p99 ns", "hot ns", "alloc", "allowed"
    );
    let mut wrong = Vec::new();
    // What every rule wants beside its grant: nothing, or a lease and two limits, each charged for each request.
    let charged = ", lease: { kind: bench, max_ttl: 24h }, limits: { rate: 1000000/s, burst: 1000000, quota: 1000000000/day }";
    for (count, terms) in [10, 100, 1_000, 10_000].into_iter().map(|count| (count, "")).chain([(10, charged), (10_000, charged)]) {
        let live = live(now);
        let files = [PolicyFile { source: Source::new("mesh.yaml", rules(count, terms)), bounds: Bounds::All }];
        let began = SystemClock.instant();
        let compiled = compile(&files, &catalogue, &profiles(), "prod.example", now);
        let load = began.elapsed();
        let (set, _) = compiled.map_err(|errors| errors.iter().take(3).map(Diagnostic::render).collect::<Vec<_>>().join("\n")).unwrap();
        let requests = requests(count, &catalogue);
        let mut times = Vec::new();
        let (mut allocations, mut allowed) = (0, 0);
        for _ in 0..101 {
            let (found, took, allocated) = run(&set, &requests, &live, now);
            times.push(took.as_nanos() / requests.len() as u128);
            allocations += allocated;
            allowed = found;
        }
        times.sort_unstable();
        let mut single = Vec::with_capacity(21 * requests.len());
        (0..21).for_each(|_| each(&set, &requests, &live, now, &mut single));
        single.sort_unstable();
        let p99 = single[single.len() * 99 / 100];
        let hot: Vec<Asked> = requests.into_iter().skip(1).take(1).collect();
        let mut hottest: Vec<u128> = (0..2001).map(|_| run(&set, &hot, &live, now).1.as_nanos()).collect();
        hottest.sort_unstable();
        println!(
            "{count:>7} {:>9} {:>10} {:>10} {:>10} {allocations:>9} {allowed:>8}  {}",
            load.as_millis(),
            times[times.len() / 2],
            p99.as_nanos(),
            hottest[hottest.len() / 2],
            set.certificate()
        );
        assert!(allowed > 0, "the requests meet the rules");
        assert_eq!(allocations, 0, "a decision allocated");
        if load > LOAD || p99 > DECISION {
            wrong.push(format!("{count} rules: loaded in {load:?}, p99 {p99:?}"));
        }
    }
    println!("\n{:<28} {:>9}", "hostile file", "refused ms");
    for (what, text) in hostile::files("s0") {
        let files = [PolicyFile { source: Source::new("a.yaml", text), bounds: Bounds::All }];
        let began = SystemClock.instant();
        let refused = compile(&files, &catalogue, &profiles(), "prod.example", now).is_err();
        let took = began.elapsed();
        println!("{what:<28} {:>9.1}", took.as_secs_f64() * 1e3);
        assert!(refused, "{what} was loaded");
        if took > LOAD {
            wrong.push(format!("{what}: refused after {took:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
