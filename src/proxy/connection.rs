//! One caller's connection: find its protocol by the first bytes, serve it, know its deadlines.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};

use super::drive::{Driven, GOODBYE, REST_AFTER, drive, rest, retires, settle};
use super::shares::Share;
use super::stream::{Stream, Wire};
use super::worker::{Seat, Worker};
use super::{secure, service};
use crate::capture::Arrival;
use crate::identity::SpiffeId;
use crate::refusal::Code;

/// The client connection preface (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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
    pub(super) worker: Rc<Worker>,
    pub(super) arrival: Arrival,
    pub(super) wire: Arc<Wire>,
    pub(super) http2: bool,
    seat: Rc<Seat>,
    /// Of the workload that sent its last request.
    share: RefCell<Option<Rc<Share>>>,
    pub(super) served: Cell<u32>,
    pub(super) live: Cell<u32>,
    /// Passages whose request's body goes on behind its answer.
    uploads: Cell<u32>,
    pub(super) last_end: Cell<Instant>,
    head_since: Cell<Option<Instant>>,
    pub(super) closing: Cell<bool>,
    pub(super) aborted: Cell<bool>,
    pub(super) waker: RefCell<Option<Waker>>,
}

impl Conn {
    pub(super) fn new(worker: &Rc<Worker>, arrival: Arrival, seat: &Rc<Seat>, wire: Arc<Wire>, http2: bool) -> Rc<Self> {
        let conn = Rc::new(Self {
            worker: Rc::clone(worker),
            arrival,
            wire,
            http2,
            seat: Rc::clone(seat),
            share: RefCell::default(),
            served: Cell::new(0),
            live: Cell::new(0),
            uploads: Cell::new(0),
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

    /// Where the passages of this workload are counted. Nearly always it is the one that sent the request before.
    pub(super) fn share(&self, id: &SpiffeId) -> Rc<Share> {
        let mut known = self.share.borrow_mut();
        match &*known {
            Some(share) if share.id() == id => Rc::clone(share),
            Some(_) | None => Rc::clone(known.insert(self.worker.share(id))),
        }
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

    /// One more request body wants to go on behind its answer. Such passages are bounded like those that wait for an answer: one over
    /// HTTP/1, as many as it may have streams over HTTP/2.
    pub(super) fn upload_begins(&self) -> bool {
        let most = if self.http2 { self.worker.limits().streams } else { 1 };
        let free = self.uploads.get() < most;
        self.uploads.set(self.uploads.get() + u32::from(free));
        free
    }

    /// One of them has ended.
    pub(super) fn upload_ended(&self) {
        self.uploads.set(self.uploads.get().saturating_sub(1));
        self.wake();
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

    /// This task is woken when the connection is to end.
    pub(super) fn wake_me(&self, cx: &Context<'_>) {
        if self.waker.borrow().is_none() {
            *self.waker.borrow_mut() = Some(cx.waker().clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// When this connection must have moved on, and whether it is in the middle of a head.
    pub(super) fn deadline(&self) -> Option<(Instant, bool)> {
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
        (self.live.get() == 0).then(|| (self.last_end.get() + limits.idle, false))
    }

    /// When it may rest, if it may.
    pub(super) fn rests_at(&self) -> Option<Instant> {
        let idle = !self.http2 && self.live.get() == 0 && !self.closing.get() && self.wire.at_rest(self.served.get());
        idle.then(|| self.last_end.get() + REST_AFTER)
    }

    /// Records bytes that never became a request.
    pub(super) fn record_edge(&self, code: Code, reason: &'static str) {
        let shared = self.worker.shared();
        // Only the bare answers of HTTP/1 tell their caller an id.
        let request = Some(self.wire.id()).filter(|id| *id != 0).map(|id| format!("; request {id:032x}")).unwrap_or_default();
        shared.ledger.edge(&self.arrival.listener, self.arrival.peer, code, 1, format!("{reason}{request}"));
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
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut buffer = ReadBuf::uninit(&mut buffer);
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
        // Boxed, so that a connection's task holds what its own protocol needs and not what the greatest does.
        Some(First::Http1) => Box::pin(serve_http1(&worker, arrival, &seat, stream)).await,
        Some(First::Http2) => Box::pin(serve_http2(&worker, arrival, &seat, stream)).await,
        Some(First::Tls) => {
            let conn = Conn::new(&worker, arrival, &seat, Arc::default(), false);
            conn.record_edge(Code::Unsupported, "TLS on a listener that takes plaintext");
        }
        None => {}
    }
}

/// Serves HTTP/1 on a stream. Between requests that are far apart there is no engine, only the stream.
pub(super) async fn serve_http1(worker: &Rc<Worker>, arrival: Arrival, seat: &Rc<Seat>, mut stream: Stream) {
    let id = worker.ids().borrow_mut().request();
    let wire = stream.scan(id);
    let retiring = retires(&arrival, worker.gate().clock.now()).map(|after| worker.clock().instant() + after);
    let conn = Conn::new(worker, arrival, seat, wire, false);
    loop {
        let serving = Rc::clone(&conn);
        // Boxed: the engine keeps room for what it is given here as long as the connection lives, and this is 6 KiB.
        let service = service_fn(move |request| Box::pin(service::serve(Rc::clone(&serving), request)));
        let mut connection = Box::new(worker.http1().serve_connection(TokioIo::new(stream), service).with_upgrades());
        let driven = drive(&conn, Pin::new(&mut *connection), retiring).await;
        if !matches!(driven, Driven::Rests) {
            return settle(&conn, driven);
        }
        // Nothing else of it is kept: not even an empty rest of its buffer, which would keep all of it.
        let left = connection.into_parts().filter(|parts| parts.read_buf.is_empty());
        let Some(back) = left.map(|parts| parts.io.into_inner()) else { return };
        stream = back;
        if !rest(&conn, &mut stream, retiring).await {
            // Its caller reads an end, or is gone.
            drop(tokio::time::timeout(GOODBYE, stream.shutdown()).await);
            return;
        }
    }
}

/// Serves HTTP/2 on a stream.
pub(super) async fn serve_http2(worker: &Rc<Worker>, arrival: Arrival, seat: &Rc<Seat>, stream: Stream) {
    let retiring = retires(&arrival, worker.gate().clock.now()).map(|after| worker.clock().instant() + after);
    let conn = Conn::new(worker, arrival, seat, Arc::clone(stream.wire()), true);
    let serving = Rc::clone(&conn);
    let service = service_fn(move |request| service::serve(Rc::clone(&serving), request));
    let connection = pin!(worker.http2().serve_connection(TokioIo::new(stream), service));
    settle(&conn, drive(&conn, connection, retiring).await);
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
