//! The bytes of an upstream, read as a connection of the pool reads them.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails loudly"
)]

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Request;
use http::response::Parts;
use http_body_util::Empty;
use hyper::rt::{Read, ReadBufCursor, Write};

use super::connector::http1_options;
use super::exchange::{Answered, accept};
use super::hop::{Facts, Hop};
use crate::audit::samples;
use crate::capture::{Destination, Host, Scheme};

/// The head that goes on to `proxy`, where these bytes are an answer.
pub(crate) fn answered(bytes: &[u8], upgrade: bool) -> Option<Parts> {
    let mut context = Context::from_waker(Waker::noop());
    let upstream = Upstream { left: bytes.to_vec(), asked: false };
    let Poll::Ready(opened) = pin!(http1_options().handshake(upstream)).poll(&mut context) else { return None };
    let (mut sender, connection) = opened.ok()?;
    let request = Request::get("/").header("host", "ledger.example").body(Empty::<Bytes>::new()).unwrap();
    let (mut connection, mut answer) = (pin!(connection), pin!(sender.send_request(request)));
    // The upstream is always ready, so each turn moves on.
    for _ in 0..100_000 {
        let over = connection.as_mut().poll(&mut context).is_ready();
        match answer.as_mut().poll(&mut context) {
            Poll::Ready(answer) => {
                let destination = Destination { scheme: Scheme::Http, host: Host::parse("ledger.example").unwrap(), port: 80 };
                let upstream = Arc::clone(&samples::upstream());
                let hop = Hop { upstream: &upstream, destination: &destination, generation: 1, workload: None, standing: None, upgrade };
                return accept(Answered::alone(answer.ok()?), None, &hop, &Facts::default()).ok().map(|response| response.into_parts().0);
            }
            Poll::Pending => assert!(!over, "a connection that has ended leaves its request waiting"),
        }
    }
    panic!("the answer never ends");
}

/// An upstream that answers once it was asked, and closes.
struct Upstream {
    left: Vec<u8>,
    asked: bool,
}

impl Read for Upstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.asked {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = self.left.len().min(buf.remaining());
        let now: Vec<u8> = self.left.drain(..count).collect();
        buf.put_slice(&now);
        Poll::Ready(Ok(()))
    }
}

impl Write for Upstream {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
