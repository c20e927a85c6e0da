//! `Line`: between a request and the task of its HTTP/1.1 connection, for what the engine does not see.
//!
//! The engine notices an abandoned request when it next reads or writes. While it waits for an upstream that does not take the request it
//! does neither, and would keep connection, descriptor and body for as long as the upstream likes. And it reads interim responses without
//! end: a flood of them would keep the worker busy until the answer's deadline.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use super::body::{Progress, Seat};

/// What an upstream may send before the answer's head is there: heads of 64 KiB at most, and what follows the last in the same reads.
const MOST_BEFORE_AN_ANSWER: usize = 1 << 20;

/// Between a connection's task and whoever has its sender.
#[derive(Debug)]
pub(super) struct Line {
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    waiting: Cell<bool>,
    /// Bytes read since the request that waits was sent.
    read: Arc<AtomicUsize>,
}

impl Line {
    pub(super) fn new(read: Arc<AtomicUsize>) -> Rc<Self> {
        Rc::new(Self { cut: Cell::new(false), waker: RefCell::default(), waiting: Cell::new(false), read })
    }

    /// Ends the connection.
    fn cut(&self) {
        self.cut.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// For the connection's task, before each poll of the engine.
    pub(super) fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        if self.cut.get() || (self.waiting.get() && self.read.load(Relaxed) > MOST_BEFORE_AN_ANSWER) {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if waker.is_none() {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// A connection's sender, with the line to its task.
pub(super) struct Held<S> {
    sender: S,
    line: Rc<Line>,
}

impl<S> Held<S> {
    pub(super) const fn new(sender: S, line: Rc<Line>) -> Self {
        Self { sender, line }
    }

    /// Cuts the connection unless it is answered.
    pub(super) fn unanswered(&self) -> Unanswered {
        self.line.waiting.set(true);
        self.line.read.store(0, Relaxed);
        Unanswered(Some(Rc::clone(&self.line)))
    }
}

impl<S> Deref for Held<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.sender
    }
}

impl<S> DerefMut for Held<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.sender
    }
}

/// A request that was sent and has no answer: dropped so, its connection is of no use and ends.
pub(super) struct Unanswered(Option<Rc<Line>>);

impl Unanswered {
    /// The answer came.
    pub(super) fn answered(mut self) -> Option<Rc<Line>> {
        let line = self.0.take()?;
        line.waiting.set(false);
        Some(line)
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(line) = self.0.take() {
            line.cut();
        }
    }
}

/// A request body that was not yet sent when the answer came. Dropped before it is, it ends its connection, which is of no use then.
#[derive(Debug)]
pub struct Upload {
    /// Of an HTTP/1.1 connection; an HTTP/2 stream ends with its body.
    line: Option<Rc<Line>>,
    progress: Rc<Progress>,
    /// The place on an HTTP/2 connection, once the answer no longer needs it.
    pub(super) seat: Option<Seat>,
}

impl Upload {
    /// What is still to be sent, if anything is.
    pub(super) fn unsent(progress: Option<Rc<Progress>>, line: Option<Rc<Line>>) -> Option<Self> {
        let upload = progress.map(|progress| Self { line, progress, seat: None })?;
        upload.is_unsent().then_some(upload)
    }

    /// Whether the engine still has the body.
    pub(super) fn is_unsent(&self) -> bool {
        self.progress.finished.get().is_none()
    }

    /// Nothing more is sent: an HTTP/1.1 connection ends.
    pub fn cut(&self) {
        if let Some(line) = &self.line {
            line.cut();
        }
    }

    /// The body has ended; its connection may go on.
    pub fn ended(mut self) {
        self.line = None;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_unsent() {
            self.cut();
        }
    }
}
