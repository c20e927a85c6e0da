//! `Trunk`: one HTTP/2 connection, as the pool, the requests on it, its task and its socket know it together.
//!
//! A request for which the peer allows no stream would wait in the engine, where nobody can take it back: it would leave, with its
//! credential, when a stream ends, even if it was revoked meanwhile. So the engine is given no more requests than the peer allows.
//!
//! And what a request queued stays with the engine when its caller has left, for as long as the peer takes nothing. So its place is given
//! back when that is written, and a connection on which nothing comes back is given up. A connection that still holds the head of a request
//! which may not leave any more ends with all that is on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::dialer::Again;
use crate::clock::Clock;

/// Streams that one HTTP/2 connection carries at most; the peer may allow fewer.
const MOST_STREAMS: u32 = 100;
/// Streams that may be open before the peer has said how many it allows.
pub(super) const STREAMS_AT_FIRST: usize = 1;
/// A connection that brought nothing for so long since the first request that waits on it is of no use to a request that is given up.
const SILENT: Duration = Duration::from_secs(1);

thread_local! {
    /// Heads that the engine holds without a stream, and connections whose peers take nothing, of this thread.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

fn hold(more: bool) {
    let count = |held: &Cell<u32>| held.set(if more { held.get() + 1 } else { held.get().saturating_sub(1) });
    // A thread that ends has nobody left to ask.
    HELD.try_with(count).ok();
}

/// Whether the head of a request that is given up now may still leave, on any connection of this thread.
#[must_use]
pub fn holds_heads() -> bool {
    HELD.get() > 0
}

/// What is known of an HTTP/2 connection beside its sender.
#[derive(Debug)]
pub(super) struct Trunk {
    /// Places that are not free.
    taken: Cell<u32>,
    /// Those of them that were given back while the peer took nothing.
    owed: Cell<u32>,
    /// The peer takes nothing just now: something is left to be written.
    blocked: Cell<bool>,
    /// How often all that was to be written was.
    flushes: Cell<u32>,
    /// Nothing more is written.
    dead: Cell<bool>,
    /// Bytes read.
    read: Arc<AtomicUsize>,
    /// How many they were when a request was last sent, and when the first was for which they were so many.
    silent_since: Cell<(usize, Instant)>,
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
    pub(super) fn new(read: Arc<AtomicUsize>, now: Instant) -> Rc<Self> {
        let silent_since = Cell::new((read.load(Relaxed), now));
        Rc::new(Self {
            taken: Cell::new(0),
            owed: Cell::new(0),
            blocked: Cell::new(false),
            flushes: Cell::new(0),
            dead: Cell::new(false),
            read,
            silent_since,
            allowed: Cell::new(1),
            heard: Cell::new(false),
            over: Cell::new(false),
            waker: RefCell::default(),
            waiting: Cell::new(0),
            places: Notify::new(),
        })
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
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The peer takes nothing just now, or does again.
    pub(super) fn block(&self, blocked: bool) {
        if self.blocked.replace(blocked) != blocked {
            hold(blocked);
        }
    }

    /// All that the engine gave so far is written.
    pub(super) fn flush(&self) {
        self.flushes.set(self.flushes.get().wrapping_add(1));
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.get()
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
        if self.owed.get() > 0 && !self.blocked.get() {
            self.taken.set(self.taken.get().saturating_sub(self.owed.take()));
        }
        !self.over.get() && self.taken.get() < MOST_STREAMS.min(self.allowed.get())
    }

    /// Takes a place.
    pub(super) fn sit(self: &Rc<Self>, now: Instant) -> Rc<Seat> {
        let read = self.read.load(Relaxed);
        if self.silent_since.get().0 != read {
            self.silent_since.set((read, now));
        }
        self.taken.set(self.taken.get() + 1);
        Rc::new(Seat { trunk: Rc::clone(self), head: Cell::new(Head::Waits) })
    }

    /// Whether anything is under way.
    pub(super) fn is_in_use(&self) -> bool {
        self.taken.get() > self.owed.get()
    }

    /// A request is given up without an answer. Where nothing came back for it, the peer or the way to it may be gone: the requests that
    /// have their streams go on, and no other is sent there.
    fn give_up(&self, now: Instant) {
        let (read, since) = self.silent_since.get();
        if self.read.load(Relaxed) == read && now.saturating_duration_since(since) >= SILENT {
            self.retire();
        }
    }

    fn retire(&self) {
        self.over.set(true);
        self.wake();
    }

    fn kill(&self) {
        self.dead.set(true);
        self.retire();
    }
}

/// Where the head of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// Before the engine, which drops it if its caller has left.
    Waits,
    /// In the engine, without a stream.
    Opens,
    /// Given to its stream after so many flushes, and soon written if the peer takes it.
    Opened(u32),
}

/// One of the places on an HTTP/2 connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    trunk: Rc<Trunk>,
    head: Cell<Head>,
}

impl Seat {
    /// A request is sent on it.
    pub(super) fn asks<'a>(&'a self, clock: &'a dyn Clock, again: Again<'a>) -> Asks<'a> {
        Asks { seat: self, clock, again, answered: false }
    }

    /// The engine looks at the request.
    pub(super) fn opens(&self) {
        if self.head.get() == Head::Waits {
            self.head.set(Head::Opens);
            hold(true);
        }
    }

    /// The engine has a stream for the request.
    pub(super) fn opened(&self) {
        if self.head.replace(Head::Opened(self.trunk.flushes.get())) == Head::Opens {
            hold(false);
        }
    }

    /// Whether the head may still leave. A stream that is opened comes first, behind what is being written already.
    fn may_leave(&self) -> bool {
        match self.head.get() {
            Head::Waits => false,
            Head::Opens => true,
            Head::Opened(flushes) => self.trunk.blocked.get() && self.trunk.flushes.get().wrapping_sub(flushes) < 2,
        }
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        self.block(false);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.head.get() == Head::Opens {
            hold(false);
        }
        let trunk = &*self.trunk;
        if trunk.blocked.get() {
            trunk.owed.set(trunk.owed.get() + 1);
            return;
        }
        trunk.taken.set(trunk.taken.get().saturating_sub(1));
        if trunk.waiting.get() > 0 {
            trunk.places.notify_one();
        }
    }
}

/// A request that was sent and has no answer: dropped so, it is given up.
pub(super) struct Asks<'a> {
    seat: &'a Seat,
    clock: &'a dyn Clock,
    again: Again<'a>,
    answered: bool,
}

impl Asks<'_> {
    /// The answer came.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Asks<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.seat.trunk.give_up(self.clock.instant());
            if self.seat.may_leave() && (self.again)().is_err() {
                self.seat.trunk.kill();
            }
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
