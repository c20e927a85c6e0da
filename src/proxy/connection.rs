//! One caller's connection: find its protocol by the first bytes, serve it, hold its deadlines.
//!
//! One timer serves the whole connection. It is set again only when it fires or when a head stays incomplete, so a request that
//! arrives whole costs none.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::Sleep;

use super::stream::{Stream, Wire};
use super::worker::{Seat, Worker};
use super::{secure, service};
use crate::capture::Arrival;
use crate::clock::Timestamp;
use crate::refusal::Code;
use crate::tls::not_after;

/// The client connection preface (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long an idle connection may take to end once it is told to.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A TLS handshake record (RFC 8446 section 5.1).
    Tls,
}

/// One caller's connection.
pub(super) struct Conn {
    worker: Rc<Worker>,
    arrival: Arrival,
    wire: Arc<Wire>,
    http2: bool,
    seat: Rc<Seat>,
    served: Cell<u32>,
    live: Cell<u32>,
    last_end: Cell<Instant>,
    head_since: Cell<Option<Instant>>,
    closing: Cell<bool>,
    aborted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Conn {
    pub(super) fn new(worker: &Rc<Worker>, arrival: Arrival, seat: &Rc<Seat>, wire: Arc<Wire>, http2: bool) -> Rc<Self> {
        let conn = Rc::new(Self {
            worker: Rc::clone(worker),
            arrival,
            wire,
            http2,
            seat: Rc::clone(seat),
            served: Cell::new(0),
            live: Cell::new(0),
            last_end: Cell::new(worker.clock().instant()),
            head_since: Cell::new(None),
            closing: Cell::new(worker.is_draining()),
            aborted: Cell::new(false),
            waker: RefCell::new(None),
        });
        worker.remember(&conn);
        conn
    }

    pub(super) const fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    pub(super) const fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    pub(super) const fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    pub(super) const fn is_http2(&self) -> bool {
        self.http2
    }

    pub(super) const fn seat(&self) -> &Rc<Seat> {
        &self.seat
    }

    /// A request head reached us. What is wrong with its bytes, if anything is: a fault that the scan saw, or a head that the parser saw
    /// and the scan did not.
    pub(super) fn served_one(&self) -> Option<&'static str> {
        let served = self.served.get().wrapping_add(1);
        self.served.set(served);
        if self.http2 {
            return None;
        }
        self.wire.serving();
        self.wire.fault().or_else(|| (self.wire.heads() < served).then_some("the head's end is not where its bytes say"))
    }

    pub(super) fn passage_began(&self) {
        self.live.set(self.live.get() + 1);
    }

    pub(super) fn passage_ended(&self, now: Instant) {
        self.live.set(self.live.get().saturating_sub(1));
        self.last_end.set(now);
        self.answered();
    }

    /// The service has given an answer, or a passage has ended: with no passage left, the rest of the answer lies with hyper.
    pub(super) fn answered(&self) {
        if self.live.get() == 0 {
            self.wire.served();
        }
    }

    /// Ends it once its requests are answered.
    pub(super) fn close(&self) {
        self.closing.set(true);
        self.wake();
    }

    /// Ends it now.
    pub(super) fn abort(&self) {
        self.aborted.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// When this connection must have moved on, and whether it is in the middle of a head.
    fn deadline(&self) -> Option<(Instant, bool)> {
        let limits = self.worker.limits();
        if !self.http2 && self.wire.in_head() {
            let since = self.head_since.get().unwrap_or_else(|| {
                let now = self.worker.clock().instant();
                self.head_since.set(Some(now));
                now
            });
            return Some((since + limits.head_deadline, true));
        }
        self.head_since.set(None);
        (self.live.get() == 0 && (self.http2 || self.wire.between())).then(|| (self.last_end.get() + limits.idle, false))
    }

    /// Records bytes that never became a request.
    fn record_edge(&self, code: Code, reason: &'static str) {
        let shared = self.worker.shared();
        shared.ledger.edge(&self.arrival.listener, self.arrival.peer, code, 1, format!("{reason}; request {:032x}", self.wire.id()));
        shared.metrics.edge(&self.arrival.listener, 1);
    }
}

/// Reads the first bytes and tells the protocol; they are given again afterwards. `None`: nothing came, or not in time.
pub(super) async fn first_bytes(stream: &mut Stream, worker: &Worker) -> Option<First> {
    let mut seen: Vec<u8> = Vec::new();
    let found = tokio::time::timeout(worker.limits().head_deadline, async {
        loop {
            std::future::poll_fn(|cx| poll_some(stream, cx, &mut seen)).await.ok().filter(|count| *count > 0)?;
            if let Some(first) = tell(&seen) {
                return Some(first);
            }
        }
    })
    .await;
    stream.give_again(Bytes::from(seen));
    found.ok().flatten()
}

/// The buffer lives only while it is filled, so a waiting connection holds none.
fn poll_some(stream: &mut Stream, cx: &mut Context<'_>, seen: &mut Vec<u8>) -> Poll<std::io::Result<usize>> {
    let mut buffer = [0_u8; 4096];
    let mut buffer = ReadBuf::new(&mut buffer);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    seen.extend_from_slice(buffer.filled());
    Poll::Ready(Ok(buffer.filled().len()))
}

/// What these first bytes are; `None` while they may still be either.
pub(super) fn tell(seen: &[u8]) -> Option<First> {
    match seen {
        [] => None,
        [0x16, ..] => Some(First::Tls),
        _ if seen.starts_with(PREFACE) => Some(First::Http2),
        _ if PREFACE.starts_with(seen) => None,
        _ => Some(First::Http1),
    }
}

/// Serves one accepted connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, arrival: Arrival, seat: Rc<Seat>, stream: Stream) {
    let tls = worker.snapshot().tls.get(&arrival.listener).cloned();
    match tls {
        Some(config) => Box::pin(secure::serve(worker, arrival, seat, stream, config)).await,
        None => sniff(worker, arrival, seat, stream).await,
    }
}

/// Serves a connection whose protocol its first bytes tell.
pub(super) async fn sniff(worker: Rc<Worker>, arrival: Arrival, seat: Rc<Seat>, mut stream: Stream) {
    match first_bytes(&mut stream, &worker).await {
        Some(First::Http1) => serve_http1(&worker, arrival, &seat, stream).await,
        Some(First::Http2) => serve_http2(&worker, arrival, &seat, stream).await,
        Some(First::Tls) => {
            let conn = Conn::new(&worker, arrival, &seat, Arc::default(), false);
            conn.record_edge(Code::Unsupported, "TLS on a listener that takes plaintext");
        }
        None => {}
    }
}

/// Serves HTTP/1 on a stream.
pub(super) async fn serve_http1(worker: &Rc<Worker>, arrival: Arrival, seat: &Rc<Seat>, mut stream: Stream) {
    let id = worker.ids().borrow_mut().request();
    let wire = stream.scan(id);
    let conn = Conn::new(worker, arrival, seat, wire, false);
    let serving = Rc::clone(&conn);
    let service = service_fn(move |request| service::serve(Rc::clone(&serving), request));
    let connection = worker.http1().serve_connection(TokioIo::new(stream), service).with_upgrades();
    drive(&conn, connection).await;
}

/// Serves HTTP/2 on a stream.
pub(super) async fn serve_http2(worker: &Rc<Worker>, arrival: Arrival, seat: &Rc<Seat>, stream: Stream) {
    let conn = Conn::new(worker, arrival, seat, Arc::clone(stream.wire()), true);
    let serving = Rc::clone(&conn);
    let service = service_fn(move |request| service::serve(Rc::clone(&serving), request));
    let connection = worker.http2().serve_connection(TokioIo::new(stream), service);
    drive(&conn, connection).await;
}

/// A connection that can be asked to end after the requests that it has.
trait Graceful: Future<Output = hyper::Result<()>> {
    fn end_gracefully(self: Pin<&mut Self>);
}

impl<I, S, B> Graceful for hyper::server::conn::http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn end_gracefully(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B, E> Graceful for hyper::server::conn::http2::Connection<I, S, E>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn end_gracefully(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// How driving a connection ended.
enum Driven {
    Done,
    Failed(hyper::Error),
    HeadTooSlow,
    Aborted,
}

/// How long a connection that a certificate opened takes requests: three quarters of what is left of the certificate. By then its owner has
/// the next one (agents renew at half of the life), and a client that keeps connections opens another with it, rather than to be refused.
fn retires(arrival: &Arrival, now: Timestamp) -> Option<Duration> {
    let leaf = arrival.certificates.as_ref()?.first()?;
    let left = not_after(leaf)?.duration_since(now);
    Duration::try_from(left).ok().map(|left| left * 3 / 4)
}

async fn drive(conn: &Rc<Conn>, connection: impl Graceful) {
    let mut connection = pin!(connection);
    let first_look = conn.last_end.get() + conn.worker.limits().idle;
    let mut sleep = pin!(tokio::time::sleep_until(first_look.into()));
    let mut retiring = pin!(retires(conn.arrival(), conn.worker.gate().clock.now()).map(tokio::time::sleep));
    let (mut told, mut goodbye) = (false, false);
    let driven = std::future::poll_fn(|cx| {
        if conn.waker.borrow().is_none() {
            *conn.waker.borrow_mut() = Some(cx.waker().clone());
        }
        if conn.aborted.get() {
            return Poll::Ready(Driven::Aborted);
        }
        if !told && retiring.as_mut().as_pin_mut().is_some_and(|retiring| retiring.poll(cx).is_ready()) {
            conn.closing.set(true);
        }
        if conn.closing.get() && !told {
            told = true;
            connection.as_mut().end_gracefully();
        }
        match connection.as_mut().poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Driven::Done),
            Poll::Ready(Err(error)) => return Poll::Ready(Driven::Failed(error)),
            Poll::Pending => {}
        }
        if goodbye {
            // A stream that came just before the goodbye is still answered.
            let over = conn.live.get() == 0 && sleep.as_mut().poll(cx).is_ready();
            return if over { Poll::Ready(Driven::Aborted) } else { Poll::Pending };
        }
        match conn.deadline() {
            Some((deadline, in_head)) if passed(sleep.as_mut(), deadline, cx) => {
                if in_head {
                    return Poll::Ready(Driven::HeadTooSlow);
                }
                (goodbye, told) = (true, true);
                connection.as_mut().end_gracefully();
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    return Poll::Ready(ended.map_or_else(Driven::Failed, |()| Driven::Done));
                }
                // HTTP/2 says goodbye, an HTTP/1 caller may have left half a line: neither takes long.
                sleep.as_mut().reset(tokio::time::Instant::now() + GOODBYE);
                if sleep.as_mut().poll(cx).is_ready() { Poll::Ready(Driven::Aborted) } else { Poll::Pending }
            }
            Some(_) | None => Poll::Pending,
        }
    })
    .await;
    *conn.waker.borrow_mut() = None;
    match driven {
        Driven::HeadTooSlow => conn.record_edge(Code::Malformed, "the head was not complete in time"),
        Driven::Failed(error) => {
            if let Some((code, reason)) = edge_reason(&error) {
                conn.record_edge(code, conn.wire.fault().unwrap_or(reason));
            }
        }
        Driven::Done if conn.wire.fault().is_some() && conn.wire.heads() >= conn.served.get() && conn.served.get() == 0 => {
            conn.record_edge(Code::Malformed, conn.wire.fault().unwrap_or_default());
        }
        Driven::Done | Driven::Aborted => {}
    }
}

/// Whether `deadline` has passed; else the timer is set so that this task looks again by then.
fn passed(mut sleep: Pin<&mut Sleep>, deadline: Instant, cx: &mut Context<'_>) -> bool {
    let deadline = tokio::time::Instant::from_std(deadline);
    loop {
        if sleep.is_elapsed() || sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        if sleep.as_mut().poll(cx).is_pending() {
            return false;
        }
        if tokio::time::Instant::now() >= deadline {
            return true;
        }
    }
}

/// Bytes that were no HTTP, told apart from a caller that went away.
fn edge_reason(error: &hyper::Error) -> Option<(Code, &'static str)> {
    if error.is_parse_too_large() {
        return Some((Code::HeadTooLarge, "the head is too large"));
    }
    if error.is_parse() {
        return Some((Code::Malformed, "the bytes are not HTTP"));
    }
    let source = std::error::Error::source(error)?.downcast_ref::<h2::Error>()?;
    (source.is_go_away() && source.is_library()).then_some((Code::Malformed, "the frames break HTTP/2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        assert_eq!(tell(b""), None);
        assert_eq!(tell(b"P"), None);
        assert_eq!(tell(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), None);
        assert_eq!(tell(PREFACE), Some(First::Http2));
        assert_eq!(tell(b"POST / HTTP/1.1\r\n"), Some(First::Http1));
        assert_eq!(tell(b"PRI / HTTP/1.1\r\n"), Some(First::Http1));
        assert_eq!(tell(&[0x16, 3, 1]), Some(First::Tls));
        assert_eq!(tell(b"\r\nGET"), Some(First::Http1));
    }
}
