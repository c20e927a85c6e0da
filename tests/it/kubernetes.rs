//! Story: pods prove themselves with projected tokens. The cluster's API server is a fake for its faults; the tokens are signed as a
//! cluster signs them, and the clients are unmodified.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use crate::harness::exeat::{Capture, DOMAIN, Exeat, policy_head};
use crate::harness::{Answer, House, Upstream, Wire, jwt, skipped, until};

const AUDIENCE: &str = "exeat.it.test";
const POD: &str = "6b2f7a0e-8d1c-4c57-9a51-0d2f7c3b9e11";

/// A key of the cluster.
struct Key {
    kid: &'static str,
    pair: KeyPair,
}

impl Key {
    fn new(kid: &'static str) -> Self {
        Self { kid, pair: KeyPair::generate().expect("a key") }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.der_bytes();
        let (x, y) = (&point[1..33], &point[33..65]);
        json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
                "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.kid.to_owned());
        encode(&header, claims, &EncodingKey::from_ec_pem(self.pair.serialize_pem().as_bytes()).expect("a key")).expect("signed")
    }
}

#[derive(Default)]
struct Inner {
    keys: Vec<Value>,
    down: bool,
    /// What the discovery document says of itself, when not the truth.
    names: Option<String>,
    asked: usize,
    bearers: Vec<String>,
}

/// What exeat asks of a cluster: discovery and keys.
struct Cluster {
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

impl Cluster {
    fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let inner = Arc::new(Mutex::new(Inner { keys: keys.iter().map(|key| key.jwk()).collect(), ..Inner::default() }));
        let shared = Arc::clone(&inner);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
                let mut head = Vec::new();
                loop {
                    let mut line = String::new();
                    match reader.read_line(&mut line) {
                        Ok(read) if read > 2 => head.push(line.trim_end().to_owned()),
                        Ok(_) | Err(_) => break,
                    }
                }
                let Some(target) = head.first().and_then(|line| line.split(' ').nth(1)) else { continue };
                let mut inner = shared.lock().expect("the cluster");
                inner.asked += 1;
                let bearer = head.iter().find_map(|line| line.strip_prefix("authorization: Bearer "));
                inner.bearers.extend(bearer.map(str::to_owned));
                let own = format!("http://{address}");
                let (status, body) = match target {
                    _ if inner.down => (503, "down".to_owned()),
                    "/.well-known/openid-configuration" => {
                        let issuer = inner.names.clone().unwrap_or_else(|| own.clone());
                        (200, json!({ "issuer": issuer, "jwks_uri": format!("{own}/openid/v1/jwks") }).to_string())
                    }
                    "/openid/v1/jwks" => (200, json!({ "keys": inner.keys }).to_string()),
                    _ => (404, String::new()),
                };
                drop(inner);
                let _sent = write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            }
        });
        Self { address, inner }
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    fn set(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock().expect("the cluster"));
    }

    fn asked(&self) -> usize {
        self.inner.lock().expect("the cluster").asked
    }

    /// Claims as the `TokenRequest` API makes them.
    fn claims(&self, account: &str, seconds: i64) -> Value {
        let now = jiff::Timestamp::now().as_second();
        json!({
            "iss": self.issuer(), "aud": [AUDIENCE], "sub": format!("system:serviceaccount:it:{account}"),
            "iat": now, "nbf": now, "exp": now + seconds, "jti": format!("jti-{account}"),
            "kubernetes.io": {
                "namespace": "it",
                "serviceaccount": { "name": account, "uid": "a" },
                "pod": { "name": format!("{account}-0"), "uid": POD },
                "node": { "name": "node-1", "uid": "n" },
            },
        })
    }

    fn identity(&self) -> String {
        format!("{{ kubernetes: {{ issuer: \"{}\", audience: {AUDIENCE} }} }}", self.issuer())
    }
}

fn policy() -> String {
    let identities = ["app", "two"].map(|name| format!("  {name}: {{ k8s: {{ namespace: it, service_account: {name} }} }}\n")).concat();
    let head = policy_head("base").replace("from: [app]", "from: [app, two]");
    let (head, _) = head.split_once("identities:").expect("identities");
    let rules = [
        "{ id: plain, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], grant: up-jwt }",
        "{ id: inside, effect: allow, to: [tls], methods: [GET], paths: [\"/**\"], grant: tls-jwt }",
        "{ id: pod, effect: deny, to: [up], methods: [GET], paths: [/other-pod], when: \"has(source.pod) && source.pod != 'x'\" }",
    ];
    format!("{head}identities:\n{identities}rules:\n{}", rules.map(|rule| format!("  - {rule}\n")).concat())
}

fn ask(exeat: &Exeat, up: &Upstream, path: &str, authorization: &[&str]) -> Answer {
    let fields: Vec<(&str, &str)> = authorization.iter().map(|value| ("Proxy-Authorization", *value)).collect();
    let host = up.authority();
    exeat.wire("egress").ask("GET", &format!("http://{host}{path}"), &host, &fields, b"")
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn subject(account: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/it/sa/{account}")
}

#[test]
fn a_projected_token_is_who_asks_and_goes_nowhere() {
    let key = Key::new("cluster-1");
    let (cluster, up) = (Cluster::start(&[&key]), Upstream::http());
    let tls = Upstream::https();
    let exeat = House::new()
        .identity("pods", &cluster.identity())
        .listener_for("egress", Capture::Forward, "pods")
        .upstream("up", &up)
        .upstream("tls", &tls)
        .policy("base.yaml", &policy())
        .start();
    let (app, two) = (key.sign(&cluster.claims("app", 600)), key.sign(&cluster.claims("two", 600)));
    // What HTTP clients make of http://x:TOKEN@host, and the plain form.
    let basic = format!("Basic {}", STANDARD.encode(format!("x:{app}")));
    assert_eq!(ask(&exeat, &up, "/basic", &[&basic]).status, 200);
    assert_eq!(ask(&exeat, &up, "/bearer", &[&bearer(&two)]).status, 200);
    let seen = up.seen();
    assert_eq!(jwt::claims(seen[0].bearer().expect("a token"))["sub"], subject("app"));
    assert_eq!(jwt::claims(seen[1].bearer().expect("a token"))["sub"], subject("two"));
    let record = exeat.record("basic", |record| record["path"] == "/basic");
    assert_eq!(record["workload"]["attestation"], "kubernetes");
    assert_eq!((&record["workload"]["pod"], &record["workload"]["pod_uid"]), (&json!("app-0"), &json!(POD)));
    assert_eq!((&record["workload"]["node"], &record["workload"]["token_id"]), (&json!("node-1"), &json!("jti-app")));
    assert_eq!(record["findings"], Value::Null, "a proof for exeat is no static credential: {record}");
    ask(&exeat, &up, "/other-pod", &[&bearer(&app)]).must_refuse(403, "denied");

    // Two workloads on one kept-alive connection: each request is its own.
    let host = up.authority();
    let mut wire = exeat.wire("egress");
    for (at, (token, account)) in [(&app, "app"), (&two, "two"), (&app, "app")].into_iter().enumerate() {
        let path = format!("/turn/{at}");
        let answer = wire.ask("GET", &format!("http://{host}{path}"), &host, &[("Proxy-Authorization", &bearer(token))], b"");
        assert_eq!(answer.status, 200);
        let one = up.seen().into_iter().find(|one| one.target == path).expect("arrived");
        assert_eq!(jwt::claims(one.bearer().expect("a token"))["sub"], subject(account));
    }

    // No proof, two of them, a bad one: each asks for one, and nothing else is tried.
    let several = [bearer(&app), bearer(&two)];
    for proofs in [vec![], several.iter().map(String::as_str).collect(), vec!["Basic eDp5"], vec!["Digest x"]] {
        let answer = ask(&exeat, &up, "/unproven", &proofs);
        answer.must_refuse(407, "unauthenticated");
        let challenge = answer.fields.get("proxy-authenticate").expect("a challenge").to_owned();
        assert!(challenge.starts_with("Basic realm=\"exeat\""), "{challenge}");
    }
    assert!(up.seen().iter().all(|one| one.target != "/unproven"));

    // An unmodified client with the usual variable.
    let curl = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{host}/curl")])
        .env("http_proxy", format!("http://x:{app}@127.0.0.1:{}", exeat.port("egress")))
        .output();
    match curl {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "200"),
        Err(_) => skipped("curl not present"),
    }
    let everything = up.seen().iter().map(crate::harness::Seen::text).collect::<String>() + &exeat.output() + &exeat.audit_text();
    for token in [&app, &two] {
        let signature = token.rsplit('.').next().expect("a signature");
        assert!(!everything.contains(signature) && !everything.contains(&STANDARD.encode(format!("x:{token}"))), "a token got out");
    }
}

/// Opens a tunnel with a token, and TLS inside.
fn tunnel(exeat: &Exeat, tls: &Upstream, token: &str) -> Wire {
    let authority = tls.authority();
    let mut wire = exeat.wire("egress");
    let basic = STANDARD.encode(format!("x:{token}"));
    wire.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Basic {basic}\r\n\r\n").as_bytes());
    assert_eq!(wire.answer("CONNECT").status, 200);
    wire.tls("localhost", &exeat.ca(), &["http/1.1"]).expect("TLS inside the tunnel")
}

#[test]
fn the_proof_of_a_connect_is_that_of_all_inside_until_it_expires() {
    let key = Key::new("cluster-1");
    let (cluster, tls, up) = (Cluster::start(&[&key]), Upstream::https(), Upstream::http());
    let exeat = House::new()
        .identity("pods", &cluster.identity())
        .listener_for("egress", Capture::Forward, "pods")
        .upstream("up", &up)
        .upstream("tls", &tls)
        .policy("base.yaml", &policy())
        .start();
    let other = key.sign(&cluster.claims("two", 600));
    let mut refused = exeat.wire("egress").try_connect(&tls.authority());
    refused.must_refuse(407, "unauthenticated");
    let mut wire = tunnel(&exeat, &tls, &key.sign(&cluster.claims("app", 600)));
    // What is said inside is not for exeat: it makes nobody another.
    let host = tls.authority();
    let answer = wire.ask("GET", "/inside", &host, &[("Proxy-Authorization", &bearer(&other))], b"");
    assert_eq!(answer.status, 200);
    let one = tls.seen().into_iter().find(|one| one.target == "/inside").expect("arrived");
    assert_eq!(jwt::claims(one.bearer().expect("a token"))["sub"], subject("app"));
    assert!(!one.text().contains(&other));

    let mut wire = tunnel(&exeat, &tls, &key.sign(&cluster.claims("app", 3)));
    refused = until("the proof of the tunnel to end", || {
        let answer = wire.ask("GET", "/while", &host, &[], b"");
        (answer.status != 200).then_some(answer)
    });
    // To the client inside, exeat is the origin: a 407 would make no sense there.
    refused.must_refuse(403, "unauthenticated");
    assert!(refused.fields.get("proxy-authenticate").is_none());
    // The first may have been let in just before the end, and stopped just before it was sent; the next says when the token expired.
    wire.ask("GET", "/behind", &host, &[], b"").must_refuse(403, "unauthenticated");
    let record = exeat.record("the end", |record| record["path"] == "/behind" && record["code"] == "unauthenticated");
    assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("the token expired at")), "{record}");
}

#[test]
fn keys_rotate_outages_pass_and_a_withdrawn_key_proves_nothing() {
    let (old, new, forged) = (Key::new("old"), Key::new("new"), Key::new("made-up"));
    let (cluster, up) = (Cluster::start(&[&old]), Upstream::http());
    let tls = Upstream::https();
    let exeat = House::new()
        .identity("pods", &cluster.identity())
        .listener_for("egress", Capture::Forward, "pods")
        .upstream("up", &up)
        .upstream("tls", &tls)
        .policy("base.yaml", &policy())
        .start();
    let first = bearer(&old.sign(&cluster.claims("app", 600)));
    assert_eq!(ask(&exeat, &up, "/first", &[&first]).status, 200);
    let asked = cluster.asked();
    // An outage: what is known goes on proving, also tokens that were not seen before.
    cluster.set(|inner| inner.down = true);
    assert_eq!(ask(&exeat, &up, "/outage", &[&bearer(&old.sign(&cluster.claims("two", 600)))]).status, 200);
    // Made-up keys cannot make exeat ask without end.
    for _ in 0..20 {
        ask(&exeat, &up, "/forged", &[&bearer(&forged.sign(&cluster.claims("app", 600)))]).must_refuse(407, "unauthenticated");
    }
    assert!(cluster.asked() <= asked + 1, "asked {} times", cluster.asked() - asked);
    // A new key: the request that brings it first waits for it. The old one is withdrawn with all that it signed.
    cluster.set(|inner| (inner.down, inner.keys) = (false, vec![new.jwk()]));
    let fresh = bearer(&new.sign(&cluster.claims("app", 600)));
    until("the new key to be known", || (ask(&exeat, &up, "/rotated", &[&fresh]).status == 200).then_some(()));
    ask(&exeat, &up, "/withdrawn", &[&first]).must_refuse(407, "unauthenticated");
    let record = exeat.record("the withdrawn key", |record| record["path"] == "/withdrawn");
    assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("kid is unknown")), "{record}");
}

#[test]
fn an_issuer_that_cannot_be_asked_is_not_the_callers_fault() {
    let key = Key::new("cluster-1");
    let (cluster, up) = (Cluster::start(&[&key]), Upstream::http());
    cluster.set(|inner| inner.names = Some("https://another.test".to_owned()));
    let tls = Upstream::https();
    let house = House::new();
    let reader = house.path().join("reader.token");
    std::fs::write(&reader, "reader-token\n").expect("written");
    let identity =
        format!("{{ kubernetes: {{ issuer: \"{}\", audience: {AUDIENCE}, keys: {{ token_file: reader.token }} }} }}", cluster.issuer());
    let exeat = house
        .identity("pods", &identity)
        .listener_for("egress", Capture::Forward, "pods")
        .upstream("up", &up)
        .upstream("tls", &tls)
        .policy("base.yaml", &policy())
        .start();
    let token = bearer(&key.sign(&cluster.claims("app", 600)));
    ask(&exeat, &up, "/early", &[&token]).must_refuse(503, "not_ready");
    let record = exeat.record("the early request", |record| record["path"] == "/early");
    assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("names another issuer")), "{record}");
    cluster.set(|inner| inner.names = None);
    until("the keys to be known", || (ask(&exeat, &up, "/later", &[&token]).status == 200).then_some(()));
    cluster.set(|inner| assert!(inner.bearers.iter().all(|bearer| bearer == "reader-token") && !inner.bearers.is_empty()));
}

#[test]
fn a_token_that_is_mounted_beside_exeat_makes_every_caller_that_pod() {
    let key = Key::new("cluster-1");
    let (cluster, up) = (Cluster::start(&[&key]), Upstream::http());
    let house = House::new();
    let mounted = house.path().join("token");
    std::fs::write(&mounted, key.sign(&cluster.claims("app", 600))).expect("written");
    let keys = house.path().join("jwks.json");
    std::fs::write(&keys, json!({ "keys": [key.jwk()] }).to_string()).expect("written");
    let identity = format!(
        "{{ kubernetes: {{ issuer: \"{}\", audience: {AUDIENCE}, keys: {{ file: jwks.json }}, token_file: token, node: node-1 }} }}",
        cluster.issuer()
    );
    let tls = Upstream::https();
    let exeat = house
        .identity("pod", &identity)
        .listener_for("mesh", Capture::Host, "pod")
        .upstream("up", &up)
        .upstream("tls", &tls)
        .policy("base.yaml", &policy())
        .start();
    let ask = |path: &str| exeat.ask("mesh", "GET", path, &up.authority(), &[]);
    assert_eq!(ask("/mounted").status, 200);
    assert_eq!(cluster.asked(), 0, "keys of a file are not asked for");
    let fresh = exeat.house.path().join("token.new");
    std::fs::write(&fresh, key.sign(&cluster.claims("two", 600))).expect("written");
    std::fs::rename(&fresh, &mounted).expect("renamed");
    until("the renewed token to be read", || {
        assert_eq!(ask("/renewed").status, 200);
        let last = up.seen().pop().expect("arrived");
        (jwt::claims(last.bearer().expect("a token"))["sub"] == subject("two")).then_some(())
    });
}

#[test]
fn a_lease_for_one_pod_is_of_no_use_to_its_sibling() {
    const SIBLING: &str = "0b2f7a0e-8d1c-4c57-9a51-0d2f7c3b9e22";
    let key = Key::new("cluster-1");
    let (cluster, up) = (Cluster::start(&[&key]), Upstream::http());
    let leased = "{ id: plain, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], grant: up-jwt, lease: { kind: release, max_ttl: 20m, bind: [pod_uid] } }";
    let (head, _) = policy().split_once("rules:").map(|(head, rest)| (head.to_owned(), rest.to_owned())).expect("rules");
    let exeat = House::new()
        .identity("pods", &cluster.identity())
        .listener_for("egress", Capture::Forward, "pods")
        .listener_for("fixed", Capture::Route("up"), "app")
        .upstream("up", &up)
        .policy("base.yaml", &format!("{head}rules:\n  - {leased}\n"))
        .admin()
        .start();
    let sibling = {
        let mut claims = cluster.claims("app", 600);
        claims["kubernetes.io"]["pod"] = json!({ "name": "app-1", "uid": SIBLING });
        bearer(&key.sign(&claims))
    };
    let app = bearer(&key.sign(&cluster.claims("app", 600)));
    ask(&exeat, &up, "/early", &[&app]).must_refuse(403, "lease_missing");
    let words = ["open", "--workload", &subject("app"), "--kind", "release", "--ttl", "20m", "--pod-uid", POD, "--json"];
    let opened = crate::leases::lease(&exeat, &words);
    let told: Value = serde_json::from_slice(&opened.stdout).expect("a JSON document");
    assert_eq!(told["pod_uid"], POD, "{told}");
    assert_eq!(ask(&exeat, &up, "/own", &[&app]).status, 200);
    ask(&exeat, &up, "/sibling", &[&sibling]).must_refuse(403, "lease_missing");
    let record = exeat.record("the opening", |record| record["lease_kind"] == "release");
    assert_eq!(record["pod_uid"], POD, "{record}");
    let wrong =
        crate::leases::lease(&exeat, &["open", "--workload", &subject("app"), "--kind", "release", "--ttl", "20m", "--pod-uid", "app-0"]);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("kubectl get pod"), "{wrong:?}");
    assert_eq!(up.count(), 1);
}
