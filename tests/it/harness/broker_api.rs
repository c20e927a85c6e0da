//! A Broker API that does what it is told, written from the standard: it attests a process by a variable of its environment, as `/proc`
//! shows it, so that whom it speaks of is decided by the number alone.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rustls::ServerConfig;
use serde_json::json;
use tokio::sync::{oneshot, watch};

use super::spiffe::{Body, JwtEntry, JwtResponse, Svid, TrustDomain, X509Entry, X509Response, message, trailers};

/// The variable by which a process is attested.
pub const WHO: &str = "EXEAT_IT_WHO";
const PID_REFERENCE: &str = "type.googleapis.com/spiffe.broker.WorkloadPIDReference";

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reference {
    #[prost(message, optional, tag = "1")]
    reference: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PidReference {
    #[prost(int32, tag = "1")]
    pid: i32,
}

/// Both requests: that for X.509-SVIDs has the first field alone.
#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(message, optional, tag = "1")]
    reference: Option<Reference>,
    #[prost(string, repeated, tag = "2")]
    audience: Vec<String>,
    #[prost(string, tag = "3")]
    spiffe_id: String,
}

/// What the server does instead of what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    #[default]
    None,
    /// Takes calls and says nothing.
    Hang,
    /// Resets every stream.
    Disconnect,
    /// This status to every call, open streams included.
    Status(u16),
}

/// What a workload without an entry is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    /// As the standard asks.
    #[default]
    Denied,
    /// As SPIRE 1.15 does: a state without SVIDs.
    Empty,
    /// As for a process that is not there.
    NotFound,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    pub path: String,
    /// It had the security header.
    pub secured: bool,
    pub pid: i32,
    /// The certificate of the broker's that asked.
    pub broker: Vec<u8>,
}

/// What is served now.
#[derive(Default)]
pub struct Served {
    /// By what a process is attested as.
    pub entries: HashMap<String, Svid>,
    pub fault: Fault,
    pub unknown: Unknown,
    pub calls: Vec<Call>,
    /// Handshakes that failed.
    pub strangers: usize,
}

struct Shared {
    served: Mutex<Served>,
    moved: watch::Sender<u64>,
    domain: Arc<TrustDomain>,
    tls: Mutex<Arc<ServerConfig>>,
}

/// A Broker API on a unix socket; it ends when dropped.
pub struct BrokerApi {
    pub path: PathBuf,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl BrokerApi {
    /// Listens as an agent of this trust domain, and knows nobody.
    pub fn start(dir: &Path, domain: &Arc<TrustDomain>) -> Self {
        let tls = Mutex::new(Self::shown(domain, "spire/agent/join_token/it", domain));
        let shared = Arc::new(Shared { served: Mutex::default(), moved: watch::Sender::new(0), domain: Arc::clone(domain), tls });
        let mut api = Self { path: dir.join("broker.sock"), shared, stop: None, thread: None };
        api.listen();
        api
    }

    fn shown(domain: &TrustDomain, path: &str, brokers: &TrustDomain) -> Arc<ServerConfig> {
        TrustDomain::server(&domain.svid(path, std::time::Duration::from_hours(1)), &[brokers], &["h2"])
    }

    /// From the next connection on it proves to be this, and takes brokers of that trust domain.
    pub fn pretend(&self, domain: &TrustDomain, path: &str, brokers: &TrustDomain) {
        *self.shared.tls.lock().expect("tls") = Self::shown(domain, path, brokers);
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

    /// Registers a workload with a fresh SVID; its certificate.
    pub fn register(&self, who: &str) -> Vec<u8> {
        let svid = self.shared.domain.svid(&format!("ns/it/sa/{who}"), std::time::Duration::from_hours(1));
        let leaf = svid.leaf.clone();
        self.change(|served| drop(served.entries.insert(who.to_owned(), svid)));
        leaf
    }

    /// How often somebody asked for the SVIDs of a process.
    pub fn calls_about(&self, pid: u32) -> usize {
        let about = |call: &&Call| call.pid.unsigned_abs() == pid && call.path.ends_with("SubscribeToX509SVID");
        self.served().calls.iter().filter(about).count()
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
                            connections.spawn(connection(stream, Arc::clone(&shared)));
                        }
                    }
                }
            });
        }));
        self.stop = Some(stop);
        bound.recv().expect("it listens");
    }
}

impl Drop for BrokerApi {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn connection(stream: tokio::net::UnixStream, shared: Arc<Shared>) {
    let tls = Arc::clone(&shared.tls.lock().expect("tls"));
    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else {
        shared.served.lock().expect("served").strangers += 1;
        return;
    };
    let broker = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).expect("a certificate").to_vec();
    let service = hyper::service::service_fn(|request| serve(request, broker.clone(), Arc::clone(&shared)));
    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ended = http.serve_connection(TokioIo::new(stream), service).await;
}

async fn serve(request: Request<Incoming>, broker: Vec<u8>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let secured = head.headers.get("broker.spiffe.io").is_some_and(|value| value == "true");
    let asked = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let asked = Asked::decode(asked.get(5..).unwrap_or_default()).expect("a request");
    let reference = asked.reference.clone().and_then(|reference| reference.reference).expect("a reference");
    assert_eq!(reference.type_url, PID_REFERENCE);
    let pid = PidReference::decode(&*reference.value).expect("a pid").pid;
    // Attested once a call, when it comes or as soon as the server speaks again.
    shared.served.lock().expect("served").calls.push(Call { path: path.clone(), secured, pid, broker });
    let body = StreamBody::new(frames(path, secured, pid, asked, shared)).boxed_unsync();
    Ok(Response::builder().header("content-type", "application/grpc").body(body).expect("a response"))
}

/// What the process of this number is attested as now.
fn attest(pid: i32) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&environment).into_owned();
    text.split('\0').find_map(|variable| variable.strip_prefix(WHO)?.strip_prefix('=').map(str::to_owned))
}

/// The frames of one answer: for a stream, the whole state whenever it moved.
fn frames(
    path: String,
    secured: bool,
    pid: i32,
    asked: Asked,
    shared: Arc<Shared>,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, std::io::Error>> {
    let mut moved = shared.moved.subscribe();
    moved.mark_changed();
    let state = (moved, VecDeque::<Frame<Bytes>>::new(), None::<Option<String>>, false);
    stream::unfold(state, move |(mut moved, mut waiting, mut who, mut over)| {
        let (path, asked, shared) = (path.clone(), asked.clone(), Arc::clone(&shared));
        async move {
            loop {
                if let Some(frame) = waiting.pop_front() {
                    return Some((Ok(frame), (moved, waiting, who, over)));
                }
                if over {
                    return None;
                }
                moved.changed().await.ok()?;
                let served = shared.served.lock().expect("served");
                match served.fault {
                    Fault::Hang => continue,
                    Fault::Disconnect => return Some((Err(std::io::Error::other("told to")), (moved, waiting, who, true))),
                    Fault::Status(code) => waiting.push_back(trailers(code, "told to")),
                    Fault::None if !secured => waiting.push_back(trailers(3, "security header missing")),
                    Fault::None => {
                        let who = who.get_or_insert_with(|| attest(pid));
                        let entry = who.as_ref().and_then(|who| served.entries.get(who));
                        match (entry, &*path) {
                            (None, "/spiffe.broker.API/SubscribeToX509SVID") if served.unknown == Unknown::Empty => {
                                waiting.push_back(message(&X509Response::default()));
                            }
                            (None, _) if served.unknown == Unknown::NotFound => waiting.push_back(trailers(5, "there is no such process")),
                            (None, _) => waiting.push_back(trailers(7, "no identity issued")),
                            (Some(svid), "/spiffe.broker.API/SubscribeToX509SVID") => {
                                waiting.push_back(message(&X509Response {
                                    svids: vec![entry_of(svid, &shared.domain)],
                                    ..X509Response::default()
                                }));
                            }
                            (Some(svid), "/spiffe.broker.API/FetchJWTSVID") => {
                                assert_eq!(asked.audience.len(), 1, "one audience a token");
                                assert_eq!(asked.spiffe_id, svid.id, "of the workload that it knows");
                                let token = shared.domain.jwt(&svid.id, &json!(asked.audience));
                                let entry = JwtEntry { svid: token, spiffe_id: svid.id.clone() };
                                waiting.extend([message(&JwtResponse { svids: vec![entry] }), trailers(0, "")]);
                            }
                            (Some(_), _) => waiting.push_back(trailers(12, "")),
                        }
                    }
                }
                over = over || waiting.iter().any(Frame::is_trailers);
            }
        }
    })
    .boxed()
}

fn entry_of(svid: &Svid, domain: &TrustDomain) -> X509Entry {
    X509Entry {
        spiffe_id: svid.id.clone(),
        x509_svid: svid.leaf.clone(),
        x509_svid_key: svid.key.clone(),
        bundle: domain.root.to_vec(),
        hint: String::new(),
    }
}
