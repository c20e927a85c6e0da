//! Bodies on the upstream leg: the request's, watched so that the head's deadline is fair; the response's, which holds its HTTP/2 place.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// How far sending the request has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Frames taken so far.
    pub(super) frames: Cell<u64>,
    /// When the engine let go of the body.
    pub(super) finished: Cell<Option<Instant>>,
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
        if polled.is_ready()
            && let Some(Watched(progress)) = &self.watched
        {
            progress.frames.set(progress.frames.get() + 1);
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

/// Wakes the task of an HTTP/1.1 connection, but not for nothing. The engine wakes it whenever a frame of a response body is taken, and when
/// the body is dropped, to find behind the last frame that there is nothing to do: one of three polls of each request. What rings while a
/// body is read or dropped to its end is not passed on; whatever else there is to know wakes the task as ever.
#[derive(Debug, Default)]
pub(super) struct Bell {
    task: OnceLock<Waker>,
    muted: AtomicBool,
    rang: AtomicBool,
}

impl Bell {
    /// Names the task that is woken; it is always the same one.
    pub(super) fn is_of(&self, cx: &Context<'_>) {
        self.task.get_or_init(|| cx.waker().clone());
    }

    fn mute(&self) {
        self.muted.store(true, Relaxed);
    }

    /// `over`: what rang meanwhile need not be known.
    fn unmute(&self, over: bool) {
        self.muted.store(false, Relaxed);
        if self.rang.swap(false, Relaxed)
            && !over
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.muted.load(Relaxed) {
            self.rang.store(true, Relaxed);
        } else if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

/// A response body. Dropping it before its end closes an HTTP/1.1 connection and resets an HTTP/2 stream.
#[derive(Debug)]
pub struct ResponseBody {
    inner: Option<hyper::body::Incoming>,
    /// Its place on an HTTP/2 connection.
    seat: Option<Seat>,
    /// Of its HTTP/1.1 connection.
    bell: Option<Arc<Bell>>,
    /// Its end was seen; an exact length tells that by itself.
    ended: bool,
}

impl ResponseBody {
    pub(super) const fn new(inner: hyper::body::Incoming, seat: Option<Seat>, bell: Option<Arc<Bell>>) -> Self {
        Self { inner: Some(inner), seat, bell, ended: false }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(bell) = &self.bell
            && (self.ended || self.is_end_stream())
        {
            bell.mute();
            self.inner = None;
            bell.unmute(true);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        if let Some(bell) = &this.bell {
            bell.mute();
        }
        let polled = Pin::new(&mut *inner).poll_frame(cx);
        this.ended = matches!(polled, Poll::Ready(None));
        if let Some(bell) = &this.bell {
            bell.unmute(this.ended || inner.is_end_stream());
        }
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            this.seat = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
