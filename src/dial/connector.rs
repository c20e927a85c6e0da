//! The connector: name, checked address, TCP, verified TLS, HTTP, each step with its deadline.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body::Body;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::{pipe, piped};
use super::counted::Counted;
use super::error::{DialError, Place};
use super::fair::Fair;
use super::hop::{Facts, Hop};
use super::lane::{Lane, Met, Sender};
use super::line::{Held, Line};
use super::paced::Paced;
use super::pool::Pool;
use super::trunk::{STREAMS_AT_FIRST, Trunk};
use crate::address::{self, AddressError, Reach, Resolver};
use crate::capture::Scheme;
use crate::catalogue::{Protocol, Roots};
use crate::clock::Clock;
use crate::tls::{Alpn, ClientConfigs, HandshakeError, TlsError, Trust, Wire};

const HEAD: usize = 64 << 10;
const H1_BUFFER: usize = 128 << 10;
const H2_HEADER_LIST: u32 = 64 << 10;
const H2_STREAM_WINDOW: u32 = 256 << 10;
const H2_CONNECTION_WINDOW: u32 = 1 << 20;
const H2_SEND_BUFFER: usize = 256 << 10;

/// Opens connections.
pub(super) struct Connector {
    pub(super) resolver: Arc<Resolver>,
    pub(super) tls: Arc<ClientConfigs>,
    pub(super) clock: Arc<dyn Clock>,
    /// Connections that are open now. An atomic, since what counts them must be one; only this worker's thread uses it.
    pub(super) open: Arc<AtomicUsize>,
    pub(super) most_open: usize,
    /// How long an HTTP/2 peer may take nothing.
    pub(super) stalled: Duration,
}

/// Runs the engine's tasks on this worker's thread.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        match piped() {
            Some(body) => tokio::task::spawn_local(pipe(body, Box::pin(task))),
            None => tokio::task::spawn_local(task),
        };
    }
}

impl Connector {
    /// One more connection, if there may be one.
    pub(super) fn count(&self, hop: &Hop<'_>, facts: &Facts) -> Result<Counted, DialError> {
        let counted = Counted::open(&self.open, self.most_open);
        counted.ok_or_else(|| DialError::Full { place: Place::new(hop, facts), what: "upstream connections", most: self.most_open })
    }

    /// A checked TCP connection. Resolving and connecting share the upstream's connect deadline.
    pub(super) async fn tcp(&self, hop: &Hop<'_>, facts: &mut Facts) -> Result<(TcpStream, SocketAddr), DialError> {
        let within = hop.upstream.deadlines.connect;
        let reach = Reach::from(&*hop.upstream.reach);
        let (host, port) = (hop.destination.host.as_str(), hop.destination.port);
        let resolve = self.resolver.resolve(host, port, reach, within);
        let dial = async {
            let pinned = resolve.await.map_err(|why: AddressError| DialError::Address { upstream: Arc::clone(&hop.upstream.name), why })?;
            facts.address = pinned.first().copied();
            match address::connect(&pinned).await {
                Ok((stream, address)) => {
                    facts.address = Some(address);
                    Ok((stream, address))
                }
                Err((address, error)) => {
                    facts.address = address;
                    Err(DialError::Connect { place: Place::new(hop, facts), why: error.to_string() })
                }
            }
        };
        let done = timeout(within, dial).await;
        done.unwrap_or_else(|_| Err(DialError::Slow { place: Place::new(hop, facts), what: "connecting", after: within }))
    }

    /// TLS where the destination says so, always verified.
    async fn secure(&self, hop: &Hop<'_>, facts: &mut Facts, tcp: TcpStream) -> Result<Wire, DialError> {
        if hop.destination.scheme == Scheme::Http {
            return Ok(Wire::Plain(tcp));
        }
        let profile = &hop.upstream.tls;
        let trust = match &profile.roots {
            Roots::System => Trust::System,
            Roots::Certificates(certificates) => Trust::Certificates(Arc::clone(certificates)),
        };
        let alpn = match (hop.upgrade, hop.upstream.protocol) {
            (true, _) | (_, Protocol::H1) => Alpn::H1,
            (false, Protocol::H2) => Alpn::H2,
            (false, Protocol::Auto) => Alpn::Both,
        };
        let name = profile.server_name.as_ref().unwrap_or(&hop.destination.host).as_str();
        let proven: Box<str> = profile.spiffe_id.as_deref().unwrap_or(name).into();
        let untrusted = |facts: &Facts, why: String| DialError::Untrusted { place: Place::new(hop, facts), name: proven.clone(), why };
        let config = match hop.standing {
            Some(standing) => standing.client_config(profile, alpn, &self.tls),
            None if profile.needs_svid() => Err(TlsError::Configuration("no Workload API stands behind this request".to_owned())),
            None => self.tls.config(&trust, alpn),
        };
        let config = config.map_err(|error| untrusted(facts, error.to_string()))?;
        let within = hop.upstream.deadlines.tls;
        let wire = match timeout(within, Wire::secure(tcp, config, name)).await {
            Ok(Ok(wire)) => wire,
            Ok(Err(HandshakeError::Untrusted(why))) => return Err(untrusted(facts, why)),
            Ok(Err(why @ HandshakeError::Protocol)) => {
                return Err(DialError::Protocol { place: Place::new(hop, facts), why: why.to_string() });
            }
            Ok(Err(HandshakeError::Broken(error))) => {
                return Err(DialError::Handshake { place: Place::new(hop, facts), why: error.to_string() });
            }
            Err(_) => return Err(DialError::Slow { place: Place::new(hop, facts), what: "the TLS handshake", after: within }),
        };
        facts.key_exchange = wire.key_exchange();
        Ok(wire)
    }

    /// A connection that takes its first request, driven by a task of its own.
    pub(super) async fn open<B>(&self, lane: &Lane<B>, hop: &Hop<'_>, facts: &mut Facts) -> Result<(Sender<B>, Met), DialError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let counted = self.count(hop, facts)?;
        let began = self.clock.instant();
        let (tcp, address) = self.tcp(hop, facts).await?;
        let wire = self.secure(hop, facts, tcp).await?;
        let h2 = wire.chose_h2() || (hop.upstream.protocol == Protocol::H2 && hop.destination.scheme == Scheme::Http && !hop.upgrade);
        if hop.upstream.protocol == Protocol::H2 && !h2 && !hop.upgrade {
            return Err(DialError::Protocol {
                place: Place::new(hop, facts),
                why: "it chose HTTP/1.1 where HTTP/2 alone is allowed".to_owned(),
            });
        }
        let met = Met { address, key_exchange: facts.key_exchange };
        let protocol = |facts: &Facts, error: hyper::Error| DialError::Protocol { place: Place::new(hop, facts), why: error.to_string() };
        let sender = if h2 {
            let within = hop.upstream.deadlines.tls;
            let wire = Fair::new(wire, counted);
            let trunk = Trunk::new(wire.read(), began);
            let wire = Paced::new(wire, Rc::clone(&trunk), self.stalled);
            let (sender, connection) = match timeout(within, http2_options().handshake(TokioIo::new(wire))).await {
                Ok(opened) => opened.map_err(|error| protocol(facts, error))?,
                Err(_) => return Err(DialError::Slow { place: Place::new(hop, facts), what: "the HTTP/2 preface", after: within }),
            };
            let told = Rc::clone(&trunk);
            tokio::task::spawn_local(async move {
                let mut connection = pin!(connection);
                // How a connection ended is told to each request on it; here there is nobody to tell.
                std::future::poll_fn(|cx| match told.poll_over(connection.current_max_send_streams(), cx) {
                    Poll::Ready(()) => Poll::Ready(()),
                    Poll::Pending => connection.as_mut().poll(cx).map(drop),
                })
                .await;
                told.end();
            });
            facts.version = Version::HTTP_2;
            lane.share(sender, trunk, met, self.clock.instant())
        } else {
            let wire = Fair::new(wire, counted);
            let cut = Line::new(wire.read());
            let opened = http1_options().handshake(TokioIo::new(wire)).await;
            let (sender, connection) = opened.map_err(|error| protocol(facts, error))?;
            let told = Rc::clone(&cut);
            tokio::task::spawn_local(async move {
                let mut connection = pin!(connection.with_upgrades());
                std::future::poll_fn(
                    |cx| if told.poll_cut(cx).is_ready() { Poll::Ready(()) } else { connection.as_mut().poll(cx).map(drop) },
                )
                .await;
            });
            facts.version = Version::HTTP_11;
            lane.speaks_h1.set(true);
            Sender::H1(Held::new(sender, cut))
        };
        facts.connect = Some(self.clock.instant().saturating_duration_since(began));
        Ok((sender, met))
    }
}

pub(super) fn http1_options() -> http1::Builder {
    let mut options = http1::Builder::new();
    options.max_buf_size(H1_BUFFER).max_header_size(HEAD);
    options
}

fn http2_options() -> http2::Builder<OnThisThread> {
    let mut options = http2::Builder::new(OnThisThread);
    options
        .max_header_list_size(H2_HEADER_LIST)
        .initial_max_send_streams(STREAMS_AT_FIRST)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BUFFER);
    options
}

/// Lets go of idle connections as long as there are any; ends with the pool or when it is empty.
pub(super) async fn sweep<B>(pool: Weak<RefCell<Pool<B>>>, running: Rc<Cell<bool>>, clock: Arc<dyn Clock>, idle: Duration) {
    let every = (idle / 4).max(Duration::from_millis(10));
    loop {
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade() else { break };
        if !pool.borrow_mut().sweep(clock.instant(), idle) {
            break;
        }
    }
    running.set(false);
}
