//! The way out against real servers on real sockets.
#![allow(clippy::future_not_send, reason = "a worker's futures stay on their thread")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use futures_util::future::join_all;
use http::header::{HOST, HeaderValue};
use http::{Method, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::address::OwnListeners;
use crate::capture::{Destination, Host, Scheme};
use crate::catalogue::{Deadlines, Roots, Stage, StripOptions, TlsProfile, Upstream, UpstreamIndex};
use crate::clock::{ManualClock, Timestamp};
use crate::identity::{Attestation, SpiffeId, Workload};
use crate::refusal::Code;

pub(super) type TestBody = UnsyncBoxBody<Bytes, Infallible>;

/// Runs a test as a worker does: one thread, one `LocalSet`.
pub(super) async fn worker<F: Future>(test: F) -> F::Output {
    LocalSet::new().run_until(test).await
}

pub(super) fn dialer() -> (Arc<ManualClock>, Dialer<TestBody>) {
    let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
    let resolver = Resolver::new(OwnListeners::default(), Arc::clone(&clock) as _, Box::new(|_| Ok(vec!["127.0.0.1".parse().unwrap()])));
    let dialer = Dialer::new(Arc::new(resolver), Arc::new(ClientConfigs::new()), Arc::clone(&clock) as _, Limits::default());
    (clock, dialer)
}

/// With such bounds.
pub(super) fn bounded(limits: Limits) -> (Arc<ManualClock>, Dialer<TestBody>) {
    let (clock, dialer) = dialer();
    let (resolver, tls) = (Arc::clone(&dialer.inner.connector.resolver), Arc::clone(&dialer.inner.connector.tls));
    (Arc::clone(&clock), Dialer::new(resolver, tls, clock, limits))
}

pub(super) fn upstream(change: impl FnOnce(&mut Upstream)) -> Arc<Upstream> {
    let mut upstream = Upstream {
        index: UpstreamIndex(0),
        name: "ledger".into(),
        owner: "team@example.com".into(),
        origins: Vec::new(),
        reach: vec!["127.0.0.0/8".parse().unwrap()],
        tls: TlsProfile { roots: Roots::System, server_name: None, spiffe_id: None, client_certificate: false },
        protocol: Protocol::Auto,
        credentials: Vec::new(),
        stage: Stage::Enforce,
        intercept: true,
        strip: StripOptions::default(),
        response_remove: Vec::new(),
        deadlines: Deadlines::default(),
        body_limit: 0,
    };
    change(&mut upstream);
    Arc::new(upstream)
}

pub(super) fn destination(scheme: Scheme, host: &str, port: u16) -> Destination {
    Destination { scheme, host: Host::parse(host).unwrap(), port }
}

pub(super) fn hop<'a>(upstream: &'a Arc<Upstream>, destination: &'a Destination) -> Hop<'a> {
    Hop { upstream, destination, generation: 1, workload: None, standing: None, upgrade: false }
}

pub(super) fn get(path: &str) -> Request<TestBody> {
    Request::get(path).body(Empty::new().boxed_unsync()).unwrap()
}

/// As it is sent.
pub(super) fn whole(request: Request<TestBody>) -> Request<Outgoing<TestBody>> {
    request.map(Outgoing::new)
}

/// Sends; gives the facts and either the status and the whole body, or the error.
pub(super) async fn send(dialer: &Dialer<TestBody>, hop: &Hop<'_>, request: Request<TestBody>) -> (Facts, Result<String, DialError>) {
    let mut facts = Facts::default();
    let answer = dialer.send(hop, &mut Some(whole(request)), &mut facts, &mut || Ok(())).await;
    let body = match answer {
        Ok(response) => Ok(String::from_utf8(response.collect().await.unwrap().to_bytes().to_vec()).unwrap()),
        Err(error) => Err(error),
    };
    (facts, body)
}

/// What a server of the tests speaks.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) h2: bool,
    pub(super) streams: u32,
}

pub(super) const H1: Served = Served { tls: None, h2: false, streams: 100 };

/// Serves on a fresh port; counts connections. `/slow` never answers; otherwise version, target and host are told, then the body comes back.
pub(super) async fn serve(served: Served) -> (u16, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Rc::new(Cell::new(0));
    let count = Rc::clone(&connections);
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.set(count.get() + 1);
            let served = served.clone();
            spawn_local(async move {
                match served.tls.clone() {
                    Some(config) => {
                        if let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(stream).await {
                            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            speak(stream, h2, served.streams).await;
                        }
                    }
                    None => speak(stream, served.h2, served.streams).await,
                }
            });
        }
    });
    (port, connections)
}

async fn speak(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static, h2: bool, streams: u32) {
    let io = TokioIo::new(stream);
    let service = service_fn(answer);
    if h2 {
        let mut options = hyper::server::conn::http2::Builder::new(Here);
        options.max_concurrent_streams(streams).serve_connection(io, service).await.ok();
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await.ok();
    }
}

#[derive(Clone)]
struct Here;

impl<F: Future + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/slow" {
        std::future::pending::<()>().await;
    }
    let host = request
        .headers()
        .get(HOST)
        .map_or_else(|| request.uri().authority().map_or_else(String::new, ToString::to_string), |host| host.to_str().unwrap().to_owned());
    let head = format!("{:?} {} {} {host} ", request.version(), request.method(), request.uri().path());
    let body = request.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Ok(Response::new(Full::new([head.into(), body].concat().into())))
}

/// A server that writes exactly these bytes to every request head, once per connection.
async fn raw(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                let mut head = [0; 4096];
                if stream.read(&mut head).await.is_err() {
                    return;
                }
                stream.write_all(answer).await.ok();
                // An echo follows, for upgrades.
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
    port
}

/// A certificate for `name`, and a server configuration with it.
fn certified(name: &str, alpn: &[&[u8]]) -> (Roots, Arc<rustls::ServerConfig>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    (Roots::Certificates(Arc::from([made.cert.der().to_vec()])), Arc::new(config))
}

#[tokio::test]
async fn a_connection_is_reused_once_its_response_has_ended() {
    worker(async {
        let (port, connections) = serve(H1).await;
        let ((_, dialer), upstream) = (dialer(), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        let hop = hop(&upstream, &place);
        let (facts, body) = send(&dialer, &hop, get("/a")).await;
        assert_eq!(body.unwrap(), format!("HTTP/1.1 GET /a ledger.example:{port} "));
        assert!(!facts.reused && facts.connect.is_some() && facts.sent);
        let (facts, _) = send(&dialer, &hop, get("/b")).await;
        assert!(facts.reused && facts.connect.is_none());
        assert_eq!(facts.address, Some(SocketAddr::from(([127, 0, 0, 1], port))));
        // Two at once need two connections, and both are kept.
        join_all([send(&dialer, &hop, get("/c")), send(&dialer, &hop, get("/d"))]).await;
        assert_eq!((connections.get(), dialer.held()), (2, 2));
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_is_still_receiving_is_not_taken() {
    worker(async {
        let port = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab").await;
        let ((_, dialer), upstream) = (dialer(), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        let (mut first, mut second) = (Facts::default(), Facts::default());
        let held = dialer.send(&hop(&upstream, &place), &mut Some(whole(get("/"))), &mut first, &mut || Ok(())).await.unwrap();
        let other = dialer.send(&hop(&upstream, &place), &mut Some(whole(get("/"))), &mut second, &mut || Ok(())).await.unwrap();
        assert!(!second.reused);
        drop((held, other));
    })
    .await;
}

#[tokio::test]
async fn a_request_that_met_a_dead_connection_asks_before_it_is_sent_again() {
    worker(async {
        let (port, _) = serve(H1).await;
        let ((clock, dialer), upstream) = (dialer(), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        let hop = hop(&upstream, &place);
        for allowed in [true, false] {
            // A pooled connection whose other end goes away exactly between taking it and writing.
            let (io, _peer) = tokio::io::duplex(64);
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
            let mut connection = Box::pin(connection);
            assert!(connection.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let lane = dialer.inner.pool.borrow_mut().lane(&hop, 8, clock.instant(), Duration::from_secs(1)).unwrap();
            let sender = crate::dial::line::Held::new(sender, crate::dial::line::Line::new(Arc::default()));
            lane.keep(sender, Met { address: "127.0.0.1:1".parse().unwrap(), key_exchange: None }, clock.instant(), 8);
            let (mut facts, mut asked) = (Facts::default(), 0);
            let mut again = || {
                asked += 1;
                if allowed { Ok(()) } else { Err(Refusal::new(Code::Revoked, "revoked meanwhile")) }
            };
            let answer = {
                let mut request = Some(whole(get("/again")));
                let mut sending = pin!(dialer.send(&hop, &mut request, &mut facts, &mut again));
                assert!(matches!(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
                drop(connection);
                sending.await
            };
            assert_eq!((asked, facts.stale), (1, 1));
            match answer {
                Ok(response) => assert!(allowed && response.status() == StatusCode::OK && !facts.reused),
                Err(error) => {
                    assert!(!allowed && !facts.sent);
                    assert_eq!(error.refusal().code, Code::Revoked);
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_is_told_apart() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            assert!(stream.read(&mut head).await.unwrap() > 0);
        });
        let ((_, dialer), upstream) = (dialer(), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        send(&dialer, &hop(&upstream, &place), get("/")).await.1.unwrap();
        let (facts, answer) = send(&dialer, &hop(&upstream, &place), get("/")).await;
        let error = answer.unwrap_err();
        assert!(facts.reused && facts.sent);
        assert!(error.may_resend(true) && !error.may_resend(false), "{error}");
        assert_eq!((error.word(), error.refusal().code), ("reset", Code::UpstreamUnreachable));
    })
    .await;
}

#[tokio::test]
async fn connections_are_kept_apart_by_all_that_they_were_opened_for() {
    worker(async {
        let (port, connections) = serve(H1).await;
        let ((_, dialer), plain) = (dialer(), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        let workload = |name: &str| Arc::new(Workload { id: SpiffeId::parse(name).unwrap(), attestation: Attestation::Fixed });
        let (a, b) = (workload("spiffe://td.example/a"), workload("spiffe://td.example/b"));
        let base = hop(&plain, &place);
        let wider = upstream(|upstream| upstream.reach.push("10.0.0.0/8".parse().unwrap()));
        let renamed = upstream(|upstream| upstream.name = "other".into());
        let other_host = destination(Scheme::Http, "archive.example", port);
        let hops = [
            base,
            Hop { generation: 2, ..base },
            Hop { workload: Some(&a), ..base },
            Hop { workload: Some(&b), ..base },
            Hop { upstream: &wider, ..base },
            Hop { upstream: &renamed, ..base },
            Hop { destination: &other_host, ..base },
        ];
        for (at, hop) in hops.iter().enumerate() {
            assert!(!send(&dialer, hop, get("/")).await.0.reused, "hop {at}");
            assert!(send(&dialer, hop, get("/")).await.0.reused, "hop {at} again");
        }
        assert_eq!(connections.get(), hops.len());
        // Equal values in other places of memory, as after a reload that changed nothing here.
        let (reloaded, same) = (upstream(|_| {}), workload("spiffe://td.example/a"));
        assert!(send(&dialer, &Hop { upstream: &reloaded, ..base }, get("/")).await.0.reused);
        assert!(send(&dialer, &Hop { upstream: &reloaded, workload: Some(&same), ..base }, get("/")).await.0.reused);
    })
    .await;
}

#[tokio::test]
async fn idle_connections_are_let_go() {
    worker(async {
        let (port, connections) = serve(H1).await;
        let ((clock, dialer), upstream) = (dialer(), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        send(&dialer, &hop(&upstream, &place), get("/")).await.1.unwrap();
        clock.advance(Limits::default().idle);
        assert!(!send(&dialer, &hop(&upstream, &place), get("/")).await.0.reused);
        assert_eq!((connections.get(), dialer.held()), (2, 1));
        clock.advance(Limits::default().idle);
        assert!(!dialer.inner.pool.borrow_mut().sweep(clock.instant(), Limits::default().idle), "nothing is left");
    })
    .await;
}

#[tokio::test]
async fn a_key_keeps_no_more_connections_than_it_may() {
    worker(async {
        let (port, connections) = serve(H1).await;
        let ((_, dialer), upstream) = (bounded(Limits { kept_per_key: 2, ..Limits::default() }), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        let hop = hop(&upstream, &place);
        let burst = join_all((0..5).map(|_| send(&dialer, &hop, get("/")))).await;
        assert!(burst.iter().all(|(_, answer)| answer.is_ok()));
        assert_eq!((connections.get(), dialer.held()), (5, 2));
    })
    .await;
}

#[tokio::test]
async fn tls_is_verified_post_quantum_and_chooses_by_alpn() {
    worker(async {
        let (roots, tls) = certified("ledger.example", &[b"h2", b"http/1.1"]);
        let (port, connections) = serve(Served { tls: Some(tls), ..H1 }).await;
        let (_, dialer) = dialer();
        let place = destination(Scheme::Https, "ledger.example", port);
        let trusting = |protocol: Protocol| {
            upstream(|upstream| {
                upstream.tls.roots = roots.clone();
                upstream.protocol = protocol;
            })
        };
        let upstream = trusting(Protocol::Auto);
        let (facts, body) = send(&dialer, &hop(&upstream, &place), get("/x?y")).await;
        assert_eq!(body.unwrap(), format!("HTTP/2.0 GET /x ledger.example:{port} "));
        assert_eq!((facts.version, facts.key_exchange), (Version::HTTP_2, Some("X25519MLKEM768")));
        let (facts, _) = send(&dialer, &hop(&upstream, &place), get("/")).await;
        assert!(facts.reused && facts.key_exchange.is_some());
        assert_eq!(connections.get(), 1);
        let upstream = trusting(Protocol::H1);
        let (facts, body) = send(&dialer, &hop(&upstream, &place), get("/")).await;
        assert_eq!((body.unwrap(), facts.version), (format!("HTTP/1.1 GET / ledger.example:{port} "), Version::HTTP_11));
    })
    .await;
}

#[tokio::test]
async fn who_cannot_prove_the_name_gets_nothing() {
    worker(async {
        let (roots, tls) = certified("other.example", &[b"http/1.1"]);
        let (port, _) = serve(Served { tls: Some(tls), ..H1 }).await;
        let (_, dialer) = dialer();
        let place = destination(Scheme::Https, "ledger.example", port);
        let wrong_name = upstream(|upstream| upstream.tls.roots = roots.clone());
        let (facts, answer) = send(&dialer, &hop(&wrong_name, &place), get("/")).await;
        let error = answer.unwrap_err();
        assert!(!facts.sent);
        assert_eq!((error.word(), error.refusal().code), ("tls", Code::UpstreamUntrusted));
        assert!(error.to_string().contains("did not prove to be `ledger.example`"), "{error}");
        let stranger = upstream(|upstream| upstream.tls.roots = certified("ledger.example", &[]).0);
        let (_, answer) = send(&dialer, &hop(&stranger, &place), get("/")).await;
        assert_eq!(answer.unwrap_err().refusal().code, Code::UpstreamUntrusted);
        let named = upstream(|upstream| {
            upstream.tls.roots = roots.clone();
            upstream.tls.server_name = Some(Host::parse("other.example").unwrap());
        });
        assert!(send(&dialer, &hop(&named, &place), get("/")).await.1.is_ok(), "the profile may name another");
        let h2_only = upstream(|upstream| {
            upstream.tls = named.tls.clone();
            upstream.protocol = Protocol::H2;
        });
        let (_, answer) = send(&dialer, &hop(&h2_only, &place), get("/")).await;
        assert_eq!(answer.unwrap_err().word(), "protocol");
    })
    .await;
}

#[tokio::test]
async fn a_cold_burst_shares_one_http2_connection_and_a_full_one_gets_a_second() {
    worker(async {
        let h2c = Served { h2: true, streams: 2, ..H1 };
        let (port, connections) = serve(h2c).await;
        let ((_, dialer), upstream) = (dialer(), upstream(|upstream| upstream.protocol = Protocol::H2));
        let place = destination(Scheme::Http, "ledger.example", port);
        let hop_to = hop(&upstream, &place);
        let burst = join_all((0..50).map(|_| send(&dialer, &hop_to, get("/")))).await;
        assert!(burst.iter().all(|(facts, answer)| answer.is_ok() && facts.version == Version::HTTP_2));
        assert_eq!(connections.get(), 1);
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let (dialer, upstream, place) = (dialer.clone(), Arc::clone(&upstream), place.clone());
                spawn_local(async move { send(&dialer, &hop(&upstream, &place), get("/slow")).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(send(&dialer, &hop(&upstream, &place), get("/")).await.1.is_ok());
        assert_eq!(connections.get(), 2);
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    })
    .await;
}

#[tokio::test]
async fn deadlines_of_handshake_and_head() {
    worker(async {
        let soon = Duration::from_millis(30);
        let (port, _) = serve(H1).await;
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_, dialer) = dialer();
        let (roots, _) = certified("ledger.example", &[]);
        let hasty = upstream(|upstream| {
            upstream.deadlines.response_head = soon;
            upstream.deadlines.tls = soon;
            upstream.tls.roots = roots;
        });
        let place = destination(Scheme::Http, "ledger.example", port);
        let (facts, answer) = send(&dialer, &hop(&hasty, &place), get("/slow")).await;
        let error = answer.unwrap_err();
        assert!(facts.sent && error.to_string().ends_with("the response head took longer than 30ms"), "{error}");
        assert_eq!((error.word(), error.refusal().code), ("timeout", Code::UpstreamTimeout));
        let place = destination(Scheme::Https, "ledger.example", silent.local_addr().unwrap().port());
        let error = send(&dialer, &hop(&hasty, &place), get("/")).await.1.unwrap_err();
        assert!(error.to_string().contains("the TLS handshake took longer than"), "{error}");
    })
    .await;
}

/// A port whose every SYN stays unanswered: its queue of connections that nobody accepts is full. Both ends of the queue come with it.
fn deaf() -> (u16, (socket2::Socket, Vec<std::net::TcpStream>)) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(1).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue takes whatever comes");
    }
    (address.port(), (listener, queued))
}

#[tokio::test]
async fn a_connection_that_nobody_takes_ends_at_its_deadline() {
    worker(async {
        let (port, queue) = deaf();
        let (_, dialer) = dialer();
        let hasty = upstream(|upstream| upstream.deadlines.connect = Duration::from_millis(50));
        for scheme in [Scheme::Http, Scheme::Https] {
            let place = destination(scheme, "ledger.example", port);
            let (facts, answer) = send(&dialer, &hop(&hasty, &place), get("/")).await;
            let error = answer.unwrap_err();
            assert!(error.to_string().ends_with("connecting took longer than 50ms"), "{error}");
            assert!(error.to_string().contains(&format!("at 127.0.0.1:{port}")), "{error}");
            assert_eq!((error.word(), error.refusal().code, facts.sent), ("timeout", Code::UpstreamTimeout, false));
            assert!(!error.may_resend(true), "{error}");
            let error = dialer.tunnel(&hop(&hasty, &place), &mut Facts::default()).await.unwrap_err();
            assert_eq!(error.refusal().code, Code::UpstreamTimeout, "tunnels too");
        }
        assert_eq!(dialer.inner.connector.open.load(Relaxed), 0, "none of them keeps a place");
        drop(queue);
    })
    .await;
}

/// A server of one request a connection; tells of each handshake whether it resumed a session.
async fn handshakes(tls: Arc<rustls::ServerConfig>) -> (u16, Rc<RefCell<Vec<rustls::HandshakeKind>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, kinds) = (listener.local_addr().unwrap().port(), Rc::new(RefCell::new(Vec::new())));
    let seen = Rc::clone(&kinds);
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(Arc::clone(&tls)).accept(stream).await else { continue };
            seen.borrow_mut().extend(stream.get_ref().1.handshake_kind());
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            stream.shutdown().await.ok();
        }
    });
    (port, kinds)
}

#[tokio::test]
async fn a_session_is_resumed_where_the_trust_is_the_same_and_nowhere_else() {
    use rustls::HandshakeKind::{Full, FullWithHelloRetryRequest, Resumed};
    worker(async {
        let (Roots::Certificates(own), tls) = certified("ledger.example", &[b"http/1.1"]) else { unreachable!() };
        let (port, kinds) = handshakes(tls).await;
        let ((clock, worker), (_, stranger)) = (dialer(), dialer());
        let place = destination(Scheme::Https, "ledger.example", port);
        let trusting = |roots: Vec<Vec<u8>>| {
            upstream(|upstream| {
                upstream.tls.roots = Roots::Certificates(roots.into());
                upstream.protocol = Protocol::H1;
            })
        };
        let last = |kinds: &RefCell<Vec<rustls::HandshakeKind>>| kinds.borrow_mut().pop().unwrap();
        let full = |kind| matches!(kind, Full | FullWithHelloRetryRequest);
        let upstream = trusting(own.to_vec());
        send(&worker, &hop(&upstream, &place), get("/")).await.1.unwrap();
        assert!(full(last(&kinds)));
        let (facts, _) = send(&worker, &hop(&upstream, &place), get("/")).await;
        assert_eq!((last(&kinds), facts.reused), (Resumed, false));
        assert_eq!(facts.key_exchange, Some("X25519MLKEM768"), "a resumed session has a key exchange of its own (RFC 8446 section 2.2)");
        // Another worker has a pool of its own, and the same sessions.
        let connector = &worker.inner.connector;
        let neighbour: Dialer<TestBody> =
            Dialer::new(Arc::clone(&connector.resolver), Arc::clone(&connector.tls), clock, Limits::default());
        send(&neighbour, &hop(&upstream, &place), get("/")).await.1.unwrap();
        assert_eq!(last(&kinds), Resumed);
        // Whoever trusts others judges the same server anew: a session lets nobody in whom these roots do not.
        let Roots::Certificates(others) = certified("ledger.example", &[]).0 else { unreachable!() };
        let elsewhere = trusting(others.to_vec());
        assert_eq!(send(&worker, &hop(&elsewhere, &place), get("/")).await.1.unwrap_err().refusal().code, Code::UpstreamUntrusted);
        let wider = trusting([own.to_vec(), others.to_vec()].concat());
        send(&worker, &hop(&wider, &place), get("/")).await.1.unwrap();
        assert!(full(last(&kinds)));
        send(&worker, &hop(&wider, &place), get("/")).await.1.unwrap();
        assert_eq!(last(&kinds), Resumed);
        send(&worker, &hop(&upstream, &place), get("/")).await.1.unwrap();
        assert_eq!(last(&kinds), Resumed, "and the first has kept its own");
        // Configurations of another process know nothing of it.
        send(&stranger, &hop(&upstream, &place), get("/")).await.1.unwrap();
        assert!(full(last(&kinds)));
    })
    .await;
}

#[tokio::test]
async fn a_long_upload_is_not_a_late_head_but_a_stalled_one_ends() {
    worker(async {
        let (port, _) = serve(H1).await;
        let (_, dialer) = dialer();
        let place = destination(Scheme::Http, "ledger.example", port);
        let upload = |pieces: usize, then_stall: bool| {
            let frames = futures_util::stream::unfold(0, move |sent| async move {
                if sent == pieces {
                    if then_stall {
                        std::future::pending::<()>().await;
                    }
                    return None;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok(http_body::Frame::data(Bytes::from_static(b"x"))), sent + 1))
            });
            Request::post("/up").body(StreamBody::new(Box::pin(frames)).boxed_unsync()).unwrap()
        };
        let upstream = upstream(|upstream| {
            upstream.deadlines.response_head = Duration::from_millis(150);
            upstream.deadlines.idle = Duration::from_secs(1);
        });
        let (_, answer) = send(&dialer, &hop(&upstream, &place), upload(20, false)).await;
        assert!(answer.unwrap().ends_with("xxxxxxxxxx"));
        let error = send(&dialer, &hop(&upstream, &place), upload(2, true)).await.1.unwrap_err();
        assert!(error.to_string().contains("the silence of the request body took longer than 1s"), "{error}");
    })
    .await;
}

/// A server that answers each request as soon as it has the head, and tells the bytes of the chunked bodies that follow.
async fn early() -> (u16, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, (tell, told)) = (listener.local_addr().unwrap().port(), tokio::sync::mpsc::unbounded_channel());
    spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while stream.read_buf(&mut read).await.is_ok_and(|count| count > 0) {
            if read.starts_with(b"POST") {
                let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") else { continue };
                read.drain(..end + 4);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
            tell.send(std::mem::take(&mut read)).ok();
        }
    });
    (port, told)
}

#[tokio::test]
async fn a_slow_upload_behind_its_answer_outlives_the_sweeps_and_its_connection_goes_on() {
    worker(async {
        let (port, mut told) = early().await;
        let ((clock, dialer), upstream) = (dialer(), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        let (pieces, body) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
        let body = futures_util::stream::unfold(body, |mut body| async move {
            let piece = body.recv().await?;
            Some((Ok(http_body::Frame::data(Bytes::from_static(piece.as_bytes()))), body))
        });
        let request = Request::post("/up").body(StreamBody::new(Box::pin(body)).boxed_unsync()).unwrap();
        let mut facts = Facts::default();
        let hop = hop(&upstream, &place);
        let mut response = dialer.send(&hop, &mut Some(whole(request)), &mut facts, &mut || Ok(())).await.unwrap();
        let upload = response.body_mut().upload().expect("the body is not sent");
        assert_eq!(response.collect().await.unwrap().to_bytes(), "ok");
        for piece in ["one", "two", "three"] {
            assert!(dialer.inner.pool.borrow_mut().sweep(clock.instant(), Limits::default().idle));
            pieces.send(piece).unwrap();
            let arrives = async { while memchr::memmem::find(&told.recv().await.unwrap(), piece.as_bytes()).is_none() {} };
            tokio::time::timeout(Duration::from_secs(10), arrives).await.unwrap();
        }
        drop(pieces);
        while upload.is_unsent() {
            tokio::task::yield_now().await;
        }
        upload.ended();
        let request = Request::post("/next").body(Empty::new().boxed_unsync()).unwrap();
        let (facts, answer) = send(&dialer, &hop, request).await;
        assert_eq!((facts.reused, answer.unwrap().as_str()), (true, "ok"));
    })
    .await;
}

#[tokio::test]
async fn addresses_out_of_reach_are_refused_before_a_packet() {
    worker(async {
        let ((_, dialer), public) = (dialer(), upstream(|upstream| upstream.reach.clear()));
        for host in ["ledger.example", "127.0.0.1", "169.254.169.254", "::1", "10.0.0.1"] {
            let place = destination(Scheme::Http, host, 80);
            let error = send(&dialer, &hop(&public, &place), get("/")).await.1.unwrap_err();
            assert_eq!((error.word(), error.refusal().code), ("address", Code::AddressRefused), "{host}");
            let mut facts = Facts::default();
            let error = dialer.tunnel(&hop(&public, &place), &mut facts).await.unwrap_err();
            assert_eq!(error.refusal().code, Code::AddressRefused, "{host}: tunnels too");
            assert!(error.refusal().detail.starts_with("upstream `ledger`: "), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_there_is_told_with_the_address() {
    worker(async {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ((_, dialer), upstream) = (dialer(), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        let error = send(&dialer, &hop(&upstream, &place), get("/")).await.1.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "upstream `ledger` (http://ledger.example:{port} at 127.0.0.1:{port}) cannot be reached: Connection refused (os error 111); \
                 check that it listens there and that the network lets exeat through"
            )
        );
        assert_eq!((error.word(), error.refusal().code), ("connect", Code::UpstreamUnreachable));
    })
    .await;
}

#[tokio::test]
async fn switching_protocols_needs_somebody_who_asked() {
    worker(async {
        let port = raw(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
        let ((_, dialer), plain) = (dialer(), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        let error = send(&dialer, &hop(&plain, &place), get("/")).await.1.unwrap_err();
        assert!(error.word() == "protocol" && error.to_string().contains("although nobody asked"), "{error}");
        let asking = || {
            let mut request = get("/chat");
            request.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
            request.headers_mut().insert(http::header::UPGRADE, HeaderValue::from_static("websocket"));
            request
        };
        let upgrading = Hop { upgrade: true, ..hop(&plain, &place) };
        let mut facts = Facts::default();
        let response = dialer.send(&upgrading, &mut Some(whole(asking())), &mut facts, &mut || Ok(())).await.unwrap();
        assert_eq!((response.status(), dialer.held()), (StatusCode::SWITCHING_PROTOCOLS, 0));
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(b"hello").await.unwrap();
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"hello");
        let h2 = upstream(|upstream| upstream.protocol = Protocol::H2);
        let error = send(&dialer, &Hop { upgrade: true, ..hop(&h2, &place) }, asking()).await.1.unwrap_err();
        assert_eq!(error.refusal().code, Code::Unsupported);
    })
    .await;
}

#[tokio::test]
async fn heads_that_could_be_read_in_two_ways_are_made_plain_or_refused() {
    worker(async {
        let ((_, dialer), upstream) = (dialer(), upstream(|_| {}));
        let both = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
        let place = destination(Scheme::Http, "ledger.example", both);
        let mut facts = Facts::default();
        let response = dialer.send(&hop(&upstream, &place), &mut Some(whole(get("/"))), &mut facts, &mut || Ok(())).await.unwrap();
        assert!(!response.headers().contains_key(http::header::CONTENT_LENGTH));
        assert_eq!(response.collect().await.unwrap().to_bytes(), "hello");
        for (bare, kept) in [
            (&b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc"[..], false),
            (b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", false),
            (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n", false),
            (b"HTTP/1.1 304 Not Modified\r\ncontent-length: +3\r\n\r\n", false),
            (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n", true),
        ] {
            let place = destination(Scheme::Http, "ledger.example", raw(bare).await);
            let response =
                dialer.send(&hop(&upstream, &place), &mut Some(whole(get("/"))), &mut Facts::default(), &mut || Ok(())).await.unwrap();
            assert_eq!(response.headers().contains_key(http::header::CONTENT_LENGTH), kept, "{}", String::from_utf8_lossy(bare));
            assert_eq!(response.collect().await.unwrap().to_bytes(), "");
        }
        for bad in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            let place = destination(Scheme::Http, "ledger.example", raw(bad).await);
            let error = send(&dialer, &hop(&upstream, &place), get("/")).await.1.unwrap_err();
            assert_eq!((error.word(), error.refusal().code), ("protocol", Code::UpstreamUnreachable), "{}", String::from_utf8_lossy(bad));
        }
    })
    .await;
}

#[tokio::test]
async fn interim_responses_are_seen() {
    worker(async {
        let port = raw(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let ((_, dialer), upstream) = (dialer(), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (mut request, note) = (get("/"), Arc::clone(&seen));
        hyper::ext::on_informational(&mut request, move |interim| note.lock().unwrap().push(interim.status().as_u16()));
        assert_eq!(send(&dialer, &hop(&upstream, &place), request).await.1.unwrap(), "ok");
        assert_eq!(*seen.lock().unwrap(), [103]);
    })
    .await;
}

#[tokio::test]
async fn requests_leave_in_origin_form_with_the_host_that_was_given() {
    worker(async {
        let (port, _) = serve(H1).await;
        let (h2_port, _) = serve(Served { h2: true, ..H1 }).await;
        let ((_, dialer), h1, h2) = (dialer(), upstream(|_| {}), upstream(|upstream| upstream.protocol = Protocol::H2));
        for (upstream, port, version) in [(&h1, port, "HTTP/1.1"), (&h2, h2_port, "HTTP/2.0")] {
            let place = destination(Scheme::Http, "ledger.example", port);
            let mut absolute = get("/");
            *absolute.uri_mut() = Uri::from_static("http://ledger.example/a?b");
            *absolute.version_mut() = Version::HTTP_2;
            assert_eq!(send(&dialer, &hop(upstream, &place), absolute).await.1.unwrap(), format!("{version} GET /a ledger.example "));
            let mut named = Request::builder().method(Method::PUT).uri("/b").body(Full::from("body").boxed_unsync()).unwrap();
            named.headers_mut().insert(HOST, HeaderValue::from_static("LEDGER.example"));
            assert_eq!(send(&dialer, &hop(upstream, &place), named).await.1.unwrap(), format!("{version} PUT /b LEDGER.example body"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_is_a_plain_checked_connection() {
    worker(async {
        let port = raw(b"hi").await;
        let ((_, dialer), upstream) = (dialer(), upstream(|_| {}));
        let place = destination(Scheme::Https, "ledger.example", port);
        let mut facts = Facts::default();
        let mut stream = dialer.tunnel(&hop(&upstream, &place), &mut facts).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, facts.address), (b"hi", Some(SocketAddr::from(([127, 0, 0, 1], port)))));
    })
    .await;
}

#[tokio::test]
async fn a_worker_opens_no_more_connections_than_it_may() {
    worker(async {
        let (port, _) = serve(H1).await;
        let ((_, dialer), upstream) = (bounded(Limits { connections: 1, ..Limits::default() }), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        let hop = hop(&upstream, &place);
        let both = join_all([send(&dialer, &hop, get("/")), send(&dialer, &hop, get("/"))]).await;
        let codes: Vec<_> = both.into_iter().map(|(_, answer)| answer.map_err(|error| error.refusal().code).is_ok()).collect();
        assert_eq!(codes, [true, false]);
        assert!(send(&dialer, &hop, get("/")).await.0.reused, "what is open stays of use");
    })
    .await;
}

#[tokio::test]
async fn destinations_that_nobody_asks_make_room_for_a_new_one() {
    worker(async {
        let ((_, dialer), upstream) = (bounded(Limits { keys: 2, ..Limits::default() }), upstream(|_| {}));
        for _ in 0..5 {
            let (port, _) = serve(H1).await;
            let place = destination(Scheme::Http, "ledger.example", port);
            send(&dialer, &hop(&upstream, &place), get("/")).await.1.unwrap();
            assert!(dialer.held() <= 2);
        }
    })
    .await;
}

#[tokio::test]
async fn connections_that_wait_make_room_for_one_that_is_needed() {
    worker(async {
        let ((_, dialer), upstream) = (bounded(Limits { connections: 2, ..Limits::default() }), upstream(|_| {}));
        for _ in 0..5 {
            let (port, _) = serve(H1).await;
            let place = destination(Scheme::Http, "ledger.example", port);
            let answer = send(&dialer, &hop(&upstream, &place), get("/")).await.1;
            assert!(answer.is_ok(), "{}", answer.unwrap_err().refusal().detail);
        }
        assert!(dialer.held() <= 2);
    })
    .await;
}

#[tokio::test]
async fn an_http2_connection_that_says_goodbye_is_replaced() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Rc::new(Cell::new(0));
        let count = Rc::clone(&connections);
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.set(count.get() + 1);
                spawn_local(async move {
                    let leaving = Rc::new(tokio::sync::Notify::new());
                    let told = Rc::clone(&leaving);
                    let service = service_fn(move |request| {
                        told.notify_one();
                        answer(request)
                    });
                    let mut connection =
                        pin!(hyper::server::conn::http2::Builder::new(Here).serve_connection(TokioIo::new(stream), service));
                    tokio::select! {
                        done = &mut connection => done.unwrap(),
                        () = leaving.notified() => {
                            connection.as_mut().graceful_shutdown();
                            connection.await.ok();
                        }
                    }
                });
            }
        });
        let ((_, dialer), upstream) = (dialer(), upstream(|upstream| upstream.protocol = Protocol::H2));
        let place = destination(Scheme::Http, "ledger.example", port);
        // A goodbye lets in what is on its way already (RFC 9113 section 6.8), so two requests may share one connection; none is lost.
        for _ in 0..20 {
            send(&dialer, &hop(&upstream, &place), get("/")).await.1.unwrap();
        }
        assert!(connections.get() >= 5, "{} connections", connections.get());
        assert!(dialer.held() <= 2);
    })
    .await;
}

#[tokio::test]
async fn what_an_http2_upstream_says_at_its_goodbye_is_not_repeated() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut preface, mut frame) = ([0; 24], [0; 9]);
            stream.read_exact(&mut preface).await.unwrap();
            // SETTINGS, and once the head is there (HEADERS are of type 1) a GOAWAY of INTERNAL_ERROR with what the head held.
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            while frame[3] != 1 {
                stream.read_exact(&mut frame).await.unwrap();
                let mut content = vec![0; usize::from(u16::from_be_bytes([frame[1], frame[2]]))];
                stream.read_exact(&mut content).await.unwrap();
            }
            stream.write_all(b"\0\0\x14\x07\0\0\0\0\0\0\0\0\0\0\0\0\x02minted-token").await.unwrap();
            while stream.read(&mut frame).await.is_ok_and(|count| count > 0) {}
        });
        let ((_, dialer), upstream) = (dialer(), upstream(|upstream| upstream.protocol = Protocol::H2));
        let place = destination(Scheme::Http, "ledger.example", port);
        let error = send(&dialer, &hop(&upstream, &place), get("/")).await.1.unwrap_err().to_string();
        assert!(error.contains("connection error received: unexpected internal error encountered"), "{error}");
        assert!(!error.contains("minted-token"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_offers_http1_alone_and_has_a_connection_of_its_own() {
    worker(async {
        let (roots, tls) = certified("ledger.example", &[b"h2", b"http/1.1"]);
        let (port, connections) = serve(Served { tls: Some(tls), ..H1 }).await;
        let ((_, dialer), upstream) = (dialer(), upstream(|upstream| upstream.tls.roots = roots));
        let place = destination(Scheme::Https, "ledger.example", port);
        let plain = hop(&upstream, &place);
        assert_eq!(send(&dialer, &plain, get("/")).await.0.version, Version::HTTP_2);
        // The upstream declines; the answer is an ordinary one.
        let (facts, body) = send(&dialer, &Hop { upgrade: true, ..plain }, get("/")).await;
        assert!(body.is_ok() && facts.version == Version::HTTP_11 && !facts.reused);
        assert!(send(&dialer, &plain, get("/")).await.0.reused);
        assert_eq!(connections.get(), 2);
    })
    .await;
}

/// A dialer that may open so many connections.
fn narrow(connections: usize) -> (Arc<ManualClock>, Dialer<TestBody>) {
    bounded(Limits { connections, ..Limits::default() })
}

/// Waits until so many connections are open.
pub(super) async fn until_open(dialer: &Dialer<TestBody>, open: usize) {
    let wait = async {
        while dialer.inner.connector.open.load(Relaxed) != open {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the connections stay as they are");
}

#[tokio::test]
async fn what_switched_protocols_is_counted_until_it_ends() {
    worker(async {
        let port = raw(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
        let ((_, dialer), upstream) = (narrow(1), upstream(|_| {}));
        let place = destination(Scheme::Http, "ledger.example", port);
        let upgrading = Hop { upgrade: true, ..hop(&upstream, &place) };
        let asking = || {
            let mut request = get("/chat");
            request.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
            request.headers_mut().insert(http::header::UPGRADE, HeaderValue::from_static("websocket"));
            request
        };
        for _ in 0..2 {
            let mut facts = Facts::default();
            let response = dialer.send(&upgrading, &mut Some(whole(asking())), &mut facts, &mut || Ok(())).await.unwrap();
            let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut [0; 5]).await.unwrap();
            let error = send(&dialer, &upgrading, asking()).await.1.unwrap_err();
            assert_eq!(error.refusal().code, Code::Overloaded);
            drop(stream);
            until_open(&dialer, 0).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_is_counted_and_refused_like_any_connection() {
    worker(async {
        for (h2, protocol) in [(false, Protocol::Auto), (true, Protocol::H2)] {
            let (port, _) = serve(Served { h2, ..H1 }).await;
            let ((_, dialer), upstream) = (narrow(1), upstream(|upstream| upstream.protocol = protocol));
            let place = destination(Scheme::Http, "ledger.example", port);
            let hop = hop(&upstream, &place);
            send(&dialer, &hop, get("/")).await.1.unwrap();
            let mut facts = Facts::default();
            let tunnel = dialer.tunnel(&hop, &mut facts).await.expect("an idle connection makes room");
            assert_eq!(dialer.tunnel(&hop, &mut facts).await.unwrap_err().refusal().code, Code::Overloaded);
            assert_eq!(send(&dialer, &hop, get("/")).await.1.unwrap_err().refusal().code, Code::Overloaded);
            drop(tunnel);
            send(&dialer, &hop, get("/")).await.1.unwrap();
        }
    })
    .await;
}
