//! A trust domain of the tests, and a Workload API that does what it is told. Both are written from the standards, not from exeat's code.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use exeat::jose::{Algorithm, SigningKey};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

/// The authorities of one trust domain.
pub struct TrustDomain {
    pub name: String,
    pub root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    jwt: SigningKey,
}

/// An X.509-SVID with its key.
#[derive(Clone)]
pub struct Svid {
    pub id: String,
    pub leaf: Vec<u8>,
    pub key: Vec<u8>,
}

impl TrustDomain {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{name}").try_into().expect("a URI"))];
        let root = params.self_signed(&key).expect("root");
        let (jwt, _) = SigningKey::generate(Algorithm::Es256).expect("key");
        Self { name: name.to_owned(), root: root.into(), issuer: Issuer::new(params, key), jwt }
    }

    /// A fresh SVID for `spiffe://DOMAIN/PATH`.
    pub fn svid(&self, path: &str, life: Duration) -> Svid {
        let id = format!("spiffe://{}/{path}", self.name);
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().expect("a URI"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (SystemTime::now() - Duration::from_mins(1)).into();
        params.not_after = (SystemTime::now() + life).into();
        let leaf = params.signed_by(&key, &self.issuer).expect("leaf");
        Svid { id, leaf: leaf.der().to_vec(), key: key.serialize_der() }
    }

    /// Its JWT keys as a plain JWK Set.
    pub fn jwks(&self) -> Vec<u8> {
        let mut jwk = self.jwt.public().jwk();
        jwk.as_object_mut().expect("an object").remove("use");
        json!({ "keys": [jwk] }).to_string().into_bytes()
    }

    /// A JWT-SVID.
    pub fn jwt(&self, id: &str, audience: &Value) -> String {
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({ "sub": id, "aud": audience, "iat": now, "exp": now + 300 });
        String::from_utf8(self.jwt.sign("JWT", &claims).expect("signed").expose().to_vec()).expect("text")
    }

    /// A TLS client that shows this SVID, and believes a server that proves this SPIFFE ID to this trust domain.
    pub fn client(&self, svid: &Svid, server: &str, alpn: &[&str]) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().expect("a verifier");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key.clone()));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ById { chain, id: server.to_owned() }))
            .with_client_auth_cert(vec![svid.leaf.clone().into()], key)
            .expect("a certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// A TLS server that shows this SVID and demands one of these trust domains.
    pub fn server(svid: &Svid, clients: &[&Self], alpn: &[&str]) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for domain in clients {
            roots.add(domain.root.clone()).expect("a root");
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().expect("a verifier");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key.clone()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![svid.leaf.clone().into()], key)
            .expect("certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// Verifies the chain as ever, and a SPIFFE ID in the place of a name.
#[derive(Debug)]
struct ById {
    chain: Arc<WebPkiServerVerifier>,
    id: String,
}

impl ServerCertVerifier for ById {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use x509_parser::prelude::FromDer as _;
        let by_name = |error: &rustls::Error| {
            let rustls::Error::InvalidCertificate(error) = error else { return false };
            matches!(error, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
        };
        match self.chain.verify_server_cert(leaf, signers, name, ocsp, now) {
            Err(error) if !by_name(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf).expect("a certificate");
        let names = parsed.subject_alternative_name().expect("names").map(|names| names.value.general_names.clone()).unwrap_or_default();
        let proven = names.iter().any(|name| matches!(name, x509_parser::extensions::GeneralName::URI(uri) if *uri == self.id));
        if proven { Ok(ServerCertVerified::assertion()) } else { Err(rustls::Error::General(format!("not `{}`", self.id))) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// `X509SVIDResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct X509Response {
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509Entry>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "3")]
    pub federated_bundles: HashMap<String, Vec<u8>>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct X509Entry {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub hint: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BundlesResponse {
    #[prost(map = "string, bytes", tag = "1")]
    bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct JwtRequest {
    #[prost(string, repeated, tag = "1")]
    audience: Vec<String>,
    #[prost(string, tag = "2")]
    spiffe_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct JwtResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) svids: Vec<JwtEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct JwtEntry {
    #[prost(string, tag = "1")]
    pub(super) spiffe_id: String,
    #[prost(string, tag = "2")]
    pub(super) svid: String,
}

/// What the server does instead of what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    #[default]
    None,
    /// `PermissionDenied` to every call, open streams included.
    Denied,
    /// `InvalidArgument` to every call.
    Invalid,
    /// Takes calls and says nothing.
    Hang,
    /// Resets every stream.
    Disconnect,
    /// JWT-SVIDs have one audience more than was asked for.
    TwoAudiences,
}

/// What is served now.
#[derive(Default)]
pub struct Served {
    pub x509: X509Response,
    pub jwt_bundles: HashMap<String, Vec<u8>>,
    pub fault: Fault,
    /// Every call: its path, and whether it had the security header.
    pub calls: Vec<(String, bool)>,
}

struct Shared {
    served: Mutex<Served>,
    moved: watch::Sender<u64>,
    domain: Arc<TrustDomain>,
}

/// A Workload API on a unix socket; it ends when dropped.
pub struct WorkloadApi {
    pub path: PathBuf,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl WorkloadApi {
    /// Listens and gives nobody an identity.
    pub fn start(dir: &Path, domain: &Arc<TrustDomain>) -> Self {
        let served =
            Mutex::new(Served { jwt_bundles: HashMap::from([(format!("spiffe://{}", domain.name), domain.jwks())]), ..Served::default() });
        let shared = Arc::new(Shared { served, moved: watch::Sender::new(0), domain: Arc::clone(domain) });
        let mut api = Self { path: dir.join("agent.sock"), shared, stop: None, thread: None };
        api.change(|served| served.fault = Fault::Denied);
        api.listen();
        api
    }

    /// `unix:///..`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    pub fn served(&self) -> MutexGuard<'_, Served> {
        self.shared.served.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Changes what is served, and tells all open streams.
    pub fn change(&self, change: impl FnOnce(&mut Served)) {
        change(&mut self.served());
        self.shared.moved.send_modify(|count| *count += 1);
    }

    /// Gives these SVIDs of the trust domain, with hints.
    pub fn give(&self, svids: &[(&Svid, &str)]) {
        let root = self.shared.domain.root.to_vec();
        let entry = |(svid, hint): &(&Svid, &str)| X509Entry {
            spiffe_id: svid.id.clone(),
            x509_svid: svid.leaf.clone(),
            x509_svid_key: svid.key.clone(),
            bundle: root.clone(),
            hint: (*hint).to_owned(),
        };
        let entries = svids.iter().map(entry).collect();
        self.change(|served| {
            served.fault = Fault::None;
            served.x509.svids = entries;
        });
    }

    /// Goes away: the socket and every connection.
    pub fn kill(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends");
        }
        let _removed = std::fs::remove_file(&self.path);
    }

    /// Listens (again).
    pub fn listen(&mut self) {
        let (stop, mut stopped) = oneshot::channel::<()>();
        let (path, shared) = (self.path.clone(), Arc::clone(&self.shared));
        let (ready, bound) = std::sync::mpsc::channel();
        self.thread = Some(std::thread::spawn(move || {
            super::run(async move {
                let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
                ready.send(()).expect("the test waits");
                // Connections end with the set.
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    tokio::select! {
                        _ = &mut stopped => break,
                        accepted = listener.accept() => {
                            let Ok((stream, _)) = accepted else { continue };
                            let shared = Arc::clone(&shared);
                            connections.spawn(async move {
                                let service = hyper::service::service_fn(|request| serve(request, Arc::clone(&shared)));
                                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                                let _ended = http.serve_connection(TokioIo::new(stream), service).await;
                            });
                        }
                    }
                }
            });
        }));
        self.stop = Some(stop);
        bound.recv().expect("it listens");
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

pub(super) fn trailers(code: u16, message: &'static str) -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", HeaderValue::from(code));
    map.insert("grpc-message", HeaderValue::from_static(message));
    Frame::trailers(map)
}

pub(super) fn message(message: &impl prost::Message) -> Frame<Bytes> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).expect("small"));
    message.encode(&mut framed).expect("room");
    Frame::data(framed.freeze())
}

async fn serve(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let secured = head.headers.get("workload.spiffe.io").is_some_and(|value| value == "true");
    shared.served.lock().expect("served").calls.push((path.clone(), secured));
    let asked = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let frames = frames(path, secured, asked, shared);
    let body = StreamBody::new(frames).boxed_unsync();
    Ok(Response::builder().header("content-type", "application/grpc").body(body).expect("a response"))
}

/// The frames of one answer: for a stream, the whole state whenever it moved.
fn frames(
    path: String,
    secured: bool,
    asked: Bytes,
    shared: Arc<Shared>,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, std::io::Error>> {
    let mut moved = shared.moved.subscribe();
    moved.mark_changed();
    let state = (moved, VecDeque::<Frame<Bytes>>::new(), false);
    stream::unfold(state, move |(mut moved, mut waiting, mut over)| {
        let (path, asked, shared) = (path.clone(), asked.clone(), Arc::clone(&shared));
        async move {
            loop {
                if let Some(frame) = waiting.pop_front() {
                    return Some((Ok(frame), (moved, waiting, over)));
                }
                if over {
                    return None;
                }
                moved.changed().await.ok()?;
                let served = shared.served.lock().expect("served");
                match served.fault {
                    Fault::Hang => continue,
                    Fault::Disconnect => return Some((Err(std::io::Error::other("told to")), (moved, waiting, true))),
                    Fault::Denied => waiting.push_back(trailers(7, "no identity issued")),
                    Fault::Invalid => waiting.push_back(trailers(3, "told to")),
                    Fault::None | Fault::TwoAudiences if !secured => waiting.push_back(trailers(3, "security header missing")),
                    Fault::None | Fault::TwoAudiences => match &*path {
                        "/SpiffeWorkloadAPI/FetchX509SVID" => waiting.push_back(message(&served.x509)),
                        "/SpiffeWorkloadAPI/FetchJWTBundles" => {
                            waiting.push_back(message(&BundlesResponse { bundles: served.jwt_bundles.clone() }));
                        }
                        "/SpiffeWorkloadAPI/FetchJWTSVID" => {
                            waiting.extend(jwt(&asked, &served, &shared.domain));
                            over = true;
                        }
                        _ => waiting.push_back(trailers(12, "")),
                    },
                }
                over = over || served.fault != Fault::None || waiting.iter().any(Frame::is_trailers);
            }
        }
    })
    .boxed()
}

fn jwt(asked: &[u8], served: &Served, domain: &TrustDomain) -> [Frame<Bytes>; 2] {
    let asked = JwtRequest::decode(asked.get(5..).unwrap_or_default()).expect("a request");
    assert_eq!(asked.audience.len(), 1, "one audience a token");
    let mut audience = asked.audience;
    if served.fault == Fault::TwoAudiences {
        audience.push("https://another.test".to_owned());
    }
    let audience = json!(audience);
    let entry = JwtEntry { svid: domain.jwt(&asked.spiffe_id, &audience), spiffe_id: asked.spiffe_id };
    [message(&JwtResponse { svids: vec![entry] }), trailers(0, "")]
}
