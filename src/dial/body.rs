//! Bodies on the upstream leg: the request's, watched so that the head's deadline is fair; the response's, which holds its HTTP/2 place.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::line::{Line, Upload};
use super::trunk::Seat;

/// How far sending the request has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Frames taken so far.
    pub(super) frames: Cell<u64>,
    /// When the engine let go of the body.
    pub(super) finished: Cell<Option<Instant>>,
    /// The body itself broke off.
    pub(super) broke: Cell<bool>,
    /// Nothing more of it is sent; for the task that pipes it into an HTTP/2 stream.
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Progress {
    /// Ends the task that pipes the body.
    pub(super) fn cut(&self) {
        self.cut.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

thread_local! {
    /// The body whose first frame was just asked for by the engine's HTTP/2 client: if it cannot be sent at once, the engine spawns a task
    /// for it in the same turn.
    static PIPED: Cell<Option<Rc<Progress>>> = const { Cell::new(None) };
}

/// The body that the task which is being spawned pipes, if it is such a task.
pub(super) fn piped() -> Option<Rc<Progress>> {
    PIPED.take()
}

/// Runs the task that pipes a body, unless the body is cut. The engine asks such a body for nothing while the peer gives no window, so only
/// dropping the task ends it: the stream is reset.
pub(super) async fn pipe<F: Future<Output = ()>>(progress: Rc<Progress>, mut task: Pin<Box<F>>) {
    std::future::poll_fn(|cx| {
        if progress.cut.get() {
            return Poll::Ready(());
        }
        let polled = task.as_mut().poll(cx);
        if polled.is_pending() {
            let mut waker = progress.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        polled
    })
    .await;
}

/// A request body on its way. One without content (most) is not watched.
pub struct Outgoing<B> {
    inner: B,
    watched: Option<Watched>,
    /// On an HTTP/2 connection.
    place: Option<Place>,
}

/// A place, held as long as the engine has the request or its body.
struct Place(Rc<Seat>);

impl Drop for Place {
    /// The engine lets go of a request without a body as soon as it has a stream.
    fn drop(&mut self) {
        self.0.opened();
    }
}

struct Watched {
    progress: Rc<Progress>,
    /// It goes over HTTP/2.
    http2: bool,
    /// Its first frame over HTTP/2 is still to be asked for.
    fresh: bool,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.progress.finished.set(Some(Instant::now()));
        if self.http2 {
            PIPED.take();
        }
    }
}

impl<B: Body> Outgoing<B> {
    /// A body that is sent by [`Dialer::send`](super::Dialer::send).
    pub fn new(inner: B) -> Self {
        let watched = (!inner.is_end_stream()).then(|| Watched { progress: Rc::default(), http2: false, fresh: false });
        Self { inner, watched, place: None }
    }

    pub(super) fn progress(&self) -> Option<Rc<Progress>> {
        self.watched.as_ref().map(|watched| Rc::clone(&watched.progress))
    }

    /// It goes over HTTP/2, and holds this place until the engine lets go of it.
    pub(super) fn hold(&mut self, place: &Rc<Seat>) {
        self.place = Some(Place(Rc::clone(place)));
        if let Some(watched) = &mut self.watched {
            (watched.http2, watched.fresh) = (true, true);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Outgoing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        let Self { watched: Some(Watched { progress, fresh, .. }), place, .. } = &mut *self else { return polled };
        if std::mem::take(fresh) {
            PIPED.set(Some(Rc::clone(progress)));
            if let Some(Place(seat)) = place {
                seat.opened();
            }
        }
        if let Poll::Ready(frame) = &polled {
            progress.frames.set(progress.frames.get() + 1);
            progress.broke.set(matches!(frame, Some(Err(_))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        if let Some(Place(seat)) = &self.place {
            seat.opens();
        }
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response body. Dropping it before its end closes an HTTP/1.1 connection and resets an HTTP/2 stream; dropping it at its end closes an
/// HTTP/1.1 connection too while a request body is on its way there, unless that was taken out ([`ResponseBody::upload`]).
#[derive(Debug)]
pub struct ResponseBody {
    inner: hyper::body::Incoming,
    seat: Option<Rc<Seat>>,
    upload: Option<Upload>,
    /// Of an HTTP/1.1 connection.
    line: Option<Rc<Line>>,
}

impl ResponseBody {
    pub(super) fn new(
        inner: hyper::body::Incoming,
        seat: Option<Rc<Seat>>,
        line: Option<Rc<Line>>,
        progress: Option<Rc<Progress>>,
    ) -> Self {
        Self { inner, seat, upload: Upload::unsent(progress, line.as_ref()), line }
    }

    /// The request body that is still being sent, if one is.
    pub fn upload(&mut self) -> Option<Upload> {
        let upload = self.upload.take().filter(Upload::is_unsent)?;
        // The connection is done when the upload is, and that is told there.
        self.line = None;
        Some(upload)
    }

    /// Whether the request body is still being sent.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        self.upload.as_ref().is_some_and(Upload::is_unsent)
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(line) = self.line.take()
            && !self.is_ahead()
        {
            line.done();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
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
