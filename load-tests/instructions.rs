//! What exeat's own way with a request costs in instructions, part by part: the work that `load-tests/instructions` runs under callgrind.
//!
//! Each part is a function of its own name (`part_..`) that is called [`TIMES`] times after a warm-up; the script reads what they and all that
//! they call have executed, and compares it with `instructions.tsv`. Run by itself this only shows that the parts do what they should.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "a benchmark fails loudly")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use exeat::action::Action;
use exeat::audit::{Access, Attempt, AuditSink, Ledger, Options, Outcome, SinkError, Tail, TraceIds};
use exeat::capture::{self, Arrival, Destination, HeadLimits, Mode, Peer};
use exeat::catalogue::{
    Catalogue, Deadlines, Placement, Profile, Protocol, Roots, Stage, StripOptions, TlsProfile, Upstream, UpstreamIndex, parse_origin,
};
use exeat::clock::{Clock, SystemClock, Timestamp};
use exeat::credentials::providers::{KeyRing, LocalJwt};
use exeat::credentials::{Broker, Definition, Definitions, Limits};
use exeat::edits::Edits;
use exeat::gate::{Clearance, Gate};
use exeat::identity::{Attestation, Fixed, IdentitySource, SpiffeId, Workload};
use exeat::inject;
use exeat::jose::{Algorithm, SigningKey};
use exeat::live::Live;
use exeat::policy::{AccessRequest, Bounds, PolicyFile, PolicySet, compile};
use exeat::secret::FingerprintKey;
use exeat::snapshot::Snapshot;
use exeat::strip::{self, Rules};
use exeat::written::Source;
use futures_util::FutureExt as _;
use http::request::Parts;
use http::{Method, StatusCode, Version};
use rustc_hash::FxHashMap;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Calls of each part that are counted.
const TIMES: u64 = 2_000;
/// Calls before them: caches fill, pages are touched, the one token is minted.
const WARM: u64 = 200;
/// Rules and upstreams, as in the scenario of the job.
const RULES: usize = 100;
/// The one that the request is for.
const ASKED: usize = 50;

/// Takes lines and keeps none: what a disk costs is not ours.
#[derive(Debug)]
struct Nowhere(Arc<AtomicU64>);

impl AuditSink for Nowhere {
    fn tail(&mut self) -> Result<Tail, SinkError> {
        Ok(Tail::default())
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), SinkError> {
        // every line has its line feed
        let count = memchr::memchr_iter(b'\n', lines).count();
        self.0.fetch_add(u64::try_from(count).unwrap(), Ordering::Release);
        Ok(())
    }

    fn sync(&mut self, _now: bool) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Everything that a request meets.
struct World {
    snapshot: Snapshot,
    gate: Gate,
    arrival: Arrival,
    parts: Parts,
    workload: Arc<Workload>,
    upstream: Arc<Upstream>,
    destination: Destination,
    key: FingerprintKey,
    now: Timestamp,
}

fn upstream(number: usize) -> Upstream {
    Upstream {
        index: UpstreamIndex(u32::try_from(number).unwrap()),
        name: format!("api-{number:03}").into(),
        owner: "bench@bench.test".into(),
        origins: vec![parse_origin(&format!("http://127.0.1.{number}:8080")).unwrap()],
        reach: Vec::new(),
        tls: TlsProfile { roots: Roots::System, server_name: None, spiffe_id: None, client_certificate: false },
        protocol: Protocol::H1,
        credentials: vec!["token".into()],
        stage: Stage::Enforce,
        intercept: true,
        strip: StripOptions::default(),
        response_remove: Vec::new(),
        deadlines: Deadlines::default(),
        body_limit: 65_536,
    }
}

fn rules() -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "exeat: policy/v1\nname: bench\ndefaults: { owner: bench@bench.test, reason: benchmark, expires: 2027-06-01T00:00:00Z }\nrules:\n",
    );
    for rule in 0..RULES {
        let selector = format!("to: [api-{rule:03}], methods: [GET], paths: [\"/v1/obj-{rule:03}/**\"]");
        writeln!(
            text,
            "  - {{ id: p{rule:03}, effect: allow, from: [\"spiffe://bench.test/ns/prod/sa/svc-{rule:03}\"], {selector}, grant: token }}"
        )
        .unwrap();
    }
    text
}

impl World {
    /// The world of the job: three static credentials in the request, 100 rules, a minted token.
    fn new(household: &tokio::runtime::Runtime) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let catalogue = Catalogue::new((0..RULES).map(upstream).map(Arc::new).collect()).unwrap();
        let profile = Arc::new(Profile {
            name: "token".into(),
            kind: "local_jwt",
            audience: Some("https://api.bench.test".into()),
            scopes: Some(Arc::from(["read".into()])),
            ttl: Duration::from_mins(15),
            placement: Placement::Bearer,
        });
        let profiles = FxHashMap::from_iter([(Arc::clone(&profile.name), Arc::clone(&profile))]);
        let files = [PolicyFile { source: Source::new("bench.yaml", rules()), bounds: Bounds::All }];
        let (policies, _): (PolicySet, _) = compile(&files, &catalogue, &profiles, "bench.test", now).unwrap();
        let (signer, _) = SigningKey::generate(Algorithm::Es256).unwrap();
        let issuer: Arc<str> = "https://exeat.bench.test".into();
        let ring = Arc::new(KeyRing::fixed(Arc::clone(&issuer), signer, Vec::new(), clock.now()).unwrap());
        let provider = LocalJwt::new(Arc::clone(&profile), issuer, ring).unwrap();
        let definitions = Definitions::new([Definition::new(Arc::clone(&profile), Arc::new(provider), &["bench"])]);
        let id = SpiffeId::parse(&format!("spiffe://bench.test/ns/prod/sa/svc-{ASKED:03}")).unwrap();
        let source: Arc<dyn IdentitySource> = Arc::new(Fixed::new("svc", id.clone()));
        let strip = catalogue.all().iter().map(|upstream| Rules::of(upstream, std::slice::from_ref(&profile)).unwrap()).collect();
        let upstream = Arc::clone(&catalogue.all()[ASKED]);
        let destination = upstream.origins[0].destination().unwrap();
        let snapshot = Snapshot {
            revision: 1,
            catalogue,
            strip,
            identities: FxHashMap::from_iter([("right".into(), Arc::from([source]))]),
            tls: FxHashMap::default(),
            policies,
            definitions,
            unlisted: None,
            not_ready: None,
        };
        let fingerprints = Arc::new(FingerprintKey::new(&[7; 32]));
        let (broker, mut grants) =
            Broker::new(Arc::clone(&clock), household.handle().clone(), Arc::clone(&fingerprints), Limits::default());
        household.spawn(async move { while grants.recv().await.is_some() {} });
        let (parts, ()) = http::Request::get(format!("/v1/obj-{ASKED:03}/b128?api_key=SECRET&q=1"))
            .header("host", format!("127.0.1.{ASKED}:8080"))
            .header("user-agent", "lg")
            .header("accept", "*/*")
            .header("x-identity", format!("spiffe://bench.test/ns/prod/sa/svc-{ASKED:03}"))
            .header("authorization", "Bearer static-long-lived-0123456789abcdef")
            .header("x-api-key", "sk-0123456789abcdef")
            .body(())
            .unwrap()
            .into_parts();
        Self {
            snapshot,
            gate: Gate { broker: Arc::new(broker), clock, live: Arc::new(Live::default()), fingerprints },
            arrival: Arrival {
                listener: "right".into(),
                mode: Mode::Host,
                route: None,
                peer: Peer::Tcp { address: "127.0.0.1:40312".parse().unwrap(), uid: None },
                process: None,
                certificates: None,
                proof: None,
                tunnel: None,
                sni: None,
            },
            parts,
            workload: Arc::new(Workload { id, attestation: Attestation::Fixed }),
            upstream,
            destination,
            key: FingerprintKey::new(&[7; 32]),
            now: SystemClock.now(),
        }
    }

    /// What is remembered of a request before it is judged.
    fn access(&self) -> Box<Access> {
        Box::new(Access {
            id: 0x5f2c_9a01,
            time: self.now,
            began: SystemClock.instant(),
            took: Duration::from_micros(180),
            trace: TraceIds { trace: [0xa1; 16], span: [0xb2; 8], parent: None, sampled: false },
            listener: Arc::clone(&self.arrival.listener),
            mode: self.arrival.mode,
            peer: self.arrival.peer,
            version: Version::HTTP_11,
            workload: None,
            method: Method::GET,
            path: "/v1/obj-050/b128".into(),
            grpc: false,
            tunnel: false,
            destination: None,
            upstream: None,
            outcome: Outcome::Allowed,
            detail: "".into(),
            rule: None,
            lease: None,
            would_be: None,
            observed: false,
            revision: 0,
            policy: "".into(),
            findings: smallvec::SmallVec::new(),
            credential: None,
            decided: Duration::ZERO,
            obtained: Duration::ZERO,
            cached: false,
            attempts: smallvec::SmallVec::new(),
            status: None,
            request_bytes: 0,
            response_bytes: 0,
            dropped_trailers: 0,
            reflected: false,
        })
    }

    fn strip(&self) -> strip::Stripped {
        strip::examine(&self.parts, self.snapshot.strip_rules(&self.upstream).unwrap(), &self.key)
    }

    fn decide(&self, action: &Action<'_>, stripped: &strip::Stripped) -> bool {
        let request = AccessRequest {
            workload: &self.workload,
            upstream: &self.upstream,
            destination: &self.destination,
            action,
            parts: &self.parts,
            peer: &self.arrival.peer,
            tunnel: false,
            share: 99,
        };
        self.snapshot.policies.decide(&request, stripped, &self.gate.live, self.now).outcome.is_ok()
    }

    fn pass(&self, access: &mut Access) -> Box<Clearance> {
        let passing = self.gate.pass(&self.snapshot, &self.arrival, &self.parts, access, |_| Ok(()));
        passing.now_or_never().unwrap().unwrap()
    }

    /// An answered request, as it is handed to the ledger.
    fn answered(&self) -> Box<Access> {
        let mut access = self.access();
        drop(self.pass(&mut access));
        access.attempts.push(Attempt {
            span: [0xd4; 8],
            began: Duration::from_micros(20),
            ended: Duration::from_micros(170),
            address: "127.0.1.50:8080".parse().ok(),
            version: Version::HTTP_11,
            reused: true,
            certificate: None,
            connect: None,
            status: Some(StatusCode::OK),
            error: None,
        });
        access.status = Some(StatusCode::OK);
        access.response_bytes = 128;
        access
    }
}

// The names that the script looks for. `never`: a part is what it calls, and nothing else.

#[inline(never)]
fn part_head_check(world: &World) {
    black_box(capture::check(&world.parts, HeadLimits::default())).unwrap();
}

#[inline(never)]
fn part_strip(world: &World) -> strip::Stripped {
    black_box(world.strip())
}

#[inline(never)]
fn part_decide(world: &World, action: &Action<'_>, stripped: &strip::Stripped) {
    assert!(black_box(world.decide(action, stripped)));
}

#[inline(never)]
fn part_inject(world: &World, clearance: &Clearance, stripped: &Edits) {
    let credential = clearance.credential().unwrap();
    black_box(inject::edits(clearance.permit(), credential, &world.parts, stripped)).unwrap();
}

#[inline(never)]
fn part_pass(world: &World, access: &mut Access) -> Box<Clearance> {
    black_box(world.pass(access))
}

#[inline(never)]
fn part_hand_over(ledger: &Ledger, access: Box<Access>) {
    ledger.reserve().unwrap().close(access);
}

fn main() {
    let household = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let world = World::new(&household);
    // The one issue of the token.
    drop(household.block_on(world.gate.pass(&world.snapshot, &world.arrival, &world.parts, &mut world.access(), |_| Ok(()))).unwrap());
    let written = Arc::new(AtomicU64::new(0));
    let options = Options { outstanding: 1 << 13, seal: Some(FingerprintKey::new(&[7; 32])), instance: "bench".into() };
    let ledger = Ledger::start(Box::new(Nowhere(Arc::clone(&written))), |_| {}, Arc::clone(&world.gate.clock), options).unwrap();

    let action = Action::read(&world.parts).unwrap();
    let stripped = world.strip();
    let (_, edits) = world.strip().into_parts();
    let clearance = world.pass(&mut world.access());
    for _ in 0..WARM {
        capture::check(&world.parts, HeadLimits::default()).unwrap();
        drop(black_box(world.strip()));
        assert!(world.decide(&action, &stripped));
        inject::edits(clearance.permit(), clearance.credential().unwrap(), &world.parts, &edits).unwrap();
        drop(world.pass(&mut world.access()));
    }
    for _ in 0..TIMES {
        part_head_check(&world);
        drop(part_strip(&world));
        part_decide(&world, &action, &stripped);
        part_inject(&world, &clearance, &edits);
        let mut access = world.access();
        drop(part_pass(&world, &mut access));
    }
    for _ in 0..TIMES {
        part_hand_over(&ledger, world.answered());
    }
    // The ledger's own thread makes the lines; it looks every few milliseconds.
    let limit = SystemClock.instant() + Duration::from_mins(1);
    while written.load(Ordering::Acquire) < TIMES {
        assert!(SystemClock.instant() < limit, "{} of {TIMES} lines were written", written.load(Ordering::Acquire));
        std::thread::yield_now();
    }
    println!("{TIMES} of each part; {} lines", written.load(Ordering::Acquire));
}
