//! `Trunk`: one HTTP/2 connection, as the pool, the requests on it, its task and its socket know it together.
//!
//! A request for which the peer allows no stream would wait in the engine, where nobody can take it back: it would leave, with its
//! credential, when a stream ends, even if it was revoked meanwhile. So the engine is given no more requests than the peer allows.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

/// Streams that one HTTP/2 connection carries at most; the peer may allow fewer.
const MOST_STREAMS: u32 = 100;
/// Streams that may be open before the peer has said how many it allows.
pub(super) const STREAMS_AT_FIRST: usize = 1;

/// What is known of an HTTP/2 connection beside its sender.
#[derive(Debug)]
pub(super) struct Trunk {
    taken: Cell<u32>,
    /// What the peer allows (`SETTINGS_MAX_CONCURRENT_STREAMS`), kept up to date by the connection's task.
    allowed: Cell<u32>,
    /// The peer's first SETTINGS have come.
    heard: Cell<bool>,
    /// No further request goes into it.
    over: Cell<bool>,
    /// Of the connection's task.
    waker: RefCell<Option<Waker>>,
    /// Requests that wait for a place.
    waiting: Cell<u32>,
    places: Notify,
}

impl Trunk {
    pub(super) fn new() -> Rc<Self> {
        let (taken, allowed) = (Cell::default(), Cell::new(1));
        let (heard, over, waker) = (Cell::default(), Cell::default(), RefCell::default());
        Rc::new(Self { taken, allowed, heard, over, waker, waiting: Cell::default(), places: Notify::new() })
    }

    /// For the connection's task, before each poll of the engine, which allows so many streams: whether the task ends. It does when the
    /// peer allows fewer than are taken already. What has its stream goes on; what has none comes back unsent.
    pub(super) fn poll_over(&self, streams: usize, cx: &Context<'_>) -> Poll<()> {
        let allowed = u32::try_from(streams).unwrap_or(u32::MAX);
        if self.allowed.replace(allowed) < allowed && self.waiting.get() > 0 {
            self.places.notify_waiters();
        }
        if self.over.get() || self.taken.get() > allowed.max(1) {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if waker.is_none() {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The connection's task has ended.
    pub(super) fn end(&self) {
        self.over.set(true);
        self.places.notify_waiters();
    }

    /// The peer's first SETTINGS have come: the connection's task looks what they say.
    pub(super) fn hear(&self) {
        self.heard.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn is_heard(&self) -> bool {
        self.heard.get()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Waits until there may be a place.
    pub(super) async fn place(&self) {
        let _waits = Waits::begin(&self.waiting);
        self.places.notified().await;
    }

    pub(super) fn has_place(&self) -> bool {
        !self.over.get() && self.taken.get() < MOST_STREAMS.min(self.allowed.get())
    }

    /// Takes a place.
    pub(super) fn sit(self: &Rc<Self>) -> Rc<Seat> {
        self.taken.set(self.taken.get() + 1);
        Rc::new(Seat(Rc::clone(self)))
    }

    /// Whether anything is under way.
    pub(super) fn is_in_use(&self) -> bool {
        self.taken.get() > 0
    }
}

/// One of the places on an HTTP/2 connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat(Rc<Trunk>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get().saturating_sub(1));
        if self.0.waiting.get() > 0 {
            self.0.places.notify_one();
        }
    }
}

/// One more waits, as long as this lives.
struct Waits<'a>(&'a Cell<u32>);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a Cell<u32>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
