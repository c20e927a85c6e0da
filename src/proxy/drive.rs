//! Driving a caller's connection: the engine is polled, deadlines are held, and a connection that is told to end ends; between requests that
//! are far apart there is no engine, only the stream.
//!
//! One timer serves the whole connection. It is set again only when it fires or when a head stays incomplete, so a request that
//! arrives whole costs none.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::connection::Conn;
use super::stream::Stream;
use crate::capture::Arrival;
use crate::clock::{Timestamp, passed};
use crate::refusal::Code;
use crate::tls::not_after;

/// How long an idle connection may take to end once it is told to.
pub(super) const GOODBYE: Duration = Duration::from_secs(1);

/// An HTTP/1 connection without a request for this long gives the engine back, and with it its buffers and the room for a request.
pub(super) const REST_AFTER: Duration = Duration::from_secs(2);

/// A connection that can be asked to end after the requests that it has.
pub(super) trait Graceful: Future<Output = hyper::Result<()>> {
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
pub(super) enum Driven {
    Done,
    Failed(hyper::Error),
    HeadTooSlow,
    Aborted,
    /// It has been idle for a while, and the engine holds nothing.
    Rests,
}

/// How long a connection that a certificate opened takes requests: three quarters of what is left of the certificate. By then its owner has
/// the next one (agents renew at half of the life), and a client that keeps connections opens another with it, rather than to be refused.
pub(super) fn retires(arrival: &Arrival, now: Timestamp) -> Option<Duration> {
    let leaf = arrival.certificates.as_ref()?.first()?;
    let left = not_after(leaf)?.duration_since(now);
    Duration::try_from(left).ok().map(|left| left * 3 / 4)
}

/// Drives a connection until it ends or may rest; `retiring` is when it takes no more requests.
pub(super) async fn drive(conn: &Rc<Conn>, mut connection: Pin<&mut impl Graceful>, retiring: Option<Instant>) -> Driven {
    let first_look = conn.last_end.get() + if conn.http2 { conn.worker.limits().idle } else { REST_AFTER };
    let mut sleep = pin!(tokio::time::sleep_until(first_look.into()));
    let mut retiring = pin!(retiring.map(|at| tokio::time::sleep_until(at.into())));
    let (mut told, mut goodbye) = (false, false);
    let driven = std::future::poll_fn(|cx| {
        conn.wake_me(cx);
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
        if let Some(rests) = conn.rests_at()
            && passed(sleep.as_mut(), rests.into(), cx)
        {
            return Poll::Ready(Driven::Rests);
        }
        match conn.deadline() {
            Some((deadline, in_head)) if passed(sleep.as_mut(), deadline.into(), cx) => {
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
    driven
}

/// Waits with the stream alone for the next byte of a request, which it gives again; `false` when the connection is over.
pub(super) async fn rest(conn: &Conn, stream: &mut Stream, retiring: Option<Instant>) -> bool {
    let over = conn.last_end.get() + conn.worker.limits().idle;
    let mut over = pin!(tokio::time::sleep_until(retiring.map_or(over, |retiring| over.min(retiring)).into()));
    let ahead = std::future::poll_fn(|cx| {
        conn.wake_me(cx);
        if conn.aborted.get() || conn.closing.get() {
            return Poll::Ready(None);
        }
        let mut buffer = [0_u8; 4096];
        let mut buffer = ReadBuf::new(&mut buffer);
        match stream.poll_ahead(cx, &mut buffer) {
            Poll::Ready(read) => Poll::Ready(read.ok().map(|()| Bytes::copy_from_slice(buffer.filled())).filter(|read| !read.is_empty())),
            Poll::Pending => over.as_mut().poll(cx).map(|()| None),
        }
    })
    .await;
    *conn.waker.borrow_mut() = None;
    let goes_on = ahead.is_some();
    stream.give_again(ahead.unwrap_or_default());
    goes_on
}

/// Records how a connection ended, where that is worth a record.
pub(super) fn settle(conn: &Conn, driven: Driven) {
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
        Driven::Done | Driven::Aborted | Driven::Rests => {}
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
