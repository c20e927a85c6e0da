//! Tunnels: bytes in both directions, judged once, counted, and ended by silence or from outside.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::Answer;
use super::passage::{Guard, Passage, Side};
use super::respond;
use super::service::{taken_over, until_ended};
use super::stream::Stream;
use crate::dial::Tunnel;

/// Each direction holds at most this many bytes.
const BUFFER: usize = 16 * 1024;

/// Answers a CONNECT and carries its bytes.
pub(super) fn start(guard: Guard, takeover: Option<OnUpgrade>, upstream: Tunnel) -> Response<Answer> {
    guard.answered(http::StatusCode::OK);
    guard.open();
    tokio::task::spawn_local(async move {
        if let Some(caller) = taken_over(takeover).await.and_then(raw) {
            carry(&guard, caller, upstream).await;
        }
    });
    respond::connected()
}

/// The caller's own stream, out of hyper's hands; what hyper had read is given again.
pub(super) fn raw(upgraded: Upgraded) -> Option<Stream> {
    let parts = upgraded.downcast::<TokioIo<Stream>>().ok()?;
    let mut stream = parts.io.into_inner();
    stream.stop_scan();
    stream.give_again(parts.read_buf);
    Some(stream)
}

/// Carries bytes until both sides have ended, one fails, or the passage is ended.
pub(super) async fn carry(guard: &Guard, caller: impl AsyncRead + AsyncWrite + Unpin, upstream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut caller = Counted { stream: caller, passage: Rc::clone(guard.passage()), side: Side::Request };
    let mut upstream = Counted { stream: upstream, passage: Rc::clone(guard.passage()), side: Side::Response };
    match until_ended(guard, pin!(tokio::io::copy_bidirectional_with_sizes(&mut caller, &mut upstream, BUFFER, BUFFER))).await {
        Ok(Ok(_)) => guard.complete(),
        Ok(Err(error)) => guard.broke(format!("the tunnel broke off: {error}")),
        Err(_) => {}
    }
}

/// Counts what is read from one side.
struct Counted<S> {
    stream: S,
    passage: Rc<Passage>,
    side: Side,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let count = buf.filled().len() - before;
        match self.side {
            Side::Request => self.passage.count_request(count),
            Side::Response => self.passage.count_response(count),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
