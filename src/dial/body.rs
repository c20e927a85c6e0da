//! Bodies on the upstream leg: the request's, watched so that the head's deadline is fair; the response's, which holds its HTTP/2 place.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::line::Upload;

/// How far sending the request has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Frames taken so far.
    pub(super) frames: Cell<u64>,
    /// When the engine let go of the body.
    pub(super) finished: Cell<Option<Instant>>,
    /// The body itself broke off.
    pub(super) broke: Cell<bool>,
}

/// A request body on its way. One without content (most) is not watched and costs nothing.
pub(super) struct Outgoing<B> {
    inner: B,
    watched: Option<Watched>,
}

struct Watched(Rc<Progress>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.finished.set(Some(Instant::now()));
    }
}

impl<B: Body> Outgoing<B> {
    pub(super) fn new(inner: B) -> Self {
        let watched = (!inner.is_end_stream()).then(|| Watched(Rc::default()));
        Self { inner, watched }
    }

    pub(super) fn progress(&self) -> Option<Rc<Progress>> {
        self.watched.as_ref().map(|watched| Rc::clone(&watched.0))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Outgoing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let (Poll::Ready(frame), Some(Watched(progress))) = (&polled, &self.watched) {
            progress.frames.set(progress.frames.get() + 1);
            progress.broke.set(matches!(frame, Some(Err(_))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// One of the places on an HTTP/2 connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat(Rc<Cell<u32>>);

impl Seat {
    pub(super) fn take(taken: &Rc<Cell<u32>>) -> Self {
        taken.set(taken.get() + 1);
        Self(Rc::clone(taken))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A response body. Dropping it before its end closes an HTTP/1.1 connection and resets an HTTP/2 stream; dropping it at its end closes an
/// HTTP/1.1 connection too while a request body is on its way there, unless that was taken out ([`ResponseBody::upload`]).
#[derive(Debug)]
pub struct ResponseBody {
    inner: hyper::body::Incoming,
    seat: Option<Seat>,
    upload: Option<Upload>,
}

impl ResponseBody {
    pub(super) const fn new(inner: hyper::body::Incoming, seat: Option<Seat>, upload: Option<Upload>) -> Self {
        Self { inner, seat, upload }
    }

    /// The request body that is still being sent, if one is.
    pub fn upload(&mut self) -> Option<Upload> {
        let mut upload = self.upload.take().filter(Upload::is_unsent)?;
        upload.seat = self.seat.take();
        Some(upload)
    }

    /// Whether the request body is still being sent.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        self.upload.as_ref().is_some_and(Upload::is_unsent)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) && !self.is_ahead() {
            self.seat = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
