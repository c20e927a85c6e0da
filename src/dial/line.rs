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

use tokio::time::Instant;

use super::body::Progress;

/// What an upstream may send before the answer's head is there: heads of 64 KiB at most, and what follows the last in the same reads.
const MOST_BEFORE_AN_ANSWER: usize = 1 << 20;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Done {
    #[default]
    No,
    Yes,
    /// And a sweep has seen it so, with bytes still unwritten.
    Seen,
}

/// Between a connection's task and whoever has its sender.
#[derive(Debug)]
pub(super) struct Line {
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    waiting: Cell<bool>,
    /// Neither a body nor an answer is under way, as the pool's sweep last saw it: what is left to be written lies with the engine.
    done: Cell<Done>,
    /// Bytes read since the request that waits was sent.
    read: Arc<AtomicUsize>,
}

impl Line {
    pub(super) fn new(read: Arc<AtomicUsize>) -> Rc<Self> {
        Rc::new(Self { cut: Cell::new(false), waker: RefCell::default(), waiting: Cell::new(false), done: Cell::default(), read })
    }

    /// Ends the connection.
    fn cut(&self) {
        self.cut.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The answer and the request's body have ended.
    pub(super) fn done(&self) {
        self.done.set(Done::Yes);
    }

    /// For the pool's sweep, of a connection that is not ready: whether it was so at the last sweep too with nothing under way, because its
    /// peer does not take the last bytes of a body. It ends then.
    fn is_clogged(&self) -> bool {
        match self.done.get() {
            Done::No => false,
            Done::Yes => {
                self.done.set(Done::Seen);
                false
            }
            Done::Seen => {
                self.cut();
                true
            }
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

    /// Whether nothing is under way on a connection that is not ready, for longer than from one sweep to the next: it ends.
    pub(super) fn is_clogged(&self) -> bool {
        self.line.is_clogged()
    }

    /// Cuts the connection unless it is answered.
    pub(super) fn unanswered(&self) -> Unanswered {
        self.line.waiting.set(true);
        self.line.done.set(Done::No);
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

/// A request body that was not yet sent when the answer came. Dropped before it is, it is cut: an HTTP/1.1 connection ends, an HTTP/2
/// stream is reset.
#[derive(Debug)]
pub struct Upload {
    /// Of an HTTP/1.1 connection.
    line: Option<Rc<Line>>,
    progress: Rc<Progress>,
}

impl Upload {
    /// What is still to be sent, if anything is.
    pub(super) fn unsent(progress: Option<Rc<Progress>>, line: Option<&Rc<Line>>) -> Option<Self> {
        let progress = progress.filter(|progress| progress.finished.get().is_none())?;
        Some(Self { line: line.map(Rc::clone), progress })
    }

    /// Whether the engine still has the body.
    pub(super) fn is_unsent(&self) -> bool {
        self.progress.finished.get().is_none()
    }

    /// Nothing more is sent.
    pub fn cut(&self) {
        match &self.line {
            Some(line) => line.cut(),
            None => self.progress.cut(),
        }
    }

    /// The body has ended; its connection may go on.
    pub fn ended(self) {
        self.progress.finished.set(Some(Instant::now()));
        if let Some(line) = &self.line {
            line.done();
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_unsent() {
            self.cut();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_cut(line: &Line) -> bool {
        line.poll_cut(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn what_a_peer_does_not_take_with_nothing_under_way_ends_at_the_second_sweep() {
        let line = Line::new(Arc::default());
        assert!(!line.is_clogged() && !line.is_clogged(), "an answer is under way for as long as it likes");
        line.done();
        assert!(!line.is_clogged() && !is_cut(&line), "it may have ended just now");
        assert!(line.is_clogged() && is_cut(&line));
    }

    #[test]
    fn a_body_that_is_dropped_unsent_is_cut_and_one_that_ended_is_not() {
        let (line, progress) = (Line::new(Arc::default()), Rc::new(Progress::default()));
        Upload::unsent(Some(Rc::clone(&progress)), Some(&line)).unwrap().ended();
        assert!(!is_cut(&line) && Upload::unsent(Some(progress), Some(&line)).is_none());
        drop(Upload::unsent(Some(Rc::default()), Some(&line)));
        assert!(is_cut(&line));
    }
}
