//! Stories: a TLS listener that lives on the Workload API: what it shows and whom it trusts is what the Workload API says at that moment.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::exeat::{APP, Capture, DOMAIN, policy_head};
use crate::harness::spiffe::{Fault, Svid, TrustDomain, WorkloadApi};
use crate::harness::{Answer, Exeat, House, Upstream, Wire, until};

const LIFE: Duration = Duration::from_hours(1);
const APP_PATH: &str = "ns/it/sa/app";
const GATE_PATH: &str = "ns/it/sa/gate";
const GATE: &str = "spiffe://it.test/ns/it/sa/gate";
const PARTNER: &str = "spiffe://partner.test/ns/it/sa/app";

/// A gateway of `it.test` with a Workload API of its own, and callers that are somebody else.
struct Mesh {
    domain: Arc<TrustDomain>,
    api: WorkloadApi,
    _dir: tempfile::TempDir,
}

impl Mesh {
    fn new() -> Self {
        let dir = tempfile::TempDir::with_prefix("exeat-mesh-").expect("a directory");
        let domain = Arc::new(TrustDomain::new(DOMAIN));
        let api = WorkloadApi::start(dir.path(), &domain);
        Self { domain, api, _dir: dir }
    }

    /// Gives the gateway a fresh SVID; its certificate.
    fn rotate(&self) -> Vec<u8> {
        let svid = self.domain.svid(GATE_PATH, LIFE);
        self.api.give(&[(&svid, "")]);
        svid.leaf
    }

    /// Trusts these authorities for the gateway's own trust domain.
    fn trust(&self, authorities: &[&TrustDomain]) {
        let bundle: Vec<u8> = authorities.iter().flat_map(|authority| authority.root.to_vec()).collect();
        self.api.change(|served| served.x509.svids[0].bundle = bundle);
    }

    fn house(&self, up: &Upstream) -> House {
        let policy = policy_head("base")
            .replace("from: [app]", "from: [app, partner]")
            .replace("rules:", &format!("  partner: {{ spiffe: \"{PARTNER}\" }}\nrules:"))
            + "  - { id: all, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], grant: none }\n";
        House::new()
            .identity("mesh", &format!("{{ client_cert: {{ trust: {{ workload_api: {{ socket: \"{}\" }} }} }} }}", self.api.endpoint()))
            .listener_with("door", Capture::Route("up"), "mesh", "tls: { svid: mesh }")
            .upstream("up", up)
            .policy("base.yaml", &policy)
    }

    /// A connection that shows this SVID and demands the gateway's.
    fn call(&self, exeat: &Exeat, svid: &Svid) -> io::Result<Wire> {
        Wire::tcp(exeat.port("door")).secured("exeat.invalid", self.domain.client(svid, GATE, &["http/1.1"]))
    }
}

fn ask(wire: &mut Wire, path: &str) -> io::Result<Answer> {
    wire.try_send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
    wire.try_answer("GET")
}

/// Waits until exeat has taken what it was told.
fn taken(exeat: &Exeat, tell: impl FnOnce()) {
    let updates = exeat.metric(&["exeat_identity_updates", "mesh"]);
    tell();
    until("exeat to take the news", || (exeat.metric(&["exeat_identity_updates", "mesh"]) > updates).then_some(()));
}

#[test]
fn certificates_and_authorities_rotate_under_load_and_no_request_fails() {
    let (mesh, up) = (Mesh::new(), Upstream::http());
    mesh.rotate();
    let exeat = mesh.house(&up).start();
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..2)
        .map(|caller| {
            let mut wire = mesh.call(&exeat, &mesh.domain.svid(APP_PATH, LIFE)).expect("a connection").within(Duration::from_mins(2));
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let at = asked.fetch_add(1, Ordering::Relaxed);
                    let answer = ask(&mut wire, &format!("/load/{caller}/{at}")).expect("an answer");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            })
        })
        .collect();
    for turn in 0..25 {
        let mut shown = Vec::new();
        taken(&exeat, || shown = mesh.rotate());
        let mut wire = mesh.call(&exeat, &mesh.domain.svid(APP_PATH, LIFE)).expect("a connection");
        assert_eq!(wire.certificate().as_deref(), Some(&*shown), "turn {turn}: the handshake shows the SVID of that moment");
        assert_eq!(ask(&mut wire, &format!("/turn/{turn}")).expect("an answer").status, 200);
    }
    // The authority changes: first both are trusted, then the new one alone.
    let next = TrustDomain::new(DOMAIN);
    let (by_former, by_next) = (mesh.domain.svid(APP_PATH, LIFE), next.svid(APP_PATH, LIFE));
    let mut wire = mesh.call(&exeat, &by_next).expect("TLS 1.3 tells its refusal late");
    assert!(ask(&mut wire, "/early").is_err(), "an authority that nobody has named");
    taken(&exeat, || mesh.trust(&[&mesh.domain, &next]));
    let mut by_next = mesh.call(&exeat, &by_next).expect("a connection");
    assert_eq!(ask(&mut by_next, "/next").expect("an answer").status, 200);
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.join().expect("no request failed");
    }
    println!("mesh: 25 rotations of the listener's SVID and one of the authority, requests: {}, failed: 0", asked.load(Ordering::Relaxed));
    let mut former = mesh.call(&exeat, &by_former).expect("a connection");
    assert_eq!(ask(&mut former, "/former").expect("an answer").status, 200);
    taken(&exeat, || {
        let own = next.svid(GATE_PATH, LIFE);
        mesh.api.change(|served| {
            let entry = &mut served.x509.svids[0];
            (entry.x509_svid, entry.x509_svid_key, entry.bundle) = (own.leaf, own.key, next.root.to_vec());
        });
    });
    ask(&mut former, "/gone").expect("an answer").must_refuse(403, "unauthenticated");
    assert_eq!(ask(&mut by_next, "/stays").expect("an answer").status, 200);
    assert!(up.matching("/early").is_empty() && up.matching("/gone").is_empty());
    let record = exeat.record("the refusal", |record| record["path"] == "/gone");
    assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("does not lead to the bundle")), "{record}");
}

/// Opens a stream that would not end by itself; its time of ending after `withdraw`.
fn cut(mut wire: Wire, withdraw: impl FnOnce()) -> Duration {
    wire.send(b"GET /sse/1000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = wire.open_answer().expect("a head");
    assert_eq!(head.status, 200);
    wire.part(&head.fields).expect("a part").expect("data");
    let began = Instant::now();
    withdraw();
    loop {
        match wire.part(&head.fields) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream that was cut must not look whole"),
            Err(_) => return began.elapsed(),
        }
    }
}

#[test]
fn a_bundle_that_is_withdrawn_ends_what_it_vouched_for() {
    let (mesh, up) = (Mesh::new(), Upstream::http());
    let partner = TrustDomain::new("partner.test");
    let federate = || drop(mesh.api.served().x509.federated_bundles.insert("spiffe://partner.test".to_owned(), partner.root.to_vec()));
    mesh.rotate();
    let exeat = mesh.house(&up).start();
    let (foreign, own) = (partner.svid(APP_PATH, LIFE), mesh.domain.svid(APP_PATH, LIFE));
    let mut early = mesh.call(&exeat, &foreign).expect("TLS 1.3 tells its refusal late");
    assert!(ask(&mut early, "/unfederated").is_err());
    exeat.record("the refusal", |record| {
        record["detail"].as_str().is_some_and(|why| why.contains("no bundle of trust domain `partner.test`"))
    });
    let mut stays = mesh.call(&exeat, &own).expect("a connection");
    let mut longest = Duration::ZERO;
    for turn in 0..3 {
        federate();
        taken(&exeat, || drop(mesh.rotate()));
        let mut idle = mesh.call(&exeat, &foreign).expect("a connection");
        assert_eq!(ask(&mut idle, "/federated").expect("an answer").status, 200);
        let live = mesh.call(&exeat, &foreign).expect("a connection");
        let ended = cut(live, || mesh.api.change(|served| served.x509.federated_bundles.clear()));
        longest = longest.max(ended);
        let refused = ask(&mut idle, &format!("/withdrawn-{turn}")).expect("an answer");
        refused.must_refuse(403, "unauthenticated");
        assert_eq!(ask(&mut stays, "/stays").expect("an answer").status, 200, "who is still vouched for goes on");
    }
    println!("mesh: a bundle withdrawn 3 times, live streams ended after {longest:?} at most");
    assert!(longest < Duration::from_millis(100), "{longest:?}");
    assert!(up.matching("/withdrawn").is_empty() && up.matching("/unfederated").is_empty());
    let record = exeat.record("the request", |record| record["path"] == "/federated");
    assert_eq!((record["workload"]["id"].as_str(), record["workload"]["attestation"].as_str()), (Some(PARTNER), Some("client_cert")));
}

#[test]
fn without_an_identity_of_its_own_the_door_is_shut() {
    let (mesh, up) = (Mesh::new(), Upstream::http());
    let exeat = mesh.house(&up).spawn();
    let own = mesh.domain.svid(APP_PATH, LIFE);
    until("readyz to say why", || Some(exeat.try_status("/readyz")?.text()).filter(|text| text.contains("[-] identity: `mesh`")));
    assert!(mesh.call(&exeat, &own).is_err(), "nothing to show");
    let record = exeat.record("the refusal", |record| record["kind"] == "edge");
    assert_eq!(record["code"], "not_ready", "{record}");
    mesh.rotate();
    exeat.ready();
    let mut idle = mesh.call(&exeat, &own).expect("a connection");
    assert_eq!(ask(&mut idle, "/now").expect("an answer").status, 200);
    let record = exeat.record("the request", |record| record["path"] == "/now");
    assert_eq!(record["workload"]["id"], APP, "{record}");
    let ended = cut(mesh.call(&exeat, &own).expect("a connection"), || mesh.api.change(|served| served.fault = Fault::Denied));
    println!("mesh: exeat's own identity withdrawn, the live stream ended after {ended:?}");
    assert!(ended < Duration::from_millis(100), "{ended:?}");
    ask(&mut idle, "/denied").expect("an answer").must_refuse(403, "unauthenticated");
    let updated = exeat.record("the identity", |record| record["event"] == "identity_updated");
    assert_eq!((&updated["identity"], &updated["id"], &updated["trusts"]), (&"mesh".into(), &GATE.into(), &DOMAIN.into()));
    assert!(updated["serial"].as_str().is_some_and(|serial| serial.len() >= 2) && updated["expires"].is_string(), "{updated}");
    let withdrawn = exeat.record("its withdrawal", |record| record["event"] == "identity_withdrawn");
    assert_eq!((&withdrawn["identity"], &withdrawn["id"]), (&"mesh".into(), &GATE.into()));
    assert!(withdrawn["reason"].as_str().is_some_and(|why| why.contains("no identity issued")), "{withdrawn}");
    assert!(mesh.call(&exeat, &own).is_err());
    assert!(up.matching("/denied").is_empty());
}
