//! `Trunk`: one HTTP/2 connection, as the pool, the requests on it, its task and its socket know it together.

use std::cell::Cell;
use std::rc::Rc;

/// Streams that one HTTP/2 connection carries at most; the peer may allow fewer.
const MOST_STREAMS: u32 = 100;

/// What is known of an HTTP/2 connection beside its sender.
#[derive(Debug)]
pub(super) struct Trunk {
    taken: Cell<u32>,
    /// What the peer allows (`SETTINGS_MAX_CONCURRENT_STREAMS`), kept up to date by the connection's task.
    allowed: Cell<u32>,
}

impl Trunk {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self { taken: Cell::new(0), allowed: Cell::new(MOST_STREAMS) })
    }

    /// The peer allows so many streams.
    pub(super) fn allow(&self, streams: usize) {
        self.allowed.set(u32::try_from(streams).unwrap_or(u32::MAX));
    }

    pub(super) fn has_place(&self) -> bool {
        self.taken.get() < MOST_STREAMS.min(self.allowed.get())
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
    }
}
