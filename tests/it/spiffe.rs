//! Stories: exeat is who the Workload API says that it is, at every moment, towards both sides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::exeat::{APP, Capture, DOMAIN, policy_head};
use crate::harness::spiffe::{Fault, TrustDomain, WorkloadApi};
use crate::harness::wire::request;
use crate::harness::{Exeat, House, Upstream, Wire, jwt, pki, until};

const LIFE: Duration = Duration::from_hours(1);
const APP_PATH: &str = "ns/it/sa/app";
const LEDGER: &str = "spiffe://it.test/ns/it/sa/ledger";

/// Everything at `up` without a credential of its own.
fn bare() -> String {
    policy_head("base") + "  - { id: bare, effect: allow, to: [up], methods: [\"*\"], paths: [\"/**\"], grant: none }\n"
}

fn upstream_yaml(up: &Upstream, tls: &str, more: &str) -> String {
    format!(
        "{{ owner: team@example.com, origins: [\"{}\"], reach: {{ networks: [127.0.0.0/8, \"::1/128\"] }}, tls: {{ {tls} }}{more} }}",
        up.origin()
    )
}

/// A pod of `it.test` whose Workload API denies everything until it is told otherwise.
struct Pod {
    domain: Arc<TrustDomain>,
    api: WorkloadApi,
    _dir: tempfile::TempDir,
}

impl Pod {
    fn new() -> Self {
        let dir = tempfile::TempDir::with_prefix("exeat-spiffe-").expect("a directory");
        let domain = Arc::new(TrustDomain::new(DOMAIN));
        let api = WorkloadApi::start(dir.path(), &domain);
        Self { domain, api, _dir: dir }
    }

    /// Gives the app a fresh SVID; its certificate.
    fn rotate(&self) -> Vec<u8> {
        let svid = self.domain.svid(APP_PATH, LIFE);
        self.api.give(&[(&svid, "")]);
        svid.leaf
    }

    /// An upstream of the same trust domain that demands certificates of it.
    fn mesh_upstream(&self, path: &str, alpn: &[&str]) -> Upstream {
        Upstream::https_by(TrustDomain::server(&self.domain.svid(path, LIFE), &[&self.domain], alpn))
    }

    /// A house whose listener is this pod, with the upstream `up`.
    fn house(&self, up: &Upstream, tls: &str) -> House {
        House::new()
            .identity("pod", &format!("{{ spiffe: {{ socket: \"{}\" }} }}", self.api.endpoint()))
            .listener_for("mesh", Capture::Route("up"), "pod")
            .raw_upstream("up", &upstream_yaml(up, tls, ""))
            .policy("base.yaml", &bare())
    }
}

fn get(exeat: &Exeat, path: &str) -> crate::harness::Answer {
    exeat.ask("mesh", "GET", path, "localhost", &[])
}

/// What a test does to what is served.
type Spoil<'a> = &'a dyn Fn(&mut crate::harness::spiffe::Served);

/// Waits until this certificate is what a fresh request shows; the requests before it must not fail either.
fn shows(exeat: &Exeat, up: &Upstream, certificate: &[u8]) {
    let at = AtomicU64::new(0);
    until("the new certificate to be shown", || {
        let path = format!("/shows-{}-{}", certificate.len(), at.fetch_add(1, Ordering::Relaxed));
        assert_eq!(get(exeat, &path).status, 200);
        let seen = up.seen().pop().expect("a request");
        (up.connections()[seen.connection].client.as_deref() == Some(certificate)).then_some(())
    });
}

#[test]
fn nobody_is_let_through_before_the_first_identity_and_readyz_says_so() {
    let pod = Pod::new();
    let up = pod.mesh_upstream("ns/it/sa/ledger", &["http/1.1"]);
    let exeat = pod.house(&up, &format!("client_certificate: svid, spiffe_id: \"{LEDGER}\"")).spawn();
    let text = until("the status server to say why", || {
        let ready = std::net::TcpStream::connect(("127.0.0.1", exeat.house.status_port())).ok().map(|_| exeat.status("/readyz"))?;
        (ready.status == 503 && ready.text().contains("no identity issued")).then(|| ready.text())
    });
    assert!(text.contains("[-] identity: `pod`"), "{text}");
    get(&exeat, "/early").must_refuse(503, "not_ready");
    let certificate = pod.rotate();
    exeat.ready();
    let answer = get(&exeat, "/now");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(up.connections().last().expect("a connection").client.as_deref(), Some(&*certificate));
    let record = exeat.record("the request", |record| record["http"]["path"] == "/now" || record["path"] == "/now");
    let text = record.to_string();
    assert!(text.contains(APP) && text.contains("\"spiffe\""), "{text}");
    let updated = exeat.record("the identity", |record| record["event"] == "identity_updated");
    let shown = &record["attempts"][0]["certificate_sha256"];
    assert!(shown.as_str().is_some_and(|text| text.len() == 64) && *shown == updated["certificate_sha256"], "{record} {updated}");
    assert!(exeat.metric(&["exeat_identity_expiry_timestamp_seconds", "pod"]) > 1e9);
    let served = pod.api.served();
    assert!(served.calls.iter().all(|(_, secured)| *secured), "every call carries the security header");
    assert!(up.seen().iter().all(|seen| seen.target != "/early"));
}

#[test]
fn a_rotated_certificate_is_never_used_again_and_no_request_fails() {
    let pod = Pod::new();
    let up = pod.mesh_upstream("ns/it/sa/ledger", &["h2", "http/1.1"]);
    let mut certificate = pod.rotate();
    let exeat = pod.house(&up, &format!("client_certificate: svid, spiffe_id: \"{LEDGER}\"")).start();
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..2)
        .map(|worker| {
            let (port, stop, asked) = (exeat.port("mesh"), Arc::clone(&stop), Arc::clone(&asked));
            std::thread::spawn(move || {
                let mut wire = Wire::tcp(port);
                while !stop.load(Ordering::Relaxed) {
                    let at = asked.fetch_add(1, Ordering::Relaxed);
                    let answer = wire.ask("GET", &format!("/under/{worker}/{at}"), "localhost", &[], b"");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            })
        })
        .collect();
    for turn in 0..25 {
        let updates = exeat.metric(&["exeat_identity_updates", "pod"]);
        let former = std::mem::replace(&mut certificate, pod.rotate());
        until("exeat to take the rotation", || (exeat.metric(&["exeat_identity_updates", "pod"]) > updates).then_some(()));
        let mark = format!("/after-{turn}");
        assert_eq!(get(&exeat, &mark).status, 200);
        let seen = up.wait_for(&mark);
        let shown = up.connections()[seen.connection].client.clone().expect("a certificate");
        assert_ne!(shown, former, "turn {turn}: a pooled connection of the former certificate was used");
        assert_eq!(shown, certificate);
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().expect("no request failed");
    }
    assert_eq!(get(&exeat, "/last").status, 200);
    let idle = |connection: &crate::harness::upstream::Connection| connection.client.as_deref() != Some(&*certificate);
    until("connections of former certificates to end", || {
        // A worker lets go of them when it next opens one: each asks once.
        let _asked = get(&exeat, "/sweep");
        up.connections().iter().filter(|connection| idle(connection)).all(|connection| connection.closed).then_some(())
    });
    println!("rotations: 25, requests: {}, failed: 0", asked.load(Ordering::Relaxed));
}

#[test]
fn an_upstream_may_prove_a_name_and_the_workload_api_may_be_reached_over_tcp() {
    let pod = Pod::new();
    let up = Upstream::https_by(pki::mutual(pki::authority(), &pod.domain.root, &["h2"]));
    let certificate = pod.rotate();
    let (socket, port) = (pod.api.path.clone(), crate::harness::free_port());
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("a port");
    listener.set_nonblocking(true).expect("set");
    std::thread::spawn(move || {
        crate::harness::run(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((mut near, _)) = listener.accept().await {
                let socket = socket.clone();
                tokio::spawn(async move {
                    let mut far = tokio::net::UnixStream::connect(&socket).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
    });
    let named = "client_certificate: svid, roots: { file: upstream-ca.pem }";
    let exeat = House::new()
        .identity("pod", &format!("{{ spiffe: {{ socket: \"tcp://127.0.0.1:{port}\" }} }}"))
        .listener_for("mesh", Capture::Route("up"), "pod")
        .listener_for("other", Capture::Host, "pod")
        .raw_upstream("up", &upstream_yaml(&up, named, ""))
        .policy("base.yaml", &bare())
        .start();
    assert_eq!(get(&exeat, "/named").status, 200);
    assert_eq!(up.connections().last().expect("one").client.as_deref(), Some(&*certificate));
    // The same certificate is not shown to who cannot prove the name.
    let impostor = Upstream::https_by(pki::mutual(pki::stranger(), &pod.domain.root, &["h2"]));
    let house = pod.house(&impostor, named);
    let exeat = house.start();
    get(&exeat, "/impostor").must_refuse(502, "upstream_untrusted");
    assert!(impostor.connections().iter().all(|one| one.client.is_none() && one.plain.is_empty()));
}

#[test]
fn the_right_authority_and_the_wrong_spiffe_id_get_no_byte_of_http() {
    let pod = Pod::new();
    let up = pod.mesh_upstream("ns/it/sa/impostor", &["http/1.1"]);
    pod.rotate();
    let exeat = pod.house(&up, &format!("client_certificate: svid, spiffe_id: \"{LEDGER}\"")).start();
    let answer = exeat.ask("mesh", "POST", "/secret", "localhost", &[("x-mark", "body-mark")]);
    answer.must_refuse(502, "upstream_untrusted");
    let connections = up.connections();
    assert!(!connections.is_empty() && connections.iter().all(|connection| connection.plain.is_empty()), "not one byte of HTTP");
    assert!(connections.iter().all(|connection| connection.client.is_none()), "nor exeat's certificate");
    let record = exeat.record("the refusal", |record| record.to_string().contains("upstream_untrusted"));
    let text = record.to_string();
    assert!(text.contains("did not prove to be `spiffe://it.test/ns/it/sa/ledger`") && text.contains("sa/impostor"), "{text}");
}

#[test]
fn what_is_withdrawn_ends_at_once_and_comes_back_with_the_identity() {
    let pod = Pod::new();
    let up = pod.mesh_upstream("ns/it/sa/ledger", &["http/1.1"]);
    let exeat = pod.house(&up, &format!("client_certificate: svid, spiffe_id: \"{LEDGER}\"")).spawn();
    let withdrawals: [(&str, &dyn Fn()); 3] = [
        ("PermissionDenied", &|| pod.api.change(|served| served.fault = Fault::Denied)),
        ("an empty state", &|| pod.api.change(|served| served.x509.svids.clear())),
        ("InvalidArgument", &|| pod.api.change(|served| served.fault = Fault::Invalid)),
    ];
    for (what, withdraw) in withdrawals {
        let before = up.connections().len();
        let certificate = pod.rotate();
        exeat.ready();
        assert_eq!(get(&exeat, "/back").status, 200, "{what}");
        let opened = up.seen().pop().expect("a request").connection;
        assert!(opened >= before, "{what}: a pooled connection of a certificate that was withdrawn was used");
        assert_eq!(up.connections()[opened].client.as_deref(), Some(&*certificate), "{what}");
        let mut live = exeat.wire("mesh");
        live.send(b"GET /sse/100 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = live.open_answer().expect("a head");
        assert_eq!(head.status, 200);
        live.part(&head.fields).expect("a part").expect("data");
        let began = Instant::now();
        withdraw();
        let ended = loop {
            match live.part(&head.fields) {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{what}: a stream that was cut must not look whole"),
                Err(_) => break began.elapsed(),
            }
        };
        get(&exeat, "/after").must_refuse(403, "unauthenticated");
        println!("{what}: the live stream ended after {ended:?}");
        let ready = until("readyz to say so", || Some(exeat.status("/readyz")).filter(|ready| ready.status == 503));
        assert!(ready.text().contains("[-] identity: `pod`"), "{}", ready.text());
    }
    assert!(up.matching("/after").is_empty());
}

#[test]
fn an_agent_that_is_gone_for_a_while_is_not_a_withdrawal() {
    let mut pod = Pod::new();
    let up = pod.mesh_upstream("ns/it/sa/ledger", &["http/1.1"]);
    pod.rotate();
    let exeat = pod.house(&up, &format!("client_certificate: svid, spiffe_id: \"{LEDGER}\"")).start();
    pod.api.kill();
    let warned = until("readyz to warn", || Some(exeat.status("/readyz")).filter(|ready| ready.text().contains("[!] identity")));
    assert_eq!(warned.status, 200, "{}", warned.text());
    let answer = get(&exeat, "/gone");
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), exeat.audit().pop().expect("a record"));
    let next = pod.domain.svid(APP_PATH, LIFE);
    pod.api.give(&[(&next, "")]);
    pod.api.listen();
    shows(&exeat, &up, &next.leaf);
    pod.api.change(|served| served.fault = Fault::Disconnect);
    let answer = get(&exeat, "/disconnected");
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), exeat.audit().pop().expect("a record"));
    let again = pod.rotate();
    shows(&exeat, &up, &again);
    until("the warning to go", || (!exeat.status("/readyz").text().contains("[!]")).then_some(()));
}

#[test]
fn an_agent_that_says_nothing_keeps_exeat_not_ready() {
    let pod = Pod::new();
    let up = pod.mesh_upstream("ns/it/sa/ledger", &["http/1.1"]);
    pod.api.change(|served| served.fault = Fault::Hang);
    let exeat = pod.house(&up, &format!("client_certificate: svid, spiffe_id: \"{LEDGER}\"")).spawn();
    until("a call", || (!pod.api.served().calls.is_empty()).then_some(()));
    let ready = until("readyz to say so", || {
        std::net::TcpStream::connect(("127.0.0.1", exeat.house.status_port())).ok()?;
        Some(exeat.status("/readyz")).filter(|ready| ready.text().contains("identity"))
    });
    assert!(ready.status == 503 && ready.text().contains("waiting for the first identity from unix://"), "{}", ready.text());
    get(&exeat, "/early").must_refuse(503, "not_ready");
}

#[test]
fn a_message_that_is_wrong_changes_nothing_and_an_expired_certificate_proves_nobody() {
    let pod = Pod::new();
    let up = pod.mesh_upstream("ns/it/sa/ledger", &["http/1.1"]);
    let exeat = pod.house(&up, &format!("client_certificate: svid, spiffe_id: \"{LEDGER}\"")).spawn();
    let good = pod.rotate();
    exeat.ready();
    let (other, foreign) = (pod.domain.svid(APP_PATH, LIFE), TrustDomain::new("other.test"));
    let stranger = foreign.svid("app", LIFE);
    let wrong: [(&str, Spoil<'_>); 6] = [
        ("is no DER certificate", &|served| served.x509.svids[0].x509_svid = b"certificate".to_vec()),
        ("KeyMismatch", &|served| served.x509.svids[0].x509_svid_key = other.key.clone()),
        ("no X.509 authority", &|served| served.x509.svids[0].bundle.clear()),
        ("its certificate `spiffe://it.test/ns/it/sa/app`", &|served| served.x509.svids[0].spiffe_id = format!("spiffe://{DOMAIN}/other")),
        ("does not lead to the bundle", &|served| served.x509.svids[0].bundle = foreign.root.to_vec()),
        ("no bundle of trust domain `other.test`", &|served| {
            let entry = &mut served.x509.svids[0];
            (entry.x509_svid, entry.x509_svid_key) = (stranger.leaf.clone(), stranger.key.clone());
            (entry.spiffe_id, entry.bundle) = (stranger.id.clone(), foreign.root.to_vec());
        }),
    ];
    let right = pod.api.served().x509.clone();
    for (why, spoil) in wrong {
        pod.api.change(spoil);
        let text = until(&format!("exeat to say `{why}`"), || {
            Some(exeat.status("/readyz")).filter(|ready| ready.text().contains(why)).map(|ready| (ready.status, ready.text()))
        });
        assert_eq!(text.0, 200, "{}", text.1);
        assert_eq!(get(&exeat, "/still").status, 200, "{why}");
        let seen = up.seen().pop().expect("a request");
        assert_eq!(up.connections()[seen.connection].client.as_deref(), Some(&*good), "{why}: the former certificate serves");
        pod.api.change(|served| served.x509.clone_from(&right));
    }
    until("the right message to be taken", || (!exeat.status("/readyz").text().contains("[!]")).then_some(()));
    let short = pod.domain.svid(APP_PATH, Duration::from_secs(6));
    pod.api.give(&[(&short, "")]);
    shows(&exeat, &up, &short.leaf);
    // What is under way when it ends may end without an answer.
    let refused = until("the certificate to end", || {
        let mut wire = exeat.wire("mesh");
        wire.send(&request("GET", "/late", "localhost", &[], b""));
        wire.try_answer("GET").ok().filter(|answer| answer.status != 200)
    });
    refused.must_refuse(403, "unauthenticated");
}

#[test]
fn a_jwt_svid_is_the_credential_of_the_pod_and_of_nobody_else() {
    let pod = Pod::new();
    let up = Upstream::http();
    pod.rotate();
    let policy = policy_head("base") + "  - { id: own, effect: allow, to: [up], methods: [\"*\"], paths: [\"/**\"], grant: own }\n";
    let exeat = House::new()
        .identity("pod", &format!("{{ spiffe: {{ socket: \"{}\" }} }}", pod.api.endpoint()))
        .listener_for("mesh", Capture::Route("up"), "pod")
        .listener_for("fixed", Capture::Route("up"), "app")
        .raw_upstream("up", &upstream_yaml(&up, "", ", credentials: [own]"))
        .credential("own", "{ jwt_svid: { audience: \"https://up.audience.test\" } }")
        .policy("base.yaml", &policy)
        .start();
    until("the JWT keys to be there", || (get(&exeat, "/first").status == 200).then_some(()));
    for at in 0..20 {
        assert_eq!(exeat.ask("mesh", "GET", &format!("/own-{at}"), "localhost", &[("authorization", "Bearer of-the-app")]).status, 200);
    }
    let tokens: Vec<String> = up.matching("/own-").iter().filter_map(|seen| seen.bearer().map(str::to_owned)).collect();
    assert_eq!(tokens.len(), 20);
    assert!(tokens.iter().all(|token| *token == tokens[0]), "one token serves all");
    let claims: Value = jwt::claims(&tokens[0]);
    assert_eq!((claims["sub"].as_str(), claims["aud"].clone()), (Some(APP), serde_json::json!(["https://up.audience.test"])));
    let asked = pod.api.served().calls.iter().filter(|(path, _)| path.ends_with("FetchJWTSVID")).count();
    println!("tokens asked for: {asked}");
    // The same SPIFFE ID, given by the configuration: it is not the pod, whatever its name.
    let before = up.count();
    exeat.ask("fixed", "GET", "/fixed", "localhost", &[]).must_refuse(503, "credential_unavailable");
    assert_eq!(up.count(), before);
    assert!(!exeat.audit_text().contains(&tokens[0]) && !exeat.output().contains(&tokens[0]));
}

#[test]
fn a_token_of_more_audiences_than_one_is_never_put_on() {
    let pod = Pod::new();
    let up = Upstream::http();
    pod.rotate();
    let policy = policy_head("base") + "  - { id: own, effect: allow, to: [up], methods: [\"*\"], paths: [\"/**\"], grant: own }\n";
    let exeat = House::new()
        .identity("pod", &format!("{{ spiffe: {{ socket: \"{}\" }} }}", pod.api.endpoint()))
        .listener_for("mesh", Capture::Route("up"), "pod")
        .raw_upstream("up", &upstream_yaml(&up, "", ", credentials: [own]"))
        .credential("own", "{ jwt_svid: { audience: \"https://up.audience.test\" } }")
        .policy("base.yaml", &policy)
        .start();
    pod.api.served().fault = Fault::TwoAudiences;
    let answer = until("the keys to be there", || {
        let answer = get(&exeat, "/two");
        (answer.refusal() == Some("scope_exceeded")).then_some(answer)
    });
    answer.must_refuse(502, "scope_exceeded");
    assert_eq!(up.count(), 0);
}

#[test]
fn another_workloads_listener_never_shows_the_pods_certificate() {
    let pod = Pod::new();
    let up = pod.mesh_upstream("ns/it/sa/ledger", &["http/1.1"]);
    pod.rotate();
    let exeat =
        pod.house(&up, &format!("client_certificate: svid, spiffe_id: \"{LEDGER}\"")).listener_for("other", Capture::Host, "app").start();
    assert_eq!(get(&exeat, "/pod").status, 200);
    let host = up.authority();
    exeat.ask("other", "GET", "/other", &host, &[]).must_refuse(503, "credential_unavailable");
    assert!(up.matching("/other").is_empty());
}

#[test]
fn a_reload_leaves_the_stream_alone_and_hints_and_federation_are_live() {
    let pod = Pod::new();
    let foreign = TrustDomain::new("partner.test");
    let partner = foreign.svid("ns/x/sa/ledger", LIFE);
    let up = Upstream::https_by(TrustDomain::server(&partner, &[&pod.domain], &["http/1.1"]));
    let (internal, external) = (pod.domain.svid("ns/it/sa/internal", LIFE), pod.domain.svid(APP_PATH, LIFE));
    let twin = pod.domain.svid("ns/it/sa/twin", LIFE);
    pod.api.change(|served| drop(served.x509.federated_bundles.insert("spiffe://partner.test".to_owned(), foreign.root.to_vec())));
    pod.api.give(&[(&internal, "internal"), (&external, "external"), (&twin, "external")]);
    let tls = format!("client_certificate: svid, spiffe_id: \"{}\"", partner.id);
    let exeat = House::new()
        .identity("pod", "{ spiffe: { hint: external } }")
        .env("SPIFFE_ENDPOINT_SOCKET", &pod.api.endpoint())
        .listener_for("mesh", Capture::Route("up"), "pod")
        .raw_upstream("up", &upstream_yaml(&up, &tls, ""))
        .policy("base.yaml", &bare())
        .start();
    assert_eq!(get(&exeat, "/federated").status, 200);
    assert_eq!(up.connections().last().expect("one").client.as_deref(), Some(&*external.leaf), "of two with one hint the first");
    let streams = |pod: &Pod| pod.api.served().calls.iter().filter(|(path, _)| path.ends_with("FetchX509SVID")).count();
    let before = streams(&pod);
    for _ in 0..3 {
        let reloads = exeat.audit().iter().filter(|record| record["event"] == "reload").count();
        exeat.reload();
        until("the reload", || (exeat.audit().iter().filter(|record| record["event"] == "reload").count() > reloads).then_some(()));
    }
    assert_eq!(streams(&pod), before, "no new stream");
    assert_eq!(get(&exeat, "/after-reload").status, 200);
    // A bundle that is absent is trusted no more, by the very next handshake and by no pooled connection.
    pod.api.change(|served| served.x509.federated_bundles.clear());
    let refused = until("the partner to be distrusted", || Some(get(&exeat, "/gone")).filter(|answer| answer.status != 200));
    refused.must_refuse(502, "upstream_untrusted");
}
