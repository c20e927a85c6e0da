//! Story: workloads prove themselves to a TLS listener with X.509-SVIDs. Nobody else gets a byte of HTTP in.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::harness::exeat::{Capture, DOMAIN, Exeat, policy_head};
use crate::harness::{House, Upstream, jwt, until};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{DOMAIN}"))];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    /// A leaf with these names, good for so many seconds.
    fn leaf(&self, names: Vec<SanType>, seconds: i64) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let now = jiff::Timestamp::now().as_second();
        let date = |at: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(at).expect("a date"));
        (params.not_before, params.not_after) = (date(now - 300), date(now + seconds));
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.0).expect("a leaf");
        (vec![leaf.der().clone()], key)
    }

    fn svid(&self, account: &str, seconds: i64) -> (Vec<CertificateDer<'static>>, KeyPair) {
        self.leaf(vec![uri(&id(account))], seconds)
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).expect("a URI"))
}

fn id(account: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/it/sa/{account}")
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A client that shows this certificate, or none.
fn client(roots: &str, shown: Option<(Vec<CertificateDer<'static>>, KeyPair)>, alpn: &[&str], port: u16) -> Tls {
    use rustls::pki_types::pem::PemObject as _;
    let mut store = RootCertStore::empty();
    store.add(CertificateDer::from_pem_slice(roots.as_bytes()).expect("PEM")).expect("a root");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(store);
    let mut config = match shown {
        Some((chain, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(chain, key).expect("a certificate")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    stream.set_read_timeout(Some(crate::harness::BOUND)).expect("a bound");
    let session = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").expect("a name")).expect("a session");
    StreamOwned::new(session, stream)
}

/// Status and refusal of one request; an error where the connection gives no answer.
fn ask(tls: &mut Tls, host: &str, path: &str) -> std::io::Result<String> {
    tls.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if tls.read(&mut byte)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    tls.read_exact(&mut body)?;
    Ok(head)
}

fn write_pair(dir: &Path, authority: &Authority) {
    let (chain, key) = authority.leaf(vec![SanType::DnsName(Ia5String::try_from("localhost").expect("a name"))], 3600);
    let pem = |der: &[u8]| {
        use base64::Engine as _;
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64::engine::general_purpose::STANDARD.encode(der))
    };
    fs::write(dir.join("door.key"), key.serialize_pem()).expect("written");
    fs::write(dir.join("door.pem"), pem(&chain[0])).expect("written");
}

fn house(server: &Authority, trusted: &Authority, up: &Upstream) -> Exeat {
    let house = House::new();
    write_pair(house.path(), server);
    fs::write(house.path().join("bundle.pem"), trusted.0.pem()).expect("written");
    let policy = policy_head("base")
        .replace("from: [app]", "from: [app, two]")
        .replace("rules:", &format!("  two: {{ spiffe: \"{}\" }}\nrules:", id("two")))
        + "  - { id: all, effect: allow, to: [up], methods: [GET], paths: [\"/**\"], grant: up-jwt }\n";
    house
        .identity("mesh", "{ client_cert: { trust: { file: bundle.pem } } }")
        .listener_with("door", Capture::Host, "mesh", "tls: { certificate: door.pem, key: door.key }")
        .upstream("up", up)
        .policy("base.yaml", &policy)
        .start()
}

#[test]
fn an_svid_is_who_asks_over_both_versions() {
    let (server, trusted, up) = (Authority::new(), Authority::new(), Upstream::http());
    let exeat = house(&server, &trusted, &up);
    let (port, host) = (exeat.port("door"), up.authority());
    let mut app = client(&server.0.pem(), Some(trusted.svid("app", 600)), &["http/1.1"], port);
    let mut two = client(&server.0.pem(), Some(trusted.svid("two", 600)), &[], port);
    for at in 0..50 {
        assert!(ask(&mut app, &host, &format!("/app/{at}")).expect("an answer").starts_with("http/1.1 200"));
        assert!(ask(&mut two, &host, &format!("/two/{at}")).expect("an answer").starts_with("http/1.1 200"));
    }
    for one in up.seen() {
        let account = one.target.split('/').nth(1).expect("an account").to_owned();
        assert_eq!(jwt::claims(one.bearer().expect("a token"))["sub"], id(&account), "{}", one.target);
    }
    let record = exeat.record("one", |record| record["path"] == "/app/0");
    assert_eq!((&record["workload"]["attestation"], &record["workload"]["id"]), (&"client_cert".into(), &id("app").into()));
    assert_eq!(record["workload"]["certificate_sha256"].as_str().map(str::len), Some(64));
    let mut both = client(&server.0.pem(), Some(trusted.svid("app", 600)), &["h2", "http/1.1"], port);
    both.flush().expect("a handshake");
    while both.conn.is_handshaking() {
        both.conn.complete_io(&mut both.sock).expect("a handshake");
    }
    assert_eq!(both.conn.alpn_protocol(), Some(&b"h2"[..]));
}

#[test]
fn nobody_else_gets_a_byte_of_http_in() {
    let (server, trusted, stranger, up) = (Authority::new(), Authority::new(), Authority::new(), Upstream::http());
    let exeat = house(&server, &trusted, &up);
    let (port, host, roots) = (exeat.port("door"), up.authority(), server.0.pem());
    let named = |names: Vec<SanType>| Some(trusted.leaf(names, 600));
    let wrong = [
        (None, "it showed no certificate"),
        (Some(stranger.svid("app", 600)), "does not lead to the bundle"),
        (Some(trusted.svid("app", -60)), "the certificate has expired"),
        (named(vec![SanType::DnsName(Ia5String::try_from("app.it.test").expect("a name"))]), "names no SPIFFE ID"),
        (named(vec![uri(&id("app")), uri(&id("two"))]), "has 2 URIs"),
        (named(vec![uri(&format!("spiffe://{DOMAIN}"))]), "is no SPIFFE ID of a workload"),
        (named(vec![uri("spiffe://other.test/ns/it/sa/app")]), "no bundle of trust domain `other.test`"),
    ];
    let count = wrong.len();
    for (shown, why) in wrong {
        let mut tls = client(&roots, shown, &["http/1.1"], port);
        assert!(ask(&mut tls, &host, "/refused").is_err(), "{why}");
        let record = exeat.record(why, |record| record["detail"].as_str().is_some_and(|detail| detail.contains(why)));
        assert_eq!((&record["kind"], &record["code"]), (&"edge".into(), &"unauthenticated".into()), "{record}");
    }
    println!("vectors: {count} refused");
    // Plaintext where TLS is spoken.
    let mut plain = exeat.wire("door");
    plain.send(format!("GET /plain HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    assert!(plain.try_answer("GET").is_err());
    exeat.record("plaintext", |record| record["kind"] == "edge" && record["code"] == "malformed");
    assert!(up.seen().is_empty(), "nothing reached the upstream");
    assert!(!exeat.audit_text().contains("/refused"), "no request was read");
}

#[test]
fn a_certificate_is_asked_again_for_every_request() {
    let (server, trusted, up) = (Authority::new(), Authority::new(), Upstream::http());
    let exeat = house(&server, &trusted, &up);
    let (port, host, roots) = (exeat.port("door"), up.authority(), server.0.pem());
    let mut short = client(&roots, Some(trusted.svid("app", 4)), &["http/1.1"], port);
    assert!(ask(&mut short, &host, "/short").expect("an answer").starts_with("http/1.1 200"));
    // exeat ends the connection between two requests, before its certificate does: nobody who has a fresh one is refused for this.
    let began = std::time::Instant::now();
    while let Ok(head) = ask(&mut short, &host, "/short") {
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // The bundle is withdrawn while connections live. A request that is under way in that very moment ends with what proved it.
    let open = || client(&roots, Some(trusted.svid("two", 600)), &["http/1.1"], port);
    let mut long: Vec<Tls> = (0..4).map(|_| open()).collect();
    for tls in &mut long {
        assert!(ask(tls, &host, "/long").expect("an answer").starts_with("http/1.1 200"));
    }
    fs::write(exeat.house.path().join("bundle.pem"), Authority::new().0.pem()).expect("written");
    exeat.reload();
    until("the bundle to be withdrawn", || {
        let tls = long.last_mut().expect("one that was idle");
        match ask(tls, &host, "/withdrawn") {
            Ok(head) => head.starts_with("http/1.1 403").then_some(()),
            Err(_) => long.pop().and(None),
        }
    });
    let record = exeat.record("the withdrawal", |record| record["path"] == "/withdrawn" && record["code"] == "unauthenticated");
    assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("does not lead to the bundle")), "{record}");
}
