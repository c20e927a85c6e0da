//! What an operator reads of every refusal that is not policy's own, made by the code that writes it. `policy::denials` shows the others.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::Request;
use http::request::Parts;
use rustc_hash::FxHashMap;

use super::Gate;
use crate::action::Action;
use crate::address::{OwnListeners, Reach, Resolver};
use crate::audit::{AuditSink, Ledger, Options, SinkError, Tail, samples};
use crate::capture::{self, Arrival, HeadLimits, Mode, Peer};
use crate::catalogue::{Catalogue, Placement, Profile, Upstream, UpstreamIndex, parse_origin};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::credentials::providers::{KeyRing, LocalJwt, SecretSource, VendorSecret};
use crate::credentials::{Broker, CredentialProvider, Definition, Definitions, GrantEvent, Limits};
use crate::dial::{DialError, Place};
use crate::identity::{Fixed, IdentitySource, SpiffeId};
use crate::jose::{Algorithm, SigningKey};
use crate::live::{Live, Opening};
use crate::policy::{Bounds, PolicyFile, compile};
use crate::refusal::{Code, Refusal};
use crate::secret::{FingerprintKey, Secret};
use crate::snapshot::Snapshot;
use crate::strip::Rules;
use crate::written::Source;

/// Shown by `policy::denials`.
const OF_POLICY: &[Code] = &[
    Code::AmbiguousPath,
    Code::Revoked,
    Code::Denied,
    Code::Requirement,
    Code::NoRule,
    Code::LeaseMissing,
    Code::LeaseEnded,
    Code::LeaseSpent,
    Code::Limited,
];
/// No code path gives them yet; README.md says why they are kept.
const RESERVED: &[Code] = &[Code::BodyTooLarge];

fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

fn head(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn profile(name: &str, kind: &'static str, scopes: &[&str]) -> Arc<Profile> {
    let (audience, scopes) = match kind {
        "secret" => (None, None),
        _ => (Some("https://api.example".into()), Some(scopes.iter().map(|scope| Arc::from(*scope)).collect())),
    };
    Arc::new(Profile { name: name.into(), kind, audience, scopes, ttl: Duration::from_mins(1), placement: Placement::Bearer })
}

/// Three upstreams whose credentials cannot be had, each for another reason.
struct World {
    gate: Gate,
    snapshot: Snapshot,
    arrival: Arrival,
    parts: Parts,
    /// Grants are recorded: without anybody who does, none is issued.
    _grants: tokio::sync::mpsc::Receiver<GrantEvent>,
}

impl World {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(now()));
        let (signer, _) = SigningKey::generate(Algorithm::Es256).unwrap();
        let issuer: Arc<str> = "https://exeat.example".into();
        let ring = Arc::new(KeyRing::fixed(Arc::clone(&issuer), signer, Vec::new(), now()).unwrap());
        let narrow = LocalJwt::new(profile("wide", "local_jwt", &["read"]), issuer, ring).unwrap();
        let missing = VendorSecret::new("missing".into(), SecretSource::File("/nonexistent/vendor.key".into()));
        let empty = VendorSecret::new("empty".into(), SecretSource::Given(Secret::new("\n")));
        let providers: [(_, Arc<dyn CredentialProvider>); 3] = [
            (profile("missing", "secret", &[]), Arc::new(missing)),
            (profile("empty", "secret", &[]), Arc::new(empty)),
            // Issues less than it is bound for, as after an issuer's own narrowing.
            (profile("wide", "local_jwt", &["read", "admin"]), Arc::new(narrow)),
        ];
        let upstreams = (0..).zip(&providers).map(|(index, (profile, _))| {
            let origins = vec![parse_origin(&format!("https://{}.example", profile.name)).unwrap()];
            let bound = vec![Arc::clone(&profile.name)];
            let sample = Upstream::clone(&samples::upstream());
            Arc::new(Upstream { index: UpstreamIndex(index), name: Arc::clone(&profile.name), origins, credentials: bound, ..sample })
        });
        let catalogue = Catalogue::new(upstreams.collect()).unwrap();
        let profiles: FxHashMap<_, _> = providers.iter().map(|(profile, _)| (Arc::clone(&profile.name), Arc::clone(profile))).collect();
        let rules = "exeat: policy/v1\nname: t\ndefaults: { owner: t@example.com, reason: test, expires: 2027-06-01T00:00:00Z }\nrules:\n".to_owned()
            + &["missing", "empty", "wide"]
                .map(|name| {
                    format!("  - {{ id: {name}, effect: allow, to: [{name}], from: [\"**\"], methods: [GET], paths: [\"/**\"], grant: {name} }}\n")
                })
                .concat();
        let rules = rules
            + "  - { id: leased, effect: allow, to: [missing], from: [\"**\"], methods: [PUT], paths: [/], grant: none, lease: { kind: task, max_ttl: 20m, max_uses: 9 } }\n";
        let files = [PolicyFile { source: Source::new("t.yaml", rules), bounds: Bounds::All }];
        let (policies, _) = compile(&files, &catalogue, &profiles, "prod.example", now()).unwrap();
        let bound: Vec<_> = profiles.values().cloned().collect();
        let strip = catalogue.all().iter().map(|upstream| Rules::of(upstream, &bound).unwrap()).collect();
        let definitions = providers.map(|(profile, provider)| Definition::new(profile, provider, &["t"]));
        let source: Arc<dyn IdentitySource> = Arc::new(Fixed::new("app", SpiffeId::parse("spiffe://prod.example/app").unwrap()));
        let snapshot = Snapshot {
            catalogue,
            strip,
            policies,
            definitions: Definitions::new(definitions),
            identities: FxHashMap::from_iter([("mesh".into(), Arc::from([source]))]),
            not_ready: None,
            ..Snapshot::empty("")
        };
        let fingerprints = Arc::new(FingerprintKey::new(&[7; 32]));
        let household = tokio::runtime::Handle::current();
        let (broker, grants) = Broker::new(Arc::clone(&clock), household, Arc::clone(&fingerprints), Limits::default());
        Self {
            gate: Gate { broker: Arc::new(broker), clock, live: Arc::new(Live::default()), fingerprints },
            snapshot,
            arrival: Arrival {
                listener: "mesh".into(),
                mode: Mode::Host,
                route: None,
                peer: Peer::Tcp { address: "127.0.0.1:40312".parse().unwrap(), uid: None },
                process: None,
                certificates: None,
                proof: None,
                tunnel: None,
                sni: None,
            },
            parts: head("GET", "/", &[("host", "missing.example")]),
            _grants: grants,
        }
    }

    async fn refuses(change: impl FnOnce(&mut Self)) -> Refusal {
        let mut world = Self::new();
        change(&mut world);
        let mut access = samples::allowed(1);
        world.gate.pass(&world.snapshot, &world.arrival, &world.parts, &mut access, |_| Ok(())).await.map(drop).unwrap_err()
    }

    async fn asked(host: &str) -> Refusal {
        Self::refuses(|world| world.parts = head("GET", "/", &[("host", host)])).await
    }
}

#[derive(Debug)]
struct Nowhere;

impl AuditSink for Nowhere {
    fn tail(&mut self) -> Result<Tail, SinkError> {
        Ok(Tail::default())
    }

    fn append(&mut self, _lines: &[u8]) -> Result<(), SinkError> {
        Ok(())
    }

    fn sync(&mut self, _now: bool) -> Result<(), SinkError> {
        Ok(())
    }
}

fn without_room() -> Refusal {
    let clock = Arc::new(ManualClock::new(now()));
    let ledger = Ledger::start(Box::new(Nowhere), |_| {}, clock, Options { outstanding: 1, ..Options::default() }).unwrap();
    let _only = ledger.reserve().unwrap();
    ledger.reserve().map(drop).unwrap_err()
}

/// Nothing is resolved: the host is an address.
fn out_of_reach(host: &str) -> Refusal {
    let clock = Arc::new(ManualClock::new(now()));
    let resolver = Resolver::new(OwnListeners::default(), clock, Box::new(|_| Ok(Vec::new())));
    let upstream = samples::upstream();
    let found = resolver.resolve(host, 443, Reach::from(&*upstream.reach), Duration::from_secs(1)).now_or_never().unwrap();
    DialError::Address { upstream: Arc::clone(&upstream.name), why: found.unwrap_err() }.refusal()
}

fn of_head(method: &str, target: &str, fields: &[(&str, &str)]) -> Refusal {
    capture::check(&head(method, target, fields), HeadLimits::default()).map(drop).unwrap_err()
}

fn dialled(error: impl FnOnce(Box<Place>) -> DialError) -> Refusal {
    let place = Place { upstream: "ledger".into(), origin: "https://ledger.example:8443".into(), address: "10.0.0.5:8443".parse().ok() };
    error(Box::new(place)).refusal()
}

async fn all() -> Vec<Refusal> {
    let host = ("host", "missing.example");
    let deep = "/a".repeat(40) + "/%2e";
    vec![
        of_head("get", "/", &[host]),
        of_head("POST", "/", &[host, ("content-length", "1"), ("transfer-encoding", "chunked")]),
        Action::read(&head("GET", &deep, &[host])).map(drop).unwrap_err(),
        World::refuses(|world| world.parts = head("GET", "/", &[])).await,
        of_head("GET", "/", &[host, ("x", &"x".repeat(70_000))]),
        of_head("GET", "/", &vec![("x", "1"); 101]),
        of_head("TRACE", "/", &[host]),
        World::refuses(|world| world.parts = head("CONNECT", "missing.example:443", &[])).await,
        World::asked("other.example").await,
        World::refuses(|world| world.arrival.mode = Mode::Forward).await,
        World::refuses(|world| world.parts = head("GET", "http://missing.example/", &[("host", "empty.example")])).await,
        World::refuses(|world| world.arrival.listener = "bare".into()).await,
        out_of_reach("169.254.169.254"),
        out_of_reach("10.0.0.5"),
        World::asked("missing.example").await,
        World::asked("empty.example").await,
        World::asked("wide.example").await,
        dialled(|place| DialError::Connect { place, why: "Connection refused (os error 111)".into() }),
        dialled(|place| DialError::Untrusted { place, name: "ledger.example".into(), why: "invalid peer certificate: Expired".into() }),
        dialled(|place| DialError::Slow { place, what: "connecting", after: Duration::from_secs(5) }),
        dialled(|place| DialError::Full { place, what: "upstream connections", most: 4096 }),
        without_room(),
        World::refuses(|world| world.snapshot.not_ready = Some("policies/app.yaml:3:1: `to` is missing".into())).await,
        World::refuses(|world| world.snapshot.strip.clear()).await,
    ]
}

#[tokio::test]
async fn what_the_operator_reads_of_every_refusal_that_is_not_policys() {
    let all = all().await;
    let shown: Vec<_> = Code::ALL.iter().filter(|code| all.iter().any(|refusal| refusal.code == **code)).collect();
    let expected: Vec<_> = Code::ALL.iter().filter(|code| !OF_POLICY.contains(code) && !RESERVED.contains(code)).collect();
    assert_eq!(shown, expected);
    let line = |refusal: &Refusal| format!("{}: {}", refusal.code.name(), refusal.detail);
    insta::assert_snapshot!(all.iter().map(line).collect::<Vec<_>>().join("\n"), @r#"
    malformed: the method is not a token of capital letters
    malformed: Content-Length and Transfer-Encoding together
    malformed: the path has more than 32 segments
    malformed: the request names no server
    head_too_large: the head has 70032 bytes, at most 65536 are taken
    head_too_large: 101 header fields, at most 100 are taken
    unsupported: TRACE sends a request's credentials back
    unsupported: CONNECT is taken on forward listeners, and not inside another CONNECT
    unlisted: https://other.example is no origin of any upstream; list it under `upstreams`
    misdirected: a forward listener takes absolute-form targets and CONNECT, not origin-form
    misdirected: Host and the request target name different servers
    unauthenticated: no identity of listener `bare` can be proven on this connection
    address_refused: upstream `ledger`: `169.254.169.254` leads to 169.254.169.254, port 443, which may not be dialled: it is a cloud metadata service, which no reach opens
    address_refused: upstream `ledger`: `10.0.0.5` leads to 10.0.0.5, port 443, which may not be dialled: it is a private address, and the upstream has no `reach`; to allow it, list its network in the upstream's `reach: { networks: [10.0.0.5/32] }`
    credential_unavailable: credential `missing` cannot be issued now: /nonexistent/vendor.key cannot be read: No such file or directory (os error 2); check path and permissions
    credential_refused: the issuer refused credential `empty`: its source is empty; write the key there
    scope_exceeded: the issuer of credential `wide` gave more than was asked: scope `admin` is not among those of the definition
    upstream_unreachable: upstream `ledger` (https://ledger.example:8443 at 10.0.0.5:8443) cannot be reached: Connection refused (os error 111); check that it listens there and that the network lets exeat through
    upstream_untrusted: upstream `ledger` (https://ledger.example:8443 at 10.0.0.5:8443) did not prove to be `ledger.example`: invalid peer certificate: Expired; check its certificate, and `tls.roots` of the upstream
    upstream_timeout: upstream `ledger` (https://ledger.example:8443 at 10.0.0.5:8443): connecting took longer than 5s
    overloaded: upstream `ledger` (https://ledger.example:8443 at 10.0.0.5:8443) was not dialled: this worker already holds 4096 upstream connections, which is its limit
    audit_unavailable: every audit slot is taken; the sink is too slow or limits.audit_queue too small
    not_ready: policies/app.yaml:3:1: `to` is missing
    internal: an upstream without strip rules
    "#);
}

/// A lease that was opened before the rule was there: none of the rule's uses is written down.
#[tokio::test]
async fn uses_that_nobody_writes_down_are_not_waited_for_without_end() {
    let mut world = World::new();
    world.parts = head("PUT", "/", &[("host", "missing.example")]);
    let workload = "spiffe://prod.example/app".to_owned();
    let opening = Opening { workload, kind: "task".into(), ttl: Duration::from_mins(10), ..Opening::default() };
    world.gate.live.leases().open_lease(opening, &[], "uid 0", now()).unwrap();
    let pass = async || {
        let mut access = samples::allowed(1);
        let passing = world.gate.pass(&world.snapshot, &world.arrival, &world.parts, &mut access, |_| Ok(()));
        tokio::time::timeout(Duration::from_secs(10), passing).await.unwrap().map(drop)
    };
    assert_eq!(pass().await.unwrap_err().code, Code::Overloaded);
    // With a household that writes, the very same request is let through.
    let household = async {
        world.gate.live.leases().wanted().await;
        world.gate.live.leases().tend(now()).unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = pass() => outcome.unwrap(),
        () = household => {}
    }
}
