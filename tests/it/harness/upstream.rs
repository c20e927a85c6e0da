//! An upstream that remembers: every connection, every byte and every request that reached it, over HTTP/1.1 or HTTP/2, TLS or plaintext.
//!
//! It is not built on the engine that exeat uses for HTTP/1.1, so a fault of that engine does not hide itself.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use super::answers::{self, Exchange, Leg};
use super::h1::{self, Fields, Framing};
use super::{pki, until};

/// How many bytes of a connection and of a body are kept.
const KEPT: usize = 4 << 20;

/// One request as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Which connection carried it, where that is known.
    pub connection: usize,
    pub version: &'static str,
    pub method: String,
    pub target: String,
    pub authority: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub body_len: u64,
    pub trailers: Fields,
    /// The body came to its end.
    pub complete: bool,
    /// When its head was read.
    pub at: Option<Instant>,
}

impl Seen {
    /// The bearer token.
    pub fn bearer(&self) -> Option<&str> {
        self.fields.get("authorization")?.strip_prefix("Bearer ")
    }

    /// Everything that arrived, as one text to look for things that must not be there.
    pub fn text(&self) -> String {
        let fields = |fields: &Fields| {
            fields.0.iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value))).collect::<String>()
        };
        format!("{} {}\n{}\n{}", self.method, self.target, fields(&self.fields), fields(&self.trailers))
    }
}

/// One connection.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    pub sni: Option<String>,
    pub alpn: Option<String>,
    /// The certificate that the client showed.
    pub client: Option<Vec<u8>>,
    /// Bytes on the wire, TLS included.
    pub wire: u64,
    /// What was read, decrypted.
    pub plain: Vec<u8>,
    /// Bytes that this upstream's strict reader did not take.
    pub violation: Option<String>,
    pub closed: bool,
}

#[derive(Default)]
pub struct Inner {
    pub connections: Vec<Connection>,
    pub seen: Vec<Seen>,
    pub counts: HashMap<String, u32>,
}

pub struct State {
    inner: Mutex<Inner>,
    /// Answers that wait take one permit for each step.
    pub steps: Semaphore,
    pub files: Mutex<HashMap<String, Vec<u8>>>,
    pub tls: Option<Arc<ServerConfig>>,
}

impl State {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The upstream; it ends when dropped.
pub struct Upstream {
    pub port: u16,
    pub state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
}

impl Upstream {
    /// Plaintext: HTTP/1.1, or HTTP/2 with prior knowledge.
    pub fn http() -> Self {
        Self::start(None)
    }

    /// TLS by the tests' authority, HTTP/2 and HTTP/1.1.
    pub fn https() -> Self {
        Self::https_with(&["h2", "http/1.1"])
    }

    /// TLS by the tests' authority, these protocols alone.
    pub fn https_with(alpn: &[&str]) -> Self {
        Self::start(Some(pki::server(pki::authority(), alpn)))
    }

    /// TLS by an authority that nobody trusts.
    pub fn untrusted() -> Self {
        Self::start(Some(pki::server(pki::stranger(), &["h2", "http/1.1"])))
    }

    /// TLS as this configuration says.
    pub fn https_by(config: Arc<ServerConfig>) -> Self {
        Self::start(Some(config))
    }

    fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let state = Arc::new(State { inner: Mutex::default(), steps: Semaphore::new(0), files: Mutex::default(), tls });
        let shared = Arc::clone(&state);
        let (stop, stopped) = oneshot::channel();
        let (ready, port) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            super::run(async move {
                let four = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
                let port = four.local_addr().expect("bound").port();
                let six = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await.ok();
                ready.send(port).expect("the test waits");
                let accepting = async {
                    loop {
                        let accepted = match &six {
                            Some(six) => tokio::select! { one = four.accept() => one, one = six.accept() => one },
                            None => four.accept().await,
                        };
                        if let Ok((stream, _)) = accepted {
                            tokio::spawn(connection(stream, Arc::clone(&shared)));
                        }
                    }
                };
                tokio::select! { () = accepting => {}, _ = stopped => {} }
            });
        });
        Self { port: port.recv().expect("the upstream listens"), state, stop: Some(stop) }
    }

    /// `https://localhost:PORT` or `http://localhost:PORT`.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.state.tls.is_some() { "https" } else { "http" }, self.authority())
    }

    /// `localhost:PORT`.
    pub fn authority(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().seen.clone()
    }

    /// How many requests so far.
    pub fn count(&self) -> usize {
        self.state.lock().seen.len()
    }

    /// Waits for the request whose target holds this text.
    pub fn wait_for(&self, target: &str) -> Seen {
        until(&format!("a request for {target} at the upstream"), || {
            self.state.lock().seen.iter().find(|seen| seen.target.contains(target) && seen.complete).cloned()
        })
    }

    /// Requests so far whose target holds this text.
    pub fn matching(&self, target: &str) -> Vec<Seen> {
        self.state.lock().seen.iter().filter(|seen| seen.target.contains(target)).cloned().collect()
    }

    /// All connections so far.
    pub fn connections(&self) -> Vec<Connection> {
        self.state.lock().connections.clone()
    }

    /// Bytes on the wire of all connections.
    pub fn wire_bytes(&self) -> u64 {
        self.state.lock().connections.iter().map(|connection| connection.wire).sum()
    }

    /// Lets waiting answers take so many steps.
    pub fn step(&self, count: usize) {
        self.state.steps.add_permits(count);
    }

    /// Serves a file, for clients that fetch many.
    pub fn file(&self, path: &str, content: impl Into<Vec<u8>>) {
        self.state.files.lock().expect("files").insert(path.to_owned(), content.into());
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _gone = stop.send(());
        }
    }
}

/// What the upstream reads and writes, whatever lies below.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Duplex for T {}

#[derive(Clone, Copy)]
enum Layer {
    Wire,
    Plain,
}

/// Notes what is read.
struct Tap<S> {
    inner: S,
    state: Arc<State>,
    connection: usize,
    layer: Layer,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            let mut inner = self.state.lock();
            let connection = &mut inner.connections[self.connection];
            match self.layer {
                Layer::Wire => connection.wire += read.len() as u64,
                Layer::Plain => {
                    let room = KEPT.saturating_sub(connection.plain.len()).min(read.len());
                    connection.plain.extend_from_slice(&read[..room]);
                }
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let index = {
        let mut inner = state.lock();
        inner.connections.push(Connection::default());
        inner.connections.len() - 1
    };
    let _nodelay = stream.set_nodelay(true);
    let outcome = match &state.tls {
        Some(config) => secure(stream, index, Arc::clone(config), &state).await,
        None => plain(stream, index, &state).await,
    };
    let mut inner = state.lock();
    inner.connections[index].closed = true;
    if let Err(error) = outcome
        && error.kind() == io::ErrorKind::InvalidData
    {
        inner.connections[index].violation = Some(error.to_string());
    }
}

async fn secure(stream: TcpStream, connection: usize, config: Arc<ServerConfig>, state: &Arc<State>) -> io::Result<()> {
    let wire = Tap { inner: stream, state: Arc::clone(state), connection, layer: Layer::Wire };
    let secured = tokio_rustls::TlsAcceptor::from(config).accept(wire).await?;
    let alpn = {
        let (_, session) = secured.get_ref();
        let alpn = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
        let mut inner = state.lock();
        inner.connections[connection].client = session.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
        inner.connections[connection].sni = session.server_name().map(str::to_owned);
        inner.connections[connection].alpn.clone_from(&alpn);
        alpn
    };
    let io: Box<dyn Duplex> = Box::new(Tap { inner: secured, state: Arc::clone(state), connection, layer: Layer::Plain });
    if alpn.as_deref() == Some("h2") { serve_h2(io, connection, state).await } else { serve_h1(io, connection, state).await }
}

async fn plain(stream: TcpStream, connection: usize, state: &Arc<State>) -> io::Result<()> {
    let mut first = [0; 4];
    let looked = stream.peek(&mut first).await?;
    let wire = Tap { inner: stream, state: Arc::clone(state), connection, layer: Layer::Wire };
    let io: Box<dyn Duplex> = Box::new(Tap { inner: wire, state: Arc::clone(state), connection, layer: Layer::Plain });
    if &first[..looked] == b"PRI " { serve_h2(io, connection, state).await } else { serve_h1(io, connection, state).await }
}

async fn serve_h1(mut io: Box<dyn Duplex>, connection: usize, state: &Arc<State>) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = h1::head_end(&buffer) {
                break end;
            }
            let mut part = [0; 16 * 1024];
            let read = io.read(&mut part).await?;
            if read == 0 {
                return if buffer.is_empty() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "cut head")) };
            }
            buffer.extend_from_slice(&part[..read]);
        };
        let head = match h1::request_head(&buffer[..end]) {
            Ok(head) => head,
            Err(violation) => {
                io.write_all(b"HTTP/1.1 400 Bad Request\r\nx-upstream-violation: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, violation.0));
            }
        };
        buffer.drain(..end);
        let seen = {
            let mut inner = state.lock();
            inner.seen.push(Seen {
                connection,
                version: "HTTP/1.1",
                method: head.method.clone(),
                target: head.target.clone(),
                authority: head.fields.get("host").unwrap_or_default().to_owned(),
                fields: head.fields.clone(),
                at: Some(Instant::now()),
                complete: head.framing == Framing::None || head.framing == Framing::Length(0),
                ..Seen::default()
            });
            inner.seen.len() - 1
        };
        let leg = Leg::h1(&mut io, &mut buffer, head.framing, head.fields.get("expect").is_some(), head.method == "HEAD");
        let mut exchange = Exchange { target: head.target, fields: head.fields, seen, state: Arc::clone(state), leg };
        answers::answer(&mut exchange).await?;
        if !exchange.keep().await? {
            let _closing = io.shutdown().await;
            return Ok(());
        }
    }
}

async fn serve_h2(io: Box<dyn Duplex>, connection: usize, state: &Arc<State>) -> io::Result<()> {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(4 << 20).max_concurrent_streams(1000);
    let mut server = builder.handshake::<_, Bytes>(io).await.map_err(io::Error::other)?;
    while let Some(next) = server.accept().await {
        let (request, respond) = next.map_err(io::Error::other)?;
        let state = Arc::clone(state);
        tokio::spawn(async move {
            let (head, body) = request.into_parts();
            let fields = Fields(head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect());
            let target = head.uri.path_and_query().map_or_else(|| head.uri.to_string(), ToString::to_string);
            let seen = {
                let mut inner = state.lock();
                inner.seen.push(Seen {
                    connection,
                    version: "HTTP/2",
                    method: head.method.to_string(),
                    target: target.clone(),
                    authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
                    fields: fields.clone(),
                    at: Some(Instant::now()),
                    complete: body.is_end_stream(),
                    ..Seen::default()
                });
                inner.seen.len() - 1
            };
            let mut exchange = Exchange { target, fields, seen, state, leg: Leg::h2(body, respond) };
            let _ended = answers::answer(&mut exchange).await;
        });
    }
    Ok(())
}
